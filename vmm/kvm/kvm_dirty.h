/* SPDX-License-Identifier: MIT */
/* kvm_dirty: the dirty log of a memslot; rules as in kvm_sys.h. */
#ifndef VMM_KVM_KVM_DIRTY_H
#define VMM_KVM_KVM_DIRTY_H

#include <stdint.h>

/*
 * Fetch and clear the dirty log of (slot), which must be on, into (bitmap): one
 * bit a page, rounded up to whole words of 64. -errno: KVM's, -ENOENT where the
 * log is off.
 */
int kvm_dirty_get(int vm_fd, uint32_t slot, uint64_t *bitmap);

#endif /* VMM_KVM_KVM_DIRTY_H */
