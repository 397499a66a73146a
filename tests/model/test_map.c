/* SPDX-License-Identifier: MIT */
/*
 * Random sequences of map_apply() against arrays that say where each page is.
 * FIRN_SEED repeats a run, which prints its seed.
 */
#include "vmm/map/map.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/chance.h"
#include "tests/unit/unit.h"

#define NPAGES_MAX 700
#define NMAPS      6
#define NLAYERS    5
#define NRUNS_MAX  12
#define ROUNDS     40
#define STEPS      150
/* Of a layer: an index is below NPAGES_MAX or 1000, and a run as long. */
#define INDICES (1000 + 2 * NPAGES_MAX)

struct spot {
	uint32_t layer;
	uint64_t index;
};

struct world {
	uint64_t rng;
	uint64_t npages[NMAPS]; /* one of two sizes */
	long left; /* allocations until one fails; negative: never */
	long alive;
	long count[NLAYERS];
	struct map_ops ops;
	struct map_store st;
	struct map map[NMAPS];
	struct spot model[NMAPS][NPAGES_MAX];
};

static uint64_t rnd(struct world *w, uint64_t below)
{
	return chance(&w->rng, below);
}

static void *world_alloc(void *ctx, size_t len)
{
	struct world *w = ctx;

	if (w->left == 0)
		return NULL;
	if (w->left > 0)
		w->left--;
	w->alive++;
	return malloc(len);
}

static void world_free(void *ctx, void *p, size_t len)
{
	(void)len;
	((struct world *)ctx)->alive--;
	free(p);
}

static void world_get(void *ctx, uint32_t layer)
{
	((struct world *)ctx)->count[layer]++;
}

static void world_put(void *ctx, uint32_t layer)
{
	((struct world *)ctx)->count[layer]--;
}

/* Sorted runs with gaps; half of them continue the layout of their layer, so
 * that entries join. */
static size_t random_runs(struct world *w, uint64_t npages, struct page_run *r)
{
	uint64_t page = rnd(w, npages);
	uint64_t longest = 1 + rnd(w, npages);
	size_t n = 0;

	while (n < NRUNS_MAX && page < npages) {
		uint64_t len = 1 + rnd(w, longest);
		uint32_t layer = (uint32_t)rnd(w, NLAYERS + 1);

		if (len > npages - page)
			len = npages - page;
		if (layer == NLAYERS)
			r[n] = (struct page_run){
			    .page = page, .npages = len, .layer = RUN_ZERO};
		else
			r[n] = (struct page_run){.page = page,
			    .npages = len,
			    .layer = layer,
			    .index = rnd(w, 2) ? page : rnd(w, 1000)};
		page += len + (rnd(w, 2) ? 0 : rnd(w, longest));
		n++;
	}
	return n;
}

static void model_apply(struct spot *model, const struct page_run *r, size_t n)
{
	for (size_t i = 0; i < n; i++)
		for (uint64_t p = 0; p < r[i].npages; p++)
			model[r[i].page + p] = (struct spot){r[i].layer,
			    r[i].layer == RUN_ZERO ? 0 : r[i].index + p};
}

static bool same_spot(const struct spot *a, const struct spot *b)
{
	return a->layer == b->layer && a->index == b->index;
}

struct walked {
	const struct spot *model;
	uint64_t next;
	struct page_run last;
};

static int check_run(void *ctx, const struct page_run *r)
{
	struct walked *k = ctx;

	assert_int_equal(r->page, k->next);
	assert_true(r->npages > 0);
	/* Maximal: it does not continue the one before. */
	if (k->last.npages != 0 && k->last.layer == r->layer)
		assert_true(r->layer != RUN_ZERO &&
			    k->last.index + k->last.npages != r->index);
	for (uint64_t p = 0; p < r->npages; p++) {
		const struct spot s = {
		    r->layer, r->layer == RUN_ZERO ? 0 : r->index + p};

		assert_true(same_spot(&s, &k->model[r->page + p]));
	}
	k->next = r->page + r->npages;
	k->last = *r;
	return 0;
}

