/* SPDX-License-Identifier: MIT */
/* musl: yes */
/*
 * alloc [ROUNDS [SEED]]: malloc, free, realloc, mmap, munmap, mprotect and
 * madvise at random; every block is filled with its own pattern, which must
 * still be there when it is let go, and fresh memory must read zero. Last, a
 * page comes and goes, touched by one instruction and mostly at one address.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define NBLOCKS 128
#define PAGE    4096u
#define VISITS  1000u

enum kind { NONE, HEAP, MAPPED };

struct block {
	enum kind kind;
	unsigned char *p;
	size_t len;
	uint64_t tag;
};

static uint64_t next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static size_t pick_len(uint64_t *s)
{
	switch (next(s) % 8) {
	case 0:
		return 1 + next(s) % (6u << 20);
	case 1:
	case 2:
		return 1 + next(s) % (300u << 10);
	default:
		return 1 + next(s) % 5000;
	}
}

/* One word in each 512 bytes, and the last byte. */
static void fill(const struct block *b)
{
	for (size_t i = 0; i + 8 <= b->len; i += 512) {
		uint64_t v = b->tag + i;

		memcpy(b->p + i, &v, sizeof(v));
	}
	b->p[b->len - 1] = (unsigned char)b->tag;
}

static int check(const struct block *b)
{
	for (size_t i = 0; i + 8 <= b->len; i += 512) {
		uint64_t v;

		memcpy(&v, b->p + i, sizeof(v));
		if (i + 8 <= b->len - 1 && v != b->tag + i)
			return -1;
	}
	return b->p[b->len - 1] == (unsigned char)b->tag ? 0 : -1;
}

static int is_zero(const unsigned char *p, size_t len)
{
	for (size_t i = 0; i < len; i += 61)
		if (p[i])
			return 0;
	return 1;
}

static int make(struct block *b, uint64_t *s)
{
	b->len = pick_len(s);
	b->tag = next(s);
	b->kind = next(s) % 3 ? HEAP : MAPPED;
	if (b->kind == HEAP) {
		b->p = malloc(b->len);
		if (!b->p)
			return -1;
	} else {
		b->p = mmap(NULL, b->len, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (b->p == MAP_FAILED || !is_zero(b->p, b->len))
			return -1;
	}
	fill(b);
	return 0;
}

static int release(struct block *b)
{
	int r = check(b);

	if (b->kind == HEAP)
		free(b->p);
	else
		r |= munmap(b->p, b->len);
	b->kind = NONE;
	return r;
}

static int change_heap(struct block *b, uint64_t *s)
{
	size_t len = pick_len(s);
	unsigned char *p;

	if (check(b) < 0)
		return -1;
	p = realloc(b->p, len);
	if (!p)
		return -1;
	b->p = p;
	b->len = len;
	fill(b);
	return 0;
}

static int change_mapped(struct block *b, uint64_t *s)
{
	if (mprotect(b->p, b->len, PROT_READ) < 0 || check(b) < 0)
		return -1;
	if (mprotect(b->p, b->len, PROT_READ | PROT_WRITE) < 0)
		return -1;
	if (next(s) % 2) {
		if (madvise(b->p, b->len, MADV_DONTNEED) < 0 ||
		    !is_zero(b->p, b->len))
			return -1;
		fill(b);
	} else if (b->len > 2 * PAGE) {
		/* Keep all but the last page. */
		size_t keep = (b->len - 1) / PAGE * PAGE;

		if (munmap(b->p + keep, b->len - keep) < 0)
			return -1;
		b->len = keep;
		fill(b);
	}
	return check(b);
}

static int visit(void)
{
	for (unsigned i = 0; i < VISITS; i++) {
		unsigned char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			return -1;
		*(volatile unsigned char *)p = 1;
		if (munmap(p, PAGE) < 0)
			return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	static struct block block[NBLOCKS];
	unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 4000;
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 88172645463325;
	uint64_t s = seed ? seed : 1;

	for (unsigned i = 0; i < rounds; i++) {
		struct block *b = &block[next(&s) % NBLOCKS];
		int r;

		if (b->kind == NONE)
			r = make(b, &s);
		else if (next(&s) % 3)
			r = release(b);
		else if (b->kind == HEAP)
			r = change_heap(b, &s);
		else
			r = change_mapped(b, &s);
		if (r < 0) {
			fprintf(stderr, "alloc: wrong at round %u, seed %llu\n",
			    i, (unsigned long long)seed);
			return 1;
		}
	}
	for (unsigned i = 0; i < NBLOCKS; i++)
		if (block[i].kind != NONE && release(&block[i]) < 0)
			return 1;
	if (visit() < 0)
		return 1;
	printf("alloc: %u rounds right\n", rounds);
	return 0;
}
