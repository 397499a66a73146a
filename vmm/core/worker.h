/* SPDX-License-Identifier: MIT */
/*
 * worker: threads for what would block the loop.
 *
 * A struct work is the caller's storage, usually the first member of what the
 * work is about. It belongs to the pool from worker_submit() until (done) is
 * called, and (done) is called exactly once, on the loop's thread; it may free
 * or submit the work again.
 */
#ifndef VMM_CORE_WORKER_H
#define VMM_CORE_WORKER_H

#include <stdatomic.h>
#include <stdbool.h>

#include "vmm/core/err.h"
#include "vmm/core/loop.h"

#define WORKER_THREADS_DEFAULT 2u
#define WORKER_THREADS_MAX     64u

struct worker_pool;
struct work;
typedef void work_fn(struct work *w);

struct work {
	work_fn *fn;   /* on a worker thread; not called if cancelled before */
	work_fn *done; /* on the loop's thread */
	struct work *next;
	atomic_bool cancelled;
	bool ran; /* for (done): (fn) was called */
};

/*
 * (nthreads) 0 means WORKER_THREADS_DEFAULT. The threads block all signals.
 * 0, or -errno (-EINVAL, -ENOMEM, -EAGAIN, -EMFILE) with *out untouched.
 */
int worker_pool_new(
    struct worker_pool **out, struct loop *l, unsigned nthreads, struct err *e);
/*
 * Cancel what is left, wait for the running work, call the (done) of every
 * work, then free the pool. What (done) submits meanwhile is cancelled and done
 * too. Call it on the loop's thread, outside callbacks, before loop_free().
 * NULL is allowed.
 */
void worker_pool_free(struct worker_pool *p);

/* Queue (w) with its fn and done. Never fails and never waits for work. */
void worker_submit(
    struct worker_pool *p, struct work *w, work_fn *fn, work_fn *done);
/*
 * Ask (w), which is submitted and not done yet, to end early. From any thread
 * that knows it lives, as a rule the loop's.
 */
void worker_cancel(struct work *w);
/* For (fn) to ask now and then, and for (done). */
bool worker_cancelled(const struct work *w);

#endif /* VMM_CORE_WORKER_H */
