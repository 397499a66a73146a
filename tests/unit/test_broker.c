/* SPDX-License-Identifier: MIT */
/* wrap: malloc calloc realloc fcntl memfd_create json_loadb */

/* wrap: socketpair posix_spawn */
/*
 * The broker in this process, with monitors that the test plays: honest ones,
 * hostile ones, and an honest one under a broker that runs out of memory or
 * descriptors at every step.
 */
#include "tests/unit/unit.h"

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

#define NPAGES      1024u
#define FAKES_MAX   4
#define VIEWS_MAX   16
#define PATIENCE_NS 20000000000ULL
#define LINE_MAX_   (1u << 20)
#define SEALS       (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* --- failures on demand ------------------------------------------------------
 */

static struct {
	atomic_int left;   /* calls until the one that fails */
	atomic_bool armed; /* at all */
	atomic_bool fired; /* one failed */
	bool json;         /* the calls of jansson count, too */
	rlim_t slack;      /* descriptors that may be opened; 0: no limit */
	int monitor;       /* the last monitor's end */
	pid_t pid;         /* and its process */
} hook;

/* The test's own calls do not count. */
static __thread bool ours;

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

enum how {
	HONEST,
	/* answers to a freeze */
	SHORT_ANSWER,
	OTHER_NPAGES,
	UNSEALED,
	BEYOND_LAYER,
	BEYOND_PLACE,
	WRAPPING,
	OVERLAPPING,
	OTHER_LAYER,
	MANY_STEPS,
	NO_FDS,
	NO_LAYER_FD,
	HUGE_NRUNS,
	RUNS_PIPE,
	RUNS_TORN,
	LAYER_PIPE,
	LAYER_SMALL,
	WILD_STATUS,
	/* to anything */
	DIES,
	HANGS_UP,
	GARBAGE,
	SILENT,
	/* about what was touched */
	NO_SETS,
	SHORT_SETS,
	LONG_SETS,
	PIPE_SETS,
	UNTOLD_SETS,
	UNASKED_SETS,
	SETS_END,
	/* with memory that is severed owned: to be tried again */
	KEEPS_FD,
	KEEPS_MAPPING,
	/* what no monitor says of it */
	OWNED_SEALED,
	OWNED_LOOSE,
	OWNED_FOREIGN,
	OWNED_LATER,
	OWNED_UNSEVERED,
	OWNED_SMALL,
	OWNED_NOTHING,
	/* with memory that it is to adopt */
	REFUSES_OWN,
	REFUSES_AND_KEEPS,
};

struct fake {
	bool used;
	int sock;
	pid_t pid;
	char name[32];
	enum how how;
	bool first;             /* the next step is the segment's own memfd */
	uint64_t truth[NPAGES]; /* what its guest sees */
	bool dirty[NPAGES];
	bool written[NPAGES]; /* for the cursor */
	/* Its one view is tracked, and what is frozen; since it was mapped. */
	bool tracked;
	bool read[NPAGES], wrote[NPAGES];
	uint32_t next_id;
	/* What the broker told it to map last, page by page. */
	uint64_t mapped[NPAGES];
	uint32_t nreplies, nkills;
	int64_t last_status;
	struct wire_packet p;
	int layer[1024];
	uint32_t nlayers;
	int memory; /* its segment's, from the broker; or -1 */
	int kept;   /* of what it gave up; or -1 */
	void *mapping;
};

struct world {
	struct loop *l;
	struct broker *b;
	int fd; /* the client's end */
	char *in;
	size_t in_len;
	int fds[256];
	size_t nfds;
	bool lost;
	json_int_t id;
	uint32_t nfds_before;
	struct fake fake[FAKES_MAX];
};

static uint64_t now(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint32_t count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	uint32_t n = 0;

	assert_non_null(d);
	while (readdir(d) != NULL)
		n++;
	(void)closedir(d);
	return n;
}

static void put_page(int fd, uint64_t index, uint64_t tag)
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
static int seal(int fd)
{
	int rc = fcntl(fd, F_ADD_SEALS, (long)SEALS);

	for (int i = 0; i < 1000 && rc != 0 && errno == EBUSY; i++) {
		(void)usleep(1000);
		rc = fcntl(fd, F_ADD_SEALS, (long)SEALS);
	}
	return rc;
}

static int new_layer(uint64_t npages)
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

static void say(struct fake *f, uint16_t type, uint32_t seq, int64_t status,
    const void *payload, uint32_t len, const int *fds, uint32_t nfds)
{
	struct wire_msg m = {
	    .type = type, .seq = seq, .status = status, .len = len};

	(void)wire_send(f->sock, &m, payload, fds, nfds);
}

static void reply(struct fake *f, int64_t status, const void *payload,
    uint32_t len, const int *fds, uint32_t nfds)
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

static void release(struct fake *f)
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

static void answer_freeze(struct fake *f)
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
static void show_runs(
    int runs_fd, const int *fds, uint32_t nlayers, uint64_t *tags)
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

