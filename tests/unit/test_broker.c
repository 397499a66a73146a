/* SPDX-License-Identifier: MIT */
/*
 * The broker in this process, with honest monitors that the test plays: what is
 * frozen is shown, told and listed, whoever refuses or goes meanwhile.
 */
#include "tests/unit/broker_world.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void freeze_map_diff(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *g = launch_vm(x, 1, "w");
	uint64_t first[NPAGES];
	json_t *r;

	guest_writes(f, 0, 1, 1000);
	memcpy(first, f->truth, sizeof(first));
	must_do(x, "segment.freeze", freeze_params(f, "s1"));
	guest_writes(f, 1, 2, 900000);
	must_do(x, "segment.freeze", freeze_params(f, "s2"));
	must_do(
	    x, "view.map", json_pack("{s:s,s:s}", "vm", "w", "snapshot", "s2"));
	assert_memory_equal(g->mapped, f->truth, sizeof(first));
	must_do(x, "view.map",
	    json_pack("{s:s,s:s,s:b}", "vm", "w", "snapshot", "s1", "cow", 1));
	assert_memory_equal(g->mapped, first, sizeof(first));
	r = must(
	    x, "snapshot.diff", json_pack("{s:s,s:s}", "a", "s1", "b", "s2"));
	assert_int_equal(
	    json_integer_value(json_object_get(r, "pages")), NPAGES / 2);
	json_decref(r);
	must_do(x, "snapshot.show", json_pack("{s:s}", "snapshot", "s2"));
	shows(x, "s1", first);
	shows(x, "s2", f->truth);
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

/* How the VM ended that is called (name) now. */
static json_int_t end_of(struct world *x, const char *name)
{
	json_t *r = must(x, "vm.wait", json_pack("{s:s}", "vm", name));
	json_int_t status = json_integer_value(json_object_get(r, "status"));

	json_decref(r);
	return status;
}

/* A VM that ended is remembered until another of its name has begun. */
static void remembered_until_replaced(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct wire_exited w = {.status = 7, .reason = WIRE_EXIT_PROGRAM};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int fds[4] = {null, null, null, null};
	json_t *m;

	say(f, WIRE_EXITED, 0, 0, &w, sizeof(w), NULL, 0);
	end_vm(x, f);
	assert_int_equal(end_of(x, "v"), 7);
	m = call_fds(x, "vm.launch",
	    json_pack("{s:[],s:s}", "args", "name", "v"), fds, 4);
	assert_false(good(m));
	json_decref(m);
	assert_int_equal(end_of(x, "v"), 7);
	hook.pid = 0;
	request(x, "vm.launch",
	    json_pack("{s:[s],s:s}", "args", "prog", "name", "v"), fds, 4);
	while (hook.pid == 0)
		pump(x);
	(void)close(hook.monitor);
	(void)kill(hook.pid, SIGKILL);
	m = answer(x);
	assert_false(good(m));
	json_decref(m);
	assert_int_equal(end_of(x, "v"), 7);
	(void)close(null);
	f = launch_vm(x, 0, "v");
	end_vm(x, f);
	assert_int_not_equal(end_of(x, "v"), 7);
	nothing_left(x);
}

