/* SPDX-License-Identifier: MIT */
#include "vmm/guestcall/aspace.h"

#include <errno.h>

#include "shared/page/run.h"
#include "vmm/guestcall/entries.h"

static uint64_t page_up(uint64_t v)
{
	return (v + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
}

static uint64_t leaf_down(uint64_t v)
{
	return v & ~(LEAF_SIZE - 1);
}

static uint64_t leaf_up(uint64_t v)
{
	return leaf_down(v + LEAF_SIZE - 1);
}

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static bool in_window(uint64_t va)
{
	return va >= FIRN_WINDOW && va < AS_WINDOW_END;
}

int as_init(
    struct aspace *as, const struct as_ops *ops, const struct as_memory *m)
{
	*as = (struct aspace){.ops = ops, .ram_gpa = m->ram_gpa};
	pg_init(&as->pg, m->tables, m->tables_gpa, m->ntables);
	as->areas.blocks_start = AS_LARGE_MIN;
	as->areas.blocks_end =
	    AS_LARGE_MIN + leaf_up(m->ram_npages * PAGE_SIZE);
	return frames_init(&as->frames, m->ram_npages);
}

void as_fini(struct aspace *as)
{
	frames_fini(&as->frames);
	areas_fini(&as->areas);
}

const struct as_area *as_find(const struct aspace *as, uint64_t va)
{
	return areas_find(&as->areas, va);
}

bool as_used(const struct aspace *as, uint64_t va, uint64_t len)
{
	return areas_any(&as->areas, va, va + len);
}

static bool range_ok(uint64_t va, uint64_t len)
{
	uint64_t end;

	if (len == 0 || len > AS_LEN_MAX || ((va | len) & (PAGE_SIZE - 1)) ||
	    __builtin_add_overflow(va, len, &end))
		return false;
	if (va < AS_VA_MIN || end > AS_VA_MAX)
		return false;
	return end <= FIRN_WINDOW || va >= AS_WINDOW_END;
}

/* Is there memory for (npages) and (nblocks) more than was promised? */
static bool may_promise(
    const struct aspace *as, uint64_t npages, uint64_t nblocks)
{
	uint64_t n = as->areas.committed + npages +
		     (as->frames.nwhole + nblocks) * LEAF_NPAGES;

	return n <= as->frames.npages;
}

/* --- what programs ask ---------------------------------------------------- */

int as_map_fixed(
    struct aspace *as, uint64_t va, uint64_t len, uint32_t prot, bool stack)
{
	bool promised = prot && !stack;
	int64_t nblocks;
	uint64_t npages;
	int r;

	if (!range_ok(va, len))
		return -EINVAL;
	if (((prot & AS_W) && (prot & AS_X)) ||
	    entries_wx(as, va, va + len, prot))
		return -EACCES;
	r = areas_room(&as->areas, 2);
	if (r < 0)
		return r;
	npages = promised ? areas_unpromised(&as->areas, va, va + len) : 0;
	nblocks = entries_to_reserve(as, va, va + len);
	if (nblocks < 0 || !may_promise(as, npages, (uint64_t)nblocks))
		return -ENOMEM;
	if (as_used(as, va, len)) {
		areas_cut(&as->areas, va, va + len);
		r = entries_drop(as, va, va + len);
		if (r < 0)
			return r;
	}
	areas_add(&as->areas, (struct as_area){.start = va,
				  .end = va + len,
				  .prot = prot,
				  .stack = stack,
				  .promised = promised});
	entries_reserve(as, va, va + len);
	return entries_settle(as, va, va + len, prot);
}

/* Blocks are set aside whole: the rest of the last one should not be most of
 * what is set aside. */
static bool is_worth_blocks(uint64_t len)
{
	uint64_t tail = len % LEAF_SIZE;

	return len >= 4 * LEAF_SIZE ||
	       (len >= LEAF_SIZE && (tail == 0 || tail >= LEAF_SIZE / 2));
}

/* Where a mapping goes that names no address. */
static uint64_t choose_va(const struct aspace *as, uint64_t len, uint32_t prot)
{
	uint64_t nblocks = leaf_up(len) / LEAF_SIZE;

	/* Reservations (PROT_NONE) are opened piecemeal: no blocks for them. */
	if (prot && is_worth_blocks(len) && may_promise(as, 0, nblocks)) {
		int64_t chunk = frames_find_chunks(&as->frames, nblocks);

		if (chunk >= 0)
			return AS_LARGE_MIN + (uint64_t)chunk * LEAF_SIZE;
	}
	return areas_gap(&as->areas, len, AS_LARGE_MAX, AS_SMALL_MAX);
}

int as_map(
    struct aspace *as, uint64_t hint, uint64_t len, uint32_t prot, uint64_t *va)
{
	uint64_t at = hint & ~(PAGE_SIZE - 1);

	if (len == 0 || len > AS_LEN_MAX)
		return len ? -ENOMEM : -EINVAL;
	len = page_up(len);
	if (!range_ok(at, len) || as_used(as, at, len) ||
	    (at < AS_LARGE_MAX && at + len > AS_LARGE_MIN))
		at = choose_va(as, len, prot);
	if (at == 0)
		return -ENOMEM;
	*va = at;
	return as_map_fixed(as, at, len, prot, false);
}

int as_unmap(struct aspace *as, uint64_t va, uint64_t len)
{
	int r;

	if (!range_ok(va, len))
		return -EINVAL;
	r = areas_room(&as->areas, 1);
	if (r < 0)
		return r;
	if (!as_used(as, va, len))
		return 0;
	areas_cut(&as->areas, va, va + len);
	return entries_drop(as, va, va + len);
}

int as_protect(struct aspace *as, uint64_t va, uint64_t len, uint32_t prot)
{
	uint64_t end = va + len;
	int r;

	if (!range_ok(va, len))
		return -EINVAL;
	if (((prot & AS_W) && (prot & AS_X)) || entries_wx(as, va, end, prot))
		return -EACCES;
	if (!areas_cover(&as->areas, va, end))
		return -ENOMEM;
	r = areas_room(&as->areas, 2);
	if (r < 0)
		return r;
	if (prot && !may_promise(as, areas_unpromised(&as->areas, va, end), 0))
		return -ENOMEM;
	areas_protect(&as->areas, va, end, prot);
	return entries_sync(as, va, end, prot);
}

int as_zero(struct aspace *as, uint64_t va, uint64_t len)
{
	uint64_t end = va + len;
	uint64_t size;

	if (!range_ok(va, len))
		return -EINVAL;
	if (!areas_cover(&as->areas, va, end))
		return -ENOMEM;
	while (va < end) {
		uint64_t *pte = pg_find(&as->pg, va, &size);
		uint64_t next = min64((va & ~(size - 1)) + size, end);
		int r = 0;

		if (pte)
			r = as->ops->zero(as->ops->ctx,
			    (*pte & PTE_GPA) + (va & (size - 1)), next - va);
		if (r < 0)
			return r;
		va = next;
	}
	return 0;
}

int as_grow(struct aspace *as, uint64_t va, uint64_t old, uint64_t len)
{
	const struct as_area *a = as_find(as, va);

	if (!a || len < old || !range_ok(va, len) ||
	    !areas_cover(&as->areas, va, va + old))
		return -ENOMEM;
	if (len == old)
		return 0;
	if (as_used(as, va + old, len - old))
		return -ENOMEM;
	return as_map_fixed(as, va + old, len - old, a->prot, false);
}

uint64_t as_brk(struct aspace *as, uint64_t want)
{
	uint64_t have = page_up(as->brk);
	uint64_t end;
	int r = 0;

	if (want < as->brk_start || want > AS_VA_MAX)
		return as->brk;
	end = page_up(want);
	if (end > have) {
		/* A page stays free above it, so that overruns are noticed. */
		if (as_used(as, have, end - have + PAGE_SIZE))
			return as->brk;
		r = as_map_fixed(as, have, end - have, AS_R | AS_W, false);
	} else if (end < have) {
		r = as_unmap(as, end, have - end);
	}
	if (r == 0)
		as->brk = want;
	return as->brk;
}

/* --- faults --------------------------------------------------------------- */

/* The memory at (gpa), a place's to (end), appears at (slot). A place that ends
 * within has pages, if the slot may: a touch of what is beyond faults in the
 * guest then, with the registers that it began with. */
static int show_window(
    struct aspace *as, uint64_t slot, uint64_t gpa, uint64_t end, uint64_t bits)
{
	uint64_t *pde = pg_pde(&as->pg, slot, true);

	if (!pde)
		return -ENOMEM;
	if (*pde == PTE_HUGE || (*pde == 0 && end - gpa >= LEAF_SIZE)) {
		*pde = gpa | PTE_PS | PTE_HUGE | bits;
		return 0;
	}
	end = min64(end, gpa + LEAF_SIZE);
	for (; gpa < end; gpa += PAGE_SIZE, slot += PAGE_SIZE) {
		uint64_t *pte = pg_pte(&as->pg, slot, true);

		if (!pte)
			return -ENOMEM;
		*pte = gpa | bits;
	}
	return 0;
}

static int touch_window(struct aspace *as, uint64_t va, uint32_t access)
{
	uint64_t gpa = leaf_down(va - FIRN_WINDOW);
	uint64_t end;
	uint64_t len;
	bool readonly;
	int r;

	if (access & AS_X)
		return -EACCES;
	r = as->ops->window(as->ops->ctx, va - FIRN_WINDOW, &readonly, &end);
	if (r < 0)
		return r;
	if (readonly && (access & AS_W))
		return -EACCES;
	if (pg_find(&as->pg, va, &len))
		return 0;
	as->ops->back(as->ops->ctx, gpa);
	return show_window(as, leaf_down(va), gpa, end,
	    PTE_FRAME | entry_bits(AS_R | (readonly ? 0 : AS_W)));
}

/* The stack is touched at (va): from now on what comes with it is promised. */
static int promise_stack(struct aspace *as, uint64_t va)
{
	struct as_area a = *as_find(as, va);
	int r = areas_room(&as->areas, 2);

	if (r < 0)
		return r;
	a.start = va;
	a.end = min64(a.end, entries_around(va));
	a.promised = true;
	if (!may_promise(as, (a.end - a.start) / PAGE_SIZE, 0))
		return -ENOMEM;
	areas_cut(&as->areas, a.start, a.end);
	areas_add(&as->areas, a);
	return 0;
}

int as_touch(struct aspace *as, uint64_t va, uint32_t access)
{
	const struct as_area *a;
	uint64_t len;
	uint64_t *pte;

	if (in_window(va))
		return touch_window(as, va, access);
	a = as_find(as, va);
	if (!a)
		return -EFAULT;
	/* The CPU knows no memory that cannot be read. */
	if (a->prot == 0 || (access & (AS_W | AS_X) & ~a->prot))
		return -EACCES;
	va &= ~(PAGE_SIZE - 1);
	pte = pg_find(&as->pg, va, &len);
	if (pte)
		return 0;
	if (!a->promised) {
		int r = promise_stack(as, va);

		if (r < 0)
			return r;
		a = as_find(as, va);
	}
	return entries_bring(as, a, va);
}

int as_peek(struct aspace *as, uint64_t va, uint64_t *gpa, uint64_t *room)
{
	uint64_t *pte;
	uint64_t len;

	if (va >= AS_VA_MAX)
		return -EFAULT;
	pte = pg_find(&as->pg, va, &len);
	if (!pte)
		return -EFAULT;
	*gpa = (*pte & PTE_GPA) + (va & (len - 1));
	*room = len - (va & (len - 1));
	return 0;
}

int as_resolve(struct aspace *as, uint64_t va, uint32_t access, uint64_t *gpa,
    uint64_t *room)
{
	int r = as_touch(as, va, access);

	return r < 0 ? r : as_peek(as, va, gpa, room);
}

void as_window_fill(struct aspace *as, uint64_t gpa, uint64_t len)
{
	uint64_t va = FIRN_WINDOW + gpa;
	uint64_t end = min64(va + min64(len, AS_FILL_LEN), AS_WINDOW_END);

	while (va < end && touch_window(as, va, AS_R) == 0)
		va += LEAF_SIZE;
}

void as_window_gone(struct aspace *as, uint64_t gpa, uint64_t len)
{
	uint64_t end = min64(FIRN_WINDOW + gpa + len, AS_WINDOW_END);
	uint64_t step;

	for (uint64_t va = FIRN_WINDOW + gpa; va < end; va += step) {
		uint64_t *entry = pg_find(&as->pg, va, &step);

		if (entry)
			*entry = step == LEAF_SIZE ? PTE_HUGE : 0;
	}
}
