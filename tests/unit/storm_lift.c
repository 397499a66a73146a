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

/* What is dirty as a step: false: there is nothing. */
static bool step_of(struct splace *p, struct sstep *t)
{
	struct page_run r[NPAGES];
	uint64_t at = 0;
	size_t n = 0;

	t->layer = -1;
	for (uint64_t i = 0; i < NPAGES; i++) {
		bool zero = p->truth[i] == 0;

		if (!p->dirty[i] || (p->first && zero))
			continue;
		if (!zero && t->layer < 0)
			t->layer = new_layer(NPAGES);
		if (!zero)
			put_page(t->layer, p->first ? i : at, p->truth[i]);
		r[n++] = (struct page_run){.page = i,
		    .npages = 1,
		    .index = zero       ? 0
			     : p->first ? i
					: at,
		    .layer = zero ? RUN_ZERO : 0};
		at += !zero;
	}
	if (n == 0)
		return false;
	if (t->layer >= 0 && !p->first)
		assert_int_equal(
		    ftruncate(t->layer, (off_t)(at * PAGE_SIZE)), 0);
	if (t->layer >= 0)
		assert_int_equal(seal(t->layer), 0);
	t->runs = wire_blob("runs", r, n * sizeof(r[0]));
	t->w = (struct wire_step){.nruns = n,
	    .has_layer = t->layer >= 0,
	    .layer_npages = t->layer < 0 ? 0
			    : p->first   ? NPAGES
					 : at,
	    .first = p->first};
	return true;
}

/* Its memory as it is. */
static void step_owned(struct splace *p, struct sstep *t)
{
	const struct page_run r = {.npages = NPAGES};

	for (uint32_t i = 0; i < NPAGES; i++)
		if (p->dirty[i])
			put_page(p->memory, i, p->truth[i]);
	*t = (struct sstep){
	    .runs = wire_blob("runs", &r, sizeof(r)), .layer = p->memory};
	t->w = (struct wire_step){.nruns = 1,
	    .layer_npages = NPAGES,
	    .has_layer = 1,
	    .first = 1,
	    .owned = 1};
	p->memory = -1;
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

void forget_lost(struct splace *p)
{
	for (uint32_t i = 0; i < p->nlost; i++) {
		(void)close(p->lost[i].runs);
		if (p->lost[i].layer >= 0)
			(void)close(p->lost[i].layer);
	}
	p->nlost = 0;
}

/* What is dirty is one more that nobody was told of. */
static void add_step(struct splace *p, bool sever)
{
	struct sstep *t = &p->lost[p->nlost];

	if (sever && p->first && p->memory >= 0) {
		step_owned(p, t);
		p->nlost++;
	} else {
		p->nlost += step_of(p, t);
	}
	if (sever && p->nlost > 0)
		p->lost[p->nlost - 1].w.severed = true;
}

/* Tell of all that nobody was told of; now and then that is lost, too, where
 * there is room for what comes next. */
static void tell(struct svm *v, const struct sreq *q, struct splace *p,
    struct wire_frozen *w)
{
	int fds[2 * WIRE_STEPS_MAX];
	uint32_t n = 0;

	if (!v->evil && p->nlost > 0 && p->nlost < WIRE_STEPS_MAX - 1 &&
	    one_in(v->s, 6)) {
		refuse(v, q, -ETOOMANYREFS);
		return;
	}
	w->nsteps = p->nlost;
	for (uint32_t i = 0; i < p->nlost; i++) {
		w->step[i] = p->lost[i].w;
		fds[n++] = p->lost[i].runs;
		if (p->lost[i].layer >= 0)
			fds[n++] = p->lost[i].layer;
	}
	corrupt(v, w, fds, n);
	answer_to(v, q, 0, w, sizeof(*w), fds, n);
	forget_lost(p);
}

/* What it shows is frozen; it goes on, with other memory if it is severed. */
static void lifted(struct svm *v, struct sreq *q, struct splace *p, bool sever)
{
	if (p->memory >= 0)
		(void)close(p->memory);
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
	if (one_in(v->s, 4))
		w.cold_pages = NPAGES;
	/* What was severed and is not told yet is told again. */
	if (sever && p->nlost > 0 && p->lost[p->nlost - 1].w.severed) {
		tell(v, q, p, &w);
		return;
	}
	w.total_ns = remember(v->s, p->truth, !v->evil);
	add_step(p, sever);
	lifted(v, q, p, sever);
	tell(v, q, p, &w);
}
