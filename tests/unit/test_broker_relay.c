/* SPDX-License-Identifier: MIT */
/*
 * Compaction of files that a monitor maps: the broker has the place moved, and
 * believes nothing that the monitor says of it. And each call that fails then.
 */
#include "tests/unit/broker_world.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define STALE (NPAGES / 4 * 3) /* pages of the first file that go */

static void guest_writes_first(struct fake *f, uint32_t n, uint64_t tag)
{
	for (uint32_t i = 0; i < n; i++) {
		f->truth[i] = tag + i;
		f->dirty[i] = f->written[i] = true;
	}
}

/* A mark, and with it compaction of what is due. */
static void tidy(struct world *x)
{
	json_decref(call(x, "service.stats", json_pack("{s:b}", "exact", 1)));
}

/*
 * "w", which shows "s" in a view: most pages from one file, and the rest from
 * one that is mostly dead. Nobody else has that: it is rewritten with the next
 * mark, and "w" is asked to move. (truth): what "s" has.
 */
static struct fake *ripe(struct world *x, uint64_t *truth)
{
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *w;

	guest_writes(f, 0, 1, 1000);
	must_do(x, "segment.freeze", freeze_params(f, "old"));
	guest_writes_first(f, STALE, 500000);
	must_do(x, "segment.freeze", freeze_params(f, "s"));
	memcpy(truth, f->truth, sizeof(f->truth));
	end_vm(x, f);
	w = launch_vm(x, 1, "w");
	must_do(
	    x, "view.map", json_pack("{s:s,s:s}", "vm", "w", "snapshot", "s"));
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "old"));
	return w;
}

static void wait_relay(struct world *x, struct fake *w)
{
	uint64_t end = now() + PATIENCE_NS;

	tidy(x);
	while (w->nrelays == 0 && now() < end)
		pump(x);
	assert_int_equal(w->nrelays, 1);
}

/* Files come to (n) once those that nothing needs are closed. */
static void files_become(struct world *x, json_int_t n)
{
	uint64_t end = now() + PATIENCE_NS;

	while (stat_of(x, "files") != n && now() < end)
		pump(x);
	assert_int_equal(stat_of(x, "files"), n);
}

static void all_end(struct world *x, struct fake *w)
{
	end_vm(x, w);
	nothing_left(x);
	files_become(x, 0);
}

static void is_moved(void **state)
{
	struct world *x = *state;
	uint64_t truth[NPAGES];
	struct fake *w = ripe(x, truth);

	wait_relay(x, w);
	assert_memory_equal(w->relayed, truth, sizeof(truth));
	files_become(x, 2);
	assert_int_equal(stat_of(x, "layer_bytes"), NPAGES * PAGE_SIZE);
	assert_int_equal(stat_of(x, "moved_places"), 1);
	shows(x, "s", truth);
	tidy(x);
	assert_int_equal(w->nrelays, 1);
	all_end(x, w);
}

/* --- what a place has twice ----------------------------------------------- */

struct copies {
	uint64_t cold;
	uint64_t warm;
	uint32_t relays;
};

/* A place is laid over its layers after a freeze where much is cold there, and
 * not more is warm. */
static void copies_are_given_back(void **state)
{
	static const struct copies c[] = {
	    {1023, 0, 0},
	    {1024, 1025, 0},
	    {1024, 1024, 1},
	    {UINT64_MAX, 0, 1},
	};
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");

	guest_writes_first(f, NPAGES, 1000);
	must_do(x, "segment.freeze", freeze_params(f, "one"));
	for (uint32_t i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
		uint32_t before = f->nrelays;
		char name[8] = {(char)('a' + i)};

		f->cold = c[i].cold;
		f->warm = c[i].warm;
		guest_writes_first(f, 7, 5000 * (i + 1));
		must_do(x, "segment.freeze", freeze_params(f, name));
		tidy(x);
		assert_int_equal(f->nrelays - before, c[i].relays);
		if (c[i].relays)
			assert_memory_equal(
			    f->relayed, f->truth, sizeof(f->truth));
		shows(x, name, f->truth);
	}
	assert_int_equal(stat_of(x, "moved_places"), 2);
	assert_int_equal(stat_of(x, "given_bytes"), 6 * PAGE_SIZE);
	assert_int_equal(stat_of(x, "relay_ns"), 14);
	all_end(x, f);
}

