/* SPDX-License-Identifier: MIT */
/* A client of the library and, in a thread, a service that answers what a test
 * asks for, right or wrong. */
#ifndef TESTS_UNIT_LIBFIRN_FIX_H
#define TESTS_UNIT_LIBFIRN_FIX_H

#include "tests/unit/unit.h"

#include <pthread.h>

#include "shared/page/run.h"
#include "tools/libfirn/firn.h"
#include "vmm/ctl/ctl.h"

#define RUNS_MAX    8
#define LAYER_PAGES 4
#define MANY_RUNS   20000u

struct service {
	struct loop *l;
	struct ctl_srv *srv;
	struct ctl_conf conf;
	struct ctl_req *held;
	pthread_t thread;
	int fd;
};

struct fix {
	struct service s;
	struct firn *c;
	struct firn_error e;
	int fds_before;
};

int setup(void **state);
/* Fails where a descriptor is left open. */
int teardown(void **state);

/* A memfd of these bytes; with (seals), unless 0. */
int memfd_of(const void *data, size_t len, int seals);

/* What snapshot.open answers, by name. */
struct snap_case {
	const char *name;
	int seals; /* of the layers */
	int flags; /* of their descriptors */
	unsigned nlayers;
	int64_t pages;
	int err; /* what the library must say, 0: it is right */
	unsigned nruns;
	struct page_run runs[RUNS_MAX];
};

/* The last has no name. Beside these there are "scattered" (MANY_RUNS runs,
 * every other page), "none" (no descriptors) and "half" (half a run). */
extern const struct snap_case snap_cases[];

/* The service's snapshot.open. */
void op_open(void *ctx, struct ctl_req *rq);

#endif /* TESTS_UNIT_LIBFIRN_FIX_H */
