/* SPDX-License-Identifier: MIT */
#include "vmm/guestcall/frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shared/bits.h"
#include "shared/page/run.h"

int frames_init(struct frames *f, uint64_t npages)
{
	uint64_t tail = npages % LEAF_NPAGES;
	uint64_t n = (npages + LEAF_NPAGES - 1) / LEAF_NPAGES;

	*f = (struct frames){.npages = npages, .nfree = npages};
	if (npages == 0 || n > UINT32_MAX)
		return -EINVAL;
	f->chunk = calloc(n, sizeof(*f->chunk));
	if (!f->chunk)
		return -ENOMEM;
	f->nchunks = (uint32_t)n;
	/* What a last, short chunk lacks is in use for ever. */
	for (uint32_t i = (uint32_t)tail; tail && i < LEAF_NPAGES; i++) {
		bit_set(f->chunk[n - 1].used, i);
		f->chunk[n - 1].nused++;
	}
	return 0;
}

void frames_fini(struct frames *f)
{
	free(f->chunk);
	f->chunk = NULL;
}

static bool has_room(const struct frames_chunk *c)
{
	return !c->whole && c->nused > 0 && c->nused < LEAF_NPAGES;
}

static bool is_free(const struct frames_chunk *c)
{
	return !c->whole && c->nused == 0;
}

/* The chunk to take pages from: one begun already, else the lowest free. */
static struct frames_chunk *small_chunk(struct frames *f)
{
	while (f->low_small < f->nchunks && !has_room(&f->chunk[f->low_small]))
		f->low_small++;
	if (f->low_small < f->nchunks)
		return &f->chunk[f->low_small];
	while (f->low_free < f->nchunks && !is_free(&f->chunk[f->low_free]))
		f->low_free++;
	if (f->low_free == f->nchunks)
		return NULL;
	f->low_small = f->low_free;
	return &f->chunk[f->low_free];
}

static uint32_t first_free(const struct frames_chunk *c)
{
	for (uint32_t w = 0; w < 8; w++)
		if (~c->used[w])
			return w * 64 + (uint32_t)__builtin_ctzll(~c->used[w]);
	return LEAF_NPAGES;
}

uint32_t frames_take(struct frames *f, uint32_t want, uint64_t *page, bool *old)
{
	struct frames_chunk *c = small_chunk(f);
	uint32_t first;
	uint32_t n = 0;

	if (!c)
		return 0;
	first = first_free(c);
	*old = bit_get(c->ever, first);
	while (n < want && first + n < LEAF_NPAGES &&
	       !bit_get(c->used, first + n) &&
	       bit_get(c->ever, first + n) == *old) {
		bit_set(c->used, first + n);
		bit_set(c->ever, first + n);
		n++;
	}
	c->nused = (uint16_t)(c->nused + n);
	f->nfree -= n;
	*page = (uint64_t)(c - f->chunk) * LEAF_NPAGES + first;
	return n;
}

bool frames_chunk_free(const struct frames *f, uint64_t chunk)
{
	return chunk < f->nchunks && is_free(&f->chunk[chunk]);
}

int64_t frames_find_chunks(const struct frames *f, uint64_t n)
{
	uint64_t have = 0;

	for (uint64_t i = f->nchunks; i > 0; i--) {
		have = is_free(&f->chunk[i - 1]) ? have + 1 : 0;
		if (have == n)
			return (int64_t)(i - 1);
	}
	return -ENOMEM;
}

void frames_take_chunk(struct frames *f, uint64_t chunk, bool *old)
{
	struct frames_chunk *c = &f->chunk[chunk];

	*old = false;
	for (uint32_t w = 0; w < 8; w++) {
		*old |= c->ever[w] != 0;
		c->ever[w] = UINT64_MAX;
	}
	c->whole = true;
	f->nwhole++;
	f->nfree -= LEAF_NPAGES;
}

static void lower(uint32_t *low, uint32_t i)
{
	if (i < *low)
		*low = i;
}

void frames_give(struct frames *f, uint64_t page, uint64_t n)
{
	for (uint64_t p = page; p < page + n; p++) {
		uint32_t i = (uint32_t)(p / LEAF_NPAGES);
		struct frames_chunk *c = &f->chunk[i];

		bit_clear(c->used, (uint32_t)(p % LEAF_NPAGES));
		c->nused--;
		lower(c->nused ? &f->low_small : &f->low_free, i);
	}
	f->nfree += n;
}

void frames_give_chunk(struct frames *f, uint64_t chunk)
{
	f->chunk[chunk].whole = false;
	f->nwhole--;
	f->nfree += LEAF_NPAGES;
	lower(&f->low_free, (uint32_t)chunk);
}
