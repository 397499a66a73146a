/* SPDX-License-Identifier: MIT */
/*
 * own: memory that one holder alone has, and may write once it adopts it.
 *
 * A snapshot is owned while the layer that it is in is not sealed: nobody else
 * has a descriptor or a mapping of that, as the kernel was asked. There is one
 * capability for it, which is moved and never copied; whatever else would be
 * done with the snapshot seals it first, in a worker thread, and then it is as
 * any other. While one operation has it in hand, others are refused.
 *
 * Adopting is laying it with mode own: the memory leaves the layers for the VM
 * that shows it, and the capability with it. A monitor that refuses had the
 * descriptor meanwhile: so the proof is repeated before the snapshot is used
 * again.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

/* --- the state of a snapshot ---------------------------------------------- */

/* May something be done with (s)? -EBUSY while something is, or if it is owned
 * and somebody has it all the same. */
static int own_begin(struct broker *b, struct snap *s, struct err *e)
{
	int rc;

	if (s->owned == 0)
		return 0;
	if (s->busy)
		return err_set(e, -EBUSY,
		    "what is owned is just being sealed, adopted or given; try "
		    "again");
	if (!s->unproven)
		return 0;
	rc = layer_prove(b->layers, s->owned, e);
	s->unproven = rc != 0;
	return rc;
}

bool own_alone(struct broker *b, struct snap *s)
{
	return s->owned != 0 && (s->busy || own_begin(b, s, NULL) == 0);
}

/* --- sealing on demand ---------------------------------------------------- */

struct seal_op {
	struct work work;
	struct broker *b;
	struct snap *s;
	int fd; /* of the layer, which the snapshot holds */
	own_fn *fn;
	void *ctx;
	int rc;
	struct err e;
};

static void seal_run(struct work *w)
{
	struct seal_op *op = (struct seal_op *)w;

	op->rc = layer_seal_fd(op->fd, &op->e);
}

static void seal_done(struct work *w)
{
	struct seal_op *op = (struct seal_op *)w;
	struct snap *s = op->s;
	int rc =
	    w->ran ? op->rc : err_set(&op->e, -ECANCELED, "firnd is ending");

	if (rc == 0)
		rc = layer_sealed(op->b->layers, s->owned, &op->e);
	if (rc == 0)
		s->owned = 0;
	s->busy = false;
	op->fn(op->b, rc != 0 ? &op->e : NULL, op->ctx);
	snap_put(op->b, s);
	free(op);
}

int own_seal(
    struct broker *b, struct snap *s, own_fn *fn, void *ctx, struct err *e)
{
	struct seal_op *op;
	int rc = own_begin(b, s, e);

	if (rc != 0)
		return rc;
	if (s->owned == 0) {
		fn(b, NULL, ctx);
		return 0;
	}
	op = calloc(1, sizeof(*op));
	if (op == NULL)
		return err_set(e, -ENOMEM, "no memory to seal a snapshot");
	op->b = b;
	op->s = snap_hold(s);
	op->fd = layer_fd(b->layers, s->owned);
	op->fn = fn;
	op->ctx = ctx;
	s->busy = true;
	worker_submit(b->pool, &op->work, seal_run, seal_done);
	return 0;
}

/* --- sever ---------------------------------------------------------------- */

int sever_check(struct broker *b, const struct bvm *vm, const struct bplace *p,
    struct err *e)
{
	char label[FIRN_NAME_MAX];

	if (p->flags & FIRN_SEG_TRACKED)
		return err_set(e, -EPERM,
		    "'%.64s' is tracked, and what is severed has no reads "
		    "and writes; freeze it",
		    p->name);
	for (const struct bvm *v = b->vms; v != NULL; v = v->next)
		for (uint32_t i = 0; i < PLACES_MAX; i++) {
			const struct snap *s = v->place[i].shown;

			if (!v->place[i].used || s == NULL ||
			    s->origin_vm != vm->id ||
			    s->origin_segment != p->id)
				continue;
			vm_label(v, label);
			return err_set(e, -EBUSY,
			    "VM '%s' shows a snapshot of it as '%.63s'; unmap "
			    "that first",
			    label, v->place[i].name);
		}
	return 0;
}

/* --- adopt ---------------------------------------------------------------- */

void adopt(struct broker *b, struct asker a, struct lay_req *r)
{
	struct err e = {0};

	r->adopt = true;
	r->mode = r->snap->owned != 0 ? FIRN_MAP_OWN : FIRN_MAP_COW;
	r->holder = asker_caps(b, &a);
	if (own_begin(b, r->snap, &e) != 0) {
		asker_fail(b, &a, &e);
		return;
	}
	r->snap->busy = r->mode == FIRN_MAP_OWN;
	lay(b, a, r);
}

int own_reserve(
    struct broker *b, struct bvm *vm, const struct snap *s, struct err *e)
{
	uint64_t bytes = s->map.npages * PAGE_SIZE;
	struct layer_stat st = {0};
	int rc = layer_stat(b->layers, s->owned, &st, e);

	/* What the layer has now is counted already. */
	if (rc == 0)
		rc = bank_check(b, bytes > st.bytes ? bytes - st.bytes : 0, e);
	if (rc != 0)
		return rc;
	b->bank_used += bytes;
	vm->reserved += bytes;
	return 0;
}

