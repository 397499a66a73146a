/* SPDX-License-Identifier: MIT */
/* wrap: kvm_sys_set_memory */
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

#include "shared/page/run.h"
#include "vmm/kvm/kvm_sys.h"
#include "vmm/mem/gmem.h"

#define PHYS_BITS 40
#define GPA_END   (1ULL << PHYS_BITS)

/* KVM's answer to the next request, and what it was. */
static struct {
	int result;
	uint32_t calls;
	uint32_t slot;
	uint32_t flags;
	uint64_t gpa;
	uint64_t len;
} kvm;

int __wrap_kvm_sys_set_memory(int vm_fd, uint32_t slot, uint32_t flags,
    uint64_t gpa, void *hva, uint64_t len);
int __wrap_kvm_sys_set_memory(int vm_fd, uint32_t slot, uint32_t flags,
    uint64_t gpa, void *hva, uint64_t len)
{
	(void)vm_fd;
	(void)hva;
	kvm.calls++;
	kvm.slot = slot;
	kvm.flags = flags;
	kvm.gpa = gpa;
	kvm.len = len;
	return kvm.result;
}

static unsigned char memory[4 * PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

static int setup(void **state)
{
	static struct gmem g;

	memset(&kvm, 0, sizeof(kvm));
	memset(memory, 0, sizeof(memory));
	gmem_init(&g, -1, PHYS_BITS);
	*state = &g;
	return 0;
}

static struct gmem_bank bank(uint64_t gpa, uint64_t npages)
{
	return (struct gmem_bank){
	    .gpa = gpa, .len = npages * PAGE_SIZE, .hva = memory};
}

static int add(struct gmem *g, uint64_t gpa, uint64_t npages)
{
	struct gmem_bank b = bank(gpa, npages);
	struct err e;

	return gmem_add(g, &b, &e);
}

static void refused(struct gmem *g, struct gmem_bank b, int want)
{
	uint32_t calls = kvm.calls;
	struct err e = {0};

	assert_int_equal(gmem_add(g, &b, &e), want);
	assert_int_equal(e.code, want);
	assert_string_not_equal(e.msg, "");
	assert_int_equal(kvm.calls, calls);
}

static void what_is_not_aligned_or_empty(void **state)
{
	struct gmem *g = *state;
	struct gmem_bank b = bank(PAGE_SIZE, 1);

	b.gpa++;
	refused(g, b, -EINVAL);
	b = bank(PAGE_SIZE, 1);
	b.len++;
	refused(g, b, -EINVAL);
	b = bank(PAGE_SIZE, 1);
	b.hva++;
	refused(g, b, -EINVAL);
	b = bank(PAGE_SIZE, 1);
	b.hva = NULL;
	refused(g, b, -EINVAL);
	refused(g, bank(PAGE_SIZE, 0), -EINVAL);
}

static void what_wraps_or_ends_beyond(void **state)
{
	struct gmem *g = *state;

	refused(g, bank(GPA_END, 1), -ERANGE);
	refused(g, bank(GPA_END - PAGE_SIZE, 2), -ERANGE);
	refused(g, bank(0ULL - PAGE_SIZE, 1), -ERANGE);
	refused(g, bank(0ULL - PAGE_SIZE, 2), -ERANGE);
	refused(g, bank(PAGE_SIZE, UINT64_MAX / PAGE_SIZE), -ERANGE);
	assert_int_equal(add(g, GPA_END - PAGE_SIZE, 1), 0);
}

/* Whatever the CPU can name, a program sees no more than its window. */
static void beyond_the_window(void **state)
{
	static const unsigned bits[] = {46, 47, 52, 255};
	struct gmem *g = *state;

	for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++) {
		gmem_init(g, -1, bits[i]);
		refused(g, bank(GMEM_END, 1), -ERANGE);
		refused(g, bank(GMEM_END - PAGE_SIZE, 2), -ERANGE);
		assert_int_equal(add(g, GMEM_END - PAGE_SIZE, 1), 0);
	}
}

static void what_overlaps(void **state)
{
	struct gmem *g = *state;
	const uint64_t p = PAGE_SIZE;

	assert_int_equal(add(g, 4 * p, 4), 0);
	refused(g, bank(4 * p, 4), -EEXIST);
	refused(g, bank(5 * p, 1), -EEXIST);
	refused(g, bank(3 * p, 2), -EEXIST);
	refused(g, bank(7 * p, 2), -EEXIST);
	refused(g, bank(3 * p, 6), -EEXIST);
	assert_int_equal(add(g, 2 * p, 2), 1);
	assert_int_equal(add(g, 8 * p, 1), 2);
}

