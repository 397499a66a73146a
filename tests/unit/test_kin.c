/* SPDX-License-Identifier: MIT */
/*
 * Sets of extents, and records of descent: by hand, and at random against a
 * naive model that never merges anything. FIRN_SEED repeats a run.
 */
/* wrap: malloc calloc realloc */
#include "tests/chance.h"
#include "tests/unit/failmem.h"
#include "tests/unit/kinsets.h"
#include "vmm/kin/kin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/unit.h"

/* --- sets ----------------------------------------------------------------- */

#define NBITS 200

static uint64_t rng;

static uint64_t rnd(uint64_t below)
{
	return chance(&rng, below);
}

static void seed(void)
{
	rng = chance_begin("kin");
}

static int bit(const uint64_t *w, uint64_t i)
{
	return (int)(w[i / 64] >> (i % 64) & 1);
}

static void set_bit(uint64_t *w, uint64_t i)
{
	w[i / 64] |= 1ULL << (i % 64);
}

#define NWORDS ((NBITS + 63) / 64)

static void random_bits(uint64_t *w)
{
	uint64_t n = rnd(12);

	memset(w, 0, NWORDS * 8);
	while (n-- > 0) {
		uint64_t first = rnd(NBITS);
		uint64_t len = 1 + rnd(20);

		for (uint64_t i = first; i < NBITS && i < first + len; i++)
			set_bit(w, i);
	}
}

static void check_set(const struct extset *s, const uint64_t *w)
{
	uint64_t at = 0;
	uint64_t pages = 0;

	for (size_t i = 0; i < s->n; i++) {
		assert_true(s->x[i].npages > 0);
		assert_true(i == 0 || s->x[i].first > s->x[i - 1].first +
							  s->x[i - 1].npages);
		for (; at < s->x[i].first; at++)
			assert_false(bit(w, at));
		for (; at < s->x[i].first + s->x[i].npages; at++, pages++)
			assert_true(bit(w, at));
	}
	for (; at < NBITS; at++)
		assert_false(bit(w, at));
	assert_int_equal(s->pages, pages);
}

#define NSETS 5

static void sets_are_bitmaps(void **state)
{
	uint64_t w[NSETS][NWORDS];
	uint64_t want[NWORDS];
	struct extset s[NSETS];
	struct extset out;
	uint64_t n;
	const struct extset *const all[NSETS] = {
	    &s[0], &s[1], &s[2], &s[3], &s[4]};

	(void)state;
	seed();
	for (int round = 0; round < 3000; round++) {
		for (int k = 0; k < NSETS; k++) {
			random_bits(w[k]);
			assert_int_equal(extset_of_bits(w[k], NBITS, &s[k]), 0);
			check_set(&s[k], w[k]);
		}
		memset(want, 0, sizeof(want));
		n = 1 + rnd(NSETS);
		for (uint64_t i = 0; i < n * NWORDS; i++)
			want[i % NWORDS] |= w[i / NWORDS][i % NWORDS];
		assert_int_equal(extset_unite(all, n, &out), 0);
		check_set(&out, want);
		extset_free(&out);
		for (int i = 0; i < NWORDS; i++)
			want[i] = w[0][i] & w[1][i];
		assert_int_equal(extset_cut(&s[0], &s[1], &out), 0);
		check_set(&out, want);
		extset_free(&out);
		for (int i = 0; i < NWORDS; i++)
			want[i] = w[0][i] & ~w[1][i];
		assert_int_equal(extset_less(&s[0], &s[1], &out), 0);
		check_set(&out, want);
		extset_free(&out);
		for (int k = 0; k < NSETS; k++)
			extset_free(&s[k]);
	}
}

static void set_refuses(void **state)
{
	struct extset s = {0};

	(void)state;
	assert_int_equal(extset_add(&s, 5, 0), -EINVAL);
	assert_int_equal(extset_add(&s, UINT64_MAX, 1), -EINVAL);
	assert_int_equal(extset_add(&s, 10, 5), 0);
	assert_int_equal(extset_add(&s, 14, 5), -EINVAL);
	assert_int_equal(extset_add(&s, 3, 1), -EINVAL);
	assert_int_equal(extset_add(&s, 15, 5), 0);
	assert_int_equal(s.n, 1);
	assert_int_equal(s.pages, 10);
	extset_free(&s);
	assert_int_equal(s.n, 0);
}

