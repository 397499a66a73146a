/* SPDX-License-Identifier: MIT */
/*
 * How much firnd's loop does at once while it has work of others with 100,000
 * extents: the most processor time that it took from a request for next to
 * nothing to its answer, which unlike the wait says nothing of a busy host.
 * Beside the same while firnd has nothing else to do. Usage: bench_loop [N],
 * extents.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "tests/bench/bench.h"
#include "tests/rig.h"

#define EXTENTS 100000u
#define STEP    2u /* every second page */
#define RUNS    5u
#define IDLE_NS 200000000ULL

/* --- who asks for next to nothing ----------------------------------------- */

struct asking {
	struct firn *conn;
	int stat; /* what the loop's thread ran, as the kernel tells */
	pthread_t thread;
	atomic_bool stop;
	double worst_us;
};

/* Of firnd's loop, so far. */
static double loop_us(const struct asking *a)
{
	char buf[80];
	ssize_t n = pread(a->stat, buf, sizeof(buf) - 1, 0);

	if (n <= 0)
		rig_fail("no schedstat of firnd");
	buf[n] = '\0';
	return strtod(buf, NULL) / 1000;
}

static void *ask_on(void *arg)
{
	struct asking *a = arg;

	while (!atomic_load(&a->stop)) {
		struct firn_error e = {0};
		json_t *r = NULL;
		double us = loop_us(a);

		if (firn_call_json(a->conn, "snapshot.list",
			json_pack("{s:i}", "max", 1), NULL, 0, &r, NULL, NULL,
			&e) != 0)
			rig_fail("snapshot.list: %s", e.msg);
		us = loop_us(a) - us;
		if (us > a->worst_us)
			a->worst_us = us;
		json_decref(r);
	}
	return NULL;
}

static void asking_start(struct asking *a)
{
	atomic_store(&a->stop, false);
	a->worst_us = 0;
	if (pthread_create(&a->thread, NULL, ask_on, a) != 0)
		rig_fail("no thread");
}

static double asking_stop(struct asking *a)
{
	atomic_store(&a->stop, true);
	(void)pthread_join(a->thread, NULL);
	return a->worst_us;
}

/* --- the work ------------------------------------------------------------- */

struct bed {
	struct rig g;
	struct rig_vm vm;
	struct asking other;
	uint32_t n;
	double idle_us;
	uint64_t seg;  /* snapshot of the segment as it was */
	uint64_t made; /* the latest */
	uint64_t melded;
	int file; /* to be imported */
};

static double ask(struct bed *b, const char *line)
{
	char buf[160];
	double n = 0;

	(void)fprintf(b->vm.in, "%s\n", line);
	(void)fflush(b->vm.in);
	rig_line(&b->vm, buf, sizeof(buf));
	if (sscanf(buf, "ok %lf", &n) != 1)
		rig_fail("%s: the guest said: %s", line, buf);
	return n;
}

static void scan(struct bed *b, const char *what, const char *how)
{
	char line[80];

	(void)snprintf(line, sizeof(line), "find %s", what);
	(void)ask(b, line);
	(void)snprintf(line, sizeof(line), "scan %s 0 %u %u", how, b->n, STEP);
	(void)ask(b, line);
}

static uint64_t freeze(struct bed *b, const char *what)
{
	json_t *r = rig_call(&b->g, "segment.freeze",
	    json_pack("{s:s,s:s}", "vm", b->vm.ref, "segment", what), NULL, 0);
	uint64_t id = rig_u64(r, "snapshot");

	json_decref(r);
	return id;
}

static void map_view(struct bed *b, uint64_t snap, bool track)
{
	char ref[24];

	(void)snprintf(ref, sizeof(ref), "%" PRIu64, snap);
	json_decref(rig_call(&b->g, "view.map",
	    json_pack("{s:s,s:s,s:s,s:b,s:b}", "vm", b->vm.ref, "snapshot", ref,
		"name", "v", "cow", 1, "track", track),
	    NULL, 0));
}

static void call_done(struct bed *b, const char *method, json_t *params)
{
	int fds[8];
	size_t nfds = 8;
	struct firn_error e = {0};
	json_t *result = NULL;

	if (firn_call_json(b->g.conn, method, params, NULL, 0, &result, fds,
		&nfds, &e) != 0)
		rig_fail("%s: %s", method, e.msg);
	while (nfds > 0)
		(void)close(fds[--nfds]);
	json_decref(result);
}

static void diff_pair(struct bed *b)
{
	char x[24];
	char y[24];

	(void)snprintf(x, sizeof(x), "%" PRIu64, b->seg);
	(void)snprintf(y, sizeof(y), "%" PRIu64, b->made);
	call_done(b, "snapshot.diff", json_pack("{s:s,s:s}", "a", x, "b", y));
}

static void dirty(struct bed *b)
{
	call_done(b, "dirty.query",
	    json_pack("{s:s,s:s,s:s,s:b}", "vm", b->vm.ref, "segment", "data",
		"cursor", "c", "peek", 1));
}

static void track(struct bed *b)
{
	call_done(b, "track.query",
	    json_pack("{s:s,s:s}", "vm", b->vm.ref, "view", "v"));
}

static void write_data(struct bed *b)
{
	scan(b, "data", "write");
}

static void freeze_data(struct bed *b)
{
	b->made = freeze(b, "data");
}

static void freeze_view(struct bed *b)
{
	rig_drop(&b->g, freeze(b, "v"));
}