/* Where a fault was is told in all 64 bits, and as it is described. */
static void fault_far_up(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct {
		struct wire_exited x;
		char text[4];
	} w = {.x = {.status = 139,
		   .reason = WIRE_EXIT_FAULT,
		   .rip = UINT64_MAX,
		   .address = 1ULL << 63,
		   .known = WIRE_KNOWN_REGS | WIRE_KNOWN_ADDRESS,
		   .segment = UINT32_MAX},
	    .text = "far"};
	json_t *r;
	json_t *report;

	say(f, WIRE_EXITED, 0, 0, &w, sizeof(w), NULL, 0);
	end_vm(x, f);
	r = must(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
	report = json_object_get(r, "report");
	assert_int_equal(
	    json_integer_value(json_object_get(report, "rip")), -1);
	assert_int_equal(
	    json_integer_value(json_object_get(report, "address")), INT64_MIN);
	json_decref(r);
	nothing_left(x);
}

static json_int_t pages_between(struct world *x, bool exact)
{
	json_t *r = must(x, "snapshot.diff",
	    json_pack("{s:s,s:s,s:b}", "a", "s1", "b", "s2", "exact", exact));
	json_int_t n = json_integer_value(json_object_get(r, "pages"));

	assert_int_equal(json_is_true(json_object_get(r, "exact")), exact);
	json_decref(r);
	return n;
}

/* Pages written with the bytes that they had: they differ by place, and not
 * exactly. */
static void rewritten_pages(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");

	guest_writes(f, 0, 1, 1000);
	must_do(x, "segment.freeze", freeze_params(f, "s1"));
	guest_writes(f, 0, 2, 1000);
	f->truth[1] = 77;
	f->dirty[1] = true;
	must_do(x, "segment.freeze", freeze_params(f, "s2"));
	assert_int_equal(pages_between(x, false), NPAGES / 2 + 1);
	assert_int_equal(pages_between(x, true), 1);
	end_vm(x, f);
	nothing_left(x);
}

#define LISTED 25

/* The ids of one part into seen[], by name; the next 'after', or -1. */
static json_int_t list_part(
    struct world *x, json_int_t after, uint32_t max, uint32_t *seen)
{
	json_t *r = must(x, "snapshot.list",
	    json_pack("{s:I,s:i}", "after", after, "max", (int)max));
	json_t *list = json_object_get(r, "snapshots");
	json_int_t next = -1;

	assert_true(json_array_size(list) <= max);
	for (size_t i = 0; i < json_array_size(list); i++) {
		const char *name = json_string_value(
		    json_object_get(json_array_get(list, i), "name"));
		unsigned k = (unsigned)atoi(name + 1);

		assert_true(k < LISTED);
		seen[k]++;
	}
	if (json_is_true(json_object_get(r, "more")))
		next = json_integer_value(json_object_get(r, "next"));
	else
		assert_null(json_object_get(r, "next"));
	json_decref(r);
	return next;
}

/* Snapshots that come and go between the parts take nothing from the others. */
static void lists_in_parts(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	uint32_t seen[LISTED] = {0};
	json_int_t after = 0;
	char name[16];

	for (int i = 0; i < LISTED; i++) {
		(void)snprintf(name, sizeof(name), "n%d", i);
		must_do(x, "segment.freeze", freeze_params(f, name));
	}
	after = list_part(x, 0, 7, seen);
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "n3"));
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "n20"));
	must_do(x, "segment.freeze", freeze_params(f, "n3"));
	for (int parts = 0; after >= 0; parts++) {
		assert_true(parts < LISTED);
		after = list_part(x, after, 7, seen);
	}
	for (int i = 0; i < LISTED; i++)
		if (i != 3 && i != 20)
			assert_int_equal(seen[i], 1);
	assert_int_equal(list_part(x, 1LL << 60, 7, seen), -1);
	must_fail(x, "snapshot.list", json_pack("{s:i}", "max", 0));
	must_fail(x, "snapshot.list", json_pack("{s:i}", "after", -1));
	end_vm(x, f);
	nothing_left(x);
}

/* What is told of (snap) as (key); 0 where it is not told. */
static json_int_t told_of(struct world *x, const char *snap, const char *key)
{
	json_t *r =
	    must(x, "snapshot.show", json_pack("{s:s}", "snapshot", snap));
	json_int_t n = json_integer_value(json_object_get(r, key));

	json_decref(r);
	return n;
}

/* A refusal, as of RAM that cannot be severed, is no misdeed. */
static void refusal_ends_nothing(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	static const int codes[] = {-EPERM, -EPROTO, -ENOMEM, -EINVAL};
	json_t *m;

	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		f->how = SILENT;
		request(x, "segment.sever", freeze_params(f, "no"), NULL, 0);
		while (f->p.m.type != WIRE_SEVER)
			pump(x);
		reply(f, codes[i], "because", 7, NULL, 0);
		f->p.m.type = 0;
		m = answer(x);
		assert_string_equal(why(m), "because");
		json_decref(m);
		f->how = HONEST;
	}
	guest_writes(f, 0, 3, 5);
	must_do(x, "segment.freeze", freeze_params(f, "yes"));
	shows(x, "yes", f->truth);
	assert_int_equal(f->nkills, 0);
	end_vm(x, f);
	nothing_left(x);
}

