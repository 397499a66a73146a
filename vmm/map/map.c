/* SPDX-License-Identifier: MIT */
/*
 * An entry is one 64-bit word: 0 says that its span reads as zero; bit 0 set,
 * that it is contiguous in a layer (layer in the upper half, index of the
 * span's first page in bits 1..28); else it is the address of a node, which
 * divides the span by MAP_FANOUT. Pages beyond npages do not exist: the last
 * spans are clipped there, and entries of spans wholly beyond are 0.
 *
 * Trees are in normal form: there is no node whose existing pages one entry
 * could describe. A small fan-out costs least memory for scattered changes
 * (153 bytes a changed page with 4, 229 with 16; docs/FIGURES.md).
 */
#include "vmm/map/map.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "shared/status.h"

#ifndef MAP_FANOUT_SHIFT /* set by the benchmark that compares */
#define MAP_FANOUT_SHIFT 2
#endif
#define MAP_FANOUT (1u << MAP_FANOUT_SHIFT)
#define LEVEL_MAX  /* of a map of MAP_NPAGES_MAX */                            \
	((40 + MAP_FANOUT_SHIFT - 1) / MAP_FANOUT_SHIFT)
#define INDEX_BITS 28
#define INDEX_MAX  (1ULL << INDEX_BITS)

struct map_node {
	union {
		struct {
			uint32_t refs;
			/* The epoch of the last mark that came by. Only the
			 * marking thread touches it once the node is made. */
			uint32_t mark;
		};
		struct map_node *next_dead;
	};
	uint64_t child[MAP_FANOUT];
};

/* A map that is held, how often; entry 0: free. */
struct map_root {
	uint64_t entry;
	uint64_t npages;
	uint64_t holds;
};

_Static_assert(
    _Alignof(struct map_node) >= 2, "bit 0 of a node's address is free");
_Static_assert(
    1ULL << (LEVEL_MAX * MAP_FANOUT_SHIFT) >= MAP_NPAGES_MAX, "LEVEL_MAX");

static bool entry_is_run(uint64_t e)
{
	return (e & 1) != 0;
}

static bool entry_is_node(uint64_t e)
{
	return e != 0 && !entry_is_run(e);
}

static struct map_node *entry_node(uint64_t e)
{
	/* NOLINTNEXTLINE(performance-no-int-to-ptr): 8 bytes an entry. */
	return (struct map_node *)(uintptr_t)e;
}

static uint32_t entry_layer(uint64_t e)
{
	return entry_is_run(e) ? (uint32_t)(e >> 32) : RUN_ZERO;
}

static uint64_t entry_index(uint64_t e)
{
	return entry_is_run(e) ? (e >> 1) & (INDEX_MAX - 1) : 0;
}

static uint64_t entry_of(uint32_t layer, uint64_t index)
{
	if (layer == RUN_ZERO)
		return 0;
	return ((uint64_t)layer << 32) | (index << 1) | 1;
}

/* Pages that an entry at (level) covers; pages have level 0. */
static uint64_t level_span(unsigned level)
{
	assert(level <= LEVEL_MAX);
	return 1ULL << (level * MAP_FANOUT_SHIFT);
}

