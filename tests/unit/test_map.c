/* SPDX-License-Identifier: MIT */
/* Page maps: edges, sharing, counts of layers, failure at every allocation. */
#include "vmm/map/map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shared/status.h"
#include "tests/unit/unit.h"

#define LAYERS 8
#define TIB    (1ULL << 28) /* pages */

struct heap {
	long left;  /* allocations until one fails; negative: never */
	long alive; /* nodes */
	long count[LAYERS];
};

static void *heap_alloc(void *ctx, size_t len)
{
	struct heap *h = ctx;

	if (h->left == 0)
		return NULL;
	if (h->left > 0)
		h->left--;
	h->alive++;
	return malloc(len);
}

static void heap_free(void *ctx, void *p, size_t len)
{
	struct heap *h = ctx;

	memset(p, 0xdb, len);
	h->alive--;
	free(p);
}

static void heap_get(void *ctx, uint32_t layer)
{
	((struct heap *)ctx)->count[layer]++;
}

static void heap_put(void *ctx, uint32_t layer)
{
	assert_true(--((struct heap *)ctx)->count[layer] >= 0);
}

struct fix {
	struct heap heap;
	struct map_ops ops;
	struct map_store st;
};

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->heap.left = -1;
	f->ops = (struct map_ops){
	    heap_alloc, heap_free, heap_get, heap_put, &f->heap};
	map_store_init(&f->st, &f->ops);
	*state = f;
	return 0;
}

/* Whatever a test did: no node and no count of a layer is left. */
static int teardown(void **state)
{
	struct fix *f = *state;

	assert_int_equal(f->heap.alive, 0);
	assert_int_equal(f->st.nnodes, 0);
	assert_int_equal(f->st.nbytes, 0);
	for (int i = 0; i < LAYERS; i++)
		assert_int_equal(f->heap.count[i], 0);
	free(f);
	return 0;
}

static struct page_run run_of(
    uint64_t page, uint64_t npages, uint32_t layer, uint64_t index)
{
	return (struct page_run){
	    .page = page, .npages = npages, .index = index, .layer = layer};
}

static struct map zero_of(uint64_t npages)
{
	struct map m;

	assert_int_equal(map_zero(npages, &m), 0);
	return m;
}

/* Puts runs over *m, which becomes the result. */
static void put_over(
    struct fix *f, struct map *m, const struct page_run *r, size_t n)
{
	struct map next;

	assert_int_equal(map_apply(&f->st, m, r, n, &next), 0);
	map_put(&f->st, m);
	*m = next;
}

static void expect_at(
    const struct map *m, uint64_t page, uint32_t layer, uint64_t index)
{
	struct page_run r;

	assert_int_equal(map_lookup(m, page, &r), 0);
	assert_int_equal(r.page, page);
	assert_int_equal(r.layer, layer);
	assert_int_equal(r.index, index);
	assert_true(r.npages >= 1 && r.page + r.npages <= m->npages);
}

struct list {
	struct page_run r[64];
	size_t n;
};

static int collect(void *ctx, const struct page_run *r)
{
	struct list *l = ctx;

	assert_true(l->n < 64);
	l->r[l->n++] = *r;
	return 0;
}

static int collect_diff(void *ctx, uint64_t page, uint64_t npages)
{
	struct page_run r = run_of(page, npages, 0, 0);

	return collect(ctx, &r);
}

static void test_zero(void **state)
{
	struct fix *f = *state;
	struct list l = {.n = 0};
	struct page_run r;
	struct map m;

	assert_int_equal(map_zero(0, &m), -EINVAL);
	assert_int_equal(map_zero(MAP_NPAGES_MAX + 1, &m), -EINVAL);
	m = zero_of(MAP_NPAGES_MAX);
	expect_at(&m, 0, RUN_ZERO, 0);
	expect_at(&m, MAP_NPAGES_MAX - 1, RUN_ZERO, 0);
	assert_int_equal(map_lookup(&m, MAP_NPAGES_MAX, &r), -ERANGE);
	assert_int_equal(map_walk(&m, 0, m.npages, collect, &l), 0);
	assert_int_equal(l.n, 1);
	assert_int_equal(l.r[0].npages, MAP_NPAGES_MAX);
	map_put(&f->st, &m);
}