/* The name went to another while the monitor severed: the pages stay. */
static void severed_is_kept(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *g = launch_vm(x, 1, "w");
	uint64_t was[NPAGES];
	json_t *m;

	must_do(x, "segment.freeze", freeze_params(f, "before"));
	guest_writes(f, 0, 2, 77);
	memcpy(was, f->truth, sizeof(was));
	f->how = SILENT;
	request(x, "segment.sever", freeze_params(f, "name"), NULL, 0);
	while (f->p.m.type != WIRE_SEVER)
		pump(x);
	request(x, "segment.freeze", freeze_params(g, "name"), NULL, 0);
	json_decref(answer(x));
	must_fail(x, "segment.sever", freeze_params(f, "other"));
	f->how = HONEST;
	answer_freeze(f);
	m = answer(x);
	assert_false(good(m));
	json_decref(m);
	guest_writes(f, 5, 100, 4);
	must_do(x, "segment.sever", freeze_params(f, "found"));
	shows(x, "found", was);
	assert_int_equal(
	    told_of(x, "found", "parent"), told_of(x, "before", "id"));
	must_do(x, "segment.freeze", freeze_params(f, "after"));
	shows(x, "after", f->truth);
	assert_int_equal(told_of(x, "after", "parent"), 0);
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

/* The client goes at every moment of a request. */
static void clients_go(void **state)
{
	static const char *const method[] = {"segment.freeze", "segment.sever",
	    "dirty.query", "vm.segments", "vm.wait", "snapshot.open",
	    "snapshot.show", "snapshot.diff", "snapshot.heat", "view.map",
	    "snapshot.meld"};
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");

	guest_writes(f, 0, 2, 1);
	must_do(x, "segment.freeze", freeze_params(f, "s"));
	for (size_t i = 0; i < sizeof(method) / sizeof(method[0]); i++)
		for (int turns = 0; turns < 4; turns++) {
			json_t *p =
			    i < 2    ? json_pack("{s:s}", "vm", "v")
			    : i == 2 ? json_pack("{s:s,s:s}", "vm", "v",
					   "cursor", "c")
			    : i < 5  ? json_pack("{s:s}", "vm", "v")
			    : i < 7  ? json_pack("{s:s}", "snapshot", "s")
			    : i == 7
				? json_pack("{s:s,s:s}", "a", "s", "b", "v:0")
			    : i == 8  ? json_pack("{s:s}", "ref", "v:0")
			    : i == 10 ? meld_params("s", "s", "s")
				      : json_pack("{s:s,s:s}", "vm", "v",
					    "snapshot", "s");

			request(x, method[i], p, NULL, 0);
			for (int k = 0; k < turns; k++)
				pump(x);
			connect_client(x);
		}
	end_vm(x, f);
	nothing_left(x);
}

/* --- freezes that take several turns of the loop -------------------------- */

#define TURNS 4

static uint64_t frozen[TURNS][NPAGES];
static uint32_t nfrozen;

/* Its guest writes before each. */
static bool writes_and_freezes(struct fake *f)
{
	if (f->p.m.type != WIRE_FREEZE)
		return false;
	guest_writes(f, nfrozen, 2, 5000 * (nfrozen + 1));
	memcpy(frozen[nfrozen++], f->truth, sizeof(f->truth));
	return false;
}

/* Each is what it was when it was frozen, though the next was answered before
 * it was over. */
static void freezes_in_turns(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	char name[16];

	nfrozen = 0;
	f->answers = writes_and_freezes;
	for (int i = 0; i < TURNS; i++) {
		(void)snprintf(name, sizeof(name), "s%d", i);
		request(x, "segment.freeze", freeze_params(f, name), NULL, 0);
	}
	for (int i = 0; i < TURNS; i++) {
		json_t *m = answer(x);

		assert_true(good(m));
		json_decref(m);
	}
	for (int i = 0; i < TURNS; i++) {
		(void)snprintf(name, sizeof(name), "s%d", i);
		shows(x, name, frozen[i]);
	}
	end_vm(x, f);
	nothing_left(x);
}

static bool freezes_and_dies(struct fake *f)
{
	if (f->p.m.type != WIRE_FREEZE)
		return false;
	answer_freeze(f);
	f->how = DIES;
	return true;
}

/* What was frozen is not lost when the VM ends right behind its answer. */
static void end_behind_freeze(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	unsigned ngood = 0;

	guest_writes(f, 0, 2, 10);
	memcpy(frozen[0], f->truth, sizeof(f->truth));
	f->answers = freezes_and_dies;
	request(x, "segment.freeze", freeze_params(f, "s"), NULL, 0);
	request(x, "vm.pause", json_pack("{s:s}", "vm", "v"), NULL, 0);
	for (int i = 0; i < 2; i++) { /* in either order */
		json_t *m = answer(x);

		ngood += good(m);
		json_decref(m);
	}
	assert_int_equal(ngood, 1);
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
	shows(x, "s", frozen[0]);
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "s"));
	nothing_left(x);
}

