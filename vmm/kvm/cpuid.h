/* SPDX-License-Identifier: MIT */
/* cpuid: what KVM supports of the CPU; inside vmm/kvm only. */
#ifndef VMM_KVM_CPUID_H
#define VMM_KVM_CPUID_H

#include <stdint.h>

struct kvm_cpuid2;

/* KVM's supported CPUID, from the heap; NULL with *error, a negative errno. */
struct kvm_cpuid2 *cpuid_get(int kvm_fd, int *error);

/* Bits of a guest-physical address. */
unsigned cpuid_phys_bits(const struct kvm_cpuid2 *c);

/* The XCR0 that a guest may have: at least x87 and SSE. */
uint64_t cpuid_xcr0(const struct kvm_cpuid2 *c);

#endif /* VMM_KVM_CPUID_H */
