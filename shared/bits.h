/* SPDX-License-Identifier: MIT */
/* bits: bits in arrays of 64-bit words, the lowest bit first. */
#ifndef SHARED_BITS_H
#define SHARED_BITS_H

#include <stdbool.h>
#include <stdint.h>

static inline bool bit_get(const uint64_t *w, uint64_t i)
{
	return (w[i / 64] >> i % 64 & 1) != 0;
}

static inline void bit_set(uint64_t *w, uint64_t i)
{
	w[i / 64] |= 1ULL << i % 64;
}

static inline void bit_clear(uint64_t *w, uint64_t i)
{
	w[i / 64] &= ~(1ULL << i % 64);
}

/* Of [from, to). */
static inline void bits_set(uint64_t *w, uint64_t from, uint64_t to)
{
	for (; from < to && from % 64 != 0; from++)
		bit_set(w, from);
	for (; from + 64 <= to; from += 64)
		w[from / 64] = UINT64_MAX;
	for (; from < to; from++)
		bit_set(w, from);
}

static inline void bits_clear(uint64_t *w, uint64_t from, uint64_t to)
{
	for (; from < to && from % 64 != 0; from++)
		bit_clear(w, from);
	for (; from + 64 <= to; from += 64)
		w[from / 64] = 0;
	for (; from < to; from++)
		bit_clear(w, from);
}

/* The first from (i) on that is (set), or not, of (n); (n) where there is none.
 */
static inline uint64_t bits_next(
    const uint64_t *w, uint64_t n, uint64_t i, bool set)
{
	while (i < n) {
		uint64_t left = (set ? w[i / 64] : ~w[i / 64]) >> i % 64;

		if (left != 0) {
			i += (uint64_t)__builtin_ctzll(left);
			break;
		}
		i += 64 - i % 64;
	}
	return i < n ? i : n;
}

/* How many are set in (nwords) words. */
static inline uint64_t bits_count(const uint64_t *w, uint64_t nwords)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < nwords; i++)
		n += (uint64_t)__builtin_popcountll(w[i]);
	return n;
}

#endif /* SHARED_BITS_H */