/* Bitmaps in parts of some words, which extents reach over. */
static void sets_of_parts(void **state)
{
	uint64_t w[2][NWORDS];
	uint64_t want[NWORDS];

	(void)state;
	seed();
	for (int round = 0; round < 3000; round++) {
		struct extset s = {0};
		struct extset less;
		size_t k = 0;
		uint64_t n;

		random_bits(w[0]);
		random_bits(w[1]);
		assert_int_equal(extset_of_bits(w[1], NBITS, &less), 0);
		for (int i = 0; i < NWORDS; i++)
			want[i] = w[0][i] & ~w[1][i];
		for (uint64_t at = 0; at < NBITS; at += n) {
			n = 64 * (1 + rnd(2));
			if (n > NBITS - at)
				n = NBITS - at;
			extset_clear_bits(&less, &k, &w[0][at / 64], at, n);
			assert_int_equal(
			    extset_add_bits(&s, &w[0][at / 64], at, n), 0);
		}
		check_set(&s, want);
		extset_free(&s);
		extset_free(&less);
	}
}

/* What is beyond the last page is not looked at. */
static void bits_beyond_are_ignored(void **state)
{
	const uint64_t w[2] = {1ULL << 63, ~0ULL};
	struct extset s;

	(void)state;
	assert_int_equal(extset_of_bits(w, 70, &s), 0);
	assert_int_equal(s.n, 1);
	assert_int_equal(s.pages, 7);
	extset_free(&s);
}

static void sets_without_memory(void **state)
{
	uint64_t w[NWORDS];
	struct extset s;
	struct extset out;
	const struct extset none = {0};
	const struct extset *const both[] = {&s, &s};

	(void)state;
	memset(w, 0x55, sizeof(w));
	for (long n = 0; n < 2; n++) {
		fail_at = n;
		assert_int_equal(extset_of_bits(w, NBITS, &s), -ENOMEM);
		assert_int_equal(s.n, 0);
	}
	fail_at = -1;
	assert_int_equal(extset_of_bits(w, NBITS, &s), 0);
	for (long n = 0; n < 3; n++) {
		fail_at = n;
		assert_int_equal(extset_unite(both, 2, &out), -ENOMEM);
		assert_int_equal(out.n, 0);
	}
	fail_at = 0;
	assert_int_equal(extset_cut(&s, &s, &out), -ENOMEM);
	assert_int_equal(extset_less(&s, &none, &out), -ENOMEM);
	assert_int_equal(out.n, 0);
	fail_at = -1;
	extset_free(&s);
}

/* --- records -------------------------------------------------------------- */

static struct kin_sets sets_of(uint64_t read, uint64_t write)
{
	struct kin_sets s = {0};

	assert_int_equal(extset_add(&s.reads, read, 1), 0);
	assert_int_equal(extset_add(&s.writes, write, 1), 0);
	return s;
}

static struct kin *child(struct kins *all, struct kin *parent, uint64_t id)
{
	struct kin *k = kin_new(all, id);
	struct kin_sets s = sets_of(2 * id, 3 * id);

	assert_non_null(k);
	kin_descend(k, parent, 0);
	assert_int_equal(kin_track(k, &s), 0);
	return k;
}

/* What was gathered stays as it is while the records go, and is paid for. */
static void steps_outlive_records(void **state)
{
	struct kins all = {0};
	struct kin *a = kin_new(&all, 1);
	struct kin *b = child(&all, a, 10);
	struct kin *c = child(&all, b, 20);
	struct kin_steps steps;
	struct kin_sets out;
	bool tracked;

	(void)state;
	assert_int_equal(kin_since(c, a, &tracked, &steps), 0);
	assert_true(tracked);
	kin_died(b);
	kin_died(c);
	kin_died(a);
	assert_int_equal(all.n, 0);
	assert_true(all.bytes > 0);
	assert_int_equal(kin_steps_unite(&steps, &out), 0);
	assert_int_equal(out.reads.n, 2);
	assert_int_equal(out.reads.x[0].first, 20);
	assert_int_equal(out.reads.x[1].first, 40);
	assert_int_equal(out.writes.x[0].first, 30);
	assert_int_equal(out.writes.x[1].first, 60);
	kin_sets_free(&out);
	kin_steps_free(&steps);
	assert_int_equal(all.bytes, 0);
	kin_steps_free(&steps);
}