static void drop_made(struct bed *b)
{
	rig_drop(&b->g, b->made);
}

static void lay_view(struct bed *b)
{
	map_view(b, b->made, false);
}

static void unlay_view(struct bed *b)
{
	json_decref(rig_call(&b->g, "view.unmap",
	    json_pack("{s:s,s:s}", "vm", b->vm.ref, "view", "v"), NULL, 0));
}

static void make_data(struct bed *b)
{
	write_data(b);
	freeze_data(b);
}

static void drop_view(struct bed *b)
{
	unlay_view(b);
	drop_made(b);
}

static void write_file(struct bed *b)
{
	b->file = memfd_create("bench", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (b->file < 0 || ftruncate(b->file, (off_t)b->n * STEP * 4096) != 0)
		rig_fail("no memfd");
	for (uint32_t i = 0; i < b->n; i++)
		if (pwrite(b->file, "x", 1, (off_t)i * STEP * 4096) != 1)
			rig_fail("no memory");
	while (
	    fcntl(b->file, F_ADD_SEALS,
		F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
		if (errno != EBUSY)
			rig_fail("cannot seal");
}

static void import_file(struct bed *b)
{
	json_t *r = rig_call(&b->g, "snapshot.import",
	    json_pack("{s:I}", "pages", (json_int_t)b->n * STEP), &b->file, 1);

	b->made = rig_u64(r, "snapshot");
	json_decref(r);
	(void)close(b->file);
}

/* Of a snapshot that differs in every extent, and none. */
static void meld_made(struct bed *b)
{
	char x[24];
	char y[24];
	json_t *r;

	(void)snprintf(x, sizeof(x), "%" PRIu64, b->seg);
	(void)snprintf(y, sizeof(y), "%" PRIu64, b->made);
	r = rig_call(&b->g, "snapshot.meld",
	    json_pack(
		"{s:s,s:s,s:s,s:b}", "base", x, "a", y, "b", x, "blind", 1),
	    NULL, 0);
	b->melded = rig_u64(r, "snapshot");
	json_decref(r);
}

static void drop_melded(struct bed *b)
{
	rig_drop(&b->g, b->melded);
}

typedef void step_fn(struct bed *b);

/* The most at once while (fn) runs, in the middle. */
static void measure(struct bed *b, const char *what, step_fn *before,
    step_fn *fn, step_fn *after)
{
	double v[RUNS];

	for (uint32_t i = 0; i < RUNS; i++) {
		if (before != NULL)
			before(b);
		asking_start(&b->other);
		fn(b);
		v[i] = asking_stop(&b->other);
		if (after != NULL)
			after(b);
	}
	bench_line(what, "us", bench_median(v, RUNS), b->idle_us);
}

static void idle(struct bed *b)
{
	double v[RUNS];

	for (uint32_t i = 0; i < RUNS; i++) {
		const struct timespec t = {.tv_nsec = IDLE_NS};

		asking_start(&b->other);
		(void)nanosleep(&t, NULL);
		v[i] = asking_stop(&b->other);
	}
	b->idle_us = bench_median(v, RUNS);
}

static void set_up(struct bed *b)
{
	static const char *const guest[] = {"touch", NULL};
	char line[160];

	rig_start_as(&b->g, true);
	rig_launch(&b->g, &b->vm, guest, 64ULL << 20,
	    json_pack("{s:[{s:s,s:I}]}", "segments", "name", "data", "size",
		(json_int_t)b->n * STEP * 4096));
	rig_line(&b->vm, line, sizeof(line));
	b->other.conn = rig_client(&b->g);
	(void)snprintf(line, sizeof(line), "/proc/%d/task/%d/schedstat",
	    (int)b->g.firnd, (int)b->g.firnd);
	b->other.stat = open(line, O_RDONLY | O_CLOEXEC);
	(void)ask(b, "find data");
	(void)snprintf(line, sizeof(line), "scan write 0 %u 1", STEP * b->n);
	(void)ask(b, line);
	b->seg = freeze(b, "data");
	dirty(b); /* from now on it is logged */
}

int main(int argc, char **argv)
{
	struct bed b = {.n = EXTENTS};
	char head[80];

	if (argc > 1)
		b.n = (uint32_t)strtoul(argv[1], NULL, 10);
	set_up(&b);
	idle(&b);
	(void)snprintf(head, sizeof(head),
	    "work of the loop at once, %" PRIu32 " extents; idle", b.n);
	bench_head(head);
	measure(&b, "freeze", write_data, freeze_data, drop_made);
	write_data(&b);
	measure(&b, "dirty.query", NULL, dirty, NULL);
	measure(&b, "view.map, the first", make_data, lay_view, drop_view);
	make_data(&b);
	measure(&b, "snapshot.diff", NULL, diff_pair, NULL);
	measure(&b, "snapshot.meld", NULL, meld_made, drop_melded);
	measure(&b, "view.map", NULL, lay_view, unlay_view);
	map_view(&b, b.seg, true);
	scan(&b, "v", "read");
	scan(&b, "v", "write");
	scan(&b, "v", "read");
	measure(&b, "track.query", NULL, track, NULL);
	freeze_view(&b);
	measure(&b, "freeze of a tracked view", NULL, freeze_view, NULL);
	measure(&b, "snapshot.import", write_file, import_file, drop_made);
	rig_end(&b.g, &b.vm);
	firn_close(b.other.conn);
	rig_stop(&b.g);
	return 0;
}
