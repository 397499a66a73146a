/* SPDX-License-Identifier: MIT */
/* Programs on files that are not trusted: bounded in every resource. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/cli/cli.h"
#include "vmm/core/cleanup.h"

#define PROC_AS_MAX  (16ull << 30) /* bytes of address space */
#define PROC_CPU_MAX 3600          /* seconds */
#define PROC_FDS_MAX 128
#define PROC_TICK    100 /* ms between looks at what it has written */

static void limit(int what, rlim_t max)
{
	struct rlimit l = {max, max};

	(void)setrlimit((__rlimit_resource_t)what, &l);
}

/* Runs in the child. */
static void __attribute__((noreturn)) exec_child(
    const struct cli *c, const struct proc *p, int out, int err, pid_t parent)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	char *argv[PROC_ARGS_MAX + 1] = {0};
	size_t n = 0;
	int ret;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	(void)setpgid(0, 0);
	(void)sigprocmask(SIG_SETMASK, c->old_mask, NULL);
	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	limit(RLIMIT_CPU, PROC_CPU_MAX);
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_NOFILE, PROC_FDS_MAX);
	(void)clearenv();
	(void)setenv("PATH", "/usr/local/bin:/usr/bin:/bin", 1);
	(void)setenv("LC_ALL", "C", 1);
	(void)dup2(null, 0);
	(void)dup2(out, 1);
	(void)dup2(err, 2);
	if (p->keep_fd >= 0)
		(void)fcntl(p->keep_fd, F_SETFD, 0);
	ret = p->only ? confine_to(p->only) : 0;
	if (ret) {
		(void)dprintf(2, "%s: cannot be confined: %s\n", p->argv[0],
		    strerror(-ret));
		_exit(127);
	}
	/* The type that execvp() wants; it changes nothing. */
	do
		memcpy(&argv[n], &p->argv[n], sizeof(argv[n]));
	while (++n < PROC_ARGS_MAX && p->argv[n]);
	/* Last: from here on we may not allocate ourselves. */
	limit(RLIMIT_AS, PROC_AS_MAX);
	(void)execvp(p->argv[0], argv);
	(void)dprintf(2, "%s: %s (is %s installed?)\n", p->argv[0],
	    strerror(errno), p->package);
	_exit(127);
}

static bool grown(int fd, uint64_t max)
{
	struct stat st;

	return fd >= 0 && !fstat(fd, &st) && (uint64_t)st.st_blocks * 512 > max;
}

/* Wait for (pid), which is killed when it may not go on; NULL or the reason. */
static const char *supervise(
    struct cli *c, const struct proc *p, int pidfd, int out, int err)
{
	struct pollfd w[2] = {
	    {.fd = pidfd, .events = POLLIN},
	    {.fd = c->sig_fd, .events = POLLIN},
	};

	for (;;) {
		if (poll(w, 2, PROC_TICK) < 0 && errno != EINTR)
			return strerror(errno);
		if (w[0].revents)
			return NULL;
		if (cli_signalled(c, 0))
			return "stopped by a signal";
		if (grown(p->grow_fd, p->grow_max))
			return "its content is larger than the memory that is "
			       "free";
		if (grown(out, PROC_OUT_MAX) || grown(err, PROC_OUT_MAX))
			return "it printed too much";
	}
}

/* The start of what is in (fd), NUL-terminated, or NULL without memory. */
static char *slurp(int fd, size_t max)
{
	char *buf = calloc(1, max + 1);
	ssize_t n = buf ? pread(fd, buf, max, 0) : -1;

	if (n < 0) {
		free(buf);
		return NULL;
	}
	buf[n] = '\0';
	return buf;
}

static int failed(
    struct cli *c, const struct proc *p, const char *what, int status, int err)
{
	size_t n = strlen(p->argv[0]);
	AUTO_FREE char *msg = slurp(err, 512);
	const char *s = msg ? msg : "";

	/* "qemu-img: Could not open ..." */
	if (!strncmp(s, p->argv[0], n) && s[n] == ':' && s[n + 1] == ' ')
		s += n + 2;
	if (msg)
		msg[strcspn(msg, "\n")] = '\0';
	if (WIFSIGNALED(status))
		cli_fail(c, "%s: %s was killed by signal %d%s%s", what,
		    p->argv[0], WTERMSIG(status), *s ? ": " : "", s);
	else if (p->only && strstr(s, "Permission denied"))
		cli_fail(c, "%s: %s: %s", what, s, p->denied);
	else
		cli_fail(c, "%s: %s%s", what, *s ? s : p->argv[0],
		    *s ? "" : " failed");
	return -1;
}

static bool succeeded(const struct proc *p, int status)
{
	const int *ok = p->also_ok;

	if (!WIFEXITED(status))
		return false;
	for (; ok && *ok; ok++)
		if (WEXITSTATUS(status) == *ok)
			return true;
	return WEXITSTATUS(status) == 0;
}

static int reap(pid_t pid)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

int proc_run(struct cli *c, const struct proc *p, const char *what, char **out)
{
	AUTO_CLOSE int out_fd = memfd_create("stdout", MFD_CLOEXEC);
	AUTO_CLOSE int err_fd = memfd_create("stderr", MFD_CLOEXEC);
	AUTO_CLOSE int pidfd = -1;
	pid_t parent = getpid(), pid;
	const char *why;
	int status;

	pid = out_fd < 0 || err_fd < 0 ? -1 : fork();
	if (pid < 0) {
		cli_fail(c, "%s: %s", p->argv[0], strerror(errno));
		return -1;
	}
	if (pid == 0)
		exec_child(c, p, out_fd, err_fd, parent);
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	why = pidfd < 0 ? strerror(errno)
			: supervise(c, p, pidfd, out_fd, err_fd);
	if (why)
		(void)kill(pid, SIGKILL);
	status = reap(pid);
	if (why) {
		cli_fail(c, "%s: %s", what, why);
		return -1;
	}
	if (!succeeded(p, status))
		return failed(c, p, what, status, err_fd);
	if (out && !(*out = slurp(out_fd, PROC_OUT_MAX))) {
		cli_fail(c, "out of memory");
		return -1;
	}
	return 0;
}
