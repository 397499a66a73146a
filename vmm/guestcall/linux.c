/* SPDX-License-Identifier: MIT */
/* The part of Linux that programs see; docs/GUEST.md lists it. */
#include "vmm/guestcall/linux.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>

#include "shared/page/run.h"

#define GUEST_PID            1
#define NSIG_MAX             64u
#define SIGACT_LEN           32u
#define RANDOM_CHUNK         256u
#define RANDOM_MAX           (1u << 20)
#define SEC_NS               1000000000ULL
#define ARCH_SET_GS          0x1001u
#define ARCH_SET_FS          0x1002u
#define ARCH_GET_FS          0x1003u
#define ARCH_GET_GS          0x1004u
#define FUTEX_WAIT_OP        0u
#define FUTEX_WAKE_OP        1u
#define FUTEX_WAIT_BITSET_OP 9u
#define FUTEX_WAKE_BITSET_OP 10u
#define FUTEX_CMD            0x7fu
#define FUTEX_REALTIME       0x100u

/* Copy out unless (va) is 0, an argument that was left out. */
static int64_t give_out(
    struct guest_call *c, uint64_t va, const void *buf, uint64_t len)
{
	if (va == 0)
		return 0;
	return guest_copy_out(c->g, va, buf, len);
}

static int64_t end_program(struct guest_call *c, int status, const char *text)
{
	report_exit(status, text, c->end);
	c->ended = true;
	return 0;
}

static int64_t do_exit(struct guest_call *c)
{
	return end_program(c, (int)(c->a[0] & 0xff), "");
}

static int64_t do_zero(struct guest_call *c)
{
	(void)c;
	return 0;
}

static int64_t do_pid(struct guest_call *c)
{
	(void)c;
	return GUEST_PID;
}

/* Of a process: its group, its session. */
static int64_t do_pid_of(struct guest_call *c)
{
	int32_t pid = (int32_t)c->a[0];

	return pid == 0 || pid == GUEST_PID ? GUEST_PID : -ESRCH;
}

static int64_t do_enoent(struct guest_call *c)
{
	(void)c;
	return -ENOENT;
}

/* Known, and not counted as missing: libc asks and does without. */
static int64_t do_without(struct guest_call *c)
{
	(void)c;
	return -ENOSYS;
}

/* --- signals: none is ever delivered, but SIGPIPE where it ends the program */

static bool is_ignored(uint64_t sig)
{
	return sig == 0 || sig == SIGCHLD || sig == SIGCONT || sig == SIGURG ||
	       sig == SIGWINCH;
}

static int64_t raise_signal(struct guest_call *c, uint64_t sig)
{
	char text[80];

	if (sig > NSIG_MAX)
		return -EINVAL;
	if (is_ignored(sig))
		return 0;
	(void)snprintf(text, sizeof(text),
	    "guest ended: signal %u of its own%s\n", (unsigned)sig,
	    sig == SIGABRT ? " (abort)" : "");
	return end_program(c, 128 + (int)sig, text);
}

/* kill(pid, sig), tkill(tid, sig): itself only. */
static int64_t do_kill(struct guest_call *c)
{
	int64_t pid = (int32_t)c->a[0];

	if (pid != GUEST_PID && pid != 0 && pid != -1)
		return -ESRCH;
	return raise_signal(c, c->a[1]);
}

static int64_t do_tgkill(struct guest_call *c)
{
	if (c->a[0] != GUEST_PID || c->a[1] != GUEST_PID)
		return -ESRCH;
	return raise_signal(c, c->a[2]);
}

/* sigaction(sig, new, old) */
static int64_t do_sigaction(struct guest_call *c)
{
	unsigned char old[SIGACT_LEN] = {0};
	uint64_t handler;

	if (c->a[0] == 0 || c->a[0] > NSIG_MAX)
		return -EINVAL;
	if (c->a[1] != 0) {
		if (guest_copy_in(c->g, &handler, c->a[1], sizeof(handler)) < 0)
			return -EFAULT;
		if (c->a[0] == SIGPIPE)
			c->g->pipe_caught = handler != 0;
	}
	return give_out(c, c->a[2], old, sizeof(old));
}

