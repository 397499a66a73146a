/* SPDX-License-Identifier: MIT */
/* Each case runs in a child of its own: there is no way out of a sandbox. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/sandbox/sandbox.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* What a child's wait status says: its exit status, or 1000 + the signal. */
static int in_sandbox(int (*fn)(void))
{
	const unsigned long request[] = {FIONREAD};
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		if (sandbox_limits(NULL) < 0 ||
		    sandbox_confine(request, 1, NULL) < 0)
			_exit(99);
		_exit(fn());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? 1000 + WTERMSIG(status)
				   : WEXITSTATUS(status);
}

/* --- what stays allowed --------------------------------------------------- */

static void *set_one(void *arg)
{
	*(int *)arg = 1;
	return NULL;
}

static int use_threads(void)
{
	int done = 0;
	pthread_t t;

	if (pthread_create(&t, NULL, set_one, &done) != 0)
		return 1;
	return pthread_join(t, NULL) != 0 || !done;
}

static int use_memory(void)
{
	int fd = memfd_create("m", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	char *p;

	if (fd < 0 || ftruncate(fd, 8192) < 0)
		return 1;
	p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return 2;
	p[0] = 1;
	if (mprotect(p, 4096, PROT_READ) < 0 ||
	    madvise(p, 8192, MADV_DONTNEED) < 0 || munmap(p, 8192) < 0)
		return 3;
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) <
	    0)
		return 4;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0 ||
	    fcntl(fd, F_GET_SEALS) != F_SEAL_WRITE)
		return 5;
	return close(fd) < 0 ? 6 : 0;
}

static int use_ioctl(void)
{
	int n;

	/* Whatever stdin makes of it: it was asked. */
	return ioctl(0, FIONREAD, &n) < 0 && errno == EPERM;
}

static void what_a_monitor_needs(void **state)
{
	(void)state;
	assert_int_equal(in_sandbox(use_threads), 0);
	assert_int_equal(in_sandbox(use_memory), 0);
	assert_int_equal(in_sandbox(use_ioctl), 0);
}

/* --- what fails ----------------------------------------------------------- */

/* Is errno EPERM after a call that gave (r)? As an exit status. */
static int forbidden(long r)
{
	return !(r < 0 && errno == EPERM);
}

static int push_input(void)
{
	return forbidden(ioctl(0, TIOCSTI, "x"));
}

static int push_input_in_disguise(void)
{
	return forbidden(
	    syscall(SYS_ioctl, 0, 0xffffffff00000000UL | TIOCSTI, "x"));
}

static int other_ioctl(void)
{
	return forbidden(ioctl(0, TIOCSCTTY, 0));
}

static int make_executable(void)
{
	void *p =
	    mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return forbidden(mprotect(p, 4096, PROT_READ | PROT_EXEC));
}

static int map_executable(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_EXEC,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return forbidden(p == MAP_FAILED ? -1 : 0);
}

static int signal_another(void)
{
	return forbidden(syscall(SYS_tgkill, getppid(), getppid(), 0));
}

static int be_dumpable(void)
{
	return forbidden(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
}

static int raise_limits(void)
{
	const struct rlimit l = {SANDBOX_NOFILE * 2, SANDBOX_NOFILE * 2};

	return forbidden(setrlimit(RLIMIT_NOFILE, &l));
}

static int get_a_process(void)
{
	return forbidden(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
}

static void what_fails(void **state)
{
	(void)state;
	assert_int_equal(in_sandbox(push_input), 0);
	assert_int_equal(in_sandbox(push_input_in_disguise), 0);
	if (SANITIZED)
		return;
	assert_int_equal(in_sandbox(other_ioctl), 0);
	assert_int_equal(in_sandbox(make_executable), 0);
	assert_int_equal(in_sandbox(map_executable), 0);
	assert_int_equal(in_sandbox(signal_another), 0);
	assert_int_equal(in_sandbox(be_dumpable), 0);
	assert_int_equal(in_sandbox(raise_limits), 0);
	assert_int_equal(in_sandbox(get_a_process), 0);
}

/* --- what ends the process ------------------------------------------------ */

static int call_open(void)
{
	return open("/dev/null", O_RDONLY) < 0;
}

static int call_old_open(void)
{
	return syscall(SYS_open, "/dev/null", O_RDONLY) < 0;
}

static int call_exec(void)
{
	return execl("/bin/true", "true", (char *)NULL);
}

static int call_socket(void)
{
	return socket(AF_UNIX, SOCK_STREAM, 0) < 0;
}

static int call_ptrace(void)
{
	return syscall(SYS_ptrace, 0, 0, 0, 0) < 0;
}

static int call_vm_readv(void)
{
	return syscall(SYS_process_vm_readv, getpid(), 0, 0, 0, 0, 0) < 0;
}

static int call_io_uring(void)
{
	return syscall(SYS_io_uring_setup, 1, NULL) < 0;
}

static int call_vmsplice(void)
{
	return vmsplice(1, NULL, 0, 0) < 0;
}

static void what_is_deadly(void **state)
{
	const int dead = 1000 + SIGSYS;

	(void)state;
	assert_int_equal(in_sandbox(call_exec), dead);
	assert_int_equal(in_sandbox(call_socket), dead);
	assert_int_equal(in_sandbox(call_vm_readv), dead);
	assert_int_equal(in_sandbox(call_io_uring), dead);
	assert_int_equal(in_sandbox(call_vmsplice), dead);
	if (SANITIZED)
		return;
	assert_int_equal(in_sandbox(call_open), dead);
	assert_int_equal(in_sandbox(call_old_open), dead);
	assert_int_equal(in_sandbox(call_ptrace), dead);
}

/* --- limits --------------------------------------------------------------- */

static int look_at_limits(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_CORE, &l) < 0 || l.rlim_max != 0)
		return 1;
	if (getrlimit(RLIMIT_NOFILE, &l) < 0 || l.rlim_cur != l.rlim_max ||
	    l.rlim_max > SANDBOX_NOFILE)
		return 2;
	return !SANITIZED && prctl(PR_GET_DUMPABLE) != 0;
}

static void limits(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(sandbox_limits(NULL) < 0 ? 99 : look_at_limits());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_a_monitor_needs),
	    cmocka_unit_test(what_fails),
	    cmocka_unit_test(what_is_deadly),
	    cmocka_unit_test(limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
