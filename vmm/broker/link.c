/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/broker/internal.h"
#include "vmm/core/fdmsg.h"

/*
 * Descriptors that a monitor has been sent and does not read count against all
 * that firnd's user may have under way: one that is deaf could have them all.
 */
#define UNDER_WAY_MAX 1024u

/* A packet that waits for room in the socket, with descriptors of its own. */
struct link_out {
	struct link_out *next;
	struct wire_msg m;
	uint32_t nfds;
	int fd[WIRE_FDS_MAX];
	unsigned char payload[];
};

/* At once: among them may be memory that is to be proved nobody else's. What a
 * monitor is sent is held by others as long as it waits. */
static void out_free(struct link_out *o)
{
	for (uint32_t i = 0; i < o->nfds; i++)
		(void)close(o->fd[i]);
	free(o);
}

static void link_again(void *arg)
{
	struct link *l = arg;

	loop_mod(l->io, EPOLLIN | EPOLLOUT);
}

/* Until the socket has room, or, where it is the kernel that has none, a
 * while. */
static void link_wait(struct link *l, int why)
{
	if (why == -EAGAIN) {
		loop_mod(l->io, EPOLLIN | EPOLLOUT);
		return;
	}
	loop_mod(l->io, EPOLLIN);
	loop_timer_start(&l->again, FDMSG_PAUSE_MS);
}

/* wire_send() of not too many descriptors: else as if the kernel had no room,
 * until all that was sent is read. */
static int out_send(struct link *l, const struct wire_msg *m,
    const void *payload, const int *fds, uint32_t nfds)
{
	int unread = 0;
	int rc;

	if (nfds > 0 && l->under_way + nfds > UNDER_WAY_MAX) {
		if (ioctl(l->fd, SIOCOUTQ, &unread) != 0 || unread != 0)
			return -ENOBUFS;
		l->under_way = 0;
	}
	rc = wire_send(l->fd, m, payload, fds, nfds);
	if (rc == 0)
		l->under_way += nfds;
	return rc;
}

int link_open(struct link *l, struct loop *loop, int fd, loop_io_fn *fn,
    void *arg, struct err *e)
{
	int rc = loop_add(loop, fd, EPOLLIN, fn, arg, &l->io, e);

	if (rc != 0)
		return rc;
	loop_timer_init(&l->again, loop, link_again, l);
	l->fd = fd;
	return 0;
}

void link_close(struct link *l, struct closer *closer)
{
	while (l->head != NULL) {
		struct link_out *o = l->head;

		l->head = o->next;
		out_free(o);
	}
	l->tail = NULL;
	l->nout = l->nfds = l->under_way = 0;
	loop_timer_stop(&l->again);
	loop_del(l->io);
	l->io = NULL;
	closer_hang_up(closer, l->fd);
	l->fd = -1;
}

bool link_takes(const struct link *l, uint32_t nfds)
{
	return nfds <= LINK_FDS_MAX - l->nfds &&
	       nfds / WIRE_FDS_MAX + 1 <= LINK_QUEUE_MAX - l->nout;
}

static int link_queue(struct link *l, const struct wire_msg *m,
    const void *payload, const int *fds, uint32_t nfds)
{
	struct link_out *o;

	if (!link_takes(l, nfds))
		return -EAGAIN;
	o = malloc(sizeof(*o) + m->len);
	if (o == NULL)
		return -ENOMEM;
	o->next = NULL;
	o->m = *m;
	if (m->len > 0)
		memcpy(o->payload, payload, m->len);
	for (o->nfds = 0; o->nfds < nfds; o->nfds++) {
		int fd = fcntl(fds[o->nfds], F_DUPFD_CLOEXEC, 3);

		if (fd < 0) {
			int rc = -errno;

			out_free(o);
			return rc;
		}
		o->fd[o->nfds] = fd;
	}
	if (l->tail != NULL)
		l->tail->next = o;
	else
		l->head = o;
	l->tail = o;
	l->nout++;
	l->nfds += nfds;
	return 0;
}

int link_send(struct link *l, const struct wire_msg *m, const void *payload,
    const int *fds, uint32_t nfds)
{
	int why = 0;
	int rc;

	if (l->fd < 0)
		return -EPIPE;
	if (m->len > WIRE_PAYLOAD_MAX || nfds > WIRE_FDS_MAX)
		return -EMSGSIZE;
	if (l->head == NULL) {
		why = out_send(l, m, payload, fds, nfds);
		if (why != -EAGAIN && !fdmsg_no_room(why))
			return why;
	}
	rc = link_queue(l, m, payload, fds, nfds);
	if (rc == 0 && why != 0)
		link_wait(l, why);
	return rc;
}

int link_flush(struct link *l)
{
	while (l->head != NULL) {
		struct link_out *o = l->head;
		int rc = out_send(l, &o->m, o->payload, o->fd, o->nfds);

		if (rc == -EAGAIN || fdmsg_no_room(rc)) {
			link_wait(l, rc);
			return 0;
		}
		l->head = o->next;
		if (l->head == NULL)
			l->tail = NULL;
		l->nout--;
		l->nfds -= o->nfds;
		out_free(o);
		if (rc != 0)
			return rc;
	}
	loop_mod(l->io, EPOLLIN);
	return 0;
}
