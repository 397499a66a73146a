/* SPDX-License-Identifier: MIT */
/*
 * Meld against arrays: random maps with random changes on both sides, random
 * sets that hold at least what changed. What conflicts, and where every page
 * of the result is, must be what a page by page look says. FIRN_SEED repeats a
 * run.
 */
#include "tests/chance.h"
#include "tests/unit/kinsets.h"
#include "vmm/kin/meld.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/unit.h"

#define NPAGES_MAX 3000
#define ROUNDS     400
#define STEPS_MAX  5

enum { BASE, A, B, MELD, NMAPS };

struct spot {
	uint32_t layer;
	uint64_t index;
};

struct world {
	uint64_t rng;
	uint64_t npages;
	uint32_t next_layer;
	long nodes;
	struct map_ops ops;
	struct map_store st;
	struct map map[NMAPS];
	struct spot at[NMAPS][NPAGES_MAX];
	bool r[2][NPAGES_MAX], w[2][NPAGES_MAX];
	struct kins all;
	struct kin *base, *tip[2];
	struct kin *alive[2 * STEPS_MAX]; /* besides base and the tips */
	int nalive;
	struct kin_sets sets[2];
};

static uint64_t rnd(struct world *w, uint64_t below)
{
	return chance(&w->rng, below);
}

static void *world_alloc(void *ctx, size_t len)
{
	((struct world *)ctx)->nodes++;
	return malloc(len);
}

static void world_free(void *ctx, void *p, size_t len)
{
	(void)len;
	((struct world *)ctx)->nodes--;
	free(p);
}

/* Write the marked pages of map (i): a layer of its own, dense, or zeroes. */
static void write_pages(struct world *x, int i, const bool *mark)
{
	struct page_run *r = calloc(x->npages, sizeof(*r));
	uint32_t layer = x->next_layer++;
	uint64_t index = 0;
	struct map next;
	size_t n = 0;

	for (uint64_t p = 0; p < x->npages; p++) {
		bool zero = rnd(x, 6) == 0;
		struct spot s = {zero ? RUN_ZERO : layer, zero ? 0 : index};

		if (!mark[p])
			continue;
		r[n++] = (struct page_run){
		    .page = p, .npages = 1, .layer = s.layer, .index = s.index};
		x->at[i][p] = s;
		index += zero ? 0 : 1;
	}
	assert_int_equal(map_apply(&x->st, &x->map[i], r, n, &next), 0);
	map_put(&x->st, &x->map[i]);
	x->map[i] = next;
	free(r);
}

static void random_marks(struct world *x, bool *mark, uint64_t most)
{
	uint64_t n = rnd(x, most + 1);

	memset(mark, 0, NPAGES_MAX * sizeof(*mark));
	while (n-- > 0) {
		uint64_t first = rnd(x, x->npages);
		uint64_t len = rnd(x, 4) == 0 ? rnd(x, 60) : 1;

		for (uint64_t p = first; p < x->npages && p <= first + len; p++)
			mark[p] = true;
	}
}

static struct extset set_of(struct world *x, const bool *mark)
{
	struct extset s = {0};

	for (uint64_t p = 0; p < x->npages; p++)
		if (mark[p])
			assert_int_equal(extset_add(&s, p, 1), 0);
	return s;
}

/* Side (i) goes on by one step: reads, writes, a freeze, a record. */
static void step(struct world *x, int i, uint64_t most)
{
	bool *read = calloc(NPAGES_MAX, 1);
	bool *wrote = calloc(NPAGES_MAX, 1);
	struct kin *k = kin_new(&x->all, 1);
	struct kin_sets s;

	random_marks(x, read, most);
	random_marks(x, wrote, most);
	write_pages(x, A + i, wrote);
	for (uint64_t p = 0; p < x->npages; p++) {
		x->r[i][p] |= read[p];
		x->w[i][p] |= wrote[p];
	}
	s = (struct kin_sets){set_of(x, read), set_of(x, wrote)};
	kin_descend(k, x->tip[i], 0);
	assert_int_equal(kin_track(k, &s), 0);
	if (x->tip[i] != x->base && rnd(x, 2) == 0)
		kin_died(x->tip[i]);
	else if (x->tip[i] != x->base)
		x->alive[x->nalive++] = x->tip[i];
	x->tip[i] = k;
	free(read);
	free(wrote);
}

/* What a look at each page says. */
static uint64_t model_conflicts(struct world *x, bool *ww, bool *rw)
{
	uint64_t n = 0;

	for (uint64_t p = 0; p < x->npages; p++) {
		ww[p] = x->w[0][p] && x->w[1][p];
		rw[p] = !ww[p] && ((x->w[0][p] && x->r[1][p]) ||
				      (x->r[0][p] && x->w[1][p]));
		n += ww[p] || rw[p];
	}
	return n;
}

static void check_set(struct world *x, const struct extset *s, const bool *want)
{
	uint64_t pages = 0;
	size_t k = 0;

	for (uint64_t p = 0; p < x->npages; p++) {
		while (k < s->n && s->x[k].first + s->x[k].npages <= p)
			k++;
		assert_int_equal(k < s->n && s->x[k].first <= p, want[p]);
		pages += want[p];
	}
	assert_int_equal(s->pages, pages);
}

static void check_result(struct world *x)
{
	for (uint64_t p = 0; p < x->npages; p++) {
		const struct spot *want = x->w[0][p]   ? &x->at[A][p]
					  : x->w[1][p] ? &x->at[B][p]
						       : &x->at[BASE][p];
		struct page_run got;

		assert_int_equal(map_lookup(&x->map[MELD], p, &got), 0);
		assert_int_equal(got.layer, want->layer);
		assert_int_equal(got.index, want->index);
	}
}

