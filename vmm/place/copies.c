/* SPDX-License-Identifier: MIT */
/*
 * What a place has twice: pages that a freeze copied into a layer stay private
 * to it as well, until it is laid over that layer (place_relay()). That pays
 * only for pages that nobody writes any more, as the next write to one is a
 * fault and a copy again. So pages are counted as cold that were copied, and by
 * none of the last PLACE_COLD_FREEZES freezes or more; as warm the others.
 */
#include "vmm/place/internal.h"

/* A generation of freezes is over. */
static void count(struct place *p)
{
	struct place_copies *c = &p->copies;
	size_t n = place_words(p);

	c->cold = c->warm = 0;
	for (size_t i = 0; i < n; i++) {
		uint64_t warm = c->since[i];

		if (c->copied[i] == 0)
			continue;
		c->warm += (uint64_t)__builtin_popcountll(warm);
		c->cold += (uint64_t)__builtin_popcountll(c->copied[i] & ~warm);
		if (warm != 0)
			c->since[i] = 0;
	}
}

void copies_add(struct place *p)
{
	struct place_copies *c = &p->copies;
	size_t n = place_words(p);

	for (size_t i = 0; i < n; i++) {
		if (p->taken[i] == 0)
			continue;
		c->copied[i] |= p->taken[i];
		c->since[i] |= p->taken[i];
	}
	if (++c->freezes < PLACE_COLD_FREEZES)
		return;
	c->freezes = 0;
	count(p);
}

void copies_forget(struct place *p)
{
	struct place_copies *c = &p->copies;
	size_t n = place_words(p);

	if (c->copied == NULL) /* nobody writes it */
		return;
	for (size_t i = 0; i < n; i++)
		if (c->copied[i] != 0)
			c->copied[i] = c->since[i] = 0;
	c->freezes = 0;
	c->cold = c->warm = 0;
}
