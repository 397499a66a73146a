/* SPDX-License-Identifier: MIT */
#include <inttypes.h>

#include "tools/cli/cli.h"

int verb_wait(struct cli *c, const struct args *a)
{
	json_t *r =
	    cli_call(c, "vm.wait", json_pack("{s:s}", "vm", a->words[0]));
	json_t *report;
	int ret = EX_OK;

	if (!r)
		return EX_FAIL;
	if (c->json) {
		ret = out_json(r);
	} else {
		(void)printf("%" PRIu64 " ", json_u64(r, "status"));
		out_text(stdout, json_str(r, "reason"));
		(void)putchar('\n');
		report = json_object_get(r, "report");
		if (json_is_object(report))
			report_print(a->words[0], report);
	}
	json_decref(r);
	return ret;
}
