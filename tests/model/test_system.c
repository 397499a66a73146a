/* SPDX-License-Identifier: MIT */
/*
 * The whole, firnd, monitors and guests, against arrays of bytes: what random
 * sequences of writes and operations make, what is told of a guest that never
 * stands still, and what is left after processes are killed at random moments.
 * FIRN_SEED repeats a run, which prints its seed; FIRN_TEST_SCALE=small
 * shortens it.
 */
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/un.h>
#include <time.h>

#include "guest/work/model.h"
#include "tests/proc.h"
#include "tests/rig.h"
#include "tests/unit/unit.h"

#define PAGE       4096u
#define NVMS       2
#define NPLACES    24 /* of both VMs */
#define NSNAPS     20
#define NCURSORS   5
#define PLACES_MAX 9 /* of one VM */
#define RAM_BYTES  (8u << 20)

/* What a cursor is: who asks, and how. */
static const struct cursor_kind {
	const char *name;
	bool guest, exact;
} kinds[NCURSORS] = {
    {"p0", false, false},
    {"p1", false, false},
    {"e0", false, true},
    {"e1", false, true},
    {"g0", true, false},
};

struct cursor {
	bool on;
	unsigned char *touched; /* plain: a byte a page */
	unsigned char *base;    /* exact: the bytes as it last advanced */
};

struct snap {
	uint64_t id; /* 0: free */
	uint64_t npages;
	unsigned char *bytes;
	bool client;       /* the clients' table has it */
	int64_t cap[NVMS]; /* of each guest, or -1 */
	uint64_t from_vm;  /* the VM and the place that it was made of */
	uint32_t from;
};

enum kind { SEGMENT, VIEW_RO, VIEW_COW };

struct place {
	bool used;
	int vm;
	enum kind kind;
	uint32_t id;
	uint64_t va;
	uint64_t npages;
	unsigned char *now;
	struct snap *shown; /* of a view */
	bool severed;
	bool adopted;
	struct cursor cursor[NCURSORS];
};

struct world {
	struct rig g;
	struct rig_vm vm[NVMS];
	struct place place[NPLACES];
	struct snap snap[NSNAPS];
	uint64_t rng;
	uint64_t seed;
	unsigned step;
	unsigned names; /* handed out */
	const char *what;
	uint64_t moved_places; /* as the daemon said last */
};

static bool small(void)
{
	const char *s = getenv("FIRN_TEST_SCALE");

	return s != NULL && strcmp(s, "small") == 0;
}

static uint64_t first_seed(const char *test)
{
	const char *s = getenv("FIRN_SEED");
	uint64_t seed =
	    s != NULL ? strtoull(s, NULL, 0) : (uint64_t)time(NULL) * 2 + 1;

	print_message("%s: FIRN_SEED=%llu\n", test, (unsigned long long)seed);
	return seed * 6364136223846793005u | 1;
}

static uint64_t next(uint64_t *rng, uint64_t below)
{
	*rng ^= *rng << 13;
	*rng ^= *rng >> 7;
	*rng ^= *rng << 17;
	return *rng % below;
}

static uint64_t rnd(struct world *w, uint64_t below)
{
	return next(&w->rng, below);
}

static void *zeroed(uint64_t len)
{
	void *p = calloc(1, len);

	if (p == NULL)
		rig_fail("no memory");
	return p;
}

static void *copy_of(const void *from, uint64_t len)
{
	void *p = malloc(len);

	if (p == NULL)
		rig_fail("no memory");
	memcpy(p, from, len);
	return p;
}

#define wrong(w, ...)                                                          \
	do {                                                                   \
		print_error("step %u, %s: ", (w)->step, (w)->what);            \
		print_error(__VA_ARGS__);                                      \
		print_error("\n");                                             \
		fail();                                                        \
	} while (0)

/* --- talking to the guest ------------------------------------------------- */

static void send_req(
    struct rig_vm *vm, const struct model_req *q, const void *payload)
{
	if (fwrite(q, sizeof(*q), 1, vm->in) != 1 ||
	    (q->len > 0 && fwrite(payload, q->len, 1, vm->in) != 1) ||
	    fflush(vm->in) != 0)
		rig_fail("the guest takes no more input");
}

/* The answer's status; at most (max) bytes of it in (out), of *len. */
static int64_t get_ans(
    struct rig_vm *vm, void *out, uint64_t max, uint64_t *len)
{
	struct model_ans a;

	if (fread(&a, sizeof(a), 1, vm->out) != 1)
		rig_fail("the guest ended early");
	if (a.len > max)
		rig_fail("the guest's answer is too long");
	if (a.len > 0 && fread(out, a.len, 1, vm->out) != 1)
		rig_fail("the guest ended early");
	if (len != NULL)
		*len = a.len;
	return a.ret;
}

static int64_t guest(struct rig_vm *vm, const struct model_req *q,
    const void *payload, void *out, uint64_t max)
{
	send_req(vm, q, payload);
	return get_ans(vm, out, max, NULL);
}

static struct model_req named(enum model_op op, const char *name)
{
	struct model_req q = {.op = op};

	(void)snprintf(q.name, sizeof(q.name), "%s", name);
	return q;
}

/* --- the world ------------------------------------------------------------ */

static uint64_t len_of(const struct place *p)
{
	return p->npages * PAGE;
}

