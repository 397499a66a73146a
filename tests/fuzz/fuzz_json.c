/* SPDX-License-Identifier: MIT */
/*
 * Bytes of a client, through framing, JSON, validation and dispatch, to a
 * table that has every type of parameter. Handlers answer at once, later, or
 * when the connection is gone.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"
#include "vmm/core/fdmsg.h"
#include "vmm/ctl/ctl.h"

#define PIECE     4096
#define HELD_MAX  256
#define ROUND_MAX 1000

struct fuzz {
	struct ctl_req *held[HELD_MAX];
	size_t nheld;
};

static void use(const struct ctl_req *rq)
{
	const char *s = ctl_str(rq, "s");

	if (s != NULL && strlen(s) > CTL_LINE_MAX)
		abort();
	if (ctl_int(rq, "size", 0) < 0)
		abort();
	(void)ctl_bool(rq, "b");
}

static void op_echo(void *ctx, struct ctl_req *rq)
{
	(void)ctx;
	use(rq);
	ctl_reply(rq, json_pack("{s:O*}", "any", ctl_json(rq, "o")), NULL, 0);
}

static void op_hold(void *ctx, struct ctl_req *rq)
{
	struct fuzz *z = ctx;

	use(rq);
	if (z->nheld < HELD_MAX)
		z->held[z->nheld++] = rq;
	else
		ctl_reply(rq, NULL, NULL, 0);
}

static void op_fail(void *ctx, struct ctl_req *rq)
{
	struct err e;

	(void)ctx;
	(void)err_set(&e, -ENOENT, "no %s", ctl_str(rq, "s"));
	ctl_fail(rq, &e);
}

static const struct ctl_param fields[] = {
    {.name = "name", .type = CTL_STRING},
    {.name = "size", .type = CTL_SIZE, .optional = true},
    {0},
};

static const struct ctl_param params[] = {
    {.name = "s", .type = CTL_STRING, .optional = true},
    {.name = "i", .type = CTL_SIZE, .optional = true},
    {.name = "size", .type = CTL_SIZE, .optional = true},
    {.name = "b", .type = CTL_BOOL, .optional = true},
    {.name = "o", .type = CTL_OBJECT, .optional = true},
    {.name = "one", .type = CTL_OBJECT, .optional = true, .fields = fields},
    {.name = "list", .type = CTL_OBJECTS, .optional = true, .fields = fields},
    {.name = "words", .type = CTL_STRINGS, .optional = true},
    {.name = "extents", .type = CTL_EXTENTS, .optional = true},
    {0},
};

static const struct ctl_param needs[] = {
    {.name = "s", .type = CTL_STRING},
    {0},
};

static const struct ctl_op ops[] = {
    {.name = "service.describe",
	.summary = "describe",
	.results = params,
	.handler = ctl_describe_op},
    {.name = "echo",
	.summary = "echo",
	.params = params,
	.results = params,
	.handler = op_echo},
    {.name = "hold", .summary = "hold", .params = params, .handler = op_hold},
    {.name = "fail", .summary = "fail", .params = needs, .handler = op_fail},
};

static void drain(struct loop *l, int fd)
{
	char buf[PIECE];

	for (int i = 0; i < ROUND_MAX; i++) {
		ssize_t n;

		(void)loop_run_once(l, 0, NULL);
		n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (n <= 0)
			break;
	}
}

static void feed(struct loop *l, int fd, const uint8_t *data, size_t size)
{
	size_t at = 0;

	while (at < size) {
		size_t len = size - at < PIECE ? size - at : PIECE;
		ssize_t n =
		    fdmsg_send(fd, data + at, len, NULL, 0, MSG_DONTWAIT);

		if (n < 0 && n != -EAGAIN)
			break;
		if (n > 0)
			at += (size_t)n;
		drain(l, fd);
	}
	drain(l, fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz z = {.nheld = 0};
	const struct ctl_conf conf = {.service = "fuzz",
	    .version = "0",
	    .ops = ops,
	    .nops = sizeof(ops) / sizeof(ops[0]),
	    .ctx = &z};
	struct ctl_srv *srv;
	struct loop *l;
	int sv[2];

	if (loop_new(&l, NULL) != 0 || ctl_srv_new(&srv, l, &conf, NULL) != 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) != 0 ||
	    ctl_adopt(srv, sv[1], NULL, NULL) != 0)
		abort();
	feed(l, sv[0], data, size);
	if (z.nheld > 0)
		ctl_reply(z.held[--z.nheld], NULL, NULL, 0);
	(void)close(sv[0]);
	ctl_srv_free(srv);
	while (z.nheld > 0)
		ctl_reply(z.held[--z.nheld], NULL, NULL, 0);
	loop_free(l);
	return 0;
}
