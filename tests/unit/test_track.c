/* SPDX-License-Identifier: MIT */
/* wrap: ioctl mlock2 sysinfo calloc pagemap_sets */
/*
 * track: what was touched is told to the page, on real mappings with 2 MiB
 * pages below them; what cannot be tracked is refused and leaves nothing.
 */
#include "tests/unit/own.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sysinfo.h>

#include "tests/chance.h"
#include "tests/unit/kvmplaces.h"
#include "vmm/mem/pagemap.h"
#include "vmm/place/track.h"

#define SEALS  (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define GPA    0x20000000u
#define NPAGES 16384u /* 64 MiB, in 2 MiB pages but for the hole */
#define HOLE   8192u  /* where the hole begins */
#define HOLE_N 2048u
#define NTOUCH 2000u
#define NWORDS (NPAGES / 64)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* --- calls that fail, or say something else ------------------------------- */

static bool no_scan;     /* as on Linux 6.1 */
static bool no_register; /* userfaultfd refuses */
static bool swaps;
static int fail_lock;   /* mlock2() fails */
static int locked;      /* and was called so often */
static int fail_calloc; /* the nth from now; 0: none */
static int fail_sets;

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);
int __wrap_mlock2(const void *a, size_t n, unsigned flags);
int __real_sysinfo(struct sysinfo *s);
int __wrap_sysinfo(struct sysinfo *s);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
int __real_pagemap_sets(
    int fd, const void *hva, uint64_t n, uint64_t *r, uint64_t *w);
int __wrap_pagemap_sets(
    int fd, const void *hva, uint64_t n, uint64_t *r, uint64_t *w);

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	if (no_scan && request == PAGEMAP_REQUEST) {
		errno = ENOTTY;
		return -1;
	}
	if (no_register && request == TRACK_REQUEST) {
		errno = EPERM;
		return -1;
	}
	return __real_ioctl(fd, request, arg);
}

int __wrap_mlock2(const void *a, size_t n, unsigned flags)
{
	(void)a;
	(void)n;
	assert_int_equal(flags, MLOCK_ONFAULT);
	locked++;
	errno = ENOMEM;
	return fail_lock ? -1 : 0;
}

int __wrap_sysinfo(struct sysinfo *s)
{
	int r = __real_sysinfo(s);

	s->totalswap = swaps ? 1 : 0;
	return r;
}

void *__wrap_calloc(size_t n, size_t size)
{
	if (fail_calloc > 0 && --fail_calloc == 0)
		return NULL;
	return __real_calloc(n, size);
}

int __wrap_pagemap_sets(
    int fd, const void *hva, uint64_t n, uint64_t *r, uint64_t *w)
{
	if (fail_sets > 0 && --fail_sets == 0)
		return -EIO;
	return __real_pagemap_sets(fd, hva, n, r, w);
}

/* --- the bench ------------------------------------------------------------ */

struct rig {
	struct kvmplaces k;
	int uffd;
	int layer; /* sealed, read-only */
	uint64_t rng;
};

static uint64_t rnd(struct rig *g, uint64_t below)
{
	return chance(&g->rng, below);
}