/* A place that is frozen 100,000 times, every snapshot dropped at once. */
static void a_long_life_stays_small(void **state)
{
	struct kins all = {0};
	struct kin *base = kin_new(&all, 1);
	struct kin *at = kin_hold(base);
	struct kin_sets out;
	bool tracked;

	(void)state;
	for (uint64_t i = 0; i < 100000; i++) {
		struct kin *k = child(&all, at, 7);
		struct kin *was = at;

		at = kin_hold(k);
		kin_put(was);
		kin_died(k);
		assert_true(all.n <= 3);
	}
	assert_int_equal(kin_parent(at), 1);
	assert_int_equal(since(at, base, &tracked, &out), 0);
	assert_true(tracked);
	assert_int_equal(out.reads.pages, 1);
	kin_sets_free(&out);
	kin_put(at);
	kin_died(base);
	assert_int_equal(all.n, 0);
	assert_int_equal(all.bytes, 0);
}

static void chains_unite(void **state)
{
	struct kins all = {0};
	struct kin *a = child(&all, NULL, 1);
	struct kin *b = child(&all, a, 2);
	struct kin *c = child(&all, b, 3);
	struct kin *d = child(&all, a, 4);
	struct kin_sets out;
	bool tracked;

	(void)state;
	assert_int_equal(since(d, b, &tracked, &out), -ESRCH);
	assert_int_equal(since(a, b, &tracked, &out), -ESRCH);
	assert_int_equal(since(a, a, &tracked, &out), 0);
	assert_true(tracked);
	assert_int_equal(out.reads.n + out.writes.n, 0);
	kin_died(b);
	assert_int_equal(all.n, 3);
	assert_int_equal(kin_parent(c), 1);
	assert_int_equal(since(c, a, &tracked, &out), 0);
	assert_true(tracked);
	assert_int_equal(out.reads.x[0].first, 4);
	assert_int_equal(out.reads.x[1].first, 6);
	assert_int_equal(out.writes.x[0].first, 6);
	assert_int_equal(out.writes.x[1].first, 9);
	kin_sets_free(&out);
	kin_died(a); /* two descend from it: it stays */
	assert_int_equal(all.n, 3);
	assert_int_equal(kin_parent(c), 0);
	kin_died(d);
	assert_int_equal(all.n, 1);
	kin_died(c);
	assert_int_equal(all.n, 0);
	assert_int_equal(all.bytes, 0);
}

/* The next snapshot of view (view), which has touched (n) pages so far. */
static struct kin *frozen(struct kins *all, struct kin *parent, uint64_t view,
    struct kin_sets *told, uint64_t n)
{
	struct kin *k = kin_new(all, n);
	struct kin_sets fresh = {0};
	struct kin_sets s = {0};

	for (uint64_t i = 0; i < n; i++)
		assert_int_equal(extset_add(&s.reads, view + 2 * i, 1), 0);
	assert_int_equal(extset_less(&s.reads, &told->reads, &fresh.reads), 0);
	kin_descend(k, parent, view);
	assert_int_equal(kin_track(k, &fresh), 0);
	kin_sets_free(told);
	*told = s;
	return k;
}

static uint64_t reads_since(const struct kin *k, const struct kin *base)
{
	struct kin_sets out;
	bool tracked;
	uint64_t n;

	assert_int_equal(since(k, base, &tracked, &out), 0);
	assert_true(tracked);
	n = out.reads.pages;
	kin_sets_free(&out);
	return n;
}

/* A view keeps what is new with each snapshot, and no more. From an earlier one
 * on all counts; but nothing of what is above the view, merged or not. */