static struct snap *new_snap(
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

static bool room_for_snap(const struct world *w)
{
	for (int i = 0; i < NSNAPS; i++)
		if (w->snap[i].id == 0)
			return true;
	return false;
}

/* Forget a snapshot that nobody holds any more. */
static void sweep(struct world *w)
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

static int count_places(const struct world *w, int vm)
{
	int n = 0;

	for (int i = 0; i < NPLACES; i++)
		n += w->place[i].used && w->place[i].vm == vm;
	return n;
}

static struct place *new_place(
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

static void end_place(struct place *p)
{
	free(p->now);
	for (int c = 0; c < NCURSORS; c++) {
		free(p->cursor[c].touched);
		free(p->cursor[c].base);
	}
	*p = (struct place){0};
}

/* One of those with (kinds), a set of bits, or NULL. */
static struct place *some_place(struct world *w, unsigned which)
{
	uint64_t at = rnd(w, NPLACES);

	for (int i = 0; i < NPLACES; i++) {
		struct place *p = &w->place[(at + (uint64_t)i) % NPLACES];

		if (p->used && (which >> p->kind & 1))
			return p;
	}
	return NULL;
}

#define WRITABLE (1u << SEGMENT | 1u << VIEW_COW)
#define VIEWS    (1u << VIEW_RO | 1u << VIEW_COW)
#define ANY      (WRITABLE | VIEWS)

/* A snapshot that the clients hold, or that guest (vm) holds, or NULL. */
static struct snap *some_snap(struct world *w, int vm)
{
	uint64_t at = rnd(w, NSNAPS);

	for (int i = 0; i < NSNAPS; i++) {
		struct snap *s = &w->snap[(at + (uint64_t)i) % NSNAPS];

		if (s->id != 0 && (vm < 0 ? s->client : s->cap[vm] >= 0))
			return s;
	}
	return NULL;
}

struct ref {
	char s[48];
};

static struct ref num(uint64_t n)
{
	struct ref r;

	(void)snprintf(r.s, sizeof(r.s), "%llu", (unsigned long long)n);
	return r;
}

static struct ref full_ref(struct world *w, const struct place *p)
{
	struct ref r;

	(void)snprintf(
	    r.s, sizeof(r.s), "%s:%u", w->vm[p->vm].ref, (unsigned)p->id);
	return r;
}

static void touch(struct place *p, uint64_t offset, uint64_t len)
{
	uint64_t last = (offset + len - 1) / PAGE;

	for (int c = 0; c < NCURSORS; c++)
		if (p->cursor[c].on && !kinds[c].exact)
			for (uint64_t i = offset / PAGE; i <= last; i++)
				p->cursor[c].touched[i] = 1;
}

/* --- sets of pages -------------------------------------------------------- */

struct pageset {
	unsigned char *in;
	uint64_t n;
};

static bool differ(const unsigned char *a, const unsigned char *b, uint64_t i)
{
	return memcmp(a + i * PAGE, b + i * PAGE, PAGE) != 0;
}

/* (in) and (out) are bytes a page; NULL: nothing is in. */
static void add_range(struct world *w, unsigned char *in, uint64_t npages,
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

static unsigned char *set_of_ranges(
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

/* Every page of (want) is in (got), and if (exact) no other. Frees (got). */
static void check_set(struct world *w, unsigned char *got,
    const unsigned char *want, uint64_t npages, bool exact)
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

static void check_diff_set(struct world *w, unsigned char *got,
    const unsigned char *a, const unsigned char *b, uint64_t npages, bool exact)
{
	unsigned char *want = zeroed(npages);

	for (uint64_t i = 0; i < npages; i++)
		want[i] = differ(a, b, i);
	check_set(w, got, want, npages, exact);
	free(want);
}

/* --- writes --------------------------------------------------------------- */

static uint64_t some_page(struct world *w, const struct place *p)
{
	switch (rnd(w, 8)) {
	case 0:
		return 0;
	case 1:
		return p->npages - 1;
	case 2:
		return p->npages > 513 ? 511 + rnd(w, 3) : rnd(w, p->npages);
	case 3: /* few pages, written again and again */
		return rnd(w, p->npages < 8 ? p->npages : 8);
	default:
		return rnd(w, p->npages);
	}
}

static void op_write(struct world *w)
{
	struct place *p = some_place(w, WRITABLE);
	uint64_t n = 1 + rnd(w, rnd(w, 4) == 0 ? 300 : 12);
	struct model_req q = {.op = MODEL_WRITE};
	struct model_word word[300];
	uint64_t run = rnd(w, 3) == 0 ? some_page(w, p) : UINT64_MAX;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t page =
		    run == UINT64_MAX ? some_page(w, p) : (run + i) % p->npages;
		uint64_t old;

		word[i].offset = page * PAGE + rnd(w, PAGE / 8) * 8;
		memcpy(&old, p->now + word[i].offset, 8);
		word[i].value = rnd(w, 8) == 0   ? old
				: rnd(w, 8) == 0 ? 0
						 : rnd(w, UINT64_MAX);
		memcpy(p->now + word[i].offset, &word[i].value, 8);
		touch(p, word[i].offset, 8);
	}
	q.a = p->va;
	q.len = (uint32_t)(n * sizeof(word[0]));
	(void)guest(&w->vm[p->vm], &q, word, NULL, 0);
}

static void op_zero(struct world *w)
{
	struct place *p = some_place(w, WRITABLE);
	uint64_t page = some_page(w, p);
	uint64_t n = 1 + rnd(w, rnd(w, 8) == 0 ? p->npages : 3);
	struct model_req q = {.op = MODEL_ZERO};

	if (n > p->npages - page)
		n = p->npages - page;
	q.a = p->va + page * PAGE;
	q.b = n * PAGE;
	memset(p->now + page * PAGE, 0, n * PAGE);
	touch(p, page * PAGE, n * PAGE);
	(void)guest(&w->vm[p->vm], &q, NULL, NULL, 0);
}

/* By the monitor: read(2) into the place. */
static void op_fill(struct world *w)
{
	struct place *p = some_place(w, WRITABLE);
	uint64_t offset = some_page(w, p) * PAGE + rnd(w, PAGE);
	uint64_t len = 1 + rnd(w, rnd(w, 4) == 0 ? 100000 : 6000);
	struct model_req q = {.op = MODEL_FILL};
	unsigned char *bytes;

	if (len > len_of(p) - offset)
		len = len_of(p) - offset;
	bytes = p->now + offset;
	for (uint64_t i = 0; i < len; i++)
		bytes[i] = (unsigned char)(rnd(w, 256));
	touch(p, offset, len);
	q.a = p->va + offset;
	q.len = (uint32_t)len;
	(void)guest(&w->vm[p->vm], &q, bytes, NULL, 0);
}

/* --- looking at places and snapshots -------------------------------------- */

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
static void check_place(struct world *w, struct place *p)
{
	struct model_req q = {.op = rnd(w, 2) ? MODEL_SHOW : MODEL_SEND};
	unsigned char *got = zeroed(len_of(p));

	q.a = p->va;
	q.b = len_of(p);
	assert_int_equal(guest(&w->vm[p->vm], &q, NULL, got, len_of(p)), 0);
	same_bytes(w, got, p->now, len_of(p));
	free(got);
}

static struct firn_snapshot *open_snap(struct world *w, const struct snap *s)
{
	struct firn_error e = {0};
	struct firn_snapshot *f;

	if (firn_open_snapshot(w->g.conn, num(s->id).s, &f, &e) != 0)
		wrong(w, "open: %s", e.msg);
	return f;
}

static void check_snap(struct world *w, struct snap *s)
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

static void op_check_place(struct world *w)
{
	check_place(w, some_place(w, ANY));
}

static void op_check_snap(struct world *w)
{
	struct snap *s = some_snap(w, -1);

	if (s != NULL)
		check_snap(w, s);
}

static void check_all(struct world *w)
{
	w->what = "check of all";
	for (int i = 0; i < NSNAPS; i++)
		if (w->snap[i].id != 0 && w->snap[i].client)
			check_snap(w, &w->snap[i]);
	for (int i = 0; i < NPLACES; i++)
		if (w->place[i].used)
			check_place(w, &w->place[i]);
}

/* --- freeze and sever ----------------------------------------------------- */

static void emptied(struct place *p)
{
	for (uint64_t i = 0; i < p->npages; i++) {
		const unsigned char *b = p->now + i * PAGE;

		if (b[0] != 0 || memcmp(b, b + 1, PAGE - 1) != 0)
			touch(p, i * PAGE, PAGE);
	}
	memset(p->now, 0, len_of(p));
	p->severed = true;
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
	    json_pack("{s:s}", "snapshot", num(s->id).s), NULL, 0);
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
		    json_pack("{s:s,s:s,s:b}", "a", num(s->id).s, "b",
			num(s->id).s, "exact", 1),
		    NULL, 0));
		assert_false(is_owned(w, s));
		return;
	}
	if (firn_adopt(
		w->g.conn, w->vm[v].ref, num(s->id).s, 0, &r, &copied, &e))
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

