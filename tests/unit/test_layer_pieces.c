/* SPDX-License-Identifier: MIT */
/* wrap: malloc calloc realloc */
/*
 * Layers in pieces, against an array that says for each page of each layer
 * where it is: random moves and translations, at every boundary, with counts
 * that no page has, and with one allocation that fails. FIRN_SEED=N repeats a
 * run.
 */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/chance.h"
#include "tests/unit/failmem.h"
#include "tests/unit/layersets.h"
#include "vmm/layer/filetab.h"
#include "vmm/layer/layer.h"

#define NLAYERS 12
#define NPAGES  64u
#define NFILES  6
#define FPAGES  256u
#define STEPS   3000
#define RUNS    40
#define NOWHERE UINT32_MAX
#define SEALS   (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* Where a page is: a file's number in the set, and the page there. */
struct where {
	uint32_t file;
	uint64_t page;
};

struct world {
	uint64_t rng;
	struct layer_set *set;
	uint32_t id[NLAYERS];
	uint32_t file[NFILES]; /* held by the test */
	struct where at[NLAYERS][NPAGES];
};

static uint64_t rnd(struct world *w, uint64_t below)
{
	return chance(&w->rng, below);
}

static int sealed(uint64_t npages)
{
	int fd = memfd_create("pieces", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)(npages * PAGE_SIZE)), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
	return fd;
}

static void new_layer(struct world *w, unsigned k)
{
	struct err e;
	uint32_t n;

	assert_int_equal(
	    layer_adopt(w->set, sealed(NPAGES), NPAGES, &w->id[k], &e), 0);
	for (uint32_t i = 0; i < NPAGES; i++)
		w->at[k][i] =
		    (struct where){layer_pieces(w->set, w->id[k], &n)->file, i};
}

/* Random pieces: gaps, and neighbours that go on in the file or do not. */
static void move(struct world *w, unsigned k)
{
	struct layer_piece *p = malloc(NPAGES * sizeof(*p));
	uint32_t n = 0;

	assert_non_null(p);
	for (uint32_t i = 0; i < NPAGES; i++)
		w->at[k][i].file = NOWHERE;
	for (uint64_t at = rnd(w, 3); at < NPAGES || n == 0;) {
		uint64_t len = 1 + rnd(w, rnd(w, 4) == 0 ? NPAGES : 5);
		uint64_t from = n > 0 && rnd(w, 3) == 0
				    ? p[n - 1].at + p[n - 1].npages
				    : rnd(w, FPAGES);
		uint32_t f = n > 0 && rnd(w, 2) == 0 ? p[n - 1].file
						     : w->file[rnd(w, NFILES)];

		at = at < NPAGES ? at : NPAGES - 1;
		len = len < NPAGES - at ? len : NPAGES - at;
		from = from < FPAGES - len ? from : FPAGES - len;
		p[n++] = (struct layer_piece){at, len, from, f};
		for (uint64_t i = 0; i < len; i++)
			w->at[k][at + i] = (struct where){f, from + i};
		at += len + (rnd(w, 3) == 0 ? rnd(w, 4) : 0);
	}
	layer_move(w->set, w->id[k], p, n);
}

/* The layer that has (id), or NLAYERS. */
static unsigned layer_of(const struct world *w, uint32_t id)
{
	unsigned k = 0;

	while (k < NLAYERS && w->id[k] != id)
		k++;
	return k;
}

/* Is every page of (r) somewhere? */
static bool is_there(const struct world *w, const struct page_run *r)
{
	unsigned k = layer_of(w, r->layer);

	for (uint64_t i = 0; i < r->npages && r->layer != RUN_ZERO; i++)
		if (k == NLAYERS || r->index + i >= NPAGES ||
		    w->at[k][r->index + i].file == NOWHERE)
			return false;
	return true;
}