static void banks_run_out(void **state)
{
	struct gmem *g = *state;

	for (uint64_t i = 0; i < GMEM_BANKS_MAX; i++)
		assert_int_equal(add(g, i * PAGE_SIZE, 1), i);
	refused(g, bank(GMEM_BANKS_MAX * PAGE_SIZE, 1), -ENOSPC);
	refused(g, bank(0, 1), -EEXIST);
	assert_int_equal(gmem_del(g, 7, NULL), 0);
	assert_int_equal(kvm.len, 0);
	assert_int_equal(add(g, GMEM_BANKS_MAX * PAGE_SIZE, 1), 7);
}

static void kvm_refuses(void **state)
{
	struct gmem *g = *state;
	struct err e;

	kvm.result = -ENOMEM;
	assert_int_equal(add(g, 0, 1), -ENOMEM);
	assert_int_equal(gmem_slot_of(g, 0, 1), -ERANGE);
	kvm.result = 0;
	assert_int_equal(add(g, 0, 1), 0);
	kvm.result = -EIO;
	assert_int_equal(gmem_log(g, 0, true, &e), -EIO);
	assert_false(g->bank[0].logged);
	assert_int_equal(gmem_del(g, 0, &e), -EIO);
	assert_int_equal(gmem_slot_of(g, 0, 1), 0);
	kvm.result = 0;
	assert_int_equal(gmem_del(g, 1, &e), -ENOENT);
	assert_int_equal(gmem_del(g, GMEM_BANKS_MAX, &e), -ENOENT);
	assert_int_equal(gmem_log(g, UINT32_MAX, true, &e), -ENOENT);
}

static void flags_reach_kvm(void **state)
{
	struct gmem *g = *state;
	struct gmem_bank b = bank(0, 1);

	b.readonly = true;
	assert_int_equal(gmem_add(g, &b, NULL), 0);
	assert_int_equal(kvm.flags, KVM_SYS_READONLY);
	assert_int_equal(add(g, PAGE_SIZE, 1), 1);
	assert_int_equal(kvm.flags, 0);
	assert_int_equal(gmem_log(g, 1, true, NULL), 0);
	assert_int_equal(kvm.flags, KVM_SYS_LOGGED);
	assert_int_equal(kvm.calls, 3);
	assert_int_equal(gmem_log(g, 1, true, NULL), 0);
	assert_int_equal(kvm.calls, 3);
	assert_int_equal(gmem_log(g, 1, false, NULL), 0);
	assert_int_equal(kvm.flags, 0);
}

static void which_slot(void **state)
{
	struct gmem *g = *state;
	const uint64_t p = PAGE_SIZE;

	assert_int_equal(add(g, 4 * p, 2), 0);
	assert_int_equal(add(g, 6 * p, 2), 1);
	assert_int_equal(gmem_slot_of(g, 4 * p, 2 * p), 0);
	assert_int_equal(gmem_slot_of(g, 6 * p - 1, 1), 0);
	assert_int_equal(gmem_slot_of(g, 6 * p, 1), 1);
	assert_int_equal(gmem_slot_of(g, 6 * p - 1, 2), -ERANGE);
	assert_int_equal(gmem_slot_of(g, 4 * p - 1, 1), -ERANGE);
	assert_int_equal(gmem_slot_of(g, 8 * p, 1), -ERANGE);
	assert_int_equal(gmem_slot_of(g, 5 * p, UINT64_MAX), -ERANGE);
	assert_int_equal(gmem_slot_of(g, UINT64_MAX, 2), -ERANGE);
}

static void a_free_address(void **state)
{
	struct gmem *g = *state;
	const uint64_t at = GMEM_PLACES_GPA;

	assert_int_equal(gmem_find(g, 0), 0);
	assert_int_equal(gmem_find(g, PAGE_SIZE), at);
	assert_int_equal(add(g, at, 1), 0);
	assert_int_equal(gmem_find(g, PAGE_SIZE), at + LEAF_SIZE);
	assert_int_equal(add(g, at + 2 * LEAF_SIZE, 1), 1);
	assert_int_equal(gmem_find(g, LEAF_SIZE), at + LEAF_SIZE);
	assert_int_equal(
	    gmem_find(g, LEAF_SIZE + PAGE_SIZE), at + 3 * LEAF_SIZE);
	assert_int_equal(gmem_find(g, GPA_END), 0);
	assert_int_equal(gmem_find(g, UINT64_MAX), 0);
	assert_int_equal(
	    gmem_find(g, GPA_END - at - 3 * LEAF_SIZE), at + 3 * LEAF_SIZE);
	assert_int_equal(gmem_find(g, GPA_END - at - 2 * LEAF_SIZE), 0);
}

