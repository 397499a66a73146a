/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "tools/cli/cli.h"

static const struct col list_cols[] = {
    {"id", "ID", COL_UINT},
    {"name", "NAME", COL_TEXT},
    {"pages", "PAGES", COL_UINT},
    {"size", "SIZE", COL_SIZE},
    {"origin", "ORIGIN", COL_TEXT},
    {"parent", "PARENT", COL_TEXT},
};

static const struct col show_cols[] = {
    {"id", "id", COL_UINT},
    {"name", "name", COL_TEXT},
    {"size", "size", COL_SIZE},
    {"pages", "pages", COL_UINT},
    {"layers", "layers", COL_UINT},
    {"extents", "extents", COL_UINT},
    {"exclusive_pages", "exclusive pages", COL_UINT},
    {"shared_pages", "shared pages", COL_UINT},
    {"zero_pages", "zero pages", COL_UINT},
    {"live_bytes", "live", COL_SIZE},
    {"exclusive_bytes", "  exclusive", COL_SIZE},
    {"shared_bytes", "  shared", COL_SIZE},
    {"copy_bytes", "copies", COL_SIZE},
    {"node_bytes", "nodes", COL_SIZE},
    {"exclusive_node_bytes", "  exclusive", COL_SIZE},
    {"files", "files", COL_UINT},
    {"file_bytes", "  held", COL_SIZE},
    {"dead_bytes", "  dead", COL_SIZE},
    {"pinned_bytes", "  pinned", COL_SIZE},
    {"dead_pinned_bytes", "  pinned, dead", COL_SIZE},
    {"origin", "origin", COL_TEXT},
    {"parent", "parent", COL_TEXT},
    {"melded", "melded", COL_TEXT},
    {"blind", "blind", COL_TEXT},
    {"owned", "owned", COL_TEXT},
    {"private_history", "private history", COL_TEXT},
    {"payer", "payer", COL_TEXT},
};

/* The reply to one request for snapshots, whose list goes to (all). */
static json_t *next_part(struct cli *c, json_t *params, json_t *all)
{
	json_t *r = cli_call(c, "snapshot.list", params);

	if (r && json_array_extend(all, json_object_get(r, "snapshots"))) {
		cli_fail(c, "the reply has no list of snapshots");
		json_decref(r);
		r = NULL;
	}
	return r;
}

json_t *cli_snapshots(struct cli *c)
{
	json_t *all = json_array();
	json_t *r = next_part(c, json_object(), all);

	while (r && json_is_true(json_object_get(r, "more"))) {
		json_t *params =
		    json_pack("{s:O?}", "after", json_object_get(r, "next"));

		json_decref(r);
		r = next_part(c, params, all);
	}
	if (!r) {
		json_decref(all);
		return NULL;
	}
	json_decref(r);
	return json_pack("{s:o}", "snapshots", all);
}

static void print_list(const json_t *r)
{
	out_table(json_object_get(r, "snapshots"), list_cols,
	    sizeof(list_cols) / sizeof(list_cols[0]));
}

int verb_snapshots(struct cli *c, const struct args *a)
{
	(void)a;
	return cli_show(c, cli_snapshots(c), print_list);
}

static void print_one(const json_t *r)
{
	out_record(r, show_cols, sizeof(show_cols) / sizeof(show_cols[0]));
	out_pinned(r);
}

int verb_show(struct cli *c, const struct args *a)
{
	return cli_show(c,
	    cli_call(c, "snapshot.show",
		json_pack("{s:s}", "snapshot", a->words[0])),
	    print_one);
}
