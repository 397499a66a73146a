/* SPDX-License-Identifier: MIT */
#include "tests/unit/broker_world.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "vmm/broker/broker.h"
#include "vmm/core/fdmsg.h"
#include "vmm/core/loop.h"
#include "vmm/wire/wire.h"

#define LINE_MAX_ (1u << 20)
#define SEALS     (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* --- failures on demand ------------------------------------------------------
 */

struct hook hook;

__thread bool ours;

static bool fails(void)
{
	int left;

	if (ours || !atomic_load(&hook.armed))
		return false;
	left = atomic_fetch_sub(&hook.left, 1);
	if (left != 1)
		return false;
	atomic_store(&hook.fired, true);
	return true;
}

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);
int __real_fcntl(int fd, int cmd, ...);
int __wrap_fcntl(int fd, int cmd, ...);
int __real_memfd_create(const char *name, unsigned flags);
int __wrap_memfd_create(const char *name, unsigned flags);
int __real_socketpair(int domain, int type, int protocol, int sv[2]);
int __wrap_socketpair(int domain, int type, int protocol, int sv[2]);
int __wrap_posix_spawn(pid_t *pid, const char *path,
    const posix_spawn_file_actions_t *fa, const posix_spawnattr_t *at,
    char *const argv[], char *const envp[]);

json_t *__real_json_loadb(
    const char *buf, size_t len, size_t flags, json_error_t *e);
json_t *__wrap_json_loadb(
    const char *buf, size_t len, size_t flags, json_error_t *e);

void *__wrap_malloc(size_t n)
{
	if (!fails())
		return __real_malloc(n);
	errno = ENOMEM;
	return NULL;
}

void *__wrap_calloc(size_t n, size_t size)
{
	if (!fails())
		return __real_calloc(n, size);
	errno = ENOMEM;
	return NULL;
}

void *__wrap_realloc(void *p, size_t n)
{
	if (!fails())
		return __real_realloc(p, n);
	errno = ENOMEM;
	return NULL;
}

int __wrap_fcntl(int fd, int cmd, ...)
{
	va_list ap;
	long arg;

	va_start(ap, cmd);
	arg = va_arg(ap, long);
	va_end(ap);
	if (cmd != F_DUPFD_CLOEXEC || !fails())
		return __real_fcntl(fd, cmd, arg);
	errno = EMFILE;
	return -1;
}

int __wrap_memfd_create(const char *name, unsigned flags)
{
	if (!fails())
		return __real_memfd_create(name, flags);
	errno = EMFILE;
	return -1;
}

int __wrap_socketpair(int domain, int type, int protocol, int sv[2])
{
	int rc = __real_socketpair(domain, type, protocol, sv);

	if (rc == 0 && (type & SOCK_SEQPACKET) == SOCK_SEQPACKET) {
		hook.monitor = __real_fcntl(sv[1], F_DUPFD_CLOEXEC, 3L);
		(void)__real_fcntl(hook.monitor, F_SETFL, (long)O_NONBLOCK);
	}
	return rc;
}

/* The parser of jansson 2.14 writes past its buffer when it gets no memory for
 * a larger one: it is not asked to do without. */
json_t *__wrap_json_loadb(
    const char *buf, size_t len, size_t flags, json_error_t *e)
{
	bool was = ours;
	json_t *j;

	ours = true;
	j = __real_json_loadb(buf, len, flags, e);
	ours = was;
	return j;
}

/* A process to be killed and reaped; what it would say is said here. */
int __wrap_posix_spawn(pid_t *pid, const char *path,
    const posix_spawn_file_actions_t *fa, const posix_spawnattr_t *at,
    char *const argv[], char *const envp[])
{
	(void)path;
	(void)fa;
	(void)at;
	(void)argv;
	(void)envp;
	hook.pid = *pid = fork();
	if (*pid != 0)
		return *pid < 0 ? errno : 0;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)syscall(SYS_close_range, 0u, ~0u, 0u);
	for (;;)
		(void)pause();
}

static void *json_memory(size_t n)
{
	bool was = ours;
	void *p;

	ours |= !hook.json;
	p = malloc(n);
	ours = was;
	return p;
}

/* --- a monitor ---------------------------------------------------------------
 */

uint64_t now(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint32_t count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	uint32_t n = 0;

	assert_non_null(d);
	while (readdir(d) != NULL)
		n++;
	(void)closedir(d);
	return n;
}

