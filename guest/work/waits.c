/* SPDX-License-Identifier: MIT */
/* musl: yes */
/* waits [suspend]: has nothing more to do and waits for a signal; its status is
 * 1 should it go on. */
#include <signal.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	sigset_t none;

	(void)argv;
	(void)sigemptyset(&none);
	if (argc > 1)
		(void)sigsuspend(&none);
	else
		(void)pause();
	return 1;
}
