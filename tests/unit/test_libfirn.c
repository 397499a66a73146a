/* SPDX-License-Identifier: MIT */
/* The client library against a service in a thread, honest or hostile. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "tests/unit/own.h"
#include "tests/unit/unit.h"
#include "tools/libfirn/firn.h"
#include "tools/libfirn/firn_json.h"
#include "vmm/core/fdmsg.h"
#include "vmm/ctl/ctl.h"

#define RUNS_MAX    8
#define LAYER_PAGES 4
#define MANY_RUNS   20000u
#define SEALS       (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/* --- the service -----------------------------------------------------------
 */

struct service {
	struct loop *l;
	struct ctl_srv *srv;
	struct ctl_conf conf;
	struct ctl_req *held;
	pthread_t thread;
	int fd;
};

/* What snapshot.open answers, by name. */
struct snap_case {
	const char *name;
	int seals; /* of the layers */
	int flags; /* of their descriptors */
	unsigned nlayers;
	int64_t pages;
	int err; /* what the library must say, 0: it is right */
	unsigned nruns;
	struct page_run runs[RUNS_MAX];
};

static const struct snap_case cases[] = {
    {"good", SEALS, O_RDONLY, 2, 10, 0, 4,
	{{0, 2, 1, 0, 0}, {3, 1, 0, 1, 0}, {4, 2, 0, RUN_ZERO, 0},
	    {8, 1, 3, 0, 0}}},
    {"empty", SEALS, O_RDONLY, 0, 4, 0, 0, {{0}}},
    {"unsealed", 0, O_RDONLY, 1, 4, -EPERM, 1, {{0, 1, 0, 0, 0}}},
    {"growable", SEALS & ~F_SEAL_GROW, O_RDONLY, 1, 4, -EPERM, 1,
	{{0, 1, 0, 0, 0}}},
    {"unsealable", SEALS & ~F_SEAL_SEAL, O_RDONLY, 1, 4, -EPERM, 1,
	{{0, 1, 0, 0, 0}}},
    {"writable", SEALS, O_RDWR, 1, 4, -EPERM, 1, {{0, 1, 0, 0, 0}}},
    {"short", SEALS, O_RDONLY, 1, 10, -EPROTO, 1, {{0, 5, 0, 0, 0}}},
    {"beyond", SEALS, O_RDONLY, 1, 10, -EPROTO, 1, {{0, 1, 4, 0, 0}}},
    {"wrap", SEALS, O_RDONLY, 1, 10, -EPROTO, 1, {{0, 2, UINT64_MAX, 0, 0}}},
    {"outside", SEALS, O_RDONLY, 1, 4, -EPROTO, 1, {{3, 2, 0, 0, 0}}},
    {"page-wrap", SEALS, O_RDONLY, 1, 4, -EPROTO, 1,
	{{UINT64_MAX, 2, 0, 0, 0}}},
    {"overlap", SEALS, O_RDONLY, 1, 10, -EPROTO, 2,
	{{0, 3, 0, 0, 0}, {2, 1, 0, 0, 0}}},
    {"unsorted", SEALS, O_RDONLY, 1, 10, -EPROTO, 2,
	{{4, 1, 0, 0, 0}, {0, 1, 0, 0, 0}}},
    {"no-layer", SEALS, O_RDONLY, 1, 10, -EPROTO, 1, {{0, 1, 0, 1, 0}}},
    {"hollow", SEALS, O_RDONLY, 1, 10, -EPROTO, 1, {{0, 0, 0, 0, 0}}},
    {"padded", SEALS, O_RDONLY, 1, 10, -EPROTO, 1, {{0, 1, 0, 0, 7}}},
    {"vast", SEALS, O_RDONLY, 1, INT64_MAX, -EPROTO, 1, {{0, 1, 0, 0, 0}}},
};

static int memfd_of(const void *data, size_t len, int seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), (ssize_t)len);
	if (seals != 0)
		assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

