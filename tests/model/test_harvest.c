/* SPDX-License-Identifier: MIT */
/*
 * What is told of a guest that never stands still: every snapshot is of one
 * instant, and no page that was written is missed. FIRN_SEED repeats a run,
 * which prints its seed; FIRN_TEST_SCALE=small shortens it.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/prctl.h>

#include "tests/chance.h"
#include "tests/model/talk.h"
#include "tests/unit/unit.h"

#define PAGE    4096u
#define STAMPED 4096u /* pages, a power of two */

struct stamps {
	struct rig g;
	struct rig_vm vm;
	uint32_t id;
	atomic_bool end;
};

struct client {
	struct stamps *st;
	struct firn *conn;
	const char *cursor; /* or NULL: freezes only */
	int exact;
	uint64_t rng;
	unsigned rounds;
	unsigned missed_none; /* rounds in which there was something to miss */
	char bad[FIRN_ERROR_MAX + 64];
};

static uint64_t word_at(const unsigned char *bytes, uint64_t page, int i)
{
	uint64_t v;

	memcpy(&v, bytes + page * PAGE + i * 8, 8);
	return v;
}

/* The first words of the pages in the order in which they are written; of the
 * clocks' pages, the time in nanoseconds. */
static void stamps_of(const unsigned char *bytes, uint64_t *out)
{
	for (uint64_t i = 0; i < STAMPED; i++) {
		uint64_t page = model_order(i, STAMPED);

		out[i] = word_at(bytes, page, 0);
		if (i % MODEL_CLOCK_EVERY == 0)
			out[i] = out[i] * 1000000000u + word_at(bytes, page, 1);
	}
}

/*
 * At one instant the pass k has got to some page: up to it there is k, from
 * there on k - 1. The monitor's times fall once in the same way, and where they
 * do the vCPU's stamps must fall too, give or take what lies between two
 * clocks.
 */
static const char *check_instant(const uint64_t *s)
{
	uint64_t fall = STAMPED; /* the first page with k - 1 */
	uint64_t tfall = STAMPED;
	const uint64_t every = MODEL_CLOCK_EVERY;
	const uint64_t last_clock = (STAMPED - 1) / every * every;

	for (uint64_t i = 1, last = 1; i < STAMPED; i++) {
		if (i % every == 0)
			continue;
		if (s[i] > s[last])
			return "a later page is newer";
		if (s[i] < s[last]) {
			if (fall != STAMPED || s[i] + 1 != s[last])
				return "pages of three passes";
			fall = i;
		}
		last = i;
	}
	for (uint64_t i = every; i < STAMPED; i += every) {
		if (s[i] >= s[i - every])
			continue;
		if (tfall != STAMPED)
			return "times fall twice";
		tfall = i;
	}
	if (tfall == STAMPED)
		return fall < last_clock ? "stamps fell, but no time" : NULL;
	if (s[0] < s[last_clock])
		return "times rise beyond a pass";
	if (fall == STAMPED) /* only the first clock is of this pass */
		return tfall != every ? "times fell, but no stamp" : NULL;
	return fall > tfall + 1 || fall + every <= tfall
		   ? "times and stamps are of different instants"
		   : NULL;
}

static bool went_bad(struct client *c, const char *what, const char *why)
{
	(void)snprintf(c->bad, sizeof(c->bad), "%s: %s", what, why);
	return false;
}

/* Freeze, and the stamps of the snapshot, which is dropped. */
static bool frozen_stamps(struct client *c, uint64_t *out)
{
	struct firn_freeze_result r;
	struct firn_snapshot *f = NULL;
	struct firn_error e = {0};
	const char *why;
	const void *addr;
	char params[64];

	if (firn_freeze(c->conn, c->st->vm.ref, rig_ref(c->st->id).s, NULL, &r,
		&e) != 0)
		return went_bad(c, "freeze", e.msg);
	if (firn_open_snapshot(c->conn, rig_ref(r.snapshot).s, &f, &e) != 0 ||
	    firn_snapshot_map(f, &addr, &e) != 0) {
		firn_snapshot_close(f);
		return went_bad(c, "open", e.msg);
	}
	stamps_of(addr, out);
	firn_snapshot_close(f);
	(void)snprintf(params, sizeof(params), "{\"snapshot\":\"%llu\"}",
	    (unsigned long long)r.snapshot);
	if (firn_call(c->conn, "snapshot.drop", params, NULL, 0, NULL, &e) != 0)
		return went_bad(c, "drop", e.msg);
	why = check_instant(out);
	return why == NULL || went_bad(c, "a snapshot", why);
}

