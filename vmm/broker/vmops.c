/* SPDX-License-Identifier: MIT */
/* The methods about VMs and views, but for vm.launch (launch.c). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/broker/internal.h"

/* --- vm.list -------------------------------------------------------------- */

#define STATS_WAIT_MS 250u /* what a silent monitor may delay a list */

struct list_op {
	struct broker *b;
	struct ctl_req *rq; /* NULL once answered */
	struct home *home;
	struct loop_timer timer;
	unsigned pending;
};

static void list_answer(struct list_op *op)
{
	json_t *list;

	if (op->rq == NULL)
		return;
	list = json_array();
	for (struct bvm *vm = op->b->vms; vm != NULL; vm = vm->next) {
		if (vm->dead || vm->home != op->home)
			continue;
		(void)json_array_insert_new(list, 0,
		    json_pack("{s:I,s:s,s:s,s:I,s:I,s:I,s:I,s:I}", "id",
			(json_int_t)vm->id, "name", vm->name, "state",
			vm_state_name(vm->state), "pid",
			(json_int_t)(vm->state == VM_EXITED ? 0 : vm->pid),
			"mem", (json_int_t)vm->mem, "cpu_ns",
			(json_int_t)vm_cpu_ns(vm), "syscalls",
			(json_int_t)vm->stats.syscalls, "enosys",
			(json_int_t)vm->stats.enosys));
	}
	ctl_reply(op->rq, json_pack("{s:o}", "vms", list), NULL, 0);
	op->rq = NULL;
	loop_timer_stop(&op->timer);
}

static void list_timeout(void *arg)
{
	list_answer(arg);
}

static void list_stats(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct list_op *op = ctx;

	(void)b;
	if (pk != NULL && pk->m.status == 0 && pk->m.len == sizeof(vm->stats))
		memcpy(&vm->stats, pk->payload, sizeof(vm->stats));
	if (--op->pending > 0)
		return;
	list_answer(op);
	free(op);
}

void op_vm_list(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	struct list_op *op = calloc(1, sizeof(*op));
	struct err e;

	if (op == NULL) {
		(void)err_set(&e, -ENOMEM, "no memory for a list");
		ctl_fail(rq, &e);
		return;
	}
	op->b = b;
	op->rq = rq;
	op->home = req_home(rq);
	loop_timer_init(&op->timer, b->loop, list_timeout, op);
	for (struct bvm *vm = b->vms; vm != NULL; vm = vm->next)
		if (!vm->dead && vm->home == op->home &&
		    (vm->state == VM_RUNNING || vm->state == VM_PAUSED) &&
		    vm_ask(vm, WIRE_STATS, NULL, 0, NULL, 0, list_stats, op,
			&e) == 0)
			op->pending++;
	if (op->pending > 0) {
		loop_timer_start(&op->timer, STATS_WAIT_MS);
		return;
	}
	list_answer(op);
	free(op);
}

/* --- kill, pause, resume, wait -------------------------------------------- */

void op_vm_kill(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	struct err e = {0};
	struct bvm *vm = vm_find(b, req_home(rq), ctl_str(rq, "vm"), &e);

	if (vm != NULL && vm->state == VM_EXITED)
		(void)err_set(
		    &e, -ESRCH, "VM '%.64s' has ended", ctl_str(rq, "vm"));
	if (e.code != 0) {
		ctl_fail(rq, &e);
		return;
	}
	vm_kill(b, vm);
	ctl_reply(rq, NULL, NULL, 0);
}

struct state_op {
	struct ctl_req *rq;
	enum vm_state to;
};

static void state_answer(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct state_op *op = ctx;
	struct err e = {0};
	int rc = pk == NULL ? err_set(&e, -ESRCH, "the VM ended meanwhile")
			    : packet_err(pk, &e);

	(void)b;
	if (rc != 0) {
		ctl_fail(op->rq, &e);
	} else {
		vm->state = op->to;
		ctl_reply(op->rq, NULL, NULL, 0);
	}
	free(op);
}

static void change_state(
    struct broker *b, struct ctl_req *rq, uint16_t type, enum vm_state to)
{
	struct bvm *vm = req_vm(b, rq, true);
	struct state_op *op;
	struct err e = {0};