/* LAYER_PAGES pages: the i-th of layer n is filled with 16 * (n + 1) + i. */
static int make_layer(unsigned n, int seals, int flags)
{
	static const size_t len = LAYER_PAGES * PAGE_SIZE;
	char path[64];
	char *buf = malloc(len);
	int again;
	int fd;

	assert_non_null(buf);
	for (size_t i = 0; i < LAYER_PAGES; i++)
		memset(buf + i * PAGE_SIZE, (int)(16 * (n + 1) + i), PAGE_SIZE);
	fd = memfd_of(buf, len, seals);
	free(buf);
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	/* A descriptor sealed against writing cannot be opened for it. */
	if (flags != O_RDONLY)
		return fd;
	again = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(again >= 0);
	(void)close(fd);
	return again;
}

static void reply_snapshot(struct ctl_req *rq, const struct snap_case *c)
{
	int fds[3];
	unsigned n = 0;

	fds[n++] = memfd_of(c->runs, c->nruns * sizeof(c->runs[0]), 0);
	for (unsigned i = 0; i < c->nlayers; i++)
		fds[n++] = make_layer(i, c->seals, c->flags);
	ctl_reply(rq,
	    json_pack("{s:I, s:i, s:i}", "pages", (json_int_t)c->pages,
		"runs_fd", 0, "layers", (int)c->nlayers),
	    fds, n);
	fdmsg_close_all(fds, n);
}

/* Every other page, all from one page of a layer: more runs than mappings. */
static void reply_scattered(struct ctl_req *rq)
{
	struct page_run *r = calloc(MANY_RUNS, sizeof(*r));
	int fds[2];

	assert_non_null(r);
	for (unsigned i = 0; i < MANY_RUNS; i++)
		r[i] = (struct page_run){
		    .page = 2ULL * i, .npages = 1, .index = i % LAYER_PAGES};
	fds[0] = memfd_of(r, MANY_RUNS * sizeof(*r), 0);
	fds[1] = make_layer(0, SEALS, O_RDONLY);
	free(r);
	ctl_reply(rq,
	    json_pack("{s:i, s:i, s:i}", "pages", (int)(2 * MANY_RUNS),
		"runs_fd", 0, "layers", 1),
	    fds, 2);
	fdmsg_close_all(fds, 2);
}

static void op_open(void *ctx, struct ctl_req *rq)
{
	const char *name = ctl_str(rq, "snapshot");
	int half;

	(void)ctx;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (strcmp(cases[i].name, name) == 0) {
			reply_snapshot(rq, &cases[i]);
			return;
		}
	}
	if (strcmp(name, "scattered") == 0) {
		reply_scattered(rq);
		return;
	}
	/* "none": no descriptors at all; "half": runs of an odd size. */
	half = memfd_of("half a run", 10, 0);
	ctl_reply(rq, json_pack("{s:i, s:i}", "pages", 1, "runs_fd", 0), &half,
	    strcmp(name, "half") == 0);
	(void)close(half);
}

static void op_echo(void *ctx, struct ctl_req *rq)
{
	int fd = ctl_take_fd(rq, 0);

	(void)ctx;
	ctl_reply(
	    rq, json_pack("{s:O}", "text", ctl_json(rq, "text")), &fd, fd >= 0);
	if (fd >= 0)
		(void)close(fd);
}

static void op_hold(void *ctx, struct ctl_req *rq)
{
	((struct service *)ctx)->held = rq;
}

static void op_release(void *ctx, struct ctl_req *rq)
{
	struct service *s = ctx;

	ctl_notify(ctl_req_conn(rq), "it.happened", json_pack("{s:i}", "n", 1));
	ctl_reply(rq, NULL, NULL, 0);
	ctl_notify(ctl_req_conn(s->held), "it.happened", NULL);
	ctl_reply(s->held, NULL, NULL, 0);
	s->held = NULL;
}

static void op_fail(void *ctx, struct ctl_req *rq)
{
	struct err e;

	(void)ctx;
	(void)err_set(&e, -EBUSY, "not now");
	ctl_fail(rq, &e);
}

static void op_hang_up(void *ctx, struct ctl_req *rq)
{
	(void)ctx;
	ctl_conn_close(ctl_req_conn(rq));
	ctl_reply(rq, NULL, NULL, 0);
}

