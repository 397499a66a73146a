/* SPDX-License-Identifier: MIT */
/*
 * guest: the program in a VM and the kernel it believes it has.
 *
 * Loads a static ELF program, keeps its address space (page tables in the
 * system bank, frames in segment 0), and answers what it does: Linux system
 * calls, firn's own calls, page faults, traps.
 *
 * Hides:    the layout of the system bank, the stubs, the virtual address
 *           space, frame allocation, which calls exist.
 * Threads:  guest_doorbell() and guest_stray() by the thread of vCPU (cpu),
 *           several at a time for different vCPUs, always outside the gate:
 *           they enter it themselves for each touch of guest memory, and never
 *           while they block. guest_new() and guest_load() before any vCPU
 *           runs.
 */
#ifndef VMM_GUESTCALL_GUEST_H
#define VMM_GUESTCALL_GUEST_H

#include <stdint.h>

#include "vmm/core/err.h"
#include "vmm/mem/gate.h"
#include "vmm/mem/gmem.h"
#include "vmm/place/place.h"
#include "vmm/vcpu/vcpu.h"
#include "vmm/wire/wire.h"

struct guest_layers {
	int *fd;
	uint32_t cap; /* room at (fd) */
	uint32_t n;
};

/* What the guest's kernel needs of the monitor around it. */
struct guest_ops {
	/* Run (fn) on the control thread (the only one that changes places);
	 * its value. Outside the gate. */
	int (*on_control)(void *ctx, int (*fn)(void *arg), void *arg);
	/*
	 * Ask the broker: a request of (type) and the payload, wait for the
	 * answer. 0 with *reply (which the caller must wire_close_fds()), whose
	 * m.status tells how the broker fared; -EPIPE, -EINTR (the VM is being
	 * killed). The descriptors of WIRE_LAYERS that came before the reply
	 * are in (layers), as many as there is room for, and are the caller's
	 * to close; may be NULL. Outside the gate.
	 */
	int (*ask)(void *ctx, uint16_t type, const void *payload, uint32_t len,
	    struct wire_packet *reply, struct guest_layers *layers);
	/* Tell the broker, without an answer (WIRE_SEG_MADE, WIRE_SEG_GONE). */
	void (*tell)(
	    void *ctx, uint16_t type, const void *payload, uint32_t len);
	/* A VM is being killed: blocking calls give up with -EINTR soon. This
	 * descriptor becomes readable then; for poll(2) beside stdin. */
	int kill_fd;
	void *ctx;
};

struct guest_env {
	struct gmem *gmem;
	struct gate *gate;
	struct places *places;
	struct guest_ops ops;
	int stdio[3]; /* borrowed */
};

struct guest;

/* Makes the system bank (GMEM_SYS_GPA) and its tables. NULL with (e). */
struct guest *guest_new(const struct guest_env *env, struct err *e);
void guest_free(struct guest *g);

/*
 * Load the program in (elf_fd) into segment 0, which exists, with its stack,
 * arguments and environment (NULL-terminated arrays).
 *   -ENOEXEC  with a reason a user understands (not ELF, truncated, dynamic,
 *             not x86-64, overlapping, too large for the memory)
 *   -E2BIG    arguments; -ENOMEM
 */
int guest_load(struct guest *g, int elf_fd, char *const argv[],
    char *const envp[], struct cpu_start *start, struct err *e);

/* How a program ended. */
struct guest_end {
	struct wire_exited x;
	char text[WIRE_REPORT_MAX]; /* of the report, one or more lines; "" */
};

enum guest_verdict {
	GUEST_GO,  /* enter again */
	GUEST_END, /* *end is filled */
};

enum guest_verdict guest_doorbell(struct guest *g, uint32_t cpu, uint16_t port,
    struct cpu_regs *r, struct guest_end *end);
/* Everything else but VCPU_KICKED ends the program: *end is filled. */
void guest_stray(struct guest *g, const struct vcpu_exit *x,
    const struct cpu_regs *r, struct guest_end *end);

/*
 * The place at [gpa, gpa + len) is about to be closed: take it out of the
 * program's address space. Under a closed gate that stays closed until the
 * place's bank is gone (closings nest); never fails.
 *
 *   gate_close; guest_place_gone; place_close; gate_open
 */
void guest_place_gone(struct guest *g, uint64_t gpa, uint64_t len);

/* Counts for WIRE_STATS; any thread. */
void guest_stats(struct guest *g, struct wire_stats *out);

#endif /* VMM_GUESTCALL_GUEST_H */
