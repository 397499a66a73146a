/* SPDX-License-Identifier: MIT */
/*
 * What takes several turns of the loop: others have theirs between, and it is
 * over in order and leaves nothing, whatever ends meanwhile.
 */
/* wrap: map_walk */
#include "tests/unit/broker_world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/chance.h"
#include "vmm/broker/internal.h"

/* --- freezes -------------------------------------------------------------- */

#define TURNS 4

static uint64_t frozen[TURNS][NPAGES];
static uint32_t nfrozen;

/* Rounds of the loop until that many answers have come, all good. */
static unsigned rounds_until(struct world *x, unsigned n)
{
	unsigned before = x->rounds;

	while (n-- > 0) {
		json_t *m = answer(x);

		if (!good(m))
			fail_msg("%s", why(m));
		json_decref(m);
	}
	return x->rounds - before;
}

static bool answers_all_and_dies(struct fake *f)
{
	if (f->p.m.type != WIRE_FREEZE)
		return false;
	guest_writes(f, nfrozen, 2, 5000 * (nfrozen + 1));
	memcpy(frozen[nfrozen++], f->truth, sizeof(f->truth));
	answer_freeze(f);
	if (nfrozen == TURNS)
		(void)kill(f->pid, SIGKILL);
	return true;
}

/* The end of a VM waits for all that its monitor answered, which has its turns
 * as ever: of each of these, two. */
static void end_waits_its_turns(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	char name[16];

	nfrozen = 0;
	f->answers = answers_all_and_dies;
	for (int i = 0; i < TURNS; i++) {
		(void)snprintf(name, sizeof(name), "s%d", i);
		request(x, "segment.freeze", freeze_params(f, name), NULL, 0);
	}
	assert_true(rounds_until(x, TURNS) >= 2 * TURNS - 1);
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
	for (int i = 0; i < TURNS; i++) {
		(void)snprintf(name, sizeof(name), "s%d", i);
		shows(x, name, frozen[i]);
	}
	nothing_left(x);
}

/* The same where its guest unmaps what was frozen. */
static bool answers_and_unmaps(struct fake *f)
{
	struct wire_place w = {.id = f->next_id - 1};

	if (f->p.m.type != WIRE_FREEZE)
		return false;
	guest_writes(f, nfrozen, 2, 5000 * (nfrozen + 1));
	answer_freeze(f);
	memcpy(frozen[nfrozen++], f->truth, sizeof(f->truth));
	if (nfrozen < TURNS)
		return true;
	say(f, WIRE_SEG_GONE, 0, 0, &w, sizeof(w), NULL, 0);
	f->next_id--;
	f->answers = NULL;
	return true;
}

static void map_again(struct world *x)
{
	request(x, "view.map",
	    json_pack("{s:s,s:s,s:s,s:b,s:b}", "vm", "v", "snapshot", "s",
		"name", "again", "cow", 1, "track", 1),
	    NULL, 0);
}

/* It has as many places as it may, so that what comes next can only be in place
 * of what is about to end: it is not heard before. */
static void unmap_behind_freezes(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	json_int_t before;
	char name[16];

	guest_writes(f, 0, NPAGES, 10);
	must_do(x, "segment.freeze", freeze_params(f, "s"));
	before = stat_of(x, "reserved_bytes");
	for (unsigned i = 2; i < WIRE_SEGMENTS_MAX; i++)
		must_do(x, "view.map", hand_params(f, "s"));
	track_view(x, f, "s");
	nfrozen = 0;
	f->answers = answers_and_unmaps;
	for (int i = 0; i < TURNS; i++) {
		(void)snprintf(name, sizeof(name), "s%d", i);
		request(x, "segment.freeze", view_params(f, name), NULL, 0);
	}
	map_again(x);
	assert_true(rounds_until(x, TURNS + 1) >= 2 * TURNS - 1);
	for (int i = 0; i < TURNS; i++) {
		(void)snprintf(name, sizeof(name), "s%d", i);
		shows(x, name, frozen[i]);
	}
	must_do(x, "view.unmap",
	    json_pack("{s:s,s:s}", "vm", "v", "view", "again"));
	assert_int_equal(stat_of(x, "reserved_bytes"), before);
	end_vm(x, f);
	nothing_left(x);
}

/* --- maps of many runs ---------------------------------------------------- */

#define SCATTERED (32u * APPLY_RUNS)

static void begin_import(struct world *x)
{
	int fd = new_layer(2 * SCATTERED);

	for (uint64_t i = 0; i < SCATTERED; i++)
		assert_int_equal(
		    pwrite(fd, "x", 1, (off_t)(2 * i * PAGE_SIZE)), 1);
	assert_int_equal(seal(fd), 0);
	request(x, "snapshot.import",
	    json_pack(
		"{s:s,s:I}", "name", "i", "pages", (json_int_t)(2 * SCATTERED)),
	    &fd, 1);
	(void)close(fd);
}

