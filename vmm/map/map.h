/* SPDX-License-Identifier: MIT */
/*
 * map: page maps, the values that snapshots are.
 *
 * A map says for each page of a place in which layer its bytes are, or that it
 * reads as zero. It is a persistent radix tree: nodes are immutable once a map
 * that holds them has been returned, are reference-counted, and are shared by
 * every map that was derived from one another. An entry may stand at any
 * level: a run of pages that is aligned to, and covers, a node's whole span
 * and is contiguous in its layer (or zero) is one entry there. A never-frozen
 * 1 TiB segment is one entry; so is a whole first layer without holes.
 *
 * Hides:    the node layout, the fan-out, where entries stand.
 * Storage:  through struct map_ops, so that tests can fail any allocation.
 * Owns:     its nodes; it counts every entry that names a layer through
 *           layer_get/layer_put, so that a layer's owner knows when no map
 *           reaches it.
 * Freeing:  map_put() frees MAP_PUT_NODES nodes at most; what is left of a
 *           large map waits for map_reap(), so that its end blocks nobody.
 * Threads:  one at a time for a store and all maps in it, except that maps
 *           that the caller holds may be read (lookup, walk, diff) by other
 *           threads, and marked by one of them, while the store's thread
 *           derives new ones.
 */
#ifndef VMM_MAP_MAP_H
#define VMM_MAP_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/page/run.h"

/* 2^40 pages are 4 PiB, beyond any guest-physical address. */
#define MAP_NPAGES_MAX (1ULL << 40)

struct map_ops {
	/* Of a node, map_node_len() bytes, or of a table, of which there are
	 * few. NULL: no memory. */
	void *(*alloc)(void *ctx, size_t len);
	void (*free)(void *ctx, void *p, size_t len);
	/* An entry that names (layer) came into being, or went. May be NULL. */
	void (*layer_get)(void *ctx, uint32_t layer);
	void (*layer_put)(void *ctx, uint32_t layer);
	void *ctx;
};

struct map_node;
struct map_root;

struct map_store {
	const struct map_ops *ops;
	uint64_t nnodes;       /* alive, and those that wait to be freed */
	uint64_t nbytes;       /* of them */
	struct map_node *dead; /* nobody reaches them; linked */
	struct map_root *root; /* a hash table of the maps held; or NULL */
	uint32_t nroots;
	uint32_t root_cap;
	uint32_t epoch; /* of the last mark */
};

/* A value; copy it with map_get(), end it with map_put(). */
struct map {
	uint64_t npages;
	uint64_t entry; /* the root entry; opaque */
};

size_t map_node_len(void);

void map_store_init(struct map_store *st, const struct map_ops *ops);

/* The map of (npages) zero pages, 1..MAP_NPAGES_MAX; -EINVAL otherwise. */
int map_zero(uint64_t npages, struct map *out);

/* One more holder of (m). */
struct map map_get(struct map_store *st, const struct map *m);
/* One holder fewer; frees what only (m) reached. Leaves *m unusable. */
void map_put(struct map_store *st, struct map *m);

/* The same of (n) maps, and frees no more than for one. */
void map_put_all(struct map_store *st, struct map *m, size_t n);

#define MAP_PUT_NODES 1024u

/* Free (max) nodes more that nobody reaches; are any left? */
bool map_reap(struct map_store *st, uint64_t max);

/*
 * Derive *out from (base), which stays as it is: the pages of the runs are
 * where the runs say, all others as in (base). The runs must be valid
 * (run_list_check() against base->npages).
 *
 * Cost is in proportion to the runs times the depth, whatever the map's size.
 * Returns 0, -ENOMEM (nothing changed), or run_list_check()'s errors.
 */
int map_apply(struct map_store *st, const struct map *base,
    const struct page_run *runs, size_t n, struct map *out);

/*
 * Derive *out from two maps of equal size, which stay as they are: its pages
 * before (at), which is at most their number, are as in (low), the others as in
 * (high). Costs a path through the tree, however much they differ. -ENOMEM:
 * nothing changed.
 */
int map_splice(struct map_store *st, const struct map *low,
    const struct map *high, uint64_t at, struct map *out);

/* Where (page) is, and for how many pages from there at least: one run. */
int map_lookup(const struct map *m, uint64_t page, struct page_run *out);

/*
 * Call (fn) for the pages [first, first + npages) in order, in maximal runs
 * (neighbours that continue each other in the layer are joined; zero runs are
 * reported too). A negative return of (fn) ends the walk and is returned.
 * -ERANGE when the range exceeds the map.
 */
typedef int map_run_fn(void *ctx, const struct page_run *run);
int map_walk(const struct map *m, uint64_t first, uint64_t npages,
    map_run_fn *fn, void *ctx);

/*
 * Call (fn) for every maximal run of pages whose place differs between (a) and
 * (b), in order. Pages beyond the end of the shorter one differ where they are
 * not zero in the longer. Shared subtrees are not entered; *nodes_visited (may
 * be NULL) counts the nodes that were. Works for any two maps; it is fast where
 * they have common history. Where (fn) is NULL only counts. A negative return
 * of (fn) ends it and is returned.
 */
typedef int map_diff_fn(void *ctx, uint64_t page, uint64_t npages);
int map_diff(const struct map *a, const struct map *b, map_diff_fn *fn,
    void *ctx, uint64_t *nodes_visited);

/* The same, and asks (stop) every thousand nodes or so, a tenth of a
 * millisecond, whether to go on; -ECANCELED when it says true. */
typedef bool map_stop_fn(void *ctx);
int map_diff_until(const struct map *a, const struct map *b, map_diff_fn *fn,
    map_stop_fn *stop, void *ctx, uint64_t *nodes_visited);

/* Bytes of the nodes of (m), and those that none of (other) shares. Asks (stop)
 * for each of (other). -ENOMEM, -ECANCELED. */
struct map_nodes {
	uint64_t bytes;
	uint64_t exclusive;
};
int map_count_nodes(const struct map *m, const struct map *other, size_t nother,
    map_stop_fn *stop, void *ctx, struct map_nodes *out);

/* --- everything that is reachable ------------------------------------------
 *
 * A mark visits each node that any map of the store reaches once, however many
 * maps share it: the cost is that of the nodes, not of the maps. It begins by
 * holding all maps that there are (whoever holds them: the store knows), so
 * that it can go on in another thread while maps come and go. One at a time.
 */
struct map_mark {
	struct map *map; /* held; those of zeroes left out */
	size_t n;
	size_t len; /* of (map), in bytes */
	uint32_t epoch;
};

/* -ENOMEM: nothing is held. */
int map_mark_begin(struct map_store *st, struct map_mark *k);
/* Call (fn) for every run entry that is reached, in no order; the same pages
 * may be named by several. A negative return ends the mark and is returned. */
typedef int map_mark_fn(
    void *ctx, uint32_t layer, uint64_t index, uint64_t npages);
int map_mark_run(const struct map_mark *k, map_mark_fn *fn, void *ctx);
void map_mark_end(struct map_store *st, struct map_mark *k);

#endif /* VMM_MAP_MAP_H */
