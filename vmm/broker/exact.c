/* SPDX-License-Identifier: MIT */
/*
 * exact: a snapshot in files that tell nothing but it.
 *
 * A descriptor shows a whole file. Where that must not tell of other snapshots,
 * only those files go out of which every page is reachable from this one. Where
 * a page of one is not, all reachable pages are copied to a file of their own,
 * once, which the snapshot's opened map names. Its own map stays as it is, so
 * that this never changes what a diff or a heatmap says.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/broker/internal.h"
#include "vmm/layer/layer_copy.h"

struct exact_op {
	struct work work;
	struct broker *b;
	struct snap *s;
	exact_fn *fn;
	void *ctx;
	struct exact x; /* its map is held, for its layers */
	struct page_run *to;
	struct layer_copied copied;
	bool copy;
	int rc;
	struct err e;
};

static void exact_free(struct exact_op *op)
{
	if (op->x.map.npages != 0)
		map_put(&op->b->store, &op->x.map);
	snap_put(op->b, op->s);
	filetab_free(&op->x.tab);
	free(op->x.runs.r);
	free(op->to);
	if (op->copied.fd >= 0)
		(void)close(op->copied.fd);
	layers_reap(op->b);
	free(op);
}

static void exact_fail(struct exact_op *op, const struct err *e)
{
	op->fn(op->b, NULL, e, op->ctx);
	exact_free(op);
}

static void set_bits(uint64_t *w, uint64_t from, uint64_t to)
{
	for (; from < to && from % 64 != 0; from++)
		w[from / 64] |= 1ULL << from % 64;
	for (; from + 64 <= to; from += 64)
		w[from / 64] = UINT64_MAX;
	for (; from < to; from++)
		w[from / 64] |= 1ULL << from % 64;
}

/* Which pages of file (i) the runs reach, each counted once however often a
 * monitor named it; 0 when there is no memory to tell. */
static uint64_t count_reached(
    const struct exact_op *op, uint32_t i, uint64_t npages)
{
	uint64_t nwords = (npages + 63) / 64;
	uint64_t *bits = calloc(nwords, sizeof(*bits));
	uint64_t n = 0;

	if (bits == NULL)
		return 0;
	for (size_t k = 0; k < op->x.runs.n; k++) {
		const struct page_run *r = &op->x.runs.r[k];

		if (r->layer == i)
			set_bits(bits, r->index, r->index + r->npages);
	}
	for (uint64_t k = 0; k < nwords; k++)
		n += (uint64_t)__builtin_popcountll(bits[k]);
	free(bits);
	return n;
}

/* At most EXACT_FILES_MAX passes over the runs. */
static bool must_copy(const struct exact_op *op)
{
	struct lfile_stat st;

	if (op->x.tab.nfiles > EXACT_FILES_MAX)
		return true;
	for (uint32_t i = 0; i < op->x.tab.nfiles; i++) {
		lfile_stat(op->b->layers, op->x.tab.file[i], &st);
		if (st.bytes / PAGE_SIZE > count_reached(op, i, st.npages))
			return true;
	}
	return false;
}

static void exact_copy(struct work *w)
{
	struct exact_op *op = (struct exact_op *)w;
	struct layer_job job = {
	    .layer_fd = op->x.tab.fd,
	    .nfds = op->x.tab.nfiles,
	    .cancel = &w->cancelled,
	};

	op->rc =
	    layer_copy_runs(&job, (struct run_list){op->x.runs.r, op->x.runs.n},
		op->to, &op->copied, &op->e);
}

static int exact_adopt(struct exact_op *op)
{
	struct broker *b = op->b;
	struct snap *s = op->s;
	struct map next;
	uint32_t id;
	int rc = layer_adopt(
	    b->layers, op->copied.fd, op->copied.npages, &id, &op->e);

	op->copied.fd = -1;
	if (rc != 0)
		return rc;
	layer_belongs(b->layers, id, snap_layers(s));
	for (size_t i = 0; i < op->x.runs.n; i++)
		if (op->to[i].layer != RUN_ZERO)
			op->to[i].layer = id;
	rc = map_apply(&b->store, &s->map, op->to, op->x.runs.n, &next);
	layer_put(b->layers, id);
	if (rc != 0)
		return err_set(&op->e, rc, "no memory for a page map");
	/* Two may have asked at once. */
	if (s->has_opened)
		map_put(&b->store, &s->opened);
	s->opened = next;
	s->has_opened = true;
	layers_reap(b);
	return 0;
}

static int exact_begin(struct exact_op *op);

static void exact_copied(struct work *w)
{
	struct exact_op *op = (struct exact_op *)w;
	int rc =
	    w->ran ? op->rc : err_set(&op->e, -ECANCELED, "firnd is ending");

	if (rc == 0)
		rc = exact_adopt(op);
	free(op->x.runs.r);
	free(op->to);
	filetab_free(&op->x.tab);
	op->x.runs = (struct runs){0};
	op->to = NULL;
	if (rc == 0)
		rc = exact_begin(op);
	if (rc != 0)
		exact_fail(op, &op->e);
}

/* Tell, or have it copied first. On failure (op) is the caller's still. */
static int exact_begin(struct exact_op *op)
{
	bool copy;
	int rc;

	if (op->x.map.npages != 0)
		map_put(&op->b->store, &op->x.map);
	op->x.map = map_get(
	    &op->b->store, op->s->has_opened ? &op->s->opened : &op->s->map);
	rc = runs_of(&op->x.map, 0, op->x.map.npages, &op->x.runs);
	if (rc == 0)
		rc = files_of(op->b, &op->x.runs, &op->x.tab);
	/* What was copied is exact. */
	copy = rc == 0 && !op->copy && must_copy(op);
	if (rc == 0 && op->x.tab.nfiles > EXACT_FILES_MAX && !copy)
		rc = -E2BIG;
	if (copy)
		rc = bank_check(op->b, PAGE_SIZE, &op->e);
	if (rc == 0 && copy) {
		op->to = calloc(op->x.runs.n + 1, sizeof(*op->to));
		rc = op->to == NULL ? -ENOMEM : 0;
	}
	if (rc != 0)
		return op->e.code != 0
			   ? op->e.code
			   : err_set(&op->e, rc, "cannot look at its files: %s",
				 strerror(-rc));
	if (!copy) {
		op->fn(op->b, &op->x, NULL, op->ctx);
		exact_free(op);
		return 0;
	}
	op->copy = true;
	worker_submit(op->b->pool, &op->work, exact_copy, exact_copied);
	return 0;
}

void exact(struct broker *b, struct snap *s, exact_fn *fn, void *ctx)
{
	struct exact_op *op = calloc(1, sizeof(*op));
	struct err e;

	if (op == NULL) {
		(void)err_set(&e, -ENOMEM, "no memory to look at its files");
		fn(b, NULL, &e, ctx);
		return;
	}
	op->b = b;
	op->s = snap_hold(s);
	op->fn = fn;
	op->ctx = ctx;
	op->copied.fd = -1;
	if (exact_begin(op) != 0)
		exact_fail(op, &op->e);
}
