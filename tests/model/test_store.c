/* SPDX-License-Identifier: MIT */
/* wrap: malloc calloc realloc memfd_create open pread pwrite fcntl */
/*
 * What holds snapshots against arrays of stamps: random freezes, drops and
 * tidying, with one call on the way failing now and then. Every page of every
 * snapshot has its bytes whatever was moved; after a tidy that left nothing
 * undone, what is held is bounded. FIRN_SEED=N repeats a run.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/chance.h"
#include "tests/unit/failmem.h"
#include "tests/unit/layersets.h"
#include "tests/unit/unit.h"
#include "vmm/layer/filetab.h"
#include "vmm/layer/layer_copy.h"
#include "vmm/layer/tidy.h"

#define NPAGES 600
#define NSNAPS 40
#define STEPS  4000
#define PINS   4

struct world {
	uint64_t rng;
	struct layer_set *set;
	struct map_store st;
	uint64_t now[NPAGES]; /* the place: a stamp a page, 0: zero */
	struct map cur;
	uint64_t stamp; /* the last given */
	bool alive[NSNAPS];
	struct map snap[NSNAPS];
	uint64_t was[NSNAPS][NPAGES];
	uint32_t pin[PINS];
	bool pinned[PINS];
	struct tidy *job; /* begun and not ended */
	bool job_marks;
	long merged; /* files, by jobs that did not mark */
};

/* --- failing calls -------------------------------------------------------- */

int __real_memfd_create(const char *name, unsigned flags);
int __wrap_memfd_create(const char *name, unsigned flags);
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
ssize_t __real_pread(int fd, void *buf, size_t n, off_t at);
ssize_t __wrap_pread(int fd, void *buf, size_t n, off_t at);
ssize_t __real_pwrite(int fd, const void *buf, size_t n, off_t at);
ssize_t __wrap_pwrite(int fd, const void *buf, size_t n, off_t at);
int __real_fcntl(int fd, int cmd, ...);
int __wrap_fcntl(int fd, int cmd, ...);

int __wrap_memfd_create(const char *name, unsigned flags)
{
	if (!fails())
		return __real_memfd_create(name, flags);
	errno = EMFILE;
	return -1;
}

int __wrap_open(const char *path, int flags, ...)
{
	if (!fails())
		return __real_open(path, flags);
	errno = ENFILE;
	return -1;
}

ssize_t __wrap_pread(int fd, void *buf, size_t n, off_t at)
{
	if (!fails())
		return __real_pread(fd, buf, n, at);
	errno = EIO;
	return -1;
}

ssize_t __wrap_pwrite(int fd, const void *buf, size_t n, off_t at)
{
	if (!fails())
		return __real_pwrite(fd, buf, n, at);
	errno = ENOSPC;
	return -1;
}

int __wrap_fcntl(int fd, int cmd, ...)
{
	va_list ap;
	long arg;

	va_start(ap, cmd);
	arg = va_arg(ap, long);
	va_end(ap);
	if (!fails())
		return __real_fcntl(fd, cmd, arg);
	errno = ENOMEM;
	return -1;
}

/* --- the world ------------------------------------------------------------ */

static uint64_t rnd(struct world *w, uint64_t below)
{
	return chance(&w->rng, below);
}

static void put_page(int fd, uint64_t index, uint64_t stamp)
{
	uint64_t page[PAGE_SIZE / 8];

	for (size_t i = 0; i < PAGE_SIZE / 8; i++)
		page[i] = stamp;
	assert_int_equal(
	    pwrite(fd, page, PAGE_SIZE, (off_t)(index * PAGE_SIZE)), PAGE_SIZE);
}

/* Write some pages of the place, and put what was written over its map, as a
 * freeze does. */
