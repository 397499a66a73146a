/* SPDX-License-Identifier: MIT */
/*
 * What it costs a guest that its view is tracked, by its own clock: the first
 * touch of each page, and later ones, beside a view that is not; whether what
 * is told is exact; what a freeze adds. Then melds of page maps: over the size,
 * over the changes.
 */
#include "tests/bench/bench.h"
#include "tests/bench/nodes.h"
#include "tests/rig.h"
#include "vmm/kin/meld.h"

#define SIZE   (256ULL << 20)
#define NPAGES (SIZE / 4096)
#define TOUCH  20000u
#define STEP   3u /* one of so many pages is touched */
#define RUNS   7

/* --- a guest -------------------------------------------------------------- */

/* One line to the guest; the number in its answer. */
static double ask(struct rig_vm *vm, const char *line)
{
	char buf[160];
	double n = 0;

	(void)fprintf(vm->in, "%s\n", line);
	(void)fflush(vm->in);
	rig_line(vm, buf, sizeof(buf));
	if (sscanf(buf, "ok %lf", &n) != 1)
		rig_fail("%s: the guest said: %s", line, buf);
	return n;
}

struct seen {
	double read[RUNS], again[RUNS], write[RUNS], pause[RUNS];
};

static void map_view(struct rig *g, struct rig_vm *vm, bool track)
{
	json_decref(rig_call(g, "view.map",
	    json_pack("{s:s,s:s,s:s,s:b,s:b}", "vm", vm->ref, "snapshot",
		"base", "name", "v", "cow", 1, "track", track),
	    NULL, 0));
	(void)ask(vm, "find v");
}

static void unmap_view(struct rig *g, struct rig_vm *vm)
{
	json_decref(rig_call(g, "view.unmap",
	    json_pack("{s:s,s:s}", "vm", vm->ref, "view", "v"), NULL, 0));
}

/* Every STEPth page read, read again, written; then the freeze of it. */
static void touch_once(
    struct rig *g, struct rig_vm *vm, bool track, struct seen *s, int i)
{
	char line[80];
	json_t *r;

	map_view(g, vm, track);
	(void)snprintf(line, sizeof(line), "scan read 0 %u %u", TOUCH, STEP);
	s->read[i] = ask(vm, line) / TOUCH / 1000;
	s->again[i] = ask(vm, line) / TOUCH / 1000;
	(void)snprintf(line, sizeof(line), "scan write 1 %u %u", TOUCH, STEP);
	s->write[i] = ask(vm, line) / TOUCH / 1000;
	r = rig_call(g, "segment.freeze",
	    json_pack("{s:s,s:s}", "vm", vm->ref, "segment", "v"), NULL, 0);
	s->pause[i] = (double)rig_u64(r, "pause_ns") / 1000;
	rig_drop(g, rig_u64(r, "snapshot"));
	json_decref(r);
	unmap_view(g, vm);
}

/* Of the pages that a scan of the view touched, how many are told, and others
 * with them. */
static void count_told(const struct firn_pageset *p, uint64_t first,
    uint64_t *told, uint64_t *others)
{
	for (size_t i = 0; i < p->nranges; i++) {
		for (uint64_t k = 0; k < p->ranges[i].count; k++) {
			uint64_t at = p->ranges[i].first + k - first;

			if (at % STEP == 0 && at / STEP < TOUCH)
				++*told;
			else
				++*others;
		}
	}
}

static int exactness(struct rig *g, struct rig_vm *vm)
{
	struct firn_pageset r;
	struct firn_pageset w;
	struct firn_error e;
	uint64_t told = 0;
	uint64_t others = 0;
	uint64_t t;
	char line[80];

	map_view(g, vm, true);
	(void)snprintf(line, sizeof(line), "scan read 0 %u %u", TOUCH, STEP);
	(void)ask(vm, line);
	(void)snprintf(line, sizeof(line), "scan write 1 %u %u", TOUCH, STEP);
	(void)ask(vm, line);
	t = bench_now_ns();
	if (firn_touched(g->conn, vm->ref, "v", &r, &w, &e) != 0)
		rig_fail("track.query: %s", e.msg);
	t = bench_now_ns() - t;
	count_told(&r, 0, &told, &others);
	count_told(&w, 1, &told, &others);
	bench_line("pages told; touched", "pages", (double)told, 2.0 * TOUCH);
	bench_value("others told", "pages", (double)others);
	bench_value("track.query of 256 MiB", "ms", (double)t / 1e6);
	firn_pageset_free(&r);
	firn_pageset_free(&w);
	unmap_view(g, vm);
	return told != 2 * TOUCH || others != 0;
}

