/* SPDX-License-Identifier: MIT */
#include <inttypes.h>

#include "shared/page/run.h"
#include "tools/cli/cli.h"
#include "tools/libfirn/firn_json.h"

static const struct col cols[] = {
    {"snapshot", "snapshot", COL_UINT},
    {"name", "name", COL_TEXT},
    {"pages", "pages", COL_UINT},
    {"changed_pages", "changed", COL_UINT},
    {"meld_ns", "time", COL_NS},
};

static void print_conflicts(const json_t *data)
{
	json_t *list = json_object_get(data, "conflicts");
	json_t *x;
	size_t i;

	(void)printf(
	    "%12s  %12s  %-12s %s\n", "PAGE", "COUNT", "OFFSET", "CONFLICT");
	json_array_foreach(list, i, x)
	{
		json_int_t first = json_integer_value(json_array_get(x, 0));
		json_int_t count = json_integer_value(json_array_get(x, 1));
		const char *kind = json_string_value(json_array_get(x, 2));

		(void)printf("%12" JSON_INTEGER_FORMAT
			     "  %12" JSON_INTEGER_FORMAT "  0x%-10" PRIx64 " ",
		    first, count, (uint64_t)first << PAGE_SHIFT);
		out_text(stdout, kind != NULL ? kind : "");
		(void)putchar('\n');
	}
	if (json_is_true(json_object_get(data, "more")))
		(void)puts("and more");
}

/* What was refused because of conflicts comes with their list. */
static int refused(struct cli *c, const struct firn_error *e)
{
	const json_t *data = firn_error_data(c->conn);

	(void)cli_fail(c, "%s", e->msg);
	if (!json_is_array(json_object_get(data, "conflicts")))
		return EX_FAIL;
	if (c->json)
		(void)out_json(data);
	else
		print_conflicts(data);
	return EX_FAIL;
}

static void print(const json_t *r)
{
	out_record(r, cols, sizeof(cols) / sizeof(cols[0]));
	if (json_is_true(json_object_get(r, "blind")))
		(void)puts("blind: not every read was known");
}

int verb_meld(struct cli *c, const struct args *a)
{
	json_t *p = firn_json_with_str(
	    json_pack("{s:s, s:s, s:s, s:b}", "base", a->words[0], "a",
		a->words[1], "b", a->words[2], "blind", a->blind),
	    "name", a->name);
	struct firn_error e;
	json_t *r = NULL;

	if (!p)
		return cli_fail(
		    c, "a word is not UTF-8, or there is no memory");
	if (firn_call_json(
		c->conn, "snapshot.meld", p, NULL, 0, &r, NULL, NULL, &e))
		return refused(c, &e);
	return cli_show(c, r, print);
}
