/* SPDX-License-Identifier: MIT */
/*
 * scan NAME: maps snapshot NAME read-only, reads every byte of it some times,
 * and prints what that took by the time stamp counter: "map US first US again
 * US". Then waits for its input to end, so that others can look at it.
 * Outside a firn guest it scans memory of its own, of NAME mebibytes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <x86intrin.h>

#include "guest/lib/firn_guest.h"

#define PASSES 5

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static double ticks_per_us(void)
{
	uint64_t t0 = now_ns();
	uint64_t c0 = __rdtsc();

	while (now_ns() - t0 < 20000000)
		;
	return (double)(__rdtsc() - c0) * 1000 / (double)(now_ns() - t0);
}

static uint64_t sum(const uint64_t *p, uint64_t len)
{
	uint64_t s[4] = {0};

	for (uint64_t i = 0; i < len / 8; i += 4) {
		s[0] += p[i];
		s[1] += p[i + 1];
		s[2] += p[i + 2];
		s[3] += p[i + 3];
	}
	return s[0] ^ s[1] ^ s[2] ^ s[3];
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a;
	double y = *(const double *)b;

	return (x > y) - (x < y);
}

static int get(const char *name, struct firn_segment *s)
{
	int cap;
	void *m;

	if (firn_version() >= 0) {
		cap = firn_lookup(name);
		return cap < 0 ? cap : firn_map(cap, FIRN_MAP_RO, 0, s);
	}
	s->size = strtoull(name, NULL, 0) << 20;
	m = mmap(NULL, s->size, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED)
		return -12;
	(void)madvise(m, s->size, MADV_HUGEPAGE);
	memset(m, 1, s->size);
	s->va = (uint64_t)(uintptr_t)m;
	return 0;
}

int main(int argc, char **argv)
{
	double per_us = ticks_per_us();
	double took[PASSES];
	struct firn_segment s;
	uint64_t check = 0;
	uint64_t t = __rdtsc();
	int r = argc > 1 ? get(argv[1], &s) : -2;
	uint64_t mapped = __rdtsc() - t;

	if (r < 0) {
		fprintf(stderr, "scan: %s\n", strerror(-r));
		return 1;
	}
	for (int i = 0; i < PASSES; i++) {
		t = __rdtsc();
		check ^= sum((const uint64_t *)(uintptr_t)s.va, s.size);
		took[i] = (double)(__rdtsc() - t) / per_us;
	}
	printf("map %.1f first %.1f ", (double)mapped / per_us, took[0]);
	qsort(took, PASSES, sizeof(took[0]), by_value);
	printf("again %.1f check %" PRIx64 "\n", took[PASSES / 2], check);
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
