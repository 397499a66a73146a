/* SPDX-License-Identifier: MIT */
/*
 * What a freeze costs on the monitor's side: the first one of a populated 1 GiB
 * in 2 MiB pages, beside fork(2) and a copy; later ones beside a dense
 * pwritev(2) of the same pages. A real guest writes, before and, for the first
 * freeze, meanwhile.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "tests/bench/bench.h"
#include "tests/unit/kvmplaces.h"

#define GPA    0x40000000u
#define LEN    (1ULL << 30)
#define NPAGES (LEN / PAGE_SIZE)
#define RUNS   7
#define IOVS   1024

struct rig {
	struct kvmplaces k;
	struct place *p;
	unsigned char *hva;
	unsigned seed;
	bool stop;
};

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void guest_writes(
    struct rig *g, const struct kvmguest_write *w, uint32_t n)
{
	if (kvmplaces_do(&g->k, w, n) < 0)
		fail("guest");
}

static void populate(struct rig *g, bool small)
{
	static struct kvmguest_write w[512];
	struct place_info info;
	struct err e = {0};

	if (place_make(g->k.ps, "bench", GPA, LEN, &g->p, &e) < 0)
		fail(e.msg);
	place_info(g->p, &info);
	g->hva = info.hva;
	for (uint64_t i = 0; i < NPAGES && !small; i += LEAF_NPAGES)
		place_back_chunk(g->p, i);
	memset(g->hva, 1, LEN);
	for (uint32_t i = 0; i < 512; i++)
		w[i] = (struct kvmguest_write){GPA + (i << 21), i};
	guest_writes(g, w, 512);
}

static void start(struct rig *g, bool small)
{
	memset(g, 0, sizeof(*g));
	g->seed = 1;
	if (kvmplaces_open(&g->k) < 0)
		exit(1);
	populate(g, small);
}

static void *write_on(void *arg)
{
	struct rig *g = arg;
	struct kvmguest_write w[16];

	while (!__atomic_load_n(&g->stop, __ATOMIC_RELAXED)) {
		for (int i = 0; i < 16; i++)
			w[i].gpa =
			    GPA + (uint32_t)rand_r(&g->seed) % NPAGES * 4096;
		guest_writes(g, w, 16);
	}
	return NULL;
}

static void first_freeze(bool small, double *pause_us, double *total_us)
{
	struct place_frozen f;
	struct err e = {0};
	struct rig g;
	pthread_t t;

	start(&g, small);
	if (pthread_create(&t, NULL, write_on, &g) != 0)
		fail("thread");
	(void)usleep(20000);
	if (place_freeze(g.k.ps, g.p, &f, &e) < 0)
		fail(e.msg);
	__atomic_store_n(&g.stop, true, __ATOMIC_RELAXED);
	(void)pthread_join(t, NULL);
	*pause_us = (double)f.pause_ns / 1e3;
	*total_us = (double)f.total_ns / 1e3;
	kvmplaces_close(&g.k);
}

static double fork_us(int advice)
{
	unsigned char *m = mmap(NULL, LEN + LEAF_SIZE, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t t0;
	double us;
	pid_t pid;

	if (m == MAP_FAILED)
		fail("mmap");
	(void)madvise(m, LEN + LEAF_SIZE, advice);
	memset(m, 1, LEN + LEAF_SIZE);
	t0 = bench_now_ns();
	pid = fork();
	if (pid == 0)
		_exit(0);
	us = (double)(bench_now_ns() - t0) / 1e3;
	(void)waitpid(pid, NULL, 0);
	(void)munmap(m, LEN + LEAF_SIZE);
	return us;
}

static double copy_us(void)
{
	unsigned char *m = mmap(NULL, LEN, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = memfd_create("copy", MFD_CLOEXEC);
	unsigned char *d;
	uint64_t t0;
	double us;

	if (m == MAP_FAILED)
		fail("mmap");
	memset(m, 1, LEN);
	t0 = bench_now_ns();
	if (ftruncate(fd, LEN) < 0)
		fail("ftruncate");
	d = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (d == MAP_FAILED)
		fail("mmap");
	memcpy(d, m, LEN);
	us = (double)(bench_now_ns() - t0) / 1e3;
	(void)munmap(d, LEN);
	(void)munmap(m, LEN);
	(void)close(fd);
	return us;
}

static void bench_first(void)
{
	double pause[RUNS], total[RUNS], f4k[RUNS], thp[RUNS], copy[3];
	double ours;

	for (int i = 0; i < RUNS; i++) {
		first_freeze(false, &pause[i], &total[i]);
		f4k[i] = fork_us(MADV_NOHUGEPAGE);
		thp[i] = fork_us(MADV_HUGEPAGE);
	}
	for (int i = 0; i < 3; i++)
		copy[i] = copy_us();
	ours = bench_median(pause, RUNS);
	bench_line("first freeze 1 GiB: pause | fork, 4 KiB", "us", ours,
	    bench_median(f4k, RUNS));
	bench_line("first freeze 1 GiB: pause | fork, 2 MiB", "us", ours,
	    bench_median(thp, RUNS));
	bench_line("first freeze 1 GiB: pause | copy to a memfd", "us", ours,
	    bench_median(copy, 3));
	bench_value(
	    "first freeze 1 GiB: in all", "us", bench_median(total, RUNS));
}

/* A segment that was written before its chunks could be backed by 2 MiB pages:
 * the freeze backs them so before its pause, while the guest runs. */