static void fake_request(struct fake *f)
{
	struct wire_stats stats = {.syscalls = 7};

	if (f->p.m.type & WIRE_REPLY) {
		f->nreplies++;
		f->last_status = f->p.m.status;
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
	if (misbehave(f))
		return;
	if (f->p.m.type == WIRE_FREEZE || f->p.m.type == WIRE_SEVER)
		answer_freeze(f);
	else if (f->p.m.type == WIRE_MAP)
		answer_map(f);
	else if (f->p.m.type == WIRE_DIRTY)
		answer_dirty(f);
	else if (f->p.m.type == WIRE_TOUCHED)
		answer_touched(f);
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

static void guest_writes(
    struct fake *f, uint32_t from, uint32_t step, uint64_t tag)
{
	for (uint32_t i = from; i < NPAGES; i += step) {
		f->truth[i] = tag + i;
		f->dirty[i] = f->written[i] = f->wrote[i] = true;
	}
}

static void guest_reads(struct fake *f, uint32_t from, uint32_t step)
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
static void pump(struct world *x)
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

static void connect_client(struct world *x)
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

static void drop_fds(struct world *x)
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

static void request(struct world *x, const char *method, json_t *params,
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
static json_t *answer(struct world *x)
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

static json_t *call_fds(struct world *x, const char *method, json_t *params,
    const int *fds, size_t nfds)
{
	assert_non_null(params);
	drop_fds(x);
	request(x, method, params, fds, nfds);
	return answer(x);
}

static json_t *call(struct world *x, const char *method, json_t *params)
{
	return call_fds(x, method, params, NULL, 0);
}

static bool good(const json_t *m)
{
	return json_object_get(m, "result") != NULL;
}

static const char *why(const json_t *m)
{
	return json_string_value(
	    json_object_get(json_object_get(m, "error"), "message"));
}

/* As call(), and it must succeed; its result. */
static json_t *must(struct world *x, const char *method, json_t *params)
{
	json_t *m = call(x, method, params);
	json_t *r;

	if (m == NULL || !good(m))
		fail_msg("%s: %s", method, m == NULL ? "cut off" : why(m));
	r = json_incref(json_object_get(m, "result"));
	json_decref(m);
	return r;
}

static void must_do(struct world *x, const char *method, json_t *params)
{
	json_decref(must(x, method, params));
}

/* As call(), and it must fail with a reason in plain words. */
static void must_fail(struct world *x, const char *method, json_t *params)
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

static int setup(void **state)
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

static int teardown(void **state)
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
static struct fake *launch(struct world *x, int i, const char *name)
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

static void end_vm(struct world *x, struct fake *f)
{
	json_t *m = call(x, "vm.kill", json_pack("{s:s}", "vm", f->name));

	json_decref(m);
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", f->name));
}

static json_t *freeze_params(const struct fake *f, const char *name)
{
	return json_pack("{s:s,s:s}", "vm", f->name, "name", name);
}

static void tags_of(struct world *x, const char *snap, uint64_t *tags)
{
	json_t *r =
	    must(x, "snapshot.open", json_pack("{s:s}", "snapshot", snap));

	assert_true(x->nfds >= 1);
	show_runs(x->fds[0], x->fds + 1, (uint32_t)x->nfds - 1, tags);
	json_decref(r);
	drop_fds(x);
}

/* The snapshot has the bytes (truth). */
static void shows(struct world *x, const char *snap, const uint64_t *truth)
{
	uint64_t tags[NPAGES];

	tags_of(x, snap, tags);
	assert_memory_equal(tags, truth, sizeof(tags));
}

/* One snapshot that has no name does. */
static void some_shows(struct world *x, const uint64_t *truth)
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

static void drop_all(struct world *x)
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
static void nothing_left(struct world *x)
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
static uint32_t settled_fds(struct world *x, uint32_t most)
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

/* --- honest ------------------------------------------------------------------
 */

static void freeze_map_diff(void **state)
{
	struct world *x = *state;
	struct fake *f = launch(x, 0, "v");
	struct fake *g = launch(x, 1, "w");
	uint64_t first[NPAGES];
	json_t *r;

	guest_writes(f, 0, 1, 1000);
	memcpy(first, f->truth, sizeof(first));
	must_do(x, "segment.freeze", freeze_params(f, "s1"));
	guest_writes(f, 1, 2, 900000);
	must_do(x, "segment.freeze", freeze_params(f, "s2"));
	must_do(
	    x, "view.map", json_pack("{s:s,s:s}", "vm", "w", "snapshot", "s2"));
	assert_memory_equal(g->mapped, f->truth, sizeof(first));
	must_do(x, "view.map",
	    json_pack("{s:s,s:s,s:b}", "vm", "w", "snapshot", "s1", "cow", 1));
	assert_memory_equal(g->mapped, first, sizeof(first));
	r = must(
	    x, "snapshot.diff", json_pack("{s:s,s:s}", "a", "s1", "b", "s2"));
	assert_int_equal(
	    json_integer_value(json_object_get(r, "pages")), NPAGES / 2);
	json_decref(r);
	must_do(x, "snapshot.show", json_pack("{s:s}", "snapshot", "s2"));
	shows(x, "s1", first);
	shows(x, "s2", f->truth);
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

static json_int_t pages_between(struct world *x, bool exact)
{
	json_t *r = must(x, "snapshot.diff",
	    json_pack("{s:s,s:s,s:b}", "a", "s1", "b", "s2", "exact", exact));
	json_int_t n = json_integer_value(json_object_get(r, "pages"));

	assert_int_equal(json_is_true(json_object_get(r, "exact")), exact);
	json_decref(r);
	return n;
}

/* Pages written with the bytes that they had: they differ by place, and not
 * exactly. */
static void rewritten_pages(void **state)
{
	struct world *x = *state;
	struct fake *f = launch(x, 0, "v");

	guest_writes(f, 0, 1, 1000);
	must_do(x, "segment.freeze", freeze_params(f, "s1"));
	guest_writes(f, 0, 2, 1000);
	f->truth[1] = 77;
	f->dirty[1] = true;
	must_do(x, "segment.freeze", freeze_params(f, "s2"));
	assert_int_equal(pages_between(x, false), NPAGES / 2 + 1);
	assert_int_equal(pages_between(x, true), 1);
	end_vm(x, f);
	nothing_left(x);
}

/* --- lists in parts ---------------------------------------------------------
 */

#define LISTED 25

/* The ids of one part into seen[], by name; the next 'after', or -1. */
static json_int_t list_part(
    struct world *x, json_int_t after, uint32_t max, uint32_t *seen)
{
	json_t *r = must(x, "snapshot.list",
	    json_pack("{s:I,s:i}", "after", after, "max", (int)max));
	json_t *list = json_object_get(r, "snapshots");
	json_int_t next = -1;

	assert_true(json_array_size(list) <= max);
	for (size_t i = 0; i < json_array_size(list); i++) {
		const char *name = json_string_value(
		    json_object_get(json_array_get(list, i), "name"));
		unsigned k = (unsigned)atoi(name + 1);

		assert_true(k < LISTED);
		seen[k]++;
	}
	if (json_is_true(json_object_get(r, "more")))
		next = json_integer_value(json_object_get(r, "next"));
	else
		assert_null(json_object_get(r, "next"));
	json_decref(r);
	return next;
}

/* Snapshots that come and go between the parts take nothing from the others. */
static void lists_in_parts(void **state)
{
	struct world *x = *state;
	struct fake *f = launch(x, 0, "v");
	uint32_t seen[LISTED] = {0};
	json_int_t after = 0;
	char name[16];

	for (int i = 0; i < LISTED; i++) {
		(void)snprintf(name, sizeof(name), "n%d", i);
		must_do(x, "segment.freeze", freeze_params(f, name));
	}
	after = list_part(x, 0, 7, seen);
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "n3"));
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "n20"));
	must_do(x, "segment.freeze", freeze_params(f, "n3"));
	for (int parts = 0; after >= 0; parts++) {
		assert_true(parts < LISTED);
		after = list_part(x, after, 7, seen);
	}
	for (int i = 0; i < LISTED; i++)
		if (i != 3 && i != 20)
			assert_int_equal(seen[i], 1);
	assert_int_equal(list_part(x, 1LL << 60, 7, seen), -1);
	must_fail(x, "snapshot.list", json_pack("{s:i}", "max", 0));
	must_fail(x, "snapshot.list", json_pack("{s:i}", "after", -1));
	end_vm(x, f);
	nothing_left(x);
}

