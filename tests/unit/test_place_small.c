/* SPDX-License-Identifier: MIT */
/* place: freezes where the kernel has no 2 MiB pages to give. */
#include "tests/unit/place_bench.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/prctl.h>

#define SMALL_NPAGES (128u << 8) /* 128 MiB; page i begins with i + 1 */
#define SMALL_RING   64u         /* pages that are written meanwhile */

struct writer {
	struct kvmplaces *g;
	bool stop;
	uint32_t round; /* that all of the ring was last written in */
};

/* Writes the ring's pages in turn, each with the number of the round. */
static void *write_rounds(void *arg)
{
	struct writer *w = arg;
	struct kvmguest_write list[SMALL_RING];

	while (!__atomic_load_n(&w->stop, __ATOMIC_RELAXED)) {
		for (uint32_t i = 0; i < SMALL_RING; i++)
			list[i] = (struct kvmguest_write){
			    GPA + i * (SMALL_NPAGES / SMALL_RING) * 4096,
			    w->round + 1};
		assert_int_equal(kvmplaces_do(w->g, list, SMALL_RING), 0);
		w->round++;
	}
	return NULL;
}

/* A layer of one instant: one round in all of the ring, the rest as it was. */
static void check_small(int fd, uint64_t add)
{
	uint32_t round = 0;

	for (uint32_t i = 0; i < SMALL_NPAGES; i++) {
		uint32_t v;

		assert_int_equal(pread(fd, &v, 4, (off_t)i * 4096), 4);
		if (i == 0)
			round = v;
		assert_int_equal(
		    v, i % (SMALL_NPAGES / SMALL_RING) == 0 ? round : i + add);
	}
	assert_true(round > 0);
}

static void fill_small(struct place *p)
{
	struct place_info info;

	place_info(p, &info);
	for (uint32_t i = 0; i < SMALL_NPAGES; i++) {
		uint32_t v = i + 1;

		memcpy(info.hva + i * 4096ULL, &v, sizeof(v));
	}
}

static uint64_t dirty_count(struct place *p)
{
	struct err e = {0};
	uint64_t *words;
	uint64_t n;

	assert_int_equal(place_dirty(p, "c", false, &words, &n, &e), 0);
	free(words);
	return n;
}

/* Where the kernel has no 2 MiB pages to give, what is frozen under a guest
 * that writes is of one instant too, and all that follows goes on. */
static void test_small_pages(void **state)
{
	struct kvmplaces *g = *state;
	struct writer w = {.g = g};
	struct place_frozen f;
	struct err e = {0};
	struct place *p;
	pthread_t t;

	assert_int_equal(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
	assert_int_equal(
	    place_make(g->ps, "small", GPA, SMALL_NPAGES * 4096ULL, &p, &e), 0);
	fill_small(p);
	assert_int_equal(dirty_count(p), 0);
	assert_int_equal(pthread_create(&t, NULL, write_rounds, &w), 0);
	(void)usleep(20000);
	freeze(g, p, &f);
	(void)usleep(20000);
	__atomic_store_n(&w.stop, true, __ATOMIC_RELAXED);
	(void)pthread_join(t, NULL);
	assert_int_equal(f.nsteps, 1);
	assert_int_equal(f.copied_pages, 0);
	check_small(f.step[0].layer_fd, 1);
	place_frozen_done(p, f.nsteps);
	assert_in_range(dirty_count(p), SMALL_RING, SMALL_NPAGES - 1);
	assert_int_equal(at(p, 0), w.round);
	assert_int_equal(at(p, 1), 2);
	put(g, 1, 77);
	freeze(g, p, &f);
	assert_in_range(f.copied_pages, 1, SMALL_RING + 1);
	place_frozen_done(p, f.nsteps);
	assert_int_equal(dirty_count(p), 1);
	put(g, 2, 78);
	assert_int_equal(place_sever(g->ps, p, -1, &f, &e), 0);
	assert_int_equal(at(p, 1), 0);
	assert_int_equal(at(p, 2), 0);
	assert_int_equal(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_small_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
