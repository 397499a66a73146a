/* SPDX-License-Identifier: MIT */
/*
 * meld: two descendants of one snapshot become one, if neither wrote what the
 * other read or wrote since. The sets are with the records of descent; the
 * computation is vmm/kin/meld.h's, in a worker thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/broker/internal.h"
#include "vmm/kin/meld.h"

enum { BASE, A, B, NSNAPS };

struct meld_op {
	struct work work;
	struct broker *b;
	struct asker a;
	struct meld_req r;      /* its snapshots are held */
	struct map map[NSNAPS]; /* theirs; held */
	bool tracked[NSNAPS];
	struct kin_steps steps[NSNAPS]; /* since BASE */
	struct kin_sets sets[NSNAPS];   /* the same; of BASE: of the result */
	struct meld_conflicts conflicts;
	struct page_run *runs;
	size_t nruns;
	struct apply apply;
	uint64_t begin_ns; /* of that */
	uint64_t meld_ns;
	int rc;
	struct err e; /* where that says more */
};

static void meld_free(struct meld_op *op)
{
	struct broker *b = op->b;

	for (int i = 0; i < NSNAPS; i++) {
		map_put(&b->store, &op->map[i]);
		snap_put(b, op->r.snap[i]);
		kin_steps_free(&op->steps[i]);
		kin_sets_free(&op->sets[i]);
	}
	meld_conflicts_free(&op->conflicts);
	free(op->runs);
	free(op);
	layers_reap(b);
}

static void meld_fail(struct meld_op *op, const struct err *e)
{
	asker_fail(op->b, &op->a, e);
	meld_free(op);
}

/* --- in a worker thread --------------------------------------------------- */

/* What the result read and wrote since BASE, where that is known. */
static int unite_sides(struct meld_op *op)
{
	const struct extset *const reads[] = {
	    &op->sets[A].reads, &op->sets[B].reads};
	const struct extset *const writes[] = {
	    &op->sets[A].writes, &op->sets[B].writes};
	int rc = extset_unite(reads, 2, &op->sets[BASE].reads);

	if (rc == 0)
		rc = extset_unite(writes, 2, &op->sets[BASE].writes);
	return rc;
}

static bool meld_stops(void *ctx)
{
	return worker_cancelled(&((struct meld_op *)ctx)->work);
}

static int not_tracked(const struct meld_op *op, int i, struct err *e)
{
	return err_set(e, -EPERM,
	    "not every step from snapshot %" PRIu64 " to snapshot %" PRIu64
	    " was tracked: map with --track, or meld with --blind, which "
	    "cannot see what was only read",
	    op->r.snap[BASE]->id, op->r.snap[i]->id);
}

/* What (i) read and wrote since BASE; what is too much is not known. */
static int side_sets(struct meld_op *op, int i)
{
	int rc = -E2BIG;

	if (op->tracked[i])
		rc = kin_steps_unite(&op->steps[i], &op->sets[i]);
	if (rc != -E2BIG)
		return rc;
	op->tracked[i] = false;
	if (!op->r.blind)
		return not_tracked(op, i, &op->e);
	return meld_blind(
	    &op->map[BASE], &op->map[i], meld_stops, op, &op->sets[i]);
}

static int meld_compute(struct meld_op *op)
{
	int rc = 0;

	for (int i = A; i < NSNAPS && rc == 0; i++)
		rc = side_sets(op, i);
	if (rc == 0)
		rc = meld_conflicts(&op->sets[A], &op->sets[B], &op->conflicts);
	if (rc != 0 || op->conflicts.write_write.n > 0 ||
	    op->conflicts.read_write.n > 0)
		return rc;
	rc = meld_runs(&op->map[A], &op->sets[A].writes, &op->map[B],
	    &op->sets[B].writes, &op->runs, &op->nruns);
	return rc == 0 ? unite_sides(op) : rc;
}

