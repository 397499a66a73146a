/* SPDX-License-Identifier: MIT */
/* view: what is laid is told to its monitor, which maps it, or reads of it for
 * its guest. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/broker/internal.h"

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

/* The place that the monitor made of it. -EPROTO: it is not to be believed. */
static int map_made(struct broker *b, struct bvm *vm, const struct lay_req *r,
    const struct wire_packet *pk, struct bplace **p, struct err *e)
{
	struct wire_segment w = {
	    .flags = view_flags(r), .size = r->snap->map.npages * PAGE_SIZE};
	struct wire_mapped m;
	int rc = pk == NULL ? err_set(e, -ESRCH, "the VM ended meanwhile")
			    : packet_err(pk, e);

	if (rc != 0)
		return rc;
	if (pk->m.len != sizeof(m))
		return err_set(e, -EPROTO, "the monitor's answer is malformed");
	memcpy(&m, pk->payload, sizeof(m));
	if (place_by_id(vm, m.id) != NULL)
		return err_set(e, -EPROTO, "the monitor misbehaved");
	w.id = m.id;
	w.gpa = m.gpa;
	memcpy(w.name, r->name, sizeof(w.name));
	*p = place_add(b, vm, &w, r->snap->lineage, e);
	return *p == NULL ? -EPROTO : 0;
}

static void map_failed(struct broker *b, struct bvm *vm, struct map_op *op,
    int rc, const struct err *e)
{
	view_release(b, vm, &op->r);
	if (rc == -EPROTO)
		vm_kill(b, vm);
	if (op->r.mode == FIRN_MAP_OWN)
		own_refused(b, vm, &op->a, op->r.snap, e);
	else
		asker_fail(b, &op->a, e);
}

static json_t *map_json(const struct map_op *op, const struct bplace *p)
{
	json_t *j = json_pack("{s:I,s:I,s:I,s:I,s:I}", "view",
	    (json_int_t)p->id, "gpa", (json_int_t)p->gpa, "pages",
	    (json_int_t)p->npages, "extents", (json_int_t)op->extents, "map_ns",
	    (json_int_t)(now_ns() - op->begin_ns));

	if (op->r.adopt)
		(void)json_object_set_new(j, "copied_on_write",
		    json_boolean(op->r.mode == FIRN_MAP_COW));
	return j;
}

static void map_tell(
    struct broker *b, struct map_op *op, const struct bplace *p)
{
	const struct firn_segment s = {.id = p->id,
	    .flags = p->flags & ~FIRN_SEG_PRIVATE,
	    .gpa = p->gpa,
	    .va = FIRN_WINDOW + p->gpa,
	    .size = p->npages * PAGE_SIZE};

	if (op->a.rq == NULL)
		asker_answer_guest(b, &op->a, 0, &s, sizeof(s), NULL, 0);
	else
		ctl_reply(op->a.rq, map_json(op, p), NULL, 0);
}

static void map_answer(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct map_op *op = ctx;
	struct bplace *p = NULL;
	struct err e = {0};
	int rc = map_made(b, vm, &op->r, pk, &p, &e);

	if (rc != 0) {
		map_failed(b, vm, op, rc, &e);
	} else {
		view_shows(b, p, &op->r,
		    op->held != NULL ? held_place(vm, op->held)
				     : (struct pins){0});
		op->held = NULL;
		map_tell(b, op, p);
		notify(b, vm->home, "view.mapped",
		    json_pack("{s:I,s:I,s:I}", "vm", (json_int_t)vm->id, "view",
			(json_int_t)p->id, "snapshot",
			(json_int_t)op->r.snap->id));
	}
	held_drop(b, vm, op->held);
	snap_put(b, op->r.snap);
	free(op);
}

/* Is there a place called (name), or is (vm) asked to make one? */
static bool is_taken(struct bvm *vm, const char *name)
{
	for (const struct call *c = vm->calls; c != NULL; c = c->next) {
		const struct map_op *mo = c->ctx;

		if (c->fn == map_answer && strcmp(mo->r.name, name) == 0)
			return true;
	}
	return place_find(vm, name, NULL) != NULL;
}

/* A view that nobody named is called after its snapshot. */
static void name_view(struct bvm *vm, struct lay_req *r)
{
	if (r->name[0] != '\0')
		return;
	for (unsigned i = 1; i <= WIRE_SEGMENTS_MAX + CALLS_MAX; i++) {
		(void)snprintf(r->name, sizeof(r->name), "s%" PRIu64 ".%u",
		    r->snap->id, i);
		if (!is_taken(vm, r->name))
			return;
	}
}

