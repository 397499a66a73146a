/* SPDX-License-Identifier: MIT */
/* Connections: lines in, queued messages out. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/core/fdmsg.h"
#include "vmm/ctl/conn.h"

/* --- out ------------------------------------------------------------------ */

static void out_free(struct closer *closer, struct ctl_out *o)
{
	closer_close_all(closer, o->fds, o->nfds);
	free(o->fds);
	free(o->text);
	free(o);
}

static void out_pop(struct ctl_conn *c)
{
	struct ctl_out *o = c->out;

	c->out = o->next;
	if (c->out == NULL)
		c->out_tail = &c->out;
	c->out_bytes -= o->len;
	out_free(c->srv->conf->closer, o);
}

/* Descriptors go with the first byte, then ours are closed. */
static void out_progress(struct ctl_conn *c, ssize_t sent)
{
	struct ctl_out *o = c->out;

	closer_close_all(c->srv->conf->closer, o->fds, o->nfds);
	c->out_fds -= o->nfds;
	o->nfds = 0;
	o->off += (size_t)sent;
	if (o->off == o->len)
		out_pop(c);
}

static void want(struct ctl_conn *c, uint32_t events)
{
	if (c->events != events)
		loop_mod(c->io, events);
	c->events = events;
}

static void flush(struct ctl_conn *c)
{
	bool later = false;

	while (!c->dying && c->out != NULL) {
		struct ctl_out *o = c->out;
		ssize_t n = fdmsg_send(c->fd, o->text + o->off, o->len - o->off,
		    o->fds, o->nfds, MSG_DONTWAIT);

		later = fdmsg_no_room(n);
		if (n == -EAGAIN || later)
			break;
		if (n < 0)
			ctl_conn_close(c);
		else
			out_progress(c, n);
	}
	if (later && !c->srv->flush_again.armed)
		loop_timer_start(&c->srv->flush_again, FDMSG_PAUSE_MS);
	if (!c->dying)
		want(c, EPOLLIN | (c->out != NULL && !later ? EPOLLOUT : 0u));
}

void ctl_flush_all(void *srv)
{
	struct ctl_srv *s = srv;

	for (struct ctl_conn *c = s->conns; c != NULL; c = c->next)
		flush(c);
}

/* The line of (msg). json_dumps() would do, but jansson 2.14 leaves out what it
 * has no memory for and calls that success. */
static char *line_of(const json_t *msg, size_t *len)
{
	size_t n = msg == NULL ? 0 : json_dumpb(msg, NULL, 0, JSON_COMPACT);
	char *text = n == 0 ? NULL : malloc(n + 1);

	if (text == NULL)
		return NULL;
	if (json_dumpb(msg, text, n, JSON_COMPACT) != n) {
		free(text);
		return NULL;
	}
	text[n] = '\n';
	*len = n + 1;
	return text;
}

/* NULL without memory; (fds) are still the caller's then. */
static struct ctl_out *out_new(const json_t *msg, int *fds, size_t nfds)
{
	struct ctl_out *o = calloc(1, sizeof(*o));

	if (o == NULL)
		return NULL;
	o->text = line_of(msg, &o->len);
	if (o->text == NULL) {
		free(o);
		return NULL;
	}
	o->fds = fds;
	o->nfds = nfds;
	return o;
}

void ctl_conn_send(struct ctl_conn *c, json_t *msg, int *fds, size_t nfds)
{
	struct ctl_out *o = c->dying ? NULL : out_new(msg, fds, nfds);

	json_decref(msg);
	if (o == NULL) {
		closer_close_all(c->srv->conf->closer, fds, nfds);
		free(fds);
		ctl_conn_close(c);
		return;
	}
	*c->out_tail = o;
	c->out_tail = &o->next;
	c->out_bytes += o->len;
	c->out_fds += nfds;
	flush(c);
	if (c->out_bytes > CTL_OUT_MAX || c->out_fds > CTL_OUT_FDS_MAX)
		ctl_conn_close(c);
}

/* A message may quote what is not UTF-8, or was cut within a character. */
static json_t *plain_string(const char *s)
{
	char clean[CTL_WHY_MAX];
	json_t *j = json_string(s);

	if (j != NULL)
		return j;
	(void)snprintf(clean, sizeof(clean), "%s", s);
	for (char *p = clean; *p != '\0'; p++)
		if (*p & 0x80)
			*p = '?';
	return json_string(clean);
}

void ctl_conn_send_error(
    struct ctl_conn *c, json_t *id, const struct ctl_failure *f)
{
	const char *name = strerrorname_np(f->err);
	json_t *data = json_pack("{s:s}", "errno", name != NULL ? name : "EIO");

	if (data != NULL && f->data != NULL)
		(void)json_object_update_missing(data, f->data);
	ctl_conn_send(c,
	    json_pack("{s:s, s:O, s:{s:i, s:o, s:o}}", "jsonrpc", "2.0", "id",
		id != NULL ? id : json_null(), "error", "code", (int)f->code,
		"message", plain_string(f->why), "data", data),
	    NULL, 0);
}

void ctl_notify(struct ctl_conn *c, const char *method, json_t *params)
{
	if (params == NULL)
		params = json_object();
	ctl_conn_send(c,
	    json_pack("{s:s, s:s, s:o}", "jsonrpc", "2.0", "method", method,
		"params", params),
	    NULL, 0);
}

