/* SPDX-License-Identifier: MIT */
/* ops: what changed, told to cursors and of any two. */
#include "tests/model/ops.h"

void cursor_begin(struct place *p, int c)
{
	struct cursor *k = &p->cursor[c];

	k->on = true;
	if (kinds[c].exact)
		k->base = copy_of(p->now, len_of(p));
	else
		k->touched = zeroed(p->npages);
}

/* Past the pages before (told). */
static void cursor_advance(struct place *p, int c, uint64_t told)
{
	struct cursor *k = &p->cursor[c];

	if (kinds[c].exact)
		memcpy(k->base, p->now, told * PAGE);
	else
		memset(k->touched, 0, told);
}

static unsigned char *ask_extents(
    struct world *w, struct place *p, int c, bool peek)
{
	struct firn_pageset set;
	struct firn_error e = {0};
	unsigned char *got;
	int flags = (peek ? FIRN_DIRTY_PEEK : 0) |
		    (kinds[c].exact ? FIRN_DIRTY_EXACT : 0);

	if (firn_dirty(w->g.conn, w->vm[p->vm].ref, rig_ref(p->id).s,
		kinds[c].name, flags, &set, &e) != 0)
		wrong(w, "%s", e.msg);
	got = set_of_ranges(w, &set, p->npages);
	firn_pageset_free(&set);
	return got;
}

static unsigned char *ask_bitmap(
    struct world *w, struct place *p, int c, bool peek)
{
	unsigned char *got = zeroed(p->npages);
	unsigned char bits[8192];
	size_t nfds = 1;
	json_t *r = NULL;
	struct firn_error e = {0};
	int fd;

	if (firn_call_json(w->g.conn, "dirty.query",
		json_pack("{s:s,s:s,s:s,s:b,s:b,s:b}", "vm", w->vm[p->vm].ref,
		    "segment", rig_ref(p->id).s, "cursor", kinds[c].name,
		    "peek", peek, "exact", kinds[c].exact, "bitmap", 1),
		NULL, 0, &r, &fd, &nfds, &e) != 0)
		wrong(w, "%s", e.msg);
	assert_int_equal(nfds, 1);
	assert_int_equal(pread(fd, bits, sizeof(bits), 0),
	    (ssize_t)((p->npages + 63) / 64 * 8));
	for (uint64_t i = 0; i < p->npages; i++)
		got[i] = bits[i / 8] >> (i % 8) & 1;
	(void)close(fd);
	json_decref(r);
	return got;
}

struct pages_ans {
	struct firn_pages pages;
	struct firn_extent ext[MODEL_EXTENTS_MAX];
};

/* What a guest is told that has room for (max) extents: of all pages before
 * (*told). */
static unsigned char *ask_guest(struct world *w, int v,
    const struct model_req *q, uint64_t npages, uint64_t max, uint64_t *told)
{
	struct pages_ans *a = zeroed(sizeof(*a));
	unsigned char *got = zeroed(npages);
	int64_t rc = guest(&w->vm[v], q, NULL, a, sizeof(*a));
	uint64_t end = 0;

	if (rc != 0)
		wrong(w, "%s", strerror((int)-rc));
	assert_true(
	    max < MODEL_EXTENTS_MAX || a->pages.nextents <= MODEL_EXTENTS_MAX);
	for (uint64_t i = 0; i < a->pages.nextents && i < max; i++)
		add_range(
		    w, got, npages, &end, a->ext[i].first, a->ext[i].npages);
	*told = a->pages.nextents > max ? end : npages;
	free(a);
	return got;
}

unsigned char *ask_dirty(
    struct world *w, struct place *p, int c, bool peek, uint64_t *told)
{
	struct model_req q = named(MODEL_DIRTY, kinds[c].name);

