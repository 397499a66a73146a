/* SPDX-License-Identifier: MIT */
/*
 * dirty.query: pages written since a cursor last advanced; dirty.end: the end
 * of a cursor.
 *
 * A plain cursor is a bitmap that the monitor keeps. An exact one is a page map
 * kept here: the query freezes the place, publishes nothing, and compares the
 * bytes of what differs from that map. A cursor that began plain has no such
 * map, so it cannot answer exactly, and is not made to: what it would miss
 * could not be told. One that began exact answers exactly always.
 *
 * A guest has its own: its monitor answers of plain ones, and asks here only of
 * what it does not know as one. A guest's buffer may be too small for all there
 * is: the cursor then passes only the pages that it was told of.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/bits.h"
#include "vmm/broker/internal.h"

/* Room for WIRE_CURSOR_CLIENT before it and a NUL behind. */
#define CURSOR_NAME_MAX (FIRN_NAME_MAX - 2u)

static struct cursor *find(
    struct cursor set[static CURSORS_MAX], const char *name)
{
	for (uint32_t i = 0; i < CURSORS_MAX; i++)
		if (strcmp(set[i].name, name) == 0)
			return &set[i];
	return NULL;
}

/* That of which something is under way, unless it has ended since, though there
 * may be one of its name in a place of that number. */
static struct cursor *find_id(
    struct cursor set[static CURSORS_MAX], uint64_t id)
{
	for (uint32_t i = 0; i < CURSORS_MAX; i++)
		if (set[i].id == id)
			return &set[i];
	return NULL;
}

/* The cursor of that name, or a new one; NULL when there is no room. */
static struct cursor *find_or_take(
    struct broker *b, struct cursor set[static CURSORS_MAX], const char *name)
{
	struct cursor *c = find(set, name);

	if (c != NULL)
		return c;
	c = find(set, "");
	if (c == NULL)
		return NULL;
	(void)snprintf(c->name, sizeof(c->name), "%s", name);
	c->id = b->next_id++;
	return c;
}

static int no_more(struct err *e)
{
	return err_set(e, -ENOSPC,
	    "a segment has at most %u cursors; end one that nobody asks",
	    CURSORS_MAX);
}

static int began_plain(const char *name, struct err *e)
{
	return err_set(e, -EINVAL,
	    "cursor '%s' began without --exact; begin another one with it",
	    name);
}

static void cursor_end(struct broker *b, struct cursor *c)
{
	if (c->exact)
		map_put(&b->store, &c->base);
	if (c->owes)
		closer_close(b->closer, c->owed);
	*c = (struct cursor){0};
}

static void set_end(struct broker *b, struct cursor set[static CURSORS_MAX])
{
	for (uint32_t i = 0; i < CURSORS_MAX; i++)
		cursor_end(b, &set[i]);
}

void cursors_end(struct broker *b, struct bplace *p)
{
	set_end(b, p->cursor);
	set_end(b, p->guest_cursor);
}

/* --- plain ---------------------------------------------------------------- */

struct plain_op {
	struct errand w;
	struct ctl_req *rq;
	uint64_t vm;
	uint32_t place;
	uint64_t npages;
	bool peek;
	bool bitmap;     /* is wanted */
	uint64_t cursor; /* its id */
	/* Once it was answered: */
	int bits_fd;         /* the monitor's bitmap */
	int owed;            /* what the cursor owes besides, or -1 */
	struct extset pages; /* without extents, where a bitmap is wanted */
	int out;             /* what the answer has in a memfd, or -1 */
};

