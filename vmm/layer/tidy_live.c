/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>

#include "vmm/layer/tidy_job.h"

/* --- mark ----------------------------------------------------------------- */

static bool cancelled(const struct tidy *t)
{
	return t->cancel != NULL && atomic_load(t->cancel);
}

static int add_extent(
    void *ctx, uint32_t layer, uint64_t index, uint64_t npages)
{
	struct tidy *t = ctx;

	if (t->nextents == t->extents_cap) {
		size_t cap = t->extents_cap == 0 ? 1024 : t->extents_cap * 2;
		struct tidy_extent *x;

		if (cap > TIDY_EXTENTS_MAX)
			return -ENOMEM;
		if (cancelled(t))
			return -ECANCELED;
		x = realloc(t->extent, cap * sizeof(*x));
		if (x == NULL)
			return -ENOMEM;
		t->extent = x;
		t->extents_cap = cap;
	}
	t->extent[t->nextents++] = (struct tidy_extent){
	    .layer = layer,
	    .index = (uint32_t)index,
	    .npages = (uint32_t)npages,
	};
	return 0;
}

_Static_assert(LAYER_NPAGES_MAX < UINT32_MAX, "pages of a layer fit an extent");

static int by_place(const void *x, const void *y)
{
	const struct tidy_extent *a = x;
	const struct tidy_extent *b = y;

	if (a->layer != b->layer)
		return a->layer < b->layer ? -1 : 1;
	return a->index < b->index ? -1 : a->index > b->index;
}

/* Sort the extents and unite those that touch or overlap. */
static void settle_extents(struct tidy *t)
{
	size_t n = 0;

	if (t->nextents == 0)
		return;
	qsort(t->extent, t->nextents, sizeof(*t->extent), by_place);
	for (size_t i = 1; i < t->nextents; i++) {
		struct tidy_extent *last = &t->extent[n];
		const struct tidy_extent *x = &t->extent[i];

		if (x->layer == last->layer &&
		    x->index <= last->index + last->npages) {
			uint32_t end = x->index + x->npages;

			if (end > last->index + last->npages)
				last->npages = end - last->index;
		} else {
			t->extent[++n] = *x;
		}
	}
	t->nextents = n + 1;
}

/* Every page of (l) that has a piece. */
static int add_whole(struct tidy *t, const struct tidy_layer *l)
{
	int rc = 0;

	for (uint32_t i = 0; i < l->npieces && rc == 0; i++) {
		const struct layer_piece *p = &t->piece[l->first + i];

		rc = add_extent(t, l->id, p->first, p->npages);
	}
	return rc;
}

/* What is reachable; without a mark, everything. */
static int find_extents(struct tidy *t)
{
	int rc = t->mark ? map_mark_run(&t->maps, add_extent, t) : 0;

	for (uint32_t i = 0; i < t->nlayers && rc == 0; i++)
		if (t->layer[i].whole || !t->mark)
			rc = add_whole(t, &t->layer[i]);
	if (rc == 0)
		settle_extents(t);
	return rc;
}

/* --- what is live of which file ------------------------------------------- */

/* Call (fn) for what is reachable of each piece of (l), in order. (*x) is the
 * first of its extents, and moves behind them. */
static int each_part(
    struct tidy *t, struct tidy_layer *l, size_t *x, tidy_part_fn *fn)
{
	const struct tidy_extent *e = t->extent;
	uint32_t i = 0;

	while (*x < t->nextents && e[*x].layer < l->id)
		++*x;
	while (*x < t->nextents && e[*x].layer == l->id && i < l->npieces) {
		const struct layer_piece *p = &t->piece[l->first + i];
		uint64_t from = e[*x].index;
		uint64_t to = from + e[*x].npages;
		uint64_t end = p->first + p->npages;
		int rc = 0;

		if (from < p->first)
			from = p->first;
		if (to > end)
			to = end;
		if (from < to)
			rc = fn(t, l, p, from, to - from);
		if (rc != 0)
			return rc;
		if (e[*x].index + (uint64_t)e[*x].npages >= end)
			i++;
		else
			++*x;
	}
	return 0;
}

int tidy_each_part(struct tidy *t, tidy_part_fn *fn)
{
	size_t x = 0;
	int rc = 0;

	for (uint32_t i = 0; i < t->nlayers && rc == 0; i++)
		rc = each_part(t, &t->layer[i], &x, fn);
	return rc;
}

static int count_part(struct tidy *t, struct tidy_layer *l,
    const struct layer_piece *p, uint64_t first, uint64_t npages)
{
	(void)l;
	(void)first;
	t->file[p->file].live += npages;
	return 0;
}

static void count_live(struct tidy *t)
{
	(void)tidy_each_part(t, count_part);
	for (uint32_t i = 0; i < t->nfiles; i++) {
		struct tidy_file *f = &t->file[i];

		/* A page may be a hole: somebody named what is not there. */
		t->res.live_bytes +=
		    (f->live < f->used ? f->live : f->used) * PAGE_SIZE;
	}
	t->res.marked = t->mark;
}

int tidy_find_live(struct tidy *t)
{
	int rc = find_extents(t);

	if (rc == 0)
		count_live(t);
	return rc;
}
