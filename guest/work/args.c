/* SPDX-License-Identifier: MIT */
/* musl: yes */
/* args: prints its arguments and environment; exits with the number named by
 * STATUS in the environment. */
#include <stdio.h>
#include <stdlib.h>

extern char **environ;

int main(int argc, char **argv)
{
	const char *status = getenv("STATUS");

	for (int i = 0; i < argc; i++)
		printf("argv[%d]=%s\n", i, argv[i]);
	for (char **e = environ; *e; e++)
		printf("env %s\n", *e);
	fprintf(stderr, "args: %d\n", argc);
	return status ? atoi(status) : 0;
}
