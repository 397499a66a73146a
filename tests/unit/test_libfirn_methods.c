/* SPDX-License-Identifier: MIT */
/* The library's functions for one method each: what they send and take. */
#include "tests/unit/libfirn_fix.h"

#include <errno.h>
#include <string.h>

static void test_typed(void **state)
{
	struct firn_freeze_result f;
	struct firn_map_result m;
	struct fix *x = *state;

	assert_int_equal(firn_freeze(x->c, "v", NULL, NULL, &f, NULL), 0);
	assert_int_equal(f.snapshot, 42);
	assert_int_equal(f.copied_pages, 0);
	assert_int_equal(f.total_ns, 5);
	assert_int_equal(firn_sever(x->c, "v", "1", "n", &f, NULL), 0);
	assert_int_equal(f.copied_pages, 3);
	assert_int_equal(firn_map(x->c, "v", "s", 1, 0, &m, NULL), 0);
	assert_int_equal(m.gpa, 7);
	assert_int_equal(m.map_ns, 1);
	assert_int_equal(firn_map(x->c, "v", "s", 0, 4096, &m, NULL), 0);
	assert_int_equal(m.gpa, 4096);
	assert_int_equal(m.view, 3);
	assert_int_equal(firn_unmap(x->c, "v", "3", &x->e), 0);
}

/* A name that JSON cannot say is refused here, not left out of the request. */
static void test_names(void **state)
{
	struct fix *x = *state;
	struct firn_freeze_result fr;
	struct firn_map_result m;
	struct firn_pageset p;
	struct firn_snapshot *s;
	static const char bad[] = "\xff";

	assert_int_equal(
	    firn_freeze(x->c, "v", NULL, bad, &fr, &x->e), -EINVAL);
	assert_non_null(strstr(x->e.msg, "UTF-8"));
	assert_int_equal(firn_map(x->c, "v", bad, 0, 0, &m, &x->e), -EINVAL);
	assert_int_equal(firn_unmap(x->c, bad, "w", &x->e), -EINVAL);
	assert_int_equal(firn_dirty_end(x->c, "v", NULL, bad, &x->e), -EINVAL);
	assert_int_equal(
	    firn_adopt(x->c, "v", bad, 0, &m, NULL, &x->e), -EINVAL);
	assert_int_equal(firn_give(x->c, "v", bad, NULL, NULL, &x->e), -EINVAL);
	assert_int_equal(firn_diff(x->c, "a", bad, 0, &p, &x->e), -EINVAL);
	assert_int_equal(
	    firn_dirty(x->c, "v", bad, "c", 0, &p, &x->e), -EINVAL);
	assert_int_equal(firn_touched(x->c, "v", bad, &p, &p, &x->e), -EINVAL);
	assert_int_equal(firn_open_snapshot(x->c, bad, &s, &x->e), -EINVAL);
	assert_int_equal(
	    firn_call(x->c, bad, NULL, NULL, 0, NULL, &x->e), -EINVAL);
	assert_non_null(strstr(x->e.msg, "UTF-8"));
	assert_int_equal(x->e.code, 0);
}

static void test_hands(void **state)
{
	struct firn_map_result m;
	struct fix *x = *state;
	int flag = -1;

	assert_int_equal(firn_adopt(x->c, "v", "s", 0, &m, &flag, NULL), 0);
	assert_int_equal(m.view, 4);
	assert_int_equal(m.gpa, 7);
	assert_int_equal(flag, 0);
	assert_int_equal(firn_adopt(x->c, "v", "s", 4096, &m, &flag, NULL), 0);
	assert_int_equal(m.gpa, 4096);
	assert_int_equal(flag, 1);
	assert_int_equal(firn_adopt(x->c, "v", "s", 0, &m, NULL, NULL), 0);
	assert_int_equal(firn_give(x->c, "v", "s", NULL, &flag, NULL), 0);
	assert_int_equal(flag, 1);
	assert_int_equal(firn_take(x->c, "v", "s", "n", &flag, NULL), 0);
	assert_int_equal(flag, 0);
	assert_int_equal(firn_take(x->c, "v", "s", "n", NULL, NULL), 0);
	assert_int_equal(
	    firn_give(x->c, "v", "bad", NULL, &flag, &x->e), -EPROTO);
	assert_int_equal(
	    firn_take(x->c, "v", "bad", NULL, &flag, &x->e), -EPROTO);
	assert_int_equal(flag, 0);
}

static void test_pagesets(void **state)
{
	struct fix *x = *state;
	struct firn_pageset p;

	assert_int_equal(firn_diff(x->c, "inline", "b", 0, &p, NULL), 0);
	assert_int_equal(p.nranges, 2);
	assert_int_equal(p.ranges[0].first, 1);
	assert_int_equal(p.nodes_visited, 6);
	firn_pageset_free(&p);
	assert_int_equal(firn_diff(x->c, "fd", "b", 1, &p, NULL), 0);
	assert_int_equal(p.nranges, 2);
	assert_int_equal(p.ranges[1].first, 9);
	firn_pageset_free(&p);
	assert_int_equal(firn_diff(x->c, "lost", "b", 0, &p, &x->e), -EPROTO);
	assert_int_equal(firn_diff(x->c, "sum", "b", 0, &p, &x->e), -EPROTO);
	assert_int_equal(
	    firn_diff(x->c, "unsorted", "b", 0, &p, &x->e), -EPROTO);
	assert_int_equal(firn_dirty(x->c, "v", NULL, "c",
			     FIRN_DIRTY_PEEK | FIRN_DIRTY_EXACT, &p, NULL),
	    0);
	assert_int_equal(p.ranges[0].first, 3);
	firn_pageset_free(&p);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_typed),
	    T(test_names),
	    T(test_hands),
	    T(test_pagesets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