static void op_freeze(void *ctx, struct ctl_req *rq)
{
	(void)ctx;
	ctl_reply(rq,
	    json_pack("{s:i, s:i, s:i, s:i, s:i, s:i}", "snapshot", 42, "pages",
		1, "dirty_pages", 2, "copied_pages",
		ctl_str(rq, "segment") ? 3 : 0, "pause_ns", 4, "total_ns", 5),
	    NULL, 0);
}

static void op_map(void *ctx, struct ctl_req *rq)
{
	(void)ctx;
	ctl_reply(rq,
	    json_pack("{s:i, s:I, s:i, s:i, s:i}", "view", 3, "gpa",
		(json_int_t)ctl_int(rq, "gpa", 7), "pages", 1, "extents", 2,
		"map_ns", ctl_bool(rq, "cow")),
	    NULL, 0);
}

static void op_adopt(void *ctx, struct ctl_req *rq)
{
	(void)ctx;
	ctl_reply(rq,
	    json_pack("{s:i, s:I, s:i, s:i, s:i, s:b}", "view", 4, "gpa",
		(json_int_t)ctl_int(rq, "gpa", 7), "pages", 1, "extents", 2,
		"map_ns", 3, "copied_on_write", ctl_json(rq, "gpa") != NULL),
	    NULL, 0);
}

/* Moved where it keeps its name; of "bad" the answer is nonsense. */
static void op_hand(void *ctx, struct ctl_req *rq)
{
	(void)ctx;
	if (strcmp(ctl_str(rq, "snapshot"), "bad") == 0)
		ctl_reply(rq, json_pack("{s:i}", "moved", 1), NULL, 0);
	else
		ctl_reply(rq,
		    json_pack("{s:b}", "moved", ctl_str(rq, "name") == NULL),
		    NULL, 0);
}

/* "a" chooses the answer. */
static void op_diff(void *ctx, struct ctl_req *rq)
{
	const uint64_t pairs[] = {5, 2, 9, 1};
	const char *a = ctl_str(rq, "a");
	int fd;

	(void)ctx;
	if (strcmp(a, "fd") == 0) {
		fd = memfd_of(pairs, sizeof(pairs), 0);
		ctl_reply(rq,
		    json_pack("{s:i, s:i}", "pages", 3, "extents_fd", 0), &fd,
		    1);
		(void)close(fd);
	} else if (strcmp(a, "lost") == 0) {
		ctl_reply(rq,
		    json_pack("{s:i, s:i}", "pages", 3, "extents_fd", 0), NULL,
		    0);
	} else if (strcmp(a, "unsorted") == 0) {
		ctl_reply(rq,
		    json_pack("{s:i, s:[[i,i],[i,i]]}", "pages", 2, "extents",
			5, 1, 2, 1),
		    NULL, 0);
	} else {
		ctl_reply(rq,
		    json_pack("{s:i, s:[[i,i],[i,i]], s:i}", "pages",
			strcmp(a, "sum") == 0 ? 9 : 3, "extents", 1, 2, 5, 1,
			"nodes_visited", 6),
		    NULL, 0);
	}
}

static void op_stop(void *ctx, struct ctl_req *rq)
{
	struct service *s = ctx;

	ctl_reply(rq, NULL, NULL, 0);
	loop_stop(s->l);
}

#define OPT(n, t)                                                              \
	{                                                                      \
		.name = (n), .type = (t), .optional = true                     \
	}
#define REQUIRED(n, t)                                                         \
	{                                                                      \
		.name = (n), .type = (t)                                       \
	}

static const struct ctl_param snapshot_p[] = {
    REQUIRED("snapshot", CTL_STRING), {0}};
static const struct ctl_param text_p[] = {REQUIRED("text", CTL_STRING), {0}};
static const struct ctl_param freeze_p[] = {REQUIRED("vm", CTL_STRING),
    OPT("segment", CTL_STRING), OPT("name", CTL_STRING), {0}};
