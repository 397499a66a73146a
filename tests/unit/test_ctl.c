/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/own.h"
#include "tests/unit/unit.h"
#include "vmm/core/fdmsg.h"
#include "vmm/ctl/ctl.h"

#define BUF_LEN  (1u << 20)
#define HELD_MAX 80

struct fix {
	struct loop *l;
	struct ctl_srv *srv;
	struct ctl_conf conf;
	struct ctl_conn *conn;
	int fd; /* the client's end */
	struct ctl_req *held[HELD_MAX];
	unsigned nheld, opened, closed, cancelled, ran;
	bool refuse;
	int fds_before;
};

/* --- the service -----------------------------------------------------------
 */

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
	if (fd >= 0)
		assert_int_equal(pread(fd, &c, 1, 0), 1);
	/* The second, if any, is closed with the request. */
	ctl_reply(rq,
	    json_pack(
		"{s:s%, s:i}", "byte", &c, (size_t)1, "n", (int)ctl_nfds(rq)),
	    &fd, fd >= 0 ? 1 : 0);
	if (fd >= 0)
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
    {.name = "a", .type = CTL_INT, .doc = "the first"},
    {.name = "b", .type = CTL_INT, .optional = true},
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
    {.name = "sum", .type = CTL_INT},
    {0},
};

static const struct ctl_param errno_params[] = {
    {.name = "errno", .type = CTL_INT},
    {0},
};

static const char *const two_files[] = {"first", "second", NULL};

