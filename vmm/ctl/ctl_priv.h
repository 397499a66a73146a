/* SPDX-License-Identifier: MIT */
/* ctl_priv: what the parts of ctl share; for vmm/ctl only. */
#ifndef VMM_CTL_CTL_PRIV_H
#define VMM_CTL_CTL_PRIV_H

#include <sys/stat.h>

#include "vmm/ctl/ctl.h"

#define CTL_PEEK_LEN      65536u
#define CTL_LINES_A_ROUND 32u /* of one connection, before others' turn */
#define CTL_ID_MAX        256u
#define CTL_WHY_MAX       256u

struct ctl_out {
	struct ctl_out *next;
	int *fds;
	size_t nfds;
	size_t len, off;
	char *text; /* ends in a newline, no NUL */
};

struct ctl_conn {
	struct ctl_srv *srv;
	struct ctl_conn *prev, *next;
	int fd;
	struct loop_io *io;
	uint32_t events; /* what io waits for */
	bool dying;      /* off the loop; the reaper will free it */
	bool opened;     /* on_close is due */
	void *data;
	/* The line being received, and the descriptors that came with it. */
	char *in;
	size_t in_len, in_cap;
	int fds[CTL_FDS_MAX];
	size_t nfds;
	size_t fds_surplus; /* closed at once */
	struct ctl_out *out;
	struct ctl_out **out_tail;
	size_t out_bytes, out_fds;
	struct ctl_req *reqs;
	unsigned nreqs;
};

struct ctl_srv {
	struct loop *loop;
	const struct ctl_conf *conf;
	struct ctl_conn *conns;
	unsigned nconns;
	struct loop_timer reaper;
	struct loop_timer flush_again;
	int lfd;
	struct loop_io *lio;
	struct loop_timer accept_again;
	char *path;
	struct stat path_st; /* of the socket file we made */
	char peek[CTL_PEEK_LEN];
};

struct ctl_req {
	struct ctl_conn *conn; /* NULL once it is gone */
	const struct ctl_conf *conf;
	const struct ctl_op *op;
	struct ctl_req *prev, *next; /* in conn->reqs */
	json_t *id;
	json_t *params; /* an object */
	int fds[CTL_FDS_MAX];
	size_t nfds;
	void (*on_cancel)(struct ctl_req *rq, void *arg);
	void *arg;
};

/* An error to be sent. */
struct ctl_failure {
	enum ctl_code code;
	int err;      /* positive errno */
	json_t *data; /* more for error.data, or NULL */
	char why[CTL_WHY_MAX];
};

/* Fill (f); the value is false, so that checks write: return ctl_refuse(...) */
bool ctl_refuse(struct ctl_failure *f, enum ctl_code code, int err,
    const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* Check (params) against the table; true, or false with (f) filled. */
bool ctl_check_params(
    const struct ctl_op *op, json_t *params, struct ctl_failure *f);

/* One line of (len) bytes arrived; its descriptors are in (c). */
void ctl_handle_line(struct ctl_conn *c, const char *line, size_t len);
/* The request goes unanswered: its connection is gone. */
void ctl_req_orphan(struct ctl_req *rq);

/*
 * Queue (msg), whose reference is taken over, and (fds), which move too (the
 * array is malloced). On failure the connection is closed.
 */
void ctl_conn_send(struct ctl_conn *c, json_t *msg, int *fds, size_t nfds);
void ctl_conn_send_error(
    struct ctl_conn *c, json_t *id, const struct ctl_failure *f);

#endif /* VMM_CTL_CTL_PRIV_H */
