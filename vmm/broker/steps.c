/* SPDX-License-Identifier: MIT */
/*
 * steps: what a monitor told of a place that it lifted, and how that becomes
 * the place's page map.
 *
 * A monitor tells steps, each a layer and the runs to put over the map so far.
 * A step is queued before it is applied, and stays first in the queue where
 * something is wanting, so that nothing that was told is lost. Runs may be
 * millions: they are read, checked and applied in turns of the loop, STEP_RUNS
 * in each, to a map that is nobody else's until the last of them is in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

#define STEP_RUNS 256u /* some 50 us */

static void step_free(struct broker *b, struct step *s)
{
	closer_close(b->closer, s->fd);
	closer_close(b->closer, s->runs_fd);
	if (s->layer != RUN_ZERO)
		layer_put(b->layers, s->layer);
	if (s->pinned)
		lfile_unpin(b->layers, s->file);
	if (s->begun)
		map_put(&b->store, &s->map);
	free(s);
}

void steps_free(struct broker *b, struct step **queue)
{
	while (*queue != NULL) {
		struct step *s = *queue;

		*queue = s->next;
		step_free(b, s);
	}
}

/* --- taking them from a packet --------------------------------------------
 *
 * Takes descriptors only and needs no memory, so that nothing that a monitor
 * told is lost.
 */

int steps_make(struct broker *b, struct step **out)
{
	*out = NULL;
	for (uint32_t i = 0; i < WIRE_STEPS_MAX; i++) {
		struct step *s = calloc(1, sizeof(*s));

		if (s == NULL) {
			steps_free(b, out);
			return -ENOMEM;
		}
		s->fd = s->runs_fd = -1;
		s->layer = RUN_ZERO;
		s->next = *out;
		*out = s;
	}
	return 0;
}

static int step_take(struct wire_packet *pk, const struct wire_step *ws,
    uint32_t *fd_i, struct step *s)
{
	s->runs_fd = wire_take_fd(pk, (*fd_i)++);
	s->nruns = ws->nruns;
	s->npages = ws->layer_npages;
	s->first = ws->first != 0;
	s->severed = ws->severed != 0;
	s->owned = ws->owned != 0;
	if (ws->has_layer)
		s->fd = wire_take_fd(pk, (*fd_i)++);
	if (s->owned && (!s->severed || !s->first || s->fd < 0))
		return -EPROTO;
	return s->runs_fd < 0 || (ws->has_layer && s->fd < 0) ? -EPROTO : 0;
}

int steps_take(struct bplace *p, struct wire_packet *pk, struct step **spare,
    struct wire_frozen *f, int *sets_fd, struct err *e)
{
	struct step **tail = &p->pending;
	uint32_t fd_i = 0;
	int rc = 0;

	if (pk->m.len != sizeof(*f))
		return err_set(e, -EPROTO, "the monitor's answer is malformed");
	memcpy(f, pk->payload, sizeof(*f));
	if (f->nsteps > WIRE_STEPS_MAX || f->npages != p->npages ||
	    (f->tracked != 0) != ((p->flags & FIRN_SEG_TRACKED) != 0))
		return err_set(e, -EPROTO, "the monitor's answer is malformed");
	while (*tail != NULL)
		tail = &(*tail)->next;
	for (uint32_t i = 0; i < f->nsteps && rc == 0; i++) {
		struct step *s = *spare;

		rc = step_take(pk, &f->step[i], &fd_i, s);
		*spare = s->next;
		s->next = NULL;
		*tail = s;
		tail = &s->next;
		p->steps_taken++;
		p->was_severed |= s->severed;
	}
	if (rc == 0 && f->tracked)
		*sets_fd = wire_take_fd(pk, fd_i);
	if (rc != 0 || (f->tracked && *sets_fd < 0))
		return err_set(e, -EPROTO,
		    "the monitor's answer lacks descriptors, or contradicts "
		    "itself");
	return 0;
}

void step_none(struct bplace *p, struct step **spare)
{
	struct step **tail = &p->pending;
	struct step *s = *spare;

	while (*tail != NULL)
		tail = &(*tail)->next;
	*spare = s->next;
	s->next = NULL;
	s->none = true;
	*tail = s;
	p->steps_taken++;
}

/* --- applying them -------------------------------------------------------- */

static int runs_unusable(int rc, struct err *e)
{
	return err_set(e, rc, "the list of frozen pages cannot be used: %s",
	    strerror(-rc));
}

/* Is its list as long as it was told to be? */
static int step_look(const struct step *s, uint64_t npages, struct err *e)
{
	uint64_t most = npages < RUNS_MAX ? npages : RUNS_MAX;
	uint64_t len;
	int rc = wire_len(s->runs_fd, &len);

	if (rc == 0 &&
	    (s->nruns > most || len != s->nruns * sizeof(struct page_run)))
		rc = -EPROTO;
	return rc == 0 ? 0 : runs_unusable(rc, e);
}

