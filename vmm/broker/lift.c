/* SPDX-License-Identifier: MIT */
/*
 * lift: what a monitor froze becomes a page map.
 *
 * The monitor lifts, lays back and seals, and answers with steps, see steps.c.
 * A failure here (no memory, no descriptors) loses none: the next freeze of the
 * place begins with what is still queued. Those that were answered are over in
 * that order, each when its own steps have been applied and before the next
 * one's are. What was severed and could not become a snapshot is kept with the
 * place: the next sever gives that.
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
	struct broker *b;
	uint32_t place;
	bool sever;
	lift_fn *fn;
	void *ctx;
	struct step *spare; /* made before it is asked: for the answer */
	struct wire_frozen f;
	struct sets_in in; /* what was touched; its descriptor is the op's */
	bool tracked;      /* it is known */
	/* Once it was answered, or is to be asked for after what was left: */
	struct lift_op *next; /* of the place */
	struct bvm *vm;
	struct bplace *p;
	uint64_t steps; /* its and earlier ones: so many have to be gone */
	bool left;      /* it is to be asked for then */
	struct loop_timer turn;
};

/* What (p) shows once its newest step is applied is severed: that of the
 * answer, or where nothing was written one that has no pages. */
static void sever_later(struct bplace *p, struct lift_op *op)
{
	struct step *s;

	p->was_severed = true;
	if (op->f.nsteps == 0)
		step_none(p, &op->spare);
	for (s = p->pending; s->next != NULL;)
		s = s->next;
	s->severed = true;
}

/* Read on what a tracked place touched: 1 when there is more. Where it cannot
 * be kept the step counts as one that was not tracked; where there is no memory
 * the lift fails, and the next one is told of it all again. */
static int lift_sets(struct lift_op *op, struct err *e)
{
	int rc = sets_turn(&op->in);

	if (rc == 1)
		return 1;
	closer_close(op->b->closer, op->in.fd);
	op->in.fd = -1;
	op->tracked = rc == 0;
	if (rc == 0 || rc == -E2BIG)
		return 0;
	if (rc == -EPROTO)
		vm_kill(op->b, op->vm);
	return err_set(e, rc,
	    "the bitmaps of what was touched cannot be used: "
	    "%s",
	    strerror(-rc));
}

static void lift_end(struct broker *b, struct lift_op *op)
{
	closer_close(b->closer, op->in.fd);
	sets_end(&op->in);
	steps_free(b, &op->spare);
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
	struct lifted l = {.f = p->severed_f,
	    .owned = p->severed_owned,
	    .map = p->severed,
	    .kin = p->severed_kin};

	p->has_severed = false;
	p->severed_kin = NULL;
	return l;
}

/* The place shows what was lifted. */
static void lift_done(struct lift_op *op)
{
	struct broker *b = op->b;
	struct bplace *p = op->p;
	struct lifted l = {.f = op->f,
	    .tracked = op->tracked,
	    .sets = op->in.all,
	    .fresh = op->in.fresh};

	op->in.all = op->in.fresh = (struct kin_sets){0};
	if (op->sever) {
		l = take_severed(p);
		if (p->steps_gone >= op->steps) /* it is its own */
			l.f = op->f;
	} else {
		l.map = map_get(&b->store, &p->cur);
		l.kin = kin_hold(p->kin);
	}
	op->fn(b, op->vm, p, &l, NULL, op->ctx);
	kin_put(l.kin);
	kin_sets_free(&l.sets);
	kin_sets_free(&l.fresh);
	if (!op->sever)
		relay_copies(b, op->vm, p, &op->f);
	lift_end(b, op);
}

static int lift_begin(
    struct lift_op *op, struct bvm *vm, struct bplace *p, struct err *e);

/* Its steps are gone, and its sets are read. */
static int lift_over(struct lift_op *op, struct err *e)
{
	if (op->left)
		return lift_begin(op, op->vm, op->p, e);
	lift_done(op);
	return 0;
}

/* Go on with the oldest that was answered of (p): 1: it wants another turn, 0:
 * it is over. A sever gives what an earlier one left, if one did, and leaves
 * its own steps to the next. */
static int lifts_turn(struct bplace *p)
{
	struct lift_op *op = p->lifts;
	struct err e = {0};
	int rc = 0;

	if (p->steps_gone < op->steps && !(op->sever && p->has_severed)) {
		rc = steps_turn(op->b, op->vm, p, &e);
		if (rc == 0 && p->steps_gone < op->steps)
			rc = 1;
	}
	if (rc == 0 && op->in.fd >= 0)
		rc = lift_sets(op, &e);
	if (rc > 0)
		return 1;
	p->lifts = op->next;
	p->lifting--;
	if (op->sever)
		p->severing = false;
	if (rc == 0)
		rc = lift_over(op, &e);
	if (rc != 0)
		lift_fail(op->b, op, &e);
	return 0;
}

