/* SPDX-License-Identifier: MIT */
/*
 * gate: what every writer of guest memory passes.
 *
 * A vCPU thread is inside while it is in KVM_RUN, a monitor thread while it
 * touches guest memory; nobody is inside while it blocks in the host on a
 * guest's behalf. To stop the guest is to close the gate: kick whoever is in
 * KVM_RUN, wait until nobody is inside. While it is closed, and until it
 * opens, guest memory is the closer's alone. Closings nest (a pause by a user,
 * then a freeze).
 *
 * Hides:    the lock, the count, and how a vCPU is kicked.
 * Threads:  all calls from any thread. gate_close() must not be called from
 *           inside.
 */
#ifndef VMM_MEM_GATE_H
#define VMM_MEM_GATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct gate {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint32_t inside;
	uint32_t closings;
	/* Called under (lock), at each closing, to make every vCPU leave
	 * KVM_RUN soon. A vCPU that has passed gate_enter() and not yet begun
	 * KVM_RUN must leave as well (immediate_exit). */
	void (*kick)(void *ctx);
	void *ctx;
};

void gate_init(struct gate *g, void (*kick)(void *ctx), void *ctx);
void gate_fini(struct gate *g);

/* Wait until the gate is open, then be inside. */
void gate_enter(struct gate *g);
void gate_leave(struct gate *g);

/* Returns when nobody is inside; nobody enters until gate_open(). */
void gate_close(struct gate *g);
void gate_open(struct gate *g);

#endif /* VMM_MEM_GATE_H */
