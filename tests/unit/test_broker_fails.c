/* SPDX-License-Identifier: MIT */
/*
 * Every operation of clients under a broker that runs out of memory or of
 * descriptors, at each step in turn: asked again it succeeds and is right.
 */
#include "tests/unit/broker_world.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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
	arm(n);
	m = op_call(x, op, fd);
	fired = disarm() || (slack > 0 && !(m && good(m)));
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

/* Every call at first; later ones are the nodes of a page map, all alike. Fewer
 * of them where threads are looked at, which takes five times as long. */
#ifdef __SANITIZE_THREAD__
#define STRIDE 8
#else
#define STRIDE 48
#endif

static void fail_each_call(struct world *x, enum op op)
{
	int n = 1;

	while (try_failing(x, op, n, 0))
		n += 1 + n / STRIDE;
	assert_true(n > 1);
	print_message("operation %d: to call %d\n", op, n - 1);
}

static void one_call_fails(void **state)
{
	for (enum op op = 0; op < OP_END; op++)
		fail_each_call(*state, op);
}

/* The same of those that a worker does only where they are long. */
static void one_call_of_a_worker_fails(void **state)
{
	static const enum op away[] = {
	    OP_MAP, OP_MAP_PRIVATE, OP_OPEN, OP_DIRTY, OP_TOUCHED};

	for (size_t i = 0; i < sizeof(away) / sizeof(away[0]); i++)
		fail_each_call(*state, away[i]);
}

/* The same with those of jansson, which are many and alike. */
static void one_json_call_fails(void **state)
{
	atomic_store(&hook.json, true);
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

/* Where no errand is over at once. */
#define TA(f) cmocka_unit_test_setup_teardown(f, setup_away, teardown)
#define T(f)  cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(one_call_fails),
	    T(one_json_call_fails),
	    T(descriptors_run_out),
	    TA(one_call_of_a_worker_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
