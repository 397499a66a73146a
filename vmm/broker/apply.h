/* SPDX-License-Identifier: MIT */
/*
 * apply: many runs are put over a map. Only the loop's thread derives maps, so
 * that is done in turns of it, APPLY_RUNS in each, to a map that is nobody
 * else's until the last of them is in it.
 */
#ifndef VMM_BROKER_APPLY_H
#define VMM_BROKER_APPLY_H

#include <stddef.h>

#include "shared/page/run.h"
#include "vmm/core/loop.h"
#include "vmm/map/map.h"

#define APPLY_RUNS 256u /* some 50 us */

struct broker;
/* (m) is the callee's where (rc) is 0; else there is none: -ENOMEM, or
 * -ECANCELED: firnd is ending. */
typedef void apply_fn(struct broker *b, int rc, struct map m, void *ctx);

/* The caller's storage, until (fn) is called. */
struct apply {
	struct broker *b;
	struct apply *next, **at; /* of those that are not over */
	struct loop_timer turn;
	struct map map; /* so far */
	const struct page_run *run;
	size_t n;
	apply_fn *fn;
	void *ctx;
};

/*
 * Derive a map from (base), of which the pages of the (n) runs are where those
 * say; they are valid, and stay the caller's. The layers that they name are
 * held by others until (fn) is called: once, perhaps at once.
 */
void apply(struct broker *b, struct apply *ap, const struct map *base,
    const struct page_run *run, size_t n, apply_fn *fn, void *ctx);
/* firnd is ending: so do all that are under way. */
void applies_end(struct broker *b);

#endif /* VMM_BROKER_APPLY_H */
