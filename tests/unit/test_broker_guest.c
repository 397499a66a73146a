/* SPDX-License-Identifier: MIT */
/*
 * What a guest asks, through its monitor: what it must not, exactly what
 * changed, and all of it under a broker of which one call fails, each in turn.
 */
#include "tests/unit/broker_world.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* What a compromised monitor can send for its guest. */
static void hostile_calls(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct wire_gcap cap = {.cap = UINT32_MAX, .rights = UINT32_MAX};
	struct wire_gdiff d = {.max = UINT32_MAX};
	struct wire_gmap m = {.mode = 77};
	struct wire_segment s = {.size = 1ULL << 63};
	struct wire_gfreeze z = {.id = 0};

	for (uint16_t t = WIRE_G_FREEZE; t < WIRE_TYPE_END; t++)
		if (t != WIRE_RELAY && t != WIRE_G_CLOSED) /* no question */
			assert_true(guest_asks(x, f, t, "x", 1) < 0);
	assert_int_equal(
	    guest_asks(x, f, WIRE_G_DERIVE, &cap, sizeof(cap)), -EBADF);
	assert_int_equal(
	    guest_asks(x, f, WIRE_G_DROP, &cap, sizeof(cap)), -EBADF);
	assert_true(guest_asks(x, f, WIRE_G_DIFF, &d, sizeof(d)) < 0);
	assert_true(guest_asks(x, f, WIRE_G_MAP, &m, sizeof(m)) < 0);
	memset(s.name, 'a', 3);
	assert_int_equal(
	    guest_asks(x, f, WIRE_G_SEGMENT, &s, sizeof(s)), -ENOSPC);
	s.flags = FIRN_SEG_VIEW_COW;
	s.size = PAGE_SIZE;
	assert_int_equal(
	    guest_asks(x, f, WIRE_G_SEGMENT, &s, sizeof(s)), -EINVAL);
	s.flags = 0;
	s.size = UINT64_MAX - PAGE_SIZE + 1;
	assert_int_equal(
	    guest_asks(x, f, WIRE_G_SEGMENT, &s, sizeof(s)), -ENOSPC);
	memset(z.name, 0xff, sizeof(z.name));
	assert_true(guest_asks(x, f, WIRE_G_FREEZE, &z, sizeof(z)) < 0);
	memset(z.name, 0, sizeof(z.name));
	guest_writes(f, 0, 9, 3);
	assert_true(guest_asks(x, f, WIRE_G_FREEZE, &z, sizeof(z)) > 0);
	assert_int_equal(f->nkills, 0);
	/* A segment whose name would not go through JSON. */
	s.size = PAGE_SIZE;
	assert_int_equal(guest_asks(x, f, WIRE_G_SEGMENT, &s, sizeof(s)), 0);
	memset(s.name, 0xfe, sizeof(s.name));
	s.id = 5;
	say(f, WIRE_SEG_MADE, 0, 0, &s, sizeof(s), NULL, 0);
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
	assert_int_equal(f->nkills, 1);
	nothing_left(x);
}

/* It opens without end, and closes what it has not. */
static void hostile_opens(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	const char name[FIRN_NAME_MAX] = "o";
	struct wire_gfreeze z = {.name = "o"};
	struct wire_closed w = {0};
	int64_t rc = 0;
	uint32_t n;

	guest_writes(f, 0, 9, 3);
	assert_true(guest_asks(x, f, WIRE_G_FREEZE, &z, sizeof(z)) > 0);
	for (n = 0; rc == 0 && n < 1000; n++)
		rc = guest_asks(x, f, WIRE_G_OPEN, name, sizeof(name));
	assert_int_equal(rc, -EMFILE);
	assert_int_equal(n, 129);
	say(f, WIRE_G_CLOSED, 0, 0, &w, sizeof(w), NULL, 0);
	w.id = n;
	say(f, WIRE_G_CLOSED, 0, 0, &w, sizeof(w), NULL, 0);
	assert_int_equal(
	    guest_asks(x, f, WIRE_G_OPEN, name, sizeof(name)), -EMFILE);
	w.id = 1;
	for (int i = 0; i < 2; i++)
		say(f, WIRE_G_CLOSED, 0, 0, &w, sizeof(w), NULL, 0);
	assert_int_equal(guest_asks(x, f, WIRE_G_OPEN, name, sizeof(name)), 0);
	assert_int_equal(
	    guest_asks(x, f, WIRE_G_OPEN, name, sizeof(name)), -EMFILE);
	assert_int_equal(f->nkills, 0);
	end_vm(x, f);
	nothing_left(x);
}

