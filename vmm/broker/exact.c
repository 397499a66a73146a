/* SPDX-License-Identifier: MIT */
/*
 * exact: a snapshot in files that tell nothing but it.
 *
 * A descriptor shows a whole file. Where that must not tell of other snapshots,
 * only those files go out of which every page is reachable from this one. Where
 * a page of one is not, all reachable pages are copied to a file of their own,
 * once, which the snapshot's opened map names. Its own map stays as it is, so
 * that this never changes what a diff or a heatmap says. The file of a copy is
 * pinned until it is told of, so that no others join it before.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/bits.h"
#include "vmm/broker/internal.h"
#include "vmm/layer/layer_copy.h"

/* What is known of a file without its bytes. */
struct exact_file {
	uint64_t npages;
	uint64_t used; /* pages that the kernel has for it */
};

struct exact_op {
	struct errand w;
	struct broker *b;
	struct snap *s;
	exact_fn *fn;
	void *ctx;
	struct exact x; /* its map is held, for its layers */
	struct runs runs;
	struct exact_file *file;
	bool copies; /* or did: what was copied is exact */
	bool must_copy;
	uint64_t npages; /* that are not zero */
	struct page_run *to;
	struct layer_copied copied;
	uint32_t layer;  /* of the copy */
	uint32_t pinned; /* the file that it came in, once (has_pin) */
	bool has_pin;
	struct apply apply;
};

/* What was looked at; it can begin anew. */
static void exact_forget(struct exact_op *op)
{
	if (op->x.map.npages != 0)
		map_put(&op->b->store, &op->x.map);
	filetab_free(&op->x.tab);
	free(op->runs.r);
	free(op->file);
	free(op->to);
	op->runs = (struct runs){0};
	op->file = NULL;
	op->to = NULL;
}

static void exact_free(struct exact_op *op)
{
	exact_forget(op);
	snap_put(op->b, op->s);
	if (op->x.runs_fd >= 0)
		(void)close(op->x.runs_fd);
	closer_close(op->b->closer, op->copied.fd);
	if (op->has_pin)
		lfile_unpin(op->b->layers, op->pinned);
	layers_reap(op->b);
	free(op);
}

static void exact_fail(struct exact_op *op, int rc)
{
	struct err *e = &op->w.e;

	if (e->code == 0)
		(void)err_set(
		    e, rc, "cannot look at its files: %s", strerror(-rc));
	op->fn(op->b, NULL, e, op->ctx);
	exact_free(op);
}

/* --- are they exact? ------------------------------------------------------ */

/* For each file a bit a page; from the heap, or NULL. */
static uint64_t **bits_of_files(const struct exact_op *op)
{
	uint32_t n = op->x.tab.nfiles;
	uint64_t **bits = calloc((size_t)n + 1, sizeof(uint64_t *));

	for (uint32_t i = 0; bits != NULL && i < n; i++) {
		bits[i] = calloc(op->file[i].npages / 64 + 1, 8);
		if (bits[i] != NULL)
			continue;
		while (i > 0)
			free(bits[--i]);
		free(bits);
		return NULL;
	}
	return bits;
}

/* Is every page of (f) reached, each counted once however often a monitor named
 * it? */
static bool all_reached(const struct exact_file *f, const uint64_t *bits)
{
	return bits_count(bits, f->npages / 64 + 1) >= f->used;
}

static int count_reached(struct exact_op *op)
{
	uint64_t **bits = bits_of_files(op);

	if (bits == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < op->runs.n; i++) {
		const struct page_run *r = &op->runs.r[i];

		if (r->layer != RUN_ZERO)
			bits_set(
			    bits[r->layer], r->index, r->index + r->npages);
	}
	for (uint32_t i = 0; i < op->x.tab.nfiles; i++) {
		op->must_copy |= !all_reached(&op->file[i], bits[i]);
		free(bits[i]);
	}
	free(bits);
	return 0;
}

static int exact_look(struct errand *w)
{
	struct exact_op *op = (struct exact_op *)w;
	int rc = runs_of_all(&op->x.map, w, &op->runs);

	return rc != 0 ? rc : filetab_want(&op->x.tab, op->runs.r, op->runs.n);
}