static void test_refuses(void **state)
{
	struct fix *f = *state;
	struct map m = zero_of(100);
	struct map out;
	struct page_run r[2];

	r[0] = run_of(0, 0, 1, 0);
	assert_int_equal(map_apply(&f->st, &m, r, 1, &out), -ST_INVAL);
	r[0] = run_of(99, 2, 1, 0);
	assert_int_equal(map_apply(&f->st, &m, r, 1, &out), -ST_RANGE);
	r[0] = run_of(0, 2, 1, (1ULL << 28) - 1);
	assert_int_equal(map_apply(&f->st, &m, r, 1, &out), -ST_RANGE);
	r[0] = run_of(5, 2, 1, 0);
	r[1] = run_of(6, 2, 1, 0);
	assert_int_equal(map_apply(&f->st, &m, r, 2, &out), -ST_PROTO);
	assert_int_equal(map_walk(&m, 0, 101, collect, NULL), -ERANGE);
	assert_int_equal(map_walk(&m, UINT64_MAX, 2, collect, NULL), -ERANGE);
	map_put(&f->st, &m);
}

/* A whole layer is one entry, whatever the map's size; so is its undoing. */
static void test_one_entry(void **state)
{
	static const uint64_t sizes[] = {
	    1, 2, 3, 4, 5, 15, 16, 17, 1000, 4096, 262144, TIB};
	struct fix *f = *state;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct map m = zero_of(sizes[i]);
		struct page_run r = run_of(0, sizes[i], 3, 0);

		put_over(f, &m, &r, 1);
		assert_int_equal(f->st.nnodes, 0);
		assert_int_equal(f->heap.count[3], 1);
		expect_at(&m, sizes[i] - 1, 3, sizes[i] - 1);
		r = run_of(0, sizes[i], RUN_ZERO, 0);
		put_over(f, &m, &r, 1);
		assert_int_equal(f->heap.count[3], 0);
		map_put(&f->st, &m);
	}
}

/* Pieces that continue each other become one entry again. */
static void test_normal_form(void **state)
{
	struct fix *f = *state;
	struct map m = zero_of(1000);
	struct map whole = zero_of(1000);
	struct page_run all = run_of(0, 1000, 2, 7);
	uint64_t nodes = 1;

	for (uint64_t p = 0; p < 1000; p++) {
		uint64_t page = p * 337 % 1000;
		struct page_run r = run_of(page, 1, 2, page + 7);

		put_over(f, &m, &r, 1);
	}
	put_over(f, &whole, &all, 1);
	assert_int_equal(f->st.nnodes, 0);
	assert_int_equal(map_diff(&m, &whole, NULL, NULL, &nodes), 0);
	assert_int_equal(nodes, 0);
	map_put(&f->st, &m);
	map_put(&f->st, &whole);
}

/* The last pages and indices that an entry can say. */
static void test_extremes(void **state)
{
	struct fix *f = *state;
	struct map m = zero_of(MAP_NPAGES_MAX);
	struct page_run r[2] = {
	    run_of(0, 1, 1, TIB - 1), run_of(MAP_NPAGES_MAX - TIB, TIB, 2, 0)};

	put_over(f, &m, r, 2);
	expect_at(&m, 0, 1, TIB - 1);
	expect_at(&m, 1, RUN_ZERO, 0);
	expect_at(&m, MAP_NPAGES_MAX - 1, 2, TIB - 1);
	expect_at(&m, MAP_NPAGES_MAX - TIB - 1, RUN_ZERO, 0);
	map_put(&f->st, &m);
}

static void test_walk(void **state)
{
	struct fix *f = *state;
	struct map m = zero_of(100);
	struct page_run r[3] = {
	    run_of(10, 30, 1, 0), run_of(40, 10, 1, 30), run_of(60, 5, 1, 40)};
	struct list l = {.n = 0};

	put_over(f, &m, r, 3);
	assert_int_equal(map_walk(&m, 0, 100, collect, &l), 0);
	assert_int_equal(l.n, 5);
	assert_int_equal(l.r[1].page, 10);
	assert_int_equal(l.r[1].npages, 40);
	assert_int_equal(l.r[4].layer, RUN_ZERO);
	assert_int_equal(l.r[4].npages, 35);
	l.n = 0;
	assert_int_equal(map_walk(&m, 15, 46, collect, &l), 0);
	assert_int_equal(l.n, 3);
	assert_int_equal(l.r[0].page, 15);
	assert_int_equal(l.r[0].index, 5);
	assert_int_equal(l.r[0].npages, 35);
	assert_int_equal(l.r[2].npages, 1);
	l.n = 0;
	assert_int_equal(map_walk(&m, 15, 0, collect, &l), 0);
	assert_int_equal(l.n, 0);
	map_put(&f->st, &m);
}

