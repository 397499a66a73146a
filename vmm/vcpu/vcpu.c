/* SPDX-License-Identifier: MIT */
#include "vmm/vcpu/vcpu.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/kvm/kvm_cpu.h"

#define KICK_SIGNAL SIGUSR1

struct vcpu {
	struct kvm_cpu cpu;
	struct cpu_regs regs;
	/*
	 * The thread that is in KVM_RUN or about to enter it; 0: none. Set
	 * before KVM looks at immediate_exit, and read by a kick after it set
	 * that: either KVM sees the one or the kick sees the other.
	 */
	_Atomic pid_t running;
};

_Static_assert(NGPR == 16, "as in struct kvm_cpu_regs");

static void on_kick(int sig)
{
	(void)sig;
}

int vcpu_signal_init(void)
{
	/* No SA_RESTART: a blocking call of the vCPU's thread gives up too. */
	struct sigaction sa = {.sa_handler = on_kick};
	sigset_t set;
	int r;

	(void)sigemptyset(&sa.sa_mask);
	if (sigaction(KICK_SIGNAL, &sa, NULL) < 0)
		return -errno;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, KICK_SIGNAL);
	r = pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	return -r;
}

struct vcpu *vcpu_new(int kvm_fd, int vm_fd, uint32_t id,
    const struct kvm_cpuid2 *cpuid, struct err *e)
{
	struct vcpu *v = calloc(1, sizeof(*v));
	int r;

	if (v == NULL) {
		(void)err_set(e, -ENOMEM, "no memory for vCPU %u", id);
		return NULL;
	}
	r = kvm_cpu_open(kvm_fd, vm_fd, id, cpuid, &v->cpu);
	if (r < 0) {
		(void)err_set(
		    e, r, "KVM made no vCPU %u: %s", id, strerror(-r));
		free(v);
		return NULL;
	}
	return v;
}

void vcpu_free(struct vcpu *v)
{
	if (v == NULL)
		return;
	kvm_cpu_close(&v->cpu);
	free(v);
}

static void fetch(struct vcpu *v)
{
	struct kvm_cpu_regs k;

	kvm_cpu_fetch(&v->cpu, &k);
	memcpy(v->regs.gpr, k.gpr, sizeof(v->regs.gpr));
	v->regs.rip = k.rip;
	v->regs.rflags = k.rflags;
	v->regs.fs_base = k.fs_base;
	v->regs.gs_base = k.gs_base;
	v->regs.cr2 = k.cr2;
	v->regs.cs = k.cs;
	v->regs.dirty = false;
	v->regs.dirty_sregs = false;
}

static void store(struct vcpu *v)
{
	struct kvm_cpu_regs k = {
	    .rip = v->regs.rip,
	    .rflags = v->regs.rflags,
	    .fs_base = v->regs.fs_base,
	    .gs_base = v->regs.gs_base,
	};

	if (!v->regs.dirty && !v->regs.dirty_sregs)
		return;
	memcpy(k.gpr, v->regs.gpr, sizeof(k.gpr));
	kvm_cpu_store(&v->cpu, &k, v->regs.dirty_sregs);
	v->regs.dirty = false;
	v->regs.dirty_sregs = false;
}

int vcpu_start(struct vcpu *v, const struct cpu_start *s, struct err *e)
{
	const struct kvm_cpu_init i = {
	    .rip = s->rip,
	    .rsp = s->rsp,
	    .cr3 = s->cr3,
	    .gdt = s->gdt,
	    .idt = s->idt,
	    .tss = s->tss,
	    .gdt_limit = s->gdt_limit,
	    .idt_limit = s->idt_limit,
	    .tss_limit = s->tss_limit,
	    .tss_sel = s->tss_sel,
	    .user_cs = s->user_cs,
	    .user_ss = s->user_ss,
	    .star = s->star,
	    .lstar = s->lstar,
	    .fmask = s->fmask,
	};
	int r = kvm_cpu_init(&v->cpu, &i);

	if (r < 0)
		return err_set(e, r,
		    "KVM refused the registers that a program starts with: %s",
		    strerror(-r));
	fetch(v);
	return 0;
}

static void explain(const struct kvm_cpu_exit *k, struct vcpu_exit *x)
{
	x->reason = k->reason;
	x->len = k->len;
	switch (k->why) {
	case KVM_CPU_OUT:
		x->kind = VCPU_DOORBELL;
		x->port = k->port;
		return;
	case KVM_CPU_IN:
		x->kind = VCPU_PORT_READ;
		x->port = k->port;
		return;
	case KVM_CPU_MMIO:
		x->kind = VCPU_STRAY;
		x->gpa = k->gpa;
		x->is_write = k->is_write;
		return;
	case KVM_CPU_SHUTDOWN:
		x->kind = VCPU_SHUTDOWN;
		return;
	case KVM_CPU_INTERNAL:
		x->kind = VCPU_INTERNAL;
		x->suberror = k->suberror;
		return;
	case KVM_CPU_OTHER:
		x->kind = VCPU_FAILED;
		return;
	}
}

void vcpu_run(struct vcpu *v, struct vcpu_exit *x)
{
	struct kvm_cpu_exit k;
	int r;

	*x = (struct vcpu_exit){.kind = VCPU_FAILED};
	store(v);
	atomic_store(&v->running, gettid());
	r = kvm_cpu_run(&v->cpu, &k);
	atomic_store(&v->running, 0);
	fetch(v);
	if (r == -EINTR || r == -EAGAIN) {
		/* A kick from now on is for the next entry. */
		kvm_cpu_stop(&v->cpu, false);
		x->kind = VCPU_KICKED;
	} else if (r < 0) {
		x->error = r;
	} else {
		explain(&k, x);
	}
}

struct cpu_regs *vcpu_regs(struct vcpu *v)
{
	return &v->regs;
}

void vcpu_kick(struct vcpu *v)
{
	pid_t tid;

	kvm_cpu_stop(&v->cpu, true);
	tid = atomic_load(&v->running);
	if (tid != 0)
		(void)tgkill(getpid(), tid, KICK_SIGNAL);
}

void vcpu_interrupt(pthread_t thread)
{
	(void)pthread_kill(thread, KICK_SIGNAL);
}
