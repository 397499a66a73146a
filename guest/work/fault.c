/* SPDX-License-Identifier: MIT */
/* musl: yes */
/*
 * fault KIND: ends itself in one of many ways. KIND is one of those in the
 * table below; "ro NAME" maps snapshot NAME read-only and writes to it.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "guest/lib/firn_guest.h"

#pragma GCC diagnostic ignored "-Wunused-parameter"

static volatile int zero;
static volatile uintptr_t null;

static void do_null(const char *arg)
{
	*(volatile int *)null = 1;
}

static void do_wild(const char *arg)
{
	*(volatile int *)(null + 0x123456789000) = 1;
}

static void do_read(const char *arg)
{
	(void)*(volatile int *)(null + 0x123456789000);
}

static void do_noncanonical(const char *arg)
{
	(void)*(volatile int *)(null + 0x8000000000000000);
}

static void do_window(const char *arg)
{
	*(volatile int *)(uintptr_t)(FIRN_WINDOW + 0x3f0000000000 + null) = 1;
}

static void do_ram_window(const char *arg)
{
	*(volatile int *)(uintptr_t)(FIRN_WINDOW + 0x100000000 + null) = 1;
}

static void do_kernel(const char *arg)
{
	(void)*(volatile int *)(null + 0xffffffff80001000);
}

static void do_text(const char *arg)
{
	*(volatile char *)(uintptr_t)do_text = 1;
}

static void do_call_null(const char *arg)
{
	((void (*)(void))null)();
}

static void do_exec(const char *arg)
{
	static char data[16] = "\xc3";

	((void (*)(void))(uintptr_t)data)();
}

static int deep(int n)
{
	volatile char fill[4096];

	fill[0] = (char)n;
	fill[4095] = (char)n;
	return zero ? 0 : deep(n + 1) + fill[0] + fill[4095];
}

static void do_stack(const char *arg)
{
	printf("%d\n", deep(0));
}

static void do_div0(const char *arg)
{
	int n = 1;

	__asm__ volatile("idivl %1" : "+a"(n) : "r"(zero) : "edx");
}

static void do_ud2(const char *arg)
{
	__asm__ volatile("ud2");
}

static void do_int3(const char *arg)
{
	__asm__ volatile("int3");
}

static void do_hlt(const char *arg)
{
	__asm__ volatile("hlt");
}

static void do_port(const char *arg)
{
	__asm__ volatile("outb %%al, $0x60" : : "a"(0));
}

static void do_trap_port(const char *arg)
{
	__asm__ volatile("outb %%al, $0x2e" : : "a"(0));
}

static void do_port_read(const char *arg)
{
	unsigned char got;

	__asm__ volatile("inb $0x10, %0" : "=a"(got));
}

/* A selector of a local descriptor table, of which there is none. */
static void do_ldt(const char *arg)
{
	__asm__ volatile("movl %0, %%ds" : : "r"(7));
}

static void do_code32(const char *arg)
{
	static const struct {
		uint32_t rip;
		uint16_t cs;
	} to = {0x400000, 0x23};

	__asm__ volatile("ljmpl *%0" : : "m"(to));
}

static int must(int r)
{
	if (r < 0) {
		fprintf(stderr, "fault: %s\n", strerror(-r));
		exit(1);
	}
	return r;
}

static void store(uint64_t va)
{
	__asm__ volatile("movb $7, (%0)" : : "r"(va) : "memory");
}

static void do_beyond(const char *arg)
{
	struct firn_segment seg;

	must(firn_segment_make("small", 4096, &seg));
	store(seg.va);
	store(seg.va + 8192);
}

/* Where a view of 2 MiB was before. */
static void do_beyond_again(const char *arg)
{
	struct firn_frozen frozen;
	struct firn_segment seg;
	uint64_t gpa;
	int cap;

	must(firn_segment_make("large", 2 << 20, &seg));
	cap = must(firn_freeze(seg.id, NULL, &frozen));
	must(firn_map(cap, FIRN_MAP_RO, 0, &seg));
	gpa = seg.gpa;
	must(firn_unmap(seg.id));
	must(firn_segment_make("small", 4096, &seg));
	store(seg.va);
	if (seg.gpa == gpa)
		store(seg.va + 8192);
}

/* A page in each GiB: two page tables for one page. */
static void do_scattered(const char *arg)
{
	for (uint64_t va = 1ULL << 32; va < FIRN_WINDOW / 2; va += 1 << 30) {
		char *p = mmap((void *)(uintptr_t)va, 4096,
		    PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		*(volatile char *)p = 1;
	}
}

static void do_abort(const char *arg)
{
	abort();
}

static void do_guard(const char *arg)
{
	char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	p[4096] = 1;
	mprotect(p + 4096, 4096, PROT_NONE);
	((volatile char *)p)[4096] = 2;
}

static void do_freed(const char *arg)
{
	char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	p[0] = 1;
	munmap(p, 8192);
	((volatile char *)p)[0] = 2;
}

static void do_readonly(const char *arg)
{
	char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	p[0] = 1;
	mprotect(p, 4096, PROT_READ);
	((volatile char *)p)[0] = 2;
}

static void do_ro(const char *arg)
{
	struct firn_segment seg;
	int cap = firn_lookup(arg ? arg : "");

	must(cap < 0 ? cap : firn_map(cap, FIRN_MAP_RO, 0, &seg));
	(void)*(volatile char *)(uintptr_t)seg.va;
	*(volatile char *)(uintptr_t)seg.va = 1;
}

static const struct {
	const char *name;
	void (*fn)(const char *arg);
} kinds[] = {
    {"null", do_null},
    {"wild", do_wild},
    {"read", do_read},
    {"noncanonical", do_noncanonical},
    {"window", do_window},
    {"ram-window", do_ram_window},
    {"kernel", do_kernel},
    {"write-text", do_text},
    {"exec-data", do_exec},
    {"call-null", do_call_null},
    {"stack-overflow", do_stack},
    {"div0", do_div0},
    {"ud2", do_ud2},
    {"int3", do_int3},
    {"hlt", do_hlt},
    {"port", do_port},
    {"trap-port", do_trap_port},
    {"port-read", do_port_read},
    {"ldt", do_ldt},
    {"code32", do_code32},
    {"beyond", do_beyond},
    {"beyond-again", do_beyond_again},
    {"scattered", do_scattered},
    {"abort", do_abort},
    {"guard", do_guard},
    {"freed", do_freed},
    {"readonly", do_readonly},
    {"ro", do_ro},
};

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (argc > 1 && strcmp(argv[1], kinds[i].name) == 0) {
			kinds[i].fn(argv[2]);
			fprintf(stderr, "fault: %s did no harm\n", argv[1]);
			return 1;
		}
	fprintf(stderr, "usage: fault KIND, one of");
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		fprintf(stderr, " %s", kinds[i].name);
	fprintf(stderr, "\n");
	return 2;
}
