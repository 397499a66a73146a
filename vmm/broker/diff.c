/* SPDX-License-Identifier: MIT */
/* What differs: between snapshots, places as they are now, and cursors. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/bits.h"
#include "vmm/broker/internal.h"
#include "vmm/layer/layer_copy.h"

struct diff_op {
	struct errand w;
	struct broker *b;
	struct asker a;
	struct map map[2];
	struct lineage *lineage[2]; /* held; or NULL */
	bool have[2];
	bool exact;
	bool bitmap;  /* is wanted */
	bool gone;    /* nobody waits for it any more */
	uint32_t max; /* extents that a guest wants */
	unsigned pending;
	diff_end_fn *end; /* or NULL */
	void *end_ctx;
	struct filetab tab;
	struct runs bytes[2]; /* of the pages whose places differ */
	struct extset out;
	int fd; /* what the answer has of them in a memfd; or -1 */
	uint64_t nodes;
	uint64_t diff_ns;
	struct err e; /* of the maps that were wanted */
};

static int diff_end(struct diff_op *op, uint64_t told)
{
	diff_end_fn *end = op->end;

	op->end = NULL;
	return end == NULL ? 0 : end(op->b, told, op->end_ctx);
}

static void diff_free(struct diff_op *op)
{
	(void)diff_end(op, 0);
	for (int i = 0; i < 2; i++) {
		if (op->have[i])
			map_put(&op->b->store, &op->map[i]);
		lineage_put(op->lineage[i]);
	}
	filetab_free(&op->tab);
	free(op->bytes[0].r);
	free(op->bytes[1].r);
	/* The maps of places as they were may have been the last holders. */
	layers_reap(op->b);
	extset_free(&op->out);
	if (op->fd >= 0)
		(void)close(op->fd);
	free(op);
}

/* --- what differs --------------------------------------------------------- */

static int add_extent(void *ctx, uint64_t page, uint64_t npages)
{
	return extset_add(ctx, page, npages);
}

/* What (m) shows in the pages of (x): zero beyond its end. */
static int extent_runs(
    const struct map *m, const struct firn_extent *x, struct runs *out)
{
	uint64_t end = x->first + x->npages;
	uint64_t cut = end < m->npages ? end : m->npages;
	struct page_run beyond = {.page = cut, .layer = RUN_ZERO};
	int rc = 0;

	if (x->first < cut)
		rc = runs_of(m, x->first, cut - x->first, out);
	else
		beyond.page = x->first;
	beyond.npages = end - beyond.page;
	out->max = RUNS_MAX;
	return rc != 0 || beyond.npages == 0 ? rc : runs_add(out, &beyond);
}

/* Where the bytes are of the pages whose places differ. */
static int find_bytes(struct diff_op *op)
{
	int rc = 0;

	for (int k = 0; k < 2 && rc == 0; k++) {
		struct runs *r = &op->bytes[k];

		for (uint64_t i = 0; i < op->out.n && rc == 0; i++)
			rc = extent_runs(&op->map[k], &op->out.x[i], r);
		if (rc == 0)
			rc = filetab_want(&op->tab, r->r, r->n);
	}
	return rc;
}

/* One that is here is over within a thousand nodes, or begins anew. */
static bool diff_stops(void *ctx)
{
	const struct extset *o = ctx;
	const struct diff_op *op =
	    (const struct diff_op *)((const char *)o -
				     offsetof(struct diff_op, out));

	return op->w.here || worker_cancelled(&op->w.work);
}

static int diff_places(struct diff_op *op)
{
	uint64_t begin = now_ns();
	int rc;

	op->out.n = op->out.pages = 0;
	rc = map_diff_until(&op->map[0], &op->map[1], add_extent, diff_stops,
	    &op->out, &op->nodes);
	op->diff_ns = now_ns() - begin;
	return rc;
}

/* The extents that a guest has room for. */
static uint64_t guest_extents(const struct diff_op *op)
{
	return op->out.n < op->max ? op->out.n : op->max;
}

