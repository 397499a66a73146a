/* SPDX-License-Identifier: MIT */
/*
 * Relay: a place goes on showing the same bytes, from other files.
 *
 * Whatever is mapped afresh shows what was there before, but for pages that the
 * guest wrote since the last freeze: those are kept aside and put back, still
 * under the pause. So a relay that fails half way leaves a place that is right,
 * with some of it from the new files and some from the old. Where pending tells
 * all that was written, private pages that were frozen since are not put back:
 * the new files have their bytes, and their memory is given back.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "shared/bits.h"
#include "vmm/core/clock.h"
#include "vmm/mem/pagemap.h"
#include "vmm/place/internal.h"

struct relay {
	struct place *p;
	const struct place_view *v;
	uint64_t *own; /* a bit a page that is to be put back */
	uint64_t nown;
	uint64_t nprivate;   /* pages, those counted */
	unsigned char *kept; /* their bytes, in order */
};

static int check_relay(
    const struct place *p, const struct place_view *v, struct err *e)
{
	if (p->watched)
		return err_set(e, -EPERM,
		    "%s is tracked: mapping it afresh would forget what was "
		    "read",
		    p->name);
	if (p->memfd >= 0)
		return err_set(e, -EPERM, "%s shows its own memory", p->name);
	if (p->nsteps != 0)
		return err_set(
		    e, -EBUSY, "%s: a freeze waits to be published", p->name);
	if (v->npages != p->npages)
		return err_set(e, -EPROTO, "%s has %llu pages, not %llu",
		    p->name, (unsigned long long)p->npages,
		    (unsigned long long)v->npages);
	return 0;
}

/* Which private pages no file has. */
static int find_own(struct relay *l, struct err *e)
{
	struct place *p = l->p;
	size_t n = place_words(p);
	int r;

	if (p->kind == PLACE_VIEW_RO)
		return 0;
	r = dirty_harvest(p, e);
	if (r == 0)
		r = pagemap_private(p->all->pagemap_fd, p->hva, p->npages,
		    l->own, &l->nprivate);
	for (size_t i = 0; r == 0 && p->tracked && i < n; i++)
		l->own[i] &= p->pending[i];
	l->nown = bits_count(l->own, n);
	if (r == 0 && l->nown > PLACE_RELAY_PRIVATE_MAX)
		r = err_set(e, -E2BIG,
		    "%s: %llu private pages are more than may be moved (%u)",
		    p->name, (unsigned long long)l->nown,
		    PLACE_RELAY_PRIVATE_MAX);
	return r;
}

static void move_own(struct relay *l, bool back)
{
	unsigned char *kept = l->kept;
	uint64_t n = l->p->npages;

	if (kept == NULL)
		return;
	for (uint64_t i = bits_next(l->own, n, 0, true); i < n;
	     i = bits_next(l->own, n, i + 1, true)) {
		unsigned char *at = l->p->hva + i * PAGE_SIZE;

		memcpy(back ? at : kept, back ? kept : at, PAGE_SIZE);
		kept += PAGE_SIZE;
	}
}

static int keep_own(struct relay *l)
{
	if (l->nown == 0)
		return 0;
	l->kept = malloc(l->nown * PAGE_SIZE);
	if (l->kept == NULL)
		return -ENOMEM;
	move_own(l, false);
	return 0;
}

/* [page, end) of (fd) from (index) on, or anonymous. */
static int map_over(
    struct relay *l, uint64_t page, uint64_t end, int fd, uint64_t index)
{
	bool ro = l->p->kind == PLACE_VIEW_RO;
	unsigned char *at = l->p->hva + page * PAGE_SIZE;
	size_t len = (end - page) * PAGE_SIZE;

	if (page == end || mmap(at, len, PROT_READ | (ro ? 0 : PROT_WRITE),
			       MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE |
				   (fd < 0 ? MAP_ANONYMOUS : 0),
			       fd, (off_t)(index * PAGE_SIZE)) != MAP_FAILED)
		return 0;
	return backing_kept(at, len, -errno);
}

static int map_all(struct relay *l)
{
	const struct place_view *v = l->v;
	uint64_t next = 0;
	int r = 0;

	for (size_t i = 0; i < v->nruns && r == 0; i++) {
		const struct page_run *run = &v->runs[i];

		if (run->layer == RUN_ZERO)
			continue;
		r = map_over(l, next, run->page, -1, 0);
		next = run->page + run->npages;
		if (r == 0)
			r = map_over(l, run->page, next,
			    v->layer_fd[run->layer], run->index);
	}
	return r == 0 ? map_over(l, next, v->npages, -1, 0) : r;
}

static uint64_t data_pages(const struct place_view *v)
{
	uint64_t n = 0;

	for (size_t i = 0; i < v->nruns; i++)
		n += v->runs[i].layer == RUN_ZERO ? 0 : v->runs[i].npages;
	return n;
}

/* Under the pause. */
static int relay_closed(struct relay *l, uint32_t nvmas, struct err *e)
{
	int r = find_own(l, e);

	if (r == 0)
		r = keep_own(l);
	if (r < 0)
		return r;
	r = map_all(l);
	if (r != -ENOTRECOVERABLE)
		move_own(l, true);
	/* Half way there are VMAs of both. */
	l->p->nvmas = r == 0 ? nvmas : l->p->nvmas + nvmas;
	if (r == 0) {
		l->p->base_npages = data_pages(l->v);
		copies_forget(l->p);
	}
	return r == 0 || r == -ENOTRECOVERABLE ? r : -EXDEV;
}

int place_relay(struct places *ps, struct place *p, const struct place_view *v,
    struct place_relayed *done, struct err *e)
{
	struct relay l = {.p = p, .v = v};
	uint32_t nvmas = 0;
	struct err why = {0};
	uint64_t start;
	int r = check_relay(p, v, e);

	if (r == 0)
		r = view_check(ps, v, &nvmas, e);
	if (r < 0)
		return r;
	l.own = calloc(place_words(p), sizeof(*l.own));
	if (l.own == NULL)
		return err_set(e, -ENOMEM, "%s: no memory", p->name);
	gate_close(ps->gate);
	start = now_ns();
	r = relay_closed(&l, nvmas, &why);
	if (r == -ENOTRECOVERABLE)
		place_lose(p);
	else
		gate_open(ps->gate);
	if (r == 0 && done != NULL)
		*done = (struct place_relayed){
		    .pause_ns = now_ns() - start,
		    .given_pages = l.nprivate - l.nown,
		};
	free(l.own);
	free(l.kept);
	if (r < 0 && why.code == 0)
		(void)err_set(&why, r, "%s: cannot be mapped afresh: %s",
		    p->name, r == -ENOTRECOVERABLE ? PLACE_LOST : strerror(-r));
	if (r < 0 && e != NULL)
		*e = why;
	return r;
}
