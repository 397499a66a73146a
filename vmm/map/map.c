/* SPDX-License-Identifier: MIT */
/* What makes maps and ends them: stores, derivation, marks. */
#include <assert.h>
#include <errno.h>
#include <stdbool.h>

#include "shared/status.h"
#include "vmm/map/internal.h"

/* A map that is held, how often; entry 0: free. */
struct map_root {
	uint64_t entry;
	uint64_t npages;
	uint64_t holds;
};

static uint64_t entry_get(struct map_store *st, uint64_t e)
{
	if (entry_is_node(e))
		entry_node(e)->refs++;
	else if (e != 0 && st->ops->layer_get != NULL)
		st->ops->layer_get(st->ops->ctx, entry_layer(e));
	return e;
}

/* A node that was its last holder's waits on the list of the dead. */
static void entry_put(struct map_store *st, uint64_t e)
{
	struct map_node *nd;

	if (!entry_is_node(e)) {
		if (e != 0 && st->ops->layer_put != NULL)
			st->ops->layer_put(st->ops->ctx, entry_layer(e));
		return;
	}
	nd = entry_node(e);
	if (--nd->refs != 0)
		return;
	nd->next_dead = st->dead;
	st->dead = nd;
}

bool map_reap(struct map_store *st, uint64_t max)
{
	for (; st->dead != NULL && max > 0; max--) {
		struct map_node *nd = st->dead;

		st->dead = nd->next_dead;
		for (unsigned i = 0; i < MAP_FANOUT; i++)
			entry_put(st, nd->child[i]);
		st->ops->free(st->ops->ctx, nd, sizeof(*nd));
		st->nnodes--;
		st->nbytes -= sizeof(*nd);
	}
	return st->dead != NULL;
}

/* --- the maps that are held -------------------------------------------------
 *
 * By linear probing; an entry of 0, a map of zeroes, has nothing to be found
 * and is not in it.
 */

#define ROOTS_START 16u

static uint32_t root_hash(const struct map_store *st, uint64_t entry)
{
	return (uint32_t)((entry * 0x9e3779b97f4a7c15ULL) >> 32) &
	       (st->root_cap - 1);
}

static struct map_root *root_at(
    const struct map_store *st, uint64_t entry, uint64_t npages)
{
	uint32_t i = root_hash(st, entry);

	while (st->root[i].entry != 0 &&
	       (st->root[i].entry != entry || st->root[i].npages != npages))
		i = (i + 1) & (st->root_cap - 1);
	return &st->root[i];
}

static void roots_resize(
    struct map_store *st, struct map_root *to, uint32_t cap)
{
	struct map_store was = *st;

	st->root = to;
	st->root_cap = cap;
	for (uint32_t i = 0; to != NULL && i < was.root_cap; i++)
		if (was.root[i].entry != 0)
			*root_at(st, was.root[i].entry, was.root[i].npages) =
			    was.root[i];
	if (was.root_cap != 0)
		st->ops->free(
		    st->ops->ctx, was.root, was.root_cap * sizeof(*was.root));
}

/* Room for one more. */
static int roots_reserve(struct map_store *st)
{
	uint32_t cap = st->root_cap == 0 ? ROOTS_START : st->root_cap * 2;
	struct map_root *to;

	if (2 * (st->nroots + 1) <= st->root_cap)
		return 0;
	to = st->ops->alloc(st->ops->ctx, cap * sizeof(*to));
	if (to == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < cap; i++)
		to[i] = (struct map_root){0};
	roots_resize(st, to, cap);
	return 0;
}

/* No table for nothing. */
static void roots_trim(struct map_store *st)
{
	if (st->nroots == 0 && st->root_cap != 0)
		roots_resize(st, NULL, 0);
}

static void root_get(struct map_store *st, const struct map *m)
{
	struct map_root *r;

	if (m->entry == 0)
		return;
	r = root_at(st, m->entry, m->npages);
	if (r->entry == 0) {
		*r = (struct map_root){.entry = m->entry, .npages = m->npages};
		st->nroots++;
	}
	r->holds++;
}

/* Close the gap at (i), so that what stands behind is found from its hash. */
static void roots_close(struct map_store *st, uint32_t i)
{
	uint32_t mask = st->root_cap - 1;
	uint32_t k = i;

	st->root[i] = (struct map_root){0};
	for (;;) {
		uint32_t home;

		k = (k + 1) & mask;
		if (st->root[k].entry == 0)
			return;
		home = root_hash(st, st->root[k].entry);
		if (((k - home) & mask) < ((k - i) & mask))
			continue;
		st->root[i] = st->root[k];
		st->root[k] = (struct map_root){0};
		i = k;
	}
}

