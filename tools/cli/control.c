/* SPDX-License-Identifier: MIT */
/* The verbs that name one VM or snapshot and print nothing. */
#include "tools/cli/cli.h"

int verb_kill(struct cli *c, const struct args *a)
{
	return cli_simple(c, "vm.kill", json_pack("{s:s}", "vm", a->words[0]));
}

int verb_pause(struct cli *c, const struct args *a)
{
	return cli_simple(c, "vm.pause", json_pack("{s:s}", "vm", a->words[0]));
}

int verb_resume(struct cli *c, const struct args *a)
{
	return cli_simple(
	    c, "vm.resume", json_pack("{s:s}", "vm", a->words[0]));
}

int verb_drop(struct cli *c, const struct args *a)
{
	return cli_simple(
	    c, "snapshot.drop", json_pack("{s:s}", "snapshot", a->words[0]));
}