/* As many as fit a turn of the loop. */
static void lifts_go_on(void *arg)
{
	struct bplace *p = arg;
	struct broker *b = p->lifts->b;
	struct bvm *vm = p->lifts->vm;

	(void)lifts_turn(p);
	if (p->lifts != NULL)
		loop_timer_start(&p->lifts->turn, 0);
	else if (p->gone && !p->giving_up)
		place_end(b, vm, p);
}

bool lifts_wait(const struct bvm *vm)
{
	for (uint32_t i = 0; i < PLACES_MAX; i++)
		if (vm->place[i].lifts != NULL)
			return true;
	return false;
}

void lifts_end(struct bplace *p)
{
	while (p->lifts != NULL) {
		loop_timer_stop(&p->lifts->turn);
		while (lifts_turn(p) != 0)
			;
	}
}

/* Its steps are queued, or what it waits for is. */
static void lift_apply(struct bvm *vm, struct bplace *p, struct lift_op *op)
{
	struct lift_op **tail = &p->lifts;

	op->next = NULL;
	op->vm = vm;
	op->p = p;
	op->steps = p->steps_taken;
	op->in.npages = p->npages;
	op->in.told = &p->told;
	loop_timer_init(&op->turn, op->b->loop, lifts_go_on, p);
	while (*tail != NULL)
		tail = &(*tail)->next;
	*tail = op;
	if (p->lifts == op)
		lifts_go_on(p);
}

/* It did, or it ended: the place is there still, and its steps. */
static void lift_given_up(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct lift_op *op = ctx;
	struct bplace *p = op->p;

	(void)b;
	(void)pk;
	p->giving_up = false;
	vm->ngone += p->gone;
	lift_apply(vm, p, op);
}

static bool tells_owned(const struct wire_frozen *f)
{
	for (uint32_t i = 0; i < f->nsteps; i++)
		if (f->step[i].owned)
			return true;
	return false;
}

/* Where it sent what is to be owned, as a freeze does behind a sever whose
 * answer was lost: ask for more, so that the monitor gives that up. False: it
 * is not asked, and the proof will say what it kept. */
static bool lift_give_up(struct bvm *vm, struct bplace *p, struct lift_op *op)
{
	if (!tells_owned(&op->f) || p->giving_up)
		return false;
	/* What another is about to answer would be applied before. */
	if (!op->sever && p->lifting > 1)
		return false;
	op->p = p;
	p->giving_up = vm_ask(vm, WIRE_STATS, NULL, 0, NULL, 0, lift_given_up,
			   op, NULL) == 0;
	return p->giving_up;
}

static void lift_answer(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct lift_op *op = ctx;
	struct bplace *p = pk == NULL ? NULL : place_by_id(vm, op->place);
	struct err e = {0};
	int rc;

	if (p == NULL)
		rc = err_set(&e, -ESRCH, "the VM ended meanwhile");
	else
		rc = packet_err(pk, &e);
	if (rc == 0) {
		rc = steps_take(p, pk, &op->spare, &op->f, &op->in.fd, &e);
		if (rc != 0)
			vm_kill(b, vm); /* no monitor of ours answers so */
	}
	if (rc == 0 && op->sever)
		sever_later(p, op);
	if (rc == 0 && lift_give_up(vm, p, op))
		return;
	if (rc == 0) {
		lift_apply(vm, p, op);
		return;
	}
	if (p != NULL) {
		p->lifting--;
		p->severing &= !op->sever;
	}
	lift_fail(b, op, &e);
}

/* A place that is severed goes on with other memory. */
static int lift_ask(
    struct bvm *vm, struct bplace *p, struct lift_op *op, struct err *e)
{
	struct wire_place wp = {.id = p->id};
	int fresh = -1;
	int rc;

	op->place = p->id;
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
	kin_put(l.kin);
}

/* Those that are not over have descriptors. */
static unsigned lifts_of(const struct bvm *vm)
{
	unsigned n = 0;

	for (uint32_t i = 0; i < PLACES_MAX; i++)
		n += vm->place[i].lifting;
	return n;
}

/* Ask for it. On failure it is the caller's still. */
static int lift_begin(
    struct lift_op *op, struct bvm *vm, struct bplace *p, struct err *e)
{
	int rc;

