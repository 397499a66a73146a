/* SPDX-License-Identifier: MIT */
/*
 * What operations on page maps take: over the size, over the pages that
 * changed, and over how many snapshots are alive. Microseconds, medians.
 */
#include <stdbool.h>

#include "tests/bench/curves/curves.h"
#include "vmm/kin/meld.h"
#include "vmm/map/arena.h"

#define GIB      (1ULL << 18) /* pages */
#define HISTORY  4u           /* freezes before what is measured */
#define HISTORIC 1000u        /* pages of each */
#define CHANGED  1000u        /* pages, where the size or number varies */
#define ALIVE    10000u
#define DRIFT    30u /* pages that each of those changed */
#define LOOPS    16u

struct bed {
	struct map_store st;
	struct arena nodes;
	struct map_ops ops;
	struct map base;
	struct page_run *ra, *rb;
	size_t n;
	uint64_t seed;
};

struct times {
	double freeze[BENCH_RUNS], diff[BENCH_RUNS], meld[BENCH_RUNS],
	    drop[BENCH_RUNS];
};

/* As firnd does. */
static void *node_alloc(void *ctx, size_t len)
{
	struct arena *a = ctx;

	return len == a->block ? arena_alloc(a) : malloc(len);
}

static void node_free(void *ctx, void *p, size_t len)
{
	struct arena *a = ctx;

	if (len == a->block)
		arena_free(a, p);
	else
		free(p);
}

static double since(uint64_t begin)
{
	return (double)(curve_cpu_ns() - begin) / 1000;
}

/* (base) with (n) pages changed, instead of it. */
static bool grow(struct bed *b, size_t n, uint32_t layer)
{
	struct page_run *r = calloc(n, sizeof(*r));
	struct map next;
	int rc = -1;

	if (r != NULL) {
		curve_runs(r, n, b->base.npages, 0, 1, layer, &b->seed);
		rc = map_apply(&b->st, &b->base, r, n, &next);
	}
	free(r);
	if (rc != 0)
		return false;
	map_put(&b->st, &b->base);
	b->base = next;
	return true;
}

static bool bed_make(struct bed *b, uint64_t npages, size_t n, bool arena)
{
	struct page_run all = {.npages = npages, .layer = 1};
	struct map zero;

	*b = (struct bed){.n = n, .seed = 88172645463325252ULL};
	arena_init(&b->nodes, map_node_len());
	b->ops = nodes_of_malloc;
	if (arena)
		b->ops = (struct map_ops){
		    .alloc = node_alloc, .free = node_free, .ctx = &b->nodes};
	map_store_init(&b->st, &b->ops);
	b->ra = calloc(n, sizeof(*b->ra));
	b->rb = calloc(n, sizeof(*b->rb));
	if (b->ra == NULL || b->rb == NULL || map_zero(npages, &zero) != 0 ||
	    map_apply(&b->st, &zero, &all, 1, &b->base) != 0)
		return false;
	for (uint32_t i = 0; i < HISTORY; i++)
		if (!grow(b, HISTORIC, 2 + i))
			return false;
	return true;
}

static void bed_free(struct bed *b)
{
	map_put(&b->st, &b->base);
	while (map_reap(&b->st, MAP_PUT_NODES))
		;
	arena_fini(&b->nodes);
	free(b->ra);
	free(b->rb);
}

static int count_pages(void *ctx, uint64_t page, uint64_t npages)
{
	(void)page;
	*(uint64_t *)ctx += npages;
	return 0;
}

static bool goes_on(void *ctx)
{
	(void)ctx;
	return false;
}

/* As the broker melds two that were not tracked. */
static bool meld(struct bed *b, const struct map *x, const struct map *y)
{
	struct meld_conflicts no = {0};
	struct kin_sets sx = {0};
	struct kin_sets sy = {0};
	struct page_run *r = NULL;
	struct map m;
	size_t n;
	bool ok = meld_blind(&b->base, x, goes_on, NULL, &sx) == 0 &&
		  meld_blind(&b->base, y, goes_on, NULL, &sy) == 0 &&
		  meld_conflicts(&sx, &sy, &no) == 0 &&
		  meld_runs(x, &sx.writes, y, &sy.writes, &r, &n) == 0 &&
		  map_apply(&b->st, &b->base, r, n, &m) == 0;

	if (ok)
		map_put(&b->st, &m);
	free(r);
	meld_conflicts_free(&no);
	kin_sets_free(&sx);
	kin_sets_free(&sy);
	return ok;
}