/* From layers to files, and of those which. */
static int exact_weigh(struct errand *w)
{
	struct exact_op *op = (struct exact_op *)w;
	struct page_run *run;
	size_t n;
	int rc;

	if (w->here && op->runs.n > HERE_RUNS)
		return -EAGAIN;
	for (uint32_t i = 0; i < op->x.tab.nfiles; i++)
		if (w->here && op->file[i].npages > HERE_PAGES)
			return -EAGAIN;
	rc = filetab_runs(
	    &op->x.tab, op->runs.r, op->runs.n, RUNS_MAX, &run, &n);
	if (rc != 0)
		return rc;
	free(op->runs.r);
	op->runs = (struct runs){.r = run, .n = n};
	op->npages = 0;
	for (size_t i = 0; i < n; i++)
		op->npages += run[i].layer == RUN_ZERO ? 0 : run[i].npages;
	op->must_copy = op->x.tab.nfiles > EXACT_FILES_MAX;
	if (!op->must_copy && !op->copies)
		rc = count_reached(op);
	if (rc != 0 || op->must_copy)
		return rc != 0 || !op->copies ? rc : -E2BIG;
	op->x.runs_fd = wire_blob("firn-runs", run, n * sizeof(*run));
	return op->x.runs_fd < 0 ? op->x.runs_fd : 0;
}

/* --- the copy ------------------------------------------------------------- */

static int exact_copy(struct errand *w)
{
	struct exact_op *op = (struct exact_op *)w;
	struct layer_job job = {
	    .layer_fd = op->x.tab.fd,
	    .nfds = op->x.tab.nfiles,
	    .cancel = &w->work.cancelled,
	};

	if (w->here)
		return -EAGAIN;
	op->to = calloc(op->runs.n + 1, sizeof(*op->to));
	if (op->to == NULL)
		return -ENOMEM;
	return layer_copy_runs(&job, (struct run_list){op->runs.r, op->runs.n},
	    op->to, &op->copied, &w->e);
}

static void exact_begin(struct exact_op *op);

/* The snapshot is in files of its own now. */
static void exact_applied(struct broker *b, int rc, struct map m, void *ctx)
{
	struct exact_op *op = ctx;
	struct snap *s = op->s;

	layer_put(b->layers, op->layer);
	if (rc != 0) {
		(void)err_set(&op->w.e, rc, "no memory for a page map");
		exact_fail(op, rc);
		return;
	}
	/* Two may have asked at once. */
	if (s->has_opened)
		map_put(&b->store, &s->opened);
	s->opened = m;
	s->has_opened = true;
	exact_begin(op);
}

/* What was copied is exact only as long as it stays where it is. */
static void pin_copy(struct exact_op *op)
{
	struct layer_set *set = op->b->layers;
	uint32_t npieces;

	op->pinned = layer_pieces(set, op->layer, &npieces)->file;
	op->has_pin = true;
	lfile_pin(set, op->pinned);
}

static void exact_copied(struct errand *w)
{
	struct exact_op *op = (struct exact_op *)w;
	struct broker *b = op->b;

	if (w->rc == 0)
		w->rc = snap_copied(b, op->s, &op->copied, &op->layer, &w->e);
	if (w->rc != 0) {
		exact_fail(op, w->rc);
		return;
	}
	pin_copy(op);
	for (size_t i = 0; i < op->runs.n; i++)
		if (op->to[i].layer != RUN_ZERO)
			op->to[i].layer = op->layer;
	apply(
	    b, &op->apply, &op->s->map, op->to, op->runs.n, exact_applied, op);
}

/* --- the steps ------------------------------------------------------------ */

static void exact_weighed(struct errand *w)
{
	struct exact_op *op = (struct exact_op *)w;

	if (w->rc == 0 && op->must_copy)
		w->rc = bank_check(op->b, op->npages * PAGE_SIZE, &w->e);
	if (w->rc != 0) {
		exact_fail(op, w->rc);
	} else if (op->must_copy) {
		op->copies = true;
		errand(op->b, w, exact_copy, exact_copied);
	} else {
		op->fn(op->b, &op->x, NULL, op->ctx);
		exact_free(op);
	}
}

static int note_files(struct exact_op *op)
{
	struct lfile_stat st;

	op->file = calloc((size_t)op->x.tab.nfiles + 1, sizeof(*op->file));
	if (op->file == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < op->x.tab.nfiles; i++) {
		lfile_stat(op->b->layers, op->x.tab.file[i], &st);
		op->file[i] = (struct exact_file){
		    .npages = st.npages, .used = st.bytes / PAGE_SIZE};
	}
	return 0;
}

static void exact_looked(struct errand *w)
{
	struct exact_op *op = (struct exact_op *)w;

	if (w->rc == 0)
		w->rc = filetab_fill(&op->x.tab, op->b->layers);
	if (w->rc == 0)
		w->rc = note_files(op);
	if (w->rc != 0)
		exact_fail(op, w->rc);
	else
		errand(op->b, w, exact_weigh, exact_weighed);
}

static void exact_begin(struct exact_op *op)
{
	exact_forget(op);
	op->x.map = map_get(
	    &op->b->store, op->s->has_opened ? &op->s->opened : &op->s->map);
	errand(op->b, &op->w, exact_look, exact_looked);
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
	op->x.runs_fd = -1;
	op->copied.fd = -1;
	exact_begin(op);
}
