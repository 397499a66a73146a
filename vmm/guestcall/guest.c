/* SPDX-License-Identifier: MIT */
#include "vmm/guestcall/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "guest/kernel/kernel.h"
#include "shared/page/run.h"

/* The system bank: GMEM_SYS_GPA + these. */
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

/* Flags that a program may set for itself: the arithmetic ones, TF, DF, NT, AC,
 * ID. */
#define FLAGS_USER   0x244dd5ULL
#define FLAGS_ALWAYS 0x2ULL
/* What `syscall` clears: TF, IF, DF, IOPL, NT, AC. */
#define FLAGS_MASK 0x47700ULL

#define VECTOR_DF  8u
#define VECTOR_GP  13u
#define VECTOR_PF  14u
#define PF_WRITE   2u
#define PF_EXEC    16u
/* So often a fault that should be cured may come again in a row. */
#define AGAIN_MAX 64u

/* --- memory of the program ------------------------------------------------ */

void guest_enter(struct guest *g)
{
	gate_enter(g->env.gate);
	pthread_mutex_lock(&g->lock);
}

void guest_leave(struct guest *g)
{
	pthread_mutex_unlock(&g->lock);
	gate_leave(g->env.gate);
}

/* Into (in), else out of (out). */
struct copy {
	unsigned char *in;
	const unsigned char *out;
	uint32_t access; /* enum as_prot: what the program must be allowed */
};

/* One stretch of memory that is contiguous for the guest: its length. */
static int64_t copy_step(
    struct guest *g, const struct copy *c, uint64_t va, uint64_t len)
{
	uint64_t room;
	uint64_t gpa;
	int r = as_resolve(&g->as, va, c->access, &gpa, &room);

	if (r < 0)
		return -EFAULT;
	len = len < room ? len : room;
	if (c->out == NULL)
		r = gmem_read(g->env.gmem, gpa, c->in, len);
	else
		r = gmem_write(g->env.gmem, gpa, c->out, len);
	return r < 0 ? -EFAULT : (int64_t)len;
}

static int copy(struct guest *g, struct copy c, uint64_t va, uint64_t len)
{
	int64_t n = 0;

	guest_enter(g);
	while (len > 0 && n >= 0) {
		n = copy_step(g, &c, va, len);
		if (n < 0)
			break;
		if (c.out == NULL)
			c.in += n;
		else
			c.out += n;
		va += (uint64_t)n;
		len -= (uint64_t)n;
	}
	guest_leave(g);
	return n < 0 ? (int)n : 0;
}

int guest_copy_in(struct guest *g, void *buf, uint64_t va, uint64_t len)
{
	return copy(g, (struct copy){.in = buf, .access = AS_R}, va, len);
}

int guest_copy_out(struct guest *g, uint64_t va, const void *buf, uint64_t len)
{
	return copy(g, (struct copy){.out = buf, .access = AS_W}, va, len);
}

int guest_store(struct guest *g, uint64_t va, const void *buf, uint64_t len)
{
	return copy(g, (struct copy){.out = buf, .access = AS_R}, va, len);
}

int guest_copy_str(struct guest *g, char *buf, uint64_t va, uint32_t max)
{
	uint32_t done = 0;

	while (done < max) {
		uint64_t in_page = PAGE_SIZE - ((va + done) & (PAGE_SIZE - 1));
		uint32_t n = max - done;
		char *nul;

		if (n > in_page)
			n = (uint32_t)in_page;
		if (guest_copy_in(g, buf + done, va + done, n) < 0)
			return -EFAULT;
		nul = memchr(buf + done, 0, n);
		if (nul)
			return (int)(nul - buf);
		done += n;
	}
	return -ENAMETOOLONG;
}

/* --- what the address space asks of the monitor --------------------------- */

static int op_zero(void *ctx, uint64_t gpa, uint64_t len)
{
	struct guest *g = ctx;

	return gmem_zero(g->env.gmem, gpa, len) < 0 ? -EFAULT : 0;
}

