/* SPDX-License-Identifier: MIT */
/* wrap: memfd_create mmap fcntl ftruncate fallocate pwritev calloc malloc */
/* wrap: gmem_add gmem_log kvm_dirty_get pagemap_private */
/* place: every refusal, and a failure at every step of every operation. */
#include "tests/unit/unit.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "tests/unit/kvmguest.h"
#include "vmm/kvm/kvm_dirty.h"
#include "vmm/mem/pagemap.h"
#include "vmm/place/place.h"

#define SEALS  (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define GPA    0x10000000u
#define NPAGES 2100u /* four whole chunks and a part of one */
#define TIMES  64    /* no operation makes as many calls of one kind */

/* --- calls that fail on demand -------------------------------------------- */

enum seam {
	MEMFD,
	MMAP,
	FCNTL,
	TRUNCATE,
	ALLOCATE,
	PWRITEV,
	CALLOC,
	MALLOC,
	ADD,
	LOG,
	GETLOG,
	SCAN,
	NSEAMS
};

static int fail_in[NSEAMS]; /* the nth call from now fails; 0: none */
static int fail_errno = ENOMEM;
/* From the nth mmap() in place from now on none succeeds, and what was there is
 * gone; 0: none. */
static int lose_in;
static size_t write_most = SIZE_MAX; /* bytes that pwritev() writes at once */

static bool failing(enum seam s)
{
	if (fail_in[s] == 0 || --fail_in[s] > 0)
		return false;
	errno = fail_errno;
	return true;
}

int __real_memfd_create(const char *name, unsigned flags);
int __wrap_memfd_create(const char *name, unsigned flags);
void *__real_mmap(void *a, size_t n, int prot, int flags, int fd, off_t o);
void *__wrap_mmap(void *a, size_t n, int prot, int flags, int fd, off_t o);
int __real_fcntl(int fd, int cmd, ...);
int __wrap_fcntl(int fd, int cmd, ...);
int __real_ftruncate(int fd, off_t n);
int __wrap_ftruncate(int fd, off_t n);
int __real_fallocate(int fd, int mode, off_t o, off_t n);
int __wrap_fallocate(int fd, int mode, off_t o, off_t n);
ssize_t __real_pwritev(int fd, const struct iovec *v, int n, off_t at);
ssize_t __wrap_pwritev(int fd, const struct iovec *v, int n, off_t at);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
int __real_gmem_add(struct gmem *g, const struct gmem_bank *b, struct err *e);
int __wrap_gmem_add(struct gmem *g, const struct gmem_bank *b, struct err *e);
int __real_gmem_log(struct gmem *g, uint32_t slot, bool on, struct err *e);
int __wrap_gmem_log(struct gmem *g, uint32_t slot, bool on, struct err *e);
int __real_kvm_dirty_get(int vm_fd, uint32_t slot, uint64_t *bitmap);
int __wrap_kvm_dirty_get(int vm_fd, uint32_t slot, uint64_t *bitmap);
int __real_pagemap_private(
    int fd, const void *hva, uint64_t n, uint64_t *bits, uint64_t *count);
int __wrap_pagemap_private(
    int fd, const void *hva, uint64_t n, uint64_t *bits, uint64_t *count);

int __wrap_memfd_create(const char *name, unsigned flags)
{
	return failing(MEMFD) ? -1 : __real_memfd_create(name, flags);
}

void *__wrap_mmap(void *a, size_t n, int prot, int flags, int fd, off_t o)
{
	if (lose_in > 0 && (flags & MAP_FIXED) && --lose_in == 0) {
		lose_in = 1;
		(void)munmap(a, n);
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return failing(MMAP) ? MAP_FAILED
			     : __real_mmap(a, n, prot, flags, fd, o);
}

int __wrap_fcntl(int fd, int cmd, ...)
{
	va_list ap;
	int arg;

	va_start(ap, cmd);
	arg = va_arg(ap, int);
	va_end(ap);
	return failing(FCNTL) ? -1 : __real_fcntl(fd, cmd, arg);
}

int __wrap_ftruncate(int fd, off_t n)
{
	return failing(TRUNCATE) ? -1 : __real_ftruncate(fd, n);
}

int __wrap_fallocate(int fd, int mode, off_t o, off_t n)
{
	return failing(ALLOCATE) ? -1 : __real_fallocate(fd, mode, o, n);
}

ssize_t __wrap_pwritev(int fd, const struct iovec *v, int n, off_t at)
{
	struct iovec some[64];
	size_t left = write_most;
	int k = 0;

	if (failing(PWRITEV))
		return -1;
	assert_in_range(n, 1, 64);
	for (; k < n && left > 0; left -= some[k++].iov_len) {
		some[k] = v[k];
		if (some[k].iov_len > left)
			some[k].iov_len = left;
	}
	return __real_pwritev(fd, some, k, at);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return failing(CALLOC) ? NULL : __real_calloc(n, size);
}

void *__wrap_malloc(size_t n)
{
	return failing(MALLOC) ? NULL : __real_malloc(n);
}

int __wrap_gmem_add(struct gmem *g, const struct gmem_bank *b, struct err *e)
{
	return failing(ADD) ? -ENOMEM : __real_gmem_add(g, b, e);
}

int __wrap_gmem_log(struct gmem *g, uint32_t slot, bool on, struct err *e)
{
	return failing(LOG) ? -ENOMEM : __real_gmem_log(g, slot, on, e);
}

int __wrap_kvm_dirty_get(int vm_fd, uint32_t slot, uint64_t *bitmap)
{
	return failing(GETLOG) ? -ENOMEM
			       : __real_kvm_dirty_get(vm_fd, slot, bitmap);
}

int __wrap_pagemap_private(
    int fd, const void *hva, uint64_t n, uint64_t *bits, uint64_t *count)
{
	return failing(SCAN) ? -ENOMEM
			     : __real_pagemap_private(fd, hva, n, bits, count);
}

/* --- the bench -------------------------------------------------------------
 */

struct rig {
	struct kvmguest guest;
	struct gmem gmem;
	struct gate gate;
	struct places *ps;
	int pagemap;
};

static int setup(void **state)
{
	struct rig *g = calloc(1, sizeof(*g));

	if (kvmguest_open(&g->guest) < 0) {
		perror("kvm");
		return -1;
	}
	g->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	gmem_init(&g->gmem, g->guest.vm, 39);
	gate_init(&g->gate, NULL, NULL);
	g->ps = places_new(&g->gmem, &g->gate, g->pagemap);
	memset(fail_in, 0, sizeof(fail_in));
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	struct rig *g = *state;

	places_free(g->ps);
	gate_fini(&g->gate);
	kvmguest_close(&g->guest);
	(void)close(g->pagemap);
	free(g);
	return 0;
}

static int count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(d) != NULL)
		n++;
	(void)closedir(d);
	return n;
}

