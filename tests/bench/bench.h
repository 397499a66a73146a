/* SPDX-License-Identifier: MIT */
/*
 * bench: the few helpers that benchmark programs share.
 *
 * A program prints one line for each figure, with its baseline, which was
 * measured in the same run:  figure  firn  baseline  ratio
 * Every figure is a median of BENCH_RUNS runs.
 */
#ifndef TESTS_BENCH_BENCH_H
#define TESTS_BENCH_BENCH_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BENCH_RUNS 9

static inline uint64_t bench_now_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline int bench_cmp(const void *a, const void *b)
{
	double x = *(const double *)a;
	double y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Sorts (v). */
static inline double bench_median(double *v, size_t n)
{
	qsort(v, n, sizeof(*v), bench_cmp);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

#define BENCH_ROWS_MAX 32

/* The median of (field), a double, of each of (n) structures at (rows). */
#define bench_column(rows, n, field)                                           \
	bench_median_at(&(rows)->field, (n), sizeof(*(rows)))

/* As bench_median(), of (n) at most BENCH_ROWS_MAX that lie (stride) bytes
 * apart, and stay as they are. */
static inline double bench_median_at(
    const double *first, size_t n, size_t stride)
{
	double v[BENCH_ROWS_MAX];

	for (size_t i = 0; i < n; i++)
		v[i] = *(const double *)(const void *)((const char *)first +
						       i * stride);
	return bench_median(v, n);
}

/* The median over BENCH_RUNS of what one run measures, in its own unit. A
 * negative value says that the run failed, and is returned at once. */
typedef double bench_run_fn(void *ctx);

static inline double bench_measure(bench_run_fn *run, void *ctx)
{
	double v[BENCH_RUNS];

	for (size_t i = 0; i < BENCH_RUNS; i++) {
		v[i] = run(ctx);
		if (v[i] < 0)
			return v[i];
	}
	return bench_median(v, BENCH_RUNS);
}

static inline void bench_head(const char *what)
{
	printf("# %s\n%-52s %12s %12s %8s\n", what, "figure", "firn",
	    "baseline", "ratio");
}

/* firn / baseline, both in (unit). */
static inline void bench_line(
    const char *figure, const char *unit, double firn, double baseline)
{
	char name[160];

	(void)snprintf(name, sizeof(name), "%s [%s]", figure, unit);
	printf("%-52s %12.2f %12.2f %8.3f\n", name, firn, baseline,
	    baseline > 0 ? firn / baseline : 0);
	(void)fflush(stdout);
}

/* A figure without a baseline. */
static inline void bench_value(
    const char *figure, const char *unit, double firn)
{
	char name[160];

	(void)snprintf(name, sizeof(name), "%s [%s]", figure, unit);
	printf("%-52s %12.2f %12s %8s\n", name, firn, "-", "-");
	(void)fflush(stdout);
}

#endif /* TESTS_BENCH_BENCH_H */
