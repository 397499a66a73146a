/* SPDX-License-Identifier: MIT */
#include "vmm/guestcall/entries.h"

#include <errno.h>

#include "shared/page/run.h"

#define LEAF_BITS (PTE_U | PTE_A | PTE_D)

static uint64_t leaf_down(uint64_t v)
{
	return v & ~(LEAF_SIZE - 1);
}

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* The chunk of segment 0 that a slot of the large zone shows. */
static uint64_t chunk_of(uint64_t va)
{
	return (va - AS_LARGE_MIN) / LEAF_SIZE;
}

static bool in_large(const struct aspace *as, uint64_t va)
{
	return va >= AS_LARGE_MIN && chunk_of(va) < as->frames.nchunks;
}

uint64_t entry_bits(uint32_t prot)
{
	if (prot == 0)
		return LEAF_BITS | PTE_NX;
	return LEAF_BITS | PTE_P | (prot & AS_W ? PTE_W : 0) |
	       (prot & AS_X ? 0 : PTE_NX);
}

/* --- frames behind entries ------------------------------------------------ */

/* Neighbouring frames whose entries became stricter. */
struct batch {
	struct aspace *as;
	uint64_t gpa;
	uint64_t len;
	bool give; /* the frames are free afterwards */
	int error;
};

/* KVM forgets the frames; only then may they be used anew. A frame that could
 * not be forgotten is not: it stays taken. */
static void batch_flush(struct batch *b)
{
	struct aspace *as = b->as;
	int r;

	if (b->len == 0)
		return;
	r = as->ops->forget(as->ops->ctx, b->gpa, b->len);
	if (r < 0)
		b->error = r;
	else if (b->give)
		frames_give(&as->frames, (b->gpa - as->ram_gpa) / PAGE_SIZE,
		    b->len / PAGE_SIZE);
	b->len = 0;
}

static void batch_add(struct batch *b, uint64_t gpa)
{
	if (b->len && b->gpa + b->len == gpa) {
		b->len += PAGE_SIZE;
		return;
	}
	batch_flush(b);
	b->gpa = gpa;
	b->len = PAGE_SIZE;
}

/* The entry of a block in use: what its areas permit, taken together. */
static uint64_t block_entry(
    const struct aspace *as, uint64_t slot, uint64_t gpa)
{
	return gpa | PTE_PS | PTE_HUGE | PTE_FRAME |
	       entry_bits(areas_prot(&as->areas, slot, slot + LEAF_SIZE));
}

static bool is_stricter(uint64_t was, uint64_t now)
{
	return ((was & PTE_P) && !(now & PTE_P)) ||
	       ((was & PTE_W) && !(now & PTE_W)) ||
	       (!(was & PTE_NX) && (now & PTE_NX));
}

/* A 2 MiB block some of whose areas went: what is left may permit less. */
static int leaf_narrow(struct aspace *as, uint64_t *pde, uint64_t slot,
    uint64_t start, uint64_t end)
{
	uint64_t was = *pde;
	uint64_t gpa = was & PTE_GPA;
	int r = 0;
	int zeroed;

	*pde = block_entry(as, slot, gpa);
	if (is_stricter(was, *pde))
		r = as->ops->forget(as->ops->ctx, gpa, LEAF_SIZE);
	zeroed = as->ops->zero(as->ops->ctx, gpa + (start - slot), end - start);
	return r < 0 ? r : zeroed;
}

/* The areas of a 2 MiB block went, all of them or some. */
static int leaf_unmap(struct aspace *as, uint64_t *pde, uint64_t slot,
    uint64_t start, uint64_t end)
{
	uint64_t was = *pde;
	int r = 0;

	if (areas_any(&as->areas, slot, slot + LEAF_SIZE))
		return was & PTE_FRAME ? leaf_narrow(as, pde, slot, start, end)
				       : 0;
	*pde = PTE_HUGE;
	if (was & PTE_FRAME)
		r = as->ops->forget(as->ops->ctx, was & PTE_GPA, LEAF_SIZE);
	if (r == 0)
		frames_give_chunk(&as->frames, chunk_of(slot));
	return r;
}

int entries_drop(struct aspace *as, uint64_t start, uint64_t end)
{
	struct batch b = {.as = as, .give = true};
	uint64_t next;

	for (uint64_t va = start; va < end; va = next) {
		uint64_t slot = leaf_down(va);
		uint64_t *pde = pg_pde(&as->pg, va, false);

		next = min64(slot + LEAF_SIZE, end);
		if (!pde || *pde == 0 || *pde == PTE_HUGE)
			continue;
		if (*pde & PTE_HUGE) {
			int r = leaf_unmap(as, pde, slot, va, next);

			b.error = r < 0 ? r : b.error;
			continue;
		}
		for (uint64_t v = va; v < next; v += PAGE_SIZE) {
			uint64_t *pte = pg_pte(&as->pg, v, false);
			uint64_t was = *pte;

			*pte = 0;
			if (was & PTE_FRAME)
				batch_add(&b, was & PTE_GPA);
		}
	}
	batch_flush(&b);
	return b.error;
}

int entries_sync(struct aspace *as, uint64_t start, uint64_t end, uint32_t prot)
{
	struct batch b = {.as = as};
	uint64_t len;

	for (uint64_t va = start; va < end; va = (va & ~(len - 1)) + len) {
		uint64_t *pte = pg_find(&as->pg, va, &len);
		uint64_t was;

		if (!pte)
			continue;
		was = *pte;
		if (len == LEAF_SIZE)
			*pte = block_entry(as, va & ~(len - 1), was & PTE_GPA);
		else
			*pte = (was & PTE_GPA) | PTE_FRAME | entry_bits(prot);
		if (!is_stricter(was, *pte))
			continue;
		batch_add(&b, was & PTE_GPA);
		b.len += len - PAGE_SIZE;
	}
	batch_flush(&b);
	return b.error;
}