void put_page(int fd, uint64_t index, uint64_t tag)
{
	uint64_t page[PAGE_SIZE / 8];

	for (size_t i = 0; i < PAGE_SIZE / 8; i++)
		page[i] = tag;
	assert_int_equal(
	    pwrite(fd, page, sizeof(page), (off_t)(index * PAGE_SIZE)),
	    PAGE_SIZE);
}

/* A page that was just written may be held by the kernel for a moment, on a
 * busy machine for longer. */
int seal(int fd)
{
	int rc = fcntl(fd, F_ADD_SEALS, (long)SEALS);

	for (int i = 0; i < 1000 && rc != 0 && errno == EBUSY; i++) {
		(void)usleep(1000);
		rc = fcntl(fd, F_ADD_SEALS, (long)SEALS);
	}
	return rc;
}

int new_layer(uint64_t npages)
{
	int fd = memfd_create("layer", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)(npages * PAGE_SIZE)), 0);
	return fd;
}

/* The dirty pages as a step: runs in (r), how many, and the layer. */
static size_t make_step(
    struct fake *f, struct page_run *r, int *layer, uint64_t *npages)
{
	size_t n = 0;
	uint64_t at = 0;

	*npages = NPAGES;
	for (uint64_t i = 0; i < NPAGES && !f->first; i++)
		at += f->dirty[i];
	if (!f->first)
		*npages = at > 0 ? at : 1;
	*layer = new_layer(*npages);
	at = 0;
	for (uint64_t i = 0; i < NPAGES; i++) {
		if (!f->dirty[i])
			continue;
		if (f->first)
			at = i;
		put_page(*layer, at, f->truth[i]);
		if (n > 0 && r[n - 1].page + r[n - 1].npages == i)
			r[n - 1].npages++;
		else
			r[n++] = (struct page_run){
			    .page = i, .npages = 1, .index = at};
		at++;
	}
	return n;
}

static void spoil_runs(enum how how, struct page_run *r, size_t n)
{
	switch (how) {
	case BEYOND_LAYER:
		r[n - 1].index = NPAGES;
		break;
	case BEYOND_PLACE:
		r[n - 1].page = NPAGES;
		break;
	case WRAPPING:
		r[n - 1].index = UINT64_MAX - r[n - 1].npages + 1;
		break;
	case OVERLAPPING:
		r[1].page = r[0].page;
		break;
	case OTHER_LAYER:
		r[0].layer = 1;
		break;
	default:
		break;
	}
}

static void spoil_frozen(enum how how, struct wire_frozen *w)
{
	if (how == OTHER_NPAGES)
		w->npages++;
	if (how == MANY_STEPS)
		w->nsteps = WIRE_STEPS_MAX + 1;
	if (how == HUGE_NRUNS)
		w->step[0].nruns = 1ULL << 59; /* times 32: 0 */
	if (how == LAYER_SMALL)
		w->step[0].layer_npages = 1ULL << 40;
}

void say(struct fake *f, uint16_t type, uint32_t seq, int64_t status,
    const void *payload, uint32_t len, const int *fds, uint32_t nfds)
{
	struct wire_msg m = {
	    .type = type, .seq = seq, .status = status, .len = len};

	(void)wire_send(f->sock, &m, payload, fds, nfds);
}

void reply(struct fake *f, int64_t status, const void *payload, uint32_t len,
    const int *fds, uint32_t nfds)
{
	say(f, f->p.m.type | WIRE_REPLY, f->p.m.seq, status, payload, len, fds,
	    nfds);
}

/* The two bitmaps, as (how) has them. */
static int sets_blob(struct fake *f)
{
	uint64_t bits[2 * NPAGES / 64 + 1] = {0};
	size_t len = sizeof(bits) - 8;

	for (uint32_t i = 0; i < NPAGES; i++) {
		bits[i / 64] |= (uint64_t)(f->read[i] && !f->wrote[i])
				<< i % 64;
		bits[(NPAGES + i) / 64] |= (uint64_t)f->wrote[i] << i % 64;
	}
	if (f->how == SHORT_SETS)
		len -= 8;
	if (f->how == LONG_SETS)
		len += 8;
	return wire_blob("sets", bits, len);
}

/* --- its memory, where that came from the broker */

#define OWNED_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

static int foreign_memory(int seals, mode_t mode)
{
	int fd = new_layer(NPAGES);

	assert_int_equal(fchmod(fd, mode), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, (long)seals), 0);
	return fd;
}

