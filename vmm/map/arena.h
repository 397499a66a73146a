/* SPDX-License-Identifier: MIT */
/*
 * arena: blocks of one length, in slabs of 2 MiB.
 *
 * The nodes of page maps are small and many, and what walks them is bound by
 * the processor's caches and its translation caches. So they are kept apart
 * from the heap: the first that is free is taken, so that what is allocated
 * together is close together as far as there is room, and every slab but the
 * first is one huge page where the kernel has one. The first is of ordinary
 * pages, taken as they are touched: a firnd of three snapshots needs two or
 * three.
 *
 * A slab of which no block is left goes back to the kernel, but one where no
 * other has room. One that was full is allocated from again when an eighth of
 * it is free: so at most an eighth of what is used is not, besides slabs that
 * are only partly emptied.
 *
 * Threads: one at a time.
 */
#ifndef VMM_MAP_ARENA_H
#define VMM_MAP_ARENA_H

#include <stddef.h>
#include <stdint.h>

#define ARENA_SLAB      (2UL << 20) /* bytes, and their alignment */
#define ARENA_BLOCK_MAX 4096u

struct slab;

struct arena {
	size_t block;      /* bytes of each */
	uint32_t per_slab; /* blocks; a multiple of 64 */
	uint32_t nslabs;   /* of the first as much is memory as was used */
	struct slab *head; /* those with room come first */
};

/* Of blocks of (block) bytes, a multiple of 8 up to ARENA_BLOCK_MAX. Takes
 * nothing yet. */
void arena_init(struct arena *a, size_t block);
/* Gives all slabs back, whatever is in them. */
void arena_fini(struct arena *a);

/* A block, aligned to 8, whose bytes are undefined; NULL: no memory, and
 * nothing changed. */
void *arena_alloc(struct arena *a);
/* (p) is one of its blocks. */
void arena_free(struct arena *a, void *p);

#endif /* VMM_MAP_ARENA_H */
