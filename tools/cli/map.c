/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli/cli.h"
#include "tools/libfirn/firn_json.h"
#include "vmm/core/cleanup.h"

static const struct col cols[] = {
    {"view", "view", COL_UINT},
    {"gpa", "gpa", COL_HEX},
    {"pages", "pages", COL_UINT},
    {"extents", "extents", COL_UINT},
    {"map_ns", "time", COL_NS},
};

static void print(const json_t *r)
{
	out_record(r, cols, sizeof(cols) / sizeof(cols[0]));
}

int verb_map(struct cli *c, const struct args *a)
{
	json_t *p = firn_json_with_str(
	    json_pack("{s:s, s:s, s:b, s:b}", "vm", a->words[0], "snapshot",
		a->words[1], "cow", a->cow, "track", a->track),
	    "name", a->name);

	if (a->gpa_set)
		p = firn_json_with(p, "gpa", json_integer((json_int_t)a->gpa));
	return cli_show(c, cli_call(c, "view.map", p), print);
}

int check_unmap(struct cli *c, const struct args *a)
{
	const char *colon = strchr(a->words[0], ':');

	if (colon && colon[1])
		return EX_OK;
	cli_fail(c, "%s names no view: write VM:VIEW", a->words[0]);
	return EX_USAGE;
}

int verb_unmap(struct cli *c, const struct args *a)
{
	AUTO_FREE char *vm = NULL;
	AUTO_FREE char *view = NULL;

	if (split_place(a->words[0], &vm, &view))
		return cli_fail(c, "out of memory");
	return cli_simple(
	    c, "view.unmap", json_pack("{s:s, s:s}", "vm", vm, "view", view));
}
