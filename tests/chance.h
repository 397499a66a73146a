/* SPDX-License-Identifier: MIT */
/*
 * chance: random sequences that can be repeated. A run says its seed, and
 * FIRN_SEED=N in the environment is the seed of the next one.
 */
#ifndef TESTS_CHANCE_H
#define TESTS_CHANCE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The next number below (below), not 0, from a state that is not 0. */
static inline uint64_t chance(uint64_t *rng, uint64_t below)
{
	*rng ^= *rng << 13;
	*rng ^= *rng >> 7;
	*rng ^= *rng << 17;
	return *rng % below;
}

/* The state that (test) begins with; prints the seed. */
static inline uint64_t chance_begin(const char *test)
{
	const char *s = getenv("FIRN_SEED");
	uint64_t seed = s != NULL ? strtoull(s, NULL, 0) : (uint64_t)time(NULL);

	printf("%s: FIRN_SEED=%llu\n", test, (unsigned long long)seed);
	(void)fflush(stdout); /* whatever becomes of the run */
	return seed * 6364136223846793005u | 1;
}

/* Whether FIRN_TEST_SCALE=small asks for short sequences. */
static inline bool chance_small(void)
{
	const char *s = getenv("FIRN_TEST_SCALE");

	return s != NULL && strcmp(s, "small") == 0;
}

#endif /* TESTS_CHANCE_H */
