/* SPDX-License-Identifier: MIT */
/* The connection: requests out; replies and events in, in any order. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "tools/libfirn/priv.h"

#define PEEK_LEN 65536

struct firn_msg {
	struct firn_msg *next;
	json_t *json;
	size_t len; /* of its line */
	int *fds;
	size_t nfds;
};

struct firn {
	int fd;
	int stop_fd; /* readable: wait no more; -1: none */
	int broken;  /* 0, or the -errno that ended the connection */
	uint64_t last_id;
	json_t *error_data; /* of the last error of the service, or NULL */
	/* The line being received, and what came with it. */
	char *in;
	size_t in_len, in_cap;
	int fds[FIRN_REPLY_FDS_MAX];
	size_t nfds;
	/* Received, and not asked for yet. */
	struct firn_msg *queue;
	struct firn_msg **tail;
	size_t nqueue;
	size_t queue_bytes;
	char peek[PEEK_LEN];
};

union control {
	char buf[CMSG_SPACE(FIRN_REPLY_FDS_MAX * sizeof(int))];
	struct cmsghdr align;
};

void firn_error_fill(
    struct firn_error *e, int code, int err, const char *fmt, ...)
{
	va_list ap;

	if (e == NULL)
		return;
	e->code = code;
	e->err = err;
	va_start(ap, fmt);
	(void)vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	va_end(ap);
}

void firn_close_fds(int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (fds[i] >= 0)
			(void)close(fds[i]);
		fds[i] = -1;
	}
}

/* --- connecting ----------------------------------------------------------- */

int firn_default_path(char *buf, size_t len)
{
	const char *sock = getenv("FIRN_SOCKET");
	const char *run = getenv("XDG_RUNTIME_DIR");
	int n;

	if (sock != NULL && sock[0] != '\0')
		n = snprintf(buf, len, "%s", sock);
	else if (run != NULL && run[0] != '\0')
		n = snprintf(buf, len, "%s/firn.sock", run);
	else
		n = snprintf(buf, len, "/run/firn.sock");
	return n < 0 || (size_t)n >= len ? -ENAMETOOLONG : 0;
}

int firn_connect_fd(int fd, struct firn **out, struct firn_error *e)
{
	struct firn *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return firn_fail(e, -ENOMEM, "out of memory");
	c->fd = fd;
	c->stop_fd = -1;
	c->tail = &c->queue;
	*out = c;
	return 0;
}

int firn_connect(const char *path, struct firn **out, struct firn_error *e)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	size_t room = sizeof(sun.sun_path);
	int fd;
	int r = 0;

	if (path == NULL)
		r = firn_default_path(sun.sun_path, room);
	else if (strlen(path) >= room)
		r = -ENAMETOOLONG;
	else
		memcpy(sun.sun_path, path, strlen(path) + 1);
	if (r != 0)
		return firn_fail(e, r, "the socket's path is too long");
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return firn_fail(e, -errno, "socket: %s", strerror(errno));
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) != 0) {
		r = firn_fail(e, -errno, "%s: %s", sun.sun_path,
		    errno == ENOENT || errno == ECONNREFUSED
			? "no daemon runs there: start one with 'firn daemon'"
			: strerror(errno));
		(void)close(fd);
		return r;
	}
	r = firn_connect_fd(fd, out, e);
	if (r != 0)
		(void)close(fd);
	return r;
}

static void msg_free(struct firn_msg *m)
{
	json_decref(m->json);
	firn_close_fds(m->fds, m->nfds);
	free(m->fds);
	free(m);
}

void firn_close(struct firn *c)
{
	if (c == NULL)
		return;
	while (c->queue != NULL) {
		struct firn_msg *m = c->queue;

		c->queue = m->next;
		msg_free(m);
	}
	firn_close_fds(c->fds, c->nfds);
	(void)close(c->fd);
	json_decref(c->error_data);
	free(c->in);
	free(c);
}

