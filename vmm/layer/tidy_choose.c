/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>

#include "vmm/layer/tidy_job.h"

struct choice {
	uint64_t room;  /* pages that the job may still copy */
	uint32_t whose; /* files it joins; 0: none yet */
};

static bool choose(struct tidy *t, struct choice *c, struct tidy_file *f)
{
	/* The first in any case: a file of any size is compacted at last. */
	if ((f->live > c->room && c->room != TIDY_JOB_NPAGES) ||
	    (c->whose != 0 && c->whose != f->whose)) {
		t->res.more = true;
		return false;
	}
	c->whose = f->whose;
	c->room -= f->live < c->room ? f->live : c->room;
	f->chosen = true;
	t->res.from_files++;
	return true;
}

static bool half_dead(const struct tidy_file *f)
{
	return f->may_move && 2 * f->live < f->used;
}

static void choose_dead(struct tidy *t, struct choice *c)
{
	for (uint32_t i = 0; t->mark && i < t->nfiles; i++)
		if (half_dead(&t->file[i]))
			(void)choose(t, c, &t->file[i]);
}

static bool may_merge(const struct tidy *t, const struct tidy_file *f)
{
	return f->may_move && !f->pinned && !f->chosen &&
	       f->live <= TIDY_MERGE_NPAGES && f->used <= TIDY_MERGE_NPAGES &&
	       (t->mark || f->used == f->npages);
}

static int by_live(const void *x, const void *y)
{
	const struct tidy_file *const *a = x;
	const struct tidy_file *const *b = y;

	if ((*a)->whose != (*b)->whose)
		return (*a)->whose < (*b)->whose ? -1 : 1;
	return (*a)->live < (*b)->live ? -1 : (*a)->live > (*b)->live;
}

/*
 * How many of (n) files, sorted by size, become one: half of them or more, the
 * last no larger than those before it together, so that no page's file less
 * than doubles. There are at most log2(TIDY_MERGE_NPAGES) that are larger.
 */
static uint32_t merge_count(struct tidy_file *const *f, uint32_t n)
{
	uint64_t sum = 0;
	uint32_t good = 0;

	for (uint32_t k = 0; k < n; k++) {
		if (sum + f[k]->live > TIDY_JOB_NPAGES)
			break;
		if (f[k]->live <= sum)
			good = k + 1;
		sum += f[k]->live;
		if (good > n / 2)
			break;
	}
	return good;
}

/* Of (*n) files, sorted by whom they are of, leave those of whom there are
 * most. */
static struct tidy_file **most_of_one(struct tidy_file **f, uint32_t *n)
{
	uint32_t first = 0;
	uint32_t most = 0;
	uint32_t at = 0;

	for (uint32_t i = 0; i < *n; i++) {
		if (f[i]->whose != f[first]->whose)
			first = i;
		if (i + 1 - first > most) {
			most = i + 1 - first;
			at = first;
		}
	}
	*n = most;
	return f + at;
}

static int choose_small(struct tidy *t, struct choice *c)
{
	struct tidy_file **all;
	struct tidy_file **f;
	uint32_t n = 0;
	uint32_t k;

	all = calloc((size_t)t->nfiles + 1, sizeof(struct tidy_file *));
	if (all == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < t->nfiles; i++)
		if (may_merge(t, &t->file[i]))
			all[n++] = &t->file[i];
	qsort(all, n, sizeof(struct tidy_file *), by_live);
	f = most_of_one(all, &n);
	t->res.large_files = t->nfiles - t->res.from_files - n;
	k = n > TIDY_FILES ? merge_count(f, n) : 0;
	for (uint32_t i = 0; i < k && choose(t, c, f[i]); i++)
		;
	free(all);
	return 0;
}

int tidy_choose(struct tidy *t)
{
	struct choice c = {.room = TIDY_JOB_NPAGES};
	int rc;

	choose_dead(t, &c);
	rc = choose_small(t, &c);
	t->whose = c.whose;
	return rc;
}
