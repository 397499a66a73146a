/* SPDX-License-Identifier: MIT */
/* place: memory that comes whole, as a segment of its own, and goes whole. */
#include "tests/unit/place_bench.h"

#include <errno.h>
#include <stdio.h>

#define OWNED (F_SEAL_SHRINK | F_SEAL_GROW)

static int reopen_rw(int fd)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDWR | O_CLOEXEC);
}

/* As the broker makes it; page 3 begins with (value). */
static int memory(int seals, uint32_t value)
{
	int made = __real_memfd_create("firn", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int fd;

	assert_int_equal(__real_ftruncate(made, NPAGES * 4096L), 0);
	assert_int_equal(
	    pwrite(made, &value, sizeof(value), 3 * 4096), sizeof(value));
	assert_int_equal(__real_fcntl(made, F_ADD_SEALS, seals), 0);
	fd = reopen_rw(made);
	assert_true(fd >= 0);
	(void)close(made);
	return fd;
}

static const struct page_run whole = {.npages = NPAGES};

static void test_adopt(void **state)
{
	struct kvmplaces *g = *state;
	struct place_frozen f;
	struct place_info info;
	struct err e = {0};
	int first = memory(OWNED, 42);
	int fresh = memory(OWNED, 0);
	int fds = count_fds();
	struct place *p;
	int got;
	int own;

	assert_int_equal(open_view(g, PLACE_SEGMENT, &whole, 1, first, &p), 0);
	place_info(p, &info);
	assert_int_equal(info.kind, PLACE_SEGMENT);
	assert_int_equal(at(p, 3), 42);
	assert_int_equal(place_sever(g->ps, p, fresh, &f, &e), 0);
	assert_int_equal(f.copied_pages, 0);
	assert_int_equal(f.nsteps, 1);
	assert_true(f.step[0].owned && f.step[0].severed && f.step[0].first);
	assert_int_equal(
	    __real_fcntl(f.step[0].layer_fd, F_GET_SEALS, 0), OWNED);
	assert_int_equal(at(p, 3), 0);
	/* Until it is taken it is told again, and nothing else happens. */
	memset(info.hva, 5, 4096);
	assert_int_equal(place_close(g->ps, p, &e), -EBUSY);
	assert_int_equal(place_sever(g->ps, p, fresh, &f, &e), 0);
	assert_int_equal(f.nsteps, 1);
	assert_int_equal(at(p, 0), 0x05050505);
	got = __real_fcntl(f.step[0].layer_fd, F_DUPFD_CLOEXEC, 3);
	place_frozen_done(p, f.nsteps);
	(void)close(first);
	own = reopen_rw(got);
	(void)close(got);
	assert_int_equal(__real_fcntl(own, F_SETLEASE, F_WRLCK), 0);
	(void)close(own);
	assert_int_equal(place_close(g->ps, p, &e), 0);
	assert_int_equal(count_fds(), fds - 1);
	(void)close(fresh);
}

static void test_adopt_refuses(void **state)
{
	struct kvmplaces *g = *state;
	int good = memory(OWNED, 42);
	int sealed = memory(SEALS, 42);
	int loose = memory(F_SEAL_SHRINK, 42);
	int ro = reopen(good);
	struct page_run beyond = {.npages = NPAGES + 1};
	int maps = count_maps();
	struct place *p;

	assert_int_equal(
	    open_view(g, PLACE_SEGMENT, &whole, 1, sealed, &p), -EPERM);
	assert_int_equal(
	    open_view(g, PLACE_SEGMENT, &whole, 1, loose, &p), -EPERM);
	assert_int_equal(
	    open_view(g, PLACE_SEGMENT, &whole, 1, ro, &p), -EPERM);
	assert_int_equal(
	    open_view(g, PLACE_SEGMENT, &whole, 1, good, &p), -EBUSY);
	(void)close(ro);
	assert_int_equal(
	    open_view(g, PLACE_SEGMENT, &beyond, 1, good, &p), -ERANGE);
	assert_int_equal(
	    place_make_of(g->ps, "m", 4096, good, &p, NULL), -ERANGE);
	assert_int_equal(count_maps(), maps);
	assert_int_equal(open_view(g, PLACE_SEGMENT, &whole, 1, good, &p), 0);
	(void)close(good);
	(void)close(sealed);
	(void)close(loose);
}

static int op_adopt(struct kvmplaces *g, int fd, struct place **p)
{
	struct place_view v = {.name = "own",
	    .kind = PLACE_SEGMENT,
	    .npages = NPAGES,
	    .runs = &whole,
	    .nruns = 1,
	    .layer_fd = &fd,
	    .nlayers = 1};

	return place_open(g->ps, &v, p, NULL);
}

/* A failure at each call; then it is nobody's still, and can be adopted. */
static void test_fail_adopt(void **state)
{
	int failures = 0;

	for (enum seam s = 0; s < NSEAMS; s++)
		for (int n = 1; n < TIMES; n++) {
			struct kvmplaces *g;
			struct place *p;
			int fd = memory(OWNED, 42);
			int fds;
			int r;

			assert_int_equal(setup(state), 0);
			g = *state;
			fds = count_fds();
			fail_in[s] = n;
			r = op_adopt(g, fd, &p);
			failures += fail_in[s] == 0;
			n = fail_in[s] == 0 ? n : TIMES;
			fail_in[s] = 0;
			if (r < 0) {
				assert_true(r == -ENOMEM || r == -EPERM);
				assert_int_equal(count_fds(), fds);
				assert_int_equal(op_adopt(g, fd, &p), 0);
			}
			assert_int_equal(at(p, 3), 42);
			(void)teardown(state);
			(void)close(fd);
		}
	assert_true(failures > 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_adopt),
	    TEST(test_adopt_refuses),
	    cmocka_unit_test(test_fail_adopt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