int firn_fd(const struct firn *c)
{
	return c->fd;
}

void firn_stop_fd(struct firn *c, int fd)
{
	c->stop_fd = fd;
}

/* --- out ------------------------------------------------------------------ */

/*
 * An error that answers no request (id null) comes where the service hangs up
 * or could not read what it was sent: nobody can tell what will be answered yet
 * and what never, so it is the answer to whoever asks or waits. NULL: none.
 */
static const char *farewell(const struct firn *c)
{
	for (const struct firn_msg *m = c->queue; m != NULL; m = m->next) {
		const char *why = "no reason given";

		if (!json_is_null(json_object_get(m->json, "id")))
			continue;
		(void)json_unpack(
		    m->json, "{s:{s:s}}", "error", "message", &why);
		return why;
	}
	return NULL;
}

static int broken(struct firn *c, int err, struct firn_error *e)
{
	const char *why = farewell(c);

	c->broken = err;
	if (why != NULL)
		return firn_fail(
		    e, err, "the service ended the connection: %s", why);
	return firn_fail(e, err, "the connection to the service ended: %s",
	    err == -ECONNRESET ? "it went away" : strerror(-err));
}

static int stopped(struct firn_error *e)
{
	return firn_fail(e, -ECANCELED, "stopped before the service answered");
}

static int receive(struct firn *c, struct firn_error *e);

/* It takes nothing more; what it said before is there to be read. */
static int hung_up(struct firn *c, struct firn_error *e)
{
	struct pollfd p = {.fd = c->fd, .events = POLLIN};

	while (c->broken == 0 && poll(&p, 1, 0) > 0)
		(void)receive(c, e);
	return broken(c, -ECONNRESET, e);
}

/*
 * Send part of a message. A service that is answering others of ours may wait
 * for us to read, so read while the socket takes nothing.
 */
static int send_some(
    struct firn *c, struct msghdr *mh, size_t *sent, struct firn_error *e)
{
	struct pollfd p[2] = {
	    {.fd = c->fd, .events = POLLIN | POLLOUT},
	    {.fd = c->stop_fd, .events = POLLIN},
	};
	ssize_t n = sendmsg(c->fd, mh, MSG_NOSIGNAL | MSG_DONTWAIT);

	*sent = n < 0 ? 0 : (size_t)n;
	if (n >= 0 || errno == EINTR)
		return 0;
	if (errno == EAGAIN) {
		if (poll(p, 2, -1) < 0)
			return errno == EINTR ? 0 : broken(c, -errno, e);
		if (!p[0].revents)
			return stopped(e);
		return p[0].revents & POLLIN ? receive(c, e) : 0;
	}
	if (errno == EPIPE || errno == ECONNRESET)
		return hung_up(c, e);
	if (errno == EBADF || errno == ETOOMANYREFS)
		return firn_fail(e, -errno, "cannot send the descriptors: %s",
		    strerror(errno));
	return broken(c, -errno, e);
}

static int send_all(struct firn *c, const char *text, size_t len,
    const int *fds, size_t nfds, struct firn_error *e)
{
	union {
		const char *in;
		char *out;
	} t = {.in = text};
	struct iovec iov;
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	union control ctl;
	size_t off = 0;

	if (nfds > 0) {
		memset(&ctl, 0, sizeof(ctl));
		ctl.align.cmsg_level = SOL_SOCKET;
		ctl.align.cmsg_type = SCM_RIGHTS;
		ctl.align.cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(&ctl.align), fds, nfds * sizeof(int));
		mh.msg_control = ctl.buf;
		mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
	}
	while (off < len) {
		size_t n;
		int r;

		iov = (struct iovec){t.out + off, len - off};
		r = send_some(c, &mh, &n, e);
		if (r != 0) {
			/* Half a line was sent: nothing can follow it. */
			if (off > 0)
				c->broken = r;
			return r;
		}
		if (n > 0) {
			mh.msg_control = NULL;
			mh.msg_controllen = 0;
		}
		off += n;
	}
	return 0;
}

