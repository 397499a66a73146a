/* SPDX-License-Identifier: MIT */
/*
 * Readers of a frozen 1 GiB: how long a map takes, how fast the guest scans it
 * beside the same program scanning memory of its own on the host, what eight
 * of them use together, and what mapping version 1, 10, 100 and 1,000 of a
 * segment costs that had 1,000 random pages changed each time.
 */
#include "tests/bench/bench.h"
#include "tests/rig.h"

#define RUNS    7
#define READERS 8
#define NPAGES  262144u
#define CHANGED 1000u

/* The sum of a field of smaps_rollup over processes, in KiB. */
static double smaps_kib(const pid_t *pid, int n, const char *field)
{
	double sum = 0;

	for (int i = 0; i < n; i++) {
		char path[64];
		char line[160];
		FILE *f;

		(void)snprintf(
		    path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid[i]);
		f = fopen(path, "re");
		if (f == NULL)
			rig_fail("%s: %s", path, strerror(errno));
		while (fgets(line, sizeof(line), f) != NULL)
			if (strncmp(line, field, strlen(field)) == 0)
				sum += strtod(line + strlen(field), NULL);
		(void)fclose(f);
	}
	return sum;
}

/* What the kernel uses for itself, in MiB. */
static double kernel_mib(void)
{
	static const char *const field[] = {"Slab:", "KernelStack:",
	    "PageTables:", "SecPageTables:", "VmallocUsed:", "Percpu:"};
	double kib = 0;
	char line[160];
	FILE *f = fopen("/proc/meminfo", "re");

	if (f == NULL)
		rig_fail("/proc/meminfo: %s", strerror(errno));
	while (fgets(line, sizeof(line), f) != NULL)
		for (size_t i = 0; i < sizeof(field) / sizeof(field[0]); i++)
			if (strncmp(line, field[i], strlen(field[i])) == 0)
				kib += strtod(line + strlen(field[i]), NULL);
	(void)fclose(f);
	return kib / 1024;
}

