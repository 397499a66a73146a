/* SPDX-License-Identifier: MIT */
/*
 * service.stats: what there is, and what every byte of it is.
 *
 * The sums over layers are kept, and cost nothing to tell. What is reachable is
 * known since the last mark; what came later counts as reachable until the
 * next. An exact question waits for a mark that begins after it. What is
 * private to VMs only their monitors know, who are asked, but not waited for
 * long.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/broker/internal.h"

#define STATS_WAIT_MS 250u /* what silent monitors may delay it */

struct stats_op {
	struct stats_op *next; /* of those that wait for a mark */
	struct broker *b;
	struct ctl_req *rq; /* NULL once answered */
	uint64_t asked_ns;
	struct loop_timer timer;
	unsigned pending;
	uint64_t vms;
	uint64_t silent;
	uint64_t resident;
	uint64_t private_;
};

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* Reachable as far as is known, at most what is held. */
static uint64_t live_bytes(
    const struct store *s, const struct layer_totals *sum)
{
	uint64_t live = s->live_bytes + less(sum->bytes, s->held_bytes);

	return s->marks == 0 || live > sum->bytes ? sum->bytes : live;
}

static json_t *layers_json(struct broker *b)
{
	const struct store *s = &b->tidying;
	struct layer_totals sum;
	uint64_t live;

	layer_set_totals(b->layers, &sum);
	live = live_bytes(s, &sum);
	return json_pack(
	    "{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "layers",
	    (json_int_t)sum.layers, "files", (json_int_t)sum.files, "pieces",
	    (json_int_t)sum.pieces, "layer_bytes", (json_int_t)sum.bytes,
	    "live_bytes", (json_int_t)live, "dead_bytes",
	    (json_int_t)(sum.bytes - live), "pinned_files",
	    (json_int_t)sum.pinned_files, "pinned_bytes",
	    (json_int_t)sum.pinned_bytes, "table_bytes",
	    (json_int_t)sum.table_bytes, "marks", (json_int_t)s->marks,
	    "moved_places", (json_int_t)s->moved_places, "moved_files",
	    (json_int_t)s->moved_files, "moved_bytes",
	    (json_int_t)s->moved_bytes);
}

/* Who pins what; NULL: no memory to tell. */
static json_t *pins_json(const struct broker *b)
{
	uint64_t *by = pinned_by_vms(b);
	struct pinned sum = {0};
	struct lfile_stat st;
	uint32_t pos = 0;
	uint32_t file;

	if (by == NULL)
		return NULL;
	while (lfile_next(b->layers, &pos, &file)) {
		lfile_stat(b->layers, file, &st);
		pinned_add(&sum, &st, by[file]);
	}
	free(by);
	return pinned_json(b, &sum);
}

/* Those of descent, and what tracked views have told so far. */
static uint64_t record_bytes(const struct broker *b)
{
	uint64_t sum = b->kins.bytes;

	for (const struct bvm *vm = b->vms; vm != NULL; vm = vm->next)
		for (uint32_t i = 0; i < PLACES_MAX; i++)
			sum += kin_sets_bytes(&vm->place[i].told);
	return sum;
}

static json_t *stats_json(const struct stats_op *op)
{
	struct broker *b = op->b;
	json_t *j = layers_json(b);

	(void)json_object_update_new(
	    j, json_pack("{s:I,s:I}", "records", (json_int_t)b->kins.n,
		   "record_bytes", (json_int_t)record_bytes(b)));
	(void)json_object_update_new(
	    j, json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "vms",
		   (json_int_t)op->vms, "silent_vms", (json_int_t)op->silent,
		   "snapshots", (json_int_t)b->nsnaps, "nodes",
		   (json_int_t)b->store.nnodes, "node_bytes",
		   (json_int_t)b->store.nbytes, "private_bytes",
		   (json_int_t)op->private_, "mapped_bytes",
		   (json_int_t)less(op->resident, op->private_), "bank_bytes",
		   (json_int_t)b->bank_max, "reserved_bytes",
		   (json_int_t)b->bank_used));
	(void)json_object_update_new(
	    j, json_pack("{s:I,s:I}", "given_bytes",
		   (json_int_t)b->tidying.given_bytes, "relay_ns",
		   (json_int_t)b->tidying.relay_ns));
	(void)json_object_set_new(j, "pinned_by", pins_json(b));
	return j;
}

static void stats_answer(struct stats_op *op)
{
	if (op->rq == NULL)
		return;
	op->silent = op->pending;
	ctl_reply(op->rq, stats_json(op), NULL, 0);
	op->rq = NULL;
	loop_timer_stop(&op->timer);
}

static void stats_timeout(void *arg)
{
	stats_answer(arg);
}

static void segments_answer(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct stats_op *op = ctx;
	struct wire_segment w[WIRE_SEGMENTS_MAX];
	uint32_t n = 0;

	op->pending--;
	if (pk != NULL && pk->m.status == 0 && places_told(vm, pk, w, &n) != 0)
		vm_kill(b, vm);
	for (uint32_t i = 0; i < n; i++) {
		op->resident += w[i].resident;
		op->private_ += w[i].private_;
	}
	if (op->pending > 0)
		return;
	stats_answer(op);
	free(op);
}

static void stats_ask(struct stats_op *op)
{
	struct broker *b = op->b;
	struct err e;

	for (struct bvm *vm = b->vms; vm != NULL; vm = vm->next) {
		if (vm->dead || vm->state == VM_EXITED)
			continue;
		op->vms++;
		if (vm->state != VM_STARTING &&
		    vm_ask(vm, WIRE_SEGMENTS, NULL, 0, NULL, 0, segments_answer,
			op, &e) == 0)
			op->pending++;
	}
	if (op->pending > 0) {
		loop_timer_start(&op->timer, STATS_WAIT_MS);
		return;
	}
	stats_answer(op);
	free(op);
}

/* A mark that failed answers as well: with what is known. */
void stats_marked(struct broker *b, uint64_t began_ns)
{
	struct stats_op **at = &b->tidying.waiting;

	while (*at != NULL) {
		struct stats_op *op = *at;

		if (op->asked_ns > began_ns) {
			at = &op->next;
			continue;
		}
		*at = op->next;
		stats_ask(op);
	}
}

void op_stats(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	struct stats_op *op = calloc(1, sizeof(*op));
	struct err e;

	if (op == NULL) {
		(void)err_set(&e, -ENOMEM, "no memory for statistics");
		ctl_fail(rq, &e);
		return;
	}
	op->b = b;
	op->rq = rq;
	loop_timer_init(&op->timer, b->loop, stats_timeout, op);
	if (!ctl_bool(rq, "exact")) {
		stats_ask(op);
		return;
	}
	op->asked_ns = now_ns();
	op->next = b->tidying.waiting;
	b->tidying.waiting = op;
	store_poke(b);
}
