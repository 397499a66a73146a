/* SPDX-License-Identifier: MIT */
/* wrap: malloc calloc realloc fcntl memfd_create json_loadb */

/* wrap: socketpair posix_spawn */
/*
 * The broker in this process, with monitors that the test plays: honest ones,
 * hostile ones, and an honest one under a broker that runs out of memory or
 * descriptors at every step.
 */
#include "tests/unit/broker_world.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- honest ------------------------------------------------------------------
 */

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

/* --- lists in parts ---------------------------------------------------------
 */

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
	must_do(x, "segment.freeze", freeze_params(f, "after"));
	shows(x, "after", f->truth);
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

/* --- hostile -----------------------------------------------------------------
 */

static void hostile_freezes(void **state)
{
	struct world *x = *state;
	struct fake *g = launch_vm(x, 1, "bystander");
	uint32_t fds = 0;

	for (enum how how = SHORT_ANSWER; how < SILENT; how++) {
		struct fake *f = launch_vm(x, 0, "v");

		guest_writes(f, 0, 2, 10);
		f->how = how;
		must_fail(x, "segment.freeze", freeze_params(f, "bad"));
		if (how == WILD_STATUS)
			end_vm(x, f);
		must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
		others_live(x, g);
		if (fds == 0)
			fds = settled_fds(x, UINT32_MAX);
		/* One more is what the bystander froze first, and still maps
		 * when nothing names it any more. */
		assert_in_range(settled_fds(x, fds + 1), fds - 1, fds + 1);
	}
	end_vm(x, g);
	nothing_left(x);
}

static void hostile_maps_and_queries(void **state)
{
	static const enum how how[] = {
	    DIES, HANGS_UP, GARBAGE, SHORT_ANSWER, NO_FDS};
	struct world *x = *state;
	struct fake *g = launch_vm(x, 1, "bystander");

	guest_writes(g, 0, 3, 4);
	must_do(x, "segment.freeze", freeze_params(g, "s"));
	for (size_t i = 0; i < sizeof(how) / sizeof(how[0]); i++) {
		struct fake *f = launch_vm(x, 0, "v");

		f->how = how[i];
		if (i < 3)
			must_fail(x, "view.map",
			    json_pack("{s:s,s:s,s:b}", "vm", "v", "snapshot",
				"s", "cow", 1));
		else
			must_fail(x, "dirty.query",
			    json_pack("{s:s,s:s}", "vm", "v", "cursor", "c"));
		must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
		others_live(x, g);
	}
	end_vm(x, g);
	nothing_left(x);
}

/* It answers nothing: its requests wait, then are refused; it can be killed. */
static void silent_monitor(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *g = launch_vm(x, 1, "w");

	f->how = SILENT;
	for (int i = 0; i < 3; i++)
		request(x, "segment.freeze", json_pack("{s:s}", "vm", "v"),
		    NULL, 0);
	for (int i = 0; i < 5; i++)
		pump(x);
	/* A list does not wait for it. */
	must_do(x, "vm.list", json_object());
	others_live(x, g);
	must_do(x, "vm.kill", json_pack("{s:s}", "vm", "v"));
	/* Reasons to kill it again do not put it off. */
	for (int i = 0; i < 100; i++)
		say(f, WIRE_TYPE_END, 0, 0, NULL, 0, NULL, 0);
	for (int i = 0; i < 3; i++)
		json_decref(answer(x));
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
	assert_int_equal(f->nkills, 1);
	others_live(x, g);
	end_vm(x, g);
	nothing_left(x);
}

/* It does not even read. */
static void deaf_monitor(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *g = launch_vm(x, 1, "w");
	json_t *m;

	guest_writes(g, 0, 2, 1);
	must_do(x, "segment.freeze", freeze_params(g, "s"));
	f->used = false; /* not served */
	for (int i = 0; i < 60; i++)
		request(x, "view.map",
		    json_pack("{s:s,s:s}", "vm", "v", "snapshot", "s"), NULL,
		    0);
	for (int i = 0; i < 50; i++)
		pump(x);
	/* Its own requests may be refused, never others'. */
	connect_client(x);
	others_live(x, g);
	m = call(x, "vm.kill", json_pack("{s:s}", "vm", "v"));
	assert_true(good(m));
	json_decref(m);
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
	f->used = true;
	end_vm(x, g);
	nothing_left(x);
}

