/* SPDX-License-Identifier: MIT */
#include "vmm/map/runs.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#define RUNS_FIRST 64u

int runs_add(struct runs *rs, const struct page_run *r)
{
	if (rs->n >= rs->max)
		return -E2BIG;
	if (rs->n == rs->cap) {
		size_t cap = rs->cap == 0 ? RUNS_FIRST : rs->cap * 2;
		struct page_run *p = realloc(rs->r, cap * sizeof(*p));

		if (p == NULL)
			return -ENOMEM;
		rs->r = p;
		rs->cap = cap;
	}
	rs->r[rs->n++] = *r;
	return 0;
}

static bool continues(const struct page_run *a, const struct page_run *b)
{
	return a->page + a->npages == b->page && a->layer == b->layer &&
	       (a->layer == RUN_ZERO || a->index + a->npages == b->index);
}

int runs_join(struct runs *rs, const struct page_run *r)
{
	if (rs->n == 0 || !continues(&rs->r[rs->n - 1], r))
		return runs_add(rs, r);
	rs->r[rs->n - 1].npages += r->npages;
	return 0;
}
