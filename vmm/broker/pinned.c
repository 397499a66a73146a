/* SPDX-License-Identifier: MIT */
/*
 * pinned: who keeps files in use, so that each page that cannot be given back
 * is charged to somebody. A file that several pin is charged to each of them,
 * whole; to the VMs of one user once.
 */
#include <stdlib.h>

#include "vmm/broker/internal.h"

_Static_assert(HOMES_MAX <= 64 && HOMES_MAX <= LFILE_OPENERS_MAX,
    "a word has a bit for each home");

static void of_pins(uint64_t *by, const struct pins *p, uint64_t bit)
{
	for (uint32_t i = 0; i < p->n; i++)
		by[p->file[i]] |= bit;
}

static void of_place(uint64_t *by, const struct bplace *p, uint64_t bit)
{
	of_pins(by, &p->pins, bit);
	if (p->has_own_file)
		by[p->own_file] |= bit;
	for (const struct step *s = p->pending; s != NULL; s = s->next)
		if (s->pinned)
			by[s->file] |= bit;
}

uint64_t *pinned_by_vms(const struct broker *b)
{
	uint64_t *by = calloc(FILES_MAX, sizeof(*by));

	for (const struct bvm *vm = b->vms; by != NULL && vm != NULL;
	     vm = vm->next) {
		uint64_t bit = 1ULL << vm->home->number;

		for (const struct held *h = vm->held; h != NULL; h = h->next)
			of_pins(by, &h->pins, bit);
		for (uint32_t i = 0; i < PLACES_MAX; i++)
			if (vm->place[i].used)
				of_place(by, &vm->place[i], bit);
	}
	return by;
}

void pinned_add(struct pinned *sum, const struct lfile_stat *st, uint64_t vms)
{
	for (; vms != 0; vms &= vms - 1)
		sum->vms[__builtin_ctzll(vms)] += st->bytes;
	for (uint64_t w = st->openers; w != 0; w &= w - 1)
		sum->clients[__builtin_ctzll(w)] += st->bytes;
}

json_t *pinned_json(const struct broker *b, const struct pinned *sum)
{
	json_t *list = json_array();

	for (const struct home *h = b->homes; h != NULL; h = h->next) {
		uint64_t vms = sum->vms[h->number];
		uint64_t clients = sum->clients[h->number];

		if (vms + clients == 0)
			continue;
		(void)json_array_append_new(
		    list, json_pack("{s:I,s:I,s:I}", "uid", (json_int_t)h->uid,
			      "vm_bytes", (json_int_t)vms, "client_bytes",
			      (json_int_t)clients));
	}
	return list;
}
