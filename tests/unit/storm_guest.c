/* SPDX-License-Identifier: MIT */
/* What guests of the storm do, and a monitor that is not honest, unasked. */
#include "tests/unit/storm.h"

#include <sys/socket.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

void guest_asks_any(struct svm *v)
{
	uint32_t cap = (1 + pick(v->s, 3)) << CAP_SLOT_BITS | pick(v->s, 8);
	struct wire_gfreeze z = {.id = any_place(v)};
	struct wire_gmap m = {.cap = cap, .mode = pick(v->s, 3)};
	struct wire_gcap g = {.cap = cap, .rights = FIRN_RIGHT_ALL};

	if (v->f->sock < 0)
		return;
	switch (pick(v->s, 6)) {
	case 0:
		say(v->f, one_in(v->s, 2) ? WIRE_G_FREEZE : WIRE_G_SEVER, 1, 0,
		    &z, sizeof(z), NULL, 0);
		break;
	case 1:
		say(v->f, WIRE_G_MAP, 1, 0, &m, sizeof(m), NULL, 0);
		break;
	case 2:
		say(v->f, WIRE_G_ADOPT, 1, 0, &m, sizeof(m), NULL, 0);
		break;
	case 3:
		say(v->f, WIRE_G_DERIVE, 1, 0, &g, sizeof(g), NULL, 0);
		break;
	case 4:
		if (one_in(v->s, 3))
			say(v->f, WIRE_G_DROP, 1, 0, &g, sizeof(g), NULL, 0);
		break;
	default:
		say(v->f, WIRE_G_DESCRIBE, 1, 0, &g, sizeof(g), NULL, 0);
		break;
	}
}

void guest_unmaps(struct svm *v)
{
	struct splace *p = &v->place[pick(v->s, PLACES)];
	struct wire_place w = {.id = p->id};

	if (v->f->sock < 0 || !p->used || !p->may_go || p->nlost > 0)
		return;
	end_place(p);
	say(v->f, WIRE_SEG_GONE, 0, 0, &w, sizeof(w), NULL, 0);
}

void evil_acts(struct svm *v)
{
	struct wire_place gone = {
	    .id = one_in(v->s, 2) ? pick(v->s, 8) : 100 + pick(v->s, 8)};
	struct wire_segment made = {.id = 100 + pick(v->s, 8),
	    .size = NPAGES * PAGE_SIZE,
	    .name = "evil"};

	if (v->nkept > 0 && one_in(v->s, 2)) {
		uint64_t page[PAGE_SIZE / 8] = {666};

		(void)!pwrite(v->kept[pick(v->s, v->nkept)], page, sizeof(page),
		    (off_t)(pick(v->s, NPAGES) * PAGE_SIZE));
	}
	if (v->nkept > 0 && one_in(v->s, 4))
		(void)close(v->kept[--v->nkept]);
	if (v->f->sock >= 0 && one_in(v->s, 8))
		say(v->f, WIRE_SEG_GONE, 0, 0, &gone, sizeof(gone), NULL, 0);
	if (v->f->sock >= 0 && one_in(v->s, 20))
		say(v->f, WIRE_G_SEGMENT, 1, 0, &made, sizeof(made), NULL, 0);
	if (v->f->sock >= 0 && one_in(v->s, 40))
		say(v->f, WIRE_SEG_MADE, 0, 0, &made, sizeof(made), NULL, 0);
	if (one_in(v->s, 60))
		kill_vm(v);
	if (v->f->sock >= 0 && one_in(v->s, 90))
		(void)shutdown(v->f->sock, SHUT_RDWR);
}
