/* SPDX-License-Identifier: MIT */
/* What guests ask through their monitors, with the VM's own capabilities. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/broker/internal.h"
#include "vmm/core/seals.h"

/* A name from a payload that must hold one, NUL-terminated. */
static const char *name_of(char *name)
{
	name[FIRN_NAME_MAX - 1] = '\0';
	return name;
}

/* The payload of exactly (len) bytes; else the guest is told EPROTO. */
static int take(struct asker *a, struct broker *b, const struct wire_packet *p,
    void *out, size_t len)
{
	struct err e;

	if (p->m.len == len) {
		memcpy(out, p->payload, len);
		return 0;
	}
	asker_fail(b, a, (err_set(&e, -EPROTO, "malformed request"), &e));
	return -EPROTO;
}

static void g_freeze(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, struct asker a)
{
	struct wire_gfreeze g;
	struct bplace *p;
	struct err e;

	if (take(&a, b, pk, &g, sizeof(g)) != 0)
		return;
	p = place_by_id(vm, g.id);
	if (p == NULL)
		asker_fail(
		    b, &a, (err_set(&e, -ENOENT, "no such segment"), &e));
	else
		freeze(
		    b, a, vm, p, pk->m.type == WIRE_G_SEVER, name_of(g.name));
}

static void g_map(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, struct asker a)
{
	struct wire_gmap g;
	struct lay_req r = {.vm = vm->id};
	struct err e = {0};
	int rc;

	if (take(&a, b, pk, &g, sizeof(g)) != 0)
		return;
	if ((g.mode & ~FIRN_MAP_TRACK) > FIRN_MAP_COW)
		rc = err_set(&e, -EINVAL, "no such mode");
	else
		rc = snap_by_cap(b, &vm->caps, g.cap,
		    (g.mode & FIRN_MAP_COW) ? FIRN_RIGHT_MAP_COW
					    : FIRN_RIGHT_MAP_RO,
		    &r.snap, &e);
	r.gpa = g.gpa;
	r.mode = g.mode;
	if (rc != 0)
		asker_fail(b, &a, &e);
	else
		lay(b, a, &r);
}

static void g_adopt(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, struct asker a)
{
	struct wire_gmap g;
	struct lay_req r = {.vm = vm->id};
	struct err e = {0};

	if (take(&a, b, pk, &g, sizeof(g)) != 0)
		return;
	r.gpa = g.gpa;
	if (snap_by_cap(b, &vm->caps, g.cap, FIRN_RIGHT_MAP_COW, &r.snap, &e) !=
	    0)
		asker_fail(b, &a, &e);
	else
		adopt(b, a, &r);
}

static void g_open(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, struct asker a)
{
	char name[FIRN_NAME_MAX] = "";
	struct lay_req r = {.vm = vm->id, .open = true};
	struct err e = {0};
	int32_t cap;

	if (pk->m.len <= sizeof(name))
		memcpy(name, pk->payload, pk->m.len);
	(void)name_of(name);
	cap = cap_find(&vm->caps, name);
	if (cap < 0)
		(void)err_set(&e, -ENOENT, "nothing was given by that name");
	if (cap < 0 ||
	    snap_by_cap(b, &vm->caps, cap, FIRN_RIGHT_MAP_RO, &r.snap, &e) != 0)
		asker_fail(b, &a, &e);
	else
		lay(b, a, &r);
}

static void g_lookup(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, struct asker a)
{
	char name[FIRN_NAME_MAX] = "";
	int32_t cap;
	struct err e;

	if (pk->m.len <= sizeof(name))
		memcpy(name, pk->payload, pk->m.len);
	(void)name_of(name);
	cap = name[0] == '\0' ? -ENOENT : cap_find(&vm->caps, name);
	if (cap < 0)
		asker_fail(
		    b, &a, (err_set(&e, -ENOENT, "nothing has that name"), &e));
	else
		asker_answer_guest(b, &a, cap, NULL, 0, NULL, 0);
}

struct describe_op {
	struct errand w;
	struct asker a;
	struct snap *s; /* held */
	struct firn_cap_info info;
	struct filetab tab; /* the layers of its map */
	uint32_t nruns;     /* that were looked at */
};

static int count_layer(void *ctx, const struct page_run *r)
{
	struct describe_op *op = ctx;

	if (op->w.here && ++op->nruns > HERE_RUNS)
		return -EAGAIN;
	return filetab_want(&op->tab, r, 1);
}

