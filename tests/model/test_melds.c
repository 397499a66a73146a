/* SPDX-License-Identifier: MIT */
/*
 * Families of tracked views, for real: guests read and write pages of views of
 * each other's snapshots, which are frozen, melded and dropped at random. What
 * a page holds, what a guest has touched and what conflicts must be what arrays
 * say that never forget an ancestor. FIRN_SEED=N repeats a run.
 */
#include "tests/chance.h"
#include "tests/rig.h"
#include "tests/unit/unit.h"

#define NPAGES  300u /* of a page table and a part of one */
#define NGUESTS 3
#define NSNAPS  3000
#define STEPS   6000
#define SMALL   500 /* steps on the nested-paging host */
#define TOUCHES 24

/* A snapshot, alive or not. */
struct snap {
	uint64_t id;
	bool alive;
	int base; /* what the sets are relative to; -1: none */
	int prev; /* of the same tracked view; -1: none */
	bool tracked;
	bool r[NPAGES], w[NPAGES];
	uint64_t word[NPAGES];
};

struct view {
	struct rig_vm vm;
	int base; /* the snapshot that it shows; -1: none is mapped */
	bool tracked;
	bool r[NPAGES], w[NPAGES];
	uint64_t word[NPAGES];
	int last; /* frozen of it, and what an untracked one descends from */
};

struct world {
	struct rig g;
	struct view view[NGUESTS];
	struct snap snap[NSNAPS];
	int nsnaps;
	uint64_t rng;
	unsigned step;
	unsigned melded, conflicted, refused;
};

#define wrong(x, ...)                                                          \
	do {                                                                   \
		print_error("step %u: ", (x)->step);                           \
		fail_msg(__VA_ARGS__);                                         \
	} while (0)

static uint64_t rnd(struct world *x, uint64_t below)
{
	return chance(&x->rng, below);
}

/* A line to the guest, and its answer. */
static void tell(
    struct world *x, struct view *v, const char *line, char *buf, size_t len)
{
	(void)fprintf(v->vm.in, "%s\n", line);
	(void)fflush(v->vm.in);
	rig_line(&v->vm, buf, len);
	if (strncmp(buf, "ok", 2) != 0)
		wrong(x, "%s: the guest said: %s", line, buf);
}

static struct snap *new_snap(struct world *x, uint64_t id)
{
	struct snap *s = &x->snap[x->nsnaps++];

	*s = (struct snap){.id = id, .alive = true, .base = -1, .prev = -1};
	return s;
}

/* The number of a snapshot that is alive. */
static int some_snap(struct world *x)
{
	int i;

	do {
		i = (int)rnd(x, (uint64_t)x->nsnaps);
	} while (!x->snap[i].alive);
	return i;
}

static struct view *some_view(struct world *x)
{
	return &x->view[rnd(x, NGUESTS)];
}

/* --- operations ----------------------------------------------------------- */

static void unmap_view(struct world *x, struct view *v)
{
	if (v->base >= 0)
		json_decref(rig_call(&x->g, "view.unmap",
		    json_pack("{s:s,s:s}", "vm", v->vm.ref, "view", "v"), NULL,
		    0));
	v->base = -1;
}

static void op_map(struct world *x)
{
	struct view *v = some_view(x);
	int base = some_snap(x);
	char buf[64];

	unmap_view(x, v);
	v->tracked = rnd(x, 8) != 0;
	json_decref(rig_call(&x->g, "view.map",
	    json_pack("{s:s,s:s,s:s,s:b,s:b}", "vm", v->vm.ref, "snapshot",
		rig_ref(x->snap[base].id).s, "name", "v", "cow", 1, "track",
		v->tracked),
	    NULL, 0));
	tell(x, v, "find v", buf, sizeof(buf));
	v->base = v->last = base;
	memcpy(v->word, x->snap[base].word, sizeof(v->word));
	memset(v->r, 0, sizeof(v->r));
	memset(v->w, 0, sizeof(v->w));
}