/* --- in ------------------------------------------------------------------- */

/* Say why, as far as the socket takes it, and disconnect. */
static void fatal(
    struct ctl_conn *c, enum ctl_code code, int err, const char *why)
{
	struct ctl_failure f;

	(void)ctl_refuse(&f, code, err, "%s; disconnected", why);
	ctl_conn_send_error(c, NULL, &f);
	ctl_conn_close(c);
}

static bool reserve(struct ctl_conn *c, size_t more)
{
	size_t need = c->in_len + more;
	size_t cap = c->in_cap == 0 ? 4096 : c->in_cap;
	char *p;

	if (need <= c->in_cap)
		return true;
	while (cap < need)
		cap *= 2;
	p = realloc(c->in, cap);
	if (p == NULL)
		return false;
	c->in = p;
	c->in_cap = cap;
	return true;
}

static void keep_fds(struct ctl_conn *c, int *got, size_t ngot)
{
	size_t room = CTL_FDS_MAX - c->nfds;
	size_t n = ngot < room ? ngot : room;

	memcpy(&c->fds[c->nfds], got, n * sizeof(got[0]));
	c->nfds += n;
	closer_close_all(c->srv->conf->closer, got + n, ngot - n);
	c->fds_surplus += ngot - n;
}

/*
 * How many bytes to take: up to the end of one line and no further, since
 * descriptors come with the bytes of a read, and so belong to that line.
 * 0 if there are none or the connection ended.
 */
static size_t next_piece(struct ctl_conn *c)
{
	char *buf = c->srv->peek;
	ssize_t n = recv(c->fd, buf, CTL_PEEK_LEN, MSG_PEEK | MSG_DONTWAIT);
	const char *nl;
	size_t len;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0) {
		ctl_conn_close(c);
		return 0;
	}
	nl = memchr(buf, '\n', (size_t)n);
	len = nl != NULL ? (size_t)(nl - buf) + 1 : (size_t)n;
	if (c->in_len + len - (nl != NULL) > CTL_LINE_MAX) {
		fatal(c, CTL_LIMIT, EMSGSIZE,
		    "the request is longer than 256 KiB");
		return 0;
	}
	if (!reserve(c, len)) {
		fatal(c, CTL_EXHAUSTED, ENOMEM, "out of memory");
		return 0;
	}
	return len;
}

/* Take one piece; false when there is nothing more to do for now. */
static bool read_piece(struct ctl_conn *c)
{
	int got[FDMSG_MAX];
	size_t ngot = 0;
	size_t len = next_piece(c);
	ssize_t n;

	if (len == 0)
		return false;
	n = fdmsg_recv(
	    c->fd, c->in + c->in_len, len, got, FDMSG_MAX, &ngot, MSG_DONTWAIT);
	if (n == -EMFILE) {
		fatal(c, CTL_EXHAUSTED, EMFILE,
		    "no room for the descriptors of the request");
		return false;
	}
	if (n <= 0) {
		ctl_conn_close(c);
		return false;
	}
	keep_fds(c, got, ngot);
	c->in_len += (size_t)n;
	if (c->in[c->in_len - 1] == '\n') {
		size_t line = c->in_len - 1;

		c->in_len = 0;
		ctl_handle_line(c, c->in, line);
	}
	return !c->dying;
}

static void on_ready(void *arg, int fd, uint32_t events)
{
	struct ctl_conn *c = arg;

	(void)fd;
	if (events & EPOLLOUT)
		flush(c);
	if (c->dying || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		return;
	for (unsigned i = 0; i < CTL_LINES_A_ROUND; i++)
		if (!read_piece(c))
			break;
}

/* --- life ----------------------------------------------------------------- */

void ctl_conn_close(struct ctl_conn *c)
{
	if (c->dying)
		return;
	c->dying = true;
	loop_del(c->io);
	c->io = NULL;
	loop_timer_start(&c->srv->reaper, 0);
}

struct ctl_conn *ctl_conn_new(struct ctl_srv *s, int fd, struct err *e)
{
	struct ctl_conn *c = calloc(1, sizeof(*c));

	if (c == NULL) {
		(void)err_set(e, -ENOMEM, "connection: out of memory");
		return NULL;
	}
	c->srv = s;
	c->fd = fd;
	c->out_tail = &c->out;
	c->events = EPOLLIN;
	if (loop_add(s->loop, fd, EPOLLIN, on_ready, c, &c->io, e) != 0) {
		free(c);
		return NULL;
	}
	c->next = s->conns;
	if (s->conns != NULL)
		s->conns->prev = c;
	s->conns = c;
	s->nconns++;
	return c;
}

void ctl_conn_unlink(struct ctl_conn *c)
{
	if (c->prev != NULL)
		c->prev->next = c->next;
	else
		c->srv->conns = c->next;
	if (c->next != NULL)
		c->next->prev = c->prev;
	c->srv->nconns--;
}

void ctl_conn_free(struct ctl_conn *c)
{
	struct closer *closer = c->srv->conf->closer;

	loop_del(c->io);
	while (c->out != NULL)
		out_pop(c);
	closer_close_all(closer, c->fds, c->nfds);
	closer_hang_up(closer, c->fd);
	free(c->in);
	free(c);
}

void ctl_conn_set_data(struct ctl_conn *c, void *data)
{
	c->data = data;
}

void *ctl_conn_data(const struct ctl_conn *c)
{
	return c->data;
}
