/* SPDX-License-Identifier: MIT */
/* wrap: close */
/* The broker's loop closes nothing that a client or a monitor sent. */
#include "tests/unit/broker_world.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/closes.h"
#include "vmm/core/fdmsg.h"

static int file; /* that others send: a memfd, sealed, of two pages */

static int setup_closes(void **state)
{
	int rc = setup(state);

	file = new_layer(2);
	assert_int_equal(seal(file), 0);
	closes_count(closes_key(file));
	return rc;
}

static int teardown_closes(void **state)
{
	closes_count(0);
	(void)close(file);
	return teardown(state);
}

/* So many are closed, by another thread but for (here). */
static void closed(struct world *x, int here, int away)
{
	while (atomic_load(&closes_away) < away) {
		pump(x);
		assert_in_range(atomic_load(&closes_here), 0, here);
	}
	for (int i = 0; i < 3; i++)
		pump(x);
	assert_int_equal(atomic_load(&closes_away), away);
	assert_int_equal(atomic_load(&closes_here), here);
	closes_count(closes_key(file));
}

static void refused(
    struct world *x, const char *method, json_t *params, int nfds)
{
	int fds[4] = {file, file, file, file};
	json_t *m = call_fds(x, method, params, fds, (size_t)nfds);

	assert_non_null(m);
	assert_false(good(m));
	json_decref(m);
	closed(x, 0, nfds);
}

static void what_clients_sent(void **state)
{
	struct world *x = *state;
	int loose = new_layer(2);

	refused(x, "snapshot.import", json_pack("{s:I}", "pages", 0LL), 1);
	refused(x, "snapshot.import",
	    json_pack("{s:I,s:s}", "pages", 2LL, "name", "no name"), 1);
	refused(x, "snapshot.import", json_pack("{s:I}", "pages", 3LL), 1);
	refused(x, "vm.launch", json_pack("{s:[]}", "args"), 4);
	closes_count(closes_key(loose));
	json_decref(call_fds(
	    x, "snapshot.import", json_pack("{s:I}", "pages", 2LL), &loose, 1));
	closed(x, 0, 1);
	(void)__real_close(loose);
	nothing_left(x);
}

/* A layer of other size than was said: what the layers opened themselves, and
 * what came, which is not the last any more. */
static void what_was_a_layer(void **state)
{
	struct world *x = *state;
	json_t *m = call_fds(
	    x, "snapshot.import", json_pack("{s:I}", "pages", 1LL), &file, 1);

	assert_false(good(m));
	json_decref(m);
	closed(x, 1, 1);
	nothing_left(x);
}

static void what_nobody_takes(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	int fds[FDMSG_MAX];

	for (int i = 0; i < FDMSG_MAX; i++)
		fds[i] = file;
	say(f, WIRE_G_LOOKUP, 1, 0, "", 0, fds, 7);
	closed(x, 0, 7);
	/* More than a packet has, and none. */
	closes_count(closes_key(file));
	assert_int_equal(
	    fdmsg_send(f->sock, "garbage", 7, fds, FDMSG_MAX, 0), 7);
	closed(x, 0, FDMSG_MAX);
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
	nothing_left(x);
}

/* The kernel closes what is in a socket with the socket. */
static void what_nobody_reads(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");

	f->used = false; /* it hangs up only when the test does */
	closes_count(CLOSES_SOCKETS);
	(void)fdmsg_send(f->sock, "garbage", 7, &file, 1, 0);
	(void)fdmsg_send(f->sock, "garbage", 7, &file, 1, 0);
	closed(x, 0, 1);
	f->used = true;
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
	nothing_left(x);
}

static bool answers_file(struct fake *f)
{
	struct wire_frozen w = {.npages = NPAGES,
	    .nsteps = 1,
	    .step[0] = {.has_layer = 1, .first = 1, .layer_npages = 3}};
	const struct wire_dirtied d = {.npages = NPAGES};
	const int fds[3] = {file, file, file};

	if (f->p.m.type == WIRE_FREEZE)
		reply(f, 0, &w, sizeof(w), fds, 3);
	else if (f->p.m.type == WIRE_DIRTY)
		reply(f, 0, &d, sizeof(d), fds, 1);
	else
		return false;
	return true;
}

/* What answers brought, of which each is wrong. */
static void what_is_answered(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");

	f->answers = answers_file;
	must_fail(x, "segment.freeze", freeze_params(f, "s"));
	closed(x, 0, 3);
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
	f = launch_vm(x, 0, "w");
	f->answers = answers_file;
	must_fail(
	    x, "dirty.query", json_pack("{s:s,s:s}", "vm", "w", "cursor", "c"));
	closed(x, 0, 1);
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", "w"));
	nothing_left(x);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup_closes, teardown_closes)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(what_clients_sent),
	    T(what_was_a_layer),
	    T(what_nobody_takes),
	    T(what_nobody_reads),
	    T(what_is_answered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