/* --- blocks --------------------------------------------------------------- */

bool entries_wx(struct aspace *as, uint64_t start, uint64_t end, uint32_t prot)
{
	for (uint64_t slot = leaf_down(start); slot < end; slot += LEAF_SIZE) {
		uint64_t *pde = pg_pde(&as->pg, slot, false);
		uint32_t p = prot;

		if (!pde || !(*pde & PTE_HUGE))
			continue;
		if (slot < start)
			p |= areas_prot(&as->areas, slot, start);
		if (slot + LEAF_SIZE > end)
			p |= areas_prot(&as->areas, end, slot + LEAF_SIZE);
		if ((p & AS_W) && (p & AS_X))
			return true;
	}
	return false;
}

int64_t entries_to_reserve(struct aspace *as, uint64_t start, uint64_t end)
{
	int64_t n = 0;

	for (uint64_t slot = leaf_down(start); slot < end; slot += LEAF_SIZE) {
		uint64_t *pde;

		if (!in_large(as, slot))
			continue;
		pde = pg_pde(&as->pg, slot, true);
		if (!pde)
			return -ENOMEM;
		if (*pde & (PTE_FRAME | PTE_RESERVED))
			continue;
		if (!frames_chunk_free(&as->frames, chunk_of(slot)))
			return -ENOMEM;
		n++;
	}
	return n;
}

void entries_reserve(struct aspace *as, uint64_t start, uint64_t end)
{
	for (uint64_t slot = leaf_down(start); slot < end; slot += LEAF_SIZE) {
		uint64_t *pde;
		bool old;

		if (!in_large(as, slot))
			continue;
		pde = pg_pde(&as->pg, slot, false);
		if (*pde & (PTE_FRAME | PTE_RESERVED))
			continue;
		frames_take_chunk(&as->frames, chunk_of(slot), &old);
		*pde = (as->ram_gpa + chunk_of(slot) * LEAF_SIZE) | PTE_HUGE |
		       PTE_RESERVED | (old ? PTE_OLD : 0);
	}
}

int entries_settle(
    struct aspace *as, uint64_t start, uint64_t end, uint32_t prot)
{
	uint64_t next;
	int r = 0;

	for (uint64_t va = start; va < end && r == 0; va = next) {
		uint64_t slot = leaf_down(va);
		uint64_t *pde = pg_pde(&as->pg, va, false);

		next = min64(slot + LEAF_SIZE, end);
		if (pde && (*pde & PTE_HUGE) && (*pde & PTE_FRAME))
			r = as->ops->zero(as->ops->ctx,
			    (*pde & PTE_GPA) + (va - slot), next - va);
	}
	return r < 0 ? r : entries_sync(as, start, end, prot);
}

/* --- what a touch brings -------------------------------------------------- */

/* The 2 MiB block that is set aside for the slot of (va). */
static int touch_leaf(struct aspace *as, uint64_t va, uint64_t *pde)
{
	uint64_t slot = leaf_down(va);
	uint64_t gpa = *pde & PTE_GPA;
	int r = 0;

	if (!(*pde & PTE_RESERVED))
		return -ENOMEM;
	if (*pde & PTE_OLD)
		r = as->ops->zero(as->ops->ctx, gpa, LEAF_SIZE);
	else
		as->ops->back(as->ops->ctx, gpa);
	if (r < 0)
		return r;
	*pde = block_entry(as, slot, gpa);
	return 0;
}

uint64_t entries_around(uint64_t va)
{
	return (va & ~(AS_AROUND * PAGE_SIZE - 1)) + AS_AROUND * PAGE_SIZE;
}

/* Pages from (va) on to bring at once: in the area, in the aligned group of
 * AS_AROUND, not there yet. */
static uint32_t around(struct aspace *as, const struct as_area *a, uint64_t va)
{
	uint64_t end = min64(entries_around(va), a->end);
	uint32_t n = 0;

	for (; va < end; va += PAGE_SIZE, n++) {
		uint64_t *pte = pg_pte(&as->pg, va, false);

		if (n > 0 && pte && (*pte & PTE_FRAME))
			break;
	}
	return n;
}

static int touch_pages(struct aspace *as, const struct as_area *a, uint64_t va)
{
	uint64_t *pte = pg_pte(&as->pg, va, true);
	uint64_t page;
	uint32_t n;
	bool old;

	if (!pte)
		return -ENOMEM;
	n = frames_take(&as->frames, around(as, a, va), &page, &old);
	if (n == 0)
		return -ENOMEM;
	if (old) {
		int r = as->ops->zero(as->ops->ctx,
		    as->ram_gpa + page * PAGE_SIZE, n * PAGE_SIZE);

		if (r < 0) {
			frames_give(&as->frames, page, n);
			return r;
		}
	}
	for (uint32_t i = 0; i < n; i++)
		pte[i] = (as->ram_gpa + (page + i) * PAGE_SIZE) | PTE_FRAME |
			 entry_bits(a->prot);
	return 0;
}

int entries_bring(struct aspace *as, const struct as_area *a, uint64_t va)
{
	if (in_large(as, va))
		return touch_leaf(as, va, pg_pde(&as->pg, va, false));
	return touch_pages(as, a, va);
}
