/* SPDX-License-Identifier: MIT */
/*
 * Bytes of nodes a changed page, with all of 1,000 snapshots alive, each with
 * 1,000 random pages of 1 GiB changed. Built with each fan-out of page maps.
 */
#include "tests/bench/curves/curves.h"
#include "vmm/map/arena.h"

#define GIB     (1ULL << 18) /* pages */
#define FREEZES 1000u
#define PAGES   1000u

static void *node_alloc(void *ctx, size_t len)
{
	return len == map_node_len() ? arena_alloc(ctx) : malloc(len);
}

static void node_free(void *ctx, void *p, size_t len)
{
	if (len == map_node_len())
		arena_free(ctx, p);
	else
		free(p);
}

static int by_page(const void *a, const void *b)
{
	const struct page_run *x = a;
	const struct page_run *y = b;

	return (x->page > y->page) - (x->page < y->page);
}

/* Pages at random, not spread: some fall together, as a guest's would. */
static size_t some_pages(struct page_run *r, uint32_t layer, uint64_t *seed)
{
	size_t n = 0;

	for (size_t i = 0; i < PAGES; i++)
		r[i] = (struct page_run){
		    .page = chance(seed, GIB), .npages = 1, .layer = layer};
	qsort(r, PAGES, sizeof(*r), by_page);
	for (size_t i = 0; i < PAGES; i++)
		if (n == 0 || r[n - 1].page != r[i].page)
			r[n++] = r[i];
	for (size_t i = 0; i < n; i++)
		r[i].index = i;
	return n;
}

int main(void)
{
	static struct page_run r[PAGES];
	static struct map map[FREEZES + 1];
	struct page_run all = {.npages = GIB, .layer = 1};
	struct arena nodes;
	const struct map_ops ops = {
	    .alloc = node_alloc, .free = node_free, .ctx = &nodes};
	struct map_store st;
	struct map zero;
	uint64_t seed = 88172645463325252ULL;
	uint64_t changed = 0;
	uint64_t begin;
	double fanout = 1 << MAP_FANOUT_SHIFT;

	arena_init(&nodes, map_node_len());
	map_store_init(&st, &ops);
	if (map_zero(GIB, &zero) != 0 ||
	    map_apply(&st, &zero, &all, 1, &map[0]) != 0)
		return 1;
	begin = curve_cpu_ns();
	for (uint32_t i = 0; i < FREEZES; i++) {
		size_t n = some_pages(r, 2 + i, &seed);

		changed += n;
		if (map_apply(&st, &map[i], r, n, &map[i + 1]) != 0)
			return 1;
	}
	curve_point("nodes", "a freeze, µs of CPU", fanout,
	    (double)(curve_cpu_ns() - begin) / 1000 / FREEZES);
	curve_point("nodes", "bytes of nodes", fanout,
	    (double)st.nbytes / (double)changed);
	curve_point("nodes", "bytes of slabs", fanout,
	    (double)(nodes.nslabs * ARENA_SLAB) / (double)changed);
	for (uint32_t i = 0; i <= FREEZES; i++)
		map_put(&st, &map[i]);
	while (map_reap(&st, MAP_PUT_NODES))
		;
	return st.nbytes == 0 && nodes.nslabs <= 1 ? 0 : 1;
}
