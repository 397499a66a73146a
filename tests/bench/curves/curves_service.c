/* SPDX-License-Identifier: MIT */
/*
 * What a client waits for the service, with ever more named snapshots alive:
 * freezes of a segment of which a guest wrote ten pages, and what else names
 * them. Microseconds, medians.
 */
#include <inttypes.h>

#include "tests/bench/curves/curves.h"
#include "tests/rig.h"

#define ALIVE  10000u
#define WRITES 10u /* that many freezes for each with pages written */
#define RUNS   101u

struct bed {
	struct rig g;
	struct rig_vm vm;
	uint32_t n; /* snapshots alive */
};

static double since(uint64_t begin)
{
	return (double)(bench_now_ns() - begin) / 1000;
}

static void guest_writes(struct bed *b)
{
	char line[512];

	(void)fputc('\n', b->vm.in);
	(void)fflush(b->vm.in);
	rig_line(&b->vm, line, sizeof(line));
}

static void freeze(struct bed *b, const char *name)
{
	json_decref(rig_call(&b->g, "segment.freeze",
	    json_pack("{s:s,s:s,s:s}", "vm", b->vm.ref, "segment", "data",
		"name", name),
	    NULL, 0));
}

static void grow(struct bed *b, uint32_t goal)
{
	char name[24];

	for (; b->n < goal; b->n++) {
		if (b->n % WRITES == 0)
			guest_writes(b);
		(void)snprintf(name, sizeof(name), "n%" PRIu32, b->n);
		freeze(b, name);
	}
}

static void drop(struct bed *b, const char *name)
{
	json_decref(rig_call(&b->g, "snapshot.drop",
	    json_pack("{s:s}", "snapshot", name), NULL, 0));
}

/* Each is compared with the one before, which is then dropped. */
static void measure(struct bed *b)
{
	static const char *const name[] = {"even", "odd"};
	static double fz[RUNS], df[RUNS], dr[RUNS];

	freeze(b, name[1]);
	for (uint32_t i = 0; i < RUNS; i++) {
		uint64_t t;

		guest_writes(b);
		t = bench_now_ns();
		freeze(b, name[i % 2]);
		fz[i] = since(t);
		t = bench_now_ns();
		json_decref(rig_call(&b->g, "snapshot.diff",
		    json_pack("{s:s,s:s}", "a", "even", "b", "odd"), NULL, 0));
		df[i] = since(t);
		t = bench_now_ns();
		drop(b, name[(i + 1) % 2]);
		dr[i] = since(t);
	}
	drop(b, name[(RUNS - 1) % 2]);
	curve_point("service", "freeze", b->n, bench_median(fz, RUNS));
	curve_point("service", "diff", b->n, bench_median(df, RUNS));
	curve_point("service", "drop", b->n, bench_median(dr, RUNS));
}

int main(void)
{
	static const char *const argv[] = {
	    "stamp", "data", "16384", "42", "10", NULL};
	static struct bed b;
	char line[512];

	rig_start(&b.g);
	rig_launch(&b.g, &b.vm, argv, 64ULL << 20, NULL);
	rig_line(&b.vm, line, sizeof(line));
	for (uint32_t goal = 10; goal <= ALIVE; goal *= 10) {
		grow(&b, goal);
		measure(&b);
	}
	rig_end(&b.g, &b.vm);
	rig_stop(&b.g);
	return 0;
}