static const struct ctl_param map_p[] = {REQUIRED("vm", CTL_STRING),
    REQUIRED("snapshot", CTL_STRING), OPT("cow", CTL_BOOL),
    OPT("gpa", CTL_SIZE), {0}};
static const struct ctl_param hand_p[] = {REQUIRED("vm", CTL_STRING),
    REQUIRED("snapshot", CTL_STRING), OPT("name", CTL_STRING), {0}};
static const struct ctl_param unmap_p[] = {
    REQUIRED("vm", CTL_STRING), REQUIRED("view", CTL_STRING), {0}};
static const struct ctl_param diff_p[] = {REQUIRED("a", CTL_STRING),
    REQUIRED("b", CTL_STRING), OPT("exact", CTL_BOOL), {0}};
static const struct ctl_param dirty_p[] = {REQUIRED("vm", CTL_STRING),
    OPT("segment", CTL_STRING), REQUIRED("cursor", CTL_STRING),
    OPT("peek", CTL_BOOL), OPT("exact", CTL_BOOL), {0}};

static void op_dirty(void *ctx, struct ctl_req *rq)
{
	(void)ctx;
	ctl_reply(rq,
	    json_pack("{s:i, s:[[i,i]]}", "pages", 1, "extents",
		ctl_bool(rq, "peek") + 2 * ctl_bool(rq, "exact"), 1),
	    NULL, 0);
}

#define OP(n, p, h)                                                            \
	{                                                                      \
		.name = (n), .summary = (n), .params = (p), .handler = (h)     \
	}

static const struct ctl_op ops[] = {
    OP("snapshot.open", snapshot_p, op_open),
    {.name = "echo",
	.summary = "echo",
	.params = text_p,
	.nfds = 1,
	.handler = op_echo},
    OP("say", text_p, op_echo),
    OP("hold", NULL, op_hold),
    OP("release", NULL, op_release),
    OP("fail", NULL, op_fail),
    OP("hang.up", NULL, op_hang_up),
    OP("segment.freeze", freeze_p, op_freeze),
    OP("segment.sever", freeze_p, op_freeze),
    OP("view.map", map_p, op_map),
    OP("view.unmap", unmap_p, op_stop),
    OP("view.adopt", map_p, op_adopt),
    OP("vm.give", hand_p, op_hand),
    OP("vm.take", hand_p, op_hand),
    OP("snapshot.diff", diff_p, op_diff),
    OP("dirty.query", dirty_p, op_dirty),
    OP("stop", NULL, op_stop),
};

/* Ends when asked to stop, or when the only client has gone. */
static void on_close(void *ctx, struct ctl_conn *c)
{
	(void)c;
	loop_stop(((struct service *)ctx)->l);
}

static void *serve(void *arg)
{
	struct service *s = arg;

	s->conf = (struct ctl_conf){.service = "test",
	    .version = "1",
	    .ops = ops,
	    .nops = sizeof(ops) / sizeof(ops[0]),
	    .ctx = s,
	    .on_close = on_close};
	if (loop_new(&s->l, NULL) != 0 ||
	    ctl_srv_new(&s->srv, s->l, &s->conf, NULL) != 0 ||
	    ctl_adopt(s->srv, s->fd, NULL, NULL) != 0)
		return NULL;
	(void)loop_run(s->l, NULL);
	ctl_srv_free(s->srv);
	if (s->held != NULL)
		ctl_reply(s->held, NULL, NULL, 0);
	loop_free(s->l);
	return NULL;
}

/* --- fixture ---------------------------------------------------------------
 */

struct fix {
	struct service s;
	struct firn *c;
	struct firn_error e;
	int fds_before;
};

static int setup(void **state)
{
	struct fix *x = calloc(1, sizeof(*x));
	int sv[2];

	assert_non_null(x);
	x->fds_before = count_fds();
	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	x->s.fd = sv[1];
	assert_int_equal(pthread_create(&x->s.thread, NULL, serve, &x->s), 0);
	assert_int_equal(firn_connect_fd(sv[0], &x->c, NULL), 0);
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fix *x = *state;
	int leaked;

	firn_close(x->c);
	(void)pthread_join(x->s.thread, NULL);
	leaked = count_fds() - x->fds_before;
	if (leaked != 0)
		print_error("%d descriptors leaked\n", leaked);
	free(x);
	return leaked;
}

