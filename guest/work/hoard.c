/* SPDX-License-Identifier: MIT */
/* musl: yes */
/*
 * hoard open|keep|map N: makes N versions of a segment, each of one more page
 * and dropped again; opens and closes each as /snap/NAME, or opens or maps
 * every 120th and keeps it: what a guest does that would have all of firnd's
 * files. Says how many it had, and waits for the end of its input.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/lib/firn_guest.h"

#define LEAF     (2u << 20) /* of which views copy those with many files */
#define VERSIONS 120u       /* in so many files; more would be merged */

static int use(int cap, unsigned i, const char *how)
{
	struct firn_segment view;
	int fd;

	if (*how != 'o' && i % VERSIONS != VERSIONS - 1)
		return 0;
	if (*how == 'm')
		return firn_map(cap, FIRN_MAP_RO, 0, &view);
	fd = open("/snap/h", O_RDONLY);
	if (fd < 0)
		return -errno;
	if (*how == 'o')
		(void)close(fd);
	return 0;
}

/* One more version, used and dropped. */
static int hoard(const struct firn_segment *s, unsigned i, const char *how)
{
	int cap;
	int r;

	*(volatile unsigned *)(uintptr_t)(s->va + (uint64_t)(i % VERSIONS) *
						      LEAF) = i + 1;
	cap = firn_freeze(s->id, "h", NULL);
	if (cap < 0)
		return cap;
	r = use(cap, i, how);
	(void)firn_drop(cap);
	return r;
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "open";
	unsigned n = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 1000;
	struct firn_segment s;
	unsigned i;
	char c;
	int r = firn_segment_make("hoard", VERSIONS * LEAF, &s);

	for (i = 0; i < n && r == 0; i++)
		r = hoard(&s, i, how);
	printf("had %u: %s\n", i, r == 0 ? "all" : strerror(-r));
	(void)fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	return 0;
}
