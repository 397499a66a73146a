/* SPDX-License-Identifier: MIT */
/* A vCPU on real KVM: a few instructions at CPL 3 over page tables made here.
 */
#include "tests/unit/unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/kvm/kvm_sys.h"
#include "vmm/mem/gmem.h"
#include "vmm/vcpu/vcpu.h"

#define MEM_LEN  0x200000ULL
#define PML4     0x1000ULL
#define PDPT     0x2000ULL
#define PD       0x3000ULL
#define GDT      0x4000ULL
#define TSS      0x5000ULL
#define CODE     0x10000ULL
#define STACK    0x80000ULL
#define RO_GPA   0x200000ULL /* a read-only bank */
#define NONE_GPA 0x400000ULL /* no bank */

#define USER_CS  0x23
#define USER_SS  0x1b
#define TSS_SEL  0x28

struct fix {
	int kvm_fd;
	int vm_fd;
	struct kvm_sys_caps caps;
	unsigned char *mem;
	unsigned char *ro;
	struct gmem gmem;
	struct vcpu *v;
};

static void put64(unsigned char *mem, uint64_t at, uint64_t v)
{
	memcpy(mem + at, &v, sizeof(v));
}

/* The first GiB, as it is, for the user, in blocks of 2 MiB. */
static void make_tables(unsigned char *mem)
{
	static const uint64_t gdt[] = {0, 0x00af9b000000ffffULL,
	    0x00cf93000000ffffULL, 0x00cff3000000ffffULL,
	    0x00affb000000ffffULL};

	put64(mem, PML4, PDPT | 0x27);
	put64(mem, PDPT, PD | 0x27);
	for (uint64_t i = 0; i < 512; i++)
		put64(mem, PD + 8 * i, i << 21 | 0xe7);
	memcpy(mem + GDT, gdt, sizeof(gdt));
	/* No I/O bitmap but zeroes: every port is allowed. */
	mem[TSS + 102] = 104;
}

