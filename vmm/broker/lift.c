/* SPDX-License-Identifier: MIT */
/*
 * lift: what a monitor froze becomes a page map.
 *
 * The monitor lifts, lays back and seals; it answers with steps, each a layer
 * and the runs to put over the map so far. A step is queued before it is
 * applied, so that a failure here (no memory, no descriptors) loses nothing:
 * the next freeze of the place begins with what is still queued. What was
 * severed and could not become a snapshot is kept with the place: the next
 * sever gives that.
 *
 * What is severed owned is proved to be nobody else's before it is applied, and
 * only after the monitor has answered another request: it gives up what it sent
 * before it reads the next.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

struct lift_op {
	uint32_t place;
	bool sever;
	lift_fn *fn;
	void *ctx;
	struct step *spare; /* made before it is asked: for the answer */
	struct wire_frozen f;
	int sets_fd; /* or -1 */
};

static void step_free(struct broker *b, struct step *s)
{
	if (s->fd >= 0)
		(void)close(s->fd);
	if (s->runs_fd >= 0)
		(void)close(s->runs_fd);
	if (s->layer != RUN_ZERO)
		layer_put(b->layers, s->layer);
	if (s->pinned)
		lfile_unpin(b->layers, s->file);
	free(s->runs);
	free(s);
}

static void chain_free(struct broker *b, struct step *s)
{
	while (s != NULL) {
		struct step *next = s->next;

		step_free(b, s);
		s = next;
	}
}

void steps_free(struct broker *b, struct bplace *p)
{
	chain_free(b, p->pending);
	p->pending = NULL;
}

/* --- taking steps from a packet -------------------------------------------
 *
 * Takes descriptors only and needs no memory, so that nothing that a monitor
 * told is lost.
 */

static int steps_make(struct broker *b, struct step **out)
{
	*out = NULL;
	for (uint32_t i = 0; i < WIRE_STEPS_MAX; i++) {
		struct step *s = calloc(1, sizeof(*s));

		if (s == NULL) {
			chain_free(b, *out);
			*out = NULL;
			return -ENOMEM;
		}
		s->fd = s->runs_fd = -1;
		s->layer = RUN_ZERO;
		s->next = *out;
		*out = s;
	}
	return 0;
}

static int step_take(struct wire_packet *pk, const struct wire_step *ws,
    uint32_t *fd_i, struct step *s)
{
	s->runs_fd = wire_take_fd(pk, (*fd_i)++);
	s->nruns = ws->nruns;
	s->npages = ws->layer_npages;
	s->first = ws->first != 0;
	s->severed = ws->severed != 0;
	s->owned = ws->owned != 0;
	if (ws->has_layer)
		s->fd = wire_take_fd(pk, (*fd_i)++);
	if (s->owned && (!s->severed || !s->first || s->fd < 0))
		return -EPROTO;
	return s->runs_fd < 0 || (ws->has_layer && s->fd < 0) ? -EPROTO : 0;
}

static int steps_take(struct bplace *p, struct wire_packet *pk,
    struct step **spare, struct wire_frozen *f, int *sets_fd, struct err *e)
{
	struct step **tail = &p->pending;
	uint32_t fd_i = 0;
	int rc = 0;

	if (pk->m.len != sizeof(*f))
		return err_set(e, -EPROTO, "the monitor's answer is malformed");
	memcpy(f, pk->payload, sizeof(*f));
	if (f->nsteps > WIRE_STEPS_MAX || f->npages != p->npages ||
	    (f->tracked != 0) != ((p->flags & FIRN_SEG_TRACKED) != 0))
		return err_set(e, -EPROTO, "the monitor's answer is malformed");
	while (*tail != NULL)
		tail = &(*tail)->next;
	for (uint32_t i = 0; i < f->nsteps && rc == 0; i++) {
		struct step *s = *spare;

		rc = step_take(pk, &f->step[i], &fd_i, s);
		*spare = s->next;
		s->next = NULL;
		*tail = s;
		tail = &s->next;
	}
	if (rc == 0 && f->tracked)
		*sets_fd = wire_take_fd(pk, fd_i);
	if (rc != 0 || (f->tracked && *sets_fd < 0))
		return err_set(e, -EPROTO,
		    "the monitor's answer lacks descriptors, or contradicts "
		    "itself");
	return 0;
}

