/* SPDX-License-Identifier: MIT */
/* musl: yes */
/* pipes [ignore|catch|block|back]: writes to stdout until that fails, having
 * done that with SIGPIPE, or undone it again; its status is the errno value. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static void caught(int sig)
{
	(void)sig;
}

static void take(const char *what)
{
	sigset_t s;

	(void)sigemptyset(&s);
	(void)sigaddset(&s, SIGPIPE);
	if (!strcmp(what, "block") || !strcmp(what, "back"))
		(void)sigprocmask(SIG_BLOCK, &s, NULL);
	if (!strcmp(what, "ignore") || !strcmp(what, "back"))
		(void)signal(SIGPIPE, SIG_IGN);
	if (!strcmp(what, "catch"))
		(void)signal(SIGPIPE, caught);
	if (!strcmp(what, "back")) {
		(void)signal(SIGPIPE, SIG_DFL);
		(void)sigprocmask(SIG_UNBLOCK, &s, NULL);
	}
}

int main(int argc, char **argv)
{
	if (argc > 1)
		take(argv[1]);
	while (write(STDOUT_FILENO, "y\n", 2) > 0)
		;
	return errno;
}
