/* SPDX-License-Identifier: MIT */
/* ctl: the socket in the file system, and whose it is. */
#include "tests/unit/ctl_fix.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int dial(const char *path)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	(void)snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0)
		return fd;
	(void)close(fd);
	return -errno;
}

static void test_listen(void **state)
{
	char dir[] = "/tmp/firn-ctl.XXXXXX";
	struct ctl_srv *other = NULL;
	struct fix *x = *state;
	char path[64];
	struct stat st;
	struct err e;
	FILE *f;

	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/s", dir);
	assert_int_equal(ctl_listen(x->srv, path, NULL), 0);
	assert_int_equal(ctl_listen(x->srv, path, &e), -EBUSY);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	(void)close(x->fd);
	x->fd = dial(path);
	assert_true(x->fd >= 0);
	put(x, ADD(1, 1));
	expect_sum(x, 1, 101);

	/* Another daemon is refused, and takes over when we are dead. */
	assert_int_equal(ctl_srv_new(&other, x->l, &x->conf, NULL), 0);
	assert_int_equal(ctl_listen(other, path, &e), -EADDRINUSE);
	ctl_srv_free(x->srv);
	assert_int_equal(lstat(path, &st), -1);
	x->srv = other;
	assert_int_equal(ctl_listen(other, path, NULL), 0);
	ctl_srv_free(other);
	x->srv = NULL;

	assert_int_equal(ctl_srv_new(&x->srv, x->l, &x->conf, NULL), 0);
	f = fopen(path, "w");
	assert_non_null(f);
	(void)fclose(f);
	assert_int_equal(ctl_listen(x->srv, path, &e), -EEXIST);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(ctl_listen(x->srv, "/nonexistent/s", &e), -ENOENT);
	assert_int_equal(rmdir(dir), 0);
}

static void test_stale(void **state)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	char dir[] = "/tmp/firn-ctl.XXXXXX";
	struct fix *x = *state;
	char longer[200];
	struct err e;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	assert_non_null(mkdtemp(dir));
	(void)snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/s", dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	(void)close(fd);
	assert_int_equal(ctl_listen(x->srv, sun.sun_path, NULL), 0);
	fd = dial(sun.sun_path);
	assert_true(fd >= 0);
	(void)close(fd);
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	ctl_srv_free(x->srv);
	x->srv = NULL;
	assert_int_equal(ctl_srv_new(&x->srv, x->l, &x->conf, NULL), 0);
	assert_int_equal(ctl_listen(x->srv, longer, &e), -ENAMETOOLONG);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_listen),
	    T(test_stale),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
