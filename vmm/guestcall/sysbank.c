/* SPDX-License-Identifier: MIT */
#include "vmm/guestcall/sysbank.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "guest/kernel/kernel.h"
#include "shared/page/run.h"

/* GMEM_SYS_GPA + these. */
#define SYS_LEN     (64ULL << 20)
#define SYS_GDT     0x1000u
#define SYS_TSS     0x2000u
#define SYS_IDT     0x3000u
#define SYS_TRAPS   0x4000u
#define SYS_STUB    0x5000u
#define SYS_STACKS  0x8000u /* one page for each vCPU */
#define SYS_TABLES  0x100000u
#define SYS_NTABLES ((uint32_t)((SYS_LEN - SYS_TABLES) / PAGE_SIZE))

/* Where the kernel's pages are in every address space. */
#define KERNEL_VA     0xffffffff80000000ULL

#define SEL_KERNEL_CS 0x10u
#define SEL_USER_SS   0x2bu
#define SEL_USER_CS   0x33u
#define SEL_TSS       0x40u
#define GDT_LIMIT     0x4fu

#define TSS_STRIDE    128u
#define TSS_BITMAP    104u /* offset of the I/O bitmap: ports 0 to 55 */
#define TSS_LIMIT     (TSS_BITMAP + 7u)
#define IST_LEN       1024u /* at the low end of a vCPU's stack page */

/* What `syscall` clears: TF, IF, DF, IOPL, NT, AC. */
#define FLAGS_MASK 0x47700ULL

#define VECTOR_DF  8u

static void put64(struct guest *g, uint64_t off, uint64_t v)
{
	memcpy(g->sys + off, &v, sizeof(v));
}

static void fill_gdt(struct guest *g)
{
	uint64_t tss = KERNEL_VA + SYS_TSS;

	put64(g, SYS_GDT + 0x10, 0x00af9b000000ffffULL); /* kernel code */
	put64(g, SYS_GDT + 0x18, 0x00cf93000000ffffULL); /* kernel data */
	put64(g, SYS_GDT + 0x28, 0x00cff3000000ffffULL); /* user data */
	put64(g, SYS_GDT + 0x30, 0x00affb000000ffffULL); /* user code */
	put64(g, SYS_GDT + SEL_TSS,
	    TSS_LIMIT | (tss & 0xffffff) << 16 | 0x8bULL << 40 |
		(tss >> 24 & 0xff) << 56);
	put64(g, SYS_GDT + SEL_TSS + 8, tss >> 32);
}

static void fill_tss(struct guest *g, uint32_t cpu)
{
	uint64_t tss = SYS_TSS + cpu * TSS_STRIDE;
	uint64_t stack = KERNEL_VA + SYS_STACKS + cpu * PAGE_SIZE;
	uint16_t bitmap = TSS_BITMAP;

	put64(g, tss + 4, stack + PAGE_SIZE); /* RSP0 */
	put64(g, tss + 36, stack + IST_LEN);  /* IST1 */
	memcpy(g->sys + tss + 102, &bitmap, sizeof(bitmap));
	memset(g->sys + tss + TSS_BITMAP, 0xff, TSS_LIMIT + 1 - TSS_BITMAP);
	g->sys[tss + TSS_BITMAP + KERNEL_PORT_SYSCALL / 8] =
	    (unsigned char)~(1u << KERNEL_PORT_SYSCALL % 8);
}

static void fill_idt(struct guest *g)
{
	for (uint32_t v = 0; v < KERNEL_NTRAPS; v++) {
		uint64_t at =
		    KERNEL_VA + SYS_TRAPS + (uint64_t)v * KERNEL_TRAP_LEN;
		/* The program itself may raise #BP and #OF. */
		uint64_t dpl = v == 3 || v == 4 ? 3 : 0;
		uint64_t ist = v == VECTOR_DF ? 1 : 0;
		uint64_t gate = SYS_IDT + (uint64_t)v * 16;

		put64(g, gate,
		    (at & 0xffff) | (uint64_t)SEL_KERNEL_CS << 16 | ist << 32 |
			(0x8eULL | dpl << 5) << 40 | (at >> 16 & 0xffff) << 48);
		put64(g, gate + 8, at >> 32);
	}
}