/* Runs of pages that follow one another or do not; (ok) that exist. */
static size_t make_runs(struct world *w, struct page_run *r, bool ok)
{
	size_t n = 1 + rnd(w, RUNS);
	uint64_t page = 0;

	for (size_t i = 0; i < n; i++) {
		do {
			uint64_t index = rnd(w, NPAGES);

			r[i] = (struct page_run){.page = page,
			    .npages = 1 + rnd(w, NPAGES - index),
			    .layer = w->id[rnd(w, NLAYERS)],
			    .index = index};
			if (rnd(w, 2) == 0)
				r[i].npages = 1;
			if (rnd(w, 6) == 0)
				r[i].layer = RUN_ZERO;
		} while (ok && !is_there(w, &r[i]));
		page += r[i].npages + rnd(w, 2);
	}
	return n;
}

/* What (out) says of each page is what the array says, joined as it can be. */
static void check_runs(const struct world *w, const struct filetab *t,
    const struct page_run *r, size_t n, const struct page_run *out, size_t nout)
{
	size_t o = 0;
	uint64_t used = 0;

	for (size_t i = 0; i < n; i++)
		for (uint64_t k = 0; k < r[i].npages; k++) {
			const struct where *at;

			assert_true(o < nout);
			assert_int_equal(out[o].page + used, r[i].page + k);
			if (r[i].layer == RUN_ZERO) {
				assert_int_equal(out[o].layer, RUN_ZERO);
			} else {
				at = &w->at[layer_of(w, r[i].layer)]
					   [r[i].index + k];
				assert_true(out[o].layer < t->nfiles);
				assert_int_equal(
				    t->file[out[o].layer], at->file);
				assert_int_equal(out[o].index + used, at->page);
			}
			if (++used == out[o].npages) {
				used = 0;
				o++;
			}
		}
	assert_int_equal(o, nout);
	for (o = 1; o < nout; o++)
		assert_false(
		    out[o - 1].layer == out[o].layer &&
		    out[o - 1].page + out[o - 1].npages == out[o].page &&
		    (out[o].layer == RUN_ZERO ||
			out[o - 1].index + out[o - 1].npages == out[o].index));
}

static int translate(struct world *w, const struct page_run *r, size_t n,
    size_t max, struct filetab *t, struct page_run **out, size_t *nout)
{
	int rc = filetab_want(t, r, n);

	if (rc == 0)
		rc = filetab_fill(t, w->set);
	return rc != 0 ? rc : filetab_runs(t, r, n, max, out, nout);
}

/* Runs that exist are translated; with one allocation failing, then not. */
static void try_good(struct world *w, bool failing)
{
	struct page_run r[RUNS];
	struct page_run *out = NULL;
	size_t n = make_runs(w, r, true);
	size_t nout = 0;

	for (long k = failing ? 0 : -1;; k++) {
		struct filetab t = {0};
		int rc;

		fail_at = k;
		rc = translate(w, r, n, SIZE_MAX, &t, &out, &nout);
		fail_at = -1;
		if (rc == 0) {
			check_runs(w, &t, r, n, out, nout);
			free(out);
			/* One fewer than it takes is too few. */
			assert_int_equal(
			    filetab_runs(&t, r, n, nout - 1, &out, &nout),
			    -E2BIG);
			filetab_free(&t);
			return;
		}
		assert_int_equal(rc, -ENOMEM);
		filetab_free(&t);
	}
}

/* Runs of which some name what is nowhere, or no layer: refused if one does. */
static void try_bad(struct world *w)
{
	struct page_run r[RUNS];
	struct page_run *out = NULL;
	struct filetab t = {0};
	size_t n = make_runs(w, r, false);
	size_t nout = 0;
	struct page_run *bad = &r[rnd(w, n)];
	bool there = true;
	int rc;

	switch (rnd(w, 6)) {
	case 0:
		bad->npages = UINT64_MAX;
		bad->layer = w->id[0];
		break;
	case 1:
		bad->index = UINT64_MAX - rnd(w, 3);
		bad->layer = w->id[0];
		break;
	case 2:
		bad->index = NPAGES + rnd(w, 2);
		break;
	case 3:
		bad->layer = 0x40000000u;
		break;
	case 4:
		bad->layer = 0;
		break;
	default:
		break;
	}
	for (size_t i = 0; i < n; i++)
		there &= is_there(w, &r[i]);
	rc = translate(w, r, n, SIZE_MAX, &t, &out, &nout);
	assert_int_equal(rc, there ? 0 : -EPROTO);
	if (rc == 0)
		check_runs(w, &t, r, n, out, nout);
	free(rc == 0 ? out : NULL);
	filetab_free(&t);
}

