/* SPDX-License-Identifier: MIT */
/* musl: yes */
/*
 * reader NAME [GPA]: maps snapshot NAME read-only, at guest-physical GPA or
 * where there is room, and prints a checksum of its bytes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/lib/firn_guest.h"

int main(int argc, char **argv)
{
	uint64_t gpa = argc > 2 ? strtoull(argv[2], NULL, 0) : 0;
	uint64_t sum = 14695981039346656037u;
	struct firn_cap_info info;
	struct firn_segment s;
	const uint64_t *p;
	int cap = argc > 1 ? firn_lookup(argv[1]) : -2;
	int r = cap < 0 ? cap : firn_describe(cap, &info);

	if (r == 0)
		r = firn_map(cap, FIRN_MAP_RO, gpa, &s);
	if (r < 0) {
		fprintf(stderr, "reader: %s\n", strerror(-r));
		return 1;
	}
	p = (const uint64_t *)(uintptr_t)s.va;
	for (uint64_t i = 0; i < s.size / 8; i++)
		sum = (sum ^ p[i]) * 1099511628211u;
	printf("%s: sealed %u, %" PRIu64 " bytes at %#" PRIx64
	       ", checksum %016" PRIx64 "\n",
	    argv[1], info.sealed, s.size, s.gpa, sum);
	return 0;
}