static void freeze_by_client(struct world *w, bool sever)
{
	struct place *p = some_place(w, WRITABLE);
	struct firn_freeze_result r;
	struct firn_error e = {0};
	struct snap *s;
	char name[24];
	int rc;

	(void)snprintf(name, sizeof(name), "c%u", w->names++);
	rc = (sever ? firn_sever : firn_freeze)(w->g.conn, w->vm[p->vm].ref,
	    num(p->id).s, rnd(w, 2) ? name : NULL, &r, &e);
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
	if (firn_take(w->g.conn, w->vm[v].ref, num(s->id).s, NULL, &moved, &e))
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

static void op_freeze(struct world *w)
{
	if (!room_for_snap(w))
		return;
	if (rnd(w, 3) == 0)
		freeze_by_guest(w, false);
	else
		freeze_by_client(w, false);
}

static void op_sever(struct world *w)
{
	if (!room_for_snap(w))
		return;
	if (rnd(w, 2))
		freeze_by_guest(w, true);
	else
		freeze_by_client(w, true);
}

/* The guest's own memory: nobody knows what is in it, but it stays so. */
static void op_freeze_ram(struct world *w)
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

/* --- views ---------------------------------------------------------------- */

static void map_by_client(struct world *w, int v, bool cow)
{
	struct snap *s = some_snap(w, -1);
	struct firn_map_result r;
	struct firn_segment seg = {0};
	struct firn_error e = {0};

	if (s == NULL)
		return;
	if (firn_map(w->g.conn, w->vm[v].ref, num(s->id).s, cow, 0, &r, &e))
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

static void op_map(struct world *w)
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

static void op_unmap(struct world *w)
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
	} else if (firn_unmap(w->g.conn, w->vm[p->vm].ref, num(p->id).s, &e)) {
		wrong(w, "%s", e.msg);
	}
	end_place(p);
}

/* --- what changed --------------------------------------------------------- */

static void cursor_begin(struct place *p, int c)
{
	struct cursor *k = &p->cursor[c];

	k->on = true;
	if (kinds[c].exact)
		k->base = copy_of(p->now, len_of(p));
	else
		k->touched = zeroed(p->npages);
}

static void cursor_advance(struct place *p, int c)
{
	struct cursor *k = &p->cursor[c];

	if (kinds[c].exact)
		memcpy(k->base, p->now, len_of(p));
	else
		memset(k->touched, 0, p->npages);
}

static unsigned char *ask_extents(
    struct world *w, struct place *p, int c, bool peek)
{
	struct firn_pageset set;
	struct firn_error e = {0};
	unsigned char *got;
	int flags = (peek ? FIRN_DIRTY_PEEK : 0) |
		    (kinds[c].exact ? FIRN_DIRTY_EXACT : 0);

	if (firn_dirty(w->g.conn, w->vm[p->vm].ref, num(p->id).s, kinds[c].name,
		flags, &set, &e) != 0)
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
		    "segment", num(p->id).s, "cursor", kinds[c].name, "peek",
		    peek, "exact", kinds[c].exact, "bitmap", 1),
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

static unsigned char *ask_guest(
    struct world *w, int v, const struct model_req *q, uint64_t npages)
{
	struct pages_ans *a = zeroed(sizeof(*a));
	unsigned char *got = zeroed(npages);
	int64_t rc = guest(&w->vm[v], q, NULL, a, sizeof(*a));
	uint64_t end = 0;

