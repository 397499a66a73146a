/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "tools/cli/cli.h"

int verb_daemon(struct cli *c, const struct args *a)
{
	char path[PATH_MAX], sock[PATH_MAX], bank[32];
	const char *argv[6] = {"firnd", "--socket", a->socket};
	char *exec_argv[6];

	if (cli_find_program(c, "firnd", path, sizeof(path)))
		return EX_FAIL;
	if (!a->socket) {
		if (firn_default_path(sock, sizeof(sock)))
			return cli_fail(c, "the socket's path is too long");
		argv[2] = sock;
	}
	if (a->bank) {
		(void)snprintf(bank, sizeof(bank), "%" PRIu64, a->bank);
		argv[3] = "--bank";
		argv[4] = bank;
	}
	/* The type that execv() wants; it changes nothing. */
	memcpy(exec_argv, argv, sizeof(argv));
	(void)execv(path, exec_argv);
	return cli_fail(c, "cannot start %s: %s", path, strerror(errno));
}
