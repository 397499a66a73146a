/* SPDX-License-Identifier: MIT */
/* What of tracked places was read and written: as a monitor tells it, and to
 * clients. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

#define SETS_WORDS 512ULL /* in a turn: some 0.1 ms */

static int sets_look(const struct sets_in *in, uint64_t nwords)
{
	uint64_t len;
	int rc = wire_len(in->fd, &len);

	if (rc == -EINVAL || (rc == 0 && len != 2 * nwords * sizeof(uint64_t)))
		rc = -EPROTO;
	return rc;
}

/* A part of one of the bitmaps: of (k), from word (at) on. */
static int sets_part(struct sets_in *in, int k, uint64_t at, uint64_t *words)
{
	struct extset *all = k == 0 ? &in->all.reads : &in->all.writes;
	struct extset *fresh = k == 0 ? &in->fresh.reads : &in->fresh.writes;
	const struct extset *told = NULL;
	uint64_t first = at * 64;
	uint64_t npages = in->npages - first;
	int rc;

	if (npages > SETS_WORDS * 64)
		npages = SETS_WORDS * 64;
	rc = extset_add_bits(all, words, first, npages);
	if (rc != 0 || in->told == NULL)
		return rc;
	told = k == 0 ? &in->told->reads : &in->told->writes;
	extset_clear_bits(told, &in->passed[k], words, first, npages);
	return extset_add_bits(fresh, words, first, npages);
}

int sets_turn(struct sets_in *in)
{
	uint64_t nwords = (in->npages + 63) / 64;
	int k = in->at < nwords ? 0 : 1;
	uint64_t at = in->at - (uint64_t)k * nwords;
	uint64_t n = nwords - at < SETS_WORDS ? nwords - at : SETS_WORDS;
	uint64_t words[SETS_WORDS];
	int rc = in->at == 0 ? sets_look(in, nwords) : 0;

	if (rc == 0)
		rc = wire_read(
		    in->fd, in->at * sizeof(*words), words, n * sizeof(*words));
	if (rc == 0)
		rc = sets_part(in, k, at, words);
	in->at += n;
	if (rc == 0)
		return in->at < 2 * nwords;
	sets_end(in);
	return rc;
}

void sets_end(struct sets_in *in)
{
	kin_sets_free(&in->all);
	kin_sets_free(&in->fresh);
}

/* --- track.query ---------------------------------------------------------- */

struct track_op {
	struct errand w;
	struct ctl_req *rq;
	uint64_t vm;
	uint64_t npages;
	struct sets_in in; /* its descriptor is the op's */
	int fd[2];         /* of what is too much for a message; or -1 */
};

static void track_free(struct track_op *op)
{
	sets_end(&op->in);
	closer_close(op->w.b->closer, op->in.fd);
	for (int i = 0; i < 2; i++)
		if (op->fd[i] >= 0)
			(void)close(op->fd[i]);
	free(op);
}

static int track_read(struct errand *w)
{
	struct track_op *op = (struct track_op *)w;
	const struct kin_sets *s = &op->in.all;
	int rc;

	if (w->here && op->npages > HERE_PAGES)
		return -EAGAIN;
	do
		rc = sets_turn(&op->in);
	while (rc > 0);
	if (rc == 0)
		rc = extents_blob(s->reads.x, s->reads.n, &op->fd[0]);
	if (rc == 0)
		rc = extents_blob(s->writes.x, s->writes.n, &op->fd[1]);
	return rc;
}

static json_t *set_json(const struct extset *s, int fd, size_t i)
{
	json_t *j = json_pack("{s:I}", "pages", (json_int_t)s->pages);

	if (j != NULL && extents_put(j, s->x, s->n, fd, i) == 0)
		return j;
	json_decref(j);
	return NULL;
}

static void track_reply(struct track_op *op)
{
	const struct kin_sets *s = &op->in.all;
	int fds[2];
	size_t nfds = 0;
	json_t *reads = set_json(&s->reads, op->fd[0], 0);
	json_t *writes = set_json(&s->writes, op->fd[1], op->fd[0] >= 0);

	for (int i = 0; i < 2; i++)
		if (op->fd[i] >= 0)
			fds[nfds++] = op->fd[i];
	/* NULL, for want of memory, is answered as that. */
	ctl_reply(op->rq,
	    json_pack("{s:I,s:o,s:o}", "pages", (json_int_t)op->npages, "reads",
		reads, "writes", writes),
	    fds, nfds);
}

static void track_done(struct errand *w)
{
	struct track_op *op = (struct track_op *)w;
	struct bvm *vm = vm_by_id(w->b, op->vm);

	if (w->rc == -EPROTO && vm != NULL)
		vm_kill(w->b, vm); /* no monitor of ours answers so */
	if (w->rc != 0 && w->e.code == 0)
		(void)err_set(&w->e, w->rc, "the bitmaps cannot be used: %s",
		    strerror(-w->rc));
	if (w->rc != 0)
		ctl_fail(op->rq, &w->e);
	else
		track_reply(op);
	track_free(op);
}

static void track_answer(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct track_op *op = ctx;
	struct err e = {0};
	int rc = pk == NULL ? err_set(&e, -ESRCH, "the VM ended meanwhile")
			    : packet_err(pk, &e);

	if (rc == 0) {
		op->in.fd = wire_take_fd(pk, 0);
		if (op->in.fd < 0) {
			rc = err_set(
			    &e, -EPROTO, "the monitor's answer lacks bitmaps");
			vm_kill(b, vm);
		}
	}
	if (rc == 0) {
		errand(b, &op->w, track_read, track_done);
		return;
	}
	ctl_fail(op->rq, &e);
	track_free(op);
}

static int track_ask(struct bvm *vm, struct ctl_req *rq, struct err *e)
{
	struct bplace *p = place_find(vm, ctl_str(rq, "view"), e);
	struct wire_place w = {0};
	struct track_op *op;
	int rc;

	if (p == NULL)
		return e->code;
	if ((p->flags & FIRN_SEG_TRACKED) == 0)
		return err_set(e, -EPERM,
		    "'%.64s' is not tracked; map the snapshot with --track, or "
		    "make the segment with ,track",
		    p->name);
	op = calloc(1, sizeof(*op));
	if (op == NULL)
		return err_set(e, -ENOMEM, "no memory for a query");
	op->w.b = vm->b;
	op->rq = rq;
	op->vm = vm->id;
	op->npages = op->in.npages = p->npages;
	op->in.fd = op->fd[0] = op->fd[1] = -1;
	w.id = p->id;
	rc = vm_ask(
	    vm, WIRE_TOUCHED, &w, sizeof(w), NULL, 0, track_answer, op, e);
	if (rc != 0)
		free(op);
	return rc;
}

void op_track_query(void *ctx, struct ctl_req *rq)
{
	struct bvm *vm = req_vm(ctx, rq, true);
	struct err e = {0};

	if (vm != NULL && track_ask(vm, rq, &e) != 0)
		ctl_fail(rq, &e);
}