static void views_tell_what_is_new(void **state)
{
	struct kins all = {0};
	struct kin *root = kin_new(&all, 1);
	struct kin_sets *told = calloc(2, sizeof(*told));
	struct kin *base = frozen(&all, root, 1000, &told[0], 7);
	struct kin *k[1000];
	struct kin *of_first;
	uint64_t bytes;

	(void)state;
	for (uint64_t i = 0; i < 1000; i++)
		k[i] = frozen(
		    &all, i > 0 ? k[i - 1] : base, 5000, &told[1], i + 1);
	/* A record, and room for what grows by the double. */
	assert_true(all.bytes < 1002 * 500);
	assert_int_equal(reads_since(k[999], base), 1000);
	assert_int_equal(reads_since(k[999], root), 1007);
	assert_int_equal(reads_since(k[999], k[998]), 1000);
	assert_int_equal(reads_since(k[499], k[9]), 500);
	of_first = child(&all, k[0], 3);
	assert_int_equal(reads_since(of_first, k[0]), 1);
	kin_died(base);
	assert_int_equal(all.n, 1002);
	assert_int_equal(reads_since(k[0], root), 8);
	assert_int_equal(reads_since(k[999], k[0]), 1000);
	for (int i = 1; i < 999; i++)
		kin_died(k[i]);
	assert_int_equal(all.n, 4);
	assert_int_equal(reads_since(k[999], k[0]), 1000);
	assert_int_equal(reads_since(k[999], root), 1007);
	kin_died(root); /* nothing is above the view any more */
	assert_int_equal(reads_since(k[999], k[0]), 1000);
	bytes = all.bytes;
	kin_died(of_first);
	kin_died(k[0]);
	assert_true(all.bytes < bytes);
	kin_died(k[999]);
	assert_int_equal(all.n, 0);
	assert_int_equal(all.bytes, 0);
	kin_sets_free(&told[0]);
	kin_sets_free(&told[1]);
	free(told);
}

/* What cannot be kept or told for want of memory is refused; merging needs
 * none. */
static void records_without_memory(void **state)
{
	struct kins all = {0};
	struct kin *a = child(&all, NULL, 1);
	struct kin *b = child(&all, a, 2);
	struct kin *c = child(&all, b, 3);
	struct kin_sets s = sets_of(1, 2);
	struct kin_sets out;
	bool tracked;
	struct kin *k;

	(void)state;
	fail_at = 0;
	kin_died(b);
	assert_int_equal(all.n, 2);
	assert_int_equal(since(c, a, &tracked, &out), -ENOMEM);
	assert_null(kin_new(&all, 1));
	fail_at = -1;
	k = kin_new(&all, 4);
	kin_descend(k, c, 0);
	fail_at = 0;
	assert_int_equal(kin_track(k, &s), -ENOMEM);
	fail_at = -1;
	assert_int_equal(since(k, c, &tracked, &out), 0);
	assert_false(tracked);
	assert_int_equal(kin_track(k, &s), 0);
	for (long n = 0; n < 3; n++) {
		fail_at = n;
		assert_int_equal(since(k, a, &tracked, &out), -ENOMEM);
	}
	fail_at = -1;
	assert_int_equal(since(k, a, &tracked, &out), 0);
	assert_true(tracked);
	assert_int_equal(out.reads.pages, 3);
	kin_sets_free(&out);
	/* Merged sets that cannot be united stay as they are. */
	for (uint64_t i = 0; i < 200; i++) {
		struct kin *next = child(&all, k, i);

		fail_at = 0;
		kin_died(k);
		fail_at = -1;
		k = next;
	}
	assert_int_equal(all.n, 3);
	assert_int_equal(since(k, a, &tracked, &out), 0);
	assert_true(tracked);
	assert_int_equal(out.writes.pages, 201);
	kin_sets_free(&out);
	kin_died(k);
	kin_died(c);
	kin_died(a);
	assert_int_equal(all.n, 0);
	assert_int_equal(all.bytes, 0);
}

/* --- at random ------------------------------------------------------------ */

#define NMODEL  400
#define NPLACES 5

struct model {
	struct kin *k;
	int parent; /* -1: none */
	bool alive;
	bool tracked;
	uint64_t r[NWORDS], w[NWORDS];
};

struct world {
	struct kins all;
	struct model m[NMODEL];
	int n;
	int place[NPLACES]; /* the record that each holds; -1 */
};

