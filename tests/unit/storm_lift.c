/* SPDX-License-Identifier: MIT */
/* What a monitor of the storm says to a freeze or a sever. */
#include "tests/unit/storm.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static void writes(struct storm *s, struct splace *p)
{
	uint32_t step = one_in(s, 3) ? 2 : 1 + pick(s, 300);

	for (uint32_t i = pick(s, step); i < NPAGES; i += step) {
		p->truth[i] = one_in(s, 9) ? 0 : ++s->stamp;
		p->dirty[i] = true;
	}
}

/* What is dirty as a step: its runs, and its layer, or -1. */
static size_t step_of(
    struct splace *p, struct page_run *r, struct wire_step *w, int *layer)
{
	uint64_t at = 0;
	size_t n = 0;

	*layer = -1;
	for (uint64_t i = 0; i < NPAGES; i++) {
		bool zero = p->truth[i] == 0;

		if (!p->dirty[i] || (p->first && zero))
			continue;
		if (!zero && *layer < 0)
			*layer = new_layer(NPAGES);
		if (!zero)
			put_page(*layer, p->first ? i : at, p->truth[i]);
		r[n++] = (struct page_run){.page = i,
		    .npages = 1,
		    .index = zero       ? 0
			     : p->first ? i
					: at,
		    .layer = zero ? RUN_ZERO : 0};
		at += !zero;
	}
	if (*layer >= 0 && !p->first)
		assert_int_equal(ftruncate(*layer, (off_t)(at * PAGE_SIZE)), 0);
	if (*layer >= 0)
		assert_int_equal(seal(*layer), 0);
	w->nruns = n;
	w->has_layer = *layer >= 0;
	w->layer_npages = *layer < 0 ? 0 : p->first ? NPAGES : at;
	w->first = p->first;
	return n;
}

/* One that is not honest says this for (w), and keeps what it can. */
static void corrupt(
    struct svm *v, struct wire_frozen *w, const int *fds, uint32_t n)
{
	if (!v->evil)
		return;
	keep(v, fds, n);
	switch (pick(v->s, 12)) {
	case 0:
		w->step[0].first ^= 1;
		break;
	case 1:
		w->step[0].severed ^= 1;
		break;
	case 2:
		w->step[0].owned ^= 1;
		break;
	case 3:
		w->step[0].nruns = pick(v->s, 2000);
		break;
	case 4:
		w->nsteps = pick(v->s, 6);
		break;
	case 5:
		w->npages = pick(v->s, 2) ? NPAGES * 2 : 0;
		break;
	case 6:
		w->cold_pages = w->warm_pages = UINT64_MAX;
		break;
	default:
		break;
	}
}

static void give_owned(struct svm *v, const struct sreq *q, struct splace *p,
    struct wire_frozen *w)
{
	struct page_run r = {.npages = NPAGES};
	int fds[2] = {wire_blob("runs", &r, sizeof(r)), p->memory};

	w->nsteps = 1;
	w->step[0] = (struct wire_step){.nruns = 1,
	    .layer_npages = NPAGES,
	    .has_layer = 1,
	    .first = 1,
	    .severed = 1,
	    .owned = 1};
	for (uint32_t i = 0; i < NPAGES; i++)
		if (p->dirty[i])
			put_page(p->memory, i, p->truth[i]);
	corrupt(v, w, fds, 2);
	answer_to(v, q, 0, w, sizeof(*w), fds, 2);
	(void)close(fds[0]);
	(void)close(p->memory);
}

static void give_layer(struct svm *v, const struct sreq *q, struct splace *p,
    struct wire_frozen *w)
{
	struct page_run r[NPAGES];
	int fds[2];
	size_t n = step_of(p, r, &w->step[0], &fds[1]);
	uint32_t nfds = n == 0 ? 0 : 1 + w->step[0].has_layer;

	w->nsteps = n > 0;
	w->step[0].severed = q->m.type == WIRE_SEVER;
	fds[0] = wire_blob("runs", r, n * sizeof(r[0]));
	corrupt(v, w, fds, nfds);
	answer_to(v, q, 0, w, sizeof(*w), fds, nfds);
	(void)close(fds[0]);
	if (fds[1] >= 0)
		(void)close(fds[1]);
	if (p->memory >= 0)
		(void)close(p->memory);
}

void lifts(struct svm *v, struct sreq *q)
{
	bool sever = q->m.type == WIRE_SEVER;
	struct wire_frozen w = {.npages = NPAGES};
	struct wire_place wp;
	struct splace *p;

	memcpy(&wp, q->payload, sizeof(wp));
	p = place_of(v, wp.id);
	if (p == NULL || p->ro) {
		refuse(v, q, p == NULL ? -ENOENT : -EPERM);
		return;
	}
	if (!one_in(v->s, 3))
		writes(v->s, p);
	w.total_ns = remember(v->s, p->truth, !v->evil);
	if (one_in(v->s, 4))
		w.cold_pages = NPAGES;
	if (sever && p->first && p->memory >= 0)
		give_owned(v, q, p, &w);
	else
		give_layer(v, q, p, &w);
	p->memory = -1;
	p->first = sever;
	memset(p->dirty, 0, sizeof(p->dirty));
	memcpy(p->base, p->truth, sizeof(p->base));
	if (sever) {
		p->memory = q->fd[0];
		q->fd[0] = -1;
		p->may_go = p->id != 0 || one_in(v->s, 10);
		memset(p->truth, 0, sizeof(p->truth));
	}
}
