/* SPDX-License-Identifier: MIT */
/* Traps of the program: page faults are cured, all others end it. */
#include <errno.h>
#include <stdio.h>

#include "guest/kernel/kernel.h"
#include "vmm/guestcall/sysbank.h"

#define VECTOR_DF 8u
#define VECTOR_GP 13u
#define VECTOR_PF 14u
#define PF_WRITE  2u
#define PF_EXEC   16u
/* So often a fault that should be cured may come again in a row. */
#define AGAIN_MAX 64u

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
	uint64_t error; /* 0 where there is none */
	uint64_t rip, cs, rflags, rsp, ss;
};

static int read_frame(const struct guest *g, uint32_t cpu, uint32_t vector,
    uint64_t rsp, struct frame *f)
{
	uint64_t w[6] = {0};
	uint32_t skip = has_error_code(vector) ? 0 : 1;
	int r = sys_read_stack(g, cpu, rsp, w + skip, 6 - skip);

	if (r < 0)
		return r;
	*f = (struct frame){w[0], w[1], w[2], w[3], w[4], w[5]};
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

/* Pages of its memory, or of the system bank for tables? */
static void explain_no_memory(const struct guest *g, struct report *rp)
{
	const struct paging *pg = &g->as.pg;

	if (pg->used == pg->nframes)
		(void)snprintf(rp->why, sizeof(rp->why),
		    "out of page tables: what it uses is too scattered for %u",
		    pg->nframes);
	else
		(void)snprintf(rp->why, sizeof(rp->why),
		    "out of memory: segment 0 of %llu KiB is used up",
		    (unsigned long long)(g->ram_len / 1024));
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
		explain_no_memory(g, rp);
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

enum guest_verdict guest_trap(struct guest *g, uint32_t cpu, uint32_t vector,
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
	r->rip = sys_trap_return(vector);
	r->dirty = true;
	return GUEST_GO;
}
