/* SPDX-License-Identifier: MIT */
/*
 * The first freeze of a populated segment under a guest that goes on writing
 * at random, as the monitor times it and as the guest sees it by its time stamp
 * counter; beside fork(2) of a process with the same memory, and a copy of it
 * into a fresh memfd. Usage: bench_guest_freeze [GIB...], 1 and 4 if none.
 */
#include <sys/mman.h>

#include "tests/bench/bench.h"
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

static void freeze_once(struct rig *g, uint64_t size, struct seen *s)
{
	const char *argv[] = {"sink", "data", NULL};
	struct rig_vm vm;
	double writes;
	double gap;
	json_t *r;

	rig_launch(g, &vm, argv, 64ULL << 20,
	    json_pack("{s:[{s:s,s:I}]}", "segments", "name", "data", "size",
		(json_int_t)size));
	for (uint64_t i = 0; i < 2 + size / GIB; i++)
		read_second(&vm, &s->before, &s->idle_gap_us);
	r = rig_call(g, "segment.freeze",
	    json_pack("{s:s,s:s}", "vm", vm.ref, "segment", "data"), NULL, 0);
	s->pause_us = (double)rig_u64(r, "pause_ns") / 1000;
	s->total_us = (double)rig_u64(r, "total_ns") / 1000;
	read_second(&vm, &s->after, &s->gap_us);
	read_second(&vm, &writes, &gap);
	rig_end(g, &vm);
	rig_drop(g, rig_u64(r, "snapshot"));
	json_decref(r);
}

static double fork_us(uint64_t size, int advice)
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
		_exit(0);
	t = bench_now_ns() - t;
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

static double column(const struct seen *s, size_t at)
{
	double v[RUNS];

	for (int i = 0; i < RUNS; i++)
		v[i] =
		    *(const double *)(const void *)((const char *)&s[i] + at);
	return bench_median(v, RUNS);
}

static void one_size(struct rig *g, uint64_t gib)
{
	struct seen s[RUNS];
	double fork4[RUNS];
	double forkt[RUNS];
	double copy[RUNS];
	char name[60];
	double pause;

	for (int i = 0; i < RUNS; i++) {
		freeze_once(g, gib * GIB, &s[i]);
		fork4[i] = fork_us(gib * GIB, MADV_NOHUGEPAGE);
		forkt[i] = fork_us(gib * GIB, MADV_HUGEPAGE);
		copy[i] = copy_us(gib * GIB);
	}
	pause = column(s, offsetof(struct seen, pause_us));
	(void)snprintf(name, sizeof(name),
	    "%llu GiB: pause / fork, 4 KiB pages", (unsigned long long)gib);
	bench_line(name, "us", pause, bench_median(fork4, RUNS));
	(void)snprintf(name, sizeof(name), "%llu GiB: pause / fork, THP",
	    (unsigned long long)gib);
	bench_line(name, "us", pause, bench_median(forkt, RUNS));
	(void)snprintf(name, sizeof(name), "%llu GiB: pause / copy to a memfd",
	    (unsigned long long)gib);
	bench_line(name, "us", pause, bench_median(copy, RUNS));
	(void)snprintf(name, sizeof(name),
	    "%llu GiB: worst gap seen by the guest / without freeze",
	    (unsigned long long)gib);
	bench_line(name, "us", column(s, offsetof(struct seen, gap_us)),
	    column(s, offsetof(struct seen, idle_gap_us)));
	(void)snprintf(name, sizeof(name),
	    "%llu GiB: freeze in all, seal counted", (unsigned long long)gib);
	bench_value(name, "us", column(s, offsetof(struct seen, total_us)));
	(void)snprintf(name, sizeof(name),
	    "%llu GiB: writes in the second of the freeze / before",
	    (unsigned long long)gib);
	bench_line(name, "M/s", column(s, offsetof(struct seen, after)) / 1e6,
	    column(s, offsetof(struct seen, before)) / 1e6);
}

int main(int argc, char **argv)
{
	struct rig g;

	rig_start(&g);
	bench_head("first freeze of a segment that a guest writes at random");
	for (int i = 1; i < argc; i++)
		one_size(&g, strtoull(argv[i], NULL, 10));
	if (argc == 1) {
		one_size(&g, 1);
		one_size(&g, 4);
	}
	rig_stop(&g);
	return 0;
}