/* It talks without end; others have their turn. */
static void flood(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *g = launch_vm(x, 1, "w");
	char name[FIRN_NAME_MAX] = "nothing";
	pid_t pid = fork();

	assert_true(pid >= 0);
	while (pid == 0)
		say(f, WIRE_G_LOOKUP, 1, 0, name, sizeof(name), NULL, 0);
	for (int i = 0; i < 5; i++)
		others_live(x, g);
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

static int64_t guest_asks(struct world *x, struct fake *f, uint16_t type,
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
		if (t != WIRE_RELAY) /* no guest's */
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

/* The pages that its guest's exact query names; or -errno. */
static int64_t guest_exact(
    struct world *x, struct fake *f, const char *cursor, uint32_t flags)
{
	struct wire_gdirty g = {.flags = flags, .max = 2};
	int64_t rc;

	(void)snprintf(g.cursor, sizeof(g.cursor), "%s", cursor);
	rc = guest_asks(x, f, WIRE_G_DIRTY, &g, sizeof(g));
	return rc < 0 ? rc : (int64_t)f->last_pages.pages;
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

static void exact_of_guests(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct wire_gdirty g = {.id = 77, .flags = FIRN_EXACT, .cursor = "c"};

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
	assert_int_equal(f->last_pages.nextents, NPAGES / 8);
	assert_int_equal(f->last_nsent, 2); /* as many as there is room for */
	/* One that began exact answers so always; and now it has passed. */
	assert_int_equal(guest_exact(x, f, "c", 0), NPAGES / 8);
	assert_int_equal(guest_exact(x, f, "c", FIRN_EXACT), 0);
	/* The client's of that name is another. */
	assert_int_equal(client_exact(x), NPAGES / 8);
	/* Refusals leave it where it was. */
	guest_writes(f, 3, 8, 3000);
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

/* --- tracked views, and what is melded of them -------------------------------
 */

static json_t *meld_params(const char *base, const char *a, const char *b)
{
	return json_pack("{s:s,s:s,s:s}", "base", base, "a", a, "b", b);
}

/* "base", and "a" and "b" of tracked views of it on two monitors. */
static void prepare_meld(struct world *x, struct fake *f, struct fake *g)
{
	guest_writes(f, 0, 1, 1000);
	must_do(x, "segment.freeze", freeze_params(f, "base"));
	track_view(x, f, "base");
	track_view(x, g, "base");
	guest_writes(f, 0, 8, 500000);
	guest_reads(f, 0, 4);
	guest_writes(g, 1, 8, 700000);
	guest_reads(g, 1, 4);
	must_do(x, "segment.freeze", view_params(f, "a"));
	must_do(x, "segment.freeze", view_params(g, "b"));
}

/* What the meld of those must show. */
static void melded_truth(uint64_t *truth)
{
	for (uint64_t i = 0; i < NPAGES; i++)
		truth[i] = i + (i % 8 == 0      ? 500000
				   : i % 8 == 1 ? 700000
						: 1000);
}

static void melds(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *g = launch_vm(x, 1, "w");
	uint64_t truth[NPAGES];
	json_t *data;
	json_t *m;
	json_t *r;

	prepare_meld(x, f, g);
	melded_truth(truth);
	m = meld_params("base", "a", "b");
	(void)json_object_set_new(m, "name", json_string("m"));
	must_do(x, "snapshot.meld", m);
	shows(x, "m", truth);
	/* Now it also reads what the other wrote: its sets go on. */
	guest_reads(g, 0, 256);
	must_do(x, "segment.freeze", view_params(g, "b2"));
	m = call(x, "snapshot.meld", meld_params("base", "a", "b2"));
	assert_false(good(m));
	data = json_object_get(json_object_get(m, "error"), "data");
	assert_string_equal(
	    json_string_value(json_object_get(data, "errno")), "ESTALE");
	assert_int_equal(
	    json_array_size(json_object_get(data, "conflicts")), NPAGES / 256);
	json_decref(m);
	r = must(
	    x, "track.query", json_pack("{s:s,s:s}", "vm", "w", "view", "t"));
	assert_int_equal(json_integer_value(json_object_get(
			     json_object_get(r, "writes"), "pages")),
	    NPAGES / 8);
	json_decref(r);
	must_fail(x, "segment.sever", view_params(g, "no"));
	must_fail(x, "snapshot.meld", meld_params("a", "base", "b"));
	must_fail(
	    x, "track.query", json_pack("{s:s,s:s}", "vm", "w", "view", "0"));
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

/* Pages of NPAGES are five levels of four. */
#define DEPTH 5

/* A view that is frozen makes a descendant, which has all but the path to the
 * page that changed in common with what the view shows; and however often, with
 * what was made dropped, nothing more is kept. */
static void descendants(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *g = launch_vm(x, 1, "w");
	json_int_t nodes;
	json_int_t layers;
	json_int_t id;
	json_t *r;

	guest_writes(f, 0, 1, 1000);
	must_do(x, "segment.freeze", freeze_params(f, "s0"));
	guest_writes(f, 1, 2, 7000);
	r = must(x, "segment.freeze", freeze_params(f, "s1"));
	id = json_integer_value(json_object_get(r, "snapshot"));
	json_decref(r);
	must_do(x, "view.map",
	    json_pack("{s:s,s:s,s:s,s:b}", "vm", "w", "snapshot", "s1", "name",
		"t", "cow", 1));
	memcpy(g->truth, g->mapped, sizeof(g->truth));
	g->first = false;
	nodes = stat_of(x, "nodes");
	layers = stat_of(x, "layers");
	assert_true(nodes > NPAGES / 8);
	guest_writes(g, NPAGES / 2, NPAGES, 1);
	must_do(x, "segment.freeze", view_params(g, "d"));
	assert_in_range(stat_of(x, "nodes"), nodes, nodes + DEPTH);
	assert_int_equal(stat_of(x, "layers"), layers + 1);
	shows(x, "d", g->truth);
	r = must(x, "snapshot.show", json_pack("{s:s}", "snapshot", "d"));
	assert_int_equal(json_integer_value(json_object_get(r, "parent")), id);
	json_decref(r);
	for (int i = 0; i < 300; i++) {
		must_do(
		    x, "snapshot.drop", json_pack("{s:s}", "snapshot", "d"));
		must_do(x, "segment.freeze", view_params(g, "d"));
	}
	assert_in_range(stat_of(x, "records"), 3, 5);
	r = must(x, "snapshot.show", json_pack("{s:s}", "snapshot", "d"));
	assert_int_equal(json_integer_value(json_object_get(r, "parent")), id);
	json_decref(r);
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

/* Sets that are missing, torn, no memfd, not told of, or of a place that is
 * not tracked. */
static void hostile_sets(void **state)
{
	struct world *x = *state;
	struct fake *g = launch_vm(x, 1, "bystander");

	guest_writes(g, 0, 3, 4);
	must_do(x, "segment.freeze", freeze_params(g, "s"));
	for (enum how how = NO_SETS; how < SETS_END; how++) {
		struct fake *f = launch_vm(x, 0, "v");

		if (how != UNASKED_SETS)
			track_view(x, f, "s");
		guest_writes(f, 0, 2, 10);
		f->how = how;
		must_fail(x, "segment.freeze",
		    how == UNASKED_SETS ? freeze_params(f, "bad")
					: view_params(f, "bad"));
		must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
		others_live(x, g);
	}
	for (enum how how = NO_SETS; how <= LONG_SETS; how++) {
		struct fake *f = launch_vm(x, 0, "v");

		track_view(x, f, "s");
		f->how = how;
		must_fail(x, "track.query",
		    json_pack("{s:s,s:s}", "vm", "v", "view", "t"));
		must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
		others_live(x, g);
	}
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

/* --- what one holder alone has -----------------------------------------------
 */

static void owned_changes_hands(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *g = launch_vm(x, 1, "w");
	uint64_t was[NPAGES];
	uint32_t fds = 0;

	lend_memory(x, f);
	guest_writes(f, 0, 1, 77);
	memcpy(was, f->truth, sizeof(was));
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

/* What is kept comes to light, and nothing is lost by it. */
static void kept_memory(void **state)
{
	struct world *x = *state;
	struct fake *g = launch_vm(x, 1, "w");
	uint64_t was[NPAGES];

	for (enum how how = KEEPS_FD; how <= KEEPS_MAPPING; how++) {
		struct fake *f = launch_vm(x, 0, "v");

		lend_memory(x, f);
		guest_writes(f, 0, 1, 77);
		memcpy(was, f->truth, sizeof(was));
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

	lend_memory(x, f);
	guest_writes(f, 0, 1, 77);
	memcpy(was, f->truth, sizeof(was));
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

/* --- what fails --------------------------------------------------------------
 */

enum op {
	OP_FREEZE,
	OP_SEVER,
	OP_MAP,
	OP_MAP_PRIVATE, /* of a private history */
	OP_DIFF,
	OP_OPEN,
	OP_IMPORT,
	OP_SHOW,
	OP_HEAT,
	OP_DIRTY,
	OP_EXACT,
	OP_TRACKED, /* freeze of a tracked view */
	OP_TOUCHED,
	OP_MELD,
	OP_SEVER_OWNED,
	OP_ADOPT,
	OP_SEAL, /* by a map */
	OP_GIVE,
	OP_END
};

static json_t *op_call(struct world *x, enum op op, int import_fd)
{
	static const char *const method[] = {"segment.freeze", "segment.sever",
	    "view.map", "view.map", "snapshot.diff", "snapshot.open",
	    "snapshot.import", "snapshot.show", "snapshot.heat", "dirty.query",
	    "dirty.query", "segment.freeze", "track.query", "snapshot.meld",
	    "segment.sever", "view.adopt", "view.map", "vm.give"};
	json_t *p = NULL;

	if (op == OP_FREEZE || op == OP_SEVER || op == OP_SEVER_OWNED)
		p = json_pack("{s:s}", "vm", "v");
	else if (op > OP_SEVER_OWNED)
		p = hand_params(&x->fake[1], "o");
	else if (op == OP_TRACKED)
		p = json_pack("{s:s,s:s}", "vm", "v", "segment", "t");
	else if (op == OP_TOUCHED)
		p = json_pack("{s:s,s:s}", "vm", "v", "view", "t");
	else if (op == OP_MELD)
		p = meld_params("base", "a", "b");
	else if (op == OP_MAP || op == OP_MAP_PRIVATE)
		p = json_pack(
		    "{s:s,s:s,s:b}", "vm", "w", "snapshot", "s2", "cow", 1);
	else if (op == OP_DIFF)
		p = json_pack(
		    "{s:s,s:s,s:b}", "a", "s1", "b", "s2", "exact", 1);
	else if (op == OP_OPEN || op == OP_SHOW)
		p = json_pack("{s:s}", "snapshot", "s2");
	else if (op == OP_HEAT)
		p = json_pack("{s:s}", "ref", "v:0");
	else if (op == OP_IMPORT)
		p = json_pack("{s:I}", "pages", (json_int_t)NPAGES);
	else
		p = json_pack("{s:s,s:s,s:b}", "vm", "v", "cursor",
		    op == OP_EXACT ? "e" : "c", "exact", op == OP_EXACT);
	return call_fds(x, method[op], p, &import_fd, op == OP_IMPORT ? 1 : 0);
}

static json_int_t int_of(const json_t *m, const char *key)
{
	return json_integer_value(
	    json_object_get(json_object_get(m, "result"), key));
}

/* Of a heatmap with a page a cell: how many are in the newest layer. */
static uint32_t newest_cells(struct world *x)
{
	uint64_t cell[NPAGES][3];
	uint32_t n = 0;

	assert_int_equal(x->nfds, 2);
	assert_int_equal(
	    pread(x->fds[0], cell, sizeof(cell), 0), (ssize_t)sizeof(cell));
	for (uint64_t i = 0; i < NPAGES; i++) {
		assert_int_equal(cell[i][0], cell[i][1] != UINT64_MAX);
		assert_int_equal(cell[i][1], cell[i][2]);
		n += cell[i][1] == 0;
	}
	return n;
}

/* One snapshot that has no name is owned, and has the bytes (truth). */
static void some_owned(struct world *x, const uint64_t *truth)
{
	json_t *r = must(x, "snapshot.list", json_object());
	json_t *list = json_object_get(r, "snapshots");
	bool found = false;

	for (size_t i = 0; i < json_array_size(list) && !found; i++) {
		json_t *s = json_array_get(list, i);
		char id[32];

		if (!json_is_true(json_object_get(s, "owned")))
			continue;
		(void)snprintf(id, sizeof(id), "%lld",
		    (long long)json_integer_value(json_object_get(s, "id")));
		must_do(x, "view.adopt", hand_params(&x->fake[1], id));
		found = memcmp(x->fake[1].truth, truth,
			    NPAGES * sizeof(truth[0])) == 0;
	}
	assert_true(found);
	json_decref(r);
}

/* That the operation, which succeeded at last, was right. */
static void op_check(
    struct world *x, enum op op, const json_t *m, const uint64_t *truth)
{
	struct fake *w = &x->fake[1];
	uint64_t tags[NPAGES];
	char id[32];

	(void)snprintf(
	    id, sizeof(id), "%lld", (long long)int_of(m, "snapshot"));
	if (op == OP_SEVER) {
		/* The first try may have succeeded and not been told. */
		some_shows(x, truth);
	} else if (op == OP_SEVER_OWNED) {
		some_owned(x, truth);
	} else if (op == OP_ADOPT) {
		assert_memory_equal(w->truth, truth, sizeof(tags));
	} else if (op == OP_SEAL) {
		assert_memory_equal(w->mapped, truth, sizeof(tags));
		shows(x, "o", truth);
	} else if (op == OP_GIVE) {
		must_do(x, "vm.take", hand_params(w, "o"));
		assert_true(is_owned(x, "o"));
	} else if (op == OP_FREEZE || op == OP_IMPORT || op == OP_MELD) {
		shows(x, id, truth);
	} else if (op == OP_TRACKED) {
		shows(x, id, truth);
		must_do(x, "snapshot.meld", meld_params("base", id, "b"));
	} else if (op == OP_TOUCHED) {
		assert_int_equal(int_of(m, "pages"), NPAGES);
	} else if (op == OP_MAP || op == OP_MAP_PRIVATE) {
		assert_memory_equal(w->mapped, truth, sizeof(tags));
	} else if (op == OP_OPEN) {
		show_runs(x->fds[0], x->fds + 1, (uint32_t)x->nfds - 1, tags);
		assert_memory_equal(tags, truth, sizeof(tags));
		drop_fds(x);
	} else if (op == OP_HEAT) {
		assert_int_equal(newest_cells(x), NPAGES / 4);
		drop_fds(x);
	} else if (op == OP_SHOW) {
		assert_int_equal(int_of(m, "pages"), NPAGES);
	} else if (op == OP_DIRTY || op == OP_EXACT) {
		assert_int_equal(int_of(m, "pages"), NPAGES / 4);
	} else {
		assert_int_equal(int_of(m, "pages"), NPAGES / 2);
	}
	if (op < OP_TRACKED)
		shows(x, "s2", x->fake[2].truth);
}

static int import_file(const uint64_t *truth)
{
	int fd = new_layer(NPAGES);

	for (uint64_t i = 0; i < NPAGES; i++)
		if (truth[i] != 0)
			put_page(fd, i, truth[i]);
	assert_int_equal(seal(fd), 0);
	return fd;
}

/* Its guest makes segment "p", whose history is private. */
static void make_private(struct world *x, struct fake *f)
{
	struct wire_segment w = {
	    .id = 5,
	    .flags = FIRN_SEG_PRIVATE,
	    .gpa = 1ULL << 41,
	    .size = NPAGES * PAGE_SIZE,
	    .name = "p",
	};
	char none[FIRN_NAME_MAX] = "none";

	assert_int_equal(guest_asks(x, f, WIRE_G_SEGMENT, &w, sizeof(w)), 0);
	say(f, WIRE_SEG_MADE, 0, 0, &w, sizeof(w), NULL, 0);
	/* What is answered came after it. */
	assert_int_equal(
	    guest_asks(x, f, WIRE_G_LOOKUP, none, sizeof(none)), -ENOENT);
}

static json_t *freeze_of(const struct fake *f, enum op op, const char *name)
{
	json_t *p = freeze_params(f, name);

	if (op == OP_MAP_PRIVATE)
		(void)json_object_set_new(p, "segment", json_string("p"));
	return p;
}

/* With two snapshots, one of them scattered, a cursor of each kind, and pages
 * written since: (truth) is what the operation must show. */
static void prepare(struct world *x, enum op op, uint64_t *truth)
{
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *g = launch_vm(x, 1, "w");

	if (op >= OP_SEVER_OWNED) {
		lend_memory(x, f);
		guest_writes(f, 0, 1, 77);
		memcpy(truth, f->truth, sizeof(f->truth));
		if (op != OP_SEVER_OWNED)
			must_do(x, "segment.sever", freeze_params(f, "o"));
		return;
	}
	if (op >= OP_TRACKED) {
		prepare_meld(x, f, g);
		guest_writes(f, 2, 8, 1);
		memcpy(truth, f->truth, sizeof(f->truth));
		if (op == OP_MELD)
			melded_truth(truth);
		return;
	}
	if (op == OP_MAP_PRIVATE)
		make_private(x, f);
	guest_writes(f, 0, 1, 1000);
	must_do(x, "segment.freeze", freeze_of(f, op, "s1"));
	guest_writes(f, 1, 2, 500000);
	must_do(x, "segment.freeze", freeze_of(f, op, "s2"));
	memcpy(x->fake[2].truth, f->truth, sizeof(f->truth));
	must_do(
	    x, "dirty.query", json_pack("{s:s,s:s}", "vm", "v", "cursor", "c"));
	must_do(x, "dirty.query",
	    json_pack("{s:s,s:s,s:b}", "vm", "v", "cursor", "e", "exact", 1));
	if (op != OP_MAP && op != OP_MAP_PRIVATE && op != OP_OPEN)
		guest_writes(f, 2, 4, 900000);
	memcpy(truth, f->truth, sizeof(f->truth));
}

/* One operation with one failure; whether there was any. */
static bool try_failing(struct world *x, enum op op, int n, rlim_t slack)
{
	uint64_t truth[NPAGES];
	bool fired;
	json_t *m;
	int fd;

	prepare(x, op, truth);
	fd = op == OP_IMPORT ? import_file(truth) : -1;
	hook.slack = slack;
	atomic_store(&hook.left, n);
	atomic_store(&hook.fired, false);
	atomic_store(&hook.armed, true);
	m = op_call(x, op, fd);
	atomic_store(&hook.armed, false);
	fired = atomic_load(&hook.fired) || (slack > 0 && !(m && good(m)));
	if (m == NULL || !good(m)) {
		bool late = m == NULL || strstr(why(m), "succeeded") != NULL;

		json_decref(m);
		m = op_call(x, op, fd);
		/* What was moved and not told of is there no more. */
		if (late && (op == OP_ADOPT || op == OP_GIVE) && m != NULL &&
		    !good(m))
			(void)json_object_set_new(m, "result", json_object());
		if (m == NULL || !good(m))
			fail_msg("operation %d, failure %d: then %s", op, n,
			    m == NULL ? "cut off" : why(m));
		/* What was done though not told is done no more. */
		if (!late || op < OP_DIRTY || op >= OP_SEVER_OWNED)
			op_check(x, op, m, truth);
	} else {
		op_check(x, op, m, truth);
	}
	json_decref(m);
	if (fd >= 0)
		(void)close(fd);
	end_vm(x, &x->fake[0]);
	end_vm(x, &x->fake[1]);
	nothing_left(x);
	return fired;
}

/* Every call at first; later ones are the nodes of a page map, all alike. */
#define STRIDE 48

static void one_call_fails(void **state)
{
	for (enum op op = 0; op < OP_END; op++) {
		int n = 1;

		while (try_failing(*state, op, n, 0))
			n += 1 + n / STRIDE;
		assert_true(n > 1);
		print_message("operation %d: to call %d\n", op, n - 1);
	}
}

/* The same with those of jansson, which are many and alike. */
static void one_json_call_fails(void **state)
{
	hook.json = true;
	for (enum op op = 0; op < OP_END; op++) {
		int n = 1;

		while (try_failing(*state, op, n, 0))
			n += 1 + n / 8;
		assert_true(n > 1);
	}
}

static void descriptors_run_out(void **state)
{
	struct world *x = *state;

	for (enum op op = 0; op < OP_END; op++) {
		rlim_t slack = 1;

		while (try_failing(x, op, 0, slack))
			slack++;
		print_message("operation %d: %d descriptors\n", op, (int)slack);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(freeze_map_diff),
	    T(rewritten_pages),
	    T(lists_in_parts),
	    T(refusal_ends_nothing),
	    T(severed_is_kept),
	    T(hostile_freezes),
	    T(hostile_maps_and_queries),
	    T(silent_monitor),
	    T(deaf_monitor),
	    T(flood),
	    T(hostile_calls),
	    T(exact_of_guests),
	    T(melds),
	    T(descendants),
	    T(hostile_sets),
	    T(owned_changes_hands),
	    T(kept_memory),
	    T(hostile_owners),
	    T(refused_adoptions),
	    T(clients_go),
	    T(one_call_fails),
	    T(one_json_call_fails),
	    T(descriptors_run_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
