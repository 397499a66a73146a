/* SPDX-License-Identifier: MIT */
/* firn: the command line, a client of firnd like any other. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "shared/version.h"
#include "tools/cli/cli.h"

/* A descriptor that we open must never become stdin, stdout or stderr. */
static int fill_std_fds(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
			return -1;
	return 0;
}

/* Verbs learn of signals from c->sig_fd, so that they can clean up. */
static int take_signals(struct cli *c, sigset_t *old)
{
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGHUP);
	(void)sigprocmask(SIG_BLOCK, &set, old);
	c->old_mask = old;
	c->sig_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return c->sig_fd < 0 ? -1 : 0;
}

static int run_verb(const struct verb *v, const struct args *a)
{
	sigset_t old;
	struct cli c = {
	    .verb = v,
	    .json = a->json,
	    .socket = a->socket,
	    .life_fd = -1,
	    .sig_fd = -1,
	};
	int ret = EX_FAIL;

	/* Only the verbs that leave something behind wait for signals. */
	if ((v->takes_signals && take_signals(&c, &old)) ||
	    (!v->takes_signals && sigprocmask(SIG_SETMASK, NULL, &old)))
		return cli_fail(&c, "signals: %s", strerror(errno));
	c.old_mask = &old;
	if (v->check && (ret = v->check(&c, a)))
		return ret;
	ret = EX_FAIL;
	/* What is to outlive the command needs a daemon that does. */
	if (!cli_connect(&c, a->detach ? LINK_DAEMON : v->link))
		ret = v->run(&c, a);
	cli_disconnect(&c);
	return ret;
}

static int run(const struct verb *v, const struct args *a)
{
	if (a->version)
		(void)puts("firn " FIRN_VERSION);
	else if (a->help && v)
		help_verb(stdout, v);
	else if (a->help)
		help_main(stdout);
	else
		return run_verb(v, a);
	return EX_OK;
}

int main(int argc, char **argv)
{
	const struct verb *v;
	struct args a;
	int ret;

	if (fill_std_fds())
		return EX_FAIL;
	/* A limit on files (ulimit -f) is an error, after which verbs clean up.
	 */
	(void)signal(SIGXFSZ, SIG_IGN);
	if (args_parse(argc, argv, &v, &a))
		return EX_USAGE;
	ret = run(v, &a);
	/* What was printed and did not arrive was not done. */
	if (fflush(stdout) || ferror(stdout)) {
		(void)fputs("firn: cannot write to stdout\n", stderr);
		ret = ret == EX_OK ? EX_FAIL : ret;
	}
	return ret;
}
