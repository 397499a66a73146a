/* SPDX-License-Identifier: MIT */
/*
 * lay: a snapshot becomes what a monitor maps: runs over descriptors.
 *
 * Each extent costs the monitor a VMA, and scattered writes make extents: so a
 * 2 MiB leaf with too many of them is copied once into a dense layer. The
 * result is the snapshot's "laid" map: equal bytes, few extents. The
 * snapshot's own map stays as it is, since that is what diffs compare. Laid
 * maps of relatives share what was copied: each begins as the lineage's last
 * one with the pages put over it that differ.
 *
 * Of a private history it is the opened map that is laid, see exact.c, and
 * nothing is shared with relatives; what is copied becomes the opened map, and
 * is asked again before it goes out.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/broker/internal.h"
#include "vmm/layer/layer_copy.h"

#define LEAF_EXTENTS_MAX 40u    /* where they fit */
#define VIEW_EXTENTS_MAX 20000u /* vm.max_map_count is 65530, per process */
#define VIEW_FILES_MAX   4000u

struct lay_op {
	struct errand w;
	struct broker *b;
	struct asker a;
	struct lay_req r;
	uint64_t begin_ns;
	struct map base; /* what is laid; held */
	/* A relative's own and laid map, while (base) is made of them; held. */
	struct map kin[2];
	bool has_kin;
	unsigned asked;   /* whether the comparison with it is to stop */
	struct runs runs; /* of (base): all, or those to be copied */
	bool copies;
	uint64_t copy_npages;
	struct page_run *to;
	struct apply apply;
	int *fd; /* descriptors of the copy: the files, then zeroes */
	struct filetab tab;
	int zero_fd;
	int runs_fd; /* what the monitor is told */
	struct layer_copied copied;
	uint32_t layer; /* of the copy */
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}

/* What is known of (base); it can be looked at anew. */
static void lay_forget(struct lay_op *op)
{
	filetab_free(&op->tab);
	free(op->runs.r);
	free(op->to);
	free(op->fd);
	close_fd(&op->zero_fd);
	op->tab = (struct filetab){0};
	op->runs = (struct runs){0};
	op->to = NULL;
	op->fd = NULL;
}

static void kin_forget(struct lay_op *op)
{
	for (int i = 0; i < 2 && op->has_kin; i++)
		map_put(&op->b->store, &op->kin[i]);
	op->has_kin = false;
}

/* (m), which this takes over, is what is laid. */
static void lay_base(struct lay_op *op, struct map m)
{
	lay_forget(op);
	if (op->base.npages != 0)
		map_put(&op->b->store, &op->base);
	op->base = m;
}

static void lay_free(struct lay_op *op)
{
	lay_forget(op);
	kin_forget(op);
	if (op->base.npages != 0)
		map_put(&op->b->store, &op->base);
	snap_put(op->b, op->r.snap);
	close_fd(&op->runs_fd);
	closer_close(op->b->closer, op->copied.fd);
	layers_reap(op->b);
	free(op);
}

static void lay_fail(struct lay_op *op, const struct err *e)
{
	if (op->r.mode == FIRN_MAP_OWN)
		op->r.snap->busy = false;
	asker_fail(op->b, &op->a, e);
	lay_free(op);
}

static void lay_failed(struct lay_op *op, const char *what)
{
	struct errand *w = &op->w;

	if (w->e.code == 0)
		(void)err_set(&w->e, w->rc, "%s: %s", what, strerror(-w->rc));
	lay_fail(op, &w->e);
}

/* --- what the laid map begins as ------------------------------------------ */

#define HERE_ASKED 8u /* thousands of nodes to compare on the loop's thread */

static void lay_look(struct lay_op *op);

static int changed_pages(void *ctx, uint64_t page, uint64_t npages)
{
	struct lay_op *op = ctx;

	return runs_of(&op->r.snap->map, page, npages, &op->runs);
}

static bool compare_stops(void *ctx)
{
	struct lay_op *op = ctx;

	return op->w.here ? ++op->asked > HERE_ASKED
			  : worker_cancelled(&op->w.work);
}

/* Where the snapshot differs from its relative, and what it has there. */
static int compare_kin(struct errand *w)
{
	struct lay_op *op = (struct lay_op *)w;
	int rc;

	op->runs.n = 0;
	op->runs.max = w->here ? HERE_RUNS : RUNS_MAX;
	rc = map_diff_until(&op->kin[0], &op->r.snap->map, changed_pages,
	    compare_stops, op, NULL);
	return w->here && (rc == -ECANCELED || rc == -E2BIG) ? -EAGAIN : rc;
}