/* One bit a page, of (npages). */
static int bitmap_blob(
    const struct firn_extent *x, uint64_t n, uint64_t npages, int *fd)
{
	uint64_t nwords = (npages + 63) / 64;
	uint64_t *bits = calloc(nwords, sizeof(*bits));

	*fd = -1;
	if (bits == NULL)
		return -ENOMEM;
	for (uint64_t i = 0; i < n; i++)
		bits_set(bits, x[i].first, x[i].first + x[i].npages);
	*fd = wire_blob("firn-bitmap", bits, nwords * sizeof(*bits));
	free(bits);
	return *fd < 0 ? *fd : 0;
}

/* What is too much for a message. */
static int diff_blob(struct diff_op *op)
{
	const struct extset *o = &op->out;

	if (op->bitmap)
		return bitmap_blob(o->x, o->n, op->map[0].npages, &op->fd);
	if (op->a.rq != NULL)
		return extents_blob(o->x, o->n, &op->fd);
	op->fd =
	    wire_blob("firn-extents", o->x, guest_extents(op) * sizeof(*o->x));
	return op->fd < 0 ? op->fd : 0;
}

static int diff_run(struct errand *w)
{
	struct diff_op *op = (struct diff_op *)w;
	int rc;

	if (w->here && op->bitmap && op->map[0].npages > HERE_PAGES)
		return -EAGAIN;
	rc = diff_places(op);
	if (w->here && rc == -ECANCELED)
		return -EAGAIN;
	return rc == 0 ? diff_blob(op) : rc;
}

static int find_run(struct errand *w)
{
	struct diff_op *op = (struct diff_op *)w;
	int rc = w->here ? -EAGAIN : diff_places(op);

	return rc == 0 ? find_bytes(op) : rc;
}

/* Of those pages, the ones whose bytes differ. */
static int compare_run(struct errand *w)
{
	struct diff_op *op = (struct diff_op *)w;
	struct layer_job job = {
	    .layer_fd = op->tab.fd,
	    .nfds = op->tab.nfiles,
	    .cancel = &w->work.cancelled,
	};
	struct run_list l[2] = {{0}, {0}};
	int rc = w->here ? -EAGAIN : 0;

	for (int k = 0; k < 2 && rc == 0; k++) {
		struct page_run *r = NULL;

		rc = filetab_runs(&op->tab, op->bytes[k].r, op->bytes[k].n,
		    RUNS_MAX, &r, &l[k].n);
		l[k].run = r;
		free(op->bytes[k].r);
		op->bytes[k] = (struct runs){.r = r};
	}
	if (rc != 0)
		return rc;
	extset_free(&op->out);
	rc = layer_compare_runs(&job, l[0], l[1], add_extent, &op->out, &w->e);
	return rc == 0 ? diff_blob(op) : rc;
}

/* --- the answer ----------------------------------------------------------- */

int extents_blob(const struct firn_extent *x, uint64_t n, int *fd)
{
	*fd = -1;
	if (n <= EXTENTS_INLINE)
		return 0;
	*fd = wire_blob("firn-extents", x, n * sizeof(*x));
	return *fd < 0 ? *fd : 0;
}

int extents_put(
    json_t *result, const struct firn_extent *x, uint64_t n, int fd, size_t i)
{
	json_t *list;

	if (fd >= 0)
		return json_object_set_new(result, "extents_fd",
			   json_integer((json_int_t)i)) == 0
			   ? 0
			   : -ENOMEM;
	list = json_array();
	for (uint64_t k = 0; k < n; k++)
		(void)json_array_append_new(
		    list, json_pack("[I,I]", (json_int_t)x[k].first,
			      (json_int_t)x[k].npages));
	/* One that had no memory is missing, and so the list is wrong. */
	if (json_array_size(list) != n) {
		json_decref(list);
		return -ENOMEM;
	}
	return json_object_set_new(result, "extents", list) == 0 ? 0 : -ENOMEM;
}

static int pages_put(struct diff_op *op, json_t *r)
{
	if (!op->bitmap)
		return extents_put(r, op->out.x, op->out.n, op->fd, 0);
	return json_object_set_new(r, "bitmap_fd", json_integer(0)) == 0
		   ? 0
		   : -ENOMEM;
}

