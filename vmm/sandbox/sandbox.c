/* SPDX-License-Identifier: MIT */
#include "vmm/sandbox/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#define NCALLS(t) (sizeof(t) / sizeof((t)[0]))

/* Whatever their arguments. */
static const int allowed[] = {
    /* the wire, the guest's streams, layers */
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(preadv),
    SCMP_SYS(pwritev),
    SCMP_SYS(lseek),
    SCMP_SYS(sendmsg),
    SCMP_SYS(recvmsg),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(close),
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat), /* what fstat() is in some libraries */
    SCMP_SYS(ftruncate),
    SCMP_SYS(fallocate),
    SCMP_SYS(memfd_create),
    SCMP_SYS(eventfd2),
    /* memory */
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(mincore),
    SCMP_SYS(mlock2), /* as touched, of what is tracked on a host that swaps
		       */
    SCMP_SYS(brk),
    /* threads */
    SCMP_SYS(futex),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(gettid),
    SCMP_SYS(getpid),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    /* clocks and chance */
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_getres),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(getrandom),
    SCMP_SYS(getrusage),
    SCMP_SYS(sysinfo),
};

/* Commands of fcntl(2). */
static const int fcntl_allowed[] = {
    F_GETFD,
    F_SETFD,
    F_GETFL,
    F_DUPFD_CLOEXEC,
    F_ADD_SEALS,
    F_GET_SEALS,
    F_SETLEASE,
    F_GETLEASE,
};

/* Whoever tries one of these is not the monitor any more. */
static const int deadly[] = {
    SCMP_SYS(execve),
    SCMP_SYS(execveat),
    SCMP_SYS(fork),
    SCMP_SYS(vfork),
    SCMP_SYS(socket),
    SCMP_SYS(socketpair),
    SCMP_SYS(connect),
    SCMP_SYS(bind),
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(pidfd_open),
    SCMP_SYS(pidfd_getfd),
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(io_uring_enter),
    SCMP_SYS(io_uring_register),
    SCMP_SYS(vmsplice),
    SCMP_SYS(splice),
    SCMP_SYS(tee),
    SCMP_SYS(mount),
    SCMP_SYS(umount2),
    SCMP_SYS(pivot_root),
    SCMP_SYS(chroot),
    SCMP_SYS(setns),
    SCMP_SYS(unshare),
    SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(userfaultfd),
    /* a file's mode says who made it: see layer_memory() */
    SCMP_SYS(fchmod),
    SCMP_SYS(fchmodat),
    SCMP_SYS(keyctl),
    SCMP_SYS(add_key),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(kexec_load),
};

/* These too, but sanitizers use them. */
static const int deadly_unless_sanitized[] = {
    SCMP_SYS(open),
    SCMP_SYS(openat),
    SCMP_SYS(openat2),
    SCMP_SYS(creat),
    SCMP_SYS(open_by_handle_at),
    SCMP_SYS(ptrace),
};

static int rule_all(
    scmp_filter_ctx ctx, uint32_t action, const int *call, size_t n)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = seccomp_rule_add(ctx, action, call[i], 0);
	return r;
}

static int rule_ioctls(scmp_filter_ctx ctx, const unsigned long *req, size_t n)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
		    SCMP_A1(SCMP_CMP_EQ, req[i], 0));
	return r;
}

static int rule_fcntls(scmp_filter_ctx ctx)
{
	int r = 0;

	for (size_t i = 0; i < NCALLS(fcntl_allowed) && r == 0; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
		    SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)fcntl_allowed[i], 0));
	return r;
}

static int rule_memory(scmp_filter_ctx ctx)
{
	int r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
	    SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));

	if (r < 0)
		return r;
	return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
	    SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
}

static int rule_threads(scmp_filter_ctx ctx)
{
	const scmp_datum_t thread = CLONE_THREAD | CLONE_VM;
	int r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
	    SCMP_A0(SCMP_CMP_MASKED_EQ, thread, thread));

	/* Its flags are in memory, where a filter cannot see them: the library
	 * falls back to clone(2). */
	if (r == 0)
		r = seccomp_rule_add(
		    ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
		    SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0));
	/* A thread's own priority. */
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(setpriority),
		    2, SCMP_A0(SCMP_CMP_EQ, PRIO_PROCESS, 0),
		    SCMP_A1(SCMP_CMP_EQ, 0, 0));
	return r;
}

static int rule_strict(
    scmp_filter_ctx ctx, const unsigned long *request, size_t n)
{
	int r = rule_all(ctx, SCMP_ACT_ALLOW, allowed, NCALLS(allowed));

	if (r == 0)
		r = rule_all(ctx, SCMP_ACT_KILL_PROCESS,
		    deadly_unless_sanitized, NCALLS(deadly_unless_sanitized));
	if (r == 0)
		r = rule_ioctls(ctx, request, n);
	if (r == 0)
		r = rule_fcntls(ctx);
	if (r == 0)
		r = rule_memory(ctx);
	if (r == 0)
		r = rule_threads(ctx);
	return r;
}

static int load(const unsigned long *request, size_t n)
{
	scmp_filter_ctx ctx =
	    seccomp_init(SANITIZED ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(EPERM));
	int r;

	if (ctx == NULL)
		return -ENOMEM;
	r = rule_all(ctx, SCMP_ACT_KILL_PROCESS, deadly, NCALLS(deadly));
	if (r == 0 && SANITIZED)
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM),
		    SCMP_SYS(ioctl), 1,
		    SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, TIOCSTI));
	else if (r == 0)
		r = rule_strict(ctx, request, n);
	/* Loading also sets PR_SET_NO_NEW_PRIVS. */
	if (r == 0)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	return r;
}

static int set_nofile(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return -errno;
	if (l.rlim_max > SANDBOX_NOFILE)
		l.rlim_max = SANDBOX_NOFILE;
	l.rlim_cur = l.rlim_max;
	return setrlimit(RLIMIT_NOFILE, &l) < 0 ? -errno : 0;
}

int sandbox_limits(struct err *e)
{
	const struct rlimit none = {0, 0};
	int r = set_nofile();

	if (r == 0 && setrlimit(RLIMIT_CORE, &none) < 0)
		r = -errno;
	/* A sanitizer traces its own threads at the end. */
	if (r == 0 && !SANITIZED && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		r = -errno;
	if (r < 0)
		return err_set(e, r,
		    "cannot limit this process's resources: %s", strerror(-r));
	return 0;
}

int sandbox_confine(const unsigned long *request, size_t n, struct err *e)
{
	int r = load(request, n);

	if (r < 0)
		return err_set(e, r,
		    "cannot confine this process (seccomp): %s", strerror(-r));
	return 0;
}