/* The bitmap of the answer, with what the cursor owes; NULL with *rc. */
static uint64_t *plain_bits(const struct plain_op *op, int *rc)
{
	size_t want = (op->npages + 63) / 64 * 8;
	void *bits = NULL;
	void *owed = NULL;
	size_t len = 0;

	*rc = wire_slurp(op->bits_fd, want, &bits, &len);
	if (*rc == 0 && len != want)
		*rc = -EPROTO;
	if (*rc == 0 && op->owed >= 0) {
		*rc = wire_slurp(op->owed, want, &owed, &len);
		for (size_t i = 0; *rc == 0 && i < len / 8; i++)
			((uint64_t *)bits)[i] |= ((uint64_t *)owed)[i];
		free(owed);
	}
	if (*rc != 0) {
		free(bits);
		return NULL;
	}
	/* Bits of no page, from a monitor that is not ours. */
	if (op->npages % 64 != 0)
		((uint64_t *)bits)[op->npages / 64] &=
		    (1ULL << op->npages % 64) - 1;
	return bits;
}

static int plain_extents(struct plain_op *op, const uint64_t *bits)
{
	int rc = extset_of_bits(bits, op->npages, &op->pages);

	return rc != 0 ? rc : extents_blob(op->pages.x, op->pages.n, &op->out);
}

/* As it came: however scattered, it has its size. */
static int plain_bitmap(struct plain_op *op, const uint64_t *bits)
{
	uint64_t nwords = (op->npages + 63) / 64;

	op->pages.pages = bits_count(bits, nwords);
	op->out = wire_blob("firn-bitmap", bits, nwords * sizeof(*bits));
	return op->out < 0 ? op->out : 0;
}

static int plain_read(struct errand *w)
{
	struct plain_op *op = (struct plain_op *)w;
	uint64_t *bits;
	int rc;

	if (w->here && op->npages > HERE_PAGES)
		return -EAGAIN;
	bits = plain_bits(op, &rc);
	if (bits != NULL)
		rc = op->bitmap ? plain_bitmap(op, bits)
				: plain_extents(op, bits);
	free(bits);
	return rc;
}

static json_t *plain_json(const struct plain_op *op)
{
	json_t *j = json_pack("{s:I}", "pages", (json_int_t)op->pages.pages);
	int rc;

	if (op->bitmap)
		rc = json_object_set_new(j, "bitmap_fd", json_integer(0));
	else
		rc = extents_put(j, op->pages.x, op->pages.n, op->out, 0);
	if (rc == 0)
		return j;
	json_decref(j);
	return NULL;
}

/*
 * What the cursor owes from now on, if anything: the monitor has forgotten bits
 * that nobody was told of, and the next answer has them too.
 */
static void plain_settle(struct plain_op *op, struct cursor *c, bool told)
{
	int *owed = op->owed >= 0 ? &op->owed : &op->bits_fd;

	if (c == NULL || (told && !op->peek) ||
	    (op->owed < 0 && (op->peek || op->bits_fd < 0)))
		return;
	c->owed = *owed;
	c->owes = true;
	*owed = -1;
}

static void plain_free(struct plain_op *op)
{
	closer_close(op->w.b->closer, op->bits_fd);
	closer_close(op->w.b->closer, op->owed);
	if (op->out >= 0)
		(void)close(op->out);
	extset_free(&op->pages);
	free(op);
}

/* The cursor that the query is under way of, if it is there still. */
static struct cursor *plain_cursor(const struct plain_op *op, struct bvm *vm)
{
	struct bplace *p = vm == NULL ? NULL : place_by_id(vm, op->place);

	return p == NULL ? NULL : find_id(p->cursor, op->cursor);
}

static void plain_done(struct errand *w)
{
	struct plain_op *op = (struct plain_op *)w;
	struct bvm *vm = vm_by_id(w->b, op->vm);
	struct cursor *c = plain_cursor(op, vm);
	json_t *result = NULL;
	int rc = w->rc;

	if ((rc == -EPROTO || rc == -EFBIG || rc == -EINVAL) && vm != NULL)
		vm_kill(w->b, vm); /* no monitor of ours answers so */
	if (rc == 0) {
		result = plain_json(op);
		rc = result == NULL ? -ENOMEM : 0;
	}
	if (rc != 0 && w->e.code == 0)
		(void)err_set(
		    &w->e, rc, "the bitmap cannot be used: %s", strerror(-rc));
	plain_settle(op, c, rc == 0 && !ctl_req_cancelled(op->rq));
	if (c != NULL)
		c->busy = false;
	if (rc != 0)
		ctl_fail(op->rq, &w->e);
	else
		ctl_reply(op->rq, result, &op->out, op->out >= 0 ? 1 : 0);
	plain_free(op);
}

