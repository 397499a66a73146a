/* SPDX-License-Identifier: MIT */
/* The worlds of tests of the broker, and what those tests share. */
#include "tests/unit/broker_world.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int start(void **state, uint64_t bank)
{
	struct world *x = calloc(1, sizeof(*x));
	struct broker_conf conf = {.monitor = "played", .bank_bytes = bank};
	struct err e;

	ours = true;
	assert_non_null(x);
	memset(&hook, 0, sizeof(hook));
	json_set_alloc_funcs(json_memory, free);
	x->nfds_before = count_fds();
	x->fd = -1;
	x->in = malloc(LINE_BYTES);
	assert_non_null(x->in);
	assert_int_equal(loop_new(&x->l, &e), 0);
	assert_int_equal(broker_new(&x->b, x->l, &conf, &e), 0);
	connect_client(x);
	*state = x;
	return 0;
}

int setup(void **state)
{
	return start(state, 0);
}

int setup_poor(void **state)
{
	return start(state, (NPAGES + NPAGES / 2) * PAGE_SIZE);
}

int setup_away(void **state)
{
	int rc = setup(state);

	hook.away = true;
	return rc;
}

int teardown(void **state)
{
	struct world *x = *state;

	atomic_store(&hook.hold_seals, false);
	atomic_store(&hook.hold_errand, 0);
	drop_fds(x);
	(void)close(x->fd);
	broker_free(x->b);
	loop_free(x->l);
	for (int i = 0; i < FAKES_MAX; i++) {
		struct fake *f = &x->fake[i];

		for (uint32_t k = 0; k < f->nlayers; k++)
			(void)close(f->layer[k]);
		if (f->used && f->sock >= 0)
			(void)close(f->sock);
		if (f->used && f->memory >= 0)
			(void)close(f->memory);
	}
	assert_int_equal(count_fds(), x->nfds_before);
	free(x->in);
	free(x);
	return 0;
}

/* A running VM called (name) of which (f) is the monitor. */
struct fake *launch_vm(struct world *x, int i, const char *name)
{
	struct fake *f = &x->fake[i];
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int fds[4] = {null, null, null, null};
	json_t *m;

	if (f->used && f->sock >= 0)
		(void)close(f->sock);
	if (f->used && f->memory >= 0)
		(void)close(f->memory);
	*f = (struct fake){.first = true,
	    .next_id = 100,
	    .sock = -1,
	    .memory = -1,
	    .kept = -1};
	(void)snprintf(f->name, sizeof(f->name), "%s", name);
	drop_fds(x);
	request(x, "vm.launch",
	    json_pack("{s:[s],s:s,s:I,s:b}", "args", "prog", "name", name,
		"mem", (json_int_t)(NPAGES * PAGE_SIZE), "detach", 1),
	    fds, 4);
	hook.pid = 0;
	while (hook.pid == 0)
		pump(x);
	f->sock = hook.monitor;
	f->pid = hook.pid;
	f->used = true;
	say(f, WIRE_READY, 0, 0, NULL, 0, NULL, 0);
	m = answer(x);
	if (!good(m))
		fail_msg("launch: %s", why(m));
	json_decref(m);
	(void)close(null);
	return f;
}

void end_vm(struct world *x, struct fake *f)
{
	json_t *m = call(x, "vm.kill", json_pack("{s:s}", "vm", f->name));

	json_decref(m);
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", f->name));
}

json_t *freeze_params(const struct fake *f, const char *name)
{
	return json_pack("{s:s,s:s}", "vm", f->name, "name", name);
}

void tags_of(struct world *x, const char *snap, uint64_t *tags)
{
	json_t *r =
	    must(x, "snapshot.open", json_pack("{s:s}", "snapshot", snap));

	assert_true(x->nfds >= 1);
	show_runs(x->fds[0], x->fds + 1, (uint32_t)x->nfds - 1, tags);
	json_decref(r);
	drop_fds(x);
}

/* The snapshot has the bytes (truth). */
void shows(struct world *x, const char *snap, const uint64_t *truth)
{
	uint64_t tags[NPAGES];

	tags_of(x, snap, tags);
	assert_memory_equal(tags, truth, sizeof(tags));
}

/* One snapshot that has no name does. */
void some_shows(struct world *x, const uint64_t *truth)
{
	json_t *r = must(x, "snapshot.list", json_object());
	json_t *list = json_object_get(r, "snapshots");
	uint64_t tags[NPAGES];
	bool found = false;

	for (size_t i = 0; i < json_array_size(list) && !found; i++) {
		json_t *s = json_array_get(list, i);
		char id[32];

		if (json_string_length(json_object_get(s, "name")) != 0)
			continue;
		(void)snprintf(id, sizeof(id), "%lld",
		    (long long)json_integer_value(json_object_get(s, "id")));
		tags_of(x, id, tags);
		found = memcmp(tags, truth, sizeof(tags)) == 0;
	}
	assert_true(found);
	json_decref(r);
}

