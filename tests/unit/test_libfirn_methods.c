/* SPDX-License-Identifier: MIT */
/* The library's functions for one method each: what they send and take. */
#include "tests/unit/libfirn_fix.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

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
	assert_int_equal(firn_diff(x->c, "words", "b", 0, &p, &x->e), -EPROTO);
	assert_int_equal(
	    firn_diff(x->c, "unsorted", "b", 0, &p, &x->e), -EPROTO);
	assert_int_equal(firn_dirty(x->c, "v", NULL, "c",
			     FIRN_DIRTY_PEEK | FIRN_DIRTY_EXACT, &p, NULL),
	    0);
	assert_int_equal(p.ranges[0].first, 3);
	firn_pageset_free(&p);
}

/* --- without memory ------------------------------------------------------- */

/* Of this thread: allocations for JSON until one fails; negative: none does. */
static _Thread_local long json_left = -1;

static void *json_memory(size_t n)
{
	return json_left >= 0 && json_left-- == 0 ? NULL : malloc(n);
}

typedef int asks(struct fix *x);

static int asks_freeze(struct fix *x)
{
	struct firn_freeze_result f;
	int rc = firn_freeze(x->c, "v", "1", "n", &f, &x->e);

	/* What the service says where it was asked for a segment. */
	assert_true(rc != 0 || f.copied_pages == 3);
	return rc;
}

static int asks_map(struct fix *x)
{
	struct firn_map_result m;
	int rc = firn_map(x->c, "v", "s", 0, 4096, &m, &x->e);

	assert_true(rc != 0 || m.gpa == 4096);
	return rc;
}

static int asks_adopt(struct fix *x)
{
	struct firn_map_result m;
	int rc = firn_adopt(x->c, "v", "s", 4096, &m, NULL, &x->e);

	assert_true(rc != 0 || m.gpa == 4096);
	return rc;
}

static int asks_give(struct fix *x)
{
	int moved = 0;
	int rc = firn_give(x->c, "v", "s", "n", &moved, &x->e);

	/* It keeps its name only where it was given none. */
	assert_true(rc != 0 || moved == 0);
	return rc;
}

static int asks_text(struct fix *x)
{
	struct firn_reply r;
	int rc =
	    firn_call(x->c, "say", "{\"text\":\"hi\"}", NULL, 0, &r, &x->e);

	if (rc != 0)
		return rc;
	assert_string_equal(r.json, "{\"text\":\"hi\"}");
	firn_reply_free(&r);
	return 0;
}

/* Whatever there is no memory for: what is asked is all that the caller said,
 * and what comes is all that the service said, or it fails. */
static void test_no_memory(void **state)
{
	static asks *const all[] = {
	    asks_freeze, asks_map, asks_adopt, asks_give, asks_text};

	(void)state;
	json_set_alloc_funcs(json_memory, free);
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		bool failed = true;

		for (long n = 0; failed; n++) {
			void *one;
			int rc;

			assert_int_equal(setup(&one), 0);
			json_left = n;
			rc = all[i](one);
			failed = json_left < 0;
			json_left = -1;
			assert_true(failed || rc == 0);
			assert_int_equal(teardown(&one), 0);
		}
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_typed),
	    T(test_names),
	    T(test_hands),
	    T(test_pagesets),
	    cmocka_unit_test(test_no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
