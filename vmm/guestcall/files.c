/* SPDX-License-Identifier: MIT */
/* The open files of a program: its three streams and snapshots by name. */
#include "vmm/guestcall/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "vmm/core/cleanup.h"
#include "vmm/core/seals.h"

#define PIPE_CHUNK     4096u /* a pipe that is writable takes so much at once */
#define SNAP_LAYERS    4096u
#define SNAP_RUNS_LEN  (256u << 20) /* bytes of the list of runs */
#define TTY_MAJOR      4u
#define TTY_AUX_MAJOR  5u
#define PTS_MAJOR_LOW  136u
#define PTS_MAJOR_HIGH 143u

static struct guest_file *file_new(void)
{
	struct guest_file *f = calloc(1, sizeof(*f));

	if (f) {
		f->refs = 1;
		f->host_fd = -1;
	}
	return f;
}

static void file_free(struct guest *g, struct guest_file *f)
{
	const struct wire_closed w = {.id = f->opened};

	for (uint32_t i = 0; i < f->nlayers; i++)
		if (f->layer[i] >= 0)
			(void)close(f->layer[i]);
	if (f->opened != 0)
		g->env.ops.tell(g->env.ops.ctx, WIRE_G_CLOSED, &w, sizeof(w));
	free(f->layer);
	free(f->run);
	free(f);
}

/* Terminals are told by their number: asking them needs a call that a confined
 * monitor does not have. */
static bool is_tty(const struct stat *st)
{
	unsigned m = major(st->st_rdev);

	return S_ISCHR(st->st_mode) &&
	       (m == TTY_MAJOR || m == TTY_AUX_MAJOR ||
		   (m >= PTS_MAJOR_LOW && m <= PTS_MAJOR_HIGH));
}

int files_init(struct guest *g, struct err *e)
{
	for (int i = 0; i < 3; i++) {
		struct stat st;
		struct guest_file *f;

		if (g->env.stdio[i] < 0 || fstat(g->env.stdio[i], &st) < 0)
			continue;
		f = file_new();
		if (!f)
			return err_set(e, -ENOMEM, "guest: no memory");
		f->host_fd = g->env.stdio[i];
		f->pollable = !S_ISREG(st.st_mode);
		f->tty = is_tty(&st);
		g->file[i] = f;
	}
	return 0;
}

void files_fini(struct guest *g)
{
	for (uint32_t i = 0; i < GUEST_FILES_MAX; i++)
		if (g->file[i])
			(void)file_close(g, i);
}

struct guest_file *file_get(struct guest *g, uint64_t fd)
{
	struct guest_file *f = NULL;

	if (fd >= GUEST_FILES_MAX)
		return NULL;
	pthread_mutex_lock(&g->files_lock);
	f = g->file[fd];
	if (f)
		f->refs++;
	pthread_mutex_unlock(&g->files_lock);
	return f;
}

void file_put(struct guest *g, struct guest_file *f)
{
	bool last;

	pthread_mutex_lock(&g->files_lock);
	last = --f->refs == 0;
	pthread_mutex_unlock(&g->files_lock);
	if (last)
		file_free(g, f);
}

int file_install(struct guest *g, struct guest_file *f, uint64_t min)
{
	uint64_t fd = min;

	pthread_mutex_lock(&g->files_lock);
	while (fd < GUEST_FILES_MAX && g->file[fd])
		fd++;
	if (fd < GUEST_FILES_MAX) {
		g->file[fd] = f;
		pthread_mutex_unlock(&g->files_lock);
		return (int)fd;
	}
	pthread_mutex_unlock(&g->files_lock);
	file_put(g, f);
	return -EMFILE;
}

int file_close(struct guest *g, uint64_t fd)
{
	struct guest_file *f = NULL;

	if (fd >= GUEST_FILES_MAX)
		return -EBADF;
	pthread_mutex_lock(&g->files_lock);
	f = g->file[fd];
	g->file[fd] = NULL;
	pthread_mutex_unlock(&g->files_lock);
	if (!f)
		return -EBADF;
	file_put(g, f);
	return 0;
}

/* --- streams -------------------------------------------------------------- */