static void meld_run(struct work *w)
{
	struct meld_op *op = (struct meld_op *)w;
	uint64_t begin = now_ns();

	op->rc = meld_compute(op);
	op->meld_ns += now_ns() - begin;
}

/* --- conflicts ------------------------------------------------------------ */

/* At most (room) extents of (s). */
static void put_conflicts(
    json_t *list, const struct extset *s, const char *kind, size_t room)
{
	for (size_t i = 0; i < s->n && i < room; i++)
		(void)json_array_append_new(
		    list, json_pack("[I,I,s]", (json_int_t)s->x[i].first,
			      (json_int_t)s->x[i].npages, kind));
}

static void refuse_client(struct meld_op *op, const struct err *e)
{
	const struct meld_conflicts *c = &op->conflicts;
	json_t *list = json_array();
	size_t n = c->write_write.n;
	size_t all = n + c->read_write.n;

	put_conflicts(list, &c->write_write, "write/write", EXTENTS_INLINE);
	if (n < EXTENTS_INLINE)
		put_conflicts(
		    list, &c->read_write, "read/write", EXTENTS_INLINE - n);
	ctl_fail_data(op->a.rq, e,
	    json_pack("{s:I,s:I,s:b,s:o}", "write_write_pages",
		(json_int_t)c->write_write.pages, "read_write_pages",
		(json_int_t)c->read_write.pages, "more",
		all > EXTENTS_INLINE ? 1 : 0, "conflicts", list));
}

static void copy_conflicts(struct firn_conflict *to, uint32_t *n, uint32_t max,
    const struct extset *s, uint32_t kind)
{
	for (size_t i = 0; i < s->n && *n < max; i++)
		to[(*n)++] = (struct firn_conflict){.first = s->x[i].first,
		    .npages = s->x[i].npages,
		    .kind = kind};
}

static void refuse_guest(struct meld_op *op)
{
	const struct meld_conflicts *c = &op->conflicts;
	struct firn_conflict *x = calloc((size_t)op->r.max + 1, sizeof(*x));
	struct wire_melded w = {
	    .result = -ESTALE,
	    .m = {.pages = c->write_write.pages + c->read_write.pages,
		.nconflicts = c->write_write.n + c->read_write.n},
	};
	uint32_t n = 0;
	struct err e;
	int fd = -ENOMEM;

	if (x != NULL) {
		copy_conflicts(
		    x, &n, op->r.max, &c->write_write, FIRN_WRITE_WRITE);
		copy_conflicts(
		    x, &n, op->r.max, &c->read_write, FIRN_READ_WRITE);
		fd = wire_blob("firn-conflicts", x, n * sizeof(*x));
	}
	free(x);
	if (fd < 0) {
		(void)err_set(&e, fd, "no memory for the list of conflicts");
		asker_fail(op->b, &op->a, &e);
		return;
	}
	asker_answer_guest(op->b, &op->a, 0, &w, sizeof(w), &fd, 1);
	(void)close(fd);
}

static void meld_refuse(struct meld_op *op)
{
	struct err e;

	(void)err_set(&e, -ESTALE,
	    "they conflict: pages that both wrote: %" PRIu64
	    ", that one wrote and the other read: %" PRIu64,
	    op->conflicts.write_write.pages, op->conflicts.read_write.pages);
	if (op->a.rq != NULL)
		refuse_client(op, &e);
	else
		refuse_guest(op);
	meld_free(op);
}

/* --- the result ----------------------------------------------------------- */

/* Takes (m) over. */
static struct snap *meld_snap(struct meld_op *op, struct map m, struct err *e)
{
	struct broker *b = op->b;
	struct home *h = asker_home(b, &op->a);
	struct snap *s = snap_new(b, m, op->r.snap[BASE]->lineage, e);

