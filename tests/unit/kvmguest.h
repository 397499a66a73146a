/* SPDX-License-Identifier: MIT */
/*
 * kvmguest: a guest that writes lists of words, for tests of what KVM tells of
 * writes. 32-bit, flat, without paging, so that nothing of it lies in the
 * memory under test; it sees guest-physical addresses below 4 GiB.
 */
#ifndef TESTS_UNIT_KVMGUEST_H
#define TESTS_UNIT_KVMGUEST_H

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define KVMGUEST_LIST 4096 /* where the list begins in its own memory */
#define KVMGUEST_MEM  (1u << 20)
#define KVMGUEST_MAX  ((KVMGUEST_MEM - KVMGUEST_LIST) / 8)
#define KVMGUEST_SLOT 500

struct kvmguest_write {
	uint32_t gpa;
	uint32_t value;
};

struct kvmguest {
	int kvm, vm, vcpu;
	struct kvm_run *run;
	size_t run_len;
	unsigned char *mem; /* at guest-physical 0 */
};

static inline int kvmguest_open(struct kvmguest *g)
{
	/* next: mov edi,[esi]; mov eax,[esi+4]; mov [edi],eax; add esi,8;
	 *       dec ecx; jnz next; hlt */
	static const unsigned char code[] = {0x8b, 0x3e, 0x8b, 0x46, 0x04, 0x89,
	    0x07, 0x83, 0xc6, 0x08, 0x49, 0x75, 0xf3, 0xf4};
	struct kvm_userspace_memory_region r = {
	    .slot = KVMGUEST_SLOT, .memory_size = KVMGUEST_MEM};
	struct kvm_sregs s;

	g->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	g->vm = ioctl(g->kvm, KVM_CREATE_VM, 0);
	g->mem = mmap(NULL, KVMGUEST_MEM, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (g->vm < 0 || g->mem == MAP_FAILED)
		return -1;
	memcpy(g->mem, code, sizeof(code));
	r.userspace_addr = (uintptr_t)g->mem;
	if (ioctl(g->vm, KVM_SET_USER_MEMORY_REGION, &r) < 0)
		return -1;
	g->vcpu = ioctl(g->vm, KVM_CREATE_VCPU, 0);
	g->run_len = (size_t)ioctl(g->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	g->run = mmap(
	    NULL, g->run_len, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu, 0);
	if (g->vcpu < 0 || g->run == MAP_FAILED ||
	    ioctl(g->vcpu, KVM_GET_SREGS, &s) < 0)
		return -1;
	s.cs.base = 0;
	s.cs.selector = 8;
	s.cs.limit = 0xffffffff;
	s.cs.g = 1;
	s.cs.db = 1;
	s.cs.type = 11;
	s.ds = s.cs;
	s.ds.type = 3;
	s.ds.selector = 16;
	s.es = s.fs = s.gs = s.ss = s.ds;
	s.cr0 |= 1;
	return ioctl(g->vcpu, KVM_SET_SREGS, &s);
}

static inline void kvmguest_close(struct kvmguest *g)
{
	(void)munmap(g->run, g->run_len);
	(void)munmap(g->mem, KVMGUEST_MEM);
	(void)close(g->vcpu);
	(void)close(g->vm);
	(void)close(g->kvm);
}

/* Let it do the writes. 0, or -1 when it did not reach its end. */
static inline int kvmguest_do(
    struct kvmguest *g, const struct kvmguest_write *w, uint32_t n)
{
	struct kvm_regs regs = {.rflags = 2, .rsi = KVMGUEST_LIST, .rcx = n};

	if (n == 0)
		return 0;
	if (n > KVMGUEST_MAX || ioctl(g->vcpu, KVM_SET_REGS, &regs) < 0)
		return -1;
	memcpy(g->mem + KVMGUEST_LIST, w, n * sizeof(*w));
	if (ioctl(g->vcpu, KVM_RUN, 0) < 0)
		return -1;
	return g->run->exit_reason == KVM_EXIT_HLT ? 0 : -1;
}

#endif /* TESTS_UNIT_KVMGUEST_H */
