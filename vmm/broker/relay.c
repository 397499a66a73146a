/* SPDX-License-Identifier: MIT */
/*
 * relay: a place is mapped afresh. When files were rewritten that monitors map,
 * so that the old can go; after a freeze, when much of what it copied in
 * earlier ones is not written any more, so that it is not there twice.
 *
 * A place is asked only while the broker knows what it shows: no freeze of it
 * is under way or waits to be applied. Packets to a monitor are in order, so a
 * freeze that is asked for later comes later. A place that refuses is let be
 * until it is frozen again; what it maps stays pinned.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

#define RELAY_RUNS_MAX 4096u /* more would cost the guest a long pause */
/* Pages; fewer are not worth a pause: bench_copies has 0.16 ms a thousand. */
#define RELAY_COLD_MIN 1024u
/* Pages that must come of each run, which is a mapping of 5 us, as each of them
 * may cost a fault and a copy, 15 us, once more. */
#define RELAY_COLD_RUN  2u
#define RELAY_FILES_MAX (WIRE_FDS_MAX - 1)

struct relay_op {
	uint32_t place;
	uint64_t asked_ns;
	struct pins pins;
};

static bool can_relay(const struct bvm *vm, const struct bplace *p)
{
	return p->used && !p->unmovable && p->lifting == 0 && !p->relaying &&
	       p->pending == NULL && !p->severing &&
	       (p->flags & (FIRN_SEG_TRACKED | FIRN_SEG_PRIVATE)) == 0 &&
	       (vm->state == VM_RUNNING || vm->state == VM_PAUSED) &&
	       !vm->killed && vm->ncalls < CALLS_MAX / 2;
}

static void count_pins(const struct bplace *p, uint32_t *n)
{
	for (uint32_t i = 0; i < p->pins.n; i++)
		n[p->pins.file[i]]++;
	if (p->has_own_file)
		n[p->own_file]++;
}

uint32_t *relay_pins(struct broker *b)
{
	uint32_t *n = calloc(FILES_MAX, sizeof(*n));

	for (struct bvm *vm = b->vms; n != NULL && vm != NULL; vm = vm->next)
		for (uint32_t i = 0; i < PLACES_MAX; i++)
			if (can_relay(vm, &vm->place[i]))
				count_pins(&vm->place[i], n);
	return n;
}

/* Nothing is in it any more: it lives because it is mapped. */
static bool left_over(struct broker *b, uint32_t file)
{
	struct lfile_stat st;

	lfile_stat(b->layers, file, &st);
	return st.npieces == 0;
}

static bool shows_left_over(struct broker *b, const struct bplace *p)
{
	for (uint32_t i = 0; i < p->pins.n; i++)
		if (left_over(b, p->pins.file[i]))
			return true;
	return p->has_own_file && left_over(b, p->own_file);
}

/* A failure after which it shows what it did before. */
static bool unchanged(int rc)
{
	return rc != -EXDEV && rc != -ENOTRECOVERABLE && rc != -EPROTO;
}

/* All users are told the sums: a monitor cannot have given more than the place
 * has, nor have taken longer than its answer. */
static void count_relay(struct store *s, const struct relay_op *op,
    const struct bplace *p, const struct wire_packet *pk)
{
	struct wire_relayed w;

	s->moved_places++;
	if (pk->m.len != sizeof(w))
		return;
	memcpy(&w, pk->payload, sizeof(w));
	if (w.given_pages > p->npages || w.pause_ns > now_ns() - op->asked_ns)
		return;
	s->given_bytes += w.given_pages * PAGE_SIZE;
	s->relay_ns += w.pause_ns;
}

static void relay_answer(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct relay_op *op = ctx;
	struct bplace *p = pk == NULL ? NULL : place_by_id(vm, op->place);
	struct err e = {0};
	int rc = pk == NULL ? -ESRCH : packet_err(pk, &e);

	if (p != NULL)
		p->relaying = false;
	if (p != NULL && rc == 0) {
		count_relay(&b->tidying, op, p, pk);
		place_unpin(b, p);
		p->pins = op->pins;
		op->pins = (struct pins){0};
	} else if (p != NULL) {
		p->unmovable = true;
		if (!unchanged(rc) &&
		    pins_add(b, &p->pins, op->pins.file, op->pins.n) != 0)
			rc = -ENOTRECOVERABLE;
		if (rc == -ENOTRECOVERABLE || rc == -EPROTO)
			vm_kill(b, vm);
	}
	pins_drop(b, &op->pins);
	free(op);
	layers_reap(b);
}

