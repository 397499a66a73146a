/* SPDX-License-Identifier: MIT */
#include "vmm/kin/kin.h"

#include <errno.h>
#include <stdlib.h>

struct kin {
	struct kins *all;
	uint64_t id;
	bool alive;
	bool tracked;
	uint32_t holds; /* its snapshot and children not counted */
	struct kin *parent;
	struct kin *child;       /* the newest */
	struct kin *next, *prev; /* of the same parent */
	struct kin_sets sets;    /* if tracked */
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

void kin_descend(struct kin *k, struct kin *parent)
{
	link_up(k, parent);
}

static uint64_t sets_bytes(const struct kin_sets *s)
{
	return (s->reads.cap + s->writes.cap) * sizeof(*s->reads.x);
}

static void untrack(struct kin *k)
{
	k->all->bytes -= sets_bytes(&k->sets);
	k->tracked = false;
	kin_sets_free(&k->sets);
}

void kin_track(struct kin *k, struct kin_sets *s)
{
	untrack(k);
	k->tracked = true;
	k->sets = *s;
	k->all->bytes += sets_bytes(s);
	*s = (struct kin_sets){0};
}

static int unite(
    const struct extset *a, const struct extset *b, struct extset *out)
{
	const struct extset *const both[] = {a, b};

	return extset_unite(both, 2, out);
}

/* What (down) has of its own sets and those of (k), its parent. */
static int unite_sets(
    const struct kin *k, const struct kin *down, struct kin_sets *out)
{
	int rc;

	*out = (struct kin_sets){0};
	rc = unite(&k->sets.reads, &down->sets.reads, &out->reads);
	if (rc == 0)
		rc = unite(&k->sets.writes, &down->sets.writes, &out->writes);
	if (rc != 0)
		kin_sets_free(out);
	return rc;
}

static void forget(struct kin *k)
{
	unlink_up(k);
	untrack(k);
	k->all->n--;
	k->all->bytes -= sizeof(*k);
	free(k);
}

/* Put (k)'s only child in its place. Without memory for that it stays. */
static bool merge(struct kin *k)
{
	struct kin *down = k->child;
	struct kin *up = k->parent;
	struct kin_sets both;

	if (up == NULL || !k->tracked || !down->tracked) {
		untrack(down); /* relative to nothing, or not known in all */
	} else {
		int rc = unite_sets(k, down, &both);

		if (rc == -ENOMEM)
			return false;
		untrack(down);
		if (rc == 0)
			kin_track(down, &both);
	}
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
	return k->tracked;
}

/* The steps from (base) to (k): how many, and whether all are tracked. */
static int count_steps(
    const struct kin *k, const struct kin *base, size_t *steps, bool *tracked)
{
	*steps = 0;
	*tracked = true;
	for (; k != NULL && k != base; k = k->parent) {
		++*steps;
		if (!k->tracked)
			*tracked = false;
	}
	return k == NULL ? -ESRCH : 0;
}

int kin_since(const struct kin *k, const struct kin *base, bool *tracked,
    struct kin_sets *out)
{
	const struct extset **set;
	size_t n;
	int rc = count_steps(k, base, &n, tracked);

	*out = (struct kin_sets){0};
	if (rc != 0 || !*tracked || n == 0)
		return rc;
	set = calloc(2 * n, sizeof(void *));
	if (set == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++, k = k->parent) {
		set[i] = &k->sets.reads;
		set[n + i] = &k->sets.writes;
	}
	rc = extset_unite(set, n, &out->reads);
	if (rc == 0)
		rc = extset_unite(set + n, n, &out->writes);
	if (rc != 0)
		kin_sets_free(out);
	free(set);
	return rc;
}
