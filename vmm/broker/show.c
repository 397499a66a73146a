/* SPDX-License-Identifier: MIT */
/*
 * snapshot.show: what every byte of one snapshot is.
 *
 * A worker walks its map, compares it with every other map of its length, and
 * finds what is exclusive. What is in the files of its layers besides, who pins
 * those, and what of them nobody reaches any more (as of the last mark) is
 * known without a walk, and read at the end, at one instant.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shared/bits.h"
#include "vmm/broker/internal.h"

#define SHOW_FEW 64u

struct show_op {
	struct work work;
	struct broker *b;
	struct ctl_req *rq;
	struct snap *s;
	struct map map;
	char name[FIRN_NAME_MAX];
	/* Every other map of the same pages, held: in the order that they were
	 * made, from some time on and round, until the worker sorts them. */
	struct map *other;
	uint32_t nother;
	uint32_t near;      /* the first that was made later, in (other) */
	struct map form[2]; /* its laid and its opened form, where there are */
	uint32_t nforms;
	uint64_t *alone; /* a bit a page that no other map shares */
	/* Once they are few: the pages themselves. */
	struct page_run few[SHOW_FEW];
	uint32_t nfew;
	bool listed;
	uint64_t extents, zero, exclusive;
	uint64_t copies; /* pages that its forms have elsewhere */
	struct map_nodes nodes;
	struct filetab tab; /* of layers seen, which are all that it is for */
	uint32_t nown;      /* of its own map */
	int rc;
};

static bool show_stopped(void *ctx)
{
	struct show_op *op = ctx;

	return worker_cancelled(&op->work);
}

static int show_run(void *ctx, const struct page_run *r)
{
	struct show_op *op = ctx;

	if (show_stopped(op))
		return -ECANCELED;
	if (r->layer == RUN_ZERO) {
		op->zero += r->npages;
		return 0;
	}
	op->extents++;
	for (uint64_t i = 0; i < r->npages; i++)
		bit_set(op->alone, r->page + i);
	return filetab_want(&op->tab, r, 1);
}

/* What lies between two differing runs is shared. */
struct shared {
	uint64_t *alone;
	uint64_t next;
};

static int not_shared(void *ctx, uint64_t page, uint64_t npages)
{
	struct shared *x = ctx;

	bits_clear(x->alone, x->next, page);
	x->next = page + npages;
	return 0;
}

static int form_run(void *ctx, const struct page_run *r)
{
	struct show_op *op = ctx;

	return show_stopped(op) ? -ECANCELED : filetab_want(&op->tab, r, 1);
}

static int count_copies(void *ctx, uint64_t page, uint64_t npages)
{
	struct show_op *op = ctx;

	(void)page;
	op->copies += npages;
	return 0;
}

static int count_forms(struct show_op *op)
{
	int rc = 0;

	op->nown = op->tab.nwant;
	for (uint32_t i = 0; i < op->nforms && rc == 0; i++) {
		rc = map_walk(&op->form[i], 0, op->map.npages, form_run, op);
		if (rc == 0)
			rc = map_diff_until(&op->map, &op->form[i],
			    count_copies, show_stopped, op, NULL);
	}
	return rc;
}

static uint64_t count_alone(const struct show_op *op)
{
	return bits_count(op->alone, (op->map.npages + 63) / 64);
}

/* List them, if they are few by now. */
static void list_few(struct show_op *op)
{
	uint64_t n = op->map.npages;

	if (count_alone(op) > SHOW_FEW)
		return;
	for (uint64_t i = bits_next(op->alone, n, 0, true); i < n;
	     i = bits_next(op->alone, n, i + 1, true))
		(void)map_lookup(&op->map, i, &op->few[op->nfew++]);
	op->listed = true;
}

/* Those that (other) has as well are not alone. */
static void look_up_few(struct show_op *op, const struct map *other)
{
	for (uint32_t i = op->nfew; i-- > 0;) {
		const struct page_run *p = &op->few[i];
		struct page_run r;

		if (map_lookup(other, p->page, &r) == 0 &&
		    r.layer == p->layer && r.index == p->index)
			op->few[i] = op->few[--op->nfew];
	}
}

static int compare(struct show_op *op, const struct map *other)
{
	struct shared x = {.alone = op->alone};
	int rc = map_diff(&op->map, other, not_shared, &x, NULL);

	bits_clear(op->alone, x.next, op->map.npages);
	if (rc == 0)
		list_few(op);
	return rc;
}

/* Put the others in the order of how long before or after it they were made:
 * what is near in time is mostly a near relative, and shares much. */