/* --- freezes and severs of one place, each under way with the next -------- */

/* Nothing was written since: it has nothing to tell of. */
static bool severs_nothing(struct fake *f)
{
	struct wire_frozen w = {.npages = NPAGES};

	if (f->p.m.type != WIRE_SEVER)
		return false;
	reply(f, 0, &w, sizeof(w), NULL, 0);
	f->first = true;
	f->memory = wire_take_fd(&f->p, 0);
	memset(f->truth, 0, sizeof(f->truth));
	return true;
}

/* What is frozen stays, though it is severed before it is over. */
static void sever_behind_freeze(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");

	guest_writes(f, 0, 2, 10);
	memcpy(frozen[0], f->truth, sizeof(f->truth));
	f->answers = severs_nothing;
	request(x, "segment.freeze", freeze_params(f, "s"), NULL, 0);
	request(x, "segment.sever", freeze_params(f, "t"), NULL, 0);
	for (int i = 0; i < 2; i++) {
		json_t *m = answer(x);

		assert_true(good(m));
		json_decref(m);
	}
	shows(x, "s", frozen[0]);
	shows(x, "t", frozen[0]);
	f->answers = NULL;
	guest_writes(f, 1, 50, 3);
	must_do(x, "segment.freeze", freeze_params(f, "u"));
	shows(x, "u", f->truth);
	end_vm(x, f);
	nothing_left(x);
}

/* Until a sever is over there is no other, which would be given what it gives
 * back if it fails. */
static void sever_behind_sever(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *g = launch_vm(x, 1, "w");

	guest_writes(f, 0, 2, 10);
	memcpy(frozen[0], f->truth, sizeof(f->truth));
	f->how = SILENT;
	request(x, "segment.sever", freeze_params(f, "name"), NULL, 0);
	while (f->p.m.type != WIRE_SEVER)
		pump(x);
	must_do(x, "segment.freeze", freeze_params(g, "name"));
	f->how = HONEST;
	answer_freeze(f);
	guest_writes(f, 1, 2, 20);
	request(x, "segment.sever", freeze_params(f, "other"), NULL, 0);
	for (int i = 0; i < 2; i++) {
		json_t *m = answer(x);

		assert_false(good(m));
		json_decref(m);
	}
	must_do(x, "segment.sever", freeze_params(f, "found"));
	shows(x, "found", frozen[0]);
	memcpy(frozen[0], f->truth, sizeof(f->truth));
	must_do(x, "segment.sever", freeze_params(f, "other"));
	shows(x, "other", frozen[0]);
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

/* A freeze that fails keeps what was frozen, and a sever that fails behind it,
 * of nothing else, that it was severed. */
static void sever_behind_failure(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");

	guest_writes(f, 0, 2, 10);
	memcpy(frozen[0], f->truth, sizeof(f->truth));
	f->answers = severs_nothing;
	request(x, "segment.freeze", freeze_params(f, "s"), NULL, 0);
	request(x, "segment.sever", freeze_params(f, "t"), NULL, 0);
	while (f->p.m.type != WIRE_SEVER)
		pump(x);
	atomic_store(&hook.lasting, true);
	arm(1);
	for (int i = 0; i < 3; i++)
		pump(x);
	assert_true(disarm());
	assert_null(answer(x)); /* for which there was no memory either */
	f->answers = NULL;
	guest_writes(f, 1, 50, 3);
	must_do(x, "segment.freeze", freeze_params(f, "u"));
	shows(x, "u", f->truth);
	must_do(x, "segment.sever", freeze_params(f, "t"));
	shows(x, "t", frozen[0]);
	end_vm(x, f);
	nothing_left(x);
}

/* What is frozen behind a sever descends from nothing, also where it is over
 * first; and what is frozen then descends from that. */
static void descent_behind_sever(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");

	lend_memory(x, f);
	guest_writes(f, 0, 2, 10);
	request(x, "segment.sever", freeze_params(f, "s"), NULL, 0);
	request(x, "segment.freeze", freeze_params(f, "t"), NULL, 0);
	for (int i = 0; i < 2; i++) {
		json_t *m = answer(x);

		assert_true(good(m));
		json_decref(m);
	}
	must_do(x, "segment.freeze", freeze_params(f, "u"));
	assert_true(is_owned(x, "s"));
	assert_int_equal(told_of(x, "t", "parent"), 0);
	assert_int_equal(told_of(x, "u", "parent"), told_of(x, "t", "id"));
	must_do(x, "segment.sever", freeze_params(f, "v"));
	must_do(x, "segment.freeze", freeze_params(f, "w"));
	assert_int_equal(told_of(x, "w", "parent"), 0);
	end_vm(x, f);
	nothing_left(x);
}

/* A view that is severed shows its snapshot no more, and keeps none of it. */
static void severed_view(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *g = launch_vm(x, 1, "w");

	guest_writes(f, 0, 2, 10);
	must_do(x, "segment.freeze", freeze_params(f, "s"));
	must_do(x, "view.map",
	    json_pack("{s:s,s:s,s:b}", "vm", "w", "snapshot", "s", "cow", 1));
	must_fail(x, "segment.sever", freeze_params(f, "no"));
	g->first = false;
	guest_writes(g, 1, 2, 20);
	must_do(x, "segment.sever", place_params(g, "t"));
	assert_int_equal(told_of(x, "t", "parent"), told_of(x, "s", "id"));
	must_do(x, "segment.sever", freeze_params(f, "yes"));
	assert_int_equal(told_of(x, "yes", "parent"), told_of(x, "s", "id"));
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "yes"));
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "s"));
	assert_int_equal(stat_of(x, "snapshots"), 1);
	must_do(x, "view.unmap", place_params(g, NULL));
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

