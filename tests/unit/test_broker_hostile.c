/* SPDX-License-Identifier: MIT */
/* Monitors that answer wrongly, not at all or without end: they are ended, and
 * nobody else notices. */
#include "tests/unit/broker_world.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

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

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(hostile_freezes),
	    T(hostile_maps_and_queries),
	    T(silent_monitor),
	    T(deaf_monitor),
	    T(flood),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
