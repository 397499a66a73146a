/* SPDX-License-Identifier: MIT */
/*
 * Monitors that answer late, each in its own time, of places that are frozen,
 * severed, mapped, adopted, moved and unmapped all at once, and among them one
 * that lies, keeps what it was lent, or dies at any moment. Whatever happens:
 * what an honest one froze has its bytes, what is owned has one capability,
 * every request is answered, and nothing is left. FIRN_SEED=N repeats a run.
 */
#include "tests/unit/storm.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

#define ROUNDS   20u
#define STEPS    150
#define TOGETHER 4 /* rounds, until all is dropped */

static void turn(struct storm *s)
{
	pump(s->x);
	hear(s);
	for (int i = 0; i < VMS; i++)
		if (!lives(&s->vm[i]))
			model_end(&s->vm[i]);
	if (one_in(s, 4))
		storm_check(s);
}

/* With what is owned given to it, perhaps: it may die before it begins. */
static bool start_vm(struct storm *s, int i, bool gives)
{
	static const char *const name[VMS] = {"v", "w", "evil"};
	struct fake *f = &s->x->fake[i];
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int fds[4] = {null, null, null, null};
	json_t *give = json_array();
	bool dies = one_in(s, 6);

	memset(f, 0, sizeof(*f));
	f->sock = f->memory = f->kept = -1;
	(void)snprintf(f->name, sizeof(f->name), "%s", name[i]);
	f->answers = queues;
	f->ctx = &s->vm[i];
	if (gives)
		(void)json_array_append_new(give,
		    with(with(json_object(), "name", json_string("given")),
			"ref",
			json_sprintf("%llu", (unsigned long long)any_snap(s))));
	request(s->x, "vm.launch",
	    json_pack("{s:[s],s:s,s:I,s:b,s:o}", "args", "prog", "name",
		f->name, "mem", (json_int_t)(NPAGES * PAGE_SIZE), "detach", 1,
		"give", give),
	    fds, 4);
	expect(s, "vm.launch", 0);
	hook.pid = 0;
	while (hook.pid == 0 && s->nasked > 0)
		turn(s);
	(void)close(null);
	if (hook.pid == 0)
		return false; /* what it was to be given is not to be had */
	f->sock = hook.monitor;
	f->pid = hook.pid;
	f->used = true;
	model_begin(&s->vm[i]);
	if (dies)
		kill_vm(&s->vm[i]);
	else
		say(f, WIRE_READY, 0, 0, NULL, 0, NULL, 0);
	while (s->nasked > 0)
		turn(s);
	return true;
}

static void end_now(struct storm *s, int i)
{
	kill_vm(&s->vm[i]);
	while (lives(&s->vm[i]))
		turn(s);
	model_end(&s->vm[i]);
}

/* Everything that was asked is answered. */
static void settle(struct storm *s)
{
	uint64_t end = now() + PATIENCE_NS;

	end_now(s, EVIL);
	while (s->nasked > 0 || s->vm[0].nqueue + s->vm[1].nqueue > 0) {
		for (int i = 0; i < EVIL; i++)
			serve_one(&s->vm[i]);
		turn(s);
		if (now() > end)
			fail_msg("%u requests are not answered", s->nasked);
	}
}

static void step(struct storm *s)
{
	for (int i = 0; i < VMS; i++) {
		struct svm *v = &s->vm[i];

		if (!lives(v))
			continue;
		if (one_in(s, 3))
			guest_asks_any(v);
		if (one_in(s, 12))
			guest_unmaps(v);
		for (uint32_t k = pick(s, 4); k > 0; k--)
			serve_one(v);
	}
	if (lives(&s->vm[EVIL]))
		evil_acts(&s->vm[EVIL]);
	for (uint32_t k = pick(s, 4); k > 0; k--)
		client_asks(s);
	if (one_in(s, 150))
		kill_vm(&s->vm[pick(s, EVIL)]);
	if (one_in(s, 100)) {
		connect_client(s->x);
		s->nasked = 0;
	}
	turn(s);
}

static bool is_closing(struct broker *b)
{
	struct layer_totals sum;

	for (const struct bvm *v = b->vms; v != NULL; v = v->next)
		if (v->state != VM_EXITED)
			return true;
	layer_set_totals(b->layers, &sum);
	return sum.files > 0;
}

/* Much is closed by a worker, and who hung up is given time to end. */
static void wait_for_closing(struct storm *s)
{
	uint64_t end = now() + PATIENCE_NS;

	while (is_closing(s->x->b) && now() < end)
		pump(s->x);
}

/* All is dropped, and nothing is left. */
static void drop(struct storm *s)
{
	for (int k = 0; k < EVIL; k++)
		end_now(s, k);
	drop_all(s->x);
	wait_for_closing(s);
	nothing_left(s->x);
	s->nknown = s->nlifted = 0;
}

static struct storm *storm_new(struct world *x)
{
	struct storm *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	s->x = x;
	s->rng = chance_begin("storm");
	for (int i = 0; i < VMS; i++) {
		s->vm[i].s = s;
		s->vm[i].f = &x->fake[i];
		s->vm[i].evil = i == EVIL;
	}
	return s;
}

static void storm(void **state)
{
	uint32_t rounds = chance_small() ? ROUNDS / 4 : ROUNDS;
	struct storm *s = storm_new(*state);
	uint32_t fds = 0;

	for (uint32_t i = 0; i < rounds; i++) {
		for (int k = 0; k < VMS; k++)
			if (!lives(&s->vm[k]) && !start_vm(s, k, one_in(s, 2)))
				(void)start_vm(s, k, false);
		for (int k = 0; k < STEPS; k++)
			step(s);
		settle(s);
		storm_look(s);
		if (i % TOGETHER != TOGETHER - 1)
			continue;
		drop(s);
		if (fds == 0)
			fds = settled_fds(s->x, UINT32_MAX);
		assert_true(settled_fds(s->x, fds) <= fds);
	}
	print_message("%u of %u requests done, %u comparisons\n", s->ngood,
	    s->ndone, s->nchecked);
	free(s);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(storm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