/* A layer whose pages hold their numbers, in 2 MiB pages where it can be. */
static int make_layer(void)
{
	int fd = memfd_create("layer", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	char path[64];
	unsigned char *m;
	int ro;

	if (ftruncate(fd, NPAGES * 4096ULL) < 0)
		return -1;
	m = mmap(NULL, NPAGES * 4096ULL + LEAF_SIZE, PROT_NONE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	m += -(uintptr_t)m & (LEAF_SIZE - 1);
	m = mmap(m, NPAGES * 4096ULL, PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_FIXED, fd, 0);
	for (uint32_t i = 0; i < NPAGES; i++)
		if (i < HOLE || i >= HOLE + HOLE_N)
			memcpy(m + i * 4096ULL, &i, sizeof(i));
	(void)madvise(m, HOLE * 4096ULL, MADV_COLLAPSE);
	(void)munmap(m, NPAGES * 4096ULL);
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	if (fcntl(fd, F_ADD_SEALS, SEALS) < 0)
		return -1;
	(void)close(fd);
	return ro;
}

static int setup(void **state)
{
	struct rig *g = calloc(1, sizeof(*g));

	no_scan = no_register = swaps = false;
	fail_lock = locked = fail_calloc = fail_sets = 0;
	g->rng = chance_begin("track");
	if (kvmplaces_open(&g->k) < 0)
		return -1;
	g->uffd = track_open();
	g->layer = make_layer();
	if (g->uffd < 0 || g->layer < 0)
		return -1;
	places_track(g->k.ps, g->uffd);
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	struct rig *g = *state;

	kvmplaces_close(&g->k);
	(void)close(g->uffd);
	(void)close(g->layer);
	free(g);
	return 0;
}

static const struct page_run runs[] = {
    {.page = 0, .npages = HOLE},
    {.page = HOLE + HOLE_N,
	.npages = NPAGES - HOLE - HOLE_N,
	.index = HOLE + HOLE_N},
};

static int open_view(
    struct rig *g, enum place_kind kind, bool track, struct place **p)
{
	struct err e = {0};
	struct place_view v = {.name = "view",
	    .gpa = GPA,
	    .kind = kind,
	    .npages = NPAGES,
	    .runs = runs,
	    .nruns = 2,
	    .layer_fd = &g->layer,
	    .nlayers = 1,
	    .track = track};
	int r = place_open(g->k.ps, &v, p, &e);

	assert_int_equal(e.code, r);
	return r;
}

/* Read a page as the monitor does in a system call. */
static uint32_t look(struct rig *g, uint64_t page)
{
	uint32_t v = 0;

	assert_int_equal(
	    gmem_read(&g->k.gmem, GPA + page * 4096 + 0, &v, sizeof(v)), 0);
	return v;
}

static void guest_writes(struct rig *g, uint64_t page)
{
	struct kvmguest_write w = {GPA + (uint32_t)page * 4096, 77};

	assert_int_equal(kvmplaces_do(&g->k, &w, 1), 0);
}

static bool bit(const uint64_t *w, uint64_t i)
{
	return (w[i / 64] >> (i % 64) & 1) != 0;
}

static void set(uint64_t *w, uint64_t i)
{
	w[i / 64] |= 1ULL << (i % 64);
}

static void touched(struct place *p, struct place_sets *s)
{
	struct err e = {0};
	int r = place_touched(p, s, &e);

	if (r != 0)
		fail_msg("%d: %s", r, e.msg);
}

/* --- exactness ------------------------------------------------------------ */

static void touch_and_compare(struct rig *g, struct place *p, bool write)
{
	uint64_t *reads = calloc(NWORDS, 8);
	uint64_t *writes = calloc(NWORDS, 8);
	struct place_sets s;
	uint64_t n = 0;

	for (uint32_t i = 0; i < NTOUCH; i++) {
		uint64_t page = rnd(g, NPAGES);
		bool again = bit(reads, page) || bit(writes, page);
		bool hole = page >= HOLE && page < HOLE + HOLE_N;

		i -= again;
		if (write && rnd(g, 3) == 0) {
			guest_writes(g, page);
			set(writes, page);
		} else if (!bit(writes, page)) {
			assert_int_equal(look(g, page), hole ? 0 : page);
			set(reads, page);
		}
	}
	touched(p, &s);
	for (uint64_t i = 0; i < NPAGES; i++) {
		bool was_written = bit(writes, i);
		bool was_read = bit(reads, i) && !was_written;

		if (bit(s.writes, i) != was_written ||
		    bit(s.reads, i) != was_read)
			fail_msg("page %llu: written %d told %d, read %d told "
				 "%d",
			    (unsigned long long)i, was_written,
			    bit(s.writes, i), was_read, bit(s.reads, i));
		n += was_written || was_read;
	}
	print_message("%llu pages touched, %llu told, 0 others\n",
	    (unsigned long long)n, (unsigned long long)n);
	place_sets_free(&s);
	free(reads);
	free(writes);
}

static void test_read_only(void **state)
{
	struct rig *g = *state;
	struct place *p;

	assert_int_equal(open_view(g, PLACE_VIEW_RO, true, &p), 0);
	touch_and_compare(g, p, false);
}

static void test_copy_on_write(void **state)
{
	struct rig *g = *state;
	struct place *p;

	assert_int_equal(open_view(g, PLACE_VIEW_COW, true, &p), 0);
	touch_and_compare(g, p, true);
}

static void test_without_scan(void **state)
{
	struct rig *g = *state;
	struct place *p;

	no_scan = true;
	assert_int_equal(open_view(g, PLACE_VIEW_COW, true, &p), 0);
	touch_and_compare(g, p, true);
}

/* What makes the difference: an untracked view has neighbours by the leaf. */
static void test_untracked_has_more(void **state)
{
	struct rig *g = *state;
	uint64_t *r = calloc(NWORDS, 8);
	uint64_t *w = calloc(NWORDS, 8);
	struct place_info info;
	struct place *p;
	uint64_t n = 0;

	assert_int_equal(open_view(g, PLACE_VIEW_RO, false, &p), 0);
	place_info(p, &info);
	assert_false(info.tracked);
	for (uint32_t i = 0; i < 20; i++)
		(void)look(g, rnd(g, HOLE));
	assert_int_equal(pagemap_sets(g->k.pagemap, info.hva, NPAGES, r, w), 0);
	for (uint32_t i = 0; i < NWORDS; i++)
		n += (uint64_t)__builtin_popcountll(r[i]);
	print_message(
	    "20 pages touched, %llu present\n", (unsigned long long)n);
	assert_true(n > 20);
	free(r);
	free(w);
}

/* A freeze tells the sets and does not begin new ones. */
static void test_freeze(void **state)
{
	struct rig *g = *state;
	struct place_frozen f;
	struct place_sets s;
	struct place *p;
	struct err e = {0};

	assert_int_equal(open_view(g, PLACE_VIEW_COW, true, &p), 0);
	(void)look(g, 5);
	(void)look(g, HOLE + 3);
	guest_writes(g, 9);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(place_freeze(g->k.ps, p, &f, &e), 0);
		assert_true(bit(f.sets.reads, 5));
		assert_true(bit(f.sets.reads, HOLE + 3));
		assert_true(bit(f.sets.writes, 9));
		assert_false(bit(f.sets.reads, 9));
		place_sets_free(&f.sets);
		place_frozen_done(p, f.nsteps);
	}
	assert_int_equal(f.dirty_pages, 0);
	/* Pages of the layer and of the hole, read after a freeze. */
	(void)look(g, 6);
	touched(p, &s);
	assert_true(bit(s.reads, 6));
	assert_true(bit(s.writes, 9));
	place_sets_free(&s);
}

/* A segment is tracked since it was made, over zeroes. */
static void test_segment(void **state)
{
	struct rig *g = *state;
	struct place_frozen f;
	struct place_info info;
	struct place_sets s;
	struct place *p;
	struct err e = {0};
	volatile uint64_t *word;

	assert_int_equal(
	    place_make_tracked(g->k.ps, "t", NPAGES * 4096ULL, &p, &e), 0);
	place_info(p, &info);
	assert_int_equal(info.kind, PLACE_SEGMENT);
	assert_int_equal(place_flags(&info), FIRN_SEG_TRACKED);
	word = (volatile uint64_t *)(void *)info.hva;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(word[5 * 512], 0);
		word[9 * 512] = 3;
		touched(p, &s);
		for (uint64_t k = 0; k < NPAGES; k++) {
			assert_int_equal(bit(s.reads, k), k == 5);
			assert_int_equal(bit(s.writes, k), k == 9);
		}
		place_sets_free(&s);
		assert_int_equal(place_freeze(g->k.ps, p, &f, &e), 0);
		assert_int_equal(f.dirty_pages, 1 - i);
		assert_true(bit(f.sets.writes, 9));
		place_sets_free(&f.sets);
		place_frozen_done(p, f.nsteps);
	}
	assert_int_equal(place_sever(g->k.ps, p, -1, &f, &e), -EPERM);
	assert_int_equal(place_close(g->k.ps, p, &e), -EPERM);
	assert_int_equal(
	    place_make_tracked(g->k.ps, "t", 4096, &p, &e), -EEXIST);
	assert_int_equal(place_make_tracked(g->k.ps, "u", 77, &p, &e), -EINVAL);
	assert_int_equal(place_make_tracked(g->k.ps, "u", 0, &p, &e), -EINVAL);
	assert_int_equal(
	    place_make_tracked(g->k.ps, "", 4096, &p, &e), -EINVAL);
	places_track(g->k.ps, -1);
	assert_int_equal(
	    place_make_tracked(g->k.ps, "u", 4096, &p, &e), -ENOTSUP);
	places_track(g->k.ps, g->uffd);
	assert_null(places_by_name(g->k.ps, "u"));
}