static const struct ctl_op ops[] = {
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
    {.name = "maybe",
	.summary = "files or none",
	.fds = two_files,
	.nfds = 2,
	.fds_optional = true,
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

/* --- the client ------------------------------------------------------------
 */

static int setup(void **state)
{
	struct fix *x = calloc(1, sizeof(*x));
	int before = count_fds();
	int sv[2];

	assert_non_null(x);
	x->fds_before = before;
	x->conf = (struct ctl_conf){.service = "test",
	    .version = "1",
	    .ops = ops,
	    .nops = sizeof(ops) / sizeof(ops[0]),
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

static int teardown(void **state)
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

static void turn(struct fix *x)
{
	for (int i = 0; i < 8; i++)
		assert_int_equal(loop_run_once(x->l, 0, NULL), 0);
}

static void put_fds(struct fix *x, const char *s, const int *fds, size_t n)
{
	assert_int_equal(
	    fdmsg_send(x->fd, s, strlen(s), fds, n, 0), (ssize_t)strlen(s));
	turn(x);
}

static void put(struct fix *x, const char *s)
{
	put_fds(x, s, NULL, 0);
}

/* The next line and its descriptors; NULL when there is none. */
static json_t *get_fds(struct fix *x, int *fds, size_t *nfds)
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

static json_t *get(struct fix *x)
{
	int fds[CTL_REPLY_FDS];
	size_t n;
	json_t *j = get_fds(x, fds, &n);

	assert_int_equal(n, 0);
	return j;
}

static void expect_sum(struct fix *x, int id, int sum)
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
static void expect_error(
    struct fix *x, int code, const char *name, const char *part)
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
static bool hung_up(struct fix *x)
{
	ssize_t n;
	char c;

	turn(x);
	n = recv(x->fd, &c, 1, MSG_DONTWAIT);
	return n == 0 || (n < 0 && errno == ECONNRESET);
}

#define ADD(id, a)                                                             \
	"{\"jsonrpc\":\"2.0\",\"id\":" #id                                     \
	",\"method\":\"add\",\"params\":{\"a\":" #a "}}\n"
#define REQ(m) "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"" m "\"}\n"
#define REQP(m, p)                                                             \
	"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"" m "\",\"params\":" p "}" \
	"\n"

/* --- tests -----------------------------------------------------------------
 */

static void test_call(void **state)
{
	struct fix *x = *state;
	json_t *j;

	put(x, ADD(1, 2) ADD(2, 3));
	expect_sum(x, 1, 102);
	expect_sum(x, 2, 103);
	put(x,
	    "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"add\",\"params\":"
	    "{\"a\":1,\"b\":1}}\n");
	j = get(x);
	assert_string_equal(json_string_value(json_object_get(j, "id")), "x");
	json_decref(j);
}

static void test_malformed(void **state)
{
	struct fix *x = *state;

	put(x, "nonsense\n");
	expect_error(x, CTL_PARSE, "EBADMSG", "not a JSON object");
	put(x, "\n");
	expect_error(x, CTL_PARSE, "EBADMSG", "not a JSON object");
	put(x, "{\"a\":1,\"a\":2}\n");
	expect_error(x, CTL_PARSE, "EBADMSG", "duplicate");
	put(x, REQP("add", "{\"a\":1,\"word\":\"x\\u0000y\"}"));
	expect_error(x, CTL_PARSE, "EBADMSG", "NUL");
	put(x, "[" ADD(1, 2));
	expect_error(x, CTL_PARSE, "EBADMSG", "");
	put(x, "[]\n");
	expect_error(x, CTL_REQUEST, "EINVAL", "batch");
	put(x, "{}\n");
	expect_error(x, CTL_REQUEST, "EINVAL", "no id");
	put(x, "{\"jsonrpc\":\"2.0\",\"method\":\"add\"}\n");
	expect_error(x, CTL_REQUEST, "EINVAL", "no id");
	put(x, "{\"jsonrpc\":\"2.0\",\"id\":1.5,\"method\":\"add\"}\n");
	expect_error(x, CTL_REQUEST, "EINVAL", "the id must");
	put(x, "{\"id\":1,\"method\":\"add\"}\n");
	expect_error(x, CTL_REQUEST, "EINVAL", "2.0");
	put(x, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":7}\n");
	expect_error(x, CTL_REQUEST, "EINVAL", "method");
	put(x, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"add\",\"x\":1}\n");
	expect_error(x, CTL_REQUEST, "EINVAL", "no members but");
	put(x, ADD(5, 1));
	expect_sum(x, 5, 101);
}

static void test_deep(void **state)
{
	struct fix *x = *state;
	char buf[5001];

	memset(buf, '[', 5000);
	buf[5000] = '\0';
	put(x, "{\"a\":");
	put(x, buf);
	put(x, "\n");
	expect_error(x, CTL_PARSE, "EBADMSG", "depth");
}

static void test_params(void **state)
{
	static const struct {
		const char *params;
		const char *why;
	} bad[] = {
	    {"{}", "'a' is missing"},
	    {"{\"a\":\"1\"}", "'a' must be an integer"},
	    {"{\"a\":1.0}", "'a' must be an integer"},
	    {"{\"a\":1,\"zz\":1}", "'zz' is unknown"},
	    {"{\"a\":1,\"size\":-1}", "'size' must be"},
	    {"{\"a\":1,\"yes\":1}", "'yes' must be true or false"},
	    {"{\"a\":1,\"word\":null}", "'word' must be a string"},
	    {"{\"a\":1,\"words\":[\"x\",1]}", "'words' must be"},
	    {"{\"a\":1,\"list\":[1]}", "'list' must be"},
	    {"{\"a\":1,\"list\":[{}]}", "'list[0].name' is missing"},
	    {"{\"a\":1,\"list\":[{\"name\":\"n\",\"q\":1}]}",
		"'list[0].q' is unknown"},
	    {"{\"a\":1,\"list\":[{\"name\":\"n\",\"size\":-1}]}",
		"'list[0].size' must be"},
	    {"{\"a\":1,\"extents\":[[1]]}", "'extents' must be"},
	    {"{\"a\":1,\"extents\":[[1,-1]]}", "'extents' must be"},
	    {"[1]", "\"params\" must be an object"},
	};
	struct fix *x = *state;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char line[256];

		(void)snprintf(line, sizeof(line),
		    "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"add\","
		    "\"params\":%s}\n",
		    bad[i].params);
		put(x, line);
		expect_error(x, CTL_PARAMS, "EINVAL", bad[i].why);
	}
	assert_int_equal(x->ran, 0);
	put(x, REQ("none"));
	expect_error(x, CTL_METHOD, "ENOSYS", "'none'");
	put(x, REQ("range"));
	expect_error(x, CTL_PARAMS, "EINVAL", "'a' must be below 7");
	put(x, REQP("add",
		   "{\"a\":1,\"b\":2,\"size\":0,\"yes\":true,\"word\":\"\","
		   "\"words\":[],\"list\":[{\"name\":\"\"}],\"extents\":[[0,1]]"
		   "}"));
	expect_sum(x, 1, 3);
}

static void test_codes(void **state)
{
	static const struct {
		int err, code;
		const char *name;
	} map[] = {
	    {EBUSY, CTL_REFUSED, "EBUSY"},
	    {EPERM, CTL_REFUSED, "EPERM"},
	    {EACCES, CTL_REFUSED, "EACCES"},
	    {EINVAL, CTL_REFUSED, "EINVAL"},
	    {ENOENT, CTL_UNKNOWN, "ENOENT"},
	    {EEXIST, CTL_EXISTS, "EEXIST"},
	    {ENOSPC, CTL_LIMIT, "ENOSPC"},
	    {E2BIG, CTL_LIMIT, "E2BIG"},
	    {EMSGSIZE, CTL_LIMIT, "EMSGSIZE"},
	    {ENOMEM, CTL_EXHAUSTED, "ENOMEM"},
	    {ENFILE, CTL_EXHAUSTED, "ENFILE"},
	    {EMFILE, CTL_EXHAUSTED, "EMFILE"},
	    {ESRCH, CTL_GONE, "ESRCH"},
	    {EIO, CTL_FAILED, "EIO"},
	};
	struct fix *x = *state;

	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++) {
		char line[128];

		(void)snprintf(line, sizeof(line),
		    REQP("fail", "{\"errno\":%d}"), map[i].err);
		put(x, line);
		/* The message was not UTF-8; it is told nevertheless. */
		expect_error(x, map[i].code, map[i].name, "no ?");
	}
	put(x, REQ("oom"));
	expect_error(x, CTL_EXHAUSTED, "ENOMEM", "oom");
}

static void test_pieces(void **state)
{
	static const char line[] = ADD(9, 4);
	struct fix *x = *state;
	char half[] = "{\"jsonrpc\":";

	for (size_t i = 0; i < sizeof(line) - 1; i++) {
		assert_int_equal(send(x->fd, &line[i], 1, 0), 1);
		assert_int_equal(loop_run_once(x->l, 0, NULL), 0);
	}
	expect_sum(x, 9, 104);
	/* Half a request, then the end. */
	put(x, half);
	(void)close(x->fd);
	x->fd = -1;
	turn(x);
	assert_int_equal(x->closed, 1);
	assert_int_equal(x->ran, 1);
}

/* (len) bytes of a line, in pieces that the socket takes. */
static void put_long(struct fix *x, const char *start, size_t len, char fill)
{
	size_t at = strlen(start);
	char buf[4096];

	put(x, start);
	memset(buf, fill, sizeof(buf));
	while (at < len) {
		size_t n = len - at < sizeof(buf) ? len - at : sizeof(buf);
		ssize_t k = send(x->fd, buf, n, MSG_NOSIGNAL | MSG_DONTWAIT);

		turn(x);
		if (k < 0 && errno == EAGAIN)
			continue;
		if (k < 0)
			break;
		at += (size_t)k;
	}
}

static void test_oversized(void **state)
{
	struct fix *x = *state;

	/* Just as long as allowed: refused for what it is only. */
	put_long(x, "", CTL_LINE_MAX, ' ');
	put(x, "\n");
	expect_error(x, CTL_PARSE, "EBADMSG", "");
	put_long(x, "{\"jsonrpc\":\"", CTL_LINE_MAX + 8192, 'x');
	expect_error(x, CTL_LIMIT, "EMSGSIZE", "1 MiB");
	assert_true(hung_up(x));
	assert_int_equal(x->closed, 1);
}

static void test_never_reads(void **state)
{
	struct fix *x = *state;
	int i;

	for (i = 0; i < 64 && x->closed == 0; i++) {
		(void)send(x->fd, REQ("vast"), strlen(REQ("vast")),
		    MSG_NOSIGNAL | MSG_DONTWAIT);
		turn(x);
	}
	assert_int_equal(x->closed, 1);
	assert_in_range(i, 8, 10);
}

static void test_never_reads_events(void **state)
{
	struct fix *x = *state;
	int i;

	for (i = 0; i < 200000 && x->conn != NULL; i++) {
		ctl_notify(x->conn, "it.happened",
		    json_pack("{s:s}", "text",
			"some hundred bytes of which nobody reads a single "
			"one, so that they pile up"));
		if (i % 1024 == 0)
			turn(x);
	}
	turn(x);
	assert_int_equal(x->closed, 1);
}

static void test_notify(void **state)
{
	const char *method = NULL;
	struct fix *x = *state;
	int sum = 0;
	json_t *j;

	ctl_notify(x->conn, "it.happened", json_pack("{s:i}", "sum", 4));
	turn(x);
	j = get(x);
	assert_int_equal(json_unpack(j, "{s:s, s:s, s:{s:i}!}", "jsonrpc",
			     &method, "method", &method, "params", "sum", &sum),
	    0);
	assert_string_equal(method, "it.happened");
	assert_int_equal(sum, 4);
	json_decref(j);
}

static void test_vast_reply(void **state)
{
	struct fix *x = *state;
	json_t *j;

	put(x, REQ("vast"));
	j = get(x);
	assert_int_equal(json_string_length(json_object_get(
			     json_object_get(j, "result"), "s")),
	    BUF_LEN);
	json_decref(j);
}

static int file_with(char c)
{
	FILE *f = tmpfile();
	int fd;

	assert_non_null(f);
	fd = dup(fileno(f));
	(void)fclose(f);
	assert_int_equal(write(fd, &c, 1), 1);
	return fd;
}

static void expect_file(struct fix *x, char want)
{
	int fds[CTL_REPLY_FDS];
	size_t nfds;
	json_t *j = get_fds(x, fds, &nfds);
	const char *s = NULL;
	char c = 0;

	assert_non_null(j);
	assert_int_equal(json_unpack(j, "{s:{s:s}}", "result", "byte", &s), 0);
	assert_int_equal(s[0], want);
	assert_int_equal(nfds, 1);
	assert_int_equal(pread(fds[0], &c, 1, 0), 1);
	assert_int_equal(c, want);
	(void)close(fds[0]);
	json_decref(j);
}

static void test_descriptors(void **state)
{
	struct fix *x = *state;
	int a[3] = {file_with('a'), file_with('b'), file_with('c')};
	int b[2] = {file_with('B'), file_with('A')};
	json_t *j;

	put_fds(x, REQ("files"), a, 2);
	expect_file(x, 'a');
	put(x, REQ("files"));
	expect_error(x, CTL_PARAMS, "EINVAL", "takes 2 descriptors, and 0");
	put_fds(x, REQ("files"), a, 1);
	expect_error(x, CTL_PARAMS, "EINVAL", "and 1 came");
	put_fds(x, REQ("files"), a, 3);
	expect_error(x, CTL_PARAMS, "EINVAL", "and 3 came");
	put_fds(x, ADD(1, 1), a, 1);
	expect_error(x, CTL_PARAMS, "EINVAL", "takes 0 descriptors");
	put_fds(x, "garbage\n", a, 2);
	expect_error(x, CTL_PARSE, "EBADMSG", "");
	put(x, REQ("maybe"));
	j = get(x);
	assert_non_null(json_object_get(j, "result"));
	json_decref(j);
	put_fds(x, REQ("maybe"), a, 1);
	expect_error(x, CTL_PARAMS, "EINVAL", "or none");

	/* All in the socket before the server looks, glued as it likes. */
	assert_true(
	    fdmsg_send(x->fd, ADD(1, 1), strlen(ADD(1, 1)), NULL, 0, 0) > 0);
	assert_true(fdmsg_send(x->fd, REQ("files") ADD(2, 2),
			strlen(REQ("files") ADD(2, 2)), a, 2, 0) > 0);
	assert_true(
	    fdmsg_send(x->fd, REQ("files"), strlen(REQ("files")), b, 2, 0) > 0);
	turn(x);
	expect_sum(x, 1, 101);
	expect_file(x, 'a');
	expect_sum(x, 2, 102);
	expect_file(x, 'B');
	fdmsg_close_all(a, 3);
	fdmsg_close_all(b, 2);
}

static void test_many_descriptors(void **state)
{
	struct fix *x = *state;
	int fds[FDMSG_MAX];

	for (int i = 0; i < FDMSG_MAX; i++)
		fds[i] = x->fd;
	put_fds(x, REQ("files"), fds, FDMSG_MAX);
	expect_error(x, CTL_PARAMS, "EINVAL", "and 253 came");
	/* With a line that never ends, none is kept beyond the limit. */
	for (int i = 0; i < 10; i++)
		put_fds(x, "x", fds, 60);
	assert_in_range(count_fds() - x->fds_before, 0, CTL_FDS_MAX + 8);
	put(x, "\n");
	expect_error(x, CTL_PARSE, "EBADMSG", "");
	put(x, ADD(1, 1));
	expect_sum(x, 1, 101);
}

static void test_async(void **state)
{
	struct fix *x = *state;
	json_t *j;

	put(x, REQ("hold") ADD(2, 2));
	expect_sum(x, 2, 102);
	assert_ptr_equal(ctl_req_conn(x->held[0]), x->conn);
	assert_ptr_equal(ctl_req_arg(x->held[0]), x);
	ctl_reply(x->held[--x->nheld], NULL, NULL, 0);
	j = get(x);
	assert_non_null(json_object_get(j, "result"));
	json_decref(j);
	assert_int_equal(x->cancelled, 0);
}

static void test_async_after_disconnect(void **state)
{
	struct fix *x = *state;
	struct err e;

	put(x, REQ("hold") REQ("hold") REQ("hold"));
	assert_int_equal(x->nheld, 3);
	(void)close(x->fd);
	x->fd = -1;
	turn(x);
	assert_int_equal(x->closed, 1);
	assert_int_equal(x->cancelled, 3);
	assert_true(ctl_req_cancelled(x->held[2]));
	ctl_reply(x->held[--x->nheld], json_object(), NULL, 0);
	(void)err_set(&e, -EIO, "late");
	ctl_fail(x->held[--x->nheld], &e);
	/* The third outlives the server: see teardown. */
}

static void test_too_many_requests(void **state)
{
	struct fix *x = *state;

	for (unsigned i = 0; i < CTL_REQS_MAX; i++)
		put(x, REQ("hold"));
	put(x, REQ("hold"));
	expect_error(x, CTL_LIMIT, "ENOSPC", "64 requests");
	assert_int_equal(x->nheld, CTL_REQS_MAX);
}

static void test_close_from_handler_side(void **state)
{
	struct fix *x = *state;

	put(x, REQ("hold"));
	ctl_conn_close(x->conn);
	ctl_conn_close(x->conn);
	ctl_notify(x->conn, "it.happened", NULL);
	assert_int_equal(x->closed, 0);
	assert_true(ctl_req_cancelled(x->held[0]));
	turn(x);
	assert_int_equal(x->closed, 1);
}

static void test_connections(void **state)
{
	struct fix *x = *state;
	int ends[CTL_CONNS_MAX];
	struct err e;
	unsigned n;
	int sv[2];

	for (n = 0; n < CTL_CONNS_MAX - 1; n++) {
		assert_int_equal(
		    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
		assert_int_equal(ctl_adopt(x->srv, sv[1], NULL, &e), 0);
		ends[n] = sv[0];
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	assert_int_equal(ctl_adopt(x->srv, sv[1], NULL, &e), -EUSERS);
	fdmsg_close_all(ends, n);
	turn(x);
	turn(x);
	turn(x);
	x->refuse = true;
	assert_int_equal(ctl_adopt(x->srv, sv[1], NULL, &e), -EACCES);
	assert_int_equal(ctl_adopt(x->srv, 0, NULL, &e), -EINVAL);
	(void)close(sv[0]);
	(void)close(sv[1]);
}

static void test_describe(void **state)
{
	struct fix *x = *state;
	json_t *want = ctl_describe(&x->conf);
	json_t *methods = json_object_get(want, "methods");
	json_t *j;

	put(x, REQ("service.describe"));
	j = get(x);
	assert_true(json_equal(json_object_get(j, "result"), want));
	json_decref(j);
	assert_int_equal(json_array_size(methods), x->conf.nops);
	for (size_t i = 0; i < x->conf.nops; i++) {
		json_t *m = json_array_get(methods, i);
		size_t nparams = 0;

		while (ops[i].params && ops[i].params[nparams].name)
			nparams++;
		assert_string_equal(
		    json_string_value(json_object_get(m, "name")), ops[i].name);
		assert_int_equal(
		    json_array_size(json_object_get(m, "params")), nparams);
		assert_int_equal(
		    json_array_size(json_object_get(m, "descriptors")),
		    ops[i].nfds);
	}
	assert_int_equal(json_array_size(json_object_get(want, "errors")), 11);
	assert_int_equal(json_array_size(json_object_get(want, "events")), 1);
	json_decref(want);
}

/* --- listening -------------------------------------------------------------
 */

static int dial(const char *path)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	(void)snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0)
		return fd;
	(void)close(fd);
	return -errno;
}

static void test_listen(void **state)
{
	char dir[] = "/tmp/firn-ctl.XXXXXX";
	struct ctl_srv *other = NULL;
	struct fix *x = *state;
	char path[64];
	struct stat st;
	struct err e;
	FILE *f;

	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/s", dir);
	assert_int_equal(ctl_listen(x->srv, path, NULL), 0);
	assert_int_equal(ctl_listen(x->srv, path, &e), -EBUSY);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	(void)close(x->fd);
	x->fd = dial(path);
	assert_true(x->fd >= 0);
	put(x, ADD(1, 1));
	expect_sum(x, 1, 101);

	/* Another daemon is refused, and takes over when we are dead. */
	assert_int_equal(ctl_srv_new(&other, x->l, &x->conf, NULL), 0);
	assert_int_equal(ctl_listen(other, path, &e), -EADDRINUSE);
	ctl_srv_free(x->srv);
	assert_int_equal(lstat(path, &st), -1);
	x->srv = other;
	assert_int_equal(ctl_listen(other, path, NULL), 0);
	ctl_srv_free(other);
	x->srv = NULL;

	assert_int_equal(ctl_srv_new(&x->srv, x->l, &x->conf, NULL), 0);
	f = fopen(path, "w");
	assert_non_null(f);
	(void)fclose(f);
	assert_int_equal(ctl_listen(x->srv, path, &e), -EEXIST);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(ctl_listen(x->srv, "/nonexistent/s", &e), -ENOENT);
	assert_int_equal(rmdir(dir), 0);
}

static void test_stale(void **state)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	char dir[] = "/tmp/firn-ctl.XXXXXX";
	struct fix *x = *state;
	char longer[200];
	struct err e;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	assert_non_null(mkdtemp(dir));
	(void)snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/s", dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	(void)close(fd);
	assert_int_equal(ctl_listen(x->srv, sun.sun_path, NULL), 0);
	fd = dial(sun.sun_path);
	assert_true(fd >= 0);
	(void)close(fd);
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	ctl_srv_free(x->srv);
	x->srv = NULL;
	assert_int_equal(ctl_srv_new(&x->srv, x->l, &x->conf, NULL), 0);
	assert_int_equal(ctl_listen(x->srv, longer, &e), -ENAMETOOLONG);
	assert_int_equal(rmdir(dir), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_call),
	    T(test_malformed),
	    T(test_deep),
	    T(test_params),
	    T(test_codes),
	    T(test_pieces),
	    T(test_oversized),
	    T(test_never_reads),
	    T(test_never_reads_events),
	    T(test_notify),
	    T(test_vast_reply),
	    T(test_descriptors),
	    T(test_many_descriptors),
	    T(test_async),
	    T(test_async_after_disconnect),
	    T(test_too_many_requests),
	    T(test_close_from_handler_side),
	    T(test_connections),
	    T(test_describe),
	    T(test_listen),
	    T(test_stale),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
