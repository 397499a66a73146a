/* SPDX-License-Identifier: MIT */
/* Owned layers: who else has the memory, as the kernel says. */
#include "vmm/layer/layer.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/layersets.h"
#include "tests/unit/unit.h"

#define SEALS  (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define OWNED  (F_SEAL_SHRINK | F_SEAL_GROW)
#define NPAGES 4u

/* Memory as a monitor gets it. */
static int memory(void)
{
	struct err e;
	int fd = layer_memory(NPAGES, &e);

	assert_true(fd >= 0);
	return fd;
}

/* What a monitor could make, with the mode of the broker's unless it is 0. */
static int memfd_of(size_t len, int seals, mode_t mode)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)len), 0);
	if (mode != 0)
		assert_int_equal(fchmod(fd, mode), 0);
	if (seals != 0)
		assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static int other_description(int fd)
{
	char path[32];
	int other;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	other = open(path, O_RDWR | O_CLOEXEC);
	assert_true(other >= 0);
	return other;
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

/* Refused with (code); what was given is the caller's still. */
static void refuse(struct layer_set *set, int *fd, uint64_t npages, int code)
{
	uint32_t count = layers_in(set);
	struct err e = {0};
	uint32_t id;

	assert_int_equal(layer_adopt_owned(set, fd, npages, &id, &e), code);
	assert_int_equal(e.code, code);
	assert_true(strlen(e.msg) > 10);
	assert_int_equal(layers_in(set), count);
}

static uint32_t adopt(struct layer_set *set, int fd)
{
	struct err e;
	uint32_t id;

	assert_int_equal(layer_adopt_owned(set, &fd, NPAGES, &id, &e), 0);
	assert_int_equal(fd, -1);
	assert_int_equal(layer_state(set, id), LAYER_OWNED);
	return id;
}

static void test_adopt(void **state)
{
	struct layer_set *set = *state;
	uint32_t id = adopt(set, memory());
	struct layer_stat st;
	struct err e;
	int fd = layer_fd(set, id);

	assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(fd, F_GETLEASE), F_UNLCK);
	assert_int_equal(layer_npages(set, id), NPAGES);
	assert_int_equal(layer_stat(set, id, &st, &e), 0);
	assert_false(st.sealed);
	assert_int_equal(layer_state(set, id + 1), LAYER_NONE);
	layer_put(set, id);
	fd = layer_reap_take(set);
	assert_true(fd >= 0);
	(void)close(fd);
}

static void test_kept_descriptor(void **state)
{
	struct layer_set *set = *state;
	int fd = memory();
	int same = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	int other = other_description(fd);

	refuse(set, &fd, NPAGES, -EBUSY);
	assert_int_equal(close(other), 0);
	refuse(set, &fd, NPAGES, -EBUSY);
	assert_int_equal(close(same), 0);
	(void)adopt(set, fd);
}

static void test_kept_mapping(void **state)
{
	struct layer_set *set = *state;
	int fd = memory();
	void *m = mmap(
	    NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, PAGE_SIZE);

	assert_true(m != MAP_FAILED);
	refuse(set, &fd, NPAGES, -EBUSY);
	assert_int_equal(munmap(m, PAGE_SIZE), 0);
	(void)adopt(set, fd);
}

/* The kernel would have whoever opens it wait for who has the lease. */
static void test_lease(void **state)
{
	struct layer_set *set = *state;
	int fd = memory();
	int same = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	struct err e = {0};
	uint32_t id;

	(void)signal(SIGIO, SIG_IGN); /* it is told to end it */
	assert_int_equal(fcntl(same, F_SETLEASE, F_WRLCK), 0);
	refuse(set, &fd, NPAGES, -EBUSY);
	assert_int_equal(fcntl(same, F_SETLEASE, F_UNLCK), 0);
	assert_int_equal(close(same), 0);
	(void)adopt(set, fd);

	fd = memory();
	same = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
	assert_int_equal(fcntl(same, F_SETLEASE, F_WRLCK), 0);
	assert_int_equal(layer_adopt(set, fd, NPAGES, &id, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "lease"));
	assert_int_equal(close(fd), 0);
	assert_int_equal(close(same), 0);
}