/* --- refusals and failures ------------------------------------------------ */

static int count_maps(void)
{
	return count_maps_of("memfd:layer");
}

static void test_refuses(void **state)
{
	struct rig *g = *state;
	struct place_frozen f;
	struct place_sets s;
	struct place *p;
	struct err e = {0};
	int fds = count_fds();

	places_track(g->k.ps, -1);
	assert_int_equal(open_view(g, PLACE_VIEW_RO, true, &p), -ENOTSUP);
	places_track(g->k.ps, g->uffd);
	no_register = true;
	assert_int_equal(open_view(g, PLACE_VIEW_RO, true, &p), -EPERM);
	no_register = false;
	swaps = true;
	fail_lock = 1;
	assert_int_equal(open_view(g, PLACE_VIEW_RO, true, &p), -ENOMEM);
	assert_int_equal(locked, 1);
	assert_int_equal(count_maps(), 0);
	assert_null(places_nth(g->k.ps, 0));
	fail_lock = 0;
	assert_int_equal(open_view(g, PLACE_VIEW_RO, true, &p), 0);
	assert_int_equal(locked, 2);
	assert_int_equal(place_close(g->k.ps, p, NULL), 0);
	swaps = false;
	assert_int_equal(open_view(g, PLACE_VIEW_COW, false, &p), 0);
	assert_int_equal(locked, 2);
	assert_int_equal(place_touched(p, &s, &e), -EPERM);
	assert_int_equal(place_close(g->k.ps, p, NULL), 0);
	assert_int_equal(open_view(g, PLACE_VIEW_COW, true, &p), 0);
	assert_int_equal(place_sever(g->k.ps, p, -1, &f, &e), -EPERM);
	assert_int_equal(place_close(g->k.ps, p, NULL), 0);
	assert_int_equal(count_maps(), 0);
	assert_int_equal(count_fds(), fds);
}