/* The answer to a sever is lost on its way: the next freeze tells of it. */
static bool loses_sever(struct fake *f)
{
	struct page_run r = {.npages = 1};
	struct wire_frozen w = {.npages = NPAGES, .nsteps = 1};
	int fds[2];

	if (f->p.m.type == WIRE_SEVER) {
		reply(f, -ETOOMANYREFS, "it was lost", 11, NULL, 0);
		return true;
	}
	if (f->p.m.type != WIRE_FREEZE)
		return false;
	fds[0] = wire_blob("runs", &r, sizeof(r));
	fds[1] = new_layer(1);
	put_page(fds[1], 0, f->truth[0]);
	assert_int_equal(seal(fds[1]), 0);
	w.step[0] = (struct wire_step){.nruns = 1,
	    .layer_npages = 1,
	    .has_layer = 1,
	    .first = 1,
	    .severed = 1};
	reply(f, 0, &w, sizeof(w), fds, 2);
	(void)close(fds[0]);
	(void)close(fds[1]);
	f->truth[0] = 0;
	return true;
}

static void sever_told_late(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	uint64_t was[NPAGES] = {77};
	json_t *r;

	f->truth[0] = 77;
	f->answers = loses_sever;
	must_fail(x, "segment.sever", freeze_params(f, "s"));
	must_do(x, "segment.freeze", freeze_params(f, "t"));
	shows(x, "t", f->truth);
	r = must(x, "segment.sever", freeze_params(f, "s"));
	assert_int_equal(
	    json_integer_value(json_object_get(r, "pages")), NPAGES);
	json_decref(r);
	shows(x, "s", was);
	/* It is a segment that was severed, so it can go. */
	must_do(
	    x, "view.unmap", json_pack("{s:s,s:s}", "vm", "v", "view", "0"));
	assert_int_equal(stat_of(x, "reserved_bytes"), 0);
	end_vm(x, f);
	nothing_left(x);
}

/* The answer to a sever is lost, and what it told comes with that to a freeze,
 * behind which another sever was asked for already: of (three), which writes
 * something before, or not. */
static struct three {
	bool lost, writes;
	uint64_t was[3][NPAGES];
} three;

