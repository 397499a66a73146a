/* SPDX-License-Identifier: MIT */
#include "shared/cap/cap.h"

#include <stdlib.h>
#include <string.h>

#include "shared/status.h"
#include "tests/unit/unit.h"

#define N 8

struct fix {
	struct cap slots[N];
	struct cap_table t;
};

static int setup(void **state)
{
	struct fix *f = malloc(sizeof(*f));

	assert_non_null(f);
	memset(f, 0xa5, sizeof(*f));
	assert_int_equal(cap_table_init(&f->t, f->slots, N), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static int32_t make(struct fix *f, uint32_t rights, const char *name)
{
	return cap_insert(&f->t, FIRN_CAP_SNAPSHOT, rights, 42, name);
}

static void test_init(void **state)
{
	struct fix *f = *state;

	assert_int_equal(cap_table_init(&f->t, f->slots, 0), -ST_INVAL);
	assert_int_equal(
	    cap_table_init(&f->t, f->slots, CAP_SLOTS_MAX + 1), -ST_INVAL);
}

static void test_insert_lookup(void **state)
{
	struct fix *f = *state;
	const struct cap *c;
	int32_t n = make(f, FIRN_RIGHT_MAP_RO | FIRN_RIGHT_DIFF, "db");

	assert_true(n > 0);
	assert_int_equal(cap_lookup(&f->t, n, FIRN_RIGHT_DIFF, &c), 0);
	assert_int_equal(c->object, 42);
	assert_int_equal(c->kind, FIRN_CAP_SNAPSHOT);
	assert_string_equal(c->name, "db");
	assert_int_equal(cap_lookup(&f->t, n, 0, &c), 0);
	assert_int_equal(cap_lookup(&f->t, n, FIRN_RIGHT_OPEN, &c), -ST_PERM);
	assert_int_equal(
	    cap_lookup(&f->t, n, FIRN_RIGHT_DIFF | FIRN_RIGHT_OPEN, &c),
	    -ST_PERM);
	assert_int_equal(cap_lookup(&f->t, n, 1u << 31, &c), -ST_PERM);
	assert_int_equal(cap_find(&f->t, "db"), n);
	assert_int_equal(cap_find(&f->t, "d"), -ST_NOENT);
	assert_int_equal(cap_find(&f->t, "dbx"), -ST_NOENT);
	assert_int_equal(cap_find(&f->t, ""), -ST_NOENT);
	assert_int_equal(cap_find(&f->t, NULL), -ST_NOENT);
}

static void test_insert_refuses(void **state)
{
	struct fix *f = *state;
	char longest[FIRN_NAME_MAX + 1];
	int32_t n;

	assert_int_equal(cap_insert(&f->t, 0, 1, 1, NULL), -ST_INVAL);
	assert_int_equal(make(f, FIRN_RIGHT_ALL + 1, NULL), -ST_INVAL);
	memset(longest, 'x', sizeof(longest));
	longest[FIRN_NAME_MAX] = '\0';
	assert_int_equal(make(f, 1, longest), -ST_INVAL);
	longest[FIRN_NAME_MAX - 1] = '\0';
	n = make(f, 1, longest);
	assert_true(n > 0);
	assert_int_equal(cap_find(&f->t, longest), n);
	assert_int_equal(make(f, 1, longest), -ST_EXIST);
	longest[FIRN_NAME_MAX - 1] = 'x';
	assert_int_equal(cap_find(&f->t, longest), -ST_NOENT);
	for (int i = 1; i < N; i++)
		assert_true(make(f, 1, NULL) > 0);
	assert_int_equal(make(f, 1, NULL), -ST_NOSPC);
	assert_int_equal(f->t.nused, N);
}

static void test_forged(void **state)
{
	struct fix *f = *state;
	const struct cap *c;
	int32_t n = make(f, FIRN_RIGHT_ALL, NULL);
	int64_t found = 0;

	for (int64_t i = -70000; i < 70000; i++)
		if (cap_lookup(&f->t, i, 0, &c) == 0)
			found = i;
	assert_int_equal(found, n);
	assert_int_equal(
	    cap_lookup(&f->t, (int64_t)n + (1LL << 32), 0, &c), -ST_NOENT);
	assert_int_equal(
	    cap_lookup(&f->t, (int64_t)n - (1LL << 32), 0, &c), -ST_NOENT);
	assert_int_equal(cap_lookup(&f->t, INT64_MIN, 0, &c), -ST_NOENT);
	assert_int_equal(cap_lookup(&f->t, n ^ (1 << 30), 0, &c), -ST_NOENT);
	assert_int_equal(cap_drop(&f->t, n + 1, NULL), -ST_NOENT);
	assert_int_equal(cap_derive(&f->t, -n, 1), -ST_NOENT);
}

/* A dropped number stays refused while its slot is used again and again. */
static void test_stale(void **state)
{
	struct fix *f = *state;
	int32_t first = make(f, FIRN_RIGHT_ALL, "old");
	const struct cap *c;
	struct cap was;

	assert_int_equal(cap_drop(&f->t, first, &was), 0);
	assert_int_equal(was.object, 42);
	assert_string_equal(was.name, "old");
	assert_int_equal(cap_drop(&f->t, first, &was), -ST_NOENT);
	assert_int_equal(cap_find(&f->t, "old"), -ST_NOENT);
	for (int i = 0; i < 100 * N; i++) {
		int32_t n = make(f, FIRN_RIGHT_ALL, "new");

		assert_true(n > 0 && n != first);
		assert_int_equal(cap_lookup(&f->t, first, 0, &c), -ST_NOENT);
		assert_int_equal(cap_drop(&f->t, n, NULL), 0);
	}
	assert_int_equal(f->t.nused, 0);
}

static void test_generations_wrap(void **state)
{
	struct fix *f = *state;
	int32_t n;

	for (int i = 0; i < N; i++)
		f->slots[i].gen = CAP_GEN_MAX - 1;
	n = make(f, 1, NULL);
	assert_true(n > 0);
	assert_int_equal(cap_drop(&f->t, n, NULL), 0);
	f->t.hand = 0;
	n = make(f, 1, NULL);
	assert_true(n > 0);
	assert_int_equal(f->slots[0].gen, 1);
}

static void test_derive(void **state)
{
	struct fix *f = *state;
	const struct cap *c;
	int32_t a = make(
	    f, FIRN_RIGHT_DERIVE | FIRN_RIGHT_MAP_RO | FIRN_RIGHT_DIFF, "a");
	int32_t b = cap_derive(&f->t, a, FIRN_RIGHT_MAP_RO | FIRN_RIGHT_OPEN);

	assert_true(b > 0 && b != a);
	assert_int_equal(cap_lookup(&f->t, b, 0, &c), 0);
	assert_int_equal(c->rights, FIRN_RIGHT_MAP_RO);
	assert_int_equal(c->object, 42);
	assert_string_equal(c->name, "");
	assert_int_equal(cap_derive(&f->t, b, FIRN_RIGHT_MAP_RO), -ST_PERM);
	assert_int_equal(cap_derive(&f->t, a, FIRN_RIGHT_OPEN), -ST_INVAL);
	assert_int_equal(cap_derive(&f->t, a, 0), -ST_INVAL);
	assert_int_equal(cap_drop(&f->t, a, NULL), 0);
	assert_int_equal(cap_lookup(&f->t, b, FIRN_RIGHT_MAP_RO, &c), 0);
	a = make(f, FIRN_RIGHT_ALL, NULL);
	while (f->t.nused < N)
		assert_true(cap_derive(&f->t, a, UINT32_MAX) > 0);
	assert_int_equal(cap_derive(&f->t, a, 1), -ST_NOSPC);
}

static void test_iterate(void **state)
{
	struct fix *f = *state;
	const struct cap *c = NULL;
	uint32_t pos = 0;
	int32_t n;
	int seen = 0;

	assert_int_equal(cap_next(&f->t, &pos, &c), -ST_NOENT);
	for (int i = 0; i < N; i++)
		assert_true(make(f, 1, NULL) > 0);
	pos = 0;
	while ((n = cap_next(&f->t, &pos, &c)) > 0) {
		assert_int_equal(c->object, 42);
		assert_int_equal(cap_drop(&f->t, n, NULL), 0);
		seen++;
	}
	assert_int_equal(seen, N);
	assert_int_equal(f->t.nused, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_init, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		test_insert_lookup, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		test_insert_refuses, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_forged, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_stale, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		test_generations_wrap, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_derive, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_iterate, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
