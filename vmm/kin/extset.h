/* SPDX-License-Identifier: MIT */
/*
 * extset: a set of page numbers as a sorted list of extents.
 *
 * The extents are in order, none is empty, none touches the next. The zero
 * value is the empty set; extset_free() makes it that again.
 *
 * Threads: any; a set belongs to its caller.
 */
#ifndef VMM_KIN_EXTSET_H
#define VMM_KIN_EXTSET_H

#include <stddef.h>
#include <stdint.h>

#include "shared/abi/guestcall.h"

#define EXTSET_MAX (4u << 20) /* extents of one set: 64 MiB */

struct extset {
	struct firn_extent *x;
	size_t n, cap;
	uint64_t pages; /* in all */
};

void extset_free(struct extset *s);
/* Give back the room for more that it has, if that can be done. */
void extset_trim(struct extset *s);

/*
 * Add pages that are behind, or continue, all that (s) has: -EINVAL where they
 * do not, or are none. -ENOMEM, -E2BIG (EXTSET_MAX). (s) is unchanged then.
 */
int extset_add(struct extset *s, uint64_t first, uint64_t npages);

/*
 * The same for the pages from (first) on of which the bits are set, 64 a word,
 * of (npages). What is beyond is not looked at. On failure some were added.
 */
int extset_add_bits(
    struct extset *s, const uint64_t *words, uint64_t first, uint64_t npages);
/*
 * Clear the bits of those pages that (s) has. *k, 0 to begin with, is the first
 * extent that may have any, and moves on: for parts of a bitmap, in order.
 */
void extset_clear_bits(const struct extset *s, size_t *k, uint64_t *words,
    uint64_t first, uint64_t npages);

/*
 * The functions below make *out, which is overwritten, of their arguments. On
 * failure (-ENOMEM, -E2BIG) it is empty.
 */

/* The bits of (npages) pages. */
int extset_of_bits(const uint64_t *words, uint64_t npages, struct extset *out);
/* What is in any of the (n) sets. Cost: their extents, times log2(n). */
int extset_unite(const struct extset *const *set, size_t n, struct extset *out);
/* What is in both. Cost: their extents. */
int extset_cut(
    const struct extset *a, const struct extset *b, struct extset *out);

/* What is in (a) but not in (b). Cost: their extents. */
int extset_less(
    const struct extset *a, const struct extset *b, struct extset *out);

#endif /* VMM_KIN_EXTSET_H */
