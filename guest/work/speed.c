/* SPDX-License-Identifier: MIT */
/*
 * speed: times a compute loop, a copy, an AVX2 kernel and a system call by the
 * time stamp counter, and prints "NAME NANOSECONDS" for each, medians of nine.
 * The same program runs on the host, which is its baseline.
 */
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest/work/ticks.h"

#define RUNS     9
#define COPY_LEN (64u << 20)
#define FLOATS   (1u << 15)
#define CALLS    2000

struct mem {
	char *from, *to;
	float *x;
	volatile uint64_t sink;
};

static void compute(struct mem *m)
{
	uint64_t x = m->sink | 1;

	for (int i = 0; i < 50000000; i++)
		x = x * 6364136223846793005u + (x >> 29);
	m->sink = x;
}

static void copy(struct mem *m)
{
	memcpy(m->to, m->from, COPY_LEN);
	m->sink += (unsigned char)m->to[COPY_LEN - 1];
}

__attribute__((target("avx2,fma"))) static void avx(struct mem *m)
{
	__m256 acc = _mm256_setzero_ps();

	for (int k = 0; k < 1000; k++)
		for (unsigned i = 0; i < FLOATS; i += 8)
			acc = _mm256_fmadd_ps(_mm256_loadu_ps(m->x + i),
			    _mm256_set1_ps(0.5f), acc);
	m->sink += (uint64_t)acc[0];
}

static void calls(struct mem *m)
{
	for (int i = 0; i < CALLS; i++)
		m->sink += (uint64_t)syscall(SYS_getppid);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a;
	double y = *(const double *)b;

	return (x > y) - (x < y);
}

static void measure(
    const char *name, void (*fn)(struct mem *), struct mem *m, double scale)
{
	double took[RUNS];

	fn(m);
	for (int i = 0; i < RUNS; i++) {
		uint64_t t = __rdtsc();

		fn(m);
		took[i] = (double)(__rdtsc() - t) / scale;
	}
	qsort(took, RUNS, sizeof(took[0]), by_value);
	printf("%s %.1f\n", name, took[RUNS / 2]);
}

int main(void)
{
	struct mem m = {
	    .from = malloc(COPY_LEN),
	    .to = malloc(COPY_LEN),
	    .x = calloc(FLOATS, sizeof(float)),
	};
	double per_ns = ticks_per_ns();

	if (m.from == NULL || m.to == NULL || m.x == NULL)
		return 1;
	memset(m.from, 1, COPY_LEN);
	measure("compute", compute, &m, per_ns);
	measure("memcpy", copy, &m, per_ns);
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		measure("avx", avx, &m, per_ns);
	measure("syscall", calls, &m, per_ns * CALLS);
	return 0;
}