static void tell_two_steps(struct fake *f)
{
	const struct page_run r = {.npages = NPAGES};
	struct wire_frozen w = {.npages = NPAGES, .nsteps = 2};
	int fds[4];

	for (uint32_t i = 0; i < 2; i++) {
		w.step[i] = (struct wire_step){.nruns = 1,
		    .layer_npages = NPAGES,
		    .has_layer = 1,
		    .first = 1,
		    .severed = i == 0};
		fds[2 * i] = wire_blob("runs", &r, sizeof(r));
		fds[2 * i + 1] = new_layer(NPAGES);
		for (uint32_t k = 0; k < NPAGES; k++)
			put_page(fds[2 * i + 1], k, three.was[i][k]);
		assert_int_equal(seal(fds[2 * i + 1]), 0);
	}
	reply(f, 0, &w, sizeof(w), fds, 4);
	for (uint32_t i = 0; i < 4; i++)
		(void)close(fds[i]);
	f->first = false;
	memset(f->dirty, 0, sizeof(f->dirty));
}

static bool severs_again(struct fake *f)
{
	struct wire_frozen w = {.npages = NPAGES};

	if (f->p.m.type == WIRE_FREEZE && three.lost) {
		memcpy(three.was[1], f->truth, sizeof(f->truth));
		tell_two_steps(f);
		three.lost = false;
		return true;
	}
	if (f->p.m.type != WIRE_SEVER)
		return false;
	if (!f->first && three.writes)
		guest_writes(f, 3, 7, 9000);
	memcpy(three.was[f->first ? 0 : 2], f->truth, sizeof(f->truth));
	if (!f->first && three.writes) {
		answer_freeze(f);
		return true;
	}
	if (!f->first)
		reply(f, 0, &w, sizeof(w), NULL, 0);
	else
		reply(f, -ETOOMANYREFS, "it was lost", 11, NULL, 0);
	three.lost = f->first;
	f->first = true;
	memset(f->truth, 0, sizeof(f->truth));
	memset(f->dirty, 0, sizeof(f->dirty));
	return true;
}

static void try_severs(struct world *x, bool writes)
{
	struct fake *f = launch_vm(x, 0, "v");
	static const char *const name[] = {"s", "t", "u"};

	three = (struct three){.writes = writes};
	f->answers = severs_again;
	guest_writes(f, 0, 1, 10);
	must_fail(x, "segment.sever", freeze_params(f, "s"));
	guest_writes(f, 0, 1, 5000);
	request(x, "segment.freeze", freeze_params(f, "t"), NULL, 0);
	request(x, "segment.sever", freeze_params(f, "s"), NULL, 0);
	for (int i = 0; i < 2; i++) {
		json_t *m = answer(x);

		if (!good(m))
			fail_msg("%s", why(m));
		json_decref(m);
	}
	must_do(x, "segment.sever", freeze_params(f, "u"));
	for (int i = 0; i < 3; i++)
		shows(x, name[i], three.was[i]);
	f->answers = NULL;
	must_do(x, "segment.freeze", freeze_params(f, "w"));
	shows(x, "w", f->truth);
	end_vm(x, f);
	drop_all(x);
}

/* Each sever gives what was severed first, and nothing is lost. */
static void sever_behind_lost(void **state)
{
	try_severs(*state, true);
	try_severs(*state, false);
	nothing_left(*state);
}

/* --- cursors of one name -------------------------------------------------- */

static struct wire_msg held;

static bool holds_freezes(struct fake *f)
{
	if (f->p.m.type != WIRE_FREEZE)
		return false;
	held = f->p.m;
	return true;
}

static json_t *cursor_params(bool exact)
{
	return json_pack(
	    "{s:s,s:s,s:b}", "vm", "v", "cursor", "c", "exact", (int)exact);
}

/* A plain one that began while an exact query was under way stays what it is,
 * and misses nothing. */
static void cursor_of_either_kind(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	json_t *m;

	f->answers = holds_freezes;
	held.type = 0;
	request(x, "dirty.query", cursor_params(true), NULL, 0);
	while (held.type != WIRE_FREEZE)
		pump(x);
	must_do(x, "dirty.query", cursor_params(false));
	guest_writes(f, 0, 2, 10);
	f->answers = NULL;
	f->p.m = held;
	answer_freeze(f);
	m = answer(x);
	assert_false(good(m));
	json_decref(m);
	m = must(x, "dirty.query", cursor_params(false));
	assert_int_equal(
	    json_integer_value(json_object_get(m, "pages")), NPAGES / 2);
	json_decref(m);
	end_vm(x, f);
	nothing_left(x);
}

