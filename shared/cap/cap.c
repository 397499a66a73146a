/* SPDX-License-Identifier: MIT */
#include "shared/cap/cap.h"

#include <stdbool.h>
#include <stddef.h>

#include "shared/status.h"

#define SLOT_MASK (CAP_SLOTS_MAX - 1)

_Static_assert(FIRN_NAME_MAX % 8 == 0, "names are hashed by words");

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

/* --- the two indices --------------------------------------------------------
 *
 * Chains of slots in buckets, as many buckets as slots were ever used: bucket
 * i's head is in slot i, whatever else that slot is used for. A bucket more
 * takes its part of one other, which is linear hashing (W. Litwin, 1980).
 */

/* One step of a keyed hash: both halves of a product, folded. */
static uint64_t mix(uint64_t h, uint64_t v)
{
	unsigned __int128 p =
	    (unsigned __int128)(h ^ v) * 0x9e3779b97f4a7c15ULL;

	return (uint64_t)p ^ (uint64_t)(p >> 64) ^ (h << 1 | h >> 63);
}

/* One less than the power of two that numbers all buckets. */
static uint32_t bucket_mask(const struct cap_table *t)
{
	return t->nfresh < 2 ? 0 : UINT32_MAX >> __builtin_clz(t->nfresh - 1);
}

/* Those above the last bucket are still with the one they will come from. */
static uint32_t bucket_of(const struct cap_table *t, uint64_t h)
{
	uint32_t mask = bucket_mask(t);
	uint32_t at;

	h = mix(h, t->key);
	at = (uint32_t)(h >> 32 ^ h) & mask;
	return at < t->nfresh ? at : at & mask >> 1;
}

static uint32_t object_bucket(const struct cap_table *t, uint64_t object)
{
	return bucket_of(t, mix(t->key, object));
}

/* (name) ends within FIRN_NAME_MAX. */
static uint32_t name_bucket(const struct cap_table *t, const char *name)
{
	uint64_t h = t->key;
	uint64_t word = 0;
	uint32_t i = 0;

	for (; name[i] != '\0'; i++) {
		word = word << 8 | (unsigned char)name[i];
		if (i % 8 != 7)
			continue;
		h = mix(h, word);
		word = 0;
	}
	return bucket_of(t, mix(mix(h, word), i));
}

static struct cap_link *link_at(
    const struct cap_table *t, uint32_t slot, bool name)
{
	return name ? &t->slot[slot].by_name : &t->slot[slot].by_object;
}

static void index_add(
    struct cap_table *t, uint32_t slot, uint32_t bucket, bool name)
{
	struct cap_link *head = link_at(t, bucket, name);
	struct cap_link *l = link_at(t, slot, name);

	l->next = head->head;
	l->prev = 0;
	if (l->next != 0)
		link_at(t, l->next - 1, name)->prev = slot + 1;
	head->head = slot + 1;
}

static void index_del(
    struct cap_table *t, uint32_t slot, uint32_t bucket, bool name)
{
	struct cap_link *l = link_at(t, slot, name);

	if (l->prev != 0)
		link_at(t, l->prev - 1, name)->next = l->next;
	else
		link_at(t, bucket, name)->head = l->next;
	if (l->next != 0)
		link_at(t, l->next - 1, name)->prev = l->prev;
	l->next = l->prev = 0;
}

static uint32_t slot_bucket(const struct cap_table *t, uint32_t slot, bool name)
{
	const struct cap *c = &t->slot[slot].cap;

	return name ? name_bucket(t, c->name) : object_bucket(t, c->object);
}

/* The last bucket is new: move what belongs there, in order. */
static void index_split(struct cap_table *t, bool name)
{
	uint32_t bucket = t->nfresh - 1;
	uint32_t from = bucket & bucket_mask(t) >> 1;
	uint32_t last = 0;
	uint32_t next;

	for (uint32_t at = link_at(t, from, name)->head; at != 0; at = next) {
		struct cap_link *l = link_at(t, at - 1, name);

		next = l->next;
		if (slot_bucket(t, at - 1, name) != bucket)
			continue;
		index_del(t, at - 1, from, name);
		l->prev = last;
		if (last != 0)
			link_at(t, last - 1, name)->next = at;
		else
			link_at(t, bucket, name)->head = at;
		last = at;
	}
}

/* --- slots ---------------------------------------------------------------- */