	if (rc != 0)
		wrong(w, "%s", strerror((int)-rc));
	assert_true(a->pages.nextents <= MODEL_EXTENTS_MAX);
	for (uint64_t i = 0; i < a->pages.nextents; i++)
		add_range(
		    w, got, npages, &end, a->ext[i].first, a->ext[i].npages);
	free(a);
	return got;
}

static unsigned char *ask_dirty(
    struct world *w, struct place *p, int c, bool peek)
{
	struct model_req q = named(MODEL_DIRTY, kinds[c].name);

	q.id = p->id;
	q.a = peek ? FIRN_PEEK : 0;
	if (kinds[c].guest)
		return ask_guest(w, p->vm, &q, p->npages);
	if (rnd(w, 3) == 0)
		return ask_bitmap(w, p, c, peek);
	return ask_extents(w, p, c, peek);
}

static void op_dirty(struct world *w)
{
	struct place *p = some_place(w, WRITABLE);
	int c = (int)rnd(w, NCURSORS);
	bool peek = rnd(w, 3) == 0;
	struct cursor *k = &p->cursor[c];
	unsigned char *none = zeroed(p->npages);
	unsigned char *got = ask_dirty(w, p, c, peek);

	if (!k->on) {
		check_set(w, got, none, p->npages, true);
		cursor_begin(p, c);
	} else if (kinds[c].exact) {
		check_diff_set(w, got, k->base, p->now, p->npages, true);
	} else {
		check_set(w, got, k->touched, p->npages, false);
	}
	if (!peek) {
		cursor_advance(p, c);
		/* The guest waits for input meanwhile, and writes nothing. */
		if (rnd(w, 4) == 0)
			check_set(w, ask_dirty(w, p, c, rnd(w, 2)), none,
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
static void op_diff(struct world *w)
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
	struct ref rb;

	if (a == NULL)
		return;
	npages = p != NULL ? p->npages : b->npages;
	most = npages > a->npages ? npages : a->npages;
	rb = p != NULL ? full_ref(w, p) : num(b->id);
	if (firn_diff(w->g.conn, num(a->id).s, rb.s, exact, &set, &e) != 0)
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

static void op_guest_diff(struct world *w)
{
	int v = (int)rnd(w, NVMS);
	struct snap *a = some_snap(w, v);
	struct snap *b = some_snap(w, v);
	struct model_req q = {.op = MODEL_DIFF};
	unsigned char *pa;
	unsigned char *pb;
	uint64_t most;

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
	check_diff_set(w, ask_guest(w, v, &q, most), pa, pb, most, q.c != 0);
	free(pa);
	free(pb);
}

/* --- capabilities --------------------------------------------------------- */

static void op_drop(struct world *w)
{
	struct snap *s = some_snap(w, -1);
	struct firn_error e = {0};
	json_t *r = NULL;

	if (s == NULL)
		return;
	rig_drop(&w->g, s->id);
	s->client = false;
	if (firn_call_json(w->g.conn, "snapshot.show",
		json_pack("{s:s}", "snapshot", num(s->id).s), NULL, 0, &r, NULL,
		NULL, &e) == 0)
		wrong(w, "snapshot %llu was dropped and is shown",
		    (unsigned long long)s->id);
}

static void op_guest_drop(struct world *w)
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
static void op_describe(struct world *w)
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
static void op_refused(struct world *w)
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
			    w->g.conn, vm, num(p->id).s, NULL, &fr, &e);
		break;
	case 1:
		if (p->kind == VIEW_RO)
			rc = firn_dirty(w->g.conn, vm, num(p->id).s, "x",
			    (int)rnd(w, 4), &set, &e);
		break;
	case 2:
		/* One that was severed can go until it is frozen. */
		if (p->kind == SEGMENT && !p->severed && !p->adopted)
			rc = firn_unmap(w->g.conn, vm, num(p->id).s, &e);
		break;
	case 3:
		if (s != NULL)
			rc = firn_map(w->g.conn, vm, num(s->id).s,
			    (int)rnd(w, 2), p->va - FIRN_WINDOW, &mr, &e);
		break;
	default:
		if (p->kind != VIEW_RO && p->cursor[0].on)
			rc = firn_dirty(w->g.conn, vm, num(p->id).s,
			    kinds[0].name, FIRN_DIRTY_EXACT, &set, &e);
		break;
	}
	if (rc == 0)
		wrong(w, "was not refused");
}

/* --- VMs ------------------------------------------------------------------ */

static void launch(struct world *w, int v, struct snap *give)
{
	const char *argv[] = {rnd(w, 2) ? "model" : "model.musl", NULL};
	struct model_req q;
	struct firn_segment seg;
	json_t *extra = json_pack("{s:[{s:s,s:I}]}", "segments", "name", "a",
	    "size", (json_int_t)(v == 0 ? 700 : 1100) * PAGE);

	if (give != NULL)
		(void)json_object_set_new(extra, "give",
		    json_pack("[{s:s,s:s}]", "name", "given", "ref",
			num(give->id).s));
	rig_launch(&w->g, &w->vm[v], argv, RAM_BYTES, extra);
	q = named(MODEL_FIND, "a");
	assert_int_equal(guest(&w->vm[v], &q, NULL, &seg, sizeof(seg)), 0);
	(void)new_place(w, v, &seg, NULL);
	if (give != NULL) {
		q = named(MODEL_LOOKUP, "given");
		give->cap[v] = guest(&w->vm[v], &q, NULL, NULL, 0);
		assert_true(give->cap[v] >= 0);
	}
}

static void end_vm(struct world *w, int v)
{
	rig_end(&w->g, &w->vm[v]);
	for (int i = 0; i < NPLACES; i++)
		if (w->place[i].used && w->place[i].vm == v)
			end_place(&w->place[i]);
	for (int i = 0; i < NSNAPS; i++)
		w->snap[i].cap[v] = -1;
	sweep(w);
}

