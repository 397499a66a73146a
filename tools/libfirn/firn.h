/* SPDX-License-Identifier: MIT */
/*
 * firn: the client library of the firn memory-snapshot service; installed it is
 * <firn/firn.h>.
 *
 * A connection is for one thread at a time. Functions that can fail return 0
 * or a negative errno value and fill (e), which may be NULL. Strings are UTF-8;
 * others are refused with -EINVAL. Nothing is left behind by a call that
 * failed; after an error of the connection itself it can only be closed.
 */
#ifndef FIRN_FIRN_H
#define FIRN_FIRN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define FIRN_API __attribute__((visibility("default")))
#else
#define FIRN_API
#endif

#define FIRN_ERROR_MAX     512
#define FIRN_CALL_FDS_MAX  64          /* descriptors of a request */
#define FIRN_REPLY_FDS_MAX 253         /* descriptors of a reply */
#define FIRN_REPLY_MAX     (8u << 20)  /* bytes of a reply */
#define FIRN_QUEUE_MAX     4096        /* replies and events kept unread */
#define FIRN_QUEUE_BYTES   (64u << 20) /* of them */
#define FIRN_RUNS_MAX      (4u << 20)  /* runs of an opened snapshot */
#define FIRN_MAP_VMAS_MAX  16384       /* mappings of a mapped snapshot */

struct firn;
struct firn_snapshot;

struct firn_error {
	int code; /* the service's (docs/PROTOCOL.md), or 0: found here */
	int err;  /* a negative errno value */
	char msg[FIRN_ERROR_MAX];
};

/* A result as JSON text, and descriptors; release with firn_reply_free(). */
struct firn_reply {
	char *json;
	int *fds; /* close-on-exec; set one to -1 to keep it */
	size_t nfds;
};

struct firn_event {
	char *method;
	char *json; /* the parameters */
};

/*
 * Connect to (path), or if NULL to $FIRN_SOCKET, else
 * $XDG_RUNTIME_DIR/firn.sock, else /run/firn.sock. -ENOENT and -ECONNREFUSED
 * mean that no daemon runs there.
 */
FIRN_API int firn_connect(
    const char *path, struct firn **out, struct firn_error *e);
/* Use (fd), a connected stream socket; taken over on success only. */
FIRN_API int firn_connect_fd(int fd, struct firn **out, struct firn_error *e);
FIRN_API void firn_close(struct firn *c);
/* The descriptor to poll; readable means that firn_wait_event or
 * firn_wait_reply may have something. */
FIRN_API int firn_fd(const struct firn *c);
/*
 * While (fd), which stays the caller's, is readable nothing waits for the
 * service any more: what would fails with -ECANCELED. What was asked may be
 * done all the same; its answer goes with the connection. -1: never.
 */
FIRN_API void firn_stop_fd(struct firn *c, int fd);
/* The path that firn_connect(NULL) would use, in (buf); -ENAMETOOLONG. */
FIRN_API int firn_default_path(char *buf, size_t len);

/*
 * Call (method) with (params), the text of a JSON object or NULL, and
 * (fds,nfds), which stay the caller's; wait for the answer. (r) may be NULL.
 * Errors: the service's (e->code set); -EINVAL (params is not an object, too
 * many descriptors), -ECONNRESET (the service went away, or could not read a
 * request, and then nobody can tell which), -EPROTO (it sent nonsense, or more
 * than is kept), -ENOMEM. A signal does not interrupt it.
 */
FIRN_API int firn_call(struct firn *c, const char *method, const char *params,
    const int *fds, size_t nfds, struct firn_reply *r, struct firn_error *e);
FIRN_API void firn_reply_free(struct firn_reply *r);

/* The same in two steps; any number may be under way. */
FIRN_API int firn_call_async(struct firn *c, const char *method,
    const char *params, const int *fds, size_t nfds, uint64_t *id,
    struct firn_error *e);
/*
 * Wait at most (timeout_ms), -1 for ever, for the answer to (id). As
 * firn_call(), and -ETIMEDOUT, -EINTR (a signal handler ran): call again then.
 */
FIRN_API int firn_wait_reply(struct firn *c, uint64_t id, int timeout_ms,
    struct firn_reply *r, struct firn_error *e);
/*
 * The next event, after service.subscribe. 0, or -ETIMEDOUT, -EINTR, or an
 * error of the connection. Release with firn_event_free().
 */
FIRN_API int firn_wait_event(struct firn *c, int timeout_ms,
    struct firn_event *ev, struct firn_error *e);
FIRN_API void firn_event_free(struct firn_event *ev);

/* --- the main methods, typed ---------------------------------------------- */
struct firn_freeze_result {
	uint64_t snapshot; /* its id */
	uint64_t pages, dirty_pages, copied_pages;
	uint64_t pause_ns, total_ns;
};

/* Freeze or sever; (segment) and (name) may be NULL. */
FIRN_API int firn_freeze(struct firn *c, const char *vm, const char *segment,
    const char *name, struct firn_freeze_result *out, struct firn_error *e);
