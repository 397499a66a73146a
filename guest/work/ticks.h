/* SPDX-License-Identifier: MIT */
/* ticks: time, and the time stamp counter in terms of it. */
#ifndef GUEST_WORK_TICKS_H
#define GUEST_WORK_TICKS_H

#include <stdint.h>
#include <time.h>
#include <x86intrin.h>

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Ticks of the counter in a nanosecond; takes 20 ms to find out. */
static inline double ticks_per_ns(void)
{
	uint64_t t0 = now_ns();
	uint64_t c0 = __rdtsc();

	while (now_ns() - t0 < 20000000)
		;
	return (double)(__rdtsc() - c0) / (double)(now_ns() - t0);
}

#endif /* GUEST_WORK_TICKS_H */
