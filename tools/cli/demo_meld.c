/* SPDX-License-Identifier: MIT */
/*
 * demo meld: two agents sell seats of one table at the same time, each in a
 * view of its own, without a lock and without trust. What neither's reads and
 * writes affected is put together; what did is caught, and tried again.
 */
#include <inttypes.h>
#include <string.h>

#include "tools/cli/demo.h"
#include "tools/libfirn/firn_json.h"

#define TABLE_LEN (256ULL * 4096) /* rows of 16 seats, a row a page */
#define SOLD      "1500"
#define AGENTS    2
#define SNAPS_MAX 16

struct show {
	struct demo_vm office;
	struct demo_vm agent[AGENTS];
	char snap[SNAPS_MAX][16]; /* all that were made */
	size_t nsnaps;
	json_t *facts;
};

/* (name) is to be dropped in the end. */
static void made(struct show *s, const char *name)
{
	if (s->nsnaps < SNAPS_MAX)
		(void)snprintf(
		    s->snap[s->nsnaps++], sizeof(s->snap[0]), "%s", name);
}

static int tell(struct cli *c, struct demo_vm *vm, const char *what,
    char *answer, size_t len)
{
	if (demo_say(c, vm, "%s", what) != 0)
		return -1;
	return demo_hear(c, vm, answer, len);
}

static int start(struct cli *c, struct demo_vm *vm, const char *segment)
{
	const struct demo_launch l = {
	    .argv = {"book_seats"},
	    .mem = 32ULL << 20,
	    .segment = segment,
	    .size = TABLE_LEN,
	};

	return demo_start(c, &l, vm);
}

static int freeze(struct cli *c, struct show *s, struct demo_vm *vm,
    const char *place, const char *name)
{
	json_t *r = demo_freeze(c, &s->office, vm, place, name);

	if (r == NULL)
		return -1;
	json_decref(r);
	made(s, name);
	return 0;
}

/* The table, in a segment of the box office, frozen as (name). */
static int make_table(struct cli *c, struct show *s, const char *name)
{
	char line[200];

	if (start(c, &s->office, "seats") != 0 ||
	    tell(c, &s->office, "open seats", line, sizeof(line)) != 0 ||
	    tell(c, &s->office, "make " SOLD, line, sizeof(line)) != 0)
		return -1;
	printf("box office: %s, a row a page; " SOLD " are sold\n", line);
	for (int i = 0; i < AGENTS; i++)
		if (start(c, &s->agent[i], NULL) != 0)
			return -1;
	return freeze(c, s, &s->office, "seats", name);
}

/* Agent (i) sees (snap) as view (view), tracked, instead of what it saw. */
static int show_agent(
    struct cli *c, struct show *s, int i, const char *snap, const char *view)
{
	struct demo_vm *vm = &s->agent[i];
	char line[200];
	char what[32];
	json_t *r = cli_call(c, "view.map",
	    json_pack("{s:s,s:s,s:s,s:b,s:b}", "vm", vm->ref, "snapshot",
		demo_ref(&s->office, snap).s, "name", view, "cow", 1, "track",
		1));

	if (r == NULL)
		return -1;
	json_decref(r);
	(void)snprintf(what, sizeof(what), "open %s", view);
	return tell(c, vm, what, line, sizeof(line));
}

/* Agent (i) books, and its view is frozen as (name). */
static int sell(struct cli *c, struct show *s, int i, const char *how,
    const char *view, const char *name)
{
	struct demo_vm *vm = &s->agent[i];
	struct firn_pageset r;
	struct firn_pageset w;
	struct firn_error e;
	char line[200];
	char what[64];

	(void)snprintf(what, sizeof(what), "book %d %s", i + 1, how);
	if (tell(c, vm, what, line, sizeof(line)) != 0)
		return -1;
	if (firn_touched(c->conn, vm->ref, view, &r, &w, &e) != 0) {
		cli_fail(c, "%s", e.msg);
		return -1;
	}
	printf("agent %d: %s: %" PRIu64 " pages read only, %" PRIu64
	       " written\n",
	    i + 1, line, r.pages, w.pages);
	(void)json_object_set_new(s->facts, name,
	    json_pack("{s:s,s:I,s:I}", "said", line, "reads",
		(json_int_t)r.pages, "writes", (json_int_t)w.pages));
	firn_pageset_free(&r);
	firn_pageset_free(&w);
	return freeze(c, s, vm, view, name);
}

static json_t *meld_params(const struct show *s, const char *base,
    const char *a, const char *b, const char *name)
{
	return json_pack("{s:s,s:s,s:s,s:s}", "base",
	    demo_ref(&s->office, base).s, "a", demo_ref(&s->office, a).s, "b",
	    demo_ref(&s->office, b).s, "name", demo_ref(&s->office, name).s);
}

static int meld(struct cli *c, struct show *s, const char *base, const char *a,
    const char *b, const char *name)
{
	json_t *r =
	    cli_call(c, "snapshot.meld", meld_params(s, base, a, b, name));
	char took[32];

	if (r == NULL)
		return -1;
	made(s, name);
	printf("meld %s %s %s: no conflict, %" PRIu64
	       " changed pages put together in %s: %s\n",
	    base, a, b, json_u64(r, "changed_pages"),
	    fmt_ns(json_u64(r, "meld_ns"), took, sizeof(took)), name);
	(void)json_object_set_new(s->facts, name, r);
	return 0;
}

