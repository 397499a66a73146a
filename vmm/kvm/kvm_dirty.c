/* SPDX-License-Identifier: MIT */
#include "vmm/kvm/kvm_dirty.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

int kvm_dirty_get(int vm_fd, uint32_t slot, uint64_t *bitmap)
{
	struct kvm_dirty_log log = {.slot = slot};

	log.dirty_bitmap = bitmap;
	return ioctl(vm_fd, KVM_GET_DIRTY_LOG, &log) < 0 ? -errno : 0;
}