static void import_in_turns(void **state)
{
	struct world *x = *state;
	json_t *r;

	begin_import(x);
	assert_true(rounds_until(x, 1) >= SCATTERED / APPLY_RUNS);
	r = must(x, "snapshot.show", json_pack("{s:s}", "snapshot", "i"));
	assert_int_equal(
	    json_integer_value(json_object_get(r, "extents")), SCATTERED);
	json_decref(r);
	nothing_left(x);
}

/* firnd ends, or the client goes, at any moment of it. */
static void import_interrupted(void **state)
{
	for (unsigned n = 1; n < 60; n++) {
		struct world *x = *state;

		begin_import(x);
		for (unsigned i = 0; i < n; i++)
			pump(x);
		if (n % 2 == 0) {
			connect_client(x);
			pump(x); /* it may be over before that is seen */
			pump(x);
			nothing_left(x);
		}
		assert_int_equal(teardown(state), 0);
		assert_int_equal(setup(state), 0);
	}
}

/* --- what is opened, while files are merged ---------------------------------
 */

#define FILLERS 127u

static void freeze_pages(
    struct world *x, struct fake *f, uint32_t from, uint32_t step, unsigned n)
{
	char name[16];

	guest_writes(f, from, step, 1000 * (n + 1));
	(void)snprintf(name, sizeof(name), "s%u", n);
	must_do(x, "segment.freeze", freeze_params(f, name));
}

/* All files of a user but what is mapped are one more than may be, once there
 * is a copy of s1: while what that is in is looked up, they are merged. The
 * client gets a file of the two pages of s1, and no others. */
static void open_while_merged(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	struct wire_closed none = {.id = 1};
	uint64_t end = now() + PATIENCE_NS;
	uint64_t was[NPAGES];
	uint64_t tags[NPAGES];
	struct stat st;
	json_t *m;

	freeze_pages(x, f, 0, NPAGES / 2, 0);
	freeze_pages(x, f, 0, NPAGES, 1);
	memcpy(was, f->truth, sizeof(was));
	for (unsigned i = 0; i < FILLERS; i++)
		freeze_pages(x, f, 1, NPAGES / 4, 2 + i);
	assert_int_equal(stat_of(x, "moved_files"), 0);
	atomic_store(&hook.hold_errand, 4); /* it is copied by the third */
	drop_fds(x);
	request(
	    x, "snapshot.open", json_pack("{s:s}", "snapshot", "s1"), NULL, 0);
	while (atomic_load(&hook.hold_errand) > 1 && now() < end)
		pump(x);
	/* Whatever is dropped may begin it. */
	for (int i = 0; i < 300; i++) {
		say(f, WIRE_G_CLOSED, 0, 0, &none, sizeof(none), NULL, 0);
		pump(x);
	}
	atomic_store(&hook.hold_errand, 0);
	m = answer(x);
	if (!good(m))
		fail_msg("%s", why(m));
	json_decref(m);
	assert_int_equal(x->nfds, 2);
	assert_int_equal(fstat(x->fds[1], &st), 0);
	assert_int_equal(st.st_blocks * 512, 2 * PAGE_SIZE);
	show_runs(x->fds[0], x->fds + 1, 1, tags);
	assert_memory_equal(tags, was, sizeof(tags));
	end_vm(x, f);
	nothing_left(x);
}

/* --- what nobody waits for any more ----------------------------------------
 */

enum walk { AS_EVER, TO_WAIT, WAITS, GOES_ON, OVER };

static atomic_int walk; /* what a worker's does */
static int walk_rc;

int __real_map_walk(const struct map *m, uint64_t first, uint64_t npages,
    map_run_fn *fn, void *ctx);
int __wrap_map_walk(const struct map *m, uint64_t first, uint64_t npages,
    map_run_fn *fn, void *ctx);

int __wrap_map_walk(const struct map *m, uint64_t first, uint64_t npages,
    map_run_fn *fn, void *ctx)
{
	uint64_t end = now() + PATIENCE_NS;
	int what = TO_WAIT;

	if (gettid() == getpid() ||
	    !atomic_compare_exchange_strong(&walk, &what, WAITS))
		return __real_map_walk(m, first, npages, fn, ctx);
	while (atomic_load(&walk) == WAITS && now() < end)
		(void)usleep(1000);
	walk_rc = __real_map_walk(m, first, npages, fn, ctx);
	atomic_store(&walk, OVER);
	return walk_rc;
}

static void pump_until(struct world *x, int what)
{
	uint64_t end = now() + PATIENCE_NS;

	while (atomic_load(&walk) != what && now() < end)
		pump(x);
	assert_int_equal(atomic_load(&walk), what);
}

