/* SPDX-License-Identifier: MIT */
/* firn's calls on what changed: diff, dirty, touched, meld. */
#include "vmm/guestcall/firn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/bits.h"
#include "vmm/core/cleanup.h"

/*
 * Room for the answer, before it is asked for: what a cursor has passed is told
 * nobody a second time. Both from the heap.
 */
struct answer {
	struct wire_packet *packet; /* of the broker's answers, else NULL */
	struct firn_extent *x;
	uint64_t max; /* extents that the guest has room for */
};

static int answer_make(struct answer *a, bool packet, uint64_t max)
{
	*a = (struct answer){.max = max};
	a->x = calloc(max + 1, sizeof(*a->x));
	if (packet)
		a->packet = calloc(1, sizeof(*a->packet));
	return a->x != NULL && (!packet || a->packet != NULL) ? 0 : -ENOMEM;
}

static void answer_free(struct answer *a)
{
	if (a->packet != NULL)
		wire_close_fds(a->packet);
	free(a->packet);
	free(a->x);
}

/* Give the (n) extents that there is room for, and the counts. */
static int64_t give_extents(struct guest_call *c, const struct answer *a,
    uint64_t n, const struct firn_pages *pages)
{
	int r = 0;

	if (n > a->max)
		n = a->max;
	if (n > 0)
		r = guest_copy_out(c->g, c->a[3], a->x, n * sizeof(*a->x));
	return r < 0 ? r : call_give(c, c->a[5], pages, sizeof(*pages), 0);
}

/* The same of those that came as a memfd. */
static int64_t give_sent(
    struct guest_call *c, const struct answer *a, const struct firn_pages *p)
{
	int fd AUTO_CLOSE = wire_take_fd(a->packet, 0);
	ssize_t n = 0;

	if (fd >= 0)
		n = pread(fd, a->x, a->max * sizeof(*a->x), 0);
	if (n < 0)
		return -errno;
	return give_extents(c, a, (uint64_t)n / sizeof(*a->x), p);
}

/* A question whose answer is extents, at most (max). */
static int64_t ask_extents(struct guest_call *c, uint16_t type,
    const void *payload, uint32_t len, uint64_t max)
{
	struct firn_pages pages = {0};
	const struct call_question q = {
	    type, payload, len, &pages, sizeof(pages)};
	struct answer a;
	int64_t r = answer_make(&a, true, max);

	if (r == 0)
		r = call_ask(c, &q, a.packet);
	if (r >= 0)
		r = give_sent(c, &a, &pages);
	answer_free(&a);
	return r;
}

int64_t call_diff(struct guest_call *c)
{
	const struct wire_gdiff d = {
	    .a = (uint32_t)c->a[0],
	    .b = (uint32_t)c->a[1],
	    .flags = (uint32_t)c->a[2],
	    .max = (uint32_t)c->a[4],
	};

	if (c->a[0] > INT32_MAX || c->a[1] > INT32_MAX)
		return -EBADF;
	if (c->a[2] & ~(uint64_t)FIRN_EXACT)
		return -EINVAL;
	if (c->a[4] > FIRN_EXTENTS_MAX)
		return -E2BIG;
	return ask_extents(c, WIRE_G_DIFF, &d, sizeof(d), d.max);
}

/* A refusal comes with what conflicts, in as much room as there is. */
static int64_t give_conflicts(struct guest_call *c, struct wire_packet *p,
    const struct wire_melded *w, uint32_t max)
{
	int fd AUTO_CLOSE = wire_take_fd(p, 0);
	void *data = NULL;
	size_t len = 0;
	int r = 0;

	if (fd >= 0)
		r = wire_slurp(
		    fd, max * sizeof(struct firn_conflict), &data, &len);
	if (r == 0 && len > 0)
		r = guest_copy_out(c->g, c->a[2], data, len);
	free(data);
	if (r == 0)
		r = (int)call_give(c, c->a[3], &w->m, sizeof(w->m), 0);
	return r < 0 ? r : w->result;
}