static void freeze(struct world *x, int place)
{
	struct model *m = &x->m[x->n];
	int parent = x->place[place];
	struct kin_sets s;

	m->k = kin_new(&x->all, (uint64_t)x->n + 1);
	assert_non_null(m->k);
	m->alive = true;
	m->parent = parent;
	kin_descend(m->k, parent < 0 ? NULL : x->m[parent].k, 0);
	m->tracked = parent >= 0 && rnd(8) != 0;
	if (m->tracked) {
		random_bits(m->r);
		random_bits(m->w);
		assert_int_equal(extset_of_bits(m->r, NBITS, &s.reads), 0);
		assert_int_equal(extset_of_bits(m->w, NBITS, &s.writes), 0);
		assert_int_equal(kin_track(m->k, &s), 0);
	}
	(void)kin_hold(m->k);
	if (parent >= 0)
		kin_put(x->m[parent].k);
	x->place[place] = x->n++;
}

static void move(struct world *x, int place, int to)
{
	int was = x->place[place];

	if (to >= 0 && !x->m[to].alive)
		return;
	if (to >= 0)
		(void)kin_hold(x->m[to].k);
	x->place[place] = to;
	if (was >= 0)
		kin_put(x->m[was].k);
}

static int model_parent(const struct world *x, int i)
{
	i = x->m[i].parent;
	while (i >= 0 && !x->m[i].alive)
		i = x->m[i].parent;
	return i;
}

static void check_since(struct world *x, int i, int base)
{
	uint64_t r[NWORDS] = {0};
	uint64_t w[NWORDS] = {0};
	bool tracked = true;
	bool got;
	struct kin_sets s;
	int at = i;
	int rc = since(x->m[i].k, x->m[base].k, &got, &s);

	for (; at >= 0 && at != base; at = x->m[at].parent) {
		tracked &= x->m[at].tracked;
		for (int k = 0; k < NWORDS; k++) {
			r[k] |= x->m[at].r[k];
			w[k] |= x->m[at].w[k];
		}
	}
	assert_int_equal(rc, at < 0 ? -ESRCH : 0);
	if (rc != 0)
		return;
	assert_int_equal(got, tracked);
	if (tracked) {
		check_set(&s.reads, r);
		check_set(&s.writes, w);
	}
	kin_sets_free(&s);
}

static void check_all(struct world *x)
{
	size_t wanted = 0;

	for (int i = 0; i < x->n; i++) {
		int held = 0;

		for (int p = 0; p < NPLACES; p++)
			held |= x->place[p] == i;
		wanted += x->m[i].alive || held ? 1 : 0;
		if (!x->m[i].alive)
			continue;
		assert_int_equal(kin_parent(x->m[i].k), model_parent(x, i) + 1);
		for (int k = 0; k < 8; k++) {
			int base = (int)rnd((uint64_t)x->n);

			if (x->m[base].alive)
				check_since(x, i, base);
		}
	}
	assert_true(x->all.n <= 2 * wanted);
}

static void random_families(void **state)
{
	(void)state;
	seed();
	for (int round = 0; round < 30; round++) {
		struct world *x = calloc(1, sizeof(*x));

		for (int p = 0; p < NPLACES; p++)
			x->place[p] = -1;
		while (x->n < NMODEL) {
			int i = (int)rnd((uint64_t)x->n + 1);

			if (rnd(3) == 0)
				freeze(x, (int)rnd(NPLACES));
			else if (rnd(4) == 0)
				move(x, (int)rnd(NPLACES), i < x->n ? i : -1);
			else if (i < x->n && x->m[i].alive) {
				x->m[i].alive = false;
				kin_died(x->m[i].k);
			}
			if (x->n % 40 == 0)
				check_all(x);
		}
		for (int p = 0; p < NPLACES; p++)
			move(x, p, -1);
		check_all(x);
		for (int i = 0; i < x->n; i++)
			if (x->m[i].alive)
				kin_died(x->m[i].k);
		assert_int_equal(x->all.n, 0);
		assert_int_equal(x->all.bytes, 0);
		free(x);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sets_are_bitmaps),
	    cmocka_unit_test(sets_of_parts),
	    cmocka_unit_test(set_refuses),
	    cmocka_unit_test(bits_beyond_are_ignored),
	    cmocka_unit_test(sets_without_memory),
	    cmocka_unit_test(steps_outlive_records),
	    cmocka_unit_test(a_long_life_stays_small),
	    cmocka_unit_test(chains_unite),
	    cmocka_unit_test(views_tell_what_is_new),
	    cmocka_unit_test(records_without_memory),
	    cmocka_unit_test(random_families),
	};

	fail_on = true;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
