/* SPDX-License-Identifier: MIT */
/*
 * place_bench: the places of a guest that writes what a test says, and calls
 * below them that fail on demand.
 */
#ifndef TESTS_UNIT_PLACE_BENCH_H
#define TESTS_UNIT_PLACE_BENCH_H

#include "tests/unit/unit.h"

#include <stdbool.h>
#include <string.h>

#include "tests/unit/kvmplaces.h"
#include "tests/unit/own.h"

#define SEALS  (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define GPA    0x10000000u
#define NPAGES 2100u /* four whole chunks and a part of one */
#define TIMES  64    /* no operation makes as many calls of one kind */

enum seam {
	MEMFD,
	MMAP,
	FCNTL,
	TRUNCATE,
	ALLOCATE,
	PWRITEV,
	CALLOC,
	MALLOC,
	ADD,
	LOG,
	GETLOG,
	SCAN,
	NSEAMS
};

extern int fail_in[NSEAMS]; /* the nth call from now fails; 0: none */
extern int fail_errno;      /* with this */
/* From the nth mmap() in place from now on none succeeds, and what was there is
 * gone; 0: none. */
extern int lose_in;
/* From the nth mmap() over something from now on none succeeds, as where there
 * are as many mappings as there may be; 0: none. */
extern int full_in;
extern size_t write_most; /* bytes that pwritev() writes at once */
extern bool no_fill;      /* fallocate() succeeds and allocates nothing */

int __real_memfd_create(const char *name, unsigned flags);
int __real_fcntl(int fd, int cmd, ...);
int __real_ftruncate(int fd, off_t n);

int setup(void **state);
int teardown(void **state);

/* This process's mappings of segments and layers. */
static inline int count_maps(void)
{
	return count_maps_of("memfd:firn");
}

/* The segment "seg", of NPAGES from GPA on. */
struct place *make(struct kvmplaces *g);
/* The guest writes (value) to the begin of a page of it. */
void put(struct kvmplaces *g, uint32_t page, uint32_t value);
/* What a page of (p) begins with. */
uint32_t at(struct place *p, uint32_t page);
void freeze(struct kvmplaces *g, struct place *p, struct place_frozen *f);
/* The same file, read-only. */
int reopen(int fd);
/* Place "view" of NPAGES, of one layer; place_open()'s status. */
int open_view(struct kvmplaces *g, enum place_kind kind,
    const struct page_run *r, size_t n, int fd, struct place **p);
/* Neither the new mapping nor the old one was to be had: (r) and (e) say so,
 * and the guest stays stopped. */
void expect_lost(struct kvmplaces *g, int r, const struct err *e);

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

#endif /* TESTS_UNIT_PLACE_BENCH_H */
