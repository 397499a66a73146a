/* SPDX-License-Identifier: MIT */
#include "vmm/guestcall/paging.h"

#include <stddef.h>

#include "shared/page/run.h"

#define NENTRIES 512u
/* Tables permit everything; the leaf entries decide. */
#define TABLE_BITS (PTE_P | PTE_W | PTE_U | PTE_A)

void pg_init(struct paging *p, void *mem, uint64_t gpa, uint32_t nframes)
{
	*p = (struct paging){
	    .mem = mem,
	    .gpa = gpa,
	    .nframes = nframes,
	    .used = 1,
	};
}

static uint64_t *table_of(const struct paging *p, uint64_t entry)
{
	uint64_t frame = ((entry & PTE_GPA) - p->gpa) / PAGE_SIZE;

	return p->mem + frame * NENTRIES;
}

static uint64_t *index_at(uint64_t *table, uint64_t va, unsigned shift)
{
	return &table[va >> shift & (NENTRIES - 1)];
}

/* The table that *entry names, made if need be. */
static uint64_t *descend(struct paging *p, uint64_t *entry, bool create)
{
	if (!(*entry & PTE_P)) {
		if (!create || p->used == p->nframes)
			return NULL;
		*entry = (p->gpa + p->used * PAGE_SIZE) | TABLE_BITS;
		p->used++;
	}
	return table_of(p, *entry);
}

uint64_t *pg_pde(struct paging *p, uint64_t va, bool create)
{
	uint64_t *t = descend(p, index_at(p->mem, va, 39), create);

	if (t)
		t = descend(p, index_at(t, va, 30), create);
	return t ? index_at(t, va, LEAF_SHIFT) : NULL;
}

uint64_t *pg_pte(struct paging *p, uint64_t va, bool create)
{
	uint64_t *pde = pg_pde(p, va, create);
	uint64_t *t;

	if (!pde || (*pde & PTE_HUGE))
		return NULL;
	t = descend(p, pde, create);
	return t ? index_at(t, va, PAGE_SHIFT) : NULL;
}

uint64_t *pg_find(struct paging *p, uint64_t va, uint64_t *len)
{
	uint64_t *entry = pg_pde(p, va, false);

	*len = LEAF_SIZE;
	if (entry && (*entry & PTE_P) && !(*entry & PTE_HUGE)) {
		*len = PAGE_SIZE;
		entry = pg_pte(p, va, false);
	}
	return entry && (*entry & PTE_FRAME) ? entry : NULL;
}
