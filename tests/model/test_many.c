/* SPDX-License-Identifier: MIT */
/*
 * Ten thousand named snapshots alive, of a guest that goes on: each is found by
 * name and by id, is listed once, by the command as well, and is gone when it
 * was dropped. FIRN_TEST_SCALE=small makes it a thousand.
 */
#include "tests/chance.h"
#include "tests/rig.h"
#include "tests/unit/unit.h"

#define EVERY 100u /* so many freezes for each round of writes */

struct world {
	struct rig g;
	struct rig_vm vm;
	uint32_t n;
	uint64_t *id;
	uint32_t *seen;
};

static void name_of(char *buf, size_t len, uint32_t i)
{
	(void)snprintf(buf, len, "many/%u", i);
}

static void make_all(struct world *w)
{
	char line[512];
	char name[32];

	for (uint32_t i = 0; i < w->n; i++) {
		json_t *r;

		if (i % EVERY == 0) {
			(void)fputc('\n', w->vm.in);
			(void)fflush(w->vm.in);
			rig_line(&w->vm, line, sizeof(line));
		}
		name_of(name, sizeof(name), i);
		r = rig_call(&w->g, "segment.freeze",
		    json_pack("{s:s,s:s,s:s}", "vm", w->vm.ref, "segment",
			"data", "name", name),
		    NULL, 0);
		w->id[i] = rig_u64(r, "snapshot");
		json_decref(r);
	}
}

/* Those of one reply; whether there are more, and *after of those. */
static bool list_part(struct world *w, json_int_t *after)
{
	json_t *r = rig_call(&w->g, "snapshot.list",
	    json_pack("{s:I}", "after", *after), NULL, 0);
	json_t *list = json_object_get(r, "snapshots");
	bool more = json_is_true(json_object_get(r, "more"));
	const json_t *j;
	size_t i;

	json_array_foreach(list, i, j)
	{
		const char *name =
		    json_string_value(json_object_get(j, "name"));
		uint32_t k;

		assert_int_equal(strncmp(name, "many/", 5), 0);
		k = (uint32_t)strtoul(name + 5, NULL, 10);
		assert_true(k < w->n);
		assert_int_equal(
		    json_integer_value(json_object_get(j, "id")), w->id[k]);
		w->seen[k]++;
	}
	*after = json_integer_value(json_object_get(r, "next"));
	json_decref(r);
	return more;
}

static void check_list(struct world *w)
{
	json_int_t after = 0;

	while (list_part(w, &after))
		;
	for (uint32_t i = 0; i < w->n; i++)
		assert_int_equal(w->seen[i], 1);
}

/* What the command prints: a line for each, and one above. */
static void check_command(struct world *w)
{
	char cmd[PATH_MAX + 128];
	char line[512];
	uint32_t lines = 0;
	FILE *f;

	(void)snprintf(cmd, sizeof(cmd), "%s/bin/firn snapshots --socket %s",
	    w->g.build, w->g.socket);
	f = popen(cmd, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f) != NULL)
		lines++;
	assert_int_equal(pclose(f), 0);
	assert_int_equal(lines, w->n + 1);
}

/* By name and by id they are the same, and a diff of any two works. */
static void check_found(struct world *w, uint32_t i)
{
	struct firn_pageset set;
	struct firn_error e;
	char name[32];
	char id[32];

	name_of(name, sizeof(name), i);
	(void)snprintf(id, sizeof(id), "%llu", (unsigned long long)w->id[i]);
	assert_int_equal(firn_diff(w->g.conn, name, id, 0, &set, &e), 0);
	assert_int_equal(set.pages, 0);
	firn_pageset_free(&set);
	name_of(name, sizeof(name), (i * 7 + 1) % w->n);
	assert_int_equal(firn_diff(w->g.conn, name, id, 0, &set, &e), 0);
	assert_int_equal(
	    set.pages > 0, i / EVERY != (i * 7 + 1) % w->n / EVERY);
	firn_pageset_free(&set);
}

static uint64_t stat_of(struct world *w, const char *what)
{
	json_t *r = rig_call(&w->g, "service.stats", json_object(), NULL, 0);
	uint64_t v = rig_u64(r, what);

	json_decref(r);
	return v;
}

static void test_many(void **state)
{
	static const char *const argv[] = {
	    "stamp", "data", "4096", "7", "64", NULL};
	static struct world w;
	char line[512];
	char name[32];

	(void)state;
	w.n = chance_small() ? 1000 : 10000;
	w.id = calloc(w.n, sizeof(*w.id));
	w.seen = calloc(w.n, sizeof(*w.seen));
	assert_true(w.id != NULL && w.seen != NULL);
	rig_start_as(&w.g, true);
	rig_launch(&w.g, &w.vm, argv, 64ULL << 20, NULL);
	rig_line(&w.vm, line, sizeof(line));
	make_all(&w);
	assert_int_equal(stat_of(&w, "snapshots"), w.n);
	check_list(&w);
	check_command(&w);
	for (uint32_t i = 0; i < w.n; i += 37)
		check_found(&w, i);
	for (uint32_t i = 0; i < w.n; i++) {
		name_of(name, sizeof(name), i);
		json_decref(rig_call(&w.g, "snapshot.drop",
		    json_pack("{s:s}", "snapshot", name), NULL, 0));
	}
	assert_int_equal(stat_of(&w, "snapshots"), 0);
	rig_end(&w.g, &w.vm);
	rig_stop(&w.g);
	free(w.id);
	free(w.seen);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
