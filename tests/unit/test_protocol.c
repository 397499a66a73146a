/* SPDX-License-Identifier: MIT */
/* docs/PROTOCOL.md against what service.describe says of the same table. */
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/unit.h"
#include "vmm/broker/internal.h"

#define DOC_MAX  65536
#define CELLS    3
#define CELL_MAX 4096

struct fix {
	json_t *says; /* what service.describe returns */
	char *doc;
};

static int setup(void **state)
{
	struct fix *x = calloc(1, sizeof(*x));
	FILE *f = fopen("docs/PROTOCOL.md", "re");
	size_t n;

	assert_non_null(x);
	assert_non_null(f);
	x->doc = calloc(1, DOC_MAX);
	assert_non_null(x->doc);
	n = fread(x->doc, 1, DOC_MAX - 1, f);
	assert_in_range(n, 1000, DOC_MAX - 2);
	(void)fclose(f);
	x->says = ctl_describe(&broker_ctl_conf);
	assert_non_null(x->says);
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fix *x = *state;

	json_decref(x->says);
	free(x->doc);
	free(x);
	return 0;
}

static const char *text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	assert_non_null(s);
	return s;
}

/* The cells of the row of the table whose first one has `(method)`. */
static bool row(
    const struct fix *x, const char *method, char cell[CELLS][CELL_MAX])
{
	char want[64];

	(void)snprintf(want, sizeof(want), "`%s`", method);
	for (const char *s = strstr(x->doc, "\n| `"); s != NULL;
	     s = strstr(s, "\n| `")) {
		s += 2;
		for (int i = 0; i < CELLS; i++) {
			size_t n = strcspn(s, "|");

			assert_in_range(n, 1, CELL_MAX - 1);
			(void)snprintf(cell[i], CELL_MAX, "%.*s", (int)n, s);
			s += n + 1;
		}
		if (strstr(cell[0], want) != NULL)
			return true;
	}
	return false;
}

static bool letter(char c)
{
	return (c >= 'a' && c <= 'z') || c == '_';
}

/* Whether (cell) has (name), and where (mark) is not NULL, with or without a
 * question mark behind it as *mark says. */
static bool has(const char *cell, const char *name, const bool *mark)
{
	size_t n = strlen(name);

	for (const char *s = strstr(cell, name); s; s = strstr(s + 1, name)) {
		const char *after = s + n;

		if (s == cell || letter(s[-1]) || letter(*after))
			continue;
		after += *after == '`';
		if (mark == NULL || (*after == '?') == *mark)
			return true;
	}
	return false;
}

/* Each name is in (cell), those of fields in (inner). */
static void check_list(const char *method, const json_t *list, const char *cell,
    const char *inner, bool marks)
{
	json_t *p;
	size_t i;

	json_array_foreach(list, i, p)
	{
		bool optional = json_is_true(json_object_get(p, "optional"));

		if (!has(cell, text(p, "name"), marks ? &optional : NULL))
			fail_msg("%s: '%s' (%s) is not in: %.200s", method,
			    text(p, "name"),
			    optional ? "optional" : "not optional", cell);
		check_list(
		    method, json_object_get(p, "fields"), inner, inner, marks);
	}
}

/* Each `word` in (cell) is a parameter. */
static void check_words(
    const char *method, const json_t *params, const char *cell)
{
	for (const char *s = strchr(cell, '`'); s; s = strchr(s, '`')) {
		size_t n = strcspn(++s, "`");
		bool found = false;
		json_t *p;
		size_t i;

		json_array_foreach(params, i, p) found |=
		    strlen(text(p, "name")) == n &&
		    strncmp(text(p, "name"), s, n) == 0;
		if (!found && strspn(s, "abcdefghijklmnopqrstuvwxyz_") == n)
			fail_msg("%s takes no '%.*s'", method, (int)n, s);
		s += n + 1;
	}
}

