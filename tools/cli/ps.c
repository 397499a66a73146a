/* SPDX-License-Identifier: MIT */
#include "tools/cli/cli.h"

static const struct col cols[] = {
    {"id", "ID", COL_UINT},
    {"name", "NAME", COL_TEXT},
    {"state", "STATE", COL_TEXT},
    {"pid", "PID", COL_UINT},
    {"mem", "MEM", COL_SIZE},
    {"cpu_ns", "CPU", COL_NS},
    {"syscalls", "CALLS", COL_UINT},
    {"enosys", "ENOSYS", COL_UINT},
};

static void print(const json_t *r)
{
	out_table(
	    json_object_get(r, "vms"), cols, sizeof(cols) / sizeof(cols[0]));
}

int verb_ps(struct cli *c, const struct args *a)
{
	(void)a;
	return cli_show(c, cli_call(c, "vm.list", json_object()), print);
}
