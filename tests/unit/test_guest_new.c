/* SPDX-License-Identifier: MIT */
/* wrap: malloc calloc realloc kvm_sys_set_memory */
/* A guest that cannot be made: why, and that nothing of it is left. */
#include "vmm/guestcall/guest.h"

#include <errno.h>
#include <unistd.h>

#include "tests/unit/failmem.h"
#include "tests/unit/unit.h"
#include "vmm/kvm/kvm_sys.h"

#define PHYS_BITS 40

/* Banks that KVM has. */
static int banks;

int __wrap_kvm_sys_set_memory(int vm_fd, uint32_t slot, uint32_t flags,
    uint64_t gpa, void *hva, uint64_t len);
int __wrap_kvm_sys_set_memory(int vm_fd, uint32_t slot, uint32_t flags,
    uint64_t gpa, void *hva, uint64_t len)
{
	(void)vm_fd;
	(void)slot;
	(void)flags;
	(void)gpa;
	(void)hva;
	banks += len != 0 ? 1 : -1;
	return 0;
}

static void without_memory(void **state)
{
	struct gmem gmem;
	struct guest_env env = {.gmem = &gmem, .stdio = {0, 1, 2}};
	struct guest *g = NULL;
	long n = 0;

	(void)state;
	gmem_init(&gmem, -1, PHYS_BITS);
	for (;; n++) {
		struct err e = {0};

		fail_at = n;
		g = guest_new(&env, &e);
		fail_at = -1;
		if (g != NULL)
			break;
		assert_int_equal(e.code, -ENOMEM);
		assert_string_not_equal(e.msg, "");
		assert_int_equal(banks, 0);
	}
	assert_true(n > 0);
	assert_int_equal(banks, 1);
	guest_free(g);
	assert_int_equal(banks, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
