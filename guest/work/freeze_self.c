/* SPDX-License-Identifier: MIT */
/* musl: yes */
/*
 * freeze_self [PAGES]: makes a segment, fills it, freezes it, changes three
 * pages, freezes it again, and looks at both snapshots and their difference.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/lib/firn_guest.h"

#define PAGE 4096u

static int fail(const char *what, long r)
{
	fprintf(stderr, "freeze_self: %s: %s\n", what,
	    r < 0 ? strerror((int)-r) : "wrong");
	return 1;
}

static volatile uint64_t *at(const struct firn_segment *s, uint64_t page)
{
	return (volatile uint64_t *)(uintptr_t)(s->va + page * PAGE);
}

static int check_view(int cap, uint64_t npages, uint64_t mid)
{
	struct firn_segment view;
	uint64_t wrong = 0;
	int r = firn_map(cap, FIRN_MAP_RO, 0, &view);

	if (r < 0)
		return r;
	for (uint64_t p = 0; p < npages; p++) {
		uint64_t want = p == npages / 2 ? mid : p + 1;

		if ((p == 1 || p == npages - 1) && mid != npages / 2 + 1)
			want = 0;
		wrong += *at(&view, p) != want;
	}
	r = firn_unmap(view.id);
	return r < 0 ? r : wrong != 0;
}

/* The monitor takes and gives back memory of any size for the answer. */
static int diff_with_any_room(int a, int b)
{
	static struct firn_extent extent[FIRN_EXTENTS_MAX];
	struct firn_pages pages;
	int r = 0;

	for (uint32_t n = 500; n <= FIRN_EXTENTS_MAX && r == 0; n += 500)
		r = firn_diff(a, b, 0, extent, n, &pages);
	return r;
}

int main(int argc, char **argv)
{
	uint64_t npages = argc > 1 ? strtoull(argv[1], NULL, 0) : 1024;
	struct firn_extent extent[16];
	struct firn_pages pages;
	struct firn_frozen one;
	struct firn_frozen two;
	struct firn_segment s;
	struct firn_cap_info info;
	int a;
	int b;
	int r = firn_segment_make("self", npages * PAGE, &s);

	if (r < 0)
		return fail("make", r);
	for (uint64_t p = 0; p < npages; p++)
		*at(&s, p) = p + 1;
	a = firn_freeze(s.id, "self.1", &one);
	if (a < 0)
		return fail("freeze", a);
	*at(&s, 1) = 0;
	*at(&s, npages / 2) = 777;
	*at(&s, npages - 1) = 0;
	b = firn_freeze(s.id, "self.2", &two);
	if (b < 0)
		return fail("freeze again", b);
	printf("frozen: %" PRIu64 " pages, then %" PRIu64 " dirty\n", one.pages,
	    two.dirty_pages);
	r = firn_diff(a, b, 0, extent, 16, &pages);
	if (r < 0)
		return fail("diff", r);
	printf("diff: %" PRIu64 " pages:", pages.pages);
	for (uint64_t i = 0; i < pages.nextents && i < 16; i++)
		printf(
		    " %" PRIu64 "+%" PRIu64, extent[i].first, extent[i].npages);
	printf("\n");
	r = diff_with_any_room(a, b);
	if (r < 0)
		return fail("diff with more room", r);
	r = firn_describe(a, &info);
	if (r < 0 || !info.sealed || info.size != npages * PAGE)
		return fail("describe", r);
	r = check_view(a, npages, npages / 2 + 1);
	if (r)
		return fail("the first snapshot", r);
	r = check_view(b, npages, 777);
	if (r)
		return fail("the second snapshot", r);
	puts("freeze_self: right");
	return 0;
}
