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

int verb_ps(struct cli *c, const struct args *a)
{
	json_t *r = cli_call(c, "vm.list", json_object());
	int ret;

	(void)a;
	if (!r)
		return EX_FAIL;
	ret = c->json ? out_json(r)
		      : out_table(json_object_get(r, "vms"), cols,
			    sizeof(cols) / sizeof(cols[0]));
	json_decref(r);
	return ret;
}
