/* SPDX-License-Identifier: MIT */
/* Calls through the client library: requests, answers, events, errors. */
#include "tests/unit/libfirn_fix.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tools/libfirn/firn_json.h"

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
	assert_non_null(strstr(x->e.msg, "longer than"));
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

static void test_stop(void **state)
{
	struct fix *x = *state;
	struct firn_event ev;
	int p[2];

	assert_int_equal(pipe(p), 0);
	firn_stop_fd(x->c, p[0]);
	assert_int_equal(
	    firn_call(x->c, "say", "{\"text\":\"hi\"}", NULL, 0, NULL, &x->e),
	    0);
	assert_int_equal(write(p[1], "x", 1), 1);
	assert_int_equal(
	    firn_call(x->c, "hold", NULL, NULL, 0, NULL, &x->e), -ECANCELED);
	assert_int_equal(x->e.code, 0);
	assert_int_equal(firn_wait_event(x->c, -1, &ev, &x->e), -ECANCELED);
	/* The connection is as good as before. */
	firn_stop_fd(x->c, -1);
	assert_int_equal(
	    firn_call(x->c, "release", NULL, NULL, 0, NULL, &x->e), 0);
	(void)close(p[0]);
	(void)close(p[1]);
}

/* Half a request has been sent: nothing can follow it. */
static void test_stop_sending(void **state)
{
	size_t len = 8u << 20;
	char *s = malloc(len + 1);
	struct firn_error e;
	struct firn *c;
	int p[2], sv[2];

	(void)state;
	assert_non_null(s);
	memset(s, 'y', len);
	s[len] = '\0';
	assert_int_equal(pipe(p), 0);
	assert_int_equal(write(p[1], "x", 1), 1);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	assert_int_equal(firn_connect_fd(sv[0], &c, &e), 0);
	firn_stop_fd(c, p[0]);
	assert_int_equal(firn_call_json(c, "say", json_pack("{s:s}", "text", s),
			     NULL, 0, NULL, NULL, NULL, &e),
	    -ECANCELED);
	firn_stop_fd(c, -1);
	assert_int_equal(
	    firn_call(c, "say", NULL, NULL, 0, NULL, &e), -ECANCELED);
	firn_close(c);
	(void)close(sv[1]);
	(void)close(p[0]);
	(void)close(p[1]);
	free(s);
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

#define FLOOD_LINE  (7u << 20)
#define FLOOD_LINES (FIRN_QUEUE_BYTES / FLOOD_LINE + 1)

/* Events, of which each is small enough, to a client that waits for another
 * thing. */
static void *flood(void *arg)
{
	static const char head[] = "{\"method\":\"e\",\"params\":\"";
	char *line = malloc(FLOOD_LINE);
	int fd = *(int *)arg;
	bool more = line != NULL;

	for (unsigned i = 0; more && i < FLOOD_LINES; i++) {
		memset(line, 'y', FLOOD_LINE);
		memcpy(line, head, sizeof(head) - 1);
		memcpy(line + FLOOD_LINE - 3, "\"}\n", 3);
		for (size_t at = 0; more && at < FLOOD_LINE;) {
			ssize_t n =
			    send(fd, line + at, FLOOD_LINE - at, MSG_NOSIGNAL);

			more = n > 0;
			at += more ? (size_t)n : 0;
		}
	}
	free(line);
	(void)close(fd);
	return NULL;
}

static void test_flood(void **state)
{
	struct firn_error e;
	struct firn *c = NULL;
	pthread_t t;
	int sv[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	assert_int_equal(firn_connect_fd(sv[0], &c, NULL), 0);
	assert_int_equal(pthread_create(&t, NULL, flood, &sv[1]), 0);
	assert_int_equal(firn_call(c, "x", NULL, NULL, 0, NULL, &e), -EPROTO);
	firn_close(c);
	assert_int_equal(pthread_join(t, NULL), 0);
}

/* A service that says why, and is gone before it is asked anything. */
static void test_turned_away(void **state)
{
	static const char line[] =
	    "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"message\":\"no "
	    "more\"}}\n";
	struct firn_error e;
	struct firn *c = NULL;
	int sv[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	assert_int_equal(firn_connect_fd(sv[0], &c, NULL), 0);
	assert_true(send(sv[1], line, strlen(line), 0) > 0);
	(void)close(sv[1]);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(
		    firn_call(c, "x", NULL, NULL, 0, NULL, &e), -ECONNRESET);
		assert_string_equal(
		    e.msg, "the service ended the connection: no more");
	}
	firn_close(c);
}

/* The service can not read a request that is nested too deep, nor say which it
 * was: the answer is that, and no waiting for another. */
static void test_unreadable(void **state)
{
	enum { DEEP = 2047 };
	struct fix *x = *state;
	struct firn_reply r;
	char text[2 * DEEP + 16];
	uint64_t id;

	(void)snprintf(text, sizeof(text), "{\"x\":%*s}", 2 * DEEP, "");
	memset(text + 5, '[', DEEP);
	memset(text + 5 + DEEP, ']', DEEP);
	assert_int_equal(
	    firn_call_async(x->c, "say", text, NULL, 0, &id, &x->e), 0);
	assert_int_equal(
	    firn_wait_reply(x->c, id, 60000, &r, &x->e), -ECONNRESET);
	assert_non_null(strstr(x->e.msg, "not a JSON object"));
	assert_int_equal(
	    firn_call(x->c, "fail", NULL, NULL, 0, &r, &x->e), -ECONNRESET);
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
	    T(test_stop),
	    T(test_unreadable),
	    cmocka_unit_test(test_stop_sending),
	    cmocka_unit_test(test_paths),
	    cmocka_unit_test(test_nonsense),
	    cmocka_unit_test(test_flood),
	    cmocka_unit_test(test_turned_away),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
