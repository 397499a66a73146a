/* SPDX-License-Identifier: MIT */
/*
 * broker: firnd itself: page maps, layers, capability tables, the bank, and
 * one monitor process for each VM.
 *
 * Threads:  all functions on the thread that runs the loop. Nothing blocks:
 *           sealing happens in monitors, long work in worker threads.
 */
#ifndef VMM_BROKER_BROKER_H
#define VMM_BROKER_BROKER_H

#include <stdint.h>

#include "vmm/core/err.h"
#include "vmm/core/loop.h"

struct broker;

struct broker_conf {
	const char *monitor; /* path of firn-vmm */
	uint64_t bank_bytes; /* what VMs and layers may reserve together; 0:
				four times the memory of the host */
};

/* 0, or -errno with (e). */
int broker_new(struct broker **out, struct loop *l,
    const struct broker_conf *conf, struct err *e);
/* Kills and reaps every monitor, frees everything. NULL is allowed. */
void broker_free(struct broker *b);

/* Serve the control protocol at (path), or on a connected socket, which is
 * taken over on success. ctl_listen()'s and ctl_adopt()'s errors. */
int broker_listen(struct broker *b, const char *path, struct err *e);
int broker_adopt(struct broker *b, int fd, struct err *e);

#endif /* VMM_BROKER_BROKER_H */