/* sigprocmask(how, new, old) */
static int64_t do_sigprocmask(struct guest_call *c)
{
	uint64_t old = c->g->blocked;
	uint64_t set;

	if (c->a[1] != 0) {
		if (guest_copy_in(c->g, &set, c->a[1], sizeof(set)) < 0)
			return -EFAULT;
		if (c->a[0] == SIG_BLOCK)
			c->g->blocked |= set;
		else if (c->a[0] == SIG_UNBLOCK)
			c->g->blocked &= ~set;
		else if (c->a[0] == SIG_SETMASK)
			c->g->blocked = set;
		else
			return -EINVAL;
	}
	return give_out(c, c->a[2], &old, sizeof(old));
}

int64_t linux_unless_pipe(struct guest_call *c, int64_t n)
{
	if (n != -EPIPE || c->g->pipe_caught ||
	    (c->g->blocked & (1ULL << (SIGPIPE - 1))))
		return n;
	return end_program(c, 128 + SIGPIPE, "");
}

static int64_t do_sigaltstack(struct guest_call *c)
{
	stack_t old = {.ss_flags = SS_DISABLE};

	return give_out(c, c->a[1], &old, sizeof(old));
}

/* --- who and where -------------------------------------------------------- */

static int64_t do_arch_prctl(struct guest_call *c)
{
	struct cpu_regs *r = c->r;

	switch (c->a[0]) {
	case ARCH_SET_FS:
	case ARCH_SET_GS:
		if (c->a[1] >= AS_VA_MAX)
			return -EPERM;
		*(c->a[0] == ARCH_SET_FS ? &r->fs_base : &r->gs_base) = c->a[1];
		r->dirty_sregs = true;
		return 0;
	case ARCH_GET_FS:
		return guest_copy_out(c->g, c->a[1], &r->fs_base, 8);
	case ARCH_GET_GS:
		return guest_copy_out(c->g, c->a[1], &r->gs_base, 8);
	default:
		return -EINVAL;
	}
}

static int64_t do_uname(struct guest_call *c)
{
	struct utsname u = {
	    .sysname = "Linux",
	    .nodename = "firn",
	    .release = "6.1.0-firn",
	    .version = "#1 firn guest",
	    .machine = "x86_64",
	    .domainname = "(none)",
	};

	return guest_copy_out(c->g, c->a[0], &u, sizeof(u));
}

static struct rlimit limit_of(uint64_t which)
{
	struct rlimit l = {RLIM_INFINITY, RLIM_INFINITY};

	if (which == RLIMIT_STACK)
		l = (struct rlimit){AS_STACK_LEN, AS_STACK_LEN};
	else if (which == RLIMIT_NOFILE)
		l = (struct rlimit){GUEST_FILES_MAX, GUEST_FILES_MAX};
	else if (which == RLIMIT_CORE)
		l = (struct rlimit){0, 0};
	return l;
}

/* prlimit64(pid, which, new, old) */
static int64_t do_prlimit(struct guest_call *c)
{
	struct rlimit l = limit_of(c->a[1]);

	if (c->a[0] != 0 && c->a[0] != GUEST_PID)
		return -ESRCH;
	if (c->a[1] >= RLIM_NLIMITS)
		return -EINVAL;
	if (c->a[2])
		return -EPERM;
	return give_out(c, c->a[3], &l, sizeof(l));
}

static int64_t do_getrlimit(struct guest_call *c)
{
	struct rlimit l = limit_of(c->a[0]);

	if (c->a[0] >= RLIM_NLIMITS)
		return -EINVAL;
	return guest_copy_out(c->g, c->a[1], &l, sizeof(l));
}

static int64_t do_sysinfo(struct guest_call *c)
{
	struct sysinfo s = {.procs = 1, .mem_unit = 1};

	guest_enter(c->g);
	s.totalram = c->g->ram_len;
	s.freeram = c->g->as.frames.nfree * PAGE_SIZE;
	guest_leave(c->g);
	return guest_copy_out(c->g, c->a[0], &s, sizeof(s));
}

static int64_t do_getcwd(struct guest_call *c)
{
	if (c->a[1] < 2)
		return -ERANGE;
	return guest_copy_out(c->g, c->a[0], "/", 2) < 0 ? -EFAULT : 2;
}