static void op_restart(struct world *w)
{
	int v = (int)rnd(w, NVMS);

	end_vm(w, v);
	launch(w, v, some_snap(w, -1));
}

static void op_make(struct world *w)
{
	int v = (int)rnd(w, NVMS);
	struct model_req q = {.op = MODEL_MAKE};
	struct firn_segment seg;
	int64_t rc;

	if (count_places(w, v) >= PLACES_MAX / 2)
		return;
	(void)snprintf(q.name, sizeof(q.name), "s%u", w->names++);
	q.a = (1 + rnd(w, rnd(w, 2) ? 40 : 600)) * PAGE;
	rc = guest(&w->vm[v], &q, NULL, &seg, sizeof(seg));
	if (rc != 0)
		wrong(w, "%s", strerror((int)-rc));
	(void)new_place(w, v, &seg, NULL);
}

static void op_pause(struct world *w)
{
	int v = (int)rnd(w, NVMS);
	struct place *p = some_place(w, WRITABLE);

	json_decref(rig_call(&w->g, "vm.pause",
	    json_pack("{s:s}", "vm", w->vm[v].ref), NULL, 0));
	if (room_for_snap(w))
		freeze_by_client(w, false);
	free(ask_dirty(w, p, 0, true));
	json_decref(rig_call(&w->g, "vm.resume",
	    json_pack("{s:s}", "vm", w->vm[v].ref), NULL, 0));
	if (!p->cursor[0].on)
		cursor_begin(p, 0);
}

/* What nobody reaches is given back, and places are moved to other files:
 * nobody may notice. */
static void op_tidy(struct world *w)
{
	json_t *r = rig_call(
	    &w->g, "service.stats", json_pack("{s:b}", "exact", 1), NULL, 0);
	uint64_t live = rig_u64(r, "live_bytes");

	if (live > rig_u64(r, "layer_bytes"))
		wrong(w, "more is live than there is");
	w->moved_places = rig_u64(r, "moved_places");
	json_decref(r);
	if (rnd(w, 4) == 0)
		check_all(w);
}

/* --- all together --------------------------------------------------------- */

static const struct op {
	const char *name;
	void (*fn)(struct world *w);
	unsigned weight;
} ops[] = {
    {"write", op_write, 40},
    {"zero", op_zero, 8},
    {"fill", op_fill, 20},
    {"check of a place", op_check_place, 8},
    {"check of a snapshot", op_check_snap, 12},
    {"freeze", op_freeze, 22},
    {"sever", op_sever, 4},
    {"freeze of RAM", op_freeze_ram, 2},
    {"map", op_map, 12},
    {"unmap", op_unmap, 9},
    {"dirty", op_dirty, 40},
    {"diff", op_diff, 16},
    {"guest's diff", op_guest_diff, 5},
    {"drop", op_drop, 14},
    {"guest's drop", op_guest_drop, 6},
    {"describe", op_describe, 3},
    {"refused", op_refused, 8},
    {"restart", op_restart, 1},
    {"make", op_make, 3},
    {"pause", op_pause, 2},
    {"tidy", op_tidy, 12},
};

static const struct op *some_op(struct world *w)
{
	unsigned sum = 0;
	uint64_t at;
	size_t i = 0;

	for (size_t k = 0; k < sizeof(ops) / sizeof(ops[0]); k++)
		sum += ops[k].weight;
	at = rnd(w, sum);
	while (at >= ops[i].weight)
		at -= ops[i++].weight;
	return &ops[i];
}

/* --- what firnd holds ----------------------------------------------------- */

static const char *const counted[] = {"vms", "snapshots", "layers",
    "layer_bytes", "nodes", "node_bytes", "reserved_bytes"};
#define NCOUNTED (sizeof(counted) / sizeof(counted[0]))

struct holds {
	uint64_t of[NCOUNTED];
	long fds;      /* of firnd */
	long children; /* those that are zombies counted */
};

static long count_children(pid_t pid)
{
	char path[64];
	long n = 0;
	int child;
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children",
	    (int)pid, (int)pid);
	f = fopen(path, "re");
	if (f == NULL)
		return -1;
	while (fscanf(f, "%d", &child) == 1)
		n++;
	(void)fclose(f);
	return n;
}

static void get_holds(struct rig *g, struct holds *h)
{
	json_t *r = rig_call(g, "service.stats", json_object(), NULL, 0);

	for (size_t i = 0; i < NCOUNTED; i++)
		h->of[i] = rig_u64(r, counted[i]);
	json_decref(r);
	h->fds = proc_fds(g->firnd);
	h->children = count_children(g->firnd);
}

/* What ends, ends soon, but not before the answer. */
static void check_holds(struct rig *g, const struct holds *want)
{
	struct holds h;

	for (int i = 0; i < 200; i++) {
		get_holds(g, &h);
		if (memcmp(&h, want, sizeof(h)) == 0)
			return;
		(void)usleep(50000);
	}
	for (size_t i = 0; i < NCOUNTED; i++)
		if (h.of[i] != want->of[i])
			print_error("%s: %llu, not %llu\n", counted[i],
			    (unsigned long long)h.of[i],
			    (unsigned long long)want->of[i]);
	if (h.fds != want->fds)
		print_error("descriptors: %ld, not %ld\n", h.fds, want->fds);
	if (h.children != want->children)
		print_error(
		    "children: %ld, not %ld\n", h.children, want->children);
	fail();
}

static void drop_all(struct rig *g)
{
	json_t *r = rig_call(g, "snapshot.list", json_object(), NULL, 0);
	json_t *s;
	size_t i;

	json_array_foreach(json_object_get(r, "snapshots"), i, s)
	    rig_drop(g, rig_u64(s, "id"));
	json_decref(r);
}

