/* SPDX-License-Identifier: MIT */
/*
 * Freeze, map, diff and drop over and over, on a real VM whose guest writes ten
 * pages of 8 MiB between: what firnd holds at the start and after each tenth.
 * FIRN_CHURN=N is the number of cycles, 10,000 where it is not set. The segment
 * is small, so that the layers alive grow no more when the start is measured.
 */
#include <inttypes.h>

#include "tests/bench/bench.h"
#include "tests/proc.h"
#include "tests/rig.h"

#define CYCLES    10000u
#define ALIVE     32u /* snapshots at once; the oldest goes */
#define MAP_EVERY 10u
#define WARM      2000u /* cycles before the start is measured */

struct churn {
	struct rig g;
	struct rig_vm vm;
	uint64_t rng;
	uint32_t made;
	uint64_t id[ALIVE];
};

static void print_held(struct churn *c, uint32_t cycle)
{
	json_t *r = rig_call(
	    &c->g, "service.stats", json_pack("{s:b}", "exact", 1), NULL, 0);
	double mib = 1024 * 1024;

	(void)printf("%8" PRIu32 " cycles: RSS %6ld "
		     "KiB, %4ld descriptors, held %6.1f MiB, live %6.1f, "
		     "pinned %6.1f, nodes %5.1f, moved %8.1f\n",
	    cycle, proc_rss_kib(c->g.firnd), proc_fds(c->g.firnd),
	    (double)rig_u64(r, "layer_bytes") / mib,
	    (double)rig_u64(r, "live_bytes") / mib,
	    (double)rig_u64(r, "pinned_bytes") / mib,
	    (double)rig_u64(r, "node_bytes") / mib,
	    (double)rig_u64(r, "moved_bytes") / mib);
	(void)fflush(stdout);
	json_decref(r);
}

static void ref(uint64_t id, char *buf, size_t len)
{
	(void)snprintf(buf, len, "%" PRIu64, id);
}

static void map_and_unmap(struct churn *c, uint64_t id)
{
	char snap[24];

	ref(id, snap, sizeof(snap));
	json_decref(rig_call(&c->g, "view.map",
	    json_pack("{s:s,s:s,s:s}", "vm", c->vm.ref, "snapshot", snap,
		"name", "w"),
	    NULL, 0));
	json_decref(rig_call(&c->g, "view.unmap",
	    json_pack("{s:s,s:s}", "vm", c->vm.ref, "view", "w"), NULL, 0));
}

static void diff(struct churn *c, uint64_t a, uint64_t b)
{
	char x[24];
	char y[24];

	ref(a, x, sizeof(x));
	ref(b, y, sizeof(y));
	json_decref(rig_call(&c->g, "snapshot.diff",
	    json_pack("{s:s,s:s}", "a", x, "b", y), NULL, 0));
}

/* The newest takes the place of one at random. */
static void cycle(struct churn *c)
{
	char line[512];
	uint32_t at = c->made < ALIVE ? c->made : 0;
	json_t *r;

	(void)fputc('\n', c->vm.in);
	(void)fflush(c->vm.in);
	rig_line(&c->vm, line, sizeof(line));
	r = rig_call(&c->g, "segment.freeze",
	    json_pack("{s:s,s:s}", "vm", c->vm.ref, "segment", "data"), NULL,
	    0);
	c->rng = c->rng * 6364136223846793005ULL + 1442695040888963407ULL;
	if (c->made >= ALIVE) {
		at = (uint32_t)(c->rng >> 33) % ALIVE;
		rig_drop(&c->g, c->id[at]);
	}
	c->id[at] = rig_u64(r, "snapshot");
	json_decref(r);
	c->made++;
	diff(c, c->id[0], c->id[at]);
	if (c->made % MAP_EVERY == 0)
		map_and_unmap(c, c->id[at]);
}

int main(void)
{
	static const char *const argv[] = {
	    "stamp", "data", "2048", "42", "10", NULL};
	static struct churn c = {.rng = 42};
	const char *n = getenv("FIRN_CHURN");
	uint32_t cycles = n != NULL ? (uint32_t)strtoul(n, NULL, 10) : CYCLES;
	uint64_t begin;
	char line[512];

	if (cycles < 10)
		cycles = 10;
	rig_start(&c.g);
	rig_launch(&c.g, &c.vm, argv, 64ULL << 20, NULL);
	rig_line(&c.vm, line, sizeof(line));
	bench_head("churn: freeze, diff, drop, and a map each tenth time");
	for (uint32_t i = 0; i < WARM; i++)
		cycle(&c);
	print_held(&c, 0);
	begin = bench_now_ns();
	for (uint32_t i = 1; i <= cycles; i++) {
		cycle(&c);
		if (i % (cycles / 10) == 0)
			print_held(&c, i);
	}
	(void)printf("%.1f us a cycle\n",
	    (double)(bench_now_ns() - begin) / 1000 / cycles);
	rig_end(&c.g, &c.vm);
	rig_stop(&c.g);
	return 0;
}