static int stop_run(void *ctx, const struct page_run *r)
{
	(void)r;
	(*(int *)ctx)++;
	return -EINTR;
}

static int stop_diff(void *ctx, uint64_t page, uint64_t npages)
{
	(void)page;
	(void)npages;
	(*(int *)ctx)++;
	return -EINTR;
}

static void test_stops(void **state)
{
	struct fix *f = *state;
	struct map a = zero_of(100);
	struct map b = zero_of(100);
	struct page_run r[2] = {run_of(10, 1, 1, 0), run_of(20, 1, 1, 30)};
	int n = 0;

	put_over(f, &a, r, 2);
	assert_int_equal(map_walk(&a, 0, 100, stop_run, &n), -EINTR);
	assert_int_equal(n, 1);
	assert_int_equal(map_diff(&a, &b, stop_diff, &n, NULL), -EINTR);
	assert_int_equal(n, 2);
	map_put(&f->st, &a);
	map_put(&f->st, &b);
}

static void test_diff(void **state)
{
	struct fix *f = *state;
	struct map a = zero_of(TIB);
	struct map small = zero_of(5);
	struct map b;
	struct page_run base = run_of(0, TIB, 0, 0);
	struct page_run r[4] = {run_of(0, 1, 1, 0), run_of(63, 2, 1, 1),
	    run_of(65, 1, 2, 0), run_of(TIB - 1, 1, RUN_ZERO, 0)};
	struct list l = {.n = 0};
	uint64_t nodes;

	put_over(f, &a, &base, 1);
	assert_int_equal(map_apply(&f->st, &a, r, 4, &b), 0);
	assert_int_equal(map_diff(&a, &b, collect_diff, &l, &nodes), 0);
	assert_int_equal(l.n, 3);
	assert_int_equal(l.r[1].page, 63);
	assert_int_equal(l.r[1].npages, 3);
	assert_int_equal(l.r[2].page, TIB - 1);
	assert_true(nodes > 0 && nodes <= 3 * 14 * 2);
	assert_int_equal(map_diff(&b, &b, collect_diff, &l, &nodes), 0);
	assert_int_equal(nodes, 0);
	l.n = 0;
	assert_int_equal(map_diff(&b, &small, collect_diff, &l, NULL), 0);
	assert_int_equal(l.n, 1); /* its last page is zero, as is the end */
	assert_int_equal(l.r[0].npages, TIB - 1);
	map_put(&f->st, &a);
	map_put(&f->st, &b);
}

/* Of different sizes: one layer's pages, equal entries that are cut off at
 * different pages, and zeroes. */
static void test_diff_sizes(void **state)
{
	struct fix *f = *state;
	static const uint64_t sizes[] = {
	    1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 1000};
	const size_t n = sizeof(sizes) / sizeof(sizes[0]);
	struct page_run one = run_of(0, 1, 2, 0);
	uint64_t nodes;

	for (size_t i = 0; i < n * n; i++) {
		uint64_t na = sizes[i / n];
		uint64_t nb = sizes[i % n];
		uint64_t both = na < nb ? na : nb;
		uint64_t most = na < nb ? nb : na;
		struct page_run ra = run_of(0, na, 1, 7);
		struct page_run rb = run_of(0, nb, 1, 7);
		struct map a = zero_of(na);
		struct map b = zero_of(nb);
		struct list l = {.n = 0};

		assert_int_equal(map_diff(&a, &b, collect_diff, &l, NULL), 0);
		assert_int_equal(l.n, 0);
		put_over(f, &a, &ra, 1);
		put_over(f, &b, &rb, 1);
		assert_int_equal(map_diff(&a, &b, collect_diff, &l, &nodes), 0);
		assert_int_equal(l.n, most > both);
		if (l.n == 1) {
			assert_int_equal(l.r[0].page, both);
			assert_int_equal(l.r[0].npages, most - both);
		}
		put_over(f, &a, &one, 1);
		l.n = 0;
		assert_int_equal(map_diff(&b, &a, collect_diff, &l, NULL), 0);
		assert_int_equal(l.n, both == 1 ? 1 : 1 + (most > both));
		assert_int_equal(l.r[0].page, 0);
		map_put(&f->st, &a);
		map_put(&f->st, &b);
	}
}

