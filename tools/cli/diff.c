/* SPDX-License-Identifier: MIT */
#include <inttypes.h>

#include "tools/cli/cli.h"

int verb_diff(struct cli *c, const struct args *a)
{
	struct firn_pageset p = {0};
	struct firn_error e;
	json_t *j;
	int ret = EX_OK;

	if (firn_diff(c->conn, a->words[0], a->words[1], a->exact, &p, &e))
		return cli_fail(c, "%s", e.msg);
	if (c->json) {
		j = json_pack("{s:I, s:o, s:b, s:I}", "pages",
		    (json_int_t)p.pages, "extents", ranges_json(&p), "exact",
		    p.exact, "nodes_visited", (json_int_t)p.nodes_visited);
		ret = j ? out_json(j) : cli_fail(c, "out of memory");
		json_decref(j);
	} else {
		(void)printf("%" PRIu64
			     " pages differ, in %zu extents; %" PRIu64
			     " nodes visited%s\n",
		    p.pages, p.nranges, p.nodes_visited,
		    p.exact ? ", bytes compared" : "");
		out_ranges(&p);
	}
	firn_pageset_free(&p);
	return ret;
}
