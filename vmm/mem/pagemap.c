/* SPDX-License-Identifier: MIT */
#include "vmm/mem/pagemap.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "shared/bits.h"
#include "shared/page/run.h"

/* From the kernel's fs.h; the headers of 6.1 do not have them. */
struct scan_arg {
	uint64_t size;
	uint64_t flags;
	uint64_t start;
	uint64_t end;
	uint64_t walk_end;
	uint64_t vec;
	uint64_t vec_len;
	uint64_t max_pages;
	uint64_t category_inverted;
	uint64_t category_mask;
	uint64_t category_anyof_mask;
	uint64_t return_mask;
};

struct scan_region {
	uint64_t start;
	uint64_t end;
	uint64_t categories;
};

_Static_assert(sizeof(struct scan_arg) == 96, "kernel ABI");
_Static_assert(
    PAGEMAP_REQUEST == _IOWR('f', 16, struct scan_arg), "kernel ABI");

#define SCAN_FILE     (1u << 2)
#define SCAN_PRESENT  (1u << 3)
#define SCAN_SWAPPED  (1u << 4)
#define SCAN_PFNZERO  (1u << 5)
#define SCAN_REGIONS  256

#define ENTRY_PRESENT (1ULL << 63)
#define ENTRY_SWAPPED (1ULL << 62)
#define ENTRY_FILE    (1ULL << 61)
#define ENTRIES       512

/* One that only this process has; older kernels tell by it that an anonymous
 * page is not the zero page. */
#define ENTRY_EXCLUSIVE (1ULL << 56)

enum found_kind { FOUND_PRIVATE, FOUND_SHARED };

struct found {
	uint64_t base;    /* address of the first page */
	uint64_t *bits;   /* of private pages, or NULL */
	uint64_t *shared; /* of the others that are present, or NULL */
	uint64_t count;   /* of private pages */
};

static void found_range(
    struct found *f, enum found_kind kind, uint64_t start, uint64_t end)
{
	uint64_t *bits = kind == FOUND_PRIVATE ? f->bits : f->shared;
	uint64_t first = (start - f->base) / PAGE_SIZE;
	uint64_t last = (end - f->base) / PAGE_SIZE;

	if (kind == FOUND_PRIVATE)
		f->count += last - first;
	if (bits != NULL)
		bits_set(bits, first, last);
}

static int by_scan(int fd, struct found *f, uint64_t end)
{
	struct scan_region region[SCAN_REGIONS];
	struct scan_arg a = {
	    .size = sizeof(a),
	    .start = f->base,
	    .end = end,
	    .vec = (uint64_t)(uintptr_t)region,
	    .vec_len = SCAN_REGIONS,
	    .category_anyof_mask = SCAN_PRESENT | SCAN_SWAPPED,
	    .return_mask = SCAN_FILE | SCAN_PFNZERO,
	};

	if (f->shared == NULL) {
		a.category_inverted = SCAN_FILE | SCAN_PFNZERO;
		a.category_mask = SCAN_FILE | SCAN_PFNZERO;
		a.return_mask = SCAN_PRESENT;
	}
	while (a.start < end) {
		int n = ioctl(fd, PAGEMAP_REQUEST, &a);

		if (n < 0)
			return -errno;
		for (int i = 0; i < n; i++) {
			bool shared = (region[i].categories &
					  (SCAN_FILE | SCAN_PFNZERO)) != 0;

			found_range(f, shared ? FOUND_SHARED : FOUND_PRIVATE,
			    region[i].start, region[i].end);
		}
		if (a.walk_end <= a.start)
			return -EIO;
		a.start = a.walk_end;
	}
	return 0;
}

static void found_entry(struct found *f, uint64_t entry, uint64_t at)
{
	bool zero = f->shared != NULL && (entry & ENTRY_PRESENT) != 0 &&
		    (entry & ENTRY_EXCLUSIVE) == 0;

	if ((entry & (ENTRY_PRESENT | ENTRY_SWAPPED)) == 0)
		return;
	found_range(f,
	    (entry & ENTRY_FILE) != 0 || zero ? FOUND_SHARED : FOUND_PRIVATE,
	    at, at + PAGE_SIZE);
}

static int by_entries(int fd, struct found *f, uint64_t end)
{
	uint64_t entry[ENTRIES];
	uint64_t at = f->base;

	while (at < end) {
		uint64_t want = (end - at) / PAGE_SIZE;
		ssize_t n;

		if (want > ENTRIES)
			want = ENTRIES;
		n = pread(fd, entry, want * sizeof(entry[0]),
		    (off_t)(at / PAGE_SIZE * sizeof(entry[0])));
		if (n < 0)
			return -errno;
		if ((size_t)n < sizeof(entry[0]))
			return -EIO;
		for (size_t i = 0; i < (size_t)n / sizeof(entry[0]); i++) {
			found_entry(f, entry[i], at);
			at += PAGE_SIZE;
		}
	}
	return 0;
}

static int find(int fd, struct found *f, const void *hva, uint64_t npages)
{
	uint64_t end;
	int r;

	f->base = (uint64_t)(uintptr_t)hva;
	end = f->base + npages * PAGE_SIZE;
	r = by_scan(fd, f, end);
	return r == -ENOTTY ? by_entries(fd, f, end) : r;
}

int pagemap_private(
    int fd, const void *hva, uint64_t npages, uint64_t *bits, uint64_t *count)
{
	struct found f = {0};
	int r;

	f.bits = bits;
	r = find(fd, &f, hva, npages);
	if (count != NULL)
		*count = f.count;
	return r;
}

int pagemap_sets(
    int fd, const void *hva, uint64_t npages, uint64_t *reads, uint64_t *writes)
{
	struct found f = {0};

	f.bits = writes;
	f.shared = reads;
	return find(fd, &f, hva, npages);
}