static int32_t number_of(const struct cap_table *t, uint32_t slot)
{
	return (int32_t)((t->slot[slot].cap.gen << CAP_SLOT_BITS) | slot);
}

/* The slot that (num) names, or nslots. */
static uint32_t slot_of(const struct cap_table *t, int64_t num)
{
	uint32_t slot = (uint32_t)num & SLOT_MASK;

	if (num <= 0 || num > INT32_MAX || slot >= t->nslots ||
	    t->slot[slot].cap.kind == 0 || number_of(t, slot) != num)
		return t->nslots;
	return slot;
}

int cap_table_init(
    struct cap_table *t, struct cap_slot *slots, uint32_t nslots, uint64_t key)
{
	if (nslots == 0 || nslots > CAP_SLOTS_MAX)
		return -ST_INVAL;
	*t = (struct cap_table){.slot = slots, .nslots = nslots, .key = key};
	return 0;
}

/* A free slot, of which there is one. */
static uint32_t take_slot(struct cap_table *t)
{
	uint32_t slot;

	if (t->nfresh < t->nslots && t->nfree < CAP_REUSE_MIN) {
		slot = t->nfresh++;
		index_split(t, true);
		index_split(t, false);
		return slot;
	}
	slot = t->free_first;
	t->free_first = t->slot[slot].by_name.next;
	t->slot[slot].by_name.next = 0;
	t->nfree--;
	return slot;
}

static void give_slot(struct cap_table *t, uint32_t slot)
{
	if (t->nfree == 0)
		t->free_first = slot;
	else
		t->slot[t->free_last].by_name.next = slot;
	t->free_last = slot;
	t->nfree++;
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
	c = &t->slot[slot].cap;
	*c = (struct cap){
	    .object = object,
	    .kind = kind,
	    .rights = rights,
	    .gen = c->gen == CAP_GEN_MAX ? 1 : c->gen + 1,
	};
	for (uint32_t i = 0; i < len; i++)
		c->name[i] = name[i];
	if (len != 0)
		index_add(t, slot, name_bucket(t, c->name), true);
	index_add(t, slot, object_bucket(t, object), false);
	t->nused++;
	return number_of(t, slot);
}

int cap_lookup(const struct cap_table *t, int64_t num, uint32_t rights,
    const struct cap **out)
{
	uint32_t slot = slot_of(t, num);

	if (slot == t->nslots)
		return -ST_NOENT;
	if ((t->slot[slot].cap.rights & rights) != rights)
		return -ST_PERM;
	*out = &t->slot[slot].cap;
	return 0;
}

int32_t cap_find(const struct cap_table *t, const char *name)
{
	uint32_t len = name_len(name);
	uint32_t at;

	if (len == 0 || len >= FIRN_NAME_MAX)
		return -ST_NOENT;
	at = t->slot[name_bucket(t, name)].by_name.head;
	for (; at != 0; at = t->slot[at - 1].by_name.next)
		if (name_equal(t->slot[at - 1].cap.name, name))
			return number_of(t, at - 1);
	return -ST_NOENT;
}

int32_t cap_find_object(
    const struct cap_table *t, uint64_t object, uint32_t rights)
{
	uint32_t at = t->slot[object_bucket(t, object)].by_object.head;
	int32_t weak = -ST_NOENT;

	for (; at != 0; at = t->slot[at - 1].by_object.next) {
		const struct cap *c = &t->slot[at - 1].cap;

		if (c->object != object)
			continue;
		if ((c->rights & rights) == rights)
			return number_of(t, at - 1);
		if (weak < 0)
			weak = number_of(t, at - 1);
	}
	return weak;
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
	struct cap *c;

	if (slot == t->nslots)
		return -ST_NOENT;
	c = &t->slot[slot].cap;
	if (was != NULL)
		*was = *c;
	if (c->name[0] != '\0')
		index_del(t, slot, name_bucket(t, c->name), true);
	index_del(t, slot, object_bucket(t, c->object), false);
	*c = (struct cap){.gen = c->gen};
	give_slot(t, slot);
	t->nused--;
	return 0;
}

int32_t cap_next(
    const struct cap_table *t, uint32_t *pos, const struct cap **out)
{
	for (; *pos < t->nfresh; (*pos)++) {
		if (t->slot[*pos].cap.kind == 0)
			continue;
		*out = &t->slot[*pos].cap;
		return number_of(t, (*pos)++);
	}
	return -ST_NOENT;
}
