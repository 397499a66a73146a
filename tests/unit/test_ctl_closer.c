/* SPDX-License-Identifier: MIT */
/* wrap: close */
/* ctl: the loop's thread closes nothing that came from a client. */
#include "tests/unit/ctl_fix.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/closes.h"

static struct closer *closer;
static int file;

static void nothing(void *ctx)
{
	(void)ctx;
}

static int setup_closer(void **state)
{
	struct fix *x;

	(void)setup(state);
	x = *state;
	assert_int_equal(closer_new(&closer, x->l, nothing, NULL, NULL), 0);
	x->conf.closer = closer;
	file = memfd_create("a client's", MFD_CLOEXEC);
	assert_int_equal(write(file, "a", 1), 1);
	closes_count(closes_key(file));
	return 0;
}

static int teardown_closer(void **state)
{
	struct fix *x = *state;

	closes_count(0);
	(void)close(file);
	ctl_srv_free(x->srv);
	x->srv = NULL;
	closer_free(closer);
	x->conf.closer = NULL;
	return teardown(state);
}

/* So many are closed, by another thread but for (here). */
static void closed(struct fix *x, int here, int away)
{
	while (atomic_load(&closes_away) < away) {
		assert_int_equal(loop_run_once(x->l, 1, NULL), 0);
		assert_in_range(atomic_load(&closes_here), 0, here);
	}
	turn(x);
	assert_int_equal(atomic_load(&closes_away), away);
	assert_int_equal(atomic_load(&closes_here), here);
	closes_count(closes_key(file));
}

static void what_a_request_brought(void **state)
{
	struct fix *x = *state;
	int fds[FDMSG_MAX];

	for (int i = 0; i < FDMSG_MAX; i++)
		fds[i] = file;
	put_fds(x, ADD(1, 1), fds, 1); /* takes none */
	expect_error(x, CTL_PARAMS, "EINVAL", "and 1 came");
	closed(x, 0, 1);
	put_fds(x, "garbage\n", fds, 3);
	expect_error(x, CTL_PARSE, "EBADMSG", "");
	closed(x, 0, 3);
	put_fds(x, REQ("files"), fds, FDMSG_MAX); /* takes two */
	expect_error(x, CTL_PARAMS, "EINVAL", "and 253 came");
	closed(x, 0, FDMSG_MAX);
}

/* The first is the handler's, who answers with it. */
static void what_nobody_took(void **state)
{
	struct fix *x = *state;
	int fds[2] = {file, file};
	size_t nfds;

	put_fds(x, REQ("files"), fds, 2);
	json_decref(get_fds(x, fds, &nfds));
	assert_int_equal(nfds, 1);
	(void)__real_close(fds[0]);
	closed(x, 1, 2);
}

static void what_a_connection_had(void **state)
{
	struct fix *x = *state;
	int fds[2] = {file, file};

	for (int i = 0; i < 4; i++) /* an answer that waits */
		put(x, REQ("vast"));
	put_fds(x, REQ("files"), fds, 2);
	closed(x, 1, 1);
	put_fds(x, "half a line", fds, 2);
	closed(x, 0, 0);
	(void)__real_close(x->fd);
	x->fd = -1;
	closed(x, 0, 3);
}

/* The kernel closes what is in a socket with the socket. */
static void what_nobody_read(void **state)
{
	struct fix *x = *state;

	closes_count(CLOSES_SOCKETS);
	ctl_conn_close(x->conn);
	assert_true(fdmsg_send(x->fd, "x", 1, &file, 1, 0) == 1);
	assert_true(hung_up(x));
	closed(x, 0, 1);
}

static void who_is_turned_away(void **state)
{
	char dir[] = "/tmp/firn-closer.XXXXXX";
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct fix *x = *state;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char c;

	assert_non_null(mkdtemp(dir));
	(void)snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/s", dir);
	assert_int_equal(ctl_listen(x->srv, sun.sun_path, NULL), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_true(fdmsg_send(fd, "x", 1, &file, 1, 0) == 1);
	x->refuse = true;
	closes_count(CLOSES_SOCKETS);
	turn(x);
	closed(x, 0, 1);
	assert_int_equal(recv(fd, &c, 1, 0), 1);
	assert_int_equal(c, '{');
	(void)__real_close(fd);
	ctl_srv_free(x->srv);
	x->srv = NULL;
	assert_int_equal(rmdir(dir), 0);
}

#define TC(f) cmocka_unit_test_setup_teardown(f, setup_closer, teardown_closer)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TC(what_a_request_brought),
	    TC(what_nobody_took),
	    TC(what_a_connection_had),
	    TC(what_nobody_read),
	    TC(who_is_turned_away),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
