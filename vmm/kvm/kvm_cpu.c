/* SPDX-License-Identifier: MIT */
#include "vmm/kvm/kvm_cpu.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/core/cleanup.h"
#include "vmm/kvm/cpuid.h"

/* PG WP NE ET MP PE */
#define START_CR0 0x80050033ULL
/* OSXSAVE FSGSBASE OSXMMEXCPT OSFXSR PGE PAE; no SMEP: some hosts enter the
 * user-executable entry code at CPL 0, others at CPL 3. */
#define START_CR4 0x506a0ULL
/* NXE LMA LME SCE */
#define START_EFER   0xd01ULL

#define MSR_STAR     0xc0000081u
#define MSR_LSTAR    0xc0000082u
#define MSR_FMASK    0xc0000084u

#define RFLAGS_FIXED 0x2ULL

static int set_cpuid_and_xcr0(int fd, const struct kvm_cpuid2 *cpuid)
{
	struct kvm_xcrs x = {.nr_xcrs = 1};

	if (ioctl(fd, KVM_SET_CPUID2, cpuid) < 0)
		return -errno;
	x.xcrs[0].xcr = 0;
	x.xcrs[0].value = cpuid_xcr0(cpuid);
	return ioctl(fd, KVM_SET_XCRS, &x) < 0 ? -errno : 0;
}

int kvm_cpu_open(int kvm_fd, int vm_fd, uint32_t id,
    const struct kvm_cpuid2 *cpuid, struct kvm_cpu *out)
{
	AUTO_CLOSE int fd = -1;
	struct kvm_run *run;
	int len;
	int r;

	len = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (len < 0)
		return -errno;
	if ((size_t)len < sizeof(*run))
		return -ENOTSUP;
	fd = ioctl(vm_fd, KVM_CREATE_VCPU, (unsigned long)id);
	if (fd < 0)
		return -errno;
	r = set_cpuid_and_xcr0(fd, cpuid);
	if (r < 0)
		return r;
	run =
	    mmap(NULL, (size_t)len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (run == MAP_FAILED)
		return -errno;
	run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
	out->fd = take_fd(&fd);
	out->run = run;
	out->run_len = (size_t)len;
	return 0;
}

void kvm_cpu_close(struct kvm_cpu *c)
{
	if (c->run != NULL)
		(void)munmap(c->run, c->run_len);
	cleanup_close(&c->fd);
	c->run = NULL;
	c->fd = -1;
}

static struct kvm_segment flat(uint16_t selector, bool code)
{
	return (struct kvm_segment){
	    .limit = 0xffffffff,
	    .selector = selector,
	    .type = code ? 11 : 3, /* accessed already */
	    .present = 1,
	    .dpl = selector & 3,
	    .s = 1,
	    .l = code,
	    .db = !code,
	    .g = 1,
	};
}

static void init_sregs(struct kvm_sregs *s, const struct kvm_cpu_init *i)
{
	s->cr0 = START_CR0;
	s->cr2 = 0;
	s->cr3 = i->cr3;
	s->cr4 = START_CR4;
	s->efer = START_EFER;
	s->gdt.base = i->gdt;
	s->gdt.limit = i->gdt_limit;
	s->idt.base = i->idt;
	s->idt.limit = i->idt_limit;
	s->tr = (struct kvm_segment){
	    .base = i->tss,
	    .limit = i->tss_limit,
	    .selector = i->tss_sel,
	    .type = 11,
	    .present = 1,
	};
	/* KVM's own would have the program's selectors looked up at 0. */
	s->ldt = (struct kvm_segment){.unusable = 1};
	s->cs = flat(i->user_cs, true);
	s->ss = flat(i->user_ss, false);
	s->ds = s->ss;
	s->es = s->ss;
	s->fs = s->ss;
	s->gs = s->ss;
}

static int init_msrs(struct kvm_cpu *c, const struct kvm_cpu_init *i)
{
	const struct kvm_msr_entry msr[] = {
	    {.index = MSR_STAR, .data = i->star},
	    {.index = MSR_LSTAR, .data = i->lstar},
	    {.index = MSR_FMASK, .data = i->fmask},
	};
	union {
		struct kvm_msrs m;
		unsigned char room[sizeof(struct kvm_msrs) + sizeof(msr)];
	} q = {.m.nmsrs = sizeof(msr) / sizeof(msr[0])};
	int n;

	memcpy(q.room + offsetof(struct kvm_msrs, entries), msr, sizeof(msr));
	n = ioctl(c->fd, KVM_SET_MSRS, &q);
	if (n < 0)
		return -errno;
	return n == (int)q.m.nmsrs ? 0 : -ENOTSUP;
}

int kvm_cpu_init(struct kvm_cpu *c, const struct kvm_cpu_init *i)
{
	struct kvm_run *run = c->run;
	struct kvm_sregs s;
	struct kvm_regs r = {
	    .rip = i->rip, .rsp = i->rsp, .rflags = RFLAGS_FIXED};
	int e;

	if (ioctl(c->fd, KVM_GET_SREGS, &s) < 0)
		return -errno;
	init_sregs(&s, i);
	if (ioctl(c->fd, KVM_SET_SREGS, &s) < 0)
		return -errno;
	e = init_msrs(c, i);
	if (e < 0)
		return e;
	if (ioctl(c->fd, KVM_SET_REGS, &r) < 0)
		return -errno;
	run->s.regs.regs = r;
	run->s.regs.sregs = s;
	run->kvm_dirty_regs = 0;
	return 0;
}

static void decode(const struct kvm_run *run, struct kvm_cpu_exit *x)
{
	*x = (struct kvm_cpu_exit){
	    .why = KVM_CPU_OTHER, .reason = run->exit_reason};
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		x->why = run->io.direction == KVM_EXIT_IO_OUT ? KVM_CPU_OUT
							      : KVM_CPU_IN;
		x->port = run->io.port;
		x->len = run->io.size;
		return;
	case KVM_EXIT_MMIO:
		x->why = KVM_CPU_MMIO;
		x->gpa = run->mmio.phys_addr;
		x->len = run->mmio.len;
		x->is_write = run->mmio.is_write;
		return;
	case KVM_EXIT_SHUTDOWN:
		x->why = KVM_CPU_SHUTDOWN;
		return;
	case KVM_EXIT_INTERNAL_ERROR:
		x->why = KVM_CPU_INTERNAL;
		x->suberror = run->internal.suberror;
		return;
	default:
		return;
	}
}

