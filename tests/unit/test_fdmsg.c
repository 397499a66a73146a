/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/own.h"
#include "tests/unit/unit.h"
#include "vmm/core/fdmsg.h"

static void pair(int type, int sv[2])
{
	assert_int_equal(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, sv), 0);
}

static void unpair(int sv[2])
{
	(void)close(sv[0]);
	(void)close(sv[1]);
}

static void test_passes(void **state)
{
	int before = count_fds();
	int got[FDMSG_MAX];
	size_t ngot;
	char buf[16];
	int sv[2];
	int pp[2];

	(void)state;
	pair(SOCK_STREAM, sv);
	assert_int_equal(pipe(pp), 0);
	assert_int_equal(fdmsg_send(sv[0], "abc", 3, pp, 2, 0), 3);
	assert_int_equal(
	    fdmsg_recv(sv[1], buf, sizeof(buf), got, FDMSG_MAX, &ngot, 0), 3);
	assert_memory_equal(buf, "abc", 3);
	assert_int_equal(ngot, 2);
	assert_true(fcntl(got[0], F_GETFD) & FD_CLOEXEC);
	assert_int_equal(write(got[1], "x", 1), 1);
	assert_int_equal(read(pp[0], buf, 1), 1);
	fdmsg_close_all(got, ngot);
	assert_int_equal(got[0], -1);
	fdmsg_close_all(got, ngot);
	unpair(pp);
	unpair(sv);
	assert_int_equal(count_fds(), before);
}

static void test_too_many(void **state)
{
	int fds[FDMSG_MAX + 1];
	int got[1];
	size_t ngot = 7;
	char buf[4];
	int before;
	int sv[2];

	(void)state;
	pair(SOCK_STREAM, sv);
	before = count_fds();
	for (int i = 0; i <= FDMSG_MAX; i++)
		fds[i] = sv[0];
	assert_int_equal(
	    fdmsg_send(sv[0], "x", 1, fds, FDMSG_MAX + 1, 0), -EINVAL);
	assert_int_equal(fdmsg_send(sv[0], "", 0, fds, 1, 0), -EINVAL);
	assert_int_equal(fdmsg_send(sv[0], "x", 1, fds, FDMSG_MAX, 0), 1);
	assert_int_equal(fdmsg_recv(sv[1], buf, 4, got, 1, &ngot, 0), -E2BIG);
	assert_int_equal(ngot, 0);
	assert_int_equal(fdmsg_send(sv[0], "x", 1, fds, 1, 0), 1);
	assert_int_equal(fdmsg_recv(sv[1], buf, 4, NULL, 0, NULL, 0), -E2BIG);
	assert_int_equal(count_fds(), before);
	unpair(sv);
}

/* The receiver's table is full: nothing half-installed stays. */
static void test_table_full(void **state)
{
	struct rlimit old;
	struct rlimit low;
	int got[FDMSG_MAX];
	int fds[32];
	size_t ngot;
	char buf[4];
	int before;
	int sv[2];

	(void)state;
	pair(SOCK_STREAM, sv);
	before = count_fds();
	for (int i = 0; i < 32; i++)
		fds[i] = sv[0];
	assert_int_equal(fdmsg_send(sv[0], "x", 1, fds, 32, 0), 1);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	low = old;
	low.rlim_cur = (rlim_t)sv[1] + 9;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	assert_int_equal(
	    fdmsg_recv(sv[1], buf, 4, got, FDMSG_MAX, &ngot, 0), -EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(ngot, 0);
	assert_int_equal(count_fds(), before);
	unpair(sv);
}

static void test_long_packet(void **state)
{
	int got[4];
	size_t ngot;
	char buf[4];
	int before;
	int sv[2];

	(void)state;
	pair(SOCK_SEQPACKET, sv);
	before = count_fds();
	assert_int_equal(fdmsg_send(sv[0], "longer", 6, sv, 1, 0), 6);
	assert_int_equal(
	    fdmsg_recv(sv[1], buf, 4, got, 4, &ngot, 0), -EMSGSIZE);
	assert_int_equal(count_fds(), before);
	unpair(sv);
}

static void test_ends(void **state)
{
	size_t ngot;
	char buf[4];
	int got[4];
	int sv[2];

	(void)state;
	pair(SOCK_STREAM, sv);
	assert_int_equal(
	    fdmsg_recv(sv[1], buf, 4, got, 4, &ngot, MSG_DONTWAIT), -EAGAIN);
	(void)close(sv[0]);
	assert_int_equal(fdmsg_recv(sv[1], buf, 4, got, 4, &ngot, 0), 0);
	assert_int_equal(fdmsg_send(sv[1], "x", 1, NULL, 0, 0), -EPIPE);
	(void)close(sv[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_passes),
	    cmocka_unit_test(test_too_many),
	    cmocka_unit_test(test_table_full),
	    cmocka_unit_test(test_long_packet),
	    cmocka_unit_test(test_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
