/* SPDX-License-Identifier: MIT */
/* ctl: lines in pieces, too long, unread, and those that nobody asked for. */
#include "tests/unit/ctl_fix.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

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
	expect_error(x, CTL_LIMIT, "EMSGSIZE", "256 KiB");
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_pieces),
	    T(test_oversized),
	    T(test_never_reads),
	    T(test_never_reads_events),
	    T(test_notify),
	    T(test_vast_reply),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