FIRN_API int firn_sever(struct firn *c, const char *vm, const char *segment,
    const char *name, struct firn_freeze_result *out, struct firn_error *e);

struct firn_map_result {
	uint64_t view, gpa, pages, extents, map_ns;
};

/* Lay (snapshot) in (vm); gpa 0: where the monitor likes. */
FIRN_API int firn_map(struct firn *c, const char *vm, const char *snapshot,
    int cow, uint64_t gpa, struct firn_map_result *out, struct firn_error *e);
FIRN_API int firn_unmap(
    struct firn *c, const char *vm, const char *view, struct firn_error *e);

/*
 * Make what was severed (vm)'s own, writable, without a copy; the capability
 * for it ends. *copied_on_write, where not NULL, is set to 1 if it was sealed
 * meanwhile, so that it is mapped as by firn_map() with cow, else to 0.
 */
FIRN_API int firn_adopt(struct firn *c, const char *vm, const char *snapshot,
    uint64_t gpa, struct firn_map_result *out, int *copied_on_write,
    struct firn_error *e);
/*
 * From the caller's table to that of (vm), and back; (snapshot) is what it is
 * called in the table that it comes from, (name) in the other, NULL: the same.
 * What is owned is moved, and *moved (or NULL) set to 1; else it is copied.
 */
FIRN_API int firn_give(struct firn *c, const char *vm, const char *snapshot,
    const char *name, int *moved, struct firn_error *e);
FIRN_API int firn_take(struct firn *c, const char *vm, const char *snapshot,
    const char *name, int *moved, struct firn_error *e);

/* Page numbers: (count) pages from (first). */
struct firn_range {
	uint64_t first, count;
};

/* Sorted and disjoint; release with firn_pageset_free(). */
struct firn_pageset {
	uint64_t pages; /* sum of the counts */
	struct firn_range *ranges;
	size_t nranges;
	uint64_t nodes_visited; /* of a diff */
	int exact;              /* of a diff: bytes were compared, not places */
};

FIRN_API void firn_pageset_free(struct firn_pageset *p);
/* Pages beyond the end of the shorter one differ where they are not zero. Two
 * without a common history are compared exactly, asked or not. */
FIRN_API int firn_diff(struct firn *c, const char *a, const char *b, int exact,
    struct firn_pageset *out, struct firn_error *e);
#define FIRN_DIRTY_PEEK  1
#define FIRN_DIRTY_EXACT 2
/* Written since (cursor) last advanced; (segment) may be NULL. The cursor
 * advances when the answer is sent: after -ENOMEM or -EPROTO it may have. */
FIRN_API int firn_dirty(struct firn *c, const char *vm, const char *segment,
    const char *cursor, int flags, struct firn_pageset *out,
    struct firn_error *e);
/* The cursor is no more. -ENOENT: there is none; -EBUSY: it is being asked. */
FIRN_API int firn_dirty_end(struct firn *c, const char *vm, const char *segment,
    const char *cursor, struct firn_error *e);

/* What was read and written of tracked (view), or segment, since it was laid or
 * made. */
FIRN_API int firn_touched(struct firn *c, const char *vm, const char *view,
    struct firn_pageset *reads, struct firn_pageset *writes,
    struct firn_error *e);

/* --- snapshots in this process -------------------------------------------- */
/*
 * Take the descriptors of snapshot (name) and check, without belief in the
 * service, that every one is a fully sealed memfd open read-only and that the
 * runs are sorted, disjoint and inside their layers. -EPERM (a layer is not
 * sealed, or writable), -EPROTO (the runs are wrong), and firn_call()'s.
 * Afterwards nobody can change what it shows; it needs no connection.
 */
FIRN_API int firn_open_snapshot(struct firn *c, const char *name,
    struct firn_snapshot **out, struct firn_error *e);
FIRN_API void firn_snapshot_close(struct firn_snapshot *s);
FIRN_API uint64_t firn_snapshot_pages(const struct firn_snapshot *s);
FIRN_API size_t firn_snapshot_layers(const struct firn_snapshot *s);
/*
 * Map it whole, read-only, into this address space. *addr stays valid until
 * firn_snapshot_unmap() or _close(); a second call gives the same address.
 * -ENOMEM, -EINVAL (it has no pages), -EIO; nothing is mapped then.
 */
FIRN_API int firn_snapshot_map(
    struct firn_snapshot *s, const void **addr, struct firn_error *e);
FIRN_API void firn_snapshot_unmap(struct firn_snapshot *s);
/* Copy bytes out without mapping. -ERANGE (ends beyond), -EIO. */
FIRN_API int firn_snapshot_read(const struct firn_snapshot *s, uint64_t offset,
    void *buf, size_t len, struct firn_error *e);
/*
 * The next pages at or after (page) that are not zero by construction: sets
 * *r and returns 1, or returns 0 if there are none.
 */
FIRN_API int firn_snapshot_next(
    const struct firn_snapshot *s, uint64_t page, struct firn_range *r);

#ifdef __cplusplus
}
#endif

#endif /* FIRN_FIRN_H */