static int describe_look(struct errand *w)
{
	struct describe_op *op = (struct describe_op *)w;
	const struct map *m = &op->s->map;

	return map_walk(m, 0, m->npages, count_layer, op);
}

static bool is_sealed(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);

	return seals >= 0 && (seals & SEALS_FROZEN) == SEALS_FROZEN;
}

/* Does the kernel say of every file that its layers are in that nobody can
 * write it? */
static int describe_layers(struct describe_op *op)
{
	int rc = filetab_fill(&op->tab, op->w.b->layers);
	bool sealed = rc == 0;

	for (uint32_t i = 0; sealed && i < op->tab.nfiles; i++)
		sealed = is_sealed(op->tab.fd[i]);
	op->info.sealed = sealed;
	if (op->info.rights & FIRN_RIGHT_DIFF)
		op->info.layers = op->tab.nlayers;
	return rc;
}

static void describe_end(struct describe_op *op)
{
	snap_put(op->w.b, op->s);
	filetab_free(&op->tab);
	free(op);
}

static void describe_looked(struct errand *w)
{
	struct describe_op *op = (struct describe_op *)w;

	if (w->rc == 0)
		w->rc = describe_layers(op);
	if (w->rc != 0)
		asker_fail(w->b, &op->a,
		    (err_set(&w->e, w->rc, "no memory to look at its layers"),
			&w->e));
	else
		asker_answer_guest(
		    w->b, &op->a, 0, &op->info, sizeof(op->info), NULL, 0);
	describe_end(op);
}

/* What can be told of (s) without a look at its layers. */
static void describe(struct broker *b, struct snap *s, const struct cap *c,
    struct firn_cap_info *info)
{
	*info = (struct firn_cap_info){.kind = FIRN_CAP_SNAPSHOT,
	    .rights = c->rights,
	    .object = s->id,
	    .size = s->map.npages * PAGE_SIZE,
	    .owned = own_alone(b, s)};
	if (c->rights & FIRN_RIGHT_DIFF)
		info->layers = 1;
}

static void g_describe(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, struct asker a)
{
	struct describe_op *op;
	struct wire_gcap g;
	const struct cap *c;
	struct snap *s;
	struct err e = {0};

	if (take(&a, b, pk, &g, sizeof(g)) != 0)
		return;
	if (snap_by_cap(b, &vm->caps, g.cap, 0, &s, &e) != 0) {
		asker_fail(b, &a, &e);
		return;
	}
	op = calloc(1, sizeof(*op));
	if (op == NULL) {
		asker_fail(b, &a,
		    (err_set(&e, -ENOMEM, "no memory to look at its layers"),
			&e));
		return;
	}
	(void)cap_lookup(&vm->caps, g.cap, 0, &c);
	op->w.b = b;
	op->a = a;
	op->s = snap_hold(s);
	describe(b, s, c, &op->info);
	if (s->owned == 0) {
		errand(b, &op->w, describe_look, describe_looked);
		return;
	}
	asker_answer_guest(b, &a, 0, &op->info, sizeof(op->info), NULL, 0);
	describe_end(op);
}

static void g_diff(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, struct asker a)
{
	struct wire_gdiff g;
	struct side side[2] = {{0}, {0}};
	struct err e = {0};

	if (take(&a, b, pk, &g, sizeof(g)) != 0)
		return;
	if (g.max > FIRN_EXTENTS_MAX)
		(void)err_set(&e, -EINVAL, "more extents than the limit");
	if (e.code != 0 ||
	    snap_by_cap(
		b, &vm->caps, g.a, FIRN_RIGHT_DIFF, &side[0].snap, &e) != 0 ||
	    snap_by_cap(
		b, &vm->caps, g.b, FIRN_RIGHT_DIFF, &side[1].snap, &e) != 0)
		asker_fail(b, &a, &e);
	else
		diff(b, a, side, (g.flags & FIRN_EXACT) != 0, g.max);
}

static void g_dirty(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, struct asker a)
{
	struct wire_gdirty g;

	if (take(&a, b, pk, &g, sizeof(g)) != 0)
		return;
	(void)name_of(g.cursor);
	guest_dirty(b, a, vm, &g);
}

