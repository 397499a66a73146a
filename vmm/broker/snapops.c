/* SPDX-License-Identifier: MIT */
/* The methods about snapshots. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

struct snap *req_snap(
    struct broker *b, struct ctl_req *rq, uint32_t rights, int32_t *cap)
{
	struct err e = {0};
	struct snap *s;

	if (snap_find(b, &req_home(rq)->caps, ctl_str(rq, "snapshot"), rights,
		&s, cap, &e) == 0)
		return s;
	ctl_fail(rq, &e);
	return NULL;
}

json_t *snap_json(struct broker *b, struct snap *s, const char *name)
{
	json_t *j =
	    json_pack("{s:I,s:s,s:I,s:I,s:s,s:I,s:b}", "id", (json_int_t)s->id,
		"name", name, "pages", (json_int_t)s->map.npages, "size",
		(json_int_t)(s->map.npages * PAGE_SIZE), "origin", s->origin,
		"payer", (json_int_t)s->payer, "owned", (int)own_alone(b, s));
	uint64_t parent = kin_parent(s->kin);

	if (j != NULL && parent != 0)
		(void)json_object_set_new(
		    j, "parent", json_integer((json_int_t)parent));
	if (j != NULL && s->private_history)
		(void)json_object_set_new(j, "private_history", json_true());
	if (j != NULL && s->melded[0] != 0)
		(void)json_object_update_new(
		    j, json_pack("{s:[I,I],s:b}", "melded",
			   (json_int_t)s->melded[0], (json_int_t)s->melded[1],
			   "blind", s->blind ? 1 : 0));
	return j;
}

/* At most (max) of the snapshots from slot *pos on; *pos moves behind them. */
static json_t *list_json(
    struct broker *b, const struct home *h, uint32_t *pos, uint32_t max)
{
	json_t *list = json_array();
	const struct cap *c;

