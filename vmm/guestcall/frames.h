/* SPDX-License-Identifier: MIT */
/*
 * frames: which pages of segment 0 are in use.
 *
 * Memory is dealt out in chunks of 2 MiB: page by page, the lowest free chunk
 * first, or whole. A page or chunk that was in use before may hold old bytes
 * and is reported as such; the caller zeroes it.
 *
 * Threads:  the caller's lock.
 */
#ifndef VMM_GUESTCALL_FRAMES_H
#define VMM_GUESTCALL_FRAMES_H

#include <stdbool.h>
#include <stdint.h>

struct frames_chunk {
	uint64_t used[8];
	uint64_t ever[8]; /* has been in use since the beginning */
	uint16_t nused;
	bool whole; /* in use as one 2 MiB block */
};

struct frames {
	uint64_t npages;
	uint64_t nfree;
	uint32_t nchunks;
	uint32_t nwhole;    /* chunks in use as blocks */
	uint32_t low_small; /* no chunk in use by pages below has room */
	uint32_t low_free;  /* no chunk below is free */
	struct frames_chunk *chunk;
};

/* -ENOMEM, -EINVAL (no pages, or more than 2^32 chunks). */
int frames_init(struct frames *f, uint64_t npages);
void frames_fini(struct frames *f);

/*
 * Up to (want) neighbouring pages, all of which were in use before (*old) or
 * none. Returns how many, at least 1, with the first in *page; 0: none free.
 */
uint32_t frames_take(
    struct frames *f, uint32_t want, uint64_t *page, bool *old);
/* (n) neighbouring free chunks, the highest there are: the first, or -ENOMEM.
 * Takes none. */
int64_t frames_find_chunks(const struct frames *f, uint64_t n);
bool frames_chunk_free(const struct frames *f, uint64_t chunk);
/* Take a free chunk. *old: it was in use before, in part at least. */
void frames_take_chunk(struct frames *f, uint64_t chunk, bool *old);

/* Give back pages taken by frames_take(). */
void frames_give(struct frames *f, uint64_t page, uint64_t n);
void frames_give_chunk(struct frames *f, uint64_t chunk);

#endif /* VMM_GUESTCALL_FRAMES_H */
