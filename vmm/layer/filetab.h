/* SPDX-License-Identifier: MIT */
/*
 * filetab: from runs that name (layer, index) to runs that name (file, page).
 *
 * What reads bytes or hands out descriptors first collects the layers that its
 * runs name, then looks them up and holds their files, then translates. The
 * table then numbers just the files that are touched, and goes on being right
 * while layers are moved to other files. Cost is in proportion to the runs and
 * to the pieces of the layers that they name, whatever else the set has.
 *
 *   filetab_want()  any thread, as often as needed
 *   filetab_fill()  the set's thread, once
 *   filetab_runs()  any thread
 *   filetab_free()  the set's thread; of a zeroed table: nothing
 */
#ifndef VMM_LAYER_FILETAB_H
#define VMM_LAYER_FILETAB_H

#include <stddef.h>
#include <stdint.h>

#include "shared/page/run.h"
#include "vmm/layer/layer.h"

struct filetab_layer; /* a layer and its pieces */

/* Zero it to begin with. */
struct filetab {
	struct layer_set *set; /* whose files are held, or NULL */
	int *fd;               /* of the files, by their numbers here */
	uint32_t *file;        /* their numbers in the set */
	uint32_t nfiles;
	uint32_t nlayers;
	struct filetab_layer *layer; /* sorted by id */
	struct layer_piece *piece;   /* theirs; file is the number here */
	uint32_t *want;              /* a hash set of ids, 0: free */
	uint32_t nwant;
	uint32_t want_cap;
};

/* Note the layers that (run) names. 0, -ENOMEM or -EPROTO (layer 0). */
int filetab_want(struct filetab *t, const struct page_run *run, size_t n);

/*
 * Look up what was wanted, and hold the files. -EPROTO: a layer is not there;
 * -EBUSY: one is owned, and to be sealed first; -ENOMEM. On failure the table
 * is to be freed.
 */
int filetab_fill(struct filetab *t, struct layer_set *set);

/*
 * The same pages, as runs that name files by their numbers in (t), from the
 * heap in *out. Runs are split where pieces end and joined where files go on.
 *   -EPROTO  a layer was not wanted, or has no piece there
 *   -E2BIG   more than (max) runs
 *   -ENOMEM
 * On failure there is no list.
 */
int filetab_runs(const struct filetab *t, const struct page_run *run, size_t n,
    size_t max, struct page_run **out, size_t *nout);

void filetab_free(struct filetab *t);

#endif /* VMM_LAYER_FILETAB_H */
