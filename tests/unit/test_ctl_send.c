/* SPDX-License-Identifier: MIT */
/* wrap: sendmsg */
/*
 * What the kernel may say when an answer is sent: where that may pass the
 * answer waits, with its descriptors, and the connection lives; otherwise the
 * connection ends, and no other.
 */
#include "tests/unit/unit.h"

#include "tests/unit/failsend.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/core/fdmsg.h"
#include "vmm/ctl/ctl.h"

#define ROUNDS 200 /* of the loop, of 5 ms */

static void op_file(void *ctx, struct ctl_req *rq)
{
	int fd = memfd_create("answer", MFD_CLOEXEC);

	(void)ctx;
	assert_true(fd >= 0);
	ctl_reply(rq, json_pack("{s:i}", "fd", 0), &fd, 1);
	(void)close(fd);
}

static const struct ctl_op ops[] = {
    {.name = "file", .summary = "a file", .handler = op_file},
};

struct fix {
	struct loop *l;
	struct ctl_srv *srv;
	struct ctl_conf conf;
	int fd[2]; /* two clients' ends */
};

static int setup(void **state)
{
	static struct fix x;
	struct err e;

	fail_with = 0;
	nfailed = 0;
	x = (struct fix){
	    .conf = {.service = "firn", .version = "0", .ops = ops, .nops = 1}};
	assert_int_equal(loop_new(&x.l, &e), 0);
	assert_int_equal(ctl_srv_new(&x.srv, x.l, &x.conf, &e), 0);
	for (int i = 0; i < 2; i++) {
		int sv[2];

		assert_int_equal(
		    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
		assert_int_equal(ctl_adopt(x.srv, sv[1], NULL, &e), 0);
		x.fd[i] = sv[0];
	}
	*state = &x;
	return 0;
}

static int teardown(void **state)
{
	struct fix *x = *state;

	fail_with = 0;
	ctl_srv_free(x->srv);
	loop_free(x->l);
	(void)close(x->fd[0]);
	(void)close(x->fd[1]);
	return 0;
}

static void ask(struct fix *x, int i)
{
	static const char text[] =
	    "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"file\"}\n";

	assert_int_equal(
	    write(x->fd[i], text, sizeof(text) - 1), sizeof(text) - 1);
}

static void turns(struct fix *x, int n)
{
	for (int i = 0; i < n; i++)
		(void)loop_run_once(x->l, 5, NULL);
}

/* The answer and its file come. */
static void answered(struct fix *x, int i)
{
	char buf[256];
	int fds[FDMSG_MAX];
	size_t nfds = 0;
	ssize_t n = -EAGAIN;

	for (int k = 0; k < ROUNDS && n == -EAGAIN; k++) {
		turns(x, 1);
		n = fdmsg_recv(x->fd[i], buf, sizeof(buf), fds, FDMSG_MAX,
		    &nfds, MSG_DONTWAIT);
	}
	assert_true(n > 0);
	assert_int_equal(buf[n - 1], '\n');
	assert_int_equal(nfds, 1);
	fdmsg_close_all(fds, nfds);
}

static void no_room_passes(void **state)
{
	static const int passing[] = {ETOOMANYREFS, ENOBUFS, ENOMEM};
	struct fix *x = *state;

	for (size_t i = 0; i < sizeof(passing) / sizeof(passing[0]); i++) {
		fail_with = passing[i];
		nfailed = 0;
		ask(x, 0);
		ask(x, 1);
		turns(x, 20);
		/* It is tried again, and not all the time. */
		assert_in_range(nfailed, 2, 40);
		fail_with = 0;
		answered(x, 0);
		answered(x, 1);
	}
}

static void others_end_it(void **state)
{
	struct fix *x = *state;
	char c;

	fail_with = EPIPE;
	ask(x, 0);
	turns(x, 5);
	assert_int_equal(recv(x->fd[0], &c, 1, MSG_DONTWAIT), 0);
	fail_with = 0;
	ask(x, 1);
	answered(x, 1);
}

/* The client goes, or the service ends, while an answer waits. */
static void ends_while_it_waits(void **state)
{
	struct fix *x = *state;

	fail_with = ETOOMANYREFS;
	ask(x, 0);
	ask(x, 1);
	turns(x, 3);
	(void)shutdown(x->fd[0], SHUT_RDWR);
	turns(x, 20);
	fail_with = 0;
	answered(x, 1);
	fail_with = ETOOMANYREFS;
	ask(x, 1);
	turns(x, 3);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(no_room_passes),
	    T(others_end_it),
	    T(ends_while_it_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
