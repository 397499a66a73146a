/* SPDX-License-Identifier: MIT */
/* What reads maps, of which it changes nothing: any thread that holds them. */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "vmm/map/internal.h"

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