struct wrote {
	uint64_t page, npages;
	uint32_t calls;
};

static void note_wrote(void *ctx, uint64_t page, uint64_t npages)
{
	struct wrote *w = ctx;

	w->page = page;
	w->npages = npages;
	w->calls++;
}

static void access_across_banks(void **state)
{
	struct gmem *g = *state;
	const uint64_t p = PAGE_SIZE;
	struct wrote w[2] = {0};
	struct gmem_bank a = bank(4 * p, 2);
	struct gmem_bank b = bank(6 * p, 2);
	unsigned char buf[3 * PAGE_SIZE];

	/* Neighbours in the guest, the other way round in the host. */
	a.hva = memory + 2 * p;
	a.wrote = b.wrote = note_wrote;
	a.ctx = &w[0];
	b.ctx = &w[1];
	assert_int_equal(gmem_add(g, &a, NULL), 0);
	assert_int_equal(gmem_add(g, &b, NULL), 1);
	memset(buf, 'x', sizeof(buf));
	assert_int_equal(gmem_write(g, 6 * p - 1, buf, 2), 0);
	assert_int_equal(memory[4 * p - 1], 'x');
	assert_int_equal(memory[0], 'x');
	assert_int_equal(memory[1], 0);
	assert_int_equal(w[0].page, 1);
	assert_int_equal(w[0].npages, 1);
	assert_int_equal(w[1].page, 0);
	assert_int_equal(w[1].npages, 1);
	assert_int_equal(gmem_read(g, 6 * p - 2, buf, 4), 0);
	assert_memory_equal(buf, "\0xx\0", 4);
	assert_int_equal(gmem_zero(g, 5 * p - 1, 2 * p), 0);
	assert_int_equal(w[0].page, 0);
	assert_int_equal(w[0].npages, 2);
	assert_int_equal(memory[0], 0);
	assert_int_equal(memory[4 * p - 1], 0);
	assert_int_equal(gmem_write(g, 0, buf, 0), 0);
	assert_int_equal(w[0].calls + w[1].calls, 4);
}

static void access_refused_changes_nothing(void **state)
{
	struct gmem *g = *state;
	const uint64_t p = PAGE_SIZE;
	struct gmem_bank b = bank(6 * p, 1);
	unsigned char buf[PAGE_SIZE + 2];

	memset(buf, 'x', sizeof(buf));
	b.hva = memory + p;
	b.readonly = true;
	assert_int_equal(add(g, 5 * p, 1), 0);
	assert_int_equal(gmem_add(g, &b, NULL), 1);
	assert_int_equal(gmem_write(g, 6 * p - 1, buf, 2), -EACCES);
	assert_int_equal(gmem_zero(g, 6 * p, 1), -EACCES);
	assert_int_equal(gmem_write(g, 6 * p - 1, buf, sizeof(buf)), -EACCES);
	assert_int_equal(gmem_write(g, 5 * p - 1, buf, 2), -EFAULT);
	assert_int_equal(gmem_write(g, 5 * p, buf, UINT64_MAX), -EACCES);
	assert_int_equal(gmem_read(g, 7 * p - 1, buf, 2), -EFAULT);
	assert_int_equal(gmem_read(g, UINT64_MAX, buf, 2), -EFAULT);
	assert_int_equal(gmem_read(g, 5 * p, buf, UINT64_MAX), -EFAULT);
	for (size_t i = 0; i < sizeof(memory); i++)
		assert_int_equal(memory[i], 0);
	assert_int_equal(buf[0], 'x');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(what_is_not_aligned_or_empty, setup),
	    cmocka_unit_test_setup(what_wraps_or_ends_beyond, setup),
	    cmocka_unit_test_setup(beyond_the_window, setup),
	    cmocka_unit_test_setup(what_overlaps, setup),
	    cmocka_unit_test_setup(banks_run_out, setup),
	    cmocka_unit_test_setup(kvm_refuses, setup),
	    cmocka_unit_test_setup(flags_reach_kvm, setup),
	    cmocka_unit_test_setup(which_slot, setup),
	    cmocka_unit_test_setup(a_free_address, setup),
	    cmocka_unit_test_setup(access_across_banks, setup),
	    cmocka_unit_test_setup(access_refused_changes_nothing, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