/* --- tests -----------------------------------------------------------------
 */

static void test_call(void **state)
{
	struct fix *x = *state;
	struct firn_reply r;
	int fd = memfd_of("Q", 1, 0);
	char c = 0;

	assert_int_equal(
	    firn_call(x->c, "echo", "{\"text\":\"hi\"}", &fd, 1, &r, &x->e), 0);
	assert_string_equal(r.json, "{\"text\":\"hi\"}");
	assert_int_equal(r.nfds, 1);
	assert_true(fcntl(r.fds[0], F_GETFD) & FD_CLOEXEC);
	assert_int_equal(pread(r.fds[0], &c, 1, 0), 1);
	assert_int_equal(c, 'Q');
	firn_reply_free(&r);
	firn_reply_free(&r);
	/* Nobody wants the answer: its descriptor is closed. */
	assert_int_equal(
	    firn_call(x->c, "echo", "{\"text\":\"hi\"}", &fd, 1, NULL, NULL),
	    0);
	(void)close(fd);
	assert_int_equal(
	    firn_call(x->c, "echo", "{", NULL, 0, &r, &x->e), -EINVAL);
	assert_int_equal(x->e.code, 0);
	assert_int_equal(
	    firn_call(x->c, "echo", "[1]", NULL, 0, &r, &x->e), -EINVAL);
}

static void test_errors(void **state)
{
	struct fix *x = *state;
	struct firn_reply r;

	assert_int_equal(
	    firn_call(x->c, "fail", NULL, NULL, 0, &r, &x->e), -EBUSY);
	assert_int_equal(x->e.code, CTL_REFUSED);
	assert_int_equal(x->e.err, -EBUSY);
	assert_string_equal(x->e.msg, "not now");
	assert_int_equal(
	    firn_call(x->c, "nothing", NULL, NULL, 0, &r, &x->e), -ENOSYS);
	assert_int_equal(x->e.code, CTL_METHOD);
	assert_int_equal(
	    firn_call(x->c, "hang.up", NULL, NULL, 0, &r, &x->e), -ECONNRESET);
	assert_int_equal(
	    firn_call(x->c, "fail", NULL, NULL, 0, &r, &x->e), -ECONNRESET);
	assert_int_equal(x->e.code, 0);
}

static void test_large(void **state)
{
	struct fix *x = *state;
	size_t len = CTL_LINE_MAX - 4096;
	char *s = malloc(len + 1);
	json_t *res;

	assert_non_null(s);
	memset(s, 'y', len);
	s[len] = '\0';
	assert_int_equal(
	    firn_call_json(x->c, "say", json_pack("{s:s}", "text", s), NULL, 0,
		&res, NULL, NULL, &x->e),
	    0);
	assert_string_equal(json_string_value(json_object_get(res, "text")), s);
	json_decref(res);
	free(s);
}

/* Too long for the service: it says so, then hangs up. */
static void test_too_large(void **state)
{
	struct fix *x = *state;
	size_t len = CTL_LINE_MAX + 65536;
	char *s = malloc(len + 1);
	int r;

	assert_non_null(s);
	memset(s, 'y', len);
	s[len] = '\0';
	r = firn_call_json(x->c, "say", json_pack("{s:s}", "text", s), NULL, 0,
	    NULL, NULL, NULL, &x->e);
	free(s);
	assert_int_equal(r, -ECONNRESET);
}

