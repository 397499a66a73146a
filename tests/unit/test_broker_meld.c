/* SPDX-License-Identifier: MIT */
/* Tracked views, what descends of them and what is melded of them. */
#include "tests/unit/broker_world.h"

#include <string.h>

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

/* Where no errand is over at once. */
#define TA(f) cmocka_unit_test_setup_teardown(f, setup_away, teardown)
#define T(f)  cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(melds),
	    T(descendants),
	    T(hostile_sets),
	    TA(melds),
	    TA(descendants),
	    TA(hostile_sets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