/* A map may have many millions of runs: who asked goes, and it is not walked
 * to its end. */
static void shown_to_nobody(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");

	freeze_pages(x, f, 0, 2, 0);
	atomic_store(&walk, TO_WAIT);
	request(
	    x, "snapshot.show", json_pack("{s:s}", "snapshot", "s0"), NULL, 0);
	pump_until(x, WAITS);
	connect_client(x);
	must_do(x, "vm.list", json_object());
	must_do(x, "vm.list", json_object());
	atomic_store(&walk, GOES_ON);
	pump_until(x, OVER);
	atomic_store(&walk, AS_EVER);
	assert_int_equal(walk_rc, -ECANCELED);
	end_vm(x, f);
	nothing_left(x);
}

/* --- what was touched ----------------------------------------------------- */

#define TOUCHED 100003u

struct touched {
	uint64_t bits[2][(TOUCHED + 63) / 64];
	struct kin_sets told;
	struct sets_in in;
};

static void touch(struct touched *t)
{
	uint64_t rng = chance_begin("touched");
	const size_t nwords = sizeof(t->bits[0]) / 8;

	for (int k = 0; k < 2; k++)
		for (size_t i = 0; i < nwords; i++)
			t->bits[k][i] = chance(&rng, UINT64_MAX);
	assert_int_equal(
	    extset_of_bits(t->bits[1], TOUCHED, &t->told.reads), 0);
	assert_int_equal(
	    extset_of_bits(t->bits[0], TOUCHED / 2, &t->told.writes), 0);
	t->in = (struct sets_in){
	    .fd = wire_blob("sets", t->bits, sizeof(t->bits)),
	    .npages = TOUCHED,
	    .told = &t->told,
	};
}

static void untouch(struct touched *t)
{
	(void)close(t->in.fd);
	sets_end(&t->in);
	kin_sets_free(&t->told);
	free(t);
}

static void check_set(const struct extset *s, const uint64_t *bits)
{
	struct extset want;

	assert_int_equal(extset_of_bits(bits, TOUCHED, &want), 0);
	assert_int_equal(s->n, want.n);
	assert_int_equal(s->pages, want.pages);
	assert_memory_equal(s->x, want.x, want.n * sizeof(*want.x));
	extset_free(&want);
}

static void check_less(
    const struct extset *s, const uint64_t *bits, const struct extset *told)
{
	struct extset all;
	struct extset want;

	assert_int_equal(extset_of_bits(bits, TOUCHED, &all), 0);
	assert_int_equal(extset_less(&all, told, &want), 0);
	assert_int_equal(s->n, want.n);
	assert_memory_equal(s->x, want.x, want.n * sizeof(*want.x));
	extset_free(&all);
	extset_free(&want);
}

static void sets_in_turns(void **state)
{
	struct touched *t = calloc(1, sizeof(*t));
	unsigned turns = 1;

	(void)state;
	assert_non_null(t);
	touch(t);
	for (; sets_turn(&t->in) == 1; turns++)
		;
	assert_true(turns >= 6);
	check_set(&t->in.all.reads, t->bits[0]);
	check_set(&t->in.all.writes, t->bits[1]);
	check_less(&t->in.fresh.reads, t->bits[0], &t->told.reads);
	check_less(&t->in.fresh.writes, t->bits[1], &t->told.writes);
	untouch(t);
}

/* The monitor takes the memory away while it is read. */
static void sets_that_shrink(void **state)
{
	struct touched *t = calloc(1, sizeof(*t));

	(void)state;
	assert_non_null(t);
	touch(t);
	(void)close(t->in.fd);
	t->in.fd = new_layer(sizeof(t->bits) / PAGE_SIZE + 1);
	assert_int_equal(ftruncate(t->in.fd, sizeof(t->bits)), 0);
	assert_int_equal(
	    pwrite(t->in.fd, t->bits, sizeof(t->bits), 0), sizeof(t->bits));
	assert_int_equal(sets_turn(&t->in), 1);
	assert_int_equal(ftruncate(t->in.fd, PAGE_SIZE), 0);
	assert_int_equal(sets_turn(&t->in), -EPROTO);
	assert_int_equal(t->in.all.reads.n, 0);
	assert_int_equal(t->in.fresh.reads.n, 0);
	untouch(t);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(end_waits_its_turns),
	    T(unmap_behind_freezes),
	    T(import_in_turns),
	    T(import_interrupted),
	    cmocka_unit_test_setup_teardown(
		open_while_merged, setup_away, teardown),
	    T(shown_to_nobody),
	    cmocka_unit_test(sets_in_turns),
	    cmocka_unit_test(sets_that_shrink),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
