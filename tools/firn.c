/* SPDX-License-Identifier: MIT */
/* firn: the command line, a client of firnd like any other. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
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

	if (sigprocmask(SIG_SETMASK, NULL, &old))
		return cli_fail(&c, "signals: %s", strerror(errno));
	c.old_mask = &old;
	if (v->takes_signals && cli_take_signals(&c))
		return EX_FAIL;
	if (v->check && (ret = v->check(&c, a)))
		return ret;
	ret = EX_FAIL;
	/* What is to outlive the command needs a daemon that does. */
	if (!cli_connect(&c, a->detach ? LINK_DAEMON : v->link))
		ret = v->run(&c, a);
	/* Where a call was stopped nobody has asked yet by what. */
	if (ret == EX_FAIL)
		(void)cli_signalled(&c, 0);
	cli_disconnect(&c);
	return c.got_sig ? EX_SIGNAL + c.got_sig : ret;
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