/* The registry's own figures are the array's. */
static void check_totals(struct world *w)
{
	struct layer_totals sum;
	uint64_t pieces = 0;
	uint32_t n;

	for (unsigned k = 0; k < NLAYERS; k++) {
		const struct layer_piece *p =
		    layer_pieces(w->set, w->id[k], &n);

		assert_non_null(p);
		pieces += n;
		for (uint32_t i = 0; i < n; i++)
			for (uint64_t j = 0; j < p[i].npages; j++) {
				const struct where *at =
				    &w->at[k][p[i].first + j];

				assert_int_equal(at->file, p[i].file);
				assert_int_equal(at->page, p[i].at + j);
			}
	}
	layer_set_totals(w->set, &sum);
	assert_int_equal(sum.layers, NLAYERS);
	assert_int_equal(sum.pieces, pieces);
}

static void step(struct world *w)
{
	unsigned k = (unsigned)rnd(w, NLAYERS);
	int fd;

	switch (rnd(w, 10)) {
	case 0:
		layer_put(w->set, w->id[k]);
		new_layer(w, k);
		break;
	case 1:
	case 2:
	case 3:
		move(w, k);
		break;
	case 4:
		check_totals(w);
		break;
	case 5:
	case 6:
		try_bad(w);
		break;
	case 7:
		try_good(w, true);
		break;
	default:
		try_good(w, false);
		break;
	}
	while ((fd = layer_reap_take(w->set)) >= 0)
		(void)close(fd);
}

static void against_an_array(void **state)
{
	struct world w = {0};
	struct layer_totals sum;
	struct err e;
	int fd;

	(void)state;
	w.rng = chance_begin("pieces");
	w.set = layer_set_new();
	assert_non_null(w.set);
	for (int i = 0; i < NFILES; i++)
		assert_int_equal(
		    lfile_adopt(w.set, sealed(FPAGES), &w.file[i], &e), 0);
	for (unsigned k = 0; k < NLAYERS; k++)
		new_layer(&w, k);
	for (int i = 0; i < STEPS; i++)
		step(&w);
	for (unsigned k = 0; k < NLAYERS; k++)
		layer_put(w.set, w.id[k]);
	for (int i = 0; i < NFILES; i++)
		lfile_put(w.set, w.file[i]);
	while ((fd = layer_reap_take(w.set)) >= 0)
		(void)close(fd);
	layer_set_totals(w.set, &sum);
	assert_int_equal(sum.layers, 0);
	assert_int_equal(sum.files, 0);
	assert_int_equal(sum.pieces, 0);
	layer_set_free(w.set);
}

/* An adoption for which there is no memory leaves the set as it was, at the
 * size at which its tables grow as at any other. */
static void no_memory_to_adopt(void **state)
{
	struct layer_set *set = layer_set_new();
	uint32_t id[300];
	struct err e;

	(void)state;
	assert_non_null(set);
	for (uint32_t i = 0; i < 300; i++) {
		int fd = sealed(1);
		int rc = -ENOMEM;

		for (long k = 0; rc != 0; k++) {
			fail_at = k;
			rc = layer_adopt(set, fd, 1, &id[i], &e);
			fail_at = -1;
			assert_true(rc == 0 || rc == -ENOMEM);
			assert_int_equal(layers_in(set), i + (rc == 0));
		}
		for (uint32_t j = 0; j <= i; j++)
			assert_int_equal(layer_npages(set, id[j]), 1);
	}
	for (uint32_t i = 0; i < 300; i++)
		layer_put(set, id[i]);
	layer_set_free(set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(against_an_array),
	    cmocka_unit_test(no_memory_to_adopt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