void drop_all(struct world *x)
{
	json_t *r = must(x, "snapshot.list", json_object());
	json_t *list = json_object_get(r, "snapshots");

	for (size_t i = 0; i < json_array_size(list); i++) {
		char id[32];

		(void)snprintf(id, sizeof(id), "%lld",
		    (long long)json_integer_value(
			json_object_get(json_array_get(list, i), "id")));
		must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", id));
	}
	json_decref(r);
}

/* The first figure of (r) that is not zero, or NULL. */
static const char *what_is_left(json_t *r)
{
	static const char *const zero[] = {"vms", "snapshots", "layers",
	    "layer_bytes", "nodes", "node_bytes", "records", "record_bytes",
	    "reserved_bytes"};

	for (size_t i = 0; i < sizeof(zero) / sizeof(zero[0]); i++)
		if (json_integer_value(json_object_get(r, zero[i])) != 0)
			return zero[i];
	return NULL;
}

/* Turns of the loop that a worker may take to end what nobody waits for. */
#define SETTLE_TURNS 5000

/* All VMs have ended and all snapshots are dropped: nothing is left, once the
 * workers have ended what they did for those who are gone. */
void nothing_left(struct world *x)
{
	const char *left = "";

	drop_all(x);
	for (int i = 0; i < SETTLE_TURNS && left != NULL; i++) {
		json_t *r = must(x, "service.stats", json_object());

		left = what_is_left(r);
		json_decref(r);
		if (left != NULL)
			pump(x);
	}
	if (left != NULL)
		fail_msg("%s are left", left);
}

/* Descriptors open once what was dropped has been closed by the worker, which
 * is waited for while there are more than (most). */
uint32_t settled_fds(struct world *x, uint32_t most)
{
	uint32_t n = count_fds();
	int same = 0;

	for (int i = 0; i < SETTLE_TURNS && same < 6; i++) {
		uint32_t was = n;

		pump(x);
		n = count_fds();
		same = n > most || n != was ? 0 : same + 1;
	}
	return n;
}

/* --- what tests of it share ----------------------------------------------- */

void others_live(struct world *x, struct fake *g)
{
	guest_writes(g, 3, 7, now() & 0xffffff);
	must_do(x, "segment.freeze", freeze_params(g, "good"));
	shows(x, "good", g->truth);
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "good"));
}

json_t *view_params(const struct fake *f, const char *name)
{
	return json_pack(
	    "{s:s,s:s,s:s}", "vm", f->name, "segment", "t", "name", name);
}

/* (f) shows (snap) in a tracked view, which is what it freezes. */
void track_view(struct world *x, struct fake *f, const char *snap)
{
	must_do(x, "view.map",
	    json_pack("{s:s,s:s,s:s,s:b,s:b}", "vm", f->name, "snapshot", snap,
		"name", "t", "cow", 1, "track", 1));
}

json_int_t stat_of(struct world *x, const char *key)
{
	json_t *r = must(x, "service.stats", json_object());
	json_int_t n = json_integer_value(json_object_get(r, key));

	json_decref(r);
	return n;
}

json_t *hand_params(const struct fake *f, const char *snap)
{
	return json_pack("{s:s,s:s}", "vm", f->name, "snapshot", snap);
}

/* From now on its memory is the broker's: a sever gives it owned. */
void lend_memory(struct world *x, struct fake *f)
{
	must_do(x, "segment.sever", freeze_params(f, "before"));
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "before"));
	assert_true(f->memory >= 0);
}

bool is_owned(struct world *x, const char *snap)
{
	json_t *r =
	    must(x, "snapshot.show", json_pack("{s:s}", "snapshot", snap));
	bool owned = json_is_true(json_object_get(r, "owned"));

	json_decref(r);
	return owned;
}

/* The newest place of (f). */
json_t *place_params(const struct fake *f, const char *name)
{
	char id[16];

	(void)snprintf(id, sizeof(id), "%u", f->next_id - 1);
	return json_pack("{s:s,s:s,s:s*}", "vm", f->name,
	    name == NULL ? "view" : "segment", id, "name", name);
}

int64_t guest_asks(struct world *x, struct fake *f, uint16_t type,
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

json_t *meld_params(const char *base, const char *a, const char *b)
{
	return json_pack("{s:s,s:s,s:s}", "base", base, "a", a, "b", b);
}

/* "base", and "a" and "b" of tracked views of it on two monitors. */
void prepare_meld(struct world *x, struct fake *f, struct fake *g)
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
void melded_truth(uint64_t *truth)
{
	for (uint64_t i = 0; i < NPAGES; i++)
		truth[i] = i + (i % 8 == 0      ? 500000
				   : i % 8 == 1 ? 700000
						: 1000);
}