int guest_wait(struct guest *g, int fd, short events, uint64_t timeout_ns)
{
	struct pollfd p[2] = {
	    {.fd = g->env.ops.kill_fd, .events = POLLIN},
	    {.fd = fd, .events = events},
	};
	struct timespec ts = {
	    .tv_sec = (time_t)(timeout_ns / 1000000000u),
	    .tv_nsec = (long)(timeout_ns % 1000000000u),
	};
	int n = ppoll(
	    p, fd < 0 ? 1 : 2, timeout_ns == UINT64_MAX ? NULL : &ts, NULL);

	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	if (p[0].revents)
		return -EINTR;
	return n > 0;
}

/* A signal that only kicks vCPUs is no reason to give up. */
static int wait_stream(
    struct guest *g, const struct guest_file *f, short events)
{
	int r = 1;

	if (!f->pollable)
		return 0;
	do
		r = guest_wait(g, f->host_fd, events, UINT64_MAX);
	while (r == -EAGAIN || r == 0);
	return r < 0 ? r : 0;
}

static int64_t snap_read(
    struct guest *g, struct guest_file *f, void *buf, uint64_t len);

int64_t file_read(
    struct guest *g, struct guest_file *f, void *buf, uint64_t len)
{
	ssize_t n;
	int r;

	if (len > GUEST_BOUNCE_MAX)
		len = GUEST_BOUNCE_MAX;
	if (f->host_fd < 0)
		return snap_read(g, f, buf, len);
	do {
		r = wait_stream(g, f, POLLIN);
		if (r < 0)
			return r;
		n = read(f->host_fd, buf, len);
	} while (n < 0 && (errno == EINTR || errno == EAGAIN));
	return n < 0 ? -errno : n;
}

int64_t file_write(
    struct guest *g, struct guest_file *f, const void *buf, uint64_t len)
{
	ssize_t n;
	int r;

	if (f->host_fd < 0)
		return -EBADF;
	if (len > GUEST_BOUNCE_MAX)
		len = GUEST_BOUNCE_MAX;
	if (f->pollable && len > PIPE_CHUNK)
		len = PIPE_CHUNK;
	do {
		r = wait_stream(g, f, POLLOUT);
		if (r < 0)
			return r;
		n = write(f->host_fd, buf, len);
	} while (n < 0 && (errno == EINTR || errno == EAGAIN));
	return n < 0 ? -errno : n;
}

/* --- snapshots ------------------------------------------------------------ */

static const struct page_run *find_run(
    const struct guest_file *f, uint64_t page, uint64_t *next)
{
	size_t lo = 0;
	size_t hi = f->nruns;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (f->run[mid].page + f->run[mid].npages > page)
			hi = mid;
		else
			lo = mid + 1;
	}
	*next = f->size / PAGE_SIZE;
	if (lo == f->nruns)
		return NULL;
	if (f->run[lo].page > page) {
		*next = f->run[lo].page;
		return NULL;
	}
	*next = f->run[lo].page + f->run[lo].npages;
	return &f->run[lo];
}

int64_t file_pread(struct guest_file *f, void *buf, uint64_t len, uint64_t off)
{
	const struct page_run *run;
	uint64_t next;
	uint64_t at;
	ssize_t n;

	if (f->host_fd >= 0)
		return -ESPIPE;
	if (off >= f->size)
		return 0;
	run = find_run(f, off / PAGE_SIZE, &next);
	if (len > next * PAGE_SIZE - off)
		len = next * PAGE_SIZE - off;
	if (len > GUEST_BOUNCE_MAX)
		len = GUEST_BOUNCE_MAX;
	if (!run || run->layer == RUN_ZERO) {
		memset(buf, 0, len);
		return (int64_t)len;
	}
	at = (run->index - run->page) * PAGE_SIZE + off;
	do
		n = pread(f->layer[run->layer], buf, len, (off_t)at);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return n > 0 ? n : -EIO;
}

static int64_t snap_read(
    struct guest *g, struct guest_file *f, void *buf, uint64_t len)
{
	int64_t n;