static void check_walk(struct world *w, int i)
{
	uint64_t first = rnd(w, w->npages[i]);
	uint64_t len = rnd(w, w->npages[i] - first + 1);
	struct walked k = {.model = w->model[i]};

	assert_int_equal(
	    map_walk(&w->map[i], 0, w->npages[i], check_run, &k), 0);
	assert_int_equal(k.next, w->npages[i]);
	k = (struct walked){.model = w->model[i], .next = first};
	assert_int_equal(map_walk(&w->map[i], first, len, check_run, &k), 0);
	assert_int_equal(k.next, first + len);
}

static void check_lookup(struct world *w, int i)
{
	for (uint64_t p = 0; p < w->npages[i]; p++) {
		struct page_run r;
		uint64_t last;
		struct spot s;

		assert_int_equal(map_lookup(&w->map[i], p, &r), 0);
		last = r.npages - 1;
		assert_true(p + last < w->npages[i]);
		s = (struct spot){r.layer, r.index};
		assert_true(same_spot(&s, &w->model[i][p]));
		if (r.layer != RUN_ZERO)
			s.index += last;
		assert_true(same_spot(&s, &w->model[i][p + last]));
	}
}

struct differed {
	const struct world *w;
	int a;
	int b;
	uint64_t next; /* pages below were compared */
};

static void expect_equal(struct differed *d, uint64_t to)
{
	for (; d->next < to; d->next++)
		assert_true(same_spot(
		    &d->w->model[d->a][d->next], &d->w->model[d->b][d->next]));
}

static int check_extent(void *ctx, uint64_t page, uint64_t npages)
{
	struct differed *d = ctx;

	/* Maximal: one page at least is equal between two extents. */
	assert_true(page > d->next || d->next == 0);
	expect_equal(d, page);
	for (; d->next < page + npages; d->next++)
		assert_false(same_spot(
		    &d->w->model[d->a][d->next], &d->w->model[d->b][d->next]));
	return 0;
}

static void check_diff(struct world *w, int a, int b)
{
	struct differed d = {.w = w, .a = a, .b = b};

	assert_int_equal(
	    map_diff(&w->map[a], &w->map[b], check_extent, &d, NULL), 0);
	expect_equal(
	    &d, w->npages[a] > w->npages[b] ? w->npages[a] : w->npages[b]);
}

/* A layer is counted exactly when a map reaches it. */
static void check_counts(const struct world *w)
{
	bool reached[NLAYERS] = {false};

	for (int i = 0; i < NMAPS; i++)
		for (uint64_t p = 0; p < NPAGES_MAX; p++)
			if (w->model[i][p].layer != RUN_ZERO)
				reached[w->model[i][p].layer] = true;
	for (int l = 0; l < NLAYERS; l++)
		assert_int_equal(w->count[l] > 0, reached[l]);
}

/* Pages of layers, as a mark and as the model reach them. */
struct reached {
	bool page[NLAYERS][INDICES];
	long visits;
};

static int reach(void *ctx, uint32_t layer, uint64_t index, uint64_t npages)
{
	struct reached *x = ctx;

	x->visits++;
	for (uint64_t i = 0; i < npages; i++)
		x->page[layer][index + i] = true;
	return 0;
}

static void check_mark(struct world *w)
{
	static struct reached mark;
	static struct reached model;
	struct map_mark k;

	memset(&mark, 0, sizeof(mark));
	memset(&model, 0, sizeof(model));
	for (int i = 0; i < NMAPS; i++)
		for (uint64_t p = 0; p < w->npages[i]; p++)
			if (w->model[i][p].layer != RUN_ZERO)
				model.page[w->model[i][p].layer]
					  [w->model[i][p].index] = true;
	assert_int_equal(map_mark_begin(&w->st, &k), 0);
	assert_int_equal(map_mark_run(&k, reach, &mark), 0);
	map_mark_end(&w->st, &k);
	assert_memory_equal(mark.page, model.page, sizeof(mark.page));
	/* Each node once, however many maps share it. */
	assert_true((uint64_t)mark.visits <= 4 * w->st.nnodes + NMAPS);
}