/* What cannot be is in nobody's sums. */
static void figures_of_a_relay_are_bounded(void **state)
{
	static const struct wire_relayed lie[] = {
	    {.given_pages = NPAGES + 1},
	    {.given_pages = UINT64_MAX, .pause_ns = 1},
	    {.given_pages = 1, .pause_ns = UINT64_MAX},
	};
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");

	guest_writes_first(f, NPAGES, 1000);
	must_do(x, "segment.freeze", freeze_params(f, "one"));
	f->cold = 1024;
	for (uint32_t i = 0; i < sizeof(lie) / sizeof(lie[0]); i++) {
		char name[8] = {(char)('a' + i)};

		f->lie = lie[i];
		guest_writes_first(f, 7, 5000 * (i + 1));
		must_do(x, "segment.freeze", freeze_params(f, name));
		tidy(x);
		shows(x, name, f->truth);
	}
	assert_int_equal(f->nrelays, 3);
	assert_int_equal(stat_of(x, "moved_places"), 3);
	assert_int_equal(stat_of(x, "given_bytes"), 0);
	assert_int_equal(stat_of(x, "relay_ns"), 0);
	all_end(x, f);
}

/* A layer of single pages costs a mapping for each: it is not worth that. */
static void scattered_copies_stay(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");

	guest_writes_first(f, NPAGES, 1000);
	must_do(x, "segment.freeze", freeze_params(f, "one"));
	for (uint32_t i = 0; i < NPAGES; i += 2) {
		f->truth[i] = 9000 + i;
		f->dirty[i] = f->written[i] = true;
	}
	f->cold = 1024; /* at most 512 runs then; it has 1024 */
	must_do(x, "segment.freeze", freeze_params(f, "two"));
	tidy(x);
	assert_int_equal(f->nrelays, 0);
	/* It is not for that one which will not be moved at all. */
	f->cold = 2048;
	guest_writes_first(f, 1, 77);
	must_do(x, "segment.freeze", freeze_params(f, "three"));
	tidy(x);
	assert_int_equal(f->nrelays, 1);
	assert_memory_equal(f->relayed, f->truth, sizeof(f->truth));
	all_end(x, f);
}

/* --- what it may answer, and what nobody would ---------------------------- */

enum lie {
	REFUSES,   /* and shows what it did */
	HALF_WAY,  /* some from the old files, some from the new */
	IS_LOST,   /* as it says itself */
	PROTOCOL,  /* the broker was wrong, it says */
	WILD,      /* no errno */
	CHATS,     /* all is well, with a payload and many descriptors */
	OTHER_SEQ, /* first an answer to nothing */
	OTHER_TYPE,
	TWICE,
	DIES_THEN,
	HANGS_UP_THEN,
	GARBAGE_THEN,
	LIES_END,
};

static enum lie lie;

static void send_lie(struct fake *f)
{
	static const int64_t status[] = {[REFUSES] = -EBUSY,
	    [HALF_WAY] = -EXDEV,
	    [IS_LOST] = -ENOTRECOVERABLE,
	    [PROTOCOL] = -EPROTO,
	    [WILD] = INT64_MIN,
	    [CHATS] = INT64_MAX};
	static unsigned char big[WIRE_PAYLOAD_MAX];
	int fds[WIRE_FDS_MAX];

	for (uint32_t i = 0; i < WIRE_FDS_MAX; i++)
		fds[i] = f->p.fd[0];
	if (lie == CHATS)
		reply(f, status[lie], big, sizeof(big), fds, WIRE_FDS_MAX);
	else if (lie < CHATS)
		reply(f, status[lie], "so\x1b", 3, NULL, 0);
	else if (lie == OTHER_SEQ)
		say(f, WIRE_RELAY | WIRE_REPLY, f->p.m.seq + 1, -EXDEV, NULL, 0,
		    fds, 3);
	else if (lie == OTHER_TYPE)
		say(f, WIRE_FREEZE | WIRE_REPLY, f->p.m.seq, -EXDEV, NULL, 0,
		    fds, 3);
	else if (lie == TWICE)
		reply(f, 0, NULL, 0, NULL, 0);
}

