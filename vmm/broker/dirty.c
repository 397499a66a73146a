/* SPDX-License-Identifier: MIT */
/*
 * dirty.query: pages written since a cursor last advanced.
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

/* The cursor of that name, or a new one; NULL when there is no room. */
static struct cursor *find_or_take(
    struct cursor set[static CURSORS_MAX], const char *name)
{
	struct cursor *c = find(set, name);

	if (c == NULL)
		c = find(set, "");
	if (c != NULL)
		(void)snprintf(c->name, sizeof(c->name), "%s", name);
	return c;
}

static int no_more(struct err *e)
{
	return err_set(
	    e, -ENOSPC, "a segment has at most %u cursors", CURSORS_MAX);
}

static int began_plain(const char *name, struct err *e)
{
	return err_set(e, -EINVAL,
	    "cursor '%s' began without --exact; begin another one with it",
	    name);
}

static void set_end(struct broker *b, struct cursor set[static CURSORS_MAX])
{
	for (uint32_t i = 0; i < CURSORS_MAX; i++) {
		if (set[i].exact)
			map_put(&b->store, &set[i].base);
		if (set[i].owes)
			(void)close(set[i].owed);
		set[i] = (struct cursor){0};
	}
}

void cursors_end(struct broker *b, struct bplace *p)
{
	set_end(b, p->cursor);
	set_end(b, p->guest_cursor);
}

/* --- plain -----------------------------------------------------------------
 */

static int bits_to_extents(const uint64_t *w, uint64_t nbits,
    struct firn_extent **out, uint64_t *n, uint64_t *pages)
{
	struct firn_extent *x = NULL;
	uint64_t cap = 0;

	*n = *pages = 0;
	for (uint64_t i = 0; i < nbits; i++) {
		if (i % 64 == 0 && w[i / 64] == 0) {
			i += 63;
			continue;
		}
		if ((w[i / 64] >> (i % 64) & 1) == 0)
			continue;
		++*pages;
		if (*n > 0 && x[*n - 1].first + x[*n - 1].npages == i) {
			x[*n - 1].npages++;
			continue;
		}
		if (*n == cap) {
			struct firn_extent *p;

			if (*n >= RUNS_MAX) {
				free(x);
				return -E2BIG;
			}
			cap = cap == 0 ? 64 : cap * 2;
			p = realloc(x, cap * sizeof(*x));
			if (p == NULL) {
				free(x);
				return -ENOMEM;
			}
			x = p;
		}
		x[(*n)++] = (struct firn_extent){.first = i, .npages = 1};
	}
	*out = x;
	return 0;
}

static int plain_extents(
    const uint64_t *words, uint64_t npages, json_t **out, int *fd)
{
	struct firn_extent *x = NULL;
	uint64_t n;
	uint64_t pages;
	int rc = bits_to_extents(words, npages, &x, &n, &pages);

	if (rc != 0)
		return rc;
	*out = json_pack("{s:I}", "pages", (json_int_t)pages);
	rc = extents_result(*out, x, n, fd);
	free(x);
	return rc;
}

/* As it came: however scattered, it has its size. */
static int plain_bitmap(
    const uint64_t *words, uint64_t npages, json_t **out, int *fd)
{
	uint64_t nwords = (npages + 63) / 64;
	uint64_t pages = 0;

	for (uint64_t i = 0; i < nwords; i++)
		pages += (uint64_t)__builtin_popcountll(words[i]);
	*out =
	    json_pack("{s:I,s:i}", "pages", (json_int_t)pages, "bitmap_fd", 0);
	if (*out == NULL)
		return -ENOMEM;
	*fd = wire_blob("firn-bitmap", words, nwords * sizeof(*words));
	return *fd < 0 ? *fd : 0;
}

static int plain_result(struct ctl_req *rq, const uint64_t *words,
    uint64_t npages, json_t **out, int *fd)
{
	int rc;

	*out = NULL;
	*fd = -1;
	rc = ctl_bool(rq, "bitmap") ? plain_bitmap(words, npages, out, fd)
				    : plain_extents(words, npages, out, fd);
	if (rc != 0)
		json_decref(*out);
	return rc;
}

struct plain_op {
	struct ctl_req *rq;
	uint32_t place;
	uint64_t npages;
	bool peek;
	char cursor[FIRN_NAME_MAX];
};

/* The bitmap in (fd), of the answer (pk), with what the cursor still owes; NULL
 * with *rc. */