static void spoil_owned(struct fake *f, struct wire_step *s, int *fd)
{
	if (f->how == KEEPS_FD)
		f->kept = __real_fcntl(*fd, F_DUPFD_CLOEXEC, 3L);
	if (f->how == KEEPS_MAPPING)
		f->mapping = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
		    MAP_SHARED, *fd, 0);
	if (f->how == OWNED_SEALED)
		(void)fcntl(*fd, F_ADD_SEALS, (long)SEALS);
	if (f->how == OWNED_LOOSE || f->how == OWNED_FOREIGN) {
		(void)close(*fd);
		*fd = f->how == OWNED_LOOSE ? foreign_memory(0, 0600)
					    : foreign_memory(OWNED_SEALS, 0777);
	}
	s->first = f->how != OWNED_LATER;
	s->severed = f->how != OWNED_UNSEVERED;
	s->has_layer = f->how != OWNED_NOTHING;
	if (f->how == OWNED_SMALL)
		s->layer_npages++;
}

void release(struct fake *f)
{
	if (f->kept >= 0)
		(void)close(f->kept);
	if (f->mapping != NULL)
		(void)munmap(f->mapping, PAGE_SIZE);
	f->kept = -1;
	f->mapping = NULL;
}

/* To a sever of a segment never frozen. */
static void answer_owned(struct fake *f)
{
	struct page_run r = {.npages = NPAGES};
	struct wire_frozen w = {.npages = NPAGES, .nsteps = 1};
	int fds[2] = {wire_blob("runs", &r, sizeof(r)), f->memory};

	w.step[0] =
	    (struct wire_step){.nruns = 1, .layer_npages = NPAGES, .owned = 1};
	for (uint32_t i = 0; i < NPAGES; i++)
		put_page(f->memory, i, f->truth[i]);
	spoil_owned(f, &w.step[0], &fds[1]);
	reply(f, 0, &w, sizeof(w), fds, 1 + w.step[0].has_layer);
	(void)close(fds[0]);
	(void)close(fds[1]);
	f->memory = wire_take_fd(&f->p, 0);
	memset(f->dirty, 0, sizeof(f->dirty));
	memset(f->truth, 0, sizeof(f->truth));
}

/* What the monitors of ours ask the kernel. */
static void adopt_memory(struct fake *f, int fd)
{
	assert_int_equal(__real_fcntl(fd, F_GET_SEALS, 0L), OWNED_SEALS);
	assert_int_equal(__real_fcntl(fd, F_GETFL, 0L) & O_ACCMODE, O_RDWR);
	assert_int_equal(__real_fcntl(fd, F_SETLEASE, (long)F_WRLCK), 0);
	assert_int_equal(__real_fcntl(fd, F_SETLEASE, (long)F_UNLCK), 0);
	if (f->how == REFUSES_OWN || f->how == REFUSES_AND_KEEPS) {
		if (f->how == REFUSES_AND_KEEPS)
			f->kept = __real_fcntl(fd, F_DUPFD_CLOEXEC, 3L);
		return;
	}
	if (f->memory >= 0)
		(void)close(f->memory);
	f->memory = __real_fcntl(fd, F_DUPFD_CLOEXEC, 3L);
	f->first = true;
	memcpy(f->truth, f->mapped, sizeof(f->truth));
	for (uint32_t i = 0; i < NPAGES; i++)
		f->dirty[i] = f->truth[i] != 0;
}

void answer_freeze(struct fake *f)
{
	struct page_run r[NPAGES];
	struct wire_frozen w = {.npages = NPAGES, .nsteps = 1};
	enum how how = f->how;
	int p[2];
	int fds[3];
	uint32_t nfds = 3;
	size_t n;

	if (f->p.m.type == WIRE_SEVER && f->first && f->memory >= 0) {
		answer_owned(f);
		return;
	}
	n = make_step(f, r, &fds[1], &w.step[0].layer_npages);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	w.step[0].has_layer = 1;
	w.cold_pages = f->cold;
	w.warm_pages = f->warm;
	w.step[0].first = f->first;
	w.step[0].nruns = n;
	spoil_runs(how, r, n);
	spoil_frozen(how, &w);
	w.tracked = f->tracked ? how != UNTOLD_SETS : how == UNASKED_SETS;
	fds[0] = wire_blob("runs", r, n * sizeof(r[0]) - (how == RUNS_TORN));
	fds[2] = sets_blob(f);
	if (!w.tracked || how == NO_SETS)
		nfds = 2;
	if (how == PIPE_SETS)
		assert_true(dup3(p[0], fds[2], O_CLOEXEC) >= 0);
	if (how != UNSEALED)
		(void)seal(fds[1]);
	if (how == RUNS_PIPE)
		assert_true(dup3(p[0], fds[0], O_CLOEXEC) >= 0);
	if (how == LAYER_PIPE)
		assert_true(dup3(p[0], fds[1], O_CLOEXEC) >= 0);
	if (how == NO_FDS)
		nfds = 0;
	if (how == NO_LAYER_FD)
		nfds = 1;
	if (how == WILD_STATUS)
		reply(f, INT64_MIN, "\x1b[2J\xff wild", 10, NULL, 0);
	else
		reply(
		    f, 0, &w, sizeof(w) - 8 * (how == SHORT_ANSWER), fds, nfds);
	(void)close(fds[0]);
	(void)close(fds[1]);
	(void)close(fds[2]);
	(void)close(p[0]);
	(void)close(p[1]);
	f->first = f->p.m.type == WIRE_SEVER;
	if (f->memory >= 0)
		(void)close(f->memory);
	f->memory = f->first ? wire_take_fd(&f->p, 0) : -1;
	memset(f->dirty, 0, sizeof(f->dirty));
	if (f->first)
		memset(f->truth, 0, sizeof(f->truth));
}