/* A refusal, as of RAM that cannot be severed, is no misdeed. */
static void refusal_ends_nothing(void **state)
{
	struct world *x = *state;
	struct fake *f = launch(x, 0, "v");
	static const int codes[] = {-EPERM, -EPROTO, -ENOMEM, -EINVAL};
	json_t *m;

	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		f->how = SILENT;
		request(x, "segment.sever", freeze_params(f, "no"), NULL, 0);
		while (f->p.m.type != WIRE_SEVER)
			pump(x);
		reply(f, codes[i], "because", 7, NULL, 0);
		f->p.m.type = 0;
		m = answer(x);
		assert_string_equal(why(m), "because");
		json_decref(m);
		f->how = HONEST;
	}
	guest_writes(f, 0, 3, 5);
	must_do(x, "segment.freeze", freeze_params(f, "yes"));
	shows(x, "yes", f->truth);
	assert_int_equal(f->nkills, 0);
	end_vm(x, f);
	nothing_left(x);
}

/* The name went to another while the monitor severed: the pages stay. */
static void severed_is_kept(void **state)
{
	struct world *x = *state;
	struct fake *f = launch(x, 0, "v");
	struct fake *g = launch(x, 1, "w");
	uint64_t was[NPAGES];
	json_t *m;

	guest_writes(f, 0, 2, 77);
	memcpy(was, f->truth, sizeof(was));
	f->how = SILENT;
	request(x, "segment.sever", freeze_params(f, "name"), NULL, 0);
	while (f->p.m.type != WIRE_SEVER)
		pump(x);
	request(x, "segment.freeze", freeze_params(g, "name"), NULL, 0);
	json_decref(answer(x));
	must_fail(x, "segment.sever", freeze_params(f, "other"));
	f->how = HONEST;
	answer_freeze(f);
	m = answer(x);
	assert_false(good(m));
	json_decref(m);
	guest_writes(f, 5, 100, 4);
	must_do(x, "segment.sever", freeze_params(f, "found"));
	shows(x, "found", was);
	must_do(x, "segment.freeze", freeze_params(f, "after"));
	shows(x, "after", f->truth);
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

/* --- hostile -----------------------------------------------------------------
 */

static void others_live(struct world *x, struct fake *g)
{
	guest_writes(g, 3, 7, now() & 0xffffff);
	must_do(x, "segment.freeze", freeze_params(g, "good"));
	shows(x, "good", g->truth);
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "good"));
}

static void hostile_freezes(void **state)
{
	struct world *x = *state;
	struct fake *g = launch(x, 1, "bystander");
	uint32_t fds = 0;

	for (enum how how = SHORT_ANSWER; how < SILENT; how++) {
		struct fake *f = launch(x, 0, "v");

		guest_writes(f, 0, 2, 10);
		f->how = how;
		must_fail(x, "segment.freeze", freeze_params(f, "bad"));
		if (how == WILD_STATUS)
			end_vm(x, f);
		must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
		others_live(x, g);
		if (fds == 0)
			fds = settled_fds(x, UINT32_MAX);
		/* One more is what the bystander froze first, and still maps
		 * when nothing names it any more. */
		assert_in_range(settled_fds(x, fds + 1), fds - 1, fds + 1);
	}
	end_vm(x, g);
	nothing_left(x);
}

static void hostile_maps_and_queries(void **state)
{
	static const enum how how[] = {
	    DIES, HANGS_UP, GARBAGE, SHORT_ANSWER, NO_FDS};
	struct world *x = *state;
	struct fake *g = launch(x, 1, "bystander");

	guest_writes(g, 0, 3, 4);
	must_do(x, "segment.freeze", freeze_params(g, "s"));
	for (size_t i = 0; i < sizeof(how) / sizeof(how[0]); i++) {
		struct fake *f = launch(x, 0, "v");

		f->how = how[i];
		if (i < 3)
			must_fail(x, "view.map",
			    json_pack("{s:s,s:s,s:b}", "vm", "v", "snapshot",
				"s", "cow", 1));
		else
			must_fail(x, "dirty.query",
			    json_pack("{s:s,s:s}", "vm", "v", "cursor", "c"));
		must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
		others_live(x, g);
	}
	end_vm(x, g);
	nothing_left(x);
}

/* It answers nothing: its requests wait, then are refused; it can be killed. */
static void silent_monitor(void **state)
{
	struct world *x = *state;
	struct fake *f = launch(x, 0, "v");
	struct fake *g = launch(x, 1, "w");

	f->how = SILENT;
	for (int i = 0; i < 3; i++)
		request(x, "segment.freeze", json_pack("{s:s}", "vm", "v"),
		    NULL, 0);
	for (int i = 0; i < 5; i++)
		pump(x);
	/* A list does not wait for it. */
	must_do(x, "vm.list", json_object());
	others_live(x, g);
	must_do(x, "vm.kill", json_pack("{s:s}", "vm", "v"));
	/* Reasons to kill it again do not put it off. */
	for (int i = 0; i < 100; i++)
		say(f, WIRE_TYPE_END, 0, 0, NULL, 0, NULL, 0);
	for (int i = 0; i < 3; i++)
		json_decref(answer(x));
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
	assert_int_equal(f->nkills, 1);
	others_live(x, g);
	end_vm(x, g);
	nothing_left(x);
}