static void root_put(struct map_store *st, const struct map *m)
{
	struct map_root *r;

	if (m->entry == 0)
		return;
	assert(st->root != NULL); /* (m) is in it */
	r = root_at(st, m->entry, m->npages);
	assert(r->holds > 0);
	if (--r->holds != 0)
		return;
	roots_close(st, (uint32_t)(r - st->root));
	st->nroots--;
	roots_trim(st);
}

size_t map_node_len(void)
{
	return sizeof(struct map_node);
}

void map_store_init(struct map_store *st, const struct map_ops *ops)
{
	*st = (struct map_store){.ops = ops};
}

int map_zero(uint64_t npages, struct map *out)
{
	if (npages == 0 || npages > MAP_NPAGES_MAX)
		return -EINVAL;
	*out = (struct map){.npages = npages};
	return 0;
}

struct map map_get(struct map_store *st, const struct map *m)
{
	entry_get(st, m->entry);
	root_get(st, m);
	return *m;
}

void map_put_all(struct map_store *st, struct map *m, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		root_put(st, &m[i]);
		entry_put(st, m[i].entry);
		m[i] = (struct map){0};
	}
	(void)map_reap(st, MAP_PUT_NODES);
}

void map_put(struct map_store *st, struct map *m)
{
	map_put_all(st, m, 1);
}

/* --- apply ---------------------------------------------------------------- */

struct apply {
	struct map_store *st;
	const struct page_run *run; /* the first that is not used up */
	const struct page_run *end;
	uint64_t npages;
};

static void put_children(struct map_store *st, const uint64_t *child)
{
	for (unsigned i = 0; i < MAP_FANOUT; i++)
		entry_put(st, child[i]);
}

static bool same_children(uint64_t old, const uint64_t *child)
{
	if (!entry_is_node(old))
		return false;
	for (unsigned i = 0; i < MAP_FANOUT; i++)
		if (entry_node(old)->child[i] != child[i])
			return false;
	return true;
}

/* Whether one entry, the first child's, describes the whole span. */
static bool is_uniform(const struct apply *ap, const uint64_t *child,
    unsigned level, uint64_t start)
{
	if (entry_is_node(child[0]))
		return false;
	for (unsigned i = 1; i < MAP_FANOUT; i++)
		if (child[i] !=
		    child_entry(child[0], level, start, i, ap->npages))
			return false;
	return true;
}

/*
 * The entry that stands for (child), which it takes over: what there was, one
 * entry, or a new node. False: no memory, and the children were put.
 */
static bool join_children(struct apply *ap, uint64_t old, unsigned level,
    uint64_t start, const uint64_t *child, uint64_t *out)
{
	struct map_store *st = ap->st;
	struct map_node *nd;

	if (same_children(old, child)) {
		*out = entry_get(st, old);
		put_children(st, child);
		return true;
	}
	if (is_uniform(ap, child, level, start)) {
		*out = entry_get(st, child[0]);
		put_children(st, child);
		return true;
	}
	nd = st->ops->alloc(st->ops->ctx, sizeof(*nd));
	if (nd == NULL) {
		put_children(st, child);
		return false;
	}
	st->nnodes++;
	st->nbytes += sizeof(*nd);
	nd->refs = 1;
	nd->mark = 0;
	for (unsigned i = 0; i < MAP_FANOUT; i++)
		nd->child[i] = child[i];
	*out = (uint64_t)(uintptr_t)nd;
	return true;
}

/* The span from (start) at (level), (old) so far, with the runs put over it. */
static bool apply_span(struct apply *ap, uint64_t old, unsigned level,
    uint64_t start, uint64_t *out)
{
	uint64_t end = min_u64(start + level_span(level), ap->npages);
	uint64_t child[MAP_FANOUT] = {0};
	const struct page_run *r;

	while (ap->run < ap->end && ap->run->page + ap->run->npages <= start)
		ap->run++;
	r = ap->run;
	if (r == ap->end || r->page >= end) {
		*out = entry_get(ap->st, old);
		return true;
	}
	if (r->page <= start && r->page + r->npages >= end) {
		*out = entry_get(
		    ap->st, entry_of(r->layer, r->index + (start - r->page)));
		return true;
	}
	for (unsigned i = 0; i < MAP_FANOUT; i++) {
		uint64_t was = child_entry(old, level, start, i, ap->npages);

		if (!apply_span(ap, was, level - 1,
			start + i * level_span(level - 1), &child[i])) {
			put_children(ap->st, child);
			return false;
		}
	}
	return join_children(ap, old, level, start, child, out);
}

static int check_indices(const struct page_run *r, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (r[i].layer != RUN_ZERO &&
		    r[i].index + r[i].npages > INDEX_MAX)
			return -ST_RANGE;
	return 0;
}

/* A new map, of the entry that (derived) unless there was no memory for it. The
 * table of maps has room. */