/* True answers follow what is no answer. */
static bool answers_lie(struct fake *f)
{
	if (f->p.m.type != WIRE_RELAY)
		return false;
	if (lie >= DIES_THEN) {
		f->nrelays++;
		(void)send(f->sock, "garbage", lie == GARBAGE_THEN ? 7 : 0,
		    MSG_NOSIGNAL);
		if (lie == HANGS_UP_THEN)
			(void)shutdown(f->sock, SHUT_RDWR);
		if (lie == DIES_THEN)
			(void)kill(f->pid, SIGKILL);
		return true;
	}
	send_lie(f);
	if (lie >= OTHER_SEQ)
		return false;
	f->nrelays++;
	return true;
}

/* Files that are left: of "s", and where the view may still show it the one
 * that was rewritten. */
static json_int_t files_after(enum lie l)
{
	return l == REFUSES || l == HALF_WAY ? 3 : 2;
}

static bool ends_by(enum lie l)
{
	return l == IS_LOST || l == PROTOCOL || l == WILD || l >= DIES_THEN;
}

/* What a place that is not moved keeps is in the bound, as pinned, and charged
 * to the user whose VM it is. */
static void bound_holds(struct world *x)
{
	json_t *r = must(x, "service.stats", json_pack("{s:b}", "exact", 1));
	json_int_t held = json_integer_value(json_object_get(r, "layer_bytes"));
	json_int_t live = json_integer_value(json_object_get(r, "live_bytes"));
	json_int_t pins =
	    json_integer_value(json_object_get(r, "pinned_bytes"));
	json_t *by = json_object_get(r, "pinned_by");
	json_int_t vms;
	json_int_t opened;

	assert_true(pins > 0 && held <= 2 * live + pins);
	assert_int_equal(json_array_size(by), 1);
	by = json_array_get(by, 0);
	vms = json_integer_value(json_object_get(by, "vm_bytes"));
	opened = json_integer_value(json_object_get(by, "client_bytes"));
	/* What both pin is told of both. */
	assert_true(vms > 0 && vms <= pins && vms + opened >= pins);
	json_decref(r);
}

static void lies_about_a_move(void **state)
{
	struct world *x = *state;
	uint64_t truth[NPAGES];
	uint32_t fds = 0;

	for (lie = 0; lie < LIES_END; lie++) {
		struct fake *g = launch_vm(x, 2, "bystander");
		struct fake *w = ripe(x, truth);

		w->answers = answers_lie;
		wait_relay(x, w);
		if (ends_by(lie))
			must_do(x, "vm.wait", json_pack("{s:s}", "vm", "w"));
		files_become(x, files_after(lie));
		shows(x, "s", truth);
		/* It is not asked again. */
		tidy(x);
		assert_int_equal(w->nrelays, 1);
		if (!ends_by(lie))
			bound_holds(x);
		others_live(x, g);
		if (!ends_by(lie))
			end_vm(x, w);
		assert_int_equal(w->nkills, lie == IS_LOST || lie == PROTOCOL ||
						lie == WILD || !ends_by(lie));
		end_vm(x, g);
		nothing_left(x);
		files_become(x, 0);
		if (fds == 0)
			fds = settled_fds(x, UINT32_MAX);
		assert_int_equal(settled_fds(x, fds), fds);
	}
}

/* --- the place goes meanwhile --------------------------------------------- */

static uint32_t asked; /* the sequence number of what was not answered */

static bool waits(struct fake *f)
{
	if (f->p.m.type != WIRE_RELAY)
		return false;
	asked = f->p.m.seq;
	f->nrelays++;
	return true;
}

/* The guest unmapped it before the request came, and the answer to that says
 * what it likes: then of a view that has the number of the one that went. */
