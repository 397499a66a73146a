/* SPDX-License-Identifier: MIT */
/* musl: yes */
/*
 * touch: does what the lines of its input say with the pages of one view or
 * segment, and answers each with a line, "ok ..." or "error WHY".
 *
 *   find NAME              the segment or view of that name is what is touched
 *   map SNAP MODE          the same of a new view; MODE: ro, cow, ro+track,
 *                          cow+track
 *   unmap                  take it away
 *   read PAGE...           prints the first word of each
 *   write VALUE PAGE...    VALUE becomes the first word of each
 *   scan read|write FIRST COUNT STEP   touches COUNT pages, STEP apart, and
 *                          prints how many nanoseconds that took
 *   freeze NAME, sever NAME
 *   make NAME SIZE FLAGS   a segment, which is what is touched
 *   touched 0|1 MAX        what was read, or written, as dirty prints it
 *   dirty CURSOR FLAGS MAX     prints how many pages, in how many extents, and
 *                          at most MAX of those
 *   meld BASE A B NAME FLAGS   prints what conflicts, if anything does
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/lib/firn_guest.h"
#include "guest/work/ticks.h"

#define PAGE      4096u
#define WORDS     4096
#define CONFLICTS 64
#define EXTENTS   64 /* more are asked for in no memory */

static struct firn_segment at;
static char *word[WORDS];
static int nwords;

static volatile uint64_t *page(uint64_t n)
{
	return (volatile uint64_t *)(uintptr_t)(at.va +
						n % (at.size / PAGE) * PAGE);
}

static uint64_t num(int i)
{
	return i < nwords ? strtoull(word[i], NULL, 0) : 0;
}

static const char *text(int i)
{
	return i < nwords ? word[i] : "";
}

static void answer(long r)
{
	if (r < 0)
		printf("error %s\n", strerror((int)-r));
	else
		printf("ok %ld\n", r);
}

static void do_map(void)
{
	const char *m = text(2);
	uint32_t mode = strncmp(m, "cow", 3) == 0 ? FIRN_MAP_COW : FIRN_MAP_RO;
	int cap = firn_lookup(text(1));

	if (strstr(m, "+track") != NULL)
		mode |= FIRN_MAP_TRACK;
	answer(cap < 0 ? cap : firn_map(cap, mode, 0, &at));
}

static void do_read(void)
{
	printf("ok");
	for (int i = 1; i < nwords; i++)
		printf(" %" PRIu64, page(num(i))[0]);
	printf("\n");
}

static void do_write(void)
{
	for (int i = 2; i < nwords; i++)
		page(num(i))[0] = num(1);
	answer(0);
}

static void do_scan(void)
{
	bool write = strcmp(text(1), "write") == 0;
	uint64_t first = num(2);
	uint64_t count = num(3);
	uint64_t step = num(4);
	uint64_t begin = now_ns();

	for (uint64_t i = 0; i < count; i++) {
		volatile uint64_t *p = page(first + i * step);

		if (write)
			p[0] = i;
		else
			(void)p[0];
	}
	printf("ok %" PRIu64 "\n", now_ns() - begin);
}

static void do_meld(void)
{
	int base = firn_lookup(text(1));
	int a = firn_lookup(text(2));
	int b = firn_lookup(text(3));
	const struct firn_meld m = {.base = (uint32_t)base,
	    .a = (uint32_t)a,
	    .b = (uint32_t)b,
	    .flags = (uint32_t)num(5),
	    .max = CONFLICTS};
	struct firn_conflict x[CONFLICTS];
	struct firn_melded out = {0};
	int r = firn_meld(&m, text(4), x, &out);

	if (r >= 0) {
		printf("ok %" PRIu64 " %u\n", out.pages, out.blind);
		return;
	}
	printf("error %s", strerror(-r));
	for (uint64_t i = 0; i < out.nconflicts && i < CONFLICTS; i++)
		printf(" %" PRIu64 "+%" PRIu64 "%s", x[i].first, x[i].npages,
		    x[i].kind == FIRN_WRITE_WRITE ? "ww" : "rw");
	printf("\n");
}

static void answer_extents(int r, const struct firn_pages *p,
    const struct firn_extent *x, uint64_t max)
{
	if (r < 0) {
		answer(r);
		return;
	}
	printf("ok %" PRIu64 " %" PRIu64, p->pages, p->nextents);
	for (uint64_t i = 0; i < p->nextents && i < max; i++)
		printf(" %" PRIu64 "+%" PRIu64, x[i].first, x[i].npages);
	printf("\n");
}

static void do_dirty(void)
{
	struct firn_extent x[EXTENTS];
	struct firn_pages p = {0};
	uint64_t max = num(3);
	int r = firn_dirty(at.id, text(1), (uint32_t)num(2),
	    max > EXTENTS ? (void *)1 : x, (uint32_t)max, &p);

	answer_extents(r, &p, x, max);
}

static void do_touched(void)
{
	struct firn_extent x[EXTENTS];
	struct firn_pages p = {0};
	uint64_t max = num(2);
	int r = firn_touched(at.id, (uint32_t)num(1),
	    max > EXTENTS ? (void *)1 : x, (uint32_t)max, &p);

	answer_extents(r, &p, x, max);
}

static void do_line(void)
{
	const char *w = text(0);

	if (strcmp(w, "find") == 0)
		answer(firn_segment_find(text(1), &at));
	else if (strcmp(w, "map") == 0)
		do_map();
	else if (strcmp(w, "unmap") == 0)
		answer(firn_unmap(at.id));
	else if (strcmp(w, "freeze") == 0)
		answer(firn_freeze(at.id, text(1), NULL));
	else if (strcmp(w, "make") == 0)
		answer(firn_segment_make_as(
		    text(1), num(2), (uint32_t)num(3), &at));
	else if (strcmp(w, "sever") == 0)
		answer(firn_sever(at.id, text(1), NULL));
	else if (strcmp(w, "touched") == 0)
		do_touched();
	else if (strcmp(w, "dirty") == 0)
		do_dirty();
	else if (strcmp(w, "meld") == 0)
		do_meld();
	else if (at.size == 0)
		printf("error nothing to touch\n");
	else if (strcmp(w, "read") == 0)
		do_read();
	else if (strcmp(w, "write") == 0)
		do_write();
	else if (strcmp(w, "scan") == 0)
		do_scan();
	else
		printf("error no such word\n");
}

int main(void)
{
	static char line[1 << 16];

	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		nwords = 0;
		for (char *p = strtok(line, " \n"); p != NULL && nwords < WORDS;
		     p = strtok(NULL, " \n"))
			word[nwords++] = p;
		if (nwords > 0)
			do_line();
	}
	return 0;
}
