/* SPDX-License-Identifier: MIT */
/*
 * gmem: guest-physical memory; the one place where a guest address becomes
 * host memory, with its length.
 *
 * A table of banks [gpa, gpa + len), each backed by host memory at (hva) in
 * one KVM memslot. Monitor writes announce themselves to the bank's owner, as
 * KVM's dirty log does not see them.
 *
 * Threads:  banks change on the control thread only, under a closed gate or
 *           before the first vCPU runs; reads and writes of memory from inside
 *           the gate.
 */
#ifndef VMM_MEM_GMEM_H
#define VMM_MEM_GMEM_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/core/err.h"

#define GMEM_BANKS_MAX 64

/* Guest-physical layout. */
#define GMEM_SYS_GPA    0x0ULL            /* the monitor's own: tables, stubs */
#define GMEM_RAM_GPA    0x100000000ULL    /* segment 0: 4 GiB */
#define GMEM_RAM_MAX    0xf00000000ULL    /* 60 GiB */
#define GMEM_PLACES_GPA 0x1000000000ULL   /* 64 GiB: segments and views */
#define GMEM_END        0x400000000000ULL /* 64 TiB: the window shows no more */

struct gmem_bank {
	uint64_t gpa;
	uint64_t len; /* bytes; 0: free */
	unsigned char *hva;
	bool readonly; /* KVM_MEM_READONLY */
	bool logged;   /* KVM_MEM_LOG_DIRTY_PAGES */
	/* The monitor is about to write these pages of the bank. May be NULL.
	 */
	void (*wrote)(void *ctx, uint64_t page, uint64_t npages);
	void *ctx;
};

struct gmem {
	int vm_fd;
	uint64_t gpa_end; /* beyond it the CPU or the window has no address */
	struct gmem_bank bank[GMEM_BANKS_MAX]; /* index is the KVM slot */
};

void gmem_init(struct gmem *g, int vm_fd, unsigned phys_bits);

/*
 * Put (b) at its address and tell KVM. All page-aligned. Returns the slot, or
 *   -EINVAL (alignment, empty), -ERANGE (wraps, or beyond gpa_end), -EEXIST
 *   (overlaps a bank), -ENOSPC (no bank free), an error of KVM.
 * On failure nothing changed.
 */
int gmem_add(struct gmem *g, const struct gmem_bank *b, struct err *e);

/* Take a bank away. The host memory is the caller's still. */
int gmem_del(struct gmem *g, uint32_t slot, struct err *e);

/* Turn KVM's dirty log of a bank on or off. -errno of KVM. */
int gmem_log(struct gmem *g, uint32_t slot, bool on, struct err *e);

/* A free address for (len) bytes, aligned to LEAF_SIZE, at or above
 * GMEM_PLACES_GPA; 0: none. */
uint64_t gmem_find(const struct gmem *g, uint64_t len);

/* The slot that holds all of [gpa, gpa + len), or -ERANGE. */
int gmem_slot_of(const struct gmem *g, uint64_t gpa, uint64_t len);

/*
 * Copy between (buf) and guest memory. A range may span neighbouring banks.
 * -EFAULT when any byte of it is not backed (nothing was copied), -EACCES when
 * it writes to a read-only bank (nothing was copied).
 */
int gmem_read(const struct gmem *g, uint64_t gpa, void *buf, uint64_t len);
int gmem_write(struct gmem *g, uint64_t gpa, const void *buf, uint64_t len);
int gmem_zero(struct gmem *g, uint64_t gpa, uint64_t len);

#endif /* VMM_MEM_GMEM_H */