static void test_methods(void **state)
{
	const struct fix *x = *state;
	char cell[CELLS][CELL_MAX];
	char more[CELLS][CELL_MAX];
	char both[2 * CELL_MAX];
	json_t *m;
	size_t i;

	assert_true(json_array_size(json_object_get(x->says, "methods")) > 0);
	json_array_foreach(json_object_get(x->says, "methods"), i, m)
	{
		const char *name = text(m, "name");

		more[2][0] = '\0';
		if (!row(x, name, cell))
			fail_msg("%s is not in docs/PROTOCOL.md", name);
		check_list(
		    name, json_object_get(m, "params"), cell[1], cell[1], true);
		check_words(name, json_object_get(m, "params"), cell[1]);
		if (strstr(cell[2], "as `view.map`") != NULL)
			assert_true(row(x, "view.map", more));
		(void)snprintf(both, sizeof(both), "%s %s", cell[2], more[2]);
		/* Reports are told of below the table. */
		check_list(
		    name, json_object_get(m, "results"), both, x->doc, false);
	}
}

/* "`vm.started` `{vm,name}`" */
static void test_events(void **state)
{
	const struct fix *x = *state;
	json_t *ev, *p;
	size_t i, k;

	for (char *s = x->doc; *s; s++)
		*s = *s == '\n' ? ' ' : *s;
	json_array_foreach(json_object_get(x->says, "events"), i, ev)
	{
		char want[256];
		int n =
		    snprintf(want, sizeof(want), "`%s` `", text(ev, "name"));

		json_array_foreach(json_object_get(ev, "params"), k,
		    p) n += snprintf(want + n, sizeof(want) - (size_t)n,
		    "%s%s%s", k ? "," : "{", text(p, "name"),
		    json_is_true(json_object_get(p, "optional")) ? "?" : "");
		(void)snprintf(want + n, sizeof(want) - (size_t)n, "}`");
		if (strstr(x->doc, want) == NULL)
			fail_msg("docs/PROTOCOL.md has no %s", want);
	}
}

static void test_errors(void **state)
{
	const struct fix *x = *state;
	json_t *e;
	size_t i;

	assert_true(json_array_size(json_object_get(x->says, "errors")) > 0);
	json_array_foreach(json_object_get(x->says, "errors"), i, e)
	{
		char want[256];

		(void)snprintf(want, sizeof(want),
		    "\n| %" JSON_INTEGER_FORMAT " | %s | %s",
		    json_integer_value(json_object_get(e, "code")),
		    text(e, "name"), text(e, "when"));
		if (strstr(x->doc, want) == NULL)
			fail_msg("docs/PROTOCOL.md has no %s", want);
	}
}

/* A kernel address has no place in an integer that is not negative. */
static void test_addresses(void **state)
{
	const struct fix *x = *state;
	json_t *event, *param, *field;
	size_t i, k, n;
	int seen = 0;

	json_array_foreach(json_object_get(x->says, "events"), i, event)
	{
		json_array_foreach(json_object_get(event, "params"), k, param)
		{
			json_array_foreach(
			    json_object_get(param, "fields"), n, field)
			{
				if (strcmp(text(field, "name"), "rip") != 0 &&
				    strcmp(text(field, "name"), "address") != 0)
					continue;
				assert_string_equal(text(field, "type"), "int");
				seen++;
			}
		}
	}
	assert_int_equal(seen, 2);
	assert_non_null(strstr(x->doc, "from 2^63 on are less than 0"));
}

/* "64 descriptors (`request_descriptors`)": each by its name and number. */
static void test_limits(void **state)
{
	const struct fix *x = *state;
	const char *name;
	json_t *v;

	assert_true(json_object_size(json_object_get(x->says, "limits")) > 0);
	json_object_foreach(json_object_get(x->says, "limits"), name, v)
	{
		long n = (long)json_integer_value(v);
		char number[32], key[64];
		const char *s;

		if (n >= 1 << 20)
			(void)snprintf(
			    number, sizeof(number), "%ld MiB", n >> 20);
		else if (n >= 1 << 16)
			(void)snprintf(
			    number, sizeof(number), "%ld KiB", n >> 10);
		else if (n >= 1000)
			(void)snprintf(number, sizeof(number), "%ld,%03ld",
			    n / 1000, n % 1000);
		else
			(void)snprintf(number, sizeof(number), "%ld", n);
		(void)snprintf(key, sizeof(key), "(`%s`)", name);
		s = strstr(x->doc, key);
		assert_non_null(s);
		/* The number is at most a line before it. */
		while (s > x->doc && strncmp(s, number, strlen(number)) != 0)
			s--;
		if (strstr(s, key) - s > 60)
			fail_msg("docs/PROTOCOL.md: %s is not %s", key, number);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_methods),
	    T(test_events),
	    T(test_errors),
	    T(test_addresses),
	    T(test_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
