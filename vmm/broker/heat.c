/* SPDX-License-Identifier: MIT */
/*
 * heat: where a snapshot, or a place as it is now, was written last.
 *
 * Every page that is not zero is in the layer that the freeze after its last
 * write made, so the page map says all: nothing is tracked for it. Pages are
 * gathered in cells of equal size, layers are numbered from the newest on.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

#define NO_LAYER UINT64_MAX

/* As they travel; numbers of layers count from 0, the newest. */
struct heat_cell {
	uint64_t nonzero; /* pages */
	uint64_t newest;  /* layer in it, or NO_LAYER */
	uint64_t most;    /* the layer that has most of them, or NO_LAYER */
};

struct heat_layer {
	uint64_t id;
	uint64_t age_ns;
	uint64_t npages;
};

struct heat_op {
	struct work work;
	struct broker *b;
	struct ctl_req *rq;
	struct map map;
	bool have;
	bool submitted;
	bool gone; /* nobody waits for it any more */
	uint64_t cell_npages;
	uint64_t ncells;
	struct heat_cell *cell;
	uint32_t *id; /* of the layers in it, in order */
	size_t nids;
	size_t cap;
	uint64_t *in_cell; /* pages of each layer in cell (at) */
	uint64_t *in_all;
	uint32_t *touched; /* layers with any */
	size_t ntouched;
	uint64_t at;
	int rc;
};

static void heat_free(struct heat_op *op)
{
	struct broker *b = op->b;

	if (op->have)
		map_put(&b->store, &op->map);
	free(op->cell);
	free(op->id);
	free(op->in_cell);
	free(op->in_all);
	free(op->touched);
	free(op);
	layers_reap(b); /* the place as it was may have been the last holder */
}

/* --- in a worker thread: which layers there are --------------------------- */

static int by_id(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a;
	uint32_t y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void sort_ids(struct heat_op *op)
{
	size_t n = 0;

	if (op->nids > 0)
		qsort(op->id, op->nids, sizeof(*op->id), by_id);
	for (size_t i = 0; i < op->nids; i++)
		if (n == 0 || op->id[n - 1] != op->id[i])
			op->id[n++] = op->id[i];
	op->nids = n;
}

/* Room for one more: what is there twice goes first. */
static int make_room(struct heat_op *op)
{
	size_t cap = op->cap == 0 ? 256 : op->cap * 2;
	uint32_t *p;

	sort_ids(op);
	if (op->nids < op->cap / 2)
		return 0;
	p = realloc(op->id, cap * sizeof(*p));
	if (p == NULL)
		return -ENOMEM;
	op->id = p;
	op->cap = cap;
	return 0;
}

static int note_layer(void *ctx, const struct page_run *r)
{
	struct heat_op *op = ctx;

	if (worker_cancelled(&op->work))
		return -ECANCELED;
	if (r->layer == RUN_ZERO)
		return 0;
	if (op->nids == op->cap) {
		int rc = make_room(op);

		if (rc != 0)
			return rc;
	}
	op->id[op->nids++] = r->layer;
	return 0;
}

/* --- and how much of each a cell has -------------------------------------- */

/* The position of (layer), which is there. */
static uint32_t position_of(const struct heat_op *op, uint32_t layer)
{
	size_t lo = 0;
	size_t hi = op->nids;

	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;

		if (op->id[mid] <= layer)
			lo = mid;
		else
			hi = mid;
	}
	return (uint32_t)lo;
}

static void end_cell(struct heat_op *op)
{
	struct heat_cell *c = &op->cell[op->at];
	uint32_t newest = 0;
	uint32_t most = 0;

	*c = (struct heat_cell){.newest = NO_LAYER, .most = NO_LAYER};
	for (size_t i = 0; i < op->ntouched; i++) {
		uint32_t k = op->touched[i];

		if (i == 0 || k > newest)
			newest = k;
		if (i == 0 || op->in_cell[k] > op->in_cell[most] ||
		    (k > most && op->in_cell[k] == op->in_cell[most]))
			most = k;
	}
	for (size_t i = 0; i < op->ntouched; i++) {
		c->nonzero += op->in_cell[op->touched[i]];
		op->in_cell[op->touched[i]] = 0;
	}
	if (op->ntouched > 0) {
		c->newest = op->nids - 1 - newest;
		c->most = op->nids - 1 - most;
	}
	op->ntouched = 0;
	op->at++;
}

static int count_run(void *ctx, const struct page_run *r)
{
	struct heat_op *op = ctx;
	uint64_t page = r->page;
	uint64_t end = r->page + r->npages;
	uint32_t k = r->layer == RUN_ZERO ? 0 : position_of(op, r->layer);

	if (worker_cancelled(&op->work))
		return -ECANCELED;
	while (page < end) {
		uint64_t cell_end = (op->at + 1) * op->cell_npages;
		uint64_t n = (cell_end < end ? cell_end : end) - page;

		if (r->layer != RUN_ZERO) {
			if (op->in_cell[k] == 0)
				op->touched[op->ntouched++] = k;
			op->in_cell[k] += n;
			op->in_all[k] += n;
		}
		page += n;
		if (page == cell_end)
			end_cell(op);
	}
	return 0;
}