	while (
	    json_array_size(list) < max && cap_next(&h->caps, pos, &c) >= 0) {
		struct snap *s = snap_by_id(b, c->object);

		if (s != NULL && json_array_append_new(
				     list, snap_json(b, s, c->name)) != 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

void op_snapshot_list(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	struct home *h = req_home(rq);
	int64_t after = ctl_int(rq, "after", 0);
	int64_t max = ctl_int(rq, "max", LIST_MAX);
	const struct cap *c;
	uint32_t pos;
	uint32_t next;
	json_t *list;
	json_t *r;

	if (max == 0) {
		ctl_fail_param(rq, "max", "must not be 0");
		return;
	}
	pos = after > h->caps.nslots ? h->caps.nslots : (uint32_t)after;
	list = list_json(b, h, &pos, max > LIST_MAX ? LIST_MAX : (uint32_t)max);
	next = pos;
	r = json_pack("{s:o,s:b}", "snapshots", list, "more",
	    cap_next(&h->caps, &next, &c) >= 0);
	if (r != NULL && json_is_true(json_object_get(r, "more")) &&
	    json_object_set_new(r, "next", json_integer(pos)) != 0) {
		json_decref(r);
		r = NULL;
	}
	ctl_reply(rq, r, NULL, 0);
}

void op_snapshot_drop(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	int32_t cap;

	if (req_snap(b, rq, 0, &cap) == NULL)
		return;
	cap_end(b, &req_home(rq)->caps, cap);
	ctl_reply(rq, NULL, NULL, 0);
}

/* --- snapshot.open -------------------------------------------------------- */

struct open_op {
	struct ctl_req *rq;
	uint32_t home; /* its number */
};

static void open_reply(struct broker *b, struct exact *x, struct open_op *op)
{
	int fds[1 + EXACT_FILES_MAX] = {x->runs_fd};

	for (uint32_t i = 0; i < x->tab.nfiles; i++) {
		fds[1 + i] = x->tab.fd[i];
		lfile_opened(b->layers, x->tab.file[i], op->home);
	}
	ctl_reply(op->rq,
	    json_pack("{s:I,s:i,s:I}", "pages", (json_int_t)x->map.npages,
		"runs_fd", 0, "layers", (json_int_t)x->tab.nfiles),
	    fds, 1 + x->tab.nfiles);
}

/* Descriptors cannot be taken back, so only exact files go out. */
static void open_exact(
    struct broker *b, struct exact *x, const struct err *why, void *ctx)
{
	struct open_op *op = ctx;

	if (why != NULL)
		ctl_fail(op->rq, why);
	else
		open_reply(b, x, op);
	free(op);
}

void op_snapshot_open(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	struct snap *s = req_snap(b, rq, FIRN_RIGHT_OPEN, NULL);
	struct open_op *op;
	struct err e;

	if (s == NULL)
		return;
	if (s->owned != 0) {
		(void)err_set(&e, -EPERM,
		    "it is owned: whoever adopts it may write it; map it in a "
		    "VM, or derive from it, which seals it");
		ctl_fail(rq, &e);
		return;
	}
	op = malloc(sizeof(*op));
	if (op == NULL) {
		(void)err_set(&e, -ENOMEM, "no memory to open a snapshot");
		ctl_fail(rq, &e);
		return;
	}
	*op = (struct open_op){.rq = rq, .home = req_home(rq)->number};
	exact(b, s, open_exact, op);
}

/* --- snapshot.import ------------------------------------------------------ */

struct import_op {
	struct work work;
	struct broker *b;
	struct ctl_req *rq;
	uid_t uid;
	char name[FIRN_NAME_MAX];
	uint32_t layer;
	uint32_t file; /* that the layer came in, held */
	int fd;        /* borrowed of it */
	uint64_t npages;
	struct runs runs;
	struct apply apply;
	int rc;
};

/* Its data as runs; holes read as zero. */
static void import_scan(struct work *w)
{
	struct import_op *op = (struct import_op *)w;
	off_t end = (off_t)(op->npages * PAGE_SIZE);
	off_t at = 0;

	op->runs.max = RUNS_MAX;
	while (at < end && op->rc == 0) {
		off_t data = lseek(op->fd, at, SEEK_DATA);
		off_t hole;
		struct page_run r = {.layer = op->layer};

		if (data < 0) {
			op->rc = errno == ENXIO ? 0 : -errno;
			return;
		}
		hole = lseek(op->fd, data, SEEK_HOLE);
		if (hole < 0) {
			op->rc = -errno;
			return;
		}
		r.page = r.index = (uint64_t)data / PAGE_SIZE;
		at = hole;
		r.npages =
		    ((uint64_t)hole + PAGE_SIZE - 1) / PAGE_SIZE - r.page;
		op->rc = runs_add(&op->runs, &r);
		if (op->rc == 0 && worker_cancelled(w))
			op->rc = -ECANCELED;
	}
}

static void import_free(struct import_op *op)
{
	struct broker *b = op->b;

	lfile_put(b->layers, op->file);
	layer_put(b->layers, op->layer);
	free(op->runs.r);
	free(op);
	layers_reap(b);
}

/* Takes (m) over. */
static int import_issue(struct import_op *op, struct map m, struct err *e)
{
	struct broker *b = op->b;
	struct home *h = req_home(op->rq);
	struct lineage *l = lineage_new();
	struct snap *s;
	int32_t cap;

	if (l == NULL) {
		map_put(&b->store, &m);
		return err_set(e, -ENOMEM, "no memory for a snapshot");
	}
	s = snap_new(b, m, l, e);
	lineage_put(l);
	if (s == NULL)
		return e->code;
	s->payer = op->uid;
	(void)snprintf(s->origin, sizeof(s->origin), "import");
	cap = h == NULL ? err_set(e, -ESRCH, "the client is gone")
			: snap_grant(s, &h->caps, FIRN_RIGHT_ALL, op->name, e);
	if (cap >= 0) {
		json_t *j =
		    json_pack("{s:I,s:s,s:I}", "snapshot", (json_int_t)s->id,
			"name", op->name, "pages", (json_int_t)op->npages);

		snap_made(b, s, json_incref(j));
		ctl_reply(op->rq, j, NULL, 0);
	}
	snap_put(b, s);
	return cap < 0 ? cap : 0;
}

static void import_applied(struct broker *b, int rc, struct map m, void *ctx)
{
	struct import_op *op = ctx;
	struct err e = {0};

	(void)b;
	if (rc != 0)
		(void)err_set(&e, rc, "no memory for a page map");
	else
		rc = import_issue(op, m, &e);
	if (rc != 0)
		ctl_fail(op->rq, &e);
	import_free(op);
}

static void import_done(struct work *w)
{
	struct import_op *op = (struct import_op *)w;
	struct map zero;
	struct err e;
	int rc = w->ran ? op->rc : -ECANCELED;

	if (rc != 0) {
		(void)err_set(
		    &e, rc, "cannot read the memfd: %s", strerror(-rc));
		ctl_fail(op->rq, &e);
		import_free(op);
		return;
	}
	(void)map_zero(op->npages, &zero);
	apply(op->b, &op->apply, &zero, op->runs.r, op->runs.n, import_applied,
	    op);
}

static int import_check(struct broker *b, struct ctl_req *rq, struct err *e)
{
	int64_t pages = ctl_int(rq, "pages", 0);
	const char *name = ctl_str(rq, "name");

	if (pages < 1 || (uint64_t)pages > LAYER_NPAGES_MAX)
		return err_set(e, -EINVAL, "pages is not from 1 to 2^28");
	if (name_check(&req_home(rq)->caps, name == NULL ? "" : name, e) != 0)
		return e->code;
	return bank_check(b, PAGE_SIZE, e);
}

/* (*fd) is a layer of (npages) pages then, and -1 as soon as it is a layer. */
static int import_adopt(
    struct broker *b, struct import_op *op, int *fd, struct err *e)
{
	int rc = layer_adopt(b->layers, *fd, op->npages, &op->layer, e);
	uint32_t npieces;

	if (rc != 0)
		return rc;
	*fd = -1;
	if (layer_npages(b->layers, op->layer) != op->npages) {
		layer_put(b->layers, op->layer);
		layers_reap(b);
		return err_set(e, -EINVAL,
		    "the memfd has not exactly the pages that were named");
	}
	op->file = layer_pieces(b->layers, op->layer, &npieces)->file;
	lfile_get(b->layers, op->file);
	op->fd = lfile_fd(b->layers, op->file);
	return 0;
}

void op_snapshot_import(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	const char *name = ctl_str(rq, "name");
	int fd = ctl_take_fd(rq, 0);
	struct import_op *op = calloc(1, sizeof(*op));
	struct err e = {0};
	int rc = op == NULL ? err_set(&e, -ENOMEM, "no memory for an import")
			    : import_check(b, rq, &e);

	if (rc == 0) {
		op->npages = (uint64_t)ctl_int(rq, "pages", 0);
		rc = import_adopt(b, op, &fd, &e);
	}
	if (rc != 0) {
		closer_close(b->closer, fd);
		free(op);
		ctl_fail(rq, &e);
		return;
	}
	op->b = b;
	op->rq = rq;
	op->uid = req_home(rq)->uid;
	/* The client has had a descriptor, and may keep it. */
	lfile_opened(b->layers, op->file, req_home(rq)->number);
	if (name != NULL)
		(void)snprintf(op->name, sizeof(op->name), "%s", name);
	worker_submit(b->pool, &op->work, import_scan, import_done);
}