/* Mappings of segments and layers. */
static int count_maps(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	int n = 0;

	while (fgets(line, sizeof(line), f) != NULL)
		n += strstr(line, "memfd:firn") != NULL;
	(void)fclose(f);
	return n;
}

static struct place *make(struct rig *g)
{
	struct err e = {0};
	struct place *p;

	assert_int_equal(
	    place_make(g->ps, "seg", GPA, NPAGES * 4096ULL, &p, &e), 0);
	return p;
}

static void put(struct rig *g, uint32_t page, uint32_t value)
{
	struct kvmguest_write w = {GPA + page * 4096, value};

	gate_enter(&g->gate);
	assert_int_equal(kvmguest_do(&g->guest, &w, 1), 0);
	gate_leave(&g->gate);
}

static uint32_t at(struct place *p, uint32_t page)
{
	struct place_info info;
	uint32_t v;

	place_info(p, &info);
	memcpy(&v, info.hva + page * 4096ULL, sizeof(v));
	return v;
}

static void freeze(struct rig *g, struct place *p, struct place_frozen *f)
{
	struct err e = {0};
	int r = place_freeze(g->ps, p, f, &e);

	if (r != 0)
		fail_msg("%d: %s", r, e.msg);
}

static int reopen(int fd)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* --- refusals ---------------------------------------------------------------
 */

static void test_make_refuses(void **state)
{
	struct rig *g = *state;
	char longest[FIRN_NAME_MAX + 1];
	struct err e = {0};
	struct place *p;
	int fds = count_fds();

	memset(longest, 'a', sizeof(longest));
	longest[FIRN_NAME_MAX] = '\0';
#define MAKE(name, gpa, size) place_make(g->ps, name, gpa, size, &p, &e)
	assert_int_equal(MAKE("a", 0, 0), -EINVAL);
	assert_int_equal(MAKE("a", 0, 4097), -EINVAL);
	assert_int_equal(MAKE("a", 0, (PLACE_NPAGES_MAX + 1) * 4096), -EINVAL);
	assert_int_equal(MAKE("a", 4096, 4096), -EINVAL);
	assert_int_equal(MAKE("", 0, 4096), -EINVAL);
	assert_int_equal(MAKE("a b", 0, 4096), -EINVAL);
	assert_int_equal(MAKE("a:b", 0, 4096), -EINVAL);
	assert_int_equal(MAKE(longest, 0, 4096), -EINVAL);
	assert_int_equal(MAKE("a", 0, 1ULL << 39), -ENOSPC);
	assert_true(MAKE("a", 1ULL << 39, 4096) < 0);
	assert_int_equal(MAKE("a", GPA, 4096), 0);
	assert_int_equal(MAKE("a", 0, 4096), -EEXIST);
	assert_int_equal(MAKE("b", GPA, 4096), -EEXIST);
	assert_int_equal(count_fds(), fds + 1);
	for (int i = 1; i < PLACES_MAX; i++) {
		(void)snprintf(longest, sizeof(longest), "p%d", i);
		assert_int_equal(MAKE(longest, 0, 4096), 0);
	}
	assert_int_equal(MAKE("b", 0, 4096), -ENOSPC);
	assert_non_null(strstr(e.msg, "32"));
	assert_ptr_equal(places_by_name(g->ps, "p3"), places_by_id(g->ps, 3));
	assert_null(places_by_id(g->ps, 77));
	assert_null(places_by_gpa(g->ps, GPA + 4096));
	assert_ptr_equal(
	    places_by_gpa(g->ps, GPA + 4095), places_by_name(g->ps, "a"));
	assert_null(places_nth(g->ps, PLACES_MAX));
}

static int open_view(struct rig *g, enum place_kind kind,
    const struct page_run *r, size_t n, int fd, struct place **p)
{
	struct err e = {0};
	struct place_view v = {.name = "view",
	    .gpa = 0x20000000,
	    .kind = kind,
	    .npages = NPAGES,
	    .runs = r,
	    .nruns = n,
	    .layer_fd = &fd,
	    .nlayers = 1,
	    .snapshot = 9};
	int ret = place_open(g->ps, &v, p, &e);

	if (ret < 0)
		assert_int_equal(e.code, ret);
	return ret;
}