/* The layers that do not fit the last message, in messages of their own. */
static int send_layers(const struct view *v, struct bvm *vm, uint32_t *sent)
{
	const uint32_t room = WIRE_FDS_MAX - 1;

	for (*sent = 0; v->tab->nfiles - *sent > room; *sent += WIRE_FDS_MAX) {
		int rc = vm_send(vm, WIRE_LAYERS, ++vm->seq, 0, NULL, 0,
		    v->tab->fd + *sent, WIRE_FDS_MAX);

		if (rc != 0)
			return rc;
	}
	return 0;
}

/* The monitor was not asked after all. (mo) may be NULL. */
static void map_unprepare(struct broker *b, struct bvm *vm, struct map_op *mo)
{
	if (mo == NULL)
		return;
	view_release(b, vm, &mo->r);
	held_drop(b, vm, mo->held);
	free(mo);
}

/* All of a mapping that can fail before the monitor is told of it; *out is for
 * map_unprepare() if it is not asked. */
static int map_prepare(struct broker *b, struct bvm *vm, const struct view *v,
    struct map_op **out, struct err *e)
{
	struct map_op *mo;

	if (vm->ncalls >= CALLS_MAX)
		return err_set(e, -EBUSY,
		    "%u requests wait for this VM's monitor; try again",
		    CALLS_MAX);
	mo = calloc(1, sizeof(*mo));
	if (mo == NULL)
		return err_set(e, -ENOMEM, "no memory for a view");
	mo->a = v->a;
	mo->r = *v->r;
	name_view(vm, &mo->r);
	mo->extents = v->nruns;
	mo->begin_ns = v->begin_ns;
	if (view_reserve(b, vm, v->r, e) != 0) {
		free(mo);
		return e->code;
	}
	/* What is adopted is the layers' no more. */
	if (v->r->mode != FIRN_MAP_OWN) {
		mo->held = held_new(b, vm, v->tab->file, v->tab->nfiles, e);
		if (mo->held == NULL) {
			map_unprepare(b, vm, mo);
			return e->code;
		}
	}
	*out = mo;
	return 0;
}

static int send_map(const struct view *v, struct bvm *vm, struct map_op *mo,
    const int *fds, uint32_t nfds, struct err *e)
{
	struct wire_map m = {
	    .npages = v->r->snap->map.npages,
	    .gpa = v->r->gpa,
	    .nruns = v->nruns,
	    .snapshot = v->r->snap->id,
	    .nlayers = v->tab->nfiles,
	    .mode = v->r->mode,
	};
	int rc;

	memcpy(m.name, mo->r.name, sizeof(m.name));
	rc = vm_ask(vm, WIRE_MAP, &m, sizeof(m), fds, nfds, map_answer, mo, e);
	if (rc == 0)
		(void)snap_hold(v->r->snap);
	return rc;
}

static int send_opened(struct broker *b, const struct view *v, uint32_t id,
    const int *fds, uint32_t nfds, struct err *e)
{
	struct asker a = v->a;
	struct wire_opened o = {
	    .snapshot = v->r->snap->id,
	    .npages = v->r->snap->map.npages,
	    .nruns = v->nruns,
	    .nlayers = v->tab->nfiles,
	    .id = id,
	};

	return asker_hand_guest(b, &a, &o, sizeof(o), fds, nfds, e);
}

/* The layers, then what they are for. Half of it cannot be unsaid, so then the
 * VM has to end. */
int view_tell(
    struct broker *b, struct bvm *vm, const struct view *v, struct err *e)
{
	struct map_op *mo = NULL;
	struct held *opened = NULL;
	int fds[WIRE_FDS_MAX] = {v->runs_fd};
	uint32_t nfds = 1;
	uint32_t sent = 0;
	int rc = 0;

	if (!link_takes(&vm->link, v->tab->nfiles + 1))
		return err_set(e, -EBUSY,
		    "the VM's monitor has not read what it was told; try "
		    "again");
	if (!v->r->open) {
		rc = map_prepare(b, vm, v, &mo, e);
	} else {
		opened = held_open(b, vm, v->tab->file, v->tab->nfiles, e);
		rc = opened == NULL ? e->code : 0;
	}
	if (rc != 0)
		return rc;
	rc = send_layers(v, vm, &sent);
	if (rc != 0)
		(void)err_set(e, rc, "the monitor does not take the layers");
	while (rc == 0 && sent + nfds - 1 < v->tab->nfiles) {
		fds[nfds] = v->tab->fd[sent + nfds - 1];
		nfds++;
	}
	if (rc == 0 && opened != NULL)
		rc = send_opened(b, v, opened->id, fds, nfds, e);
	else if (rc == 0 && mo != NULL)
		rc = send_map(v, vm, mo, fds, nfds, e);
	if (rc == 0)
		return 0;
	map_unprepare(b, vm, mo);
	held_drop(b, vm, opened);
	if (v->tab->nfiles >= WIRE_FDS_MAX)
		vm_kill(b, vm);
	return rc;
}