static unsigned char *map(uint64_t len)
{
	unsigned char *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct gmem_bank b;
	const char *missing;
	struct err e;

	assert_non_null(f);
	f->kvm_fd = kvm_sys_open();
	assert_true(f->kvm_fd >= 0);
	assert_int_equal(kvm_sys_check(f->kvm_fd, &f->caps, &missing), 0);
	f->vm_fd = kvm_sys_create_vm(f->kvm_fd);
	assert_true(f->vm_fd >= 0);
	f->mem = map(MEM_LEN);
	f->ro = map(MEM_LEN);
	make_tables(f->mem);
	gmem_init(&f->gmem, f->vm_fd, f->caps.phys_bits);
	b = (struct gmem_bank){.len = MEM_LEN, .hva = f->mem};
	assert_int_equal(gmem_add(&f->gmem, &b, &e), 0);
	b = (struct gmem_bank){
	    .gpa = RO_GPA, .len = MEM_LEN, .hva = f->ro, .readonly = true};
	assert_int_equal(gmem_add(&f->gmem, &b, &e), 1);
	f->v = vcpu_new(f->kvm_fd, f->vm_fd, 0, f->caps.cpuid, &e);
	assert_non_null(f->v);
	assert_int_equal(vcpu_signal_init(), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	vcpu_free(f->v);
	kvm_sys_caps_free(&f->caps);
	(void)close(f->vm_fd);
	(void)close(f->kvm_fd);
	(void)munmap(f->mem, MEM_LEN);
	(void)munmap(f->ro, MEM_LEN);
	free(f);
	return 0;
}

static void start(struct fix *f, const void *code, size_t len)
{
	const struct cpu_start s = {
	    .rip = CODE,
	    .rsp = STACK,
	    .cr3 = PML4,
	    .gdt = GDT,
	    .gdt_limit = 0x3f,
	    .tss = TSS,
	    .tss_limit = 0x206,
	    .tss_sel = TSS_SEL,
	    .user_cs = USER_CS,
	    .user_ss = USER_SS,
	};
	struct err e;

	memcpy(f->mem + CODE, code, len);
	assert_int_equal(vcpu_start(f->v, &s, &e), 0);
}

/* Until something but a kick that nobody asked for. */
static void run(struct fix *f, struct vcpu_exit *x)
{
	do
		vcpu_run(f->v, x);
	while (x->kind == VCPU_KICKED);
}

static void a_doorbell(void **state)
{
	/* mov $0x1234,%eax; out %al,$0x10; nop; out %al,$0x11; jmp . */
	static const unsigned char code[] = {
	    0xb8, 0x34, 0x12, 0, 0, 0xe6, 0x10, 0x90, 0xe6, 0x11, 0xeb, 0xfe};
	struct fix *f = *state;
	struct cpu_regs *r = vcpu_regs(f->v);
	struct vcpu_exit x;

	start(f, code, sizeof(code));
	run(f, &x);
	assert_int_equal(x.kind, VCPU_DOORBELL);
	assert_int_equal(x.port, 0x10);
	assert_int_equal(r->gpr[RAX], 0x1234);
	assert_int_equal(r->cs & 3, 3);
	/* On it or past it, as the host likes. */
	assert_in_range(r->rip, CODE + 5, CODE + 7);
	r->rip = CODE + 8;
	r->gpr[RBX] = 0x5678;
	r->gpr[R15] = UINT64_MAX;
	r->dirty = true;
	run(f, &x);
	assert_int_equal(x.kind, VCPU_DOORBELL);
	assert_int_equal(x.port, 0x11);
	assert_int_equal(r->gpr[RBX], 0x5678);
	assert_int_equal(r->gpr[R15], UINT64_MAX);
	assert_int_equal(r->gpr[RAX], 0x1234);
}

static void a_base_of_fs(void **state)
{
	/* out %al,$0x10; mov %fs:0,%rax; out %al,$0x11; jmp . */
	static const unsigned char code[] = {0xe6, 0x10, 0x64, 0x48, 0x8b, 0x04,
	    0x25, 0, 0, 0, 0, 0xe6, 0x11, 0xeb, 0xfe};
	struct fix *f = *state;
	struct cpu_regs *r = vcpu_regs(f->v);
	struct vcpu_exit x;

	start(f, code, sizeof(code));
	put64(f->mem, STACK, 0xfeedfacecafebeefULL);
	run(f, &x);
	assert_int_equal(x.kind, VCPU_DOORBELL);
	r->fs_base = STACK;
	r->rip = CODE + 2;
	r->dirty = true;
	r->dirty_sregs = true;
	run(f, &x);
	assert_int_equal(x.port, 0x11);
	assert_int_equal(r->gpr[RAX], 0xfeedfacecafebeefULL);
	assert_int_equal(r->fs_base, STACK);
}

/* inc %rax; jmp back */
static const unsigned char spin[] = {0x48, 0xff, 0xc0, 0xeb, 0xfb};

static void *kick_later(void *arg)
{
	usleep(20000);
	vcpu_kick(arg);
	return NULL;
}

static void a_kick_of_a_spinning_vcpu(void **state)
{
	struct fix *f = *state;
	struct vcpu_exit x;
	uint64_t before = 0;
	pthread_t t;

	start(f, spin, sizeof(spin));
	for (int i = 0; i < 5; i++) {
		assert_int_equal(pthread_create(&t, NULL, kick_later, f->v), 0);
		vcpu_run(f->v, &x);
		assert_int_equal(pthread_join(t, NULL), 0);
		assert_int_equal(x.kind, VCPU_KICKED);
		assert_true(vcpu_regs(f->v)->gpr[RAX] > before);
		before = vcpu_regs(f->v)->gpr[RAX];
	}
}

static void a_kick_before_the_run(void **state)
{
	struct fix *f = *state;
	struct vcpu_exit x;
	pthread_t t;

	start(f, spin, sizeof(spin));
	vcpu_kick(f->v);
	vcpu_kick(f->v);
	vcpu_run(f->v, &x);
	assert_int_equal(x.kind, VCPU_KICKED);
	assert_int_equal(vcpu_regs(f->v)->gpr[RAX], 0);
	/* Consumed: the next lasts until the next. */
	assert_int_equal(pthread_create(&t, NULL, kick_later, f->v), 0);
	vcpu_run(f->v, &x);
	assert_int_equal(pthread_join(t, NULL), 0);
	assert_int_equal(x.kind, VCPU_KICKED);
	assert_true(vcpu_regs(f->v)->gpr[RAX] > 0);
}

struct storm {
	struct vcpu *v;
	uint32_t asked;
	_Atomic uint32_t seen;
};

/* One kick after the other, each once the last was seen: a lost one hangs. */
static void *kick_storm(void *arg)
{
	struct storm *s = arg;

	for (uint32_t i = 1; i <= s->asked; i++) {
		vcpu_kick(s->v);
		while (s->seen < i)
			usleep(1);
	}
	return NULL;
}

static void no_kick_is_lost(void **state)
{
	struct fix *f = *state;
	struct storm s = {.v = f->v, .asked = 500};
	struct vcpu_exit x;
	pthread_t t;

	start(f, spin, sizeof(spin));
	assert_int_equal(pthread_create(&t, NULL, kick_storm, &s), 0);
	while (s.seen < s.asked) {
		vcpu_run(f->v, &x);
		assert_int_equal(x.kind, VCPU_KICKED);
		s.seen++;
	}
	assert_int_equal(pthread_join(t, NULL), 0);
}

static void changed_registers_survive_a_kick(void **state)
{
	/* out %al,$0x10; out %al,$0x11; jmp . */
	static const unsigned char code[] = {
	    0xe6, 0x10, 0xe6, 0x11, 0xeb, 0xfe};
	struct fix *f = *state;
	struct cpu_regs *r = vcpu_regs(f->v);
	struct vcpu_exit x;

	start(f, code, sizeof(code));
	run(f, &x);
	r->rip = CODE + 2;
	r->gpr[RAX] = 42;
	r->dirty = true;
	vcpu_kick(f->v);
	vcpu_run(f->v, &x);
	assert_int_equal(x.kind, VCPU_KICKED);
	assert_int_equal(r->rip, CODE + 2);
	run(f, &x);
	assert_int_equal(x.port, 0x11);
	assert_int_equal(r->gpr[RAX], 42);
}

static void stray(struct fix *f, uint64_t gpa, bool is_write)
{
	/* mov %eax,(%rbx); jmp .    mov (%rbx),%eax; jmp . */
	unsigned char code[] = {is_write ? 0x89 : 0x8b, 0x03, 0xeb, 0xfe};
	struct cpu_regs *r = vcpu_regs(f->v);
	struct vcpu_exit x;

	start(f, code, sizeof(code));
	r->gpr[RBX] = gpa;
	r->gpr[RAX] = 0x11111111;
	r->dirty = true;
	run(f, &x);
	assert_int_equal(x.kind, VCPU_STRAY);
	assert_int_equal(x.gpa, gpa);
	assert_int_equal(x.is_write, is_write);
	assert_int_equal(x.len, 4);
}

static void a_write_to_what_is_readonly(void **state)
{
	struct fix *f = *state;

	stray(f, RO_GPA + 0x123 * 8, true);
	for (size_t i = 0; i < MEM_LEN; i += 8)
		assert_int_equal(f->ro[i], 0);
}

static void an_access_to_nothing(void **state)
{
	stray(*state, NONE_GPA + 0x18, true);
	stray(*state, NONE_GPA + 0x1ff8, false);
}

static void a_read_of_what_is_readonly(void **state)
{
	/* mov (%rbx),%eax; out %al,$0x10 */
	static const unsigned char code[] = {0x8b, 0x03, 0xe6, 0x10};
	struct fix *f = *state;
	struct cpu_regs *r = vcpu_regs(f->v);
	struct vcpu_exit x;

	put64(f->ro, 64, 0x77777777);
	start(f, code, sizeof(code));
	r->gpr[RBX] = RO_GPA + 64;
	r->dirty = true;
	run(f, &x);
	assert_int_equal(x.kind, VCPU_DOORBELL);
	assert_int_equal(r->gpr[RAX], 0x77777777);
}

static void a_triple_fault(void **state)
{
	static const unsigned char ud2[] = {0x0f, 0x0b};
	struct fix *f = *state;
	struct vcpu_exit x;

	start(f, ud2, sizeof(ud2)); /* there is no IDT */
	run(f, &x);
	assert_int_equal(x.kind, VCPU_SHUTDOWN);
}

static void no_vcpu_of_a_taken_number(void **state)
{
	struct fix *f = *state;
	struct err e = {0};

	assert_null(vcpu_new(f->kvm_fd, f->vm_fd, 0, f->caps.cpuid, &e));
	assert_int_equal(e.code, -EEXIST);
	assert_null(vcpu_new(f->kvm_fd, -1, 1, f->caps.cpuid, &e));
	assert_int_equal(e.code, -EBADF);
	vcpu_free(NULL);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(a_doorbell),
	    T(a_base_of_fs),
	    T(a_kick_of_a_spinning_vcpu),
	    T(a_kick_before_the_run),
	    T(no_kick_is_lost),
	    T(changed_registers_survive_a_kick),
	    T(a_write_to_what_is_readonly),
	    T(an_access_to_nothing),
	    T(a_read_of_what_is_readonly),
	    T(a_triple_fault),
	    T(no_vcpu_of_a_taken_number),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
