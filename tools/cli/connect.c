/* SPDX-License-Identifier: MIT */
/* The connection: to a daemon that runs, or to a private one of our own. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/cli/cli.h"
#include "tools/libfirn/firn_json.h"
#include "vmm/core/cleanup.h"

int cli_find_program(
    const struct cli *c, const char *name, char *buf, size_t len)
{
	static const char *const places[] = {"", "../libexec/firn/"};
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	const char *dir;

	if (n < 0) {
		cli_fail(c, "cannot read /proc/self/exe: %s", strerror(errno));
		return -1;
	}
	self[n] = '\0';
	dir = dirname(self);
	for (size_t i = 0; i < 2; i++) {
		int k = snprintf(buf, len, "%s/%s%s", dir, places[i], name);

		if (k > 0 && (size_t)k < len && !access(buf, X_OK))
			return 0;
	}
	cli_fail(
	    c, "%s is not in %s nor in %s/../libexec/firn", name, dir, dir);
	return -1;
}

/* In the child: its descriptors 3 and 4 are the connection and the lifeline. */
static void __attribute__((noreturn))
exec_firnd(const struct cli *c, const char *path, int conn, int life)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int conn2 = fcntl(conn, F_DUPFD_CLOEXEC, 10);
	int life2 = fcntl(life, F_DUPFD_CLOEXEC, 10);

	/* A session of its own: ^C is for the client, which decides. */
	(void)setsid();
	(void)sigprocmask(SIG_SETMASK, c->old_mask, NULL);
	if (null >= 0 && dup2(null, 0) == 0 && dup2(null, 1) == 1 &&
	    dup2(conn2, 3) == 3 && dup2(life2, 4) == 4)
		execl(path, "firnd", "--adopt", "3", "--die-with-fd", "4",
		    (char *)NULL);
	(void)dprintf(2, "firn: cannot start %s: %s\n", path, strerror(errno));
	_exit(127);
}

static int start_private(struct cli *c)
{
	int pair[2] = {-1, -1}, life[2] = {-1, -1};
	struct firn_error e;
	char path[PATH_MAX];
	pid_t pid;
	int ret = -1;

	if (cli_find_program(c, "firnd", path, sizeof(path)))
		return -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) ||
	    pipe2(life, O_CLOEXEC)) {
		cli_fail(c, "cannot start firnd: %s", strerror(errno));
		goto out;
	}
	pid = fork();
	if (pid < 0) {
		cli_fail(c, "cannot start firnd: %s", strerror(errno));
		goto out;
	}
	if (pid == 0)
		exec_firnd(c, path, pair[1], life[0]);
	c->firnd = pid;
	c->life_fd = take_fd(&life[1]);
	if (firn_connect_fd(pair[0], &c->conn, &e)) {
		cli_fail(c, "%s", e.msg);
		goto out;
	}
	pair[0] = -1;
	ret = 0;
out:
	for (int i = 0; i < 2; i++) {
		cleanup_close(&pair[i]);
		cleanup_close(&life[i]);
	}
	return ret;
}

/*
 * connect(2) waits for a service that accepts nobody, and looks at no signalfd
 * meanwhile. Nothing has been made yet, so a signal may end us as it does who
 * takes none.
 */
static int connect_daemon(struct cli *c, struct firn_error *e)
{
	sigset_t taken;
	int ret;

	(void)sigprocmask(SIG_SETMASK, c->old_mask, &taken);
	ret = firn_connect(c->socket, &c->conn, e);
	(void)sigprocmask(SIG_SETMASK, &taken, NULL);
	return ret;
}

static int connect_as(struct cli *c, enum link_kind kind)
{
	struct firn_error e;
	char path[PATH_MAX];
	int ret = connect_daemon(c, &e);

	if (!ret)
		return 0;
	if (ret != -ENOENT && ret != -ECONNREFUSED) {
		cli_fail(c, "%s", e.msg);
		return -1;
	}
	/* Who names a socket means the daemon there. */
	if (kind == LINK_PRIVATE && !c->socket)
		return start_private(c);
	if (c->socket)
		(void)snprintf(path, sizeof(path), "%s", c->socket);
	else if (firn_default_path(path, sizeof(path)))
		(void)snprintf(path, sizeof(path), "(path too long)");
	cli_fail(c, "no daemon runs at %s: start one with `firn daemon%s%s`",
	    path, c->socket ? " --socket " : "", c->socket ? path : "");
	return -1;
}

int cli_connect(struct cli *c, enum link_kind kind)
{
	if (kind == LINK_NONE)
		return 0;
	if (connect_as(c, kind))
		return -1;
	firn_stop_fd(c->conn, c->sig_fd);
	return 0;
}

static void end_firnd(struct cli *c)
{
	int fd = (int)syscall(SYS_pidfd_open, c->firnd, 0);
	struct pollfd p = {.fd = fd, .events = POLLIN};

	if (c->life_fd >= 0)
		(void)close(c->life_fd);
	c->life_fd = -1;
	if (fd < 0 || poll(&p, 1, CLI_FIRND_END) != 1)
		(void)kill(c->firnd, SIGKILL);
	while (waitpid(c->firnd, NULL, 0) < 0 && errno == EINTR)
		;
	if (fd >= 0)
		(void)close(fd);
	c->firnd = 0;
}

void cli_disconnect(struct cli *c)
{
	if (c->conn)
		firn_close(c->conn);
	c->conn = NULL;
	if (c->firnd)
		end_firnd(c);
}

json_t *cli_call_fds(
    struct cli *c, const char *method, json_t *params, struct cli_fds *fds)
{
	struct cli_fds none = {0};
	struct firn_error e = {0};
	json_t *result = NULL;

	/* jansson packs no string that is not UTF-8. */
	if (!params) {
		cli_fail(c, "a word is not UTF-8, or there is no memory");
		return NULL;
	}
	if (!fds)
		fds = &none;
	if (firn_call_json(c->conn, method, params, fds->send, fds->nsend,
		&result, fds->recv, &fds->nrecv, &e)) {
		cli_fail(c, "%s", e.msg);
		return NULL;
	}
	return result;
}

json_t *cli_call(struct cli *c, const char *method, json_t *params)
{
	return cli_call_fds(c, method, params, NULL);
}

int cli_show(struct cli *c, json_t *r, print_fn *print)
{
	int ret = EX_OK;

	if (!r)
		return EX_FAIL;
	if (c->json)
		ret = out_json(r);
	else if (print)
		print(r);
	json_decref(r);
	return ret;
}

int cli_simple(struct cli *c, const char *method, json_t *params)
{
	return cli_show(c, cli_call(c, method, params), NULL);
}

int cli_take_signals(struct cli *c)
{
	sigset_t set;

	if (c->sig_fd >= 0)
		return 0;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGHUP);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	c->sig_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (c->sig_fd < 0) {
		cli_fail(c, "signals: %s", strerror(errno));
		return -1;
	}
	if (c->conn)
		firn_stop_fd(c->conn, c->sig_fd);
	return 0;
}

bool cli_signalled(struct cli *c, int timeout_ms)
{
	struct pollfd p = {.fd = c->sig_fd, .events = POLLIN};
	struct signalfd_siginfo si;

	if (!c->got_sig && poll(&p, 1, timeout_ms) == 1 &&
	    read(c->sig_fd, &si, sizeof(si)) == sizeof(si))
		c->got_sig = (int)si.ssi_signo;
	return c->got_sig != 0;
}