static uint64_t read_tag(int fd, uint64_t index)
{
	uint64_t tag = 0;

	assert_int_equal(pread(fd, &tag, 8, (off_t)(index * PAGE_SIZE)), 8);
	return tag;
}

/* What (runs) over (fds) show, into (tags). */
void show_runs(int runs_fd, const int *fds, uint32_t nlayers, uint64_t *tags)
{
	struct page_run *r;
	void *data;
	size_t len;

	assert_int_equal(wire_slurp(runs_fd, 1u << 20, &data, &len), 0);
	r = data;
	memset(tags, 0, NPAGES * sizeof(tags[0]));
	assert_int_equal(run_list_check(r, len / sizeof(*r), NPAGES), 0);
	for (size_t i = 0; i < len / sizeof(*r); i++) {
		if (r[i].layer == RUN_ZERO)
			continue;
		assert_true(r[i].layer < nlayers);
		for (uint64_t k = 0; k < r[i].npages; k++)
			tags[r[i].page + k] =
			    read_tag(fds[r[i].layer], r[i].index + k);
	}
	free(data);
}

static void keep_layers(struct fake *f, uint32_t from)
{
	for (uint32_t i = from; i < f->p.nfds; i++) {
		assert_true(f->nlayers < 1024);
		f->layer[f->nlayers++] = wire_take_fd(&f->p, i);
	}
}

static void answer_map(struct fake *f)
{
	struct wire_map q;
	struct wire_mapped m = {.id = f->next_id++, .gpa = 1ULL << 40};

	assert_int_equal(f->p.m.len, sizeof(q));
	memcpy(&q, f->p.payload, sizeof(q));
	keep_layers(f, 1);
	assert_int_equal(f->nlayers, q.nlayers);
	show_runs(f->p.fd[0], f->layer, f->nlayers, f->mapped);
	if (q.mode == FIRN_MAP_OWN)
		adopt_memory(f, f->layer[0]);
	for (uint32_t i = 0; i < f->nlayers; i++)
		(void)close(f->layer[i]);
	f->nlayers = 0;
	if (q.mode == FIRN_MAP_OWN &&
	    (f->how == REFUSES_OWN || f->how == REFUSES_AND_KEEPS)) {
		reply(f, -ENOSPC, "there is no room", 16, NULL, 0);
		return;
	}
	if (q.mode & FIRN_MAP_TRACK) {
		f->tracked = true;
		f->first = false;
		memcpy(f->truth, f->mapped, sizeof(f->truth));
		memset(f->dirty, 0, sizeof(f->dirty));
		memset(f->read, 0, sizeof(f->read));
		memset(f->wrote, 0, sizeof(f->wrote));
	}
	reply(f, 0, &m, sizeof(m), NULL, 0);
}

/* A place goes on from other files. */
static void answer_relay(struct fake *f)
{
	struct wire_relayed done = {.pause_ns = 7, .given_pages = 3};
	struct wire_relay q;

	assert_int_equal(f->p.m.len, sizeof(q));
	memcpy(&q, f->p.payload, sizeof(q));
	assert_int_equal(q.npages, NPAGES);
	assert_int_equal(f->p.nfds, 1 + q.nlayers);
	show_runs(f->p.fd[0], f->p.fd + 1, q.nlayers, f->relayed);
	f->nrelays++;
	if (f->lie.given_pages != 0)
		done = f->lie;
	reply(f, 0, &done, sizeof(done), NULL, 0);
}

static void answer_touched(struct fake *f)
{
	int fd = sets_blob(f);

	reply(f, 0, NULL, 0, &fd, f->how == NO_SETS ? 0 : 1);
	(void)close(fd);
}