static void test_async(void **state)
{
	struct fix *x = *state;
	struct firn_event ev;
	struct firn_reply r;
	uint64_t held;
	uint64_t released;

	assert_int_equal(
	    firn_call_async(x->c, "hold", NULL, NULL, 0, &held, NULL), 0);
	assert_int_equal(firn_wait_reply(x->c, held, 0, &r, &x->e), -ETIMEDOUT);
	assert_int_equal(firn_wait_event(x->c, 1, &ev, &x->e), -ETIMEDOUT);
	assert_int_equal(
	    firn_call_async(x->c, "release", NULL, NULL, 0, &released, NULL),
	    0);
	assert_int_equal(firn_wait_reply(x->c, held, -1, &r, NULL), 0);
	assert_string_equal(r.json, "{}");
	firn_reply_free(&r);
	assert_int_equal(firn_wait_event(x->c, -1, &ev, NULL), 0);
	assert_string_equal(ev.method, "it.happened");
	assert_string_equal(ev.json, "{\"n\":1}");
	firn_event_free(&ev);
	assert_int_equal(firn_wait_reply(x->c, released, -1, &r, NULL), 0);
	firn_reply_free(&r);
	/* The second event is left: firn_close() frees it. */
}

static void test_typed(void **state)
{
	struct firn_freeze_result f;
	struct firn_map_result m;
	struct fix *x = *state;

	assert_int_equal(firn_freeze(x->c, "v", NULL, NULL, &f, NULL), 0);
	assert_int_equal(f.snapshot, 42);
	assert_int_equal(f.copied_pages, 0);
	assert_int_equal(f.total_ns, 5);
	assert_int_equal(firn_sever(x->c, "v", "1", "n", &f, NULL), 0);
	assert_int_equal(f.copied_pages, 3);
	assert_int_equal(firn_map(x->c, "v", "s", 1, 0, &m, NULL), 0);
	assert_int_equal(m.gpa, 7);
	assert_int_equal(m.map_ns, 1);
	assert_int_equal(firn_map(x->c, "v", "s", 0, 4096, &m, NULL), 0);
	assert_int_equal(m.gpa, 4096);
	assert_int_equal(m.view, 3);
	assert_int_equal(firn_unmap(x->c, "v", "3", &x->e), 0);
}

static void test_hands(void **state)
{
	struct firn_map_result m;
	struct fix *x = *state;
	int flag = -1;

	assert_int_equal(firn_adopt(x->c, "v", "s", 0, &m, &flag, NULL), 0);
	assert_int_equal(m.view, 4);
	assert_int_equal(m.gpa, 7);
	assert_int_equal(flag, 0);
	assert_int_equal(firn_adopt(x->c, "v", "s", 4096, &m, &flag, NULL), 0);
	assert_int_equal(m.gpa, 4096);
	assert_int_equal(flag, 1);
	assert_int_equal(firn_adopt(x->c, "v", "s", 0, &m, NULL, NULL), 0);
	assert_int_equal(firn_give(x->c, "v", "s", NULL, &flag, NULL), 0);
	assert_int_equal(flag, 1);
	assert_int_equal(firn_take(x->c, "v", "s", "n", &flag, NULL), 0);
	assert_int_equal(flag, 0);
	assert_int_equal(firn_take(x->c, "v", "s", "n", NULL, NULL), 0);
	assert_int_equal(
	    firn_give(x->c, "v", "bad", NULL, &flag, &x->e), -EPROTO);
	assert_int_equal(
	    firn_take(x->c, "v", "bad", NULL, &flag, &x->e), -EPROTO);
	assert_int_equal(flag, 0);
}

static void test_pagesets(void **state)
{
	struct fix *x = *state;
	struct firn_pageset p;

	assert_int_equal(firn_diff(x->c, "inline", "b", 0, &p, NULL), 0);
	assert_int_equal(p.nranges, 2);
	assert_int_equal(p.ranges[0].first, 1);
	assert_int_equal(p.nodes_visited, 6);
	firn_pageset_free(&p);
	assert_int_equal(firn_diff(x->c, "fd", "b", 1, &p, NULL), 0);
	assert_int_equal(p.nranges, 2);
	assert_int_equal(p.ranges[1].first, 9);
	firn_pageset_free(&p);
	assert_int_equal(firn_diff(x->c, "lost", "b", 0, &p, &x->e), -EPROTO);
	assert_int_equal(firn_diff(x->c, "sum", "b", 0, &p, &x->e), -EPROTO);
	assert_int_equal(
	    firn_diff(x->c, "unsorted", "b", 0, &p, &x->e), -EPROTO);
	assert_int_equal(firn_dirty(x->c, "v", NULL, "c",
			     FIRN_DIRTY_PEEK | FIRN_DIRTY_EXACT, &p, NULL),
	    0);
	assert_int_equal(p.ranges[0].first, 3);
	firn_pageset_free(&p);
}

