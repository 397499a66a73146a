/* SPDX-License-Identifier: MIT */
/* wrap: malloc calloc realloc */
#include "vmm/map/runs.h"

#include <errno.h>
#include <stdlib.h>

#include "tests/unit/failmem.h"
#include "tests/unit/unit.h"

#define NRUNS 1000u

static struct page_run run_of(uint64_t page)
{
	return (struct page_run){.page = page, .npages = 1, .layer = 7};
}

/* All are there, in order; one more than may be is refused and changes nothing.
 */
static void grows(void **state)
{
	struct runs rs = {.max = NRUNS};
	struct page_run r;

	(void)state;
	for (uint64_t i = 0; i < NRUNS; i++) {
		r = run_of(2 * i);
		assert_int_equal(runs_add(&rs, &r), 0);
	}
	assert_int_equal(runs_add(&rs, &r), -E2BIG);
	assert_int_equal(rs.n, NRUNS);
	for (uint64_t i = 0; i < NRUNS; i++)
		assert_int_equal(rs.r[i].page, 2 * i);
	free(rs.r);
}

static void joins(void **state)
{
	struct runs rs = {.max = 3};
	struct page_run r = {.page = 5, .npages = 2, .index = 8};

	(void)state;
	assert_int_equal(runs_join(&rs, &r), 0);
	r = (struct page_run){.page = 7, .npages = 3, .index = 10};
	assert_int_equal(runs_join(&rs, &r), 0);
	assert_int_equal(rs.n, 1);
	assert_int_equal(rs.r[0].npages, 5);
	/* Its bytes are elsewhere. */
	r = (struct page_run){.page = 10, .npages = 1, .index = 14};
	assert_int_equal(runs_join(&rs, &r), 0);
	assert_int_equal(rs.n, 2);
	r = (struct page_run){.page = 11, .npages = 1, .layer = RUN_ZERO};
	assert_int_equal(runs_join(&rs, &r), 0);
	assert_int_equal(rs.n, 3);
	/* What continues the last needs no room, and zeroes are all alike. */
	r.page = 12;
	assert_int_equal(runs_join(&rs, &r), 0);
	assert_int_equal(rs.r[2].npages, 2);
	r.page = 14;
	assert_int_equal(runs_join(&rs, &r), -E2BIG);
	assert_int_equal(rs.n, 3);
	free(rs.r);
}

static void without_memory(void **state)
{
	struct runs rs = {.max = NRUNS};
	struct page_run r = run_of(0);
	size_t n;

	(void)state;
	fail_at = 0;
	assert_int_equal(runs_add(&rs, &r), -ENOMEM);
	assert_null(rs.r);
	assert_int_equal(runs_add(&rs, &r), 0);
	fail_at = 0;
	while (runs_add(&rs, &r) == 0)
		;
	n = rs.n;
	assert_int_equal(n, rs.cap);
	assert_int_equal(runs_add(&rs, &r), 0);
	assert_int_equal(rs.n, n + 1);
	free(rs.r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(grows),
	    cmocka_unit_test(joins),
	    cmocka_unit_test(without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
