/* SPDX-License-Identifier: MIT */
/*
 * lift: what the parts of a freeze share. freeze.c has the order of things;
 * lift_first.c takes a segment's own memory as the layer, lift_later.c copies
 * what is dirty over a base. Threads: control's.
 */
#ifndef VMM_PLACE_LIFT_H
#define VMM_PLACE_LIFT_H

#include <sys/uio.h>

#include "vmm/place/internal.h"

/* Copied with one call, while the search for zeroes has them in the cache. */
#define BATCH_NPAGES 64

struct lift {
	bool first;
	struct page_run *runs;
	size_t nruns;
	size_t runs_max;
	uint64_t dirty;
	/* first */
	uint64_t *data; /* a bit per chunk that has data */
	uint64_t ndata; /* pages of those chunks */
	uint64_t spare; /* chunks that may be filled for fewer extents */
	/* later */
	int fd;             /* the copies; -1: none */
	unsigned char *dst; /* its first pages, mapped */
	uint64_t mapped;    /* pages */
	uint64_t room;      /* pages (fd) is long */
	uint64_t copied;
	/* The last of the copied pages, not yet written to (fd): (nbatch)
	 * stretches of memory, (batched) pages. */
	struct iovec batch[BATCH_NPAGES];
	uint32_t nbatch;
	uint32_t batched;
	/* sever */
	bool sever;
	bool lent; /* (fresh) came from the broker */
	int fresh;
	/* of a tracked view */
	struct place_sets sets;
};

/* --- lift_first.c: a segment never frozen --------------------------------- */

/* Before the pause: find the chunks of (p)'s memfd that have data, fill them,
 * and leave little to unmap. 0 or -errno: nothing but that was done. */
int lift_first_prepare(struct place *p, struct lift *l, struct err *e);
/* Under the pause: the runs, with whatever was added since. */
int lift_first(struct place *p, struct lift *l, struct err *e);
/* Under the pause: map the runs privately in place, holes as anonymous memory.
 * After an error lay_undo(). */
int lay_back_private(struct place *p, const struct lift *l);
/* Show (p) as its memfd again, after a mapping in its place has failed: (why),
 * or -ENOTRECOVERABLE. */
int lay_undo(struct place *p, int why);

/* --- lift_later.c: a place over a base ------------------------------------ */

/* Before the pause: make pending complete, and room for the copies. */
int lift_later_prepare(struct place *p, struct lift *l, struct err *e);
/* Under the pause: copy what is dirty, which is in (taken) then. */
int lift_later(struct place *p, struct lift *l, struct err *e);
/* Lose no bit of a freeze that failed. */
void give_back(struct place *p);
void unmap_copies(struct lift *l);

#endif /* VMM_PLACE_LIFT_H */
