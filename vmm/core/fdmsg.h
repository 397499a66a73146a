/* SPDX-License-Identifier: MIT */
/*
 * fdmsg: bytes with descriptors over AF_UNIX sockets (SCM_RIGHTS).
 *
 * Thread-safe as far as the socket is. EINTR is retried here.
 */
#ifndef VMM_CORE_FDMSG_H
#define VMM_CORE_FDMSG_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define FDMSG_MAX 253 /* the kernel's SCM_MAX_FD */

/*
 * Send (buf,len) and, with its first byte, (fds,nfds), which stay the caller's.
 * (flags) are sendmsg's (MSG_DONTWAIT); SIGPIPE never comes. Returns the bytes
 * taken, on a stream perhaps fewer than (len) but then with all descriptors;
 * or -errno with nothing sent: -EINVAL (nfds above FDMSG_MAX, or descriptors
 * without bytes), -EAGAIN, -EPIPE, -EBADF, -ETOOMANYREFS and the like.
 */
ssize_t fdmsg_send(int sock, const void *buf, size_t len, const int *fds,
    size_t nfds, int flags);

/* Whether what sendmsg() said, as -errno, may pass though nobody reads: the
 * kernel has no room for descriptors under way, of which a user may have only
 * so many in all sockets together, or for the message. The socket does not tell
 * when it has: try again after FDMSG_PAUSE_MS. */
#define FDMSG_PAUSE_MS 20u
bool fdmsg_no_room(ssize_t rc);

/*
 * Receive at most (len) bytes and the descriptors that came with them, which
 * become the caller's, close-on-exec, in fds[0 .. *nfds). (fds) has room for
 * (max), at most FDMSG_MAX; with max 0 both may be NULL. Returns the bytes, 0
 * at end of stream, or -errno. On every error *nfds is 0 and no descriptor is
 * left open: -EMFILE if the kernel could not install them all, -E2BIG if there
 * were more than (max), -EMSGSIZE if a packet was longer than (len); the bytes
 * are then lost too, so the stream cannot go on.
 */
ssize_t fdmsg_recv(int sock, void *buf, size_t len, int *fds, size_t max,
    size_t *nfds, int flags);

/* Close (n) descriptors and set them to -1; skips negative ones. */
void fdmsg_close_all(int *fds, size_t n);

#endif /* VMM_CORE_FDMSG_H */
