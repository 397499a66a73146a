/* SPDX-License-Identifier: MIT */
/*
 * ctl: JSON-RPC 2.0 over AF_UNIX streams, one message a line, descriptors by
 * SCM_RIGHTS (docs/PROTOCOL.md). Knows no method: the caller's table says what
 * there is, this layer checks each request against it before the handler sees
 * it.
 *
 * All functions are for the loop's thread. Writes never block: replies queue,
 * and a client that does not read is disconnected at CTL_OUT_MAX. No function
 * here calls on_close directly; it comes from the loop.
 */
#ifndef VMM_CTL_CTL_H
#define VMM_CTL_CTL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "vmm/core/closer.h"
#include "vmm/core/err.h"
#include "vmm/core/loop.h"

#define CTL_LINE_MAX    (1u << 18) /* bytes of a request without its newline */
#define CTL_OUT_MAX     (8u << 20) /* queued bytes a connection */
#define CTL_OUT_FDS_MAX 1024u      /* queued descriptors a connection */
#define CTL_CONNS_MAX   256u
#define CTL_REQS_MAX    64u  /* unanswered requests a connection */
#define CTL_FDS_MAX     64u  /* descriptors a request */
#define CTL_REPLY_FDS   253u /* descriptors a reply */

/* JSON-RPC's codes and ours. */
enum ctl_code {
	CTL_PARSE = -32700,
	CTL_REQUEST = -32600,
	CTL_METHOD = -32601,
	CTL_PARAMS = -32602,
	CTL_REFUSED = -32000,
	CTL_UNKNOWN = -32001,
	CTL_EXISTS = -32002,
	CTL_LIMIT = -32003,
	CTL_EXHAUSTED = -32004,
	CTL_GONE = -32005,
	CTL_FAILED = -32006,
};

enum ctl_type {
	CTL_STRING = 1,
	CTL_SIZE, /* an integer, at least 0 */
	CTL_INT,
	CTL_BOOL,
	CTL_OBJECT,  /* with (fields), or any */
	CTL_STRINGS, /* array of strings */
	CTL_OBJECTS, /* array of objects with (fields) */
	CTL_EXTENTS, /* array of [first, count], both at least 0 */
	CTL_IDS,     /* array of integers, each at least 0 */
};

/* A parameter, a result, or a field of one; a list ends where name is NULL. */
struct ctl_param {
	const char *name;
	enum ctl_type type;
	bool optional;
	const char *doc;
	const struct ctl_param *fields; /* of CTL_OBJECT and CTL_OBJECTS */
};

struct ctl_srv;
struct ctl_conn;
struct ctl_req;

/*
 * Runs once the request has passed all checks; must lead to exactly one of
 * ctl_reply(), ctl_fail(), ctl_fail_param(), now or later.
 */
typedef void ctl_handler(void *ctx, struct ctl_req *rq);

struct ctl_op {
	const char *name;                /* "segment.freeze" */
	const char *summary;             /* one line */
	const struct ctl_param *params;  /* NULL: none */
	const struct ctl_param *results; /* NULL: none; for describe only */
	const char *const *fds; /* what each descriptor of the request is, in
				   order, NULL at the end; NULL: none */
	unsigned nfds;          /* exactly so many must come */
	ctl_handler *handler;
};

struct ctl_event {
	const char *name;
	const char *summary;
	const struct ctl_param *params;
};

/* Stays the caller's, constant, and outlives the server. */
struct ctl_conf {
	const char *service;
	const char *version;
	const struct ctl_op *ops;
	size_t nops;
	const struct ctl_event *events;
	size_t nevents;
	void *ctx;             /* of the handlers and callbacks */
	struct closer *closer; /* of connections and what came, or NULL */
	/* May be NULL. Nonzero from on_open refuses: on_close does not follow.
	 */
	int (*on_open)(void *ctx, struct ctl_conn *c, uid_t uid, pid_t pid);
	/* The last that is heard of (c); its requests stay to be answered. */
	void (*on_close)(void *ctx, struct ctl_conn *c);
};

/* 0 with *out set, or -ENOMEM. Serves nobody before listen or adopt. */
int ctl_srv_new(struct ctl_srv **out, struct loop *l,
    const struct ctl_conf *conf, struct err *e);
