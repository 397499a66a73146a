/* SPDX-License-Identifier: MIT */
/*
 * track: which pages of a view were read, and which were written, exactly.
 *
 * A tracked view is mapped so that the kernel enters one page into the page
 * table for each page that is touched, and no neighbour: private mappings of
 * sealed layers, never of 2 MiB (no file offset is aligned as its address is,
 * which is what older kernels heed, and MADV_NOHUGEPAGE), registered with
 * userfaultfd for write protection, which switches fault-around off; there is
 * no handler, since nothing is ever protected. So what is present tells: a
 * page of the file, or the zero page over a hole, was read; an anonymous page
 * was written. A page that was written is not told as read as well.
 *
 * Threads: the control thread.
 */
#ifndef VMM_PLACE_TRACK_H
#define VMM_PLACE_TRACK_H

#include <stddef.h>
#include <stdint.h>

#include "shared/page/run.h"
#include "vmm/core/err.h"

/* UFFDIO_REGISTER, the one request of ioctl(2) that a tracked view makes. */
#define TRACK_REQUEST 0xc020aa00UL

/*
 * The userfaultfd that tracked views are registered with; the caller's to
 * close. Before the process is confined. -errno: this host or its policy does
 * not have it, and then no view can be tracked.
 */
int track_open(void);

/*
 * By how many pages, below LEAF_NPAGES, the address of a view of these runs
 * must be off an alignment to LEAF_SIZE for no part of it to be mapped by 2
 * MiB; or -ENOTSUP, when it has too many long runs for that.
 */
int track_offset(const struct page_run *runs, size_t nruns);

/*
 * Prepare [hva, hva + len), mapped and not yet touched. Where the host swaps,
 * a page that was read could be forgotten: then it is also locked as it is
 * touched. -ENOMEM (the limit on locked memory), errors of the kernel.
 */
int track_range(int uffd, unsigned char *hva, size_t len, struct err *e);

#endif /* VMM_PLACE_TRACK_H */