/* What it freezes under a name is its owner's as VM/NAME: by all of the name,
 * or not at all. */
static void long_names(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	const size_t room = FIRN_NAME_MAX - 1 - strlen("v/");
	struct wire_gfreeze z = {.id = 0};
	char full[2 * FIRN_NAME_MAX];

	memset(z.name, 'n', room);
	guest_writes(f, 0, 9, 3);
	assert_true(guest_asks(x, f, WIRE_G_FREEZE, &z, sizeof(z)) > 0);
	(void)snprintf(full, sizeof(full), "v/%s", z.name);
	must_do(x, "snapshot.show", json_pack("{s:s}", "snapshot", full));
	memset(z.name, 'm', room + 1);
	assert_true(guest_asks(x, f, WIRE_G_FREEZE, &z, sizeof(z)) > 0);
	assert_int_equal(stat_of(x, "snapshots"), 2);
	full[strlen("v/")] = '\0';
	for (size_t n = 0; n < room; n++) {
		(void)strcat(full, "m");
		must_fail(
		    x, "snapshot.show", json_pack("{s:s}", "snapshot", full));
	}
	end_vm(x, f);
	nothing_left(x);
}

/* The pages that its guest's exact query names, of which it has room for (max)
 * extents; or -errno. */
static int64_t guest_exact_max(struct world *x, struct fake *f,
    const char *cursor, uint32_t flags, uint32_t max)
{
	struct wire_gdirty g = {.flags = flags, .max = max};
	int64_t rc;

	(void)snprintf(g.cursor, sizeof(g.cursor), "%s", cursor);
	rc = guest_asks(x, f, WIRE_G_DIRTY, &g, sizeof(g));
	return rc < 0 ? rc : (int64_t)f->last_pages.pages;
}

static int64_t guest_exact(
    struct world *x, struct fake *f, const char *cursor, uint32_t flags)
{
	return guest_exact_max(x, f, cursor, flags, NPAGES);
}

static json_int_t client_exact(struct world *x)
{
	json_t *m = call(x, "dirty.query",
	    json_pack("{s:s,s:s,s:b}", "vm", "v", "cursor", "c", "exact", 1));
	json_int_t n = -1;

	assert_true(good(m));
	n = json_integer_value(
	    json_object_get(json_object_get(m, "result"), "pages"));
	json_decref(m);
	return n;
}

/* No such place, flags, room or name; and more cursors than there may be. */
static void exact_refused(struct world *x, struct fake *f)
{
	struct wire_gdirty g = {.id = 77, .flags = FIRN_EXACT, .cursor = "c"};

	assert_int_equal(
	    guest_asks(x, f, WIRE_G_DIRTY, &g, sizeof(g)), -ENOENT);
	g.id = 0;
	g.flags = 4;
	assert_int_equal(
	    guest_asks(x, f, WIRE_G_DIRTY, &g, sizeof(g)), -EINVAL);
	g.flags = FIRN_EXACT;
	g.max = FIRN_EXTENTS_MAX + 1;
	assert_int_equal(
	    guest_asks(x, f, WIRE_G_DIRTY, &g, sizeof(g)), -EINVAL);
	g.max = 0;
	memset(g.cursor, 0xff, sizeof(g.cursor));
	assert_int_equal(
	    guest_asks(x, f, WIRE_G_DIRTY, &g, sizeof(g)), -EINVAL);
	assert_int_equal(guest_exact(x, f, "", FIRN_EXACT), -EINVAL);
	for (int i = 1; i < 8; i++) {
		char name[] = {'n', (char)('0' + i), '\0'};

		assert_int_equal(guest_exact(x, f, name, FIRN_EXACT), 0);
	}
	assert_int_equal(guest_exact(x, f, "n8", FIRN_EXACT), -ENOSPC);
}

