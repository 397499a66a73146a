/* SPDX-License-Identifier: MIT */
#include "vmm/guestcall/aspace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shared/page/run.h"

#define LEAF_BITS (PTE_U | PTE_A | PTE_D)

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

static uint64_t max64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static bool in_window(uint64_t va)
{
	return va >= FIRN_WINDOW && va < AS_WINDOW_END;
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

static uint64_t prot_bits(uint32_t prot)
{
	if (prot == 0)
		return LEAF_BITS | PTE_NX;
	return LEAF_BITS | PTE_P | (prot & AS_W ? PTE_W : 0) |
	       (prot & AS_X ? 0 : PTE_NX);
}

int as_init(
    struct aspace *as, const struct as_ops *ops, const struct as_memory *m)
{
	*as = (struct aspace){.ops = ops, .ram_gpa = m->ram_gpa};
	pg_init(&as->pg, m->tables, m->tables_gpa, m->ntables);
	return frames_init(&as->frames, m->ram_npages);
}

void as_fini(struct aspace *as)
{
	frames_fini(&as->frames);
	free(as->area);
	as->area = NULL;
	as->nareas = 0;
}

/* --- areas ---------------------------------------------------------------- */

/* The first area that ends beyond (va). */
static size_t area_at(const struct aspace *as, uint64_t va)
{
	size_t lo = 0;
	size_t hi = as->nareas;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (as->area[mid].end > va)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

const struct as_area *as_find(const struct aspace *as, uint64_t va)
{
	size_t i = area_at(as, va);

	if (i == as->nareas || as->area[i].start > va)
		return NULL;
	return &as->area[i];
}

bool as_used(const struct aspace *as, uint64_t va, uint64_t len)
{
	size_t i = area_at(as, va);

	return i < as->nareas && as->area[i].start < va + len;
}

/* Make sure that (n) more areas fit, so that what follows cannot fail. */
static int area_room(struct aspace *as, size_t n)
{
	size_t cap = as->cap ? as->cap : 32;
	struct as_area *a;

	if (as->nareas + n <= as->cap)
		return 0;
	while (cap < as->nareas + n)
		cap *= 2;
	if (as->nareas + n > AS_AREAS_MAX)
		return -ENOMEM;
	a = realloc(as->area, cap * sizeof(*a));
	if (!a)
		return -ENOMEM;
	as->area = a;
	as->cap = cap;
	return 0;
}

static uint64_t promise(const struct as_area *a)
{
	if (a->stack || a->prot == 0)
		return 0;
	return (a->end - a->start) / PAGE_SIZE;
}

static void area_put(struct aspace *as, size_t i, struct as_area a)
{
	memmove(&as->area[i + 1], &as->area[i],
	    (as->nareas - i) * sizeof(as->area[0]));
	as->area[i] = a;
	as->nareas++;
	as->committed += promise(&a);
}

static struct as_area area_take(struct aspace *as, size_t i)
{
	struct as_area a = as->area[i];

	as->nareas--;
	memmove(&as->area[i], &as->area[i + 1],
	    (as->nareas - i) * sizeof(as->area[0]));
	as->committed -= promise(&a);
	return a;
}

static bool area_joins(const struct as_area *a, const struct as_area *b)
{
	return a->end == b->start && a->prot == b->prot && a->stack == b->stack;
}

/* Put (a), which overlaps none, and join it to its neighbours. */
static void area_add(struct aspace *as, struct as_area a)
{
	size_t i = area_at(as, a.start);

	if (i < as->nareas && area_joins(&a, &as->area[i]))
		a.end = area_take(as, i).end;
	if (i > 0 && area_joins(&as->area[i - 1], &a))
		a.start = area_take(as, --i).start;
	area_put(as, i, a);
}

/* Take [start, end) out of all areas; needs room for one more. */
static void area_cut(struct aspace *as, uint64_t start, uint64_t end)
{
	size_t i = area_at(as, start);

	while (i < as->nareas && as->area[i].start < end) {
		struct as_area a = area_take(as, i);
		struct as_area left = a;
		struct as_area right = a;

		left.end = start;
		right.start = end;
		if (a.start < start)
			area_put(as, i++, left);
		if (a.end > end)
			area_put(as, i++, right);
	}
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

/* Pages that [start, end) takes of what is promised already. */
static uint64_t promised_in(
    const struct aspace *as, uint64_t start, uint64_t end)
{
	uint64_t n = 0;

	for (size_t i = area_at(as, start);
	     i < as->nareas && as->area[i].start < end; i++) {
		struct as_area a = as->area[i];

		a.start = max64(a.start, start);
		a.end = min64(a.end, end);
		n += promise(&a);
	}
	return n;
}

/* Whether all of [start, end) may be promised with (prot). */
static int may_promise(
    const struct aspace *as, uint64_t start, uint64_t end, uint32_t prot)
{
	uint64_t n = prot ? (end - start) / PAGE_SIZE : 0;

	if (as->committed - promised_in(as, start, end) + n > as->frames.npages)
		return -ENOMEM;
	return 0;
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

/* What the areas permit within [start, end), taken together. */
static uint32_t union_prot(
    const struct aspace *as, uint64_t start, uint64_t end, bool *any)
{
	uint32_t prot = 0;

	*any = false;
	for (size_t i = area_at(as, start);
	     i < as->nareas && as->area[i].start < end; i++) {
		prot |= as->area[i].prot;
		*any = true;
	}
	return prot;
}

/* A 2 MiB block some of whose areas went. */
static int leaf_unmap(struct aspace *as, uint64_t *pde, uint64_t slot,
    uint64_t start, uint64_t end)
{
	uint64_t was = *pde;
	uint64_t gpa = was & PTE_GPA;
	bool any;
	uint32_t prot = union_prot(as, slot, slot + LEAF_SIZE, &any);
	int r = 0;

	if (any && (was & PTE_RESERVED))
		return 0;
	if (any) {
		*pde = gpa | PTE_PS | PTE_HUGE | PTE_FRAME | prot_bits(prot);
		return as->ops->zero(
		    as->ops->ctx, gpa + (start - slot), end - start);
	}
	*pde = PTE_HUGE;
	if (was & PTE_FRAME)
		r = as->ops->forget(as->ops->ctx, gpa, LEAF_SIZE);
	if (r == 0)
		frames_give_chunk(&as->frames, chunk_of(slot));
	return r;
}

/* The areas of [start, end) are gone: so are its entries. */
static int drop_entries(struct aspace *as, uint64_t start, uint64_t end)
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

static bool is_stricter(uint64_t was, uint64_t now)
{
	return ((was & PTE_P) && !(now & PTE_P)) ||
	       ((was & PTE_W) && !(now & PTE_W)) ||
	       (!(was & PTE_NX) && (now & PTE_NX));
}

/* Bring the entries of [start, end) to what their areas now say. */
static int sync_entries(
    struct aspace *as, uint64_t start, uint64_t end, uint32_t prot)
{
	struct batch b = {.as = as};
	uint64_t len;
	bool any;

	for (uint64_t va = start; va < end; va = (va & ~(len - 1)) + len) {
		uint64_t *pte = pg_find(&as->pg, va, &len);
		uint64_t slot = va & ~(len - 1);
		uint64_t was;

		if (!pte)
			continue;
		was = *pte;
		if (len == LEAF_SIZE)
			*pte = (was & PTE_GPA) | PTE_PS | PTE_HUGE | PTE_FRAME |
			       prot_bits(union_prot(
				   as, slot, slot + LEAF_SIZE, &any));
		else
			*pte = (was & PTE_GPA) | PTE_FRAME | prot_bits(prot);
		if (!is_stricter(was, *pte))
			continue;
		batch_add(&b, was & PTE_GPA);
		b.len += len - PAGE_SIZE;
	}
	batch_flush(&b);
	return b.error;
}

/* --- what programs ask ---------------------------------------------------- */

/* Would a 2 MiB block become writable and executable? */
static bool block_wx(
    struct aspace *as, uint64_t start, uint64_t end, uint32_t prot)
{
	bool any;

	for (uint64_t slot = leaf_down(start); slot < end; slot += LEAF_SIZE) {
		uint64_t *pde = pg_pde(&as->pg, slot, false);
		uint32_t p = prot;

		if (!pde || !(*pde & PTE_HUGE))
			continue;
		if (slot < start)
			p |= union_prot(as, slot, start, &any);
		if (slot + LEAF_SIZE > end)
			p |= union_prot(as, end, slot + LEAF_SIZE, &any);
		if ((p & AS_W) && (p & AS_X))
			return true;
	}
	return false;
}

/* May all slots of the large zone in [start, end) be used? */
static bool large_free(struct aspace *as, uint64_t start, uint64_t end)
{
	for (uint64_t slot = leaf_down(start); slot < end; slot += LEAF_SIZE) {
		uint64_t *pde;

		if (!in_large(as, slot))
			continue;
		pde = pg_pde(&as->pg, slot, true);
		if (!pde)
			return false;
		if (!(*pde & (PTE_FRAME | PTE_RESERVED)) &&
		    !frames_chunk_free(&as->frames, chunk_of(slot)))
			return false;
	}
	return true;
}

/* Set their chunks aside; large_free() said that it can be done. */
static void large_reserve(struct aspace *as, uint64_t start, uint64_t end)
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

/*
 * A new area lies at [start, end). Of a 2 MiB block there that other areas kept
 * alive, its part reads zero and becomes accessible.
 */
static int settle(
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
	return r < 0 ? r : sync_entries(as, start, end, prot);
}

int as_map_fixed(
    struct aspace *as, uint64_t va, uint64_t len, uint32_t prot, bool stack)
{
	int r;

	if (!range_ok(va, len))
		return -EINVAL;
	if (((prot & AS_W) && (prot & AS_X)) ||
	    block_wx(as, va, va + len, prot))
		return -EACCES;
	r = area_room(as, 2);
	if (r == 0 && !stack)
		r = may_promise(as, va, va + len, prot);
	if (r == 0 && !large_free(as, va, va + len))
		r = -ENOMEM;
	if (r < 0)
		return r;
	if (as_used(as, va, len)) {
		area_cut(as, va, va + len);
		r = drop_entries(as, va, va + len);
		if (r < 0)
			return r;
	}
	area_add(as,
	    (struct as_area){
		.start = va, .end = va + len, .prot = prot, .stack = stack});
	large_reserve(as, va, va + len);
	return settle(as, va, va + len, prot);
}

/* The highest gap of (len) bytes below (top); 0: none. */
static uint64_t find_gap(
    const struct aspace *as, uint64_t len, uint64_t bottom, uint64_t top)
{
	size_t i = area_at(as, top);

	if (i < as->nareas && as->area[i].start < top)
		top = as->area[i].start;
	for (;;) {
		uint64_t low = i > 0 ? as->area[i - 1].end : 0;
		uint64_t va;

		low = max64(low, bottom);
		va = top >= len ? top - len : 0;
		if (va >= low && va)
			return va;
		if (i == 0 || as->area[i - 1].start <= bottom)
			return 0;
		top = as->area[--i].start;
	}
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
	/* Reservations (PROT_NONE) are opened piecemeal: no blocks for them. */
	if (prot && is_worth_blocks(len)) {
		int64_t chunk =
		    frames_find_chunks(&as->frames, leaf_up(len) / LEAF_SIZE);

		if (chunk >= 0)
			return AS_LARGE_MIN + (uint64_t)chunk * LEAF_SIZE;
	}
	return find_gap(as, len, AS_LARGE_MAX, AS_SMALL_MAX);
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
	r = area_room(as, 1);
	if (r < 0)
		return r;
	if (!as_used(as, va, len))
		return 0;
	area_cut(as, va, va + len);
	return drop_entries(as, va, va + len);
}

static bool covered(const struct aspace *as, uint64_t start, uint64_t end)
{
	size_t i = area_at(as, start);

	while (start < end) {
		if (i == as->nareas || as->area[i].start > start)
			return false;
		start = as->area[i++].end;
	}
	return true;
}

int as_protect(struct aspace *as, uint64_t va, uint64_t len, uint32_t prot)
{
	uint64_t end = va + len;
	uint64_t start = va;
	int r;

	if (!range_ok(va, len))
		return -EINVAL;
	if (((prot & AS_W) && (prot & AS_X)) || block_wx(as, va, end, prot))
		return -EACCES;
	if (!covered(as, va, end))
		return -ENOMEM;
	r = area_room(as, 2);
	if (r == 0)
		r = may_promise(as, va, end, prot);
	if (r < 0)
		return r;
	while (start < end) {
		struct as_area a = *as_find(as, start);

		a.start = start;
		a.end = min64(a.end, end);
		a.prot = prot;
		start = a.end;
		area_cut(as, a.start, a.end);
		area_add(as, a);
	}
	return sync_entries(as, va, end, prot);
}

int as_zero(struct aspace *as, uint64_t va, uint64_t len)
{
	uint64_t end = va + len;
	uint64_t size;

	if (!range_ok(va, len))
		return -EINVAL;
	if (!covered(as, va, end))
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

	if (!a || len < old || !range_ok(va, len) || !covered(as, va, va + old))
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

static int touch_window(struct aspace *as, uint64_t va, uint32_t access)
{
	uint64_t gpa = leaf_down(va - FIRN_WINDOW);
	uint64_t *pde;
	bool readonly;
	int r;

	if (access & AS_X)
		return -EACCES;
	r = as->ops->window(as->ops->ctx, va - FIRN_WINDOW, &readonly);
	if (r < 0)
		return r;
	if (readonly && (access & AS_W))
		return -EACCES;
	pde = pg_pde(&as->pg, va, true);
	if (!pde)
		return -ENOMEM;
	if (*pde & PTE_P)
		return 0;
	as->ops->back(as->ops->ctx, gpa);
	*pde = gpa | PTE_PS | PTE_HUGE | PTE_FRAME |
	       prot_bits(AS_R | (readonly ? 0 : AS_W));
	return 0;
}

/* The 2 MiB block that is set aside for the slot of (va). */
static int touch_leaf(struct aspace *as, uint64_t va, uint64_t *pde)
{
	uint64_t slot = leaf_down(va);
	uint64_t gpa = *pde & PTE_GPA;
	bool any;
	int r = 0;

	if (!(*pde & PTE_RESERVED))
		return -ENOMEM;
	if (*pde & PTE_OLD)
		r = as->ops->zero(as->ops->ctx, gpa, LEAF_SIZE);
	else
		as->ops->back(as->ops->ctx, gpa);
	if (r < 0)
		return r;
	*pde = gpa | PTE_PS | PTE_HUGE | PTE_FRAME |
	       prot_bits(union_prot(as, slot, slot + LEAF_SIZE, &any));
	return 0;
}

/* Pages from (va) on to bring at once: in the area, in the aligned group of
 * AS_AROUND, not there yet. */
static uint32_t around(struct aspace *as, const struct as_area *a, uint64_t va)
{
	uint64_t end =
	    (va & ~(AS_AROUND * PAGE_SIZE - 1)) + AS_AROUND * PAGE_SIZE;
	uint32_t n = 0;

	end = min64(end, a->end);
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
			 prot_bits(a->prot);
	return 0;
}

static int bring(struct aspace *as, const struct as_area *a, uint64_t va)
{
	if (in_large(as, va))
		return touch_leaf(as, va, pg_pde(&as->pg, va, false));
	return touch_pages(as, a, va);
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
	return pte ? 0 : bring(as, a, va);
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

	for (uint64_t va = FIRN_WINDOW + gpa; va < end; va += LEAF_SIZE) {
		uint64_t *pde = pg_pde(&as->pg, va, false);

		if (pde && *pde)
			*pde = PTE_HUGE;
	}
}
