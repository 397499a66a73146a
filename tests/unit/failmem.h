/* SPDX-License-Identifier: MIT */
/* Allocations that fail as a test says; the test's file has a line "wrap:
 * malloc calloc realloc" for the build. */
#ifndef TESTS_UNIT_FAILMEM_H
#define TESTS_UNIT_FAILMEM_H

#include <stdbool.h>
#include <stddef.h>

static long fail_at = -1; /* calls until one fails; negative: none does */
static bool fail_on;      /* and all after that one do */

/* Whether this call is to fail. */
static bool fails(void)
{
	if (fail_at == 0 && fail_on)
		return true;
	return fail_at >= 0 && fail_at-- == 0;
}

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);

void *__wrap_malloc(size_t n)
{
	return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
	return fails() ? NULL : __real_realloc(p, n);
}

#endif /* TESTS_UNIT_FAILMEM_H */