static void bench_small(void)
{
	double pause[RUNS], total[RUNS];

	for (int i = 0; i < RUNS; i++)
		first_freeze(true, &pause[i], &total[i]);
	bench_value("of 4 KiB pages, collapsed before: pause", "us",
	    bench_median(pause, RUNS));
	bench_value("of 4 KiB pages, collapsed before: in all", "us",
	    bench_median(total, RUNS));
}

/* The pages (page) of the place, densely into a fresh memfd. */
static double pwritev_us(struct rig *g, const uint32_t *page, uint32_t n)
{
	struct iovec iov[IOVS];
	uint64_t t0 = bench_now_ns();
	int fd = memfd_create("dense", MFD_CLOEXEC);
	double us;

	for (uint32_t i = 0; i < n;) {
		uint32_t k = 0;
		uint32_t at = i;

		for (; k < IOVS && i < n; k++, i++)
			iov[k] = (struct iovec){
			    g->hva + page[i] * PAGE_SIZE, PAGE_SIZE};
		if (pwritev(fd, iov, (int)k, (off_t)(at * PAGE_SIZE)) < 0)
			fail("pwritev");
	}
	us = (double)(bench_now_ns() - t0) / 1e3;
	(void)close(fd);
	return us;
}

static int by_page(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a;
	uint32_t y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void later_freeze(struct rig *g, uint32_t n, bool scattered,
    double *pause, double *total, double *base)
{
	static struct kvmguest_write w[16384];
	static uint32_t page[16384];
	struct place_frozen f;
	struct err e = {0};

	for (uint32_t i = 0; i < n; i++) {
		page[i] = scattered ? (uint32_t)rand_r(&g->seed) % NPAGES
				    : 100000 + i;
		w[i] = (struct kvmguest_write){GPA + page[i] * 4096, i + 1};
	}
	qsort(page, n, sizeof(page[0]), by_page);
	guest_writes(g, w, n);
	*base = pwritev_us(g, page, n);
	if (place_freeze(g->k.ps, g->p, &f, &e) < 0)
		fail(e.msg);
	place_frozen_done(g->p, f.nsteps);
	*pause = (double)f.pause_ns / 1e3;
	*total = (double)f.total_ns / 1e3;
}

static void bench_later(struct rig *g, uint32_t n, bool scattered)
{
	double pause[RUNS], total[RUNS], base[RUNS];
	char name[64];

	for (int i = 0; i < RUNS; i++)
		later_freeze(g, n, scattered, &pause[i], &total[i], &base[i]);
	(void)snprintf(name, sizeof(name), "freeze of %u %s pages | pwritev", n,
	    scattered ? "scattered" : "contiguous");
	bench_line(
	    name, "us", bench_median(total, RUNS), bench_median(base, RUNS));
	(void)snprintf(name, sizeof(name), "  its pause");
	bench_value(name, "us", bench_median(pause, RUNS));
}

int main(void)
{
	static const uint32_t n[] = {16, 1000, 16000};
	struct place_frozen f;
	struct err e = {0};
	struct rig g;

	bench_head("freeze, the monitor's side");
	bench_first();
	bench_small();
	start(&g, false);
	/* The second freeze is the one that turns the dirty log on. */
	for (int i = 0; i < 2; i++) {
		if (place_freeze(g.k.ps, g.p, &f, &e) < 0)
			fail(e.msg);
		place_frozen_done(g.p, f.nsteps);
	}
	for (int s = 1; s >= 0; s--)
		for (size_t i = 0; i < sizeof(n) / sizeof(n[0]); i++)
			bench_later(&g, n[i], s != 0);
	kvmplaces_close(&g.k);
	return 0;
}
