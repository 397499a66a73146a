/* SPDX-License-Identifier: MIT */
#include "vmm/layer/tidy.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/layer/layer_copy.h"

/* A file as it was at the begin. */
struct tfile {
	uint32_t file;
	uint64_t npages;
	uint64_t used;   /* pages that the kernel has for it */
	uint64_t live;   /* pages to be copied, if it is chosen */
	uint64_t serial; /* 0: what is live of it is not found */
	uint32_t whose;
	int fd;
	bool may_move; /* and is held */
	bool pinned;
	bool chosen;
};

/* A layer as it was at the begin. */
struct tlayer {
	uint32_t id;
	bool whole; /* somebody holds it otherwise than by a map */
	bool moves; /* has a piece in a chosen file */
	uint32_t npieces;
	size_t first; /* of its pieces */
	uint32_t nto;
	struct layer_piece *to; /* its pieces afterwards */
};

/* Pages of a layer that are reachable. */
struct extent {
	uint32_t layer;
	uint32_t index;
	uint32_t npages;
};

struct tidy {
	struct layer_set *set;
	struct map_store *st;
	bool mark;
	struct map_mark maps;
	struct tfile *file; /* sorted by number */
	uint32_t nfiles;
	struct tlayer *layer; /* sorted by id, once it runs */
	uint32_t nlayers;
	struct layer_piece *piece; /* once it runs, file is the number here */
	size_t npieces;
	struct extent *extent; /* sorted, apart from each other */
	size_t nextents;
	size_t extents_cap;
	struct page_run *run; /* what is copied, in order */
	size_t nruns;
	size_t runs_cap;
	struct layer_copied copied;
	uint32_t whose; /* what is copied */
	struct tidy_result res;
	const atomic_bool *cancel;
	bool ran;
	int rc;
	struct err e;
};

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
		struct tfile *f = &t->file[t->nfiles++];
		struct lfile_stat st;

		lfile_stat(t->set, file, &st);
		*f = (struct tfile){
		    .file = file,
		    .npages = st.npages,
		    .used = st.bytes / PAGE_SIZE,
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

_Static_assert(offsetof(struct tfile, file) == 0, "by_number() sorts them");
_Static_assert(offsetof(struct tlayer, id) == 0, "by_number() sorts them");

static void note_layer(struct tidy *t, uint32_t id)
{
	struct tlayer *l = &t->layer[t->nlayers++];
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
	free(t->run);
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

/* --- mark ----------------------------------------------------------------- */

static bool cancelled(const struct tidy *t)
{
	return t->cancel != NULL && atomic_load(t->cancel);
}

static int add_extent(
    void *ctx, uint32_t layer, uint64_t index, uint64_t npages)
{
	struct tidy *t = ctx;

	if (t->nextents == t->extents_cap) {
		size_t cap = t->extents_cap == 0 ? 1024 : t->extents_cap * 2;
		struct extent *x;

		if (cap > TIDY_EXTENTS_MAX)
			return -ENOMEM;
		if (cancelled(t))
			return -ECANCELED;
		x = realloc(t->extent, cap * sizeof(*x));
		if (x == NULL)
			return -ENOMEM;
		t->extent = x;
		t->extents_cap = cap;
	}
	t->extent[t->nextents++] = (struct extent){
	    .layer = layer,
	    .index = (uint32_t)index,
	    .npages = (uint32_t)npages,
	};
	return 0;
}

_Static_assert(LAYER_NPAGES_MAX < UINT32_MAX, "pages of a layer fit an extent");

static int by_place(const void *x, const void *y)
{
	const struct extent *a = x;
	const struct extent *b = y;

	if (a->layer != b->layer)
		return a->layer < b->layer ? -1 : 1;
	return a->index < b->index ? -1 : a->index > b->index;
}

/* Sort the extents and unite those that touch or overlap. */
static void settle_extents(struct tidy *t)
{
	size_t n = 0;

	if (t->nextents == 0)
		return;
	qsort(t->extent, t->nextents, sizeof(*t->extent), by_place);
	for (size_t i = 1; i < t->nextents; i++) {
		struct extent *last = &t->extent[n];
		const struct extent *x = &t->extent[i];

		if (x->layer == last->layer &&
		    x->index <= last->index + last->npages) {
			uint32_t end = x->index + x->npages;

			if (end > last->index + last->npages)
				last->npages = end - last->index;
		} else {
			t->extent[++n] = *x;
		}
	}
	t->nextents = n + 1;
}

/* Every page of (l) that has a piece. */
static int add_whole(struct tidy *t, const struct tlayer *l)
{
	int rc = 0;

	for (uint32_t i = 0; i < l->npieces && rc == 0; i++) {
		const struct layer_piece *p = &t->piece[l->first + i];

		rc = add_extent(t, l->id, p->first, p->npages);
	}
	return rc;
}

/* What is reachable; without a mark, everything. */
static int find_live(struct tidy *t)
{
	int rc = t->mark ? map_mark_run(&t->maps, add_extent, t) : 0;

	for (uint32_t i = 0; i < t->nlayers && rc == 0; i++)
		if (t->layer[i].whole || !t->mark)
			rc = add_whole(t, &t->layer[i]);
	if (rc == 0)
		settle_extents(t);
	return rc;
}

/* --- what is live of which file ------------------------------------------- */

typedef int part_fn(struct tidy *t, struct tlayer *l,
    const struct layer_piece *p, uint64_t first, uint64_t npages);

/* Call (fn) for what is reachable of each piece of (l), in order. (*x) is the
 * first of its extents, and moves behind them. */
static int each_part(struct tidy *t, struct tlayer *l, size_t *x, part_fn *fn)
{
	const struct extent *e = t->extent;
	uint32_t i = 0;

	while (*x < t->nextents && e[*x].layer < l->id)
		++*x;
	while (*x < t->nextents && e[*x].layer == l->id && i < l->npieces) {
		const struct layer_piece *p = &t->piece[l->first + i];
		uint64_t from = e[*x].index;
		uint64_t to = from + e[*x].npages;
		uint64_t end = p->first + p->npages;
		int rc = 0;

		if (from < p->first)
			from = p->first;
		if (to > end)
			to = end;
		if (from < to)
			rc = fn(t, l, p, from, to - from);
		if (rc != 0)
			return rc;
		if (e[*x].index + (uint64_t)e[*x].npages >= end)
			i++;
		else
			++*x;
	}
	return 0;
}

static int each_layer(struct tidy *t, part_fn *fn)
{
	size_t x = 0;
	int rc = 0;

	for (uint32_t i = 0; i < t->nlayers && rc == 0; i++)
		rc = each_part(t, &t->layer[i], &x, fn);
	return rc;
}

static int count_part(struct tidy *t, struct tlayer *l,
    const struct layer_piece *p, uint64_t first, uint64_t npages)
{
	(void)l;
	(void)first;
	t->file[p->file].live += npages;
	return 0;
}

static void count_live(struct tidy *t)
{
	(void)each_layer(t, count_part);
	for (uint32_t i = 0; i < t->nfiles; i++) {
		struct tfile *f = &t->file[i];

		/* A page may be a hole: somebody named what is not there. */
		t->res.live_bytes +=
		    (f->live < f->used ? f->live : f->used) * PAGE_SIZE;
	}
	t->res.marked = t->mark;
}

/* --- which files are rewritten -------------------------------------------- */

struct choice {
	uint64_t room;  /* pages that the job may still copy */
	uint32_t whose; /* files it joins; 0: none yet */
};

static bool choose(struct tidy *t, struct choice *c, struct tfile *f)
{
	/* The first in any case: a file of any size is compacted at last. */
	if ((f->live > c->room && c->room != TIDY_JOB_NPAGES) ||
	    (c->whose != 0 && c->whose != f->whose)) {
		t->res.more = true;
		return false;
	}
	c->whose = f->whose;
	c->room -= f->live < c->room ? f->live : c->room;
	f->chosen = true;
	t->res.from_files++;
	return true;
}

static bool half_dead(const struct tfile *f)
{
	return f->may_move && 2 * f->live < f->used;
}

static void choose_dead(struct tidy *t, struct choice *c)
{
	for (uint32_t i = 0; t->mark && i < t->nfiles; i++)
		if (half_dead(&t->file[i]))
			(void)choose(t, c, &t->file[i]);
}

static bool may_merge(const struct tidy *t, const struct tfile *f)
{
	return f->may_move && !f->pinned && !f->chosen &&
	       f->live <= TIDY_MERGE_NPAGES && f->used <= TIDY_MERGE_NPAGES &&
	       (t->mark || f->used == f->npages);
}

static int by_live(const void *x, const void *y)
{
	const struct tfile *const *a = x;
	const struct tfile *const *b = y;

	if ((*a)->whose != (*b)->whose)
		return (*a)->whose < (*b)->whose ? -1 : 1;
	return (*a)->live < (*b)->live ? -1 : (*a)->live > (*b)->live;
}

/*
 * How many of (n) files, sorted by size, become one: half of them or more, the
 * last no larger than those before it together, so that no page's file less
 * than doubles. There are at most log2(TIDY_MERGE_NPAGES) that are larger.
 */
static uint32_t merge_count(struct tfile *const *f, uint32_t n)
{
	uint64_t sum = 0;
	uint32_t good = 0;

	for (uint32_t k = 0; k < n; k++) {
		if (sum + f[k]->live > TIDY_JOB_NPAGES)
			break;
		if (f[k]->live <= sum)
			good = k + 1;
		sum += f[k]->live;
		if (good > n / 2)
			break;
	}
	return good;
}

/* Of (*n) files, sorted by whom they are of, leave those of whom there are
 * most. */
static struct tfile **most_of_one(struct tfile **f, uint32_t *n)
{
	uint32_t first = 0;
	uint32_t most = 0;
	uint32_t at = 0;

	for (uint32_t i = 0; i < *n; i++) {
		if (f[i]->whose != f[first]->whose)
			first = i;
		if (i + 1 - first > most) {
			most = i + 1 - first;
			at = first;
		}
	}
	*n = most;
	return f + at;
}

static int choose_small(struct tidy *t, struct choice *c)
{
	struct tfile **all;
	struct tfile **f;
	uint32_t n = 0;
	uint32_t k;

	all = calloc((size_t)t->nfiles + 1, sizeof(struct tfile *));
	if (all == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < t->nfiles; i++)
		if (may_merge(t, &t->file[i]))
			all[n++] = &t->file[i];
	qsort(all, n, sizeof(struct tfile *), by_live);
	f = most_of_one(all, &n);
	t->res.large_files = t->nfiles - t->res.from_files - n;
	k = n > TIDY_FILES ? merge_count(f, n) : 0;
	for (uint32_t i = 0; i < k && choose(t, c, f[i]); i++)
		;
	free(all);
	return 0;
}

/* --- copying them --------------------------------------------------------- */

static int add_run(struct tidy *t, const struct page_run *r)
{
	struct page_run *last = t->nruns == 0 ? NULL : &t->run[t->nruns - 1];

	if (last != NULL && last->layer == r->layer &&
	    last->index + last->npages == r->index) {
		last->npages += r->npages;
		return 0;
	}
	if (t->run == NULL || t->nruns == t->runs_cap) {
		size_t cap = t->runs_cap == 0 ? 256 : t->runs_cap * 2;
		struct page_run *p = realloc(t->run, cap * sizeof(*p));

		if (p == NULL)
			return -ENOMEM;
		t->run = p;
		t->runs_cap = cap;
	}
	t->run[t->nruns++] = *r;
	return 0;
}

/* The pieces that (l) will have, at most: one that stays is counted with each
 * of its parts. */
static int count_to(struct tidy *t, struct tlayer *l,
    const struct layer_piece *p, uint64_t first, uint64_t npages)
{
	(void)t;
	(void)p;
	(void)first;
	(void)npages;
	l->nto++;
	return 0;
}

/* A layer of which nothing is reachable is about to go: it stays as it is, as a
 * layer has a piece. */
static bool moves(const struct tidy *t, const struct tlayer *l)
{
	for (uint32_t i = 0; l->nto > 0 && i < l->npieces; i++)
		if (t->file[t->piece[l->first + i].file].chosen)
			return true;
	return false;
}

/* A piece of the new file, or the one that stays as it was. */
static int add_to(struct tidy *t, struct tlayer *l, const struct layer_piece *p,
    uint64_t first, uint64_t npages)
{
	struct layer_piece *last = l->nto == 0 ? NULL : &l->to[l->nto - 1];
	struct page_run r = {.page = t->res.moved_bytes / PAGE_SIZE,
	    .npages = npages,
	    .index = p->at + (first - p->first),
	    .layer = p->file};

	if (l->to == NULL) /* it does not move */
		return 0;
	if (!t->file[p->file].chosen) {
		if (last == NULL || last->first != p->first)
			l->to[l->nto++] = *p;
		return 0;
	}
	l->to[l->nto++] = (struct layer_piece){
	    .first = first, .npages = npages, .at = r.page, .file = t->nfiles};
	t->res.moved_bytes += npages * PAGE_SIZE;
	return add_run(t, &r);
}

static int plan(struct tidy *t)
{
	int rc = each_layer(t, count_to);

	for (uint32_t i = 0; i < t->nlayers && rc == 0; i++) {
		struct tlayer *l = &t->layer[i];

		l->moves = moves(t, l);
		if (!l->moves)
			continue;
		l->to = malloc(l->nto * sizeof(*l->to));
		l->nto = 0;
		if (l->to == NULL)
			rc = -ENOMEM;
	}
	return rc == 0 ? each_layer(t, add_to) : rc;
}

static int copy(struct tidy *t)
{
	int *fd = calloc((size_t)t->nfiles + 1, sizeof(*fd));
	struct layer_job job = {
	    .layer_fd = fd, .nfds = t->nfiles, .cancel = t->cancel};
	struct page_run *to = calloc(t->nruns + 1, sizeof(*to));
	int rc = -ENOMEM;

	if (fd != NULL && to != NULL) {
		for (uint32_t i = 0; i < t->nfiles; i++)
			fd[i] = t->file[i].fd;
		rc = layer_copy_runs(&job, (struct run_list){t->run, t->nruns},
		    to, &t->copied, &t->e);
	}
	free(fd);
	free(to);
	return rc;
}

/* From files of the set to those that were noted, by their numbers here. */
static void number_files(struct tidy *t)
{
	for (size_t i = 0; i < t->npieces; i++) {
		const struct tfile *f = bsearch(&t->piece[i].file, t->file,
		    t->nfiles, sizeof(*t->file), by_number);

		t->piece[i].file = (uint32_t)(f - t->file);
	}
}

static int run(struct tidy *t)
{
	struct choice c = {.room = TIDY_JOB_NPAGES};
	int rc;

	number_files(t);
	qsort(t->layer, t->nlayers, sizeof(*t->layer), by_number);
	rc = find_live(t);
	if (rc != 0)
		return rc;
	count_live(t);
	choose_dead(t, &c);
	rc = choose_small(t, &c);
	t->whose = c.whose;
	if (rc == 0 && t->res.from_files > 0)
		rc = plan(t);
	if (rc == 0 && t->nruns > 0)
		rc = copy(t);
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
static void swap(struct tidy *t, struct tlayer *l, uint32_t file)
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
		const struct tfile *f = &t->file[i];

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