static uint64_t count_vmas(pid_t pid)
{
	char path[64];
	uint64_t n = 0;
	FILE *f;
	int c;

	(void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	f = fopen(path, "re");
	if (f == NULL)
		rig_fail("%s: %s", path, strerror(errno));
	while ((c = getc(f)) != EOF)
		n += c == '\n';
	(void)fclose(f);
	return n;
}

/* A guest whose segment "data" has every page written; then CHANGED random ones
 * for each line it reads. */
static void producer(struct rig *g, struct rig_vm *vm)
{
	const char *argv[] = {"stamp", "data", "262144", "1", "1000", NULL};
	char line[64 << 10];

	rig_launch(g, vm, argv, 64ULL << 20,
	    json_pack("{s:[{s:s,s:I}]}", "segments", "name", "data", "size",
		(json_int_t)NPAGES * 4096));
	rig_line(vm, line, sizeof(line));
	for (int i = 0; i < 700; i++) { /* 93 % of the pages */
		(void)fputs("\n", vm->in);
		(void)fflush(vm->in);
		rig_line(vm, line, sizeof(line));
	}
}

static void freeze_as(struct rig *g, struct rig_vm *vm, const char *name)
{
	json_decref(rig_call(g, "segment.freeze",
	    json_pack("{s:s,s:s,s:s}", "vm", vm->ref, "segment", "data", "name",
		name),
	    NULL, 0));
}

/* What a scan says of itself. */
struct scan {
	double map, first, again; /* us */
};

/* (leaves) "leaves": a word of each 2 MiB, or NULL: all of it. */
static void reader(struct rig *g, struct rig_vm *vm, const char *snap,
    const char *leaves, struct scan *s)
{
	const char *argv[] = {"scan", "x", leaves, NULL};
	char line[160];

	rig_launch(g, vm, argv, 16ULL << 20,
	    json_pack("{s:[{s:s,s:s}]}", "give", "name", "x", "ref", snap));
	rig_line(vm, line, sizeof(line));
	if (sscanf(line, "map %lf first %lf again %lf", &s->map, &s->first,
		&s->again) != 3)
		rig_fail("scan said: %s", line);
}

static void host_scan(struct rig *g, const char *leaves, struct scan *s)
{
	char cmd[PATH_MAX + 64];
	char line[160];
	FILE *f;

	(void)snprintf(cmd, sizeof(cmd), "%s/guest/scan 1024 %s </dev/null",
	    g->build, leaves == NULL ? "" : leaves);
	f = popen(cmd, "re");
	if (f == NULL || fgets(line, sizeof(line), f) == NULL ||
	    sscanf(line, "map %lf first %lf again %lf", &s->map, &s->first,
		&s->again) != 3)
		rig_fail("%s failed", cmd);
	(void)pclose(f);
}

/* RUNS scans by guests and by the host in turn; the medians of each. */
static void scan_both(
    struct rig *g, const char *leaves, struct scan *guest, struct scan *host)
{
	struct scan by_guest[RUNS];
	struct scan by_host[RUNS];

	for (int i = 0; i < RUNS; i++) {
		struct rig_vm vm;

		reader(g, &vm, "v0", leaves, &by_guest[i]);
		rig_end(g, &vm);
		host_scan(g, leaves, &by_host[i]);
	}
	*guest = (struct scan){
	    .map = bench_column(by_guest, RUNS, map),
	    .first = bench_column(by_guest, RUNS, first),
	    .again = bench_column(by_guest, RUNS, again),
	};
	*host = (struct scan){
	    .first = bench_column(by_host, RUNS, first),
	    .again = bench_column(by_host, RUNS, again),
	};
}

/* The host's memory is "warm" when it was scanned before, and "fresh" when its
 * 2 MiB pages are filled but not yet in the page table, as a view's are. */
static void scans(struct rig *g)
{
	struct scan guest;
	struct scan host;

	scan_both(g, NULL, &guest, &host);
	bench_value("map 1 GiB, seen by the guest", "us", guest.map);
	bench_line("scan of it, first time / host's own, warm", "us",
	    guest.first, host.again);
	bench_line("scan of it, first time / host's own, fresh", "us",
	    guest.first, host.first);
	bench_line("scan of it, again / host's own, warm", "us", guest.again,
	    host.again);
	scan_both(g, "leaves", &guest, &host);
	bench_line("a word of each 2 MiB, first time / host's, fresh", "us",
	    guest.first, host.first);
}

static void together(struct rig *g, struct rig_vm *prod)
{
	struct rig_vm vm[READERS];
	pid_t pid[READERS];
	struct scan s;
	double kernel = kernel_mib();

	for (int i = 0; i < READERS; i++) {
		reader(g, &vm[i], "v0", NULL, &s);
		pid[i] = vm[i].monitor;
	}
	(void)prod;
	bench_line("8 readers: PSS together / 1 GiB", "MiB",
	    smaps_kib(pid, READERS, "Pss:") / 1024, 1024);
	bench_value("8 readers: kernel memory together, shadow pages too",
	    "MiB", kernel_mib() - kernel);
	bench_value("8 readers: private memory of one", "MiB",
	    (smaps_kib(pid, 1, "Private_Clean:") +
		smaps_kib(pid, 1, "Private_Dirty:")) /
		1024);
	for (int i = 0; i < READERS; i++)
		rig_end(g, &vm[i]);
}

static double layer_mib(struct rig *g)
{
	json_t *r = rig_call(g, "service.stats", json_object(), NULL, 0);
	double mib = (double)rig_u64(r, "layer_bytes") / (1 << 20);

	json_decref(r);
	return mib;
}

static void map_version(struct rig *g, unsigned version)
{
	double took[RUNS];
	double added = layer_mib(g);
	double extents = 0;
	double vmas = 0;
	char snap[16];
	char what[80];

	(void)snprintf(snap, sizeof(snap), "v%u", version);
	for (int i = 0; i < RUNS; i++) {
		const char *argv[] = {"cat", NULL};
		struct rig_vm vm;
		json_t *r;

		rig_launch(g, &vm, argv, 16ULL << 20, NULL);
		r = rig_call(g, "view.map",
		    json_pack("{s:s,s:s}", "vm", vm.ref, "snapshot", snap),
		    NULL, 0);
		took[i] = (double)rig_u64(r, "map_ns") / 1000;
		if (i == 0) {
			extents = (double)rig_u64(r, "extents");
			vmas = (double)count_vmas(vm.monitor);
			added = layer_mib(g) - added;
			(void)snprintf(what, sizeof(what),
			    "version %u: first map", version);
			bench_value(what, "us", took[0]);
		}
		json_decref(r);
		rig_end(g, &vm);
	}
	(void)snprintf(what, sizeof(what), "version %u: later maps", version);
	bench_value(what, "us", bench_median(took + 1, RUNS - 1));
	(void)snprintf(what, sizeof(what), "version %u: extents", version);
	bench_value(what, "-", extents);
	(void)snprintf(what, sizeof(what), "version %u: VMAs", version);
	bench_value(what, "-", vmas);
	(void)snprintf(
	    what, sizeof(what), "version %u: memory added, once", version);
	bench_line(what, "MiB", added, 1024);
}

int main(int argc, char **argv)
{
	static const unsigned marks[] = {1, 10, 100, 1000};
	unsigned last = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 1000;
	struct rig_vm prod;
	struct rig g;
	char line[64 << 10];
	char name[16];

	rig_start(&g);
	bench_head("readers of a frozen 1 GiB");
	producer(&g, &prod);
	freeze_as(&g, &prod, "v0");
	scans(&g);
	together(&g, &prod);
	for (unsigned v = 1; v <= last; v++) {
		(void)fputs("\n", prod.in);
		(void)fflush(prod.in);
		rig_line(&prod, line, sizeof(line));
		(void)snprintf(name, sizeof(name), "v%u", v);
		freeze_as(&g, &prod, name);
	}
	for (unsigned i = 0; i < 4 && marks[i] <= last; i++)
		map_version(&g, marks[i]);
	rig_end(&g, &prod);
	rig_stop(&g);
	return 0;
}