/* One round of each; small ones several times, for the clock. */
static bool round_of(struct bed *b, struct times *t, size_t i)
{
	size_t loops = b->n < HISTORIC ? LOOPS : 1;
	struct map x[LOOPS];
	struct map y;
	uint64_t pages = 0;
	uint64_t begin;
	bool ok;

	curve_runs(b->ra, b->n, b->base.npages, 0, 2, 100, &b->seed);
	curve_runs(b->rb, b->n, b->base.npages, 1, 2, 101, &b->seed);
	if (map_apply(&b->st, &b->base, b->rb, b->n, &y) != 0)
		return false;
	begin = curve_cpu_ns();
	for (size_t k = 0; k < loops; k++)
		if (map_apply(&b->st, &b->base, b->ra, b->n, &x[k]) != 0)
			return false;
	t->freeze[i] = since(begin) / (double)loops;
	begin = curve_cpu_ns();
	for (size_t k = 0; k < loops; k++)
		(void)map_diff(&b->base, &x[k], count_pages, &pages, NULL);
	t->diff[i] = since(begin) / (double)loops;
	begin = curve_cpu_ns();
	ok = meld(b, &x[0], &y);
	t->meld[i] = since(begin);
	begin = curve_cpu_ns();
	for (size_t k = 0; k < loops; k++)
		map_put(&b->st, &x[k]);
	while (map_reap(&b->st, MAP_PUT_NODES))
		;
	t->drop[i] = since(begin) / (double)loops;
	map_put(&b->st, &y);
	return ok && pages == loops * b->n;
}

static void point(
    const char *chart, const char *series, const char *how, double x, double *v)
{
	char name[64];

	(void)snprintf(name, sizeof(name), "%s%s", series, how);
	curve_point(chart, name, x, bench_median(v, BENCH_RUNS));
}

static bool measure(struct bed *b, const char *chart, const char *how, double x)
{
	struct times t;

	for (size_t i = 0; i < BENCH_RUNS; i++)
		if (!round_of(b, &t, i))
			return false;
	point(chart, "freeze", how, x, t.freeze);
	point(chart, "diff", how, x, t.diff);
	if (*how != '\0')
		return true;
	point(chart, "meld", how, x, t.meld);
	point(chart, "drop", how, x, t.drop);
	return true;
}

static bool over_size(void)
{
	struct bed b;
	bool ok = true;

	for (uint64_t gib = 1; gib <= 1024 && ok; gib *= 4) {
		ok = bed_make(&b, gib * GIB, CHANGED, true) &&
		     measure(&b, "size", "", (double)gib);
		bed_free(&b);
	}
	return ok;
}

static bool over_changed(void)
{
	struct bed b;
	bool ok = true;

	for (size_t n = 10; n <= 100000 && ok; n *= 10) {
		ok = bed_make(&b, 64 * GIB, n, true) &&
		     measure(&b, "changed", "", (double)n);
		bed_free(&b);
	}
	return ok;
}

/* The same history each time, of which the last (keep) snapshots stay: what
 * differs is how many are alive, not how scattered the page map is. */
static bool with_alive(struct map *alive, uint32_t keep, bool arena)
{
	struct bed b;
	uint32_t n = 0;
	bool ok = bed_make(&b, GIB, CHANGED, arena);

	for (uint32_t i = 0; i < ALIVE && ok; i++) {
		if (ALIVE - i <= keep)
			alive[n++] = map_get(&b.st, &b.base);
		ok = grow(&b, DRIFT, 200 + i);
	}
	while (map_reap(&b.st, MAP_PUT_NODES))
		;
	ok = ok && measure(&b, "alive", arena ? "" : ", malloc", (double)keep);
	while (n > 0)
		map_put(&b.st, &alive[--n]);
	bed_free(&b);
	return ok;
}

static bool over_alive(void)
{
	struct map *alive = calloc(ALIVE, sizeof(*alive));
	bool ok = alive != NULL;

	for (uint32_t keep = 10; keep <= ALIVE && ok; keep *= 10)
		ok = with_alive(alive, keep, true) &&
		     with_alive(alive, keep, false);
	free(alive);
	return ok;
}

int main(void)
{
	return over_size() && over_changed() && over_alive() ? 0 : 1;
}
