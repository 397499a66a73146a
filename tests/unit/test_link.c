/* SPDX-License-Identifier: MIT */
/* wrap: sendmsg */
/*
 * What is told to a monitor waits, in order and with its descriptors, while its
 * socket has no room or the kernel has none; else it is refused and nothing was
 * sent.
 */
#include "tests/unit/unit.h"

#include "tests/unit/failsend.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

#define ROUNDS 200 /* of the loop, of 5 ms */

struct fix {
	struct loop *loop;
	struct link link;
	struct wire_packet packet;
	int peer;
	int lost; /* what link_flush() said, where not 0 */
};

static void ready(void *arg, int fd, uint32_t events)
{
	struct fix *x = arg;
	int rc = events & EPOLLOUT ? link_flush(&x->link) : 0;

	(void)fd;
	if (rc != 0)
		x->lost = rc;
}

static int setup(void **state)
{
	static struct fix x;
	struct err e;
	int sv[2];

	fail_with = 0;
	nfailed = 0;
	x = (struct fix){.link.fd = -1};
	assert_int_equal(loop_new(&x.loop, &e), 0);
	assert_int_equal(
	    socketpair(
		AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv),
	    0);
	assert_int_equal(link_open(&x.link, x.loop, sv[0], ready, &x, &e), 0);
	x.peer = sv[1];
	*state = &x;
	return 0;
}

static int teardown(void **state)
{
	struct fix *x = *state;

	fail_with = 0;
	link_close(&x->link, NULL);
	loop_free(x->loop);
	(void)close(x->peer);
	return 0;
}

static int tell(struct fix *x, uint32_t seq)
{
	struct wire_msg m = {.type = WIRE_STATS, .seq = seq};
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int rc = link_send(&x->link, &m, NULL, &fd, 1);

	(void)close(fd);
	return rc;
}

static void turns(struct fix *x, int n)
{
	for (int i = 0; i < n; i++)
		(void)loop_run_once(x->loop, 5, NULL);
}

static void comes(struct fix *x, uint32_t seq)
{
	int rc = -EAGAIN;

	for (int i = 0; i < ROUNDS && rc == -EAGAIN; i++) {
		turns(x, 1);
		rc = wire_recv(x->peer, &x->packet);
	}
	assert_int_equal(rc, 1);
	assert_int_equal(x->packet.m.seq, seq);
	assert_int_equal(x->packet.nfds, 1);
	wire_close_fds(&x->packet);
}

static void no_room_passes(void **state)
{
	static const int passing[] = {ETOOMANYREFS, ENOBUFS, ENOMEM, EAGAIN};
	struct fix *x = *state;
	uint32_t seq = 0;

	for (size_t i = 0; i < sizeof(passing) / sizeof(passing[0]); i++) {
		fail_with = passing[i];
		nfailed = 0;
		assert_int_equal(tell(x, ++seq), 0);
		assert_int_equal(tell(x, ++seq), 0);
		if (fail_with != EAGAIN) {
			turns(x, 20);
			/* It is tried again, and not all the time. */
			assert_in_range(nfailed, 2, 10);
		}
		fail_with = 0;
		comes(x, seq - 1);
		comes(x, seq);
		assert_int_equal(x->lost, 0);
	}
}

static int tell_many(struct fix *x, uint32_t seq)
{
	struct wire_msg m = {.type = WIRE_LAYERS, .seq = seq};
	int fds[WIRE_FDS_MAX];
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int rc;

	for (uint32_t i = 0; i < WIRE_FDS_MAX; i++)
		fds[i] = fd;
	rc = link_send(&x->link, &m, NULL, fds, WIRE_FDS_MAX);
	(void)close(fd);
	return rc;
}

static uint32_t packets_there(struct fix *x)
{
	uint32_t n = 0;

	while (wire_recv(x->peer, &x->packet) == 1) {
		n++;
		wire_close_fds(&x->packet);
	}
	return n;
}

/* A peer that does not read has some descriptors under way, some wait, and no
 * more of either; once it reads it gets them all. */
static void a_deaf_one_has_so_many(void **state)
{
	struct fix *x = *state;
	uint32_t n = 0;
	uint32_t came = 0;

	while (n < 1000 && tell_many(x, n) == 0)
		n++;
	assert_true(n * WIRE_FDS_MAX > LINK_FDS_MAX);
	assert_in_range(x->link.nfds, 4000, LINK_FDS_MAX);
	assert_false(link_takes(&x->link, WIRE_FDS_MAX));
	turns(x, 20);
	came = packets_there(x);
	assert_in_range(came, 1, 1024 / WIRE_FDS_MAX);
	for (int i = 0; i < ROUNDS && came < n; i++) {
		turns(x, 1);
		came += packets_there(x);
	}
	assert_int_equal(came, n);
	assert_int_equal(x->link.nfds, 0);
	assert_true(link_takes(&x->link, LINK_FDS_MAX));
	assert_int_equal(x->lost, 0);
}

static void others_refuse(void **state)
{
	struct fix *x = *state;

	fail_with = EPIPE;
	assert_int_equal(tell(x, 1), -EPIPE);
	fail_with = 0;
	assert_int_equal(tell(x, 2), 0);
	comes(x, 2);
}

/* One that waited is lost: that is said, and others go on. */
static void others_lose(void **state)
{
	struct fix *x = *state;

	fail_with = ENOBUFS;
	assert_int_equal(tell(x, 1), 0);
	assert_int_equal(tell(x, 2), 0);
	fail_with = EPIPE;
	turns(x, 20);
	assert_int_equal(x->lost, -EPIPE);
	fail_with = 0;
	turns(x, 20);
}

static void so_many_wait(void **state)
{
	struct fix *x = *state;

	fail_with = ETOOMANYREFS;
	for (uint32_t i = 0; i < LINK_QUEUE_MAX; i++)
		assert_int_equal(tell(x, i), 0);
	assert_int_equal(tell(x, LINK_QUEUE_MAX), -EAGAIN);
	fail_with = 0;
	for (uint32_t i = 0; i < LINK_QUEUE_MAX; i++)
		comes(x, i);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(no_room_passes),
	    T(others_refuse),
	    T(others_lose),
	    T(so_many_wait),
	    T(a_deaf_one_has_so_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
