/* SPDX-License-Identifier: MIT */
/*
 * frames: which pages of segment 0 are in use.
 *
 * Memory is dealt out in chunks of 2 MiB, the lowest free one first: whole, or
 * page by page. A page or chunk that was in use before may hold old bytes and
 * is reported as such; the caller zeroes it.
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
	uint32_t low_small; /* no chunk in use by pages below has room */
	uint32_t low_free;  /* no chunk below is free */
	struct frames_chunk *chunk;
};

/* -ENOMEM; (npages) at least 1. */
int frames_init(struct frames *f, uint64_t npages);
void frames_fini(struct frames *f);

/*
 * Up to (want) neighbouring pages, all of which were in use before (*old) or
 * none. Returns how many, at least 1, with the first in *page; 0: none free.
 */
uint32_t frames_take(
    struct frames *f, uint32_t want, uint64_t *page, bool *old);
/* A whole, aligned chunk: its first page, or -ENOMEM. */
int frames_take_chunk(struct frames *f, uint64_t *page, bool *old);

/* Give back pages taken by frames_take(). */
void frames_give(struct frames *f, uint64_t page, uint64_t n);
void frames_give_chunk(struct frames *f, uint64_t page);

#endif /* VMM_GUESTCALL_FRAMES_H */