static int bench_guest(void)
{
	const char *argv[] = {"touch", NULL};
	static struct seen tracked;
	static struct seen plain;
	struct rig g;
	struct rig_vm vm;
	char line[80];
	int bad;

	rig_start(&g);
	rig_launch(&g, &vm, argv, 64ULL << 20,
	    json_pack("{s:[{s:s,s:I}]}", "segments", "name", "data", "size",
		(json_int_t)SIZE));
	rig_line(&vm, line, sizeof(line));
	(void)ask(&vm, "find data");
	(void)snprintf(line, sizeof(line), "scan write 0 %llu 1", NPAGES);
	(void)ask(&vm, line);
	json_decref(rig_call(&g, "segment.freeze",
	    json_pack("{s:s,s:s,s:s}", "vm", vm.ref, "segment", "data", "name",
		"base"),
	    NULL, 0));
	for (int i = 0; i < RUNS; i++) {
		touch_once(&g, &vm, true, &tracked, i);
		touch_once(&g, &vm, false, &plain, i);
	}
	bench_head("a tracked view of 256 MiB, every third page; not tracked");
	bench_line("first read of a page", "us",
	    bench_median(tracked.read, RUNS), bench_median(plain.read, RUNS));
	bench_line("a later read", "us", bench_median(tracked.again, RUNS),
	    bench_median(plain.again, RUNS));
	bench_line("first write of a page", "us",
	    bench_median(tracked.write, RUNS), bench_median(plain.write, RUNS));
	bench_line("first freeze of it: pause", "us",
	    bench_median(tracked.pause, RUNS), bench_median(plain.pause, RUNS));
	bad = exactness(&g, &vm);
	rig_end(&g, &vm);
	rig_stop(&g);
	return bad;
}

/* --- melds ---------------------------------------------------------------- */

#define GIB_NPAGES (1ULL << 18)
#define TIB_NPAGES (1ULL << 28)
#define MELD_MAX   100000u

struct sides {
	struct map_store st;
	struct map base;
	struct map map[2];
	struct kin_sets sets[2];
};

/* One side has (n) pages written and as many read, all over the map. */
static int make_side(struct sides *s, int side, uint64_t npages, uint64_t n)
{
	struct page_run *r = calloc(n, sizeof(*r));
	uint64_t stride = npages / n;
	int rc = r == NULL ? -1 : 0;

	for (uint64_t i = 0; rc == 0 && i < n; i++) {
		uint64_t page = i * stride + (uint64_t)side * (stride / 2);

		r[i] = (struct page_run){.page = page,
		    .npages = 1,
		    .index = i,
		    .layer = 2 + (uint32_t)side};
		rc = extset_add(&s->sets[side].writes, page, 1);
		if (rc == 0)
			rc = extset_add(&s->sets[side].reads, page + 1, 1);
	}
	if (rc == 0)
		rc = map_apply(&s->st, &s->base, r, n, &s->map[side]);
	free(r);
	return rc;
}

static int make_sides(struct sides *s, uint64_t npages, uint64_t n)
{
	struct page_run all = {.npages = npages, .layer = 1};
	struct map zero;

	*s = (struct sides){0};
	map_store_init(&s->st, &nodes_of_malloc);
	if (map_zero(npages, &zero) != 0 ||
	    map_apply(&s->st, &zero, &all, 1, &s->base) != 0)
		return -1;
	return make_side(s, 0, npages, n) != 0 ? -1
					       : make_side(s, 1, npages, n);
}

static void free_sides(struct sides *s)
{
	map_put(&s->st, &s->base);
	for (int i = 0; i < 2; i++) {
		map_put(&s->st, &s->map[i]);
		kin_sets_free(&s->sets[i]);
	}
}

/* Microseconds of one meld, all of it but the threads. */
static double run_meld(void *ctx)
{
	struct sides *s = ctx;
	uint64_t t = bench_now_ns();
	struct meld_conflicts c;
	struct page_run *runs = NULL;
	size_t n = 0;
	struct map m;
	bool ok;

	ok = meld_conflicts(&s->sets[0], &s->sets[1], &c) == 0 &&
	     c.write_write.n == 0 && c.read_write.n == 0 &&
	     meld_runs(&s->map[0], &s->sets[0].writes, &s->map[1],
		 &s->sets[1].writes, &runs, &n) == 0 &&
	     map_apply(&s->st, &s->base, runs, n, &m) == 0;
	t = bench_now_ns() - t;
	if (ok)
		map_put(&s->st, &m);
	free(runs);
	meld_conflicts_free(&c);
	return ok ? (double)t / 1000 : -1;
}

static double meld_us(uint64_t npages, uint64_t n)
{
	struct sides s;
	double us = -1;

	if (make_sides(&s, npages, n) == 0)
		us = bench_measure(run_meld, &s);
	free_sides(&s);
	return us;
}

static int bench_melds(void)
{
	double t = meld_us(TIB_NPAGES, 1000);
	double g = meld_us(GIB_NPAGES, 1000);
	double few = meld_us(TIB_NPAGES, 1000) / 1000;
	int bad = t < 0 || g < 0 || few < 0;

	bench_head("melds: pages written, and as many read, on each side");
	bench_line("1000 pages of 1 TiB; of 1 GiB", "us", t, g);
	for (uint64_t n = 10; n <= MELD_MAX; n *= 10) {
		double us = meld_us(TIB_NPAGES, n);
		char name[80];

		(void)snprintf(name, sizeof(name),
		    "a page, of %llu of 1 TiB; of 1000", (unsigned long long)n);
		bench_line(name, "us", us / (double)n, few);
		bad |= us < 0;
	}
	return bad;
}

int main(void)
{
	return bench_guest() | bench_melds();
}