/* --- applying them -------------------------------------------------------- */

static int step_load(struct step *s, uint64_t npages, struct err *e)
{
	uint64_t most = npages < RUNS_MAX ? npages : RUNS_MAX;
	void *data;
	size_t len;
	int rc;

	if (s->runs_fd < 0)
		return 0;
	rc =
	    wire_slurp(s->runs_fd, most * sizeof(struct page_run), &data, &len);
	if (rc == 0 && (len % sizeof(struct page_run) != 0 ||
			   len / sizeof(struct page_run) != s->nruns)) {
		free(data);
		rc = -EPROTO;
	}
	if (rc != 0)
		return err_set(e, rc,
		    "the list of frozen pages cannot be "
		    "used: %s",
		    strerror(-rc));
	s->runs = data;
	(void)close(s->runs_fd);
	s->runs_fd = -1;
	return 0;
}

static int step_check(
    struct broker *b, struct step *s, uint64_t npages, struct err *e)
{
	uint64_t have =
	    s->layer == RUN_ZERO ? 0 : layer_npages(b->layers, s->layer);
	int rc = run_list_check(s->runs, s->nruns, npages);

	for (size_t i = 0; rc == 0 && i < s->nruns; i++) {
		const struct page_run *r = &s->runs[i];

		if (r->layer == RUN_ZERO)
			continue;
		if (r->layer != 0 || r->index > have ||
		    r->npages > have - r->index)
			rc = -EPROTO;
	}
	if (rc != 0)
		return err_set(
		    e, rc, "the monitor named pages that its layer lacks");
	for (size_t i = 0; i < s->nruns; i++)
		if (s->runs[i].layer != RUN_ZERO)
			s->runs[i].layer = s->layer;
	return 0;
}

/* Make the step's memfd a layer. The step keeps its own descriptor until that
 * has succeeded. */
static int step_adopt(struct broker *b, struct step *s, struct err *e)
{
	uint32_t npieces;
	int fd;
	int rc;

	if (s->fd < 0)
		return 0;
	if (s->owned)
		return layer_adopt_owned(
		    b->layers, &s->fd, s->npages, &s->layer, e);
	fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return err_set(
		    e, -errno, "cannot keep a layer: %s", strerror(errno));
	rc = layer_adopt(b->layers, fd, s->npages, &s->layer, e);
	if (rc != 0)
		return rc;
	(void)close(s->fd);
	s->fd = -1;
	if (s->first) {
		s->file = layer_pieces(b->layers, s->layer, &npieces)->file;
		s->pinned = true;
		lfile_pin(b->layers, s->file);
	}
	return 0;
}

static bool may_pass(int rc)
{
	return rc == -ENOMEM || rc == -EMFILE || rc == -ENFILE ||
	       rc == -ENOSPC || rc == -EBUSY;
}

static void keep_severed(struct broker *b, struct bplace *p, uint32_t owned)
{
	if (p->has_severed)
		map_put(&b->store, &p->severed);
	place_unpin(b, p);
	p->severed = p->cur;
	p->severed_owned = owned;
	p->has_severed = true;
	(void)map_zero(p->npages, &p->cur);
}

/* A first step's layer is what the place had as memory, and still maps, unless
 * it was severed. */
static void step_pins(struct broker *b, struct bplace *p, struct step *s)
{
	if (s->first || s->severed)
		place_unpin(b, p);
	if (!s->pinned || s->severed)
		return;
	p->has_own_file = true;
	p->own_file = s->file;
	s->pinned = false;
}

/* The oldest step that waits; it stays first in the queue if this fails for
 * want of something, and goes if it is wrong. */
