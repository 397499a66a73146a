/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "vmm/vm/internal.h"

/* A vCPU that competes with busy host threads is kicked a hundred times more
 * slowly; only where that is permitted. */
#define CPU_NICE (-10)
#define AGAIN_MS 10 /* between two interruptions of a thread that is to end */

void cpus_kick(void *ctx)
{
	struct vm *vm = ctx;

	for (uint32_t i = 0; i < vm->ncpus; i++)
		vcpu_kick(vm->cpu[i].vcpu);
}

/* The first end of a program counts. */
static void tell_end(struct vm *vm, const struct guest_end *end)
{
	const uint64_t one = 1;

	(void)pthread_mutex_lock(&vm->lock);
	if (!vm->ended) {
		vm->end = *end;
		vm->ended = true;
	}
	(void)pthread_mutex_unlock(&vm->lock);
	(void)!write(vm->wake_fd, &one, sizeof(one));
}

/* Enter the guest once. False: the VM is being stopped. */
static bool enter(struct vm_cpu *c, struct vcpu_exit *x)
{
	bool go;

	gate_enter(&c->vm->gate);
	go = !c->vm->stopping;
	if (go)
		vcpu_run(c->vcpu, x);
	gate_leave(&c->vm->gate);
	return go;
}

static enum guest_verdict answer(
    struct vm_cpu *c, const struct vcpu_exit *x, struct guest_end *end)
{
	struct guest *g = c->vm->guest;

	switch (x->kind) {
	case VCPU_KICKED:
		return GUEST_GO;
	case VCPU_DOORBELL:
		return guest_doorbell(
		    g, c->id, x->port, vcpu_regs(c->vcpu), end);
	default:
		guest_stray(g, x, vcpu_regs(c->vcpu), end);
		return GUEST_END;
	}
}

static void *cpu_thread(void *arg)
{
	struct vm_cpu *c = arg;
	struct guest_end end = {.x.segment = UINT32_MAX};
	struct vcpu_exit x;

	(void)setpriority(PRIO_PROCESS, 0, CPU_NICE);
	while (enter(c, &x)) {
		if (answer(c, &x, &end) == GUEST_END) {
			tell_end(c->vm, &end);
			break;
		}
	}
	return NULL;
}

int cpus_start(struct vm *vm, struct err *e)
{
	int r;

	for (uint32_t i = 0; i < vm->ncpus; i++) {
		r = pthread_create(
		    &vm->cpu[i].thread, NULL, cpu_thread, &vm->cpu[i]);
		if (r != 0)
			return err_set(e, -r,
			    "cannot start the thread of vCPU %u: %s", i,
			    strerror(r));
		vm->cpu[i].running = true;
	}
	return 0;
}

/* A stream that was ready may block all the same: a terminal takes less than a
 * write has, another reader was faster. */
static void join_cpu(struct vm_cpu *c)
{
	struct timespec t;

	do {
		vcpu_interrupt(c->thread);
		(void)clock_gettime(CLOCK_REALTIME, &t);
		t.tv_nsec += AGAIN_MS * 1000000L;
		t.tv_sec += t.tv_nsec / 1000000000L;
		t.tv_nsec %= 1000000000L;
	} while (pthread_timedjoin_np(c->thread, NULL, &t) == ETIMEDOUT);
}

void cpus_stop(struct vm *vm)
{
	calls_fail_all(vm);
	cpus_kick(vm);
	for (uint32_t i = 0; i < vm->ncpus; i++) {
		if (vm->cpu[i].running)
			join_cpu(&vm->cpu[i]);
		vm->cpu[i].running = false;
	}
}
