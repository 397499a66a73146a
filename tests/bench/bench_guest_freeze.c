/* SPDX-License-Identifier: MIT */
/*
 * The first freeze of a populated segment under a guest that goes on writing
 * at random, as the monitor times it and as the guest sees it by its time stamp
 * counter; beside fork(2) of a process with the same memory, and a copy of it
 * into a fresh memfd. Then what it costs that guest that its writes are
 * tracked, and what the size alone of a segment costs.
 * Usage: bench_guest_freeze [GIB...], 1 and 4 if none.
 */
#include <sys/mman.h>

#include "tests/bench/bench.h"
#include "tests/chance.h"
#include "tests/rig.h"

#define RUNS 7
#define GIB  (1ULL << 30)

struct seen {
	double pause_us, total_us, gap_us, idle_gap_us, before, after;
};

static void read_second(struct rig_vm *vm, double *writes, double *gap)
{
	char line[160];

	rig_line(vm, line, sizeof(line));
	if (sscanf(line, "%lf writes, worst gap %lf us", writes, gap) != 2)
		rig_fail("the guest said: %s", line);
}

/* A guest with a segment of (size). */
static void launch(
    struct rig *g, struct rig_vm *vm, const char *name, uint64_t size)
{
	const char *argv[] = {name, "data", NULL};

	rig_launch(g, vm, argv, 64ULL << 20,
	    json_pack("{s:[{s:s,s:I}]}", "segments", "name", "data", "size",
		(json_int_t)size));
}

static json_t *freeze(struct rig *g, struct rig_vm *vm)
{
	return rig_call(g, "segment.freeze",
	    json_pack("{s:s,s:s}", "vm", vm->ref, "segment", "data"), NULL, 0);
}

static void freeze_once(struct rig *g, uint64_t size, struct seen *s)
{
	struct rig_vm vm;
	double writes;
	double gap;
	json_t *r;

	launch(g, &vm, "sink", size);
	for (uint64_t i = 0; i < 2 + size / GIB; i++)
		read_second(&vm, &s->before, &s->idle_gap_us);
	r = freeze(g, &vm);
	s->pause_us = (double)rig_u64(r, "pause_ns") / 1000;
	s->total_us = (double)rig_u64(r, "total_ns") / 1000;
	read_second(&vm, &s->after, &s->gap_us);
	read_second(&vm, &writes, &gap);
	rig_end(g, &vm);
	rig_drop(g, rig_u64(r, "snapshot"));
	json_decref(r);
}

/* A second of what the guest does; millions of writes. */
static double random_writes(unsigned char *m, uint64_t size)
{
	uint64_t rnd = 0x9e3779b97f4a7c15;
	uint64_t end = bench_now_ns() + 1000000000;
	uint64_t writes = 0;

	do {
		for (unsigned i = 0; i < 4096; i++) {
			uint64_t page = chance(&rnd, size / 4096);

			*(volatile uint64_t *)(void *)(m + page * 4096) = rnd;
		}
		writes += 4096;
	} while (bench_now_ns() < end);
	return (double)writes / 1e6;
}

/* fork(2), and in (*after) the parent's writes in the second after it, while
 * the child keeps what it was given. */
