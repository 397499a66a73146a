/* SPDX-License-Identifier: MIT */
#include "vmm/layer/tidy_job.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- begin ---------------------------------------------------------------- */

static int note_files(struct tidy *t, const struct tidy_conf *conf)
{
	struct layer_totals sum;
	uint32_t pos = 0;
	uint32_t file;

	layer_set_totals(t->set, &sum);
	t->file = calloc((size_t)sum.files + 1, sizeof(*t->file));
	if (t->file == NULL)
		return -ENOMEM;
	while (lfile_next(t->set, &pos, &file)) {
		struct tidy_file *f = &t->file[t->nfiles++];
		struct lfile_stat st;

		lfile_stat(t->set, file, &st);
		*f = (struct tidy_file){
		    .file = file,
		    .npages = st.npages,
		    .used = st.bytes / PAGE_SIZE,
		    .live = st.owned ? st.bytes / PAGE_SIZE : 0,
		    .serial = st.owned ? 0 : st.serial,
		    .fd = lfile_fd(t->set, file),
		    .whose = st.whose,
		    .pinned = st.pins != 0,
		    .may_move =
			st.npieces != 0 && st.whose != 0 && !st.opened &&
			!st.owned &&
			(st.pins == 0 || (conf->movable != NULL &&
					     conf->movable(conf->ctx, file))),
		};
		if (f->may_move)
			lfile_get(t->set, file);
	}
	return 0;
}

static int by_number(const void *x, const void *y)
{
	const uint32_t *a = x;
	const uint32_t *b = y;

	return *a < *b ? -1 : *a > *b;
}

_Static_assert(offsetof(struct tidy_file, file) == 0, "by_number() sorts them");
_Static_assert(offsetof(struct tidy_layer, id) == 0, "by_number() sorts them");

static void note_layer(struct tidy *t, uint32_t id)
{
	struct tidy_layer *l = &t->layer[t->nlayers++];
	const struct layer_piece *p = layer_pieces(t->set, id, &l->npieces);

	l->id = id;
	l->whole = layer_held_apart(t->set, id);
	l->first = t->npieces;
	memcpy(&t->piece[t->npieces], p, l->npieces * sizeof(*p));
	t->npieces += l->npieces;
}

static int note_layers(struct tidy *t)
{
	struct layer_totals sum;
	uint32_t pos = 0;
	uint32_t id;

	layer_set_totals(t->set, &sum);
	t->layer = calloc((size_t)sum.layers + 1, sizeof(*t->layer));
	t->piece = calloc(sum.pieces + 1, sizeof(*t->piece));
	if (t->layer == NULL || t->piece == NULL)
		return -ENOMEM;
	while (layer_next(t->set, &pos, &id))
		if (layer_state(t->set, id) == LAYER_SEALED)
			note_layer(t, id);
	return 0;
}

static void let_go(struct tidy *t)
{
	for (uint32_t i = 0; i < t->nfiles; i++)
		if (t->file[i].may_move)
			lfile_put(t->set, t->file[i].file);
	if (t->mark)
		map_mark_end(t->st, &t->maps);
	for (uint32_t i = 0; i < t->nlayers; i++)
		free(t->layer[i].to);
	if (t->copied.fd >= 0)
		(void)close(t->copied.fd);
	free(t->file);
	free(t->layer);
	free(t->piece);
	free(t->extent);
	free(t->runs.r);
	free(t);
}

int tidy_begin(struct layer_set *set, struct map_store *st,
    const struct tidy_conf *conf, struct tidy **out)
{
	struct tidy *t = calloc(1, sizeof(*t));
	int rc;

	if (t == NULL)
		return -ENOMEM;
	t->set = set;
	t->st = st;
	t->runs.max = SIZE_MAX;
	t->copied.fd = -1;
	t->res.nodes = st->nnodes;
	rc = note_files(t, conf);
	if (rc == 0)
		rc = note_layers(t);
	if (rc == 0 && conf->mark) {
		rc = map_mark_begin(st, &t->maps);
		t->mark = rc == 0;
	}
	if (rc != 0) {
		let_go(t);
		return rc;
	}
	*out = t;
	return 0;
}

/* --- run ------------------------------------------------------------------ */

/* From files of the set to those that were noted, by their numbers here. */
static void number_files(struct tidy *t)
{
	for (size_t i = 0; i < t->npieces; i++) {
		const struct tidy_file *f = bsearch(&t->piece[i].file, t->file,
		    t->nfiles, sizeof(*t->file), by_number);

		t->piece[i].file = (uint32_t)(f - t->file);
	}
}

static int run(struct tidy *t)
{
	int rc;

	number_files(t);
	qsort(t->layer, t->nlayers, sizeof(*t->layer), by_number);
	rc = tidy_find_live(t);
	if (rc == 0)
		rc = tidy_choose(t);
	if (rc == 0 && t->res.from_files > 0)
		rc = tidy_copy(t);
	return rc;
}

void tidy_run(struct tidy *t, const atomic_bool *cancel)
{
	t->cancel = cancel;
	t->ran = true;
	t->rc = run(t);
}

/* --- end ------------------------------------------------------------------ */

/* The pieces of (l), if it is still there, are in new file (file) now. */
static void swap(struct tidy *t, struct tidy_layer *l, uint32_t file)
{
	uint32_t n;

	if (!l->moves || layer_pieces(t->set, l->id, &n) == NULL)
		return;
	assert(n == l->npieces); /* only one job at a time moves pieces */
	for (uint32_t i = 0; i < l->nto; i++)
		l->to[i].file = l->to[i].file == t->nfiles
				    ? file
				    : t->file[l->to[i].file].file;
	layer_move(t->set, l->id, l->to, l->nto);
	l->to = NULL;
}

static int swap_all(struct tidy *t)
{
	bool copied = t->copied.fd >= 0;
	uint32_t file = 0;
	int rc = 0;

	if (copied)
		rc = lfile_adopt(t->set, t->copied.fd, &file, &t->e);
	t->copied.fd = -1;
	if (rc != 0)
		return rc;
	for (uint32_t i = 0; i < t->nlayers; i++)
		swap(t, &t->layer[i], file);
	if (copied) {
		lfile_belongs(t->set, file, t->whose);
		lfile_put(t->set, file);
	}
	return 0;
}

static void tell_live(const struct tidy *t)
{
	for (uint32_t i = 0; i < t->nfiles; i++) {
		const struct tidy_file *f = &t->file[i];

		if (f->serial != 0)
			lfile_counted(
			    t->set, f->file, f->serial, f->live * PAGE_SIZE);
	}
}

int tidy_end(struct tidy *t, struct tidy_result *out, struct err *e)
{
	int rc = t->ran ? t->rc : -ECANCELED;

	if (t->res.marked)
		tell_live(t);
	if (rc == 0)
		rc = swap_all(t);
	if (rc != 0) {
		t->res.from_files = 0;
		t->res.moved_bytes = 0;
		(void)err_set(e, rc, "layers were not moved: %s",
		    t->e.code != 0 ? t->e.msg : strerror(-rc));
	}
	*out = t->res;
	let_go(t);
	return rc;
}
