/* SPDX-License-Identifier: MIT */
/*
 * dirty.query: pages written since a cursor last advanced.
 *
 * A plain cursor is a bitmap that the monitor keeps. An exact one is a page map
 * kept here: the query freezes the place, publishes nothing, and compares the
 * bytes of what differs from that map. A cursor that began plain has no such
 * map, so it cannot answer exactly, and is not made to: what it would miss
 * could not be told. One that began exact answers exactly always.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

static struct cursor *cursor_find(struct bplace *p, const char *name)
{
	for (uint32_t i = 0; i < CURSORS_MAX; i++)
		if (strcmp(p->cursor[i].name, name) == 0)
			return &p->cursor[i];
	return NULL;
}

/* The cursor of that name, or a new one; NULL when there is no room. */
static struct cursor *cursor_take(struct bplace *p, const char *name)
{
	struct cursor *c = cursor_find(p, name);

	if (c == NULL)
		c = cursor_find(p, "");
	if (c != NULL)
		(void)snprintf(c->name, sizeof(c->name), "%s", name);
	return c;
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

static int plain_result(struct ctl_req *rq, const uint64_t *words,
    uint64_t npages, json_t **out, int *fd)
{
	struct firn_extent *x = NULL;
	uint64_t n;
	uint64_t pages;
	int rc = bits_to_extents(words, npages, &x, &n, &pages);

	*fd = -1;
	if (rc != 0)
		return rc;
	*out = json_pack("{s:I}", "pages", (json_int_t)pages);
	if (ctl_bool(rq, "bitmap")) {
		*fd = wire_blob("firn-bitmap", words, (npages + 63) / 64 * 8);
		rc = *fd < 0 ? *fd : 0;
		(void)json_object_set_new(*out, "bitmap_fd", json_integer(0));
	} else {
		rc = extents_result(*out, x, n, fd);
	}
	free(x);
	if (rc != 0)
		json_decref(*out);
	return rc;
}

struct plain_op {
	struct ctl_req *rq;
	uint64_t npages;
};

static void plain_answer(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct plain_op *op = ctx;
	struct err e = {0};
	json_t *result = NULL;
	void *data = NULL;
	size_t len = 0;
	size_t want = (op->npages + 63) / 64 * 8;
	int bitmap = -1;
	int fd = -1;
	int rc = pk == NULL ? err_set(&e, -ESRCH, "the VM ended meanwhile")
			    : packet_err(pk, &e);

	if (rc == 0) {
		bitmap = wire_take_fd(pk, 0);
		rc = bitmap < 0 ? -EPROTO
				: wire_slurp(bitmap, want, &data, &len);
		if (rc == 0 && len != want)
			rc = -EPROTO;
		if (rc == 0)
			rc = plain_result(
			    op->rq, data, op->npages, &result, &fd);
		if (rc == -EPROTO)
			vm_kill(b, vm);
		if (rc != 0)
			(void)err_set(&e, rc, "the bitmap cannot be used: %s",
			    strerror(-rc));
	}
	if (rc != 0)
		ctl_fail(op->rq, &e);
	else
		ctl_reply(op->rq, result, &fd, fd >= 0 ? 1 : 0);
	if (bitmap >= 0)
		(void)close(bitmap);
	if (fd >= 0)
		(void)close(fd);
	free(data);
	free(op);
}

static int plain(struct ctl_req *rq, struct bvm *vm, struct bplace *p,
    const char *cursor, struct err *e)
{
	struct wire_dirty w = {
	    .id = p->id,
	    .flags = ctl_bool(rq, "peek") ? FIRN_PEEK : 0,
	};
	struct plain_op *op = calloc(1, sizeof(*op));
	int rc;

	if (op == NULL)
		return err_set(e, -ENOMEM, "no memory for a query");
	op->rq = rq;
	op->npages = p->npages;
	(void)snprintf(w.cursor, sizeof(w.cursor), "%s", cursor);
	rc =
	    vm_ask(vm, WIRE_DIRTY, &w, sizeof(w), NULL, 0, plain_answer, op, e);
	if (rc != 0)
		free(op);
	return rc;
}

/* --- exact ------------------------------------------------------------------
 */

struct exact_op {
	struct ctl_req *rq;
	bool peek;
	char cursor[FIRN_NAME_MAX];
};

static void exact_lifted(struct broker *b, struct bvm *vm, struct bplace *p,
    struct lifted *l, const struct err *why, void *ctx)
{
	struct exact_op *op = ctx;
	struct cursor *c;
	struct err e;
	struct map base;

	(void)vm;
	if (why != NULL) {
		ctl_fail(op->rq, why);
		free(op);
		return;
	}
	c = cursor_take(p, op->cursor);
	if (c == NULL) {
		map_put(&b->store, &l->map);
		(void)err_set(&e, -ENOSPC, "a segment has at most %u cursors",
		    CURSORS_MAX);
		ctl_fail(op->rq, &e);
		free(op);
		return;
	}
	if (!c->exact) {
		c->base = map_get(&b->store, &l->map);
		c->exact = true;
	}
	base = map_get(&b->store, &c->base);
	if (!op->peek) {
		map_put(&b->store, &c->base);
		c->base = map_get(&b->store, &l->map);
	}
	diff_maps(b, asker_client(op->rq), base, l->map, true, 0);
	free(op);
}

static int exact(struct broker *b, struct ctl_req *rq, struct bvm *vm,
    struct bplace *p, const char *cursor, struct err *e)
{
	struct exact_op *op;
	int rc;

	if (ctl_bool(rq, "bitmap"))
		return err_set(e, -EINVAL,
		    "an exact query answers with extents, not a bitmap");
	op = calloc(1, sizeof(*op));
	if (op == NULL)
		return err_set(e, -ENOMEM, "no memory for a query");
	op->rq = rq;
	op->peek = ctl_bool(rq, "peek");
	(void)snprintf(op->cursor, sizeof(op->cursor), "%s", cursor);
	rc = lift(b, vm, p, false, exact_lifted, op, e);
	if (rc != 0)
		free(op);
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
		c = cursor_find(p, cursor);
	if (p == NULL)
		rc = e.code;
	else if (!name_ok(cursor))
		rc = err_set(
		    &e, -EINVAL, "'%.64s' is not a name for a cursor", cursor);
	else if (p->flags & FIRN_SEG_VIEW_RO)
		rc = err_set(&e, -EPERM, "a read-only view is never written");
	else if (c != NULL && !c->exact && ctl_bool(rq, "exact"))
		rc = err_set(&e, -EINVAL,
		    "cursor '%s' began without --exact; begin another one with "
		    "it",
		    cursor);
	else if (ctl_bool(rq, "exact") || (c != NULL && c->exact))
		rc = exact(b, rq, vm, p, cursor, &e);
	else if (cursor_take(p, cursor) == NULL)
		rc = err_set(&e, -ENOSPC, "a segment has at most %u cursors",
		    CURSORS_MAX);
	else
		rc = plain(rq, vm, p, cursor, &e);
	if (rc != 0)
		ctl_fail(rq, &e);
}