static void plain_answer(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct plain_op *op = ctx;
	struct cursor *c = plain_cursor(op, pk == NULL ? NULL : vm);
	struct wire_dirtied w = {0};
	struct err e = {0};
	int rc = pk == NULL ? err_set(&e, -ESRCH, "the VM ended meanwhile")
			    : packet_err(pk, &e);

	if (rc != 0) {
		if (c != NULL)
			c->busy = false;
		ctl_fail(op->rq, &e);
		plain_free(op);
		return;
	}
	if (pk->m.len == sizeof(w))
		memcpy(&w, pk->payload, sizeof(w));
	op->bits_fd = wire_take_fd(pk, 0);
	if (c != NULL && c->owes) {
		op->owed = c->owed;
		c->owes = false;
	}
	if (op->bits_fd >= 0 && w.npages == op->npages) {
		errand(b, &op->w, plain_read, plain_done);
		return;
	}
	op->w.rc = -EPROTO;
	plain_done(&op->w);
}

/* Ask the monitor of (c). */
static int plain(struct ctl_req *rq, struct bvm *vm, struct bplace *p,
    struct cursor *c, enum wire_type type, reply_fn *fn, struct err *e)
{
	struct wire_dirty w = {.id = p->id};
	struct plain_op *op;
	int rc;

	if (c->busy)
		return err_set(e, -EBUSY,
		    "another query of cursor '%s' is under way; try again",
		    c->name);
	op = calloc(1, sizeof(*op));
	if (op == NULL)
		return err_set(e, -ENOMEM, "no memory for a query");
	op->w.b = vm->b;
	op->rq = rq;
	op->vm = vm->id;
	op->place = p->id;
	op->npages = p->npages;
	op->bits_fd = op->owed = op->out = -1;
	op->peek = ctl_bool(rq, "peek");
	op->bitmap = ctl_bool(rq, "bitmap");
	op->cursor = c->id;
	/* What is owed is held but once: until it is paid, the monitor keeps
	 * its bits. */
	w.flags = op->peek || c->owes ? FIRN_PEEK : 0;
	(void)snprintf(
	    w.cursor, sizeof(w.cursor), WIRE_CURSOR_CLIENT "%.62s", c->name);
	rc = vm_ask(vm, type, &w, sizeof(w), NULL, 0, fn, op, e);
	if (rc != 0)
		free(op);
	c->busy = rc == 0;
	return rc;
}

/* --- exact ---------------------------------------------------------------- */

struct exact_op {
	struct asker a;
	bool peek;
	uint32_t max; /* extents that a guest wants */
	uint64_t vm;
	uint32_t place;
	char name[FIRN_NAME_MAX]; /* of the cursor */
	uint64_t cursor;          /* its id, once it is there */
	struct map to;            /* where it goes once this is told */
};

/* Among whose cursors it is. */
static struct cursor *exact_set(const struct exact_op *op, struct bplace *p)
{
	return op->a.rq != NULL ? p->cursor : p->guest_cursor;
}

/* The cursor passes what is told: the pages before (told). */
static int exact_pass(
    struct broker *b, struct cursor *c, const struct map *to, uint64_t told)
{
	struct map next;
	int rc = map_splice(&b->store, to, &c->base, told, &next);

	if (rc != 0)
		return rc;
	map_put(&b->store, &c->base);
	c->base = next;
	return 0;
}

static int exact_end(struct broker *b, uint64_t told, void *ctx)
{
	struct exact_op *op = ctx;
	struct bvm *vm = vm_by_id(b, op->vm);
	struct bplace *p = vm == NULL ? NULL : place_by_id(vm, op->place);
	struct cursor *c =
	    p == NULL ? NULL : find_id(exact_set(op, p), op->cursor);
	int rc = 0;

	if (!op->peek && told > 0 && c != NULL)
		rc = exact_pass(b, c, &op->to, told);
	map_put(&b->store, &op->to);
	free(op);
	return rc;
}

