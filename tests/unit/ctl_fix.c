/* SPDX-License-Identifier: MIT */
#include "tests/unit/ctl_fix.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- the service ---------------------------------------------------------- */

static void op_add(void *ctx, struct ctl_req *rq)
{
	struct fix *x = ctx;

	x->ran++;
	ctl_reply(rq,
	    json_pack("{s:I}", "sum",
		(json_int_t)(ctl_int(rq, "a", 0) + ctl_int(rq, "b", 100))),
	    NULL, 0);
}

static void on_cancel(struct ctl_req *rq, void *arg)
{
	struct fix *x = arg;

	assert_true(ctl_req_cancelled(rq));
	assert_null(ctl_req_conn(rq));
	x->cancelled++;
}

static void op_hold(void *ctx, struct ctl_req *rq)
{
	struct fix *x = ctx;

	assert_in_range(x->nheld, 0, HELD_MAX - 1);
	ctl_req_on_cancel(rq, on_cancel, x);
	x->held[x->nheld++] = rq;
}

static void op_files(void *ctx, struct ctl_req *rq)
{
	struct fix *x = ctx;
	int fd = ctl_take_fd(rq, 0);
	char c = '?';

	x->ran++;
	assert_int_equal(ctl_take_fd(rq, 0), -1);
	assert_int_equal(ctl_take_fd(rq, 99), -1);
	assert_int_equal(pread(fd, &c, 1, 0), 1);
	/* The second is closed with the request. */
	ctl_reply(rq, json_pack("{s:s%}", "byte", &c, (size_t)1), &fd, 1);
	(void)close(fd);
}

static void op_fail(void *ctx, struct ctl_req *rq)
{
	struct err e;

	(void)ctx;
	(void)err_set(&e, -(int)ctl_int(rq, "errno", EIO), "no \xff");
	ctl_fail(rq, &e);
}

static void op_range(void *ctx, struct ctl_req *rq)
{
	(void)ctx;
	ctl_fail_param(rq, "a", "must be below %d", 7);
}

static void op_vast(void *ctx, struct ctl_req *rq)
{
	char *s = malloc(BUF_LEN);

	(void)ctx;
	assert_non_null(s);
	memset(s, 'x', BUF_LEN);
	ctl_reply(rq, json_pack("{s:s%}", "s", s, (size_t)BUF_LEN), NULL, 0);
	free(s);
}

static void op_oom(void *ctx, struct ctl_req *rq)
{
	(void)ctx;
	ctl_reply(rq, NULL, NULL, 0);
}

static const struct ctl_param pair_fields[] = {
    {.name = "name", .type = CTL_STRING},
    {.name = "size", .type = CTL_SIZE, .optional = true},
    {0},
};

static const struct ctl_param add_params[] = {
    {.name = "a", .type = CTL_SIZE, .doc = "the first"},
    {.name = "b", .type = CTL_SIZE, .optional = true},
    {.name = "size", .type = CTL_SIZE, .optional = true},
    {.name = "yes", .type = CTL_BOOL, .optional = true},
    {.name = "word", .type = CTL_STRING, .optional = true},
    {.name = "words", .type = CTL_STRINGS, .optional = true},
    {.name = "list",
	.type = CTL_OBJECTS,
	.optional = true,
	.fields = pair_fields},
    {.name = "extents", .type = CTL_EXTENTS, .optional = true},
    {0},
};

static const struct ctl_param add_results[] = {
    {.name = "sum", .type = CTL_SIZE},
    {0},
};

static const struct ctl_param errno_params[] = {
    {.name = "errno", .type = CTL_SIZE},
    {0},
};

static const char *const two_files[] = {"first", "second", NULL};

const struct ctl_op ctl_fix_ops[] = {
    {.name = "service.describe",
	.summary = "describe",
	.results = add_results,
	.handler = ctl_describe_op},
    {.name = "add",
	.summary = "add",
	.params = add_params,
	.results = add_results,
	.handler = op_add},
    {.name = "hold", .summary = "hold", .handler = op_hold},
    {.name = "files",
	.summary = "files",
	.fds = two_files,
	.nfds = 2,
	.handler = op_files},
    {.name = "fail",
	.summary = "fail",
	.params = errno_params,
	.handler = op_fail},
    {.name = "range", .summary = "fail", .handler = op_range},
    {.name = "vast", .summary = "much", .handler = op_vast},
    {.name = "oom",
	.summary = "no memory",
	.results = add_results,
	.handler = op_oom},
};

static const struct ctl_event events[] = {
    {.name = "it.happened", .summary = "it did", .params = add_results},
};

static int on_open(void *ctx, struct ctl_conn *c, uid_t uid, pid_t pid)
{
	struct fix *x = ctx;

	assert_int_equal(uid, geteuid());
	assert_int_equal(pid, getpid());
	assert_null(ctl_conn_data(c));
	ctl_conn_set_data(c, x);
	if (x->refuse)
		return -1;
	x->opened++;
	return 0;
}