/* Two maps of one size joined at a page; with memory that may fail first. */
static void check_splice(struct world *w, int low, int high)
{
	uint64_t at = rnd(w, w->npages[low] + 1);
	long alive = w->alive;
	struct walked k = {.next = 0};
	struct spot model[NPAGES_MAX];
	struct map m;

	memcpy(model, w->model[high], sizeof(model));
	memcpy(model, w->model[low], at * sizeof(model[0]));
	w->left = rnd(w, 2) ? (long)rnd(w, 10) : -1;
	if (map_splice(&w->st, &w->map[low], &w->map[high], at, &m) != 0) {
		assert_true(w->left == 0);
		assert_int_equal(w->alive, alive);
		w->left = -1;
		assert_int_equal(
		    map_splice(&w->st, &w->map[low], &w->map[high], at, &m), 0);
	}
	w->left = -1;
	k.model = model;
	assert_int_equal(map_walk(&m, 0, m.npages, check_run, &k), 0);
	assert_int_equal(k.next, w->npages[low]);
	map_put(&w->st, &m);
	assert_int_equal(w->alive, alive);
}

/* Replace map (to) by (from) with random runs over it; sometimes memory fails
 * somewhere on the way first. */
static void step(struct world *w)
{
	int from = (int)rnd(w, NMAPS);
	int to = from % 2 + 2 * (int)rnd(w, NMAPS / 2); /* of that size */
	struct page_run r[NRUNS_MAX];
	size_t n = random_runs(w, w->npages[from], r);
	struct map next;

	if (rnd(w, 4) == 0) {
		long alive = w->alive;

		w->left = (long)rnd(w, 20);
		if (map_apply(&w->st, &w->map[from], r, n, &next) == 0)
			map_put(&w->st, &next);
		w->left = -1;
		assert_int_equal(w->alive, alive);
	}
	assert_int_equal(map_apply(&w->st, &w->map[from], r, n, &next), 0);
	map_put(&w->st, &w->map[to]);
	w->map[to] = next;
	memmove(w->model[to], w->model[from], sizeof(w->model[to]));
	model_apply(w->model[to], r, n);
	check_walk(w, to);
	check_lookup(w, to);
	check_diff(w, from, to);
	check_diff(w, to, (int)rnd(w, NMAPS));
	check_splice(w, to, to % 2 + 2 * (int)rnd(w, NMAPS / 2));
	check_counts(w);
	check_mark(w);
	/* One may be the table of the maps held. */
	assert_int_equal(w->st.nnodes + (w->st.root_cap != 0), w->alive);
}

static void play_round(struct world *w)
{
	const uint64_t sizes[2] = {
	    1 + rnd(w, NPAGES_MAX), 1 + rnd(w, NPAGES_MAX)};

	for (int i = 0; i < NMAPS; i++) {
		w->npages[i] = sizes[i % 2];
		assert_int_equal(map_zero(w->npages[i], &w->map[i]), 0);
		for (uint64_t p = 0; p < NPAGES_MAX; p++)
			w->model[i][p] = (struct spot){RUN_ZERO, 0};
	}
	for (int i = 0; i < STEPS; i++)
		step(w);
	for (int i = 0; i < NMAPS; i++)
		map_put(&w->st, &w->map[i]);
	assert_int_equal(w->alive, 0);
	for (int l = 0; l < NLAYERS; l++)
		assert_int_equal(w->count[l], 0);
}

static void test_against_arrays(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	(void)state;
	assert_non_null(w);
	w->rng = chance_begin("map");
	w->left = -1;
	w->ops =
	    (struct map_ops){world_alloc, world_free, world_get, world_put, w};
	map_store_init(&w->st, &w->ops);
	for (int i = 0; i < ROUNDS; i++)
		play_round(w);
	free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_against_arrays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
