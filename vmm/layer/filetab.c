/* SPDX-License-Identifier: MIT */
#include "vmm/layer/filetab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/map/runs.h"

#define WANT_START 16

struct filetab_layer {
	uint32_t id;
	uint32_t npieces;
	size_t first; /* of its pieces */
};

/* --- the layers that are wanted ------------------------------------------- */

/* Where (id) is, or would be put. */
static uint32_t *want_at(const struct filetab *t, uint32_t id)
{
	uint32_t i = (id * 2654435761u) & (t->want_cap - 1);

	while (t->want[i] != 0 && t->want[i] != id)
		i = (i + 1) & (t->want_cap - 1);
	return &t->want[i];
}

static int want_grow(struct filetab *t)
{
	struct filetab bigger = {
	    .want_cap = t->want_cap == 0 ? WANT_START : t->want_cap * 2};

	bigger.want = calloc(bigger.want_cap, sizeof(*bigger.want));
	if (bigger.want == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < t->want_cap; i++)
		if (t->want[i] != 0)
			*want_at(&bigger, t->want[i]) = t->want[i];
	free(t->want);
	t->want = bigger.want;
	t->want_cap = bigger.want_cap;
	return 0;
}

static int want(struct filetab *t, uint32_t id)
{
	uint32_t *at;

	if (2 * t->nwant >= t->want_cap && want_grow(t) != 0)
		return -ENOMEM;
	at = want_at(t, id);
	t->nwant += *at == 0;
	*at = id;
	return 0;
}

int filetab_want(struct filetab *t, const struct page_run *run, size_t n)
{
	uint32_t last = RUN_ZERO;

	for (size_t i = 0; i < n; i++) {
		if (run[i].layer == RUN_ZERO || run[i].layer == last)
			continue;
		last = run[i].layer;
		if (last == 0 || want(t, last) != 0)
			return last == 0 ? -EPROTO : -ENOMEM;
	}
	return 0;
}

/* --- looking them up ------------------------------------------------------ */

static int by_id(const void *x, const void *y)
{
	const struct filetab_layer *a = x;
	const struct filetab_layer *b = y;

	return a->id < b->id ? -1 : a->id > b->id;
}

/* The layers, sorted, and how many pieces they have. */
static int fill_layers(
    struct filetab *t, const struct layer_set *set, size_t *npieces)
{
	*npieces = 0;
	for (uint32_t i = 0; i < t->want_cap; i++) {
		struct filetab_layer *l = &t->layer[t->nlayers];

		if (t->want[i] == 0)
			continue;
		l->id = t->want[i];
		if (layer_pieces(set, l->id, &l->npieces) == NULL)
			return -EPROTO;
		if (layer_state(set, l->id) == LAYER_OWNED)
			return -EBUSY;
		l->first = *npieces;
		*npieces += l->npieces;
		t->nlayers++;
	}
	return 0;
}

/* Number the files of the pieces in ascending order, and hold them. */
static int fill_files(struct filetab *t, struct layer_set *set, size_t npieces)
{
	uint32_t *number = calloc(FILES_MAX, sizeof(*number));

	if (number == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < npieces; i++)
		number[t->piece[i].file] = 1;
	t->set = set;
	for (uint32_t f = 0; f < FILES_MAX; f++) {
		if (number[f] == 0)
			continue;
		number[f] = t->nfiles;
		lfile_get(set, f);
		t->file[t->nfiles] = f;
		t->fd[t->nfiles++] = lfile_fd(set, f);
	}
	for (size_t i = 0; i < npieces; i++)
		t->piece[i].file = number[t->piece[i].file];
	free(number);
	return 0;
}

int filetab_fill(struct filetab *t, struct layer_set *set)
{
	size_t npieces;
	size_t most;
	int rc;

	t->layer = calloc((size_t)t->nwant + 1, sizeof(*t->layer));
	if (t->layer == NULL)
		return -ENOMEM;
	rc = fill_layers(t, set, &npieces);
	if (rc != 0)
		return rc;
	most = npieces < FILES_MAX ? npieces : FILES_MAX;
	t->piece = calloc(npieces + 1, sizeof(*t->piece));
	t->file = calloc(most + 1, sizeof(*t->file));
	t->fd = calloc(most + 1, sizeof(*t->fd));
	if (t->piece == NULL || t->file == NULL || t->fd == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < t->nlayers; i++) {
		uint32_t n;
		const struct layer_piece *p =
		    layer_pieces(set, t->layer[i].id, &n);

		memcpy(&t->piece[t->layer[i].first], p, n * sizeof(*p));
	}
	qsort(t->layer, t->nlayers, sizeof(*t->layer), by_id);
	return fill_files(t, set, npieces);
}

void filetab_free(struct filetab *t)
{
	for (uint32_t i = 0; t->set != NULL && i < t->nfiles; i++)
		lfile_put(t->set, t->file[i]);
	free(t->fd);
	free(t->file);
	free(t->layer);
	free(t->piece);
	free(t->want);
	*t = (struct filetab){0};
}

/* --- translating ---------------------------------------------------------- */

/* The last of (l)'s pieces that begins at or before (index). */
static size_t piece_at(
    const struct filetab *t, const struct filetab_layer *l, uint64_t index)
{
	size_t lo = l->first;
	size_t hi = l->first + l->npieces;

	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;

		if (t->piece[mid].first <= index)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

static int add_pieces(const struct filetab *t, const struct filetab_layer *l,
    struct page_run r, struct runs *out)
{
	size_t i = piece_at(t, l, r.index);

	while (r.npages > 0) {
		const struct layer_piece *p = &t->piece[i++];
		struct page_run to = r;
		uint64_t off = r.index - p->first;
		int rc;

		if (i > l->first + l->npieces || r.index < p->first ||
		    off >= p->npages)
			return -EPROTO;
		if (to.npages > p->npages - off)
			to.npages = p->npages - off;
		to.index = p->at + off;
		to.layer = p->file;
		rc = runs_join(out, &to);
		if (rc != 0)
			return rc;
		r.page += to.npages;
		r.index += to.npages;
		r.npages -= to.npages;
	}
	return 0;
}

static int add_all(const struct filetab *t, const struct page_run *run,
    size_t n, struct runs *out)
{
	const struct filetab_layer *l = NULL;
	int rc = 0;

	for (size_t i = 0; i < n && rc == 0; i++) {
		struct filetab_layer key = {.id = run[i].layer};

		if (run[i].layer == RUN_ZERO) {
			rc = runs_join(out, &run[i]);
			continue;
		}
		if (l == NULL || l->id != key.id)
			l = bsearch(&key, t->layer, t->nlayers,
			    sizeof(*t->layer), by_id);
		rc = l == NULL ? -EPROTO : add_pieces(t, l, run[i], out);
	}
	return rc;
}

int filetab_runs(const struct filetab *t, const struct page_run *run, size_t n,
    size_t max, struct page_run **out, size_t *nout)
{
	struct runs all = {.max = max};
	int rc = add_all(t, run, n, &all);

	if (rc != 0) {
		free(all.r);
		return rc;
	}
	*out = all.r;
	*nout = all.n;
	return 0;
}