/* No run may lie at the offset that is chosen, as far as 2 MiB fit in it. */
static void test_offsets(void **state)
{
	struct page_run r[LEAF_NPAGES] = {{0}};

	(void)state;
	assert_int_equal(track_offset(r, 0), 1);
	for (uint32_t i = 0; i < LEAF_NPAGES; i++)
		r[i] = (struct page_run){.page = 1024ULL * i,
		    .npages = LEAF_NPAGES,
		    .index = 4096ULL * i + i};
	assert_int_equal(track_offset(r, 3), 3); /* 0, 1 and 2 are taken */
	assert_int_equal(track_offset(r, LEAF_NPAGES - 1), LEAF_NPAGES - 1);
	assert_int_equal(track_offset(r, LEAF_NPAGES), -ENOTSUP);
	r[7].npages--;
	assert_int_equal(track_offset(r, LEAF_NPAGES), 7);
	r[9].layer = RUN_ZERO;
	r[7].npages++;
	assert_int_equal(track_offset(r, LEAF_NPAGES), 9);
}

static void test_failures_lose_nothing(void **state)
{
	struct rig *g = *state;
	struct place_frozen f;
	struct place_sets s;
	struct place *p;
	struct err e = {0};

	assert_int_equal(open_view(g, PLACE_VIEW_COW, true, &p), 0);
	(void)look(g, 5);
	guest_writes(g, 9);
	fail_sets = 1;
	assert_int_equal(place_touched(p, &s, &e), -EIO);
	assert_null(s.reads);
	for (int i = 1; i < 3; i++) {
		fail_calloc = i;
		assert_int_equal(place_touched(p, &s, &e), -ENOMEM);
		assert_null(s.writes);
	}
	fail_sets = 1;
	assert_true(place_freeze(g->k.ps, p, &f, &e) < 0);
	assert_int_equal(place_freeze(g->k.ps, p, &f, &e), 0);
	assert_int_equal(f.dirty_pages, 1);
	assert_true(bit(f.sets.reads, 5));
	assert_true(bit(f.sets.writes, 9));
	place_sets_free(&f.sets);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_read_only),
	    TEST(test_copy_on_write),
	    TEST(test_without_scan),
	    TEST(test_untracked_has_more),
	    TEST(test_freeze),
	    TEST(test_segment),
	    TEST(test_refuses),
	    cmocka_unit_test(test_offsets),
	    TEST(test_failures_lose_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