static json_t *end_params(const char *cursor)
{
	return json_pack("{s:s,s:s}", "vm", "v", "cursor", cursor);
}

static bool refuses_ends(struct fake *f)
{
	if (f->p.m.type != WIRE_DIRTY_END)
		return false;
	reply(f, -EIO, "it cannot now", 13, NULL, 0);
	return true;
}

/* What it owes goes with it; one of that name begins anew. */
static void cursor_ends(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	char name[] = "A";
	json_t *m;

	guest_writes(f, 0, 2, 10);
	must_fail(x, "dirty.end", end_params("c"));
	must_fail(x, "dirty.end", end_params(""));
	must_do(x, "dirty.query", cursor_params(true));
	must_do(x, "dirty.end", end_params("c"));
	must_fail(x, "dirty.end", end_params("c"));
	for (; name[0] <= 'H'; name[0]++) /* all there are */
		must_do(x, "dirty.query", end_params(name));
	must_fail(x, "dirty.query", cursor_params(false));
	f->answers = refuses_ends;
	must_fail(x, "dirty.end", end_params("D"));
	must_fail(x, "dirty.query", cursor_params(true));
	f->answers = NULL;
	must_do(x, "dirty.end", end_params("D"));
	guest_writes(f, 1, 4, 20);
	m = must(x, "dirty.query", cursor_params(true));
	assert_int_equal(json_integer_value(json_object_get(m, "pages")), 0);
	json_decref(m);
	end_vm(x, f);
	nothing_left(x);
}

/* Ask (f)'s exact cursor, and see it frozen for that. */
static void begin_exact(struct world *x, struct fake *f)
{
	f->dirty[0] = true;
	request(x, "dirty.query", cursor_params(true), NULL, 0);
	while (f->dirty[0])
		pump(x);
	must_do(x, "vm.list", json_object());
}

/* A query that is over when its cursor has ended, and another one of that name
 * has begun, leaves that where it is. */
static void cursor_ends_midway(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	json_t *m;

	lend_memory(x, f);
	must_do(x, "segment.sever", freeze_params(f, "a"));
	must_do(x, "segment.sever", freeze_params(f, "b"));
	guest_writes(f, 0, 2, 10);
	must_do(x, "dirty.query", cursor_params(true));
	guest_writes(f, 0, 4, 20);
	atomic_store(&hook.hold_seals, true);
	/* Keeps both workers. */
	request(x, "snapshot.diff",
	    json_pack("{s:s,s:s,s:b}", "a", "a", "b", "b", "exact", 1), NULL,
	    0);
	begin_exact(x, f);
	must_do(x, "dirty.end", end_params("c"));
	guest_writes(f, 0, 8, 30);
	begin_exact(x, f);
	atomic_store(&hook.hold_seals, false);
	for (int i = 0; i < 3; i++) {
		m = answer(x);
		if (!good(m))
			fail_msg("%s", why(m));
		json_decref(m);
	}
	m = must(x, "dirty.query", cursor_params(true));
	assert_int_equal(json_integer_value(json_object_get(m, "pages")), 0);
	json_decref(m);
	end_vm(x, f);
	nothing_left(x);
}

static bool dies_of_ends(struct fake *f)
{
	if (f->p.m.type == WIRE_DIRTY_END)
		(void)kill(f->pid, SIGKILL);
	return f->p.m.type == WIRE_DIRTY_END;
}

/* While it is asked it does not end, and while it ends it is not asked. */
static void cursor_is_busy(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");

	must_do(x, "dirty.query", cursor_params(false));
	f->answers = dies_of_ends;
	request(x, "dirty.end", end_params("c"), NULL, 0);
	must_fail(x, "dirty.query", cursor_params(false));
	json_decref(answer(x));
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
	nothing_left(x);
}

/* What goes with a snapshot is in no other map: of a cursor, or of a view that
 * was written and frozen since, as little as of another snapshot. */
