/* SPDX-License-Identifier: MIT */
#include "tests/unit/libfirn_fix.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/own.h"

/* --- the service ---------------------------------------------------------- */

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
	} else if (strcmp(a, "words") == 0) {
		ctl_reply(rq,
		    json_pack(
			"{s:i, s:[[s,i]]}", "pages", 1, "extents", "x", 1),
		    NULL, 0);
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

/* --- fixture -------------------------------------------------------------- */

int setup(void **state)
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

int teardown(void **state)
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
