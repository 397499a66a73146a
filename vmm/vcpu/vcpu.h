/* SPDX-License-Identifier: MIT */
/*
 * vcpu: one virtual CPU: its registers, and one entry into the guest.
 *
 * Hides:    KVM's run page, synced registers, the completion of IO and MMIO
 *           exits, immediate_exit, and what differs between hosts where
 *           `syscall` raises privilege and hosts where it does not.
 * Threads:  one thread runs a vCPU and alone calls all but vcpu_kick() and
 *           vcpu_interrupt().
 */
#ifndef VMM_VCPU_VCPU_H
#define VMM_VCPU_VCPU_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/core/err.h"

struct kvm_cpuid2;

/* Order of (gpr), that of the hardware's encoding. */
enum {
	RAX,
	RCX,
	RDX,
	RBX,
	RSP,
	RBP,
	RSI,
	RDI,
	R8,
	R9,
	R10,
	R11,
	R12,
	R13,
	R14,
	R15,
	NGPR
};

struct cpu_regs {
	uint64_t gpr[NGPR];
	uint64_t rip;
	uint64_t rflags;
	uint64_t fs_base;
	uint64_t gs_base;
	uint64_t cr2;
	uint16_t cs; /* selector; the low two bits are the privilege level */
	bool dirty;  /* the handler changed something: load before re-entry */
	bool dirty_sregs; /* fs_base or gs_base changed */
};

/* Where a program begins, and the tables it runs under; all addresses virtual
 * but cr3. */
struct cpu_start {
	uint64_t rip, rsp;
	uint64_t cr3;
	uint64_t gdt, idt, tss;
	uint16_t gdt_limit, idt_limit, tss_limit;
	uint16_t tss_sel;
	uint16_t user_cs, user_ss; /* selectors */
	uint64_t star, lstar, fmask;
};

enum vcpu_exit_kind {
	VCPU_DOORBELL,  /* out at a port: (port) */
	VCPU_PORT_READ, /* in at one */
	VCPU_STRAY,     /* an access to memory that is not there or read-only */
	VCPU_SHUTDOWN,  /* triple fault: registers may be lost */
	VCPU_INTERNAL,  /* KVM could not go on: (suberror) */
	VCPU_KICKED,    /* asked to leave */
	VCPU_FAILED, /* KVM_RUN failed with (error), or an exit nobody expects
		      */
};

struct vcpu_exit {
	enum vcpu_exit_kind kind;
	uint16_t port;
	uint64_t gpa; /* of VCPU_STRAY */
	bool is_write;
	uint32_t len;
	uint32_t suberror;
	uint32_t reason; /* KVM's own number, for reports */
	int error;
};

struct vcpu;

/*
 * Once in the process, before any kick: the signal that takes a thread out of
 * the guest. It also interrupts blocking calls of that thread, which must begin
 * them again. 0 or -errno.
 */
int vcpu_signal_init(void);

/*
 * Make vCPU (id) of (vm_fd); (cpuid), and with it XCR0, is what KVM supports:
 * see kvm_sys_check(). Nothing of it is kept. NULL with (e) set. The thread
 * that will run it need not be the one that makes it.
 */
struct vcpu *vcpu_new(int kvm_fd, int vm_fd, uint32_t id,
    const struct kvm_cpuid2 *cpuid, struct err *e);
void vcpu_free(struct vcpu *v);

/* Put it at the beginning of a program: CPL 3, long mode. */
int vcpu_start(struct vcpu *v, const struct cpu_start *s, struct err *e);

/*
 * Enter the guest until something happens. On return the registers are in
 * *vcpu_regs(v) and are consistent: an IO exit has been completed by the time
 * the guest is next entered, whatever the handler sets. Must be called from
 * inside the gate; never fails otherwise than by VCPU_FAILED.
 */
void vcpu_run(struct vcpu *v, struct vcpu_exit *x);

/* The registers at the last exit; the handler may change them and must then
 * set dirty (and dirty_sregs). */
struct cpu_regs *vcpu_regs(struct vcpu *v);

/* Make vcpu_run() return VCPU_KICKED soon, also when it has not yet begun; any
 * thread. The kick is consumed by that return; a return without one is
 * possible. */
void vcpu_kick(struct vcpu *v);

/* Interrupt a call of the host that (thread), which runs a vCPU, may wait in.
 * A call that it is about to begin is not seen: do it again. Any thread. */
void vcpu_interrupt(pthread_t thread);

#endif /* VMM_VCPU_VCPU_H */
