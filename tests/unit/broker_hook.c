/* SPDX-License-Identifier: MIT */
/* wrap: malloc calloc realloc fcntl memfd_create json_loadb */
/* wrap: socketpair posix_spawn errand */
/* The broker's calls that fail on demand, and the monitors it starts. */
#include "tests/unit/broker_world.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/broker/errand.h"

struct hook hook;

__thread bool ours;

static bool fails(void)
{
	int left;

	if (ours || !atomic_load(&hook.armed))
		return false;
	left = atomic_fetch_sub(&hook.left, 1);
	if (atomic_load(&hook.lasting) ? left > 1 : left != 1)
		return false;
	atomic_store(&hook.fired, true);
	return true;
}

void arm(int n)
{
	atomic_store(&hook.left, n);
	atomic_store(&hook.fired, false);
	atomic_store(&hook.armed, true);
}

bool disarm(void)
{
	atomic_store(&hook.armed, false);
	atomic_store(&hook.lasting, false);
	return atomic_load(&hook.fired);
}

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);
int __wrap_fcntl(int fd, int cmd, ...);
int __real_memfd_create(const char *name, unsigned flags);
int __wrap_memfd_create(const char *name, unsigned flags);
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
	while (cmd == F_ADD_SEALS && gettid() != getpid() &&
	       atomic_load(&hook.hold_seals))
		(void)usleep(1000);
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

void *json_memory(size_t n)
{
	bool was = ours;
	void *p;

	ours |= !atomic_load(&hook.json);
	p = malloc(n);
	ours = was;
	return p;
}

/* --- errands that are all long -------------------------------------------- */

void __real_errand(
    struct broker *b, struct errand *w, errand_fn *fn, errand_done_fn *done);
void __wrap_errand(
    struct broker *b, struct errand *w, errand_fn *fn, errand_done_fn *done);

/* What those do that are under way. */
static struct {
	_Atomic(struct errand *) w;
	errand_fn *fn;
} away[64];

static int find_away(const struct errand *w)
{
	for (int i = 0; i < 64; i++)
		if (atomic_load(&away[i].w) == w)
			return i;
	return -1;
}

static int run_away(struct errand *w)
{
	int i = find_away(w);
	errand_fn *fn = away[i].fn;

	if (w->here)
		return -EAGAIN;
	atomic_store(&away[i].w, NULL);
	if (atomic_load(&hook.hold_errand) > 1)
		(void)atomic_fetch_sub(&hook.hold_errand, 1);
	else
		while (atomic_load(&hook.hold_errand) == 1)
			(void)usleep(1000);
	return fn(w);
}

void __wrap_errand(
    struct broker *b, struct errand *w, errand_fn *fn, errand_done_fn *done)
{
	int i = find_away(w); /* one that was cancelled before it ran */

	if (i < 0)
		i = find_away(NULL);
	assert_true(i >= 0);
	if (hook.away) {
		away[i].fn = fn;
		atomic_store(&away[i].w, w);
	}
	__real_errand(b, w, hook.away ? run_away : fn, done);
}
