/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "vmm/guestcall/linux.h"

#define PATH_LEN_MAX 4096u
#define IOV_COUNT    1024u
#define SNAP_DIR     "/snap/"
#define SNAP_BLOCK   4096
#define TERMIOS_LEN  36u
#define POLL_MAX     16u
#define MS_NS        1000000ULL
#define READY_ALWAYS (POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM)

/* --- bytes ---------------------------------------------------------------- */

/* One piece of a read: at most a bounce buffer. */
static int64_t read_some(
    struct guest *g, struct guest_file *f, uint64_t va, uint64_t len)
{
	unsigned char buf[GUEST_BOUNCE_MAX];
	int64_t n = file_read(g, f, buf, len);

	if (n > 0 && guest_copy_out(g, va, buf, (uint64_t)n) < 0)
		return -EFAULT;
	return n;
}

static int64_t write_some(
    struct guest *g, struct guest_file *f, uint64_t va, uint64_t len)
{
	unsigned char buf[GUEST_BOUNCE_MAX];
	uint64_t done = 0;

	if (len > sizeof(buf))
		len = sizeof(buf);
	if (guest_copy_in(g, buf, va, len) < 0)
		return -EFAULT;
	while (done < len) {
		int64_t n = file_write(g, f, buf + done, len - done);

		if (n <= 0)
			return done ? (int64_t)done : n;
		done += (uint64_t)n;
	}
	return (int64_t)done;
}

/* Where a read would put its bytes must be there before any are taken from a
 * stream, as they could not be given back. */
static int check_room(struct guest *g, uint64_t va, uint64_t len)
{
	uint64_t end;
	int r = 0;

	if (len > GUEST_BOUNCE_MAX)
		len = GUEST_BOUNCE_MAX;
	if (__builtin_add_overflow(va, len, &end))
		return -EFAULT;
	guest_enter(g);
	while (va < end && r == 0) {
		r = as_touch(&g->as, va, AS_W);
		va = (va & ~(PAGE_SIZE - 1)) + PAGE_SIZE;
	}
	guest_leave(g);
	return r < 0 ? -EFAULT : 0;
}

/* Streams give what they have; snapshots give all that was asked for. */
static int64_t read_all(
    struct guest *g, struct guest_file *f, uint64_t va, uint64_t len)
{
	uint64_t done = 0;

	while (done < len) {
		int64_t n = check_room(g, va + done, len - done);

		if (n == 0)
			n = read_some(g, f, va + done, len - done);
		if (n <= 0)
			return done ? (int64_t)done : n;
		done += (uint64_t)n;
		if (f->pollable)
			break;
	}
	return (int64_t)done;
}

static int64_t write_all(
    struct guest *g, struct guest_file *f, uint64_t va, uint64_t len)
{
	uint64_t done = 0;

	while (done < len) {
		int64_t n = write_some(g, f, va + done, len - done);

		if (n <= 0)
			return done ? (int64_t)done : n;
		done += (uint64_t)n;
	}
	return (int64_t)done;
}

typedef int64_t move_fn(
    struct guest *g, struct guest_file *f, uint64_t va, uint64_t len);

static int64_t move(struct guest_call *c, move_fn *fn)
{
	struct guest_file *f = file_get(c->g, c->a[0]);
	int64_t n;

	if (!f)
		return -EBADF;
	n = c->a[2] > INT64_MAX ? -EINVAL : fn(c->g, f, c->a[1], c->a[2]);
	file_put(c->g, f);
	return n;
}

int64_t linux_read(struct guest_call *c)
{
	return move(c, read_all);
}

int64_t linux_write(struct guest_call *c)
{
	return linux_unless_pipe(c, move(c, write_all));
}

/* May what was read so far be all for now? Only a read of nothing waits. */
static bool read_enough(
    struct guest_call *c, const struct guest_file *f, uint64_t done)
{
	return done > 0 && f->pollable &&
	       guest_wait(c->g, f->host_fd, POLLIN, 0) != 1;
}

/* The vectors are read one by one: each is used as it was checked. */
static int64_t move_vectors(
    struct guest_call *c, struct guest_file *f, move_fn *fn)
{
	uint64_t done = 0;