/* Without its relative it begins as the snapshot's own map. */
static void kin_applied(struct broker *b, int rc, struct map m, void *ctx)
{
	struct lay_op *op = ctx;

	kin_forget(op);
	op->w.rc = rc;
	if (rc == -ECANCELED) {
		lay_failed(op, "cannot lay it");
		return;
	}
	lay_base(op, rc == 0 ? m : map_get(&b->store, &op->r.snap->map));
	lay_look(op);
}

static void kin_compared(struct errand *w)
{
	struct lay_op *op = (struct lay_op *)w;

	if (w->rc == 0)
		apply(op->b, &op->apply, &op->kin[1], op->runs.r, op->runs.n,
		    kin_applied, op);
	else
		kin_applied(op->b, w->rc, (struct map){0}, op);
}

/* The lineage's laid map with this snapshot's differences put over it; or the
 * snapshot's own map. */
static void lay_begin(struct lay_op *op)
{
	struct broker *b = op->b;
	struct snap *s = op->r.snap;
	struct snap *kin = snap_by_id(b, s->lineage->laid_snap);

	if (s->has_laid || kin == NULL || !kin->has_laid ||
	    kin->map.npages != s->map.npages) {
		lay_base(
		    op, map_get(&b->store, s->has_laid ? &s->laid : &s->map));
		lay_look(op);
		return;
	}
	op->kin[0] = map_get(&b->store, &kin->map);
	op->kin[1] = map_get(&b->store, &kin->laid);
	op->has_kin = true;
	errand(b, &op->w, compare_kin, kin_compared);
}

/* --- which leaves are to be copied ---------------------------------------- */

struct census {
	uint16_t *extents; /* of each leaf */
	uint64_t nleaves;
};

static void count_run(struct census *c, const struct page_run *r)
{
	uint64_t first = r->page / LEAF_NPAGES;
	uint64_t last = (r->page + r->npages - 1) / LEAF_NPAGES;

	/* A leaf that lies within the run has one extent, and needs no count.
	 */
	if (first == last || r->page % LEAF_NPAGES != 0)
		c->extents[first]++;
	if (first != last && (r->page + r->npages) % LEAF_NPAGES != 0)
		c->extents[last]++;
}

/* The most extents that a leaf may keep, so that all fit a view. */
static uint32_t choose_limit(const struct census *c)
{
	uint32_t limit = LEAF_EXTENTS_MAX;

	for (; limit > 1; limit /= 2) {
		uint64_t sum = 0;

		for (uint64_t i = 0; i < c->nleaves; i++)
			sum += c->extents[i] > limit ? 1 : c->extents[i];
		if (sum <= VIEW_EXTENTS_MAX)
			break;
	}
	return limit;
}

/* The part of (r) in [from, to). */
static int add_part(
    struct runs *out, const struct page_run *r, uint64_t from, uint64_t to)
{
	const struct page_run part = {
	    .page = from,
	    .npages = to - from,
	    .index = r->layer == RUN_ZERO ? 0 : r->index + (from - r->page),
	    .layer = r->layer,
	};

	return runs_add(out, &part);
}

/* Of (r) what is in leaves with more than (limit) extents: within it there is
 * none. */
static int add_scattered(const struct census *c, uint32_t limit,
    const struct page_run *r, struct runs *out)
{
	uint64_t end = r->page + r->npages;
	uint64_t first = r->page / LEAF_NPAGES;
	uint64_t last = (end - 1) / LEAF_NPAGES;
	int rc = 0;

	if (c->extents[first] > limit)
		rc = add_part(out, r, r->page,
		    first == last ? end : (first + 1) * LEAF_NPAGES);
	if (rc == 0 && first != last && c->extents[last] > limit)
		rc = add_part(out, r, last * LEAF_NPAGES, end);
	return rc;
}

/* Leave those runs that are to be copied, if there are any. */
static int choose_leaves(struct lay_op *op, struct census *c)
{
	struct runs out = {.max = RUNS_MAX};
	uint32_t limit;
	int rc = 0;

	for (size_t i = 0; i < op->runs.n; i++)
		count_run(c, &op->runs.r[i]);
	limit = choose_limit(c);
	for (size_t i = 0; i < op->runs.n && rc == 0; i++)
		rc = add_scattered(c, limit, &op->runs.r[i], &out);
	op->copies = rc == 0 && out.n > 0;
	op->copy_npages = 0;
	for (size_t i = 0; i < out.n; i++)
		op->copy_npages += out.r[i].npages;
	if (!op->copies) {
		free(out.r);
		return rc;
	}
	free(op->runs.r);
	op->runs = out;
	return 0;
}

