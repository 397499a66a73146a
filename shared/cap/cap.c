/* SPDX-License-Identifier: MIT */
#include "shared/cap/cap.h"

#include <stdbool.h>
#include <stddef.h>

#include "shared/status.h"

#define SLOT_MASK (CAP_SLOTS_MAX - 1)

/* Length of (name), FIRN_NAME_MAX where it does not end before. */
static uint32_t name_len(const char *name)
{
	uint32_t len = 0;

	while (name != NULL && len < FIRN_NAME_MAX && name[len] != '\0')
		len++;
	return len;
}

static bool name_equal(const char *a, const char *b)
{
	uint32_t i = 0;

	while (i < FIRN_NAME_MAX - 1 && a[i] == b[i] && a[i] != '\0')
		i++;
	return a[i] == b[i];
}

static int32_t number_of(const struct cap_table *t, uint32_t slot)
{
	return (int32_t)((t->slot[slot].gen << CAP_SLOT_BITS) | slot);
}

/* The slot that (num) names, or nslots. */
static uint32_t slot_of(const struct cap_table *t, int64_t num)
{
	uint32_t slot = (uint32_t)num & SLOT_MASK;

	if (num <= 0 || num > INT32_MAX || slot >= t->nslots ||
	    t->slot[slot].kind == 0 || number_of(t, slot) != num)
		return t->nslots;
	return slot;
}

int cap_table_init(struct cap_table *t, struct cap *slots, uint32_t nslots)
{
	if (nslots == 0 || nslots > CAP_SLOTS_MAX)
		return -ST_INVAL;
	*t = (struct cap_table){.slot = slots, .nslots = nslots};
	for (uint32_t i = 0; i < nslots; i++)
		slots[i] = (struct cap){.gen = 0};
	return 0;
}

/* A free slot. The hand goes round, so that one is reused as late as can be. */
static uint32_t take_slot(struct cap_table *t)
{
	while (t->slot[t->hand].kind != 0)
		t->hand = (t->hand + 1) % t->nslots;
	return t->hand;
}

int32_t cap_insert(struct cap_table *t, uint32_t kind, uint32_t rights,
    uint64_t object, const char *name)
{
	uint32_t len = name_len(name);
	uint32_t slot;
	struct cap *c;

	if (kind == 0 || (rights & ~FIRN_RIGHT_ALL) != 0 ||
	    len >= FIRN_NAME_MAX)
		return -ST_INVAL;
	if (len != 0 && cap_find(t, name) >= 0)
		return -ST_EXIST;
	if (t->nused == t->nslots)
		return -ST_NOSPC;
	slot = take_slot(t);
	c = &t->slot[slot];
	*c = (struct cap){
	    .object = object,
	    .kind = kind,
	    .rights = rights,
	    .gen = c->gen == CAP_GEN_MAX ? 1 : c->gen + 1,
	};
	for (uint32_t i = 0; i < len; i++)
		c->name[i] = name[i];
	t->nused++;
	t->hand = (slot + 1) % t->nslots;
	return number_of(t, slot);
}

int cap_lookup(const struct cap_table *t, int64_t num, uint32_t rights,
    const struct cap **out)
{
	uint32_t slot = slot_of(t, num);

	if (slot == t->nslots)
		return -ST_NOENT;
	if ((t->slot[slot].rights & rights) != rights)
		return -ST_PERM;
	*out = &t->slot[slot];
	return 0;
}

int32_t cap_find(const struct cap_table *t, const char *name)
{
	uint32_t len = name_len(name);

	if (len == 0 || len >= FIRN_NAME_MAX)
		return -ST_NOENT;
	for (uint32_t i = 0; i < t->nslots; i++)
		if (t->slot[i].kind != 0 && name_equal(t->slot[i].name, name))
			return number_of(t, i);
	return -ST_NOENT;
}

int32_t cap_derive(struct cap_table *t, int64_t num, uint32_t rights)
{
	const struct cap *c;
	int rc = cap_lookup(t, num, FIRN_RIGHT_DERIVE, &c);

	if (rc != 0)
		return rc;
	if ((c->rights & rights) == 0)
		return -ST_INVAL;
	return cap_insert(t, c->kind, c->rights & rights, c->object, NULL);
}

int cap_drop(struct cap_table *t, int64_t num, struct cap *was)
{
	uint32_t slot = slot_of(t, num);

	if (slot == t->nslots)
		return -ST_NOENT;
	if (was != NULL)
		*was = t->slot[slot];
	t->slot[slot] = (struct cap){.gen = t->slot[slot].gen};
	t->nused--;
	return 0;
}

int32_t cap_next(
    const struct cap_table *t, uint32_t *pos, const struct cap **out)
{
	for (; *pos < t->nslots; (*pos)++) {
		if (t->slot[*pos].kind == 0)
			continue;
		*out = &t->slot[*pos];
		return number_of(t, (*pos)++);
	}
	return -ST_NOENT;
}