static void answer_dirty(struct fake *f)
{
	struct wire_dirtied w = {.npages = NPAGES};
	uint64_t bits[NPAGES / 64] = {0};
	struct wire_dirty q;
	int fd;

	assert_int_equal(f->p.m.len, sizeof(q));
	memcpy(&q, f->p.payload, sizeof(q));
	assert_int_equal(q.cursor[0], WIRE_CURSOR_CLIENT[0]);
	for (uint32_t i = 0; i < NPAGES; i++)
		bits[i / 64] |= (uint64_t)f->written[i] << i % 64;
	if ((q.flags & FIRN_PEEK) == 0)
		memset(f->written, 0, sizeof(f->written));
	fd = wire_blob("bits", bits, sizeof(bits) - (f->how == SHORT_ANSWER));
	reply(f, 0, &w, sizeof(w), &fd, f->how == NO_FDS ? 0 : 1);
	(void)close(fd);
}

static void fake_end(struct fake *f, bool in_order)
{
	struct wire_exited x = {.status = 0, .segment = UINT32_MAX};

	if (in_order)
		say(f, WIRE_EXITED, 0, 0, &x, sizeof(x), NULL, 0);
	(void)kill(f->pid, SIGKILL);
}

static bool misbehave(struct fake *f)
{
	switch (f->how) {
	case DIES:
		fake_end(f, false);
		return true;
	case HANGS_UP:
		(void)shutdown(f->sock, SHUT_RDWR);
		return true;
	case GARBAGE:
		(void)send(f->sock, "garbage", 7, MSG_NOSIGNAL);
		return true;
	case SILENT:
		return true;
	default:
		return false;
	}
}

static void take_pages(struct fake *f)
{
	struct stat st;

	f->last_nsent = 0;
	if (f->p.m.status < 0 || f->p.m.len != sizeof(f->last_pages))
		return;
	memcpy(&f->last_pages, f->p.payload, sizeof(f->last_pages));
	if (f->p.nfds == 1 && fstat(f->p.fd[0], &st) == 0)
		f->last_nsent =
		    (uint64_t)st.st_size / sizeof(struct firn_extent);
}

static void fake_request(struct fake *f)
{
	struct wire_stats stats = {.syscalls = 7};

	if (f->p.m.type & WIRE_REPLY) {
		f->nreplies++;
		f->last_status = f->p.m.status;
		take_pages(f);
		return;
	}
	if (f->p.m.type == WIRE_KILL) {
		f->nkills++;
		if (f->how != SILENT)
			fake_end(f, true);
		return;
	}
	if (f->p.m.type == WIRE_LAYERS) {
		keep_layers(f, 0);
		return;
	}
	if (f->p.m.type == WIRE_LAUNCH) {
		say(f, WIRE_STARTED, 0, 0, NULL, 0, NULL, 0);
		return;
	}
	if (misbehave(f) || (f->answers != NULL && f->answers(f)))
		return;
	if (f->p.m.type == WIRE_FREEZE || f->p.m.type == WIRE_SEVER)
		answer_freeze(f);
	else if (f->p.m.type == WIRE_MAP)
		answer_map(f);
	else if (f->p.m.type == WIRE_DIRTY)
		answer_dirty(f);
	else if (f->p.m.type == WIRE_TOUCHED)
		answer_touched(f);
	else if (f->p.m.type == WIRE_RELAY)
		answer_relay(f);
	else if (f->p.m.type == WIRE_STATS)
		reply(f, 0, &stats, sizeof(stats), NULL, 0);
	else
		reply(f, 0, NULL, 0, NULL, 0);
}

static void fake_serve(struct fake *f)
{
	while (f->sock >= 0) {
		int rc = wire_recv(f->sock, &f->p);

		if (rc == -EAGAIN)
			return;
		if (rc <= 0) {
			(void)close(f->sock);
			f->sock = -1;
			return;
		}
		fake_request(f);
		wire_close_fds(&f->p);
	}
}

void guest_writes(struct fake *f, uint32_t from, uint32_t step, uint64_t tag)
{
	for (uint32_t i = from; i < NPAGES; i += step) {
		f->truth[i] = tag + i;
		f->dirty[i] = f->written[i] = f->wrote[i] = true;
	}
}

void guest_reads(struct fake *f, uint32_t from, uint32_t step)
{
	for (uint32_t i = from; i < NPAGES; i += step)
		f->read[i] = true;
}

/* --- a client ----------------------------------------------------------------
 */