static int take_census(struct lay_op *op)
{
	struct census c = {
	    .nleaves = (op->base.npages + LEAF_NPAGES - 1) / LEAF_NPAGES};
	int rc;

	op->copies = false;
	if (op->runs.n <= LEAF_EXTENTS_MAX)
		return 0;
	if (op->w.here && c.nleaves > HERE_PAGES)
		return -EAGAIN;
	c.extents = calloc(c.nleaves, sizeof(*c.extents));
	rc = c.extents == NULL ? -ENOMEM : choose_leaves(op, &c);
	free(c.extents);
	return rc;
}

/* What is adopted stays as it is, and is in no table of what is read. */
static int look(struct errand *w)
{
	struct lay_op *op = (struct lay_op *)w;
	int rc = runs_of_all(&op->base, w, &op->runs);

	if (op->r.mode == FIRN_MAP_OWN)
		return rc;
	if (rc == 0)
		rc = take_census(op);
	if (rc == 0)
		rc = filetab_want(&op->tab, op->runs.r, op->runs.n);
	return rc;
}

static void copy_start(struct lay_op *op);
static void number_start(struct lay_op *op);

static void looked(struct errand *w)
{
	struct lay_op *op = (struct lay_op *)w;

	if (w->rc == 0 && op->r.mode != FIRN_MAP_OWN)
		w->rc = filetab_fill(&op->tab, op->b->layers);
	if (w->rc != 0)
		lay_failed(op, "no memory for a view");
	else if (op->copies)
		copy_start(op);
	else
		number_start(op);
}

static void lay_look(struct lay_op *op)
{
	lay_forget(op);
	errand(op->b, &op->w, look, looked);
}

/* --- the copy ------------------------------------------------------------- */

static int number_runs(struct lay_op *op)
{
	struct page_run *run;
	size_t n;
	int rc =
	    filetab_runs(&op->tab, op->runs.r, op->runs.n, RUNS_MAX, &run, &n);

	if (rc != 0)
		return rc;
	free(op->runs.r);
	op->runs = (struct runs){.r = run, .n = n};
	return 0;
}

/* Zero pages are copied as well, from a file of holes: a leaf that is one
 * extent must have no gaps. */
static int copy_runs(struct errand *w)
{
	struct lay_op *op = (struct lay_op *)w;
	uint32_t zeroes = op->tab.nfiles;
	struct layer_job job = {
	    .layer_fd = op->fd,
	    .nfds = zeroes + 1,
	    .cancel = &w->work.cancelled,
	};
	int rc = w->here ? -EAGAIN : number_runs(op);

	if (rc != 0)
		return rc;
	op->to = calloc(op->runs.n, sizeof(*op->to));
	if (op->to == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < op->runs.n; i++) {
		struct page_run *r = &op->runs.r[i];

		if (r->layer == RUN_ZERO) {
			r->layer = zeroes;
			r->index = 0;
		}
	}
	return layer_copy_runs(&job, (struct run_list){op->runs.r, op->runs.n},
	    op->to, &op->copied, &w->e);
}

static void lay_exact(struct lay_op *op);

/* What was copied is laid, and looked at again. */
static void copy_applied(struct broker *b, int rc, struct map laid, void *ctx)
{
	struct lay_op *op = ctx;
	struct snap *s = op->r.snap;
	struct map *keep = s->private_history ? &s->opened : &s->laid;
	bool *has = s->private_history ? &s->has_opened : &s->has_laid;

	layer_put(b->layers, op->layer);
	op->w.rc = rc;
	if (rc != 0) {
		lay_failed(op, "no memory for a page map");
		return;
	}
	/* Two may have asked at once. */
	if (*has)
		map_put(&b->store, keep);
	*keep = map_get(&b->store, &laid);
	*has = true;
	lay_base(op, laid);
	if (s->private_history) {
		lay_exact(op);
		return;
	}
	s->lineage->laid_snap = s->id;
	lay_look(op);
}

static void copied(struct errand *w)
{
	struct lay_op *op = (struct lay_op *)w;
	struct broker *b = op->b;

	if (w->rc == 0)
		w->rc =
		    snap_copied(b, op->r.snap, &op->copied, &op->layer, &w->e);
	if (w->rc != 0) {
		lay_failed(op, "cannot copy scattered pages for a view");
		return;
	}
	for (size_t i = 0; i < op->runs.n; i++)
		op->to[i].layer = op->layer;
	apply(b, &op->apply, &op->base, op->to, op->runs.n, copy_applied, op);
}

static int copy_prepare(struct lay_op *op, struct err *e)
{
	uint32_t n = op->tab.nfiles;

	op->fd = calloc((size_t)n + 1, sizeof(*op->fd));
	if (op->fd == NULL)
		return -ENOMEM;
	op->zero_fd = memfd_create("firn-zero", MFD_CLOEXEC);
	if (op->zero_fd < 0 ||
	    ftruncate(op->zero_fd, (off_t)(op->base.npages * PAGE_SIZE)) != 0)
		return -errno;
	memcpy(op->fd, op->tab.fd, n * sizeof(*op->fd));
	op->fd[n] = op->zero_fd;
	return bank_check(op->b, op->copy_npages * PAGE_SIZE, e);
}

