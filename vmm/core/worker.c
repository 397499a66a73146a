/* SPDX-License-Identifier: MIT */
#include "vmm/core/worker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct work_queue {
	struct work *head;
	struct work **tail;
};

struct worker_pool {
	pthread_mutex_t lock; /* todo, finished, running, stopping */
	pthread_cond_t wake;
	struct work_queue todo;
	struct work_queue finished;
	struct work *running[WORKER_THREADS_MAX]; /* a thread's own place */
	unsigned nplaces;
	bool stopping;
	int efd; /* readable when finished is not empty */
	struct loop_io *io;
	unsigned nthreads;
	pthread_t threads[WORKER_THREADS_MAX];
};

static void queue_init(struct work_queue *q)
{
	q->head = NULL;
	q->tail = &q->head;
}

static void queue_put(struct work_queue *q, struct work *w)
{
	w->next = NULL;
	*q->tail = w;
	q->tail = &w->next;
}

static struct work *queue_take(struct work_queue *q)
{
	struct work *w = q->head;

	if (w == NULL)
		return NULL;
	q->head = w->next;
	if (q->head == NULL)
		q->tail = &q->head;
	return w;
}

static void *worker_main(void *arg)
{
	struct worker_pool *p = arg;
	struct work **mine;
	struct work *w;

	(void)pthread_mutex_lock(&p->lock);
	mine = &p->running[p->nplaces++];
	for (;;) {
		while ((w = queue_take(&p->todo)) == NULL && !p->stopping)
			(void)pthread_cond_wait(&p->wake, &p->lock);
		if (w == NULL)
			break;
		*mine = w;
		(void)pthread_mutex_unlock(&p->lock);
		if (!worker_cancelled(w)) {
			w->ran = true;
			w->fn(w);
		}
		(void)pthread_mutex_lock(&p->lock);
		*mine = NULL;
		queue_put(&p->finished, w);
		/* Cannot fail: the counter does not come near its limit. */
		(void)eventfd_write(p->efd, 1);
	}
	(void)pthread_mutex_unlock(&p->lock);
	return NULL;
}

static struct work *take_finished(struct worker_pool *p)
{
	struct work *w;

	(void)pthread_mutex_lock(&p->lock);
	w = p->finished.head;
	queue_init(&p->finished);
	(void)pthread_mutex_unlock(&p->lock);
	return w;
}

static void run_done(struct work *w)
{
	while (w != NULL) {
		struct work *next = w->next;

		w->done(w);
		w = next;
	}
}

static void on_finished(void *arg, int fd, uint32_t events)
{
	struct worker_pool *p = arg;
	eventfd_t n;

	(void)events;
	(void)eventfd_read(fd, &n);
	run_done(take_finished(p));
}

static void stop_threads(struct worker_pool *p)
{
	(void)pthread_mutex_lock(&p->lock);
	p->stopping = true;
	for (struct work *w = p->todo.head; w != NULL; w = w->next)
		worker_cancel(w);
	for (unsigned i = 0; i < p->nplaces; i++)
		if (p->running[i] != NULL)
			worker_cancel(p->running[i]);
	(void)pthread_cond_broadcast(&p->wake);
	(void)pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->nthreads; i++)
		(void)pthread_join(p->threads[i], NULL);
}

static void pool_release(struct worker_pool *p)
{
	loop_del(p->io);
	if (p->efd >= 0)
		(void)close(p->efd);
	(void)pthread_cond_destroy(&p->wake);
	(void)pthread_mutex_destroy(&p->lock);
	free(p);
}

/* Signals are for the loop's thread. */
static int start_threads(struct worker_pool *p, unsigned n)
{
	sigset_t all;
	sigset_t old;
	int r = 0;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	for (; r == 0 && p->nthreads < n; p->nthreads += r == 0)
		r = pthread_create(
		    &p->threads[p->nthreads], NULL, worker_main, p);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

int worker_pool_new(
    struct worker_pool **out, struct loop *l, unsigned nthreads, struct err *e)
{
	struct worker_pool *p;
	int r;

	if (nthreads == 0)
		nthreads = WORKER_THREADS_DEFAULT;
	if (nthreads > WORKER_THREADS_MAX)
		return err_set(e, -EINVAL, "%u worker threads: at most %u",
		    nthreads, WORKER_THREADS_MAX);
	p = calloc(1, sizeof(*p));
	if (p == NULL)
		return err_set(e, -ENOMEM, "worker threads: out of memory");
	(void)pthread_mutex_init(&p->lock, NULL);
	(void)pthread_cond_init(&p->wake, NULL);
	queue_init(&p->todo);
	queue_init(&p->finished);
	p->efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->efd < 0) {
		r = err_set(e, -errno, "eventfd: %s", strerror(errno));
		pool_release(p);
		return r;
	}
	r = loop_add(l, p->efd, EPOLLIN, on_finished, p, &p->io, e);
	if (r != 0) {
		pool_release(p);
		return r;
	}
	r = start_threads(p, nthreads);
	if (r != 0) {
		stop_threads(p);
		pool_release(p);
		return err_set(e, r, "worker thread: %s", strerror(-r));
	}
	*out = p;
	return 0;
}

void worker_pool_free(struct worker_pool *p)
{
	struct work *w;

	if (p == NULL)
		return;
	stop_threads(p);
	while ((w = take_finished(p)) != NULL)
		run_done(w);
	pool_release(p);
}

void worker_submit(
    struct worker_pool *p, struct work *w, work_fn *fn, work_fn *done)
{
	w->fn = fn;
	w->done = done;
	w->ran = false;
	atomic_init(&w->cancelled, false);
	(void)pthread_mutex_lock(&p->lock);
	if (p->stopping) {
		worker_cancel(w);
		queue_put(&p->finished, w);
	} else {
		queue_put(&p->todo, w);
		(void)pthread_cond_signal(&p->wake);
	}
	(void)pthread_mutex_unlock(&p->lock);
}

void worker_cancel(struct work *w)
{
	atomic_store_explicit(&w->cancelled, true, memory_order_relaxed);
}

bool worker_cancelled(const struct work *w)
{
	return atomic_load_explicit(&w->cancelled, memory_order_relaxed);
}