static void lower_limit(struct rlimit *old)
{
	struct rlimit rl;
	rlim_t fd = 0;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, old), 0);
	rl = *old;
	for (rlim_t unused = 0; unused < hook.slack; fd++)
		unused += __real_fcntl((int)fd, F_GETFD, 0L) < 0;
	rl.rlim_cur = fd;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &rl), 0);
}

/* The broker's turn, then its monitors'. */
void pump(struct world *x)
{
	struct rlimit old;
	bool limited = hook.slack > 0 && atomic_load(&hook.armed);

	if (limited)
		lower_limit(&old);
	ours = false;
	(void)loop_run_once(x->l, 2, NULL);
	ours = true;
	if (limited)
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	for (int i = 0; i < FAKES_MAX; i++)
		if (x->fake[i].used)
			fake_serve(&x->fake[i]);
}

void connect_client(struct world *x)
{
	struct err e;
	int sv[2];

	assert_int_equal(
	    __real_socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	if (x->fd >= 0)
		(void)close(x->fd);
	x->fd = sv[0];
	x->in_len = 0;
	x->lost = false;
	if (broker_adopt(x->b, sv[1], &e) != 0)
		fail_msg("%s", e.msg);
}

void drop_fds(struct world *x)
{
	fdmsg_close_all(x->fds, x->nfds);
	x->nfds = 0;
}

/* Is there a line? */
static bool has_line(const struct world *x)
{
	return memchr(x->in, '\n', x->in_len) != NULL;
}

/* Take what is there. */
static bool receive(struct world *x)
{
	int got[FDMSG_MAX];
	size_t ngot = 0;
	ssize_t n;

	if (has_line(x))
		return true;
	n = fdmsg_recv(x->fd, x->in + x->in_len, LINE_MAX_ - x->in_len, got,
	    FDMSG_MAX, &ngot, MSG_DONTWAIT);
	if (n == -EAGAIN)
		return false;
	if (n <= 0) {
		x->lost = true;
		return false;
	}
	memcpy(x->fds + x->nfds, got, ngot * sizeof(int));
	x->nfds += ngot;
	x->in_len += (size_t)n;
	return has_line(x);
}

static json_t *take_line(struct world *x)
{
	char *nl = memchr(x->in, '\n', x->in_len);
	size_t len = (size_t)(nl - x->in) + 1;
	json_t *m = json_loadb(x->in, len, 0, NULL);

	if (m == NULL)
		fail_msg("not JSON: %.*s", (int)len, x->in);
	x->in_len -= len;
	memmove(x->in, x->in + len, x->in_len);
	return m;
}

void request(struct world *x, const char *method, json_t *params,
    const int *fds, size_t nfds)
{
	json_t *m = json_pack("{s:s,s:I,s:s,s:o}", "jsonrpc", "2.0", "id",
	    ++x->id, "method", method, "params", params);
	char *text = json_dumps(m, JSON_COMPACT);
	size_t len = strlen(text);

	text[len++] = '\n';
	assert_int_equal(
	    fdmsg_send(x->fd, text, len, fds, nfds, 0), (ssize_t)len);
	json_decref(m);
	free(text);
}

/* The answer, {result} or {error}; NULL when the connection ended instead, and
 * then there is a new one. */
json_t *answer(struct world *x)
{
	uint64_t end = now() + PATIENCE_NS;

	while (!receive(x) && !x->lost) {
		pump(x);
		if (now() > end)
			fail_msg("no answer");
	}
	if (x->lost) {
		bool armed = atomic_exchange(&hook.armed, false);

		connect_client(x);
		atomic_store(&hook.armed, armed);
		return NULL;
	}
	return take_line(x);
}

json_t *call_fds(struct world *x, const char *method, json_t *params,
    const int *fds, size_t nfds)
{
	assert_non_null(params);
	drop_fds(x);
	request(x, method, params, fds, nfds);
	return answer(x);
}

json_t *call(struct world *x, const char *method, json_t *params)
{
	return call_fds(x, method, params, NULL, 0);
}

bool good(const json_t *m)
{
	return json_object_get(m, "result") != NULL;
}

const char *why(const json_t *m)
{
	return json_string_value(
	    json_object_get(json_object_get(m, "error"), "message"));
}

/* As call(), and it must succeed; its result. */
json_t *must(struct world *x, const char *method, json_t *params)
{
	json_t *m = call(x, method, params);
	json_t *r;

	if (m == NULL || !good(m))
		fail_msg("%s: %s", method, m == NULL ? "cut off" : why(m));
	r = json_incref(json_object_get(m, "result"));
	json_decref(m);
	return r;
}

void must_do(struct world *x, const char *method, json_t *params)
{
	json_decref(must(x, method, params));
}

/* As call(), and it must fail with a reason in plain words. */
void must_fail(struct world *x, const char *method, json_t *params)
{
	json_t *m = call(x, method, params);

	assert_non_null(m);
	if (good(m))
		fail_msg("%s: succeeded", method);
	assert_true(strlen(why(m)) > 8);
	for (const char *c = why(m); *c != '\0'; c++)
		assert_true(*c >= 0x20 && *c < 0x7f);
	json_decref(m);
}

/* --- worlds ------------------------------------------------------------------
 */

int setup(void **state)
{
	struct world *x = calloc(1, sizeof(*x));
	struct broker_conf conf = {.monitor = "played"};
	struct err e;

	ours = true;
	assert_non_null(x);
	memset(&hook, 0, sizeof(hook));
	json_set_alloc_funcs(json_memory, free);
	x->nfds_before = count_fds();
	x->fd = -1;
	x->in = malloc(LINE_MAX_);
	assert_non_null(x->in);
	assert_int_equal(loop_new(&x->l, &e), 0);
	assert_int_equal(broker_new(&x->b, x->l, &conf, &e), 0);
	connect_client(x);
	*state = x;
	return 0;
}

int teardown(void **state)
{
	struct world *x = *state;

	drop_fds(x);
	(void)close(x->fd);
	broker_free(x->b);
	loop_free(x->l);
	for (int i = 0; i < FAKES_MAX; i++) {
		struct fake *f = &x->fake[i];

		for (uint32_t k = 0; k < f->nlayers; k++)
			(void)close(f->layer[k]);
		if (f->used && f->sock >= 0)
			(void)close(f->sock);
		if (f->used && f->memory >= 0)
			(void)close(f->memory);
	}
	assert_int_equal(count_fds(), x->nfds_before);
	free(x->in);
	free(x);
	return 0;
}

/* A running VM called (name) of which (f) is the monitor. */
struct fake *launch_vm(struct world *x, int i, const char *name)
{
	struct fake *f = &x->fake[i];
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int fds[4] = {null, null, null, null};
	json_t *m;

	if (f->used && f->sock >= 0)
		(void)close(f->sock);
	if (f->used && f->memory >= 0)
		(void)close(f->memory);
	*f = (struct fake){.first = true,
	    .next_id = 100,
	    .sock = -1,
	    .memory = -1,
	    .kept = -1};
	(void)snprintf(f->name, sizeof(f->name), "%s", name);
	drop_fds(x);
	request(x, "vm.launch",
	    json_pack("{s:[s],s:s,s:I,s:b}", "args", "prog", "name", name,
		"mem", (json_int_t)(NPAGES * PAGE_SIZE), "detach", 1),
	    fds, 4);
	hook.pid = 0;
	while (hook.pid == 0)
		pump(x);
	f->sock = hook.monitor;
	f->pid = hook.pid;
	f->used = true;
	say(f, WIRE_READY, 0, 0, NULL, 0, NULL, 0);
	m = answer(x);
	if (!good(m))
		fail_msg("launch: %s", why(m));
	json_decref(m);
	(void)close(null);
	return f;
}

void end_vm(struct world *x, struct fake *f)
{
	json_t *m = call(x, "vm.kill", json_pack("{s:s}", "vm", f->name));

	json_decref(m);
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", f->name));
}

json_t *freeze_params(const struct fake *f, const char *name)
{
	return json_pack("{s:s,s:s}", "vm", f->name, "name", name);
}

void tags_of(struct world *x, const char *snap, uint64_t *tags)
{
	json_t *r =
	    must(x, "snapshot.open", json_pack("{s:s}", "snapshot", snap));

	assert_true(x->nfds >= 1);
	show_runs(x->fds[0], x->fds + 1, (uint32_t)x->nfds - 1, tags);
	json_decref(r);
	drop_fds(x);
}

/* The snapshot has the bytes (truth). */
void shows(struct world *x, const char *snap, const uint64_t *truth)
{
	uint64_t tags[NPAGES];

	tags_of(x, snap, tags);
	assert_memory_equal(tags, truth, sizeof(tags));
}

/* One snapshot that has no name does. */
void some_shows(struct world *x, const uint64_t *truth)
{
	json_t *r = must(x, "snapshot.list", json_object());
	json_t *list = json_object_get(r, "snapshots");
	uint64_t tags[NPAGES];
	bool found = false;

	for (size_t i = 0; i < json_array_size(list) && !found; i++) {
		json_t *s = json_array_get(list, i);
		char id[32];

		if (json_string_length(json_object_get(s, "name")) != 0)
			continue;
		(void)snprintf(id, sizeof(id), "%lld",
		    (long long)json_integer_value(json_object_get(s, "id")));
		tags_of(x, id, tags);
		found = memcmp(tags, truth, sizeof(tags)) == 0;
	}
	assert_true(found);
	json_decref(r);
}

void drop_all(struct world *x)
{
	json_t *r = must(x, "snapshot.list", json_object());
	json_t *list = json_object_get(r, "snapshots");

	for (size_t i = 0; i < json_array_size(list); i++) {
		char id[32];

		(void)snprintf(id, sizeof(id), "%lld",
		    (long long)json_integer_value(
			json_object_get(json_array_get(list, i), "id")));
		must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", id));
	}
	json_decref(r);
}

/* The first figure of (r) that is not zero, or NULL. */
static const char *what_is_left(json_t *r)
{
	static const char *const zero[] = {"vms", "snapshots", "layers",
	    "layer_bytes", "nodes", "node_bytes", "records", "record_bytes",
	    "reserved_bytes"};

	for (size_t i = 0; i < sizeof(zero) / sizeof(zero[0]); i++)
		if (json_integer_value(json_object_get(r, zero[i])) != 0)
			return zero[i];
	return NULL;
}

/* Turns of the loop that a worker may take to end what nobody waits for. */
#define SETTLE_TURNS 5000

/* All VMs have ended and all snapshots are dropped: nothing is left, once the
 * workers have ended what they did for those who are gone. */
void nothing_left(struct world *x)
{
	const char *left = "";

	drop_all(x);
	for (int i = 0; i < SETTLE_TURNS && left != NULL; i++) {
		json_t *r = must(x, "service.stats", json_object());

		left = what_is_left(r);
		json_decref(r);
		if (left != NULL)
			pump(x);
	}
	if (left != NULL)
		fail_msg("%s are left", left);
}

/* Descriptors open once what was dropped has been closed by the worker, which
 * is waited for while there are more than (most). */
uint32_t settled_fds(struct world *x, uint32_t most)
{
	uint32_t n = count_fds();
	int same = 0;

	for (int i = 0; i < SETTLE_TURNS && same < 6; i++) {
		uint32_t was = n;

		pump(x);
		n = count_fds();
		same = n > most || n != was ? 0 : same + 1;
	}
	return n;
}

/* --- what tests of it share ------------------------------------------------
 */

void others_live(struct world *x, struct fake *g)
{
	guest_writes(g, 3, 7, now() & 0xffffff);
	must_do(x, "segment.freeze", freeze_params(g, "good"));
	shows(x, "good", g->truth);
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "good"));
}

