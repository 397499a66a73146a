/* SPDX-License-Identifier: MIT */
/* The registry of layers against real memfds, and the work on their bytes. */
#include "vmm/layer/layer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/unit/layersets.h"
#include "tests/unit/unit.h"
#include "vmm/layer/layer_copy.h"
#include "vmm/layer/tidy.h"

#define LIST(r, n) ((struct run_list){(r), (n)})
#define SEALS      (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* A memfd of (len) bytes; page p holds bytes (first + p). */
static int memfd_of(size_t len, int seals, int first)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	unsigned char page[PAGE_SIZE];

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)len), 0);
	for (size_t at = 0; at + PAGE_SIZE <= len; at += PAGE_SIZE) {
		memset(page, first + (int)(at / PAGE_SIZE), PAGE_SIZE);
		assert_int_equal(
		    pwrite(fd, page, PAGE_SIZE, (off_t)at), PAGE_SIZE);
	}
	if (seals != 0)
		assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static int setup(void **state)
{
	*state = layer_set_new();
	assert_non_null(*state);
	return 0;
}

static int teardown(void **state)
{
	layer_set_free(*state);
	return 0;
}

static uint32_t adopt(struct layer_set *set, uint64_t npages, int first)
{
	struct err e;
	uint32_t id;

	assert_int_equal(
	    layer_adopt(set, memfd_of(npages * PAGE_SIZE, SEALS, first), npages,
		&id, &e),
	    0);
	return id;
}

static void test_adopt(void **state)
{
	struct layer_set *set = *state;
	int fd = memfd_of(3 * PAGE_SIZE, SEALS, 1);
	struct layer_totals sum;
	struct layer_stat st;
	struct err e;
	uint32_t id;

	assert_int_equal(layer_adopt(set, fd, 2, &id, &e), 0);
	assert_int_equal(layer_npages(set, id), 3);
	fd = layer_fd(set, id);
	assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fallocate(fd, 0, 0, 8 * PAGE_SIZE), -1);
	assert_int_equal(errno, EBADF);
	assert_int_equal(layer_stat(set, id, &st, &e), 0);
	assert_true(st.sealed);
	assert_int_equal(st.bytes, 3 * PAGE_SIZE);
	assert_int_equal(st.npieces, 1);
	assert_int_equal(st.holds, 1);
	assert_int_equal(st.entries, 0);
	layer_set_totals(set, &sum);
	assert_int_equal(sum.bytes, 3 * PAGE_SIZE);
	assert_int_equal(layer_stat(set, id + 1, &st, &e), -ENOENT);
	assert_int_equal(layer_fd(set, id + 1), -ENOENT);
	assert_int_equal(layer_npages(set, id + 1), 0);
}

/* Refused with (code), the set as it was, and (fd) left, which this closes. */
static void refuse(struct layer_set *set, int fd, uint64_t npages, int code)
{
	uint32_t count = layers_in(set);
	struct err e = {.code = 0};
	uint32_t id;

	assert_int_equal(layer_adopt(set, fd, npages, &id, &e), code);
	assert_int_equal(e.code, code);
	assert_true(strlen(e.msg) > 10);
	assert_int_equal(layers_in(set), count);
	assert_int_equal(layer_reap_take(set), -1);
	if (fd >= 0)
		assert_int_equal(close(fd), 0);
}

static void test_refuses_seals(void **state)
{
	struct layer_set *set = *state;
	static const int bits[] = {
	    F_SEAL_WRITE, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL};

	refuse(set, memfd_of(PAGE_SIZE, 0, 1), 1, -EPERM);
	for (int i = 0; i < 4; i++)
		refuse(
		    set, memfd_of(PAGE_SIZE, SEALS & ~bits[i], 1), 1, -EPERM);
	refuse(set, memfd_of(PAGE_SIZE, SEALS | F_SEAL_FUTURE_WRITE, 1), 1,
	    -EPERM);
}

