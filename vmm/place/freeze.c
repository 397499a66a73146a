/* SPDX-License-Identifier: MIT */
/*
 * lift, lay, seal.
 *
 *              never frozen (memfd shared)         frozen before
 *   prepare    find and fill the data's chunks     make pending complete, make
 *                                                  room for the copies
 *   -- gate closed ------------------------------------------------------------
 *   lift       check that nothing was added        harvest, copy what is dirty
 *   lay back   private mapping of the memfd,       nothing: the private pages
 *              holes anonymous                     go on showing it
 *   (or empty  a fresh shared memfd in its stead, both)
 *   -- gate open --------------------------------------------------------------
 *   seal       the memfd, unless it was severed    the copies
 *              and came from the broker: owned
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "vmm/place/internal.h"

#define IMMUTABLE (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* The guest goes on writing between the count and the pause: room for more. */
#define ROOM_MORE(n) ((n) / 16 + 32)

/* Copied with one call, while the search for zeroes has them in the cache. */
#define BATCH_NPAGES 64

/* Unmapping ahead of the pause. */
#define UNMAP_CHUNKS   32     /* at a time at most: 64 MiB */
#define UNMAP_STEP_NS  200000 /* fewer at a time where that takes longer */
#define UNMAP_SHORT_NS 500000 /* a pass that the last one may take */
#define UNMAP_PASSES   4