static void test_open_refuses(void **state)
{
	struct rig *g = *state;
	struct page_run r[2] = {{.page = 0, .npages = 2}};
	struct place *p = make(g);
	struct place_frozen f;
	struct err e = {0};
	int loose = memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int ro;

	put(g, 1, 7);
	freeze(g, p, &f);
	ro = reopen(f.step[0].layer_fd);
	assert_int_equal(
	    open_view(g, PLACE_VIEW_RO, r, 1, f.step[0].layer_fd, &p), -EPERM);
	assert_int_equal(open_view(g, PLACE_VIEW_RO, r, 1, file, &p), -EPERM);
	assert_int_equal(open_view(g, PLACE_VIEW_RO, r, 1, loose, &p), -EPERM);
	assert_int_equal(open_view(g, PLACE_VIEW_RO, r, 1, -1, &p), -EPERM);
	assert_int_equal(open_view(g, PLACE_SEGMENT, r, 1, ro, &p), -EPERM);
	r[0].npages = 0;
	assert_int_equal(open_view(g, PLACE_VIEW_RO, r, 1, ro, &p), -EINVAL);
	r[0].npages = NPAGES + 1;
	assert_int_equal(open_view(g, PLACE_VIEW_RO, r, 1, ro, &p), -ERANGE);
	r[0].npages = 2;
	r[0].index = NPAGES - 1;
	assert_int_equal(open_view(g, PLACE_VIEW_RO, r, 1, ro, &p), -ERANGE);
	r[0].index = 0;
	r[0].layer = 1;
	assert_int_equal(open_view(g, PLACE_VIEW_RO, r, 1, ro, &p), -EPROTO);
	r[0].layer = 0;
	r[1] = r[0];
	assert_int_equal(open_view(g, PLACE_VIEW_RO, r, 2, ro, &p), -EPROTO);
	assert_int_equal(open_view(g, PLACE_VIEW_RO, r, 1, ro, &p), 0);
	assert_int_equal(at(p, 1), 7);
	assert_int_equal(place_freeze(g->ps, p, &f, &e), -EPERM);
	assert_int_equal(place_sever(g->ps, p, -1, &f, &e), -EPERM);
	assert_int_equal(place_dirty(p, "c", false, NULL, NULL, &e), -EPERM);
	assert_int_equal(place_close(g->ps, p, &e), 0);
	p = places_by_name(g->ps, "seg");
	assert_int_equal(place_close(g->ps, p, &e), -EPERM);
	(void)close(loose);
	(void)close(file);
	(void)close(ro);
}

static void test_too_many_runs(void **state)
{
	struct rig *g = *state;
	size_t n = 24001;
	struct page_run *r = calloc(n, sizeof(*r));
	struct place_view v = {
	    .name = "v", .kind = PLACE_VIEW_RO, .npages = n, .nruns = n};
	struct err e = {0};
	struct place *p;

	for (size_t i = 0; i < n; i++)
		r[i] = (struct page_run){
		    .page = i, .npages = 1, .layer = RUN_ZERO};
	v.runs = r;
	assert_int_equal(place_open(g->ps, &v, &p, &e), -E2BIG);
	free(r);
}

static void test_dirty_refuses(void **state)
{
	struct rig *g = *state;
	struct place *p = make(g);
	struct err e = {0};
	uint64_t *words;
	uint64_t n;
	char name[] = "c0";

	assert_int_equal(place_dirty(p, "", false, &words, &n, &e), -EINVAL);
	for (int i = 0; i < PLACE_CURSORS_MAX; i++, name[1]++) {
		assert_int_equal(
		    place_dirty(p, name, false, &words, &n, &e), 0);
		free(words);
	}
	assert_int_equal(
	    place_dirty(p, "more", false, &words, &n, &e), -ENOSPC);
}

/* --- what a freeze promises --------------------------------------------------
 */

static void test_layer_never_grows(void **state)
{
	struct rig *g = *state;
	struct place *p = make(g);
	struct place_frozen f;
	struct place_info info;
	struct stat before;
	struct stat after;
	unsigned sum = 0;

	put(g, 600, 1);
	put(g, NPAGES - 1, 2);
	freeze(g, p, &f);
	assert_int_equal(f.nsteps, 1);
	assert_true(f.step[0].first);
	assert_int_equal(f.copied_pages, 0);
	assert_int_equal(f.step[0].nruns, 2);
	assert_int_equal(fcntl(f.step[0].layer_fd, F_GET_SEALS, 0), SEALS);
	assert_int_equal(fstat(f.step[0].layer_fd, &before), 0);
	place_info(p, &info);
	for (uint32_t i = 0; i < NPAGES; i++)
		sum += info.hva[i * 4096ULL];
	assert_int_equal(sum, 3);
	assert_int_equal(fstat(f.step[0].layer_fd, &after), 0);
	assert_int_equal(before.st_blocks, after.st_blocks);
}

static void test_later_is_dense(void **state)
{
	struct rig *g = *state;
	struct place *p = make(g);
	struct place_frozen f;
	uint64_t resident;
	uint64_t own;
	struct stat st;

	put(g, 3, 1);
	freeze(g, p, &f);
	place_frozen_done(p, 1);
	put(g, 3, 0);
	put(g, 1000, 5);
	put(g, 2000, 6);
	freeze(g, p, &f);
	assert_int_equal(f.nsteps, 1);
	assert_false(f.step[0].first);
	assert_int_equal(f.dirty_pages, 3);
	assert_int_equal(f.copied_pages, 2);
	assert_int_equal(f.step[0].nruns, 3);
	assert_int_equal(f.step[0].runs[0].layer, RUN_ZERO);
	assert_int_equal(f.step[0].runs[2].index, 1);
	assert_int_equal(fstat(f.step[0].layer_fd, &st), 0);
	assert_int_equal(st.st_size, 2 * 4096);
	assert_int_equal(fcntl(f.step[0].layer_fd, F_GET_SEALS, 0), SEALS);
	place_frozen_done(p, 1);
	put(g, 1000, 8);
	freeze(g, p, &f);
	assert_int_equal(f.dirty_pages, 1);
	place_frozen_done(p, 1);
	freeze(g, p, &f);
	assert_int_equal(f.nsteps, 0);
	assert_int_equal(place_usage(p, &resident, &own), 0);
	assert_int_equal(own, 3 * 4096);
	assert_true(resident > own);
}

#define LARGE_NPAGES 6000u

