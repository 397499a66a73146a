/* SPDX-License-Identifier: MIT */
#include "vmm/broker/errand.h"

#include <errno.h>

#include "vmm/broker/internal.h"

static void errand_run(struct work *work)
{
	struct errand *w = (struct errand *)work;

	w->rc = w->fn(w);
}

static void errand_done(struct work *work)
{
	struct errand *w = (struct errand *)work;

	if (!work->ran)
		w->rc = err_set(&w->e, -ECANCELED, "firnd is ending");
	w->done(w);
}

void errand(
    struct broker *b, struct errand *w, errand_fn *fn, errand_done_fn *done)
{
	w->b = b;
	w->fn = fn;
	w->done = done;
	w->here = true;
	w->rc = fn(w);
	if (w->rc != -EAGAIN) {
		done(w);
		return;
	}
	w->here = false;
	worker_submit(b->pool, &w->work, errand_run, errand_done);
}