int kvm_cpu_run(struct kvm_cpu *c, struct kvm_cpu_exit *x)
{
	struct kvm_run *run = c->run;
	int r = ioctl(c->fd, KVM_RUN, 0) < 0 ? -errno : 0;

	/* Whatever KVM_RUN returned, it has taken the registers first. */
	run->kvm_dirty_regs = 0;
	if (r == 0)
		decode(run, x);
	return r;
}

void kvm_cpu_fetch(const struct kvm_cpu *c, struct kvm_cpu_regs *r)
{
	const struct kvm_run *run = c->run;
	const struct kvm_regs *g = &run->s.regs.regs;
	const struct kvm_sregs *s = &run->s.regs.sregs;

	*r = (struct kvm_cpu_regs){
	    .gpr = {g->rax, g->rcx, g->rdx, g->rbx, g->rsp, g->rbp, g->rsi,
		g->rdi, g->r8, g->r9, g->r10, g->r11, g->r12, g->r13, g->r14,
		g->r15},
	    .rip = g->rip,
	    .rflags = g->rflags,
	    .fs_base = s->fs.base,
	    .gs_base = s->gs.base,
	    .cr2 = s->cr2,
	    /* The privilege level is SS's, of which KVM keeps the truth in
	     * its dpl; CS follows it here. */
	    .cs = (uint16_t)((s->cs.selector & ~3u) | s->cs.dpl),
	};
}

void kvm_cpu_store(struct kvm_cpu *c, const struct kvm_cpu_regs *r, bool bases)
{
	struct kvm_run *run = c->run;

	run->s.regs.regs = (struct kvm_regs){
	    .rax = r->gpr[0],
	    .rcx = r->gpr[1],
	    .rdx = r->gpr[2],
	    .rbx = r->gpr[3],
	    .rsp = r->gpr[4],
	    .rbp = r->gpr[5],
	    .rsi = r->gpr[6],
	    .rdi = r->gpr[7],
	    .r8 = r->gpr[8],
	    .r9 = r->gpr[9],
	    .r10 = r->gpr[10],
	    .r11 = r->gpr[11],
	    .r12 = r->gpr[12],
	    .r13 = r->gpr[13],
	    .r14 = r->gpr[14],
	    .r15 = r->gpr[15],
	    .rip = r->rip,
	    .rflags = r->rflags | RFLAGS_FIXED,
	};
	run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
	if (!bases)
		return;
	run->s.regs.sregs.fs.base = r->fs_base;
	run->s.regs.sregs.gs.base = r->gs_base;
	run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
}

void kvm_cpu_stop(struct kvm_cpu *c, bool on)
{
	struct kvm_run *run = c->run;

	__atomic_store_n(&run->immediate_exit, on ? 1 : 0, __ATOMIC_SEQ_CST);
}
