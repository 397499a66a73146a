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
#include <stdint.h>

#include "shared/page/run.h"
#include "vmm/core/err.h"

/* How the caller and the work watch each other. Both members may be NULL. */
struct layer_job {
	const atomic_bool *cancel; /* set: the work ends soon with -ECANCELED */
	atomic_ullong *progress;   /* pages done, from 0 */
};

struct layer_copied {
	int fd; /* sealed, the caller's, fit for layer_adopt(); -1: no bytes */
	uint64_t npages; /* of it */
};

/*
 * Copy the bytes of (runs), which must be valid, into a new dense memfd, in
 * order and without gaps, and seal it. Zero runs are skipped. Each run of (to),
 * an array of (n) that may be (runs) itself, becomes where the run's pages are
 * now: layer 0 and the index there, or still zero. (job) may be NULL.
 *   -EINVAL     a layer number is not below (nfds)
 *   -ERANGE     the file is shorter than a run says
 *   -EFBIG      more than 2^28 pages in all
 *   -ECANCELED, -ENOMEM, -EMFILE, -ENFILE, -ENOSPC, errno of pread(2) or
 *   pwrite(2)
 * On failure nothing is left but the contents of (to), which are undefined.
 */
int layer_copy_runs(const struct page_run *runs, size_t n, const int *layer_fd,
    uint32_t nfds, struct page_run *to, const struct layer_job *job,
    struct layer_copied *out, struct err *e);

/*
 * Compare what two lists of runs show, byte by byte. Both must cover the same
 * pages in the same order, as two map_walk() over the same ranges do; they
 * need not be cut alike. Calls (fn) with each maximal run of pages whose bytes
 * differ; a negative return of it ends the work and is returned.
 *   -EINVAL     the lists cover different pages; a layer number; -EFBIG
 *   -ERANGE, -ECANCELED, -ENOMEM, errno of pread(2)
 */
typedef int layer_differ_fn(void *ctx, uint64_t page, uint64_t npages);
int layer_compare_runs(const struct page_run *a, size_t na,
    const struct page_run *b, size_t nb, const int *layer_fd, uint32_t nfds,
    const struct layer_job *job, layer_differ_fn *fn, void *ctx, struct err *e);

#endif /* VMM_LAYER_LAYER_COPY_H */