/* sched_getaffinity(pid, len, mask): the one CPU. */
static int64_t do_getaffinity(struct guest_call *c)
{
	uint64_t mask = 1;

	if (c->a[1] < sizeof(mask))
		return -EINVAL;
	if (guest_copy_out(c->g, c->a[2], &mask, sizeof(mask)) < 0)
		return -EFAULT;
	return sizeof(mask);
}

/* getcpu(cpu, node, 0) */
static int64_t do_getcpu(struct guest_call *c)
{
	uint32_t zero = 0;
	int64_t r = give_out(c, c->a[0], &c->cpu, sizeof(c->cpu));

	return r < 0 ? r : give_out(c, c->a[1], &zero, sizeof(zero));
}

static int64_t do_getrandom(struct guest_call *c)
{
	unsigned char buf[RANDOM_CHUNK];
	uint64_t len = c->a[1] < RANDOM_MAX ? c->a[1] : RANDOM_MAX;
	uint64_t done = 0;

	while (done < len) {
		uint64_t n = len - done;
		ssize_t got;

		n = n < sizeof(buf) ? n : sizeof(buf);
		got = getrandom(buf, n, 0);
		if (got < 0)
			return done ? (int64_t)done : -errno;
		if (guest_copy_out(c->g, c->a[0] + done, buf, (uint64_t)got) <
		    0)
			return done ? (int64_t)done : -EFAULT;
		done += (uint64_t)got;
	}
	return (int64_t)done;
}

static int64_t do_getrusage(struct guest_call *c)
{
	struct rusage u;

	memset(&u, 0, sizeof(u));
	return guest_copy_out(c->g, c->a[1], &u, sizeof(u));
}

/* --- time ----------------------------------------------------------------- */

static bool is_clock(uint64_t id)
{
	return id <= CLOCK_BOOTTIME;
}

static int64_t do_clock_gettime(struct guest_call *c)
{
	struct timespec ts;

	if (!is_clock(c->a[0]) || clock_gettime((clockid_t)c->a[0], &ts) < 0)
		return -EINVAL;
	return guest_copy_out(c->g, c->a[1], &ts, sizeof(ts));
}

static int64_t do_clock_getres(struct guest_call *c)
{
	struct timespec ts = {.tv_nsec = 1};

	if (!is_clock(c->a[0]))
		return -EINVAL;
	return give_out(c, c->a[1], &ts, sizeof(ts));
}

static int64_t do_gettimeofday(struct guest_call *c)
{
	struct timespec ts;
	int64_t tv[2];

	(void)clock_gettime(CLOCK_REALTIME, &ts);
	tv[0] = ts.tv_sec;
	tv[1] = ts.tv_nsec / 1000;
	return give_out(c, c->a[0], tv, sizeof(tv));
}

static int64_t do_time(struct guest_call *c)
{
	struct timespec ts;
	int64_t now;

	(void)clock_gettime(CLOCK_REALTIME, &ts);
	now = ts.tv_sec;
	return give_out(c, c->a[0], &now, sizeof(now)) < 0 ? -EFAULT : now;
}

static uint64_t now_ns(clockid_t clock)
{
	struct timespec ts = {0};

	(void)clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * SEC_NS + (uint64_t)ts.tv_nsec;
}

/* Get a time; saturates at some 500 years. */
static int get_time(struct guest_call *c, uint64_t va, uint64_t *ns)
{
	struct timespec ts;

	if (guest_copy_in(c->g, &ts, va, sizeof(ts)) < 0)
		return -EFAULT;
	if (ts.tv_sec < 0 || ts.tv_nsec < 0 || ts.tv_nsec >= (long)SEC_NS)
		return -EINVAL;
	if ((uint64_t)ts.tv_sec >= INT64_MAX / SEC_NS)
		*ns = INT64_MAX;
	else
		*ns = (uint64_t)ts.tv_sec * SEC_NS + (uint64_t)ts.tv_nsec;
	return 0;
}

/* Sleep until (clock) shows (end); only the VM's end cuts it short. */
static int64_t sleep_until(struct guest *g, clockid_t clock, uint64_t end)
{
	for (;;) {
		uint64_t now = now_ns(clock);
		int r;

		if (now >= end)
			return 0;
		r = guest_wait(g, -1, 0, end - now);
		if (r < 0 && r != -EAGAIN)
			return r;
	}
}

static int64_t sleep_for(struct guest *g, uint64_t ns)
{
	uint64_t now = now_ns(CLOCK_MONOTONIC);
	uint64_t end = now + ns;

	return sleep_until(g, CLOCK_MONOTONIC, end < now ? UINT64_MAX : end);
}

