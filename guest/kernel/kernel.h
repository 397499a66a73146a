/* SPDX-License-Identifier: MIT */
/*
 * kernel: where the guest kernel is and which ports it rings. For C and
 * assembly.
 *
 * The guest kernel is two pages of machine code that the monitor carries as
 * data and copies into the system bank: the entry of `syscall`, which user code
 * may read and execute as some hosts do not raise privilege there, and one
 * entry for each trap.
 */
#ifndef GUEST_KERNEL_KERNEL_H
#define GUEST_KERNEL_KERNEL_H

#define KERNEL_PORT_SYSCALL 0x10 /* the one port that CPL 3 may ring */
#define KERNEL_PORT_TRAP    0x20 /* + vector; CPL 0 only */
#define KERNEL_NTRAPS       32
#define KERNEL_TRAP_LEN     16 /* bytes of one entry */
#define KERNEL_OUT_LEN      2  /* of the `out` that begins every entry */

#ifndef __ASSEMBLER__
#pragma GCC visibility push(hidden)
extern const unsigned char kernel_syscall[];
extern const unsigned char kernel_syscall_end[];
extern const unsigned char kernel_traps[]; /* KERNEL_NTRAPS entries */
extern const unsigned char kernel_traps_end[];
#pragma GCC visibility pop
#endif

#endif /* GUEST_KERNEL_KERNEL_H */
