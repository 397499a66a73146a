/* SPDX-License-Identifier: MIT */
/* Any sequence of operations on a capability table, held against an array. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "shared/cap/cap.h"
#include "shared/status.h"
#include "tests/fuzz/fuzz.h"

#define SLOTS_MAX 32u

struct entry {
	int32_t num; /* 0: none */
	uint32_t rights;
	uint8_t object;
	char name[2]; /* or "" */
};

struct world {
	struct cap_table t;
	struct cap_slot slot[SLOTS_MAX];
	struct entry e[SLOTS_MAX];
	uint32_t nslots, nused;
};

static struct entry *by_name(struct world *w, const char *name)
{
	for (uint32_t i = 0; i < w->nslots; i++)
		if (w->e[i].num != 0 && name[0] != '\0' &&
		    strcmp(w->e[i].name, name) == 0)
			return &w->e[i];
	return NULL;
}

static void enter(struct world *w, int32_t num, uint32_t rights, uint8_t object,
    const char *name)
{
	struct entry *e;

	FUZZ_CHECK(num > 0 && (uint32_t)num % CAP_SLOTS_MAX < w->nslots);
	e = &w->e[(uint32_t)num % CAP_SLOTS_MAX];
	FUZZ_CHECK(e->num == 0);
	*e = (struct entry){.num = num, .rights = rights, .object = object};
	memcpy(e->name, name, sizeof(e->name));
	w->nused++;
}

static void do_insert(struct world *w, uint8_t a, uint8_t b)
{
	const char name[2] = {(char)(b % 8 == 0 ? 0 : 'a' + b % 8), 0};
	uint32_t rights = a & FIRN_RIGHT_ALL;
	bool taken = by_name(w, name) != NULL;
	int32_t n = cap_insert(&w->t, 1, rights, b / 8, name);

	if (taken)
		FUZZ_CHECK(n == -ST_EXIST);
	else if (w->nused == w->nslots)
		FUZZ_CHECK(n == -ST_NOSPC);
	else
		enter(w, n, rights, b / 8, name);
}

static void do_derive(struct world *w, uint8_t a, uint8_t b)
{
	const struct entry e = w->e[a % w->nslots];
	uint32_t rights = b & FIRN_RIGHT_ALL;
	int32_t n = cap_derive(&w->t, e.num, rights);

	if (e.num == 0)
		FUZZ_CHECK(n == -ST_NOENT);
	else if (!(e.rights & FIRN_RIGHT_DERIVE))
		FUZZ_CHECK(n == -ST_PERM);
	else if (!(e.rights & rights))
		FUZZ_CHECK(n == -ST_INVAL);
	else if (w->nused == w->nslots)
		FUZZ_CHECK(n == -ST_NOSPC);
	else
		enter(w, n, e.rights & rights, e.object, "\0");
}

static void do_drop(struct world *w, uint8_t a)
{
	struct entry *e = &w->e[a % w->nslots];
	struct cap was;

	FUZZ_CHECK((cap_drop(&w->t, e->num, &was) == 0) == (e->num != 0));
	if (e->num == 0)
		return;
	FUZZ_CHECK(was.object == e->object && was.rights == e->rights);
	FUZZ_CHECK(strcmp(was.name, e->name) == 0);
	FUZZ_CHECK(cap_drop(&w->t, e->num, NULL) == -ST_NOENT);
	e->num = 0;
	w->nused--;
}

/* A number that somebody guessed: only those that were given out are good. */
static void do_guess(struct world *w, uint8_t a, uint8_t b)
{
	int64_t num = (int64_t)a << CAP_SLOT_BITS | b;
	const struct cap *c;
	bool good = b < w->nslots && w->e[b].num == num && num != 0;

	FUZZ_CHECK((cap_lookup(&w->t, num, 0, &c) == 0) == good);
}

static void check_found(struct world *w)
{
	for (uint32_t i = 0; i < w->nslots; i++) {
		const struct entry *e = &w->e[i];
		const struct cap *c;

		if (e->num == 0)
			continue;
		if (e->name[0] != '\0')
			FUZZ_CHECK(cap_find(&w->t, e->name) == e->num);
		FUZZ_CHECK(cap_lookup(&w->t,
			       cap_find_object(&w->t, e->object, e->rights),
			       e->rights, &c) == 0);
		FUZZ_CHECK(c->object == e->object);
	}
}

static void check_all(struct world *w)
{
	const struct cap *c;
	uint32_t pos = 0;
	uint32_t n = 0;

	while (cap_next(&w->t, &pos, &c) > 0)
		n++;
	FUZZ_CHECK(n == w->nused && w->t.nused == n);
	check_found(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct world *w = calloc(1, sizeof(*w));

	FUZZ_CHECK(w != NULL);
	w->nslots = len == 0 ? 1 : data[0] % SLOTS_MAX + 1;
	FUZZ_CHECK(cap_table_init(
		       &w->t, w->slot, w->nslots, len < 2 ? 0 : data[1]) == 0);
	for (size_t i = 2; i + 3 <= len; i += 3) {
		uint8_t a = data[i + 1];
		uint8_t b = data[i + 2];

		if (data[i] % 8 < 3)
			do_insert(w, a, b);
		else if (data[i] % 8 == 3)
			do_derive(w, a, b);
		else if (data[i] % 8 < 7)
			do_drop(w, a);
		else
			do_guess(w, a, b);
	}
	check_all(w);
	free(w);
	return 0;
}