static void what_goes_with_it(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *g = launch_vm(x, 1, "w");

	guest_writes(f, 0, 1, 10);
	must_do(x, "segment.freeze", freeze_params(f, "s"));
	must_do(x, "view.map",
	    json_pack("{s:s,s:s,s:b}", "vm", "w", "snapshot", "s", "cow", 1));
	guest_writes(f, 0, 1, 50);
	must_do(x, "segment.freeze", freeze_params(f, "t"));
	assert_int_equal(told_of(x, "s", "exclusive_pages"), NPAGES);
	g->first = false;
	guest_writes(g, 0, 2, 20);
	must_do(x, "segment.freeze", place_params(g, "u"));
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "u"));
	assert_int_equal(told_of(x, "s", "exclusive_pages"), NPAGES / 2);
	must_do(x, "dirty.query", cursor_params(true));
	guest_writes(f, 0, 1, 90);
	must_do(x, "segment.freeze", freeze_params(f, "v"));
	assert_int_equal(told_of(x, "t", "exclusive_pages"), 0);
	assert_int_equal(told_of(x, "t", "exclusive_node_bytes"), 0);
	end_vm(x, f);
	end_vm(x, g);
	assert_int_equal(told_of(x, "t", "exclusive_pages"), NPAGES);
	assert_int_equal(told_of(x, "s", "exclusive_pages"), NPAGES);
	drop_all(x);
	nothing_left(x);
}

static char asked[3][FIRN_NAME_MAX];
static uint32_t nasked;

static bool notes_names(struct fake *f)
{
	struct wire_map m;

	if (f->p.m.type != WIRE_MAP)
		return false;
	memcpy(&m, f->p.payload, sizeof(m));
	memcpy(asked[nasked++], m.name, sizeof(m.name));
	return false;
}

/* Views that nobody named, asked for at once, have names of their own. */
static void views_without_names(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");

	must_do(x, "segment.freeze", freeze_params(f, "s"));
	nasked = 0;
	f->answers = notes_names;
	for (int i = 0; i < 2; i++)
		request(x, "view.map", hand_params(f, "s"), NULL, 0);
	for (int i = 0; i < 2; i++) {
		json_t *m = answer(x);

		assert_true(good(m));
		json_decref(m);
	}
	must_do(x, "view.map", hand_params(f, "s"));
	assert_string_equal(asked[0], "s2.1");
	assert_string_equal(asked[1], "s2.2");
	assert_string_equal(asked[2], "s2.3");
	end_vm(x, f);
	drop_all(x);
	nothing_left(x);
}

/* A copy for a view is more than what it is made of: there must be room for all
 * of it. */
static void copies_are_paid_for(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	int fd = new_layer(NPAGES);
	json_t *m;

	for (uint64_t i = 0; i < 5 * NPAGES / 16; i++)
		put_page(fd, 3 * i, 1000 + i);
	assert_int_equal(seal(fd), 0);
	m = call_fds(x, "snapshot.import",
	    json_pack("{s:s,s:I}", "name", "s", "pages", (json_int_t)NPAGES),
	    &fd, 1);
	assert_true(good(m));
	json_decref(m);
	(void)close(fd);
	m = call(x, "view.map", hand_params(f, "s"));
	assert_false(good(m));
	assert_non_null(strstr(why(m), "the bank has"));
	json_decref(m);
	end_vm(x, f);
	f = launch_vm(x, 0, "v");
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "s"));
	end_vm(x, f);
	nothing_left(x);
}

/* Where no errand is over at once. */
#define TA(f) cmocka_unit_test_setup_teardown(f, setup_away, teardown)
#define T(f)  cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(freeze_map_diff),
	    T(remembered_until_replaced),
	    T(fault_far_up),
	    T(rewritten_pages),
	    T(lists_in_parts),
	    T(refusal_ends_nothing),
	    T(severed_is_kept),
	    T(freezes_in_turns),
	    T(end_behind_freeze),
	    T(sever_behind_freeze),
	    T(sever_behind_failure),
	    T(sever_behind_sever),
	    T(descent_behind_sever),
	    T(severed_view),
	    T(sever_told_late),
	    T(sever_behind_lost),
	    T(cursor_of_either_kind),
	    T(cursor_ends),
	    T(cursor_ends_midway),
	    T(cursor_is_busy),
	    T(what_goes_with_it),
	    T(views_without_names),
	    T(clients_go),
	    cmocka_unit_test_setup_teardown(
		copies_are_paid_for, setup_poor, teardown),
	    TA(freeze_map_diff),
	    TA(rewritten_pages),
	    TA(clients_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
