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
#include <inttypes.h>
#include <stdio.h>
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
	struct work work;
	struct broker *b;
	struct asker a;
	struct lay_req r;
	uint64_t begin_ns;
	struct map base;  /* what the laid map is made of; held */
	struct runs from; /* pages to copy, and where they are */
	struct page_run *to;
	int *fd; /* descriptors of the copy: the files, then zeroes */
	struct filetab tab;
	int zero_fd;
	struct layer_copied copied;
	int rc;
	struct err e;
};

/* What it was to be laid of; it can begin anew. */
static void lay_forget(struct lay_op *op)
{
	if (op->base.npages != 0)
		map_put(&op->b->store, &op->base);
	filetab_free(&op->tab);
	free(op->from.r);
	free(op->to);
	free(op->fd);
	if (op->zero_fd >= 0)
		(void)close(op->zero_fd);
	op->base = (struct map){0};
	op->tab = (struct filetab){0};
	op->from = (struct runs){0};
	op->to = NULL;
	op->fd = NULL;
	op->zero_fd = -1;
}

static void lay_free(struct lay_op *op)
{
	lay_forget(op);
	snap_put(op->b, op->r.snap);
	if (op->copied.fd >= 0)
		(void)close(op->copied.fd);
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

/* --- what the laid map begins as ------------------------------------------ */

struct changed {
	const struct map *m;
	struct runs runs;
};

static int changed_pages(void *ctx, uint64_t page, uint64_t npages)
{
	struct changed *c = ctx;

	return runs_of(c->m, page, npages, &c->runs);
}

/* The lineage's laid map with this snapshot's differences put over it; or the
 * snapshot's own map. */
static void lay_base(struct broker *b, struct snap *s, struct map *out)
{
	struct snap *kin = snap_by_id(b, s->lineage->laid_snap);
	struct changed c = {.m = &s->map};

	if (s->has_laid) {
		*out = map_get(&b->store, &s->laid);
		return;
	}
	if (kin == NULL || !kin->has_laid || kin->map.npages != s->map.npages ||
	    map_diff(&kin->map, &s->map, changed_pages, &c, NULL) != 0 ||
	    map_apply(&b->store, &kin->laid, c.runs.r, c.runs.n, out) != 0)
		*out = map_get(&b->store, &s->map);
	free(c.runs.r);
}

/* --- which leaves are to be copied ---------------------------------------- */

struct census {
	uint16_t *extents; /* of each leaf */
	uint64_t nleaves;
};

static int count_run(void *ctx, const struct page_run *r)
{
	struct census *c = ctx;
	uint64_t first = r->page / LEAF_NPAGES;
	uint64_t last = (r->page + r->npages - 1) / LEAF_NPAGES;

	/* A leaf that lies within the run has one extent, and needs no count.
	 */
	if (first == last || r->page % LEAF_NPAGES != 0)
		c->extents[first]++;
	if (first != last && (r->page + r->npages) % LEAF_NPAGES != 0)
		c->extents[last]++;
	return 0;
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

static int collect_leaves(
    struct lay_op *op, const struct census *c, uint32_t limit)
{
	uint64_t npages = op->base.npages;
	int rc = 0;

	op->from.max = RUNS_MAX;
	for (uint64_t i = 0; i < c->nleaves && rc == 0; i++) {
		uint64_t at = i * LEAF_NPAGES;

		if (c->extents[i] <= limit)
			continue;
		rc = runs_of(&op->base, at,
		    npages - at < LEAF_NPAGES ? npages - at : LEAF_NPAGES,
		    &op->from);
	}
	return rc;
}

/* --- the copy --------------------------------------------------------------
 */

static void copy_run(struct work *w)
{
	struct lay_op *op = (struct lay_op *)w;
	struct layer_job job = {
	    .layer_fd = op->fd,
	    .nfds = op->tab.nfiles + 1,
	    .cancel = &w->cancelled,
	};

	op->rc =
	    layer_copy_runs(&job, (struct run_list){op->from.r, op->from.n},
		op->to, &op->copied, &op->e);
}

static void lay_send(struct lay_op *op);
static void lay_exact(struct lay_op *op);

static void copy_done(struct work *w)
{
	struct lay_op *op = (struct lay_op *)w;
	struct broker *b = op->b;
	struct snap *s = op->r.snap;
	struct map laid;
	uint32_t id;
	int rc =
	    w->ran ? op->rc : err_set(&op->e, -ECANCELED, "firnd is ending");

	if (rc == 0) {
		rc = layer_adopt(
		    b->layers, op->copied.fd, op->copied.npages, &id, &op->e);
		op->copied.fd = -1;
	}
	if (rc == 0) {
		layer_belongs(b->layers, id, snap_layers(s));
		for (size_t i = 0; i < op->from.n; i++)
			op->to[i].layer = id;
		rc = map_apply(&b->store, &op->base, op->to, op->from.n, &laid);
		layer_put(b->layers, id);
		if (rc != 0)
			(void)err_set(&op->e, rc, "no memory for a page map");
	}
	if (rc != 0) {
		lay_fail(op, &op->e);
		return;
	}
	if (s->private_history) {
		if (s->has_opened)
			map_put(&b->store, &s->opened);
		s->opened = laid;
		s->has_opened = true;
		lay_exact(op);
		return;
	}
	map_put(&b->store, &op->base);
	op->base = laid;
	if (s->has_laid)
		map_put(&b->store, &s->laid);
	s->laid = map_get(&b->store, &laid);
	s->has_laid = true;
	s->lineage->laid_snap = s->id;
	lay_send(op);
}

/* Zero pages are copied as well, from a file of holes: a leaf that is one
 * extent must have no gaps. */
static int copy_start(struct lay_op *op, struct err *e)
{
	struct broker *b = op->b;
	uint32_t zeroes;
	int rc = files_of(b, &op->from, &op->tab);

	zeroes = op->tab.nfiles;
	if (rc == 0) {
		op->fd = calloc((size_t)zeroes + 1, sizeof(*op->fd));
		op->to = calloc(op->from.n, sizeof(*op->to));
		if (op->fd == NULL || op->to == NULL)
			rc = -ENOMEM;
	}
	if (rc == 0) {
		op->zero_fd = memfd_create("firn-zero", MFD_CLOEXEC);
		if (op->zero_fd < 0 ||
		    ftruncate(
			op->zero_fd, (off_t)(op->base.npages * PAGE_SIZE)) != 0)
			rc = -errno;
	}
	if (rc != 0)
		return err_set(e, rc,
		    "cannot copy scattered pages for a view: "
		    "%s",
		    strerror(-rc));
	rc = bank_check(b, PAGE_SIZE, e);
	if (rc != 0)
		return rc;
	memcpy(op->fd, op->tab.fd, zeroes * sizeof(*op->fd));
	op->fd[zeroes] = op->zero_fd;
	for (size_t i = 0; i < op->from.n; i++) {
		struct page_run *r = &op->from.r[i];

		if (r->layer == RUN_ZERO) {
			r->layer = zeroes;
			r->index = 0;
		}
	}
	worker_submit(b->pool, &op->work, copy_run, copy_done);
	return 0;
}

/* --- sending it ------------------------------------------------------------
 */

/* The runs of a view, and the files that they name. */
struct numbered {
	struct runs runs;
	struct filetab tab;
};

static int number_files(struct broker *b, struct numbered *x, struct err *e)
{
	int rc = files_of(b, &x->runs, &x->tab);

	if (rc != 0)
		return err_set(e, rc, "no memory for a view");
	if (x->tab.nfiles > VIEW_FILES_MAX)
		return err_set(e, -E2BIG,
		    "the snapshot is in more than %u files", VIEW_FILES_MAX);
	return 0;
}

/* What is adopted is in one file, which no table of what is read may have. */
static int number_own(
    struct broker *b, const struct snap *s, struct numbered *x, struct err *e)
{
	x->tab.fd = calloc(1, sizeof(*x->tab.fd));
	if (x->tab.fd == NULL)
		return err_set(e, -ENOMEM, "no memory for a view");
	x->tab.fd[0] = layer_fd(b->layers, s->owned);
	x->tab.nfiles = 1;
	for (size_t i = 0; i < x->runs.n; i++)
		if (x->runs.r[i].layer != RUN_ZERO)
			x->runs.r[i].layer = 0;
	return 0;
}

/* Bytes of the VM's own that the view may take. */
static int view_reserve(
    struct broker *b, struct bvm *vm, const struct lay_req *r, struct err *e)
{
	if (r->mode == FIRN_MAP_OWN)
		return own_reserve(b, vm, r->snap, e);
	if ((r->mode & FIRN_MAP_COW) == 0)
		return 0;
	return bank_reserve(b, vm, r->snap->map.npages * PAGE_SIZE, e);
}

static void view_release(
    struct broker *b, struct bvm *vm, const struct lay_req *r)
{
	if (r->mode & (FIRN_MAP_COW | FIRN_MAP_OWN))
		bank_release(b, vm, r->snap->map.npages * PAGE_SIZE);
}

static uint32_t view_flags(const struct lay_req *r)
{
	uint32_t flags = (r->mode & FIRN_MAP_COW)   ? FIRN_SEG_VIEW_COW
			 : (r->mode & FIRN_MAP_OWN) ? 0
						    : FIRN_SEG_VIEW_RO;

	flags |= r->snap->private_history ? FIRN_SEG_PRIVATE : 0;
	return flags | ((r->mode & FIRN_MAP_TRACK) ? FIRN_SEG_TRACKED : 0);
}

/* What the next freeze is put over: the snapshot, or nothing. */
static void view_shows(struct broker *b, struct bplace *p,
    const struct lay_req *r, struct pins pins)
{
	if (r->mode == FIRN_MAP_OWN) {
		own_adopted(b, p, r);
		return;
	}
	map_put(&b->store, &p->cur);
	p->cur = map_get(&b->store, &r->snap->map);
	p->shown = snap_hold(r->snap);
	p->pins = pins;
	p->kin = kin_hold(r->snap->kin);
}

struct map_op {
	struct asker a;
	struct lay_req r;
	uint64_t extents;
	uint64_t begin_ns;
	struct held *held; /* NULL: of what is adopted */
};

static void map_answer(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct map_op *op = ctx;
	struct wire_mapped m = {0};
	struct wire_segment w = {0};
	struct bplace *p = NULL;
	struct err e = {0};
	int rc = pk == NULL ? err_set(&e, -ESRCH, "the VM ended meanwhile")
			    : packet_err(pk, &e);

	if (rc == 0 && pk->m.len != sizeof(m))
		rc = err_set(&e, -EPROTO, "the monitor's answer is malformed");
	if (rc == 0) {
		memcpy(&m, pk->payload, sizeof(m));
		w.id = m.id;
		w.flags = view_flags(&op->r);
		w.gpa = m.gpa;
		w.size = op->r.snap->map.npages * PAGE_SIZE;
		memcpy(w.name, op->r.name, sizeof(w.name));
		if (place_by_id(vm, m.id) == NULL)
			p = place_add(b, vm, &w, op->r.snap->lineage, &e);
		if (p == NULL)
			rc = -EPROTO;
	}
	if (rc != 0) {
		if (vm != NULL)
			view_release(b, vm, &op->r);
		if (rc == -EPROTO && vm != NULL)
			vm_kill(b, vm);
		if (e.code == 0)
			(void)err_set(&e, -EPROTO, "the monitor misbehaved");
		if (op->r.mode == FIRN_MAP_OWN)
			own_refused(b, vm, &op->a, op->r.snap, &e);
		else
			asker_fail(b, &op->a, &e);
	} else {
		view_shows(b, p, &op->r,
		    op->held != NULL ? held_place(vm, op->held)
				     : (struct pins){0});
		op->held = NULL;
		if (op->a.rq == NULL) {
			struct firn_segment s = {.id = m.id,
			    .flags = w.flags & ~FIRN_SEG_PRIVATE,
			    .gpa = m.gpa,
			    .va = FIRN_WINDOW + m.gpa,
			    .size = w.size};

			asker_answer_guest(
			    b, &op->a, 0, &s, sizeof(s), NULL, 0);
		} else {
			json_t *j = json_pack("{s:I,s:I,s:I,s:I,s:I}", "view",
			    (json_int_t)m.id, "gpa", (json_int_t)m.gpa, "pages",
			    (json_int_t)op->r.snap->map.npages, "extents",
			    (json_int_t)op->extents, "map_ns",
			    (json_int_t)(now_ns() - op->begin_ns));

			if (op->r.adopt)
				(void)json_object_set_new(j, "copied_on_write",
				    json_boolean(op->r.mode == FIRN_MAP_COW));
			ctl_reply(op->a.rq, j, NULL, 0);
		}
		notify(b, vm->home, "view.mapped",
		    json_pack("{s:I,s:I,s:I}", "vm", (json_int_t)vm->id, "view",
			(json_int_t)m.id, "snapshot",
			(json_int_t)op->r.snap->id));
	}
	held_drop(b, vm, op->held);
	snap_put(b, op->r.snap);
	free(op);
}

/* The layers that do not fit the last message, in messages of their own. */
static int send_layers(struct bvm *vm, const struct numbered *x, uint32_t *sent)
{
	const uint32_t room = WIRE_FDS_MAX - 1;

	for (*sent = 0; x->tab.nfiles - *sent > room; *sent += WIRE_FDS_MAX) {
		int rc = vm_send(vm, WIRE_LAYERS, ++vm->seq, 0, NULL, 0,
		    x->tab.fd + *sent, WIRE_FDS_MAX);

		if (rc != 0)
			return rc;
	}
	return 0;
}

/* The monitor was not asked after all. (mo) may be NULL. */
static void map_unprepare(struct lay_op *op, struct bvm *vm, struct map_op *mo)
{
	if (mo == NULL)
		return;
	view_release(op->b, vm, &op->r);
	held_drop(op->b, vm, mo->held);
	free(mo);
}

/* All of a mapping that can fail before the monitor is told of it; *out is for
 * map_unprepare() if it is not asked. */
static int map_prepare(struct lay_op *op, struct bvm *vm,
    const struct numbered *x, struct map_op **out, struct err *e)
{
	struct map_op *mo;

	if (vm->ncalls >= CALLS_MAX)
		return err_set(e, -EBUSY,
		    "%u requests wait for this VM's monitor; try again",
		    CALLS_MAX);
	mo = calloc(1, sizeof(*mo));
	if (mo == NULL)
		return err_set(e, -ENOMEM, "no memory for a view");
	mo->a = op->a;
	mo->r = op->r;
	mo->extents = x->runs.n;
	mo->begin_ns = op->begin_ns;
	if (view_reserve(op->b, vm, &op->r, e) != 0) {
		free(mo);
		return e->code;
	}
	/* What is adopted is the layers' no more. */
	if (op->r.mode != FIRN_MAP_OWN) {
		mo->held = held_new(op->b, vm, x->tab.file, x->tab.nfiles, e);
		if (mo->held == NULL) {
			map_unprepare(op, vm, mo);
			return e->code;
		}
	}
	*out = mo;
	return 0;
}

static int send_map(struct lay_op *op, struct bvm *vm, const struct numbered *x,
    struct map_op *mo, const int *fds, uint32_t nfds, struct err *e)
{
	struct wire_map m = {
	    .npages = op->base.npages,
	    .gpa = op->r.gpa,
	    .nruns = x->runs.n,
	    .snapshot = op->r.snap->id,
	    .nlayers = x->tab.nfiles,
	    .mode = op->r.mode,
	};
	int rc;

	memcpy(m.name, op->r.name, sizeof(m.name));
	rc = vm_ask(vm, WIRE_MAP, &m, sizeof(m), fds, nfds, map_answer, mo, e);
	if (rc == 0)
		(void)snap_hold(op->r.snap);
	return rc;
}

static void send_opened(struct lay_op *op, const struct numbered *x,
    uint32_t id, const int *fds, uint32_t nfds)
{
	struct wire_opened o = {
	    .npages = op->base.npages,
	    .nruns = x->runs.n,
	    .nlayers = x->tab.nfiles,
	    .id = id,
	};

	asker_answer_guest(op->b, &op->a, 0, &o, sizeof(o), fds, nfds);
}

/* The layers, then what they are for. Half of it cannot be unsaid, so then the
 * VM has to end. */
static int lay_tell(struct lay_op *op, struct bvm *vm, const struct numbered *x,
    int runs_fd, struct err *e)
{
	struct map_op *mo = NULL;
	struct held *opened = NULL;
	int fds[WIRE_FDS_MAX] = {runs_fd};
	uint32_t nfds = 1;
	uint32_t sent = 0;
	int rc = 0;

	if (!link_takes(&vm->link, x->tab.nfiles + 1))
		return err_set(e, -EBUSY,
		    "the VM's monitor has not read what it was told; try "
		    "again");
	if (!op->r.open) {
		rc = map_prepare(op, vm, x, &mo, e);
	} else {
		opened = held_open(op->b, vm, x->tab.file, x->tab.nfiles, e);
		rc = opened == NULL ? e->code : 0;
	}
	if (rc != 0)
		return rc;
	rc = send_layers(vm, x, &sent);
	if (rc != 0)
		(void)err_set(e, rc, "the monitor does not take the layers");
	while (rc == 0 && sent + nfds - 1 < x->tab.nfiles) {
		fds[nfds] = x->tab.fd[sent + nfds - 1];
		nfds++;
	}
	if (rc == 0 && opened != NULL)
		send_opened(op, x, opened->id, fds, nfds);
	else if (rc == 0)
		rc = send_map(op, vm, x, mo, fds, nfds, e);
	if (rc == 0)
		return 0;
	map_unprepare(op, vm, mo);
	held_drop(op->b, vm, opened);
	if (x->tab.nfiles >= WIRE_FDS_MAX)
		vm_kill(op->b, vm);
	return rc;
}

static int lay_try(struct lay_op *op, struct numbered *x, struct err *e)
{
	struct bvm *vm = vm_by_id(op->b, op->r.vm);
	int fd;
	int rc;

	if (vm == NULL || vm->state == VM_EXITED)
		return err_set(e, -ESRCH, "the VM ended meanwhile");
	rc = runs_of(&op->base, 0, op->base.npages, &x->runs);
	if (rc != 0)
		return err_set(e, rc, "no memory for a view");
	rc = op->r.mode == FIRN_MAP_OWN ? number_own(op->b, op->r.snap, x, e)
					: number_files(op->b, x, e);
	if (rc != 0)
		return rc;
	fd = wire_blob("firn-runs", x->runs.r, x->runs.n * sizeof(*x->runs.r));
	if (fd < 0)
		return err_set(e, fd, "no memory for a view");
	rc = lay_tell(op, vm, x, fd, e);
	(void)close(fd);
	return rc;
}

static void lay_send(struct lay_op *op)
{
	struct numbered x = {.runs = {0}};
	struct err e = {0};
	int rc = lay_try(op, &x, &e);

	free(x.runs.r);
	filetab_free(&x.tab);
	if (rc != 0)
		lay_fail(op, &e);
	else
		lay_free(op);
}

/* A view that nobody named is called after its snapshot. */
static void name_view(struct broker *b, struct lay_req *r)
{
	struct bvm *vm = vm_by_id(b, r->vm);

	if (r->name[0] != '\0' || vm == NULL)
		return;
	for (unsigned i = 1; i <= WIRE_SEGMENTS_MAX; i++) {
		(void)snprintf(r->name, sizeof(r->name), "s%" PRIu64 ".%u",
		    r->snap->id, i);
		if (place_find(vm, r->name, NULL) == NULL)
			return;
	}
}

/* Have leaves with too many extents copied, then send it. */
static void lay_begin(struct lay_op *op)
{
	struct census c = {0};
	struct err e = {0};
	int rc = 0;

	c.nleaves = (op->base.npages + LEAF_NPAGES - 1) / LEAF_NPAGES;
	c.extents = calloc(c.nleaves, sizeof(*c.extents));
	if (c.extents == NULL)
		rc = -ENOMEM;
	if (rc == 0)
		rc = map_walk(&op->base, 0, op->base.npages, count_run, &c);
	if (rc == 0)
		rc = collect_leaves(op, &c, choose_limit(&c));
	free(c.extents);
	if (rc != 0) {
		(void)err_set(&e, rc, "no memory for a view");
		lay_fail(op, &e);
	} else if (op->from.n == 0) {
		lay_send(op);
	} else {
		rc = copy_start(op, &e);
		if (rc != 0)
			lay_fail(op, &e);
	}
}

static void lay_is_exact(
    struct broker *b, struct exact *x, const struct err *why, void *ctx)
{
	struct lay_op *op = ctx;

	if (why != NULL) {
		lay_fail(op, why);
		return;
	}
	op->base = map_get(&b->store, &x->map);
	lay_begin(op);
}

/* Begin, perhaps again, with files that tell nothing else. */
static void lay_exact(struct lay_op *op)
{
	lay_forget(op);
	exact(op->b, op->r.snap, lay_is_exact, op);
}

static void lay_sealed(struct broker *b, const struct err *e, void *ctx)
{
	struct lay_op *op = ctx;

	(void)b;
	if (e != NULL) {
		lay_fail(op, e);
	} else if (op->r.snap->private_history) {
		lay_exact(op);
	} else {
		lay_base(op->b, op->r.snap, &op->base);
		lay_begin(op);
	}
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
	op->zero_fd = -1;
	op->copied.fd = -1;
	op->begin_ns = now_ns();
	(void)snap_hold(r->snap);
	name_view(b, &op->r);
	if (r->mode == FIRN_MAP_OWN) {
		op->base = map_get(&b->store, &r->snap->map);
		lay_send(op);
	} else if (own_seal(b, r->snap, lay_sealed, op, &e) != 0) {
		lay_fail(op, &e);
	}
}