static int sort_others(struct show_op *op)
{
	uint32_t n = op->nother;
	struct map *to = calloc((size_t)n + 1, sizeof(*to));

	if (to == NULL)
		return -ENOMEM;
	for (uint32_t k = 0; k < n; k++)
		to[k] = op->other[(k % 2 == 0 ? op->near + k / 2
					      : op->near + n - 1 - k / 2) %
				  n];
	free(op->other);
	op->other = to;
	return 0;
}

/* Near relatives leave few pages: to compare with each of the others as a
 * whole would cost what they all differ by. */
static int find_alone(struct show_op *op)
{
	int rc = 0;

	for (uint32_t i = 0; i < op->nother && rc == 0; i++) {
		if (op->listed)
			look_up_few(op, &op->other[i]);
		else
			rc = compare(op, &op->other[i]);
		if (worker_cancelled(&op->work))
			rc = -ECANCELED;
	}
	op->exclusive = op->listed ? op->nfew : count_alone(op);
	return rc;
}

static void show_run_work(struct work *w)
{
	struct show_op *op = (struct show_op *)w;

	op->rc = sort_others(op);
	if (op->rc == 0)
		op->rc = map_walk(&op->map, 0, op->map.npages, show_run, op);
	if (op->rc == 0)
		op->rc = count_forms(op);
	if (op->rc == 0)
		op->rc = map_count_nodes(&op->map, op->other, op->nother,
		    show_stopped, op, &op->nodes);
	if (op->rc == 0)
		op->rc = find_alone(op);
}

static void show_free(struct show_op *op)
{
	struct broker *b = op->b;

	map_put_all(&b->store, op->other, op->nother);
	for (uint32_t i = 0; i < op->nforms; i++)
		map_put(&b->store, &op->form[i]);
	map_put(&b->store, &op->map);
	snap_put(b, op->s);
	free(op->other);
	free(op->alone);
	filetab_free(&op->tab);
	free(op);
	layers_reap(b);
}

/* What the files of its layers hold. */
struct show_files {
	uint32_t files;
	uint64_t bytes, dead, pinned, dead_pinned;
	struct pinned by;
};

/* Which files they are: a bit each. */
static void find_files(const struct show_op *op, uint64_t *bits)
{
	/* Of 0, where nothing was wanted, there is none. */
	for (uint32_t i = 0; i < op->tab.want_cap; i++) {
		uint32_t n;
		const struct layer_piece *p =
		    layer_pieces(op->b->layers, op->tab.want[i], &n);

		for (; n > 0; n--, p++)
			bit_set(bits, p->file);
	}
}

static void add_file(
    struct show_files *f, const struct lfile_stat *st, uint64_t vms)
{
	f->files++;
	f->bytes += st->bytes;
	f->dead += st->bytes - st->live;
	if (st->pins != 0 || st->opened) {
		f->pinned += st->bytes;
		f->dead_pinned += st->bytes - st->live;
	}
	pinned_add(&f->by, st, vms);
}

static int count_files(const struct show_op *op, struct show_files *f)
{
	uint64_t bits[FILES_MAX / 64] = {0};
	uint64_t *by = pinned_by_vms(op->b);
	struct lfile_stat st;

	if (by == NULL)
		return -ENOMEM;
	find_files(op, bits);
	for (uint64_t i = bits_next(bits, FILES_MAX, 0, true); i < FILES_MAX;
	     i = bits_next(bits, FILES_MAX, i + 1, true)) {
		lfile_stat(op->b->layers, (uint32_t)i, &st);
		add_file(f, &st, by[i]);
	}
	free(by);
	return 0;
}

static json_t *show_json(const struct show_op *op, const struct show_files *f)
{
	uint64_t live = op->map.npages - op->zero;
	json_t *j = snap_json(op->b, op->s, op->name);

	(void)json_object_update_new(
	    j, json_pack("{s:I,s:I,s:I,s:I,s:I}", "layers",
		   (json_int_t)op->nown, "extents", (json_int_t)op->extents,
		   "exclusive_pages", (json_int_t)op->exclusive, "shared_pages",
		   (json_int_t)(live - op->exclusive), "zero_pages",
		   (json_int_t)op->zero));
	(void)json_object_update_new(
	    j, json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "live_bytes",
		   (json_int_t)(live * PAGE_SIZE), "exclusive_bytes",
		   (json_int_t)(op->exclusive * PAGE_SIZE), "shared_bytes",
		   (json_int_t)((live - op->exclusive) * PAGE_SIZE),
		   "copy_bytes", (json_int_t)(op->copies * PAGE_SIZE),
		   "node_bytes", (json_int_t)op->nodes.bytes,
		   "exclusive_node_bytes", (json_int_t)op->nodes.exclusive));
	(void)json_object_update_new(
	    j, json_pack("{s:I,s:I,s:I,s:I,s:I,s:o}", "files",
		   (json_int_t)f->files, "file_bytes", (json_int_t)f->bytes,
		   "dead_bytes", (json_int_t)f->dead, "pinned_bytes",
		   (json_int_t)f->pinned, "dead_pinned_bytes",
		   (json_int_t)f->dead_pinned, "pinned_by",
		   pinned_json(op->b, &f->by)));
	return j;
}