static void test_sequences(void **state)
{
	static struct world w;
	struct holds before;
	unsigned steps = small() ? 250 : 2500;

	(void)state;
	w.seed = w.rng = first_seed("sequences");
	rig_start(&w.g);
	get_holds(&w.g, &before);
	launch(&w, 0, NULL);
	launch(&w, 1, NULL);
	for (w.step = 0; w.step < steps; w.step++) {
		const struct op *o = some_op(&w);

		w.what = o->name;
		o->fn(&w);
		sweep(&w);
		if (w.step % 120 == 119)
			check_all(&w);
	}
	check_all(&w);
	end_vm(&w, 0);
	end_vm(&w, 1);
	drop_all(&w.g);
	check_holds(&w.g, &before);
	for (int i = 0; i < NSNAPS; i++)
		w.snap[i].client = false;
	sweep(&w);
	printf("%llu places were moved to other files\n",
	    (unsigned long long)w.moved_places);
	assert_true(small() || w.moved_places > 0);
	rig_stop(&w.g);
}

/* --- a guest that never stands still -------------------------------------- */

#define STAMPED 4096u /* pages, a power of two */

struct stamps {
	struct rig g;
	struct rig_vm vm;
	uint32_t id;
	atomic_bool end;
};

struct client {
	struct stamps *st;
	struct firn *conn;
	const char *cursor; /* or NULL: freezes only */
	int exact;
	uint64_t rng;
	unsigned rounds;
	unsigned missed_none; /* rounds in which there was something to miss */
	char bad[FIRN_ERROR_MAX + 64];
};

static uint64_t word_at(const unsigned char *bytes, uint64_t page, int i)
{
	uint64_t v;

	memcpy(&v, bytes + page * PAGE + i * 8, 8);
	return v;
}

/* The first words of the pages in the order in which they are written; of the
 * clocks' pages, the time in nanoseconds. */
static void stamps_of(const unsigned char *bytes, uint64_t *out)
{
	for (uint64_t i = 0; i < STAMPED; i++) {
		uint64_t page = model_order(i, STAMPED);

		out[i] = word_at(bytes, page, 0);
		if (i % MODEL_CLOCK_EVERY == 0)
			out[i] = out[i] * 1000000000u + word_at(bytes, page, 1);
	}
}

/*
 * At one instant the pass k has got to some page: up to it there is k, from
 * there on k - 1. The monitor's times fall once in the same way, and where they
 * do the vCPU's stamps must fall too, give or take what lies between two
 * clocks.
 */
static const char *check_instant(const uint64_t *s)
{
	uint64_t fall = STAMPED; /* the first page with k - 1 */
	uint64_t tfall = STAMPED;
	const uint64_t every = MODEL_CLOCK_EVERY;
	const uint64_t last_clock = (STAMPED - 1) / every * every;

	for (uint64_t i = 1, last = 1; i < STAMPED; i++) {
		if (i % every == 0)
			continue;
		if (s[i] > s[last])
			return "a later page is newer";
		if (s[i] < s[last]) {
			if (fall != STAMPED || s[i] + 1 != s[last])
				return "pages of three passes";
			fall = i;
		}
		last = i;
	}
	for (uint64_t i = every; i < STAMPED; i += every) {
		if (s[i] >= s[i - every])
			continue;
		if (tfall != STAMPED)
			return "times fall twice";
		tfall = i;
	}
	if (tfall == STAMPED)
		return fall < last_clock ? "stamps fell, but no time" : NULL;
	if (s[0] < s[last_clock])
		return "times rise beyond a pass";
	if (fall == STAMPED) /* only the first clock is of this pass */
		return tfall != every ? "times fell, but no stamp" : NULL;
	return fall > tfall + 1 || fall + every <= tfall
		   ? "times and stamps are of different instants"
		   : NULL;
}

static bool went_bad(struct client *c, const char *what, const char *why)
{
	(void)snprintf(c->bad, sizeof(c->bad), "%s: %s", what, why);
	return false;
}

/* Freeze, and the stamps of the snapshot, which is dropped. */
static bool frozen_stamps(struct client *c, uint64_t *out)
{
	struct firn_freeze_result r;
	struct firn_snapshot *f = NULL;
	struct firn_error e = {0};
	const char *why;
	const void *addr;
	char params[64];

	if (firn_freeze(
		c->conn, c->st->vm.ref, num(c->st->id).s, NULL, &r, &e) != 0)
		return went_bad(c, "freeze", e.msg);
	if (firn_open_snapshot(c->conn, num(r.snapshot).s, &f, &e) != 0 ||
	    firn_snapshot_map(f, &addr, &e) != 0) {
		firn_snapshot_close(f);
		return went_bad(c, "open", e.msg);
	}
	stamps_of(addr, out);
	firn_snapshot_close(f);
	(void)snprintf(params, sizeof(params), "{\"snapshot\":\"%llu\"}",
	    (unsigned long long)r.snapshot);
	if (firn_call(c->conn, "snapshot.drop", params, NULL, 0, NULL, &e) != 0)
		return went_bad(c, "drop", e.msg);
	why = check_instant(out);
	return why == NULL || went_bad(c, "a snapshot", why);
}

/* Ask, and look for every page that changed between (a) and (b) meanwhile. */
static bool ask_cursor(struct client *c, const uint64_t *a, const uint64_t *b)
{
	static const char missed[] = "a page that was written is missed";
	struct firn_pageset set;
	struct firn_error e = {0};
	unsigned char *in = zeroed(STAMPED);
	bool good = true;
	bool changed = false;

	if (firn_dirty(c->conn, c->st->vm.ref, num(c->st->id).s, c->cursor,
		c->exact, &set, &e) != 0) {
		free(in);
		return went_bad(c, "dirty", e.msg);
	}
	for (size_t i = 0; i < set.nranges; i++)
		memset(in + set.ranges[i].first, 1, set.ranges[i].count);
	for (uint64_t i = 0; i < STAMPED && a != NULL; i++) {
		changed = changed || a[i] != b[i];
		if (a[i] != b[i] && !in[model_order(i, STAMPED)])
			good = went_bad(c, c->cursor, missed);
	}
	c->missed_none += changed && set.pages < STAMPED;
	firn_pageset_free(&set);
	free(in);
	return good;
}

