/* SPDX-License-Identifier: MIT */
/*
 * What ten thousand snapshots alive cost those who ask nothing of them, and
 * those who do, beside ten: descriptors of firnd and of a monitor, memory,
 * lists, `snapshot.show`, and how long a request waits that comes right behind
 * a freeze, where jobs begin that merge files. Each snapshot has a layer of its
 * own. Usage: bench_alive [N], 10,000 if none.
 */
#include <inttypes.h>

#include "tests/bench/bench.h"
#include "tests/proc.h"
#include "tests/rig.h"

#define FEW    10u
#define ALIVE  10000u
#define ASKED  51u
#define BEHIND 300u /* freezes, so some merges */

struct bed {
	struct rig g;
	struct rig_vm vm;
	uint32_t n; /* snapshots alive */
	uint64_t last;
};

struct seen {
	double fds, monitor_fds, rss_kib;
	double list_us, per_list_us; /* the first hundred; each of all */
	double show_us;
	double behind_us, worst_us;
};

static double since(uint64_t begin)
{
	return (double)(bench_now_ns() - begin) / 1000;
}

static void freeze(struct bed *b)
{
	char line[512];
	json_t *r;

	(void)fputc('\n', b->vm.in);
	(void)fflush(b->vm.in);
	rig_line(&b->vm, line, sizeof(line));
	r = rig_call(&b->g, "segment.freeze",
	    json_pack("{s:s,s:s}", "vm", b->vm.ref, "segment", "data"), NULL,
	    0);
	b->last = rig_u64(r, "snapshot");
	json_decref(r);
	b->n++;
}

static double list_first(struct bed *b)
{
	double v[ASKED];

	for (uint32_t i = 0; i < ASKED; i++) {
		uint64_t t = bench_now_ns();

		json_decref(rig_call(&b->g, "snapshot.list",
		    json_pack("{s:i}", "max", (int)FEW), NULL, 0));
		v[i] = since(t);
	}
	return bench_median(v, ASKED);
}

/* All of them, in parts; a snapshot of it. */
static double list_all(struct bed *b)
{
	uint64_t t = bench_now_ns();
	uint64_t after = 0;
	uint32_t n = 0;
	bool more = true;

	while (more) {
		json_t *r = rig_call(&b->g, "snapshot.list",
		    json_pack("{s:I}", "after", (json_int_t)after), NULL, 0);

		n += (uint32_t)json_array_size(json_object_get(r, "snapshots"));
		more = json_is_true(json_object_get(r, "more"));
		if (more)
			after = rig_u64(r, "next");
		json_decref(r);
	}
	if (n != b->n)
		rig_fail("%" PRIu32 " of %" PRIu32 " are listed", n, b->n);
	return since(t) / n;
}

static double show(struct bed *b)
{
	double v[ASKED];
	char ref[24];

	(void)snprintf(ref, sizeof(ref), "%" PRIu64, b->last);
	for (uint32_t i = 0; i < ASKED; i++) {
		uint64_t t = bench_now_ns();

		json_decref(rig_call(&b->g, "snapshot.show",
		    json_pack("{s:s}", "snapshot", ref), NULL, 0));
		v[i] = since(t);
	}
	return bench_median(v, ASKED);
}

/* Requests that need nothing, each right behind a freeze; what was frozen is
 * dropped, so that as many stay alive. */
static void behind(struct bed *b, struct seen *s)
{
	double v[BEHIND];

	for (uint32_t i = 0; i < BEHIND; i++) {
		uint64_t t;

		freeze(b);
		t = bench_now_ns();
		json_decref(rig_call(&b->g, "vm.list", json_object(), NULL, 0));
		v[i] = since(t);
		rig_drop(&b->g, b->last);
		b->n--;
	}
	s->behind_us = bench_median(v, BEHIND); /* sorts */
	s->worst_us = v[BEHIND - 1];
}

static void measure(struct bed *b, uint32_t alive, struct seen *s)
{
	while (b->n < alive)
		freeze(b);
	s->list_us = list_first(b);
	s->per_list_us = list_all(b);
	s->show_us = show(b);
	behind(b, s);
	s->fds = (double)proc_fds(b->g.firnd);
	s->monitor_fds = (double)proc_fds(b->vm.monitor);
	s->rss_kib = (double)proc_rss_kib(b->g.firnd);
}

int main(int argc, char **argv)
{
	static const char *const guest[] = {
	    "stamp", "data", "16384", "42", "10", NULL};
	uint32_t many = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : ALIVE;
	struct bed b = {.n = 0};
	struct seen few;
	struct seen all;
	char line[512];
	char head[80];

	rig_start(&b.g);
	rig_launch(&b.g, &b.vm, guest, 64ULL << 20, NULL);
	rig_line(&b.vm, line, sizeof(line));
	measure(&b, FEW, &few);
	measure(&b, many, &all);
	(void)snprintf(head, sizeof(head),
	    "%" PRIu32 " snapshots alive, beside %u", many, FEW);
	bench_head(head);
	bench_line("descriptors of firnd", "", all.fds, few.fds);
	bench_line(
	    "descriptors of the monitor", "", all.monitor_fds, few.monitor_fds);
	bench_line("memory of firnd", "KiB", all.rss_kib, few.rss_kib);
	bench_line("snapshot.list of ten", "us", all.list_us, few.list_us);
	bench_line("snapshot.list of all, for each", "us", all.per_list_us,
	    few.per_list_us);
	bench_line("snapshot.show", "us", all.show_us, few.show_us);
	bench_line(
	    "a request behind a freeze", "us", all.behind_us, few.behind_us);
	bench_line("  the worst of 300", "us", all.worst_us, few.worst_us);
	rig_end(&b.g, &b.vm);
	rig_stop(&b.g);
	return 0;
}
