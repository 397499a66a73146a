/* SPDX-License-Identifier: MIT */
/* freeze and sever: one call with two names. */
#include <inttypes.h>
#include <stdlib.h>

#include "tools/cli/cli.h"
#include "tools/libfirn/firn_json.h"
#include "vmm/core/cleanup.h"

static void print(const json_t *r)
{
	char pause[32], total[32];
	static const struct col id[] = {{"snapshot", "snapshot", COL_TEXT}};

	out_record(r, id, 1);
	(void)printf("pages:    %" PRIu64 ", dirty %" PRIu64 ", copied %" PRIu64
		     "\n",
	    json_u64(r, "pages"), json_u64(r, "dirty_pages"),
	    json_u64(r, "copied_pages"));
	(void)printf("paused:   %s of %s\n",
	    fmt_ns(json_u64(r, "pause_ns"), pause, sizeof(pause)),
	    fmt_ns(json_u64(r, "total_ns"), total, sizeof(total)));
	if (json_is_true(json_object_get(r, "owned")))
		(void)printf("owned:    nobody else has it; adopt it\n");
}

static int take(struct cli *c, const struct args *a, const char *method)
{
	AUTO_FREE char *vm = NULL;
	AUTO_FREE char *segment = NULL;

	if (split_place(a->words[0], &vm, &segment))
		return cli_fail(c, "out of memory");
	return cli_show(c,
	    cli_call(c, method,
		firn_json_with_str(
		    firn_json_with_str(
			json_pack("{s:s}", "vm", vm), "segment", segment),
		    "name", a->name)),
	    print);
}

int verb_freeze(struct cli *c, const struct args *a)
{
	return take(c, a, "segment.freeze");
}

int verb_sever(struct cli *c, const struct args *a)
{
	return take(c, a, "segment.sever");
}
