/* SPDX-License-Identifier: MIT */
/* wrap: ioctl */
/* pagemap: both ways of asking tell the same. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "vmm/mem/pagemap.h"

#define NPAGES 3000

static bool no_scan; /* as on Linux 6.1 */

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	if (no_scan) {
		errno = ENOTTY;
		return -1;
	}
	return __real_ioctl(fd, request, arg);
}

struct area {
	int pagemap;
	int file;
	unsigned char *hva;
};

/* The first half shows a file, the second is anonymous. */
static int setup(void **state)
{
	static struct area a;
	void *m;

	a.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	a.file = memfd_create("file", MFD_CLOEXEC);
	if (ftruncate(a.file, NPAGES * PAGE_SIZE) < 0 ||
	    fallocate(a.file, 0, 0, NPAGES * PAGE_SIZE) < 0)
		return -1;
	m = mmap(NULL, NPAGES * PAGE_SIZE, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED)
		return -1;
	a.hva = m;
	(void)madvise(m, NPAGES * PAGE_SIZE, MADV_NOHUGEPAGE);
	m = mmap(a.hva, NPAGES / 2 * PAGE_SIZE, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_FIXED, a.file, 0);
	*state = &a;
	return m == MAP_FAILED ? -1 : 0;
}

static int teardown(void **state)
{
	struct area *a = *state;

	(void)munmap(a->hva, NPAGES * PAGE_SIZE);
	(void)close(a->file);
	(void)close(a->pagemap);
	no_scan = false;
	return 0;
}

/* Zero pages that were only read may be told. */
static void check(struct area *a)
{
	uint64_t bits[(NPAGES + 63) / 64] = {0};
	uint64_t count;
	uint64_t want = 0;

	for (uint32_t i = 0; i < NPAGES; i++)
		if (i % 7 == 0)
			a->hva[i * PAGE_SIZE] = 1;
		else if (i % 7 == 3)
			(void)*(
			    volatile unsigned char *)(a->hva + i * PAGE_SIZE);
	assert_int_equal(
	    pagemap_private(a->pagemap, a->hva, NPAGES, bits, &count), 0);
	for (uint32_t i = 0; i < NPAGES; i++) {
		bool told = (bits[i / 64] >> (i % 64) & 1) != 0;
		bool zero = i >= NPAGES / 2 && i % 7 == 3;

		if (i % 7 == 0)
			assert_true(told);
		else if (!zero)
			assert_false(told);
		want += told;
	}
	assert_int_equal(count, want);
	assert_int_equal(
	    pagemap_private(a->pagemap, a->hva, NPAGES, NULL, NULL), 0);
}

static void test_default(void **state)
{
	check(*state);
}

static void test_without_scan(void **state)
{
	no_scan = true;
	check(*state);
}

/* Both sets, to the page. */
static void check_sets(struct area *a)
{
	uint64_t reads[(NPAGES + 63) / 64] = {0};
	uint64_t writes[(NPAGES + 63) / 64] = {0};

	for (uint32_t i = 0; i < NPAGES; i++)
		if (i >= NPAGES / 2 && i % 7 == 3)
			(void)*(
			    volatile unsigned char *)(a->hva + i * PAGE_SIZE);
		else if (i % 7 == 5)
			a->hva[i * PAGE_SIZE] = 1;
	assert_int_equal(
	    pagemap_sets(a->pagemap, a->hva, NPAGES, reads, writes), 0);
	for (uint32_t i = 0; i < NPAGES; i++) {
		bool read = (reads[i / 64] >> (i % 64) & 1) != 0;
		bool wrote = (writes[i / 64] >> (i % 64) & 1) != 0;

		assert_int_equal(wrote, i % 7 == 5);
		assert_false(read && wrote);
		if (i >= NPAGES / 2)
			assert_int_equal(read, i % 7 == 3);
	}
}

static void test_sets(void **state)
{
	check_sets(*state);
}

static void test_sets_without_scan(void **state)
{
	no_scan = true;
	check_sets(*state);
}

static void test_bad_descriptor(void **state)
{
	struct area *a = *state;

	assert_true(pagemap_private(-1, a->hva, NPAGES, NULL, NULL) < 0);
	assert_true(pagemap_sets(-1, a->hva, NPAGES, NULL, NULL) < 0);
	no_scan = true;
	assert_int_equal(
	    pagemap_private(-1, a->hva, NPAGES, NULL, NULL), -EBADF);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_default),
	    TEST(test_without_scan),
	    TEST(test_sets),
	    TEST(test_sets_without_scan),
	    TEST(test_bad_descriptor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
