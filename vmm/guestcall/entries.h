/* SPDX-License-Identifier: MIT */
/*
 * entries: the program's page tables brought to what its areas say, and the
 * frames of segment 0 behind them; for aspace.c only.
 *
 * A slot of the large zone is one 2 MiB block: set aside when an area comes to
 * lie there, brought when it is touched, given back when the last area goes.
 * Everywhere else are pages, that come when they are touched.
 *
 * Threads:  as aspace.
 */
#ifndef VMM_GUESTCALL_ENTRIES_H
#define VMM_GUESTCALL_ENTRIES_H

#include "vmm/guestcall/aspace.h"

/* The bits of a leaf entry that permits (prot). */
uint64_t entry_bits(uint32_t prot);

/* Would a 2 MiB block become writable and executable if [start, end) had
 * (prot)? */
bool entries_wx(struct aspace *as, uint64_t start, uint64_t end, uint32_t prot);
/* Blocks to set aside so that all slots of the large zone in [start, end) can
 * be used; -ENOMEM: they cannot be. */
int64_t entries_to_reserve(struct aspace *as, uint64_t start, uint64_t end);
/* Set them aside; entries_to_reserve() said that it can be done. */
void entries_reserve(struct aspace *as, uint64_t start, uint64_t end);

/* The areas of [start, end) are gone. Goes on to the end whatever happens: the
 * last error of as_ops. A frame that KVM did not forget stays taken. */
int entries_drop(struct aspace *as, uint64_t start, uint64_t end);
/* The area [start, end) has (prot) now. As entries_drop(). */
int entries_sync(
    struct aspace *as, uint64_t start, uint64_t end, uint32_t prot);
/* A new area lies at [start, end): of a block there that other areas kept, its
 * part reads zero and becomes accessible. An error of as_ops. */
int entries_settle(
    struct aspace *as, uint64_t start, uint64_t end, uint32_t prot);

/* Where what a touch of (va) may bring with it ends, unless the area does. */
uint64_t entries_around(uint64_t va);
/* What is behind (va) of area (a), which has none. -ENOMEM, -EFAULT. */
int entries_bring(struct aspace *as, const struct as_area *a, uint64_t va);

#endif /* VMM_GUESTCALL_ENTRIES_H */
