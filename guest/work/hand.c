/* SPDX-License-Identifier: MIT */
/* musl: yes */
/*
 * hand: severs, adopts and looks, as the lines of its input say; answers each
 * with one line.
 *
 *   fill SEGMENT TAG     every page gets TAG and its own number
 *   check SEGMENT TAG    "ok", or the first page that has other bytes; TAG 0:
 *                        whether all of it reads zero
 *   sever SEGMENT NAME   the capability's state, as of describe
 *   describe NAME
 *   derive NAME          what the copy is
 *   map NAME             the view's number
 *   adopt NAME           the segment's number, and whether it is a copy
 *   unmap NUMBER
 *   drop NAME
 *   loop SEGMENT N TAG   sever SEGMENT, adopt it, check, fill, unmap: N times
 *
 * SEGMENT is a name, or the number that adopt or map answered last.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/lib/firn_guest.h"

#define PAGE 4096u

static struct firn_segment last;

static int find(const char *name, struct firn_segment *seg)
{
	if (name[0] >= '0' && name[0] <= '9') {
		*seg = last;
		return 0;
	}
	return firn_segment_find(name, seg);
}

static volatile uint64_t *page_at(const struct firn_segment *seg, uint64_t i)
{
	return (volatile uint64_t *)(uintptr_t)(seg->va + i * PAGE);
}

static void fill(const struct firn_segment *seg, uint64_t tag)
{
	for (uint64_t i = 0; i < seg->size / PAGE; i++) {
		page_at(seg, i)[0] = tag;
		page_at(seg, i)[1] = i;
	}
}

/* The first page that is wrong, or -1. */
static int64_t check(const struct firn_segment *seg, uint64_t tag)
{
	for (uint64_t i = 0; i < seg->size / PAGE; i++)
		if (page_at(seg, i)[0] != tag ||
		    page_at(seg, i)[1] != (tag == 0 ? 0 : i))
			return (int64_t)i;
	return -1;
}

static int state_of(int cap)
{
	struct firn_cap_info info;
	int r = firn_describe(cap, &info);

	if (r == 0)
		printf("cap owned=%u sealed=%u pages=%" PRIu64 "\n", info.owned,
		    info.sealed, info.size / PAGE);
	return r;
}

static int on_cap(const char *verb, int cap)
{
	int r = cap;

	if (cap < 0)
		return cap;
	if (strcmp(verb, "describe") == 0)
		return state_of(cap);
	if (strcmp(verb, "derive") == 0) {
		r = firn_derive(cap, FIRN_RIGHT_MAP_RO);
		return r < 0 ? r : state_of(r);
	}
	if (strcmp(verb, "drop") == 0)
		r = firn_drop(cap);
	else if (strcmp(verb, "map") == 0)
		r = firn_map(cap, FIRN_MAP_RO, 0, &last);
	else
		r = firn_adopt(cap, 0, &last);
	if (r == 0)
		printf("%s %u%s\n", verb, last.id,
		    (last.flags & FIRN_SEG_VIEW_COW) ? " copy-on-write" : "");
	return r;
}

static int once(const struct firn_segment *seg, uint64_t tag)
{
	int cap = firn_sever(seg->id, NULL, NULL);
	struct firn_segment got;
	int r = cap < 0 ? cap : firn_adopt(cap, 0, &got);

	if (r < 0)
		return r;
	if (got.flags != 0 || check(&got, tag) >= 0 || check(seg, 0) >= 0)
		return -5;
	fill(seg, tag + 1);
	return firn_unmap(got.id);
}

static int loop(const char *name, uint64_t n, uint64_t tag)
{
	struct firn_segment seg;
	int r = find(name, &seg);

	if (r == 0)
		fill(&seg, tag);
	for (uint64_t i = 0; i < n && r == 0; i++)
		r = once(&seg, tag + i);
	if (r == 0)
		printf("looped\n");
	return r;
}

static int on_segment(const char *verb, const char *name, const char *arg)
{
	uint64_t tag = strtoull(arg, NULL, 0);
	struct firn_segment seg;
	int64_t bad;
	int r = find(name, &seg);

	if (r < 0)
		return r;
	if (strcmp(verb, "sever") == 0) {
		r = firn_sever(seg.id, arg, NULL);
		return r < 0 ? r : state_of(r);
	}
	if (strcmp(verb, "fill") == 0) {
		fill(&seg, tag);
		printf("filled\n");
		return 0;
	}
	bad = check(&seg, tag);
	if (bad < 0)
		printf("ok\n");
	else
		printf("page %" PRId64 " is wrong\n", bad);
	return 0;
}

static int obey(char *line)
{
	char *word[4] = {strtok(line, " \n"), strtok(NULL, " \n"),
	    strtok(NULL, " \n"), strtok(NULL, " \n")};

	if (word[1] == NULL)
		return -22;
	if (strcmp(word[0], "unmap") == 0) {
		int r = firn_unmap((uint32_t)strtoul(word[1], NULL, 0));

		if (r == 0)
			printf("unmapped\n");
		return r;
	}
	if (word[2] == NULL)
		return on_cap(word[0], firn_lookup(word[1]));
	if (word[3] == NULL)
		return on_segment(word[0], word[1], word[2]);
	return loop(
	    word[1], strtoull(word[2], NULL, 0), strtoull(word[3], NULL, 0));
}

int main(void)
{
	char line[200];

	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin) != NULL) {
		int r = obey(line);

		if (r < 0)
			printf("error %s\n", strerror(-r));
		fflush(stdout);
	}
	return 0;
}
