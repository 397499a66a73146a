/* SPDX-License-Identifier: MIT */
/*
 * run: a run of consecutive pages and where their bytes are.
 *
 * The one form in which page placement crosses module and process boundaries:
 * what a freeze made, what a view must show, what a page map is updated with.
 * A list of runs is valid when it is sorted by (page), its runs do not overlap
 * and every npages is at least 1; run_list_check() decides that.
 */
#ifndef SHARED_PAGE_RUN_H
#define SHARED_PAGE_RUN_H

#include <stddef.h>
#include <stdint.h>

#define PAGE_SHIFT 12
#define PAGE_SIZE  (1ULL << PAGE_SHIFT)
/* A leaf: what one 2 MiB mapping covers. */
#define LEAF_SHIFT  21
#define LEAF_SIZE   (1ULL << LEAF_SHIFT)
#define LEAF_NPAGES (LEAF_SIZE / PAGE_SIZE)

#define RUN_ZERO    UINT32_MAX /* as (layer): the pages read as zero */

struct page_run {
	uint64_t page;   /* first page number in the place or map */
	uint64_t npages; /* at least 1 */
	uint64_t index; /* first page in the layer; 0 where layer is RUN_ZERO */
	uint32_t layer; /* the meaning of the number is the context's */
	uint32_t pad;   /* 0 */
};

_Static_assert(sizeof(struct page_run) == 32, "run layout");
_Static_assert(offsetof(struct page_run, layer) == 24, "run layout");

/*
 * Check a list from a source that is not trusted, against a place of (npages)
 * pages. Returns 0, -ST_INVAL (a run is empty or its pad is set), -ST_RANGE (a
 * run ends beyond npages or its numbers wrap), -ST_PROTO (unsorted or
 * overlapping).
 */
int run_list_check(const struct page_run *r, size_t n, uint64_t npages);

#endif /* SHARED_PAGE_RUN_H */