static void exact_of_guests(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");

	guest_writes(f, 0, 1, 1000);
	assert_int_equal(guest_exact(x, f, "c", 0), -ENOENT);
	assert_int_equal(guest_exact(x, f, "c", FIRN_EXACT), 0);
	assert_int_equal(client_exact(x), 0);
	guest_writes(f, 0, 1, 1000); /* as they were */
	assert_int_equal(guest_exact(x, f, "c", FIRN_EXACT), 0);
	guest_writes(f, 0, 8, 2000);
	guest_writes(f, 4, 8, 1000); /* as they were */
	assert_int_equal(
	    guest_exact(x, f, "c", FIRN_EXACT | FIRN_PEEK), NPAGES / 8);
	/* It passes as many as there is room for. */
	for (uint32_t max = 0; max < 3; max++) {
		assert_int_equal(guest_exact_max(x, f, "c", FIRN_EXACT, max),
		    NPAGES / 8 - max * (max - 1) / 2);
		assert_int_equal(f->last_pages.nextents, f->last_pages.pages);
		assert_int_equal(f->last_nsent, max);
	}
	guest_writes(f, 16, NPAGES, 2001); /* passed already: told again */
	/* One that began exact answers so always; and now it has passed. */
	assert_int_equal(guest_exact(x, f, "c", 0), NPAGES / 8 - 2);
	assert_int_equal(guest_exact(x, f, "c", FIRN_EXACT), 0);
	/* The client's of that name is another. */
	assert_int_equal(client_exact(x), NPAGES / 8);
	/* Refusals leave it where it was. */
	guest_writes(f, 3, 8, 3000);
	exact_refused(x, f);
	assert_int_equal(guest_exact(x, f, "c", FIRN_EXACT), NPAGES / 8);
	f->how = WILD_STATUS;
	guest_writes(f, 5, 8, 4000);
	assert_true(guest_exact(x, f, "c", FIRN_EXACT) < 0);
	f->how = HONEST;
	guest_writes(f, 6, 8, 5000);
	assert_true(guest_exact(x, f, "c", FIRN_EXACT) >= NPAGES / 8);
	end_vm(x, f);
	nothing_left(x);
}

/* --- one call fails ------------------------------------------------------- */

#define STRIDE 48 /* later calls are the nodes of a page map, all alike */

static uint32_t frozen(struct world *x, struct fake *f, const char *name)
{
	struct wire_gfreeze z = {.id = 0};
	int64_t cap;

	strcpy(z.name, name);
	cap = guest_asks(x, f, WIRE_G_FREEZE, &z, sizeof(z));
	assert_true(cap > 0);
	return (uint32_t)cap;
}

/* Capabilities of the guest: "a" and "b" of its RAM, half of which differs. */
struct caps {
	uint32_t a, b;
};

static const uint16_t types[] = {WIRE_G_FREEZE, WIRE_G_SEVER, WIRE_G_MAP,
    WIRE_G_LOOKUP, WIRE_G_DESCRIBE, WIRE_G_DIFF, WIRE_G_DERIVE, WIRE_G_DROP,
    WIRE_G_OPEN, WIRE_G_SEGMENT, WIRE_G_MELD, WIRE_G_ADOPT};

static int64_t ask_one(
    struct world *x, struct fake *f, uint16_t type, const struct caps *c)
{
	struct wire_gfreeze z = {.id = 0};
	struct wire_gmap m = {.cap = c->b, .mode = FIRN_MAP_COW};
	struct wire_gcap g = {.cap = c->b, .rights = FIRN_RIGHT_ALL};
	struct wire_gdiff d = {.a = c->a, .b = c->b, .max = 100};
	struct wire_segment s = {.size = PAGE_SIZE, .name = "new"};
	struct wire_gmeld w = {.m = {.base = c->a,
				   .a = c->a,
				   .b = c->b,
				   .flags = FIRN_BLIND,
				   .max = 10}};
	char name[FIRN_NAME_MAX] = "b";

