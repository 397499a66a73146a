/* SPDX-License-Identifier: MIT */
/* ops: views of snapshots, and the capabilities by which they are had. */
#include "tests/model/ops.h"

static void map_by_client(struct world *w, int v, bool cow)
{
	struct snap *s = some_snap(w, -1);
	struct firn_map_result r;
	struct firn_segment seg = {0};
	struct firn_error e = {0};

	if (s == NULL)
		return;
	if (firn_map(w->g.conn, w->vm[v].ref, rig_ref(s->id).s, cow, 0, &r, &e))
		wrong(w, "%s", e.msg);
	assert_int_equal(r.pages, s->npages);
	seg.id = (uint32_t)r.view;
	seg.flags = cow ? FIRN_SEG_VIEW_COW : FIRN_SEG_VIEW_RO;
	seg.gpa = r.gpa;
	seg.size = s->npages * PAGE;
	(void)new_place(w, v, &seg, s);
}

static void map_by_guest(struct world *w, int v, bool cow)
{
	struct snap *s = some_snap(w, v);
	struct model_req q = {.op = MODEL_MAP};
	struct firn_segment seg;
	int64_t rc;

	if (s == NULL)
		return;
	q.a = (uint64_t)s->cap[v];
	q.b = cow ? FIRN_MAP_COW : FIRN_MAP_RO;
	rc = guest(&w->vm[v], &q, NULL, &seg, sizeof(seg));
	if (rc != 0)
		wrong(w, "%s", strerror((int)-rc));
	assert_int_equal(seg.size, s->npages * PAGE);
	assert_int_equal(seg.va, FIRN_WINDOW + seg.gpa);
	(void)new_place(w, v, &seg, s);
}

void op_map(struct world *w)
{
	int v = (int)rnd(w, NVMS);
	bool cow = rnd(w, 2);

	if (count_places(w, v) >= PLACES_MAX)
		return;
	if (rnd(w, 3) == 0)
		map_by_guest(w, v, cow);
	else
		map_by_client(w, v, cow);
}

void op_unmap(struct world *w)
{
	struct place *p = some_place(w, ANY);
	struct model_req q = {.op = MODEL_UNMAP};
	struct firn_error e = {0};
	int64_t rc;

	if (p->kind == SEGMENT && !p->adopted)
		return;
	q.id = p->id;
	if (rnd(w, 2)) {
		rc = guest(&w->vm[p->vm], &q, NULL, NULL, 0);
		if (rc != 0)
			wrong(w, "%s", strerror((int)-rc));
	} else if (firn_unmap(
		       w->g.conn, w->vm[p->vm].ref, rig_ref(p->id).s, &e)) {
		wrong(w, "%s", e.msg);
	}
	end_place(p);
}

void op_drop(struct world *w)
{
	struct snap *s = some_snap(w, -1);
	struct firn_error e = {0};
	json_t *r = NULL;

	if (s == NULL)
		return;
	rig_drop(&w->g, s->id);
	s->client = false;
	if (firn_call_json(w->g.conn, "snapshot.show",
		json_pack("{s:s}", "snapshot", rig_ref(s->id).s), NULL, 0, &r,
		NULL, NULL, &e) == 0)
		wrong(w, "snapshot %llu was dropped and is shown",
		    (unsigned long long)s->id);
}

void op_guest_drop(struct world *w)
{
	int v = (int)rnd(w, NVMS);
	struct snap *s = some_snap(w, v);
	struct model_req q = {.op = MODEL_DROP};

	if (s == NULL)
		return;
	q.a = (uint64_t)s->cap[v];
	assert_int_equal(guest(&w->vm[v], &q, NULL, NULL, 0), 0);
	assert_int_equal(guest(&w->vm[v], &q, NULL, NULL, 0), -EBADF);
	s->cap[v] = -1;
}

/* Describe a capability, and a derived one that is too weak to map. */
void op_describe(struct world *w)
{
	int v = (int)rnd(w, NVMS);
	struct snap *s = some_snap(w, v);
	struct model_req q = {.op = MODEL_DESCRIBE};
	struct firn_cap_info info;
	int64_t weak;

	if (s == NULL)
		return;
	q.a = (uint64_t)s->cap[v];
	assert_int_equal(guest(&w->vm[v], &q, NULL, &info, sizeof(info)), 0);
	assert_int_equal(info.object, s->id);
	assert_int_equal(info.size, s->npages * PAGE);
	assert_int_equal(info.sealed, 1);
	q.op = MODEL_DERIVE;
	q.b = FIRN_RIGHT_DIFF;
	weak = guest(&w->vm[v], &q, NULL, NULL, 0);
	assert_true(weak >= 0);
	q = (struct model_req){.op = MODEL_MAP, .a = (uint64_t)weak};
	assert_int_equal(guest(&w->vm[v], &q, NULL, &info, 0), -EACCES);
	q.op = MODEL_DROP;
	assert_int_equal(guest(&w->vm[v], &q, NULL, NULL, 0), 0);
}

/* What must be refused, and leave everything as it was. */
void op_refused(struct world *w)
{
	struct place *p = some_place(w, ANY);
	struct snap *s = some_snap(w, -1);
	const char *vm = w->vm[p->vm].ref;
	struct firn_freeze_result fr;
	struct firn_map_result mr;
	struct firn_pageset set;
	struct firn_error e = {0};
	int rc = -1;

	switch (rnd(w, 5)) {
	case 0:
		if (p->kind == VIEW_RO)
			rc = firn_freeze(
			    w->g.conn, vm, rig_ref(p->id).s, NULL, &fr, &e);
		break;
	case 1:
		if (p->kind == VIEW_RO)
			rc = firn_dirty(w->g.conn, vm, rig_ref(p->id).s, "x",
			    (int)rnd(w, 4), &set, &e);
		break;
	case 2:
		/* One that was severed can go until it is frozen. */
		if (p->kind == SEGMENT && !p->severed && !p->adopted)
			rc = firn_unmap(w->g.conn, vm, rig_ref(p->id).s, &e);
		break;
	case 3:
		if (s != NULL)
			rc = firn_map(w->g.conn, vm, rig_ref(s->id).s,
			    (int)rnd(w, 2), p->va - FIRN_WINDOW, &mr, &e);
		break;
	default:
		if (p->kind != VIEW_RO && p->cursor[0].on)
			rc = firn_dirty(w->g.conn, vm, rig_ref(p->id).s,
			    kinds[0].name, FIRN_DIRTY_EXACT, &set, &e);
		break;
	}
	if (rc == 0)
		wrong(w, "was not refused");
}
