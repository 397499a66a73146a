/* SPDX-License-Identifier: MIT */
/*
 * A first freeze of 1 GiB where the kernel has no 2 MiB pages to give: the ways
 * to make it one act, each with what it costs in all, under a guest that has
 * touched every page and goes on writing at random. A way is named by what is
 * done before the pause ("unmapped ahead": the pages leave the page tables in
 * steps, the file keeps them) and under it ("remap": the same file privately in
 * place; "slot swap": it is mapped privately elsewhere beforehand, and the
 * memslot changes over). Beside fork(2) of a process with as many 4 KiB pages.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/bench/bench.h"
#include "tests/unit/kvmplaces.h"

#define GPA    0x40000000u
#define LEN    (1ULL << 30)
#define NPAGES (LEN / PAGE_SIZE)
#define RUNS   7
#define STEP   (4ULL << 20) /* unmapped at a time */

struct rig {
	struct kvmplaces k;
	struct place *p; /* firn's own way; else NULL */
	unsigned char *hva;
	int fd;
	uint32_t slot;
	bool stop;
	uint64_t worst_ns; /* that 16 writes took */
};

struct cost {
	double pause_us, total_us, gap_us;
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

static void touch_all(struct rig *g)
{
	static struct kvmguest_write w[65536];

	for (uint32_t page = 0; page < NPAGES; page += 65536) {
		for (uint32_t i = 0; i < 65536; i++)
			w[i] = (struct kvmguest_write){
			    GPA + (page + i) * 4096, i + 1};
		guest_writes(g, w, 65536);
	}
}

static unsigned char *map(int fd, int flags)
{
	unsigned char *m = mmap(
	    NULL, LEN, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, 0);

	if (m == MAP_FAILED)
		fail("mmap");
	return m;
}

static void add_slot(struct rig *g, unsigned char *hva)
{
	struct gmem_bank b = {.gpa = GPA, .len = LEN, .hva = hva};
	struct err e = {0};
	int slot = gmem_add(&g->k.gmem, &b, &e);

	if (slot < 0)
		fail(e.msg);
	g->slot = (uint32_t)slot;
	g->hva = hva;
}

static void make_place(struct rig *g)
{
	struct place_info info;
	struct err e = {0};

	if (place_make(g->k.ps, "bench", GPA, LEN, &g->p, &e) < 0)
		fail(e.msg);
	place_info(g->p, &info);
	g->hva = info.hva;
}

static void start(struct rig *g, bool firn)
{
	memset(g, 0, sizeof(*g));
	g->fd = -1;
	if (kvmplaces_open(&g->k) < 0)
		exit(1);
	if (firn) {
		make_place(g);
	} else {
		g->fd = memfd_create("bench", MFD_CLOEXEC);
		if (g->fd < 0 || ftruncate(g->fd, LEN) < 0)
			fail("memfd");
		add_slot(g, map(g->fd, MAP_SHARED));
	}
	memset(g->hva, 1, LEN);
	touch_all(g);
}

static void finish(struct rig *g)
{
	if (g->p == NULL) {
		(void)gmem_del(&g->k.gmem, g->slot, NULL);
		(void)munmap(g->hva, LEN);
		(void)close(g->fd);
	}
	kvmplaces_close(&g->k);
}

static void *write_on(void *arg)
{
	struct rig *g = arg;
	struct kvmguest_write w[16];
	unsigned seed = 1;

	while (!__atomic_load_n(&g->stop, __ATOMIC_RELAXED)) {
		uint64_t t = bench_now_ns();

		for (int i = 0; i < 16; i++)
			w[i].gpa =
			    GPA + (uint32_t)rand_r(&seed) % NPAGES * 4096;
		guest_writes(g, w, 16);
		t = bench_now_ns() - t;
		if (t > g->worst_ns)
			g->worst_ns = t;
	}
	return NULL;
}

static void unmap_ahead(struct rig *g)
{
	for (uint64_t at = 0; at < LEN; at += STEP)
		if (madvise(g->hva + at, STEP, MADV_DONTNEED) < 0)
			fail("madvise");
}

static void remap(struct rig *g)
{
	if (mmap(g->hva, LEN, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, g->fd,
		0) == MAP_FAILED)
		fail("mmap");
}

static void slot_swap(struct rig *g, unsigned char *elsewhere)
{
	struct err e = {0};

	if (gmem_del(&g->k.gmem, g->slot, &e) < 0)
		fail(e.msg);
	add_slot(g, elsewhere);
}

/* One of the ways that are not firn's. */
static void freeze_so(struct rig *g, bool ahead, bool swap, struct cost *c)
{
	unsigned char *old = g->hva;
	uint64_t t0 = bench_now_ns();
	unsigned char *elsewhere = swap ? map(g->fd, MAP_PRIVATE) : NULL;
	uint64_t t;

	if (ahead)
		unmap_ahead(g);
	gate_close(&g->k.gate);
	t = bench_now_ns();
	if (swap)
		slot_swap(g, elsewhere);
	else
		remap(g);
	gate_open(&g->k.gate);
	c->pause_us = (double)(bench_now_ns() - t) / 1e3;
	if (swap)
		(void)munmap(old, LEN);
	c->total_us = (double)(bench_now_ns() - t0) / 1e3;
}

static void freeze_firn(struct rig *g, struct cost *c)
{
	struct place_frozen f;
	struct err e = {0};

	if (place_freeze(g->k.ps, g->p, &f, &e) < 0)
		fail(e.msg);
	c->pause_us = (double)f.pause_ns / 1e3;
	c->total_us = (double)f.total_ns / 1e3;
}

static void one(bool firn, bool ahead, bool swap, struct cost *c)
{
	struct rig g;
	pthread_t t;

	start(&g, firn);
	if (pthread_create(&t, NULL, write_on, &g) != 0)
		fail("thread");
	(void)usleep(100000);
	__atomic_store_n(&g.worst_ns, 0, __ATOMIC_RELAXED);
	if (firn)
		freeze_firn(&g, c);
	else
		freeze_so(&g, ahead, swap, c);
	(void)usleep(20000);
	__atomic_store_n(&g.stop, true, __ATOMIC_RELAXED);
	(void)pthread_join(t, NULL);
	c->gap_us = (double)g.worst_ns / 1e3;
	finish(&g);
}

static double fork_us(void)
{
	unsigned char *m = map(-1, MAP_PRIVATE | MAP_ANONYMOUS);
	uint64_t t;
	pid_t pid;

	memset(m, 1, LEN);
	t = bench_now_ns();
	pid = fork();
	if (pid == 0)
		_exit(0);
	t = bench_now_ns() - t;
	(void)waitpid(pid, NULL, 0);
	(void)munmap(m, LEN);
	return (double)t / 1e3;
}

static void way(const char *name, bool firn, bool ahead, bool swap, double base)
{
	struct cost c[RUNS];
	char line[80];

	for (int i = 0; i < RUNS; i++)
		one(firn, ahead, swap, &c[i]);
	(void)snprintf(line, sizeof(line), "%s: pause | fork", name);
	bench_line(line, "us", bench_column(c, RUNS, pause_us), base);
	(void)snprintf(line, sizeof(line), "  longest wait of 16 writes");
	bench_value(line, "us", bench_column(c, RUNS, gap_us));
	(void)snprintf(line, sizeof(line), "  in all");
	bench_value(line, "us", bench_column(c, RUNS, total_us));
}

int main(void)
{
	double f[RUNS];
	double base;

	/* Heeded by MADV_COLLAPSE too. */
	if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) < 0)
		fail("prctl");
	bench_head("first freeze of 1 GiB that stays in 4 KiB pages");
	for (int i = 0; i < RUNS; i++)
		f[i] = fork_us();
	base = bench_median(f, RUNS);
	way("firn's freeze", true, false, false, base);
	way("remap", false, false, false, base);
	way("remap, unmapped ahead", false, true, false, base);
	way("slot swap", false, false, true, base);
	way("slot swap, unmapped ahead", false, true, true, base);
	return 0;
}