static void g_meld(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, struct asker a)
{
	struct wire_gmeld g;
	struct meld_req r = {.rights = FIRN_RIGHT_ALL};
	struct err e = {0};
	int rc = 0;

	if (take(&a, b, pk, &g, sizeof(g)) != 0)
		return;
	if (g.m.max > FIRN_EXTENTS_MAX || (g.m.flags & ~FIRN_BLIND) != 0)
		rc = err_set(&e, -EINVAL, "more than there is");
	for (int i = 0; i < 3 && rc == 0; i++) {
		uint32_t cap = i == 0 ? g.m.base : i == 1 ? g.m.a : g.m.b;
		const struct cap *c;

		rc = snap_by_cap(
		    b, &vm->caps, cap, meld_right(i), &r.snap[i], &e);
		if (rc == 0 && i > 0 && cap_lookup(&vm->caps, cap, 0, &c) == 0)
			r.rights &= c->rights;
	}
	if (rc != 0) {
		asker_fail(b, &a, &e);
		return;
	}
	r.blind = (g.m.flags & FIRN_BLIND) != 0;
	r.max = g.m.max;
	memcpy(r.name, name_of(g.name), sizeof(r.name));
	meld(b, a, &r);
}

struct derive_op {
	struct asker a;
	struct wire_gcap g;
};

/* Once it is sealed: an owned capability has no copies. Its number may name
 * something else by now. */
static void derive_sealed(struct broker *b, const struct err *why, void *ctx)
{
	struct derive_op *op = ctx;
	struct cap_table *t = asker_caps(b, &op->a);
	const struct cap *c;
	struct snap *s;
	int32_t cap;
	struct err e;

	if (why != NULL || t == NULL) {
		if (why != NULL)
			asker_fail(b, &op->a, why);
		free(op);
		return;
	}
	cap = snap_by_cap(b, t, op->g.cap, 0, &s, &e);
	if (cap == 0 && s->owned != 0)
		cap = -EBADF;
	if (cap == 0)
		cap = cap_derive(t, op->g.cap, op->g.rights);
	if (cap == -EPERM)
		cap = -EACCES;
	if (cap < 0) {
		asker_fail(b, &op->a,
		    (err_set(&e, (int)cap, "cannot derive: %s", strerror(-cap)),
			&e));
	} else {
		(void)cap_lookup(t, cap, 0, &c);
		(void)snap_hold(snap_by_id(b, c->object));
		asker_answer_guest(b, &op->a, cap, NULL, 0, NULL, 0);
	}
	free(op);
}

static void g_derive(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, struct asker a)
{
	struct derive_op *op;
	struct wire_gcap g;
	struct snap *s;
	struct err e = {0};
	int rc;

	if (take(&a, b, pk, &g, sizeof(g)) != 0)
		return;
	rc = snap_by_cap(b, &vm->caps, g.cap, FIRN_RIGHT_DERIVE, &s, &e);
	op = rc == 0 ? calloc(1, sizeof(*op)) : NULL;
	if (rc == 0 && op == NULL)
		rc = err_set(&e, -ENOMEM, "no memory to derive");
	if (rc == 0) {
		*op = (struct derive_op){.a = a, .g = g};
		rc = own_seal(b, s, derive_sealed, op, &e);
	}
	if (rc != 0) {
		free(op);
		asker_fail(b, &a, &e);
	}
}

static void g_drop(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, struct asker a)
{
	struct wire_gcap g;
	const struct cap *c;
	struct err e;

	if (take(&a, b, pk, &g, sizeof(g)) != 0)
		return;
	if (cap_lookup(&vm->caps, g.cap, 0, &c) != 0) {
		asker_fail(
		    b, &a, (err_set(&e, -EBADF, "no such capability"), &e));
		return;
	}
	cap_end(b, &vm->caps, g.cap);
	asker_answer_guest(b, &a, 0, NULL, 0, NULL, 0);
}

/* The guest wants a segment: its bytes are reserved now, one at a time, and
 * become the segment's with WIRE_SEG_MADE. */
