/* SPDX-License-Identifier: MIT */
/*
 * What a place has twice is given back: how long its guest stands still for a
 * thousand pages, and what a round of writes to them costs afterwards, when
 * each is a fault and a copy again, beside one before, when they were private.
 */
#include "tests/bench/bench.h"
#include "tests/rig.h"

#define PAGES 8192u      /* of the segment: 32 MiB */
#define LINE  (1u << 17) /* a page number for each page of a round */
#define COOL  12u        /* freezes until what is not written is cold */

struct bench {
	struct rig g;
	struct rig_vm vm;
	uint32_t rounds;  /* that write the whole segment */
	double pages, ns; /* given back, and paused for it, so far */
	char line[LINE];
};

struct sample {
	double pages[BENCH_RUNS], pause_ms[BENCH_RUNS];
	double before_ms[BENCH_RUNS], after_ms[BENCH_RUNS];
};

static double write_round(struct bench *b)
{
	uint64_t start = bench_now_ns();

	(void)fputc('\n', b->vm.in);
	(void)fflush(b->vm.in);
	rig_line(&b->vm, b->line, sizeof(b->line));
	return (double)(bench_now_ns() - start) / 1e6;
}

/* The snapshot stays: a file that nobody reaches would have the place moved. */
static void freeze(struct bench *b)
{
	json_decref(rig_call(&b->g, "segment.freeze",
	    json_pack("{s:s,s:s}", "vm", b->vm.ref, "segment", "data"), NULL,
	    0));
}

/* Did a place give back since it was asked last? */
static bool given(struct bench *b, double *pages, double *ns)
{
	json_t *r = rig_call(&b->g, "service.stats", json_object(), NULL, 0);
	double p = (double)rig_u64(r, "given_bytes") / 4096;
	double t = (double)rig_u64(r, "relay_ns");

	json_decref(r);
	*pages = p - b->pages;
	*ns = t - b->ns;
	b->pages = p;
	b->ns = t;
	return *pages > 0;
}

/* All is written, and so private; one round again; then it is let cool, which
 * gives it back; one round more. */
static void sample(struct bench *b, struct sample *s, uint32_t k)
{
	double ns;

	for (uint32_t i = 0; i < b->rounds; i++)
		(void)write_round(b);
	freeze(b);
	s->before_ms[k] = write_round(b);
	(void)given(b, &s->pages[k], &ns);
	for (uint32_t i = 0; i < COOL; i++)
		freeze(b);
	if (!given(b, &s->pages[k], &ns))
		rig_fail("nothing was given back");
	s->pause_ms[k] = ns / 1e6 / (s->pages[k] / 1000);
	s->after_ms[k] = write_round(b);
}

static void run(const char *part)
{
	static struct bench b;
	const char *const argv[] = {"stamp", "data", "8192", "0", part, NULL};
	struct sample s;
	char what[80];

	b = (struct bench){.rounds = PAGES / (uint32_t)strtoul(part, NULL, 10)};
	rig_start(&b.g);
	rig_launch(&b.g, &b.vm, argv, 64ULL << 20, NULL);
	rig_line(&b.vm, b.line, sizeof(b.line));
	for (uint32_t i = 0; i < b.rounds; i++)
		(void)write_round(&b);
	freeze(&b);
	for (uint32_t k = 0; k < BENCH_RUNS; k++)
		sample(&b, &s, k);
	bench_value("given back", "pages", bench_median(s.pages, BENCH_RUNS));
	bench_value("pause for a thousand pages given back", "ms",
	    bench_median(s.pause_ms, BENCH_RUNS));
	(void)snprintf(
	    what, sizeof(what), "%s pages written, after; before", part);
	bench_line(what, "ms", bench_median(s.after_ms, BENCH_RUNS),
	    bench_median(s.before_ms, BENCH_RUNS));
	rig_end(&b.g, &b.vm);
	rig_stop(&b.g);
}

int main(void)
{
	bench_head("copies: what a place has twice is given back");
	run("1024");
	return 0;
}