/* The exact cursor of that name, or a new one. NULL: -ENOSPC, or -EINVAL, as a
 * plain one began. */
static struct cursor *exact_cursor(struct broker *b,
    struct cursor set[static CURSORS_MAX], const char *name, struct err *e)
{
	struct cursor *c = find(set, name);

	if (c != NULL && !c->exact)
		return began_plain(name, e), NULL;
	c = find_or_take(b, set, name);
	if (c == NULL)
		(void)no_more(e);
	return c;
}

static void exact_lifted(struct broker *b, struct bvm *vm, struct bplace *p,
    struct lifted *l, const struct err *why, void *ctx)
{
	struct exact_op *op = ctx;
	struct cursor *c;
	struct err e = {0};

	if (why != NULL) {
		asker_fail(b, &op->a, why);
		free(op);
		return;
	}
	c = exact_cursor(b, exact_set(op, p), op->name, &e);
	if (c == NULL) {
		map_put(&b->store, &l->map);
		asker_fail(b, &op->a, &e);
		free(op);
		return;
	}
	if (!c->exact) {
		c->base = map_get(&b->store, &l->map);
		c->exact = true;
	}
	op->vm = vm->id;
	op->place = p->id;
	op->cursor = c->id;
	op->to = map_get(&b->store, &l->map);
	diff_maps(b, op->a, map_get(&b->store, &c->base), l->map, op->max,
	    exact_end, op);
}

/* Of (want) the asker, the cursor's name, and how much is to be told. */
static int exact_begin(struct broker *b, struct bvm *vm, struct bplace *p,
    const struct exact_op *want, struct err *e)
{
	struct exact_op *op;
	int rc = bank_check(b, PAGE_SIZE, e);

	if (rc != 0)
		return rc;
	op = malloc(sizeof(*op));
	if (op == NULL)
		return err_set(e, -ENOMEM, "no memory for a query");
	*op = *want;
	rc = lift(b, vm, p, false, exact_lifted, op, e);
	if (rc != 0)
		free(op);
	return rc;
}

static int exact_client(struct broker *b, struct ctl_req *rq, struct bvm *vm,
    struct bplace *p, const char *cursor, struct err *e)
{
	struct exact_op want = {
	    .a = asker_client(rq), .peek = ctl_bool(rq, "peek")};

	(void)snprintf(want.name, sizeof(want.name), "%s", cursor);
	return exact_begin(b, vm, p, &want, e);
}

static int check_guest(
    const struct wire_gdirty *g, struct bplace *p, struct err *e)
{
	if (p == NULL)
		return err_set(e, -ENOENT, "no such segment");
	if ((g->flags & ~(FIRN_EXACT | FIRN_PEEK)) != 0 ||
	    g->max > FIRN_EXTENTS_MAX)
		return err_set(e, -EINVAL, "more than there is");
	if (g->cursor[0] != '\0' && find(p->guest_cursor, g->cursor) != NULL)
		return 0;
	if ((g->flags & FIRN_EXACT) == 0)
		return err_set(e, -ENOENT, "no such exact cursor");
	if (!name_ok(g->cursor))
		return err_set(e, -EINVAL, "not a name for a cursor");
	return 0;
}

void guest_dirty(struct broker *b, struct asker a, struct bvm *vm,
    const struct wire_gdirty *g)
{
	struct exact_op want = {
	    .a = a, .peek = (g->flags & FIRN_PEEK) != 0, .max = g->max};
	struct bplace *p = place_by_id(vm, g->id);
	struct err e = {0};
	int rc = check_guest(g, p, &e);

	memcpy(want.name, g->cursor, sizeof(want.name));
	if (rc == 0)
		rc = exact_begin(b, vm, p, &want, &e);
	if (rc != 0)
		asker_fail(b, &a, &e);
}

