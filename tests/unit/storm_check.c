/* SPDX-License-Identifier: MIT */
/* What is known of the snapshots of the storm, and what must hold. */
#include "tests/unit/storm.h"

#include <stdio.h>
#include <string.h>

#include "vmm/broker/internal.h"

struct known *known_of(struct storm *s, uint64_t id)
{
	for (uint32_t i = 0; i < s->nknown; i++)
		if (s->known[i].id == id)
			return &s->known[i];
	return NULL;
}

void learn(struct storm *s, uint64_t id, const uint64_t *tag, bool sure)
{
	struct known *k = known_of(s, id);

	if (k == NULL) {
		assert_true(s->nknown < KNOWN_MAX);
		k = &s->known[s->nknown++];
	}
	k->id = id;
	k->sure = sure;
	memcpy(k->tag, tag, sizeof(k->tag));
}

void must_show(struct storm *s, uint64_t id, const uint64_t *tag)
{
	const struct known *k = known_of(s, id);

	if (k == NULL || !k->sure) {
		learn(s, id, tag, true);
		return;
	}
	s->nchecked++;
	for (uint32_t i = 0; i < NPAGES; i++)
		if (k->tag[i] != tag[i])
			fail_msg("snapshot %llu: page %u shows %llu, not %llu",
			    (unsigned long long)id, i,
			    (unsigned long long)tag[i],
			    (unsigned long long)k->tag[i]);
}

uint64_t remember(struct storm *s, const uint64_t *tag, bool sure)
{
	struct known *k = &s->lifted[s->nlifted++];

	assert_true(s->nlifted <= KNOWN_MAX);
	k->sure = sure;
	memcpy(k->tag, tag, sizeof(k->tag));
	return s->nlifted;
}

/* --- what must hold at any moment ----------------------------------------- */

static uint32_t caps_in(const struct cap_table *t, uint64_t id)
{
	const struct cap *c;
	uint32_t pos = 0;
	uint32_t n = 0;

	if (t->slot == NULL)
		return 0;
	while (cap_next(t, &pos, &c) >= 0)
		n += c->object == id;
	return n;
}

static void check_snap(struct broker *b, const struct snap *sn)
{
	uint32_t n = 0;

	for (struct home *h = b->homes; h != NULL; h = h->next)
		n += caps_in(&h->caps, sn->id);
	for (struct bvm *v = b->vms; v != NULL; v = v->next)
		n += caps_in(&v->caps, sn->id);
	assert_true(n <= sn->holds);
	if (sn->owned != 0)
		assert_true(n <= 1 + (unsigned)sn->busy);
	if (!sn->busy)
		assert_int_equal(layer_state(b->layers, sn->owned),
		    sn->owned != 0 ? LAYER_OWNED : LAYER_NONE);
}

void storm_check(struct storm *s)
{
	struct broker *b = s->x->b;
	uint64_t reserved = 0;

	for (uint32_t i = 0; i < SNAP_BUCKETS; i++)
		for (struct snap *sn = b->snaps[i]; sn != NULL; sn = sn->next)
			check_snap(b, sn);
	for (struct bvm *v = b->vms; v != NULL; v = v->next)
		reserved += v->reserved;
	assert_int_equal(b->bank_used, reserved);
}

void storm_look(struct storm *s)
{
	json_t *r = must(s->x, "snapshot.list", json_object());
	json_t *list = json_object_get(r, "snapshots");

	for (size_t i = 0; i < json_array_size(list); i++) {
		json_t *sn = json_array_get(list, i);
		json_int_t id = json_integer_value(json_object_get(sn, "id"));
		uint64_t tags[NPAGES];
		char ref[32];
		json_t *m;

		if (json_is_true(json_object_get(sn, "owned")) || !one_in(s, 3))
			continue;
		(void)snprintf(ref, sizeof(ref), "%lld", (long long)id);
		m = call(
		    s->x, "snapshot.open", json_pack("{s:s}", "snapshot", ref));
		if (good(m)) {
			show_runs(s->x->fds[0], s->x->fds + 1,
			    (uint32_t)s->x->nfds - 1, tags);
			must_show(s, (uint64_t)id, tags);
		}
		drop_fds(s->x);
		json_decref(m);
	}
	json_decref(r);
}
