/* SPDX-License-Identifier: MIT */
/*
 * code SEED: executes what is hardly code, with registers that are anything:
 * instructions that a program may not execute, or seldom does, and random bytes
 * between them. Ends by a fault, if it does not come to call exit or to loop.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "guest/lib/firn_guest.h"

#define PAGE      4096u
#define RUN_LEN   (2 * PAGE) /* of memory that is alike; nothing is behind it */
#define NREGS     16u        /* all but rip; in the hardware's order */
#define FLAGS     0x3f7ed7u  /* but TF, with which it would not get far */
#define RSP_INDEX 4u

enum { DATA, OTHER_DATA, CODE, CONSTANT, NOTHING, SEGMENT, NRUNS };

static const int prot_of[SEGMENT] = {PROT_READ | PROT_WRITE,
    PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC, PROT_READ, PROT_NONE};

struct code {
	uint64_t state;
	uint64_t run[NRUNS]; /* where they are */
};

/* What instructions are made of, the first byte their length. */
static const unsigned char ops[][7] = {
    /* calls, returns and jumps, far ones too; the I/O ports */
    {2, 0x0f, 0x05}, {2, 0x0f, 0x07}, {2, 0x0f, 0x34}, {2, 0x0f, 0x35},
    {2, 0xcd, 0x80}, {2, 0xcd, 0x04}, {2, 0xcd, 0x0e}, {1, 0xf1}, {1, 0xc3},
    {1, 0xcb}, {2, 0x48, 0xcf}, {2, 0xff, 0x28}, {2, 0xff, 0x1b},
    {2, 0xff, 0xe0}, {2, 0xff, 0xd1}, {2, 0xe6, 0x10}, {2, 0xe4, 0x10},
    {2, 0xe6, 0x2e}, {2, 0xf3, 0x6e}, {1, 0x6c}, {1, 0xee}, {1, 0xec},
    /* flags, the stack, selectors, bases */
    {1, 0x9d}, {1, 0x9c}, {1, 0xfd}, {1, 0xfb}, {1, 0x5c}, {1, 0x54},
    {4, 0xc8, 0x10, 0x00, 0x03}, {1, 0xc9}, {2, 0x8e, 0xd8}, {2, 0x8e, 0xd1},
    {2, 0x8e, 0xe3}, {2, 0x0f, 0xa9}, {5, 0xf3, 0x48, 0x0f, 0xae, 0xd0},
    {5, 0xf3, 0x48, 0x0f, 0xae, 0xd9}, {3, 0x0f, 0x01, 0xf8},
    {3, 0x0f, 0x00, 0xd0}, {3, 0x0f, 0x00, 0xd8}, {3, 0x0f, 0x00, 0xc8},
    /* what is the kernel's or the hypervisor's */
    {1, 0xf4}, {2, 0x0f, 0x30}, {2, 0x0f, 0x32}, {2, 0x0f, 0x33},
    {2, 0x0f, 0xa2}, {3, 0x0f, 0x22, 0xd8}, {3, 0x0f, 0x23, 0xf8},
    {3, 0x0f, 0x01, 0x10}, {3, 0x0f, 0x01, 0x03}, {3, 0x0f, 0x01, 0xc1},
    {3, 0x0f, 0x01, 0xd9}, {3, 0x0f, 0x01, 0xd1}, {3, 0x0f, 0x01, 0xc8},
    {2, 0x0f, 0x0b},
    /* the state of the FPU; vectors */
    {3, 0x0f, 0xae, 0x28}, {3, 0x0f, 0xae, 0x23}, {3, 0x0f, 0xae, 0x0e},
    {3, 0x0f, 0xae, 0x17}, {2, 0xdd, 0x27}, {2, 0xd9, 0x2e}, {1, 0x9b},
    {4, 0xc5, 0xfc, 0x28, 0x00}, {4, 0xc5, 0xfc, 0x11, 0x07},
    {6, 0x62, 0xf1, 0x7c, 0x48, 0x11, 0x06}, {3, 0x0f, 0x29, 0x06},
    /* memory */
    {2, 0xf3, 0xaa}, {3, 0xf3, 0x48, 0xa5}, {2, 0xf3, 0xa6}, {1, 0xd7},
    {4, 0x48, 0x0f, 0xc7, 0x0e}, {3, 0x48, 0x87, 0x06}, {2, 0xff, 0x36},
    {2, 0x8f, 0x07}, {3, 0x48, 0xf7, 0xf1}};

static uint64_t any(struct code *c)
{
	c->state ^= c->state << 13;
	c->state ^= c->state >> 7;
	c->state ^= c->state << 17;
	return c->state;
}