static int64_t do_nanosleep(struct guest_call *c)
{
	uint64_t ns;
	int r = get_time(c, c->a[0], &ns);

	return r < 0 ? r : sleep_for(c->g, ns);
}

/* Until a signal comes: none does. */
static int64_t do_pause(struct guest_call *c)
{
	return sleep_for(c->g, UINT64_MAX);
}

/* clock_nanosleep(clock, flags, time, rest) */
static int64_t do_clock_nanosleep(struct guest_call *c)
{
	uint64_t ns;
	int r;

	if (c->a[0] != CLOCK_REALTIME && c->a[0] != CLOCK_MONOTONIC &&
	    c->a[0] != CLOCK_BOOTTIME)
		return -EINVAL;
	r = get_time(c, c->a[2], &ns);
	if (r < 0)
		return r;
	if (c->a[1] & TIMER_ABSTIME)
		return sleep_until(c->g, (clockid_t)c->a[0], ns);
	return sleep_for(c->g, ns);
}

/* --- futex: there is one thread, so nobody will ever wake it -------------- */

static int64_t futex_wait(struct guest_call *c, bool absolute)
{
	clockid_t clock =
	    c->a[1] & FUTEX_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC;
	uint64_t ns;
	uint32_t now;
	int64_t r;

	if (guest_copy_in(c->g, &now, c->a[0], sizeof(now)) < 0)
		return -EFAULT;
	if (now != (uint32_t)c->a[2])
		return -EAGAIN;
	if (c->a[3] == 0)
		return -EDEADLK;
	r = get_time(c, c->a[3], &ns);
	if (r == 0)
		r = absolute ? sleep_until(c->g, clock, ns)
			     : sleep_for(c->g, ns);
	return r < 0 ? r : -ETIMEDOUT;
}

static int64_t do_futex(struct guest_call *c)
{
	if (c->a[0] % 4)
		return -EINVAL;
	switch (c->a[1] & FUTEX_CMD) {
	case FUTEX_WAIT_OP:
		return futex_wait(c, false);
	case FUTEX_WAIT_BITSET_OP:
		return futex_wait(c, true);
	case FUTEX_WAKE_OP:
	case FUTEX_WAKE_BITSET_OP:
		return 0;
	default:
		return -ENOSYS;
	}
}

/* --- memory --------------------------------------------------------------- */

