/* SPDX-License-Identifier: MIT */
#include "shared/page/run.h"

#include "shared/status.h"
#include "tests/unit/unit.h"

static struct page_run run_of(uint64_t page, uint64_t npages)
{
	return (struct page_run){.page = page, .npages = npages};
}

static void test_accepts(void **state)
{
	struct page_run r[3] = {run_of(0, 1), run_of(1, 5), run_of(90, 10)};

	(void)state;
	assert_int_equal(run_list_check(NULL, 0, 1), 0);
	assert_int_equal(run_list_check(r, 3, 100), 0);
	r[2].layer = RUN_ZERO;
	assert_int_equal(run_list_check(r, 3, 100), 0);
	r[0].index = UINT64_MAX - 1;
	assert_int_equal(run_list_check(r, 3, 100), 0);
}

static void test_empty_or_padded(void **state)
{
	struct page_run r[2] = {run_of(0, 1), run_of(1, 0)};

	(void)state;
	assert_int_equal(run_list_check(r, 2, 100), -ST_INVAL);
	r[1].npages = 1;
	r[1].pad = 1;
	assert_int_equal(run_list_check(r, 2, 100), -ST_INVAL);
}

static void test_beyond(void **state)
{
	struct page_run r = run_of(99, 2);

	(void)state;
	assert_int_equal(run_list_check(&r, 1, 100), -ST_RANGE);
	r = run_of(100, 1);
	assert_int_equal(run_list_check(&r, 1, 100), -ST_RANGE);
	r = run_of(UINT64_MAX, 2);
	assert_int_equal(run_list_check(&r, 1, 100), -ST_RANGE);
	r = run_of(1, UINT64_MAX);
	assert_int_equal(run_list_check(&r, 1, 100), -ST_RANGE);
	r = run_of(1, 1);
	r.index = UINT64_MAX;
	assert_int_equal(run_list_check(&r, 1, 100), -ST_RANGE);
}

static void test_order(void **state)
{
	struct page_run r[2] = {run_of(5, 2), run_of(6, 1)};

	(void)state;
	assert_int_equal(run_list_check(r, 2, 100), -ST_PROTO);
	r[1].page = 0;
	assert_int_equal(run_list_check(r, 2, 100), -ST_PROTO);
	r[1].page = 7;
	assert_int_equal(run_list_check(r, 2, 100), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_accepts),
	    cmocka_unit_test(test_empty_or_padded),
	    cmocka_unit_test(test_beyond),
	    cmocka_unit_test(test_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