static void op_touch(struct world *x)
{
	struct view *v = some_view(x);
	bool write = rnd(x, 2);
	uint64_t n = 1 + rnd(x, rnd(x, 4) == 0 ? TOUCHES : 4);
	uint64_t value = rnd(x, 4) == 0 ? 0 : rnd(x, 1000000);
	uint64_t page[TOUCHES];
	char line[TOUCHES * 8 + 64];
	char buf[TOUCHES * 24];
	char *at = buf + 2;
	int len;

	if (v->base < 0)
		return;
	len = write ? snprintf(line, sizeof(line), "write %llu",
			  (unsigned long long)value)
		    : snprintf(line, sizeof(line), "read");
	for (uint64_t i = 0; i < n; i++) {
		page[i] = rnd(x, NPAGES);
		len += snprintf(line + len, sizeof(line) - (size_t)len, " %llu",
		    (unsigned long long)page[i]);
		if (write) {
			v->w[page[i]] = true;
			v->word[page[i]] = value;
		} else {
			v->r[page[i]] = true;
		}
	}
	tell(x, v, line, buf, sizeof(buf));
	for (uint64_t i = 0; i < n && !write; i++) {
		uint64_t got = strtoull(at, &at, 10);

		if (got != v->word[page[i]])
			wrong(x, "page %llu has %llu, not %llu",
			    (unsigned long long)page[i],
			    (unsigned long long)got,
			    (unsigned long long)v->word[page[i]]);
	}
}

static void check_set(struct world *x, const struct firn_pageset *s,
    const bool *want, const bool *but, const char *what)
{
	bool got[NPAGES] = {false};

	for (size_t i = 0; i < s->nranges; i++)
		for (uint64_t k = 0; k < s->ranges[i].count; k++) {
			assert_true(s->ranges[i].first + k < NPAGES);
			got[s->ranges[i].first + k] = true;
		}
	for (uint64_t i = 0; i < NPAGES; i++)
		if (got[i] != (want[i] && !(but != NULL && but[i])))
			wrong(x, "page %llu: %s %d", (unsigned long long)i,
			    what, got[i]);
}

/* What it touched: exactly that. */
static void op_track(struct world *x)
{
	struct view *v = some_view(x);
	struct firn_pageset r;
	struct firn_pageset w;
	struct firn_error e = {0};

	if (v->base < 0 || !v->tracked)
		return;
	if (firn_touched(x->g.conn, v->vm.ref, "v", &r, &w, &e) != 0)
		wrong(x, "%s", e.msg);
	check_set(x, &r, v->r, v->w, "read");
	check_set(x, &w, v->w, NULL, "written");
	firn_pageset_free(&r);
	firn_pageset_free(&w);
}

static void op_freeze(struct world *x)
{
	struct view *v = some_view(x);
	struct snap *s;
	json_t *r;

	if (v->base < 0 || x->nsnaps == NSNAPS)
		return;
	r = rig_call(&x->g, "segment.freeze",
	    json_pack("{s:s,s:s}", "vm", v->vm.ref, "segment", "v"), NULL, 0);
	s = new_snap(x, rig_u64(r, "snapshot"));
	json_decref(r);
	s->tracked = v->tracked;
	s->base = v->tracked ? v->base : v->last;
	if (v->tracked && v->last != v->base)
		s->prev = v->last;
	memcpy(s->r, v->r, sizeof(s->r));
	memcpy(s->w, v->w, sizeof(s->w));
	memcpy(s->word, v->word, sizeof(s->word));
	v->last = x->nsnaps - 1;
}

static void op_drop(struct world *x)
{
	int i = some_snap(x);

	if (i == 0 || rnd(x, 3) == 0)
		return;
	for (int k = 0; k < NGUESTS; k++)
		if (x->view[k].base == i)
			return; /* it would live on */
	rig_drop(&x->g, x->snap[i].id);
	x->snap[i].alive = false;
}

