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
#include "vmm/layer/layer_copy.h"

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
		ctl_fail_param(rq, "max", "parameter 'max' must not be 0");
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

/* --- snapshot.open
 * ------------------------------------------------------------ */

/*
 * Descriptors cannot be taken back, and show a whole layer: so only those
 * layers go out of which every page is reachable from the snapshot. Where one
 * is not, all its reachable pages are copied to a layer of their own, once,
 * which the snapshot's opened map names. Its own map stays as it is, so that
 * opening never changes what a diff or a heatmap says.
 */
#define OPEN_FILES_MAX 200u

struct open_op {
	struct work work;
	struct broker *b;
	struct ctl_req *rq;
	uint32_t home; /* its number */
	struct snap *s;
	struct map base; /* what (from) is of; held, for its layers */
	struct runs from;
	struct page_run *to;
	struct filetab tab;
	struct layer_copied copied;
	bool copy;
	int rc;
	struct err e;
};

static void open_free(struct open_op *op)
{
	if (op->base.npages != 0)
		map_put(&op->b->store, &op->base);
	snap_put(op->b, op->s);
	filetab_free(&op->tab);
	free(op->from.r);
	free(op->to);
	if (op->copied.fd >= 0)
		(void)close(op->copied.fd);
	layers_reap(op->b);
	free(op);
}

static void open_fail(struct open_op *op, const struct err *e)
{
	ctl_fail(op->rq, e);
	open_free(op);
}

static void set_bits(uint64_t *w, uint64_t from, uint64_t to)
{
	for (; from < to && from % 64 != 0; from++)
		w[from / 64] |= 1ULL << from % 64;
	for (; from + 64 <= to; from += 64)
		w[from / 64] = UINT64_MAX;
	for (; from < to; from++)
		w[from / 64] |= 1ULL << from % 64;
}

/* Which pages of file (i) the runs reach, each counted once however often a
 * monitor named it; 0 when there is no memory to tell. */
static uint64_t count_reached(
    const struct open_op *op, uint32_t i, uint64_t npages)
{
	uint64_t nwords = (npages + 63) / 64;
	uint64_t *bits = calloc(nwords, sizeof(*bits));
	uint64_t n = 0;

	if (bits == NULL)
		return 0;
	for (size_t k = 0; k < op->from.n; k++) {
		const struct page_run *r = &op->from.r[k];

		if (r->layer == i)
			set_bits(bits, r->index, r->index + r->npages);
	}
	for (uint64_t k = 0; k < nwords; k++)
		n += (uint64_t)__builtin_popcountll(bits[k]);
	free(bits);
	return n;
}

/* At most OPEN_FILES_MAX passes over the runs. */
static bool must_copy(const struct open_op *op)
{
	struct lfile_stat st;

	if (op->tab.nfiles > OPEN_FILES_MAX)
		return true;
	for (uint32_t i = 0; i < op->tab.nfiles; i++) {
		lfile_stat(op->b->layers, op->tab.file[i], &st);
		if (st.bytes / PAGE_SIZE > count_reached(op, i, st.npages))
			return true;
	}
	return false;
}

static void open_reply(struct open_op *op)
{
	int fds[1 + OPEN_FILES_MAX];
	struct err e;

	fds[0] = wire_blob(
	    "firn-runs", op->from.r, op->from.n * sizeof(*op->from.r));
	if (fds[0] < 0) {
		(void)err_set(&e, -ENOMEM, "no memory for its runs");
		open_fail(op, &e);
		return;
	}
	for (uint32_t i = 0; i < op->tab.nfiles; i++) {
		fds[1 + i] = op->tab.fd[i];
		lfile_opened(op->b->layers, op->tab.file[i], op->home);
	}
	ctl_reply(op->rq,
	    json_pack("{s:I,s:i,s:I}", "pages", (json_int_t)op->s->map.npages,
		"runs_fd", 0, "layers", (json_int_t)op->tab.nfiles),
	    fds, 1 + op->tab.nfiles);
	(void)close(fds[0]);
	open_free(op);
}

static void open_copy(struct work *w)
{
	struct open_op *op = (struct open_op *)w;
	struct layer_job job = {
	    .layer_fd = op->tab.fd,
	    .nfds = op->tab.nfiles,
	    .cancel = &w->cancelled,
	};

	op->rc =
	    layer_copy_runs(&job, (struct run_list){op->from.r, op->from.n},
		op->to, &op->copied, &op->e);
}

static int open_adopt(struct open_op *op)
{
	struct broker *b = op->b;
	struct snap *s = op->s;
	struct map next;
	uint32_t id;
	int rc = layer_adopt(
	    b->layers, op->copied.fd, op->copied.npages, &id, &op->e);

	op->copied.fd = -1;
	if (rc != 0)
		return rc;
	layer_belongs(b->layers, id, layers_of(s->payer));
	for (size_t i = 0; i < op->from.n; i++)
		if (op->to[i].layer != RUN_ZERO)
			op->to[i].layer = id;
	rc = map_apply(&b->store, &s->map, op->to, op->from.n, &next);
	layer_put(b->layers, id);
	if (rc != 0)
		return err_set(&op->e, rc, "no memory for a page map");
	/* Two may have asked at once. */
	if (s->has_opened)
		map_put(&b->store, &s->opened);
	s->opened = next;
	s->has_opened = true;
	layers_reap(b);
	return 0;
}

static int open_begin(struct open_op *op);