	op->left = false;
	if (p->gone)
		return err_set(e, -ENOENT, "it was unmapped meanwhile");
	if (op->sever && p->has_severed) {
		lift_severed(op->b, vm, p, op->fn, op->ctx);
		lift_end(op->b, op);
		return 0;
	}
	rc = op->sever ? sever_check(op->b, vm, p, e) : 0;
	if (rc != 0)
		return rc;
	if (lifts_of(vm) >= CALLS_MAX)
		return err_set(e, -EBUSY,
		    "%u freezes of this VM are under way; try again",
		    CALLS_MAX);
	if (!fds_reserved(op->b))
		return err_set(e, -EMFILE,
		    "firnd has too few descriptors left; drop snapshots");
	if (steps_make(op->b, &op->spare) != 0)
		return err_set(e, -ENOMEM, "no memory for a freeze");
	rc = lift_ask(vm, p, op, e);
	if (rc != 0)
		return rc;
	p->severing |= op->sever;
	p->lifting++;
	return 0;
}

/* Do steps wait that a failed lift left? While a monitor gives up what it sent
 * those of one that did not may be there, and what it answers next comes behind
 * that. */
static bool steps_left(const struct bplace *p)
{
	uint64_t n = p->steps_taken - p->steps_gone;

	return p->lifts == NULL && n > (p->giving_up ? WIRE_STEPS_MAX : 0u);
}

/* Nothing new is asked for before those are gone. */
static void lift_after(struct lift_op *op, struct bvm *vm, struct bplace *p)
{
	op->left = true;
	p->severing |= op->sever;
	p->lifting++;
	lift_apply(vm, p, op);
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
	op = calloc(1, sizeof(*op));
	if (op == NULL)
		return err_set(e, -ENOMEM, "no memory for a freeze");
	op->b = b;
	op->sever = sever;
	op->fn = fn;
	op->ctx = ctx;
	op->in.fd = -1;
	if (steps_left(p)) {
		lift_after(op, vm, p);
		return 0;
	}
	rc = lift_begin(op, vm, p, e);
	if (rc != 0)
		lift_end(b, op);
	return rc;
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
	    .pages = s->map.npages,
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
	char label[FIRN_NAME_MAX];
	char full[FIRN_NAME_MAX * 2];

	vm_label(vm, label);
	(void)snprintf(full, sizeof(full), "%s/%.63s", label, name);
	if (s->owned != 0 || name[0] == '\0' || vm->ngrants >= GRANTS_MAX ||
	    strlen(full) >= FIRN_NAME_MAX)
		return;
	if (snap_grant(s, &vm->home->caps, rights, full, NULL) >= 0)
		vm->ngrants++;
}

/* The snapshot of what was lifted, in the asker's table as *cap; NULL. */
static struct snap *freeze_issue(struct broker *b, struct bvm *vm,
    struct bplace *p, struct lifted *l, struct freeze_op *op, int32_t *cap,
    struct err *e)
{
	struct cap_table *t = asker_caps(b, &op->a);
	struct snap *s = snap_new(b, l->map, p->lineage, e);
	char label[FIRN_NAME_MAX];

	if (s == NULL)
		return NULL;
	vm_label(vm, label);
	s->origin_vm = vm->id;
	s->origin_segment = p->id;
	kin_descend(s->kin, l->kin, p->lay_id);
	if (l->tracked && kin_track(s->kin, &l->fresh) != 0) {
		snap_put(b, s);
		return err_set(e, -ENOMEM, "no memory for what was touched"),
		       NULL;
	}
	s->payer = vm->home->uid;
	s->owned = l->owned;
	s->private_history = (p->flags & FIRN_SEG_PRIVATE) != 0;
	(void)snprintf(
	    s->origin, sizeof(s->origin), "%s:%.63s", label, p->name);
	if (t == NULL)
		*cap = err_set(e, -ESRCH, "nobody is left to hold it");
	else
		*cap = snap_grant(s, t, FIRN_RIGHT_ALL, op->name, e);
	if (*cap >= 0)
		return s;
	snap_put(b, s);
	return NULL;
}

/* What is frozen next descends from (s); and of what a tracked view touched it
 * need tell only what is new. */
static void place_descend(struct bplace *p, struct snap *s, struct lifted *l)
{
	struct kin *was = p->kin;

	p->kin = kin_hold(s->kin);
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
		p->severed_kin = kin_hold(l->kin);
		p->severed_owned = l->owned;
		p->severed_f = l->f;
		p->has_severed = true;
	} else {
		map_put(&b->store, &again);
	}
	if (s == NULL) {
		asker_fail(b, &op->a, &e);
	} else {
		if (!op->sever)
			place_descend(p, s, l);
		if (op->a.rq == NULL)
			grant_owner(vm, s, FIRN_RIGHT_ALL, op->name);
		snap_made(b, s,
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