/* As jansson has it; where there is no memory to ask it, a later call tells. */
static bool is_utf8(const char *s)
{
	json_error_t je;
	json_t *j = json_pack_ex(&je, 0, "s", s);
	bool bad = j == NULL && json_error_code(&je) == json_error_invalid_utf8;

	json_decref(j);
	return !bad;
}

int firn_call_async_json(struct firn *c, const char *method, json_t *params,
    const int *send, size_t nsend, uint64_t *id, struct firn_error *e)
{
	json_t *msg;
	char *text;
	size_t len;
	int r;

	if (params == NULL)
		params = json_object();
	if (!json_is_object(params) || nsend > FIRN_CALL_FDS_MAX) {
		json_decref(params);
		return firn_fail(e, -EINVAL,
		    "%s: needs an object, and at most %d descriptors", method,
		    FIRN_CALL_FDS_MAX);
	}
	if (c->broken != 0) {
		json_decref(params);
		return broken(c, c->broken, e);
	}
	if (!is_utf8(method)) {
		json_decref(params);
		return firn_fail(e, -EINVAL, "the method's name is not UTF-8");
	}
	msg = json_pack("{s:s, s:I, s:s, s:o}", "jsonrpc", "2.0", "id",
	    (json_int_t)c->last_id + 1, "method", method, "params", params);
	text = msg == NULL ? NULL : firn_text(msg, &len);
	json_decref(msg);
	if (text == NULL)
		return firn_fail(e, -ENOMEM, "%s: out of memory", method);
	text[len++] = '\n';
	*id = ++c->last_id;
	r = send_all(c, text, len, send, nsend, e);
	free(text);
	return r;
}

/* --- in ------------------------------------------------------------------- */

static int take_fds(struct firn *c, struct msghdr *mh)
{
	for (struct cmsghdr *h = CMSG_FIRSTHDR(mh); h != NULL;
	     h = CMSG_NXTHDR(mh, h)) {
		size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		int got[FIRN_REPLY_FDS_MAX];
		size_t room = FIRN_REPLY_FDS_MAX - c->nfds;

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		memcpy(got, CMSG_DATA(h), n * sizeof(int));
		if (n > room) {
			firn_close_fds(got, n);
			return -EPROTO;
		}
		memcpy(&c->fds[c->nfds], got, n * sizeof(int));
		c->nfds += n;
	}
	return mh->msg_flags & MSG_CTRUNC ? -EMFILE : 0;
}

static int reserve(struct firn *c, size_t more)
{
	size_t need = c->in_len + more;
	size_t cap = c->in_cap == 0 ? 4096 : c->in_cap;
	char *p;

	if (need > FIRN_REPLY_MAX)
		return -EPROTO;
	if (need <= c->in_cap)
		return 0;
	while (cap < need)
		cap *= 2;
	p = realloc(c->in, cap);
	if (p == NULL)
		return -ENOMEM;
	c->in = p;
	c->in_cap = cap;
	return 0;
}

/* The line is complete: queue it with its descriptors. */
static int queue_line(struct firn *c)
{
	struct firn_msg *m;
	size_t len = c->in_len;
	json_t *json;

	c->in_len = 0;
	if (c->nqueue >= FIRN_QUEUE_MAX ||
	    len > FIRN_QUEUE_BYTES - c->queue_bytes)
		return -EPROTO;
	json = json_loadb(c->in, len - 1, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(json)) {
		json_decref(json);
		return -EPROTO;
	}
	m = calloc(1, sizeof(*m));
	if (m != NULL && c->nfds > 0) {
		m->fds = calloc(c->nfds, sizeof(*m->fds));
		if (m->fds == NULL) {
			free(m);
			m = NULL;
		}
	}
	if (m == NULL) {
		json_decref(json);
		return -ENOMEM;
	}
	m->json = json;
	m->len = len;
	if (c->nfds > 0)
		memcpy(m->fds, c->fds, c->nfds * sizeof(c->fds[0]));
	m->nfds = c->nfds;
	c->nfds = 0;
	*c->tail = m;
	c->tail = &m->next;
	c->nqueue++;
	c->queue_bytes += len;
	return 0;
}