	switch (type) {
	case WIRE_G_FREEZE:
	case WIRE_G_SEVER:
		return guest_asks(x, f, type, &z, sizeof(z));
	case WIRE_G_MAP:
		return guest_asks(x, f, type, &m, sizeof(m));
	case WIRE_G_ADOPT:
		m.mode = 0;
		return guest_asks(x, f, type, &m, sizeof(m));
	case WIRE_G_LOOKUP:
	case WIRE_G_OPEN:
		return guest_asks(x, f, type, name, sizeof(name));
	case WIRE_G_DIFF:
		return guest_asks(x, f, type, &d, sizeof(d));
	case WIRE_G_SEGMENT:
		return guest_asks(x, f, type, &s, sizeof(s));
	case WIRE_G_MELD:
		return guest_asks(x, f, type, &w, sizeof(w));
	default:
		return guest_asks(x, f, type, &g, sizeof(g));
	}
}

static bool try_failing(struct world *x, uint16_t type, int n)
{
	struct fake *f = launch_vm(x, 0, "v");
	struct caps c;
	int64_t rc;
	bool fired;

	guest_writes(f, 0, 1, 1000);
	c.a = frozen(x, f, "a");
	guest_writes(f, 1, 2, 5000);
	c.b = frozen(x, f, "b");
	guest_writes(f, 2, 4, 9000);
	arm(n);
	rc = ask_one(x, f, type, &c);
	fired = disarm();
	if (rc < 0) {
		assert_true(fired);
		assert_true(rc == -ENOMEM || rc == -EMFILE);
		rc = ask_one(x, f, type, &c);
	}
	if (rc < 0)
		fail_msg("type %u, failure %d: then %d", type, n, (int)rc);
	assert_int_equal(f->nkills, 0);
	end_vm(x, f);
	nothing_left(x);
	return fired;
}

/* The guest is told, may ask again and gets it, and nothing is left. */
static void one_call_fails(void **state)
{
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		int n = 1;

		while (try_failing(*state, types[i], n))
			n += 1 + n / STRIDE;
		print_message("type %u: to call %d\n", types[i], n - 1);
	}
}

/* Where no errand is over at once. */
#define TA(f) cmocka_unit_test_setup_teardown(f, setup_away, teardown)
/* --- an answer that cannot be sent yet, nor kept ---------------------------
 */

/* So many that its monitor does not read are more than its socket holds, and
 * fewer than wait besides. */
static void be_deaf(struct world *x, struct fake *f)
{
	f->used = false;
	for (int i = 0; i < 300; i++) {
		say(f, WIRE_G_LOOKUP, 9, 0, "", 1, NULL, 0);
		pump(x);
	}
}

/* A guest gets an error where there is no room for the descriptor of its new
 * segment, and nothing stays reserved. */
static void no_room_for_segment(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct wire_segment w = {.size = PAGE_SIZE, .name = "more"};
	struct wire_place none = {.id = UINT32_MAX};
	json_int_t before = stat_of(x, "reserved_bytes");
	bool fired = true;

	for (int n = 1; fired; n++) {
		uint32_t was = f->nreplies;

		be_deaf(x, f);
		say(f, WIRE_G_SEGMENT, 9, 0, &w, sizeof(w), NULL, 0);
		arm(n);
		for (int i = 0; i < 5; i++)
			pump(x);
		fired = disarm();
		f->used = true;
		while (f->nreplies != was + 301 && f->nkills == 0)
			pump(x);
		assert_int_equal(f->nkills, 0);
		if (f->last_status == 0)
			say(f, WIRE_SEG_GONE, 0, 0, &none, sizeof(none), NULL,
			    0);
		assert_int_equal(stat_of(x, "reserved_bytes"), before);
	}
	end_vm(x, f);
	nothing_left(x);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(hostile_calls),
	    T(hostile_opens),
	    T(long_names),
	    T(exact_of_guests),
	    T(one_call_fails),
	    TA(hostile_calls),
	    TA(hostile_opens),
	    TA(exact_of_guests),
	    TA(one_call_fails),
	    T(no_room_for_segment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
