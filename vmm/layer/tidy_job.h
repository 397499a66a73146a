/* SPDX-License-Identifier: MIT */
/*
 * tidy_job: the parts of a job that tidy.h describes, for the files that do
 * them: tidy.c begins and ends it, tidy_live.c finds what is reachable of which
 * file, tidy_choose.c chooses files, tidy_copy.c copies them.
 *
 * Threads:  what follows the structures is for whoever runs the job.
 */
#ifndef VMM_LAYER_TIDY_JOB_H
#define VMM_LAYER_TIDY_JOB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/layer/layer_copy.h"
#include "vmm/layer/tidy.h"
#include "vmm/map/runs.h"

/* A file as it was at the begin. */
struct tidy_file {
	uint32_t file;
	uint64_t npages;
	uint64_t used;   /* pages that the kernel has for it */
	uint64_t live;   /* pages to be copied, if it is chosen; of an owned
			    one all */
	uint64_t serial; /* 0: what is live of it is not found */
	uint32_t whose;
	int fd;
	bool may_move; /* and is held */
	bool pinned;
	bool chosen;
};

/* A layer as it was at the begin. */
struct tidy_layer {
	uint32_t id;
	bool whole; /* somebody holds it otherwise than by a map */
	bool moves; /* has a piece in a chosen file */
	uint32_t npieces;
	size_t first; /* of its pieces */
	uint32_t nto;
	struct layer_piece *to; /* its pieces afterwards */
};

/* Pages of a layer that are reachable. */
struct tidy_extent {
	uint32_t layer;
	uint32_t index;
	uint32_t npages;
};

struct tidy {
	struct layer_set *set;
	struct map_store *st;
	bool mark;
	struct map_mark maps;
	struct tidy_file *file; /* sorted by number */
	uint32_t nfiles;
	struct tidy_layer *layer; /* sorted by id, once it runs */
	uint32_t nlayers;
	struct layer_piece *piece; /* once it runs, file is the number here */
	size_t npieces;
	struct tidy_extent *extent; /* sorted, apart from each other */
	size_t nextents;
	size_t extents_cap;
	struct runs runs; /* what is copied, in order */
	struct layer_copied copied;
	uint32_t whose; /* what is copied */
	struct tidy_result res;
	const atomic_bool *cancel;
	bool ran;
	int rc;
	struct err e;
};

/* Fill in the extents, the live pages of each file and what the result says of
 * them. -ENOMEM, -ECANCELED. */
int tidy_find_live(struct tidy *t);

typedef int tidy_part_fn(struct tidy *t, struct tidy_layer *l,
    const struct layer_piece *p, uint64_t first, uint64_t npages);

/* Call (fn) for what is reachable of each piece of each layer, in order; the
 * first value that is not 0 ends it. */
int tidy_each_part(struct tidy *t, tidy_part_fn *fn);

/* Which files are rewritten. -ENOMEM. */
int tidy_choose(struct tidy *t);

/* Copy what is reachable of those, and say where each layer's pieces will be.
 * -ENOMEM, or as layer_copy_runs(). */
int tidy_copy(struct tidy *t);

#endif /* VMM_LAYER_TIDY_JOB_H */