	if (vm == NULL)
		return;
	op = calloc(1, sizeof(*op));
	if (op == NULL) {
		(void)err_set(&e, -ENOMEM, "no memory for a request");
		ctl_fail(rq, &e);
		return;
	}
	op->rq = rq;
	op->to = to;
	if (vm_ask(vm, type, NULL, 0, NULL, 0, state_answer, op, &e) != 0) {
		free(op);
		ctl_fail(rq, &e);
	}
}

void op_vm_pause(void *ctx, struct ctl_req *rq)
{
	change_state(ctx, rq, WIRE_PAUSE, VM_PAUSED);
}

void op_vm_resume(void *ctx, struct ctl_req *rq)
{
	change_state(ctx, rq, WIRE_RESUME, VM_RUNNING);
}

static void wait_cancelled(struct ctl_req *rq, void *arg)
{
	struct bvm *vm = arg;
	struct waiter **at = &vm->waiters;
	struct waiter *w;
	struct err e;

	while (*at != NULL && (*at)->rq != rq)
		at = &(*at)->next;
	w = *at;
	if (w == NULL)
		return;
	*at = w->next;
	free(w);
	(void)err_set(&e, -ECANCELED, "the client went away");
	ctl_fail(rq, &e);
}

void op_vm_wait(void *ctx, struct ctl_req *rq)
{
	struct bvm *vm = req_vm(ctx, rq, false);
	struct waiter *w;
	struct err e;

	if (vm == NULL)
		return;
	if (vm->state == VM_EXITED) {
		ctl_reply(rq, vm_end_json(vm), NULL, 0);
		return;
	}
	w = calloc(1, sizeof(*w));
	if (w == NULL) {
		(void)err_set(&e, -ENOMEM, "no memory for a request");
		ctl_fail(rq, &e);
		return;
	}
	w->rq = rq;
	w->next = vm->waiters;
	vm->waiters = w;
	ctl_req_on_cancel(rq, wait_cancelled, vm);
}

/* --- vm.segments ---------------------------------------------------------- */

static const char *kind_name(uint32_t flags)
{
	return (flags & FIRN_SEG_VIEW_RO)    ? "ro"
	       : (flags & FIRN_SEG_VIEW_COW) ? "cow"
					     : "segment";
}

static json_t *segment_json(struct bvm *vm, const struct wire_segment *w)
{
	struct bplace *p = place_by_id(vm, w->id);
	json_t *j;

	p->gpa = w->gpa;
	j = json_pack("{s:I,s:s,s:s,s:I,s:I,s:I,s:I,s:I}", "id",
	    (json_int_t)p->id, "name", p->name, "kind", kind_name(p->flags),
	    "gpa", (json_int_t)p->gpa, "size",
	    (json_int_t)(p->npages * PAGE_SIZE), "resident",
	    (json_int_t)w->resident, "private", (json_int_t)w->private_,
	    "shared", (json_int_t)(w->resident - w->private_));
	if (j != NULL && (p->flags & FIRN_SEG_TRACKED))
		(void)json_object_set_new(j, "tracked", json_true());
	if (j != NULL && (p->flags & FIRN_SEG_PRIVATE))
		(void)json_object_set_new(j, "private_history", json_true());
	if (j != NULL && p->shown != NULL)
		(void)json_object_set_new(
		    j, "snapshot", json_integer((json_int_t)p->shown->id));
	return j;
}

static void segments_answer(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct ctl_req *rq = ctx;
	struct wire_segment w[WIRE_SEGMENTS_MAX];
	struct err e = {0};
	json_t *list;
	uint32_t n = 0;
	int rc = pk == NULL ? err_set(&e, -ESRCH, "the VM ended meanwhile")
			    : packet_err(pk, &e);

	if (rc == 0 && places_told(vm, pk, w, &n) != 0) {
		rc = err_set(&e, -EPROTO, "the monitor's answer is malformed");
		vm_kill(b, vm);
	}
	if (rc != 0) {
		ctl_fail(rq, &e);
		return;
	}
	list = json_array();
	for (uint32_t i = 0; i < n; i++)
		(void)json_array_append_new(list, segment_json(vm, &w[i]));
	ctl_reply(rq, json_pack("{s:o}", "segments", list), NULL, 0);
}