/* Ask, and look for every page that changed between (a) and (b) meanwhile. */
static bool ask_cursor(struct client *c, const uint64_t *a, const uint64_t *b)
{
	static const char missed[] = "a page that was written is missed";
	struct firn_pageset set;
	struct firn_error e = {0};
	unsigned char in[STAMPED] = {0};
	bool good = true;
	bool changed = false;

	if (firn_dirty(c->conn, c->st->vm.ref, rig_ref(c->st->id).s, c->cursor,
		c->exact, &set, &e) != 0)
		return went_bad(c, "dirty", e.msg);
	for (size_t i = 0; i < set.nranges; i++)
		memset(in + set.ranges[i].first, 1, set.ranges[i].count);
	for (uint64_t i = 0; i < STAMPED && a != NULL; i++) {
		changed = changed || a[i] != b[i];
		if (a[i] != b[i] && !in[model_order(i, STAMPED)])
			good = went_bad(c, c->cursor, missed);
	}
	c->missed_none += changed && set.pages < STAMPED;
	firn_pageset_free(&set);
	return good;
}

static void *client_main(void *arg)
{
	struct client *c = arg;
	uint64_t a[STAMPED];
	uint64_t b[STAMPED];
	bool good = c->cursor == NULL || ask_cursor(c, NULL, NULL);

	for (unsigned i = 0; good && i < c->rounds && !c->st->end; i++) {
		good = frozen_stamps(c, a);
		(void)usleep((useconds_t)chance(&c->rng, 3000));
		good = good && frozen_stamps(c, b) &&
		       (c->cursor == NULL || ask_cursor(c, a, b));
	}
	return NULL;
}

static void stamps_start(struct stamps *st)
{
	struct firn_segment seg;

	rig_start_as(&st->g, true);
	launch_model(&st->g, &st->vm, "model", STAMPED, NULL, &seg);
	st->id = seg.id;
	start_stamps(&st->vm, &seg);
	(void)usleep(100000); /* the first pass is over */
}

static void harvest_beside_guest(unsigned rounds)
{
	static struct stamps st;
	struct client c[3] = {
	    {.cursor = "one"},
	    {.cursor = "two"},
	    {.cursor = NULL},
	};
	struct model_req q = named(MODEL_LOOKUP, "nothing");
	pthread_t thread[3];
	uint64_t seed = chance_begin("harvest_beside_guest");

	stamps_start(&st);
	for (int i = 0; i < 3; i++) {
		c[i].st = &st;
		c[i].conn = rig_client(&st.g);
		c[i].rng = seed + 2 * (unsigned)i;
		c[i].rounds = rounds;
		assert_int_equal(
		    pthread_create(&thread[i], NULL, client_main, &c[i]), 0);
	}
	for (int i = 0; i < 3; i++)
		(void)pthread_join(thread[i], NULL);
	for (int i = 0; i < 3; i++) {
		if (c[i].bad[0] != '\0') {
			print_error("client %d: %s\n", i, c[i].bad);
			rig_tell(&st.g, &st.vm);
			fail();
		}
		firn_close(c[i].conn);
	}
	send_req(&st.vm, &q, NULL);
	print_message("%lld passes; in %u and %u of %u rounds some pages were "
		      "left out\n",
	    (long long)get_ans(&st.vm, NULL, 0), c[0].missed_none,
	    c[1].missed_none, rounds);
	assert_int_equal(get_ans(&st.vm, NULL, 0), -ENOENT);
	rig_end(&st.g, &st.vm);
	rig_stop(&st.g);
}

static void test_harvest_beside_guest(void **state)
{
	(void)state;
	harvest_beside_guest(chance_small() ? 15 : 120);
}

/* The same where the kernel has no 2 MiB pages to give; firnd and its monitors
 * inherit that. */
static void test_harvest_small_pages(void **state)
{
	(void)state;
	assert_int_equal(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
	harvest_beside_guest(15);
	assert_int_equal(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_harvest_beside_guest),
	    cmocka_unit_test(test_harvest_small_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