	pthread_mutex_lock(&g->files_lock);
	n = file_pread(f, buf, len, f->pos);
	if (n > 0)
		f->pos += (uint64_t)n;
	pthread_mutex_unlock(&g->files_lock);
	return n;
}

/* The kernel, not the broker, says that a layer cannot change, and how long it
 * is. */
static int check_layer(int fd, uint64_t *npages)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;

	if (seals < 0 || (seals & SEALS_FROZEN) != SEALS_FROZEN)
		return -EPERM;
	if (fstat(fd, &st) < 0)
		return -errno;
	*npages = (uint64_t)st.st_size / PAGE_SIZE;
	return 0;
}

static int check_runs(const struct guest_file *f, const uint64_t *layer_npages)
{
	int r = run_list_check(f->run, f->nruns, f->size / PAGE_SIZE);

	for (size_t i = 0; i < f->nruns && r == 0; i++) {
		const struct page_run *run = &f->run[i];

		if (run->layer == RUN_ZERO)
			continue;
		if (run->layer >= f->nlayers ||
		    run->index + run->npages > layer_npages[run->layer])
			r = -EPROTO;
	}
	return r;
}

static int check_snap(const struct guest_file *f)
{
	uint64_t *npages = calloc(f->nlayers + 1, sizeof(*npages));
	int r = 0;

	if (npages == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < f->nlayers && r == 0; i++)
		r = check_layer(f->layer[i], &npages[i]);
	if (r == 0)
		r = check_runs(f, npages);
	free(npages);
	return r;
}

/* Turn the broker's answer into (f); it keeps the layers. */
static int take_opened(
    struct guest_file *f, struct wire_packet *p, uint32_t before)
{
	struct wire_opened o;
	int runs AUTO_CLOSE = wire_take_fd(p, 0);
	void *data = NULL;
	size_t len = 0;
	int r;

	if (p->m.len < sizeof(o) || runs < 0)
		return -EPROTO;
	memcpy(&o, p->payload, sizeof(o));
	f->opened = o.id;
	f->snapshot = o.snapshot;
	if (o.npages > PLACE_NPAGES_MAX || o.nlayers != before + p->nfds - 1 ||
	    o.nlayers > SNAP_LAYERS)
		return -EPROTO;
	for (uint32_t i = before; i < o.nlayers; i++) {
		f->layer[i] = wire_take_fd(p, 1 + i - before);
		f->nlayers++;
	}
	r = wire_slurp(runs, SNAP_RUNS_LEN, &data, &len);
	if (r < 0)
		return r;
	f->run = data;
	f->nruns = len / sizeof(*f->run);
	f->size = o.npages * PAGE_SIZE;
	if (f->nruns != o.nruns)
		return -EPROTO;
	return check_snap(f);
}

/* (name) is FIRN_NAME_MAX bytes, NUL-padded. */
static int ask_open(struct guest *g, const char *name, struct guest_file *f)
{
	struct wire_packet *p = malloc(sizeof(*p));
	struct guest_layers l = {.cap = SNAP_LAYERS};
	int r;

	f->layer = calloc(SNAP_LAYERS, sizeof(*f->layer));
	if (p == NULL || f->layer == NULL) {
		free(p);
		return -ENOMEM;
	}
	l.fd = f->layer;
	r = g->env.ops.ask(
	    g->env.ops.ctx, WIRE_G_OPEN, name, FIRN_NAME_MAX, p, &l);
	if (r == 0) {
		f->nlayers = l.n;
		r = p->m.status < 0 ? (int)p->m.status : take_opened(f, p, l.n);
		wire_close_fds(p);
	}
	free(p);
	return r;
}

int file_open_snap(struct guest *g, const char *name)
{
	char padded[FIRN_NAME_MAX] = {0};
	size_t len = strnlen(name, FIRN_NAME_MAX);
	struct guest_file *f;
	int r;

	if (len == 0 || len == FIRN_NAME_MAX)
		return -ENOENT;
	memcpy(padded, name, len);
	f = file_new();
	if (!f)
		return -ENOMEM;
	r = ask_open(g, padded, f);
	if (r < 0) {
		file_free(g, f);
		return r;
	}
	return file_install(g, f, 3);
}
