/* SPDX-License-Identifier: MIT */
#include "tests/model/world.h"

const struct cursor_kind kinds[NCURSORS] = {
    {"p0", false, false},
    {"p1", false, false},
    {"e0", false, true},
    {"e1", false, true},
    {"g0", true, false},
    {"g1", true, true},
};

uint64_t rnd(struct world *w, uint64_t below)
{
	return chance(&w->rng, below);
}

void *zeroed(uint64_t len)
{
	void *p = calloc(1, len);

	if (p == NULL)
		rig_fail("no memory");
	return p;
}

void *copy_of(const void *from, uint64_t len)
{
	void *p = malloc(len);

	if (p == NULL)
		rig_fail("no memory");
	memcpy(p, from, len);
	return p;
}

uint64_t len_of(const struct place *p)
{
	return p->npages * PAGE;
}

struct snap *new_snap(
    struct world *w, uint64_t id, uint64_t npages, const void *bytes)
{
	for (int i = 0; i < NSNAPS; i++) {
		struct snap *s = &w->snap[i];

		if (s->id != 0)
			continue;
		*s = (struct snap){.id = id,
		    .npages = npages,
		    .bytes = copy_of(bytes, npages * PAGE)};
		for (int v = 0; v < NVMS; v++)
			s->cap[v] = -1;
		return s;
	}
	rig_fail("too many snapshots");
}

bool room_for_snap(const struct world *w)
{
	for (int i = 0; i < NSNAPS; i++)
		if (w->snap[i].id == 0)
			return true;
	return false;
}

void sweep(struct world *w)
{
	for (int i = 0; i < NSNAPS; i++) {
		struct snap *s = &w->snap[i];
		bool held = s->client;

		for (int v = 0; v < NVMS; v++)
			held = held || s->cap[v] >= 0;
		for (int k = 0; k < NPLACES; k++)
			held = held ||
			       (w->place[k].used && w->place[k].shown == s);
		if (s->id != 0 && !held) {
			free(s->bytes);
			*s = (struct snap){0};
		}
	}
}

int count_places(const struct world *w, int vm)
{
	int n = 0;

	for (int i = 0; i < NPLACES; i++)
		n += w->place[i].used && w->place[i].vm == vm;
	return n;
}

struct place *new_place(
    struct world *w, int vm, const struct firn_segment *seg, struct snap *s)
{
	for (int i = 0; i < NPLACES; i++) {
		struct place *p = &w->place[i];

		if (p->used)
			continue;
		*p = (struct place){.used = true,
		    .vm = vm,
		    .id = seg->id,
		    .va = FIRN_WINDOW + seg->gpa,
		    .npages = seg->size / PAGE,
		    .shown = s};
		p->kind = (seg->flags & FIRN_SEG_VIEW_RO)    ? VIEW_RO
			  : (seg->flags & FIRN_SEG_VIEW_COW) ? VIEW_COW
							     : SEGMENT;
		p->now = s != NULL ? copy_of(s->bytes, len_of(p))
				   : zeroed(len_of(p));
		return p;
	}
	rig_fail("too many places");
}

void end_place(struct place *p)
{
	free(p->now);
	for (int c = 0; c < NCURSORS; c++) {
		free(p->cursor[c].touched);
		free(p->cursor[c].base);
	}
	*p = (struct place){0};
}

struct place *some_place(struct world *w, unsigned which)
{
	uint64_t at = rnd(w, NPLACES);

	for (int i = 0; i < NPLACES; i++) {
		struct place *p = &w->place[(at + (uint64_t)i) % NPLACES];

		if (p->used && (which >> p->kind & 1))
			return p;
	}
	return NULL;
}

struct snap *some_snap(struct world *w, int vm)
{
	uint64_t at = rnd(w, NSNAPS);

	for (int i = 0; i < NSNAPS; i++) {
		struct snap *s = &w->snap[(at + (uint64_t)i) % NSNAPS];

		if (s->id != 0 && (vm < 0 ? s->client : s->cap[vm] >= 0))
			return s;
	}
	return NULL;
}

struct rig_ref full_ref(struct world *w, const struct place *p)
{
	struct rig_ref r;

	(void)snprintf(
	    r.s, sizeof(r.s), "%s:%u", w->vm[p->vm].ref, (unsigned)p->id);
	return r;
}

void touch(struct place *p, uint64_t offset, uint64_t len)
{
	uint64_t last = (offset + len - 1) / PAGE;

	for (int c = 0; c < NCURSORS; c++)
		if (p->cursor[c].on && !kinds[c].exact)
			for (uint64_t i = offset / PAGE; i <= last; i++)
				p->cursor[c].touched[i] = 1;
}