/* (n) pages from (first) on, every third of zeroes. */
static void put_many(struct rig *g, uint32_t first, uint32_t n, uint32_t add)
{
	static struct kvmguest_write w[LARGE_NPAGES];

	for (uint32_t i = 0; i < n; i++)
		w[i] = (struct kvmguest_write){
		    GPA + (first + i) * 4096, i % 3 == 0 ? 0 : first + i + add};
	gate_enter(&g->gate);
	assert_int_equal(kvmguest_do(&g->guest, w, n), 0);
	gate_leave(&g->gate);
}

/* The layer of the only step has what put_many() wrote, densely. */
static void check_many(
    const struct place_frozen *f, uint32_t first, uint32_t n, uint32_t add)
{
	const struct place_step *s = &f->step[0];
	uint64_t copied = 0;
	struct stat st;

	assert_int_equal(f->nsteps, 1);
	assert_int_equal(f->dirty_pages, n);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t got;

		if (i % 3 == 0)
			continue;
		assert_int_equal(
		    pread(s->layer_fd, &got, 4, (off_t)(copied++ * 4096)), 4);
		assert_int_equal(got, first + i + add);
	}
	assert_int_equal(f->copied_pages, copied);
	assert_int_equal(s->layer_npages, copied);
	assert_int_equal(fstat(s->layer_fd, &st), 0);
	assert_int_equal(st.st_size, copied * 4096);
}

/* Copies of some pages, and of so many that 2 MiB pages back a part of them;
 * where the kernel writes less at once than it was asked to as well. */
static void test_later_large(void **state)
{
	static const uint32_t n[] = {70, LARGE_NPAGES, 300};
	static const size_t most[] = {SIZE_MAX, 5000, 100000};
	struct rig *g = *state;
	struct place_frozen f;
	struct err e = {0};
	struct place *p;

	assert_int_equal(
	    place_make(g->ps, "large", GPA, LARGE_NPAGES * 4096ULL, &p, &e), 0);
	put_many(g, 0, LARGE_NPAGES, 7);
	freeze(g, p, &f);
	place_frozen_done(p, f.nsteps);
	for (uint32_t i = 0; i < 3; i++) {
		uint32_t first = LARGE_NPAGES - n[i];

		put_many(g, first, n[i], 100 * i);
		write_most = most[i];
		freeze(g, p, &f);
		write_most = SIZE_MAX;
		check_many(&f, first, n[i], 100 * i);
		place_frozen_done(p, f.nsteps);
	}
}

static void test_seal_fails(void **state)
{
	struct rig *g = *state;
	struct place *p = make(g);
	struct place_frozen f;
	struct err e = {0};

	put(g, 3, 1);
	fail_errno = EBUSY;
	fail_in[FCNTL] = 1;
	assert_int_equal(place_freeze(g->ps, p, &f, &e), -EBUSY);
	assert_int_equal(at(p, 3), 1);
	put(g, 4, 2);
	fail_in[FCNTL] = 1;
	assert_int_equal(place_freeze(g->ps, p, &f, &e), -EBUSY);
	fail_in[FCNTL] = 2;
	assert_int_equal(place_freeze(g->ps, p, &f, &e), -EBUSY);
	put(g, 5, 2);
	freeze(g, p, &f);
	assert_int_equal(f.nsteps, 3);
	assert_true(f.step[0].first);
	assert_int_equal(f.step[1].runs[0].page, 4);
	assert_int_equal(f.step[2].runs[0].page, 5);
	place_frozen_done(p, 1);
	put(g, 6, 2);
	freeze(g, p, &f);
	assert_int_equal(f.nsteps, 3);
	assert_int_equal(f.step[0].runs[0].page, 4);
	put(g, 7, 2);
	freeze(g, p, &f);
	assert_int_equal(f.nsteps, 4);
	assert_int_equal(place_freeze(g->ps, p, &f, &e), -ENOSPC);
	fail_errno = ENOMEM;
}

static void test_sparse(void **state)
{
	struct rig *g = *state;
	uint64_t npages = 1400 * LEAF_NPAGES;
	struct place_frozen f;
	struct err e = {0};
	struct place *p;

	assert_int_equal(
	    place_make(g->ps, "sparse", GPA, npages * 4096, &p, &e), 0);
	for (uint32_t c = 0; c < 1400; c += 2)
		put(g, c * 512 + 1, c + 1);
	freeze(g, p, &f);
	/* 700 extents are more than it will have. */
	assert_int_equal(f.step[0].nruns, 1);
	for (uint32_t c = 0; c < 1400; c++)
		assert_int_equal(at(p, c * 512 + 1), c % 2 ? 0 : c + 1);
}

/* --- 4 KiB pages ------------------------------------------------------------
 */

#define SMALL_NPAGES (128u << 8) /* 128 MiB; page i begins with i + 1 */
#define SMALL_RING   64u         /* pages that are written meanwhile */

struct writer {
	struct rig *g;
	bool stop;
	uint32_t round; /* that all of the ring was last written in */
};

/* Writes the ring's pages in turn, each with the number of the round. */
static void *write_rounds(void *arg)
{
	struct writer *w = arg;
	struct kvmguest_write list[SMALL_RING];

	while (!__atomic_load_n(&w->stop, __ATOMIC_RELAXED)) {
		for (uint32_t i = 0; i < SMALL_RING; i++)
			list[i] = (struct kvmguest_write){
			    GPA + i * (SMALL_NPAGES / SMALL_RING) * 4096,
			    w->round + 1};
		gate_enter(&w->g->gate);
		assert_int_equal(
		    kvmguest_do(&w->g->guest, list, SMALL_RING), 0);
		gate_leave(&w->g->gate);
		w->round++;
	}
	return NULL;
}

/* A layer of one instant: one round in all of the ring, the rest as it was. */
static void check_small(int fd, uint64_t add)
{
	uint32_t round = 0;

	for (uint32_t i = 0; i < SMALL_NPAGES; i++) {
		uint32_t v;

		assert_int_equal(pread(fd, &v, 4, (off_t)i * 4096), 4);
		if (i == 0)
			round = v;
		assert_int_equal(
		    v, i % (SMALL_NPAGES / SMALL_RING) == 0 ? round : i + add);
	}
	assert_true(round > 0);
}

