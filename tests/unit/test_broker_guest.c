/* SPDX-License-Identifier: MIT */
/* wrap: malloc calloc realloc fcntl memfd_create json_loadb */

/* wrap: socketpair posix_spawn */
/*
 * What a guest asks, under a broker of which one call fails, each in turn: the
 * guest is told, may ask again and gets it, and nothing is left in the end.
 */
#include "tests/unit/broker_world.h"

#include <errno.h>
#include <string.h>

#define STRIDE 48 /* later calls are the nodes of a page map, all alike */

/* The status of the answer. */
static int64_t ask(struct world *x, struct fake *f, uint16_t type,
    const void *payload, uint32_t len)
{
	uint32_t before = f->nreplies;
	uint64_t end = now() + PATIENCE_NS;

	say(f, type, 9, 0, payload, len, NULL, 0);
	while (f->nreplies == before && now() < end)
		pump(x);
	assert_int_equal(f->nreplies, before + 1);
	return f->last_status;
}

static uint32_t frozen(struct world *x, struct fake *f, const char *name)
{
	struct wire_gfreeze z = {.id = 0};
	int64_t cap;

	strcpy(z.name, name);
	cap = ask(x, f, WIRE_G_FREEZE, &z, sizeof(z));
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
		return ask(x, f, type, &z, sizeof(z));
	case WIRE_G_MAP:
		return ask(x, f, type, &m, sizeof(m));
	case WIRE_G_ADOPT:
		m.mode = 0;
		return ask(x, f, type, &m, sizeof(m));
	case WIRE_G_LOOKUP:
	case WIRE_G_OPEN:
		return ask(x, f, type, name, sizeof(name));
	case WIRE_G_DIFF:
		return ask(x, f, type, &d, sizeof(d));
	case WIRE_G_SEGMENT:
		return ask(x, f, type, &s, sizeof(s));
	case WIRE_G_MELD:
		return ask(x, f, type, &w, sizeof(w));
	default:
		return ask(x, f, type, &g, sizeof(g));
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
	atomic_store(&hook.left, n);
	atomic_store(&hook.fired, false);
	atomic_store(&hook.armed, true);
	rc = ask_one(x, f, type, &c);
	atomic_store(&hook.armed, false);
	fired = atomic_load(&hook.fired);
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

static void one_call_fails(void **state)
{
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		int n = 1;

		while (try_failing(*state, types[i], n))
			n += 1 + n / STRIDE;
		print_message("type %u: to call %d\n", types[i], n - 1);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(one_call_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
