/* SPDX-License-Identifier: MIT */
/* wrap: close */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#include "tests/unit/own.h"
#include "tests/unit/unit.h"

#include "tests/unit/closes.h"
#include "vmm/core/closer.h"

struct fix {
	struct loop *l;
	struct closer *c;
	unsigned told; /* that the thread has closed what it had */
	int later;     /* to be closed when it is told */
	int fds_before;
	int pipe[2];
};

static void more(void *arg)
{
	struct fix *x = arg;

	x->told++;
	assert_int_equal(closer_waiting(x->c), 0);
	closer_close(x->c, x->later);
	x->later = -1;
}

static int setup(void **state)
{
	static struct fix x;

	x = (struct fix){.later = -1, .fds_before = count_fds()};
	assert_int_equal(loop_new(&x.l, NULL), 0);
	assert_int_equal(closer_new(&x.c, x.l, more, &x, NULL), 0);
	assert_int_equal(pipe2(x.pipe, O_CLOEXEC), 0);
	closes_count(closes_key(x.pipe[0]));
	*state = &x;
	return 0;
}

static int teardown(void **state)
{
	struct fix *x = *state;

	closes_count(0);
	closer_free(x->c);
	loop_free(x->l);
	(void)close(x->pipe[0]);
	(void)close(x->pipe[1]);
	assert_int_equal(count_fds(), x->fds_before);
	return 0;
}

static int another(const struct fix *x)
{
	int fd = fcntl(x->pipe[0], F_DUPFD_CLOEXEC, 3);

	assert_true(fd >= 0);
	return fd;
}

/* So many are closed, by another thread but for (here), and that is told. */
static void closed(struct fix *x, int here, int away)
{
	unsigned told = x->told;

	while (atomic_load(&closes_away) < away || x->told == told) {
		assert_int_equal(atomic_load(&closes_here), here);
		assert_int_equal(loop_run_once(x->l, -1, NULL), 0);
	}
	assert_int_equal(atomic_load(&closes_here), here);
	assert_int_equal(atomic_load(&closes_away), away);
}

static void another_thread_closes(void **state)
{
	struct fix *x = *state;
	int fds[3] = {another(x), -1, another(x)};

	x->later = another(x);
	closer_close_all(x->c, fds, 3);
	closer_close(x->c, -1);
	for (int i = 0; i < 3; i++)
		assert_int_equal(fds[i], -1);
	closed(x, 0, 3);
}

/* While the thread has one, so many may wait, and no more. */
static void no_more_than_the_limit(void **state)
{
	struct fix *x = *state;

	closer_close(x->c, another(x));
	for (unsigned i = 0; i < CLOSER_MAX; i++) {
		assert_int_equal(closer_waiting(x->c), i);
		closer_close(x->c, another(x));
	}
	assert_int_equal(atomic_load(&closes_here), 0);
	closer_close(x->c, another(x));
	assert_int_equal(atomic_load(&closes_here), 1);
	closed(x, 1, CLOSER_MAX + 1);
}

static void without_one(void **state)
{
	struct fix *x = *state;

	closer_close(NULL, another(x));
	closer_close(NULL, -1);
	assert_int_equal(atomic_load(&closes_here), 1);
}

/* teardown() finds what is open then. */
static void the_end_leaves_nothing(void **state)
{
	struct fix *x = *state;

	x->later = another(x);
	for (int i = 0; i < 10; i++)
		closer_close(x->c, another(x));
	closer_free(x->c);
	x->c = NULL;
	assert_int_equal(x->later, -1);
	assert_int_equal(
	    atomic_load(&closes_here) + atomic_load(&closes_away), 11);
}

static void a_socket_says_so_at_once(void **state)
{
	struct fix *x = *state;
	int sv[2];
	char c;

	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	for (unsigned i = 0; i < CLOSER_MAX / 2; i++)
		closer_close(x->c, another(x));
	closer_hang_up(x->c, sv[0]);
	assert_int_equal(recv(sv[1], &c, 1, MSG_DONTWAIT), 0);
	closer_hang_up(x->c, -1);
	(void)close(sv[1]);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(another_thread_closes),
	    T(no_more_than_the_limit),
	    T(without_one),
	    T(the_end_leaves_nothing),
	    T(a_socket_says_so_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
