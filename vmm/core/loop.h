/* SPDX-License-Identifier: MIT */
/*
 * loop: a single-threaded, level-triggered epoll loop with timers.
 *
 * Every function is for the thread that runs the loop; other threads reach it
 * through a descriptor (see worker.h). Callbacks must not block.
 */
#ifndef VMM_CORE_LOOP_H
#define VMM_CORE_LOOP_H

#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "vmm/core/err.h"

struct loop;
struct loop_io;

/* (events) are epoll's; EPOLLERR and EPOLLHUP come unasked. */
typedef void loop_io_fn(void *arg, int fd, uint32_t events);
typedef void loop_timer_fn(void *arg);

/* 0 or -errno (-ENOMEM, -EMFILE, -ENFILE) with (e) set and *out untouched. */
int loop_new(struct loop **out, struct err *e);
/*
 * Free the loop and the registrations left in it; closes none of their
 * descriptors. Not from inside a callback. NULL is allowed.
 */
void loop_free(struct loop *l);

/*
 * Call (fn) whenever (fd) has one of (events). The descriptor stays the
 * caller's, who must call loop_del() before closing it. 0 with *out set, or
 * -errno (-EEXIST, -EPERM for a regular file, -ENOMEM, -ENOSPC) with *out
 * untouched.
 */
int loop_add(struct loop *l, int fd, uint32_t events, loop_io_fn *fn, void *arg,
    struct loop_io **out, struct err *e);
/* Replace the events waited for; 0 keeps errors and hang-ups only. Never fails
 * on a live registration. */
void loop_mod(struct loop_io *io, uint32_t events);
/*
 * End a registration: its callback does not run again, not even for an event
 * already harvested. Safe in any callback, its own included; (io) is gone when
 * this returns. NULL is allowed.
 */
void loop_del(struct loop_io *io);

/*
 * A one-shot timer in the caller's storage, which loop_timer_init() prepares
 * and which must be stopped before it goes. Starting a running timer moves it.
 * The callback may start the timer again; started there with 0 ms it runs in
 * the next round, after the descriptors had their turn.
 */
struct loop_timer {
	struct loop *loop;
	loop_timer_fn *fn;
	void *arg;
	uint64_t due_ns; /* CLOCK_MONOTONIC */
	struct loop_timer *prev, *next;
	unsigned char armed;
};

void loop_timer_init(
    struct loop_timer *t, struct loop *l, loop_timer_fn *fn, void *arg);
void loop_timer_start(struct loop_timer *t, uint32_t ms);
void loop_timer_stop(struct loop_timer *t);

/*
 * Dispatch until loop_stop() is called. 0, or -errno if epoll itself fails. A
 * loop_stop() from before the call counts: it then returns after one round
 * that does not wait.
 */
int loop_run(struct loop *l, struct err *e);
/* One round: wait at most (timeout_ms), -1 for ever. 0 or -errno. */
int loop_run_once(struct loop *l, int timeout_ms, struct err *e);
void loop_stop(struct loop *l);

/*
 * Signals as events: blocks (set) in the calling thread and calls (fn) on the
 * loop for each that arrives. Call before any other thread starts, so that
 * they inherit the mask. 0 with *out set, or -errno. loop_signals_free()
 * leaves the signals blocked.
 */
struct loop_signals;
typedef void loop_signal_fn(void *arg, int signo);
int loop_signals_new(struct loop *l, const sigset_t *set, loop_signal_fn *fn,
    void *arg, struct loop_signals **out, struct err *e);
void loop_signals_free(struct loop_signals *s);

#endif /* VMM_CORE_LOOP_H */