void own_adopted(struct broker *b, struct bplace *p, const struct lay_req *r)
{
	struct snap *s = r->snap;
	int32_t cap = cap_find_object(r->holder, s->id, 0);

	/* At once: when it is severed again nobody else may have it. */
	(void)close(layer_take(b->layers, s->owned));
	s->owned = 0;
	s->busy = false;
	p->adopted = true;
	if (cap >= 0)
		cap_end(b, r->holder, cap);
}

struct return_op {
	struct asker a;
	struct snap *s;
	struct err e;
};

static void returned(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct return_op *op = ctx;

	(void)vm;
	(void)pk;
	op->s->busy = false;
	asker_fail(b, &op->a, &op->e);
	snap_put(b, op->s);
	free(op);
}

void own_refused(struct broker *b, struct bvm *vm, struct asker *a,
    struct snap *s, const struct err *why)
{
	struct return_op *op = calloc(1, sizeof(*op));

	s->unproven = true;
	if (op != NULL) {
		*op = (struct return_op){.a = *a, .s = s, .e = *why};
		(void)snap_hold(s);
		/* What it was lent is closed once it reads another request. */
		if (vm != NULL && vm_ask(vm, WIRE_STATS, NULL, 0, NULL, 0,
				      returned, op, NULL) == 0)
			return;
		snap_put(b, s);
		free(op);
	}
	s->busy = false;
	asker_fail(b, a, why);
}

void op_view_adopt(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	struct bvm *vm = req_vm(b, rq, true);
	struct lay_req r = {0};
	struct err e = {0};

	if (vm == NULL)
		return; /* answered: the request is gone */
	if (lay_req_take(b, vm, rq, FIRN_RIGHT_MAP_COW, &r, &e) != 0)
		ctl_fail(rq, &e);
	else
		adopt(b, asker_client(rq), &r);
}

/* --- from table to table -------------------------------------------------- */

/* A capability for what (num) in (from) names, called (name), in (to), with the
 * same rights. Moves what is owned. */
static int hand(struct broker *b, struct cap_table *from, int32_t num,
    struct cap_table *to, const char *name, struct err *e)
{
	const struct cap *c;
	struct snap *s;
	int32_t cap;
	int rc = snap_by_cap(b, from, num, 0, &s, e);

	if (rc == 0)
		rc = own_begin(b, s, e);
	if (rc != 0)
		return rc;
	(void)cap_lookup(from, num, 0, &c);
	cap = snap_grant(s, to, c->rights, name, e);
	if (cap < 0)
		return cap;
	if (s->owned != 0)
		cap_end(b, from, num);
	return 0;
}

/* Parameter "snapshot" names a capability in (from), for (to). */
static void op_hand(struct broker *b, struct ctl_req *rq,
    struct cap_table *from, struct cap_table *to)
{
	const char *ref = ctl_str(rq, "snapshot");
	const char *as = ctl_str(rq, "name");
	char name[FIRN_NAME_MAX];
	const struct cap *c;
	struct snap *s;
	struct err e = {0};
	bool moved;
	int32_t num;

	if (snap_find(b, from, ref, 0, &s, &num, &e) != 0) {
		if (e.code == -ENOENT && from != &req_home(rq)->caps)
			(void)err_set(&e, -ENOENT,
			    "the guest has no snapshot '%.64s'", ref);
		ctl_fail(rq, &e);
		return;
	}
	if (as != NULL && strlen(as) >= sizeof(name)) {
		(void)name_refuse(as, sizeof(name) - 1, &e);
		ctl_fail(rq, &e);
		return;
	}
	(void)cap_lookup(from, num, 0, &c);
	(void)snprintf(name, sizeof(name), "%s", as != NULL ? as : c->name);
	moved = s->owned != 0;
	if (hand(b, from, num, to, name, &e) != 0)
		ctl_fail(rq, &e);
	else
		ctl_reply(rq,
		    json_pack("{s:I,s:s,s:b}", "snapshot", (json_int_t)s->id,
			"name", name, "moved", (int)moved),
		    NULL, 0);
}

void op_vm_give(void *ctx, struct ctl_req *rq)
{
	struct bvm *vm = req_vm(ctx, rq, true);

	if (vm != NULL)
		op_hand(ctx, rq, &req_home(rq)->caps, &vm->caps);
}

void op_vm_take(void *ctx, struct ctl_req *rq)
{
	struct bvm *vm = req_vm(ctx, rq, true);

	if (vm != NULL)
		op_hand(ctx, rq, &vm->caps, &req_home(rq)->caps);
}

/*
 * At launch the guest's table gets a capability before the program is known to
 * begin: until then there are two, and the snapshot is busy.
 */
struct move {
	struct move *next;
	struct snap *s;
};

int own_move(struct broker *b, struct bvm *vm, struct snap *s, struct err *e)
{
	struct move *m;
	int rc = own_begin(b, s, e);

	if (rc != 0 || s->owned == 0)
		return rc;
	m = calloc(1, sizeof(*m));
	if (m == NULL)
		return err_set(e, -ENOMEM, "no memory for a launch");
	m->s = snap_hold(s);
	m->next = vm->moves;
	vm->moves = m;
	s->busy = true;
	return 0;
}

void own_moved(struct broker *b, struct bvm *vm, bool done)
{
	struct cap_table *t = done ? &vm->home->caps : &vm->caps;

	while (vm->moves != NULL) {
		struct move *m = vm->moves;
		int32_t cap = cap_find_object(t, m->s->id, 0);

		vm->moves = m->next;
		m->s->busy = false;
		if (cap >= 0)
			cap_end(b, t, cap);
		snap_put(b, m->s);
		free(m);
	}
}
