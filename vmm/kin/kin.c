/* SPDX-License-Identifier: MIT */
#include "vmm/kin/kin.h"

#include <errno.h>
#include <stdlib.h>

/* What one step told: never changed while anybody holds it. */
struct piece {
	struct piece *next;
	uint32_t holds;
	struct kin_sets sets;
};

/* Sets of steps that were merged, as a list: it is united only when it has
 * grown to twice what it was then, so that a merge costs little. */
struct part {
	bool tracked; /* all steps were */
	struct piece *head, *tail;
	size_t n;      /* extents */
	size_t united; /* when they were united last, or of the largest part */
};

/*
 * (own) goes back to where its view was laid, together with those of the
 * records of the same view above; (above) is what merged parents had of other
 * views, and goes back to the parent. (down): the view of (own); (up): that of
 * the topmost part.
 */
struct kin {
	struct kins *all;
	uint64_t id;
	bool alive;
	bool has_above;
	uint32_t holds; /* its snapshot and children not counted */
	struct kin *parent;
	struct kin *child;       /* the newest */
	struct kin *next, *prev; /* of the same parent */
	struct part own, above;
	uint64_t up, down;
};

void kin_sets_free(struct kin_sets *s)
{
	extset_free(&s->reads);
	extset_free(&s->writes);
}

struct kin *kin_new(struct kins *all, uint64_t id)
{
	struct kin *k = calloc(1, sizeof(*k));

	if (k == NULL)
		return NULL;
	k->all = all;
	k->id = id;
	k->alive = true;
	all->n++;
	all->bytes += sizeof(*k);
	return k;
}

static void link_up(struct kin *k, struct kin *parent)
{
	k->parent = parent;
	k->prev = NULL;
	k->next = NULL;
	if (parent == NULL)
		return;
	k->next = parent->child;
	if (k->next != NULL)
		k->next->prev = k;
	parent->child = k;
}

static void unlink_up(struct kin *k)
{
	if (k->parent == NULL)
		return;
	if (k->prev != NULL)
		k->prev->next = k->next;
	else
		k->parent->child = k->next;
	if (k->next != NULL)
		k->next->prev = k->prev;
	k->parent = NULL;
}

void kin_descend(struct kin *k, struct kin *parent, uint64_t view)
{
	k->up = view;
	k->down = view;
	link_up(k, parent);
}

uint64_t kin_sets_bytes(const struct kin_sets *s)
{
	return (s->reads.cap + s->writes.cap) * sizeof(*s->reads.x);
}

static void piece_put(struct kins *all, struct piece *p)
{
	if (--p->holds > 0)
		return;
	all->bytes -= sizeof(*p) + kin_sets_bytes(&p->sets);
	kin_sets_free(&p->sets);
	free(p);
}

/* Empty, and not tracked. */
static void part_clear(struct kins *all, struct part *p)
{
	while (p->head != NULL) {
		struct piece *next = p->head->next;

		piece_put(all, p->head);
		p->head = next;
	}
	*p = (struct part){0};
}

/* Takes (s) over, unless there is no memory. */
static int part_add(struct kins *all, struct part *p, struct kin_sets *s)
{
	struct piece *piece;
	size_t n = s->reads.n + s->writes.n;

	if (n == 0) {
		kin_sets_free(s);
		return 0;
	}
	piece = calloc(1, sizeof(*piece));
	if (piece == NULL)
		return -ENOMEM;
	extset_trim(&s->reads);
	extset_trim(&s->writes);
	piece->holds = 1;
	piece->sets = *s;
	*s = (struct kin_sets){0};
	if (p->tail != NULL)
		p->tail->next = piece;
	else
		p->head = piece;
	p->tail = piece;
	p->n += n;
	all->bytes += sizeof(*piece) + kin_sets_bytes(&piece->sets);
	return 0;
}

int kin_track(struct kin *k, struct kin_sets *s)
{
	int rc = part_add(k->all, &k->own, s);

	k->own.tracked = rc == 0;
	k->own.united = k->own.n;
	return rc;
}

static size_t part_npieces(const struct part *p)
{
	size_t n = 0;

	for (const struct piece *x = p->head; x != NULL; x = x->next)
		n++;
	return n;
}

static int unite(struct piece *const *piece, size_t n, struct kin_sets *out)
{
	const struct extset **set;
	int rc;

	*out = (struct kin_sets){0};
	if (n == 0)
		return 0;
	set = calloc(2 * n, sizeof(void *));
	if (set == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		set[i] = &piece[i]->sets.reads;
		set[n + i] = &piece[i]->sets.writes;
	}
	rc = extset_unite(set, n, &out->reads);
	if (rc == 0)
		rc = extset_unite(set + n, n, &out->writes);
	free(set);
	if (rc != 0)
		kin_sets_free(out);
	return rc;
}

/* Make it one piece. Where there is no memory it stays as it is; where it would
 * be too much it is not tracked any more. */