/*
 * Close all connections (on_close runs for each), stop listening, remove the
 * socket file. Requests that are not answered yet stay valid, their on_cancel
 * hooks run; answering them later, when the server is gone, is still right and
 * frees them. NULL is allowed. Not from inside a callback.
 */
void ctl_srv_free(struct ctl_srv *s);

/*
 * Listen at (path), mode 0600; peers must have our uid or be root. A socket
 * file nobody listens on is replaced. 0, or -errno: -EADDRINUSE (somebody
 * listens there), -EEXIST (a file that is no socket), -ENAMETOOLONG, -EBUSY (we
 * listen already), -ENOMEM, and those of socket, bind and listen; nothing is
 * left behind.
 */
int ctl_listen(struct ctl_srv *s, const char *path, struct err *e);
/*
 * Serve (fd), a connected AF_UNIX stream socket; it becomes the server's on
 * success only. *out (may be NULL) is the connection. 0, or -errno: -EUSERS
 * (CTL_CONNS_MAX reached), -EACCES (uid, or on_open refused), -ENOMEM.
 */
int ctl_adopt(struct ctl_srv *s, int fd, struct ctl_conn **out, struct err *e);

/* A pointer of the caller's; NULL at first. */
void ctl_conn_set_data(struct ctl_conn *c, void *data);
void *ctl_conn_data(const struct ctl_conn *c);
/* Disconnect, soon; nothing more is read or sent. on_close follows. */
void ctl_conn_close(struct ctl_conn *c);
/*
 * Send a notification; takes over the reference to (params), which may be
 * NULL. The connection may be closed for it later, never inside.
 */
void ctl_notify(struct ctl_conn *c, const char *method, json_t *params);

/*
 * Answer with (result), whose reference is taken over, and with (fds,nfds),
 * nfds at most CTL_REPLY_FDS, which stay the caller's (they are duplicated).
 * NULL means {} for an operation without results; for others it means that the
 * caller ran out of memory making it, and is answered so. If the connection is
 * gone the answer is dropped. (rq) is gone after this.
 */
void ctl_reply(struct ctl_req *rq, json_t *result, const int *fds, size_t nfds);
/* Answer with an error whose code is e->code's by ctl_code_of(). */
void ctl_fail(struct ctl_req *rq, const struct err *e);
/* The same with more members of error.data, an object whose reference is taken
 * over; NULL, for want of memory, is left out. */
void ctl_fail_data(struct ctl_req *rq, const struct err *e, json_t *data);
/* Answer that parameter (name) is wrong: CTL_PARAMS, EINVAL. */
void ctl_fail_param(struct ctl_req *rq, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The parameters, validated; (name) must be in the table. */
const char *ctl_str(const struct ctl_req *rq, const char *name); /* or NULL */
int64_t ctl_int(const struct ctl_req *rq, const char *name, int64_t absent);
bool ctl_bool(const struct ctl_req *rq, const char *name); /* absent: false */
json_t *ctl_json(const struct ctl_req *rq, const char *name); /* borrowed */
/* The i-th descriptor becomes the caller's; -1 if absent or taken. What is not
 * taken is closed with the request. */
int ctl_take_fd(struct ctl_req *rq, unsigned i);

/* The connection, or NULL once it is gone. */
struct ctl_conn *ctl_req_conn(const struct ctl_req *rq);
bool ctl_req_cancelled(const struct ctl_req *rq);
/* A pointer of the handler's, and a hook that runs when the connection goes
 * before the answer (before on_close); it may answer. NULL unsets it. */
void ctl_req_on_cancel(
    struct ctl_req *rq, void (*fn)(struct ctl_req *rq, void *arg), void *arg);

/*
 * The description of the service, from the same table that dispatches:
 * {service, version, limits, methods, events, errors}. A new reference, or
 * NULL without memory.
 */
json_t *ctl_describe(const struct ctl_conf *conf);
/* The handler of service.describe: of the table that it is in. */
void ctl_describe_op(void *ctx, struct ctl_req *rq);

/* The one mapping of errno values (negative or not) to protocol codes. */
enum ctl_code ctl_code_of(int err);

#endif /* VMM_CTL_CTL_H */