int64_t call_meld(struct guest_call *c)
{
	struct wire_gmeld g = {0};
	struct wire_melded w = {0};
	const struct call_question q = {
	    WIRE_G_MELD, &g, sizeof(g), &w, sizeof(w)};
	struct wire_packet *p;
	int64_t r = guest_copy_in(c->g, &g.m, c->a[0], sizeof(g.m));

	if (r == 0)
		r = call_name(c, c->a[1], true, g.name);
	if (r == 0 && g.m.max > FIRN_EXTENTS_MAX)
		r = -E2BIG;
	if (r == 0 && c->a[2] == 0)
		g.m.max = 0;
	if (r == 0)
		r = call_check_out(
		    c, c->a[2], g.m.max * sizeof(struct firn_conflict));
	if (r == 0)
		r = call_check_out(c, c->a[3], sizeof(w.m));
	if (r < 0)
		return r;
	p = calloc(1, sizeof(*p));
	if (p == NULL)
		return -ENOMEM;
	r = call_ask(c, &q, p);
	if (r >= 0)
		r = give_conflicts(c, p, &w, g.m.max);
	wire_close_fds(p);
	free(p);
	return r;
}

/* A set of pages, and its extents as far as there is room for them. */
struct page_set {
	uint64_t *words;
	uint64_t nwords;
	struct firn_pages count;
};

/* The set as extents: all of them counted; those that (a) has room for, the
 * first ones, go there and leave the set. */
static void take_extents(struct page_set *s, struct answer *a)
{
	struct firn_pages *n = &s->count;
	uint64_t end = s->nwords * 64;
	uint64_t to;

	for (uint64_t i = bits_next(s->words, end, 0, true); i < end;
	     i = bits_next(s->words, end, to, true)) {
		to = bits_next(s->words, end, i, false);
		n->pages += to - i;
		if (n->nextents < a->max) {
			a->x[n->nextents] =
			    (struct firn_extent){.first = i, .npages = to - i};
			bits_clear(s->words, i, to);
		}
		n->nextents++;
	}
}

struct dirty_job {
	struct guest *g;
	uint32_t id;
	const char *cursor;
	bool peek;
	bool begin; /* one that is not known; else -ESRCH */
	struct page_set set;
	struct answer a;
};

/* The cursor passes what there is room to tell of. */
static int dirty_on_control(void *arg)
{
	struct dirty_job *j = arg;
	struct place *p = places_by_id(j->g->env.places, j->id);
	struct place_info info;
	uint64_t pages;
	int r;

	if (!p)
		return -ENOENT;
	if (!j->begin && !place_has_cursor(p, j->cursor))
		return -ESRCH;
	place_info(p, &info);
	j->set.nwords = (info.npages + 63) / 64;
	r = place_dirty(p, j->cursor, j->peek, &j->set.words, &pages, NULL);
	if (r < 0)
		return r;
	take_extents(&j->set, &j->a);
	if (!j->peek)
		place_dirty_untold(p, j->cursor, j->set.words);
	return 0;
}

/* A plain cursor, that the control thread has. */
static int64_t dirty_plain(struct guest_call *c, const char *name, bool begin)
{
	struct dirty_job j = {
	    .g = c->g,
	    .id = (uint32_t)c->a[0],
	    .cursor = name,
	    .peek = c->a[2] & FIRN_PEEK,
	    .begin = begin,
	};
	int64_t r = answer_make(&j.a, false, c->a[4]);

	if (r == 0)
		r = c->g->env.ops.on_control(
		    c->g->env.ops.ctx, dirty_on_control, &j);
	if (r == 0)
		r = give_extents(c, &j.a, j.set.count.nextents, &j.set.count);
	answer_free(&j.a);
	free(j.set.words);
	return r;
}

/* An exact one, that the broker has. */
static int64_t dirty_exact(struct guest_call *c, const char *name)
{
	struct wire_gdirty g = {
	    .id = (uint32_t)c->a[0],
	    .flags = (uint32_t)c->a[2],
	    .max = (uint32_t)c->a[4],
	};

	memcpy(g.cursor, name, sizeof(g.cursor));
	return ask_extents(c, WIRE_G_DIRTY, &g, sizeof(g), g.max);
}

