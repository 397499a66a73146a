/* SPDX-License-Identifier: MIT */
/* ctl: descriptors that come with requests and go with answers. */
#include "tests/unit/ctl_fix.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int file_with(char c)
{
	FILE *f = tmpfile();
	int fd;

	assert_non_null(f);
	fd = dup(fileno(f));
	(void)fclose(f);
	assert_int_equal(write(fd, &c, 1), 1);
	return fd;
}

static void expect_file(struct fix *x, char want)
{
	int fds[CTL_REPLY_FDS];
	size_t nfds;
	json_t *j = get_fds(x, fds, &nfds);
	const char *s = NULL;
	char c = 0;

	assert_non_null(j);
	assert_int_equal(json_unpack(j, "{s:{s:s}}", "result", "byte", &s), 0);
	assert_int_equal(s[0], want);
	assert_int_equal(nfds, 1);
	assert_int_equal(pread(fds[0], &c, 1, 0), 1);
	assert_int_equal(c, want);
	(void)close(fds[0]);
	json_decref(j);
}

static void test_descriptors(void **state)
{
	struct fix *x = *state;
	int a[3] = {file_with('a'), file_with('b'), file_with('c')};
	int b[2] = {file_with('B'), file_with('A')};

	put_fds(x, REQ("files"), a, 2);
	expect_file(x, 'a');
	put(x, REQ("files"));
	expect_error(x, CTL_PARAMS, "EINVAL", "takes 2 descriptors, and 0");
	put_fds(x, REQ("files"), a, 1);
	expect_error(x, CTL_PARAMS, "EINVAL", "and 1 came");
	put_fds(x, REQ("files"), a, 3);
	expect_error(x, CTL_PARAMS, "EINVAL", "and 3 came");
	put_fds(x, ADD(1, 1), a, 1);
	expect_error(x, CTL_PARAMS, "EINVAL", "takes 0 descriptors");
	put_fds(x, "garbage\n", a, 2);
	expect_error(x, CTL_PARSE, "EBADMSG", "");

	/* All in the socket before the server looks, glued as it likes. */
	assert_true(
	    fdmsg_send(x->fd, ADD(1, 1), strlen(ADD(1, 1)), NULL, 0, 0) > 0);
	assert_true(fdmsg_send(x->fd, REQ("files") ADD(2, 2),
			strlen(REQ("files") ADD(2, 2)), a, 2, 0) > 0);
	assert_true(
	    fdmsg_send(x->fd, REQ("files"), strlen(REQ("files")), b, 2, 0) > 0);
	turn(x);
	expect_sum(x, 1, 101);
	expect_file(x, 'a');
	expect_sum(x, 2, 102);
	expect_file(x, 'B');
	fdmsg_close_all(a, 3);
	fdmsg_close_all(b, 2);
}

static void test_many_descriptors(void **state)
{
	struct fix *x = *state;
	int fds[FDMSG_MAX];

	for (int i = 0; i < FDMSG_MAX; i++)
		fds[i] = x->fd;
	put_fds(x, REQ("files"), fds, FDMSG_MAX);
	expect_error(x, CTL_PARAMS, "EINVAL", "and 253 came");
	/* With a line that never ends, none is kept beyond the limit. */
	for (int i = 0; i < 10; i++)
		put_fds(x, "x", fds, 60);
	assert_in_range(count_fds() - x->fds_before, 0, CTL_FDS_MAX + 8);
	put(x, "\n");
	expect_error(x, CTL_PARSE, "EBADMSG", "");
	put(x, ADD(1, 1));
	expect_sum(x, 1, 101);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_descriptors),
	    T(test_many_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