/* It does not even read. */
static void deaf_monitor(void **state)
{
	struct world *x = *state;
	struct fake *f = launch(x, 0, "v");
	struct fake *g = launch(x, 1, "w");
	json_t *m;

	guest_writes(g, 0, 2, 1);
	must_do(x, "segment.freeze", freeze_params(g, "s"));
	f->used = false; /* not served */
	for (int i = 0; i < 60; i++)
		request(x, "view.map",
		    json_pack("{s:s,s:s}", "vm", "v", "snapshot", "s"), NULL,
		    0);
	for (int i = 0; i < 50; i++)
		pump(x);
	/* Its own requests may be refused, never others'. */
	connect_client(x);
	others_live(x, g);
	m = call(x, "vm.kill", json_pack("{s:s}", "vm", "v"));
	assert_true(good(m));
	json_decref(m);
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
	f->used = true;
	end_vm(x, g);
	nothing_left(x);
}

/* It talks without end; others have their turn. */
static void flood(void **state)
{
	struct world *x = *state;
	struct fake *f = launch(x, 0, "v");
	struct fake *g = launch(x, 1, "w");
	char name[FIRN_NAME_MAX] = "nothing";
	pid_t pid = fork();

	assert_true(pid >= 0);
	while (pid == 0)
		say(f, WIRE_G_LOOKUP, 1, 0, name, sizeof(name), NULL, 0);
	for (int i = 0; i < 5; i++)
		others_live(x, g);
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

static int64_t guest_asks(struct world *x, struct fake *f, uint16_t type,
    const void *payload, uint32_t len)
{
	uint32_t before = f->nreplies;
	uint64_t end = now() + PATIENCE_NS;

	say(f, type, 9, 0, payload, len, NULL, 0);
	while (f->nreplies == before && now() < end)
		pump(x);
	assert_int_equal(f->nreplies, before + 1);
	return f->last_status;
}

/* What a compromised monitor can send for its guest. */
static void hostile_calls(void **state)
{
	struct world *x = *state;
	struct fake *f = launch(x, 0, "v");
	struct wire_gcap cap = {.cap = UINT32_MAX, .rights = UINT32_MAX};
	struct wire_gdiff d = {.max = UINT32_MAX};
	struct wire_gmap m = {.mode = 77};
	struct wire_segment s = {.size = 1ULL << 63};
	struct wire_gfreeze z = {.id = 0};

	for (uint16_t t = WIRE_G_FREEZE; t < WIRE_TYPE_END; t++)
		if (t != WIRE_RELAY) /* no guest's */
			assert_true(guest_asks(x, f, t, "x", 1) < 0);
	assert_int_equal(
	    guest_asks(x, f, WIRE_G_DERIVE, &cap, sizeof(cap)), -EBADF);
	assert_int_equal(
	    guest_asks(x, f, WIRE_G_DROP, &cap, sizeof(cap)), -EBADF);
	assert_true(guest_asks(x, f, WIRE_G_DIFF, &d, sizeof(d)) < 0);
	assert_true(guest_asks(x, f, WIRE_G_MAP, &m, sizeof(m)) < 0);
	memset(s.name, 'a', 3);
	assert_int_equal(
	    guest_asks(x, f, WIRE_G_SEGMENT, &s, sizeof(s)), -ENOSPC);
	s.size = UINT64_MAX - PAGE_SIZE + 1;
	assert_int_equal(
	    guest_asks(x, f, WIRE_G_SEGMENT, &s, sizeof(s)), -ENOSPC);
	memset(z.name, 0xff, sizeof(z.name));
	assert_true(guest_asks(x, f, WIRE_G_FREEZE, &z, sizeof(z)) < 0);
	memset(z.name, 0, sizeof(z.name));
	guest_writes(f, 0, 9, 3);
	assert_true(guest_asks(x, f, WIRE_G_FREEZE, &z, sizeof(z)) > 0);
	assert_int_equal(f->nkills, 0);
	/* A segment whose name would not go through JSON. */
	s.size = PAGE_SIZE;
	assert_int_equal(guest_asks(x, f, WIRE_G_SEGMENT, &s, sizeof(s)), 0);
	memset(s.name, 0xfe, sizeof(s.name));
	s.id = 5;
	say(f, WIRE_SEG_MADE, 0, 0, &s, sizeof(s), NULL, 0);
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
	assert_int_equal(f->nkills, 1);
	nothing_left(x);
}

/* --- tracked views, and what is melded of them -------------------------------
 */

static json_t *view_params(const struct fake *f, const char *name)
{
	return json_pack(
	    "{s:s,s:s,s:s}", "vm", f->name, "segment", "t", "name", name);
}

/* (f) shows (snap) in a tracked view, which is what it freezes. */
static void track_view(struct world *x, struct fake *f, const char *snap)
{
	must_do(x, "view.map",
	    json_pack("{s:s,s:s,s:s,s:b,s:b}", "vm", f->name, "snapshot", snap,
		"name", "t", "cow", 1, "track", 1));
}

static json_t *meld_params(const char *base, const char *a, const char *b)
{
	return json_pack("{s:s,s:s,s:s}", "base", base, "a", a, "b", b);
}

/* "base", and "a" and "b" of tracked views of it on two monitors. */
static void prepare_meld(struct world *x, struct fake *f, struct fake *g)
{
	guest_writes(f, 0, 1, 1000);
	must_do(x, "segment.freeze", freeze_params(f, "base"));
	track_view(x, f, "base");
	track_view(x, g, "base");
	guest_writes(f, 0, 8, 500000);
	guest_reads(f, 0, 4);
	guest_writes(g, 1, 8, 700000);
	guest_reads(g, 1, 4);
	must_do(x, "segment.freeze", view_params(f, "a"));
	must_do(x, "segment.freeze", view_params(g, "b"));
}

/* What the meld of those must show. */
static void melded_truth(uint64_t *truth)
{
	for (uint64_t i = 0; i < NPAGES; i++)
		truth[i] = i + (i % 8 == 0      ? 500000
				   : i % 8 == 1 ? 700000
						: 1000);
}

static void melds(void **state)
{
	struct world *x = *state;
	struct fake *f = launch(x, 0, "v");
	struct fake *g = launch(x, 1, "w");
	uint64_t truth[NPAGES];
	json_t *data;
	json_t *m;
	json_t *r;

	prepare_meld(x, f, g);
	melded_truth(truth);
	m = meld_params("base", "a", "b");
	(void)json_object_set_new(m, "name", json_string("m"));
	must_do(x, "snapshot.meld", m);
	shows(x, "m", truth);
	/* Now it also reads what the other wrote: its sets go on. */
	guest_reads(g, 0, 256);
	must_do(x, "segment.freeze", view_params(g, "b2"));
	m = call(x, "snapshot.meld", meld_params("base", "a", "b2"));
	assert_false(good(m));
	data = json_object_get(json_object_get(m, "error"), "data");
	assert_string_equal(
	    json_string_value(json_object_get(data, "errno")), "ESTALE");
	assert_int_equal(
	    json_array_size(json_object_get(data, "conflicts")), NPAGES / 256);
	json_decref(m);
	r = must(
	    x, "track.query", json_pack("{s:s,s:s}", "vm", "w", "view", "t"));
	assert_int_equal(json_integer_value(json_object_get(
			     json_object_get(r, "writes"), "pages")),
	    NPAGES / 8);
	json_decref(r);
	must_fail(x, "segment.sever", view_params(g, "no"));
	must_fail(x, "snapshot.meld", meld_params("a", "base", "b"));
	must_fail(
	    x, "track.query", json_pack("{s:s,s:s}", "vm", "w", "view", "0"));
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

static json_int_t stat_of(struct world *x, const char *key)
{
	json_t *r = must(x, "service.stats", json_object());
	json_int_t n = json_integer_value(json_object_get(r, key));

	json_decref(r);
	return n;
}

/* Pages of NPAGES are five levels of four. */
#define DEPTH 5

/* A view that is frozen makes a descendant, which has all but the path to the
 * page that changed in common with what the view shows; and however often, with
 * what was made dropped, nothing more is kept. */
static void descendants(void **state)
{
	struct world *x = *state;
	struct fake *f = launch(x, 0, "v");
	struct fake *g = launch(x, 1, "w");
	json_int_t nodes;
	json_int_t layers;
	json_int_t id;
	json_t *r;

	guest_writes(f, 0, 1, 1000);
	must_do(x, "segment.freeze", freeze_params(f, "s0"));
	guest_writes(f, 1, 2, 7000);
	r = must(x, "segment.freeze", freeze_params(f, "s1"));
	id = json_integer_value(json_object_get(r, "snapshot"));
	json_decref(r);
	must_do(x, "view.map",
	    json_pack("{s:s,s:s,s:s,s:b}", "vm", "w", "snapshot", "s1", "name",
		"t", "cow", 1));
	memcpy(g->truth, g->mapped, sizeof(g->truth));
	g->first = false;
	nodes = stat_of(x, "nodes");
	layers = stat_of(x, "layers");
	assert_true(nodes > NPAGES / 8);
	guest_writes(g, NPAGES / 2, NPAGES, 1);
	must_do(x, "segment.freeze", view_params(g, "d"));
	assert_in_range(stat_of(x, "nodes"), nodes, nodes + DEPTH);
	assert_int_equal(stat_of(x, "layers"), layers + 1);
	shows(x, "d", g->truth);
	r = must(x, "snapshot.show", json_pack("{s:s}", "snapshot", "d"));
	assert_int_equal(json_integer_value(json_object_get(r, "parent")), id);
	json_decref(r);
	for (int i = 0; i < 300; i++) {
		must_do(
		    x, "snapshot.drop", json_pack("{s:s}", "snapshot", "d"));
		must_do(x, "segment.freeze", view_params(g, "d"));
	}
	assert_in_range(stat_of(x, "records"), 3, 5);
	r = must(x, "snapshot.show", json_pack("{s:s}", "snapshot", "d"));
	assert_int_equal(json_integer_value(json_object_get(r, "parent")), id);
	json_decref(r);
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

/* Sets that are missing, torn, no memfd, not told of, or of a place that is
 * not tracked. */
static void hostile_sets(void **state)
{
	struct world *x = *state;
	struct fake *g = launch(x, 1, "bystander");

	guest_writes(g, 0, 3, 4);
	must_do(x, "segment.freeze", freeze_params(g, "s"));
	for (enum how how = NO_SETS; how < SETS_END; how++) {
		struct fake *f = launch(x, 0, "v");

		if (how != UNASKED_SETS)
			track_view(x, f, "s");
		guest_writes(f, 0, 2, 10);
		f->how = how;
		must_fail(x, "segment.freeze",
		    how == UNASKED_SETS ? freeze_params(f, "bad")
					: view_params(f, "bad"));
		must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
		others_live(x, g);
	}
	for (enum how how = NO_SETS; how <= LONG_SETS; how++) {
		struct fake *f = launch(x, 0, "v");

		track_view(x, f, "s");
		f->how = how;
		must_fail(x, "track.query",
		    json_pack("{s:s,s:s}", "vm", "v", "view", "t"));
		must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
		others_live(x, g);
	}
	end_vm(x, g);
	nothing_left(x);
}

/* The client goes at every moment of a request. */
static void clients_go(void **state)
{
	static const char *const method[] = {"segment.freeze", "segment.sever",
	    "dirty.query", "vm.segments", "vm.wait", "snapshot.open",
	    "snapshot.show", "snapshot.diff", "snapshot.heat", "view.map",
	    "snapshot.meld"};
	struct world *x = *state;
	struct fake *f = launch(x, 0, "v");

	guest_writes(f, 0, 2, 1);
	must_do(x, "segment.freeze", freeze_params(f, "s"));
	for (size_t i = 0; i < sizeof(method) / sizeof(method[0]); i++)
		for (int turns = 0; turns < 4; turns++) {
			json_t *p =
			    i < 2    ? json_pack("{s:s}", "vm", "v")
			    : i == 2 ? json_pack("{s:s,s:s}", "vm", "v",
					   "cursor", "c")
			    : i < 5  ? json_pack("{s:s}", "vm", "v")
			    : i < 7  ? json_pack("{s:s}", "snapshot", "s")
			    : i == 7
				? json_pack("{s:s,s:s}", "a", "s", "b", "v:0")
			    : i == 8  ? json_pack("{s:s}", "ref", "v:0")
			    : i == 10 ? meld_params("s", "s", "s")
				      : json_pack("{s:s,s:s}", "vm", "v",
					    "snapshot", "s");

			request(x, method[i], p, NULL, 0);
			for (int k = 0; k < turns; k++)
				pump(x);
			connect_client(x);
		}
	end_vm(x, f);
	nothing_left(x);
}

/* --- what one holder alone has -----------------------------------------------
 */

static json_t *hand_params(const struct fake *f, const char *snap)
{
	return json_pack("{s:s,s:s}", "vm", f->name, "snapshot", snap);
}

/* From now on its memory is the broker's: a sever gives it owned. */
static void lend_memory(struct world *x, struct fake *f)
{
	must_do(x, "segment.sever", freeze_params(f, "before"));
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "before"));
	assert_true(f->memory >= 0);
}

static bool is_owned(struct world *x, const char *snap)
{
	json_t *r =
	    must(x, "snapshot.show", json_pack("{s:s}", "snapshot", snap));
	bool owned = json_is_true(json_object_get(r, "owned"));

	json_decref(r);
	return owned;
}

/* The newest place of (f). */
static json_t *place_params(const struct fake *f, const char *name)
{
	char id[16];

	(void)snprintf(id, sizeof(id), "%u", f->next_id - 1);
	return json_pack("{s:s,s:s,s:s*}", "vm", f->name,
	    name == NULL ? "view" : "segment", id, "name", name);
}

static void owned_changes_hands(void **state)
{
	struct world *x = *state;
	struct fake *f = launch(x, 0, "v");
	struct fake *g = launch(x, 1, "w");
	uint64_t was[NPAGES];
	uint32_t fds = 0;

	lend_memory(x, f);
	guest_writes(f, 0, 1, 77);
	memcpy(was, f->truth, sizeof(was));
	must_do(x, "segment.sever", freeze_params(f, "s"));
	assert_true(is_owned(x, "s"));
	must_fail(x, "snapshot.open", json_pack("{s:s}", "snapshot", "s"));
	must_fail(x, "snapshot.meld", meld_params("s", "s", "s"));
	must_do(x, "vm.give", hand_params(g, "s"));
	must_fail(x, "view.adopt", hand_params(g, "s"));
	must_fail(x, "snapshot.show", json_pack("{s:s}", "snapshot", "s"));
	must_do(x, "vm.take", hand_params(g, "s"));
	must_fail(x, "vm.take", hand_params(g, "s"));
	for (int i = 0; i < 1000; i++) {
		struct fake *to = i % 2 == 0 ? g : f;

		must_do(x, "view.adopt", hand_params(to, "s"));
		must_fail(
		    x, "snapshot.show", json_pack("{s:s}", "snapshot", "s"));
		assert_memory_equal(to->truth, was, sizeof(was));
		to->truth[i] = was[i] = 5;
		must_do(x, "segment.sever", place_params(to, "s"));
		must_do(x, "view.unmap", place_params(to, NULL));
		if (i == 10)
			fds = settled_fds(x, UINT32_MAX);
	}
	assert_true(settled_fds(x, fds) <= fds);
	assert_true(is_owned(x, "s"));
	must_do(x, "view.map", hand_params(f, "s"));
	assert_memory_equal(f->mapped, was, sizeof(was));
	assert_false(is_owned(x, "s"));
	shows(x, "s", was);
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

/* What is kept comes to light, and nothing is lost by it. */
static void kept_memory(void **state)
{
	struct world *x = *state;
	struct fake *g = launch(x, 1, "w");
	uint64_t was[NPAGES];

	for (enum how how = KEEPS_FD; how <= KEEPS_MAPPING; how++) {
		struct fake *f = launch(x, 0, "v");

		lend_memory(x, f);
		guest_writes(f, 0, 1, 77);
		memcpy(was, f->truth, sizeof(was));
		f->how = how;
		must_fail(x, "segment.sever", freeze_params(f, "s"));
		must_fail(x, "segment.sever", freeze_params(f, "s"));
		must_fail(x, "segment.freeze", freeze_params(f, "s"));
		assert_int_equal(f->nkills, 0);
		release(f);
		must_do(x, "segment.sever", freeze_params(f, "s"));
		assert_true(is_owned(x, "s"));
		must_do(x, "view.adopt", hand_params(g, "s"));
		assert_memory_equal(g->truth, was, sizeof(was));
		end_vm(x, f);
	}
	end_vm(x, g);
	nothing_left(x);
}

static void hostile_owners(void **state)
{
	struct world *x = *state;
	struct fake *g = launch(x, 1, "bystander");

	for (enum how how = OWNED_SEALED; how <= OWNED_NOTHING; how++) {
		struct fake *f = launch(x, 0, "v");

		lend_memory(x, f);
		guest_writes(f, 0, 1, 77);
		f->how = how;
		must_fail(x, "segment.sever", freeze_params(f, "s"));
		must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
		assert_int_equal(f->nkills, 1);
		others_live(x, g);
	}
	end_vm(x, g);
	nothing_left(x);
}

/* An adoption that fails leaves the capability as it was. */
static void refused_adoptions(void **state)
{
	struct world *x = *state;
	struct fake *f = launch(x, 0, "v");
	struct fake *g = launch(x, 1, "w");
	uint64_t was[NPAGES];

	lend_memory(x, f);
	guest_writes(f, 0, 1, 77);
	memcpy(was, f->truth, sizeof(was));
	must_do(x, "segment.sever", freeze_params(f, "s"));
	g->how = REFUSES_OWN;
	must_fail(x, "view.adopt", hand_params(g, "s"));
	assert_true(is_owned(x, "s"));
	g->how = REFUSES_AND_KEEPS;
	must_fail(x, "view.adopt", hand_params(g, "s"));
	assert_false(is_owned(x, "s"));
	must_fail(x, "view.adopt", hand_params(f, "s"));
	must_fail(x, "view.map", hand_params(f, "s"));
	must_fail(x, "vm.give", hand_params(f, "s"));
	release(g);
	assert_true(is_owned(x, "s"));
	for (enum how how = DIES; how <= GARBAGE; how++) {
		g->how = how;
		must_fail(x, "view.adopt", hand_params(g, "s"));
		assert_true(is_owned(x, "s"));
		json_decref(call(x, "vm.kill", json_pack("{s:s}", "vm", "w")));
		must_do(x, "vm.wait", json_pack("{s:s}", "vm", "w"));
		g = launch(x, 1, "w");
	}
	must_do(x, "view.adopt", hand_params(g, "s"));
	assert_memory_equal(g->truth, was, sizeof(was));
	end_vm(x, f);
	end_vm(x, g);
	nothing_left(x);
}

/* --- what fails --------------------------------------------------------------
 */

enum op {
	OP_FREEZE,
	OP_SEVER,
	OP_MAP,
	OP_DIFF,
	OP_OPEN,
	OP_IMPORT,
	OP_SHOW,
	OP_HEAT,
	OP_DIRTY,
	OP_EXACT,
	OP_TRACKED, /* freeze of a tracked view */
	OP_TOUCHED,
	OP_MELD,
	OP_SEVER_OWNED,
	OP_ADOPT,
	OP_SEAL, /* by a map */
	OP_GIVE,
	OP_END
};

static json_t *op_call(struct world *x, enum op op, int import_fd)
{
	static const char *const method[] = {"segment.freeze", "segment.sever",
	    "view.map", "snapshot.diff", "snapshot.open", "snapshot.import",
	    "snapshot.show", "snapshot.heat", "dirty.query", "dirty.query",
	    "segment.freeze", "track.query", "snapshot.meld", "segment.sever",
	    "view.adopt", "view.map", "vm.give"};
	json_t *p = NULL;

	if (op == OP_FREEZE || op == OP_SEVER || op == OP_SEVER_OWNED)
		p = json_pack("{s:s}", "vm", "v");
	else if (op > OP_SEVER_OWNED)
		p = hand_params(&x->fake[1], "o");
	else if (op == OP_TRACKED)
		p = json_pack("{s:s,s:s}", "vm", "v", "segment", "t");
	else if (op == OP_TOUCHED)
		p = json_pack("{s:s,s:s}", "vm", "v", "view", "t");
	else if (op == OP_MELD)
		p = meld_params("base", "a", "b");
	else if (op == OP_MAP)
		p = json_pack(
		    "{s:s,s:s,s:b}", "vm", "w", "snapshot", "s2", "cow", 1);
	else if (op == OP_DIFF)
		p = json_pack(
		    "{s:s,s:s,s:b}", "a", "s1", "b", "s2", "exact", 1);
	else if (op == OP_OPEN || op == OP_SHOW)
		p = json_pack("{s:s}", "snapshot", "s2");
	else if (op == OP_HEAT)
		p = json_pack("{s:s}", "ref", "v:0");
	else if (op == OP_IMPORT)
		p = json_pack("{s:I}", "pages", (json_int_t)NPAGES);
	else
		p = json_pack("{s:s,s:s,s:b}", "vm", "v", "cursor",
		    op == OP_EXACT ? "e" : "c", "exact", op == OP_EXACT);
	return call_fds(x, method[op], p, &import_fd, op == OP_IMPORT ? 1 : 0);
}

static json_int_t int_of(const json_t *m, const char *key)
{
	return json_integer_value(
	    json_object_get(json_object_get(m, "result"), key));
}

/* Of a heatmap with a page a cell: how many are in the newest layer. */
static uint32_t newest_cells(struct world *x)
{
	uint64_t cell[NPAGES][3];
	uint32_t n = 0;

	assert_int_equal(x->nfds, 2);
	assert_int_equal(
	    pread(x->fds[0], cell, sizeof(cell), 0), (ssize_t)sizeof(cell));
	for (uint64_t i = 0; i < NPAGES; i++) {
		assert_int_equal(cell[i][0], cell[i][1] != UINT64_MAX);
		assert_int_equal(cell[i][1], cell[i][2]);
		n += cell[i][1] == 0;
	}
	return n;
}

/* One snapshot that has no name is owned, and has the bytes (truth). */
static void some_owned(struct world *x, const uint64_t *truth)
{
	json_t *r = must(x, "snapshot.list", json_object());
	json_t *list = json_object_get(r, "snapshots");
	bool found = false;

	for (size_t i = 0; i < json_array_size(list) && !found; i++) {
		json_t *s = json_array_get(list, i);
		char id[32];

		if (!json_is_true(json_object_get(s, "owned")))
			continue;
		(void)snprintf(id, sizeof(id), "%lld",
		    (long long)json_integer_value(json_object_get(s, "id")));
		must_do(x, "view.adopt", hand_params(&x->fake[1], id));
		found = memcmp(x->fake[1].truth, truth,
			    NPAGES * sizeof(truth[0])) == 0;
	}
	assert_true(found);
	json_decref(r);
}

/* That the operation, which succeeded at last, was right. */
static void op_check(
    struct world *x, enum op op, const json_t *m, const uint64_t *truth)
{
	struct fake *w = &x->fake[1];
	uint64_t tags[NPAGES];
	char id[32];

	(void)snprintf(
	    id, sizeof(id), "%lld", (long long)int_of(m, "snapshot"));
	if (op == OP_SEVER) {
		/* The first try may have succeeded and not been told. */
		some_shows(x, truth);
	} else if (op == OP_SEVER_OWNED) {
		some_owned(x, truth);
	} else if (op == OP_ADOPT) {
		assert_memory_equal(w->truth, truth, sizeof(tags));
	} else if (op == OP_SEAL) {
		assert_memory_equal(w->mapped, truth, sizeof(tags));
		shows(x, "o", truth);
	} else if (op == OP_GIVE) {
		must_do(x, "vm.take", hand_params(w, "o"));
		assert_true(is_owned(x, "o"));
	} else if (op == OP_FREEZE || op == OP_IMPORT || op == OP_MELD) {
		shows(x, id, truth);
	} else if (op == OP_TRACKED) {
		shows(x, id, truth);
		must_do(x, "snapshot.meld", meld_params("base", id, "b"));
	} else if (op == OP_TOUCHED) {
		assert_int_equal(int_of(m, "pages"), NPAGES);
	} else if (op == OP_MAP) {
		assert_memory_equal(w->mapped, truth, sizeof(tags));
	} else if (op == OP_OPEN) {
		show_runs(x->fds[0], x->fds + 1, (uint32_t)x->nfds - 1, tags);
		assert_memory_equal(tags, truth, sizeof(tags));
		drop_fds(x);
	} else if (op == OP_HEAT) {
		assert_int_equal(newest_cells(x), NPAGES / 4);
		drop_fds(x);
	} else if (op == OP_SHOW) {
		assert_int_equal(int_of(m, "pages"), NPAGES);
	} else if (op == OP_DIRTY || op == OP_EXACT) {
		assert_int_equal(int_of(m, "pages"), NPAGES / 4);
	} else {
		assert_int_equal(int_of(m, "pages"), NPAGES / 2);
	}
	if (op < OP_TRACKED)
		shows(x, "s2", x->fake[2].truth);
}

static int import_file(const uint64_t *truth)
{
	int fd = new_layer(NPAGES);

	for (uint64_t i = 0; i < NPAGES; i++)
		if (truth[i] != 0)
			put_page(fd, i, truth[i]);
	assert_int_equal(seal(fd), 0);
	return fd;
}

/* With two snapshots, one of them scattered, a cursor of each kind, and pages
 * written since: (truth) is what the operation must show. */
static void prepare(struct world *x, enum op op, uint64_t *truth)
{
	struct fake *f = launch(x, 0, "v");
	struct fake *g = launch(x, 1, "w");

	if (op >= OP_SEVER_OWNED) {
		lend_memory(x, f);
		guest_writes(f, 0, 1, 77);
		memcpy(truth, f->truth, sizeof(f->truth));
		if (op != OP_SEVER_OWNED)
			must_do(x, "segment.sever", freeze_params(f, "o"));
		return;
	}
	if (op >= OP_TRACKED) {
		prepare_meld(x, f, g);
		guest_writes(f, 2, 8, 1);
		memcpy(truth, f->truth, sizeof(f->truth));
		if (op == OP_MELD)
			melded_truth(truth);
		return;
	}
	guest_writes(f, 0, 1, 1000);
	must_do(x, "segment.freeze", freeze_params(f, "s1"));
	guest_writes(f, 1, 2, 500000);
	must_do(x, "segment.freeze", freeze_params(f, "s2"));
	memcpy(x->fake[2].truth, f->truth, sizeof(f->truth));
	must_do(
	    x, "dirty.query", json_pack("{s:s,s:s}", "vm", "v", "cursor", "c"));
	must_do(x, "dirty.query",
	    json_pack("{s:s,s:s,s:b}", "vm", "v", "cursor", "e", "exact", 1));
	if (op != OP_MAP && op != OP_OPEN)
		guest_writes(f, 2, 4, 900000);
	memcpy(truth, f->truth, sizeof(f->truth));
}

/* One operation with one failure; whether there was any. */
static bool try_failing(struct world *x, enum op op, int n, rlim_t slack)
{
	uint64_t truth[NPAGES];
	bool fired;
	json_t *m;
	int fd;

	prepare(x, op, truth);
	fd = op == OP_IMPORT ? import_file(truth) : -1;
	hook.slack = slack;
	atomic_store(&hook.left, n);
	atomic_store(&hook.fired, false);
	atomic_store(&hook.armed, true);
	m = op_call(x, op, fd);
	atomic_store(&hook.armed, false);
	fired = atomic_load(&hook.fired) || (slack > 0 && !(m && good(m)));
	if (m == NULL || !good(m)) {
		bool late = m == NULL || strstr(why(m), "succeeded") != NULL;

		json_decref(m);
		m = op_call(x, op, fd);
		/* What was moved and not told of is there no more. */
		if (late && (op == OP_ADOPT || op == OP_GIVE) && m != NULL &&
		    !good(m))
			(void)json_object_set_new(m, "result", json_object());
		if (m == NULL || !good(m))
			fail_msg("operation %d, failure %d: then %s", op, n,
			    m == NULL ? "cut off" : why(m));
		/* What was done though not told is done no more. */
		if (!late || op < OP_DIRTY || op >= OP_SEVER_OWNED)
			op_check(x, op, m, truth);
	} else {
		op_check(x, op, m, truth);
	}
	json_decref(m);
	if (fd >= 0)
		(void)close(fd);
	end_vm(x, &x->fake[0]);
	end_vm(x, &x->fake[1]);
	nothing_left(x);
	return fired;
}

/* Every call at first; later ones are the nodes of a page map, all alike. */
#define STRIDE 48

static void one_call_fails(void **state)
{
	for (enum op op = 0; op < OP_END; op++) {
		int n = 1;

		while (try_failing(*state, op, n, 0))
			n += 1 + n / STRIDE;
		assert_true(n > 1);
		print_message("operation %d: to call %d\n", op, n - 1);
	}
}

/* The same with those of jansson, which are many and alike. */
static void one_json_call_fails(void **state)
{
	hook.json = true;
	for (enum op op = 0; op < OP_END; op++) {
		int n = 1;

		while (try_failing(*state, op, n, 0))
			n += 1 + n / 8;
		assert_true(n > 1);
	}
}

static void descriptors_run_out(void **state)
{
	struct world *x = *state;

	for (enum op op = 0; op < OP_END; op++) {
		rlim_t slack = 1;

		while (try_failing(x, op, 0, slack))
			slack++;
		print_message("operation %d: %d descriptors\n", op, (int)slack);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(freeze_map_diff),
	    T(rewritten_pages),
	    T(lists_in_parts),
	    T(refusal_ends_nothing),
	    T(severed_is_kept),
	    T(hostile_freezes),
	    T(hostile_maps_and_queries),
	    T(silent_monitor),
	    T(deaf_monitor),
	    T(flood),
	    T(hostile_calls),
	    T(melds),
	    T(descendants),
	    T(hostile_sets),
	    T(owned_changes_hands),
	    T(kept_memory),
	    T(hostile_owners),
	    T(refused_adoptions),
	    T(clients_go),
	    T(one_call_fails),
	    T(one_json_call_fails),
	    T(descriptors_run_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