/* Every page, as a host program maps it. */
static void op_check(struct world *x)
{
	const struct snap *s = &x->snap[some_snap(x)];
	struct firn_snapshot *f;
	struct firn_error e = {0};
	uint64_t word;

	if (firn_open_snapshot(x->g.conn, rig_ref(s->id).s, &f, &e) != 0)
		wrong(x, "%s", e.msg);
	for (uint64_t i = 0; i < NPAGES; i++) {
		if (firn_snapshot_read(f, i * 4096, &word, 8, &e) != 0)
			wrong(x, "%s", e.msg);
		if (word != s->word[i])
			wrong(x, "snapshot %llu, page %llu: %llu, not %llu",
			    (unsigned long long)s->id, (unsigned long long)i,
			    (unsigned long long)word,
			    (unsigned long long)s->word[i]);
	}
	firn_snapshot_close(f);
}

/* --- meld ----------------------------------------------------------------- */

struct since {
	bool related, tracked;
	bool r[NPAGES], w[NPAGES];
};

/* Is (base) an earlier one of the view that (i) is of? */
static bool earlier(const struct world *x, int i, int base)
{
	while (i >= 0 && i != base)
		i = x->snap[i].prev;
	return i >= 0;
}

/* From an earlier one of the same view on, all counts since it was laid. */
static void since(struct world *x, int i, int base, struct since *out)
{
	*out = (struct since){.tracked = true};
	for (; i >= 0 && i != base;
	     i = earlier(x, i, base) ? base : x->snap[i].base) {
		out->tracked &= x->snap[i].tracked;
		for (uint64_t p = 0; p < NPAGES; p++) {
			out->r[p] |= x->snap[i].r[p];
			out->w[p] |= x->snap[i].w[p];
		}
	}
	out->related = i == base;
}

static bool conflicts(
    const struct since *a, const struct since *b, bool *ww, bool *rw)
{
	bool any = false;

	for (uint64_t p = 0; p < NPAGES; p++) {
		ww[p] = a->w[p] && b->w[p];
		rw[p] =
		    !ww[p] && ((a->w[p] && b->r[p]) || (a->r[p] && b->w[p]));
		any |= ww[p] || rw[p];
	}
	return any;
}

static void check_conflicts(
    struct world *x, const json_t *data, const bool *ww, const bool *rw)
{
	json_t *list = json_object_get(data, "conflicts");
	bool got[2][NPAGES] = {{false}};
	json_t *c;
	size_t i;

	if (!json_is_array(list))
		wrong(x, "no conflicts are listed");
	json_array_foreach(list, i, c)
	{
		json_int_t first = json_integer_value(json_array_get(c, 0));
		json_int_t n = json_integer_value(json_array_get(c, 1));
		bool write = strcmp(json_string_value(json_array_get(c, 2)),
				 "write/write") == 0;

		for (json_int_t k = 0; k < n; k++)
			got[write ? 0 : 1][first + k] = true;
	}
	if (memcmp(got[0], ww, NPAGES) != 0 || memcmp(got[1], rw, NPAGES) != 0)
		wrong(x, "other conflicts are listed");
}

/* A relative of (i): an ancestor that is alive, mostly. */
static int some_base(struct world *x, int i)
{
	int base = -1;

	for (int at = i; at >= 0;
	     at = x->snap[at].prev >= 0 ? x->snap[at].prev : x->snap[at].base)
		if (x->snap[at].alive && (base < 0 || rnd(x, 2)))
			base = at;
	return base < 0 || rnd(x, 8) == 0 ? some_snap(x) : base;
}

/* One that descends from (base), if a few looks find any. */
static int some_kin(struct world *x, int base)
{
	int i = some_snap(x);

	for (int tries = 0; tries < 30; tries++, i = some_snap(x))
		for (int at = i; at >= 0; at = x->snap[at].base)
			if (earlier(x, at, base))
				return i;
	return i;
}

static void keep_meld(struct world *x, json_t *r, int base,
    const struct since *a, const struct since *b, const struct snap *sa,
    const struct snap *sb)
{
	struct snap *s = new_snap(x, rig_u64(r, "snapshot"));

	s->base = base;
	s->tracked = true;
	for (uint64_t p = 0; p < NPAGES; p++) {
		s->r[p] = a->r[p] || b->r[p];
		s->w[p] = a->w[p] || b->w[p];
		s->word[p] = a->w[p]   ? sa->word[p]
			     : b->w[p] ? sb->word[p]
				       : x->snap[base].word[p];
	}
	x->melded++;
}

