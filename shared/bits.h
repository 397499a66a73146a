/* SPDX-License-Identifier: MIT */
/* bits: ranges of bits in arrays of 64-bit words, the lowest bit first. */
#ifndef SHARED_BITS_H
#define SHARED_BITS_H

#include <stdint.h>

static inline void bits_set(uint64_t *w, uint64_t from, uint64_t to)
{
	for (; from < to && from % 64 != 0; from++)
		w[from / 64] |= 1ULL << from % 64;
	for (; from + 64 <= to; from += 64)
		w[from / 64] = UINT64_MAX;
	for (; from < to; from++)
		w[from / 64] |= 1ULL << from % 64;
}

static inline void bits_clear(uint64_t *w, uint64_t from, uint64_t to)
{
	for (; from < to && from % 64 != 0; from++)
		w[from / 64] &= ~(1ULL << from % 64);
	for (; from + 64 <= to; from += 64)
		w[from / 64] = 0;
	for (; from < to; from++)
		w[from / 64] &= ~(1ULL << from % 64);
}

#endif /* SHARED_BITS_H */