static void test_snapshots(void **state)
{
	struct fix *x = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct firn_snapshot *s = NULL;
		int r = firn_open_snapshot(x->c, cases[i].name, &s, &x->e);

		if (r != cases[i].err)
			fail_msg(
			    "%s: %d, not %d", cases[i].name, r, cases[i].err);
		if (r == 0)
			assert_int_equal(
			    firn_snapshot_pages(s), cases[i].pages);
		else
			assert_null(s);
		firn_snapshot_close(s);
	}
}

static void test_no_runs(void **state)
{
	struct firn_snapshot *s = NULL;
	struct fix *x = *state;

	assert_int_equal(firn_open_snapshot(x->c, "none", &s, &x->e), -EPROTO);
	assert_int_equal(firn_open_snapshot(x->c, "half", &s, &x->e), -EPROTO);
}

/* Page by page, what "good" shows. */
static const unsigned char good_pages[10] = {17, 18, 0, 32, 0, 0, 0, 0, 19, 0};

static void test_read(void **state)
{
	struct fix *x = *state;
	unsigned char buf[3 * PAGE_SIZE];
	struct firn_snapshot *s = NULL;
	struct firn_range r;

	assert_int_equal(firn_open_snapshot(x->c, "good", &s, NULL), 0);
	assert_int_equal(firn_snapshot_layers(s), 2);
	for (uint64_t at = 0; at + sizeof(buf) <= 10 * PAGE_SIZE; at += 1111) {
		assert_int_equal(
		    firn_snapshot_read(s, at, buf, sizeof(buf), NULL), 0);
		for (size_t i = 0; i < sizeof(buf); i++)
			if (buf[i] != good_pages[(at + i) / PAGE_SIZE])
				fail_msg("byte %zu", (size_t)at + i);
	}
	assert_int_equal(
	    firn_snapshot_read(s, 10 * PAGE_SIZE, buf, 0, NULL), 0);
	assert_int_equal(
	    firn_snapshot_read(s, 10 * PAGE_SIZE - 1, buf, 2, &x->e), -ERANGE);
	assert_int_equal(
	    firn_snapshot_read(s, UINT64_MAX, buf, 2, &x->e), -ERANGE);
	assert_int_equal(firn_snapshot_next(s, 1, &r), 1);
	assert_int_equal(r.first, 1);
	assert_int_equal(r.count, 1);
	assert_int_equal(firn_snapshot_next(s, 4, &r), 1);
	assert_int_equal(r.first, 8);
	assert_int_equal(firn_snapshot_next(s, 9, &r), 0);
	firn_snapshot_close(s);
}

static void test_map(void **state)
{
	struct firn_snapshot *s = NULL;
	struct fix *x = *state;
	const void *addr;
	const void *again;

	assert_int_equal(firn_open_snapshot(x->c, "good", &s, NULL), 0);
	assert_int_equal(firn_snapshot_map(s, &addr, NULL), 0);
	for (size_t i = 0; i < 10 * PAGE_SIZE; i++)
		if (((const unsigned char *)addr)[i] !=
		    good_pages[i / PAGE_SIZE])
			fail_msg("byte %zu", i);
	assert_int_equal(firn_snapshot_map(s, &again, NULL), 0);
	assert_ptr_equal(addr, again);
	firn_snapshot_unmap(s);
	firn_snapshot_unmap(s);
	firn_snapshot_close(s);
}

