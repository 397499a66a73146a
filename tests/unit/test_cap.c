/* SPDX-License-Identifier: MIT */
#include "shared/cap/cap.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/status.h"
#include "tests/chance.h"
#include "tests/unit/unit.h"

#define N 8

struct fix {
	struct cap_slot slots[N];
	struct cap_table t;
};

static int setup(void **state)
{
	struct fix *f = malloc(sizeof(*f));

	assert_non_null(f);
	memset(&f->t, 0xa5, sizeof(f->t));
	memset(f->slots, 0, sizeof(f->slots));
	assert_int_equal(cap_table_init(&f->t, f->slots, N, 1), 0);
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

	assert_int_equal(cap_table_init(&f->t, f->slots, 0, 1), -ST_INVAL);
	assert_int_equal(
	    cap_table_init(&f->t, f->slots, CAP_SLOTS_MAX + 1, 1), -ST_INVAL);
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
		f->slots[i].cap.gen = CAP_GEN_MAX - 1;
	n = make(f, 1, NULL);
	assert_true(n > 0);
	for (int i = 0; i < N; i++) {
		assert_int_equal(cap_drop(&f->t, n, NULL), 0);
		n = make(f, 1, NULL);
		assert_true(n > 0);
	}
	assert_int_equal(f->slots[0].cap.gen, 1);
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

/* Numbers by object: the one that carries the rights, else the newest. */
static void test_find_object(void **state)
{
	struct fix *f = *state;
	int32_t strong;
	int32_t weak;

	assert_int_equal(cap_find_object(&f->t, 42, 0), -ST_NOENT);
	strong = make(f, FIRN_RIGHT_MAP_RO | FIRN_RIGHT_DIFF, "a");
	weak = make(f, FIRN_RIGHT_MAP_RO, "b");
	assert_int_equal(cap_find_object(&f->t, 42, FIRN_RIGHT_DIFF), strong);
	assert_int_equal(cap_find_object(&f->t, 42, FIRN_RIGHT_MAP_RO), weak);
	assert_int_equal(cap_find_object(&f->t, 42, FIRN_RIGHT_OPEN), weak);
	assert_int_equal(cap_find_object(&f->t, 43, 0), -ST_NOENT);
	assert_int_equal(cap_drop(&f->t, weak, NULL), 0);
	assert_int_equal(cap_find_object(&f->t, 42, FIRN_RIGHT_OPEN), strong);
	assert_int_equal(cap_drop(&f->t, strong, NULL), 0);
	assert_int_equal(cap_find_object(&f->t, 42, 0), -ST_NOENT);
}

/* --- against a naive model ------------------------------------------------ */

#define NAMES   3000u
#define OBJECTS 2000u
#define STEPS   200000u

struct entry {
	int32_t num; /* 0: none */
	uint32_t rights;
	uint64_t object;
	char name[FIRN_NAME_MAX];
};

struct model {
	struct cap_table t;
	struct cap_slot *slots;
	struct entry *e; /* a position for each slot */
	uint32_t nslots, nused;
	uint64_t rng;
	int32_t *dropped; /* numbers that must not come back */
	uint32_t ndropped;
};

static uint32_t rnd(struct model *m, uint32_t n)
{
	return (uint32_t)chance(&m->rng, n);
}

/* Names with long common parts and of all lengths, and none. */
static void some_name(struct model *m, char *name)
{
	uint32_t len = rnd(m, FIRN_NAME_MAX);
	char number[16];

	(void)snprintf(number, sizeof(number), "%u", rnd(m, NAMES));
	memset(name, 'n', len);
	name[len] = '\0';
	if (len > strlen(number))
		memcpy(name + len - strlen(number), number, strlen(number));
}

static struct entry *by_name(struct model *m, const char *name)
{
	for (uint32_t i = 0; i < m->nslots; i++)
		if (m->e[i].num != 0 && strcmp(m->e[i].name, name) == 0)
			return &m->e[i];
	return NULL;
}

static struct entry *any(struct model *m)
{
	uint32_t i = rnd(m, m->nslots);

	for (uint32_t k = 0; k < m->nslots; k++, i = (i + 1) % m->nslots)
		if (m->e[i].num != 0)
			return &m->e[i];
	return NULL;
}

static void model_add(struct model *m, int32_t n, uint32_t rights,
    uint64_t object, const char *name)
{
	struct entry *e = &m->e[(uint32_t)n % CAP_SLOTS_MAX];

	assert_true(n > 0 && (uint32_t)n % CAP_SLOTS_MAX < m->nslots);
	assert_int_equal(e->num, 0);
	*e = (struct entry){.num = n, .rights = rights, .object = object};
	(void)snprintf(e->name, sizeof(e->name), "%s", name);
	m->nused++;
}

static void step_insert(struct model *m)
{
	uint32_t rights = rnd(m, FIRN_RIGHT_ALL + 1);
	uint64_t object = rnd(m, OBJECTS);
	char name[FIRN_NAME_MAX];
	bool taken;
	int32_t n;

	some_name(m, name);
	taken = name[0] != '\0' && by_name(m, name) != NULL;
	n = cap_insert(&m->t, FIRN_CAP_SNAPSHOT, rights, object, name);
	if (taken)
		assert_int_equal(n, -ST_EXIST);
	else if (m->nused == m->nslots)
		assert_int_equal(n, -ST_NOSPC);
	else
		model_add(m, n, rights, object, name);
}

static void step_drop(struct model *m)
{
	struct entry *e = any(m);
	struct cap was;

	if (e == NULL)
		return;
	assert_int_equal(cap_drop(&m->t, e->num, &was), 0);
	assert_int_equal(was.object, e->object);
	assert_string_equal(was.name, e->name);
	m->dropped[m->ndropped++] = e->num;
	e->num = 0;
	m->nused--;
}

static void step_derive(struct model *m)
{
	uint32_t rights = rnd(m, FIRN_RIGHT_ALL + 1);
	struct entry *e = any(m);
	int32_t n;

	if (e == NULL)
		return;
	n = cap_derive(&m->t, e->num, rights);
	if (!(e->rights & FIRN_RIGHT_DERIVE))
		assert_int_equal(n, -ST_PERM);
	else if ((e->rights & rights) == 0)
		assert_int_equal(n, -ST_INVAL);
	else if (m->nused == m->nslots)
		assert_int_equal(n, -ST_NOSPC);
	else
		model_add(m, n, e->rights & rights, e->object, "");
}

static void step_find(struct model *m)
{
	uint32_t rights = 1u << rnd(m, 5);
	uint64_t object = rnd(m, OBJECTS);
	bool have = false;
	bool carries = false;
	char name[FIRN_NAME_MAX];
	const struct cap *c;
	struct entry *e;
	int32_t n;

	some_name(m, name);
	e = name[0] == '\0' ? NULL : by_name(m, name);
	assert_int_equal(cap_find(&m->t, name), e == NULL ? -ST_NOENT : e->num);
	for (uint32_t i = 0; i < m->nslots; i++) {
		if (m->e[i].num == 0 || m->e[i].object != object)
			continue;
		have = true;
		carries |= (m->e[i].rights & rights) != 0;
	}
	n = cap_find_object(&m->t, object, rights);
	assert_int_equal(n > 0, have);
	if (!have)
		return;
	assert_int_equal(cap_lookup(&m->t, n, 0, &c), 0);
	assert_int_equal(c->object, object);
	assert_int_equal((c->rights & rights) != 0, carries);
}

static void check_all(struct model *m)
{
	const struct cap *c;
	uint32_t pos = 0;
	uint32_t n = 0;
	int32_t num;

	while ((num = cap_next(&m->t, &pos, &c)) > 0) {
		assert_int_equal(m->e[pos - 1].num, num);
		assert_string_equal(m->e[pos - 1].name, c->name);
		n++;
	}
	assert_int_equal(n, m->nused);
	assert_int_equal(m->t.nused, m->nused);
	for (uint32_t i = 0; i < m->ndropped; i++)
		assert_int_equal(
		    cap_lookup(&m->t, m->dropped[i], 0, &c), -ST_NOENT);
}

static void run_model(uint32_t nslots, uint64_t seed, uint32_t steps)
{
	struct model m = {.nslots = nslots, .rng = seed};

	m.slots = calloc(nslots, sizeof(*m.slots));
	m.e = calloc(nslots, sizeof(*m.e));
	m.dropped = calloc(steps, sizeof(*m.dropped));
	assert_true(m.slots != NULL && m.e != NULL && m.dropped != NULL);
	assert_int_equal(cap_table_init(&m.t, m.slots, nslots, seed), 0);
	for (uint32_t i = 0; i < steps; i++) {
		/* Now it fills, now it empties. */
		bool fills = i / (nslots * 2) % 2 == 0;
		uint32_t what = rnd(&m, 10);

		if (what == 0)
			step_find(&m);
		else if (what == 1)
			step_derive(&m);
		else if (what < (fills ? 8u : 4u))
			step_insert(&m);
		else
			step_drop(&m);
	}
	check_all(&m);
	free(m.slots);
	free(m.e);
	free(m.dropped);
}

static void test_model(void **state)
{
	uint64_t seed = chance_begin("cap");

	(void)state;
	run_model(1, seed, 1000);
	run_model(7, seed, STEPS / 4);
	run_model(256, seed, STEPS / 4);
	run_model(1500, seed, STEPS / 4);
}

static bool is_zero(const struct cap_slot *s, size_t n)
{
	const unsigned char *c = (const void *)s;

	for (size_t i = 0; i < n * sizeof(*s); i++)
		if (c[i] != 0)
			return false;
	return true;
}

/* A full client's table: each number is its own, each name is found, storage
 * that was never in use is never written. */
static void test_large(void **state)
{
	struct cap_slot *slots = calloc(CAP_SLOTS_MAX, sizeof(*slots));
	struct cap_table t;
	char name[FIRN_NAME_MAX];
	int32_t first[64];

	(void)state;
	assert_non_null(slots);
	assert_int_equal(cap_table_init(&t, slots, CAP_SLOTS_MAX, 5), 0);
	for (uint32_t i = 0; i < 100000; i++) {
		int32_t n = cap_insert(&t, 1, 1, i, "churn");

		assert_true(n > 0);
		assert_int_equal(cap_drop(&t, n, NULL), 0);
	}
	assert_true(t.nfresh <= CAP_REUSE_MIN + 1);
	assert_true(is_zero(slots + t.nfresh, CAP_SLOTS_MAX - t.nfresh));
	for (uint32_t i = 0; i < CAP_SLOTS_MAX; i++) {
		(void)snprintf(name, sizeof(name), "s%u", i);
		int32_t n = cap_insert(&t, 1, FIRN_RIGHT_ALL, i, name);

		assert_true(n > 0);
		if (i < 64)
			first[i] = n;
	}
	assert_int_equal(cap_insert(&t, 1, 1, 1, "more"), -ST_NOSPC);
	for (uint32_t i = 0; i < CAP_SLOTS_MAX; i++) {
		(void)snprintf(name, sizeof(name), "s%u", i);
		assert_int_equal(cap_find(&t, name), cap_find_object(&t, i, 1));
		assert_true(cap_find(&t, name) > 0);
	}
	for (uint32_t i = 0; i < 64; i++)
		assert_int_equal(cap_find_object(&t, i, 1), first[i]);
	free(slots);
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
	    cmocka_unit_test_setup_teardown(test_find_object, setup, teardown),
	    cmocka_unit_test(test_model),
	    cmocka_unit_test(test_large),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
