/* SPDX-License-Identifier: MIT */
/* musl: yes */
/*
 * stamp NAME PAGES SEED [PERROUND]: finds or makes segment NAME; for each line
 * of its input, a round: writes the round's number and the page's number to
 * PERROUND pages (default 16) picked by SEED, and prints "round N: PAGE ...".
 * SEED 0: one page after the other, from the start again at the end.
 * So who reads the pages knows which of them each round must have touched.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/lib/firn_guest.h"

#define PAGE 4096u

static uint64_t next(uint64_t *s)
{
	*s = *s * 6364136223846793005u + 1442695040888963407u;
	return *s >> 33;
}

static int get_segment(
    const char *name, uint64_t size, struct firn_segment *seg)
{
	int r = firn_segment_find(name, seg);

	if (r < 0)
		r = firn_segment_make(name, size, seg);
	if (r < 0)
		fprintf(stderr, "stamp: segment %s: %s\n", name, strerror(-r));
	return r;
}

static void stamp_round(const struct firn_segment *seg, uint64_t npages,
    uint64_t round, uint32_t n, bool in_order, uint64_t *s)
{
	printf("round %" PRIu64 ":", round);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t page = (in_order ? (*s)++ : next(s)) % npages;
		volatile uint64_t *p =
		    (volatile uint64_t *)(uintptr_t)(seg->va + page * PAGE);

		p[0] = round;
		p[1] = page;
		printf(" %" PRIu64, page);
	}
	printf("\n");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct firn_segment seg;
	uint64_t npages;
	uint64_t s;
	uint32_t n;
	bool in_order;
	char line[80];

	if (argc < 4) {
		fprintf(stderr, "usage: stamp NAME PAGES SEED [PERROUND]\n");
		return 2;
	}
	npages = strtoull(argv[2], NULL, 0);
	s = strtoull(argv[3], NULL, 0);
	in_order = s == 0;
	n = argc > 4 ? (uint32_t)strtoul(argv[4], NULL, 0) : 16;
	if (get_segment(argv[1], npages * PAGE, &seg) < 0)
		return 1;
	printf("segment %u at %#" PRIx64 "\n", seg.id, seg.gpa);
	fflush(stdout);
	for (uint64_t round = 1; fgets(line, sizeof(line), stdin); round++)
		stamp_round(&seg, seg.size / PAGE, round, n, in_order, &s);
	return 0;
}
