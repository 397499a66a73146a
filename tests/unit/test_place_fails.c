/* SPDX-License-Identifier: MIT */
/* place: a failure at every step of every operation. */
#include "tests/unit/place_bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

typedef int op_fn(struct kvmplaces *g, struct place *p, struct err *e);

static int op_freeze(struct kvmplaces *g, struct place *p, struct err *e)
{
	struct place_frozen f;

	return place_freeze(g->ps, p, &f, e);
}

static int op_sever(struct kvmplaces *g, struct place *p, struct err *e)
{
	struct place_frozen f;

	return place_sever(g->ps, p, -1, &f, e);
}

static int op_make(struct kvmplaces *g, struct place *p, struct err *e)
{
	(void)p;
	return place_make(g->ps, "other", 0, 3 << 20, &p, e);
}

static int op_dirty(struct kvmplaces *g, struct place *p, struct err *e)
{
	uint64_t *words = NULL;
	uint64_t n;
	int r;

	(void)g;
	r = place_dirty(p, "c", false, &words, &n, e);

	free(words);
	return r;
}

static int op_open(struct kvmplaces *g, struct place *p, struct err *e)
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
static bool fail_once(
    struct kvmplaces *g, op_fn *op, bool frozen, enum seam s, int n)
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

/* A freeze that needs more mappings than there may be changes nothing. */
static void test_full(void **state)
{
	uint32_t want[10] = {0, 11, 12};
	struct kvmplaces *g = *state;
	struct place *p = make(g);
	struct place_frozen f;
	struct err e = {0};

	put(g, 1, 11);
	put(g, 1500, 15);
	full_in = 2;
	assert_int_equal(op_freeze(g, p, &e), -ENOMEM);
	full_in = 0;
	assert_int_equal(at(p, 1), 11);
	assert_int_equal(at(p, 1500), 15);
	put(g, 2, 12);
	freeze(g, p, &f);
	check_steps(&f, want);
}

/* What is lost is more than the memory of a segment that was never frozen: the
 * private pages over a base. */
static void test_lost_later(void **state)
{
	struct kvmplaces *g = *state;
	struct place *p = make(g);
	struct place_frozen f;
	struct err e = {0};

	put(g, 1, 11);
	freeze(g, p, &f);
	put(g, 2, 12);
	lose_in = 1;
	expect_lost(g, op_sever(g, p, &e), &e);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_fail_make),
	    cmocka_unit_test(test_fail_freeze),
	    cmocka_unit_test(test_fail_sever),
	    cmocka_unit_test(test_fail_open),
	    cmocka_unit_test(test_fail_dirty),
	    TEST(test_full),
	    cmocka_unit_test(test_lost),
	    TEST(test_lost_later),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
