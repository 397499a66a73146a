/* SPDX-License-Identifier: MIT */
/* VMs: found, killed, ended, forgotten. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

/* --- finding -------------------------------------------------------------- */

const char *vm_state_name(enum vm_state s)
{
	static const char *const name[] = {
	    [VM_STARTING] = "starting",
	    [VM_RUNNING] = "running",
	    [VM_PAUSED] = "paused",
	    [VM_EXITED] = "exited",
	};

	return name[s];
}

struct bvm *vm_by_id(struct broker *b, uint64_t id)
{
	struct bvm *vm = b->vms;

	while (vm != NULL && (vm->id != id || vm->dead))
		vm = vm->next;
	return vm;
}

void vm_label(const struct bvm *vm, char out[FIRN_NAME_MAX])
{
	if (vm->name[0] != '\0')
		(void)snprintf(out, FIRN_NAME_MAX, "%s", vm->name);
	else
		(void)snprintf(out, FIRN_NAME_MAX, "%" PRIu64, vm->id);
}

struct bvm *vm_find(
    struct broker *b, struct home *h, const char *ref, struct err *e)
{
	char id[24];

	for (struct bvm *vm = b->vms; vm != NULL; vm = vm->next) {
		if (vm->dead || vm->home != h)
			continue;
		(void)snprintf(id, sizeof(id), "%" PRIu64, vm->id);
		if (strcmp(ref, id) == 0 ||
		    (ref[0] != '\0' && strcmp(ref, vm->name) == 0))
			return vm;
	}
	(void)err_set(e, -ENOENT, "no VM '%.64s'; `firn ps` lists yours", ref);
	return NULL;
}

struct bvm *req_vm(struct broker *b, struct ctl_req *rq, bool live)
{
	struct err e = {0};
	struct bvm *vm = vm_find(b, req_home(rq), ctl_str(rq, "vm"), &e);

	if (vm != NULL && live && vm->state == VM_EXITED) {
		(void)err_set(
		    &e, -ESRCH, "VM '%.64s' has ended", ctl_str(rq, "vm"));
		vm = NULL;
	} else if (vm != NULL && live && vm->state == VM_STARTING) {
		(void)err_set(&e, -EBUSY,
		    "VM '%.64s' is still starting; try again",
		    ctl_str(rq, "vm"));
		vm = NULL;
	}
	if (vm == NULL)
		ctl_fail(rq, &e);
	return vm;
}

uint64_t vm_cpu_ns(const struct bvm *vm)
{
	struct timespec ts;
	clockid_t clock;

	if (vm->state == VM_EXITED ||
	    clock_getcpuclockid(vm->pid, &clock) != 0 ||
	    clock_gettime(clock, &ts) != 0)
		return vm->cpu_ns;
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* --- the end -------------------------------------------------------------- */

static void sweep(void *arg)
{
	struct broker *b = arg;
	struct bvm **at = &b->vms;

	while (*at != NULL) {
		struct bvm *vm = *at;

		if (!vm->dead) {
			at = &vm->next;
			continue;
		}
		*at = vm->next;
		free(vm->report);
		free(vm);
	}
}

void vm_bury(struct broker *b, struct bvm *vm)
{
	vm->dead = true;
	loop_timer_start(&b->sweeper, 0);
}

/* The monitor is gone and reaped: release all it held, tell who asked. */
void vm_end(struct broker *b, struct bvm *vm)
{
	json_t *j;

	vm->state = VM_EXITED;
	loop_timer_stop(&vm->killer);
	loop_del(vm->pidfd_io);
	vm->pidfd_io = NULL;
	(void)close(vm->pidfd);
	vm->pidfd = -1;
	link_close(&vm->link, b->closer);
	launch_drop(vm);
	monitor_fail_calls(b, vm);
	own_moved(b, vm, false);
	for (uint32_t i = 0; i < PLACES_MAX; i++)
		if (vm->place[i].used)
			place_end(b, vm, &vm->place[i]);
	held_end(b, vm);
	caps_drop_all(b, &vm->caps);
	free(vm->slots);
	vm->slots = NULL;
	vm->caps = (struct cap_table){0};
	bank_release(b, vm, vm->reserved);
	launch_failed(vm);
	while (vm->waiters != NULL) {
		struct waiter *w = vm->waiters;

		vm->waiters = w->next;
		ctl_req_on_cancel(w->rq, NULL, NULL);
		ctl_reply(w->rq, vm_end_json(vm), NULL, 0);
		free(w);
	}
	j = vm_end_json(vm);
	(void)json_object_set_new(j, "vm", json_integer((json_int_t)vm->id));
	(void)json_object_set_new(j, "name", json_string(vm->name));
	notify(b, vm->home, "vm.exited", j);
	if (vm->forget)
		vm_bury(b, vm);
}

void vm_killer_fired(void *arg)
{
	struct bvm *vm = arg;

	(void)syscall(SYS_pidfd_send_signal, vm->pidfd, SIGKILL, NULL, 0);
}

void vm_kill(struct broker *b, struct bvm *vm)
{
	(void)b;
	if (vm->state == VM_EXITED)
		return;
	if (vm->state == VM_STARTING) {
		vm_killer_fired(vm);
		return;
	}
	/* Once: who is to die may not put it off by giving more reasons. */
	if (vm->killed)
		return;
	vm->killed = true;
	if (vm_send(vm, WIRE_KILL, ++vm->seq, 0, NULL, 0, NULL, 0) != 0)
		vm_killer_fired(vm);
	else
		loop_timer_start(&vm->killer, KILL_GRACE_MS);
}

void vms_detach(struct broker *b, struct ctl_conn *conn)
{
	for (struct bvm *vm = b->vms; vm != NULL; vm = vm->next) {
		if (vm->attached != conn)
			continue;
		vm->attached = NULL;
		vm->forget = true;
		if (vm->state == VM_EXITED)
			vm_bury(b, vm);
		else
			vm_kill(b, vm);
	}
}

/* --- the broker's own beginning and end ----------------------------------- */

int vms_init(struct broker *b, struct err *e)
{
	loop_timer_init(&b->sweeper, b->loop, sweep, b);
	fds_reserve(b);
	if (b->nreserve < RESERVE_FDS)
		return err_set(e, -EMFILE, "too few descriptors are allowed");
	return 0;
}

void vms_free(struct broker *b)
{
	for (struct bvm *vm = b->vms; vm != NULL; vm = vm->next)
		if (vm->state != VM_EXITED)
			vm_killer_fired(vm);
	for (struct bvm *vm = b->vms; vm != NULL; vm = vm->next) {
		siginfo_t si = {0};

		if (vm->state != VM_EXITED) {
			while (waitid(P_PIDFD, (id_t)vm->pidfd, &si, WEXITED) <
				   0 &&
			       errno == EINTR)
				;
			monitor_unsaid(vm, &si);
			vm_end(b, vm);
		}
		vm->dead = true;
	}
	loop_timer_stop(&b->sweeper);
	sweep(b);
	fds_release(b);
}
