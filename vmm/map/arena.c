/* SPDX-License-Identifier: MIT */
#include "vmm/map/arena.h"

#include <assert.h>
#include <sanitizer/asan_interface.h>
#include <stdbool.h>
#include <sys/mman.h>

#include "shared/bits.h"

#define REOPEN_SHARE 8u /* of a slab: this much is free */

/* At the beginning of its memory; the blocks are behind the bits. */
struct slab {
	struct slab *next;
	struct slab *prev;
	uint32_t used;   /* blocks */
	uint32_t at;     /* of (bits): the words before it are full */
	bool open;       /* has room, and is allocated from */
	bool huge;       /* a huge page was asked for */
	uint64_t bits[]; /* of a block: it is used */
};

_Static_assert(sizeof(struct slab) % 8 == 0, "blocks are aligned");

static size_t blocks_at(const struct arena *a)
{
	return sizeof(struct slab) + a->per_slab / 8;
}

static unsigned char *block_of(
    const struct arena *a, struct slab *s, uint32_t i)
{
	return (unsigned char *)s + blocks_at(a) + i * a->block;
}

void arena_init(struct arena *a, size_t block)
{
	size_t room = ARENA_SLAB - sizeof(struct slab);

	assert(block > 0 && block % 8 == 0 && block <= ARENA_BLOCK_MAX);
	*a = (struct arena){.block = block,
	    .per_slab = (uint32_t)(room / (64 * block + 8)) * 64};
}

/* --- the list: the open ones, then the others ----------------------------- */

static void list_put(struct arena *a, struct slab *prev, struct slab *s)
{
	struct slab **from = prev == NULL ? &a->head : &prev->next;

	s->prev = prev;
	s->next = *from;
	if (s->next != NULL)
		s->next->prev = s;
	*from = s;
}

static void list_take(struct arena *a, struct slab *s)
{
	if (s->prev != NULL)
		s->prev->next = s->next;
	else
		a->head = s->next;
	if (s->next != NULL)
		s->next->prev = s->prev;
}

/* --- slabs ---------------------------------------------------------------- */

/* ARENA_SLAB bytes at such an address; NULL: no memory. */
static void *slab_map(void)
{
	unsigned char *p = mmap(NULL, 2 * ARENA_SLAB, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t before;

	if (p == MAP_FAILED)
		return NULL;
	before = -(uintptr_t)p % ARENA_SLAB;
	if (before > 0)
		(void)munmap(p, before);
	(void)munmap(p + before + ARENA_SLAB, ARENA_SLAB - before);
	return p + before;
}

static struct slab *slab_new(struct arena *a)
{
	struct slab *s = slab_map();

	if (s == NULL)
		return NULL;
	/* Where there are no huge pages it is of small ones. */
	if (a->nslabs > 0)
		(void)madvise(s, ARENA_SLAB, MADV_HUGEPAGE);
	else
		(void)madvise(s, ARENA_SLAB, MADV_NOHUGEPAGE);
	s->open = true;
	s->huge = a->nslabs > 0;
	ASAN_POISON_MEMORY_REGION(block_of(a, s, 0), ARENA_SLAB - blocks_at(a));
	list_put(a, NULL, s);
	a->nslabs++;
	return s;
}

static void slab_end(struct arena *a, struct slab *s)
{
	list_take(a, s);
	a->nslabs--;
	ASAN_UNPOISON_MEMORY_REGION(s, ARENA_SLAB);
	(void)munmap(s, ARENA_SLAB);
}

void arena_fini(struct arena *a)
{
	while (a->head != NULL)
		slab_end(a, a->head);
}

/* It is full: behind those that are not. The list is searched for its place,
 * which is once for an eighth of a slab of blocks. */
static void slab_close(struct arena *a, struct slab *s)
{
	struct slab *at = s;

	s->open = false;
	while (at->next != NULL && at->next->open)
		at = at->next;
	if (at == s)
		return;
	list_take(a, s);
	list_put(a, at, s);
}

/* Is there another with room? */
static bool others_open(const struct arena *a, const struct slab *s)
{
	const struct slab *other = a->head == s ? s->next : a->head;

	return other != NULL && other->open;
}

/* One that is empty is kept while no other has room, so that what comes and
 * goes at a slab's end costs none each time; the last only if it is small. */
static void slab_shrink(struct arena *a, struct slab *s)
{
	if (s->used == 0 && (others_open(a, s) || (a->nslabs == 1 && s->huge)))
		slab_end(a, s);
}

static void slab_reopen(struct arena *a, struct slab *s)
{
	struct slab *head = a->head;

	s->open = true;
	if (head == s)
		return;
	list_take(a, s);
	list_put(a, head->open ? head : NULL, s);
	slab_shrink(a, head);
}

/* --- blocks --------------------------------------------------------------- */

/* The first that is free; there is one. */
static uint32_t take_bit(struct slab *s)
{
	uint32_t i;

	while (s->bits[s->at] == UINT64_MAX)
		s->at++;
	i = (uint32_t)__builtin_ctzll(~s->bits[s->at]);
	s->bits[s->at] |= 1ULL << i;
	return s->at * 64 + i;
}

void *arena_alloc(struct arena *a)
{
	struct slab *s = a->head;
	unsigned char *p;

	if (s == NULL || !s->open)
		s = slab_new(a);
	if (s == NULL)
		return NULL;
	p = block_of(a, s, take_bit(s));
	if (++s->used == a->per_slab)
		slab_close(a, s);
	ASAN_UNPOISON_MEMORY_REGION(p, a->block);
	return p;
}

void arena_free(struct arena *a, void *p)
{
	size_t off = (uintptr_t)p % ARENA_SLAB;
	/* NOLINTNEXTLINE(performance-no-int-to-ptr): the slab it is in. */
	struct slab *s = (struct slab *)((uintptr_t)p - off);
	size_t i = (off - blocks_at(a)) / a->block;

	assert(bit_get(s->bits, i));
	ASAN_POISON_MEMORY_REGION(p, a->block);
	bit_clear(s->bits, i);
	s->used--;
	if (i / 64 < s->at)
		s->at = (uint32_t)(i / 64);
	if (!s->open && a->per_slab - s->used >= a->per_slab / REOPEN_SHARE)
		slab_reopen(a, s);
	slab_shrink(a, s);
}
