/* SPDX-License-Identifier: MIT */
/*
 * runs: a growing list of runs, in an array from the heap.
 *
 * Threads: any; a list belongs to its caller.
 */
#ifndef VMM_MAP_RUNS_H
#define VMM_MAP_RUNS_H

#include <stddef.h>

#include "shared/page/run.h"

/* All zero but (max): empty. free(r) ends it. */
struct runs {
	struct page_run *r;
	size_t n, cap;
	size_t max; /* so many there may be */
};

/* Append. -ENOMEM, -E2BIG; then the list is as it was. */
int runs_add(struct runs *rs, const struct page_run *r);
/* The same, or make the last one longer where it goes on in (r). */
int runs_join(struct runs *rs, const struct page_run *r);

#endif /* VMM_MAP_RUNS_H */
