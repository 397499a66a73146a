/* SPDX-License-Identifier: MIT */
#include "vmm/kvm/cpuid.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#define CPUID_NENT_MAX 512u

#define XCR0_X87_SSE   0x3ULL
#define XCR0_MPX       0x18ULL
#define XCR0_AVX       0x4ULL
#define XCR0_AVX512    0xe0ULL

struct kvm_cpuid2 *cpuid_get(int kvm_fd, int *error)
{
	struct kvm_cpuid2 *c;

	*error = -E2BIG;
	for (uint32_t n = 128; n <= CPUID_NENT_MAX && *error == -E2BIG;
	     n *= 2) {
		c = calloc(1, sizeof(*c) + n * sizeof(c->entries[0]));
		if (c == NULL) {
			*error = -ENOMEM;
			return NULL;
		}
		c->nent = n;
		if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, c) == 0)
			return c;
		*error = -errno;
		free(c);
	}
	return NULL;
}

static const struct kvm_cpuid_entry2 *find(
    const struct kvm_cpuid2 *c, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < c->nent; i++)
		if (c->entries[i].function == function &&
		    c->entries[i].index == index)
			return &c->entries[i];
	return NULL;
}

unsigned cpuid_phys_bits(const struct kvm_cpuid2 *c)
{
	const struct kvm_cpuid_entry2 *e = find(c, 0x80000008, 0);

	return e != NULL ? e->eax & 0xff : 36;
}

uint64_t cpuid_xcr0(const struct kvm_cpuid2 *c)
{
	const struct kvm_cpuid_entry2 *e = find(c, 0xd, 0);
	uint64_t x = XCR0_X87_SSE;

	if (e == NULL)
		return x;
	x |= e->eax | (uint64_t)e->edx << 32;
	/* KVM refuses halves of a feature. */
	if ((x & XCR0_MPX) != XCR0_MPX)
		x &= ~XCR0_MPX;
	if ((x & XCR0_AVX512) != XCR0_AVX512 || !(x & XCR0_AVX))
		x &= ~XCR0_AVX512;
	/* Tile data needs a permission that this process does not ask for. */
	return x & 0xffULL;
}
