/* SPDX-License-Identifier: MIT */
/*
 * Memory that changes hands: the sever of a populated segment never frozen, and
 * the whole way from that into a peer, beside the first freeze of such a
 * segment and a copy of it into a fresh memfd. Usage: bench_sever [GIB...],
 * 1 if none.
 */
#include <sys/mman.h>

#include "tests/bench/bench.h"
#include "tests/rig.h"

#define GIB (1ULL << 30)

struct seen {
	double freeze_us; /* pauses */
	double sever_us;
	double handed_us; /* from the request to sever to the adoption's end */
	double adopt_us;
	double copy_us;
};

/* A guest that has written all of a segment of (size). */
static void populated(struct rig *g, struct rig_vm *vm, uint64_t size)
{
	const char *argv[] = {"hand", NULL};
	char line[160];

	rig_launch(g, vm, argv, 64ULL << 20,
	    json_pack("{s:[{s:s,s:I}]}", "segments", "name", "data", "size",
		(json_int_t)size));
	rig_line(vm, line, sizeof(line));
	fprintf(vm->in, "fill data 7\n");
	(void)fflush(vm->in);
	rig_line(vm, line, sizeof(line));
	if (strcmp(line, "filled") != 0)
		rig_fail("the guest said: %s", line);
}

static double frozen(struct rig *g, uint64_t size)
{
	struct rig_vm vm;
	double pause;
	json_t *r;

	populated(g, &vm, size);
	r = rig_call(g, "segment.freeze",
	    json_pack("{s:s,s:s}", "vm", vm.ref, "segment", "data"), NULL, 0);
	pause = (double)rig_u64(r, "pause_ns") / 1000;
	rig_end(g, &vm);
	rig_drop(g, rig_u64(r, "snapshot"));
	json_decref(r);
	return pause;
}

static void handed(struct rig *g, uint64_t size, struct seen *s)
{
	const char *argv[] = {"hand", NULL};
	struct rig_vm from;
	struct rig_vm to;
	char snap[24];
	char line[160];
	uint64_t begin;
	uint64_t mid;
	json_t *r;

	populated(g, &from, size);
	rig_launch(g, &to, argv, 64ULL << 20, NULL);
	rig_line(&to, line, sizeof(line)); /* it has begun, and waits */
	begin = bench_now_ns();
	r = rig_call(g, "segment.sever",
	    json_pack("{s:s,s:s}", "vm", from.ref, "segment", "data"), NULL, 0);
	mid = bench_now_ns();
	s->sever_us = (double)rig_u64(r, "pause_ns") / 1000;
	(void)snprintf(snap, sizeof(snap), "%llu",
	    (unsigned long long)rig_u64(r, "snapshot"));
	if (!json_is_true(json_object_get(r, "owned")))
		rig_fail("what was severed is not owned");
	json_decref(r);
	r = rig_call(g, "view.adopt",
	    json_pack("{s:s,s:s}", "vm", to.ref, "snapshot", snap), NULL, 0);
	s->handed_us = (double)(bench_now_ns() - begin) / 1000;
	s->adopt_us = (double)(bench_now_ns() - mid) / 1000;
	json_decref(r);
	rig_end(g, &from);
	rig_end(g, &to);
}

/* As much memory, populated and in 2 MiB pages as the guest's, into a memfd. */
static double copied(uint64_t size)
{
	unsigned char *m = mmap(NULL, size, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int fd = memfd_create("bench", MFD_CLOEXEC);
	uint64_t t;

	if (fd < 0 || m == MAP_FAILED)
		rig_fail("no memory for the copy's baseline");
	(void)madvise(m, size, MADV_HUGEPAGE);
	for (uint64_t i = 0; i < size; i += 4096)
		m[i] = 1;
	t = bench_now_ns();
	for (uint64_t i = 0; i < size; i += 1 << 20)
		if (write(fd, m + i, 1 << 20) != 1 << 20)
			rig_fail("no memory for the copy's baseline");
	t = bench_now_ns() - t;
	(void)close(fd);
	(void)munmap(m, size);
	return (double)t / 1000;
}

static void line(uint64_t gib, const char *figure, double firn, double baseline)
{
	char name[80];

	(void)snprintf(name, sizeof(name), "%llu GiB: %s",
	    (unsigned long long)gib, figure);
	bench_line(name, "us", firn, baseline);
}

static void one_size(struct rig *g, uint64_t gib)
{
	struct seen s[BENCH_RUNS];
	double copy;

	for (int i = 0; i < BENCH_RUNS; i++) {
		s[i].freeze_us = frozen(g, gib * GIB);
		handed(g, gib * GIB, &s[i]);
		s[i].copy_us = copied(gib * GIB);
	}
	copy = bench_column(s, BENCH_RUNS, copy_us);
	line(gib, "pause of a sever / of a first freeze",
	    bench_column(s, BENCH_RUNS, sever_us),
	    bench_column(s, BENCH_RUNS, freeze_us));
	line(gib, "sever to adopt in a peer / copy to a memfd",
	    bench_column(s, BENCH_RUNS, handed_us), copy);
	line(gib, "  of which the adoption / copy",
	    bench_column(s, BENCH_RUNS, adopt_us), copy);
}

int main(int argc, char **argv)
{
	struct rig g;

	rig_start(&g);
	bench_head("memory that changes hands");
	for (int i = 1; i < argc; i++)
		one_size(&g, strtoull(argv[i], NULL, 10));
	if (argc == 1)
		one_size(&g, 1);
	rig_stop(&g);
	return 0;
}
