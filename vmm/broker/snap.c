/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

#define REAP_MAX 64u /* that wait for the closer: others need room, too */

/* --- lineages ------------------------------------------------------------- */

struct lineage *lineage_new(void)
{
	struct lineage *l = calloc(1, sizeof(*l));

	if (l != NULL)
		l->refs = 1;
	return l;
}

struct lineage *lineage_get(struct lineage *l)
{
	l->refs++;
	return l;
}

void lineage_put(struct lineage *l)
{
	if (l != NULL && --l->refs == 0)
		free(l);
}

/* --- snapshots ------------------------------------------------------------ */

struct snap *snap_by_id(struct broker *b, uint64_t id)
{
	struct snap *s = b->snaps[id % SNAP_BUCKETS];

	while (s != NULL && s->id != id)
		s = s->next;
	return s;
}

struct snap *snap_new(
    struct broker *b, struct map map, struct lineage *l, struct err *e)
{
	struct snap *s = NULL;

	if (b->nsnaps < SNAPS_MAX)
		s = calloc(1, sizeof(*s));
	if (s != NULL)
		s->kin = kin_new(&b->kins, b->next_id);
	if (s == NULL || s->kin == NULL) {
		free(s);
		map_put(&b->store, &map);
		if (b->nsnaps >= SNAPS_MAX)
			return err_set(e, -ENOSPC,
				   "%u snapshots exist; drop some", SNAPS_MAX),
			       NULL;
		return err_set(e, -ENOMEM, "no memory for a snapshot"), NULL;
	}
	s->id = b->next_id++;
	s->map = map;
	s->lineage = lineage_get(l);
	s->holds = 1;
	s->next = b->snaps[s->id % SNAP_BUCKETS];
	b->snaps[s->id % SNAP_BUCKETS] = s;
	b->nsnaps++;
	return s;
}

struct snap *snap_hold(struct snap *s)
{
	s->holds++;
	return s;
}

/* NULL once it is gone. */
static struct home *payer_of(struct broker *b, const struct snap *s)
{
	struct home *h = b->homes;

	while (h != NULL && h->uid != s->payer)
		h = h->next;
	return h;
}

void snap_made(struct broker *b, struct snap *s, json_t *params)
{
	s->told = true;
	notify(b, payer_of(b, s), "snapshot.made", params);
}

void snap_put(struct broker *b, struct snap *s)
{
	struct snap **at;

	if (s == NULL || --s->holds > 0)
		return;
	at = &b->snaps[s->id % SNAP_BUCKETS];
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	b->nsnaps--;
	if (s->lineage->laid_snap == s->id)
		s->lineage->laid_snap = 0;
	kin_died(s->kin);
	lineage_put(s->lineage);
	map_put(&b->store, &s->map);
	if (s->has_laid)
		map_put(&b->store, &s->laid);
	if (s->has_opened)
		map_put(&b->store, &s->opened);
	if (s->told)
		notify(b, payer_of(b, s), "snapshot.gone",
		    json_pack("{s:I}", "snapshot", (json_int_t)s->id));
	free(s);
	layers_reap(b);
}

/* --- layers that nobody reaches ------------------------------------------- */

void layers_reap(void *broker)
{
	struct broker *b = broker;
	int fd;

	/* At the very end there are no workers, and layer_set_free() closes. */
	if (b->pool != NULL)
		store_poke(b);
	if (b->closer == NULL)
		return;
	while (closer_waiting(b->closer) < REAP_MAX &&
	       (fd = layer_reap_take(b->layers)) >= 0)
		closer_close(b->closer, fd);
}

/* --- the bank ------------------------------------------------------------- */

int bank_check(struct broker *b, uint64_t bytes, struct err *e)
{
	struct layer_totals sum;
	uint64_t used;

	layer_set_totals(b->layers, &sum);
	used = b->bank_used + sum.bytes;
	if (used <= b->bank_max && bytes <= b->bank_max - used)
		return 0;
	return err_set(e, -ENOSPC,
	    "the bank has %" PRIu64 " MiB of %" PRIu64 " left and %" PRIu64
	    " are asked for; end VMs, drop snapshots, or "
	    "start firnd with a larger --bank",
	    used < b->bank_max ? (b->bank_max - used) >> 20 : 0,
	    b->bank_max >> 20, bytes >> 20);
}

int bank_reserve(
    struct broker *b, struct bvm *vm, uint64_t bytes, struct err *e)
{
	int rc = bank_check(b, bytes, e);

	if (rc != 0)
		return rc;
	b->bank_used += bytes;
	vm->reserved += bytes;
	return 0;
}

void bank_release(struct broker *b, struct bvm *vm, uint64_t bytes)
{
	if (bytes > vm->reserved)
		bytes = vm->reserved;
	vm->reserved -= bytes;
	b->bank_used -= bytes;
}

/* --- lists of runs -------------------------------------------------------- */

static int add_run(void *ctx, const struct page_run *r)
{
	return runs_add(ctx, r);
}

int runs_of(
    const struct map *m, uint64_t first, uint64_t npages, struct runs *out)
{
	if (out->max == 0)
		out->max = RUNS_MAX;
	return map_walk(m, first, npages, add_run, out);
}

int runs_of_all(const struct map *m, const struct errand *w, struct runs *out)
{
	int rc;

	out->n = 0;
	out->max = w->here ? HERE_RUNS : RUNS_MAX;
	rc = runs_of(m, 0, m->npages, out);
	return w->here && rc == -E2BIG ? -EAGAIN : rc;
}

int files_of(struct broker *b, struct runs *rs, struct filetab *t)
{
	struct page_run *run;
	size_t n;
	int rc = filetab_want(t, rs->r, rs->n);

	if (rc == 0)
		rc = filetab_fill(t, b->layers);
	if (rc == 0)
		rc = filetab_runs(t, rs->r, rs->n, RUNS_MAX, &run, &n);
	if (rc != 0) {
		filetab_free(t);
		return rc;
	}
	free(rs->r);
	*rs = (struct runs){.r = run, .n = n, .cap = n, .max = rs->max};
	return 0;
}