/* What may be a register, or lie on the stack. */
static uint64_t any_word(struct code *c)
{
	static const uint64_t odd[] = {0, 0x8000000000000000, 0x7ffffffff000,
	    0xffffffff80001000, 0xffffffff80005000, 0xffffffff80008ff8, 0x10,
	    0x23, 0x2b, 0x33, 0x40, 0x7, 0xc0000102, 0x47702};

	switch (any(c) % 8) {
	case 0:
		return any(c);
	case 1:
		return odd[any(c) % (sizeof(odd) / sizeof(odd[0]))];
	case 2:
		return any(c) % 512;
	case 3:
		return c->run[any(c) % NRUNS] + RUN_LEN - any(c) % 64;
	default:
		return c->run[any(c) % NRUNS] + any(c) % 256 * 16;
	}
}

static void fill_code(struct code *c, unsigned char *to)
{
	unsigned i = 0;

	while (i < RUN_LEN) {
		const unsigned char *op =
		    ops[any(c) % (sizeof(ops) / sizeof(ops[0]))];

		if (any(c) % 3 == 0 || op[0] > RUN_LEN - i) {
			to[i++] = (unsigned char)any(c);
			continue;
		}
		memcpy(to + i, op + 1, op[0]);
		i += op[0];
	}
	/* A breakpoint hangs the machine of images/npt. */
	for (i = 0; i < RUN_LEN; i++)
		if (to[i] == 0xcc || (i > 0 && to[i - 1] == 0xcd && to[i] == 3))
			to[i] = 0xf1;
}

static void fill_data(struct code *c, unsigned char *to)
{
	for (unsigned i = 0; i < RUN_LEN; i += sizeof(uint64_t)) {
		uint64_t w = any_word(c);

		memcpy(to + i, &w, sizeof(w));
	}
}

static int make_runs(struct code *c)
{
	struct firn_segment seg;
	unsigned char *p[SEGMENT];

	for (unsigned i = 0; i < SEGMENT; i++) {
		p[i] = mmap(NULL, RUN_LEN + PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p[i] == MAP_FAILED || munmap(p[i] + RUN_LEN, PAGE) < 0)
			return -1;
		c->run[i] = (uint64_t)(uintptr_t)p[i];
	}
	if (firn_segment_make("s", RUN_LEN, &seg) < 0)
		return -1;
	c->run[SEGMENT] = seg.va;
	for (unsigned i = 0; i < SEGMENT; i++) {
		if (i == CODE)
			fill_code(c, p[i]);
		else
			fill_data(c, p[i]);
		if (mprotect(p[i], RUN_LEN, prot_of[i]) < 0)
			return -1;
	}
	return 0;
}

/* Where load_and_jump() goes, which has no register left to keep it in. */
static uint64_t begin_at;

static void __attribute__((noreturn))
load_and_jump(const uint64_t *reg, uint64_t flags)
{
	__asm__ volatile("push %1\n\tpopfq\n\t"
			 "mov 8(%0), %%rcx\n\tmov 16(%0), %%rdx\n\t"
			 "mov 24(%0), %%rbx\n\tmov 32(%0), %%rsp\n\t"
			 "mov 40(%0), %%rbp\n\tmov 48(%0), %%rsi\n\t"
			 "mov 56(%0), %%rdi\n\tmov 64(%0), %%r8\n\t"
			 "mov 72(%0), %%r9\n\tmov 80(%0), %%r10\n\t"
			 "mov 88(%0), %%r11\n\tmov 96(%0), %%r12\n\t"
			 "mov 104(%0), %%r13\n\tmov 112(%0), %%r14\n\t"
			 "mov 120(%0), %%r15\n\tmov 0(%0), %%rax\n\t"
			 "jmp *%2"
			 :
			 : "a"(reg), "d"(flags), "m"(begin_at)
			 : "memory");
	__builtin_unreachable();
}

int main(int argc, char **argv)
{
	static uint64_t reg[NREGS];
	struct code c = {0};

	if (argc != 2)
		return 2;
	c.state = strtoull(argv[1], NULL, 0) * 0x9e3779b97f4a7c15ULL + 1;
	if (make_runs(&c) < 0)
		return 1;
	for (unsigned i = 0; i < NREGS; i++)
		reg[i] = any_word(&c);
	if (any(&c) % 2)
		reg[RSP_INDEX] = c.run[DATA] + PAGE;
	begin_at = c.run[CODE] + any(&c) % RUN_LEN;
	load_and_jump(reg, any(&c) & FLAGS);
}
