/* SPDX-License-Identifier: MIT */
/*
 * closer: a thread that closes descriptors for the loop.
 *
 * The last close(2) of a memfd frees its pages, 0.2 s a GiB; that of a socket
 * closes what nobody has read from it; and others may wait for whom they like.
 * So what somebody else has sent is not closed by the loop. All functions are
 * for the loop's thread.
 *
 * A description lives until its turn has come: what is to be proved nobody
 * else's (a lease) is not for the closer.
 */
#ifndef VMM_CORE_CLOSER_H
#define VMM_CORE_CLOSER_H

#include <stddef.h>

#include "vmm/core/err.h"
#include "vmm/core/loop.h"

#define CLOSER_MAX 1024u /* that wait while as many, at most, are closed */

struct closer;
typedef void closer_more_fn(void *ctx);

/*
 * (more) is called after the thread has closed what it had, when there is room
 * for CLOSER_MAX. 0, or -ENOMEM and the errors of worker_pool_new().
 */
int closer_new(struct closer **out, struct loop *l, closer_more_fn *more,
    void *ctx, struct err *e);
/* Close all that it has, with what (more) adds. NULL is allowed. Not from
 * inside a callback, and before loop_free(). */
void closer_free(struct closer *c);

/*
 * Have (fd) closed, or nothing where it is negative. It is closed at once where
 * CLOSER_MAX wait already, so that descriptors do not run out, and where (c) is
 * NULL.
 */
void closer_close(struct closer *c, int fd);
/* Those (n), which are set to -1. */
void closer_close_all(struct closer *c, int *fds, size_t n);
/* A socket: its other end is told at once. */
void closer_hang_up(struct closer *c, int sock);
/* How many wait for the thread to have closed what it has. */
unsigned closer_waiting(const struct closer *c);

#endif /* VMM_CORE_CLOSER_H */