static void op_back(void *ctx, uint64_t gpa)
{
	struct guest *g = ctx;
	struct place_info info;
	struct place *p = g->ram;

	if (gpa < g->ram_gpa || gpa - g->ram_gpa >= g->ram_len)
		p = places_by_gpa(g->env.places, gpa);
	if (!p)
		return;
	place_info(p, &info);
	if (gpa >= info.gpa)
		place_back_chunk(p, (gpa - info.gpa) / PAGE_SIZE);
}

/*
 * KVM drops what it derived from guest page tables when the host's mapping of
 * the data changes. The protection is changed and changed back: nothing is
 * lost, whatever is mapped there.
 */
static int op_forget(void *ctx, uint64_t gpa, uint64_t len)
{
	struct guest *g = ctx;
	int slot = gmem_slot_of(g->env.gmem, gpa, len);
	unsigned char *hva;

	if (slot < 0)
		return -EFAULT;
	hva = g->env.gmem->bank[slot].hva + (gpa - g->env.gmem->bank[slot].gpa);
	if (mprotect(hva, len, PROT_READ) < 0 ||
	    mprotect(hva, len, PROT_READ | PROT_WRITE) < 0)
		return -ENOMEM;
	return 0;
}

static int op_window(void *ctx, uint64_t gpa, bool *readonly)
{
	struct guest *g = ctx;
	int slot;

	if (gpa < GMEM_PLACES_GPA)
		return -EFAULT;
	slot = gmem_slot_of(g->env.gmem, gpa, 1);
	if (slot < 0)
		return -EFAULT;
	*readonly = g->env.gmem->bank[slot].readonly;
	return 0;
}

/* --- the system bank ------------------------------------------------------ */

static void put64(struct guest *g, uint64_t off, uint64_t v)
{
	memcpy(g->sys + off, &v, sizeof(v));
}

static uint64_t get64(const struct guest *g, uint64_t off)
{
	uint64_t v;

	memcpy(&v, g->sys + off, sizeof(v));
	return v;
}