static int derived_map(struct map_store *st, uint64_t npages, bool derived,
    uint64_t entry, struct map *out)
{
	(void)map_reap(st, MAP_PUT_NODES);
	if (derived) {
		*out = (struct map){.npages = npages, .entry = entry};
		root_get(st, out);
	}
	roots_trim(st);
	return derived ? 0 : -ENOMEM;
}

int map_apply(struct map_store *st, const struct map *base,
    const struct page_run *runs, size_t n, struct map *out)
{
	struct apply ap = {
	    .st = st, .run = runs, .end = runs + n, .npages = base->npages};
	uint64_t entry = 0;
	bool done;
	int rc = run_list_check(runs, n, base->npages);

	if (rc == 0)
		rc = check_indices(runs, n);
	if (rc == 0)
		rc = roots_reserve(st);
	if (rc != 0)
		return rc;
	done =
	    apply_span(&ap, base->entry, root_level(base->npages), 0, &entry);
	return derived_map(st, base->npages, done, entry, out);
}

/* --- splice --------------------------------------------------------------- */

/* The span from (start) at (level): of (low) before page (at), of (high) from
 * there on. */
static bool splice_span(struct apply *ap, uint64_t low, uint64_t high,
    unsigned level, uint64_t start, uint64_t at, uint64_t *out)
{
	uint64_t end = min_u64(start + level_span(level), ap->npages);
	uint64_t child[MAP_FANOUT] = {0};

	if (low == high || at <= start || at >= end) {
		*out = entry_get(ap->st, at <= start ? high : low);
		return true;
	}
	for (unsigned i = 0; i < MAP_FANOUT; i++)
		if (!splice_span(ap,
			child_entry(low, level, start, i, ap->npages),
			child_entry(high, level, start, i, ap->npages),
			level - 1, start + i * level_span(level - 1), at,
			&child[i])) {
			put_children(ap->st, child);
			return false;
		}
	return join_children(ap, high, level, start, child, out);
}

int map_splice(struct map_store *st, const struct map *low,
    const struct map *high, uint64_t at, struct map *out)
{
	struct apply ap = {.st = st, .npages = low->npages};
	uint64_t entry = 0;
	bool done;

	assert(low->npages == high->npages);
	if (roots_reserve(st) != 0)
		return -ENOMEM;
	done = splice_span(&ap, low->entry, high->entry,
	    root_level(low->npages), 0, at, &entry);
	return derived_map(st, low->npages, done, entry, out);
}
/* --- mark ----------------------------------------------------------------- */

int map_mark_begin(struct map_store *st, struct map_mark *k)
{
	*k = (struct map_mark){
	    .len = ((size_t)st->nroots + 1) * sizeof(*k->map)};
	k->map = st->ops->alloc(st->ops->ctx, k->len);
	if (k->map == NULL)
		return -ENOMEM;
	/* 0 is that of nodes which no mark has seen. */
	if (++st->epoch == 0)
		st->epoch = 1;
	k->epoch = st->epoch;
	for (uint32_t i = 0; i < st->root_cap; i++) {
		struct map_root *r = &st->root[i];

		if (r->entry == 0)
			continue;
		r->holds++;
		k->map[k->n++] = (struct map){
		    .npages = r->npages, .entry = entry_get(st, r->entry)};
	}
	return 0;
}

struct marking {
	uint32_t epoch;
	uint64_t npages;
	map_mark_fn *fn;
	void *ctx;
};

static int mark_span(
    const struct marking *k, uint64_t e, unsigned level, uint64_t start)
{
	struct map_node *nd;
	int rc = 0;

	if (e == 0)
		return 0;
	if (!entry_is_node(e))
		return k->fn(k->ctx, entry_layer(e), entry_index(e),
		    min_u64(level_span(level), k->npages - start));
	nd = entry_node(e);
	if (nd->mark == k->epoch)
		return 0;
	nd->mark = k->epoch;
	for (unsigned i = 0; i < MAP_FANOUT && rc >= 0; i++)
		rc = mark_span(k, nd->child[i], level - 1,
		    start + i * level_span(level - 1));
	return rc;
}

int map_mark_run(const struct map_mark *k, map_mark_fn *fn, void *ctx)
{
	int rc = 0;

	for (size_t i = 0; i < k->n && rc >= 0; i++) {
		struct marking m = {.epoch = k->epoch,
		    .npages = k->map[i].npages,
		    .fn = fn,
		    .ctx = ctx};

		rc = mark_span(
		    &m, k->map[i].entry, root_level(k->map[i].npages), 0);
	}
	return rc < 0 ? rc : 0;
}

void map_mark_end(struct map_store *st, struct map_mark *k)
{
	map_put_all(st, k->map, k->n);
	if (k->map != NULL)
		st->ops->free(st->ops->ctx, k->map, k->len);
	*k = (struct map_mark){.n = 0};
}