static int step_apply(struct broker *b, struct bplace *p, struct err *e)
{
	struct step *s = p->pending;
	struct map base = {0};
	struct map next;
	int rc = 0;

	if (!s->checked) {
		rc = step_load(s, p->npages, e);
		if (rc == 0)
			rc = step_adopt(b, s, e);
		if (rc == 0)
			rc = step_check(b, s, p->npages, e);
		s->checked = rc == 0;
		if (rc == 0 && s->layer != RUN_ZERO)
			layer_belongs(b->layers, s->layer, p->whose);
	}
	if (rc == 0) {
		if (s->first)
			(void)map_zero(p->npages, &base);
		else
			base = map_get(&b->store, &p->cur);
		rc = map_apply(&b->store, &base, s->runs, s->nruns, &next);
		map_put(&b->store, &base);
		if (rc != 0)
			rc = err_set(e, rc, "no memory for a page map");
	}
	if (rc != 0 && may_pass(rc))
		return rc;
	if (rc == 0) {
		map_put(&b->store, &p->cur);
		p->cur = next;
		step_pins(b, p, s);
		p->unmovable = false;
		if (s->severed)
			keep_severed(b, p, s->owned ? s->layer : 0);
	}
	p->pending = s->next;
	step_free(b, s);
	return rc;
}

/* All that wait. A monitor that told what is wrong is ended: what its guest
 * has written is not known any more. */
static int steps_apply(
    struct broker *b, struct bvm *vm, struct bplace *p, struct err *e)
{
	int rc = 0;

	while (rc == 0 && p->pending != NULL)
		rc = step_apply(b, p, e);
	if (rc != 0 && !may_pass(rc))
		vm_kill(b, vm);
	return rc;
}

/* Its pages are the severed ones once it is applied. The newest step, which
 * waits still. */
static struct step *sever_later(struct bplace *p, const struct wire_frozen *f)
{
	struct step *s = p->pending;

	p->severed_f = *f;
	p->was_severed = true;
	if (s == NULL)
		return NULL;
	while (s->next != NULL)
		s = s->next;
	s->severed = true;
	return s;
}

/* What a tracked place touched. Where that cannot be kept the step counts as
 * one that was not tracked; where there is no memory the lift fails, and the
 * next one is told of it all again. */
static int lift_sets(struct broker *b, struct bvm *vm, struct bplace *p, int fd,
    struct lifted *l, struct err *e)
{
	int rc = sets_take(fd, p->npages, &l->sets);

	l->tracked = rc == 0;
	if (rc == 0 || rc == -E2BIG)
		return 0;
	if (rc == -EPROTO)
		vm_kill(b, vm);
	return err_set(e, rc,
	    "the bitmaps of what was touched cannot be used: "
	    "%s",
	    strerror(-rc));
}

static void lift_end(struct broker *b, struct lift_op *op)
{
	if (op->sets_fd >= 0)
		(void)close(op->sets_fd);
	chain_free(b, op->spare);
	free(op);
	layers_reap(b);
}

static void lift_fail(struct broker *b, struct lift_op *op, const struct err *e)
{
	op->fn(b, NULL, NULL, NULL, e, op->ctx);
	lift_end(b, op);
}

/* What was severed, as the caller's. */
static struct lifted take_severed(struct bplace *p)
{
	p->has_severed = false;
	return (struct lifted){
	    .f = p->severed_f, .owned = p->severed_owned, .map = p->severed};
}

static void lift_apply(
    struct broker *b, struct bvm *vm, struct bplace *p, struct lift_op *op)
{
	struct lifted l = {.f = op->f};
	struct err e = {0};

