/* SPDX-License-Identifier: MIT */
/* kvm_probe: what this host's KVM can do, for `firn doctor`. */
#ifndef VMM_KVM_KVM_PROBE_H
#define VMM_KVM_KVM_PROBE_H

#include <stdbool.h>
#include <stddef.h>

#include "vmm/core/err.h"

#define KVM_PROBE_CAPS_MAX 16u

struct kvm_probe_cap {
	const char *name; /* "READONLY_MEM" */
	const char *use;  /* what firn does with it */
	bool needed;      /* firn cannot work without */
	int value;        /* 0: absent */
};

struct kvm_probe {
	int api;
	struct kvm_probe_cap caps[KVM_PROBE_CAPS_MAX];
	size_t ncaps;
};

/*
 * Open /dev/kvm, ask, make a VM and a vCPU and close all again. 0 with *p set,
 * or: -ENOENT, -ENODEV, -EACCES (of the open, with what to do about it in e),
 * -ENOTSUP (another API version), or the error of making the VM or vCPU.
 */
int kvm_probe(struct kvm_probe *p, struct err *e);

#endif /* VMM_KVM_KVM_PROBE_H */
