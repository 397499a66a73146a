/* SPDX-License-Identifier: MIT */
/* musl: yes */
/*
 * refused: what firn's calls refuse, each with the errno value that
 * firn_guest.h promises; prints those that differ.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "guest/lib/firn_guest.h"

#define PAGE   4096u
#define MANY   (FIRN_EXTENTS_MAX + 1)
#define NOBODY 99 /* no segment's id, no capability */

/* Counts what differs from what is wanted. */
struct tally {
	unsigned done, wrong;
};

static void expect(struct tally *t, const char *what, long got, long want)
{
	t->done++;
	if (got == want)
		return;
	t->wrong++;
	printf("%s: %ld, not %ld\n", what, got, want);
}

/* (want) is an errno value, 0 for what works. */
#define GIVES(t, call, want) expect((t), #call, (long)(call), -(long)(want))

static void segments(struct tally *t, const char *large)
{
	struct firn_segment s;

	GIVES(t, firn_segment_make("0", PAGE, &s), EINVAL);
	GIVES(t, firn_segment_make("q", 100, &s), EINVAL);
	GIVES(t, firn_segment_make("q", 0, &s), EINVAL);
	GIVES(t, firn_segment_make("q", 1ULL << 60, &s), ENOSPC);
	GIVES(t, firn_segment_make(large, PAGE, &s), ENAMETOOLONG);
	GIVES(t, firn_segment_make("d", PAGE, &s), EEXIST);
	GIVES(t, firn_segment_make_as("q", PAGE, 64, &s), EINVAL);
	GIVES(t, firn_segment_find("q", &s), ENOENT);
}

static void lifts(struct tally *t, uint32_t id, const char *large)
{
	struct firn_frozen f;

	GIVES(t, firn_freeze(NOBODY, NULL, &f), ENOENT);
	GIVES(t, firn_freeze(id, "12", &f), EINVAL);
	GIVES(t, firn_freeze(id, "mine", &f), EEXIST);
	GIVES(t, firn_freeze(id, large, &f), ENAMETOOLONG);
	GIVES(t, firn_freeze(id, (const char *)8, &f), EFAULT);
	GIVES(t, firn_sever(0, NULL, &f), EPERM);
}

static void sets(struct tally *t, uint32_t id, int cap)
{
	struct firn_extent e[4];
	struct firn_pages p;

	GIVES(t, firn_diff(cap, cap, 8, e, 4, &p), EINVAL);
	GIVES(t, firn_diff(cap, cap, 0, e, MANY, &p), E2BIG);
	GIVES(t, firn_diff(cap, NOBODY, 0, e, 4, &p), EBADF);
	GIVES(t, firn_dirty(NOBODY, "c", 0, e, 4, &p), ENOENT);
	GIVES(t, firn_dirty(id, "c", 64, e, 4, &p), EINVAL);
	GIVES(t, firn_dirty(id, "c", 0, e, MANY, &p), E2BIG);
	GIVES(t, firn_touched(id, FIRN_READ, e, 4, &p), EPERM);
	GIVES(t, firn_touched(id, 9, e, 4, &p), EINVAL);
	GIVES(t, firn_touched(id, FIRN_READ, e, MANY, &p), E2BIG);
}

/* What the answer has no buffer for, the cursor has not passed. */
static void kept(struct tally *t, const struct firn_segment *d, uint32_t flags)
{
	const char *name = flags ? "exact" : "plain";
	volatile char *at = (volatile char *)(uintptr_t)d->va;
	struct firn_extent e[4];
	struct firn_pages p = {0};

	GIVES(t, firn_dirty(d->id, name, flags, NULL, 0, &p), 0);
	*at = (char)(*at + 1);
	GIVES(t, firn_dirty(d->id, name, flags, NULL, 4, &p), EFAULT);
	GIVES(t, firn_dirty(d->id, name, flags, e, 4, &p), 0);
	expect(t, name, (long)p.pages, 1);
}

