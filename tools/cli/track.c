/* SPDX-License-Identifier: MIT */
#include <inttypes.h>

#include "tools/cli/cli.h"
#include "vmm/core/cleanup.h"

static json_t *set_json(const struct firn_pageset *p)
{
	return json_pack("{s:I, s:o}", "pages", (json_int_t)p->pages, "extents",
	    ranges_json(p));
}

static int print_json(struct cli *c, const struct firn_pageset *reads,
    const struct firn_pageset *writes)
{
	json_t *j = json_pack(
	    "{s:o, s:o}", "reads", set_json(reads), "writes", set_json(writes));
	int ret = j ? out_json(j) : cli_fail(c, "out of memory");

	json_decref(j);
	return ret;
}

static void print_set(const char *what, const struct firn_pageset *p)
{
	(void)printf("%" PRIu64 " pages %s, in %zu extents\n", p->pages, what,
	    p->nranges);
	out_ranges(p);
}

int verb_track(struct cli *c, const struct args *a)
{
	AUTO_FREE char *vm = NULL;
	AUTO_FREE char *view = NULL;
	struct firn_pageset reads = {0};
	struct firn_pageset writes = {0};
	struct firn_error e;
	int ret = EX_OK;

	if (split_place(a->words[0], &vm, &view))
		return cli_fail(c, "out of memory");
	if (firn_touched(c->conn, vm, view, &reads, &writes, &e))
		return cli_fail(c, "%s", e.msg);
	if (c->json) {
		ret = print_json(c, &reads, &writes);
	} else {
		print_set("read only", &reads);
		print_set("written", &writes);
	}
	firn_pageset_free(&reads);
	firn_pageset_free(&writes);
	return ret;
}