void op_vm_segments(void *ctx, struct ctl_req *rq)
{
	struct bvm *vm = req_vm(ctx, rq, true);
	struct err e = {0};

	if (vm != NULL && vm_ask(vm, WIRE_SEGMENTS, NULL, 0, NULL, 0,
			      segments_answer, rq, &e) != 0)
		ctl_fail(rq, &e);
}

/* --- views ---------------------------------------------------------------- */

int lay_req_take(struct broker *b, struct bvm *vm, struct ctl_req *rq,
    uint32_t rights, struct lay_req *r, struct err *e)
{
	const char *name = ctl_str(rq, "name");

	if (name != NULL && !name_ok(name))
		return name_refuse(name, FIRN_NAME_MAX - 1, e);
	if (name != NULL && place_find(vm, name, NULL) != NULL)
		return err_set(e, -EEXIST,
		    "a segment called '%.64s' exists in this VM", name);
	r->vm = vm->id;
	r->gpa = (uint64_t)ctl_int(rq, "gpa", 0);
	if (name != NULL)
		(void)snprintf(r->name, sizeof(r->name), "%s", name);
	return snap_find(b, &req_home(rq)->caps, ctl_str(rq, "snapshot"),
	    rights, &r->snap, NULL, e);
}

void op_view_map(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	struct bvm *vm = req_vm(b, rq, true);
	struct lay_req r = {0};
	struct err e = {0};
	bool cow;

	if (vm == NULL)
		return; /* answered: the request is gone */
	cow = ctl_bool(rq, "cow");
	r.mode = cow ? FIRN_MAP_COW : FIRN_MAP_RO;
	if (ctl_bool(rq, "track"))
		r.mode |= FIRN_MAP_TRACK;
	if (lay_req_take(b, vm, rq,
		cow ? FIRN_RIGHT_MAP_COW : FIRN_RIGHT_MAP_RO, &r, &e) != 0)
		ctl_fail(rq, &e);
	else
		lay(b, asker_client(rq), &r);
}

struct unmap_op {
	struct ctl_req *rq;
	uint32_t id;
};

static void unmap_answer(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct unmap_op *op = ctx;
	struct bplace *p;
	struct err e = {0};
	int rc = pk == NULL ? err_set(&e, -ESRCH, "the VM ended meanwhile")
			    : packet_err(pk, &e);

	if (rc != 0) {
		ctl_fail(op->rq, &e);
	} else {
		p = place_by_id(vm, op->id);
		if (p != NULL)
			place_gone(b, vm, p);
		ctl_reply(op->rq, NULL, NULL, 0);
	}
	free(op);
}

static int unmap(struct bvm *vm, struct ctl_req *rq, struct err *e)
{
	struct bplace *p = place_find(vm, ctl_str(rq, "view"), e);
	struct wire_place w = {0};
	struct unmap_op *op;
	int rc;

	if (p == NULL)
		return e->code;
	if (p->shown == NULL && !p->adopted && !p->was_severed)
		return err_set(e, -EPERM,
		    "'%.64s' is a segment; only views, and segments that were "
		    "adopted or severed, can be unmapped",
		    p->name);
	if (p->has_severed || p->severing ||
	    (p->pending != NULL && p->lifts == NULL))
		return err_set(e, -EBUSY,
		    "what was frozen or severed of '%.64s' waits to be taken; "
		    "freeze or sever it again",
		    p->name);
	op = calloc(1, sizeof(*op));
	if (op == NULL)
		return err_set(e, -ENOMEM, "no memory for a request");
	op->rq = rq;
	op->id = w.id = p->id;
	rc =
	    vm_ask(vm, WIRE_UNMAP, &w, sizeof(w), NULL, 0, unmap_answer, op, e);
	if (rc != 0)
		free(op);
	return rc;
}

void op_view_unmap(void *ctx, struct ctl_req *rq)
{
	struct bvm *vm = req_vm(ctx, rq, true);
	struct err e = {0};

	if (vm != NULL && unmap(vm, rq, &e) != 0)
		ctl_fail(rq, &e);
}
