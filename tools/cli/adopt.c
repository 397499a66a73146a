/* SPDX-License-Identifier: MIT */
/* adopt, give and take: what becomes of memory that was severed. */
#include "tools/cli/cli.h"
#include "tools/libfirn/firn_json.h"

static const struct col cols[] = {
    {"view", "segment", COL_UINT},
    {"gpa", "gpa", COL_HEX},
    {"pages", "pages", COL_UINT},
    {"map_ns", "time", COL_NS},
};

static void print(const json_t *r)
{
	out_record(r, cols, sizeof(cols) / sizeof(cols[0]));
	if (json_is_true(json_object_get(r, "copied_on_write")))
		(void)printf("copied on write: it was sealed\n");
}

/* The parameters that all three have. */
static json_t *names(const struct args *a)
{
	return firn_json_with_str(
	    json_pack("{s:s, s:s}", "vm", a->words[0], "snapshot", a->words[1]),
	    "name", a->name);
}

int verb_adopt(struct cli *c, const struct args *a)
{
	json_t *p = names(a);

	if (a->gpa_set)
		p = firn_json_with(p, "gpa", json_integer((json_int_t)a->gpa));
	return cli_show(c, cli_call(c, "view.adopt", p), print);
}

static int hand(struct cli *c, const struct args *a, const char *method)
{
	return cli_simple(c, method, names(a));
}

int verb_give(struct cli *c, const struct args *a)
{
	return hand(c, a, "vm.give");
}

int verb_take(struct cli *c, const struct args *a)
{
	return hand(c, a, "vm.take");
}
