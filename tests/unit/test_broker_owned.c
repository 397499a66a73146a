/* SPDX-License-Identifier: MIT */
/* What one holder alone has changes hands, and is lost by no failure. */
#include "tests/unit/broker_world.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shared/cap/cap.h"

/* (f) has memory that a sever gives owned, with something in it: (was). */
static void lend_written(
    struct world *x, struct fake *f, uint64_t was[static NPAGES])
{
	lend_memory(x, f);
	guest_writes(f, 0, 1, 77);
	memcpy(was, f->truth, sizeof(f->truth));
}

static void owned_changes_hands(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *g = launch_vm(x, 1, "w");
	uint64_t was[NPAGES];
	uint32_t fds = 0;

	lend_written(x, f, was);
	must_do(x, "segment.sever", freeze_params(f, "s"));
	assert_true(is_owned(x, "s"));
	must_fail(x, "snapshot.open", json_pack("{s:s}", "snapshot", "s"));
	must_fail(x, "snapshot.meld", meld_params("s", "s", "s"));
	must_do(x, "vm.give", hand_params(g, "s"));
	must_fail(x, "view.adopt", hand_params(g, "s"));
	must_fail(x, "snapshot.show", json_pack("{s:s}", "snapshot", "s"));
	must_do(x, "vm.take", hand_params(g, "s"));
	must_fail(x, "vm.take", hand_params(g, "s"));
	for (int i = 0; i < 1000; i++) {
		struct fake *to = i % 2 == 0 ? g : f;

		must_do(x, "view.adopt", hand_params(to, "s"));
		must_fail(
		    x, "snapshot.show", json_pack("{s:s}", "snapshot", "s"));
		assert_memory_equal(to->truth, was, sizeof(was));
		to->truth[i] = was[i] = 5;
		must_do(x, "segment.sever", place_params(to, "s"));
		must_do(x, "view.unmap", place_params(to, NULL));
		if (i == 10)
			fds = settled_fds(x, UINT32_MAX);
	}
	assert_true(settled_fds(x, fds) <= fds);
	assert_true(is_owned(x, "s"));
	must_do(x, "view.map", hand_params(f, "s"));
	assert_memory_equal(f->mapped, was, sizeof(was));
	assert_false(is_owned(x, "s"));
	shows(x, "s", was);
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

/* A name that is too long is refused, not made shorter. */
static void handed_by_long_names(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	char name[FIRN_NAME_MAX + 1] = "";

	must_do(x, "segment.freeze", freeze_params(f, "s"));
	memset(name, 'n', FIRN_NAME_MAX);
	must_fail(x, "vm.give",
	    json_pack(
		"{s:s,s:s,s:s}", "vm", "v", "snapshot", "s", "name", name));
	name[FIRN_NAME_MAX - 1] = '\0';
	must_fail(
	    x, "vm.take", json_pack("{s:s,s:s}", "vm", "v", "snapshot", name));
	must_do(x, "vm.give",
	    json_pack(
		"{s:s,s:s,s:s}", "vm", "v", "snapshot", "s", "name", name));
	must_do(
	    x, "vm.take", json_pack("{s:s,s:s}", "vm", "v", "snapshot", name));
	end_vm(x, f);
	nothing_left(x);
}

/* Nothing of it is dead. */
static void owned_is_live(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	json_t *r;

	lend_memory(x, f);
	guest_writes(f, 0, 1, 77);
	must_do(x, "segment.sever", freeze_params(f, "s"));
	r = must(x, "service.stats", json_pack("{s:b}", "exact", 1));
	assert_int_equal(json_integer_value(json_object_get(r, "live_bytes")),
	    NPAGES * PAGE_SIZE);
	assert_int_equal(
	    json_integer_value(json_object_get(r, "dead_bytes")), 0);
	json_decref(r);
	end_vm(x, f);
	drop_all(x);
	nothing_left(x);
}

/* What is kept comes to light, and nothing is lost by it. */
static void kept_memory(void **state)
{
	struct world *x = *state;
	struct fake *g = launch_vm(x, 1, "w");
	uint64_t was[NPAGES];

	for (enum how how = KEEPS_FD; how <= KEEPS_MAPPING; how++) {
		struct fake *f = launch_vm(x, 0, "v");

		lend_written(x, f, was);
		f->how = how;
		must_fail(x, "segment.sever", freeze_params(f, "s"));
		must_fail(x, "segment.sever", freeze_params(f, "s"));
		must_fail(x, "segment.freeze", freeze_params(f, "s"));
		assert_int_equal(f->nkills, 0);
		release(f);
		must_do(x, "segment.sever", freeze_params(f, "s"));
		assert_true(is_owned(x, "s"));
		must_do(x, "view.adopt", hand_params(g, "s"));
		assert_memory_equal(g->truth, was, sizeof(was));
		end_vm(x, f);
	}
	end_vm(x, g);
	nothing_left(x);
}

static void hostile_owners(void **state)
{
	struct world *x = *state;
	struct fake *g = launch_vm(x, 1, "bystander");

	for (enum how how = OWNED_SEALED; how <= OWNED_NOTHING; how++) {
		struct fake *f = launch_vm(x, 0, "v");

		lend_memory(x, f);
		guest_writes(f, 0, 1, 77);
		f->how = how;
		must_fail(x, "segment.sever", freeze_params(f, "s"));
		must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
		assert_int_equal(f->nkills, 1);
		others_live(x, g);
	}
	end_vm(x, g);
	nothing_left(x);
}

/* An adoption that fails leaves the capability as it was. */
static void refused_adoptions(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *g = launch_vm(x, 1, "w");
	uint64_t was[NPAGES];

	lend_written(x, f, was);
	must_do(x, "segment.sever", freeze_params(f, "s"));
	g->how = REFUSES_OWN;
	must_fail(x, "view.adopt", hand_params(g, "s"));
	assert_true(is_owned(x, "s"));
	g->how = REFUSES_AND_KEEPS;
	must_fail(x, "view.adopt", hand_params(g, "s"));
	assert_false(is_owned(x, "s"));
	must_fail(x, "view.adopt", hand_params(f, "s"));
	must_fail(x, "view.map", hand_params(f, "s"));
	must_fail(x, "vm.give", hand_params(f, "s"));
	release(g);
	assert_true(is_owned(x, "s"));
	for (enum how how = DIES; how <= GARBAGE; how++) {
		g->how = how;
		must_fail(x, "view.adopt", hand_params(g, "s"));
		assert_true(is_owned(x, "s"));
		json_decref(call(x, "vm.kill", json_pack("{s:s}", "vm", "w")));
		must_do(x, "vm.wait", json_pack("{s:s}", "vm", "w"));
		g = launch_vm(x, 1, "w");
	}
	must_do(x, "view.adopt", hand_params(g, "s"));
	assert_memory_equal(g->truth, was, sizeof(was));
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

static bool severs_and_dies(struct fake *f)
{
	if (f->p.m.type != WIRE_SEVER)
		return false;
	answer_freeze(f);
	f->how = DIES;
	return true;
}

/* Nor by the end of the VM right behind its answer. */
static void end_behind_sever(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *g = launch_vm(x, 1, "w");
	uint64_t was[NPAGES];

	lend_written(x, f, was);
	f->answers = severs_and_dies;
	must_do(x, "segment.sever", freeze_params(f, "s"));
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
	assert_true(is_owned(x, "s"));
	must_do(x, "view.adopt", hand_params(g, "s"));
	assert_memory_equal(g->truth, was, sizeof(was));
	end_vm(x, g);
	nothing_left(x);
}

static bool severs_and_unmaps(struct fake *f)
{
	struct wire_place w = {.id = f->next_id - 1};

	if (f->p.m.type != WIRE_SEVER)
		return false;
	answer_freeze(f);
	say(f, WIRE_SEG_GONE, 0, 0, &w, sizeof(w), NULL, 0);
	f->answers = NULL;
	return true;
}

/* Nor where its guest unmaps what is left of it. */
static void unmap_behind_sever(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	json_int_t before = stat_of(x, "reserved_bytes");
	uint64_t was[NPAGES];

	lend_written(x, f, was);
	must_do(x, "segment.sever", freeze_params(f, "s"));
	for (int i = 0; i < 3; i++) {
		must_do(x, "view.adopt", hand_params(f, "s"));
		f->answers = severs_and_unmaps;
		must_do(x, "segment.sever", place_params(f, "s"));
		assert_true(is_owned(x, "s"));
		must_fail(x, "segment.freeze", place_params(f, NULL));
	}
	assert_int_equal(stat_of(x, "reserved_bytes"), before);
	must_do(x, "view.adopt", hand_params(f, "s"));
	assert_memory_equal(f->truth, was, sizeof(was));
	end_vm(x, f);
	nothing_left(x);
}

/* Nor does that end the VM where it has as many places as it may, and what is
 * mapped comes in place of the one whose memory is still to be given up. */
static void unmap_and_map_behind_sever(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	uint64_t was[NPAGES];

	lend_written(x, f, was);
	must_do(x, "segment.sever", freeze_params(f, "s"));
	must_do(x, "segment.freeze", freeze_params(f, "t"));
	for (unsigned i = 2; i < WIRE_SEGMENTS_MAX; i++)
		must_do(x, "view.map", hand_params(f, "t"));
	must_do(x, "view.adopt", hand_params(f, "s"));
	f->answers = severs_and_unmaps;
	request(x, "segment.sever", place_params(f, "s"), NULL, 0);
	request(x, "view.map", hand_params(f, "t"), NULL, 0);
	for (int i = 0; i < 2; i++) {
		json_t *m = answer(x);

		if (!good(m))
			fail_msg("%s", why(m));
		json_decref(m);
	}
	assert_int_equal(f->nkills, 0);
	assert_true(is_owned(x, "s"));
	must_do(x, "view.unmap", place_params(f, NULL));
	must_do(x, "view.adopt", hand_params(f, "s"));
	assert_memory_equal(f->truth, was, sizeof(was));
	end_vm(x, f);
	nothing_left(x);
}

/* --- who gives up what it sent only when it is asked for more --------------
 */

static struct late {
	uint32_t seq; /* of that request, until it is answered */
	int lost;     /* what a sever took whose answer was lost; or -1 */
} late;

/* It holds on to what it sends until the next request but one has come. */
static bool gives_up_last(struct fake *f)
{
	const struct wire_stats stats = {0};

	if (f->p.m.type == WIRE_SEVER) {
		f->how = KEEPS_FD;
		answer_freeze(f);
		f->how = HONEST;
		return true;
	}
	if (f->p.m.type == WIRE_STATS && f->kept >= 0) {
		late.seq = f->p.m.seq;
		return true;
	}
	if (f->p.m.type == WIRE_FREEZE) {
		release(f);
		say(f, WIRE_STATS | WIRE_REPLY, late.seq, 0, &stats,
		    sizeof(stats), NULL, 0);
	}
	return false;
}

/* A freeze that is asked for meanwhile comes behind it, and does not fail. */
static void freeze_behind_sever(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	uint64_t end = now() + PATIENCE_NS;
	uint64_t was[NPAGES];

	lend_written(x, f, was);
	late = (struct late){.lost = -1};
	f->answers = gives_up_last;
	request(x, "segment.sever", freeze_params(f, "s"), NULL, 0);
	while (late.seq == 0 && now() < end)
		pump(x);
	guest_writes(f, 1, 2, 5000);
	request(x, "segment.freeze", freeze_params(f, "t"), NULL, 0);
	for (int i = 0; i < 2; i++) {
		json_t *m = answer(x);

		if (!good(m))
			fail_msg("%s", why(m));
		json_decref(m);
	}
	f->answers = NULL;
	shows(x, "t", f->truth);
	assert_true(is_owned(x, "s"));
	must_do(x, "view.adopt", hand_params(f, "s"));
	assert_memory_equal(f->truth, was, sizeof(was));
	end_vm(x, f);
	nothing_left(x);
}

/* What was severed, owned, and what was frozen since. */
static void tell_lost(struct fake *f)
{
	const struct page_run r = {.npages = NPAGES};
	struct wire_frozen w = {.npages = NPAGES, .nsteps = 2};
	int fds[4] = {wire_blob("runs", &r, sizeof(r)), late.lost,
	    wire_blob("runs", &r, sizeof(r)), new_layer(NPAGES)};

	for (uint32_t i = 0; i < 2; i++)
		w.step[i] = (struct wire_step){.nruns = 1,
		    .layer_npages = NPAGES,
		    .has_layer = 1,
		    .first = 1,
		    .severed = i == 0,
		    .owned = i == 0};
	for (uint32_t k = 0; k < NPAGES; k++)
		put_page(fds[3], k, f->truth[k]);
	assert_int_equal(seal(fds[3]), 0);
	f->kept = __real_fcntl(late.lost, F_DUPFD_CLOEXEC, 3L);
	reply(f, 0, &w, sizeof(w), fds, 4);
	for (uint32_t i = 0; i < 4; i++)
		(void)close(fds[i]);
	late.lost = -1;
	f->first = false;
	memset(f->dirty, 0, sizeof(f->dirty));
}

static bool loses_and_tells(struct fake *f)
{
	if (f->p.m.type == WIRE_SEVER && late.lost < 0) {
		late.lost = f->memory;
		for (uint32_t i = 0; i < NPAGES; i++)
			put_page(f->memory, i, f->truth[i]);
		f->memory = wire_take_fd(&f->p, 0);
		memset(f->truth, 0, sizeof(f->truth));
		memset(f->dirty, 0, sizeof(f->dirty));
		reply(f, -ETOOMANYREFS, "it was lost", 11, NULL, 0);
		return true;
	}
	if (f->p.m.type == WIRE_STATS)
		release(f);
	if (f->p.m.type != WIRE_FREEZE || late.lost < 0)
		return false;
	tell_lost(f);
	return true;
}

/* So is what comes with the answer to a freeze, as that to the sever was lost.
 */
static void freeze_tells_severed(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	uint64_t was[NPAGES];

	lend_written(x, f, was);
	late = (struct late){.lost = -1};
	f->answers = loses_and_tells;
	must_fail(x, "segment.sever", freeze_params(f, "s"));
	guest_writes(f, 0, 1, 5000);
	must_do(x, "segment.freeze", freeze_params(f, "t"));
	shows(x, "t", f->truth);
	must_do(x, "segment.sever", freeze_params(f, "s"));
	assert_true(is_owned(x, "s"));
	f->answers = NULL;
	must_do(x, "view.adopt", hand_params(f, "s"));
	assert_memory_equal(f->truth, was, sizeof(was));
	end_vm(x, f);
	nothing_left(x);
}

/* --- the number of a capability comes again ------------------------------- */

#define SLOT_OF(cap) ((cap) & ((1 << CAP_SLOT_BITS) - 1))
#define GEN_OF(cap)  ((cap) >> CAP_SLOT_BITS)

static int64_t named(struct world *x, struct fake *f, const char *name)
{
	char text[FIRN_NAME_MAX] = "";

	(void)snprintf(text, sizeof(text), "%s", name);
	return guest_asks(x, f, WIRE_G_LOOKUP, text, sizeof(text));
}

static int64_t derive(struct world *x, struct fake *f, int64_t cap)
{
	struct wire_gcap g = {.cap = (uint32_t)cap, .rights = FIRN_RIGHT_ALL};

	return guest_asks(x, f, WIRE_G_DERIVE, &g, sizeof(g));
}

static int64_t drop(struct world *x, struct fake *f, int64_t cap)
{
	struct wire_gcap g = {.cap = (uint32_t)cap};

	return guest_asks(x, f, WIRE_G_DROP, &g, sizeof(g));
}

static int64_t next_of(int64_t cap)
{
	return GEN_OF(cap) == CAP_GEN_MAX ? SLOT_OF(cap) + (1 << CAP_SLOT_BITS)
					  : cap + (1 << CAP_SLOT_BITS);
}

/* Use the one free slot, which (last) had, (n) times for copies of (from). Many
 * are asked for at a time, as their numbers are known. */
static void wear_out(
    struct world *x, struct fake *f, int64_t from, int64_t last, uint32_t n)
{
	struct wire_gcap g = {.cap = (uint32_t)from, .rights = FIRN_RIGHT_ALL};

	while (n > 0) {
		uint32_t k = n < 16 ? n : 16;
		uint32_t all = f->nreplies + 2 * k;

		for (n -= k; k > 0; k--) {
			struct wire_gcap d = {
			    .cap = (uint32_t)(last = next_of(last))};

			say(f, WIRE_G_DERIVE, 9, 0, &g, sizeof(g), NULL, 0);
			say(f, WIRE_G_DROP, 9, 0, &d, sizeof(d), NULL, 0);
		}
		while (f->nreplies != all)
			pump(x);
		assert_int_equal(f->last_status, 0);
	}
}

/* While a capability is sealed, to be derived from, its guest has its number
 * become that of something else that is owned: that stays the only one. */
static void number_comes_again(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct wire_gcap g = {.rights = FIRN_RIGHT_ALL};
	uint32_t before;
	int64_t sealed;
	int64_t spare = 0;
	int64_t cap;

	lend_memory(x, f);
	must_do(x, "segment.sever", freeze_params(f, "a"));
	must_do(x, "segment.sever", freeze_params(f, "b"));
	must_do(x, "segment.freeze", freeze_params(f, "c"));
	must_do(x, "vm.give", hand_params(f, "a"));
	must_do(x, "vm.give", hand_params(f, "c"));
	sealed = named(x, f, "c");
	cap = named(x, f, "a");
	for (int64_t more; (more = derive(x, f, sealed)) > 0;)
		spare = more;
	assert_int_equal(f->last_status, -ENOSPC);
	atomic_store(&hook.hold_seals, true);
	g.cap = (uint32_t)cap;
	say(f, WIRE_G_DERIVE, 9, 0, &g, sizeof(g), NULL, 0);
	assert_int_equal(drop(x, f, cap), 0);
	wear_out(x, f, sealed, cap, CAP_GEN_MAX - 1);
	must_do(x, "vm.give", hand_params(f, "b"));
	assert_int_equal(named(x, f, "b"), cap);
	assert_int_equal(drop(x, f, spare), 0);
	before = f->nreplies;
	atomic_store(&hook.hold_seals, false);
	while (f->nreplies == before)
		pump(x);
	assert_int_equal(f->last_status, -EBADF);
	must_do(x, "vm.take", hand_params(f, "b"));
	assert_true(is_owned(x, "b"));
	end_vm(x, f);
	nothing_left(x);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(owned_changes_hands),
	    T(handed_by_long_names),
	    T(owned_is_live),
	    T(kept_memory),
	    T(hostile_owners),
	    T(refused_adoptions),
	    T(end_behind_sever),
	    T(unmap_behind_sever),
	    T(unmap_and_map_behind_sever),
	    T(freeze_behind_sever),
	    T(freeze_tells_severed),
	    T(number_comes_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