	if (s == NULL)
		return NULL;
	kin_descend(s->kin, op->r.snap[BASE]->kin, 0);
	s->melded[0] = op->r.snap[A]->id;
	s->melded[1] = op->r.snap[B]->id;
	s->blind = !op->tracked[A] || !op->tracked[B];
	for (int i = 0; i < NSNAPS; i++)
		s->private_history |= op->r.snap[i]->private_history;
	if (!s->blind && kin_track(s->kin, &op->sets[BASE]) != 0) {
		snap_put(b, s);
		return err_set(e, -ENOMEM, "no memory for a meld"), NULL;
	}
	s->payer = h == NULL ? op->r.snap[BASE]->payer : h->uid;
	(void)snprintf(s->origin, sizeof(s->origin), "meld");
	return s;
}

static void meld_answer(
    struct meld_op *op, const struct snap *s, int32_t cap, uint64_t pages)
{
	struct wire_melded w = {
	    .result = cap,
	    .m = {.snapshot = s->id, .pages = pages, .blind = s->blind},
	};

	if (op->a.rq == NULL) {
		asker_answer_guest(op->b, &op->a, 0, &w, sizeof(w), NULL, 0);
		return;
	}
	ctl_reply(op->a.rq,
	    json_pack("{s:I,s:s,s:I,s:I,s:b,s:I}", "snapshot",
		(json_int_t)s->id, "name", op->r.name, "pages",
		(json_int_t)s->map.npages, "changed_pages", (json_int_t)pages,
		"blind", s->blind ? 1 : 0, "meld_ns", (json_int_t)op->meld_ns),
	    NULL, 0);
}

static void meld_finish(struct meld_op *op, struct map m)
{
	struct broker *b = op->b;
	struct cap_table *t = asker_caps(b, &op->a);
	uint64_t pages = op->sets[A].writes.pages + op->sets[B].writes.pages;
	struct err e = {0};
	struct snap *s = meld_snap(op, m, &e);
	int32_t cap = -1;

	if (s != NULL && t == NULL)
		(void)err_set(&e, -ESRCH, "nobody is left to hold it");
	else if (s != NULL)
		cap = snap_grant(s, t, op->r.rights, op->r.name, &e);
	if (cap < 0) {
		snap_put(b, s);
		meld_fail(op, &e);
		return;
	}
	if (op->a.rq == NULL)
		grant_owner(vm_by_id(b, op->a.vm), s, op->r.rights, op->r.name);
	snap_made(b, s,
	    json_pack("{s:I,s:s,s:I}", "snapshot", (json_int_t)s->id, "name",
		op->r.name, "pages", (json_int_t)s->map.npages));
	meld_answer(op, s, cap, pages);
	snap_put(b, s);
	meld_free(op);
}

static void meld_applied(struct broker *b, int rc, struct map m, void *ctx)
{
	struct meld_op *op = ctx;
	struct err e;

	(void)b;
	op->meld_ns += now_ns() - op->begin_ns;
	if (rc == 0) {
		meld_finish(op, m);
		return;
	}
	(void)err_set(&e, rc, "no memory for a page map");
	meld_fail(op, &e);
}

static void meld_done(struct work *w)
{
	struct meld_op *op = (struct meld_op *)w;
	struct err e = {0};

	if (!w->ran)
		(void)err_set(&e, -ECANCELED, "firnd is ending");
	else if (op->e.code != 0)
		e = op->e;
	else if (op->rc != 0)
		(void)err_set(
		    &e, op->rc, "the meld failed: %s", strerror(-op->rc));
	if (e.code != 0) {
		meld_fail(op, &e);
	} else if (op->conflicts.write_write.n > 0 ||
		   op->conflicts.read_write.n > 0) {
		meld_refuse(op);
	} else {
		op->begin_ns = now_ns();
		apply(op->b, &op->apply, &op->map[BASE], op->runs, op->nruns,
		    meld_applied, op);
	}
}

/* --- the beginning -------------------------------------------------------- */