static void test_refuses_others(void **state)
{
	struct layer_set *set = *state;
	int pipes[2];

	assert_int_equal(pipe(pipes), 0);
	refuse(set, pipes[0], 1, -EINVAL);
	(void)close(pipes[1]);
	refuse(set, open("/dev/null", O_RDONLY | O_CLOEXEC), 1, -EINVAL);
	refuse(set, open("/", O_RDONLY | O_CLOEXEC), 1, -EINVAL);
	refuse(set, open("/proc/self/exe", O_RDONLY | O_CLOEXEC), 1, -EINVAL);
	refuse(set, -1, 1, -EBADF);
}

static void test_refuses_sizes(void **state)
{
	struct layer_set *set = *state;

	refuse(set, memfd_of(0, SEALS, 1), 0, -EINVAL);
	refuse(set, memfd_of(PAGE_SIZE + 1, SEALS, 1), 1, -EINVAL);
	refuse(set, memfd_of(PAGE_SIZE, SEALS, 1), 2, -ERANGE);
	refuse(set, memfd_of(PAGE_SIZE, SEALS, 1), UINT64_MAX, -ERANGE);
}

static void test_too_large(void **state)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_int_equal(
	    ftruncate(fd, (off_t)((LAYER_NPAGES_MAX + 1) * PAGE_SIZE)), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
	refuse(*state, fd, 1, -ERANGE);
}

static void test_no_descriptors(void **state)
{
	struct layer_set *set = *state;
	struct rlimit was;
	struct rlimit none;
	int fd = memfd_of(PAGE_SIZE, SEALS, 1);

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
	none = (struct rlimit){.rlim_cur = 0, .rlim_max = was.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	refuse(set, fd, 1, -EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
	(void)adopt(set, 1, 1);
}

static void test_holds_and_reap(void **state)
{
	struct layer_set *set = *state;
	uint32_t a = adopt(set, 1, 1);
	uint32_t b = adopt(set, 1, 2);
	int fd_a = layer_fd(set, a);
	int fd_b = layer_fd(set, b);

	layer_get(set, a);
	layer_put(set, a);
	assert_int_equal(layer_reap_take(set), -1);
	layer_put(set, b);
	layer_put(set, a);
	assert_int_equal(layers_in(set), 0);
	assert_int_equal(layer_fd(set, a), -ENOENT);
	assert_int_equal(layer_reap_take(set), fd_b);
	assert_int_equal(layer_reap_take(set), fd_a);
	assert_int_equal(layer_reap_take(set), -1);
	assert_int_equal(close(fd_a), 0);
	assert_int_equal(close(fd_b), 0);
	assert_true(adopt(set, 1, 1) > b);
}

/* The table grows, ids stay unique, the limit is told. */
static void test_many(void **state)
{
	struct layer_set *set = *state;
	uint32_t ids[300];
	uint32_t pos = 0;
	uint32_t id;
	uint32_t seen = 0;

	for (int i = 0; i < 300; i++)
		ids[i] = adopt(set, 1, i);
	for (int i = 0; i < 300; i += 3)
		layer_put(set, ids[i]);
	for (int i = 0; i < 300; i++)
		assert_int_equal(layer_npages(set, ids[i]), i % 3 != 0);
	while (layer_next(set, &pos, &id)) {
		assert_true(id == ids[id - ids[0]] && (id - ids[0]) % 3 != 0);
		seen++;
	}
	assert_int_equal(seen, 200);
	assert_int_equal(layers_in(set), 200);
}

/* No layer can be added, but what they are in can become less. */
static void merge_full(struct layer_set *set)
{
	struct tidy_conf conf = {0};
	struct tidy_result r;
	struct map_store st;
	struct tidy *job;
	struct err e = {0};
	uint32_t n = 0;

	map_store_init(&st, layer_set_map_ops(set));
	assert_int_equal(tidy_begin(set, &st, &conf, &job), 0);
	tidy_run(job, NULL);
	if (tidy_end(job, &r, &e) != 0)
		fail_msg("%s", e.msg);
	assert_true(r.from_files > FILES_MAX / 2 - 2);
	for (int fd; (fd = layer_reap_take(set)) >= 0; n++)
		assert_int_equal(close(fd), 0);
	assert_int_equal(n, r.from_files);
}

static void test_limit(void **state)
{
	struct layer_set *set = *state;
	struct rlimit lim;
	uint32_t last = 0;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &lim), 0);
	if (lim.rlim_max < FILES_MAX + 100)
		skip();
	lim.rlim_cur = lim.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &lim), 0);
	for (uint32_t i = 0; i < FILES_MAX - 1; i++) {
		last = adopt(set, 1, 0);
		layer_belongs(set, last, 1);
	}
	refuse(set, memfd_of(PAGE_SIZE, SEALS, 1), 1, -ENOSPC);
	layer_put(set, last);
	assert_int_equal(close(layer_reap_take(set)), 0);
	last = adopt(set, 1, 0);
	layer_belongs(set, last, 1);
	refuse(set, memfd_of(PAGE_SIZE, SEALS, 1), 1, -ENOSPC);
	merge_full(set);
	(void)adopt(set, 1, 0);
}