static void on_close(void *ctx, struct ctl_conn *c)
{
	struct fix *x = ctx;

	assert_ptr_equal(ctl_conn_data(c), x);
	x->closed++;
	if (x->conn == c)
		x->conn = NULL;
}

/* --- the client ----------------------------------------------------------- */

int setup(void **state)
{
	struct fix *x = calloc(1, sizeof(*x));
	int before = count_fds();
	int sv[2];

	assert_non_null(x);
	x->fds_before = before;
	x->conf = (struct ctl_conf){.service = "test",
	    .version = "1",
	    .ops = ctl_fix_ops,
	    .nops = sizeof(ctl_fix_ops) / sizeof(ctl_fix_ops[0]),
	    .events = events,
	    .nevents = 1,
	    .ctx = x,
	    .on_open = on_open,
	    .on_close = on_close};
	assert_int_equal(loop_new(&x->l, NULL), 0);
	assert_int_equal(ctl_srv_new(&x->srv, x->l, &x->conf, NULL), 0);
	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	assert_int_equal(ctl_adopt(x->srv, sv[1], &x->conn, NULL), 0);
	x->fd = sv[0];
	*state = x;
	return 0;
}

int teardown(void **state)
{
	struct fix *x = *state;
	int leaked;

	ctl_srv_free(x->srv);
	while (x->nheld > 0)
		ctl_reply(x->held[--x->nheld], NULL, NULL, 0);
	loop_free(x->l);
	if (x->fd >= 0)
		(void)close(x->fd);
	leaked = count_fds() - x->fds_before;
	if (leaked != 0 || x->opened != x->closed)
		print_error("%d descriptors leaked, %u opened, %u closed\n",
		    leaked, x->opened, x->closed);
	leaked |= x->opened != x->closed;
	free(x);
	return leaked;
}

void turn(struct fix *x)
{
	for (int i = 0; i < 8; i++)
		assert_int_equal(loop_run_once(x->l, 0, NULL), 0);
}

void put_fds(struct fix *x, const char *s, const int *fds, size_t n)
{
	assert_int_equal(
	    fdmsg_send(x->fd, s, strlen(s), fds, n, 0), (ssize_t)strlen(s));
	turn(x);
}

void put(struct fix *x, const char *s)
{
	put_fds(x, s, NULL, 0);
}

/* The next line and its descriptors; NULL when there is none. */
json_t *get_fds(struct fix *x, int *fds, size_t *nfds)
{
	static char buf[BUF_LEN + 4096];
	size_t len = 0;

	*nfds = 0;
	while (len == 0 || buf[len - 1] != '\n') {
		int got[FDMSG_MAX];
		size_t ngot;
		ssize_t n = fdmsg_recv(
		    x->fd, buf + len, 1, got, FDMSG_MAX, &ngot, MSG_DONTWAIT);

		if (n <= 0 && len == 0)
			return NULL;
		if (n == -EAGAIN) {
			turn(x);
			continue;
		}
		assert_int_equal(n, 1);
		assert_true(*nfds + ngot <= CTL_REPLY_FDS);
		if (ngot > 0)
			memcpy(fds + *nfds, got, ngot * sizeof(int));
		*nfds += ngot;
		len++;
		assert_in_range(len, 1, sizeof(buf));
	}
	return json_loadb(buf, len, JSON_REJECT_DUPLICATES, NULL);
}

json_t *get(struct fix *x)
{
	int fds[CTL_REPLY_FDS];
	size_t n;
	json_t *j = get_fds(x, fds, &n);

	assert_int_equal(n, 0);
	return j;
}

void expect_sum(struct fix *x, int id, int sum)
{
	json_t *j = get(x);
	int got_id = 0;
	int got_sum = 0;

	assert_non_null(j);
	assert_int_equal(json_unpack(j, "{s:i, s:{s:i!}}", "id", &got_id,
			     "result", "sum", &got_sum),
	    0);
	assert_int_equal(got_id, id);
	assert_int_equal(got_sum, sum);
	json_decref(j);
}

/* An error of (code) and (name) whose message has (part). */
void expect_error(struct fix *x, int code, const char *name, const char *part)
{
	const char *msg = NULL;
	const char *err = NULL;
	int got = 0;
	json_t *j = get(x);

	assert_non_null(j);
	assert_int_equal(
	    json_unpack(j, "{s:{s:i, s:s, s:{s:s}}}", "error", "code", &got,
		"message", &msg, "data", "errno", &err),
	    0);
	assert_int_equal(got, code);
	assert_string_equal(err, name);
	if (strstr(msg, part) == NULL)
		fail_msg("'%s' lacks '%s'", msg, part);
	json_decref(j);
}

/* A reset where the server left bytes of ours unread. */
bool hung_up(struct fix *x)
{
	ssize_t n;
	char c;

	turn(x);
	n = recv(x->fd, &c, 1, MSG_DONTWAIT);
	return n == 0 || (n < 0 && errno == ECONNRESET);
}
