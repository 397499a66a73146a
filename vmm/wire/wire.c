/* SPDX-License-Identifier: MIT */
#include "vmm/wire/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/core/cleanup.h"

/*
 * F_SEAL_FUTURE_WRITE refuses what F_SEAL_WRITE does but writes through
 * mappings that there are already, of which a blob has none: it was filled by
 * pwrite(2). For F_SEAL_WRITE the kernel looks for pages that are in use, and
 * where it finds some that another processor has just written, waits for all of
 * them.
 */
#define WIRE_SEALS                                                             \
	(F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* Room for the descriptors of a message, aligned as the kernel wants it. */
union fd_space {
	struct cmsghdr align;
	unsigned char room[CMSG_SPACE(WIRE_FDS_CAME * sizeof(int))];
};

static void put_fds(
    struct msghdr *mh, union fd_space *space, const int *fds, uint32_t nfds)
{
	struct cmsghdr *c;

	memset(space, 0, sizeof(*space));
	mh->msg_control = space->room;
	mh->msg_controllen = CMSG_SPACE(nfds * sizeof(int));
	c = CMSG_FIRSTHDR(mh);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
	memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
}

int wire_send(int sock, const struct wire_msg *m, const void *payload,
    const int *fds, uint32_t nfds)
{
	struct wire_msg h = *m;
	union fd_space space;
	/* sendmsg() does not write to it. */
	union {
		const void *in;
		void *out;
	} from = {.in = payload};
	struct iovec iov[2] = {
	    {.iov_base = &h, .iov_len = sizeof(h)},
	    {.iov_base = from.out, .iov_len = m->len},
	};
	struct msghdr mh = {.msg_iov = iov, .msg_iovlen = m->len > 0 ? 2 : 1};
	ssize_t n;

	if (m->len > WIRE_PAYLOAD_MAX || nfds > WIRE_FDS_MAX)
		return -EMSGSIZE;
	h.magic = WIRE_MAGIC;
	h.version = WIRE_VERSION;
	if (fds != NULL && nfds > 0)
		put_fds(&mh, &space, fds, nfds);
	do
		n = sendmsg(sock, &mh, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

/* Take the descriptors of every control message into (p). */
static int get_fds(struct msghdr *mh, struct wire_packet *p)
{
	struct cmsghdr *c;
	size_t n;
	int fd;
	int r = 0;

	for (c = CMSG_FIRSTHDR(mh); c != NULL; c = CMSG_NXTHDR(mh, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
			r = -EPROTO;
			continue;
		}
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			/* The room was for no more. */
			p->fd[p->nfds++] = fd;
		}
	}
	return r;
}

static int check_packet(
    const struct wire_packet *p, const struct msghdr *mh, size_t n)
{
	if (mh->msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return -EPROTO;
	if (n < sizeof(p->m) || p->m.magic != WIRE_MAGIC ||
	    p->m.version != WIRE_VERSION)
		return -EPROTO;
	if (p->nfds > WIRE_FDS_MAX || p->m.len > WIRE_PAYLOAD_MAX ||
	    p->m.len != n - sizeof(p->m))
		return -EPROTO;
	return 0;
}

int wire_recv(int sock, struct wire_packet *p)
{
	union fd_space space;
	struct iovec iov[2] = {
	    {.iov_base = &p->m, .iov_len = sizeof(p->m)},
	    {.iov_base = p->payload, .iov_len = sizeof(p->payload)},
	};
	struct msghdr mh = {
	    .msg_iov = iov,
	    .msg_iovlen = 2,
	    .msg_control = space.room,
	    .msg_controllen = sizeof(space.room),
	};
	ssize_t n;
	int r;

	p->nfds = 0;
	do
		n = recvmsg(sock, &mh, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	r = get_fds(&mh, p);
	if (n == 0 && r == 0 && p->nfds == 0)
		return 0;
	if (r == 0)
		r = check_packet(p, &mh, (size_t)n);
	return r < 0 ? r : 1;
}

void wire_close_fds(struct wire_packet *p)
{
	for (uint32_t i = 0; i < p->nfds; i++)
		cleanup_close(&p->fd[i]);
	p->nfds = 0;
}

int wire_take_fd(struct wire_packet *p, uint32_t i)
{
	return i < p->nfds ? take_fd(&p->fd[i]) : -1;
}

static int write_all(int fd, const unsigned char *data, size_t len)
{
	ssize_t n;

	for (size_t done = 0; done < len; done += (size_t)n) {
		n = pwrite(fd, data + done, len - done, (off_t)done);
		if (n < 0 && errno == EINTR)
			n = 0;
		if (n < 0)
			return -errno;
	}
	return 0;
}

int wire_blob(const char *name, const void *data, size_t len)
{
	AUTO_CLOSE int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r;

	if (fd < 0)
		return -errno;
	if (len > INT64_MAX)
		return -EFBIG;
	r = write_all(fd, data, len);
	if (r < 0)
		return r;
	if (fcntl(fd, F_ADD_SEALS, WIRE_SEALS) < 0)
		return -errno;
	return take_fd(&fd);
}

/* Up to (len) bytes from (at); how many in *got. */
static int read_all(
    int fd, uint64_t at, unsigned char *to, size_t len, size_t *got)
{
	ssize_t n;

	for (*got = 0; *got < len; *got += (size_t)n) {
		n = pread(fd, to + *got, len - *got, (off_t)(at + *got));
		if (n == 0)
			return 0;
		if (n < 0 && errno == EINTR)
			n = 0;
		if (n < 0)
			return -errno;
	}
	return 0;
}

int wire_len(int fd, uint64_t *len)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	/* Only memory files have seals; reading another could block. */
	if (!S_ISREG(st.st_mode) || fcntl(fd, F_GET_SEALS) < 0)
		return -EINVAL;
	*len = (uint64_t)st.st_size;
	return 0;
}

int wire_read(int fd, uint64_t at, void *to, size_t len)
{
	size_t got;
	int r = read_all(fd, at, to, len, &got);

	return r == 0 && got < len ? -EPROTO : r;
}

int wire_slurp(int fd, size_t max, void **data, size_t *len)
{
	AUTO_FREE unsigned char *buf = NULL;
	uint64_t size = 0;
	int r = wire_len(fd, &size);

	*data = NULL;
	*len = 0;
	if (r < 0)
		return r;
	if (size > max)
		return -EFBIG;
	if (size == 0)
		return 0;
	buf = malloc(size);
	if (buf == NULL)
		return -ENOMEM;
	/* It may shrink meanwhile: what was read is what counts. */
	r = read_all(fd, 0, buf, size, len);
	if (r < 0 || *len == 0) {
		*len = 0;
		return r;
	}
	*data = buf;
	buf = NULL;
	return 0;
}