static void g_segment(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, struct asker a)
{
	struct wire_segment w;
	struct err e = {0};
	int memory = -1;
	int rc = 0;

	if (take(&a, b, pk, &w, sizeof(w)) != 0)
		return;
	if (vm->reserved_next != 0)
		rc = err_set(&e, -EBUSY, "another segment is being made");
	else if (w.size == 0 || w.size % PAGE_SIZE != 0)
		rc = err_set(&e, -EINVAL, "a segment is whole pages");
	else if ((w.flags & ~FIRN_SEG_MAKE) != 0)
		rc = err_set(&e, -EINVAL, "no such segment");
	else if (!name_ok(name_of(w.name)))
		rc = err_set(&e, -EINVAL, "not a name for a segment");
	if (rc == 0)
		rc = bank_reserve(b, vm, w.size, &e);
	if (rc == 0) {
		memory = layer_memory(w.size / PAGE_SIZE, &e);
		rc = memory < 0
			 ? memory
			 : asker_hand_guest(b, &a, NULL, 0, &memory, 1, &e);
		if (rc != 0)
			bank_release(b, vm, w.size);
	}
	if (memory >= 0)
		(void)close(memory);
	if (rc != 0) {
		asker_fail(b, &a, &e);
		return;
	}
	vm->reserved_next = w.size;
	vm->reserved_flags = w.flags;
}

static void seg_made(struct broker *b, struct bvm *vm, struct wire_packet *pk)
{
	struct wire_segment w;
	struct bplace *p;

	if (pk->m.len != sizeof(w)) {
		vm_kill(b, vm);
		return;
	}
	memcpy(&w, pk->payload, sizeof(w));
	(void)name_of(w.name);
	p = place_by_id(vm, w.id);
	if (p != NULL && p->npages == w.size / PAGE_SIZE) {
		p->gpa = w.gpa; /* one of the launch's */
		return;
	}
	w.flags = vm->reserved_flags;
	if (p != NULL || w.size == 0 || w.size != vm->reserved_next ||
	    w.id == UINT32_MAX || !name_ok(w.name) ||
	    place_add(b, vm, &w, NULL, NULL) == NULL)
		vm_kill(b, vm);
	vm->reserved_next = 0;
}

/* Id UINT32_MAX: the segment that was reserved for does not come. */
static void seg_gone(struct broker *b, struct bvm *vm, struct wire_packet *pk)
{
	struct wire_place w;
	struct bplace *p;

	if (pk->m.len != sizeof(w))
		return;
	memcpy(&w, pk->payload, sizeof(w));
	p = place_by_id(vm, w.id);
	if (w.id == UINT32_MAX) {
		bank_release(b, vm, vm->reserved_next);
		vm->reserved_next = 0;
	} else if (p != NULL &&
		   (p->shown != NULL || p->adopted || p->was_severed)) {
		place_gone(b, vm, p);
	}
}

static void snap_closed(
    struct broker *b, struct bvm *vm, struct wire_packet *pk)
{
	struct wire_closed w;

	if (pk->m.len != sizeof(w))
		return;
	memcpy(&w, pk->payload, sizeof(w));
	held_closed(b, vm, w.id);
	layers_reap(b);
}

typedef void guest_fn(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, struct asker a);

static guest_fn *handler_of(uint16_t type)
{
	switch (type) {
	case WIRE_G_FREEZE:
	case WIRE_G_SEVER:
		return g_freeze;
	case WIRE_G_MAP:
		return g_map;
	case WIRE_G_OPEN:
		return g_open;
	case WIRE_G_LOOKUP:
		return g_lookup;
	case WIRE_G_DESCRIBE:
		return g_describe;
	case WIRE_G_DIFF:
		return g_diff;
	case WIRE_G_MELD:
		return g_meld;
	case WIRE_G_DERIVE:
		return g_derive;
	case WIRE_G_DROP:
		return g_drop;
	case WIRE_G_SEGMENT:
		return g_segment;
	case WIRE_G_ADOPT:
		return g_adopt;
	case WIRE_G_DIRTY:
		return g_dirty;
	default:
		return NULL;
	}
}

void guest_packet(struct broker *b, struct bvm *vm, struct wire_packet *pk)
{
	guest_fn *fn = handler_of(pk->m.type);
	struct asker a;
	struct err e;

	if (pk->m.type == WIRE_SEG_MADE) {
		seg_made(b, vm, pk);
		return;
	}
	if (pk->m.type == WIRE_SEG_GONE) {
		seg_gone(b, vm, pk);
		return;
	}
	if (pk->m.type == WIRE_G_CLOSED) {
		snap_closed(b, vm, pk);
		return;
	}
	if (fn == NULL) {
		vm_kill(b, vm);
		return;
	}
	a = asker_guest(vm, &pk->m);
	if (vm->nguest_calls > GUEST_CALLS_MAX)
		asker_fail(
		    b, &a, (err_set(&e, -EBUSY, "too many calls at once"), &e));
	else
		fn(b, vm, pk, a);
}
