/* SPDX-License-Identifier: MIT */
/*
 * db_attack KIND...: a guest that means harm, to see that it does none.
 *
 *   flip SEGMENT    changes a length and back in its own segment, for ever
 *   check NAME SECONDS [OFFSET]
 *                   a victim: validates that length in snapshot NAME, at OFFSET
 *                   (0), then uses it; says how often the two differed
 *   write NAME      writes to a read-only view of NAME
 *   forge NAME      tries capability numbers other than that of NAME, and to do
 *                   more with a derived one than it permits
 *   wrap NAME       maps NAME at addresses that wrap, overlap or are odd
 *   twice NAME      maps NAME twice at one address
 *   holes NAME      reads every page of a view of NAME
 *
 * Says what was refused and ends with 0 if all was, 1 if not.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "guest/lib/firn_guest.h"

#define GOOD_LEN 64u
#define EVIL_LEN 0xffffffffu

static int refuse(const char *what, long got)
{
	printf("%s: %s\n", what, got < 0 ? strerror((int)-got) : "LET THROUGH");
	return got < 0 ? 0 : 1;
}

static int get(const char *name, struct firn_segment *s, uint64_t gpa)
{
	int cap = firn_lookup(name);

	return cap < 0 ? cap : firn_map(cap, FIRN_MAP_RO, gpa, s);
}

static int flip(const char *name)
{
	struct firn_segment s;
	volatile uint32_t *len;
	int r = firn_segment_find(name, &s);

	if (r < 0)
		return refuse("segment", r);
	len = (volatile uint32_t *)(uintptr_t)s.va;
	*len = GOOD_LEN;
	printf("flipping\n");
	fflush(stdout);
	for (;;) {
		*len = EVIL_LEN;
		*len = GOOD_LEN;
	}
}

/* Validate, then use: what a program does with a request in shared memory. */
static int check(const char *name, int seconds, uint64_t offset)
{
	struct firn_segment s;
	time_t end = time(NULL) + seconds;
	uint64_t rounds = 0;
	uint64_t fooled = 0;
	volatile uint32_t *len;
	int r = get(name, &s, 0);

	if (r < 0 || offset % 4 != 0 || offset > s.size - 4)
		return refuse("map", r < 0 ? r : -EINVAL) + 1;
	len = (volatile uint32_t *)(uintptr_t)(s.va + offset);
	while (time(NULL) < end)
		for (int i = 0; i < 1000000; i++) {
			uint32_t validated = *len;
			uint32_t used = *len;

			fooled += validated != used;
			rounds++;
		}
	printf("validated %" PRIu64 " times, fooled %" PRIu64 " times\n",
	    rounds, fooled);
	return fooled != 0;
}

static int write_view(const char *name)
{
	struct firn_segment s;
	int r = get(name, &s, 0);

	if (r < 0)
		return refuse("map", r) + 1;
	*(volatile uint32_t *)(uintptr_t)s.va = EVIL_LEN;
	printf("write to a read-only view: LET THROUGH\n");
	return 1;
}

/* Every call that takes a capability, with one that it does not have. */
static int accepts(int cap, int own)
{
	struct firn_cap_info info;
	struct firn_pages pages;
	struct firn_segment s;

	return firn_map(cap, FIRN_MAP_RO, 0, &s) >= 0 ||
	       firn_map(cap, FIRN_MAP_COW, 0, &s) >= 0 ||
	       firn_describe(cap, &info) >= 0 ||
	       firn_diff(cap, own, 0, NULL, 0, &pages) >= 0 ||
	       firn_derive(cap, FIRN_RIGHT_ALL) >= 0 || firn_drop(cap) >= 0;
}

/* A derived capability has no right that was left out, nor has its copy. */
static int exceed(int own)
{
	const uint32_t few = FIRN_RIGHT_DIFF | FIRN_RIGHT_DERIVE;
	struct firn_segment s;
	int weak = firn_derive(own, few);
	int copy = firn_derive(weak, FIRN_RIGHT_ALL);
	int bad;

	if (weak < 0 || copy < 0)
		return refuse("derive", weak < 0 ? weak : copy) + 1;
	bad =
	    refuse("map without the right", firn_map(weak, FIRN_MAP_RO, 0, &s));
	bad |= refuse("map with a right derived back",
	    firn_map(copy, FIRN_MAP_COW, 0, &s));
	if (firn_drop(weak) < 0)
		return refuse("drop", 0);
	return bad | refuse("use after the drop", firn_derive(weak, few));
}

/* Numbers other than that of the one capability it was given. */
static int forge(const char *name)
{
	int own = firn_lookup(name);
	uint64_t tried = 0;
	int bad = 0;

	for (int i = -256; i < 256; i++, tried++) {
		bad |= i != own && accepts(i, own);
		bad |= i != 0 && accepts(own + i, own);
		tried++;
	}
	for (int bit = 10; bit < 31; bit++, tried++)
		bad |= 1 << bit != own && accepts(1 << bit, own);
	printf("forged capabilities: %" PRIu64 " tried in each call, %s\n",
	    tried, bad ? "LET THROUGH" : "none accepted");
	return bad | exceed(own);
}

static int wrap(const char *name)
{
	struct firn_segment s;
	int bad = 0;

	bad |= refuse("map at the end of the address space",
	    get(name, &s, 0ULL - 0x200000));
	bad |= refuse(
	    "map beyond what the CPU can name", get(name, &s, 1ULL << 52));
	bad |= refuse("map over the RAM", get(name, &s, 0x100000000ULL));
	bad |= refuse("map over the tables", get(name, &s, 0x200000));
	bad |= refuse("map at an odd address", get(name, &s, 0x2000001001ULL));
	return bad;
}

static int twice(const char *name)
{
	struct firn_segment s;
	int r = get(name, &s, 0x4000000000ULL);

	if (r < 0)
		return refuse("first map", r) + 1;
	return refuse(
	    "second map at one address", get(name, &s, 0x4000000000ULL));
}

static int holes(const char *name)
{
	struct firn_segment s;
	uint64_t sum = 0;
	int r = get(name, &s, 0);

	if (r < 0)
		return refuse("map", r) + 1;
	for (uint64_t at = 0; at < s.size; at += 4096)
		sum += *(volatile unsigned char *)(uintptr_t)(s.va + at);
	printf("reading all %" PRIu64 " pages of a layer that is mostly holes: "
	       "sum %" PRIu64 "\n",
	    s.size / 4096, sum);
	return 0;
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";
	const char *name = argc > 2 ? argv[2] : "";

	if (strcmp(kind, "flip") == 0)
		return flip(name);
	if (strcmp(kind, "check") == 0)
		return check(name, argc > 3 ? atoi(argv[3]) : 1,
		    argc > 4 ? strtoull(argv[4], NULL, 0) : 0);
	if (strcmp(kind, "write") == 0)
		return write_view(name);
	if (strcmp(kind, "forge") == 0)
		return forge(name);
	if (strcmp(kind, "wrap") == 0)
		return wrap(name);
	if (strcmp(kind, "twice") == 0)
		return twice(name);
	if (strcmp(kind, "holes") == 0)
		return holes(name);
	fprintf(stderr, "db_attack: what kind?\n");
	return 2;
}
