/* SPDX-License-Identifier: MIT */
/* The lift of a segment never frozen: its memory becomes the layer. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/bits.h"
#include "vmm/core/clock.h"
#include "vmm/place/lift.h"

/* Unmapping ahead of the pause. */
#define UNMAP_CHUNKS   32     /* at a time at most: 64 MiB */
#define UNMAP_STEP_NS  200000 /* fewer at a time where that takes longer */
#define UNMAP_SHORT_NS 500000 /* a pass that the last one may take */
#define UNMAP_PASSES   4

static uint64_t chunk_npages(const struct place *p, uint64_t chunk)
{
	uint64_t left = p->npages - chunk * LEAF_NPAGES;

	return left < LEAF_NPAGES ? left : LEAF_NPAGES;
}

/* The first chunk from (chunk) on whose bit is (set), or nchunks. */
static uint64_t next_chunk(
    const struct place *p, const uint64_t *data, uint64_t chunk, bool set)
{
	return bits_next(data, place_nchunks(p), chunk, set);
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

static int fill_hole(
    struct place *p, struct lift *l, uint64_t first, uint64_t end)
{
	int r = 0;

	for (uint64_t c = first; r == 0 && c < end; c++)
		r = add_chunk(p, l, c);
	l->spare -= end - first;
	return r;
}

/* Fill holes of at most (most) chunks between data, until there are (few)
 * extents. 0, 1: it would take more than is to spare, or -errno. */
static int fill_holes(struct place *p, struct lift *l, uint64_t most,
    uint64_t few, uint64_t *extents)
{
	uint64_t n = place_nchunks(p);
	uint64_t end = next_chunk(p, l->data, 0, true);
	int r = 0;

	while (r == 0 && *extents > few) {
		uint64_t hole = next_chunk(p, l->data, end, false);

		end = next_chunk(p, l->data, hole, true);
		if (end >= n)
			return 0;
		if (end - hole > most)
			continue;
		if (end - hole > l->spare)
			return 1;
		r = fill_hole(p, l, hole, end);
		*extents -= 1;
	}
	return r;
}

/* Short ones first. */
static int fill_until(
    struct place *p, struct lift *l, uint64_t few, uint64_t *extents)
{
	int r = 0;

	for (uint64_t most = 1; r == 0 && *extents > few; most *= 2)
		r = fill_holes(p, l, most, few, extents);
	return r;
}

/* Bound the extents, and so the VMAs. */
static int bound_extents(struct place *p, struct lift *l, struct err *e)
{
	uint64_t extents = count_extents(p, l->data);
	int r = fill_until(p, l, PLACE_EXTENTS_FEW, &extents);

	if (r == 1 && extents > PLACE_EXTENTS_MAX) {
		l->spare = l->ndata / LEAF_NPAGES;
		r = fill_until(p, l, PLACE_EXTENTS_MAX, &extents);
	}
	if (r == 1 && extents > PLACE_EXTENTS_MAX)
		return err_set(e, -ENOSPC,
		    "%s: what it holds is in %llu pieces, far apart, and %d "
		    "is the limit",
		    p->name, (unsigned long long)extents, PLACE_EXTENTS_MAX);
	return r < 0 ? r : 0;
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

int lift_first_prepare(struct place *p, struct lift *l, struct err *e)
{
	uint64_t words = (place_nchunks(p) + 63) / 64;
	int r = dirty_harvest(p, e);

	if (r < 0)
		return r;
	l->data = calloc(words, sizeof(uint64_t));
	if (l->data == NULL)
		return -ENOMEM;
	r = find_data(p, l);
	l->spare = l->ndata / LEAF_NPAGES / 4;
	if (r == 0)
		r = bound_extents(p, l, e);
	if (r < 0)
		return r;
	collapse_data(p, l->data);
	unmap_data(p, l->data);
	return 0;
}

/* Under the pause: whatever was added since it was prepared. All known chunks
 * are full, so the number of the file's pages tells whether anything was. */
int lift_first(struct place *p, struct lift *l, struct err *e)
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
			r = bound_extents(p, l, e);
	}
	l->runs = calloc(count_extents(p, l->data) + 1, sizeof(*l->runs));
	if (l->runs == NULL)
		return -ENOMEM;
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
int lay_back_private(struct place *p, const struct lift *l)
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

/* Where a process has as many mappings as it may, the kernel maps nothing over
 * them, not even one over many, but lets go of them. */
static int map_anew(struct place *p)
{
	if (munmap(p->hva, place_len(p)) < 0)
		return -errno;
	/* Another thread may have got these addresses meanwhile. */
	return mmap(p->hva, place_len(p), PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_NORESERVE, p->memfd,
		   0) == MAP_FAILED
		   ? -errno
		   : 0;
}

int lay_undo(struct place *p, int why)
{
	if (backing_map_shared(p->hva, place_len(p), p->memfd) < 0 &&
	    map_anew(p) < 0)
		return -ENOTRECOVERABLE;
	return why;
}
