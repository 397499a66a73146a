/* SPDX-License-Identifier: MIT */
/*
 * pagemap: which pages of a private mapping are the process's own, and which
 * it has at all.
 *
 * A page is private when it is anonymous: the copy that a write made over a
 * file's page, or a written page of anonymous memory. Asks by PAGEMAP_SCAN
 * where the kernel has it (6.7), else reads /proc/self/pagemap, which tells a
 * present zero page of anonymous memory as private too.
 *
 * Threads:  any; a page written meanwhile may or may not be told.
 */
#ifndef VMM_MEM_PAGEMAP_H
#define VMM_MEM_PAGEMAP_H

#include <stdint.h>

/* PAGEMAP_SCAN, the one request of ioctl(2) that it makes. */
#define PAGEMAP_REQUEST 0xc0606610UL

/*
 * The private pages of [hva, hva + npages) of the process that opened (fd),
 * its /proc/self/pagemap: sets their bits in (bits), 64 pages a word, leaving
 * the others as they are, and *count to their number. Either may be NULL.
 * Swapped pages count. Returns 0, or -errno of ioctl(2) or pread(2), -EIO when
 * the file ends early; then some bits may have been set.
 */
int pagemap_private(
    int fd, const void *hva, uint64_t npages, uint64_t *bits, uint64_t *count);

/*
 * The same, for both kinds of present pages: sets in (writes) the bits of
 * private ones and in (reads) those of pages of files and of zero pages that
 * anonymous memory shows where it was only read. Exact on every kernel, unless
 * the process has forked. Errors as above.
 */
int pagemap_sets(int fd, const void *hva, uint64_t npages, uint64_t *reads,
    uint64_t *writes);

#endif /* VMM_MEM_PAGEMAP_H */
