/* SPDX-License-Identifier: MIT */
/* Places as the broker sees them: what a VM shows where. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vmm/broker/internal.h"

static bool is_there(const struct bplace *p)
{
	return p->used && !p->gone;
}

struct bplace *place_by_id(struct bvm *vm, uint32_t id)
{
	for (uint32_t i = 0; i < PLACES_MAX; i++)
		if (is_there(&vm->place[i]) && vm->place[i].id == id)
			return &vm->place[i];
	return NULL;
}

struct bplace *place_find(struct bvm *vm, const char *ref, struct err *e)
{
	char id[16];

	if (ref == NULL)
		ref = "0";
	for (uint32_t i = 0; i < PLACES_MAX; i++) {
		struct bplace *p = &vm->place[i];

		if (!is_there(p))
			continue;
		(void)snprintf(id, sizeof(id), "%" PRIu32, p->id);
		if (strcmp(ref, id) == 0 || strcmp(ref, p->name) == 0)
			return p;
	}
	(void)err_set(e, -ENOENT,
	    "no segment '%.64s' in this VM; `firn segments` lists them", ref);
	return NULL;
}

/*
 * Room for one more, or NULL: of those that are there a VM has so many. Besides
 * there are some that were unmapped and whose monitor is yet to give up what it
 * sent of them. Those are no more than were there at once: what is severed
 * after is answered after.
 */
static struct bplace *place_room(struct bvm *vm)
{
	struct bplace *room = NULL;
	uint32_t n = 0;

	for (uint32_t i = 0; i < PLACES_MAX; i++) {
		n += is_there(&vm->place[i]);
		if (!vm->place[i].used && room == NULL)
			room = &vm->place[i];
	}
	return n < WIRE_SEGMENTS_MAX ? room : NULL;
}

struct bplace *place_add(struct broker *b, struct bvm *vm,
    const struct wire_segment *s, struct lineage *l, struct err *e)
{
	struct bplace *p = place_room(vm);

	if (p == NULL)
		return err_set(e, -ENOSPC, "a VM has at most %u segments",
			   WIRE_SEGMENTS_MAX),
		       NULL;
	*p = (struct bplace){.id = s->id,
	    .flags = s->flags,
	    .gpa = s->gpa,
	    .npages = s->size / PAGE_SIZE};
	memcpy(p->name, s->name, sizeof(p->name));
	p->name[sizeof(p->name) - 1] = '\0';
	if (s->size % PAGE_SIZE != 0 || map_zero(p->npages, &p->cur) != 0)
		return err_set(e, -EINVAL,
			   "a segment has a whole number of pages, at least 1, "
			   "and at most 1 TiB"),
		       NULL;
	p->lineage = l != NULL ? lineage_get(l) : lineage_new();
	if (p->lineage == NULL)
		return err_set(e, -ENOMEM, "no memory for a segment"), NULL;
	p->whose = (s->flags & FIRN_SEG_PRIVATE) ? 0 : layers_of(vm->home->uid);
	if (p->flags & FIRN_SEG_TRACKED)
		p->lay_id = b->next_id++;
	p->used = true;
	return p;
}

void place_end(struct broker *b, struct bvm *vm, struct bplace *p)
{
	lifts_end(p);
	if ((p->flags & FIRN_SEG_VIEW_RO) == 0)
		bank_release(b, vm, p->npages * PAGE_SIZE);
	steps_free(b, &p->pending);
	cursors_end(b, p);
	map_put(&b->store, &p->cur);
	if (p->has_severed)
		map_put(&b->store, &p->severed);
	place_unpin(b, p);
	snap_put(b, p->shown);
	kin_put(p->kin);
	kin_put(p->severed_kin);
	kin_sets_free(&p->told);
	lineage_put(p->lineage);
	vm->ngone -= p->gone && !p->giving_up;
	*p = (struct bplace){0};
	layers_reap(b);
}

void place_gone(struct broker *b, struct bvm *vm, struct bplace *p)
{
	if (p->lifts == NULL && !p->giving_up) {
		place_end(b, vm, p);
		return;
	}
	p->gone = true;
	vm->ngone += !p->giving_up; /* what it gives up by is heard */
}

static bool told_already(const struct wire_segment *w, uint32_t n, uint32_t id)
{
	for (uint32_t i = 0; i < n; i++)
		if (w[i].id == id)
			return true;
	return false;
}

int places_told(struct bvm *vm, const struct wire_packet *pk,
    struct wire_segment *w, uint32_t *n)
{
	uint32_t have = pk->m.len / (uint32_t)sizeof(*w);

	*n = 0;
	if (pk->m.len % sizeof(*w) != 0 || have > WIRE_SEGMENTS_MAX)
		return -EPROTO;
	for (uint32_t i = 0; i < have; i++) {
		struct wire_segment *s = &w[*n];
		const struct bplace *p;

		memcpy(s, pk->payload + i * sizeof(*w), sizeof(*w));
		p = place_by_id(vm, s->id);
		if (p == NULL || told_already(w, *n, s->id))
			continue;
		if (s->resident > p->npages * PAGE_SIZE)
			s->resident = p->npages * PAGE_SIZE;
		if (s->private_ > s->resident)
			s->private_ = s->resident;
		++*n;
	}
	return 0;
}