static void part_unite(struct kins *all, struct part *p)
{
	size_t n = part_npieces(p);
	struct piece **piece = calloc(n + 1, sizeof(void *));
	struct part one = {.tracked = true};
	struct kin_sets sets = {0};
	int rc = -ENOMEM;

	if (piece != NULL) {
		struct piece **at = piece;

		for (struct piece *x = p->head; x != NULL; x = x->next)
			*at++ = x;
		rc = unite(piece, n, &sets);
	}
	free(piece);
	if (rc == 0)
		rc = part_add(all, &one, &sets);
	if (rc != 0 && rc != -E2BIG) {
		kin_sets_free(&sets);
		p->united = p->n; /* tried */
		return;
	}
	part_clear(all, p);
	if (rc == 0)
		*p = one;
	p->united = p->n;
}

#define UNITE_MIN 64 /* extents; fewer are left as they are */

/* What (from) has goes to (p). */
static void part_join(struct kins *all, struct part *p, struct part *from)
{
	if (!p->tracked || !from->tracked) {
		part_clear(all, p);
		part_clear(all, from);
		return;
	}
	if (p->tail != NULL)
		p->tail->next = from->head;
	else
		p->head = from->head;
	if (from->tail != NULL)
		p->tail = from->tail;
	p->n += from->n;
	if (p->united < from->united)
		p->united = from->united;
	*from = (struct part){0};
	if (p->n > 2 * p->united + UNITE_MIN)
		part_unite(all, p);
}

static void forget(struct kin *k)
{
	unlink_up(k);
	part_clear(k->all, &k->own);
	part_clear(k->all, &k->above);
	k->all->n--;
	k->all->bytes -= sizeof(*k);
	free(k);
}

/* Put (k)'s only child in its place. */
static void merge(struct kin *k)
{
	struct kins *all = k->all;
	struct kin *down = k->child;
	struct kin *up = k->parent;

	if (!down->has_above && down->up != 0 && down->up == k->down) {
		part_join(all, &down->own, &k->own);
		down->above = k->above;
		k->above = (struct part){0};
		down->has_above = k->has_above;
	} else {
		if (!down->has_above)
			down->above.tracked = true;
		down->has_above = true;
		part_join(all, &down->above, &k->own);
		if (k->has_above)
			part_join(all, &down->above, &k->above);
	}
	/* What is relative to nothing is of no use. */
	if (up == NULL)
		part_clear(all, &down->above);
	down->up = k->up;
	unlink_up(down);
	forget(k);
	link_up(down, up);
}

/* (k) was left by its snapshot, a holder or a child: is it still wanted? */
static void settle(struct kin *k)
{
	while (k != NULL && !k->alive && k->holds == 0) {
		struct kin *up = k->parent;

		if (k->child == NULL)
			forget(k);
		else if (k->child->next == NULL)
			merge(k);
		else
			return;
		k = up;
	}
}

void kin_died(struct kin *k)
{
	k->alive = false;
	settle(k);
}

struct kin *kin_hold(struct kin *k)
{
	if (k != NULL)
		k->holds++;
	return k;
}

void kin_put(struct kin *k)
{
	if (k == NULL)
		return;
	k->holds--;
	settle(k);
}

uint64_t kin_parent(const struct kin *k)
{
	k = k->parent;
	while (k != NULL && !k->alive)
		k = k->parent;
	return k == NULL ? 0 : k->id;
}

/*
 * Call (fn) for each part that tells of what was touched from (base) to (k):
 * those of the records between, and where (base) is of the view of the last of
 * them, the parts that this one goes on with.
 */
typedef void each_fn(const struct part *p, void *ctx);

static int each_part(
    const struct kin *k, const struct kin *base, each_fn *fn, void *ctx)
{
	uint64_t up = 0;

	for (; k != NULL && k != base; k = k->parent) {
		fn(&k->own, ctx);
		if (k->has_above)
			fn(&k->above, ctx);
		up = k->up;
	}
	if (k == NULL)
		return -ESRCH;
	for (; k != NULL && up != 0 && k->down == up; k = k->parent) {
		fn(&k->own, ctx);
		up = k->has_above ? 0 : k->up;
	}
	return 0;
}

struct gather {
	size_t n;     /* pieces */
	bool tracked; /* all of them */
	struct piece **piece;
	size_t at;
};

static void count_part(const struct part *p, void *ctx)
{
	struct gather *g = ctx;

	g->n += part_npieces(p);
	g->tracked &= p->tracked;
}

static void take_part(const struct part *p, void *ctx)
{
	struct gather *g = ctx;

	for (struct piece *x = p->head; x != NULL; x = x->next) {
		x->holds++;
		g->piece[g->at++] = x;
	}
}

int kin_since(const struct kin *k, const struct kin *base, bool *tracked,
    struct kin_steps *out)
{
	struct gather g = {.tracked = true};
	int rc = each_part(k, base, count_part, &g);

	*out = (struct kin_steps){0};
	*tracked = g.tracked;
	if (rc != 0 || !g.tracked || g.n == 0)
		return rc;
	g.piece = calloc(g.n, sizeof(void *));
	if (g.piece == NULL)
		return -ENOMEM;
	(void)each_part(k, base, take_part, &g);
	*out = (struct kin_steps){.all = k->all, .piece = g.piece, .n = g.n};
	return 0;
}

int kin_steps_unite(const struct kin_steps *s, struct kin_sets *out)
{
	return unite(s->piece, s->n, out);
}

void kin_steps_free(struct kin_steps *s)
{
	for (size_t i = 0; i < s->n; i++)
		piece_put(s->all, s->piece[i]);
	free(s->piece);
	*s = (struct kin_steps){0};
}