json_t *view_params(const struct fake *f, const char *name)
{
	return json_pack(
	    "{s:s,s:s,s:s}", "vm", f->name, "segment", "t", "name", name);
}

/* (f) shows (snap) in a tracked view, which is what it freezes. */
void track_view(struct world *x, struct fake *f, const char *snap)
{
	must_do(x, "view.map",
	    json_pack("{s:s,s:s,s:s,s:b,s:b}", "vm", f->name, "snapshot", snap,
		"name", "t", "cow", 1, "track", 1));
}

json_int_t stat_of(struct world *x, const char *key)
{
	json_t *r = must(x, "service.stats", json_object());
	json_int_t n = json_integer_value(json_object_get(r, key));

	json_decref(r);
	return n;
}

json_t *hand_params(const struct fake *f, const char *snap)
{
	return json_pack("{s:s,s:s}", "vm", f->name, "snapshot", snap);
}

/* From now on its memory is the broker's: a sever gives it owned. */
void lend_memory(struct world *x, struct fake *f)
{
	must_do(x, "segment.sever", freeze_params(f, "before"));
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "before"));
	assert_true(f->memory >= 0);
}

bool is_owned(struct world *x, const char *snap)
{
	json_t *r =
	    must(x, "snapshot.show", json_pack("{s:s}", "snapshot", snap));
	bool owned = json_is_true(json_object_get(r, "owned"));

	json_decref(r);
	return owned;
}

/* The newest place of (f). */
json_t *place_params(const struct fake *f, const char *name)
{
	char id[16];

	(void)snprintf(id, sizeof(id), "%u", f->next_id - 1);
	return json_pack("{s:s,s:s,s:s*}", "vm", f->name,
	    name == NULL ? "view" : "segment", id, "name", name);
}
