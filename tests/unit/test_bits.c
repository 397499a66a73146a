/* SPDX-License-Identifier: MIT */
/* Ranges of bits, compared with one bit after the other. */
#include "tests/unit/unit.h"

#include <string.h>

#include "shared/bits.h"
#include "tests/chance.h"

#define NWORDS 5u
#define NBITS  (NWORDS * 64)
#define ROUNDS 20000

/* Words of all ones or zeroes, and of single bits, are as likely as others. */
static void fill(uint64_t *w, uint64_t *rng)
{
	for (uint32_t i = 0; i < NWORDS; i++) {
		uint64_t kind = chance(rng, 4);

		w[i] = kind == 0   ? 0
		       : kind == 1 ? UINT64_MAX
		       : kind == 2 ? 1ULL << chance(rng, 64)
				   : chance(rng, UINT64_MAX);
	}
}

static void ranges(void **state)
{
	uint64_t rng = chance_begin("bits");

	(void)state;
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t a[NWORDS];
		uint64_t b[NWORDS];
		uint64_t from = chance(&rng, NBITS + 1);
		uint64_t to = chance(&rng, NBITS + 1);
		bool set = chance(&rng, 2) != 0;

		fill(a, &rng);
		memcpy(b, a, sizeof(b));
		if (set)
			bits_set(a, from, to);
		else
			bits_clear(a, from, to);
		for (uint64_t k = from; k < to; k++) {
			if (set)
				bit_set(b, k);
			else
				bit_clear(b, k);
			assert_int_equal(bit_get(b, k), set);
		}
		assert_memory_equal(a, b, sizeof(a));
	}
}

static void search(void **state)
{
	uint64_t rng = chance_begin("bits");

	(void)state;
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t w[NWORDS];
		uint64_t n = chance(&rng, NBITS + 1);
		uint64_t at = chance(&rng, n + 2);
		bool set = chance(&rng, 2) != 0;
		uint64_t next = at < n ? at : n;
		uint64_t count = 0;

		fill(w, &rng);
		while (next < n && bit_get(w, next) != set)
			next++;
		assert_int_equal(bits_next(w, n, at, set), next);
		for (uint64_t k = 0; k < NBITS; k++)
			count += bit_get(w, k);
		assert_int_equal(bits_count(w, NWORDS), count);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(ranges),
	    cmocka_unit_test(search),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
