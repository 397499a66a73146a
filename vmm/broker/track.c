/* SPDX-License-Identifier: MIT */
/* What of tracked places was read and written: as a monitor tells it, and to
 * clients. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

int sets_take(int fd, uint64_t npages, struct kin_sets *out)
{
	size_t nwords = (npages + 63) / 64;
	void *data = NULL;
	size_t len = 0;
	int rc =
	    fd < 0 ? -EPROTO
		   : wire_slurp(fd, 2 * nwords * sizeof(uint64_t), &data, &len);

	*out = (struct kin_sets){0};
	if (rc == -EFBIG || rc == -EINVAL ||
	    (rc == 0 && len != 2 * nwords * sizeof(uint64_t)))
		rc = -EPROTO;
	if (rc == 0)
		rc = extset_of_bits(data, npages, &out->reads);
	if (rc == 0)
		rc = extset_of_bits(
		    (uint64_t *)data + nwords, npages, &out->writes);
	if (rc != 0)
		kin_sets_free(out);
	free(data);
	return rc;
}

/* --- track.query ---------------------------------------------------------- */

struct track_op {
	struct ctl_req *rq;
	uint64_t npages;
};

static json_t *set_json(const struct extset *s, int *fds, size_t *nfds)
{
	json_t *j = json_pack("{s:I}", "pages", (json_int_t)s->pages);

	if (j != NULL && extents_put(j, s->x, s->n, fds, nfds) == 0)
		return j;
	json_decref(j);
	return NULL;
}

static void track_reply(struct track_op *op, const struct kin_sets *s)
{
	int fds[2];
	size_t nfds = 0;
	json_t *reads = set_json(&s->reads, fds, &nfds);
	json_t *writes = set_json(&s->writes, fds, &nfds);

	/* NULL, for want of memory, is answered as that. */
	ctl_reply(op->rq,
	    json_pack("{s:I,s:o,s:o}", "pages", (json_int_t)op->npages, "reads",
		reads, "writes", writes),
	    fds, nfds);
	while (nfds > 0)
		(void)close(fds[--nfds]);
}

static void track_answer(
    struct broker *b, struct bvm *vm, struct wire_packet *pk, void *ctx)
{
	struct track_op *op = ctx;
	struct kin_sets s = {0};
	struct err e = {0};
	int fd;
	int rc = pk == NULL ? err_set(&e, -ESRCH, "the VM ended meanwhile")
			    : packet_err(pk, &e);

	if (rc == 0) {
		fd = wire_take_fd(pk, 0);
		rc = sets_take(fd, op->npages, &s);
		if (fd >= 0)
			(void)close(fd);
		if (rc == -EPROTO)
			vm_kill(b, vm); /* no monitor of ours answers so */
		if (rc != 0)
			(void)err_set(&e, rc, "the bitmaps cannot be used: %s",
			    strerror(-rc));
	}
	if (rc != 0)
		ctl_fail(op->rq, &e);
	else
		track_reply(op, &s);
	kin_sets_free(&s);
	free(op);
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
	op->rq = rq;
	op->npages = p->npages;
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
