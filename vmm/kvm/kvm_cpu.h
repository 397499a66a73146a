/* SPDX-License-Identifier: MIT */
/*
 * kvm_cpu: a vCPU's ioctls and its run page.
 *
 * Hides:    struct kvm_run, the synced registers.
 * Errors:   0 or a negative errno, as in kvm_sys.h.
 * Threads:  one at a time, but for kvm_cpu_stop().
 */
#ifndef VMM_KVM_KVM_CPU_H
#define VMM_KVM_KVM_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kvm_cpu {
	int fd;
	void *run; /* the page shared with KVM */
	size_t run_len;
};

/* All registers that move at an exit; (gpr) in the hardware's order. */
struct kvm_cpu_regs {
	uint64_t gpr[16];
	uint64_t rip;
	uint64_t rflags;
	uint64_t fs_base;
	uint64_t gs_base;
	uint64_t cr2;
	uint16_t cs;
};

/* Where a program begins; addresses are virtual but cr3. */
struct kvm_cpu_init {
	uint64_t rip, rsp;
	uint64_t cr3;
	uint64_t gdt, idt, tss;
	uint16_t gdt_limit, idt_limit, tss_limit, tss_sel;
	uint16_t user_cs, user_ss;
	uint64_t star, lstar, fmask;
};

enum kvm_cpu_why {
	KVM_CPU_OUT,  /* port */
	KVM_CPU_IN,   /* port */
	KVM_CPU_MMIO, /* gpa, len, is_write */
	KVM_CPU_SHUTDOWN,
	KVM_CPU_INTERNAL, /* suberror */
	KVM_CPU_OTHER,    /* reason */
};

struct kvm_cpu_exit {
	enum kvm_cpu_why why;
	uint32_t reason; /* KVM's number */
	uint16_t port;
	bool is_write;
	uint32_t len;
	uint32_t suberror;
	uint64_t gpa;
};

struct kvm_cpuid2;

/* Make vCPU (id), with (cpuid) and the XCR0 of it. Nothing is left on failure.
 */
int kvm_cpu_open(int kvm_fd, int vm_fd, uint32_t id,
    const struct kvm_cpuid2 *cpuid, struct kvm_cpu *out);
void kvm_cpu_close(struct kvm_cpu *c);

/* Long mode, CPL 3, flat segments, all other registers zero. */
int kvm_cpu_init(struct kvm_cpu *c, const struct kvm_cpu_init *s);

/* KVM_RUN: 0 with *x, or -errno (and then *x is not set). The registers can be
 * fetched after both. */
int kvm_cpu_run(struct kvm_cpu *c, struct kvm_cpu_exit *x);

/* As of the last kvm_cpu_run() or kvm_cpu_init(). */
void kvm_cpu_fetch(const struct kvm_cpu *c, struct kvm_cpu_regs *r);
/* To be loaded by the next kvm_cpu_run(): all but cs, cr2 and the bases; those
 * too with (bases). */
void kvm_cpu_store(struct kvm_cpu *c, const struct kvm_cpu_regs *r, bool bases);

/* Let this and every next KVM_RUN return -EINTR at once (on), or no more. Any
 * thread; one that is in the guest already needs a signal besides. */
void kvm_cpu_stop(struct kvm_cpu *c, bool on);

#endif /* VMM_KVM_KVM_CPU_H */