static void answer_client(struct diff_op *op)
{
	json_t *r = json_pack("{s:I,s:b,s:I,s:I}", "pages",
	    (json_int_t)op->out.pages, "exact", op->exact, "nodes_visited",
	    (json_int_t)op->nodes, "diff_ns", (json_int_t)op->diff_ns);
	struct err e;
	int rc = pages_put(op, r);

	if (rc == 0 && !ctl_req_cancelled(op->a.rq))
		rc = diff_end(op, op->map[1].npages);
	if (rc != 0) {
		json_decref(r);
		(void)err_set(&e, rc, "no memory for the list of pages");
		ctl_fail(op->a.rq, &e);
	} else {
		ctl_reply(op->a.rq, r, &op->fd, op->fd >= 0 ? 1 : 0);
	}
}

/* Up to which page the first (n) extents tell of everything. */
static uint64_t told_by(const struct diff_op *op, uint64_t n)
{
	const struct extset *o = &op->out;

	if (n == o->n)
		return op->map[1].npages;
	return n == 0 ? 0 : o->x[n - 1].first + o->x[n - 1].npages;
}

static void answer_guest(struct diff_op *op)
{
	struct firn_pages p = {
	    .pages = op->out.pages,
	    .nextents = op->out.n,
	    .nodes_visited = op->nodes,
	};
	int rc = diff_end(op, told_by(op, guest_extents(op)));
	struct err e;

	if (rc != 0) {
		(void)err_set(&e, rc, "no memory for the list of pages");
		asker_fail(op->b, &op->a, &e);
	} else {
		asker_answer_guest(op->b, &op->a, 0, &p, sizeof(p), &op->fd, 1);
	}
}

static void diff_done(struct errand *w)
{
	struct diff_op *op = (struct diff_op *)w;
	int rc = w->rc;

	if (rc == 0 && op->gone)
		rc = err_set(&w->e, -ECANCELED, "the client is gone");
	if (rc != 0 && w->e.code == 0)
		(void)err_set(
		    &w->e, rc, "the comparison failed: %s", strerror(-rc));
	if (rc != 0)
		asker_fail(op->b, &op->a, &w->e);
	else if (op->a.rq != NULL)
		answer_client(op);
	else
		answer_guest(op);
	diff_free(op);
}

/* Where the bytes are is known: hold their files. */
static void bytes_found(struct errand *w)
{
	struct diff_op *op = (struct diff_op *)w;

	if (w->rc == 0 && !op->gone)
		w->rc = filetab_fill(&op->tab, op->b->layers);
	if (w->rc == 0 && !op->gone)
		errand(op->b, w, compare_run, diff_done);
	else
		diff_done(w);
}

/* --- getting the maps ----------------------------------------------------- */

static void diff_ready(struct diff_op *op)
{
	struct broker *b = op->b;

	if (--op->pending > 0)
		return;
	if (op->e.code == 0 && op->gone)
		(void)err_set(&op->e, -ECANCELED, "the client is gone");
	if (op->e.code != 0) {
		asker_fail(b, &op->a, &op->e);
		diff_free(op);
		return;
	}
	if (op->exact)
		errand(b, &op->w, find_run, bytes_found);
	else
		errand(b, &op->w, diff_run, diff_done);
}

/* The client went: what nobody waits for shall not go on for hours. */
static void diff_cancelled(struct ctl_req *rq, void *arg)
{
	struct diff_op *op = arg;

	(void)rq;
	op->gone = true;
	worker_cancel(&op->w.work);
}

static void side_lifted(
    struct diff_op *op, int i, struct lifted *l, const struct err *why)
{
	if (why != NULL) {
		op->e = *why;
	} else {
		op->map[i] = l->map;
		op->have[i] = true;
	}
	diff_ready(op);
}

static void side0_lifted(struct broker *b, struct bvm *vm, struct bplace *p,
    struct lifted *l, const struct err *why, void *ctx)
{
	(void)b;
	(void)vm;
	(void)p;
	side_lifted(ctx, 0, l, why);
}

static void side1_lifted(struct broker *b, struct bvm *vm, struct bplace *p,
    struct lifted *l, const struct err *why, void *ctx)
{
	(void)b;
	(void)vm;
	(void)p;
	side_lifted(ctx, 1, l, why);
}

static void side_sealed(struct broker *b, const struct err *why, void *ctx)
{
	struct diff_op *op = ctx;

	(void)b;
	if (why != NULL)
		op->e = *why;
	diff_ready(op);
}