/* A new cursor starts now, unless the question cannot even be put. */
static int plain_begin(struct ctl_req *rq, struct bvm *vm, struct bplace *p,
    struct cursor *c, const char *cursor, struct err *e)
{
	bool is_new = c == NULL;
	int rc;

	c = find_or_take(vm->b, p->cursor, cursor);
	if (c == NULL)
		return no_more(e);
	rc = plain(rq, vm, p, c, WIRE_DIRTY, plain_answer, e);
	if (rc != 0 && is_new)
		*c = (struct cursor){0};
	return rc;
}

/* The place whose cursor is asked for; NULL, with *e. */
static struct bplace *cursor_place(
    struct bvm *vm, struct ctl_req *rq, struct err *e)
{
	const char *name = ctl_str(rq, "cursor");
	struct bplace *p = place_find(vm, ctl_str(rq, "segment"), e);

	if (p == NULL)
		return NULL;
	if (!name_ok(name) || strlen(name) > CURSOR_NAME_MAX)
		return name_refuse(name, CURSOR_NAME_MAX, e), NULL;
	return p;
}

void op_dirty_query(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	struct bvm *vm = req_vm(b, rq, true);
	struct err e = {0};
	struct cursor *c = NULL;
	struct bplace *p;
	const char *cursor;
	int rc;

	if (vm == NULL)
		return; /* answered: the request is gone */
	cursor = ctl_str(rq, "cursor");
	p = cursor_place(vm, rq, &e);
	if (p != NULL)
		c = find(p->cursor, cursor);
	if (p == NULL)
		rc = e.code;
	else if (p->flags & FIRN_SEG_VIEW_RO)
		rc = err_set(&e, -EPERM, "a read-only view is never written");
	else if (c != NULL && !c->exact && ctl_bool(rq, "exact"))
		rc = began_plain(cursor, &e);
	else if (ctl_bool(rq, "exact") || (c != NULL && c->exact))
		rc = exact_client(b, rq, vm, p, cursor, &e);
	else
		rc = plain_begin(rq, vm, p, c, cursor, &e);
	if (rc != 0)
		ctl_fail(rq, &e);
}

/* --- the end of a cursor -------------------------------------------------- */

static void ended(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct plain_op *op = ctx;
	struct cursor *c = plain_cursor(op, pk == NULL ? NULL : vm);
	struct err e = {0};
	int rc = pk == NULL ? err_set(&e, -ESRCH, "the VM ended meanwhile")
			    : packet_err(pk, &e);

	if (c != NULL)
		c->busy = false;
	/* One whose first query failed is none of the monitor's. */
	if (c != NULL && (rc == 0 || rc == -ENOENT)) {
		cursor_end(b, c);
		rc = 0;
	}
	if (rc != 0)
		ctl_fail(op->rq, &e);
	else
		ctl_reply(op->rq, NULL, NULL, 0);
	plain_free(op);
}

/* 0: it has ended, 1: it will when the monitor has answered. */
static int end_begin(
    struct broker *b, struct ctl_req *rq, struct bvm *vm, struct err *e)
{
	struct bplace *p = cursor_place(vm, rq, e);
	struct cursor *c;
	int rc;

	if (p == NULL)
		return e->code;
	c = find(p->cursor, ctl_str(rq, "cursor"));
	if (c == NULL)
		return err_set(e, -ENOENT, "'%.64s' has no cursor '%.64s'",
		    p->name, ctl_str(rq, "cursor"));
	if (c->exact) {
		cursor_end(b, c);
		return 0;
	}
	rc = plain(rq, vm, p, c, WIRE_DIRTY_END, ended, e);
	return rc == 0 ? 1 : rc;
}

void op_dirty_end(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	struct bvm *vm = req_vm(b, rq, true);
	struct err e = {0};
	int rc;

	if (vm == NULL)
		return; /* answered: the request is gone */
	rc = end_begin(b, rq, vm, &e);
	if (rc < 0)
		ctl_fail(rq, &e);
	else if (rc == 0)
		ctl_reply(rq, NULL, NULL, 0);
}