static void place_went(void **state)
{
	static const int64_t status[] = {
	    0, -ENOENT, -EXDEV, -EBUSY, -ENOTRECOVERABLE};
	struct world *x = *state;
	uint64_t truth[NPAGES];

	for (int again = 0; again < 2; again++)
		for (size_t i = 0; i < sizeof(status) / sizeof(*status); i++) {
			struct fake *w = ripe(x, truth);
			struct wire_place gone = {.id = w->next_id - 1};

			w->answers = waits;
			wait_relay(x, w);
			say(w, WIRE_SEG_GONE, 0, 0, &gone, sizeof(gone), NULL,
			    0);
			w->next_id -= (uint32_t)again;
			if (again)
				must_do(x, "view.map", hand_params(w, "s"));
			say(w, WIRE_RELAY | WIRE_REPLY, asked, status[i], "why",
			    3, NULL, 0);
			for (int k = 0; k < 5; k++)
				pump(x);
			shows(x, "s", truth);
			all_end(x, w);
		}
}

/* A freeze that is asked for while the place moves is put over what it was. */
static void frozen_meanwhile(void **state)
{
	struct world *x = *state;
	uint64_t truth[NPAGES];
	struct fake *w = ripe(x, truth);
	char id[16];
	json_t *m;

	must_do(x, "view.unmap", place_params(w, NULL));
	must_do(x, "view.map",
	    json_pack("{s:s,s:s,s:b}", "vm", "w", "snapshot", "s", "cow", 1));
	(void)snprintf(id, sizeof(id), "%u", w->next_id - 1);
	w->first = false;
	memcpy(w->truth, w->mapped, sizeof(w->truth));
	w->answers = waits;
	wait_relay(x, w);
	guest_writes_first(w, 7, 42);
	request(x, "segment.freeze",
	    json_pack("{s:s,s:s,s:s}", "vm", "w", "segment", id, "name", "d"),
	    NULL, 0);
	m = answer(x);
	assert_true(good(m));
	json_decref(m);
	say(w, WIRE_RELAY | WIRE_REPLY, asked, 0, NULL, 0, NULL, 0);
	shows(x, "d", w->truth);
	shows(x, "s", truth);
	all_end(x, w);
}

/* What only the broker asks, and answers that nobody asked for. */
static void unasked(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct fake *g = launch_vm(x, 1, "bystander");
	int fd = new_layer(1);

	for (uint32_t seq = 0; seq < 20; seq++) {
		for (uint16_t t = 0; t < WIRE_TYPE_END; t++)
			say(f, t | WIRE_REPLY, seq, (int)seq - 10, &seq,
			    sizeof(seq), &fd, 1);
		for (int i = 0; i < 5; i++)
			pump(x);
	}
	guest_writes(f, 0, 2, 9);
	must_do(x, "segment.freeze", freeze_params(f, "s"));
	shows(x, "s", f->truth);
	assert_int_equal(f->nkills, 0);
	say(f, WIRE_RELAY, 1, 0, NULL, 0, &fd, 1);
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
	assert_int_equal(f->nkills, 1);
	(void)close(fd);
	others_live(x, g);
	end_vm(x, g);
	nothing_left(x);
}

/* --- what fails ----------------------------------------------------------- */

/* One call of compaction, or of what follows, fails: nothing is lost, and a
 * later mark does what this one did not. */
static bool try_failing(struct world *x, int n)
{
	uint64_t truth[NPAGES];
	struct fake *w = ripe(x, truth);
	bool fired;

	arm(n);
	tidy(x);
	for (int i = 0; i < 20; i++)
		pump(x);
	fired = disarm();
	for (int i = 0; i < 1000 && w->nrelays == 0; i++)
		tidy(x);
	assert_int_equal(w->nrelays, 1);
	assert_memory_equal(w->relayed, truth, sizeof(truth));
	files_become(x, 2);
	shows(x, "s", truth);
	all_end(x, w);
	return fired;
}

static void one_call_fails(void **state)
{
	int n = 1;

	while (try_failing(*state, n))
		n++;
	assert_true(n > 10);
	print_message("to call %d\n", n - 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(is_moved),
	    T(copies_are_given_back),
	    T(figures_of_a_relay_are_bounded),
	    T(scattered_copies_stay),
	    T(lies_about_a_move),
	    T(place_went),
	    T(frozen_meanwhile),
	    T(unasked),
	    T(one_call_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