static void copy_start(struct lay_op *op)
{
	struct errand *w = &op->w;

	w->rc = copy_prepare(op, &w->e);
	if (w->rc != 0)
		lay_failed(op, "cannot copy scattered pages for a view");
	else
		errand(op->b, w, copy_runs, copied);
}

/* --- sending it ----------------------------------------------------------- */

/* The runs, over the files that they are in, as a monitor wants them. */
static int number(struct errand *w)
{
	struct lay_op *op = (struct lay_op *)w;
	int rc = 0;

	if (w->here && op->runs.n > HERE_RUNS)
		return -EAGAIN;
	if (op->tab.nfiles > VIEW_FILES_MAX)
		return err_set(&w->e, -E2BIG,
		    "the snapshot is in more than %u files", VIEW_FILES_MAX);
	if (op->r.mode != FIRN_MAP_OWN)
		rc = number_runs(op);
	if (rc != 0)
		return rc;
	op->runs_fd = wire_blob(
	    "firn-runs", op->runs.r, op->runs.n * sizeof(*op->runs.r));
	return op->runs_fd < 0 ? op->runs_fd : 0;
}

/* What is adopted is in one file. */
static int number_own(struct lay_op *op)
{
	op->tab.fd = calloc(1, sizeof(*op->tab.fd));
	if (op->tab.fd == NULL)
		return -ENOMEM;
	op->tab.fd[0] = layer_fd(op->b->layers, op->r.snap->owned);
	op->tab.nfiles = 1;
	for (size_t i = 0; i < op->runs.n; i++)
		if (op->runs.r[i].layer != RUN_ZERO)
			op->runs.r[i].layer = 0;
	return 0;
}

static void numbered(struct errand *w)
{
	struct lay_op *op = (struct lay_op *)w;
	struct bvm *vm = vm_by_id(op->b, op->r.vm);

	if (w->rc == 0 && (vm == NULL || vm->state == VM_EXITED))
		w->rc = err_set(&w->e, -ESRCH, "the VM ended meanwhile");
	if (w->rc == 0)
		w->rc = view_tell(op->b, vm,
		    &(struct view){.a = op->a,
			.r = &op->r,
			.begin_ns = op->begin_ns,
			.nruns = op->runs.n,
			.runs_fd = op->runs_fd,
			.tab = &op->tab},
		    &w->e);
	if (w->rc != 0)
		lay_failed(op, "no memory for a view");
	else
		lay_free(op);
}

static void number_start(struct lay_op *op)
{
	if (op->r.mode == FIRN_MAP_OWN)
		op->w.rc = number_own(op);
	if (op->w.rc != 0)
		lay_failed(op, "no memory for a view");
	else
		errand(op->b, &op->w, number, numbered);
}

static void lay_is_exact(
    struct broker *b, struct exact *x, const struct err *why, void *ctx)
{
	struct lay_op *op = ctx;

	if (why != NULL) {
		lay_fail(op, why);
		return;
	}
	lay_base(op, map_get(&b->store, &x->map));
	lay_look(op);
}

/* Begin, perhaps again, with files that tell nothing else. */
static void lay_exact(struct lay_op *op)
{
	exact(op->b, op->r.snap, lay_is_exact, op);
}

static void lay_sealed(struct broker *b, const struct err *e, void *ctx)
{
	struct lay_op *op = ctx;

	(void)b;
	if (e != NULL)
		lay_fail(op, e);
	else if (op->r.snap->private_history)
		lay_exact(op);
	else
		lay_begin(op);
}

void lay(struct broker *b, struct asker a, const struct lay_req *r)
{
	struct lay_op *op = calloc(1, sizeof(*op));
	struct err e = {0};

	if (op == NULL) {
		if (r->mode == FIRN_MAP_OWN)
			r->snap->busy = false;
		(void)err_set(&e, -ENOMEM, "no memory for a view");
		asker_fail(b, &a, &e);
		return;
	}
	op->b = b;
	op->a = a;
	op->r = *r;
	op->zero_fd = op->runs_fd = op->copied.fd = -1;
	op->begin_ns = now_ns();
	(void)snap_hold(r->snap);
	if (r->mode == FIRN_MAP_OWN) {
		lay_base(op, map_get(&b->store, &r->snap->map));
		lay_look(op);
	} else if (own_seal(b, r->snap, lay_sealed, op, &e) != 0) {
		lay_fail(op, &e);
	}
}
