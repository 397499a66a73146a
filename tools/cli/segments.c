/* SPDX-License-Identifier: MIT */
#include "tools/cli/cli.h"

static const struct col cols[] = {
    {"id", "ID", COL_UINT},
    {"name", "NAME", COL_TEXT},
    {"kind", "KIND", COL_TEXT},
    {"gpa", "GPA", COL_HEX},
    {"size", "SIZE", COL_SIZE},
    {"resident", "RESIDENT", COL_SIZE},
    {"private", "PRIVATE", COL_SIZE},
    {"shared", "SHARED", COL_SIZE},
    {"snapshot", "SNAPSHOT", COL_TEXT},
};

static void print(const json_t *r)
{
	out_table(json_object_get(r, "segments"), cols,
	    sizeof(cols) / sizeof(cols[0]));
}

int verb_segments(struct cli *c, const struct args *a)
{
	return cli_show(c,
	    cli_call(c, "vm.segments", json_pack("{s:s}", "vm", a->words[0])),
	    print);
}