static unsigned root_level(uint64_t npages)
{
	unsigned level = 0;

	while (level_span(level) < npages)
		level++;
	return level;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/*
 * What (e), at (level) from page (start), says of its child (i), whether it is
 * a node or not. Borrowed.
 */
static uint64_t child_entry(
    uint64_t e, unsigned level, uint64_t start, unsigned i, uint64_t npages)
{
	uint64_t off = i * level_span(level - 1);

	if (entry_is_node(e))
		return entry_node(e)->child[i];
	if (e == 0 || start + off >= npages)
		return 0;
	return entry_of(entry_layer(e), entry_index(e) + off);
}

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

void map_put(struct map_store *st, struct map *m)
{
	root_put(st, m);
	entry_put(st, m->entry);
	*m = (struct map){0};
	(void)map_reap(st, MAP_PUT_NODES);
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

/* --- read ----------------------------------------------------------------- */

int map_lookup(const struct map *m, uint64_t page, struct page_run *out)
{
	unsigned level = root_level(m->npages);
	uint64_t e = m->entry;
	uint64_t start = 0;
	uint64_t end;

	if (page >= m->npages)
		return -ERANGE;
	while (entry_is_node(e)) {
		uint64_t span = level_span(--level);
		uint64_t i = (page - start) / span;

		e = entry_node(e)->child[i];
		start += i * span;
	}
	end = min_u64(start + level_span(level), m->npages);
	*out = (struct page_run){
	    .page = page,
	    .npages = end - page,
	    .index = e == 0 ? 0 : entry_index(e) + (page - start),
	    .layer = entry_layer(e),
	};
	return 0;
}

struct walk {
	uint64_t first;
	uint64_t end;
	struct page_run run; /* not yet reported; npages 0: none */
	map_run_fn *fn;
	void *ctx;
};

static bool continues(const struct page_run *a, const struct page_run *b)
{
	return a->layer == b->layer &&
	       (a->layer == RUN_ZERO || a->index + a->npages == b->index);
}

static int walk_flush(struct walk *w)
{
	int rc = w->run.npages == 0 ? 0 : w->fn(w->ctx, &w->run);

	w->run.npages = 0;
	return rc < 0 ? rc : 0;
}

static int walk_add(struct walk *w, const struct page_run *r)
{
	int rc;

	if (w->run.npages != 0 && continues(&w->run, r)) {
		w->run.npages += r->npages;
		return 0;
	}
	rc = walk_flush(w);
	w->run = *r;
	return rc;
}

static int walk_span(struct walk *w, uint64_t e, unsigned level, uint64_t start)
{
	uint64_t end = start + level_span(level);
	uint64_t from = start > w->first ? start : w->first;
	uint64_t to = min_u64(end, w->end);
	struct page_run r;

	if (from >= to)
		return 0;
	if (entry_is_node(e)) {
		for (unsigned i = 0; i < MAP_FANOUT; i++) {
			int rc = walk_span(w, entry_node(e)->child[i],
			    level - 1, start + i * level_span(level - 1));

			if (rc < 0)
				return rc;
		}
		return 0;
	}
	r = (struct page_run){
	    .page = from,
	    .npages = to - from,
	    .index = e == 0 ? 0 : entry_index(e) + (from - start),
	    .layer = entry_layer(e),
	};
	return walk_add(w, &r);
}

int map_walk(const struct map *m, uint64_t first, uint64_t npages,
    map_run_fn *fn, void *ctx)
{
	struct walk w = {.first = first, .fn = fn, .ctx = ctx};
	int rc;

	if (__builtin_add_overflow(first, npages, &w.end) || w.end > m->npages)
		return -ERANGE;
	rc = walk_span(&w, m->entry, root_level(m->npages), 0);
	return rc < 0 ? rc : walk_flush(&w);
}

/* --- diff ----------------------------------------------------------------- */

#define STOP_EVERY 1024u /* nodes between two questions whether to stop */

struct diff {
	const struct map *a;
	const struct map *b;
	uint64_t both; /* pages that exist in both; the rest in one */
	uint64_t npages;
	uint64_t nodes;
	uint64_t asked; /* nodes when (stop) was asked last */
	uint64_t from;  /* not yet reported: [from, to) */
	uint64_t to;
	map_diff_fn *fn;
	map_stop_fn *stop;
	void *ctx;
};

static int diff_flush(struct diff *d)
{
	int rc = 0;

	if (d->from < d->to && d->fn != NULL)
		rc = d->fn(d->ctx, d->from, d->to - d->from);
	return rc < 0 ? rc : 0;
}

static int diff_add(struct diff *d, uint64_t from, uint64_t to)
{
	int rc;

	if (d->to == from) {
		d->to = to;
		return 0;
	}
	rc = diff_flush(d);
	d->from = from;
	d->to = to;
	return rc;
}

/*
 * An entry of one side, and the level that it stands at. Where the other map is
 * larger a root stands lower than the span that is looked at: it is then the
 * span's beginning, and the rest is zero.
 */
struct diff_entry {
	uint64_t e;
	unsigned level;
};

static struct diff_entry diff_child(const struct map *m, struct diff_entry d,
    unsigned level, uint64_t start, unsigned i)
{
	if (d.level < level)
		return i == 0 ? d : (struct diff_entry){0, level - 1};
	return (struct diff_entry){
	    child_entry(d.e, level, start, i, m->npages), level - 1};
}

/* Whether (d) must be divided before it can be compared over a span of
 * (level). */
static bool diff_divides(struct diff_entry d, unsigned level)
{
	return d.e != 0 && (d.level < level || entry_is_node(d.e));
}

/* Neither is a node: all pages that exist in both differ or none does; those
 * that exist in one only differ where they are not zero. */
static int diff_runs(
    struct diff *d, uint64_t a, uint64_t b, uint64_t start, uint64_t end)
{
	uint64_t longer = d->a->npages > d->b->npages ? a : b;
	uint64_t tail = start > d->both ? start : d->both;
	int rc = 0;

	end = min_u64(end, d->npages);
	if (a != b && start < d->both)
		rc = diff_add(d, start, min_u64(end, d->both));
	if (rc == 0 && longer != 0 && tail < end)
		rc = diff_add(d, tail, end);
	return rc;
}

static int diff_count(struct diff *d, uint64_t a, uint64_t b)
{
	d->nodes += (uint64_t)entry_is_node(a) + entry_is_node(b);
	if (d->stop == NULL || d->nodes - d->asked < STOP_EVERY)
		return 0;
	d->asked = d->nodes;
	return d->stop(d->ctx) ? -ECANCELED : 0;
}

static int diff_span(struct diff *d, struct diff_entry a, struct diff_entry b,
    unsigned level, uint64_t start)
{
	uint64_t end = start + level_span(level);
	int rc;

	if (start >= d->npages)
		return 0;
	/* Equal entries show the same, as far as both maps reach. */
	if (a.e == b.e &&
	    (a.e == 0 || (a.level == b.level &&
			     (end <= d->both || d->both == d->npages))))
		return 0;
	if (!diff_divides(a, level) && !diff_divides(b, level))
		return diff_runs(d, a.e, b.e, start, end);
	rc = diff_count(d, a.e, b.e);
	for (unsigned i = 0; i < MAP_FANOUT && rc == 0; i++)
		rc = diff_span(d, diff_child(d->a, a, level, start, i),
		    diff_child(d->b, b, level, start, i), level - 1,
		    start + i * level_span(level - 1));
	return rc;
}

int map_diff_until(const struct map *a, const struct map *b, map_diff_fn *fn,
    map_stop_fn *stop, void *ctx, uint64_t *nodes_visited)
{
	const struct diff_entry ea = {a->entry, root_level(a->npages)};
	const struct diff_entry eb = {b->entry, root_level(b->npages)};
	struct diff d = {.a = a, .b = b, .fn = fn, .stop = stop, .ctx = ctx};
	int rc;

	d.both = min_u64(a->npages, b->npages);
	d.npages = a->npages > b->npages ? a->npages : b->npages;
	rc =
	    diff_span(&d, ea, eb, ea.level > eb.level ? ea.level : eb.level, 0);
	if (rc == 0)
		rc = diff_flush(&d);
	if (nodes_visited != NULL)
		*nodes_visited = d.nodes;
	return rc;
}

int map_diff(const struct map *a, const struct map *b, map_diff_fn *fn,
    void *ctx, uint64_t *nodes_visited)
{
	return map_diff_until(a, b, fn, NULL, ctx, nodes_visited);
}

/* --- nodes ---------------------------------------------------------------- */

/* A map's nodes, parents before children. */
struct census {
	uint64_t n, cap;
	uint32_t *size; /* of its subtree, in nodes; SHARED: as well */
};

#define SHARED 0x80000000u

static int census_add(struct census *c, uint64_t e)
{
	uint64_t at = c->n;
	int rc = 0;

	if (!entry_is_node(e))
		return 0;
	if (c->n == c->cap) {
		uint64_t cap = c->cap == 0 ? 256 : c->cap * 2;
		uint32_t *size = realloc(c->size, cap * sizeof(*size));

		if (size == NULL || cap >= SHARED) {
			c->size = size == NULL ? c->size : size;
			return -ENOMEM;
		}
		c->size = size;
		c->cap = cap;
	}
	c->n++;
	for (unsigned i = 0; i < MAP_FANOUT && rc == 0; i++)
		rc = census_add(c, entry_node(e)->child[i]);
	c->size[at] = (uint32_t)(c->n - at);
	return rc;
}

/* Mark what (o), another map's at the same place, shares of (e), which is
 * number (at). The number behind its subtree. */
static uint64_t census_share(
    struct census *c, uint64_t e, uint64_t o, uint64_t at)
{
	uint64_t next = at + 1;

	if (!entry_is_node(e))
		return at;
	if (e == o)
		c->size[at] |= SHARED;
	if ((c->size[at] & SHARED) != 0 || !entry_is_node(o))
		return at + (c->size[at] & ~SHARED);
	for (unsigned i = 0; i < MAP_FANOUT; i++)
		next = census_share(
		    c, entry_node(e)->child[i], entry_node(o)->child[i], next);
	return next;
}

int map_count_nodes(const struct map *m, const struct map *other, size_t nother,
    map_stop_fn *stop, void *ctx, struct map_nodes *out)
{
	struct census c = {0};
	uint64_t alone = 0;
	int rc = census_add(&c, m->entry);

	for (size_t i = 0; i < nother && rc == 0; i++) {
		if (other[i].npages == m->npages)
			(void)census_share(&c, m->entry, other[i].entry, 0);
		if (stop(ctx))
			rc = -ECANCELED;
	}
	for (uint64_t i = 0; i < c.n;) {
		bool shared = (c.size[i] & SHARED) != 0;

		alone += !shared;
		i += shared ? c.size[i] & ~SHARED : 1;
	}
	*out = (struct map_nodes){
	    .bytes = c.n * sizeof(struct map_node),
	    .exclusive = alone * sizeof(struct map_node),
	};
	free(c.size);
	return rc;
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
	for (size_t i = 0; i < k->n; i++)
		map_put(st, &k->map[i]);
	if (k->map != NULL)
		st->ops->free(st->ops->ctx, k->map, k->len);
	*k = (struct map_mark){.n = 0};
}