/* Make the step's memfd a layer. It is the step's until that has succeeded. */
static int step_adopt(struct broker *b, struct step *s, struct err *e)
{
	uint32_t npieces;
	int rc;

	if (s->fd < 0)
		return 0;
	if (s->owned)
		return layer_adopt_owned(
		    b->layers, &s->fd, s->npages, &s->layer, e);
	rc = layer_adopt(b->layers, s->fd, s->npages, &s->layer, e);
	if (rc != 0)
		return rc;
	s->fd = -1;
	if (s->first) {
		s->file = layer_pieces(b->layers, s->layer, &npieces)->file;
		s->pinned = true;
		lfile_pin(b->layers, s->file);
	}
	return 0;
}

static int step_begin(
    struct broker *b, struct bplace *p, struct step *s, struct err *e)
{
	int rc = s->none ? 0 : step_look(s, p->npages, e);

	if (rc == 0)
		rc = step_adopt(b, s, e);
	if (rc != 0)
		return rc;
	if (s->layer != RUN_ZERO)
		layer_belongs(b->layers, s->layer, p->whose);
	if (s->first)
		(void)map_zero(p->npages, &s->map);
	else
		s->map = map_get(&b->store, &p->cur);
	s->begun = true;
	return 0;
}

/* The next runs, behind those that were applied, as they may be. */
static int step_check(struct broker *b, const struct step *s,
    struct page_run *run, size_t n, uint64_t npages)
{
	uint64_t have =
	    s->layer == RUN_ZERO ? 0 : layer_npages(b->layers, s->layer);
	int rc = run_list_check(run, n, npages);

	if (rc == 0 && run[0].page < s->end)
		rc = -EPROTO;
	for (size_t i = 0; rc == 0 && i < n; i++) {
		struct page_run *r = &run[i];

		if (r->layer == RUN_ZERO)
			continue;
		if (r->layer != 0 || r->index > have ||
		    r->npages > have - r->index)
			rc = -EPROTO;
		r->layer = s->layer;
	}
	return rc;
}

static int step_runs(struct broker *b, struct step *s, size_t n, struct err *e)
{
	struct page_run run[STEP_RUNS];
	struct map next;
	int rc = wire_read(
	    s->runs_fd, s->nread * sizeof(*run), run, n * sizeof(*run));

	if (rc != 0)
		return runs_unusable(rc, e);
	rc = step_check(b, s, run, n, s->map.npages);
	if (rc != 0)
		return err_set(
		    e, rc, "the monitor named pages that its layer lacks");
	rc = map_apply(&b->store, &s->map, run, n, &next);
	if (rc != 0)
		return err_set(e, rc, "no memory for a page map");
	map_put(&b->store, &s->map);
	s->map = next;
	s->nread += n;
	s->end = run[n - 1].page + run[n - 1].npages;
	return 0;
}

/* A turn's work on it; 0: it is done, 1: it is not. */
static int step_turn(
    struct broker *b, struct bplace *p, struct step *s, struct err *e)
{
	uint64_t n;
	int rc = s->begun ? 0 : step_begin(b, p, s, e);

	if (rc != 0)
		return rc;
	n = s->nruns - s->nread;
	if (n > STEP_RUNS)
		n = STEP_RUNS;
	if (n > 0)
		rc = step_runs(b, s, n, e);
	if (rc != 0)
		return rc;
	return s->nread < s->nruns;
}

/* What (p) shows is severed from it, in layer (owned), or 0. */
static void keep_severed(struct broker *b, struct bplace *p, uint32_t owned)
{
	place_unpin(b, p);
	p->severed = p->cur;
	p->severed_owned = owned;
	p->severed_f = (struct wire_frozen){0};
	p->has_severed = true;
	(void)map_zero(p->npages, &p->cur);
	/* It is no view of anything, and what is frozen next descends from
	 * nothing. */
	snap_put(b, p->shown);
	p->shown = NULL;
	kin_put(p->severed_kin);
	p->severed_kin = p->kin;
	p->kin = NULL;
}

/* A first step's layer is what the place had as memory, and still maps, unless
 * it was severed. */
static void step_pins(struct broker *b, struct bplace *p, struct step *s)
{
	if (s->first || s->severed)
		place_unpin(b, p);
	if (!s->pinned || s->severed)
		return;
	p->has_own_file = true;
	p->own_file = s->file;
	s->pinned = false;
}

/* The place shows what it told. */
static void step_done(struct broker *b, struct bplace *p, struct step *s)
{
	map_put(&b->store, &p->cur);
	p->cur = s->map;
	s->begun = false;
	step_pins(b, p, s);
	p->unmovable = false;
	if (s->severed)
		keep_severed(b, p, s->owned ? s->layer : 0);
}

static bool may_pass(int rc)
{
	return rc == -ENOMEM || rc == -EMFILE || rc == -ENFILE ||
	       rc == -ENOSPC || rc == -EBUSY;
}

int steps_turn(
    struct broker *b, struct bvm *vm, struct bplace *p, struct err *e)
{
	struct step *s = p->pending;
	int rc;

	if (s->severed && p->has_severed)
		return err_set(e, -EBUSY,
		    "what an earlier sever left waits to be taken; sever it "
		    "again");
	rc = step_turn(b, p, s, e);
	if (rc > 0 || (rc < 0 && may_pass(rc)))
		return rc;
	if (rc == 0)
		step_done(b, p, s);
	else
		vm_kill(b, vm);
	p->pending = s->next;
	p->steps_gone++;
	step_free(b, s);
	return rc;
}
