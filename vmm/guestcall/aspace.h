/* SPDX-License-Identifier: MIT */
/*
 * aspace: the program's virtual address space.
 *
 * What is mapped where (areas.h), which page of segment 0 is behind it
 * (frames.h), and the page tables (paging.h) that say so to the CPU; entries.h
 * keeps these in step. Anonymous memory comes on demand and reads zero. The
 * window shows the memory of segments and views.
 *
 * Large mappings are made of 2 MiB blocks. They live in a zone of their own,
 * which is an image of segment 0: the address says which chunk it is, as a
 * slot of the address space may not show one block first and another later.
 *
 * Where a 2 MiB block is in use, protection is that of the block: a part that
 * was unmapped reads zero instead of faulting, and a part made stricter stays
 * as permissive as the rest. Nothing is ever writable and executable.
 *
 * Hides:    areas, frames, tables, the cure for stale shadow entries.
 * Threads:  the caller's lock; guest memory is touched through the ops, so from
 *           inside the gate.
 */
#ifndef VMM_GUESTCALL_ASPACE_H
#define VMM_GUESTCALL_ASPACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/abi/guestcall.h"
#include "vmm/guestcall/areas.h"
#include "vmm/guestcall/frames.h"
#include "vmm/guestcall/paging.h"

#define AS_LEN_MAX (1ULL << 40) /* of one request: bounds its time */
/* The user half, less its last page, from which `sysret` could fault. */
#define AS_VA_MIN     0x10000ULL
#define AS_VA_MAX     0x7ffffffff000ULL
#define AS_WINDOW_END 0x500000000000ULL /* 64 TiB of guest-physical memory */
/* Where mappings without an address go. */
#define AS_LARGE_MIN 0x600000000000ULL
#define AS_LARGE_MAX 0x7e0000000000ULL
#define AS_SMALL_MAX 0x7ff000000000ULL
#define AS_STACK_TOP 0x7ffff0000000ULL
#define AS_STACK_LEN (8ULL << 20)
#define AS_AROUND    16u /* pages that one fault brings */

struct as_ops {
	/* Zero [gpa, gpa + len). 0 or -EFAULT. */
	int (*zero)(void *ctx, uint64_t gpa, uint64_t len);
	/* The 2 MiB at (gpa) are about to be touched. */
	void (*back)(void *ctx, uint64_t gpa);
	/* Entries for [gpa, gpa + len) became stricter: have KVM forget what it
	 * derived from them. 0 or -ENOMEM. */
	int (*forget)(void *ctx, uint64_t gpa, uint64_t len);
	/* Is there a segment or view at (gpa)? 0 with *readonly and where it
	 * ends, or -EFAULT. */
	int (*window)(void *ctx, uint64_t gpa, bool *readonly, uint64_t *end);
	void *ctx;
};

struct aspace {
	const struct as_ops *ops;
	struct paging pg;
	struct frames frames;
	uint64_t ram_gpa;
	struct areas areas;
	uint64_t brk_start;
	uint64_t brk;
};

/* What an address space is made of. */
struct as_memory {
	void *tables; /* zeroed pages for tables */
	uint64_t tables_gpa;
	uint32_t ntables;
	uint64_t ram_gpa; /* segment 0 */
	uint64_t ram_npages;
};

/* As frames_init(). */
int as_init(
    struct aspace *as, const struct as_ops *ops, const struct as_memory *m);
void as_fini(struct aspace *as);

/*
 * Lay an anonymous area at exactly [va, va + len), page-aligned, over whatever
 * was there. -EINVAL (alignment, empty, outside the user's range), -EACCES (W
 * and X), -ENOMEM (too many areas, memory promised away, a slot of the large
 * zone whose chunk is in use).
 */
int as_map_fixed(
    struct aspace *as, uint64_t va, uint64_t len, uint32_t prot, bool stack);
/* The same where there is room, near (hint) when that is free; -ENOMEM. */
int as_map(struct aspace *as, uint64_t hint, uint64_t len, uint32_t prot,
    uint64_t *va);
/* Is any of [va, va + len) in an area? */
bool as_used(const struct aspace *as, uint64_t va, uint64_t len);
/* -EINVAL, -ENOMEM (too many areas). */
int as_unmap(struct aspace *as, uint64_t va, uint64_t len);
/* -EINVAL, -EACCES (W and X, also of the parts of one 2 MiB block), -ENOMEM (a
 * hole in the range, or as as_map_fixed()). */
int as_protect(struct aspace *as, uint64_t va, uint64_t len, uint32_t prot);
/* The range reads zero again. -EINVAL, -ENOMEM (a hole), -EFAULT. */
int as_zero(struct aspace *as, uint64_t va, uint64_t len);
/* Move the end of the heap to (want) where possible; the end as it is then. */
uint64_t as_brk(struct aspace *as, uint64_t want);
/* Grow the area at [va, va + old) to (len) in place; -ENOMEM. */
int as_grow(struct aspace *as, uint64_t va, uint64_t old, uint64_t len);

/*
 * The program touches (va) for (access), one of enum as_prot. 0: it may now;
 * -EFAULT (nothing is there), -EACCES (not in this way), -ENOMEM (no page of
 * memory or of tables left).
 */
int as_touch(struct aspace *as, uint64_t va, uint32_t access);
/* The same, and where (va) is: *gpa, and how many bytes go on from there. */
int as_resolve(struct aspace *as, uint64_t va, uint32_t access, uint64_t *gpa,
    uint64_t *room);
/* Where (va) is, if it is present, whatever its protection; -EFAULT. */
int as_peek(struct aspace *as, uint64_t va, uint64_t *gpa, uint64_t *room);
/* The area that holds (va); NULL. */
const struct as_area *as_find(const struct aspace *as, uint64_t va);

/*
 * Make the window's entries for a view at [gpa, gpa + len) present ahead of its
 * first touch, as far as AS_FILL_LEN: its reader is spared a fault for each
 * 2 MiB. What is left comes on demand.
 */
#define AS_FILL_LEN (8ULL << 30)
void as_window_fill(struct aspace *as, uint64_t gpa, uint64_t len);

/* Take the window's entries for [gpa, gpa + len) away. */
void as_window_gone(struct aspace *as, uint64_t gpa, uint64_t len);

#endif /* VMM_GUESTCALL_ASPACE_H */
