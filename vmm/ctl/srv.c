/* SPDX-License-Identifier: MIT */
/* The server: who may connect, and the end of connections. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "vmm/core/cleanup.h"
#include "vmm/core/fdmsg.h"
#include "vmm/ctl/conn.h"

#define BACKLOG         64
#define ACCEPT_A_ROUND  16
#define ACCEPT_PAUSE_MS 100
#define LOCK_TRIES      100
#define LOCK_PAUSE_NS   10000000L

/* --- the end of connections ----------------------------------------------- */

static void bury(struct ctl_conn *c)
{
	struct ctl_srv *s = c->srv;

	while (c->reqs != NULL)
		ctl_req_orphan(c->reqs);
	if (c->opened && s->conf->on_close != NULL)
		s->conf->on_close(s->conf->ctx, c);
	ctl_conn_unlink(c);
	ctl_conn_free(c);
}

/* From the start after each: callbacks may close others. */
static void reap(void *arg)
{
	struct ctl_srv *s = arg;
	struct ctl_conn *c = s->conns;

	while (c != NULL) {
		if (!c->dying) {
			c = c->next;
			continue;
		}
		bury(c);
		c = s->conns;
	}
}

/* --- who may connect ------------------------------------------------------ */

static int check_peer(int fd, struct ucred *uc, struct err *e)
{
	socklen_t len = sizeof(*uc);
	socklen_t ilen = sizeof(int);
	int domain = 0;
	int type = 0;

	(void)getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &ilen);
	(void)getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &ilen);
	if (domain != AF_UNIX || type != SOCK_STREAM)
		return err_set(e, -EINVAL,
		    "descriptor %d is not a Unix stream socket", fd);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, uc, &len) != 0)
		return err_set(
		    e, -errno, "peer credentials: %s", strerror(errno));
	if (uc->uid != geteuid() && uc->uid != 0)
		return err_set(e, -EACCES,
		    "uid %u may not use the service of uid %u",
		    (unsigned)uc->uid, (unsigned)geteuid());
	return 0;
}

int ctl_adopt(struct ctl_srv *s, int fd, struct ctl_conn **out, struct err *e)
{
	struct ctl_conn *c;
	struct ucred uc;
	int r = check_peer(fd, &uc, e);

	if (r != 0)
		return r;
	if (s->nconns >= CTL_CONNS_MAX)
		return err_set(
		    e, -EUSERS, "%u connections: no more", CTL_CONNS_MAX);
	c = ctl_conn_new(s, fd, e);
	if (c == NULL)
		return -ENOMEM;
	if (s->conf->on_open != NULL &&
	    s->conf->on_open(s->conf->ctx, c, uc.uid, uc.pid) != 0) {
		c->fd = -1;
		ctl_conn_unlink(c);
		ctl_conn_free(c);
		return err_set(e, -EACCES, "the connection was refused");
	}
	c->opened = true;
	if (out != NULL)
		*out = c;
	return 0;
}

/* One line, if the socket takes it; the text holds no quotes. */
static void turn_away(struct closer *closer, int fd, const struct err *e)
{
	char line[ERR_MSG_MAX + 128];
	int n = snprintf(line, sizeof(line),
	    "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":%d,"
	    "\"message\":\"%s\",\"data\":{\"errno\":\"%s\"}}}\n",
	    e->code == -EUSERS ? CTL_LIMIT : ctl_code_of(e->code), e->msg,
	    strerrorname_np(-e->code));

	if (n > 0 && (size_t)n < sizeof(line))
		(void)fdmsg_send(fd, line, (size_t)n, NULL, 0, MSG_DONTWAIT);
	closer_hang_up(closer, fd);
}

static void accept_again(void *arg)
{
	struct ctl_srv *s = arg;

	loop_mod(s->lio, EPOLLIN);
}

static void on_connect(void *arg, int lfd, uint32_t events)
{
	struct ctl_srv *s = arg;

	(void)events;
	for (int i = 0; i < ACCEPT_A_ROUND; i++) {
		struct err e = {0};
		int fd = accept4(lfd, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0 && (errno == EMFILE || errno == ENFILE ||
				  errno == ENOBUFS || errno == ENOMEM)) {
			/* It stays pending: do not spin on it. */
			loop_mod(s->lio, 0);
			loop_timer_start(&s->accept_again, ACCEPT_PAUSE_MS);
		}
		if (fd < 0)
			return;
		if (ctl_adopt(s, fd, NULL, &e) != 0)
			turn_away(s->conf->closer, fd, &e);
	}
}

/* --- listening ------------------------------------------------------------ */

static int check_path(const char *path, struct sockaddr_un *sun, struct err *e)
{
	*sun = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(sun->sun_path))
		return err_set(e, -ENAMETOOLONG,
		    "socket path is longer than %zu bytes: choose a shorter "
		    "one",
		    sizeof(sun->sun_path) - 1);
	memcpy(sun->sun_path, path, strlen(path) + 1);
	return 0;
}