static void fill_gdt(struct guest *g)
{
	uint64_t tss = KERNEL_VA + SYS_TSS;

	put64(g, SYS_GDT + 0x10, 0x00af9b000000ffffULL); /* kernel code */
	put64(g, SYS_GDT + 0x18, 0x00cf93000000ffffULL); /* kernel data */
	put64(g, SYS_GDT + 0x20, 0x00cffb000000ffffULL); /* 32-bit user code */
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

static void fill_sys(struct guest *g)
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

static int add_sys_bank(struct guest *g, struct err *e)
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

static int start_aspace(struct guest *g, struct err *e)
{
	struct place_info info;
	struct as_memory m;
	int r;

	g->ram = places_by_id(g->env.places, 0);
	if (!g->ram)
		return err_set(e, -EINVAL, "guest: there is no segment 0");
	place_info(g->ram, &info);
	g->ram_gpa = info.gpa;
	g->ram_len = info.npages * PAGE_SIZE;
	m = (struct as_memory){
	    .tables = g->sys + SYS_TABLES,
	    .tables_gpa = GMEM_SYS_GPA + SYS_TABLES,
	    .ntables = SYS_NTABLES,
	    .ram_gpa = g->ram_gpa,
	    .ram_npages = info.npages,
	};
	r = as_init(&g->as, &g->as_ops, &m);
	if (r < 0)
		return err_set(e, r, "guest: no memory for its frame table");
	fill_sys(g);
	return 0;
}

struct guest *guest_new(const struct guest_env *env, struct err *e)
{
	struct guest *g = calloc(1, sizeof(*g));

	if (!g) {
		err_set(e, -ENOMEM, "guest: no memory");
		return NULL;
	}
	g->env = *env;
	g->sys_slot = -1;
	g->as_ops = (struct as_ops){
	    .zero = op_zero,
	    .back = op_back,
	    .forget = op_forget,
	    .window = op_window,
	    .ctx = g,
	};
	pthread_mutex_init(&g->lock, NULL);
	pthread_mutex_init(&g->files_lock, NULL);
	if (add_sys_bank(g, e) < 0 || files_init(g) < 0) {
		guest_free(g);
		return NULL;
	}
	return g;
}

void guest_free(struct guest *g)
{
	if (!g)
		return;
	files_fini(g);
	as_fini(&g->as);
	if (g->sys_slot >= 0)
		(void)gmem_del(g->env.gmem, (uint32_t)g->sys_slot, NULL);
	if (g->sys)
		(void)munmap(g->sys, SYS_LEN);
	pthread_mutex_destroy(&g->files_lock);
	pthread_mutex_destroy(&g->lock);
	free(g);
}

int guest_load(struct guest *g, int elf_fd, char *const argv[],
    char *const envp[], struct cpu_start *start, struct err *e)
{
	int r = start_aspace(g, e);

	if (r < 0)
		return r;
	*start = (struct cpu_start){
	    .cr3 = g->as.pg.gpa,
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
	return load_program(g, elf_fd, argv, envp, start, e);
}

/* --- what the program does ------------------------------------------------ */

static const char *const trap_names[KERNEL_NTRAPS] = {
    [0] = "division error (#DE)",
    [1] = "debug trap (#DB)",
    [2] = "non-maskable interrupt",
    [3] = "breakpoint (#BP)",
    [4] = "overflow (#OF)",
    [5] = "bound range exceeded (#BR)",
    [6] = "undefined instruction (#UD)",
    [7] = "device not available (#NM)",
    [8] = "double fault (#DF)",
    [10] = "invalid TSS (#TS)",
    [11] = "segment not present (#NP)",
    [12] = "stack fault (#SS)",
    [13] = "general protection fault (#GP)",
    [14] = "page fault (#PF)",
    [16] = "floating-point error (#MF)",
    [17] = "misaligned access (#AC)",
    [18] = "machine check (#MC)",
    [19] = "SIMD floating-point error (#XM)",
    [21] = "control protection fault (#CP)",
};

static bool has_error_code(uint32_t v)
{
	return v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21 ||
	       v == 29 || v == 30;
}

/* What the CPU pushed on its way into a trap. */
struct frame {
	uint64_t error;
	uint64_t rip, cs, rflags, rsp;
};

static int read_frame(const struct guest *g, uint32_t cpu, uint32_t vector,
    uint64_t rsp, struct frame *f)
{
	uint64_t base = KERNEL_VA + SYS_STACKS + cpu * PAGE_SIZE;
	uint64_t off = rsp - KERNEL_VA;
	/* rip, cs, rflags, rsp, ss */
	uint64_t len = (has_error_code(vector) ? 6 : 5) * sizeof(uint64_t);

	if (cpu >= GUEST_CPUS_MAX || rsp < base || rsp % 8 ||
	    rsp > base + PAGE_SIZE - len)
		return -EINVAL;
	f->error = 0;
	if (has_error_code(vector)) {
		f->error = get64(g, off);
		off += 8;
	}
	f->rip = get64(g, off);
	f->cs = get64(g, off + 8);
	f->rflags = get64(g, off + 16);
	f->rsp = get64(g, off + 24);
	return 0;
}

/* Does the same fault come again and again, though it was cured? */
static bool is_stuck(struct guest *g, uint32_t cpu, uint64_t va, uint64_t rip)
{
	struct guest_again *a = &g->again[cpu];

	if (a->va != va || a->rip != rip)
		*a = (struct guest_again){.va = va, .rip = rip};
	return ++a->times > AGAIN_MAX;
}

static const char *fault_verb(uint64_t error)
{
	if (error & PF_EXEC)
		return "execution of";
	return error & PF_WRITE ? "write to" : "read of";
}

/* 0: cured; otherwise why not. */
static int cure_fault(
    struct guest *g, uint32_t cpu, const struct frame *f, uint64_t va)
{
	uint32_t access = f->error & PF_EXEC    ? AS_X
			  : f->error & PF_WRITE ? AS_W
						: AS_R;
	int r;

	if ((f->cs & 3) != 3)
		return -EFAULT;
	guest_enter(g);
	r = as_touch(&g->as, va, access);
	guest_leave(g);
	if (r == 0 && is_stuck(g, cpu, va, f->rip))
		return -ELOOP;
	return r;
}

static void explain_fault(
    struct guest *g, uint64_t va, int error, struct report *rp)
{
	rp->has_address = true;
	rp->address = va;
	if (va >= FIRN_WINDOW + GMEM_PLACES_GPA && va < AS_WINDOW_END) {
		rp->has_gpa = true;
		rp->gpa = va - FIRN_WINDOW;
	}
	if (error == -ENOMEM) {
		rp->status = 128 + 9;
		(void)snprintf(rp->why, sizeof(rp->why),
		    "out of memory: segment 0 of %llu KiB is used up",
		    (unsigned long long)(g->ram_len / 1024));
		rp->verb = NULL;
	} else if (error == -ELOOP) {
		(void)snprintf(rp->why, sizeof(rp->why),
		    "the same page fault again and again");
		rp->verb = NULL;
	}
}

static enum guest_verdict trap_end(struct guest *g, uint32_t vector,
    const struct cpu_regs *r, const struct frame *f, int error,
    struct guest_end *end)
{
	struct report rp = {
	    .rip = f->rip,
	    .rsp = f->rsp,
	    .rflags = f->rflags,
	    .status = 139,
	};

	if (vector == VECTOR_PF) {
		rp.verb = fault_verb(f->error);
		explain_fault(g, r->cr2, error, &rp);
	} else {
		(void)snprintf(rp.why, sizeof(rp.why), "%s%s",
		    trap_names[vector] ? trap_names[vector] : "reserved trap",
		    (f->cs & 3) == 0      ? " in the guest kernel"
		    : vector == VECTOR_GP ? ": a privileged instruction or a "
					    "non-canonical address"
					  : "");
	}
	report_fault(g, r, &rp, end);
	return GUEST_END;
}

static enum guest_verdict trap(struct guest *g, uint32_t cpu, uint32_t vector,
    struct cpu_regs *r, struct guest_end *end)
{
	struct frame f = {.rip = r->rip, .rsp = r->gpr[RSP]};
	int error = -EFAULT;

	if (read_frame(g, cpu, vector, r->gpr[RSP], &f) < 0)
		return trap_end(g, VECTOR_DF, r, &f, error, end);
	if (vector == VECTOR_PF)
		error = cure_fault(g, cpu, &f, r->cr2);
	if (error < 0)
		return trap_end(g, vector, r, &f, error, end);
	/* On to the `iretq`, past the error code. */
	r->gpr[RSP] += 8;
	r->rip = KERNEL_VA + SYS_TRAPS + (uint64_t)vector * KERNEL_TRAP_LEN +
		 KERNEL_OUT_LEN;
	r->dirty = true;
	return GUEST_GO;
}

static enum guest_verdict bad_return(
    struct guest *g, const struct cpu_regs *r, struct guest_end *end)
{
	struct report rp = {
	    .rip = r->gpr[RCX],
	    .rsp = r->gpr[RSP],
	    .rflags = r->gpr[R11],
	    .status = 139,
	    .has_address = true,
	    .address = r->gpr[RCX],
	    .why = "a system call from an address that no program can have",
	};

	report_fault(g, r, &rp, end);
	return GUEST_END;
}

static enum guest_verdict call(
    struct guest *g, uint32_t cpu, struct cpu_regs *r, struct guest_end *end)
{
	struct guest_call c = {
	    .g = g,
	    .r = r,
	    .cpu = cpu,
	    .nr = r->gpr[RAX],
	    .a = {r->gpr[RDI], r->gpr[RSI], r->gpr[RDX], r->gpr[R10],
		r->gpr[R8], r->gpr[R9]},
	    .end = end,
	};
	int64_t ret;

	g->nsyscalls++;
	if (r->gpr[RCX] >= AS_VA_MAX)
		return bad_return(g, r, end);
	if (c.nr >= FIRN_NR_BASE && c.nr < FIRN_NR_END)
		ret = firn_call(&c);
	else
		ret = linux_call(&c);
	if (c.ended)
		return GUEST_END;
	r->gpr[RAX] = (uint64_t)ret;
	if ((r->cs & 3) == 3) {
		r->rip = r->gpr[RCX];
		r->rflags = (r->gpr[R11] & FLAGS_USER) | FLAGS_ALWAYS;
	} else {
		r->rip = KERNEL_VA + SYS_STUB + KERNEL_OUT_LEN;
	}
	r->dirty = true;
	return GUEST_GO;
}

enum guest_verdict guest_doorbell(struct guest *g, uint32_t cpu, uint16_t port,
    struct cpu_regs *r, struct guest_end *end)
{
	struct report rp = {
	    .rip = r->rip,
	    .rsp = r->gpr[RSP],
	    .rflags = r->rflags,
	    .status = 139,
	};

	if (port == KERNEL_PORT_SYSCALL)
		return call(g, cpu, r, end);
	if (port >= KERNEL_PORT_TRAP &&
	    port < KERNEL_PORT_TRAP + KERNEL_NTRAPS && (r->cs & 3) == 0)
		return trap(g, cpu, port - KERNEL_PORT_TRAP, r, end);
	(void)snprintf(rp.why, sizeof(rp.why), "access to I/O port %#x", port);
	report_fault(g, r, &rp, end);
	return GUEST_END;
}

static void explain_stray(const struct vcpu_exit *x, struct report *rp)
{
	switch (x->kind) {
	case VCPU_STRAY:
		rp->has_gpa = true;
		rp->gpa = x->gpa;
		rp->verb = x->is_write ? "write to" : "read of";
		if (x->gpa >= GMEM_PLACES_GPA) {
			rp->has_address = true;
			rp->address = FIRN_WINDOW + x->gpa;
		}
		break;
	case VCPU_SHUTDOWN:
		rp->regs_lost = true;
		(void)snprintf(rp->why, sizeof(rp->why),
		    "the CPU shut down (triple fault); its registers are lost");
		break;
	case VCPU_INTERNAL:
		(void)snprintf(rp->why, sizeof(rp->why),
		    "KVM cannot execute this instruction here (internal error "
		    "%u): an access to memory that is not there?",
		    x->suberror);
		break;
	default:
		(void)snprintf(rp->why, sizeof(rp->why),
		    "KVM gave up: exit reason %u, error %d", x->reason,
		    x->error);
		break;
	}
}

void guest_stray(struct guest *g, const struct vcpu_exit *x,
    const struct cpu_regs *r, struct guest_end *end)
{
	struct report rp = {
	    .rip = r->rip,
	    .rsp = r->gpr[RSP],
	    .rflags = r->rflags,
	    .status = 139,
	};

	explain_stray(x, &rp);
	report_fault(g, r, &rp, end);
}

void guest_place_gone(struct guest *g, uint64_t gpa, uint64_t len)
{
	pthread_mutex_lock(&g->lock);
	as_window_gone(&g->as, gpa, len);
	pthread_mutex_unlock(&g->lock);
}

void guest_stats(struct guest *g, struct wire_stats *out)
{
	out->syscalls = g->nsyscalls;
	out->enosys = g->nenosys;
}
