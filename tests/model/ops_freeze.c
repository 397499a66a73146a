/* SPDX-License-Identifier: MIT */
/* ops: freeze and sever, and where memory goes that one holder alone has. */
#include "tests/model/ops.h"

static void emptied(struct place *p)
{
	for (uint64_t i = 0; i < p->npages; i++) {
		const unsigned char *b = p->now + i * PAGE;

		if (b[0] != 0 || memcmp(b, b + 1, PAGE - 1) != 0)
			touch(p, i * PAGE, PAGE);
	}
	memset(p->now, 0, len_of(p));
	p->severed = true;
	p->shown = NULL; /* it is no view any more */
}

/* Some view shows a snapshot of (p): then it cannot be severed. */
static bool is_viewed(const struct world *w, const struct place *p)
{
	for (int i = 0; i < NPLACES; i++) {
		const struct snap *s = w->place[i].shown;

		if (w->place[i].used && s != NULL &&
		    s->from_vm == w->vm[p->vm].id && s->from == p->id)
			return true;
	}
	return false;
}

static struct snap *snap_from(struct world *w, struct place *p, uint64_t id)
{
	struct snap *s = new_snap(w, id, p->npages, p->now);

	s->from_vm = w->vm[p->vm].id;
	s->from = p->id;
	return s;
}

static bool is_owned(struct world *w, const struct snap *s)
{
	json_t *r = rig_call(&w->g, "snapshot.show",
	    json_pack("{s:s}", "snapshot", rig_ref(s->id).s), NULL, 0);
	bool owned = json_is_true(json_object_get(r, "owned"));

	json_decref(r);
	return owned;
}

/* What the clients have now and nobody else has: into some VM, or sealed. */
static void settle_owned(struct world *w, struct snap *s)
{
	int v = (int)rnd(w, NVMS);
	struct firn_segment seg = {.size = s->npages * PAGE};
	struct firn_map_result r;
	struct firn_error e = {0};
	struct place *p;
	int copied = 1;

	if (count_places(w, v) >= PLACES_MAX || rnd(w, 3) == 0) {
		json_decref(rig_call(&w->g, "snapshot.diff",
		    json_pack("{s:s,s:s,s:b}", "a", rig_ref(s->id).s, "b",
			rig_ref(s->id).s, "exact", 1),
		    NULL, 0));
		assert_false(is_owned(w, s));
		return;
	}
	if (firn_adopt(
		w->g.conn, w->vm[v].ref, rig_ref(s->id).s, 0, &r, &copied, &e))
		wrong(w, "%s", e.msg);
	assert_int_equal(copied, 0);
	seg.id = (uint32_t)r.view;
	seg.gpa = r.gpa;
	p = new_place(w, v, &seg, NULL);
	memcpy(p->now, s->bytes, len_of(p));
	p->adopted = true;
	s->client = false; /* it went into the VM */
	sweep(w);
}

void freeze_by_client(struct world *w, bool sever)
{
	struct place *p = some_place(w, WRITABLE);
	struct firn_freeze_result r;
	struct firn_error e = {0};
	struct snap *s;
	char name[24];
	int rc;

	(void)snprintf(name, sizeof(name), "c%u", w->names++);
	rc = (sever ? firn_sever : firn_freeze)(w->g.conn, w->vm[p->vm].ref,
	    rig_ref(p->id).s, rnd(w, 2) ? name : NULL, &r, &e);
	if (sever && is_viewed(w, p)) {
		assert_int_not_equal(rc, 0);
		return;
	}
	if (rc != 0)
		wrong(w, "%s", e.msg);
	assert_int_equal(r.pages, p->npages);
	s = snap_from(w, p, r.snapshot);
	s->client = true;
	if (sever)
		emptied(p);
	if (is_owned(w, s))
		settle_owned(w, s);
}

/* Nobody has what guest (v) severed but that guest: its owner takes it. */
static void take_owned(struct world *w, struct snap *s, int v)
{
	struct model_req q = {.op = MODEL_DESCRIBE, .a = (uint64_t)s->cap[v]};
	struct firn_cap_info info;
	struct firn_error e = {0};
	int moved = 0;

	assert_int_equal(guest(&w->vm[v], &q, NULL, &info, sizeof(info)), 0);
	if (!info.owned)
		return;
	assert_int_equal(info.sealed, 0);
	if (firn_take(
		w->g.conn, w->vm[v].ref, rig_ref(s->id).s, NULL, &moved, &e))
		wrong(w, "%s", e.msg);
	assert_int_equal(moved, 1);
	assert_true(guest(&w->vm[v], &q, NULL, &info, sizeof(info)) < 0);
	s->cap[v] = -1;
	s->client = true;
	settle_owned(w, s);
}

static void freeze_by_guest(struct world *w, bool sever)
{
	struct place *p = some_place(w, WRITABLE);
	bool name = rnd(w, 2);
	struct model_req q = {.op = sever ? MODEL_SEVER : MODEL_FREEZE};
	struct firn_frozen f;
	struct snap *s;
	int64_t cap;

	if (name)
		(void)snprintf(q.name, sizeof(q.name), "g%u", w->names++);
	q.id = p->id;
	cap = guest(&w->vm[p->vm], &q, NULL, &f, sizeof(f));
	if (sever && is_viewed(w, p)) {
		assert_int_equal(cap, -EBUSY);
		return;
	}
	if (cap < 0)
		wrong(w, "%s", strerror((int)-cap));
	assert_int_equal(f.pages, p->npages);
	s = snap_from(w, p, f.snapshot);
	s->cap[p->vm] = cap;
	s->client = name; /* as VM/NAME */
	if (sever)
		emptied(p);
	take_owned(w, s, p->vm);
}

void op_freeze(struct world *w)
{
	if (!room_for_snap(w))
		return;
	if (rnd(w, 3) == 0)
		freeze_by_guest(w, false);
	else
		freeze_by_client(w, false);
}

void op_sever(struct world *w)
{
	if (!room_for_snap(w))
		return;
	if (rnd(w, 2))
		freeze_by_guest(w, true);
	else
		freeze_by_client(w, true);
}

/* The guest's own memory: nobody knows what is in it, but it stays so. */
void op_freeze_ram(struct world *w)
{
	int v = (int)rnd(w, NVMS);
	struct firn_freeze_result r;
	struct firn_error e = {0};
	unsigned char *bytes;
	struct snap *s;
	unsigned n = 0;

	for (int i = 0; i < NSNAPS; i++)
		n += w->snap[i].id != 0 && w->snap[i].npages * PAGE > RAM_BYTES;
	if (n > 2 || !room_for_snap(w))
		return;
	if (firn_freeze(w->g.conn, w->vm[v].ref, NULL, NULL, &r, &e) != 0)
		wrong(w, "%s", e.msg);
	bytes = zeroed(r.pages * PAGE);
	s = new_snap(w, r.snapshot, r.pages, bytes);
	s->client = true;
	free(bytes);
	{
		struct firn_snapshot *f = open_snap(w, s);

		if (firn_snapshot_read(f, 0, s->bytes, s->npages * PAGE, &e))
			wrong(w, "read: %s", e.msg);
		firn_snapshot_close(f);
	}
}