/* One piece, never beyond a line's end: see receive(). 0 or -errno. */
static int receive_piece(struct firn *c, size_t len)
{
	struct iovec iov;
	union control ctl;
	struct msghdr mh = {.msg_iov = &iov,
	    .msg_iovlen = 1,
	    .msg_control = ctl.buf,
	    .msg_controllen = sizeof(ctl.buf)};
	ssize_t n;
	int r = reserve(c, len);

	if (r != 0)
		return r;
	iov = (struct iovec){c->in + c->in_len, len};
	n = recvmsg(c->fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	r = take_fds(c, &mh);
	if (r != 0)
		return r;
	c->in_len += (size_t)n;
	if (c->in_len > 0 && c->in[c->in_len - 1] == '\n')
		return queue_line(c);
	return 0;
}

/*
 * Take what is there, at most up to the end of one line: descriptors come with
 * the bytes of a read, and so belong to that line.
 */
static int receive(struct firn *c, struct firn_error *e)
{
	ssize_t n = recv(c->fd, c->peek, PEEK_LEN, MSG_PEEK | MSG_DONTWAIT);
	const char *nl;
	int r;

	if (n == 0)
		return broken(c, -ECONNRESET, e);
	if (n < 0) {
		if (errno == EAGAIN || errno == EINTR)
			return 0;
		return broken(c, errno == EPIPE ? -ECONNRESET : -errno, e);
	}
	nl = memchr(c->peek, '\n', (size_t)n);
	r = receive_piece(
	    c, nl != NULL ? (size_t)(nl - c->peek) + 1 : (size_t)n);
	return r != 0 ? broken(c, r, e) : 0;
}

/* The reply to (id), or with id 0 an event; unlinked. NULL: none yet. */
static struct firn_msg *find(struct firn *c, uint64_t id)
{
	for (struct firn_msg **pp = &c->queue; *pp; pp = &(*pp)->next) {
		struct firn_msg *m = *pp;
		const json_t *v = json_object_get(m->json, "id");
		bool event = json_object_get(m->json, "method") != NULL;

		if (id == 0 ? !event
			    : !json_is_integer(v) ||
				  json_integer_value(v) != (json_int_t)id)
			continue;
		*pp = m->next;
		if (c->tail == &m->next)
			c->tail = pp;
		c->nqueue--;
		c->queue_bytes -= m->len;
		return m;
	}
	return NULL;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int wait_for(struct firn *c, uint64_t id, int timeout_ms,
    struct firn_msg **out, struct firn_error *e)
{
	int64_t end = timeout_ms < 0 ? INT64_MAX : now_ms() + timeout_ms;

	while ((*out = find(c, id)) == NULL) {
		struct pollfd p[2] = {
		    {.fd = c->fd, .events = POLLIN},
		    {.fd = c->stop_fd, .events = POLLIN},
		};
		int64_t left = end == INT64_MAX ? -1 : end - now_ms();
		int n;
		int r = c->broken;

		if (r == 0 && farewell(c) != NULL)
			r = -ECONNRESET;
		if (r != 0)
			return broken(c, r, e);
		if (end != INT64_MAX && left < 0)
			left = 0;
		n = poll(p, 2, (int)left);
		if (n < 0 && errno == EINTR)
			return firn_fail(e, -EINTR, "interrupted");
		if (n == 0)
			return firn_fail(e, -ETIMEDOUT, "timed out");
		if (n < 0)
			return broken(c, -errno, e);
		if (!p[0].revents)
			return stopped(e);
		/* What failed is in c->broken; what came before it counts. */
		(void)receive(c, e);
	}
	return 0;
}

/* --- replies -------------------------------------------------------------- */

static int errno_of(const char *name)
{
	for (int i = 1; name != NULL && i < 134; i++) {
		const char *n = strerrorname_np(i);

		if (n != NULL && strcmp(n, name) == 0)
			return -i;
	}
	return -EIO;
}

static int service_error(
    struct firn *c, const json_t *msg, struct firn_error *e)
{
	const json_t *err = json_object_get(msg, "error");
	const json_t *code = json_object_get(err, "code");
	const char *why = json_string_value(json_object_get(err, "message"));
	const char *name = json_string_value(
	    json_object_get(json_object_get(err, "data"), "errno"));
	int r = errno_of(name);

	json_decref(c->error_data);
	c->error_data = json_incref(json_object_get(err, "data"));

	firn_error_fill(e, (int)json_integer_value(code), r, "%s",
	    why != NULL ? why : "the service gave no reason");
	return r;
}

static int take_result(
    struct firn *c, struct firn_msg *m, json_t **result, struct firn_error *e)
{
	json_t *v = json_object_get(m->json, "result");

	if (v == NULL && json_object_get(m->json, "error") != NULL)
		return service_error(c, m->json, e);
	if (v == NULL)
		return firn_fail(
		    e, -EPROTO, "the service sent no result and no error");
	*result = json_incref(v);
	return 0;
}

int firn_wait_reply_json(struct firn *c, uint64_t id, int timeout_ms,
    json_t **result, int *fds, size_t *nfds, struct firn_error *e)
{
	size_t room = fds != NULL ? *nfds : 0;
	struct firn_msg *m;
	json_t *v = NULL;
	int r = wait_for(c, id, timeout_ms, &m, e);

	if (r != 0)
		return r;
	r = take_result(c, m, &v, e);
	if (r == 0 && fds != NULL && m->nfds > room)
		r = firn_fail(e, -EPROTO,
		    "the service sent %zu descriptors: more than expected",
		    m->nfds);
	if (r == 0 && fds != NULL) {
		if (m->nfds > 0)
			memcpy(fds, m->fds, m->nfds * sizeof(fds[0]));
		*nfds = m->nfds;
		m->nfds = 0;
	}
	if (r == 0 && result != NULL)
		*result = json_incref(v);
	json_decref(v);
	msg_free(m);
	return r;
}

int firn_call_json(struct firn *c, const char *method, json_t *params,
    const int *send, size_t nsend, json_t **result, int *fds, size_t *nfds,
    struct firn_error *e)
{
	struct firn_error own;
	uint64_t id;
	int r;

	if (e == NULL)
		e = &own;
	r = firn_call_async_json(c, method, params, send, nsend, &id, e);
	if (r != 0)
		return r;
	do {
		r = firn_wait_reply_json(c, id, -1, result, fds, nfds, e);
	} while (r == -EINTR && e->code == 0);
	return r;
}

const json_t *firn_error_data(const struct firn *c)
{
	return c->error_data;
}

int firn_wait_event_json(struct firn *c, int timeout_ms, char **method,
    json_t **params, struct firn_error *e)
{
	struct firn_msg *m;
	const char *name;
	int r = wait_for(c, 0, timeout_ms, &m, e);

	if (r != 0)
		return r;
	name = json_string_value(json_object_get(m->json, "method"));
	*method = strdup(name != NULL ? name : "");
	*params = json_incref(json_object_get(m->json, "params"));
	msg_free(m);
	if (*params == NULL)
		*params = json_object();
	if (*method != NULL && *params != NULL)
		return 0;
	free(*method);
	json_decref(*params);
	return firn_fail(e, -ENOMEM, "event: out of memory");
}
