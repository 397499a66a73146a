/* SPDX-License-Identifier: MIT */
/* conn: the life of a connection; for vmm/ctl only. */
#ifndef VMM_CTL_CONN_H
#define VMM_CTL_CONN_H

#include "vmm/ctl/ctl_priv.h"

/* Takes (fd) over and joins s->conns; NULL with (e) set and (fd) the caller's.
 */
struct ctl_conn *ctl_conn_new(struct ctl_srv *s, int fd, struct err *e);
/* Leave s->conns. */
void ctl_conn_unlink(struct ctl_conn *c);
/* Try again to send what waits, on every connection. */
void ctl_flush_all(void *srv);
/* Unlinked and without requests. Closes c->fd unless it is -1. */
void ctl_conn_free(struct ctl_conn *c);

#endif /* VMM_CTL_CONN_H */
