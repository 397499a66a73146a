/* SPDX-License-Identifier: MIT */
/*
 * layer_copy: long work on the bytes of layers, for worker threads.
 *
 * Takes descriptors, never a layer_set. In a run, layer is an index into the
 * caller's descriptors, or RUN_ZERO. Reading does not allocate in a layer's
 * holes, so that what a layer costs does not change.
 *
 * Threads:  any; the descriptors must stay open for the time of the call.
 */
#ifndef VMM_LAYER_LAYER_COPY_H
#define VMM_LAYER_LAYER_COPY_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/page/run.h"
#include "vmm/core/err.h"

/* A list of runs, borrowed. */
struct run_list {
	const struct page_run *run;
	size_t n;
};

/* What the runs name, and how the caller and the work watch each other. */
struct layer_job {
	const int *layer_fd; /* borrowed */
	uint32_t nfds;
	const atomic_bool *cancel; /* set: ends soon, -ECANCELED; may be NULL */
	atomic_ullong *progress;   /* pages done are added; may be NULL */
};

struct layer_copied {
	int fd; /* sealed, the caller's, fit for layer_adopt(); -1: no bytes */
	uint64_t npages; /* of it */
};

/*
 * Copy the bytes of (from), which must be a valid list, into a new dense memfd,
 * in order and without gaps, and seal it. Zero runs are skipped. Each run of
 * (to), an array as long as (from) that may be its own, becomes where the run's
 * pages are now: layer 0 and the index there, or still zero.
 *   -EINVAL     a layer number is not below nfds
 *   -ERANGE     the file is shorter than a run says
 *   -EFBIG      more than 2^28 pages in all, or an index beyond
 *   -ECANCELED, -ENOMEM, -EMFILE, -ENFILE, -ENOSPC, errno of pread(2) or
 *   pwrite(2)
 * On failure nothing is left but the contents of (to), which are undefined.
 */
int layer_copy_runs(const struct layer_job *job, struct run_list from,
    struct page_run *to, struct layer_copied *out, struct err *e);

/*
 * Compare what two lists of runs show, byte by byte. Both must cover the same
 * pages in the same order, as two map_walk() over the same ranges do; they
 * need not be cut alike. Calls (fn) with each maximal run of pages whose bytes
 * differ; a negative return of it ends the work and is returned.
 *   -EINVAL     the lists cover different pages; a layer number
 *   -ERANGE, -EFBIG, -ECANCELED, -ENOMEM, errno of pread(2)
 * On failure (fn) may have been called for pages before.
 */
typedef int layer_differ_fn(void *ctx, uint64_t page, uint64_t npages);
int layer_compare_runs(const struct layer_job *job, struct run_list a,
    struct run_list b, layer_differ_fn *fn, void *ctx, struct err *e);

#endif /* VMM_LAYER_LAYER_COPY_H */
