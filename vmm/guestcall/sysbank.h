/* SPDX-License-Identifier: MIT */
/*
 * sysbank: the memory that the guest's kernel needs, beside the program's: the
 * descriptor tables, the stubs, a stack for each vCPU, room for page tables.
 *
 * Hides:    where in it what is, and at which address the guest sees it.
 * Threads:  sys_read_stack() by the thread of vCPU (cpu), all else before any
 *           runs.
 */
#ifndef VMM_GUESTCALL_SYSBANK_H
#define VMM_GUESTCALL_SYSBANK_H

#include "vmm/guestcall/internal.h"

/* Zeroed, at GMEM_SYS_GPA. -ENOMEM, or as gmem_add(). */
int sys_make(struct guest *g, struct err *e);
/* Also when sys_make() failed. */
void sys_free(struct guest *g);

/* The part of (m) that is the bank's. */
void sys_tables(const struct guest *g, struct as_memory *m);
/* Write all that the CPU looks up, and map it into g's address space. */
void sys_fill(struct guest *g);
/* What a vCPU must know of it; all else of *start is zero. */
void sys_start(struct cpu_start *start);

/* The (n) words at (rsp) on the stack of vCPU (cpu); -EINVAL: not on it. */
int sys_read_stack(const struct guest *g, uint32_t cpu, uint64_t rsp,
    uint64_t *words, uint32_t n);
/* Where the stub of `syscall`, and that of a trap, go on after they rang. */
uint64_t sys_call_return(void);
uint64_t sys_trap_return(uint32_t vector);

#endif /* VMM_GUESTCALL_SYSBANK_H */
