/* SPDX-License-Identifier: MIT */
/* holds: what firnd holds, which must be as before once all of a test's VMs and
 * snapshots are gone. */
#ifndef TESTS_MODEL_HOLDS_H
#define TESTS_MODEL_HOLDS_H

#include "tests/rig.h"

#define HOLDS_COUNTED 7

struct holds {
	uint64_t of[HOLDS_COUNTED]; /* what service.stats tells */
	long fds;                   /* of firnd */
	long children;              /* those that are zombies counted */
};

void get_holds(struct rig *g, struct holds *h);
/* What ends, ends soon, but not before the answer: waits for it. */
void check_holds(struct rig *g, const struct holds *want);
/* Every snapshot of the clients. */
void drop_all(struct rig *g);

#endif /* TESTS_MODEL_HOLDS_H */
