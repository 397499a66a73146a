/* SPDX-License-Identifier: MIT */
#include "vmm/kin/kin.h"

#include <errno.h>
#include <stdlib.h>

/* Sets, where they are known. */
struct part {
	bool tracked;
	struct kin_sets sets;
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

static void part_clear(struct kin *k, struct part *p)
{
	k->all->bytes -= kin_sets_bytes(&p->sets);
	p->tracked = false;
	kin_sets_free(&p->sets);
}

/* Takes (with) over, in place of what (p) had. */
static void part_set(struct kin *k, struct part *p, struct part *with)
{
	part_clear(k, p);
	*p = *with;
	*with = (struct part){0};
	k->all->bytes += kin_sets_bytes(&p->sets);
}

void kin_track(struct kin *k, struct kin_sets *s)
{
	struct part p = {.tracked = true, .sets = *s};

	*s = (struct kin_sets){0};
	part_set(k, &k->own, &p);
}

#define PARTS_MAX 3

/* All (n) together: not tracked, where one is not or they are too many.
 * -ENOMEM. */
static int unite(const struct part *const *part, size_t n, struct part *out)
{
	const struct extset *reads[PARTS_MAX];
	const struct extset *writes[PARTS_MAX];
	int rc;

	*out = (struct part){.tracked = true};
	for (size_t i = 0; i < n; i++) {
		reads[i] = &part[i]->sets.reads;
		writes[i] = &part[i]->sets.writes;
		out->tracked &= part[i]->tracked;
	}
	if (!out->tracked)
		return 0;
	rc = extset_unite(reads, n, &out->sets.reads);
	if (rc == 0)
		rc = extset_unite(writes, n, &out->sets.writes);
	if (rc == 0)
		return 0;
	kin_sets_free(&out->sets);
	out->tracked = false;
	return rc == -ENOMEM ? rc : 0;
}

static void forget(struct kin *k)
{
	unlink_up(k);
	part_clear(k, &k->own);
	part_clear(k, &k->above);
	k->all->n--;
	k->all->bytes -= sizeof(*k);
	free(k);
}

/* (down) is of the same view as (k), its parent: that is one part. */
static int merge_own(struct kin *k, struct kin *down)
{
	const struct part *const both[] = {&k->own, &down->own};
	struct part own;
	struct part above = k->above;
	int rc = unite(both, 2, &own);

	if (rc != 0)
		return rc;
	part_set(down, &down->own, &own);
	k->all->bytes -= kin_sets_bytes(&above.sets);
	k->above = (struct part){0};
	part_set(down, &down->above, &above);
	down->has_above = k->has_above;
	return 0;
}

/* Of another: its parts are above those of (down). */
static int merge_above(struct kin *k, struct kin *down)
{
	const struct part *part[PARTS_MAX] = {&k->own};
	struct part above;
	size_t n = 1;
	int rc;

	if (k->has_above)
		part[n++] = &k->above;
	if (down->has_above)
		part[n++] = &down->above;
	rc = unite(part, n, &above);
	if (rc != 0)
		return rc;
	part_set(down, &down->above, &above);
	down->has_above = true;
	return 0;
}

/* Put (k)'s only child in its place. Without memory for that it stays. */
static bool merge(struct kin *k)
{
	struct kin *down = k->child;
	struct kin *up = k->parent;
	bool same = !down->has_above && down->up != 0 && down->up == k->down;

	/* What is relative to nothing is of no use. */
	if (up == NULL && !same)
		part_clear(k, &k->own);
	if (up == NULL)
		part_clear(k, &k->above);
	if ((same ? merge_own : merge_above)(k, down) != 0)
		return false;
	down->up = k->up;
	unlink_up(down);
	forget(k);
	link_up(down, up);
	return true;
}

/* (k) was left by its snapshot, a holder or a child: is it still wanted? */
static void settle(struct kin *k)
{
	while (k != NULL && !k->alive && k->holds == 0) {
		struct kin *up = k->parent;

		if (k->child == NULL)
			forget(k);
		else if (k->child->next != NULL || !merge(k))
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

bool kin_tracked(const struct kin *k)
{
	return k->own.tracked && (!k->has_above || k->above.tracked);
}

int kin_new_since(
    const struct kin_sets *s, const struct kin_sets *old, struct kin_sets *out)
{
	int rc;

	*out = (struct kin_sets){0};
	rc = extset_less(&s->reads, &old->reads, &out->reads);
	if (rc == 0)
		rc = extset_less(&s->writes, &old->writes, &out->writes);
	if (rc != 0)
		kin_sets_free(out);
	return rc;
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

struct parts {
	size_t n;
	bool tracked;              /* all of them */
	const struct extset **set; /* reads, then (n) writes */
	size_t at;
};

static void count_part(const struct part *p, void *ctx)
{
	struct parts *s = ctx;

	s->n++;
	s->tracked &= p->tracked;
}

static void take_part(const struct part *p, void *ctx)
{
	struct parts *s = ctx;

	s->set[s->at] = &p->sets.reads;
	s->set[s->n + s->at] = &p->sets.writes;
	s->at++;
}

int kin_since(const struct kin *k, const struct kin *base, bool *tracked,
    struct kin_sets *out)
{
	struct parts s = {.tracked = true};
	int rc = each_part(k, base, count_part, &s);

	*out = (struct kin_sets){0};
	*tracked = s.tracked;
	if (rc != 0 || !s.tracked || s.n == 0)
		return rc;
	s.set = calloc(2 * s.n, sizeof(void *));
	if (s.set == NULL)
		return -ENOMEM;
	(void)each_part(k, base, take_part, &s);
	rc = extset_unite(s.set, s.n, &out->reads);
	if (rc == 0)
		rc = extset_unite(s.set + s.n, s.n, &out->writes);
	if (rc != 0)
		kin_sets_free(out);
	free(s.set);
	return rc;
}
