/* SPDX-License-Identifier: MIT */
#include "vmm/kvm/kvm_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/core/cleanup.h"
#include "vmm/kvm/kvm_sys.h"

/* What firn can do without. */
static const struct kvm_sys_need others[] = {
    {KVM_CAP_NR_MEMSLOTS, 0, "KVM_CAP_NR_MEMSLOTS", "segments and views"},
    {KVM_CAP_MAX_VCPUS, 0, "KVM_CAP_MAX_VCPUS", "one so far"},
    {KVM_CAP_DIRTY_LOG_RING, 0, "KVM_CAP_DIRTY_LOG_RING", "not used yet"},
};

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

static void ask_cap(
    struct kvm_probe *p, int fd, const struct kvm_sys_need *c, bool needed)
{
	int v = kvm_sys_cap(fd, c->cap);

	p->caps[p->ncaps++] = (struct kvm_probe_cap){
	    .name = c->name + strlen("KVM_CAP_"),
	    .use = c->use,
	    .needed = needed,
	    .value = (v & c->bits) == c->bits ? v : 0,
	};
}

static void ask_caps(struct kvm_probe *p, int fd)
{
	size_t n;
	const struct kvm_sys_need *need = kvm_sys_needs(&n);

	for (size_t i = 0; i < n && p->ncaps < KVM_PROBE_CAPS_MAX; i++)
		ask_cap(p, fd, &need[i], true);
	n = sizeof(others) / sizeof(others[0]);
	for (size_t i = 0; i < n && p->ncaps < KVM_PROBE_CAPS_MAX; i++)
		ask_cap(p, fd, &others[i], false);
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