/* Maps hold the layers that they name. */
static void test_map_holds(void **state)
{
	struct layer_set *set = *state;
	struct map_store st;
	struct map zero;
	struct map m;
	struct page_run r = {.page = 3, .npages = 50};
	int fd;

	map_store_init(&st, layer_set_map_ops(set));
	assert_int_equal(map_zero(1000, &zero), 0);
	r.layer = adopt(set, 50, 1);
	fd = layer_fd(set, r.layer);
	assert_int_equal(map_apply(&st, &zero, &r, 1, &m), 0);
	layer_put(set, r.layer);
	assert_int_equal(layer_reap_take(set), -1);
	map_put(&st, &m);
	assert_int_equal(layer_reap_take(set), fd);
	assert_int_equal(close(fd), 0);
	map_put(&st, &zero);
}

/* --- copy ----------------------------------------------------------------- */

static struct page_run run_of(
    uint64_t page, uint64_t npages, uint32_t layer, uint64_t index)
{
	return (struct page_run){
	    .page = page, .npages = npages, .index = index, .layer = layer};
}

static void expect_page(int fd, uint64_t index, int byte)
{
	unsigned char want[PAGE_SIZE];
	unsigned char page[PAGE_SIZE];

	memset(want, byte, PAGE_SIZE);
	assert_int_equal(
	    pread(fd, page, PAGE_SIZE, (off_t)(index * PAGE_SIZE)), PAGE_SIZE);
	assert_memory_equal(page, want, PAGE_SIZE);
}

static void test_copy(void **state)
{
	int fd[2] = {memfd_of(200 * PAGE_SIZE, SEALS, 1),
	    memfd_of(10 * PAGE_SIZE, SEALS, 101)};
	struct page_run r[4] = {run_of(5, 150, 0, 20),
	    run_of(200, 9, RUN_ZERO, 0), run_of(300, 2, 1, 3),
	    run_of(400, 1, 0, 0)};
	atomic_ullong progress = 0;
	struct layer_job job = {
	    .layer_fd = fd, .nfds = 2, .progress = &progress};
	struct layer_copied out;
	struct layer_set *set = *state;
	struct err e;
	uint32_t id;

	assert_int_equal(layer_copy_runs(&job, LIST(r, 4), r, &out, &e), 0);
	assert_int_equal(out.npages, 153);
	assert_int_equal(progress, 153);
	for (uint64_t i = 0; i < 150; i++)
		expect_page(out.fd, i, (int)(21 + i));
	expect_page(out.fd, 150, 104);
	expect_page(out.fd, 152, 1);
	assert_int_equal(r[0].layer, 0);
	assert_int_equal(r[0].index, 0);
	assert_int_equal(r[1].layer, RUN_ZERO);
	assert_int_equal(r[2].index, 150);
	assert_int_equal(r[3].index, 152);
	assert_int_equal(r[3].page, 400);
	assert_int_equal(layer_adopt(set, out.fd, out.npages, &id, &e), 0);
	(void)close(fd[0]);
	(void)close(fd[1]);
}