/* Bytes are compared of what is sealed only. */
static void side_snap(struct diff_op *op, const struct side *side, int i)
{
	struct snap *s = side[i].snap;

	op->map[i] = map_get(&op->b->store, &s->map);
	op->have[i] = true;
	if (!op->exact || s->owned == 0 || (i == 1 && s == side[0].snap))
		return;
	op->pending++;
	if (own_seal(op->b, s, side_sealed, op, &op->e) != 0)
		op->pending--;
}

static struct diff_op *diff_new(
    struct broker *b, struct asker a, bool exact, uint32_t max)
{
	struct diff_op *op = calloc(1, sizeof(*op));
	struct err e;

	if (op == NULL) {
		(void)err_set(&e, -ENOMEM, "no memory for a comparison");
		asker_fail(b, &a, &e);
		return NULL;
	}
	op->b = b;
	op->a = a;
	op->exact = exact;
	op->max = max;
	op->pending = 1;
	op->fd = -1;
	if (a.rq != NULL) {
		op->bitmap = ctl_bool(a.rq, "bitmap");
		ctl_req_on_cancel(a.rq, diff_cancelled, op);
	}
	return op;
}

void diff(struct broker *b, struct asker a, const struct side side[2],
    bool exact, uint32_t max)
{
	struct diff_op *op = diff_new(b, a, exact, max);

	if (op == NULL)
		return;
	for (int i = 0; i < 2; i++)
		op->lineage[i] =
		    lineage_get(side[i].snap != NULL ? side[i].snap->lineage
						     : side[i].place->lineage);
	/* Places say nothing of those that have no history in common. */
	op->exact |= op->lineage[0] != op->lineage[1];
	for (int i = 0; i < 2; i++) {
		if (side[i].snap != NULL) {
			side_snap(op, side, i);
			continue;
		}
		op->pending++;
		if (lift(b, side[i].vm, side[i].place, false,
			i == 0 ? side0_lifted : side1_lifted, op, &op->e) != 0)
			op->pending--;
	}
	diff_ready(op);
}

void diff_maps(struct broker *b, struct asker a, struct map x, struct map y,
    uint32_t max, diff_end_fn *end, void *ctx)
{
	struct diff_op *op = diff_new(b, a, true, max);

	if (op == NULL) {
		map_put(&b->store, &x);
		map_put(&b->store, &y);
		(void)end(b, 0, ctx);
		return;
	}
	op->map[0] = x;
	op->map[1] = y;
	op->have[0] = op->have[1] = true;
	op->end = end;
	op->end_ctx = ctx;
	diff_ready(op);
}

/* --- snapshot.diff -------------------------------------------------------- */

int side_find(struct broker *b, struct ctl_req *rq, const char *param,
    struct side *out, struct err *e)
{
	const char *ref = ctl_str(rq, param);
	const char *colon = strchr(ref, ':');
	char vm[FIRN_NAME_MAX];

	if (colon == NULL)
		return snap_find(b, &req_home(rq)->caps, ref, FIRN_RIGHT_DIFF,
		    &out->snap, NULL, e);
	if ((size_t)(colon - ref) >= sizeof(vm))
		return err_set(e, -ENOENT, "no VM '%.64s'", ref);
	memcpy(vm, ref, (size_t)(colon - ref));
	vm[colon - ref] = '\0';
	out->vm = vm_find(b, req_home(rq), vm, e);
	if (out->vm == NULL)
		return -ENOENT;
	if (out->vm->state == VM_EXITED || out->vm->state == VM_STARTING)
		return err_set(e, -ESRCH, "VM '%s' does not run", vm);
	out->place = place_find(out->vm, colon + 1, e);
	if (out->place == NULL)
		return -ENOENT;
	if (out->place->flags & FIRN_SEG_VIEW_RO)
		out->snap = out->place->shown; /* it shows nothing else */
	return 0;
}

void op_snapshot_diff(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	struct side side[2] = {{0}, {0}};
	struct err e = {0};

	if (side_find(b, rq, "a", &side[0], &e) != 0 ||
	    side_find(b, rq, "b", &side[1], &e) != 0)
		ctl_fail(rq, &e);
	else
		diff(b, asker_client(rq), side, ctl_bool(rq, "exact"), 0);
}
