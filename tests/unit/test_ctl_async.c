/* SPDX-License-Identifier: MIT */
/* ctl: requests that wait, connections that end meanwhile, and how many. */
#include "tests/unit/ctl_fix.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

static void test_async(void **state)
{
	struct fix *x = *state;
	json_t *j;

	put(x, REQ("hold") ADD(2, 2));
	expect_sum(x, 2, 102);
	assert_ptr_equal(ctl_req_conn(x->held[0]), x->conn);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_async),
	    T(test_async_after_disconnect),
	    T(test_too_many_requests),
	    T(test_close_from_handler_side),
	    T(test_connections),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