static bool try_meld(struct world *x)
{
	bool *ww = calloc(NPAGES_MAX, 1);
	bool *rw = calloc(NPAGES_MAX, 1);
	uint64_t want = model_conflicts(x, ww, rw);
	struct meld_conflicts c;
	struct page_run *runs = NULL;
	size_t n = 0;

	assert_int_equal(meld_conflicts(&x->sets[0], &x->sets[1], &c), 0);
	check_set(x, &c.write_write, ww);
	check_set(x, &c.read_write, rw);
	if (want == 0) {
		assert_int_equal(meld_runs(&x->map[A], &x->sets[0].writes,
				     &x->map[B], &x->sets[1].writes, &runs, &n),
		    0);
		assert_int_equal(run_list_check(runs, n, x->npages), 0);
		assert_int_equal(
		    map_apply(&x->st, &x->map[BASE], runs, n, &x->map[MELD]),
		    0);
		check_result(x);
		map_put(&x->st, &x->map[MELD]);
	}
	free(runs);
	meld_conflicts_free(&c);
	free(ww);
	free(rw);
	return want == 0;
}

static void begin(struct world *x)
{
	bool *all = calloc(NPAGES_MAX, 1);

	x->npages = 1 + rnd(x, NPAGES_MAX);
	map_store_init(&x->st, &x->ops);
	assert_int_equal(map_zero(x->npages, &x->map[BASE]), 0);
	for (uint64_t p = 0; p < x->npages; p++)
		x->at[BASE][p] = (struct spot){RUN_ZERO, 0};
	for (int i = 0; i < 3; i++) {
		random_marks(x, all, 20);
		write_pages(x, BASE, all);
	}
	for (int i = A; i <= B; i++) {
		x->map[i] = map_get(&x->st, &x->map[BASE]);
		memcpy(x->at[i], x->at[BASE], sizeof(x->at[i]));
	}
	memset(x->r, 0, sizeof(x->r));
	memset(x->w, 0, sizeof(x->w));
	x->base = kin_new(&x->all, 1);
	x->tip[0] = x->tip[1] = x->base;
	free(all);
}

/* The sets of both sides, united along what is left of their chains. */
static void unite(struct world *x)
{
	for (int i = 0; i < 2; i++) {
		bool tracked;

		assert_int_equal(
		    since(x->tip[i], x->base, &tracked, &x->sets[i]), 0);
		assert_true(tracked);
		check_set(x, &x->sets[i].reads, x->r[i]);
		check_set(x, &x->sets[i].writes, x->w[i]);
	}
}

/* Of one that was not tracked: its differences, and no reads. */
static void check_blind(struct world *x, int i)
{
	bool *want = calloc(NPAGES_MAX, 1);
	struct kin_sets s;

	for (uint64_t p = 0; p < x->npages; p++)
		want[p] = x->at[BASE][p].layer != x->at[A + i][p].layer ||
			  x->at[BASE][p].index != x->at[A + i][p].index;
	assert_int_equal(
	    meld_blind(&x->map[BASE], &x->map[A + i], NULL, NULL, &s), 0);
	check_set(x, &s.writes, want);
	assert_int_equal(s.reads.n, 0);
	kin_sets_free(&s);
	free(want);
}

static bool one_round(struct world *x)
{
	/* Few touched pages, so that half of the rounds meld. */
	uint64_t most = 1 + rnd(x, 6);
	bool melded;

	begin(x);
	for (int i = 0; i < 2; i++)
		for (uint64_t n = rnd(x, STEPS_MAX); n > 0; n--)
			step(x, i, most);
	unite(x);
	check_blind(x, 0);
	check_blind(x, 1);
	melded = try_meld(x);
	for (int i = 0; i < 2; i++) {
		kin_sets_free(&x->sets[i]);
		if (x->tip[i] != x->base)
			kin_died(x->tip[i]);
	}
	while (x->nalive > 0)
		kin_died(x->alive[--x->nalive]);
	kin_died(x->base);
	assert_int_equal(x->all.n, 0);
	for (int i = BASE; i <= B; i++)
		map_put(&x->st, &x->map[i]);
	assert_int_equal(x->nodes, 0);
	return melded;
}

static void random_melds(void **state)
{
	struct world *x = calloc(1, sizeof(*x));
	int melded = 0;

	(void)state;
	x->ops = (struct map_ops){
	    .alloc = world_alloc, .free = world_free, .ctx = x};
	x->rng = chance_begin("meld");
	for (int i = 0; i < ROUNDS; i++)
		melded += one_round(x);
	print_message("%d melded, %d conflicted\n", melded, ROUNDS - melded);
	assert_in_range(melded, ROUNDS / 10, ROUNDS - ROUNDS / 10);
	free(x);
}

/* Sets that a liar made: pages beyond the map. */
static void sets_beyond(void **state)
{
	struct map_ops ops = {.alloc = NULL};
	struct map_store st;
	struct extset w = {0};
	struct extset none = {0};
	struct page_run *runs = NULL;
	struct map m;
	size_t n;

	(void)state;
	map_store_init(&st, &ops);
	assert_int_equal(map_zero(100, &m), 0);
	assert_int_equal(extset_add(&w, 99, 2), 0);
	assert_int_equal(meld_runs(&m, &w, &m, &none, &runs, &n), -ERANGE);
	assert_int_equal(meld_runs(&m, &none, &m, &w, &runs, &n), -ERANGE);
	assert_null(runs);
	extset_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(random_melds),
	    cmocka_unit_test(sets_beyond),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
