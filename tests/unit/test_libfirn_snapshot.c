/* SPDX-License-Identifier: MIT */
/* Snapshots opened through the library: which it refuses, what the others show.
 */
#include "tests/unit/libfirn_fix.h"

#include <errno.h>

static void test_snapshots(void **state)
{
	struct fix *x = *state;

	for (const struct snap_case *c = snap_cases; c->name != NULL; c++) {
		struct firn_snapshot *s = NULL;
		int r = firn_open_snapshot(x->c, c->name, &s, &x->e);

		if (r != c->err)
			fail_msg("%s: %d, not %d", c->name, r, c->err);
		if (r == 0)
			assert_int_equal(firn_snapshot_pages(s), c->pages);
		else
			assert_null(s);
		firn_snapshot_close(s);
	}
}

static void test_no_runs(void **state)
{
	struct firn_snapshot *s = NULL;
	struct fix *x = *state;

	assert_int_equal(firn_open_snapshot(x->c, "none", &s, &x->e), -EPROTO);
	assert_int_equal(firn_open_snapshot(x->c, "half", &s, &x->e), -EPROTO);
}

/* Page by page, what "good" shows. */
static const unsigned char good_pages[10] = {17, 18, 0, 32, 0, 0, 0, 0, 19, 0};

static void test_read(void **state)
{
	struct fix *x = *state;
	unsigned char buf[3 * PAGE_SIZE];
	struct firn_snapshot *s = NULL;
	struct firn_range r;

	assert_int_equal(firn_open_snapshot(x->c, "good", &s, NULL), 0);
	assert_int_equal(firn_snapshot_layers(s), 2);
	for (uint64_t at = 0; at + sizeof(buf) <= 10 * PAGE_SIZE; at += 1111) {
		assert_int_equal(
		    firn_snapshot_read(s, at, buf, sizeof(buf), NULL), 0);
		for (size_t i = 0; i < sizeof(buf); i++)
			if (buf[i] != good_pages[(at + i) / PAGE_SIZE])
				fail_msg("byte %zu", (size_t)at + i);
	}
	assert_int_equal(
	    firn_snapshot_read(s, 10 * PAGE_SIZE, buf, 0, NULL), 0);
	assert_int_equal(
	    firn_snapshot_read(s, 10 * PAGE_SIZE - 1, buf, 2, &x->e), -ERANGE);
	assert_int_equal(
	    firn_snapshot_read(s, UINT64_MAX, buf, 2, &x->e), -ERANGE);
	assert_int_equal(firn_snapshot_next(s, 1, &r), 1);
	assert_int_equal(r.first, 1);
	assert_int_equal(r.count, 1);
	assert_int_equal(firn_snapshot_next(s, 4, &r), 1);
	assert_int_equal(r.first, 8);
	assert_int_equal(firn_snapshot_next(s, 9, &r), 0);
	firn_snapshot_close(s);
}

static void test_map(void **state)
{
	struct firn_snapshot *s = NULL;
	struct fix *x = *state;
	const void *addr;
	const void *again;

	assert_int_equal(firn_open_snapshot(x->c, "good", &s, NULL), 0);
	assert_int_equal(firn_snapshot_map(s, &addr, NULL), 0);
	for (size_t i = 0; i < 10 * PAGE_SIZE; i++)
		if (((const unsigned char *)addr)[i] !=
		    good_pages[i / PAGE_SIZE])
			fail_msg("byte %zu", i);
	assert_int_equal(firn_snapshot_map(s, &again, NULL), 0);
	assert_ptr_equal(addr, again);
	firn_snapshot_unmap(s);
	firn_snapshot_unmap(s);
	firn_snapshot_close(s);
}

static void test_map_scattered(void **state)
{
	struct firn_snapshot *s = NULL;
	struct fix *x = *state;
	const void *addr;

	assert_int_equal(firn_open_snapshot(x->c, "scattered", &s, NULL), 0);
	assert_int_equal(firn_snapshot_map(s, &addr, &x->e), 0);
	for (size_t i = 0; i < 2 * MANY_RUNS; i++) {
		unsigned want =
		    i % 2 ? 0 : 16 + (unsigned)(i / 2) % LAYER_PAGES;

		assert_int_equal(
		    ((const unsigned char *)addr)[i * PAGE_SIZE + 5], want);
	}
	firn_snapshot_close(s);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_snapshots),
	    T(test_no_runs),
	    T(test_read),
	    T(test_map),
	    T(test_map_scattered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