static void test_copy_zero_and_refusals(void **state)
{
	int fd = memfd_of(10 * PAGE_SIZE, SEALS, 1);
	struct page_run r = run_of(5, 150, RUN_ZERO, 0);
	struct page_run to;
	atomic_bool cancel = false;
	struct layer_job job = {.layer_fd = &fd, .nfds = 1, .cancel = &cancel};
	struct layer_copied out;
	struct err e;

	(void)state;
	assert_int_equal(layer_copy_runs(&job, LIST(&r, 1), &to, &out, &e), 0);
	assert_int_equal(out.fd, -1);
	assert_int_equal(out.npages, 0);
	assert_int_equal(to.layer, RUN_ZERO);
	r = run_of(0, 1, 1, 0);
	assert_int_equal(
	    layer_copy_runs(&job, LIST(&r, 1), &to, &out, &e), -EINVAL);
	r = run_of(0, 11, 0, 0);
	assert_int_equal(
	    layer_copy_runs(&job, LIST(&r, 1), &to, &out, &e), -ERANGE);
	r = run_of(0, (1ULL << 28) + 1, 0, 0);
	assert_int_equal(
	    layer_copy_runs(&job, LIST(&r, 1), &to, &out, &e), -EFBIG);
	r = run_of(0, 1, 0, UINT64_MAX / PAGE_SIZE);
	assert_int_equal(
	    layer_copy_runs(&job, LIST(&r, 1), &to, &out, &e), -EFBIG);
	r = run_of(0, 2, 0, 0);
	cancel = true;
	assert_int_equal(
	    layer_copy_runs(&job, LIST(&r, 1), &to, &out, &e), -ECANCELED);
	(void)close(fd);
}

/* --- compare -------------------------------------------------------------- */

struct list {
	struct page_run r[16];
	size_t n;
};

static int collect(void *ctx, uint64_t page, uint64_t npages)
{
	struct list *l = ctx;

	assert_true(l->n < 16);
	l->r[l->n++] = run_of(page, npages, 0, 0);
	return 0;
}

static int refuse_extent(void *ctx, uint64_t page, uint64_t npages)
{
	(void)ctx;
	(void)page;
	(void)npages;
	return -ENOSPC;
}

static void test_compare(void **state)
{
	/* Page p of 0 is p + 1, of 1 is p + 3; 2 has only holes. */
	int fd[3] = {memfd_of(200 * PAGE_SIZE, SEALS, 1),
	    memfd_of(200 * PAGE_SIZE, SEALS, 3), -1};
	struct page_run a[3] = {
	    run_of(0, 100, 0, 2), run_of(100, 4, 2, 0), run_of(200, 3, 0, 0)};
	struct page_run b[4] = {run_of(0, 70, 1, 0), run_of(70, 30, 1, 100),
	    run_of(100, 4, RUN_ZERO, 0), run_of(200, 3, 0, 0)};
	struct layer_job job = {.layer_fd = fd, .nfds = 3};
	struct list l = {.n = 0};
	struct err e;

	(void)state;
	fd[2] = memfd_create("holes", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd[2], 4 * PAGE_SIZE), 0);
	assert_int_equal(
	    layer_compare_runs(&job, LIST(a, 3), LIST(b, 4), collect, &l, &e),
	    0);
	assert_int_equal(l.n, 1);
	assert_int_equal(l.r[0].page, 70);
	assert_int_equal(l.r[0].npages, 30);
	l.n = 0;
	a[1] = run_of(100, 4, 0, 0);
	b[3] = run_of(200, 3, RUN_ZERO, 0);
	assert_int_equal(
	    layer_compare_runs(&job, LIST(a, 3), LIST(b, 4), collect, &l, &e),
	    0);
	assert_int_equal(l.n, 2);
	assert_int_equal(l.r[0].npages, 34);
	assert_int_equal(l.r[1].page, 200);
	assert_int_equal(l.r[1].npages, 3);
	assert_int_equal(layer_compare_runs(&job, LIST(a, 3), LIST(b, 4),
			     refuse_extent, NULL, &e),
	    -ENOSPC);
	for (int i = 0; i < 3; i++)
		(void)close(fd[i]);
}

