/* SPDX-License-Identifier: MIT */
/* musl: yes */
/*
 * book_seats: sells seats of a table in a segment or view, as its input says:
 *
 *   open NAME             that segment or view has the table from now on
 *   make SOLD             a new table, with SOLD seats sold already
 *   book AGENT ROW PARTIES SEATS
 *                         for each party looks, from ROW on, for a row with
 *                         so many seats free, and takes them
 *   count                 looks at all rows
 *
 * A row is a page: who looks at a row reads it, who takes a seat writes it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/lib/firn_guest.h"

#define PAGE      4096u
#define ROW_SEATS 16u
#define AGENTS    8u

struct seat {
	uint32_t agent; /* that sold it; 0: free */
	uint32_t sales; /* how often that happened */
	char holder[PAGE / ROW_SEATS - 8];
};

struct row {
	struct seat seat[ROW_SEATS];
};

_Static_assert(sizeof(struct row) == PAGE, "a row is a page");

static struct row *row;
static uint64_t nrows;

static int open_table(const char *name)
{
	struct firn_segment s;
	int r = firn_segment_find(name, &s);

	if (r < 0)
		return r;
	row = (struct row *)(uintptr_t)s.va;
	nrows = s.size / PAGE;
	return 0;
}

static void sell(struct seat *s, uint32_t agent, uint64_t party)
{
	s->agent = agent;
	s->sales++;
	snprintf(s->holder, sizeof(s->holder),
	    "party %" PRIu64 " of agent %" PRIu32, party, agent);
}

static void make(uint64_t sold)
{
	uint64_t x = 88172645463325252u;

	for (uint64_t r = 0; r < nrows; r++)
		memset(&row[r], 0, sizeof(row[r]));
	while (sold > 0) {
		struct seat *s;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		s = &row[x % nrows].seat[x / nrows % ROW_SEATS];
		if (s->agent == 0)
			sell(s, AGENTS, sold--);
	}
	printf("made %" PRIu64 " seats in %" PRIu64 " rows\n",
	    nrows * ROW_SEATS, nrows);
}

static uint64_t free_seats(const struct row *r)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < ROW_SEATS; i++)
		n += r->seat[i].agent == 0;
	return n;
}

static void take(struct row *r, uint32_t agent, uint64_t party, uint64_t n)
{
	for (uint32_t i = 0; i < ROW_SEATS && n > 0; i++) {
		if (r->seat[i].agent != 0)
			continue;
		sell(&r->seat[i], agent, party);
		n--;
	}
}

static void book(uint32_t agent, uint64_t from, uint64_t parties, uint64_t n)
{
	uint64_t looked = 0;
	uint64_t done = 0;
	uint64_t r = from;

	while (done < parties && r < nrows) {
		if (free_seats(&row[r]) >= n)
			take(&row[r], agent, ++done, n);
		else
			r++;
		looked = r - from + 1;
	}
	printf("booked %" PRIu64 " seats for %" PRIu64
	       " parties, looked at rows %" PRIu64 " to %" PRIu64 "\n",
	    done * n, done, from, from + looked - 1);
}

static void count(void)
{
	uint64_t by[AGENTS + 1] = {0};
	uint64_t twice = 0;

	for (uint64_t r = 0; r < nrows; r++) {
		for (uint32_t i = 0; i < ROW_SEATS; i++) {
			by[row[r].seat[i].agent % (AGENTS + 1)]++;
			twice += row[r].seat[i].sales > 1;
		}
	}
	printf("%" PRIu64 " taken: %" PRIu64 " before, %" PRIu64
	       " by agent 1, %" PRIu64 " by agent 2; %" PRIu64 " sold twice\n",
	    nrows * ROW_SEATS - by[0], by[AGENTS], by[1], by[2], twice);
}

int main(void)
{
	uint64_t n[4];
	char name[64];
	char line[200];

	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "open %63s", name) == 1) {
			int r = open_table(name);

			printf("%s\n", r < 0 ? strerror(-r) : "opened");
		} else if (nrows == 0) {
			printf("no table\n");
		} else if (sscanf(line, "make %" SCNu64, &n[0]) == 1) {
			make(n[0]);
		} else if (sscanf(line,
			       "book %" SCNu64 " %" SCNu64 " %" SCNu64
			       " %" SCNu64,
			       &n[0], &n[1], &n[2], &n[3]) == 4) {
			book((uint32_t)n[0], n[1], n[2], n[3]);
		} else if (strcmp(line, "count\n") == 0) {
			count();
		} else {
			printf("what?\n");
		}
	}
	return 0;
}
