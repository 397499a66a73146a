/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "vmm/mem/gate.h"

#define NTHREADS 4
#define NROUNDS  300

struct shared {
	struct gate gate;
	_Atomic bool stop;
	_Atomic uint32_t kicks;
	/* Plain: only the gate keeps those inside and the closer apart, which
	 * ThreadSanitizer checks. Each thread has its own. */
	uint64_t written[NTHREADS];
};

struct worker {
	struct shared *s;
	uint32_t id;
};

static void count_kick(void *ctx)
{
	struct shared *s = ctx;

	atomic_fetch_add(&s->kicks, 1);
}

static void *enter_and_write(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load(&w->s->stop)) {
		gate_enter(&w->s->gate);
		w->s->written[w->id]++;
		gate_leave(&w->s->gate);
	}
	return NULL;
}

static uint64_t sum(const struct shared *s)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < NTHREADS; i++)
		n += s->written[i];
	return n;
}

static void nothing_moves_while_closed(void **state)
{
	struct shared s = {0};
	struct worker w[NTHREADS];
	pthread_t t[NTHREADS];

	(void)state;
	gate_init(&s.gate, count_kick, &s);
	for (uint32_t i = 0; i < NTHREADS; i++) {
		w[i] = (struct worker){&s, i};
		assert_int_equal(
		    pthread_create(&t[i], NULL, enter_and_write, &w[i]), 0);
	}
	for (uint32_t i = 0; i < NROUNDS; i++) {
		uint64_t before;

		gate_close(&s.gate);
		before = sum(&s);
		usleep(i % 8 * 10);
		assert_int_equal(sum(&s), before);
		gate_open(&s.gate);
	}
	atomic_store(&s.stop, true);
	for (uint32_t i = 0; i < NTHREADS; i++)
		assert_int_equal(pthread_join(t[i], NULL), 0);
	assert_int_equal(s.gate.inside, 0);
	gate_fini(&s.gate);
}

static void *enter_once(void *arg)
{
	struct shared *s = arg;

	gate_enter(&s->gate);
	atomic_store(&s->stop, true);
	gate_leave(&s->gate);
	return NULL;
}

static void closings_nest(void **state)
{
	struct shared s = {0};
	pthread_t t;

	(void)state;
	gate_init(&s.gate, count_kick, &s);
	gate_close(&s.gate);
	gate_close(&s.gate);
	assert_int_equal(pthread_create(&t, NULL, enter_once, &s), 0);
	gate_open(&s.gate);
	usleep(20000);
	assert_false(atomic_load(&s.stop));
	gate_open(&s.gate);
	assert_int_equal(pthread_join(t, NULL), 0);
	assert_true(atomic_load(&s.stop));
	gate_fini(&s.gate);
}

static void *stay_until_kicked(void *arg)
{
	struct shared *s = arg;

	gate_enter(&s->gate);
	atomic_store(&s->stop, true);
	while (atomic_load(&s->kicks) == 0)
		usleep(100);
	gate_leave(&s->gate);
	return NULL;
}

static void closing_kicks_who_is_inside(void **state)
{
	struct shared s = {0};
	pthread_t t;

	(void)state;
	gate_init(&s.gate, count_kick, &s);
	gate_close(&s.gate);
	gate_open(&s.gate);
	assert_int_equal(s.kicks, 0);
	assert_int_equal(pthread_create(&t, NULL, stay_until_kicked, &s), 0);
	while (!atomic_load(&s.stop))
		usleep(100);
	gate_close(&s.gate);
	assert_int_equal(s.kicks, 1);
	gate_open(&s.gate);
	assert_int_equal(pthread_join(t, NULL), 0);
	gate_fini(&s.gate);
}

static void *close_and_open(void *arg)
{
	struct shared *s = arg;

	for (uint32_t i = 0; i < NROUNDS; i++) {
		gate_close(&s->gate);
		gate_open(&s->gate);
	}
	return NULL;
}

static void two_closers_and_entrants(void **state)
{
	struct shared s = {0};
	struct worker w = {&s, 0};
	pthread_t closer[2];
	pthread_t t;

	(void)state;
	gate_init(&s.gate, count_kick, &s);
	assert_int_equal(pthread_create(&t, NULL, enter_and_write, &w), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(
		    pthread_create(&closer[i], NULL, close_and_open, &s), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_join(closer[i], NULL), 0);
	assert_int_equal(s.gate.closings, 0);
	atomic_store(&s.stop, true);
	assert_int_equal(pthread_join(t, NULL), 0);
	gate_fini(&s.gate);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(nothing_moves_while_closed),
	    cmocka_unit_test(closings_nest),
	    cmocka_unit_test(closing_kicks_who_is_inside),
	    cmocka_unit_test(two_closers_and_entrants),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
