/* SPDX-License-Identifier: MIT */
#include "vmm/broker/apply.h"

#include <errno.h>

#include "vmm/broker/internal.h"

static void apply_over(struct apply *ap, int rc)
{
	struct map m = ap->map;

	loop_timer_stop(&ap->turn);
	*ap->at = ap->next;
	if (ap->next != NULL)
		ap->next->at = ap->at;
	if (rc != 0)
		map_put(&ap->b->store, &m);
	ap->fn(ap->b, rc, m, ap->ctx);
}

static void apply_turn(void *arg)
{
	struct apply *ap = arg;
	size_t n = ap->n < APPLY_RUNS ? ap->n : APPLY_RUNS;
	struct map next;
	int rc = map_apply(&ap->b->store, &ap->map, ap->run, n, &next);

	if (rc == 0) {
		map_put(&ap->b->store, &ap->map);
		ap->map = next;
		ap->run += n;
		ap->n -= n;
	}
	if (rc != 0 || ap->n == 0)
		apply_over(ap, rc);
	else
		loop_timer_start(&ap->turn, 0);
}

void apply(struct broker *b, struct apply *ap, const struct map *base,
    const struct page_run *run, size_t n, apply_fn *fn, void *ctx)
{
	*ap = (struct apply){.b = b,
	    .next = b->applies,
	    .at = &b->applies,
	    .map = map_get(&b->store, base),
	    .run = run,
	    .n = n,
	    .fn = fn,
	    .ctx = ctx};
	if (ap->next != NULL)
		ap->next->at = &ap->next;
	b->applies = ap;
	loop_timer_init(&ap->turn, b->loop, apply_turn, ap);
	apply_turn(ap);
}

void applies_end(struct broker *b)
{
	while (b->applies != NULL)
		apply_over(b->applies, -ECANCELED);
}