struct lift {
	bool first;
	struct page_run *runs;
	size_t nruns;
	size_t runs_max;
	uint64_t dirty;
	/* first */
	uint64_t *data; /* a bit per chunk that has data */
	uint64_t ndata; /* pages of those chunks */
	/* later */
	int fd;             /* the copies; -1: none */
	unsigned char *dst; /* its first pages, mapped */
	uint64_t mapped;    /* pages */
	uint64_t room;      /* pages (fd) is long */
	uint64_t copied;
	/* The last of the copied pages, not yet written to (fd): (nbatch)
	 * stretches of memory, (batched) pages. */
	struct iovec batch[BATCH_NPAGES];
	uint32_t nbatch;
	uint32_t batched;
	/* sever */
	bool sever;
	bool lent; /* (fresh) came from the broker */
	int fresh;
	/* of a tracked view */
	struct place_sets sets;
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	(void)clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

uint64_t place_now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

/* --- seal ----------------------------------------------------------------- */

static int seal_steps(struct place *p, struct err *e)
{
	for (uint32_t i = 0; i < p->nsteps; i++) {
		if (p->sealed[i])
			continue;
		if (p->step[i].layer_fd >= 0 &&
		    fcntl(p->step[i].layer_fd, F_ADD_SEALS, IMMUTABLE) < 0)
			return err_set(e, -errno,
			    "%s: cannot seal what was frozen: %s; freeze again "
			    "to retry",
			    p->name, strerror(errno));
		p->sealed[i] = true;
	}
	return 0;
}

/* --- lift of a segment never frozen --------------------------------------- */

static uint64_t chunk_npages(const struct place *p, uint64_t chunk)
{
	uint64_t left = p->npages - chunk * LEAF_NPAGES;

	return left < LEAF_NPAGES ? left : LEAF_NPAGES;
}

/* The first chunk from (chunk) on whose bit is (set), or nchunks. */
static uint64_t next_chunk(
    const struct place *p, const uint64_t *data, uint64_t chunk, bool set)
{
	uint64_t n = place_nchunks(p);

	while (chunk < n) {
		uint64_t w = set ? data[chunk / 64] : ~data[chunk / 64];

		w >>= chunk % 64;
		if (w != 0) {
			chunk += (uint64_t)__builtin_ctzll(w);
			break;
		}
		chunk += 64 - chunk % 64;
	}
	return chunk < n ? chunk : n;
}

static uint64_t count_extents(const struct place *p, const uint64_t *data)
{
	uint64_t n = place_nchunks(p);
	uint64_t extents = 0;

	for (uint64_t c = next_chunk(p, data, 0, true); c < n; extents++) {
		c = next_chunk(p, data, c, false);
		c = next_chunk(p, data, c, true);
	}
	return extents;
}

/* Leave no hole in (chunk): mapped privately, it would grow the file when it is
 * read. */
static int fill_chunk(struct place *p, uint64_t chunk)
{
	return fallocate(p->memfd, 0, (off_t)(chunk * LEAF_SIZE),
		   (off_t)(chunk_npages(p, chunk) * PAGE_SIZE)) < 0
		   ? -errno
		   : 0;
}

static void note_chunk(struct place *p, struct lift *l, uint64_t chunk)
{
	if (bit_get(l->data, chunk))
		return;
	bit_set(l->data, chunk);
	l->ndata += chunk_npages(p, chunk);
}

static int add_chunk(struct place *p, struct lift *l, uint64_t chunk)
{
	int r = fill_chunk(p, chunk);

	if (r == 0)
		note_chunk(p, l, chunk);
	return r;
}

/* Add the chunks that [at, end) of the file is in: those it fills as they are.
 */
static int add_data(struct place *p, struct lift *l, uint64_t at, uint64_t end)
{
	for (uint64_t c = at / LEAF_SIZE; c * LEAF_SIZE < end; c++) {
		uint64_t first = c * LEAF_SIZE;
		int r = 0;

		if (at <= first &&
		    first + chunk_npages(p, c) * PAGE_SIZE <= end)
			note_chunk(p, l, c);
		else if (!bit_get(l->data, c))
			r = add_chunk(p, l, c);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Add every chunk with data that is not known yet. */
static int find_data(struct place *p, struct lift *l)
{
	uint64_t n = place_nchunks(p);
	uint64_t c = next_chunk(p, l->data, 0, false);

	while (c < n) {
		off_t at = lseek(p->memfd, (off_t)(c * LEAF_SIZE), SEEK_DATA);
		off_t end = at < 0 ? at : lseek(p->memfd, at, SEEK_HOLE);
		int r;

		if (end < 0)
			return errno == ENXIO ? 0 : -errno;
		/* A page that is just being collapsed may be neither. */
		if (end == at)
			end += PAGE_SIZE;
		r = add_data(p, l, (uint64_t)at, (uint64_t)end);
		if (r < 0)
			return r;
		c = (uint64_t)at / LEAF_SIZE;
		c = next_chunk(p, l->data, c, false);
	}
	return 0;
}

static int fill_group(
    struct place *p, struct lift *l, uint64_t first, uint64_t end)
{
	int r = 0;

	if (next_chunk(p, l->data, first, true) >= end)
		return 0;
	for (uint64_t c = next_chunk(p, l->data, first, false);
	     r == 0 && c < end; c = next_chunk(p, l->data, c, false))
		r = add_chunk(p, l, c);
	return r;
}

/* Bound the extents, and so the VMAs, by filling ever larger groups. */
static int bound_extents(struct place *p, struct lift *l)
{
	uint64_t n = place_nchunks(p);

	for (uint64_t group = 2; count_extents(p, l->data) > PLACE_EXTENTS_MAX;
	     group *= 2) {
		for (uint64_t c = 0; c < n; c += group) {
			uint64_t end = c + group < n ? c + group : n;
			int r = fill_group(p, l, c, end);

			if (r < 0)
				return r;
		}
	}
	return 0;
}

/* Back the chunks with data by 2 MiB pages: it decides the pause. */
static void collapse_data(struct place *p, const uint64_t *data)
{
	uint64_t n = place_nchunks(p);

	for (uint64_t c = next_chunk(p, data, 0, true); c < n;
	     c = next_chunk(p, data, c + 1, true))
		place_back_chunk(p, c * LEAF_NPAGES);
}

/* Unmap the chunks [c, end) of (p). The processor's time that it took. */
static uint64_t unmap_chunks(struct place *p, uint64_t c, uint64_t end)
{
	uint64_t start = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	uint64_t len = end * LEAF_SIZE < place_len(p)
			   ? (end - c) * LEAF_SIZE
			   : place_len(p) - c * LEAF_SIZE;

	(void)madvise(p->hva + c * LEAF_SIZE, len, MADV_DONTNEED);
	return clock_ns(CLOCK_THREAD_CPUTIME_ID) - start;
}

/* In steps, as a guest that touches a page of the step meanwhile waits for its
 * end. The processor's time that it took. */
static uint64_t unmap_pass(struct place *p, const uint64_t *data)
{
	uint64_t n = place_nchunks(p);
	uint64_t c = next_chunk(p, data, 0, true);
	uint64_t step = UNMAP_CHUNKS;
	uint64_t sum = 0;

	while (c < n) {
		uint64_t end = next_chunk(p, data, c, false);
		uint64_t took;

		if (end > c + step)
			end = c + step;
		took = unmap_chunks(p, c, end);
		if (took > UNMAP_STEP_NS && step > 1)
			step /= 2;
		sum += took;
		c = next_chunk(p, data, end, true);
	}
	return sum;
}

/*
 * Unmap the data from this process and the guest beforehand, so that less is
 * left to unmap under the pause; the file keeps it. What the guest touches
 * meanwhile is mapped again. Of 4 KiB pages that can be many, so this is
 * repeated for as long as it takes less: a page is unmapped several times
 * faster than a guest's fault brings it back.
 */
static void unmap_data(struct place *p, const uint64_t *data)
{
	uint64_t last = UINT64_MAX;
	uint64_t took;

	for (int i = 0; i < UNMAP_PASSES; i++, last = took) {
		took = unmap_pass(p, data);
		if (took < UNMAP_SHORT_NS || took > last / 2)
			break;
	}
}

static int lift_first_prepare(struct place *p, struct lift *l, struct err *e)
{
	uint64_t words = (place_nchunks(p) + 63) / 64;
	int r = dirty_harvest(p, e);

	if (r < 0)
		return r;

	l->data = calloc(words, sizeof(uint64_t));
	l->runs = calloc(PLACE_EXTENTS_MAX, sizeof(*l->runs));
	if (l->data == NULL || l->runs == NULL)
		return -ENOMEM;
	r = find_data(p, l);
	if (r == 0)
		r = bound_extents(p, l);
	if (r < 0)
		return r;
	collapse_data(p, l->data);
	unmap_data(p, l->data);
	return 0;
}

/* Under the pause: whatever was added since it was prepared. All known chunks
 * are full, so the number of the file's pages tells whether anything was. */
static int lift_first(struct place *p, struct lift *l, struct err *e)
{
	uint64_t n = place_nchunks(p);
	struct stat st;
	int r = dirty_harvest(p, e);

	if (r < 0)
		return r;
	if (fstat(p->memfd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_blocks * 512 != l->ndata * PAGE_SIZE) {
		r = find_data(p, l);
		if (r == 0)
			r = bound_extents(p, l);
	}
	for (uint64_t c = next_chunk(p, l->data, 0, true); r == 0 && c < n;) {
		uint64_t end = next_chunk(p, l->data, c, false);
		struct page_run *run = &l->runs[l->nruns++];

		run->page = c * LEAF_NPAGES;
		run->index = run->page;
		run->npages =
		    (end < n ? end * LEAF_NPAGES : p->npages) - run->page;
		l->dirty += run->npages;
		c = next_chunk(p, l->data, end, true);
	}
	return r;
}

static int lay_hole(struct place *p, uint64_t page, uint64_t end)
{
	if (page == end)
		return 0;
	if (mmap(p->hva + page * PAGE_SIZE, (end - page) * PAGE_SIZE,
		PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
		0) == MAP_FAILED)
		return -errno;
	return 0;
}

static int lay_data(struct place *p, const struct page_run *r)
{
	if (mmap(p->hva + r->page * PAGE_SIZE, r->npages * PAGE_SIZE,
		PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
		p->memfd, (off_t)(r->page * PAGE_SIZE)) == MAP_FAILED)
		return -errno;
	return 0;
}

/* Each page is mapped once: what it costs KVM grows with the range, be it
 * empty, 0.5 ms a GiB. */
static int lay_back_private(struct place *p, const struct lift *l)
{
	uint64_t next = 0;

	for (size_t i = 0; i < l->nruns; i++) {
		int r = lay_hole(p, next, l->runs[i].page);

		if (r == 0)
			r = lay_data(p, &l->runs[i]);
		if (r < 0)
			return r;
		next = l->runs[i].page + l->runs[i].npages;
	}
	return lay_hole(p, next, p->npages);
}

/* Show (p) as its memfd again, after a mapping in its place has failed. */
static int lay_undo(struct place *p, int why)
{
	if (backing_map_shared(p->hva, place_len(p), p->memfd) < 0)
		return -ENOTRECOVERABLE;
	return why;
}

/* --- lift of a place over a base ------------------------------------------ */

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

static void unmap_copies(struct lift *l)
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

static int lift_later_prepare(struct place *p, struct lift *l, struct err *e)
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
static int lift_later(struct place *p, struct lift *l, struct err *e)
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

/* Lose no bit of a freeze that failed. */
static void give_back(struct place *p)
{
	size_t n = place_words(p);

	for (size_t i = 0; i < n; i++)
		if (p->taken[i] != 0) {
			p->pending[i] |= p->taken[i];
			p->taken[i] = 0;
		}
}

/* Without touching words that never had memory. */
static void bits_clear(uint64_t *bits, size_t nwords)
{
	for (size_t i = 0; i < nwords; i++)
		if (bits[i] != 0)
			bits[i] = 0;
}

/* --- the three together --------------------------------------------------- */

static void lift_fini(struct lift *l)
{
	unmap_copies(l);
	if (l->fd >= 0)
		(void)close(l->fd);
	if (l->fresh >= 0)
		(void)close(l->fresh);
	place_sets_free(&l->sets);
	free(l->data);
	free(l->runs);
}

/* (memory) is the broker's, or -1. */
static int prepare(struct place *p, struct lift *l, int memory, struct err *e)
{
	int r = l->first ? lift_first_prepare(p, l, e)
			 : lift_later_prepare(p, l, e);

	if (r == 0 && l->sever) {
		l->lent = memory >= 0;
		l->fresh = l->lent ? backing_take(memory, p->npages, e)
				   : backing_segment(p->npages);
		r = l->fresh < 0 ? l->fresh : 0;
	}
	return r;
}

static int lay(struct place *p, struct lift *l)
{
	int r = 0;

	if (l->sever)
		r = backing_map_shared(p->hva, place_len(p), l->fresh);
	else if (l->first)
		r = lay_back_private(p, l);
	if (r < 0 && l->first)
		r = lay_undo(p, r);
	return r;
}

/* The layer is made, the place shows what it shall: remember both. */
static void commit(struct place *p, struct lift *l)
{
	struct place_step *s = &p->step[p->nsteps];
	bool owned = l->sever && l->first && p->lent;
	bool empty = l->first ? l->nruns == 0 : l->copied == 0;
	int fd = l->first ? p->memfd : l->fd;

	if (l->first) {
		bits_clear(p->pending, place_words(p));
		p->memfd = -1;
		p->base_npages = l->dirty;
		p->nvmas = (uint32_t)(2 * l->nruns + 1);
	} else {
		l->fd = -1;
	}
	if (l->sever) {
		p->memfd = l->fresh;
		p->lent = l->lent;
		p->severed = true;
		l->fresh = -1;
		p->base_npages = 0;
		p->nvmas = 1;
		memset(p->tried, 0, (place_nchunks(p) + 63) / 64 * 8);
		dirty_mark_all(p);
	}
	p->tracked = p->logged;
	if (l->nruns == 0 || empty) {
		(void)close(fd);
		fd = -1;
	}
	if (l->nruns == 0)
		return;
	*s = (struct place_step){
	    .runs = l->runs,
	    .nruns = l->nruns,
	    .layer_fd = fd,
	    .layer_npages = fd < 0     ? 0
			    : l->first ? p->npages
				       : l->room,
	    .first = l->first,
	    .severed = l->sever,
	    .owned = owned,
	};
	l->runs = NULL;
	p->sealed[p->nsteps++] = owned;
}

/* After the guest goes on: the copies lose their spare room and the mapping
 * that made them, so that they can be sealed. */
static void trim(struct place *p, struct lift *l, struct place_step *s)
{
	if (l->first || l->sever)
		copies_forget(p);
	else
		copies_add(p);
	bits_clear(p->taken, place_words(p));
	unmap_copies(l);
	/* On failure the layer is what it says, longer than it need be. */
	if (s != NULL && s->layer_fd >= 0 && !s->first &&
	    ftruncate(s->layer_fd, (off_t)(l->copied * PAGE_SIZE)) == 0)
		s->layer_npages = l->copied;
}

/* The part that needs the guest stopped. */
static int act(struct place *p, struct lift *l, struct err *e)
{
	int r = l->first ? lift_first(p, l, e) : lift_later(p, l, e);

	if (r == 0 && p->watched)
		r = track_sets(p, &l->sets);
	if (r == 0)
		r = lay(p, l);
	if (r < 0)
		give_back(p);
	else
		commit(p, l);
	return r;
}

static int check_freeze(const struct place *p, bool sever, struct err *e)
{
	if (sever && p->watched)
		return err_set(e, -EPERM,
		    "%s is tracked, and what is severed has no reads and "
		    "writes; freeze it",
		    p->name);
	if (p->kind == PLACE_VIEW_RO)
		return err_set(e, -EPERM,
		    "%s is a read-only view: it is frozen already", p->name);
	return 0;
}

static int run_freeze(struct place *p, struct lift *l, int memory,
    struct place_frozen *out, struct err *e)
{
	struct gate *g = p->all->gate;
	uint32_t before = p->nsteps;
	uint64_t start;
	int r = prepare(p, l, memory, e);

	if (r < 0)
		return r;
	gate_close(g);
	start = place_now_ns();
	r = act(p, l, e);
	if (r == -ENOTRECOVERABLE)
		return r;
	gate_open(g);
	out->pause_ns = place_now_ns() - start;
	if (r < 0)
		return r;
	trim(p, l, p->nsteps > before ? &p->step[before] : NULL);
	return seal_steps(p, e);
}

static void tell(const struct place *p, struct place_frozen *out)
{
	out->npages = p->npages;
	out->nsteps = p->nsteps;
	memcpy(out->step, p->step, sizeof(out->step));
}

static int freeze(struct place *p, bool sever, int memory,
    struct place_frozen *out, struct err *e)
{
	struct lift l = {
	    .first = p->memfd >= 0, .sever = sever, .fd = -1, .fresh = -1};
	uint64_t start = place_now_ns();
	struct err why = {0};
	int r = check_freeze(p, sever, e);

	if (r < 0)
		return r;
	r = seal_steps(p, e);
	if (r < 0)
		return r;
	memset(out, 0, sizeof(*out));
	if (sever && p->nsteps > 0 && p->step[p->nsteps - 1].severed) {
		tell(p, out);
		return 0;
	}
	if (p->nsteps == PLACE_STEPS_MAX)
		return err_set(e, -ENOSPC,
		    "%s: %d freezes wait to be published", p->name,
		    PLACE_STEPS_MAX);
	r = run_freeze(p, &l, memory, out, &why);
	if (r < 0 && why.code == 0)
		err_set(&why, r, "%s: cannot freeze it: %s", p->name,
		    r == -ENOTRECOVERABLE ? PLACE_LOST : strerror(-r));
	tell(p, out);
	out->dirty_pages = l.dirty;
	out->copied_pages = l.copied;
	out->cold_pages = p->copies.cold;
	out->warm_pages = p->copies.warm;
	if (r == 0) {
		out->sets = l.sets;
		l.sets = (struct place_sets){0};
	}
	lift_fini(&l);
	out->total_ns = place_now_ns() - start;
	if (r < 0 && e != NULL)
		*e = why;
	return r;
}

int place_freeze(
    struct places *ps, struct place *p, struct place_frozen *out, struct err *e)
{
	(void)ps;
	return freeze(p, false, -1, out, e);
}

int place_sever(struct places *ps, struct place *p, int fresh,
    struct place_frozen *out, struct err *e)
{
	(void)ps;
	return freeze(p, true, fresh, out, e);
}

void place_frozen_done(struct place *p, uint32_t nsteps)
{
	for (uint32_t i = 0; i < nsteps; i++) {
		free(p->step[i].runs);
		if (p->step[i].layer_fd >= 0)
			(void)close(p->step[i].layer_fd);
	}
	p->nsteps -= nsteps;
	memmove(p->step, p->step + nsteps, p->nsteps * sizeof(p->step[0]));
	memmove(
	    p->sealed, p->sealed + nsteps, p->nsteps * sizeof(p->sealed[0]));
}
