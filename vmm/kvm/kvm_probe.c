/* SPDX-License-Identifier: MIT */
#include "vmm/kvm/kvm_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/core/cleanup.h"

static const struct {
	const char *name, *use;
	int cap;
	bool needed;
} wanted[] = {
    {"USER_MEMORY", "guest memory is ours", KVM_CAP_USER_MEMORY, true},
    {"READONLY_MEM", "read-only views", KVM_CAP_READONLY_MEM, true},
    {"IMMEDIATE_EXIT", "pause", KVM_CAP_IMMEDIATE_EXIT, true},
    {"EXT_CPUID", "the guest's CPUID", KVM_CAP_EXT_CPUID, true},
    {"XCRS", "AVX in guests", KVM_CAP_XCRS, true},
    {"SYNC_REGS", "registers without a call", KVM_CAP_SYNC_REGS, false},
    {"NR_MEMSLOTS", "segments and views", KVM_CAP_NR_MEMSLOTS, true},
    {"MANUAL_DIRTY_LOG_PROTECT2", "dirty queries",
	KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, false},
    {"DIRTY_LOG_RING", "not used yet", KVM_CAP_DIRTY_LOG_RING, false},
    {"MAX_VCPUS", "one so far", KVM_CAP_MAX_VCPUS, true},
};

_Static_assert(
    sizeof(wanted) / sizeof(wanted[0]) <= KVM_PROBE_CAPS_MAX, "caps");

static int open_kvm(struct err *e)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	switch (errno) {
	case EACCES:
	case EPERM:
		return err_set(e, -EACCES,
		    "no permission for /dev/kvm: add yourself to group kvm "
		    "(usermod -aG kvm NAME) and log in again");
	case ENOENT:
		return err_set(e, -ENOENT,
		    "there is no /dev/kvm: load kvm_intel or kvm_amd, and turn "
		    "on virtualisation in the firmware (or nested "
		    "virtualisation in the host of this VM)");
	case ENODEV:
	case ENXIO:
		return err_set(e, -ENODEV,
		    "/dev/kvm has no driver: load kvm_intel or kvm_amd");
	default:
		return err_set(e, -errno, "/dev/kvm: %s", strerror(errno));
	}
}

static void ask_caps(struct kvm_probe *p, int fd)
{
	p->ncaps = sizeof(wanted) / sizeof(wanted[0]);
	for (size_t i = 0; i < p->ncaps; i++) {
		int v = ioctl(fd, KVM_CHECK_EXTENSION, wanted[i].cap);

		p->caps[i] = (struct kvm_probe_cap){
		    .name = wanted[i].name,
		    .use = wanted[i].use,
		    .needed = wanted[i].needed,
		    .value = v > 0 ? v : 0,
		};
	}
}

int kvm_probe(struct kvm_probe *p, struct err *e)
{
	AUTO_CLOSE int kvm = open_kvm(e);
	AUTO_CLOSE int vm = -1;
	AUTO_CLOSE int vcpu = -1;

	*p = (struct kvm_probe){0};
	if (kvm < 0)
		return kvm;
	p->api = ioctl(kvm, KVM_GET_API_VERSION, 0);
	if (p->api != KVM_API_VERSION)
		return err_set(e, -ENOTSUP,
		    "/dev/kvm has API version %d, not %d", p->api,
		    KVM_API_VERSION);
	ask_caps(p, kvm);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		return err_set(
		    e, -errno, "cannot make a VM: %s", strerror(errno));
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		return err_set(
		    e, -errno, "cannot make a vCPU: %s", strerror(errno));
	return 0;
}