static void freeze_from(struct world *w, uint64_t first, uint64_t longest)
{
	struct page_run r[NPAGES];
	size_t n = 0;
	uint64_t copied = 0;
	struct map next;
	struct err e;
	uint32_t id;
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	for (uint64_t p = first; p < NPAGES && n < NPAGES;
	     p += 1 + rnd(w, longest)) {
		bool zero = rnd(w, 10) == 0;

		w->now[p] = zero ? 0 : ++w->stamp;
		r[n++] = (struct page_run){.page = p,
		    .npages = 1,
		    .index = zero ? 0 : copied,
		    .layer = zero ? RUN_ZERO : 0};
		if (!zero)
			put_page(fd, copied++, w->now[p]);
	}
	if (copied == 0)
		put_page(fd, copied++, 0);
	assert_int_equal(
	    fcntl(fd, F_ADD_SEALS,
		F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
	    0);
	assert_int_equal(layer_adopt(w->set, fd, copied, &id, &e), 0);
	layer_belongs(w->set, id, 1);
	for (size_t i = 0; i < n; i++)
		if (r[i].layer == 0)
			r[i].layer = id;
	assert_int_equal(map_apply(&w->st, &w->cur, r, n, &next), 0);
	layer_put(w->set, id);
	map_put(&w->st, &w->cur);
	w->cur = next;
}

static void freeze(struct world *w)
{
	freeze_from(
	    w, rnd(w, NPAGES), rnd(w, 8) == 0 ? NPAGES : 1 + rnd(w, 30));
}

static void snap(struct world *w)
{
	uint64_t i = rnd(w, NSNAPS);

	if (w->alive[i])
		map_put(&w->st, &w->snap[i]);
	w->alive[i] = true;
	w->snap[i] = map_get(&w->st, &w->cur);
	memcpy(w->was[i], w->now, sizeof(w->now));
}

/* Go back: the place shows a snapshot, as a cow view would. */
static void rewind_to(struct world *w)
{
	uint64_t i = rnd(w, NSNAPS);

	if (!w->alive[i])
		return;
	map_put(&w->st, &w->cur);
	w->cur = map_get(&w->st, &w->snap[i]);
	memcpy(w->now, w->was[i], sizeof(w->now));
}

static void drop(struct world *w, uint64_t i)
{
	if (w->alive[i])
		map_put(&w->st, &w->snap[i]);
	w->alive[i] = false;
}

/* One page of what there is survives: the rest of its layers is dead. */
static void keep_one_page(struct world *w)
{
	struct page_run r[2] = {{.layer = RUN_ZERO}, {.layer = RUN_ZERO}};
	uint64_t keep = rnd(w, NPAGES);
	struct map next;
	size_t n = 0;

	if (keep > 0)
		r[n++].npages = keep;
	if (keep + 1 < NPAGES) {
		r[n].page = keep + 1;
		r[n++].npages = NPAGES - keep - 1;
	}
	assert_int_equal(map_apply(&w->st, &w->cur, r, n, &next), 0);
	map_put(&w->st, &w->cur);
	w->cur = next;
	for (uint64_t p = 0; p < NPAGES; p++)
		if (p != keep)
			w->now[p] = 0;
	for (uint64_t i = 0; i < NSNAPS; i++)
		if (rnd(w, 8) != 0)
			drop(w, i);
}

static void reap(struct world *w)
{
	int fd;

	while ((fd = layer_reap_take(w->set)) >= 0)
		assert_int_equal(close(fd), 0);
}

static void toggle_pin(struct world *w)
{
	uint64_t i = rnd(w, PINS);
	uint32_t pos = 0;
	uint32_t n = (uint32_t)rnd(w, 20);

	if (w->pinned[i]) {
		lfile_unpin(w->set, w->pin[i]);
		w->pinned[i] = false;
		return;
	}
	while (lfile_next(w->set, &pos, &w->pin[i]))
		if (n-- == 0) {
			lfile_pin(w->set, w->pin[i]);
			w->pinned[i] = true;
			return;
		}
}

/* --- looking at it -------------------------------------------------------- */

static int add_run(void *ctx, const struct page_run *r)
{
	struct page_run **at = ctx;

	*(*at)++ = *r;
	return 0;
}

static void check_page(int fd, uint64_t index, uint64_t stamp)
{
	uint64_t page[PAGE_SIZE / 8];

	assert_int_equal(
	    pread(fd, page, PAGE_SIZE, (off_t)(index * PAGE_SIZE)), PAGE_SIZE);
	for (size_t i = 0; i < PAGE_SIZE / 8; i++)
		assert_int_equal(page[i], stamp);
}

static void check_map(
    struct world *w, const struct map *m, const uint64_t *want)
{
	struct page_run run[NPAGES];
	struct page_run *end = run;
	struct page_run *to = NULL;
	struct filetab t = {0};
	uint64_t page = 0;
	size_t n = 0;

	assert_int_equal(map_walk(m, 0, NPAGES, add_run, &end), 0);
	assert_int_equal(filetab_want(&t, run, (size_t)(end - run)), 0);
	assert_int_equal(filetab_fill(&t, w->set), 0);
	assert_int_equal(
	    filetab_runs(&t, run, (size_t)(end - run), NPAGES, &to, &n), 0);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(to[i].page, page);
		for (uint64_t k = 0; k < to[i].npages; k++, page++)
			if (to[i].layer == RUN_ZERO)
				assert_int_equal(want[page], 0);
			else
				check_page(t.fd[to[i].layer], to[i].index + k,
				    want[page]);
	}
	assert_int_equal(page, NPAGES);
	free(to);
	filetab_free(&t);
}

static void check_all(struct world *w)
{
	check_map(w, &w->cur, w->now);
	for (int i = 0; i < NSNAPS; i++)
		if (w->alive[i])
			check_map(w, &w->snap[i], w->was[i]);
}

/* The sums that are kept are those of the kernel. */
static void check_sums(struct world *w)
{
	struct layer_totals sum;
	uint64_t bytes = 0;
	uint32_t files = 0;
	uint32_t pos = 0;
	uint32_t file;

	reap(w);
	layer_set_totals(w->set, &sum);
	while (lfile_next(w->set, &pos, &file)) {
		struct stat sb;

		assert_int_equal(fstat(lfile_fd(w->set, file), &sb), 0);
		bytes += (uint64_t)sb.st_blocks * 512;
		files++;
	}
	assert_int_equal(sum.bytes, bytes);
	assert_int_equal(sum.files, files);
}