/* Which steps (i) is from BASE, or that one is not known. */
static int side_since(struct meld_op *op, int i, struct err *e)
{
	const struct snap *base = op->r.snap[BASE];
	const struct snap *s = op->r.snap[i];
	int rc = kin_since(s->kin, base->kin, &op->tracked[i], &op->steps[i]);

	if (rc == -ESRCH)
		return err_set(e, -EINVAL,
		    "snapshot %" PRIu64 " is no ancestor of snapshot %" PRIu64
		    ", so they have no changes to meld",
		    base->id, s->id);
	if (rc != 0)
		return err_set(e, rc, "no memory for a meld");
	return op->tracked[i] || op->r.blind ? 0 : not_tracked(op, i, e);
}

static int meld_begin(struct meld_op *op, struct err *e)
{
	struct broker *b = op->b;
	struct cap_table *t = asker_caps(b, &op->a);
	uint64_t begin = now_ns();
	int rc = t == NULL ? err_set(e, -ESRCH, "the asker is gone")
			   : name_check(t, op->r.name, e);

	/* What its holder may come to write is no part of a value. */
	for (int i = 0; i < NSNAPS && rc == 0; i++)
		if (op->r.snap[i]->owned != 0)
			rc = err_set(e, -EPERM,
			    "snapshot %" PRIu64 " is owned; map it, or derive "
			    "from it, which seals it",
			    op->r.snap[i]->id);
	for (int i = A; i < NSNAPS && rc == 0; i++)
		rc = side_since(op, i, e);
	for (int i = A; i < NSNAPS && rc == 0; i++)
		if (op->map[i].npages != op->map[BASE].npages)
			rc = err_set(e, -EINVAL, "they are of different sizes");
	op->meld_ns = now_ns() - begin;
	return rc;
}

void meld(struct broker *b, struct asker a, const struct meld_req *r)
{
	struct meld_op *op = calloc(1, sizeof(*op));
	struct err e = {0};

	if (op == NULL) {
		(void)err_set(&e, -ENOMEM, "no memory for a meld");
		asker_fail(b, &a, &e);
		return;
	}
	op->b = b;
	op->a = a;
	op->r = *r;
	for (int i = 0; i < NSNAPS; i++) {
		(void)snap_hold(r->snap[i]);
		op->map[i] = map_get(&b->store, &r->snap[i]->map);
	}
	if (meld_begin(op, &e) != 0)
		meld_fail(op, &e);
	else
		worker_submit(b->pool, &op->work, meld_run, meld_done);
}

uint32_t meld_right(int i)
{
	return i == BASE ? FIRN_RIGHT_DIFF
			 : FIRN_RIGHT_DIFF | FIRN_RIGHT_MAP_COW;
}

void op_snapshot_meld(void *ctx, struct ctl_req *rq)
{
	static const char *const params[] = {"base", "a", "b"};
	struct broker *b = ctx;
	const struct cap_table *t = &req_home(rq)->caps;
	struct meld_req r = {
	    .rights = FIRN_RIGHT_ALL, .blind = ctl_bool(rq, "blind")};
	const char *name = ctl_str(rq, "name");
	struct err e = {0};
	int rc = 0;

	for (int i = 0; i < NSNAPS && rc == 0; i++) {
		const struct cap *c;
		int32_t num;

		rc = snap_find(b, t, ctl_str(rq, params[i]), meld_right(i),
		    &r.snap[i], &num, &e);
		if (rc == 0 && i != BASE && cap_lookup(t, num, 0, &c) == 0)
			r.rights &= c->rights;
	}
	if (rc == 0 && name != NULL && strlen(name) >= sizeof(r.name))
		rc = err_set(&e, -EINVAL, "the name is too long");
	if (rc != 0) {
		ctl_fail(rq, &e);
		return;
	}
	if (name != NULL)
		(void)snprintf(r.name, sizeof(r.name), "%s", name);
	meld(b, asker_client(rq), &r);
}