/* What (p) showed when it was frozen last: of equal maps that of few extents.
 */
static const struct map *shown_map(const struct bplace *p)
{
	const struct snap *s = p->shown;

	if (s != NULL && s->has_laid && s->map.entry == p->cur.entry)
		return &s->laid;
	return &p->cur;
}

static int relay_send(struct bvm *vm, struct bplace *p, const struct runs *rs,
    const struct filetab *t, struct relay_op *op)
{
	struct wire_relay w = {
	    .npages = p->npages,
	    .nruns = rs->n,
	    .id = p->id,
	    .nlayers = t->nfiles,
	};
	int fds[WIRE_FDS_MAX];
	struct err e;
	int rc;

	fds[0] = wire_blob("firn-runs", rs->r, rs->n * sizeof(*rs->r));
	if (fds[0] < 0)
		return fds[0];
	memcpy(&fds[1], t->fd, t->nfiles * sizeof(*fds));
	rc = vm_ask(vm, WIRE_RELAY, &w, sizeof(w), fds, 1 + t->nfiles,
	    relay_answer, op, &e);
	(void)close(fds[0]);
	return rc;
}

static int relay_try(struct broker *b, struct bvm *vm, struct bplace *p,
    struct runs *rs, struct filetab *t)
{
	struct relay_op *op;
	int rc = runs_of(shown_map(p), 0, p->npages, rs);

	if (rc == 0)
		rc = files_of(b, rs, t);
	if (rc == 0 && (rs->n > rs->max || t->nfiles > RELAY_FILES_MAX))
		rc = -E2BIG;
	if (rc != 0)
		return rc;
	op = calloc(1, sizeof(*op));
	if (op == NULL)
		return -ENOMEM;
	op->place = p->id;
	op->asked_ns = now_ns();
	rc = pins_take(b, &op->pins, t->file, t->nfiles);
	if (rc == 0)
		rc = relay_send(vm, p, rs, t, op);
	if (rc == 0)
		return 0;
	pins_drop(b, &op->pins);
	free(op);
	return rc;
}

/* Of at most (max) runs; -E2BIG where it is not. */
static int relay(struct broker *b, struct bvm *vm, struct bplace *p, size_t max)
{
	struct runs rs = {.max = max};
	struct filetab t = {0};
	int rc = relay_try(b, vm, p, &rs, &t);

	p->relaying = rc == 0;
	free(rs.r);
	filetab_free(&t);
	return rc;
}

/*
 * It pays where as much is cold as is warm, so that what is written again and
 * has to be copied again is less than what is won, and where a run, which costs
 * a mapping under the pause, brings pages enough.
 */
void relay_copies(struct broker *b, struct bvm *vm, struct bplace *p,
    const struct wire_frozen *f)
{
	uint64_t max = f->cold_pages / RELAY_COLD_RUN;

	if (f->cold_pages < RELAY_COLD_MIN || f->cold_pages < f->warm_pages ||
	    !can_relay(vm, p))
		return;
	if (max > RELAY_RUNS_MAX)
		max = RELAY_RUNS_MAX;
	(void)relay(b, vm, p, max);
}

/* Ask the next place of (vm) that is to be moved; false: there is none. */
static bool relay_one(struct broker *b, struct bvm *vm, uint32_t *next)
{
	while (*next < PLACES_MAX) {
		struct bplace *p = &vm->place[(*next)++];

		if (!can_relay(vm, p) || !shows_left_over(b, p))
			continue;
		p->unmovable = relay(b, vm, p, RELAY_RUNS_MAX) == -E2BIG;
		return true;
	}
	return false;
}

void relay_turn(void *arg)
{
	struct broker *b = arg;
	struct store *s = &b->tidying;

	/* The newest VM comes first. */
	for (struct bvm *vm = b->vms; vm != NULL; vm = vm->next) {
		if (vm->id > s->relay_vm)
			continue;
		if (vm->id < s->relay_vm)
			s->relay_place = 0;
		s->relay_vm = vm->id;
		if (relay_one(b, vm, &s->relay_place)) {
			loop_timer_start(&s->relays, 0);
			return;
		}
	}
}

void relay_places(struct broker *b)
{
	b->tidying.relay_vm = UINT64_MAX;
	relay_turn(b);
}
