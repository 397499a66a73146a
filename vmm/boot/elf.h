/* SPDX-License-Identifier: MIT */
/*
 * elf: what a static x86-64 ELF program says about itself, checked.
 *
 * A file is hostile input. The headers are copied in once and checked whole;
 * what comes out is a plan that can be acted on without looking at the file's
 * headers again. No effects.
 *
 * Threads: any; pure but for pread(2) of the descriptor.
 */
#ifndef VMM_BOOT_ELF_H
#define VMM_BOOT_ELF_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/core/err.h"

#define ELF_PHDRS_MAX 64u
#define ELF_LOADS_MAX 16u
#define ELF_FILE_MAX  (4ULL << 30)

/* Where programs may be: above the null guard, below what the kernel uses. */
#define ELF_VA_MIN 0x10000ULL
#define ELF_VA_MAX 0x0a0000000000ULL
/* Where a static-PIE program is put. */
#define ELF_PIE_BASE 0x555555554000ULL

enum elf_prot { ELF_R = 4, ELF_W = 2, ELF_X = 1 };

/* One PT_LOAD: bytes [off, off + filesz) of the file at va, then zeroes up to
 * va + memsz. va and off agree modulo the page size. */
struct elf_load {
	uint64_t va; /* where it is to be, bias added */
	uint64_t off;
	uint64_t filesz;
	uint64_t memsz;
	uint32_t prot; /* enum elf_prot; never W and X */
};

struct elf_plan {
	uint64_t entry;
	uint64_t bias; /* added to every address of the file; 0 for ET_EXEC */
	uint64_t
	    phdr_va; /* where the program finds its own phdrs; 0: nowhere */
	uint32_t phnum;
	uint32_t nloads;
	uint64_t
	    end; /* page-aligned end of the highest load: brk begins here */
	uint64_t npages;                     /* that the loads cover */
	struct elf_load load[ELF_LOADS_MAX]; /* ascending, on distinct pages */
};

/*
 * Read and check the program in (fd), for a memory of (mem_npages) pages.
 * Returns 0 with *out, or -ENOEXEC with a reason that names what is wrong (not
 * ELF, 32-bit, another machine, big-endian, not executable, dynamic, truncated,
 * writable and executable, overlapping, bad addresses or sizes, too many
 * headers, larger than the memory), -EFBIG (ELF_FILE_MAX), or an errno of
 * fstat(2) or pread(2).
 */
int elf_read(int fd, uint64_t mem_npages, struct elf_plan *out, struct err *e);

#endif /* VMM_BOOT_ELF_H */
