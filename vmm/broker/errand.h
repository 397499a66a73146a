/* SPDX-License-Identifier: MIT */
/*
 * errand: work that is mostly over sooner than a worker would begin, and may be
 * as long as a guest or a client likes.
 *
 * It is tried at once, on the loop's thread, and gives up where it takes longer
 * than a turn of the loop may; then it begins anew in a worker. The struct is
 * the caller's storage, the first member of what the errand is about; it is the
 * errand's until (done) is called.
 */
#ifndef VMM_BROKER_ERRAND_H
#define VMM_BROKER_ERRAND_H

#include <stdbool.h>

#include "vmm/core/err.h"
#include "vmm/core/worker.h"

struct broker;
struct errand;
/* What it comes to, 0 or -errno, with w->e set where that says more. Where
 * w->here is set: -EAGAIN to begin anew where it is not. */
typedef int errand_fn(struct errand *w);
typedef void errand_done_fn(struct errand *w);

struct errand {
	struct work work;
	struct broker *b;
	errand_fn *fn;
	errand_done_fn *done;
	bool here; /* on the loop's thread */
	int rc;
	struct err e;
};

/* What one that is here may do. */
#define HERE_RUNS  4096u  /* runs to walk, some 0.5 ms */
#define HERE_PAGES 65536u /* pages to look at in a bitmap */

/*
 * (done) is called once, on the loop's thread, perhaps at once, with what (fn)
 * came to in (rc), or -ECANCELED with (e) set: firnd is ending. (fn) asks
 * worker_cancelled() now and then.
 */
void errand(
    struct broker *b, struct errand *w, errand_fn *fn, errand_done_fn *done);

#endif /* VMM_BROKER_ERRAND_H */