/* Reachable pages, by stamp, as often as they were frozen to be told apart. */
static uint64_t live_pages(struct world *w)
{
	bool *seen = calloc(w->stamp + 1, sizeof(*seen));
	uint64_t n = 0;

	for (int i = -1; i < NSNAPS; i++) {
		const uint64_t *s = i < 0 ? w->now : w->was[i];

		for (int p = 0; (i < 0 || w->alive[i]) && p < NPAGES; p++) {
			n += s[p] != 0 && !seen[s[p]];
			seen[s[p]] = true;
		}
	}
	free(seen);
	return n;
}

/* --- tidying -------------------------------------------------------------- */

static void begin(struct world *w, bool mark)
{
	struct tidy_conf conf = {.mark = mark};

	assert_int_equal(tidy_begin(w->set, &w->st, &conf, &w->job), 0);
	w->job_marks = mark;
}

static int end(struct world *w, struct tidy_result *r)
{
	struct err e = {0};
	int rc;

	tidy_run(w->job, NULL);
	rc = tidy_end(w->job, r, &e);
	assert_int_equal(rc, e.code);
	w->job = NULL;
	w->merged += w->job_marks ? 0 : r->from_files;
	return rc;
}

/* With nothing left to do: at most twice what is reachable, and what is
 * pinned. */
static void check_bound(struct world *w)
{
	struct layer_totals sum;
	struct tidy_result r;
	uint64_t live = live_pages(w) * PAGE_SIZE;

	do {
		begin(w, true);
		assert_int_equal(end(w, &r), 0);
		assert_true(r.marked);
		assert_int_equal(r.live_bytes, live);
		reap(w);
	} while (r.from_files != 0);
	layer_set_totals(w->set, &sum);
	assert_true(sum.bytes <= 2 * live + sum.pinned_bytes);
	assert_true(sum.files - sum.pinned_files <= TIDY_FILES);
}

/* A job that fails somewhere moves nothing, and loses nothing. */
static void tidy_failing(struct world *w)
{
	struct tidy_conf conf = {.mark = rnd(w, 2) == 0};
	struct tidy_result r = {0};
	struct err e = {0};
	int rc;

	fail_at = (long)rnd(w, 60);
	rc = tidy_begin(w->set, &w->st, &conf, &w->job);
	if (rc == 0) {
		tidy_run(w->job, NULL);
		rc = tidy_end(w->job, &r, &e);
	}
	w->job = NULL;
	fail_at = -1;
	assert_true(rc == 0 || r.from_files == 0);
}

/* More files than there may be, all of them in use: they are merged without a
 * mark. */
static void pile(struct world *w)
{
	struct tidy_result r;

	for (uint64_t p = 0; p < NPAGES; p += 4)
		freeze_from(w, p, 2 * NPAGES);
	begin(w, false);
	assert_int_equal(end(w, &r), 0);
	assert_false(r.marked);
	reap(w);
	check_map(w, &w->cur, w->now);
}

static void step(struct world *w)
{
	struct tidy_result r;

	switch (rnd(w, 12)) {
	case 0:
		rewind_to(w);
		break;
	case 1:
		drop(w, rnd(w, NSNAPS));
		break;
	case 2:
		toggle_pin(w);
		break;
	case 3:
		/* The world goes on while a job is under way. */
		if (w->job == NULL)
			begin(w, rnd(w, 2) == 0);
		else
			(void)end(w, &r);
		break;
	case 4:
		if (w->job == NULL)
			tidy_failing(w);
		break;
	case 5:
		if (rnd(w, 30) == 0)
			keep_one_page(w);
		break;
	default:
		freeze(w);
		snap(w);
		break;
	}
	reap(w);
}

static void test_against_stamps(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct tidy_result r;

	(void)state;
	w->rng = chance_begin("store");
	w->set = layer_set_new();
	map_store_init(&w->st, layer_set_map_ops(w->set));
	assert_int_equal(map_zero(NPAGES, &w->cur), 0);
	for (int i = 1; i <= STEPS; i++) {
		step(w);
		if (i % 250 != 0)
			continue;
		if (w->job != NULL)
			(void)end(w, &r);
		pile(w);
		check_all(w);
		check_bound(w);
		check_all(w);
		check_sums(w);
	}
	for (uint64_t i = 0; i < NSNAPS; i++)
		drop(w, i);
	for (int i = 0; i < PINS; i++)
		if (w->pinned[i])
			lfile_unpin(w->set, w->pin[i]);
	map_put(&w->st, &w->cur);
	check_sums(w);
	assert_true(w->merged > 0);
	assert_int_equal(layers_in(w->set), 0);
	assert_int_equal(w->st.nnodes, 0);
	layer_set_free(w->set);
	free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_against_stamps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
