/* SPDX-License-Identifier: MIT */
/* What one holder alone has changes hands, and is lost by no failure. */
#include "tests/unit/broker_world.h"

#include <string.h>

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

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(owned_changes_hands),
	    T(kept_memory),
	    T(hostile_owners),
	    T(refused_adoptions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