	if (steps_apply(b, vm, p, &e) != 0 ||
	    (op->sets_fd >= 0 && !op->sever &&
		lift_sets(b, vm, p, op->sets_fd, &l, &e) != 0)) {
		lift_fail(b, op, &e);
		return;
	}
	if (op->sever && !p->has_severed)
		keep_severed(b, p, 0); /* nothing was written: no step */
	if (op->sever)
		l = take_severed(p);
	else
		l.map = map_get(&b->store, &p->cur);
	op->fn(b, vm, p, &l, NULL, op->ctx);
	kin_sets_free(&l.sets);
	if (!op->sever)
		relay_copies(b, vm, p, &op->f);
	lift_end(b, op);
}

static void lift_given_up(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct lift_op *op = ctx;
	struct bplace *p = pk == NULL ? NULL : place_by_id(vm, op->place);
	struct err e = {0};

	if (p == NULL) {
		(void)err_set(&e, -ESRCH, "the VM ended meanwhile");
		lift_fail(b, op, &e);
		return;
	}
	p->severing = false;
	lift_apply(b, vm, p, op);
}

static void lift_answer(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct lift_op *op = ctx;
	struct bplace *p = pk == NULL ? NULL : place_by_id(vm, op->place);
	struct step *s = NULL;
	struct err e = {0};
	int rc;

	if (p == NULL)
		rc = err_set(&e, -ESRCH, "the VM ended meanwhile");
	else
		rc = packet_err(pk, &e);
	if (p != NULL)
		p->lifting--;
	if (rc == 0) {
		rc = steps_take(p, pk, &op->spare, &op->f, &op->sets_fd, &e);
		if (rc != 0)
			vm_kill(b, vm); /* no monitor of ours answers so */
	}
	if (rc == 0 && op->sever)
		s = sever_later(p, &op->f);
	if (s != NULL && s->owned &&
	    vm_ask(vm, WIRE_STATS, NULL, 0, NULL, 0, lift_given_up, op, &e) ==
		0)
		return;
	if (p != NULL && op->sever)
		p->severing = false;
	if (rc == 0)
		lift_apply(b, vm, p, op);
	else
		lift_fail(b, op, &e);
}

/* A place that is severed goes on with other memory. */
static int lift_ask(struct bvm *vm, struct bplace *p, struct lift_op *op,
    lift_fn *fn, void *ctx, struct err *e)
{
	struct wire_place wp = {.id = p->id};
	int fresh = -1;
	int rc;

	op->place = p->id;
	op->fn = fn;
	op->ctx = ctx;
	if (!op->sever)
		return vm_ask(vm, WIRE_FREEZE, &wp, sizeof(wp), NULL, 0,
		    lift_answer, op, e);
	fresh = layer_memory(p->npages, e);
	if (fresh < 0)
		return fresh;
	rc = vm_ask(
	    vm, WIRE_SEVER, &wp, sizeof(wp), &fresh, 1, lift_answer, op, e);
	(void)close(fresh);
	return rc;
}

/* What an earlier sever could not hand out is what this one gives. */
static void lift_severed(
    struct broker *b, struct bvm *vm, struct bplace *p, lift_fn *fn, void *ctx)
{
	struct lifted l = take_severed(p);

	fn(b, vm, p, &l, NULL, ctx);
}

int lift(struct broker *b, struct bvm *vm, struct bplace *p, bool sever,
    lift_fn *fn, void *ctx, struct err *e)
{
	struct lift_op *op;
	int rc;

	if (p->flags & FIRN_SEG_VIEW_RO)
		return err_set(e, -EPERM,
		    "a read-only view shows a snapshot already; use that");
	if (sever && p->severing)
		return err_set(e, -EBUSY, "it is being severed already");
	rc = steps_apply(b, vm, p, e);
	if (rc != 0)
		return rc;
	if (sever && p->has_severed) {
		lift_severed(b, vm, p, fn, ctx);
		return 0;
	}
	if (sever && sever_check(b, vm, p, e) != 0)
		return e->code;
	if (!fds_reserved(b))
		return err_set(e, -EMFILE,
		    "firnd has too few descriptors left; drop snapshots");
	op = calloc(1, sizeof(*op));
	if (op == NULL || steps_make(b, &op->spare) != 0) {
		free(op);
		return err_set(e, -ENOMEM, "no memory for a freeze");
	}
	op->sever = sever;
	op->sets_fd = -1;
	rc = lift_ask(vm, p, op, fn, ctx, e);
	if (rc != 0) {
		chain_free(b, op->spare);
		free(op);
		return rc;
	}
	p->severing |= sever;
	p->lifting++;
	return 0;
}

