/* SPDX-License-Identifier: MIT */
/* place: every refusal, and what a freeze promises. */
#include "tests/unit/place_bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "vmm/wire/wire.h"

/* --- refusals ------------------------------------------------------------- */

static void test_make_refuses(void **state)
{
	struct kvmplaces *g = *state;
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

static void test_open_refuses(void **state)
{
	struct kvmplaces *g = *state;
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

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif

/* Where vm.memfd_noexec is set every memfd has one seal more. */
static void test_open_noexec(void **state)
{
	struct kvmplaces *g = *state;
	const struct page_run r = {.page = 1, .npages = 1};
	int fd = memfd_create("nx", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
	struct err e = {0};
	struct place *p;
	int ro;

	if (fd < 0 && errno == EINVAL)
		skip(); /* Linux before 6.3 */
	assert_int_equal(ftruncate(fd, 4096), 0);
	assert_int_equal(pwrite(fd, "\7", 1, 0), 1);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
	ro = reopen(fd);
	assert_int_equal(open_view(g, PLACE_VIEW_RO, &r, 1, ro, &p), 0);
	assert_int_equal(at(p, 1), 7);
	assert_int_equal(place_close(g->ps, p, &e), 0);
	(void)close(fd);
	(void)close(ro);
}

static void test_too_many_runs(void **state)
{
	struct kvmplaces *g = *state;
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
	struct kvmplaces *g = *state;
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
	/* Those of clients are others: they have as many. */
	assert_int_equal(PLACE_CURSOR_CLIENT, WIRE_CURSOR_CLIENT[0]);
	memcpy(name, "@0", sizeof(name));
	for (int i = 0; i < PLACE_CURSORS_MAX; i++, name[1]++) {
		assert_int_equal(
		    place_dirty(p, name, false, &words, &n, &e), 0);
		free(words);
	}
	assert_int_equal(
	    place_dirty(p, "@more", false, &words, &n, &e), -ENOSPC);
	assert_int_equal(place_dirty(p, "c0", false, &words, &n, &e), 0);
	free(words);
	/* One that ends makes room for one. */
	assert_int_equal(place_dirty_end(p, "more", &e), -ENOENT);
	assert_int_equal(place_dirty_end(p, "@2", &e), 0);
	assert_int_equal(place_dirty_end(p, "@2", &e), -ENOENT);
	assert_int_equal(
	    place_dirty(p, "more", false, &words, &n, &e), -ENOSPC);
	assert_int_equal(place_dirty(p, "@more", false, &words, &n, &e), 0);
	free(words);
}

static uint64_t *dirty_of(struct place *p, const char *cursor)
{
	struct err e = {0};
	uint64_t *words;
	uint64_t n;

	assert_int_equal(place_dirty(p, cursor, false, &words, &n, &e), 0);
	return words;
}

/* What was not told comes again, with what was written since; for that cursor
 * alone. */
static void test_dirty_untold(void **state)
{
	struct kvmplaces *g = *state;
	struct place *p = make(g);
	uint64_t *words;

	free(dirty_of(p, "c"));
	free(dirty_of(p, "other"));
	put(g, 3, 1);
	put(g, 5, 1);
	words = dirty_of(p, "c");
	assert_int_equal(words[0], 1u << 3 | 1u << 5);
	put(g, 7, 1);
	words[0] = 1u << 5;
	place_dirty_untold(p, "c", words);
	place_dirty_untold(p, "unknown", words);
	free(words);
	words = dirty_of(p, "c");
	assert_int_equal(words[0], 1u << 5 | 1u << 7);
	free(words);
	words = dirty_of(p, "other");
	assert_int_equal(words[0], 1u << 3 | 1u << 5 | 1u << 7);
	free(words);
	words = dirty_of(p, "c");
	assert_int_equal(words[0], 0);
	free(words);
}

/* --- what a freeze promises ----------------------------------------------- */

static void test_layer_never_grows(void **state)
{
	struct kvmplaces *g = *state;
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
	struct kvmplaces *g = *state;
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
static void put_many(
    struct kvmplaces *g, uint32_t first, uint32_t n, uint32_t add)
{
	static struct kvmguest_write w[LARGE_NPAGES];

	for (uint32_t i = 0; i < n; i++)
		w[i] = (struct kvmguest_write){
		    GPA + (first + i) * 4096, i % 3 == 0 ? 0 : first + i + add};
	assert_int_equal(kvmplaces_do(g, w, n), 0);
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
	struct kvmplaces *g = *state;
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
	struct kvmplaces *g = *state;
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
	fail_errno = ENOMEM;
}

/* However many answers are lost: what the newest step has is copied anew, and
 * none of it is lost where that fails. */
static void test_never_published(void **state)
{
	struct kvmplaces *g = *state;
	struct place *p = make(g);
	struct place_frozen f;
	struct err e = {0};
	uint32_t got;

	for (uint32_t i = 0; i < PLACE_STEPS_MAX; i++) {
		put(g, i, 1 + i);
		freeze(g, p, &f);
		assert_int_equal(f.nsteps, 1 + i);
	}
	put(g, 3, 77);
	put(g, 9, 10);
	fail_in[PWRITEV] = 1;
	assert_int_equal(place_freeze(g->ps, p, &f, &e), -ENOMEM);
	freeze(g, p, &f);
	assert_int_equal(f.nsteps, PLACE_STEPS_MAX);
	assert_int_equal(f.dirty_pages, 2);
	assert_int_equal(f.step[2].runs[0].page, 2);
	assert_int_equal(f.step[3].runs[0].page, 3);
	assert_int_equal(f.step[3].runs[1].page, 9);
	assert_int_equal(pread(f.step[3].layer_fd, &got, 4, 0), 4);
	assert_int_equal(got, 77);
	assert_int_equal(place_sever(g->ps, p, -1, &f, &e), 0);
	assert_int_equal(f.nsteps, PLACE_STEPS_MAX);
	assert_int_equal(f.step[3].nruns, 2);
	assert_true(f.step[3].severed);
	assert_int_equal(place_freeze(g->ps, p, &f, &e), -ENOSPC);
	place_frozen_done(p, f.nsteps);
}

/* Nor are there answers, lost in whatever order, behind which neither a freeze
 * nor a sever tells anything any more. */
static void test_never_stuck(void **state)
{
	struct kvmplaces *g = *state;
	struct place *p = make(g);
	struct place_frozen f;
	struct err e = {0};

	for (uint32_t i = 0; i < 2; i++) {
		put(g, i, 1 + i);
		freeze(g, p, &f);
	}
	put(g, 2, 3);
	assert_int_equal(place_sever(g->ps, p, -1, &f, &e), 0);
	put(g, 5, 9);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(place_freeze(g->ps, p, &f, &e), -ENOSPC);
	assert_int_equal(at(p, 5), 9);
	assert_int_equal(place_sever(g->ps, p, -1, &f, &e), 0);
	assert_int_equal(at(p, 5), 9);
	assert_int_equal(f.nsteps, 3);
	assert_true(f.step[2].severed);
	place_frozen_done(p, f.nsteps);
	freeze(g, p, &f);
	assert_int_equal(f.nsteps, 1);
	assert_true(f.step[0].first);
	place_frozen_done(p, f.nsteps);
}

/* What was frozen is not taken when all is severed, and nothing was written
 * since: that it was severed is told with it. */
static void test_sever_unpublished(void **state)
{
	struct kvmplaces *g = *state;
	struct place *p = make(g);
	struct place_frozen f;
	struct err e = {0};

	put(g, 3, 1);
	freeze(g, p, &f);
	assert_false(f.step[0].severed);
	assert_int_equal(place_sever(g->ps, p, -1, &f, &e), 0);
	assert_int_equal(at(p, 3), 0);
	assert_int_equal(f.nsteps, 1);
	assert_true(f.step[0].severed);
	assert_int_equal(place_close(g->ps, p, &e), -EBUSY);
	put(g, 4, 2);
	freeze(g, p, &f);
	assert_int_equal(f.nsteps, 2);
	assert_true(f.step[0].severed && !f.step[1].severed);
	place_frozen_done(p, 2);
}

static void test_sparse(void **state)
{
	struct kvmplaces *g = *state;
	uint64_t npages = 1400 * LEAF_NPAGES;
	struct place_frozen f;
	struct err e = {0};
	struct place *p;

	assert_int_equal(
	    place_make(g->ps, "sparse", GPA, npages * 4096, &p, &e), 0);
	for (uint32_t c = 0; c < 1400; c += 2)
		put(g, c * 512 + 1, c + 1);
	freeze(g, p, &f);
	/* Of 700 holes as many are filled as come to a quarter of the data. */
	assert_int_equal(f.step[0].nruns, 700 - 700 / 4);
	assert_int_equal(f.dirty_pages, (700 + 700 / 4) * LEAF_NPAGES);
	for (uint32_t c = 0; c < 1400; c++)
		assert_int_equal(at(p, c * 512 + 1), c % 2 ? 0 : c + 1);
}

/* 6,000 pieces far apart: to fill what is between would take ten times as much
 * as they are. */
static void test_scattered(void **state)
{
	const uint64_t far = 10 * LEAF_SIZE;
	struct kvmplaces *g = *state;
	struct place_info info;
	struct place_frozen f;
	struct err e = {0};
	struct place *p;
	int r;

	assert_int_equal(place_make(g->ps, "seg", GPA, 6000 * far, &p, &e), 0);
	place_info(p, &info);
	for (uint64_t i = 0; i < 6000; i++)
		info.hva[i * far] = 1;
	no_fill = true;
	r = place_freeze(g->ps, p, &f, &e);
	no_fill = false;
	assert_int_equal(r, -ENOSPC);
	assert_non_null(strstr(e.msg, "4096 is the limit"));
	assert_int_equal(f.nsteps, 0);
	put(g, 1, 2);
	assert_int_equal(at(p, 0), 1);
	assert_int_equal(at(p, 1), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_make_refuses),
	    TEST(test_open_refuses),
	    TEST(test_open_noexec),
	    TEST(test_too_many_runs),
	    TEST(test_dirty_refuses),
	    TEST(test_dirty_untold),
	    TEST(test_layer_never_grows),
	    TEST(test_later_is_dense),
	    TEST(test_later_large),
	    TEST(test_seal_fails),
	    TEST(test_never_published),
	    TEST(test_never_stuck),
	    TEST(test_sever_unpublished),
	    TEST(test_sparse),
	    TEST(test_scattered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