static uint64_t *plain_bits(const struct plain_op *op,
    const struct wire_packet *pk, int fd, const struct cursor *c, int *rc)
{
	size_t want = (op->npages + 63) / 64 * 8;
	struct wire_dirtied w = {0};
	void *bits = NULL;
	void *owed = NULL;
	size_t len = 0;

	if (pk->m.len == sizeof(w))
		memcpy(&w, pk->payload, sizeof(w));
	*rc = fd < 0 || w.npages != op->npages
		  ? -EPROTO
		  : wire_slurp(fd, want, &bits, &len);
	if (*rc == 0 && len != want)
		*rc = -EPROTO;
	if (*rc == 0 && c != NULL && c->owes) {
		*rc = wire_slurp(c->owed, want, &owed, &len);
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

/* The monitor has forgotten these bits (in *fd) and nobody was told of them:
 * the next answer of this cursor has them too. */
static void plain_owe(struct cursor *c, int *fd)
{
	if (c == NULL || c->owes)
		return;
	c->owed = *fd;
	c->owes = true;
	*fd = -1;
}

static void plain_paid(struct cursor *c)
{
	if (c == NULL || !c->owes)
		return;
	(void)close(c->owed);
	c->owes = false;
}

static void plain_answer(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct plain_op *op = ctx;
	struct bplace *p = pk == NULL ? NULL : place_by_id(vm, op->place);
	struct cursor *c = p == NULL ? NULL : find(p->cursor, op->cursor);
	struct err e = {0};
	json_t *result = NULL;
	uint64_t *bits = NULL;
	int bitmap = -1;
	int fd = -1;
	int rc = pk == NULL ? err_set(&e, -ESRCH, "the VM ended meanwhile")
			    : packet_err(pk, &e);

	if (c != NULL)
		c->busy = false;
	if (rc == 0) {
		bitmap = wire_take_fd(pk, 0);
		bits = plain_bits(op, pk, bitmap, c, &rc);
		if (rc == -EPROTO || rc == -EFBIG || rc == -EINVAL)
			vm_kill(b, vm); /* no monitor of ours answers so */
		if (rc == 0)
			rc = plain_result(
			    op->rq, bits, op->npages, &result, &fd);
		if (rc != 0)
			(void)err_set(&e, rc, "the bitmap cannot be used: %s",
			    strerror(-rc));
		if (!op->peek && (rc != 0 || ctl_req_cancelled(op->rq)))
			plain_owe(c, &bitmap);
		else if (!op->peek)
			plain_paid(c);
	}
	if (rc != 0)
		ctl_fail(op->rq, &e);
	else
		ctl_reply(op->rq, result, &fd, fd >= 0 ? 1 : 0);
	if (bitmap >= 0)
		(void)close(bitmap);
	if (fd >= 0)
		(void)close(fd);
	free(bits);
	free(op);
}

static int plain(struct ctl_req *rq, struct bvm *vm, struct bplace *p,
    struct cursor *c, struct err *e)
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
	op->rq = rq;
	op->place = p->id;
	op->npages = p->npages;
	op->peek = ctl_bool(rq, "peek");
	memcpy(op->cursor, c->name, sizeof(op->cursor));
	/* What is owed is held but once: until it is paid, the monitor keeps
	 * its bits. */
	w.flags = op->peek || c->owes ? FIRN_PEEK : 0;
	(void)snprintf(
	    w.cursor, sizeof(w.cursor), WIRE_CURSOR_CLIENT "%.62s", c->name);
	rc =
	    vm_ask(vm, WIRE_DIRTY, &w, sizeof(w), NULL, 0, plain_answer, op, e);
	if (rc != 0)
		free(op);
	c->busy = rc == 0;
	return rc;
}

/* --- exact ------------------------------------------------------------------
 */

struct exact_op {
	struct asker a;
	bool peek;
	uint32_t max; /* extents that a guest wants */
	uint64_t vm;
	uint32_t place;
	struct map to; /* where the cursor goes once this is told */
	char cursor[FIRN_NAME_MAX];
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
	    p == NULL ? NULL : find(exact_set(op, p), op->cursor);
	int rc = 0;

	if (!op->peek && told > 0 && c != NULL && c->exact &&
	    p->npages == op->to.npages)
		rc = exact_pass(b, c, &op->to, told);
	map_put(&b->store, &op->to);
	free(op);
	return rc;
}

/* The exact cursor of that name, or a new one. NULL: -ENOSPC, or -EINVAL, as a
 * plain one began. */
static struct cursor *exact_cursor(
    struct cursor set[static CURSORS_MAX], const char *name, struct err *e)
{
	struct cursor *c = find(set, name);

	if (c != NULL && !c->exact)
		return began_plain(name, e), NULL;
	c = find_or_take(set, name);
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
	c = exact_cursor(exact_set(op, p), op->cursor, &e);
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

	(void)snprintf(want.cursor, sizeof(want.cursor), "%s", cursor);
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

	memcpy(want.cursor, g->cursor, sizeof(want.cursor));
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

	c = find_or_take(p->cursor, cursor);
	if (c == NULL)
		return no_more(e);
	rc = plain(rq, vm, p, c, e);
	if (rc != 0 && is_new)
		*c = (struct cursor){0};
	return rc;
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
	p = place_find(vm, ctl_str(rq, "segment"), &e);
	if (p != NULL)
		c = find(p->cursor, cursor);
	if (p == NULL)
		rc = e.code;
	else if (!name_ok(cursor) || strlen(cursor) > CURSOR_NAME_MAX)
		rc = name_refuse(cursor, CURSOR_NAME_MAX, &e);
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