	for (uint64_t i = 0; i < c->a[2]; i++) {
		uint64_t iov[2];
		int64_t n;

		if (guest_copy_in(
			c->g, iov, c->a[1] + i * sizeof(iov), sizeof(iov)) < 0)
			return done ? (int64_t)done : -EFAULT;
		if (iov[1] == 0)
			continue;
		if (iov[1] > INT64_MAX)
			return done ? (int64_t)done : -EINVAL;
		if (fn == read_all && read_enough(c, f, done))
			break;
		n = fn(c->g, f, iov[0], iov[1]);
		if (n <= 0)
			return done ? (int64_t)done : n;
		done += (uint64_t)n;
		if ((uint64_t)n < iov[1])
			break;
	}
	return (int64_t)done;
}

static int64_t move_iov(struct guest_call *c, move_fn *fn)
{
	struct guest_file *f;
	int64_t n;

	if (c->a[2] > IOV_COUNT)
		return -EINVAL;
	f = file_get(c->g, c->a[0]);
	if (!f)
		return -EBADF;
	n = move_vectors(c, f, fn);
	file_put(c->g, f);
	return n;
}

int64_t linux_readv(struct guest_call *c)
{
	return move_iov(c, read_all);
}

int64_t linux_writev(struct guest_call *c)
{
	return linux_unless_pipe(c, move_iov(c, write_all));
}

static int64_t pread_all(struct guest *g, struct guest_file *f, uint64_t va,
    uint64_t len, uint64_t off)
{
	unsigned char buf[GUEST_BOUNCE_MAX];
	uint64_t done = 0;

	while (done < len) {
		int64_t n = file_pread(f, buf, len - done, off + done);

		if (n > 0 && guest_copy_out(g, va + done, buf, (uint64_t)n) < 0)
			n = -EFAULT;
		if (n <= 0)
			return done ? (int64_t)done : n;
		done += (uint64_t)n;
	}
	return (int64_t)done;
}

int64_t linux_pread(struct guest_call *c)
{
	struct guest_file *f;
	int64_t n;

	if (c->a[2] > INT64_MAX || c->a[3] > INT64_MAX)
		return -EINVAL;
	f = file_get(c->g, c->a[0]);
	if (!f)
		return -EBADF;
	n = pread_all(c->g, f, c->a[1], c->a[2], c->a[3]);
	file_put(c->g, f);
	return n;
}

/* --- names ---------------------------------------------------------------- */

static int64_t open_path(struct guest_call *c, uint64_t va, uint64_t flags)
{
	char path[PATH_LEN_MAX];
	int n = guest_copy_str(c->g, path, va, sizeof(path));

	if (n < 0)
		return n;
	if (strncmp(path, SNAP_DIR, strlen(SNAP_DIR)) != 0)
		return -ENOENT;
	if ((flags & O_ACCMODE) != O_RDONLY)
		return -EROFS;
	return file_open_snap(c->g, path + strlen(SNAP_DIR));
}

int64_t linux_open(struct guest_call *c)
{
	return open_path(c, c->a[0], c->a[1]);
}

int64_t linux_openat(struct guest_call *c)
{
	return open_path(c, c->a[1], c->a[2]);
}

int64_t linux_close(struct guest_call *c)
{
	return file_close(c->g, c->a[0]);
}

static int64_t read_link(
    struct guest_call *c, uint64_t path_va, uint64_t buf, uint64_t len)
{
	char path[PATH_LEN_MAX];
	int n = guest_copy_str(c->g, path, path_va, sizeof(path));

	if (n < 0)
		return n;
	if (strcmp(path, "/proc/self/exe") != 0)
		return -ENOENT;
	if (len > strlen(GUEST_EXE_NAME))
		len = strlen(GUEST_EXE_NAME);
	if (guest_copy_out(c->g, buf, GUEST_EXE_NAME, len) < 0)
		return -EFAULT;
	return (int64_t)len;
}

int64_t linux_readlink(struct guest_call *c)
{
	return read_link(c, c->a[0], c->a[1], c->a[2]);
}

int64_t linux_readlinkat(struct guest_call *c)
{
	return read_link(c, c->a[1], c->a[2], c->a[3]);
}

/* --- what a file is ------------------------------------------------------- */

/* Of a stream no more is told than what libc looks at, and which file it is:
 * programs compare that. No device of the host is 0. */
