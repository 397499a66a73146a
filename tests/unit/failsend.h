/* SPDX-License-Identifier: MIT */
/* sendmsg() that fails as a test says; the test's file has a line "wrap:
 * sendmsg" for the build. */
#ifndef TESTS_UNIT_FAILSEND_H
#define TESTS_UNIT_FAILSEND_H

#include <errno.h>
#include <sys/socket.h>

static int fail_with; /* errno of every sendmsg(), or 0 */
static unsigned nfailed;

ssize_t __real_sendmsg(int fd, const struct msghdr *m, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags);

ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags)
{
	if (fail_with == 0)
		return __real_sendmsg(fd, m, flags);
	nfailed++;
	errno = fail_with;
	return -1;
}

#endif /* TESTS_UNIT_FAILSEND_H */
