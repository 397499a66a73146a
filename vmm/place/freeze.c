/* SPDX-License-Identifier: MIT */
/*
 * lift, lay, seal.
 *
 *              never frozen (memfd shared)         frozen before
 *   prepare    find and fill the data's chunks     make pending complete, make
 *                                                  room for the copies
 *   -- gate closed ------------------------------------------------------------
 *   lift       check that nothing was added        harvest, copy what is dirty
 *   lay back   private mapping of the memfd,       nothing: the private pages
 *              holes anonymous                     go on showing it
 *   (or empty  a fresh shared memfd in its stead, both)
 *   -- gate open --------------------------------------------------------------
 *   seal       the memfd, unless it was severed    the copies
 *              and came from the broker: owned
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/bits.h"
#include "vmm/core/clock.h"
#include "vmm/core/seals.h"
#include "vmm/place/lift.h"

/* --- seal ----------------------------------------------------------------- */

static int seal_steps(struct place *p, struct err *e)
{
	for (uint32_t i = 0; i < p->nsteps; i++) {
		if (p->sealed[i])
			continue;
		if (p->step[i].layer_fd >= 0 &&
		    fcntl(p->step[i].layer_fd, F_ADD_SEALS, SEALS_FROZEN) < 0)
			return err_set(e, -errno,
			    "%s: cannot seal what was frozen: %s; freeze again "
			    "to retry",
			    p->name, strerror(errno));
		p->sealed[i] = true;
	}
	return 0;
}

/* --- the order of things -------------------------------------------------- */

/* Without touching words that never had memory. */
static void words_zero(uint64_t *bits, size_t nwords)
{
	for (size_t i = 0; i < nwords; i++)
		if (bits[i] != 0)
			bits[i] = 0;
}

static void lift_fini(struct lift *l)
{
	unmap_copies(l);
	if (l->fd >= 0)
		(void)close(l->fd);
	if (l->fresh >= 0)
		(void)close(l->fresh);
	place_sets_free(&l->sets);
	free(l->data);
	free(l->runs);
}

/* (memory) is the broker's, or -1. */
static int prepare(struct place *p, struct lift *l, int memory, struct err *e)
{
	int r = l->first ? lift_first_prepare(p, l, e)
			 : lift_later_prepare(p, l, e);

	if (r == 0 && l->sever) {
		l->lent = memory >= 0;
		l->fresh = l->lent ? backing_take(memory, p->npages, e)
				   : backing_segment(p->npages);
		r = l->fresh < 0 ? l->fresh : 0;
	}
	return r;
}

static int lay(struct place *p, struct lift *l)
{
	int r = 0;

	if (l->sever)
		r = backing_map_shared(p->hva, place_len(p), l->fresh);
	else if (l->first)
		r = lay_back_private(p, l);
	if (r < 0)
		r = l->first ? lay_undo(p, r)
			     : backing_kept(p->hva, place_len(p), r);
	return r;
}

/* The place is a segment of new memory. */
static void begin_anew(struct place *p, struct lift *l)
{
	p->memfd = l->fresh;
	p->lent = l->lent;
	p->severed = true;
	l->fresh = -1;
	p->base_npages = 0;
	p->nvmas = 1;
	memset(p->tried, 0, (place_nchunks(p) + 63) / 64 * 8);
	dirty_mark_all(p);
}

/* The layer is made, the place shows what it shall: remember both. */
static void commit(struct place *p, struct lift *l)
{
	struct place_step *s = &p->step[p->nsteps];
	bool owned = l->sever && l->first && p->lent;
	bool empty = l->first ? l->nruns == 0 : l->copied == 0;
	int fd = l->first ? p->memfd : l->fd;

	if (l->first) {
		words_zero(p->pending, place_words(p));
		p->memfd = -1;
		p->base_npages = l->dirty;
		p->nvmas = (uint32_t)(2 * l->nruns + 1);
	} else {
		l->fd = -1;
	}
	if (l->sever)
		begin_anew(p, l);
	p->tracked = p->logged;
	if (l->nruns == 0 || empty) {
		(void)close(fd);
		fd = -1;
	}
	if (l->nruns == 0) {
		/* A step that the broker does not have yet has to say it. */
		if (l->sever && p->nsteps > 0)
			s[-1].severed = true;
		return;
	}
	*s = (struct place_step){
	    .runs = l->runs,
	    .nruns = l->nruns,
	    .layer_fd = fd,
	    .layer_npages = fd < 0     ? 0
			    : l->first ? p->npages
				       : l->room,
	    .first = l->first,
	    .severed = l->sever,
	    .owned = owned,
	};
	l->runs = NULL;
	p->sealed[p->nsteps++] = owned;
}

/* After the guest goes on: the copies lose their spare room and the mapping
 * that made them, so that they can be sealed. */
static void trim(struct place *p, struct lift *l, struct place_step *s)
{
	if (l->first || l->sever)
		copies_forget(p);
	else
		copies_add(p);
	words_zero(p->taken, place_words(p));
	unmap_copies(l);
	/* On failure the layer is what it says, longer than it need be. */
	if (s != NULL && s->layer_fd >= 0 && !s->first &&
	    ftruncate(s->layer_fd, (off_t)(l->copied * PAGE_SIZE)) == 0)
		s->layer_npages = l->copied;
}

