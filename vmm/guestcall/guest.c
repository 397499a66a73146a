/* SPDX-License-Identifier: MIT */
#include "vmm/guestcall/sysbank.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "guest/kernel/kernel.h"
#include "shared/page/run.h"

_Static_assert(AS_WINDOW_END - FIRN_WINDOW == GMEM_END,
    "the window shows all guest-physical memory");

/* Flags that a program may set for itself: the arithmetic ones, TF, DF, NT, AC,
 * ID. */
#define FLAGS_USER   0x244dd5ULL
#define FLAGS_ALWAYS 0x2ULL

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

static int op_window(void *ctx, uint64_t gpa, bool *readonly, uint64_t *end)
{
	struct guest *g = ctx;
	const struct gmem_bank *b = g->env.gmem->bank;
	int slot;

	if (gpa < GMEM_PLACES_GPA)
		return -EFAULT;
	slot = gmem_slot_of(g->env.gmem, gpa, 1);
	if (slot < 0)
		return -EFAULT;
	*readonly = b[slot].readonly;
	*end = b[slot].gpa + b[slot].len;
	return 0;
}

/* --- begin and end -------------------------------------------------------- */

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
	    .ram_gpa = g->ram_gpa,
	    .ram_npages = info.npages,
	};
	sys_tables(g, &m);
	r = as_init(&g->as, &g->as_ops, &m);
	if (r < 0)
		return err_set(e, r, "guest: no memory for its frame table");
	sys_fill(g);
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
	if (sys_make(g, e) < 0 || files_init(g, e) < 0) {
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
	sys_free(g);
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
	sys_start(start);
	start->cr3 = g->as.pg.gpa;
	return load_program(g, elf_fd, argv, envp, start, e);
}

/* --- what the program does ------------------------------------------------ */

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
	    .nr = (uint32_t)r->gpr[RAX], /* as Linux */
	    .a = {r->gpr[RDI], r->gpr[RSI], r->gpr[RDX], r->gpr[R10],
		r->gpr[R8], r->gpr[R9]},
	    .end = end,
	};
	int64_t ret;

	g->nsyscalls++;
	/* What is mapped may change: the same fault may be another one now. */
	g->again[cpu].times = 0;
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
		r->rip = sys_call_return();
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
		return guest_trap(g, cpu, port - KERNEL_PORT_TRAP, r, end);
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
		rp->done = x->is_write;
		rp->verb = x->is_write ? "write to" : "read of";
		if (x->gpa >= GMEM_PLACES_GPA) {
			rp->has_address = true;
			rp->address = FIRN_WINDOW + x->gpa;
		}
		break;
	case VCPU_PORT_READ:
		(void)snprintf(
		    rp->why, sizeof(rp->why), "read of I/O port %#x", x->port);
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