static void op_meld(struct world *x)
{
	int ia = some_snap(x);
	int base = some_base(x, ia);
	int ib = some_kin(x, base);
	struct since *a = calloc(2, sizeof(*a));
	struct since *b = a + 1;
	bool ww[NPAGES];
	bool rw[NPAGES];
	struct firn_error e = {0};
	json_t *r = NULL;
	bool any;
	int rc;

	since(x, ia, base, a);
	since(x, ib, base, b);
	any = conflicts(a, b, ww, rw);
	if (x->nsnaps < NSNAPS) {
		rc = firn_call_json(x->g.conn, "snapshot.meld",
		    json_pack("{s:s,s:s,s:s}", "base",
			rig_ref(x->snap[base].id).s, "a",
			rig_ref(x->snap[ia].id).s, "b",
			rig_ref(x->snap[ib].id).s),
		    NULL, 0, &r, NULL, NULL, &e);
		if (!a->related || !b->related || !a->tracked || !b->tracked) {
			if (rc != -EINVAL && rc != -EPERM)
				wrong(x, "%d, not refused: %s", rc, e.msg);
			x->refused++;
		} else if (any) {
			if (rc != -ESTALE)
				wrong(x, "%d, no conflict: %s", rc, e.msg);
			check_conflicts(x, firn_error_data(x->g.conn), ww, rw);
			x->conflicted++;
		} else if (rc != 0) {
			wrong(x, "%s", e.msg);
		} else {
			keep_meld(x, r, base, a, b, &x->snap[ia], &x->snap[ib]);
		}
	}
	json_decref(r);
	free(a);
}

/* --- all ------------------------------------------------------------------ */

static void start(struct world *x)
{
	const char *argv[] = {"touch", NULL};
	struct view *v = &x->view[0];
	char buf[160];
	json_t *r;

	rig_start(&x->g);
	for (int i = 0; i < NGUESTS; i++) {
		x->view[i].base = -1;
		rig_launch(&x->g, &x->view[i].vm, argv, 32ULL << 20,
		    i > 0 ? NULL
			  : json_pack("{s:[{s:s,s:I}]}", "segments", "name",
				"data", "size", (json_int_t)NPAGES * 4096));
		rig_line(&x->view[i].vm, buf, sizeof(buf));
	}
	tell(x, v, "find data", buf, sizeof(buf));
	tell(x, v, "write 17 1 2 3 50 250 299", buf, sizeof(buf));
	r = rig_call(&x->g, "segment.freeze",
	    json_pack("{s:s,s:s}", "vm", v->vm.ref, "segment", "data"), NULL,
	    0);
	(void)new_snap(x, rig_u64(r, "snapshot"));
	json_decref(r);
	for (int i = 0; i < 6; i++)
		x->snap[0].word[(const int[]){1, 2, 3, 50, 250, 299}[i]] = 17;
}

static void melds_at_random(void **state)
{
	static void (*const op[])(struct world * x) = {op_map, op_touch,
	    op_touch, op_touch, op_touch, op_track, op_freeze, op_freeze,
	    op_meld, op_meld, op_check, op_drop};
	struct world *x = calloc(1, sizeof(*x));
	unsigned steps = chance_small() ? SMALL : STEPS;

	(void)state;
	x->rng = chance_begin("melds");
	start(x);
	for (; x->step < steps; x->step++)
		op[rnd(x, sizeof(op) / sizeof(op[0]))](x);
	for (int i = 0; i < 20; i++)
		op_check(x);
	print_message(
	    "%d snapshots; %u melds, %u that conflicted, %u refused\n",
	    x->nsnaps, x->melded, x->conflicted, x->refused);
	assert_true(x->melded > 0);
	for (int i = 0; i < NGUESTS; i++)
		rig_end(&x->g, &x->view[i].vm);
	rig_stop(&x->g);
	free(x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(melds_at_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