static void test_map_scattered(void **state)
{
	struct firn_snapshot *s = NULL;
	struct fix *x = *state;
	const void *addr;

	assert_int_equal(firn_open_snapshot(x->c, "scattered", &s, NULL), 0);
	assert_int_equal(firn_snapshot_map(s, &addr, &x->e), 0);
	for (size_t i = 0; i < 2 * MANY_RUNS; i++) {
		unsigned want =
		    i % 2 ? 0 : 16 + (unsigned)(i / 2) % LAYER_PAGES;

		assert_int_equal(
		    ((const unsigned char *)addr)[i * PAGE_SIZE + 5], want);
	}
	firn_snapshot_close(s);
}

static void test_paths(void **state)
{
	struct firn *c = NULL;
	struct firn_error e;
	char buf[64];

	(void)state;
	assert_int_equal(setenv("FIRN_SOCKET", "/a/b", 1), 0);
	assert_int_equal(firn_default_path(buf, sizeof(buf)), 0);
	assert_string_equal(buf, "/a/b");
	assert_int_equal(firn_default_path(buf, 3), -ENAMETOOLONG);
	assert_int_equal(firn_connect(NULL, &c, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "firn daemon"));
	assert_int_equal(unsetenv("FIRN_SOCKET"), 0);
	assert_int_equal(setenv("XDG_RUNTIME_DIR", "/x", 1), 0);
	assert_int_equal(firn_default_path(buf, sizeof(buf)), 0);
	assert_string_equal(buf, "/x/firn.sock");
	assert_int_equal(unsetenv("XDG_RUNTIME_DIR"), 0);
	assert_int_equal(firn_default_path(buf, sizeof(buf)), 0);
	assert_string_equal(buf, "/run/firn.sock");
}

/* A service that sends what is no JSON-RPC. */
static void test_nonsense(void **state)
{
	static const char *const lines[] = {"nonsense\n", "[]\n",
	    "{\"id\":1,\"id\":2}\n", "{\"jsonrpc\":\"2.0\",\"id\":1}\n"};
	struct firn_reply r;
	struct firn_error e;

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		struct firn *c = NULL;
		int sv[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
		assert_int_equal(firn_connect_fd(sv[0], &c, NULL), 0);
		assert_true(send(sv[1], lines[i], strlen(lines[i]), 0) > 0);
		assert_int_equal(
		    firn_call(c, "x", NULL, NULL, 0, &r, &e), -EPROTO);
		firn_close(c);
		(void)close(sv[1]);
	}
}

/* A name that JSON cannot say is refused here, not left out of the request. */
static void test_names(void **state)
{
	struct fix *x = *state;
	struct firn_freeze_result fr;
	struct firn_map_result m;
	struct firn_pageset p;
	struct firn_snapshot *s;
	static const char bad[] = "\xff";

	assert_int_equal(
	    firn_freeze(x->c, "v", NULL, bad, &fr, &x->e), -EINVAL);
	assert_non_null(strstr(x->e.msg, "UTF-8"));
	assert_int_equal(firn_map(x->c, "v", bad, 0, 0, &m, &x->e), -EINVAL);
	assert_int_equal(firn_unmap(x->c, bad, "w", &x->e), -EINVAL);
	assert_int_equal(
	    firn_adopt(x->c, "v", bad, 0, &m, NULL, &x->e), -EINVAL);
	assert_int_equal(firn_give(x->c, "v", bad, NULL, NULL, &x->e), -EINVAL);
	assert_int_equal(firn_diff(x->c, "a", bad, 0, &p, &x->e), -EINVAL);
	assert_int_equal(
	    firn_dirty(x->c, "v", bad, "c", 0, &p, &x->e), -EINVAL);
	assert_int_equal(firn_touched(x->c, "v", bad, &p, &p, &x->e), -EINVAL);
	assert_int_equal(firn_open_snapshot(x->c, bad, &s, &x->e), -EINVAL);
	assert_int_equal(x->e.code, 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_call),
	    T(test_errors),
	    T(test_large),
	    T(test_too_large),
	    T(test_async),
	    T(test_typed),
	    T(test_names),
	    T(test_hands),
	    T(test_pagesets),
	    T(test_snapshots),
	    T(test_no_runs),
	    T(test_read),
	    T(test_map),
	    T(test_map_scattered),
	    cmocka_unit_test(test_paths),
	    cmocka_unit_test(test_nonsense),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