static int count_cells(struct heat_op *op)
{
	size_t n = op->nids + 1;
	int rc;

	op->cell = calloc(op->ncells, sizeof(*op->cell));
	op->in_cell = calloc(n, sizeof(*op->in_cell));
	op->in_all = calloc(n, sizeof(*op->in_all));
	op->touched = calloc(n, sizeof(*op->touched));
	if (op->cell == NULL || op->in_cell == NULL || op->in_all == NULL ||
	    op->touched == NULL)
		return -ENOMEM;
	rc = map_walk(&op->map, 0, op->map.npages, count_run, op);
	if (rc == 0 && op->at < op->ncells)
		end_cell(op); /* the last, shorter one */
	return rc;
}

static void heat_run(struct work *w)
{
	struct heat_op *op = (struct heat_op *)w;

	op->rc = map_walk(&op->map, 0, op->map.npages, note_layer, op);
	sort_ids(op);
	if (op->rc == 0)
		op->rc = count_cells(op);
}

/* --- the answer ----------------------------------------------------------- */

static int layers_blob(struct heat_op *op)
{
	struct heat_layer *l = calloc(op->nids + 1, sizeof(*l));
	uint64_t now = now_ns();
	int fd;

	if (l == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < op->nids; i++) {
		size_t k = op->nids - 1 - i;

		l[i].id = op->id[k];
		l[i].age_ns = now - layer_born(op->b->layers, op->id[k]);
		l[i].npages = op->in_all[k];
	}
	fd = wire_blob("firn-layers", l, op->nids * sizeof(*l));
	free(l);
	return fd;
}

static void heat_answer(struct heat_op *op)
{
	struct err e;
	int fd[2];

	fd[0] =
	    wire_blob("firn-cells", op->cell, op->ncells * sizeof(*op->cell));
	fd[1] = fd[0] < 0 ? fd[0] : layers_blob(op);
	if (fd[1] < 0) {
		(void)err_set(&e, fd[1], "no memory for the cells");
		ctl_fail(op->rq, &e);
	} else {
		ctl_reply(op->rq,
		    json_pack("{s:I,s:I,s:I,s:I,s:i,s:i}", "pages",
			(json_int_t)op->map.npages, "cell_pages",
			(json_int_t)op->cell_npages, "cells",
			(json_int_t)op->ncells, "layers", (json_int_t)op->nids,
			"cells_fd", 0, "layers_fd", 1),
		    fd, 2);
	}
	for (int i = 0; i < 2; i++)
		if (fd[i] >= 0)
			(void)close(fd[i]);
}

static void heat_fail(struct heat_op *op, const struct err *e)
{
	ctl_fail(op->rq, e);
	heat_free(op);
}

static void heat_done(struct work *w)
{
	struct heat_op *op = (struct heat_op *)w;
	int rc = w->ran ? op->rc : -ECANCELED;
	struct err e;

	if (rc != 0) {
		(void)err_set(
		    &e, rc, "cannot walk its pages: %s", strerror(-rc));
		heat_fail(op, &e);
		return;
	}
	heat_answer(op);
	heat_free(op);
}

static void heat_begin(struct heat_op *op)
{
	struct err e;

	if (op->gone) {
		(void)err_set(&e, -ECANCELED, "the client is gone");
		heat_fail(op, &e);
		return;
	}
	while ((op->map.npages - 1) / op->cell_npages >= op->ncells)
		op->cell_npages *= 2;
	op->ncells = (op->map.npages - 1) / op->cell_npages + 1;
	op->submitted = true;
	worker_submit(op->b->pool, &op->work, heat_run, heat_done);
}

static void heat_lifted(struct broker *b, struct bvm *vm, struct bplace *p,
    struct lifted *l, const struct err *why, void *ctx)
{
	struct heat_op *op = ctx;

	(void)b;
	(void)vm;
	(void)p;
	if (why != NULL) {
		heat_fail(op, why);
		return;
	}
	op->map = l->map;
	op->have = true;
	heat_begin(op);
}

static void heat_cancelled(struct ctl_req *rq, void *arg)
{
	struct heat_op *op = arg;

	(void)rq;
	op->gone = true;
	if (op->submitted)
		worker_cancel(&op->work);
}

void op_snapshot_heat(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	int64_t cells = ctl_int(rq, "cells", HEAT_CELLS_MAX);
	struct side side = {0};
	struct heat_op *op;
	struct err e = {0};

	if (cells == 0 || cells > HEAT_CELLS_MAX) {
		ctl_fail_param(rq, "cells", "must be 1 to %u", HEAT_CELLS_MAX);
		return;
	}
	if (side_find(b, rq, "ref", &side, &e) != 0) {
		ctl_fail(rq, &e);
		return;
	}
	op = calloc(1, sizeof(*op));
	if (op == NULL) {
		(void)err_set(&e, -ENOMEM, "no memory to look at its pages");
		ctl_fail(rq, &e);
		return;
	}
	op->b = b;
	op->rq = rq;
	op->cell_npages = 1;
	op->ncells = (uint64_t)cells;
	ctl_req_on_cancel(rq, heat_cancelled, op);
	if (side.snap != NULL) {
		op->map = map_get(&b->store, &side.snap->map);
		op->have = true;
		heat_begin(op);
	} else if (lift(b, side.vm, side.place, false, heat_lifted, op, &e) !=
		   0) {
		heat_fail(op, &e);
	}
}