static void fill_small(struct place *p)
{
	struct place_info info;

	place_info(p, &info);
	for (uint32_t i = 0; i < SMALL_NPAGES; i++) {
		uint32_t v = i + 1;

		memcpy(info.hva + i * 4096ULL, &v, sizeof(v));
	}
}

static uint64_t dirty_count(struct place *p)
{
	struct err e = {0};
	uint64_t *words;
	uint64_t n;

	assert_int_equal(place_dirty(p, "c", false, &words, &n, &e), 0);
	free(words);
	return n;
}

/* Where the kernel has no 2 MiB pages to give, what is frozen under a guest
 * that writes is of one instant too, and all that follows goes on. */
static void test_small_pages(void **state)
{
	struct rig *g = *state;
	struct writer w = {.g = g};
	struct place_frozen f;
	struct err e = {0};
	struct place *p;
	pthread_t t;

	assert_int_equal(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
	assert_int_equal(
	    place_make(g->ps, "small", GPA, SMALL_NPAGES * 4096ULL, &p, &e), 0);
	fill_small(p);
	assert_int_equal(dirty_count(p), 0);
	assert_int_equal(pthread_create(&t, NULL, write_rounds, &w), 0);
	(void)usleep(20000);
	freeze(g, p, &f);
	(void)usleep(20000);
	__atomic_store_n(&w.stop, true, __ATOMIC_RELAXED);
	(void)pthread_join(t, NULL);
	assert_int_equal(f.nsteps, 1);
	assert_int_equal(f.copied_pages, 0);
	check_small(f.step[0].layer_fd, 1);
	place_frozen_done(p, f.nsteps);
	assert_in_range(dirty_count(p), SMALL_RING, SMALL_NPAGES - 1);
	assert_int_equal(at(p, 0), w.round);
	assert_int_equal(at(p, 1), 2);
	put(g, 1, 77);
	freeze(g, p, &f);
	assert_in_range(f.copied_pages, 1, SMALL_RING + 1);
	place_frozen_done(p, f.nsteps);
	assert_int_equal(dirty_count(p), 1);
	put(g, 2, 78);
	assert_int_equal(place_sever(g->ps, p, -1, &f, &e), 0);
	assert_int_equal(at(p, 1), 0);
	assert_int_equal(at(p, 2), 0);
	assert_int_equal(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), 0);
}

/* --- a failure at every step -------------------------------------------------
 */

typedef int op_fn(struct rig *g, struct place *p, struct err *e);

/* --- memory that comes and goes --------------------------------------------
 */

#define OWNED (F_SEAL_SHRINK | F_SEAL_GROW)

static int reopen_rw(int fd)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDWR | O_CLOEXEC);
}