static double fork_us(uint64_t size, int advice, double *after)
{
	unsigned char *m = mmap(NULL, size, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t t;
	pid_t pid;

	if (m == MAP_FAILED)
		rig_fail("no memory for fork's baseline");
	(void)madvise(m, size, advice);
	for (uint64_t i = 0; i < size; i += 4096)
		m[i] = 1;
	t = bench_now_ns();
	pid = fork();
	if (pid == 0)
		for (;;)
			(void)pause();
	t = bench_now_ns() - t;
	if (pid < 0)
		rig_fail("no fork: %s", strerror(errno));
	*after = random_writes(m, size);
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
	(void)munmap(m, size);
	return (double)t / 1000;
}

static double copy_us(uint64_t size)
{
	int fd = memfd_create("bench", MFD_CLOEXEC);
	char *buf = malloc(1 << 20);
	uint64_t t = bench_now_ns();

	if (fd < 0 || buf == NULL)
		rig_fail("no memory for the copy's baseline");
	memset(buf, 1, 1 << 20);
	for (uint64_t i = 0; i < size; i += 1 << 20)
		if (write(fd, buf, 1 << 20) != 1 << 20)
			rig_fail("no memory for the copy's baseline");
	t = bench_now_ns() - t;
	(void)close(fd);
	free(buf);
	return (double)t / 1000;
}

/* Prints a line: (unit) of (figure) of a segment of (gib). */
static void line(uint64_t gib, const char *figure, const char *unit,
    double firn, double baseline)
{
	char name[80];

	(void)snprintf(name, sizeof(name), "%llu GiB: %s",
	    (unsigned long long)gib, figure);
	if (baseline > 0)
		bench_line(name, unit, firn, baseline);
	else
		bench_value(name, unit, firn);
}

/* The median pause. */
static double one_size(struct rig *g, uint64_t gib)
{
	struct seen s[RUNS];
	double fork4[RUNS];
	double forkt[RUNS];
	double copy[RUNS];
	double w4[RUNS];
	double wt[RUNS];
	double pause;
	double after;

	for (int i = 0; i < RUNS; i++) {
		freeze_once(g, gib * GIB, &s[i]);
		fork4[i] = fork_us(gib * GIB, MADV_NOHUGEPAGE, &w4[i]);
		forkt[i] = fork_us(gib * GIB, MADV_HUGEPAGE, &wt[i]);
		copy[i] = copy_us(gib * GIB);
	}
	pause = bench_column(s, RUNS, pause_us);
	after = bench_column(s, RUNS, after) / 1e6;
	line(gib, "pause / fork, 4 KiB pages", "us", pause,
	    bench_median(fork4, RUNS));
	line(gib, "pause / fork, THP", "us", pause, bench_median(forkt, RUNS));
	line(gib, "pause / copy to a memfd", "us", pause,
	    bench_median(copy, RUNS));
	line(gib, "worst gap seen by the guest / before", "us",
	    bench_column(s, RUNS, gap_us), bench_column(s, RUNS, idle_gap_us));
	line(gib, "freeze in all, seal counted", "us",
	    bench_column(s, RUNS, total_us), 0);
	line(gib, "writes in the second of it / before", "M/s", after,
	    bench_column(s, RUNS, before) / 1e6);
	line(gib, "the same / after fork, 4 KiB pages", "M/s", after,
	    bench_median(w4, RUNS));
	line(gib, "the same / after fork, THP", "M/s", after,
	    bench_median(wt, RUNS));
	return pause;
}

/* How long a query takes that is answered with a bitmap. */
static double ask_us(struct rig *g, struct rig_vm *vm)
{
	uint64_t t = bench_now_ns();
	struct firn_error e;
	size_t nfds = 1;
	int fd = -1;
	json_t *r = NULL;

	if (firn_call_json(g->conn, "dirty.query",
		json_pack("{s:s,s:s,s:s,s:b}", "vm", vm->ref, "segment", "data",
		    "cursor", "c", "bitmap", 1),
		NULL, 0, &r, &fd, &nfds, &e) != 0)
		rig_fail("dirty.query: %s", e.msg);
	json_decref(r);
	if (nfds > 0)
		(void)close(fd);
	return (double)(bench_now_ns() - t) / 1000;
}

struct asked {
	double before, first, later; /* writes in a second */
	double first_us, later_us;
};

/* A second before anybody asks, the second of the first question, and one in
 * which the log had been on. */
static void track_once(struct rig *g, struct asked *a)
{
	struct rig_vm vm;
	double gap;

	launch(g, &vm, "sink", GIB);
	for (int i = 0; i < 3; i++)
		read_second(&vm, &a->before, &gap);
	a->first_us = ask_us(g, &vm);
	read_second(&vm, &a->first, &gap);
	a->later_us = ask_us(g, &vm);
	read_second(&vm, &a->later, &gap);
	rig_end(g, &vm);
}

static void tracking(struct rig *g)
{
	struct asked a[RUNS];
	double before;

	for (int i = 0; i < RUNS; i++)
		track_once(g, &a[i]);
	before = bench_column(a, RUNS, before) / 1e6;
	line(1, "the first dirty query", "us", bench_column(a, RUNS, first_us),
	    0);
	line(1, "  writes in the second of it / before", "M/s",
	    bench_column(a, RUNS, first) / 1e6, before);
	line(1, "a later one", "us", bench_column(a, RUNS, later_us), 0);
	line(1, "  writes in the second of it / before", "M/s",
	    bench_column(a, RUNS, later) / 1e6, before);
}

#define EMPTY_GIB 33u

/* The pauses of the first freeze and of a later one, with nothing in it. */
static void empty_once(struct rig *g, uint64_t gib, double us[2])
{
	struct rig_vm vm;

	launch(g, &vm, "cat", gib * GIB);
	for (int i = 0; i < 2; i++) {
		json_t *r = freeze(g, &vm);

		us[i] = (double)rig_u64(r, "pause_ns") / 1000;
		rig_drop(g, rig_u64(r, "snapshot"));
		json_decref(r);
	}
	rig_end(g, &vm);
}

static void empty(struct rig *g)
{
	double v[2][RUNS];
	double small[2];
	double large[2];

	for (int i = 0; i < RUNS; i++) {
		empty_once(g, 1, small);
		empty_once(g, EMPTY_GIB, large);
		for (int k = 0; k < 2; k++)
			v[k][i] = (large[k] - small[k]) / (EMPTY_GIB - 1);
	}
	bench_value("pause for each GiB without content, first freeze", "us",
	    bench_median(v[0], RUNS));
	bench_value("  a later freeze", "us", bench_median(v[1], RUNS));
}

int main(int argc, char **argv)
{
	struct rig g;
	double one;

	rig_start(&g);
	bench_head("first freeze of a segment that a guest writes at random");
	for (int i = 1; i < argc; i++)
		(void)one_size(&g, strtoull(argv[i], NULL, 10));
	if (argc == 1) {
		one = one_size(&g, 1);
		bench_line("pause: 4 GiB / 1 GiB", "us", one_size(&g, 4), one);
		tracking(&g);
		empty(&g);
	}
	rig_stop(&g);
	return 0;
}