static void views(struct tally *t, const struct firn_segment *d, int cap)
{
	struct firn_segment v;
	struct firn_frozen f;

	GIVES(t, firn_map(NOBODY, FIRN_MAP_RO, 0, &v), EBADF);
	GIVES(t, firn_map(cap, 9, 0, &v), EINVAL);
	GIVES(t, firn_map(cap, FIRN_MAP_OWN, 0, &v), EINVAL);
	GIVES(t, firn_map(cap, FIRN_MAP_RO, 5, &v), EINVAL);
	GIVES(t, firn_map(cap, FIRN_MAP_RO, 1ULL << 50, &v), ERANGE);
	GIVES(t, firn_map(cap, FIRN_MAP_RO, 1ULL << 46, &v), ERANGE);
	GIVES(t, firn_map(cap, FIRN_MAP_RO, d->gpa, &v), EEXIST);
	GIVES(t, firn_adopt(NOBODY, 0, &v), EBADF);
	GIVES(t, firn_unmap(d->id), EPERM);
	GIVES(t, firn_unmap(NOBODY), ENOENT);
	GIVES(t, firn_map(cap, FIRN_MAP_RO, 0, &v), 0);
	GIVES(t, firn_freeze(v.id, NULL, &f), EPERM);
}

static void capabilities(struct tally *t, int cap)
{
	int weak = firn_derive(cap, FIRN_RIGHT_DIFF);
	struct firn_cap_info info;
	struct firn_segment v;

	GIVES(t, firn_lookup("nobody's"), ENOENT);
	GIVES(t, firn_describe(NOBODY, &info), EBADF);
	GIVES(t, firn_derive(cap, 0x80), EINVAL);
	GIVES(t, firn_derive(weak, FIRN_RIGHT_DIFF), EACCES);
	GIVES(t, firn_map(weak, FIRN_MAP_RO, 0, &v), EACCES);
	GIVES(t, firn_drop(weak), 0);
	GIVES(t, firn_drop(weak), EBADF);
}

/* Until there is no room for more of each. */
static void tables(struct tally *t, uint32_t id)
{
	struct firn_segment s;
	struct firn_frozen f;
	struct firn_pages p;
	char name[16];
	int r = 0;

	for (int i = 0; i < 1000 && r >= 0; i++)
		r = firn_freeze(id, NULL, &f);
	expect(t, "too many capabilities", r, -ENOSPC);
	r = 0;
	for (int i = 0; i < 1000 && r >= 0; i++) {
		(void)snprintf(name, sizeof(name), "s%d", i);
		r = firn_segment_make(name, PAGE, &s);
	}
	expect(t, "too many segments", r, -ENOSPC);
	r = 0;
	for (int i = 0; i < 1000 && r >= 0; i++) {
		(void)snprintf(name, sizeof(name), "c%d", i);
		r = firn_dirty(id, name, 0, NULL, 0, &p);
	}
	expect(t, "too many cursors", r, -ENOSPC);
}

int main(void)
{
	char large[FIRN_NAME_MAX + 1];
	struct tally t = {0};
	struct firn_segment d;
	int cap;

	memset(large, 'x', FIRN_NAME_MAX);
	large[FIRN_NAME_MAX] = '\0';
	if (firn_segment_make("d", 16 * PAGE, &d) < 0)
		return 1;
	*(volatile char *)(uintptr_t)d.va = 1;
	cap = firn_freeze(d.id, "mine", NULL);
	if (cap < 0)
		return 1;
	segments(&t, large);
	lifts(&t, d.id, large);
	sets(&t, d.id, cap);
	kept(&t, &d, 0);
	kept(&t, &d, FIRN_EXACT);
	views(&t, &d, cap);
	capabilities(&t, cap);
	tables(&t, d.id);
	printf("%u answers, %u wrong\n", t.done, t.wrong);
	return t.wrong != 0;
}
