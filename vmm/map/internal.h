/* SPDX-License-Identifier: MIT */
/*
 * The layout of page maps, which what makes them (map.c) and what reads them
 * (read.c) share.
 *
 * An entry is one 64-bit word: 0 says that its span reads as zero; bit 0 set,
 * that it is contiguous in a layer (layer in the upper half, index of the
 * span's first page in bits 1..28); else it is the address of a node, which
 * divides the span by MAP_FANOUT. Pages beyond npages do not exist: the last
 * spans are clipped there, and entries of spans wholly beyond are 0.
 *
 * Trees are in normal form: there is no node whose existing pages one entry
 * could describe. A small fan-out costs least memory for scattered changes
 * (153 bytes a changed page with 4, 229 with 16; docs/FIGURES.md).
 */
#ifndef VMM_MAP_INTERNAL_H
#define VMM_MAP_INTERNAL_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/map/map.h"

#ifndef MAP_FANOUT_SHIFT /* set by the benchmark that compares */
#define MAP_FANOUT_SHIFT 2
#endif
#define MAP_FANOUT (1u << MAP_FANOUT_SHIFT)
#define LEVEL_MAX  /* of a map of MAP_NPAGES_MAX */                            \
	((40 + MAP_FANOUT_SHIFT - 1) / MAP_FANOUT_SHIFT)
#define INDEX_BITS 28
#define INDEX_MAX  (1ULL << INDEX_BITS)

struct map_node {
	union {
		struct {
			uint32_t refs;
			/* The epoch of the last mark that came by. Only the
			 * marking thread touches it once the node is made. */
			uint32_t mark;
		};
		struct map_node *next_dead;
	};
	uint64_t child[MAP_FANOUT];
};

_Static_assert(
    _Alignof(struct map_node) >= 2, "bit 0 of a node's address is free");
_Static_assert(
    1ULL << (LEVEL_MAX * MAP_FANOUT_SHIFT) >= MAP_NPAGES_MAX, "LEVEL_MAX");

static inline bool entry_is_run(uint64_t e)
{
	return (e & 1) != 0;
}

static inline bool entry_is_node(uint64_t e)
{
	return e != 0 && !entry_is_run(e);
}

static inline struct map_node *entry_node(uint64_t e)
{
	/* NOLINTNEXTLINE(performance-no-int-to-ptr): 8 bytes an entry. */
	return (struct map_node *)(uintptr_t)e;
}

static inline uint32_t entry_layer(uint64_t e)
{
	return entry_is_run(e) ? (uint32_t)(e >> 32) : RUN_ZERO;
}

static inline uint64_t entry_index(uint64_t e)
{
	return entry_is_run(e) ? (e >> 1) & (INDEX_MAX - 1) : 0;
}

static inline uint64_t entry_of(uint32_t layer, uint64_t index)
{
	if (layer == RUN_ZERO)
		return 0;
	return ((uint64_t)layer << 32) | (index << 1) | 1;
}

/* Pages that an entry at (level) covers; pages have level 0. */
static inline uint64_t level_span(unsigned level)
{
	assert(level <= LEVEL_MAX);
	return 1ULL << (level * MAP_FANOUT_SHIFT);
}

static inline unsigned root_level(uint64_t npages)
{
	unsigned level = 0;

	while (level_span(level) < npages)
		level++;
	return level;
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/*
 * What (e), at (level) from page (start), says of its child (i), whether it is
 * a node or not. Borrowed.
 */
static inline uint64_t child_entry(
    uint64_t e, unsigned level, uint64_t start, unsigned i, uint64_t npages)
{
	uint64_t off = i * level_span(level - 1);

	if (entry_is_node(e))
		return entry_node(e)->child[i];
	if (e == 0 || start + off >= npages)
		return 0;
	return entry_of(entry_layer(e), entry_index(e) + off);
}

#endif /* VMM_MAP_INTERNAL_H */