static void map_kernel(struct guest *g, uint32_t off, uint64_t bits)
{
	uint64_t *pte = pg_pte(&g->as.pg, KERNEL_VA + off, true);

	*pte = (GMEM_SYS_GPA + off) | PTE_P | PTE_A | PTE_D | bits;
}

void sys_fill(struct guest *g)
{
	memcpy(g->sys + SYS_TRAPS, kernel_traps,
	    (uintptr_t)kernel_traps_end - (uintptr_t)kernel_traps);
	memcpy(g->sys + SYS_STUB, kernel_syscall,
	    (uintptr_t)kernel_syscall_end - (uintptr_t)kernel_syscall);
	fill_gdt(g);
	fill_idt(g);
	map_kernel(g, SYS_GDT, PTE_W | PTE_NX);
	map_kernel(g, SYS_TSS, PTE_W | PTE_NX);
	map_kernel(g, SYS_IDT, PTE_NX);
	map_kernel(g, SYS_TRAPS, 0);
	map_kernel(g, SYS_STUB, PTE_U);
	for (uint32_t i = 0; i < GUEST_CPUS_MAX; i++) {
		fill_tss(g, i);
		map_kernel(
		    g, SYS_STACKS + i * (uint32_t)PAGE_SIZE, PTE_W | PTE_NX);
	}
}

int sys_make(struct guest *g, struct err *e)
{
	struct gmem_bank bank = {.gpa = GMEM_SYS_GPA, .len = SYS_LEN};
	void *p = mmap(NULL, SYS_LEN, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return err_set(e, -ENOMEM, "guest kernel: no address space");
	bank.hva = p;
	g->sys = p;
	g->sys_slot = gmem_add(g->env.gmem, &bank, e);
	return g->sys_slot < 0 ? g->sys_slot : 0;
}

void sys_free(struct guest *g)
{
	if (g->sys_slot >= 0)
		(void)gmem_del(g->env.gmem, (uint32_t)g->sys_slot, NULL);
	if (g->sys)
		(void)munmap(g->sys, SYS_LEN);
}

void sys_tables(const struct guest *g, struct as_memory *m)
{
	m->tables = g->sys + SYS_TABLES;
	m->tables_gpa = GMEM_SYS_GPA + SYS_TABLES;
	m->ntables = SYS_NTABLES;
}

void sys_start(struct cpu_start *start)
{
	*start = (struct cpu_start){
	    .gdt = KERNEL_VA + SYS_GDT,
	    .idt = KERNEL_VA + SYS_IDT,
	    .tss = KERNEL_VA + SYS_TSS,
	    .gdt_limit = GDT_LIMIT,
	    .idt_limit = KERNEL_NTRAPS * 16 - 1,
	    .tss_limit = TSS_LIMIT,
	    .tss_sel = SEL_TSS,
	    .user_cs = SEL_USER_CS,
	    .user_ss = SEL_USER_SS,
	    .star = 0x23ULL << 48 | (uint64_t)SEL_KERNEL_CS << 32,
	    .lstar = KERNEL_VA + SYS_STUB,
	    .fmask = FLAGS_MASK,
	};
}

int sys_read_stack(const struct guest *g, uint32_t cpu, uint64_t rsp,
    uint64_t *words, uint32_t n)
{
	uint64_t base = KERNEL_VA + SYS_STACKS + cpu * PAGE_SIZE;
	uint64_t len = n * sizeof(*words);

	if (cpu >= GUEST_CPUS_MAX || rsp < base || rsp % 8 ||
	    rsp > base + PAGE_SIZE - len)
		return -EINVAL;
	memcpy(words, g->sys + (rsp - KERNEL_VA), len);
	return 0;
}

uint64_t sys_call_return(void)
{
	return KERNEL_VA + SYS_STUB + KERNEL_OUT_LEN;
}

uint64_t sys_trap_return(uint32_t vector)
{
	return KERNEL_VA + SYS_TRAPS + (uint64_t)vector * KERNEL_TRAP_LEN +
	       KERNEL_OUT_LEN;
}