static uint64_t page_up(uint64_t v)
{
	return (v + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
}

static int64_t do_brk(struct guest_call *c)
{
	uint64_t r;

	guest_enter(c->g);
	r = as_brk(&c->g->as, c->a[0]);
	guest_leave(c->g);
	return (int64_t)r;
}

#define PROT_ALL 7u
#define MAP_FIXED_BITS                                                         \
	(0x10u | 0x100000u) /* MAP_FIXED, MAP_FIXED_NOREPLACE                  \
			     */
#define MAP_NOREPLACE 0x100000u
#define MAP_ANON      0x20u
#define MAP_TYPE_BITS 3u

/* mmap(addr, len, prot, flags, fd, off) */
static int64_t do_mmap(struct guest_call *c)
{
	struct aspace *as = &c->g->as;
	uint64_t va = c->a[0];
	uint64_t len = c->a[1];
	uint64_t flags = c->a[3];
	int r;

	if (len == 0 || (flags & MAP_TYPE_BITS) == 0 || (c->a[2] & ~7ULL))
		return -EINVAL;
	if (!(flags & MAP_ANON))
		return -ENODEV;
	if (len > AS_LEN_MAX)
		return -ENOMEM;
	len = page_up(len);
	guest_enter(c->g);
	if ((flags & MAP_NOREPLACE) && as_used(as, va, len))
		r = -EEXIST;
	else if (flags & MAP_FIXED_BITS)
		r = as_map_fixed(as, va, len, (uint32_t)c->a[2], false);
	else
		r = as_map(as, va, len, (uint32_t)c->a[2], &va);
	guest_leave(c->g);
	return r < 0 ? r : (int64_t)va;
}

static int64_t do_munmap(struct guest_call *c)
{
	int r;

	if (c->a[1] > AS_LEN_MAX)
		return -EINVAL;
	guest_enter(c->g);
	r = as_unmap(&c->g->as, c->a[0], page_up(c->a[1]));
	guest_leave(c->g);
	return r;
}

static int64_t do_mprotect(struct guest_call *c)
{
	int r;

	if (c->a[1] == 0)
		return 0;
	if (c->a[1] > AS_LEN_MAX || (c->a[2] & ~(uint64_t)PROT_ALL))
		return -EINVAL;
	guest_enter(c->g);
	r = as_protect(&c->g->as, c->a[0], page_up(c->a[1]), (uint32_t)c->a[2]);
	guest_leave(c->g);
	return r;
}

#define MAY_MOVE 1ULL

/* mremap(old, old_len, len, flags, new): in place only; libc copies then. */
static int64_t do_mremap(struct guest_call *c)
{
	struct aspace *as = &c->g->as;
	uint64_t va = c->a[0];
	uint64_t old = c->a[1];
	uint64_t len = c->a[2];
	int r = 0;

	if (va % PAGE_SIZE || len == 0 || old == 0 || old > AS_LEN_MAX ||
	    len > AS_LEN_MAX || (c->a[3] & ~MAY_MOVE))
		return -EINVAL;
	old = page_up(old);
	len = page_up(len);
	guest_enter(c->g);
	if (as_find(as, va) == NULL)
		r = -EFAULT;
	else if (len < old)
		r = as_unmap(as, va + len, old - len);
	else
		r = as_grow(as, va, old, len);
	guest_leave(c->g);
	return r < 0 ? r : (int64_t)va;
}

#define ADVICE_DONTNEED 4u

/* The gate is passed for every 2 MiB, as zeroing takes time. */
static int64_t do_madvise(struct guest_call *c)
{
	uint64_t va = c->a[0];
	uint64_t end = va + page_up(c->a[1]);
	int r = 0;

	if (va % PAGE_SIZE || c->a[1] > AS_LEN_MAX)
		return -EINVAL;
	if (c->a[2] != ADVICE_DONTNEED)
		return 0;
	while (va < end && r == 0) {
		uint64_t next = (va & ~(LEAF_SIZE - 1)) + LEAF_SIZE;

		next = next < end ? next : end;
		guest_enter(c->g);
		r = as_zero(&c->g->as, va, next - va);
		guest_leave(c->g);
		va = next;
	}
	return r;
}

/* --- the table ------------------------------------------------------------ */

typedef int64_t linux_fn(struct guest_call *c);

static linux_fn *const calls[] = {
    [SYS_read] = linux_read,
    [SYS_write] = linux_write,
    [SYS_open] = linux_open,
    [SYS_close] = linux_close,
    [SYS_stat] = linux_stat,
    [SYS_fstat] = linux_fstat,
    [SYS_lstat] = linux_stat,
    [SYS_poll] = linux_poll,
    [SYS_lseek] = linux_lseek,
    [SYS_mmap] = do_mmap,
    [SYS_mprotect] = do_mprotect,
    [SYS_munmap] = do_munmap,
    [SYS_brk] = do_brk,
    [SYS_rt_sigaction] = do_sigaction,
    [SYS_rt_sigprocmask] = do_sigprocmask,
    [SYS_ioctl] = linux_ioctl,
    [SYS_pread64] = linux_pread,
    [SYS_readv] = linux_readv,
    [SYS_writev] = linux_writev,
    [SYS_access] = do_enoent,
    [SYS_sched_yield] = do_zero,
    [SYS_mremap] = do_mremap,
    [SYS_madvise] = do_madvise,
    [SYS_dup] = linux_dup,
    [SYS_dup2] = linux_dup2,
    [SYS_pause] = do_pause,
    [SYS_nanosleep] = do_nanosleep,
    [SYS_getpid] = do_pid,
    [SYS_exit] = do_exit,
    [SYS_kill] = do_kill,
    [SYS_uname] = do_uname,
    [SYS_fcntl] = linux_fcntl,
    [SYS_getcwd] = do_getcwd,
    [SYS_readlink] = linux_readlink,
    [SYS_gettimeofday] = do_gettimeofday,
    [SYS_getrlimit] = do_getrlimit,
    [SYS_getrusage] = do_getrusage,
    [SYS_sysinfo] = do_sysinfo,
    [SYS_getuid] = do_zero,
    [SYS_getgid] = do_zero,
    [SYS_geteuid] = do_zero,
    [SYS_getegid] = do_zero,
    [SYS_getppid] = do_zero,
    [SYS_getpgrp] = do_pid,
    [SYS_getpgid] = do_pid_of,
    [SYS_getsid] = do_pid_of,
    [SYS_rt_sigsuspend] = do_pause,
    [SYS_sigaltstack] = do_sigaltstack,
    [SYS_arch_prctl] = do_arch_prctl,
    [SYS_gettid] = do_pid,
    [SYS_tkill] = do_kill,
    [SYS_time] = do_time,
    [SYS_futex] = do_futex,
    [SYS_sched_getaffinity] = do_getaffinity,
    [SYS_set_tid_address] = do_pid,
    [SYS_clock_gettime] = do_clock_gettime,
    [SYS_clock_getres] = do_clock_getres,
    [SYS_clock_nanosleep] = do_clock_nanosleep,
    [SYS_exit_group] = do_exit,
    [SYS_tgkill] = do_tgkill,
    [SYS_openat] = linux_openat,
    [SYS_newfstatat] = linux_fstatat,
    [SYS_readlinkat] = linux_readlinkat,
    [SYS_faccessat] = do_enoent,
    [SYS_set_robust_list] = do_zero,
    [SYS_dup3] = linux_dup3,
    [SYS_prlimit64] = do_prlimit,
    [SYS_getcpu] = do_getcpu,
    [SYS_getrandom] = do_getrandom,
    [SYS_rseq] = do_without,
};

/*
 * The arguments that programs declare as ints: a compiler may leave anything
 * above the low half of the register, and Linux looks at that of nearly all.
 */
#define INT(i) (1u << (i))
static const uint8_t ints[] = {
    [SYS_read] = INT(0),
    [SYS_write] = INT(0),
    [SYS_open] = INT(1),
    [SYS_close] = INT(0),
    [SYS_fstat] = INT(0),
    [SYS_poll] = INT(1) | INT(2),
    [SYS_lseek] = INT(0) | INT(2),
    [SYS_mmap] = INT(2) | INT(3),
    [SYS_mprotect] = INT(2),
    [SYS_rt_sigaction] = INT(0),
    [SYS_rt_sigprocmask] = INT(0),
    [SYS_ioctl] = INT(0) | INT(1),
    [SYS_pread64] = INT(0),
    [SYS_readv] = INT(0) | INT(2),
    [SYS_writev] = INT(0) | INT(2),
    [SYS_mremap] = INT(3),
    [SYS_madvise] = INT(2),
    [SYS_dup] = INT(0),
    [SYS_dup2] = INT(0) | INT(1),
    [SYS_dup3] = INT(0) | INT(1) | INT(2),
    [SYS_kill] = INT(0) | INT(1),
    [SYS_tkill] = INT(0) | INT(1),
    [SYS_tgkill] = INT(0) | INT(1) | INT(2),
    [SYS_fcntl] = INT(0) | INT(1) | INT(2),
    [SYS_getrlimit] = INT(0),
    [SYS_getpgid] = INT(0),
    [SYS_getsid] = INT(0),
    [SYS_arch_prctl] = INT(0),
    [SYS_futex] = INT(1) | INT(2),
    [SYS_sched_getaffinity] = INT(0) | INT(1),
    [SYS_clock_gettime] = INT(0),
    [SYS_clock_getres] = INT(0),
    [SYS_clock_nanosleep] = INT(0) | INT(1),
    [SYS_openat] = INT(2),
    [SYS_newfstatat] = INT(0) | INT(3),
    [SYS_readlink] = INT(2),
    [SYS_readlinkat] = INT(3),
    [SYS_prlimit64] = INT(0) | INT(1),
};

static void cut_ints(struct guest_call *c)
{
	uint32_t set = c->nr < sizeof(ints) ? ints[c->nr] : 0;

	for (uint32_t i = 0; i < 6; i++)
		if (set & INT(i))
			c->a[i] = (uint32_t)c->a[i];
}

int64_t linux_call(struct guest_call *c)
{
	cut_ints(c);
	if (c->nr < sizeof(calls) / sizeof(calls[0]) && calls[c->nr])
		return calls[c->nr](c);
	c->g->nenosys++;
	return -ENOSYS;
}