static int fill_stat(const struct guest_file *f, struct stat *out)
{
	struct stat st;

	memset(out, 0, sizeof(*out));
	out->st_nlink = 1;
	out->st_blksize = SNAP_BLOCK;
	if (f->host_fd < 0) {
		out->st_ino = f->snapshot;
		out->st_mode = S_IFREG | 0444;
		out->st_size = (off_t)f->size;
		out->st_blocks = (blkcnt_t)(f->size / 512);
		return 0;
	}
	if (fstat(f->host_fd, &st) < 0)
		return -errno;
	out->st_dev = st.st_dev;
	out->st_ino = st.st_ino;
	out->st_mode = st.st_mode;
	out->st_size = st.st_size;
	out->st_blocks = st.st_blocks;
	return 0;
}

static int64_t stat_fd(struct guest_call *c, uint64_t fd, uint64_t va)
{
	struct guest_file *f = file_get(c->g, fd);
	struct stat st;
	int r;

	if (!f)
		return -EBADF;
	r = fill_stat(f, &st);
	file_put(c->g, f);
	return r < 0 ? r : guest_copy_out(c->g, va, &st, sizeof(st));
}

int64_t linux_fstat(struct guest_call *c)
{
	return stat_fd(c, c->a[0], c->a[1]);
}

/* Snapshots' by name. */
static int64_t stat_path(struct guest_call *c, const char *path, uint64_t va)
{
	int fd;
	int64_t r;

	if (strncmp(path, SNAP_DIR, strlen(SNAP_DIR)) != 0)
		return -ENOENT;
	fd = file_open_snap(c->g, path + strlen(SNAP_DIR));
	if (fd < 0)
		return fd;
	r = stat_fd(c, (uint64_t)fd, va);
	(void)file_close(c->g, (uint64_t)fd);
	return r;
}

/* stat(path, stat) */
int64_t linux_stat(struct guest_call *c)
{
	char path[PATH_LEN_MAX];
	int n = guest_copy_str(c->g, path, c->a[0], sizeof(path));

	return n < 0 ? n : stat_path(c, path, c->a[1]);
}

/* newfstatat(fd, path, stat, flags) */
int64_t linux_fstatat(struct guest_call *c)
{
	char path[PATH_LEN_MAX];
	int n = guest_copy_str(c->g, path, c->a[1], sizeof(path));

	if (n < 0)
		return n;
	if (n == 0 && (c->a[3] & AT_EMPTY_PATH))
		return stat_fd(c, c->a[0], c->a[2]);
	return stat_path(c, path, c->a[2]);
}

static int64_t seek_stream(struct guest_file *f, int64_t off, uint64_t whence)
{
	off_t at;

	if (f->pollable)
		return -ESPIPE;
	if (whence > SEEK_END)
		return -EINVAL;
	at = lseek(f->host_fd, (off_t)off, (int)whence);
	return at < 0 ? -errno : at;
}

static int64_t seek_snap(
    struct guest *g, struct guest_file *f, int64_t off, uint64_t whence)
{
	int64_t base = 0;
	int64_t at;
	int64_t r;

	pthread_mutex_lock(&g->files_lock);
	if (whence == SEEK_CUR)
		base = (int64_t)f->pos;
	else if (whence == SEEK_END)
		base = (int64_t)f->size;
	if (whence > SEEK_END || __builtin_add_overflow(base, off, &at) ||
	    at < 0) {
		r = -EINVAL;
	} else {
		f->pos = (uint64_t)at;
		r = at;
	}
	pthread_mutex_unlock(&g->files_lock);
	return r;
}

int64_t linux_lseek(struct guest_call *c)
{
	struct guest_file *f = file_get(c->g, c->a[0]);
	int64_t off = (int64_t)c->a[1];
	int64_t r;

	if (!f)
		return -EBADF;
	if (f->host_fd < 0)
		r = seek_snap(c->g, f, off, c->a[2]);
	else
		r = seek_stream(f, off, c->a[2]);
	file_put(c->g, f);
	return r;
}

int64_t linux_ioctl(struct guest_call *c)
{
	struct guest_file *f = file_get(c->g, c->a[0]);
	unsigned char termios[TERMIOS_LEN] = {0};
	struct winsize ws = {.ws_row = 24, .ws_col = 80};
	bool tty;

	if (!f)
		return -EBADF;
	tty = f->tty;
	file_put(c->g, f);
	if (tty && c->a[1] == TCGETS)
		return guest_copy_out(c->g, c->a[2], termios, sizeof(termios));
	if (tty && c->a[1] == TIOCGWINSZ)
		return guest_copy_out(c->g, c->a[2], &ws, sizeof(ws));
	return -ENOTTY;
}

/* --- numbers -------------------------------------------------------------- */

