/* SPDX-License-Identifier: MIT */
/*
 * Page maps: what a diff and a derivation cost, beside the same on a smaller
 * map, and beside flat arrays.
 */
#include <stdbool.h>
#include <string.h>

#include "tests/bench/bench.h"
#include "tests/bench/nodes.h"
#include "tests/chance.h"

#define GIB_NPAGES (1ULL << 18)
#define TIB_NPAGES (1ULL << 28)
#define NRANDOM    1000
#define LOOPS      100

struct rig {
	struct map_store st;
	struct map base;
	struct map next;
	struct page_run runs[NRANDOM];
	size_t nruns;
	uint64_t pages; /* that a diff reported */
	uint64_t nodes;
	uint64_t node_bytes; /* that one derivation added */
};

static int add_pages(void *ctx, uint64_t page, uint64_t npages)
{
	(void)page;
	((struct rig *)ctx)->pages += npages;
	return 0;
}

/* (n) pages spread over (npages) with a stride that no power of two divides. */
static void spread_runs(struct rig *r, uint64_t npages, size_t n)
{
	uint64_t stride = npages / n;
	uint64_t rng = 88172645463325252ULL;

	r->nruns = n;
	for (size_t i = 0; i < n; i++)
		r->runs[i] =
		    (struct page_run){.page = i * stride + chance(&rng, stride),
			.npages = 1,
			.index = i,
			.layer = 2};
}

/* A map that is one whole first layer, and one with (n) pages changed. */
static bool rig_make(struct rig *r, uint64_t npages, size_t n)
{
	struct page_run all = {.npages = npages, .layer = 1};
	struct map zero;
	uint64_t before;

	map_store_init(&r->st, &nodes_of_malloc);
	if (map_zero(npages, &zero) != 0 ||
	    map_apply(&r->st, &zero, &all, 1, &r->base) != 0)
		return false;
	spread_runs(r, npages, n);
	before = r->st.nbytes;
	if (map_apply(&r->st, &r->base, r->runs, r->nruns, &r->next) != 0)
		return false;
	r->node_bytes = r->st.nbytes - before;
	return true;
}

static void rig_free(struct rig *r)
{
	map_put(&r->st, &r->base);
	map_put(&r->st, &r->next);
}

/* Microseconds of one diff. */
static double run_diff(void *ctx)
{
	struct rig *r = ctx;
	uint64_t t = bench_now_ns();

	for (int i = 0; i < LOOPS; i++) {
		r->pages = 0;
		if (map_diff(&r->base, &r->next, add_pages, r, &r->nodes) != 0)
			return -1;
	}
	return (double)(bench_now_ns() - t) / 1000 / LOOPS;
}

/* Microseconds of one derivation. */
static double run_apply(void *ctx)
{
	struct rig *r = ctx;
	uint64_t t = bench_now_ns();
	struct map m;

	if (map_apply(&r->st, &r->base, r->runs, r->nruns, &m) != 0)
		return -1;
	t = bench_now_ns() - t;
	map_put(&r->st, &m);
	return (double)t / 1000;
}

struct flat {
	uint64_t *a;
	uint64_t *b;
	uint64_t npages;
	uint64_t pages;
};

static double run_flat(void *ctx)
{
	struct flat *f = ctx;
	uint64_t t = bench_now_ns();

	f->pages = 0;
	for (uint64_t i = 0; i < f->npages; i++)
		f->pages += f->a[i] != f->b[i];
	return (double)(bench_now_ns() - t) / 1000;
}

static double run_flat_copy(void *ctx)
{
	struct flat *f = ctx;
	uint64_t t = bench_now_ns();

	memcpy(f->b, f->a, f->npages * sizeof(*f->a));
	for (uint64_t i = 0; i < NRANDOM; i++)
		f->b[i * (f->npages / NRANDOM)] = i;
	return (double)(bench_now_ns() - t) / 1000;
}

static int bench_diffs(struct rig *tib, struct rig *gib, struct flat *f)
{
	double t;
	double g;

	if (!rig_make(tib, TIB_NPAGES, 10) || !rig_make(gib, GIB_NPAGES, 10))
		return 1;
	t = bench_measure(run_diff, tib);
	g = bench_measure(run_diff, gib);
	bench_line("diff, 10 pages of 1 TiB; of 1 GiB", "us", t, g);
	bench_line("diff, 10 pages of 1 GiB; flat array", "us", g,
	    bench_measure(run_flat, f));
	bench_line("nodes visited, 1 TiB; 1 GiB", "nodes", (double)tib->nodes,
	    (double)gib->nodes);
	rig_free(tib);
	rig_free(gib);
	return t < 0 || g < 0 || tib->pages != 10 || gib->pages != 10;
}

static int bench_applies(struct rig *tib, struct rig *gib, struct flat *f)
{
	double t;
	double g;

	if (!rig_make(tib, TIB_NPAGES, NRANDOM) ||
	    !rig_make(gib, GIB_NPAGES, NRANDOM))
		return 1;
	t = bench_measure(run_apply, tib);
	g = bench_measure(run_apply, gib);
	bench_line("derive, 1000 pages of 1 TiB; of 1 GiB", "us", t, g);
	bench_line("derive, 1000 pages of 1 GiB; flat copy", "us", g,
	    bench_measure(run_flat_copy, f));
	bench_line("node bytes a changed page, 1 TiB; 1 GiB", "B",
	    (double)tib->node_bytes / NRANDOM,
	    (double)gib->node_bytes / NRANDOM);
	rig_free(tib);
	rig_free(gib);
	return t < 0 || g < 0;
}

int main(void)
{
	static struct rig tib;
	static struct rig gib;
	struct flat f = {.npages = GIB_NPAGES};
	int bad = 1;

	f.a = calloc(GIB_NPAGES, sizeof(*f.a));
	f.b = calloc(GIB_NPAGES, sizeof(*f.b));
	bench_head("page maps");
	if (f.a != NULL && f.b != NULL)
		bad =
		    bench_diffs(&tib, &gib, &f) | bench_applies(&tib, &gib, &f);
	free(f.a);
	free(f.b);
	return bad;
}