static void test_compare_refusals(void **state)
{
	int fd = memfd_of(10 * PAGE_SIZE, SEALS, 1);
	struct page_run a = run_of(0, 10, 0, 0);
	struct page_run b[2] = {
	    run_of(0, 5, RUN_ZERO, 0), run_of(6, 5, RUN_ZERO, 0)};
	atomic_bool cancel = false;
	struct layer_job job = {.layer_fd = &fd, .nfds = 1, .cancel = &cancel};
	struct list l = {.n = 0};
	struct err e;

	(void)state;
	assert_int_equal(
	    layer_compare_runs(&job, LIST(&a, 1), LIST(b, 1), collect, &l, &e),
	    -EINVAL);
	assert_int_equal(
	    layer_compare_runs(&job, LIST(&a, 1), LIST(b, 2), collect, &l, &e),
	    -EINVAL);
	assert_int_equal(layer_compare_runs(
			     &job, LIST(b, 2), LIST(NULL, 0), collect, &l, &e),
	    -EINVAL);
	job.nfds = 0;
	assert_int_equal(
	    layer_compare_runs(&job, LIST(&a, 1), LIST(&a, 1), collect, &l, &e),
	    -EINVAL);
	job.nfds = 1;
	cancel = true;
	assert_int_equal(
	    layer_compare_runs(&job, LIST(&a, 1), LIST(&a, 1), collect, &l, &e),
	    -ECANCELED);
	cancel = false;
	b[0].npages = 11;
	a.npages = 11;
	assert_int_equal(
	    layer_compare_runs(&job, LIST(&a, 1), LIST(b, 1), collect, &l, &e),
	    -ERANGE);
	(void)close(fd);
}

/* A file says who has opened it, and what of it is alive; the next file in its
 * slot is another. */
static void test_opened_and_counted(void **state)
{
	struct layer_set *set = *state;
	uint32_t id = adopt(set, 2, 2);
	uint32_t n;
	uint32_t file = layer_pieces(set, id, &n)->file;
	struct layer_totals sum;
	struct lfile_stat st;
	uint64_t serial;

	lfile_stat(set, file, &st);
	serial = st.serial;
	assert_int_equal(st.openers, 0);
	assert_int_equal(st.live, st.bytes);
	lfile_opened(set, file, 0);
	lfile_opened(set, file, LFILE_OPENERS_MAX - 1);
	lfile_opened(set, file, 0);
	lfile_counted(set, file, serial, PAGE_SIZE);
	lfile_counted(set, file, serial + 1, 0);
	lfile_stat(set, file, &st);
	assert_int_equal(st.openers, 1 | 1ULL << 63);
	assert_int_equal(st.live, PAGE_SIZE);
	layer_set_totals(set, &sum);
	assert_int_equal(sum.pinned_files, 1);
	assert_int_equal(sum.pinned_bytes, st.bytes);
	lfile_counted(set, file, serial, 1ULL << 40);
	lfile_stat(set, file, &st);
	assert_int_equal(st.live, st.bytes);
	lfile_get(set, file);
	layer_put(set, id);
	lfile_stat(set, file, &st);
	assert_int_equal(st.live, 0); /* no piece is left in it */
	assert_int_equal(st.openers, 0);
	lfile_put(set, file);
	assert_int_equal(close(layer_reap_take(set)), 0);
	id = adopt(set, 1, 1);
	assert_int_equal(layer_pieces(set, id, &n)->file, file);
	lfile_counted(set, file, serial, 0);
	lfile_stat(set, file, &st);
	assert_int_equal(st.live, st.bytes);
	assert_int_not_equal(st.serial, serial);
	layer_put(set, id);
	assert_int_equal(close(layer_reap_take(set)), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_adopt, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		test_refuses_seals, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		test_refuses_others, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		test_refuses_sizes, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_too_large, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		test_no_descriptors, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		test_holds_and_reap, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		test_opened_and_counted, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_many, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_limit, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_map_holds, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_copy, setup, teardown),
	    cmocka_unit_test(test_copy_zero_and_refusals),
	    cmocka_unit_test(test_compare),
	    cmocka_unit_test(test_compare_refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