static void show_done(struct work *w)
{
	struct show_op *op = (struct show_op *)w;
	struct show_files f = {0};
	struct err e;

	if (!w->ran)
		op->rc = -ECANCELED;
	if (op->rc == 0)
		op->rc = count_files(op, &f);
	if (op->rc != 0) {
		(void)err_set(&e, op->rc, "cannot count its pages: %s",
		    strerror(-op->rc));
		ctl_fail(op->rq, &e);
	} else {
		ctl_reply(op->rq, show_json(op, &f), NULL, 0);
	}
	show_free(op);
}

/* Counting for a client that went ends; it may be long. */
static void show_cancelled(struct ctl_req *rq, void *arg)
{
	struct show_op *op = arg;

	(void)rq;
	worker_cancel(&op->work);
}

/* Counted, and held where there is room. */
static void add_other(struct show_op *op, const struct map *m)
{
	if (m->npages != op->map.npages)
		return;
	if (op->other != NULL)
		op->other[op->nother] = map_get(&op->b->store, m);
	op->nother++;
}

static void add_cursors(
    struct show_op *op, const struct cursor set[static CURSORS_MAX])
{
	for (uint32_t i = 0; i < CURSORS_MAX; i++)
		if (set[i].exact)
			add_other(op, &set[i].base);
}

/* A view that shows it, and nothing else yet, goes before it does. */
static void add_place(struct show_op *op, const struct bplace *p)
{
	if (p->shown != op->s || p->cur.entry != op->map.entry)
		add_other(op, &p->cur);
	if (p->has_severed)
		add_other(op, &p->severed);
	add_cursors(op, p->cursor);
	add_cursors(op, p->guest_cursor);
}

static void each_other(struct show_op *op)
{
	struct broker *b = op->b;

	op->nother = 0;
	for (uint32_t i = 0; i < SNAP_BUCKETS; i++)
		for (struct snap *s = b->snaps[i]; s != NULL; s = s->next)
			if (s == op->s)
				op->near = op->nother;
			else
				add_other(op, &s->map);
	for (struct bvm *vm = b->vms; vm != NULL; vm = vm->next)
		for (uint32_t i = 0; i < PLACES_MAX; i++)
			if (vm->place[i].used)
				add_place(op, &vm->place[i]);
}

/* All of them are noted in one turn of the loop: there are as many as were
 * counted. -ENOMEM. */
static int note_others(struct show_op *op)
{
	each_other(op);
	op->other = calloc((size_t)op->nother + 1, sizeof(*op->other));
	if (op->other == NULL) {
		op->nother = 0;
		return -ENOMEM;
	}
	each_other(op);
	return 0;
}

void op_snapshot_show(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	int32_t num;
	struct snap *s = req_snap(b, rq, 0, &num);
	struct show_op *op = s == NULL ? NULL : calloc(1, sizeof(*op));
	const struct cap *c;
	struct err e;

	if (s == NULL)
		return;
	if (op != NULL) {
		op->b = b;
		op->rq = rq;
		op->s = snap_hold(s);
		op->map = map_get(&b->store, &s->map);
		if (s->has_laid)
			op->form[op->nforms++] = map_get(&b->store, &s->laid);
		if (s->has_opened)
			op->form[op->nforms++] = map_get(&b->store, &s->opened);
		op->alone = calloc((s->map.npages + 63) / 64, 8);
	}
	if (op == NULL || op->alone == NULL || note_others(op) != 0) {
		if (op != NULL)
			show_free(op);
		(void)err_set(&e, -ENOMEM, "no memory to count its pages");
		ctl_fail(rq, &e);
		return;
	}
	(void)cap_lookup(&req_home(rq)->caps, num, 0, &c);
	memcpy(op->name, c->name, sizeof(op->name));
	ctl_req_on_cancel(rq, show_cancelled, op);
	worker_submit(b->pool, &op->work, show_run_work, show_done);
}