/* The part that needs the guest stopped. */
static int act(struct place *p, struct lift *l, struct err *e)
{
	int r = l->first ? lift_first(p, l, e) : lift_later(p, l, e);

	if (r == 0 && p->watched)
		r = track_sets(p, &l->sets);
	if (r == 0)
		r = lay(p, l);
	if (r < 0)
		give_back(p);
	else
		commit(p, l);
	return r;
}

static int check_freeze(const struct place *p, bool sever, struct err *e)
{
	if (sever && p->watched)
		return err_set(e, -EPERM,
		    "%s is tracked, and what is severed has no reads and "
		    "writes; freeze it",
		    p->name);
	if (p->kind == PLACE_VIEW_RO)
		return err_set(e, -EPERM,
		    "%s is a read-only view: it is frozen already", p->name);
	return 0;
}

static int run_freeze(struct place *p, struct lift *l, int memory,
    struct place_frozen *out, struct err *e)
{
	struct gate *g = p->all->gate;
	uint32_t before = p->nsteps;
	uint64_t start;
	int r = prepare(p, l, memory, e);

	if (r < 0)
		return r;
	gate_close(g);
	start = now_ns();
	r = act(p, l, e);
	if (r == -ENOTRECOVERABLE) {
		place_lose(p);
		return r;
	}
	gate_open(g);
	out->pause_ns = now_ns() - start;
	if (r < 0)
		return r;
	trim(p, l, p->nsteps > before ? &p->step[before] : NULL);
	return seal_steps(p, e);
}

static void step_free(struct place_step *s)
{
	free(s->runs);
	if (s->layer_fd >= 0)
		(void)close(s->layer_fd);
}

/*
 * The newest step, where it is of copies: what it copied is private still, and
 * is written since the last freeze as if that had not been. So answers that are
 * lost, however many, do not end the freezes of (p).
 */
static bool take_back(struct place *p)
{
	struct place_step *s = &p->step[p->nsteps - 1];

	if (s->first || s->severed)
		return false;
	for (size_t i = 0; i < s->nruns; i++)
		bits_set(p->pending, s->runs[i].page,
		    s->runs[i].page + s->runs[i].npages);
	step_free(s);
	p->nsteps--;
	return true;
}

static void tell(const struct place *p, struct place_frozen *out)
{
	out->npages = p->npages;
	out->nsteps = p->nsteps;
	memcpy(out->step, p->step, sizeof(out->step));
}

static int freeze(struct place *p, bool sever, int memory,
    struct place_frozen *out, struct err *e)
{
	struct lift l = {
	    .first = p->memfd >= 0, .sever = sever, .fd = -1, .fresh = -1};
	uint64_t start = now_ns();
	struct err why = {0};
	int r = check_freeze(p, sever, e);

	if (r < 0)
		return r;
	r = seal_steps(p, e);
	if (r < 0)
		return r;
	memset(out, 0, sizeof(*out));
	if (sever && p->nsteps > 0 && p->step[p->nsteps - 1].severed) {
		tell(p, out);
		return 0;
	}
	/* Behind a first step there is room for one that can be taken back. */
	if (p->nsteps + l.first >= PLACE_STEPS_MAX && !take_back(p))
		return err_set(e, -ENOSPC,
		    "%s: %u freezes wait to be published, the last of them a "
		    "sever; sever it again to take that",
		    p->name, p->nsteps);
	r = run_freeze(p, &l, memory, out, &why);
	if (r < 0 && why.code == 0)
		err_set(&why, r, "%s: cannot freeze it: %s", p->name,
		    r == -ENOTRECOVERABLE ? PLACE_LOST : strerror(-r));
	tell(p, out);
	out->dirty_pages = l.dirty;
	out->copied_pages = l.copied;
	out->cold_pages = p->copies.cold;
	out->warm_pages = p->copies.warm;
	if (r == 0) {
		out->sets = l.sets;
		l.sets = (struct place_sets){0};
	}
	lift_fini(&l);
	out->total_ns = now_ns() - start;
	if (r < 0 && e != NULL)
		*e = why;
	return r;
}

int place_freeze(
    struct places *ps, struct place *p, struct place_frozen *out, struct err *e)
{
	(void)ps;
	return freeze(p, false, -1, out, e);
}

int place_sever(struct places *ps, struct place *p, int fresh,
    struct place_frozen *out, struct err *e)
{
	(void)ps;
	return freeze(p, true, fresh, out, e);
}

void place_frozen_done(struct place *p, uint32_t nsteps)
{
	for (uint32_t i = 0; i < nsteps; i++)
		step_free(&p->step[i]);
	p->nsteps -= nsteps;
	memmove(p->step, p->step + nsteps, p->nsteps * sizeof(p->step[0]));
	memmove(
	    p->sealed, p->sealed + nsteps, p->nsteps * sizeof(p->sealed[0]));
}