static int known_on_control(void *arg)
{
	const struct dirty_job *j = arg;
	struct place *p = places_by_id(j->g->env.places, j->id);

	if (!p)
		return -ENOENT;
	return place_has_cursor(p, j->cursor) ? -EINVAL : 0;
}

/* A cursor that began plain cannot answer exactly, and one that began exact
 * answers exactly always. */
static int64_t dirty(struct guest_call *c, const char *name)
{
	struct dirty_job j = {
	    .g = c->g, .id = (uint32_t)c->a[0], .cursor = name};
	int64_t r;

	if (c->a[2] & FIRN_EXACT) {
		r = c->g->env.ops.on_control(
		    c->g->env.ops.ctx, known_on_control, &j);
		return r < 0 ? r : dirty_exact(c, name);
	}
	r = dirty_plain(c, name, false);
	if (r != -ESRCH)
		return r;
	r = dirty_exact(c, name);
	return r != -ENOENT ? r : dirty_plain(c, name, true);
}

int64_t call_dirty(struct guest_call *c)
{
	char name[FIRN_NAME_MAX];
	int64_t r;

	if (c->a[0] > UINT32_MAX)
		return -ENOENT;
	if (c->a[2] & ~(uint64_t)(FIRN_EXACT | FIRN_PEEK))
		return -EINVAL;
	if (c->a[4] > FIRN_EXTENTS_MAX)
		return -E2BIG;
	r = call_name(c, c->a[1], false, name);
	if (r == 0 && name[0] == WIRE_CURSOR_CLIENT[0])
		return -EINVAL; /* not the guest's to advance */
	/* An advanced cursor cannot be wound back: look at the buffers first.
	 */
	if (r == 0 && c->a[3] == 0 && c->a[4] > 0)
		r = -EFAULT;
	if (r == 0)
		r = call_check_out(
		    c, c->a[3], c->a[4] * sizeof(struct firn_extent));
	if (r == 0)
		r = call_check_out(c, c->a[5], sizeof(struct firn_pages));
	return r < 0 ? r : dirty(c, name);
}

struct touched_job {
	struct guest *g;
	uint32_t id;
	struct place_sets sets;
	uint64_t nwords;
};

static int touched_on_control(void *arg)
{
	struct touched_job *j = arg;
	struct place *p = places_by_id(j->g->env.places, j->id);
	struct place_info info;

	if (!p)
		return -ENOENT;
	place_info(p, &info);
	j->nwords = (info.npages + 63) / 64;
	return place_touched(p, &j->sets, NULL);
}

static int64_t touched(struct guest_call *c)
{
	struct touched_job j = {.g = c->g, .id = (uint32_t)c->a[0]};
	struct page_set set = {0};
	struct answer a;
	int64_t r = answer_make(&a, false, c->a[4]);

	if (r == 0)
		r = c->g->env.ops.on_control(
		    c->g->env.ops.ctx, touched_on_control, &j);
	if (r == 0) {
		set.words =
		    c->a[1] == FIRN_WRITTEN ? j.sets.writes : j.sets.reads;
		set.nwords = j.nwords;
		take_extents(&set, &a);
		r = give_extents(c, &a, set.count.nextents, &set.count);
	}
	place_sets_free(&j.sets);
	answer_free(&a);
	return r;
}

int64_t call_touched(struct guest_call *c)
{
	int64_t r;

	if (c->a[0] > UINT32_MAX)
		return -ENOENT;
	if (c->a[1] > FIRN_WRITTEN || c->a[2] != 0)
		return -EINVAL;
	if (c->a[4] > FIRN_EXTENTS_MAX)
		return -E2BIG;
	r = call_check_out(c, c->a[3], c->a[4] * sizeof(struct firn_extent));
	if (r == 0)
		r = call_check_out(c, c->a[5], sizeof(struct firn_pages));
	return r < 0 ? r : touched(c);
}