/*
 * A lock on the directory, so that two daemons that start together cannot both
 * find the other's socket stale. The descriptor, or -errno.
 */
static int lock_dir(const char *path, struct err *e)
{
	const struct timespec pause = {.tv_nsec = LOCK_PAUSE_NS};
	char dir[sizeof(((struct sockaddr_un *)0)->sun_path)] = ".";
	const char *slash = strrchr(path, '/');
	int fd;

	if (slash != NULL)
		(void)snprintf(dir, sizeof(dir), "%.*s",
		    slash == path ? 1 : (int)(slash - path), path);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_set(
		    e, -errno, "directory %.80s: %s", dir, strerror(errno));
	for (int i = 0; i < LOCK_TRIES; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return fd;
		(void)nanosleep(&pause, NULL);
	}
	(void)close(fd);
	return err_set(e, -EADDRINUSE,
	    "directory %.80s is locked by another process", dir);
}

/* Remove a socket file that nobody listens on. */
static int clear_stale(const struct sockaddr_un *sun, struct err *e)
{
	const char *path = sun->sun_path;
	AUTO_CLOSE int fd = -1;
	struct stat st;

	if (lstat(path, &st) != 0)
		return errno == ENOENT ? 0
				       : err_set(e, -errno, "%.100s: %s", path,
					     strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return err_set(
		    e, -EEXIST, "%.100s exists and is no socket", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(e, -errno, "socket: %s", strerror(errno));
	if (connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) == 0 ||
	    errno != ECONNREFUSED)
		return err_set(
		    e, -EADDRINUSE, "a daemon listens at %.100s already", path);
	if (unlink(path) != 0)
		return err_set(
		    e, -errno, "stale %.100s: %s", path, strerror(errno));
	return 0;
}

/* The listening socket, with mode 0600, or -errno and no file left. */
static int make_socket(const struct sockaddr_un *sun, struct err *e)
{
	AUTO_CLOSE int fd = -1;
	mode_t old;
	int r;

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(e, -errno, "socket: %s", strerror(errno));
	old = umask(0177);
	r = bind(fd, (const struct sockaddr *)sun, sizeof(*sun));
	(void)umask(old);
	if (r != 0)
		return err_set(e, -errno, "bind to %.100s: %s", sun->sun_path,
		    strerror(errno));
	if (listen(fd, BACKLOG) != 0) {
		r = err_set(e, -errno, "listen: %s", strerror(errno));
		(void)unlink(sun->sun_path);
		return r;
	}
	return take_fd(&fd);
}

static void unlisten(struct ctl_srv *s)
{
	struct stat st;

	loop_timer_stop(&s->accept_again);
	loop_del(s->lio);
	s->lio = NULL;
	if (s->lfd >= 0)
		(void)close(s->lfd);
	s->lfd = -1;
	/* Another daemon may have put its own there. */
	if (s->path != NULL && lstat(s->path, &st) == 0 &&
	    st.st_ino == s->path_st.st_ino && st.st_dev == s->path_st.st_dev)
		(void)unlink(s->path);
	free(s->path);
	s->path = NULL;
}

int ctl_listen(struct ctl_srv *s, const char *path, struct err *e)
{
	AUTO_CLOSE int lock = -1;
	struct sockaddr_un sun;
	int r;

	if (s->lfd >= 0)
		return err_set(e, -EBUSY, "the server listens already");
	r = check_path(path, &sun, e);
	if (r != 0)
		return r;
	lock = lock_dir(path, e);
	if (lock < 0)
		return lock;
	r = clear_stale(&sun, e);
	if (r != 0)
		return r;
	s->lfd = make_socket(&sun, e);
	if (s->lfd < 0)
		return s->lfd;
	s->path = strdup(path);
	(void)lstat(path, &s->path_st);
	if (s->path == NULL)
		r = err_set(e, -ENOMEM, "socket path: out of memory");
	else
		r = loop_add(
		    s->loop, s->lfd, EPOLLIN, on_connect, s, &s->lio, e);
	if (r != 0) {
		if (s->path == NULL)
			(void)unlink(path);
		unlisten(s);
	}
	return r;
}

/* --- life ----------------------------------------------------------------- */

int ctl_srv_new(struct ctl_srv **out, struct loop *l,
    const struct ctl_conf *conf, struct err *e)
{
	struct ctl_srv *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return err_set(e, -ENOMEM, "control server: out of memory");
	s->loop = l;
	s->conf = conf;
	s->lfd = -1;
	loop_timer_init(&s->reaper, l, reap, s);
	loop_timer_init(&s->flush_again, l, ctl_flush_all, s);
	loop_timer_init(&s->accept_again, l, accept_again, s);
	*out = s;
	return 0;
}

void ctl_srv_free(struct ctl_srv *s)
{
	if (s == NULL)
		return;
	unlisten(s);
	for (struct ctl_conn *c = s->conns; c != NULL; c = c->next)
		ctl_conn_close(c);
	reap(s);
	loop_timer_stop(&s->reaper);
	loop_timer_stop(&s->flush_again);
	free(s);
}