static void *client_main(void *arg)
{
	struct client *c = arg;
	uint64_t *a = zeroed(STAMPED * sizeof(*a));
	uint64_t *b = zeroed(STAMPED * sizeof(*b));
	bool good = c->cursor == NULL || ask_cursor(c, NULL, NULL);

	for (unsigned i = 0; good && i < c->rounds && !c->st->end; i++) {
		good = frozen_stamps(c, a);
		(void)usleep((useconds_t)next(&c->rng, 3000));
		good = good && frozen_stamps(c, b) &&
		       (c->cursor == NULL || ask_cursor(c, a, b));
	}
	free(a);
	free(b);
	return NULL;
}

static void stamps_start(struct stamps *st)
{
	const char *argv[] = {"model", NULL};
	struct model_req q = named(MODEL_FIND, "a");
	struct firn_segment seg;

	rig_start_as(&st->g, true);
	rig_launch(&st->g, &st->vm, argv, RAM_BYTES,
	    json_pack("{s:[{s:s,s:I}]}", "segments", "name", "a", "size",
		(json_int_t)STAMPED * PAGE));
	assert_int_equal(guest(&st->vm, &q, NULL, &seg, sizeof(seg)), 0);
	st->id = seg.id;
	q = (struct model_req){.op = MODEL_STAMP, .a = seg.va, .b = STAMPED};
	assert_int_equal(guest(&st->vm, &q, NULL, NULL, 0), 0);
	(void)usleep(100000); /* the first pass is over */
}

static void harvest_beside_guest(unsigned rounds)
{
	static struct stamps st;
	struct client c[3] = {
	    {.cursor = "one"},
	    {.cursor = "two"},
	    {.cursor = NULL},
	};
	struct model_req q = named(MODEL_LOOKUP, "nothing");
	pthread_t thread[3];
	uint64_t seed = first_seed("harvest_beside_guest");

	stamps_start(&st);
	for (int i = 0; i < 3; i++) {
		c[i].st = &st;
		c[i].conn = rig_client(&st.g);
		c[i].rng = seed + 2 * (unsigned)i;
		c[i].rounds = rounds;
		assert_int_equal(
		    pthread_create(&thread[i], NULL, client_main, &c[i]), 0);
	}
	for (int i = 0; i < 3; i++)
		(void)pthread_join(thread[i], NULL);
	for (int i = 0; i < 3; i++) {
		if (c[i].bad[0] != '\0') {
			print_error("client %d: %s\n", i, c[i].bad);
			rig_tell(&st.g, &st.vm);
			fail();
		}
		firn_close(c[i].conn);
	}
	send_req(&st.vm, &q, NULL);
	print_message("%lld passes; in %u and %u of %u rounds some pages were "
		      "left out\n",
	    (long long)get_ans(&st.vm, NULL, 0, NULL), c[0].missed_none,
	    c[1].missed_none, rounds);
	assert_int_equal(get_ans(&st.vm, NULL, 0, NULL), -ENOENT);
	rig_end(&st.g, &st.vm);
	rig_stop(&st.g);
}

static void test_harvest_beside_guest(void **state)
{
	(void)state;
	harvest_beside_guest(small() ? 15 : 120);
}

/* The same where the kernel has no 2 MiB pages to give; firnd and its monitors
 * inherit that. */
static void test_harvest_small_pages(void **state)
{
	(void)state;
	assert_int_equal(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
	harvest_beside_guest(15);
	assert_int_equal(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), 0);
}

/* --- processes killed at random moments ----------------------------------- */

struct kills {
	struct rig g;
	struct rig_vm a, b; /* a producer, and who maps what it froze */
	uint64_t rng;
	uint64_t snap;
};

static void kill_launch(struct kills *k, struct rig_vm *vm)
{
	const char *argv[] = {"model", NULL};

	rig_launch(&k->g, vm, argv, RAM_BYTES,
	    json_pack("{s:[{s:s,s:I}]}", "segments", "name", "a", "size",
		(json_int_t)STAMPED * PAGE));
}

/* A producer that goes on writing, and a snapshot in several layers. */
static void kill_setup(struct kills *k)
{
	struct model_req q = named(MODEL_FIND, "a");
	struct firn_segment seg;
	struct firn_freeze_result r = {0};
	struct firn_error e = {0};

	kill_launch(k, &k->a);
	kill_launch(k, &k->b);
	assert_int_equal(guest(&k->a, &q, NULL, &seg, sizeof(seg)), 0);
	q = (struct model_req){.op = MODEL_STAMP, .a = seg.va, .b = STAMPED};
	assert_int_equal(guest(&k->a, &q, NULL, NULL, 0), 0);
	for (int i = 0; i < 3; i++)
		if (firn_freeze(k->g.conn, k->a.ref, "a", NULL, &r, &e) != 0)
			rig_fail("freeze: %s", e.msg);
	k->snap = r.snapshot;
}

static json_t *kill_params(struct kills *k, int which)
{
	const char *name = which == 1 ? "exact" : "plain";
	struct ref s = num(k->snap);
	char live[48];

	(void)snprintf(live, sizeof(live), "%s:a", k->a.ref);
	switch (which) {
	case 0:
		return json_pack("{s:s,s:s}", "vm", k->a.ref, "segment", "a");
	case 1:
	case 2:
		return json_pack("{s:s,s:s,s:s,s:b}", "vm", k->a.ref, "segment",
		    "a", "cursor", name, "exact", which == 1);
	case 3:
		return json_pack(
		    "{s:s,s:s,s:b}", "a", s.s, "b", live, "exact", 1);
	case 4:
		return json_pack("{s:s,s:s,s:b}", "vm", k->b.ref, "snapshot",
		    s.s, "cow", (int)next(&k->rng, 2));
	default:
		return json_pack("{s:s}", "snapshot", s.s);
	}
}

