/* SPDX-License-Identifier: MIT */
/*
 * paging: the guest's page tables, which only the monitor writes.
 *
 * On hosts with shadow paging KVM does not see these writes. So: a table frame
 * is never freed or used for anything else; a 2 MiB slot of the address space
 * holds tables only, or 2 MiB entries only, and these always of the same memory
 * (KVM keeps the shadow page that it once made of such an entry); Accessed and
 * Dirty are set beforehand; and whoever makes an entry stricter must have KVM
 * forget the data frames afterwards.
 *
 * Threads:  the caller's lock.
 */
#ifndef VMM_GUESTCALL_PAGING_H
#define VMM_GUESTCALL_PAGING_H

#include <stdbool.h>
#include <stdint.h>

#define PTE_P     (1ULL << 0)
#define PTE_W     (1ULL << 1)
#define PTE_U     (1ULL << 2)
#define PTE_A     (1ULL << 5)
#define PTE_D     (1ULL << 6)
#define PTE_PS    (1ULL << 7)
#define PTE_HUGE  (1ULL << 9)  /* ours: this slot is for 2 MiB entries */
#define PTE_FRAME (1ULL << 10) /* ours: holds a frame, though perhaps not P */
/* ours: memory is set aside for this slot, which nobody touched yet */
#define PTE_RESERVED (1ULL << 11)
#define PTE_OLD      (1ULL << 52) /* ours, with RESERVED: holds old bytes */
#define PTE_NX       (1ULL << 63)
#define PTE_GPA      0x000ffffffffff000ULL

struct paging {
	uint64_t *mem; /* the frames for tables */
	uint64_t gpa;  /* where the guest sees them */
	uint32_t nframes;
	uint32_t used;
};

/* The first frame becomes the root: cr3 is (gpa). (mem) is zeroed memory. */
void pg_init(struct paging *p, void *mem, uint64_t gpa, uint32_t nframes);

/* The page directory entry of (va); NULL where there is none and (create) is
 * not set, or no frame is left. */
uint64_t *pg_pde(struct paging *p, uint64_t va, bool create);
/* The page table entry of (va); NULL also in a slot for 2 MiB entries. */
uint64_t *pg_pte(struct paging *p, uint64_t va, bool create);

/* The entry that holds (va)'s frame; NULL. *len: the size of the frame, or how
 * much around (va), aligned, has none. */
uint64_t *pg_find(struct paging *p, uint64_t va, uint64_t *len);

#endif /* VMM_GUESTCALL_PAGING_H */
