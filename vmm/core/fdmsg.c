/* SPDX-License-Identifier: MIT */
#include "vmm/core/fdmsg.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union fd_control {
	char buf[CMSG_SPACE(FDMSG_MAX * sizeof(int))];
	struct cmsghdr align;
};

ssize_t fdmsg_send(int sock, const void *buf, size_t len, const int *fds,
    size_t nfds, int flags)
{
	union {
		const void *in;
		void *out;
	} b = {.in = buf};
	struct iovec iov = {.iov_base = b.out, .iov_len = len};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	union fd_control c;
	ssize_t n;

	if (nfds > FDMSG_MAX || (nfds > 0 && len == 0))
		return -EINVAL;
	if (nfds > 0) {
		memset(&c, 0, sizeof(c));
		mh.msg_control = c.buf;
		mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c.align.cmsg_level = SOL_SOCKET;
		c.align.cmsg_type = SCM_RIGHTS;
		c.align.cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(&c.align), fds, nfds * sizeof(int));
	}
	do {
		n = sendmsg(sock, &mh, flags | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

void fdmsg_close_all(int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (fds[i] >= 0)
			(void)close(fds[i]);
		fds[i] = -1;
	}
}

/* All that came, even of several control messages; at most FDMSG_MAX fit. */
static size_t collect(struct msghdr *mh, int got[FDMSG_MAX])
{
	size_t n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c != NULL;
	     c = CMSG_NXTHDR(mh, c)) {
		size_t bytes = c->cmsg_len - CMSG_LEN(0);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		memcpy(&got[n], CMSG_DATA(c), bytes);
		n += bytes / sizeof(int);
	}
	return n;
}

ssize_t fdmsg_recv(int sock, void *buf, size_t len, int *fds, size_t max,
    size_t *nfds, int flags)
{
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	union fd_control c;
	struct msghdr mh = {.msg_iov = &iov,
	    .msg_iovlen = 1,
	    .msg_control = c.buf,
	    .msg_controllen = sizeof(c.buf)};
	int got[FDMSG_MAX];
	size_t ngot;
	ssize_t n;
	int err = 0;

	if (nfds != NULL)
		*nfds = 0;
	do {
		n = recvmsg(sock, &mh, flags | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	ngot = collect(&mh, got);
	if (mh.msg_flags & MSG_CTRUNC)
		err = -EMFILE;
	else if (mh.msg_flags & MSG_TRUNC)
		err = -EMSGSIZE;
	else if (ngot > max || (ngot > 0 && nfds == NULL))
		err = -E2BIG;
	if (err != 0) {
		fdmsg_close_all(got, ngot);
		return err;
	}
	if (ngot > 0) {
		memcpy(fds, got, ngot * sizeof(int));
		*nfds = ngot;
	}
	return n;
}

bool fdmsg_no_room(ssize_t rc)
{
	return rc == -ETOOMANYREFS || rc == -ENOBUFS || rc == -ENOMEM;
}