static const char *const kill_methods[] = {"segment.freeze", "dirty.query",
    "dirty.query", "snapshot.diff", "view.map", "snapshot.open",
    "segment.sever"};

/* Any operation, answered later. */
static uint64_t kill_ask(struct kills *k, struct firn *conn, int which)
{
	struct firn_error e = {0};
	uint64_t id = 0;

	if (firn_call_async_json(conn, kill_methods[which],
		kill_params(k, which == 6 ? 0 : which), NULL, 0, &id, &e) != 0)
		rig_fail("%s: %s", kill_methods[which], e.msg);
	return id;
}

/* An answer must come; which, is not known. */
static void kill_answered(struct firn *conn, uint64_t id)
{
	struct firn_error e = {0};
	struct firn_reply r = {0};
	int rc = firn_wait_reply(conn, id, 60000, &r, &e);

	if (rc == 0)
		firn_reply_free(&r);
	else if (e.code == 0)
		rig_fail("no answer: %s", e.msg);
}

static void kill_monitor(struct kills *k)
{
	static const int asked[] = {0, 1, 2, 3, 6, 0};
	uint64_t id[3];

	for (int i = 0; i < 3; i++)
		id[i] = kill_ask(k, k->g.conn, asked[next(&k->rng, 6)]);
	(void)usleep((useconds_t)next(&k->rng, 8000));
	(void)kill(k->a.monitor, SIGKILL);
	for (int i = 0; i < 3; i++)
		kill_answered(k->g.conn, id[i]);
}

/* The VM that maps ends meanwhile: killed, asked to end, or of itself. */
static void kill_mapper(struct kills *k)
{
	json_t *p = json_pack("{s:s}", "vm", k->b.ref);
	uint64_t how = next(&k->rng, 3);
	uint64_t end = 0;
	uint64_t id[3];
	struct firn_error e = {0};

	for (int i = 0; i < 3; i++)
		id[i] = kill_ask(k, k->g.conn, 4);
	(void)usleep((useconds_t)next(&k->rng, 3000));
	if (how == 0) {
		(void)kill(k->b.monitor, SIGKILL);
	} else if (how == 1) {
		if (firn_call_async_json(k->g.conn, "vm.kill", json_incref(p),
			NULL, 0, &end, &e) != 0)
			rig_fail("vm.kill: %s", e.msg);
	} else {
		(void)fclose(k->b.in);
		k->b.in = fopen("/dev/null", "we");
	}
	for (int i = 0; i < 3; i++)
		kill_answered(k->g.conn, id[i]);
	if (how == 1)
		kill_answered(k->g.conn, end);
	json_decref(p);
}

/* A client asks for everything at once and is killed. */
static void kill_client(struct kills *k)
{
	pid_t pid = fork();

	if (pid == 0) {
		struct firn *conn;

		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		conn = rig_client(&k->g);
		for (int i = 0; i < 12; i++)
			(void)kill_ask(k, conn, (int)next(&k->rng, 7));
		for (;;)
			(void)pause();
	}
	assert_true(pid > 0);
	(void)usleep((useconds_t)next(&k->rng, 20000));
	(void)kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

/* Half a request, with descriptors, and nothing more. */
static void kill_half(struct kills *k)
{
	static const char half[] = "{\"jsonrpc\":\"2.0\",\"method\":\"vm.lau";
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	union {
		struct cmsghdr h;
		char room[CMSG_SPACE(4 * sizeof(int))];
	} c = {.h = {.cmsg_len = CMSG_LEN(4 * sizeof(int)),
		   .cmsg_level = SOL_SOCKET,
		   .cmsg_type = SCM_RIGHTS}};
	struct iovec v = {(void *)(uintptr_t)half, sizeof(half) - 1};
	struct msghdr m = {.msg_iov = &v,
	    .msg_iovlen = 1,
	    .msg_control = &c,
	    .msg_controllen = sizeof(c)};
	const int fds[4] = {0, 1, 2, 2};
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(to.sun_path, k->g.socket, sizeof(k->g.socket));
	memcpy(CMSG_DATA(&c.h), fds, sizeof(fds));
	assert_int_equal(
	    connect(s, (struct sockaddr *)(void *)&to, sizeof(to)), 0);
	assert_int_equal(sendmsg(s, &m, 0), (ssize_t)sizeof(half) - 1);
	(void)usleep((useconds_t)next(&k->rng, 3000));
	(void)close(s);
}

/* End a VM that may have ended. */
static void kill_end(struct kills *k, struct rig_vm *vm)
{
	if (vm->in == NULL)
		rig_fail("no /dev/null");
	rig_end(&k->g, vm);
}

static void test_kills(void **state)
{
	static void (*const how[])(struct kills * k) = {
	    kill_monitor, kill_mapper, kill_client, kill_half};
	static struct kills k;
	struct holds before;
	unsigned rounds = small() ? 8 : 40;

	(void)state;
	(void)signal(SIGPIPE, SIG_IGN);
	k.rng = first_seed("kills");
	rig_start_as(&k.g, true);
	get_holds(&k.g, &before);
	for (unsigned i = 0; i < rounds; i++) {
		kill_setup(&k);
		how[i % 4](&k);
		if (next(&k.rng, 4) == 0)
			how[next(&k.rng, 4)](&k);
		kill_end(&k, &k.a);
		kill_end(&k, &k.b);
		drop_all(&k.g);
		check_holds(&k.g, &before);
	}
	rig_stop(&k.g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_sequences),
	    cmocka_unit_test(test_harvest_beside_guest),
	    cmocka_unit_test(test_harvest_small_pages),
	    cmocka_unit_test(test_kills),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
