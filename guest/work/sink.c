/* SPDX-License-Identifier: MIT */
/* musl: yes */
/*
 * sink NAME [SECONDS]: finds segment NAME and writes to it at random for ever,
 * or so long; prints each second how many writes it made and the longest gap
 * between two of them, by the time stamp counter.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/lib/firn_guest.h"
#include "guest/work/ticks.h"

#define PAGE  4096u
#define BATCH 4096u /* writes between looks at the clock's second */

/* What one second of writes was like. */
struct second {
	uint64_t writes;
	uint64_t last;
	uint64_t worst; /* ticks between two */
};

static uint64_t next_random(uint64_t rnd)
{
	rnd ^= rnd << 13;
	rnd ^= rnd >> 7;
	return rnd ^ rnd << 17;
}

/* BATCH writes; the next random number. */
static uint64_t write_batch(
    const struct firn_segment *seg, struct second *s, uint64_t rnd)
{
	for (unsigned i = 0; i < BATCH; i++) {
		uint64_t va;
		uint64_t now;

		rnd = next_random(rnd);
		va = seg->va + rnd % (seg->size / PAGE) * PAGE;
		*(volatile uint64_t *)(uintptr_t)va = rnd;
		now = __rdtsc();
		if (now - s->last > s->worst)
			s->worst = now - s->last;
		s->last = now;
	}
	s->writes += BATCH;
	return rnd;
}

int main(int argc, char **argv)
{
	struct firn_segment seg;
	uint64_t seconds = argc > 2 ? strtoull(argv[2], NULL, 0) : UINT64_MAX;
	uint64_t rnd = 0x9e3779b97f4a7c15;
	double per_us = ticks_per_ns() * 1000;
	int r = argc > 1 ? firn_segment_find(argv[1], &seg) : -2;

	if (r < 0) {
		fprintf(stderr, "sink: %s\n", strerror(-r));
		return 1;
	}
	for (uint64_t i = 0; i < seconds; i++) {
		uint64_t start = __rdtsc();
		struct second s = {.last = start};

		while ((double)(s.last - start) < per_us * 1000000)
			rnd = write_batch(&seg, &s, rnd);
		printf("%" PRIu64 " writes, worst gap %.1f us\n", s.writes,
		    (double)s.worst / per_us);
		fflush(stdout);
	}
	return 0;
}