static bool differ(const unsigned char *a, const unsigned char *b, uint64_t i)
{
	return memcmp(a + i * PAGE, b + i * PAGE, PAGE) != 0;
}

void add_range(struct world *w, unsigned char *in, uint64_t npages,
    uint64_t *end, uint64_t first, uint64_t count)
{
	if (count == 0 || first > npages || count > npages - first ||
	    (first < *end && *end != 0))
		wrong(w, "extent %llu+%llu of %llu pages",
		    (unsigned long long)first, (unsigned long long)count,
		    (unsigned long long)npages);
	memset(in + first, 1, count);
	*end = first + count;
}

unsigned char *set_of_ranges(
    struct world *w, const struct firn_pageset *s, uint64_t npages)
{
	unsigned char *in = zeroed(npages);
	uint64_t end = 0;
	uint64_t sum = 0;

	for (size_t i = 0; i < s->nranges; i++) {
		add_range(w, in, npages, &end, s->ranges[i].first,
		    s->ranges[i].count);
		sum += s->ranges[i].count;
	}
	if (sum != s->pages)
		wrong(w, "%llu pages in extents, %llu told",
		    (unsigned long long)sum, (unsigned long long)s->pages);
	return in;
}

void check_set(struct world *w, unsigned char *got, const unsigned char *want,
    uint64_t npages, bool exact)
{
	for (uint64_t i = 0; i < npages; i++) {
		if (want[i] && !got[i])
			wrong(w, "page %llu was missed", (unsigned long long)i);
		if (exact && got[i] && !want[i])
			wrong(w, "page %llu did not change",
			    (unsigned long long)i);
	}
	free(got);
}

void check_diff_set(struct world *w, unsigned char *got, const unsigned char *a,
    const unsigned char *b, uint64_t npages, bool exact)
{
	unsigned char *want = zeroed(npages);

	for (uint64_t i = 0; i < npages; i++)
		want[i] = differ(a, b, i);
	check_set(w, got, want, npages, exact);
	free(want);
}

static void same_bytes(struct world *w, const unsigned char *got,
    const unsigned char *want, uint64_t len)
{
	if (memcmp(got, want, len) == 0)
		return;
	for (uint64_t i = 0; i < len; i++)
		if (got[i] != want[i])
			wrong(w, "byte %#llx of page %llu is %#x, not %#x",
			    (unsigned long long)(i % PAGE),
			    (unsigned long long)(i / PAGE), got[i], want[i]);
}

/* As the vCPU sees it, or as the monitor does. */
void check_place(struct world *w, struct place *p)
{
	struct model_req q = {.op = rnd(w, 2) ? MODEL_SHOW : MODEL_SEND};
	unsigned char *got = zeroed(len_of(p));

	q.a = p->va;
	q.b = len_of(p);
	assert_int_equal(guest(&w->vm[p->vm], &q, NULL, got, len_of(p)), 0);
	same_bytes(w, got, p->now, len_of(p));
	free(got);
}

struct firn_snapshot *open_snap(struct world *w, const struct snap *s)
{
	struct firn_error e = {0};
	struct firn_snapshot *f;

	if (firn_open_snapshot(w->g.conn, rig_ref(s->id).s, &f, &e) != 0)
		wrong(w, "open: %s", e.msg);
	return f;
}

void check_snap(struct world *w, struct snap *s)
{
	struct firn_snapshot *f = open_snap(w, s);
	struct firn_error e = {0};
	const void *addr;
	unsigned char *got;

	assert_int_equal(firn_snapshot_pages(f), s->npages);
	if (rnd(w, 2)) {
		if (firn_snapshot_map(f, &addr, &e) != 0)
			wrong(w, "map: %s", e.msg);
		same_bytes(w, addr, s->bytes, s->npages * PAGE);
	} else {
		got = zeroed(s->npages * PAGE);
		if (firn_snapshot_read(f, 0, got, s->npages * PAGE, &e) != 0)
			wrong(w, "read: %s", e.msg);
		same_bytes(w, got, s->bytes, s->npages * PAGE);
		free(got);
	}
	firn_snapshot_close(f);
}

void check_all(struct world *w)
{
	w->what = "check of all";
	for (int i = 0; i < NSNAPS; i++)
		if (w->snap[i].id != 0 && w->snap[i].client)
			check_snap(w, &w->snap[i]);
	for (int i = 0; i < NPLACES; i++)
		if (w->place[i].used)
			check_place(w, &w->place[i]);
}