static void open_copied(struct work *w)
{
	struct open_op *op = (struct open_op *)w;
	int rc =
	    w->ran ? op->rc : err_set(&op->e, -ECANCELED, "firnd is ending");

	if (rc == 0)
		rc = open_adopt(op);
	free(op->from.r);
	free(op->to);
	filetab_free(&op->tab);
	op->from = (struct runs){0};
	op->to = NULL;
	if (rc == 0)
		rc = open_begin(op);
	if (rc != 0)
		open_fail(op, &op->e);
}

/* Answer, or have it copied first. On failure (op) is the caller's still. */
static int open_begin(struct open_op *op)
{
	bool copy;
	int rc;

	if (op->base.npages != 0)
		map_put(&op->b->store, &op->base);
	op->base = map_get(
	    &op->b->store, op->s->has_opened ? &op->s->opened : &op->s->map);
	rc = runs_of(&op->base, 0, op->base.npages, &op->from);
	if (rc == 0)
		rc = files_of(op->b, &op->from, &op->tab);
	/* What was copied is exact. */
	copy = rc == 0 && !op->copy && must_copy(op);
	if (rc == 0 && op->tab.nfiles > OPEN_FILES_MAX && !copy)
		rc = -E2BIG;
	if (copy)
		rc = bank_check(op->b, PAGE_SIZE, &op->e);
	if (rc == 0 && copy) {
		op->to = calloc(op->from.n + 1, sizeof(*op->to));
		rc = op->to == NULL ? -ENOMEM : 0;
	}
	if (rc != 0)
		return op->e.code != 0
			   ? op->e.code
			   : err_set(&op->e, rc, "cannot open the snapshot: %s",
				 strerror(-rc));
	if (!copy) {
		open_reply(op);
		return 0;
	}
	op->copy = true;
	worker_submit(op->b->pool, &op->work, open_copy, open_copied);
	return 0;
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
	op = calloc(1, sizeof(*op));
	if (op == NULL) {
		(void)err_set(&e, -ENOMEM, "no memory to open a snapshot");
		ctl_fail(rq, &e);
		return;
	}
	op->b = b;
	op->rq = rq;
	op->home = req_home(rq)->number;
	op->s = snap_hold(s);
	op->copied.fd = -1;
	if (open_begin(op) != 0)
		open_fail(op, &op->e);
}

/* --- snapshot.import
 * ----------------------------------------------------------- */

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

static int import_finish(struct import_op *op, struct err *e)
{
	struct broker *b = op->b;
	struct home *h = req_home(op->rq);
	struct lineage *l;
	struct map zero;
	struct map m;
	struct snap *s;
	int32_t cap;
	int rc;

	(void)map_zero(op->npages, &zero);
	rc = map_apply(&b->store, &zero, op->runs.r, op->runs.n, &m);
	if (rc != 0)
		return err_set(e, rc, "no memory for a page map");
	l = lineage_new();
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
	if (cap >= 0)
		ctl_reply(op->rq,
		    json_pack("{s:I,s:s,s:I}", "snapshot", (json_int_t)s->id,
			"name", op->name, "pages", (json_int_t)op->npages),
		    NULL, 0);
	snap_put(b, s);
	return cap < 0 ? cap : 0;
}

static void import_done(struct work *w)
{
	struct import_op *op = (struct import_op *)w;
	struct broker *b = op->b;
	struct err e = {0};
	int rc = w->ran ? op->rc : -ECANCELED;

	if (rc != 0)
		(void)err_set(
		    &e, rc, "cannot read the memfd: %s", strerror(-rc));
	else
		rc = import_finish(op, &e);
	if (rc != 0)
		ctl_fail(op->rq, &e);
	lfile_put(b->layers, op->file);
	layer_put(b->layers, op->layer);
	free(op->runs.r);
	free(op);
	layers_reap(b);
}

void op_snapshot_import(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	const char *name = ctl_str(rq, "name");
	int64_t pages = ctl_int(rq, "pages", 0);
	int fd = ctl_take_fd(rq, 0);
	struct import_op *op = calloc(1, sizeof(*op));
	struct err e = {0};
	uint32_t npieces;
	int rc;

	if (op == NULL)
		rc = err_set(&e, -ENOMEM, "no memory for an import");
	else if (pages < 1 || (uint64_t)pages > LAYER_NPAGES_MAX)
		rc = err_set(&e, -EINVAL, "pages is not from 1 to 2^28");
	else
		rc = name_check(
		    &req_home(rq)->caps, name == NULL ? "" : name, &e);
	if (rc == 0)
		rc = bank_check(b, PAGE_SIZE, &e);
	if (rc == 0) {
		rc =
		    layer_adopt(b->layers, fd, (uint64_t)pages, &op->layer, &e);
		fd = -1;
	}
	if (rc == 0 && layer_npages(b->layers, op->layer) != (uint64_t)pages) {
		layer_put(b->layers, op->layer);
		rc = err_set(&e, -EINVAL,
		    "the memfd has not exactly the pages that were named");
	}
	if (rc != 0) {
		if (fd >= 0)
			(void)close(fd);
		free(op);
		ctl_fail(rq, &e);
		return;
	}
	op->b = b;
	op->rq = rq;
	op->uid = req_home(rq)->uid;
	op->npages = (uint64_t)pages;
	op->file = layer_pieces(b->layers, op->layer, &npieces)->file;
	lfile_get(b->layers, op->file);
	/* The client has had a descriptor, and may keep it. */
	lfile_opened(b->layers, op->file, req_home(rq)->number);
	op->fd = lfile_fd(b->layers, op->file);
	if (name != NULL)
		(void)snprintf(op->name, sizeof(op->name), "%s", name);
	worker_submit(b->pool, &op->work, import_scan, import_done);
}