/* --- freeze and sever ----------------------------------------------------- */

struct freeze_op {
	struct asker a;
	bool sever;
	char name[FIRN_NAME_MAX];
};

static void freeze_answer(struct broker *b, struct freeze_op *op,
    struct snap *s, const struct wire_frozen *f, int32_t cap)
{
	json_t *j;
	struct firn_frozen out = {
	    .snapshot = s->id,
	    .pages = f->npages,
	    .dirty_pages = f->dirty_pages,
	    .copied_pages = f->copied_pages,
	    .pause_ns = f->pause_ns,
	    .total_ns = f->total_ns,
	};

	if (op->a.rq == NULL) {
		asker_answer_guest(b, &op->a, cap, &out, sizeof(out), NULL, 0);
		return;
	}
	j = json_pack("{s:I,s:s,s:I,s:I,s:I,s:I,s:I}", "snapshot",
	    (json_int_t)out.snapshot, "name", op->name, "pages",
	    (json_int_t)out.pages, "dirty_pages", (json_int_t)out.dirty_pages,
	    "copied_pages", (json_int_t)out.copied_pages, "pause_ns",
	    (json_int_t)out.pause_ns, "total_ns", (json_int_t)out.total_ns);
	if (op->sever)
		(void)json_object_set_new(
		    j, "owned", json_boolean(s->owned != 0));
	ctl_reply(op->a.rq, j, NULL, 0);
}

void grant_owner(
    struct bvm *vm, struct snap *s, uint32_t rights, const char *name)
{
	char full[FIRN_NAME_MAX];

	if (s->owned != 0 || name[0] == '\0' || vm->ngrants >= GRANTS_MAX ||
	    strlen(vm->name) + strlen(name) + 2 > sizeof(full))
		return;
	(void)snprintf(full, sizeof(full), "%.31s/%.31s", vm->name, name);
	if (vm->name[0] == '\0')
		(void)snprintf(
		    full, sizeof(full), "%" PRIu64 "/%.31s", vm->id, name);
	if (snap_grant(s, &vm->home->caps, rights, full, NULL) >= 0)
		vm->ngrants++;
}

/* The snapshot of what was lifted, in the asker's table as *cap; NULL. */
static struct snap *freeze_issue(struct broker *b, struct bvm *vm,
    struct bplace *p, struct lifted *l, struct freeze_op *op, int32_t *cap,
    struct err *e)
{
	struct cap_table *t = asker_caps(b, &op->a);
	struct kin_sets fresh = {0};
	struct snap *s;
	int rc = 0;

	if (l->tracked)
		rc = kin_new_since(&l->sets, &p->told, &fresh);
	if (rc != 0) {
		map_put(&b->store, &l->map);
		return err_set(e, rc, "no memory for what was touched"), NULL;
	}
	s = snap_new(b, l->map, p->lineage, e);
	if (s == NULL) {
		kin_sets_free(&fresh);
		return NULL;
	}
	s->origin_vm = vm->id;
	s->origin_segment = p->id;
	kin_descend(s->kin, p->kin, p->lay_id);
	if (l->tracked && kin_track(s->kin, &fresh) != 0) {
		kin_sets_free(&fresh);
		snap_put(b, s);
		return err_set(e, -ENOMEM, "no memory for what was touched"),
		       NULL;
	}
	s->payer = vm->home->uid;
	s->owned = l->owned;
	s->private_history = (p->flags & FIRN_SEG_PRIVATE) != 0;
	(void)snprintf(
	    s->origin, sizeof(s->origin), "%.63s:%.63s", vm->name, p->name);
	if (t == NULL)
		*cap = err_set(e, -ESRCH, "nobody is left to hold it");
	else
		*cap = snap_grant(s, t, FIRN_RIGHT_ALL, op->name, e);
	if (*cap >= 0)
		return s;
	snap_put(b, s);
	return NULL;
}

