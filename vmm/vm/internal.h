/* SPDX-License-Identifier: MIT */
/*
 * internal: what the files of vm/ share.
 *
 * vm.c      the order: make, confine, launch, serve, end
 * launch.c  WIRE_LAUNCH
 * control.c the requests of the broker; runs on the control thread
 * calls.c   what a guest's kernel asks: of the control thread, of the broker
 * cpu.c     the threads of the vCPUs
 */
#ifndef VMM_VM_INTERNAL_H
#define VMM_VM_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/guestcall/guest.h"
#include "vmm/mem/gate.h"
#include "vmm/mem/gmem.h"
#include "vmm/place/place.h"
#include "vmm/vcpu/vcpu.h"
#include "vmm/wire/wire.h"

#define VM_VCPUS_MAX  16u
#define VM_VCPUS      1u    /* made today */
#define VM_LAYERS_MAX 8192u /* descriptors that wait for their WIRE_MAP */
/* Runs of one WIRE_MAP; a place takes fewer. */
#define VM_RUNS_MAX (1u << 20)

/* A function that a vCPU's thread wants run on the control thread. On the
 * stack of that thread, which waits until done. */
struct vm_post {
	struct vm_post *next;
	int (*fn)(void *arg);
	void *arg;
	int result;
	bool done;
};

/* A question to the broker; the same. */
struct vm_ask {
	struct vm_ask *next;
	uint16_t type;
	uint32_t seq;
	struct wire_packet *reply;
	struct guest_layers *layers; /* may be NULL */
	int result;
	bool done;
};

struct vm_cpu {
	struct vm *vm;
	struct vcpu *vcpu;
	uint32_t id;
	bool running; /* the thread exists */
	pthread_t thread;
};

struct vm {
	int sock; /* borrowed */
	int vm_fd;
	int pagemap_fd;
	int uffd;    /* for tracked views; negative: there are none */
	int wake_fd; /* readable: a post, or the program ended */
	int kill_fd; /* readable: the VM is being stopped */
	struct gmem gmem;
	struct gate gate;
	struct places *places;
	struct guest *guest;
	int stdio[3];
	struct vm_cpu cpu[VM_VCPUS_MAX];
	uint32_t ncpus;
	/* No vCPU enters any more; from calls_fail_all() on, which sets it
	 * under (lock), none waits for the control thread or the broker. */
	_Atomic bool stopping;

	/* Guards what follows. Nothing else is locked inside it. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct vm_post *posts; /* newest first */
	struct vm_ask *asks;
	uint32_t seq;
	bool ended; /* (end) is filled */
	struct guest_end end;

	/* The control thread's alone. */
	bool paused; /* one closing of the gate is a pause's */
	int *layer;  /* VM_LAYERS_MAX of room, (nlayers) in use */
	uint32_t nlayers;
	bool layers_lost; /* more came than there is room for */
	struct wire_packet in;
};

/* --- launch.c ------------------------------------------------------------- */

/* The program of (vm->in), a WIRE_LAUNCH: its segments and its memory, ready to
 * run. -errno with (e), which the user is to read. */
int launch(struct vm *vm, struct err *e);

/* --- control.c ------------------------------------------------------------ */

/* Why serving ended. */
enum control_end {
	CONTROL_ENDED,  /* the program did */
	CONTROL_KILLED, /* the broker wants it */
	CONTROL_GONE,   /* there is no broker any more */
	CONTROL_LOST,   /* memory of the guest is; the gate is closed, once */
};

/* Until serving ends. Of CONTROL_LOST (e) says what was lost. */
enum control_end control_serve(struct vm *vm, struct err *e);
/* Close the descriptors that wait for a WIRE_MAP. */
void control_drop_layers(struct vm *vm);
/* Answer (vm->in) with an error and its text. 0 or wire_send()'s. */
int control_refuse(struct vm *vm, int status, const char *text);

/* --- calls.c -------------------------------------------------------------- */

/* Any thread: wire_send() to the broker. Without descriptors, and so with
 * nobody's limit in its way, a packet for which the kernel has no memory waits
 * until it has. */
int broker_send(struct vm *vm, const struct wire_msg *m, const void *payload,
    const int *fds, uint32_t nfds);

void calls_init(struct vm *vm, struct guest_ops *ops);
/* On the control thread: run what was posted. */
void calls_run_posts(struct vm *vm);
/* A reply came, in (vm->in): hand it, and the layers before it, to who waits.
 */
void calls_reply(struct vm *vm);
/* All who wait, and all who come, get -EINTR. */
void calls_fail_all(struct vm *vm);

/* --- cpu.c ---------------------------------------------------------------- */

/* Kick every vCPU; for the gate. */
void cpus_kick(void *vm);
int cpus_start(struct vm *vm, struct err *e);
/* Stop and join them all. */
void cpus_stop(struct vm *vm);

#endif /* VMM_VM_INTERNAL_H */
