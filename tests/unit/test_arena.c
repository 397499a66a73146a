/* SPDX-License-Identifier: MIT */
/* wrap: mmap munmap */
/* Blocks: whose they are, when slabs come and go, no memory for one. */
#include "vmm/map/arena.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/chance.h"
#include "tests/unit/unit.h"

#define BLOCK 40u

void *__real_mmap(
    void *at, size_t len, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(
    void *at, size_t len, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t len);
int __wrap_munmap(void *at, size_t len);

static bool no_memory;
static size_t mapped; /* bytes */

void *__wrap_mmap(
    void *at, size_t len, int prot, int flags, int fd, off_t offset)
{
	if (no_memory) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	mapped += len;
	return __real_mmap(at, len, prot, flags, fd, offset);
}

int __wrap_munmap(void *at, size_t len)
{
	mapped -= len;
	return __real_munmap(at, len);
}

struct fix {
	struct arena a;
	unsigned char **p;
	size_t n;
};

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	mapped = 0;
	no_memory = false;
	arena_init(&f->a, BLOCK);
	f->p = calloc(4 * (size_t)f->a.per_slab, sizeof(*f->p));
	assert_non_null(f->p);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	arena_fini(&f->a);
	assert_int_equal(mapped, 0);
	assert_int_equal(f->a.nslabs, 0);
	free(f->p);
	free(f);
	return 0;
}

/* (n) blocks more, each filled. */
static void take(struct fix *f, size_t n)
{
	for (; n > 0; n--) {
		unsigned char *p = arena_alloc(&f->a);

		assert_non_null(p);
		assert_int_equal((uintptr_t)p % 8, 0);
		memset(p, (int)(f->n % 251), BLOCK);
		f->p[f->n++] = p;
	}
}

/* Those from (first) on, (n) of them. */
static void give(struct fix *f, size_t first, size_t n)
{
	for (size_t i = first; i < first + n; i++)
		arena_free(&f->a, f->p[i]);
}

static void check_bytes(const struct fix *f)
{
	for (size_t i = 0; i < f->n; i++)
		for (size_t k = 0; k < BLOCK; k++)
			assert_int_equal(f->p[i][k], i % 251);
}

static void slabs(const struct fix *f, size_t n)
{
	assert_int_equal(f->a.nslabs, n);
	assert_int_equal(mapped, n * ARENA_SLAB);
}

static void blocks_are_ones_own(void **state)
{
	struct fix *f = *state;

	slabs(f, 0);
	take(f, 2 * (size_t)f->a.per_slab + 1);
	check_bytes(f);
	slabs(f, 3);
	/* Little of a slab is anything else. */
	assert_true(f->a.per_slab * BLOCK > ARENA_SLAB - ARENA_SLAB / 64);
}

static void the_first_free_one_is_taken(void **state)
{
	struct fix *f = *state;

	take(f, 200);
	for (size_t i = 1; i < 200; i++)
		assert_ptr_equal(f->p[i], f->p[i - 1] + BLOCK);
	give(f, 100, 1);
	give(f, 7, 1);
	give(f, 150, 1);
	assert_ptr_equal(arena_alloc(&f->a), f->p[7]);
	assert_ptr_equal(arena_alloc(&f->a), f->p[100]);
	assert_ptr_equal(arena_alloc(&f->a), f->p[150]);
	assert_ptr_equal(arena_alloc(&f->a), f->p[199] + BLOCK);
}

/* What comes and goes at a slab's end maps and unmaps nothing. */
static void one_empty_slab_is_kept(void **state)
{
	struct fix *f = *state;
	size_t per = f->a.per_slab;

	take(f, per + 1);
	slabs(f, 2);
	give(f, per, 1);
	slabs(f, 2);
	f->n--;
	take(f, 1);
	slabs(f, 2);
	give(f, per, 1);
	/* But not once the first has room for much. */
	give(f, 0, per / 8 - 1);
	slabs(f, 2);
	give(f, per / 8 - 1, 1);
	slabs(f, 1);
}

static void empty_slabs_go(void **state)
{
	struct fix *f = *state;
	size_t per = f->a.per_slab;

	take(f, 4 * per);
	slabs(f, 4);
	give(f, per, 3 * per);
	slabs(f, 2); /* the first is full: one of the others waits */
	give(f, 0, per - 1);
	slabs(f, 1);
	give(f, per - 1, 1);
	slabs(f, 1); /* of small pages, what was touched of it */
}

/* The last one goes if it is a huge page: in the order of taking. */
static void no_huge_page_for_nothing(void **state)
{
	struct fix *f = *state;
	size_t per = f->a.per_slab;

	take(f, 2 * per);
	give(f, 0, 2 * per);
	slabs(f, 0);
	f->n = 0;
	take(f, 1);
	slabs(f, 1);
}

static void no_memory_for_a_slab(void **state)
{
	struct fix *f = *state;

	no_memory = true;
	assert_null(arena_alloc(&f->a));
	slabs(f, 0);
	no_memory = false;
	take(f, f->a.per_slab);
	no_memory = true;
	assert_null(arena_alloc(&f->a));
	assert_null(arena_alloc(&f->a));
	slabs(f, 1);
	check_bytes(f);
	no_memory = false;
	take(f, 1);
	slabs(f, 2);
}

/* Random order; the rest is as it was written, and at the end nothing is left.
 */
static void at_random(void **state)
{
	struct fix *f = *state;
	size_t max = 4 * (size_t)f->a.per_slab;
	unsigned char *owner = calloc(max, 1);
	uint64_t x = 88172645463325252ULL;
	size_t alive = 0;

	assert_non_null(owner);
	for (size_t i = 0; i < 4 * max; i++) {
		size_t k = chance(&x, max);

		if (owner[k] != 0) {
			assert_int_equal(f->p[k][0], owner[k]);
			assert_int_equal(f->p[k][BLOCK - 1], owner[k]);
			arena_free(&f->a, f->p[k]);
			owner[k] = 0;
			alive--;
			continue;
		}
		f->p[k] = arena_alloc(&f->a);
		assert_non_null(f->p[k]);
		owner[k] = (unsigned char)(1 + i % 251);
		memset(f->p[k], owner[k], BLOCK);
		alive++;
	}
	assert_true(alive > 0);
	for (size_t k = 0; k < max; k++)
		if (owner[k] != 0)
			arena_free(&f->a, f->p[k]);
	assert_true(f->a.nslabs <= 1);
	free(owner);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(
		blocks_are_ones_own, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		the_first_free_one_is_taken, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		one_empty_slab_is_kept, setup, teardown),
	    cmocka_unit_test_setup_teardown(empty_slabs_go, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		no_huge_page_for_nothing, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		no_memory_for_a_slab, setup, teardown),
	    cmocka_unit_test_setup_teardown(at_random, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
