/* SPDX-License-Identifier: MIT */
/*
 * wild SEED COUNT: so many system calls, Linux's and firn's, with arguments
 * that are anything: addresses of its own and of nothing, names, sizes, numbers
 * at their limits. Ends with 0 if it lives that long.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shared/abi/guestcall.h"

#define PAGE        4096u
#define DATA_NPAGES 64u
#define GOT_MAX     32u /* addresses that calls returned */
#define LINUX_MAX   460u
#define VIEWS_GPA   0x1000000000ULL
#define LARGE_VA    0x600000000000ULL

struct wild {
	uint64_t state;
	uint64_t got[GOT_MAX];
	unsigned ngot;
	unsigned char *data; /* of DATA_NPAGES, which begin with names */
};

static uint64_t any(struct wild *w)
{
	w->state ^= w->state << 13;
	w->state ^= w->state >> 7;
	w->state ^= w->state << 17;
	return w->state;
}

/* An address that a call might take, page-aligned. */
static uint64_t any_page(struct wild *w)
{
	switch (any(w) % 4) {
	case 0:
		return FIRN_WINDOW + VIEWS_GPA + any(w) % 4096 * PAGE;
	case 1:
		return LARGE_VA + any(w) % 16384 * PAGE;
	case 2:
		if (w->ngot > 0)
			return w->got[any(w) % w->ngot] + any(w) % 64 * PAGE;
		/* fall through */
	default:
		return (uint64_t)(uintptr_t)w->data +
		       any(w) % DATA_NPAGES * PAGE;
	}
}

static uint64_t any_arg(struct wild *w)
{
	switch (any(w) % 10) {
	case 0:
		return any(w);
	case 1:
		return 0 - any(w) % PAGE;
	case 2:
		return 1ULL << any(w) % 64;
	case 3:
		return (1ULL << any(w) % 64) - 1;
	case 4:
		return any(w) % 1024 * PAGE;
	case 5:
	case 6:
		return any(w) % 8;
	case 7:
		return any_page(w) + any(w) % PAGE;
	default:
		return any_page(w);
	}
}

/* What ends the program, or waits. */
static int is_dull(uint64_t nr)
{
	static const uint16_t dull[] = {SYS_exit, SYS_exit_group, SYS_kill,
	    SYS_tkill, SYS_tgkill, SYS_poll, SYS_futex, SYS_nanosleep,
	    SYS_pause, SYS_rt_sigsuspend, SYS_clock_nanosleep, SYS_arch_prctl,
	    SYS_brk};

	for (size_t i = 0; i < sizeof(dull) / sizeof(dull[0]); i++)
		if (nr == dull[i])
			return 1;
	return 0;
}

static uint64_t any_number(struct wild *w)
{
	static const uint16_t often[] = {SYS_read, SYS_write, SYS_open,
	    SYS_fstat, SYS_lseek, SYS_pread64, SYS_readv, SYS_writev,
	    SYS_newfstatat, SYS_mmap, SYS_mmap, SYS_munmap, SYS_mprotect,
	    SYS_mremap, SYS_madvise};

	switch (any(w) % 8) {
	case 0:
		return any(w) % LINUX_MAX;
	case 1:
	case 2:
	case 3:
		return FIRN_NR_BASE + any(w) % (FIRN_NR_END - FIRN_NR_BASE);
	default:
		return often[any(w) % (sizeof(often) / sizeof(often[0]))];
	}
}

/* Calls that change its memory leave the program itself alone, as all the rest
 * would be for nothing. */
static void spare(struct wild *w, uint64_t nr, uint64_t *a)
{
	if (nr != SYS_mmap && nr != SYS_munmap && nr != SYS_mprotect &&
	    nr != SYS_mremap && nr != SYS_madvise)
		return;
	do
		a[0] = any_page(w);
	while (a[0] < FIRN_WINDOW);
	if (nr == SYS_mmap && any(w) % 2)
		a[3] = 0x22 | (any(w) % 4 ? 0 : 0x10); /* anonymous, fixed */
}

static uint64_t any_name(struct wild *w)
{
	return (uint64_t)(uintptr_t)w->data + any(w) % DATA_NPAGES * PAGE;
}

/* What firn's calls begin with: numbers and names that there are. */
static void aim(struct wild *w, uint64_t nr, uint64_t *a)
{
	if (nr < FIRN_NR_BASE || any(w) % 4 == 0)
		return;
	a[0] = any(w) % 2 ? any(w) % 8 : any_name(w);
	a[1] = any(w) % 2 ? any(w) % 64 * PAGE : any_name(w);
	a[2] = any(w) % 2 ? 0 : any_name(w);
}

static void do_call(struct wild *w)
{
	uint64_t nr = any_number(w);
	uint64_t a[6];
	long got;

	for (unsigned i = 0; i < 6; i++)
		a[i] = any_arg(w);
	if (is_dull(nr))
		return;
	spare(w, nr, a);
	aim(w, nr, a);
	got = syscall((long)nr, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (nr == SYS_mmap && got != -1)
		w->got[w->ngot++ % GOT_MAX] = (uint64_t)got;
	if (w->ngot > GOT_MAX)
		w->ngot = GOT_MAX;
}

/* What calls may find in memory. */
static void fill(struct wild *w)
{
	static const char *const names[] = {"data", "t", "a", "/snap/a"};

	for (size_t i = 0; i < DATA_NPAGES * PAGE; i += sizeof(uint64_t)) {
		uint64_t v = any_arg(w);

		memcpy(w->data + i, &v, sizeof(v));
	}
	for (size_t i = 0; i < DATA_NPAGES; i++)
		strcpy((char *)w->data + i * PAGE, names[i % 4]);
}

int main(int argc, char **argv)
{
	static unsigned char data[DATA_NPAGES * PAGE]
	    __attribute__((aligned(PAGE)));
	struct wild w = {.data = data};
	long count;

	if (argc != 3)
		return 2;
	w.state = strtoull(argv[1], NULL, 0) * 0x9e3779b97f4a7c15ULL + 1;
	count = atol(argv[2]);
	fill(&w);
	while (count-- > 0)
		do_call(&w);
	_exit(0);
}
