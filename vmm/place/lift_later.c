/* SPDX-License-Identifier: MIT */
/* The lift of a place over a base: what is dirty is copied, once. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shared/bits.h"
#include "vmm/place/lift.h"

/* The guest goes on writing between the count and the pause: room for more. */
#define ROOM_MORE(n) ((n) / 16 + 32)

/* Fewer leaves are sooner allocated as 4 KiB pages than collapsed. */
#define COLLAPSE_LEAVES_MIN 8

/* Back the first (nleaves) of the copies by 2 MiB pages, and map them. */
static void collapse_copies(struct lift *l, uint64_t nleaves)
{
	size_t len = nleaves * LEAF_SIZE;
	unsigned char *m = backing_reserve(len, 0);

	if (m == NULL)
		return;
	if (backing_map_shared(m, len, l->fd) == 0 &&
	    backing_collapse(m, nleaves) == 0) {
		l->dst = m;
		l->mapped = nleaves * LEAF_NPAGES;
	} else {
		(void)munmap(m, len);
	}
}

void unmap_copies(struct lift *l)
{
	if (l->dst != NULL)
		(void)munmap(l->dst, l->mapped * PAGE_SIZE);
	l->dst = NULL;
}

/*
 * Memory for the copies, before the pause: 2 MiB pages where they pay. Others
 * are written through the descriptor, as to map a small page costs more than to
 * copy it.
 */
static int populate(struct lift *l, uint64_t from, uint64_t npages)
{
	return fallocate(l->fd, 0, (off_t)(from * PAGE_SIZE),
		   (off_t)(npages * PAGE_SIZE)) < 0
		   ? -errno
		   : 0;
}

int lift_later_prepare(struct place *p, struct lift *l, struct err *e)
{
	uint64_t n;
	int r = dirty_track(p, e);

	if (r == 0)
		r = dirty_harvest(p, e);
	if (r < 0)
		return r;
	n = bits_count(p->pending, place_words(p));
	n += ROOM_MORE(n);
	l->room = n < p->npages ? n : p->npages;
	l->runs_max = l->room;
	l->runs = malloc(l->runs_max * sizeof(*l->runs));
	if (l->runs == NULL)
		return -ENOMEM;
	memset(l->runs, 0, l->runs_max * sizeof(*l->runs));
	l->fd = backing_memfd(l->room);
	if (l->fd < 0)
		return l->fd;
	if (l->room / LEAF_NPAGES >= COLLAPSE_LEAVES_MIN)
		collapse_copies(l, l->room / LEAF_NPAGES);
	return populate(l, 0, l->room);
}

static bool is_zero(const unsigned char *page)
{
	const uint64_t *w = (const uint64_t *)(const void *)page;

	for (size_t i = 0; i < PAGE_SIZE / sizeof(*w); i += 8)
		if ((w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] |
			w[i + 5] | w[i + 6] | w[i + 7]) != 0)
			return false;
	return true;
}

/* Room for one more page, and for one more run. */
static int make_room(struct place *p, struct lift *l)
{
	uint64_t more = ROOM_MORE(l->room);

	if (l->nruns == l->runs_max) {
		size_t max = l->runs_max * 2;
		struct page_run *runs = realloc(l->runs, max * sizeof(*runs));

		if (runs == NULL)
			return -ENOMEM;
		l->runs = runs;
		l->runs_max = max;
	}
	if (l->copied < l->room)
		return 0;
	if (more > p->npages - l->room)
		more = p->npages - l->room;
	if (ftruncate(l->fd, (off_t)((l->room + more) * PAGE_SIZE)) < 0)
		return -errno;
	l->room += more;
	return populate(l, l->room - more, more);
}

static void add_run(struct lift *l, uint64_t page, bool zero)
{
	struct page_run *last = &l->runs[l->nruns - 1];
	uint32_t layer = zero ? RUN_ZERO : 0;

	if (l->nruns > 0 && last->page + last->npages == page &&
	    last->layer == layer) {
		last->npages++;
		return;
	}
	l->runs[l->nruns++] = (struct page_run){
	    .page = page,
	    .npages = 1,
	    .index = zero ? 0 : l->copied,
	    .layer = layer,
	};
}

/* Write what is batched, which is the last of (copied). */
static int flush_batch(struct lift *l)
{
	struct iovec *v = l->batch;
	uint64_t at = (l->copied - l->batched) * PAGE_SIZE;
	uint64_t left = l->batched * PAGE_SIZE;

	while (left > 0) {
		ssize_t n = pwritev(l->fd, v, (int)l->nbatch, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		at += (uint64_t)n;
		left -= (uint64_t)n;
		for (; l->nbatch > 0 && (size_t)n >= v->iov_len; l->nbatch--)
			n -= (ssize_t)(v++)->iov_len;
		if (n > 0) {
			v->iov_base = (char *)v->iov_base + n;
			v->iov_len -= (size_t)n;
		}
	}
	l->nbatch = 0;
	l->batched = 0;
	return 0;
}

/* Does (src) go on where the last stretch of the batch ends? */
static bool goes_on(const struct lift *l, const unsigned char *src)
{
	const struct iovec *last;

	if (l->nbatch == 0)
		return false;
	last = &l->batch[l->nbatch - 1];
	return (const unsigned char *)last->iov_base + last->iov_len == src;
}

static int copy_bytes(struct lift *l, unsigned char *src)
{
	if (l->copied < l->mapped) {
		memcpy(l->dst + l->copied++ * PAGE_SIZE, src, PAGE_SIZE);
		return 0;
	}
	if (goes_on(l, src))
		l->batch[l->nbatch - 1].iov_len += PAGE_SIZE;
	else
		l->batch[l->nbatch++] = (struct iovec){src, PAGE_SIZE};
	l->copied++;
	l->batched++;
	return l->batched == BATCH_NPAGES ? flush_batch(l) : 0;
}

static int copy_page(struct place *p, struct lift *l, uint64_t page)
{
	unsigned char *src = p->hva + page * PAGE_SIZE;
	bool zero = is_zero(src);

	if (l->nruns == l->runs_max || l->copied == l->room) {
		int r = make_room(p, l);

		if (r < 0)
			return r;
	}
	add_run(l, page, zero);
	l->dirty++;
	return zero ? 0 : copy_bytes(l, src);
}

static void swap_taken(struct place *p)
{
	uint64_t *t = p->taken;

	p->taken = p->pending;
	p->pending = t;
}

/* Under the pause. */
int lift_later(struct place *p, struct lift *l, struct err *e)
{
	size_t nwords = place_words(p);
	int r = dirty_harvest(p, e);

	if (r < 0)
		return r;
	swap_taken(p);
	for (size_t i = 0; i < nwords; i++) {
		for (uint64_t w = p->taken[i]; w != 0; w &= w - 1) {
			r = copy_page(
			    p, l, i * 64 + (uint64_t)__builtin_ctzll(w));
			if (r < 0)
				return r;
		}
	}
	return flush_batch(l);
}

void give_back(struct place *p)
{
	size_t n = place_words(p);

	for (size_t i = 0; i < n; i++)
		if (p->taken[i] != 0) {
			p->pending[i] |= p->taken[i];
			p->taken[i] = 0;
		}
}
