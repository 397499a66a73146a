/* SPDX-License-Identifier: MIT */
#include "vmm/core/loop.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "vmm/core/clock.h"

#define LOOP_BATCH 64
#define NS_PER_MS  1000000ULL

struct loop_io {
	struct loop *loop;
	int fd;
	loop_io_fn *fn;
	void *arg;
	struct loop_io *prev, *next;
};

struct loop {
	int epfd;
	bool stop;
	struct loop_io *ios;
	struct loop_timer *timers; /* sorted by due_ns */
	/* Harvested and not dispatched yet: ev[at .. nev). */
	struct epoll_event ev[LOOP_BATCH];
	int at, nev;
};

struct loop_signals {
	int fd;
	struct loop_io *io;
	loop_signal_fn *fn;
	void *arg;
};

int loop_new(struct loop **out, struct err *e)
{
	struct loop *l = calloc(1, sizeof(*l));

	if (l == NULL)
		return err_set(e, -ENOMEM, "event loop: out of memory");
	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epfd < 0) {
		int err = errno;

		free(l);
		return err_set(e, -err, "epoll_create1: %s", strerror(err));
	}
	*out = l;
	return 0;
}

void loop_free(struct loop *l)
{
	if (l == NULL)
		return;
	while (l->ios != NULL)
		loop_del(l->ios);
	while (l->timers != NULL)
		loop_timer_stop(l->timers);
	(void)close(l->epfd);
	free(l);
}

int loop_add(struct loop *l, int fd, uint32_t events, loop_io_fn *fn, void *arg,
    struct loop_io **out, struct err *e)
{
	struct epoll_event ev = {.events = events};
	struct loop_io *io = calloc(1, sizeof(*io));

	if (io == NULL)
		return err_set(e, -ENOMEM, "event loop: out of memory");
	*io = (struct loop_io){.loop = l, .fd = fd, .fn = fn, .arg = arg};
	ev.data.ptr = io;
	if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) != 0) {
		int err = errno;

		free(io);
		return err_set(
		    e, -err, "epoll: descriptor %d: %s", fd, strerror(err));
	}
	io->next = l->ios;
	if (l->ios != NULL)
		l->ios->prev = io;
	l->ios = io;
	*out = io;
	return 0;
}

void loop_mod(struct loop_io *io, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = io};

	(void)epoll_ctl(io->loop->epfd, EPOLL_CTL_MOD, io->fd, &ev);
}

void loop_del(struct loop_io *io)
{
	struct loop *l;

	if (io == NULL)
		return;
	l = io->loop;
	(void)epoll_ctl(l->epfd, EPOLL_CTL_DEL, io->fd, NULL);
	for (int i = l->at; i < l->nev; i++)
		if (l->ev[i].data.ptr == io)
			l->ev[i].data.ptr = NULL;
	if (io->prev != NULL)
		io->prev->next = io->next;
	else
		l->ios = io->next;
	if (io->next != NULL)
		io->next->prev = io->prev;
	free(io);
}

void loop_timer_init(
    struct loop_timer *t, struct loop *l, loop_timer_fn *fn, void *arg)
{
	*t = (struct loop_timer){.loop = l, .fn = fn, .arg = arg};
}

void loop_timer_start(struct loop_timer *t, uint32_t ms)
{
	struct loop_timer *after = NULL;
	struct loop_timer *p;

	loop_timer_stop(t);
	/* One more: never due in the round that starts it. */
	t->due_ns = now_ns() + ms * NS_PER_MS + 1;
	for (p = t->loop->timers; p != NULL && p->due_ns <= t->due_ns;
	     p = p->next)
		after = p;
	t->prev = after;
	t->next = p;
	if (after != NULL)
		after->next = t;
	else
		t->loop->timers = t;
	if (p != NULL)
		p->prev = t;
	t->armed = 1;
}

void loop_timer_stop(struct loop_timer *t)
{
	if (!t->armed)
		return;
	if (t->prev != NULL)
		t->prev->next = t->next;
	else
		t->loop->timers = t->next;
	if (t->next != NULL)
		t->next->prev = t->prev;
	t->prev = NULL;
	t->next = NULL;
	t->armed = 0;
}

static void run_timers(struct loop *l)
{
	uint64_t now;

	if (l->timers == NULL)
		return;
	now = now_ns();
	while (l->timers != NULL && l->timers->due_ns <= now) {
		struct loop_timer *t = l->timers;

		loop_timer_stop(t);
		t->fn(t->arg);
	}
}

/* Milliseconds to wait: (limit), -1 for ever, or less for a timer or a stop. */
static int wait_ms(const struct loop *l, int limit)
{
	uint64_t now;
	uint64_t ms;

	if (l->stop)
		return 0;
	if (l->timers == NULL)
		return limit;
	now = now_ns();
	if (l->timers->due_ns <= now)
		return 0;
	ms = (l->timers->due_ns - now + NS_PER_MS - 1) / NS_PER_MS;
	if (ms > INT_MAX)
		ms = INT_MAX;
	return limit >= 0 && (uint64_t)limit < ms ? limit : (int)ms;
}

int loop_run_once(struct loop *l, int timeout_ms, struct err *e)
{
	int n = epoll_wait(l->epfd, l->ev, LOOP_BATCH, wait_ms(l, timeout_ms));

	if (n < 0) {
		if (errno != EINTR)
			return err_set(
			    e, -errno, "epoll_wait: %s", strerror(errno));
		n = 0;
	}
	l->nev = n;
	for (l->at = 0; l->at < l->nev;) {
		struct epoll_event *ev = &l->ev[l->at++];
		struct loop_io *io = ev->data.ptr;

		if (io != NULL)
			io->fn(io->arg, io->fd, ev->events);
	}
	l->nev = 0;
	l->at = 0;
	run_timers(l);
	return 0;
}

int loop_run(struct loop *l, struct err *e)
{
	int r;

	do {
		r = loop_run_once(l, -1, e);
	} while (r == 0 && !l->stop);
	l->stop = false;
	return r;
}

void loop_stop(struct loop *l)
{
	l->stop = true;
}

static void on_signal(void *arg, int fd, uint32_t events)
{
	struct loop_signals *s = arg;
	struct signalfd_siginfo si;

	(void)events;
	/* One a round: the callback may free us. */
	if (read(fd, &si, sizeof(si)) == (ssize_t)sizeof(si))
		s->fn(s->arg, (int)si.ssi_signo);
}

int loop_signals_new(struct loop *l, const sigset_t *set, loop_signal_fn *fn,
    void *arg, struct loop_signals **out, struct err *e)
{
	struct loop_signals *s = calloc(1, sizeof(*s));
	int r;

	if (s == NULL)
		return err_set(e, -ENOMEM, "signals: out of memory");
	s->fn = fn;
	s->arg = arg;
	s->fd = signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->fd < 0) {
		r = err_set(e, -errno, "signalfd: %s", strerror(errno));
		free(s);
		return r;
	}
	r = loop_add(l, s->fd, EPOLLIN, on_signal, s, &s->io, e);
	if (r != 0) {
		(void)close(s->fd);
		free(s);
		return r;
	}
	(void)pthread_sigmask(SIG_BLOCK, set, NULL);
	*out = s;
	return 0;
}

void loop_signals_free(struct loop_signals *s)
{
	if (s == NULL)
		return;
	loop_del(s->io);
	(void)close(s->fd);
	free(s);
}