/* What is frozen next descends from (s), or, after a sever, from nothing; and
 * of what a tracked view touched it need tell only what is new. */
static void place_descend(struct bplace *p, struct snap *s, struct lifted *l)
{
	struct kin *was = p->kin;

	p->kin = s == NULL ? NULL : kin_hold(s->kin);
	kin_put(was);
	if (!l->tracked)
		return;
	kin_sets_free(&p->told);
	p->told = l->sets;
	l->sets = (struct kin_sets){0};
}

static void freeze_lifted(struct broker *b, struct bvm *vm, struct bplace *p,
    struct lifted *l, const struct err *why, void *ctx)
{
	struct freeze_op *op = ctx;
	struct snap *s;
	struct map again;
	struct err e = {0};
	int32_t cap = -1;

	if (why != NULL) {
		asker_fail(b, &op->a, why);
		free(op);
		return;
	}
	again = map_get(&b->store, &l->map);
	s = freeze_issue(b, vm, p, l, op, &cap, &e);
	if (s == NULL && op->sever) {
		p->severed = again;
		p->severed_owned = l->owned;
		p->severed_f = l->f;
		p->has_severed = true;
	} else {
		map_put(&b->store, &again);
	}
	if (s == NULL) {
		asker_fail(b, &op->a, &e);
	} else {
		place_descend(p, op->sever ? NULL : s, l);
		if (op->a.rq == NULL)
			grant_owner(vm, s, FIRN_RIGHT_ALL, op->name);
		notify(b, vm->home, "snapshot.made",
		    json_pack("{s:I,s:s,s:I,s:s,s:I}", "snapshot",
			(json_int_t)s->id, "name", op->name, "vm",
			(json_int_t)vm->id, "segment", p->name, "pages",
			(json_int_t)s->map.npages));
		freeze_answer(b, op, s, &l->f, cap);
	}
	snap_put(b, s);
	free(op);
}

void freeze(struct broker *b, struct asker a, struct bvm *vm, struct bplace *p,
    bool sever, const char *name)
{
	struct cap_table *t = asker_caps(b, &a);
	struct freeze_op *op = NULL;
	struct err e = {0};
	int rc;

	rc = t == NULL ? err_set(&e, -ESRCH, "the asker is gone")
		       : name_check(t, name, &e);
	if (rc == 0)
		rc = bank_check(b, PAGE_SIZE, &e);
	if (rc == 0) {
		op = calloc(1, sizeof(*op));
		if (op == NULL)
			rc = err_set(&e, -ENOMEM, "no memory for a freeze");
	}
	if (rc == 0) {
		op->a = a;
		op->sever = sever;
		(void)snprintf(op->name, sizeof(op->name), "%s", name);
		rc = lift(b, vm, p, sever, freeze_lifted, op, &e);
	}
	if (rc != 0) {
		free(op);
		asker_fail(b, &a, &e);
	}
}

static void op_freeze(struct broker *b, struct ctl_req *rq, bool sever)
{
	struct bvm *vm = req_vm(b, rq, true);
	struct err e = {0};
	struct bplace *p;
	const char *name;

	if (vm == NULL)
		return; /* answered: the request is gone */
	name = ctl_str(rq, "name");
	p = place_find(vm, ctl_str(rq, "segment"), &e);
	if (p == NULL)
		ctl_fail(rq, &e);
	else
		freeze(b, asker_client(rq), vm, p, sever,
		    name != NULL ? name : "");
}

void op_segment_freeze(void *ctx, struct ctl_req *rq)
{
	op_freeze(ctx, rq, false);
}

void op_segment_sever(void *ctx, struct ctl_req *rq)
{
	op_freeze(ctx, rq, true);
}