static bool stop_at_once(void *ctx)
{
	++*(int *)ctx;
	return true;
}

/* A long comparison asks whether to go on; a short one does not. */
static void test_diff_stops(void **state)
{
	struct fix *f = *state;
	struct map a = zero_of(1 << 16);
	struct map b = zero_of(1 << 16);
	int asked = 0;

	for (uint64_t i = 0; i < 1 << 16; i += 2) {
		struct page_run r = run_of(i, 1, 1, i / 2);

		put_over(f, &a, &r, 1);
	}
	assert_int_equal(
	    map_diff_until(&a, &b, NULL, stop_at_once, &asked, NULL),
	    -ECANCELED);
	assert_int_equal(asked, 1);
	assert_int_equal(
	    map_diff_until(&a, &a, NULL, stop_at_once, &asked, NULL), 0);
	assert_int_equal(asked, 1);
	map_put(&f->st, &a);
	map_put(&f->st, &b);
	while (map_reap(&f->st, MAP_PUT_NODES))
		;
}

/* Trees without a node in common, but the same content: nothing differs. */
static void test_diff_equal_content(void **state)
{
	struct fix *f = *state;
	struct map a = zero_of(4096);
	struct map b = zero_of(4096);
	struct page_run r[2] = {run_of(100, 3, 1, 0), run_of(2000, 9, 2, 0)};
	struct list l = {.n = 0};
	uint64_t nodes;

	put_over(f, &a, r, 2);
	put_over(f, &b, &r[1], 1);
	put_over(f, &b, &r[0], 1);
	assert_true(a.entry != b.entry);
	assert_int_equal(map_diff(&a, &b, collect_diff, &l, &nodes), 0);
	assert_int_equal(l.n, 0);
	assert_true(nodes > 0);
	map_put(&f->st, &a);
	map_put(&f->st, &b);
}

/* A change that changes nothing shares everything. */
static void test_same_is_shared(void **state)
{
	struct fix *f = *state;
	struct map a = zero_of(4096);
	struct page_run r[2] = {run_of(100, 3, 1, 0), run_of(2000, 9, 2, 0)};
	struct map b;

	put_over(f, &a, r, 2);
	assert_int_equal(map_apply(&f->st, &a, r, 2, &b), 0);
	assert_true(a.entry == b.entry);
	map_put(&f->st, &a);
	expect_at(&b, 2001, 2, 1);
	a = map_get(&f->st, &b);
	map_put(&f->st, &b);
	expect_at(&a, 100, 1, 0);
	map_put(&f->st, &a);
}

static void test_layer_counts(void **state)
{
	struct fix *f = *state;
	struct map a = zero_of(64);
	struct map b;
	struct page_run whole = run_of(0, 64, 0, 0);
	struct page_run one = run_of(5, 1, 1, 0);

	put_over(f, &a, &whole, 1);
	assert_int_equal(map_apply(&f->st, &a, &one, 1, &b), 0);
	/* 1 in (a); in (b) 3 of 4 children on each of 3 levels. */
	assert_int_equal(f->heap.count[0], 1 + 9);
	assert_int_equal(f->heap.count[1], 1);
	assert_int_equal(f->st.nnodes, 3);
	map_put(&f->st, &a);
	assert_int_equal(f->heap.count[0], 9);
	put_over(f, &b, &whole, 1);
	assert_int_equal(f->heap.count[0], 1);
	assert_int_equal(f->heap.count[1], 0);
	map_put(&f->st, &b);
}

