/* SPDX-License-Identifier: MIT */
/* nodes: page maps that take their nodes from malloc(3). */
#ifndef TESTS_BENCH_NODES_H
#define TESTS_BENCH_NODES_H

#include <stdlib.h>

#include "vmm/map/map.h"

static inline void *nodes_alloc(void *ctx, size_t len)
{
	(void)ctx;
	return malloc(len);
}

static inline void nodes_free(void *ctx, void *p, size_t len)
{
	(void)ctx;
	(void)len;
	free(p);
}

static const struct map_ops nodes_of_malloc = {
    .alloc = nodes_alloc, .free = nodes_free};

#endif /* TESTS_BENCH_NODES_H */