	q.id = p->id;
	q.a = (peek ? FIRN_PEEK : 0) | (kinds[c].exact ? FIRN_EXACT : 0);
	q.b = rnd(w, 2) ? MODEL_EXTENTS_MAX : rnd(w, 4);
	if (kinds[c].guest)
		return ask_guest(w, p->vm, &q, p->npages, q.b, told);
	*told = p->npages;
	if (rnd(w, 3) == 0)
		return ask_bitmap(w, p, c, peek);
	return ask_extents(w, p, c, peek);
}

void op_dirty(struct world *w)
{
	struct place *p = some_place(w, WRITABLE);
	int c = (int)rnd(w, NCURSORS);
	bool peek = rnd(w, 3) == 0;
	struct cursor *k = &p->cursor[c];
	unsigned char *none = zeroed(p->npages);
	uint64_t told;
	unsigned char *got = ask_dirty(w, p, c, peek, &told);

	if (!k->on) {
		assert_int_equal(told, p->npages);
		check_set(w, got, none, p->npages, true);
		cursor_begin(p, c);
	} else if (kinds[c].exact) {
		check_diff_set(w, got, k->base, p->now, told, true);
	} else {
		check_set(w, got, k->touched, told, false);
	}
	if (!peek) {
		cursor_advance(p, c, told);
		/* The guest waits for input meanwhile, and writes nothing. */
		if (told == p->npages && rnd(w, 4) == 0)
			check_set(w, ask_dirty(w, p, c, rnd(w, 2), &told), none,
			    p->npages, true);
	}
	free(none);
}

/* (bytes) of (have) pages with zero pages up to (npages): the caller's. */
static unsigned char *padded(
    const unsigned char *bytes, uint64_t have, uint64_t npages)
{
	unsigned char *p = zeroed(npages * PAGE);

	memcpy(p, bytes, have * PAGE);
	return p;
}

/* Of any two, related or not, of whatever sizes: pages beyond the end of the
 * shorter one are as zero. */
void op_diff(struct world *w)
{
	struct snap *a = some_snap(w, -1);
	struct snap *b = some_snap(w, -1);
	struct place *p = rnd(w, 2) ? some_place(w, ANY) : NULL;
	bool exact = rnd(w, 2);
	struct firn_pageset set;
	struct firn_error e = {0};
	unsigned char *pa;
	unsigned char *pb;
	uint64_t npages;
	uint64_t most;
	struct rig_ref rb;

	if (a == NULL)
		return;
	npages = p != NULL ? p->npages : b->npages;
	most = npages > a->npages ? npages : a->npages;
	rb = p != NULL ? full_ref(w, p) : rig_ref(b->id);
	if (firn_diff(w->g.conn, rig_ref(a->id).s, rb.s, exact, &set, &e) != 0)
		wrong(w, "%s", e.msg);
	if (exact && !set.exact)
		wrong(w, "asked to be exact, and is not");
	pa = padded(a->bytes, a->npages, most);
	pb = padded(p != NULL ? p->now : b->bytes, npages, most);
	check_diff_set(
	    w, set_of_ranges(w, &set, most), pa, pb, most, set.exact);
	free(pa);
	free(pb);
	firn_pageset_free(&set);
}

void op_guest_diff(struct world *w)
{
	int v = (int)rnd(w, NVMS);
	struct snap *a = some_snap(w, v);
	struct snap *b = some_snap(w, v);
	struct model_req q = {.op = MODEL_DIFF};
	unsigned char *pa;
	unsigned char *pb;
	uint64_t most;
	uint64_t told;

	if (a == NULL)
		return;
	most = a->npages > b->npages ? a->npages : b->npages;
	if (most > MODEL_EXTENTS_MAX)
		return;
	q.a = (uint64_t)a->cap[v];
	q.b = (uint64_t)b->cap[v];
	q.c = rnd(w, 2) ? FIRN_EXACT : 0;
	pa = padded(a->bytes, a->npages, most);
	pb = padded(b->bytes, b->npages, most);
	check_diff_set(w, ask_guest(w, v, &q, most, MODEL_EXTENTS_MAX, &told),
	    pa, pb, most, q.c != 0);
	free(pa);
	free(pb);
}