static int64_t dup_from(struct guest_call *c, uint64_t min)
{
	struct guest_file *f;

	if (min >= GUEST_FILES_MAX)
		return -EINVAL;
	f = file_get(c->g, c->a[0]);
	return f ? file_install(c->g, f, min) : -EBADF;
}

int64_t linux_dup(struct guest_call *c)
{
	return dup_from(c, 0);
}

int64_t linux_dup2(struct guest_call *c)
{
	struct guest_file *f;
	int r;

	if (c->a[1] >= GUEST_FILES_MAX)
		return -EBADF;
	f = file_get(c->g, c->a[0]);
	if (!f)
		return -EBADF;
	if (c->a[0] == c->a[1]) {
		file_put(c->g, f);
		return (int64_t)c->a[1];
	}
	(void)file_close(c->g, c->a[1]);
	r = file_install(c->g, f, c->a[1]);
	return r;
}

/* dup3(from, to, flags) */
int64_t linux_dup3(struct guest_call *c)
{
	if (c->a[0] == c->a[1] || (c->a[2] & ~(uint64_t)O_CLOEXEC))
		return -EINVAL;
	return linux_dup2(c);
}

int64_t linux_fcntl(struct guest_call *c)
{
	struct guest_file *f = file_get(c->g, c->a[0]);
	int host_fd;

	if (!f)
		return -EBADF;
	host_fd = f->host_fd;
	file_put(c->g, f);
	switch (c->a[1]) {
	case F_GETFD:
	case F_SETFD:
	case F_SETFL:
		return 0;
	case F_GETFL:
		return host_fd < 0 ? O_RDONLY
				   : fcntl(host_fd, F_GETFL) & O_ACCMODE;
	case F_DUPFD:
	case F_DUPFD_CLOEXEC:
		return dup_from(c, c->a[2]);
	default:
		return -EINVAL;
	}
}

/* --- poll ----------------------------------------------------------------- */

/* One file: what is ready now. Snapshots and regular files always are. */
static short ready_now(struct guest *g, int64_t fd, short events)
{
	struct guest_file *f = fd < 0 ? NULL : file_get(g, (uint64_t)fd);
	struct pollfd p;

	if (!f)
		return fd < 0 ? 0 : POLLNVAL;
	p = (struct pollfd){.fd = f->host_fd, .events = events};
	if (!f->pollable)
		p.revents = (short)(events & READY_ALWAYS);
	else if (poll(&p, 1, 0) < 0)
		p.revents = 0;
	file_put(g, f);
	return p.revents;
}

static int64_t poll_once(struct guest *g, struct pollfd *p, uint32_t n)
{
	int64_t ready = 0;

	for (uint32_t i = 0; i < n; i++) {
		p[i].revents = ready_now(g, p[i].fd, p[i].events);
		ready += p[i].revents != 0;
	}
	return ready;
}

/* The host descriptor to wait on; -1: none, or more than one to choose. */
static int only_stream(struct guest *g, const struct pollfd *p, uint32_t n)
{
	struct guest_file *f;
	int fd;

	if (n != 1 || p->fd < 0)
		return -1;
	f = file_get(g, (uint64_t)p->fd);
	if (!f)
		return -1;
	fd = f->host_fd;
	file_put(g, f);
	return fd;
}

/* poll(fds, n, ms); several files are looked at every few milliseconds. */
int64_t linux_poll(struct guest_call *c)
{
	struct pollfd p[POLL_MAX] = {0};
	uint32_t n = (uint32_t)c->a[1];
	int32_t ms = (int32_t)c->a[2];
	uint64_t left = ms < 0 ? UINT64_MAX : (uint64_t)ms * MS_NS;
	uint64_t step = 5 * MS_NS;
	int64_t ready;
	int fd;
	int r;

	if (c->a[1] > POLL_MAX)
		return -EINVAL;
	if (guest_copy_in(c->g, p, c->a[0], n * sizeof(p[0])) < 0)
		return -EFAULT;
	fd = only_stream(c->g, p, n);
	while ((ready = poll_once(c->g, p, n)) == 0 && left > 0) {
		uint64_t wait = n <= 1 || left < step ? left : step;

		r = guest_wait(c->g, fd, p[0].events, wait);
		if (r < 0 && r != -EAGAIN)
			return r;
		if (r == 0 && left != UINT64_MAX)
			left -= wait;
	}
	if (n && guest_copy_out(c->g, c->a[0], p, n * sizeof(p[0])) < 0)
		return -EFAULT;
	return ready;
}
