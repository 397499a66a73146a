/* SPDX-License-Identifier: MIT */
/* curves: what the programs share whose figures plot.py draws. Each prints a
 * line `chart series x y` for each point. */
#ifndef TESTS_BENCH_CURVES_CURVES_H
#define TESTS_BENCH_CURVES_CURVES_H

#include "tests/bench/bench.h"
#include "tests/bench/nodes.h"
#include "tests/chance.h"

static inline void curve_point(
    const char *chart, const char *series, double x, double y)
{
	printf("%s\t%s\t%.0f\t%.3f\n", chart, series, x, y);
	(void)fflush(stdout);
}

/* Processor time: what else the machine does is no part of it. */
static inline uint64_t curve_cpu_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/*
 * (n) single pages of (npages), spread evenly with a random place each: (part)
 * of (parts) of every stride, so that lists of different parts have no page in
 * common. They are dense in (layer), as a later freeze makes them.
 */
static inline void curve_runs(struct page_run *r, size_t n, uint64_t npages,
    uint64_t part, uint64_t parts, uint32_t layer, uint64_t *seed)
{
	uint64_t stride = npages / n;
	uint64_t room = stride / parts;

	for (size_t i = 0; i < n; i++)
		r[i] = (struct page_run){
		    .page = i * stride + part * room + chance(seed, room),
		    .npages = 1,
		    .index = i,
		    .layer = layer,
		};
}

#endif /* TESTS_BENCH_CURVES_CURVES_H */
