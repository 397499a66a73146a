/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "vmm/core/loop.h"

struct probe {
	struct loop *l;
	struct loop_io *io;
	struct loop_io **victim;
	struct loop_timer *timer;
	int calls;
	uint32_t events;
};

static void on_event(void *arg, int fd, uint32_t events)
{
	struct probe *p = arg;

	(void)fd;
	p->calls++;
	p->events = events;
	if (p->victim != NULL) {
		loop_del(*p->victim);
		*p->victim = NULL;
	}
}

static int setup(void **state)
{
	struct loop *l = NULL;

	if (loop_new(&l, NULL) != 0)
		return -1;
	*state = l;
	return 0;
}

static int teardown(void **state)
{
	loop_free(*state);
	return 0;
}

static void test_events(void **state)
{
	struct probe p = {.l = *state};
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	assert_int_equal(
	    loop_add(p.l, sv[0], EPOLLIN, on_event, &p, &p.io, NULL), 0);
	assert_int_equal(loop_run_once(p.l, 0, NULL), 0);
	assert_int_equal(p.calls, 0);
	loop_mod(p.io, EPOLLOUT);
	assert_int_equal(loop_run_once(p.l, 0, NULL), 0);
	assert_int_equal(p.calls, 1);
	assert_int_equal(p.events, EPOLLOUT);
	loop_mod(p.io, 0);
	assert_int_equal(loop_run_once(p.l, 0, NULL), 0);
	assert_int_equal(p.calls, 1);
	(void)close(sv[1]);
	assert_int_equal(loop_run_once(p.l, 0, NULL), 0);
	assert_true(p.events & EPOLLHUP);
	loop_del(p.io);
	(void)close(sv[0]);
}

/* Of two ready descriptors, the callback that comes first removes the other. */
static void test_remove_harvested(void **state)
{
	struct probe a = {.l = *state};
	struct probe b = {.l = *state};
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	assert_int_equal(
	    loop_add(a.l, sv[0], EPOLLOUT, on_event, &a, &a.io, NULL), 0);
	assert_int_equal(
	    loop_add(b.l, sv[1], EPOLLOUT, on_event, &b, &b.io, NULL), 0);
	a.victim = &b.io;
	b.victim = &a.io;
	assert_int_equal(loop_run_once(a.l, 0, NULL), 0);
	assert_int_equal(a.calls + b.calls, 1);
	(void)close(sv[0]);
	(void)close(sv[1]);
}

static void test_remove_itself(void **state)
{
	struct probe a = {.l = *state};
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	assert_int_equal(
	    loop_add(a.l, sv[0], EPOLLOUT, on_event, &a, &a.io, NULL), 0);
	a.victim = &a.io;
	assert_int_equal(loop_run_once(a.l, 0, NULL), 0);
	assert_int_equal(loop_run_once(a.l, 0, NULL), 0);
	assert_int_equal(a.calls, 1);
	(void)close(sv[0]);
	(void)close(sv[1]);
}

static void test_add_refused(void **state)
{
	struct probe p = {.l = *state};
	struct err e = {0};
	FILE *f = tmpfile();

	assert_non_null(f);
	assert_int_equal(
	    loop_add(p.l, fileno(f), EPOLLIN, on_event, &p, &p.io, &e), -EPERM);
	assert_int_equal(e.code, -EPERM);
	assert_null(p.io);
	assert_int_equal(
	    loop_add(p.l, -1, EPOLLIN, on_event, &p, &p.io, &e), -EBADF);
	(void)fclose(f);
}

static void on_timer(void *arg)
{
	struct probe *p = arg;

	p->calls++;
	if (p->timer != NULL)
		loop_timer_start(p->timer, 0);
}

static void test_timers(void **state)
{
	struct probe p = {.l = *state};
	struct probe q = {.l = *state};
	struct loop_timer a;
	struct loop_timer b;

	loop_timer_init(&a, *state, on_timer, &p);
	loop_timer_init(&b, *state, on_timer, &q);
	loop_timer_start(&a, 60000);
	loop_timer_start(&b, 5);
	assert_int_equal(loop_run_once(p.l, 2000, NULL), 0);
	if (q.calls == 0)
		assert_int_equal(loop_run_once(p.l, 2000, NULL), 0);
	assert_int_equal(p.calls, 0);
	assert_int_equal(q.calls, 1);
	loop_timer_start(&a, 0);
	loop_timer_stop(&a);
	assert_int_equal(loop_run_once(p.l, 0, NULL), 0);
	assert_int_equal(p.calls, 0);
	/* Started by its own callback: once a round, not for ever. */
	p.timer = &a;
	loop_timer_start(&a, 0);
	assert_int_equal(loop_run_once(p.l, 0, NULL), 0);
	assert_int_equal(p.calls, 1);
	assert_int_equal(loop_run_once(p.l, 0, NULL), 0);
	assert_int_equal(p.calls, 2);
	loop_timer_stop(&a);
}

static void stop(void *arg)
{
	loop_stop(arg);
}

static void test_run_stop(void **state)
{
	struct loop_timer t;

	loop_timer_init(&t, *state, stop, *state);
	loop_timer_start(&t, 1);
	assert_int_equal(loop_run(*state, NULL), 0);
	loop_stop(*state);
	assert_int_equal(loop_run(*state, NULL), 0);
}

static void on_signal(void *arg, int signo)
{
	*(int *)arg = signo;
}

static void test_signals(void **state)
{
	struct loop_signals *s = NULL;
	int got = 0;
	sigset_t set;
	sigset_t old;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGUSR1);
	(void)pthread_sigmask(SIG_BLOCK, NULL, &old);
	assert_int_equal(
	    loop_signals_new(*state, &set, on_signal, &got, &s, NULL), 0);
	assert_int_equal(kill(getpid(), SIGUSR1), 0);
	assert_int_equal(loop_run_once(*state, 2000, NULL), 0);
	assert_int_equal(got, SIGUSR1);
	loop_signals_free(s);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_events, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		test_remove_harvested, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		test_remove_itself, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_add_refused, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_timers, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_run_stop, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_signals, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