/* As the broker makes it; page 3 begins with (value). */
static int memory(int seals, uint32_t value)
{
	int made = __real_memfd_create("firn", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int fd;

	assert_int_equal(__real_ftruncate(made, NPAGES * 4096L), 0);
	assert_int_equal(
	    pwrite(made, &value, sizeof(value), 3 * 4096), sizeof(value));
	assert_int_equal(__real_fcntl(made, F_ADD_SEALS, seals), 0);
	fd = reopen_rw(made);
	assert_true(fd >= 0);
	(void)close(made);
	return fd;
}

static const struct page_run whole = {.npages = NPAGES};

static void test_adopt(void **state)
{
	struct rig *g = *state;
	struct place_frozen f;
	struct place_info info;
	struct err e = {0};
	int first = memory(OWNED, 42);
	int fresh = memory(OWNED, 0);
	int fds = count_fds();
	struct place *p;
	int got;
	int own;

	assert_int_equal(open_view(g, PLACE_SEGMENT, &whole, 1, first, &p), 0);
	place_info(p, &info);
	assert_int_equal(info.kind, PLACE_SEGMENT);
	assert_false(info.frozen_once);
	assert_int_equal(at(p, 3), 42);
	assert_int_equal(place_sever(g->ps, p, fresh, &f, &e), 0);
	assert_int_equal(f.copied_pages, 0);
	assert_int_equal(f.nsteps, 1);
	assert_true(f.step[0].owned && f.step[0].severed && f.step[0].first);
	assert_int_equal(
	    __real_fcntl(f.step[0].layer_fd, F_GET_SEALS, 0), OWNED);
	assert_int_equal(at(p, 3), 0);
	/* Until it is taken it is told again, and nothing else happens. */
	memset(info.hva, 5, 4096);
	assert_int_equal(place_close(g->ps, p, &e), -EBUSY);
	assert_int_equal(place_sever(g->ps, p, fresh, &f, &e), 0);
	assert_int_equal(f.nsteps, 1);
	assert_int_equal(at(p, 0), 0x05050505);
	got = __real_fcntl(f.step[0].layer_fd, F_DUPFD_CLOEXEC, 3);
	place_frozen_done(p, f.nsteps);
	(void)close(first);
	own = reopen_rw(got);
	(void)close(got);
	assert_int_equal(__real_fcntl(own, F_SETLEASE, F_WRLCK), 0);
	(void)close(own);
	assert_int_equal(place_close(g->ps, p, &e), 0);
	assert_int_equal(count_fds(), fds - 1);
	(void)close(fresh);
}

static void test_adopt_refuses(void **state)
{
	struct rig *g = *state;
	int good = memory(OWNED, 42);
	int sealed = memory(SEALS, 42);
	int loose = memory(F_SEAL_SHRINK, 42);
	int ro = reopen(good);
	struct page_run beyond = {.npages = NPAGES + 1};
	int maps = count_maps();
	struct place *p;

	assert_int_equal(
	    open_view(g, PLACE_SEGMENT, &whole, 1, sealed, &p), -EPERM);
	assert_int_equal(
	    open_view(g, PLACE_SEGMENT, &whole, 1, loose, &p), -EPERM);
	assert_int_equal(
	    open_view(g, PLACE_SEGMENT, &whole, 1, ro, &p), -EPERM);
	assert_int_equal(
	    open_view(g, PLACE_SEGMENT, &whole, 1, good, &p), -EBUSY);
	(void)close(ro);
	assert_int_equal(
	    open_view(g, PLACE_SEGMENT, &beyond, 1, good, &p), -ERANGE);
	assert_int_equal(
	    place_make_of(g->ps, "m", 4096, good, &p, NULL), -ERANGE);
	assert_int_equal(count_maps(), maps);
	assert_int_equal(open_view(g, PLACE_SEGMENT, &whole, 1, good, &p), 0);
	(void)close(good);
	(void)close(sealed);
	(void)close(loose);
}

static int op_adopt(struct rig *g, int fd, struct place **p)
{
	struct place_view v = {.name = "own",
	    .kind = PLACE_SEGMENT,
	    .npages = NPAGES,
	    .runs = &whole,
	    .nruns = 1,
	    .layer_fd = &fd,
	    .nlayers = 1};

	return place_open(g->ps, &v, p, NULL);
}

/* A failure at each call; then it is nobody's still, and can be adopted. */
static void test_fail_adopt(void **state)
{
	int failures = 0;

	for (enum seam s = 0; s < NSEAMS; s++)
		for (int n = 1; n < TIMES; n++) {
			struct rig *g;
			struct place *p;
			int fd = memory(OWNED, 42);
			int fds;
			int r;

			assert_int_equal(setup(state), 0);
			g = *state;
			fds = count_fds();
			fail_in[s] = n;
			r = op_adopt(g, fd, &p);
			failures += fail_in[s] == 0;
			n = fail_in[s] == 0 ? n : TIMES;
			fail_in[s] = 0;
			if (r < 0) {
				assert_true(r == -ENOMEM || r == -EPERM);
				assert_int_equal(count_fds(), fds);
				assert_int_equal(op_adopt(g, fd, &p), 0);
			}
			assert_int_equal(at(p, 3), 42);
			(void)teardown(state);
			(void)close(fd);
		}
	assert_true(failures > 3);
}

static int op_freeze(struct rig *g, struct place *p, struct err *e)
{
	struct place_frozen f;

	return place_freeze(g->ps, p, &f, e);
}

static int op_sever(struct rig *g, struct place *p, struct err *e)
{
	struct place_frozen f;

	return place_sever(g->ps, p, -1, &f, e);
}

static int op_make(struct rig *g, struct place *p, struct err *e)
{
	(void)p;
	return place_make(g->ps, "other", 0, 3 << 20, &p, e);
}

static int op_dirty(struct rig *g, struct place *p, struct err *e)
{
	uint64_t *words = NULL;
	uint64_t n;
	int r;

	(void)g;
	r = place_dirty(p, "c", false, &words, &n, e);

	free(words);
	return r;
}

static int op_open(struct rig *g, struct place *p, struct err *e)
{
	struct page_run r[2] = {{.page = 3, .npages = 1, .layer = RUN_ZERO},
	    {.page = 5, .npages = 3, .index = 2}};
	int fd = memfd_create("firn", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int ro = reopen(fd);
	struct place_view v = {.name = "v",
	    .kind = PLACE_VIEW_COW,
	    .npages = 100,
	    .runs = r,
	    .nruns = 2,
	    .layer_fd = &ro,
	    .nlayers = 1};
	int ret = -ENOMEM;

	(void)__real_ftruncate(fd, 5 * 4096);
	(void)__real_fcntl(fd, F_ADD_SEALS, SEALS);
	if (fd >= 0)
		ret = place_open(g->ps, &v, &p, e);
	if (ro >= 0)
		(void)close(ro);
	if (fd >= 0)
		(void)close(fd);
	return ret;
}

/* What the layers of all steps say of the pages 0 to 9. */
static void check_steps(const struct place_frozen *f, const uint32_t *want)
{
	uint32_t got[10] = {0};

	for (uint32_t s = 0; s < f->nsteps; s++)
		for (size_t i = 0; i < f->step[s].nruns; i++) {
			const struct page_run *r = &f->step[s].runs[i];

			for (uint64_t k = 0; k < r->npages && r->page + k < 10;
			     k++) {
				got[r->page + k] = 0;
				if (r->layer == RUN_ZERO)
					continue;
				assert_int_equal(
				    4, pread(f->step[s].layer_fd,
					   &got[r->page + k], 4,
					   (off_t)(r->index + k) * 4096));
			}
		}
	assert_memory_equal(got, want, sizeof(got));
}

/* Is the (n)th fcntl() of (op) the one that seals? A sever first fixes the size
 * of the fresh memfd. */
static bool sealing(op_fn *op, int n)
{
	return (op == op_freeze && n == 1) || (op == op_sever && n == 2);
}

/* One failure of (op) at the (n)th call of (s). True when there was one. */
static bool fail_once(struct rig *g, op_fn *op, bool frozen, enum seam s, int n)
{
	uint32_t want[10] = {0, 11, 12, 0, 0, 15};
	struct place *p = make(g);
	struct place_frozen f;
	struct err e = {0};
	int fds;
	int maps;
	int r;

	put(g, 1, 11);
	put(g, 2, frozen ? 99 : 12);
	put(g, 5, 15);
	put(g, 1500, 1);
	if (frozen) {
		freeze(g, p, &f);
		put(g, 2, 12);
	}
	fds = count_fds();
	maps = count_maps();
	fail_in[s] = n;
	r = op(g, p, &e);
	if (fail_in[s] > 0) {
		fail_in[s] = 0;
		return false;
	}
	/* What test_seal_fails() is about. */
	if (s == FCNTL && sealing(op, n))
		return true;
	if (r < 0) {
		assert_int_equal(
		    r, s == FCNTL && op == op_open ? -EPERM : -ENOMEM);
		assert_int_equal(count_fds(), fds);
		assert_int_equal(count_maps(), maps);
		for (uint32_t i = 0; i < 10; i++)
			assert_int_equal(at(p, i), want[i]);
		put(g, 7, 17);
		want[7] = 17;
		freeze(g, p, &f);
		check_steps(&f, want);
	}
	return true;
}

static void fail_all(op_fn *op, bool frozen, const char *what)
{
	int failures = 0;

	for (enum seam s = 0; s < NSEAMS; s++)
		for (int n = 1; n < TIMES; n++) {
			void *state;
			bool more;

			assert_int_equal(setup(&state), 0);
			more = fail_once(state, op, frozen, s, n);
			(void)teardown(&state);
			if (!more)
				break;
			failures++;
		}
	printf("%s: %d failures\n", what, failures);
	assert_true(failures > 3);
}

static void test_fail_make(void **state)
{
	(void)state;
	fail_all(op_make, false, "make");
}

static void test_fail_freeze(void **state)
{
	(void)state;
	fail_all(op_freeze, false, "first freeze");
	fail_all(op_freeze, true, "later freeze");
}

static void test_fail_sever(void **state)
{
	(void)state;
	fail_all(op_sever, false, "first sever");
	fail_all(op_sever, true, "later sever");
}

static void test_fail_open(void **state)
{
	(void)state;
	fail_all(op_open, false, "open");
}

static void test_fail_dirty(void **state)
{
	(void)state;
	fail_all(op_dirty, false, "dirty");
	fail_all(op_dirty, true, "dirty of a frozen one");
}

/* --- relay ------------------------------------------------------------------
 */

#define FROZEN 12u /* pages of what is frozen; page i holds i + 1 */

/* What was frozen, in another file: pages 0..FROZEN-1 of it, in two runs. */
static int other_file(uint32_t changed, uint32_t value)
{
	int fd = memfd_create("firn-other", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int ro;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, FROZEN * 4096), 0);
	for (uint32_t i = 0; i < FROZEN; i++) {
		uint32_t v = i == changed ? value : i + 1;

		assert_int_equal(
		    pwrite(fd, &v, sizeof(v), (off_t)i * 4096), sizeof(v));
	}
	assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
	ro = reopen(fd);
	(void)close(fd);
	return ro;
}

static struct place_relayed relayed;

static int relay(
    struct rig *g, struct place *p, enum place_kind kind, int fd, struct err *e)
{
	const struct page_run r[2] = {{.page = 0, .npages = 4},
	    {.page = 4, .npages = FROZEN - 4, .index = 4}};
	struct place_view v = {.name = "x",
	    .kind = kind,
	    .npages = NPAGES,
	    .runs = r,
	    .nruns = 2,
	    .layer_fd = &fd,
	    .nlayers = 1};

	return place_relay(g->ps, p, &v, &relayed, e);
}

/* Frozen twice, and written since: page 3 is 33 as frozen, page 7 77 as not. */
static struct place *frozen_and_written(struct rig *g)
{
	struct place *p = make(g);
	struct place_frozen f;

	for (uint32_t i = 0; i < FROZEN; i++)
		put(g, i, i + 1);
	freeze(g, p, &f);
	place_frozen_done(p, f.nsteps);
	put(g, 3, 33);
	freeze(g, p, &f);
	place_frozen_done(p, f.nsteps);
	put(g, 7, 77);
	return p;
}

static void expect_written(struct place *p)
{
	for (uint32_t i = 0; i < FROZEN; i++)
		assert_int_equal(at(p, i), i == 3 ? 33 : i == 7 ? 77 : i + 1);
	assert_int_equal(at(p, FROZEN), 0);
	assert_int_equal(at(p, NPAGES - 1), 0);
}

static void test_relay(void **state)
{
	struct rig *g = *state;
	struct place *p = frozen_and_written(g);
	int fd = other_file(3, 33);
	struct place_frozen f;
	struct err e = {0};
	uint64_t resident;
	uint64_t own;
	int maps = count_maps();

	assert_int_equal(relay(g, p, PLACE_VIEW_COW, fd, &e), 0);
	expect_written(p);
	/* Nothing is mapped from the old files, and page 3 is not private any
	 * more. */
	assert_in_range(count_maps(), 1, maps + 2);
	assert_int_equal(place_usage(p, &resident, &own), 0);
	assert_int_equal(own, 4096);
	assert_int_equal(resident, (FROZEN + 1) * 4096);
	/* What was written is still to be frozen, and can be written on. */
	put(g, 8, 88);
	freeze(g, p, &f);
	assert_int_equal(f.copied_pages, 2);
	assert_int_equal(at(p, 7), 77);
	assert_int_equal(at(p, 8), 88);
	(void)close(fd);
}

static void freeze_pages(
    struct rig *g, struct place *p, uint32_t first, uint32_t n, uint32_t value)
{
	struct place_frozen f;

	for (uint32_t i = first; i < first + n; i++)
		put(g, i, value);
	freeze(g, p, &f);
	place_frozen_done(p, f.nsteps);
}

static void expect_copies(struct rig *g, struct place *p, uint32_t first,
    uint32_t n, uint64_t cold, uint64_t warm)
{
	struct place_frozen f;

	for (uint32_t i = first; i < first + n; i++)
		put(g, i, 1);
	freeze(g, p, &f);
	place_frozen_done(p, f.nsteps);
	assert_int_equal(f.cold_pages, cold);
	assert_int_equal(f.warm_pages, warm);
}

/* Pages that freezes copied are cold once none of so many more did. */
static void test_copies(void **state)
{
	struct rig *g = *state;
	struct place *p = make(g);
	int fd = other_file(0, 1);
	struct err e = {0};

	assert_int_equal(PLACE_COLD_FREEZES, 4);
	freeze_pages(g, p, 0, FROZEN, 5); /* the first one copies nothing */
	freeze_pages(g, p, 0, 3, 6);
	freeze_pages(g, p, 3, 3, 7);
	expect_copies(g, p, 0, 0, 0, 0);
	expect_copies(g, p, 0, 2, 0, 6); /* four: all were copied lately */
	for (uint32_t i = 0; i < 3; i++)
		expect_copies(g, p, 0, 2, 0, 6);
	expect_copies(g, p, 0, 0, 4, 2); /* four more: but two never again */
	for (uint32_t i = 0; i < 3; i++)
		expect_copies(g, p, 5, 1, 4, 2);
	expect_copies(g, p, 5, 1, 5, 1);
	assert_int_equal(relay(g, p, PLACE_VIEW_COW, fd, &e), 0);
	assert_int_equal(relayed.given_pages, 6);
	expect_copies(g, p, 5, 1, 0, 0);
	(void)close(fd);
}

static void test_relay_views(void **state)
{
	struct rig *g = *state;
	const struct page_run r = {.npages = FROZEN};
	int fd[2] = {other_file(0, 1), other_file(0, 1)};
	struct err e = {0};
	struct place *p;

	assert_int_equal(open_view(g, PLACE_VIEW_RO, &r, 1, fd[0], &p), 0);
	assert_int_equal(relay(g, p, PLACE_VIEW_RO, fd[1], &e), 0);
	assert_int_equal(at(p, 5), 6);
	assert_int_equal(at(p, FROZEN), 0);
	assert_int_equal(place_close(g->ps, p, &e), 0);
	assert_int_equal(open_view(g, PLACE_VIEW_COW, &r, 1, fd[0], &p), 0);
	assert_int_equal(relay(g, p, PLACE_VIEW_COW, fd[1], &e), 0);
	assert_int_equal(at(p, 5), 6);
	(void)close(fd[0]);
	(void)close(fd[1]);
}

static void test_relay_refuses(void **state)
{
	struct rig *g = *state;
	struct place *p = make(g);
	int fd = other_file(0, 1);
	struct place_frozen f;
	struct err e = {0};

	assert_int_equal(relay(g, p, PLACE_VIEW_COW, fd, &e), -EPERM);
	put(g, 1, 2);
	freeze(g, p, &f);
	assert_int_equal(relay(g, p, PLACE_VIEW_COW, fd, &e), -EBUSY);
	place_frozen_done(p, f.nsteps);
	assert_int_equal(relay(g, p, PLACE_VIEW_COW, -1, &e), -EPERM);
	assert_int_equal(at(p, 1), 2);
	(void)close(fd);
}

/* Each call fails in turn: the place is right whatever became of it. */
static void test_fail_relay(void **state)
{
	static const enum seam seams[] = {MMAP, CALLOC, MALLOC, GETLOG, SCAN};

	(void)state;
	for (size_t s = 0; s < sizeof(seams) / sizeof(seams[0]); s++) {
		int r = -1;

		for (int n = 1; r != 0; n++) {
			void *rig;
			struct rig *g;
			struct place *p;
			struct err e = {0};
			int fd = other_file(3, 33);

			assert_true(n < TIMES);
			assert_int_equal(setup(&rig), 0);
			g = rig;
			p = frozen_and_written(g);
			fail_in[seams[s]] = n;
			r = relay(g, p, PLACE_VIEW_COW, fd, &e);
			fail_in[seams[s]] = 0;
			assert_int_equal(e.code, r);
			assert_true(r != -ENOTRECOVERABLE);
			expect_written(p);
			put(g, 9, 99);
			assert_int_equal(at(p, 9), 99);
			(void)close(fd);
			teardown(&rig);
		}
	}
}

/* Neither the new mapping nor the old one is to be had: the guest stays
 * stopped. */
static void expect_lost(struct rig *g, int r, const struct err *e)
{
	lose_in = 0;
	assert_int_equal(r, -ENOTRECOVERABLE);
	assert_int_equal(e->code, -ENOTRECOVERABLE);
	assert_non_null(strstr(e->msg, "refused to map"));
	assert_int_equal(g->gate.closings, 1);
	gate_open(&g->gate);
}

static void test_lost(void **state)
{
	static op_fn *const op[] = {op_freeze, op_sever};
	struct err e = {0};

	(void)state;
	for (int n = 1; n <= 4; n++) {
		void *rig;
		struct place *p;

		assert_int_equal(setup(&rig), 0);
		p = make(rig);
		put(rig, 1, 11);
		put(rig, 1500, 12);
		lose_in = n > 3 ? 1 : n;
		expect_lost(rig, op[n > 3](rig, p, &e), &e);
		teardown(&rig);
	}
}

static void test_lost_relay(void **state)
{
	struct rig *g = *state;
	struct place *p = frozen_and_written(g);
	int fd = other_file(3, 33);
	struct err e = {0};

	lose_in = 2;
	expect_lost(g, relay(g, p, PLACE_VIEW_COW, fd, &e), &e);
	(void)close(fd);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_make_refuses),
	    TEST(test_open_refuses),
	    TEST(test_too_many_runs),
	    TEST(test_dirty_refuses),
	    TEST(test_layer_never_grows),
	    TEST(test_later_is_dense),
	    TEST(test_later_large),
	    TEST(test_seal_fails),
	    TEST(test_sparse),
	    TEST(test_small_pages),
	    TEST(test_adopt),
	    TEST(test_adopt_refuses),
	    cmocka_unit_test(test_fail_adopt),
	    cmocka_unit_test(test_fail_make),
	    cmocka_unit_test(test_fail_freeze),
	    cmocka_unit_test(test_fail_sever),
	    cmocka_unit_test(test_fail_open),
	    cmocka_unit_test(test_fail_dirty),
	    TEST(test_relay),
	    TEST(test_copies),
	    TEST(test_relay_views),
	    TEST(test_relay_refuses),
	    cmocka_unit_test(test_fail_relay),
	    cmocka_unit_test(test_lost),
	    TEST(test_lost_relay),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
