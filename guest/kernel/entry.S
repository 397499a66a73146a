/* SPDX-License-Identifier: MIT */
/*
 * Every entry is one `out`, at which the monitor does the work, and a way back.
 * The monitor sets the instruction pointer itself: some hosts report it on the
 * `out`, others past it; where `syscall` did not raise privilege, it goes
 * straight back to the program.
 */
#include "guest/kernel/kernel.h"

	.section .rodata, "a", @progbits
	.code64

	.globl kernel_syscall, kernel_syscall_end
	.hidden kernel_syscall, kernel_syscall_end
	.balign 16
kernel_syscall:
	outb %al, $KERNEL_PORT_SYSCALL
	sysretq
kernel_syscall_end:

	.globl kernel_traps, kernel_traps_end
	.hidden kernel_traps, kernel_traps_end
	.balign KERNEL_TRAP_LEN
kernel_traps:
	.set vector, 0
	.rept KERNEL_NTRAPS
	outb %al, $(KERNEL_PORT_TRAP + vector)
	iretq
	.balign KERNEL_TRAP_LEN, 0xcc
	.set vector, vector + 1
	.endr
kernel_traps_end:

	.section .note.GNU-stack, "", @progbits