/* The same where it must be refused; says where they conflict. */
static int meld_refused(struct cli *c, struct show *s, const char *base,
    const char *a, const char *b)
{
	struct firn_error e;
	json_t *r = NULL;
	json_t *list;
	json_t *x;
	size_t i;

	if (firn_call_json(c->conn, "snapshot.meld",
		meld_params(s, base, a, b, "wrong"), NULL, 0, &r, NULL, NULL,
		&e) == 0) {
		json_decref(r);
		made(s, "wrong");
		cli_fail(c, "what conflicts was melded");
		return -1;
	}
	list = json_object_get(firn_error_data(c->conn), "conflicts");
	if (json_array_size(list) == 0) {
		cli_fail(c, "%s", e.msg);
		return -1;
	}
	printf("meld %s %s %s: refused: %s\n", base, a, b, e.msg);
	json_array_foreach(list, i, x)
	{
		json_int_t first = json_integer_value(json_array_get(x, 0));
		json_int_t count = json_integer_value(json_array_get(x, 1));

		printf("  %s: row %" JSON_INTEGER_FORMAT,
		    json_string_value(json_array_get(x, 2)), first);
		if (count > 1)
			printf(" to %" JSON_INTEGER_FORMAT, first + count - 1);
		puts("");
	}
	(void)json_object_set(s->facts, "conflicts", list);
	return 0;
}

/* The box office looks at (snap) and counts what is sold. */
static int audit(
    struct cli *c, struct show *s, const char *snap, const char *key)
{
	char line[200];
	char what[32];
	json_t *r = cli_call(c, "view.map",
	    json_pack("{s:s,s:s,s:s}", "vm", s->office.ref, "snapshot",
		demo_ref(&s->office, snap).s, "name", snap));

	if (r == NULL)
		return -1;
	json_decref(r);
	(void)snprintf(what, sizeof(what), "open %s", snap);
	if (tell(c, &s->office, what, line, sizeof(line)) != 0 ||
	    tell(c, &s->office, "count", line, sizeof(line)) != 0)
		return -1;
	printf("box office: in %s %s\n", snap, line);
	(void)json_object_set_new(s->facts, key, json_string(line));
	if (strstr(line, "; 0 sold twice") == NULL) {
		cli_fail(c, "seats were sold twice");
		return -1;
	}
	return 0;
}

/* In different rows, at the same time. */
static int act_disjoint(struct cli *c, struct show *s)
{
	int rc = 0;

	for (int i = 0; i < AGENTS && rc == 0; i++)
		rc = show_agent(c, s, i, "plan", "one");
	if (rc == 0)
		rc = sell(c, s, 0, "0 60 9", "one", "a1");
	if (rc == 0)
		rc = sell(c, s, 1, "128 60 9", "one", "b1");
	if (rc == 0)
		rc = meld(c, s, "plan", "a1", "b1", "sold");
	return rc == 0 ? audit(c, s, "sold", "audit") : rc;
}

/* Both in the same rows: caught, and the second tries again over what the
 * first has sold, while that goes on elsewhere. */
static int act_conflict(struct cli *c, struct show *s)
{
	int rc = 0;

	for (int i = 0; i < AGENTS && rc == 0; i++)
		rc = show_agent(c, s, i, "sold", "two");
	if (rc == 0)
		rc = sell(c, s, 0, "200 4 8", "two", "a2");
	if (rc == 0)
		rc = sell(c, s, 1, "196 4 11", "two", "b2");
	if (rc == 0)
		rc = meld_refused(c, s, "sold", "a2", "b2");
	if (rc == 0)
		puts("agent 2 looks again, at what agent 1 has sold by now:");
	for (int i = 0; i < AGENTS && rc == 0; i++)
		rc = show_agent(c, s, i, "a2", "three");
	if (rc == 0)
		rc = sell(c, s, 1, "196 4 11", "three", "b3");
	if (rc == 0)
		rc = sell(c, s, 0, "60 5 4", "three", "a3");
	if (rc == 0)
		rc = meld(c, s, "a2", "a3", "b3", "all");
	return rc == 0 ? audit(c, s, "all", "audit_all") : rc;
}

int demo_meld(struct cli *c, const char *file, json_t *facts)
{
	struct show s = {.facts = json_object()};
	int rc;

	(void)file;
	puts("== meld: two agents sell seats of one table at once, each in a "
	     "tracked view of\n   its own, without locks");
	rc = make_table(c, &s, "plan");
	if (rc == 0)
		rc = act_disjoint(c, &s);
	if (rc == 0)
		rc = act_conflict(c, &s);
	while (s.nsnaps > 0)
		demo_drop(c, &s.office, s.snap[--s.nsnaps]);
	demo_end(c, &s.office, true, NULL, NULL);
	for (int i = 0; i < AGENTS; i++)
		demo_end(c, &s.agent[i], true, NULL, NULL);
	(void)json_object_set_new(facts, "meld", s.facts);
	return rc;
}
