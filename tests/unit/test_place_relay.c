/* SPDX-License-Identifier: MIT */
/* place: its pages are mapped anew from other files, and what freezes copy. */
#include "tests/unit/place_bench.h"

#include <errno.h>

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

static int relay(struct kvmplaces *g, struct place *p, enum place_kind kind,
    int fd, struct err *e)
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
static struct place *frozen_and_written(struct kvmplaces *g)
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
	struct kvmplaces *g = *state;
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

static void freeze_pages(struct kvmplaces *g, struct place *p, uint32_t first,
    uint32_t n, uint32_t value)
{
	struct place_frozen f;

	for (uint32_t i = first; i < first + n; i++)
		put(g, i, value);
	freeze(g, p, &f);
	place_frozen_done(p, f.nsteps);
}

static void expect_copies(struct kvmplaces *g, struct place *p, uint32_t first,
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
	struct kvmplaces *g = *state;
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
	struct kvmplaces *g = *state;
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
	struct kvmplaces *g = *state;
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
			struct kvmplaces *g;
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

static void test_lost_relay(void **state)
{
	struct kvmplaces *g = *state;
	struct place *p = frozen_and_written(g);
	int fd = other_file(3, 33);
	struct err e = {0};

	lose_in = 2;
	expect_lost(g, relay(g, p, PLACE_VIEW_COW, fd, &e), &e);
	(void)close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_relay),
	    TEST(test_copies),
	    TEST(test_relay_views),
	    TEST(test_relay_refuses),
	    cmocka_unit_test(test_fail_relay),
	    TEST(test_lost_relay),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
