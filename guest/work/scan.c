/* SPDX-License-Identifier: MIT */
/*
 * scan NAME [leaves]: maps snapshot NAME read-only, reads every byte of it some
 * times, or a word of each 2 MiB, and prints what that took by the time stamp
 * counter: "map US first US again US". Then waits for its input to end, so that
 * others can look at it. Outside a firn guest it scans memory of its own, of
 * NAME mebibytes in 2 MiB pages, that it has filled and mapped anew.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/lib/firn_guest.h"
#include "guest/work/ticks.h"

#define PASSES        5
#define LEAF          (2ULL << 20)
#define MADV_COLLAPSE 25

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

static uint64_t sum_leaves(const uint64_t *p, uint64_t len)
{
	uint64_t s = 0;

	for (uint64_t i = 0; i < len / 8; i += LEAF / 8)
		s += ((const volatile uint64_t *)p)[i];
	return s;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a;
	double y = *(const double *)b;

	return (x > y) - (x < y);
}

/* (len) bytes of (fd) at an address aligned as large pages are; NULL. */
static unsigned char *map_aligned(int fd, uint64_t len, int prot)
{
	unsigned char *m = mmap(NULL, len + LEAF, PROT_NONE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (m == MAP_FAILED)
		return NULL;
	m += -(uintptr_t)m & (LEAF - 1);
	m = mmap(m, len, prot, MAP_SHARED | MAP_FIXED, fd, 0);
	return m == MAP_FAILED ? NULL : m;
}

static int get_own(struct firn_segment *s)
{
	int fd = memfd_create("scan", 0);
	unsigned char *m;

	if (fd < 0 || ftruncate(fd, (off_t)s->size) < 0)
		return -12;
	m = map_aligned(fd, s->size, PROT_READ | PROT_WRITE);
	if (m == NULL)
		return -12;
	for (uint64_t i = 0; i < s->size; i += LEAF)
		m[i] = 1;
	(void)madvise(m, s->size, MADV_COLLAPSE);
	memset(m, 1, s->size);
	(void)munmap(m, s->size);
	m = map_aligned(fd, s->size, PROT_READ);
	if (m == NULL)
		return -12;
	s->va = (uint64_t)(uintptr_t)m;
	return 0;
}

static int get(const char *name, struct firn_segment *s)
{
	int cap;

	if (firn_version() >= 0) {
		cap = firn_lookup(name);
		return cap < 0 ? cap : firn_map(cap, FIRN_MAP_RO, 0, s);
	}
	s->size = strtoull(name, NULL, 0) << 20;
	return get_own(s);
}

int main(int argc, char **argv)
{
	uint64_t (*pass)(const uint64_t *p, uint64_t len) =
	    argc > 2 ? sum_leaves : sum;
	double per_us = ticks_per_ns() * 1000;
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
		check ^= pass((const uint64_t *)(uintptr_t)s.va, s.size);
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
