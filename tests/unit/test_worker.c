/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "tests/unit/unit.h"
#include "vmm/core/worker.h"

#define MANY 1000

struct job {
	struct work w;
	pthread_t loop_thread;
	struct worker_pool *pool;
	int input, output;
	int *done;
	int again; /* submissions that (done) adds */
};

static struct job *job_of(struct work *w)
{
	return (struct job *)w;
}

static void square(struct work *w)
{
	struct job *j = job_of(w);

	j->output = j->input * j->input;
	assert(!pthread_equal(pthread_self(), j->loop_thread));
}

static void finished(struct work *w)
{
	struct job *j = job_of(w);

	assert_true(pthread_equal(pthread_self(), j->loop_thread));
	++*j->done;
	if (j->again-- > 0)
		worker_submit(j->pool, w, square, finished);
}

/* Until somebody cancels it. */
static void stubborn(struct work *w)
{
	while (!worker_cancelled(w))
		(void)sched_yield();
}

static struct loop *new_loop(void)
{
	struct loop *l = NULL;

	assert_int_equal(loop_new(&l, NULL), 0);
	return l;
}

static struct worker_pool *new_pool(struct loop *l, unsigned n)
{
	struct worker_pool *p = NULL;

	assert_int_equal(worker_pool_new(&p, l, n, NULL), 0);
	return p;
}

static struct job new_job(struct worker_pool *p, int input, int *done)
{
	return (struct job){.loop_thread = pthread_self(),
	    .pool = p,
	    .input = input,
	    .done = done};
}

static void test_many(void **state)
{
	static struct job jobs[MANY];
	struct loop *l = new_loop();
	struct worker_pool *p = new_pool(l, 0);
	int done = 0;

	(void)state;
	for (int i = 0; i < MANY; i++) {
		jobs[i] = new_job(p, i, &done);
		worker_submit(p, &jobs[i].w, square, finished);
	}
	while (done < MANY)
		assert_int_equal(loop_run_once(l, 2000, NULL), 0);
	for (int i = 0; i < MANY; i++) {
		assert_int_equal(jobs[i].output, i * i);
		assert_true(jobs[i].w.ran);
	}
	worker_pool_free(p);
	loop_free(l);
}

static void test_submit_again(void **state)
{
	struct loop *l = new_loop();
	struct worker_pool *p = new_pool(l, 1);
	int done = 0;
	struct job j = new_job(p, 3, &done);

	(void)state;
	j.again = 9;
	worker_submit(p, &j.w, square, finished);
	while (done < 10)
		assert_int_equal(loop_run_once(l, 2000, NULL), 0);
	worker_pool_free(p);
	loop_free(l);
}

/* One thread is busy, so the second job is cancelled before it starts. */
static void test_cancel(void **state)
{
	struct loop *l = new_loop();
	struct worker_pool *p = new_pool(l, 1);
	int done = 0;
	struct job a = new_job(p, 0, &done);
	struct job b = new_job(p, 2, &done);

	(void)state;
	worker_submit(p, &a.w, stubborn, finished);
	worker_submit(p, &b.w, square, finished);
	worker_cancel(&b.w);
	worker_cancel(&a.w);
	while (done < 2)
		assert_int_equal(loop_run_once(l, 2000, NULL), 0);
	assert_false(b.w.ran);
	assert_int_equal(b.output, 0);
	worker_pool_free(p);
	loop_free(l);
}

/* All are done at shutdown, those submitted during it included. */
static void test_drain(void **state)
{
	struct loop *l = new_loop();
	struct worker_pool *p = new_pool(l, 2);
	struct job jobs[10];
	int done = 0;

	(void)state;
	for (int i = 0; i < 10; i++) {
		jobs[i] = new_job(p, i, &done);
		jobs[i].again = 1;
		worker_submit(
		    p, &jobs[i].w, i < 2 ? stubborn : square, finished);
	}
	worker_pool_free(p);
	assert_int_equal(done, 20);
	for (int i = 0; i < 10; i++)
		assert_true(worker_cancelled(&jobs[i].w));
	loop_free(l);
}

static void test_refused(void **state)
{
	struct worker_pool *p = NULL;
	struct loop *l = new_loop();
	struct err e = {0};

	(void)state;
	assert_int_equal(
	    worker_pool_new(&p, l, WORKER_THREADS_MAX + 1, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "at most"));
	assert_null(p);
	worker_pool_free(NULL);
	loop_free(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_many),
	    cmocka_unit_test(test_submit_again),
	    cmocka_unit_test(test_cancel),
	    cmocka_unit_test(test_drain),
	    cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