static void test_refuses(void **state)
{
	static const int wrong[] = {0, F_SEAL_SHRINK, F_SEAL_GROW, SEALS,
	    OWNED | F_SEAL_SEAL, OWNED | F_SEAL_WRITE};
	struct layer_set *set = *state;
	int fd = -1;

	refuse(set, &fd, 1, -EBADF);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		fd = memfd_of(PAGE_SIZE, wrong[i], 0600);
		refuse(set, &fd, 1, -EPERM);
		(void)close(fd);
	}
	/* Of its description the lease would not tell. */
	fd = memfd_of(PAGE_SIZE, OWNED, 0);
	refuse(set, &fd, 1, -EPERM);
	(void)close(fd);
	fd = memfd_of(PAGE_SIZE, OWNED, 0600);
	refuse(set, &fd, 2, -ERANGE);
	(void)close(fd);
	fd = memfd_of(PAGE_SIZE + 1, OWNED, 0600);
	refuse(set, &fd, 1, -EINVAL);
	(void)close(fd);
	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	refuse(set, &fd, 1, -EINVAL);
	(void)close(fd);
}

static void test_seal(void **state)
{
	struct layer_set *set = *state;
	uint32_t id = adopt(set, memory());
	struct layer_stat st;
	struct err e = {0};
	void *m = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
	    layer_fd(set, id), 0);

	assert_int_equal(layer_sealed(set, id, &e), -EPERM);
	assert_true(m != MAP_FAILED);
	assert_int_equal(layer_seal_fd(layer_fd(set, id), &e), -EBUSY);
	assert_int_equal(layer_state(set, id), LAYER_OWNED);
	assert_int_equal(munmap(m, PAGE_SIZE), 0);
	assert_int_equal(layer_seal_fd(layer_fd(set, id), &e), 0);
	assert_int_equal(layer_seal_fd(layer_fd(set, id), &e), 0);
	assert_int_equal(layer_sealed(set, id, &e), 0);
	assert_int_equal(layer_state(set, id), LAYER_SEALED);
	assert_int_equal(
	    fcntl(layer_fd(set, id), F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(layer_stat(set, id, &st, &e), 0);
	assert_true(st.sealed);
	assert_int_equal(layer_sealed(set, id, &e), -ENOENT);
	assert_int_equal(layer_prove(set, id, &e), -ENOENT);
}

/* Who it was lent to wrote in it: nothing of that is dead, as nobody counted.
 */
static void test_seal_grown(void **state)
{
	struct layer_set *set = *state;
	uint32_t id = adopt(set, memory());
	struct layer_totals sum;
	struct lfile_stat st;
	struct err e = {0};
	uint32_t n;

	assert_int_equal(pwrite(layer_fd(set, id), "x", 1, 0), 1);
	assert_int_equal(layer_prove(set, id, &e), 0);
	assert_int_equal(layer_seal_fd(layer_fd(set, id), &e), 0);
	assert_int_equal(layer_sealed(set, id, &e), 0);
	lfile_stat(set, layer_pieces(set, id, &n)->file, &st);
	assert_true(st.bytes >= PAGE_SIZE);
	assert_int_equal(st.live, st.bytes);
	layer_set_totals(set, &sum);
	assert_int_equal(sum.bytes, st.bytes);
}

/* Lent on the same description, of which a lease on that could not know. */
static void test_prove(void **state)
{
	struct layer_set *set = *state;
	uint32_t id = adopt(set, memory());
	struct err e = {0};
	int lent = fcntl(layer_fd(set, id), F_DUPFD_CLOEXEC, 3);

	assert_int_equal(layer_prove(set, id, &e), -EBUSY);
	assert_int_equal(layer_prove(set, id, &e), -EBUSY);
	assert_int_equal(close(lent), 0);
	assert_int_equal(layer_prove(set, id, &e), 0);
	assert_int_equal(layer_prove(set, id + 1, &e), -ENOENT);
}

static void test_take(void **state)
{
	struct layer_set *set = *state;
	uint32_t id = adopt(set, memory());
	struct layer_stat st;
	struct err e = {0};
	int fd;

	layer_get(set, id);
	fd = layer_take(set, id);
	assert_int_equal(layer_fd(set, id), -1);
	assert_int_equal(layer_stat(set, id, &st, &e), 0);
	assert_int_equal(st.bytes, 0);
	assert_int_equal(layer_prove(set, id, &e), -ENOENT);
	layer_put(set, id);
	layer_put(set, id);
	assert_int_equal(layers_in(set), 0);
	assert_int_equal(layer_reap_take(set), -1);
	(void)adopt(set, fd); /* and it is in nobody's hands */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_adopt, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		test_kept_descriptor, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_kept_mapping, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_lease, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_refuses, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_seal, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_seal_grown, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_prove, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_take, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