/* Fail each allocation of an apply in turn: the world stays as it was. */
static void test_no_memory(void **state)
{
	struct fix *f = *state;
	struct map a = zero_of(100000);
	struct page_run first[2] = {
	    run_of(3, 90000, 1, 0), run_of(95000, 17, 2, 3)};
	struct page_run r[5] = {run_of(0, 7, 3, 0), run_of(63, 2, RUN_ZERO, 0),
	    run_of(77777, 1, 4, 0), run_of(94999, 3, 5, 0),
	    run_of(99999, 1, 6, 9)};
	struct heap before;
	struct map b;
	long fails = 0;

	put_over(f, &a, first, 2);
	before = f->heap;
	for (;; fails++) {
		f->heap.left = fails;
		if (map_apply(&f->st, &a, r, 5, &b) == 0)
			break;
		f->heap.left = -1;
		assert_memory_equal(&f->heap, &before, sizeof(before));
		/* One is the table of the maps held. */
		assert_int_equal(f->st.nnodes, before.alive - 1);
	}
	f->heap.left = -1;
	assert_true(fails > 20);
	expect_at(&b, 77777, 4, 0);
	expect_at(&a, 77777, 1, 77774);
	map_put(&f->st, &a);
	map_put(&f->st, &b);
}

static bool count_stops(void *ctx)
{
	int *left = ctx;

	return (*left)-- == 0;
}

/* Nodes that are called exclusive are those that go with the map. */
static void test_count_nodes(void **state)
{
	struct fix *f = *state;
	struct map m = zero_of(4096);
	struct map other[3];
	struct map_nodes n;
	uint64_t before;
	int stop = -1;

	for (uint32_t i = 0; i < 64; i++)
		put_over(f, &m,
		    &(struct page_run){.page = i * 61, .npages = 1, .layer = 1},
		    1);
	assert_int_equal(
	    map_count_nodes(&m, NULL, 0, count_stops, &stop, &n), 0);
	assert_int_equal(n.bytes, f->st.nbytes);
	assert_int_equal(n.exclusive, n.bytes);
	for (uint32_t i = 0; i < 2; i++) {
		other[i] = map_get(&f->st, &m);
		put_over(f, &other[i],
		    &(struct page_run){
			.page = 100 + 3000 * i, .npages = 5, .layer = 2},
		    1);
	}
	other[2] = zero_of(4095);
	assert_int_equal(
	    map_count_nodes(&m, other, 3, count_stops, &stop, &n), 0);
	assert_true(n.exclusive > 0 && n.exclusive < n.bytes);
	stop = 1;
	assert_int_equal(
	    map_count_nodes(&m, other, 3, count_stops, &stop, &n), -ECANCELED);
	stop = -1;
	assert_int_equal(
	    map_count_nodes(&m, other, 3, count_stops, &stop, &n), 0);
	before = f->st.nbytes;
	map_put(&f->st, &m);
	while (map_reap(&f->st, 1000))
		;
	assert_int_equal(before - f->st.nbytes, n.exclusive);
	map_put(&f->st, &other[0]);
	map_put(&f->st, &other[1]);
}

/* However many maps a mark holds, it frees no more at its end than the end of
 * one does. */
static void test_mark_ends_little(void **state)
{
	struct fix *f = *state;
	struct map big = zero_of(1 << 14);
	struct map small[32];
	struct map_mark k;
	long before;

	for (uint64_t i = 0; i < 1 << 14; i += 2)
		put_over(f, &big,
		    &(struct page_run){
			.page = i, .npages = 1, .layer = 1, .index = i / 2},
		    1);
	for (uint32_t i = 0; i < 32; i++) {
		small[i] = zero_of(1000);
		put_over(f, &small[i],
		    &(struct page_run){.page = i, .npages = 1, .layer = 1}, 1);
	}
	assert_int_equal(map_mark_begin(&f->st, &k), 0);
	map_put(&f->st, &big);
	while (map_reap(&f->st, 1000))
		;
	before = f->heap.alive;
	map_mark_end(&f->st, &k);
	assert_in_range(before - f->heap.alive, 1, MAP_PUT_NODES + 1);
	map_put_all(&f->st, small, 32);
	while (map_reap(&f->st, 1000))
		;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_zero, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_refuses, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_one_entry, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_normal_form, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_extremes, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_walk, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_stops, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_diff, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_diff_sizes, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_diff_stops, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		test_diff_equal_content, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		test_same_is_shared, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_layer_counts, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_no_memory, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_count_nodes, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		test_mark_ends_little, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
