/* SPDX-License-Identifier: MIT */
/*
 * graph: the family of snapshots as Graphviz's language, and as a picture where
 * Graphviz is installed.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tools/cli/cli.h"
#include "vmm/core/cleanup.h"

#define PARENTS_MAX 2u /* of one that was melded */

struct node {
	const json_t *j; /* as the service lists it */
	uint64_t id;
	uint64_t parent[PARENTS_MAX];
	size_t nparents;
	size_t family; /* a node of the same family; the first is its own */
	bool wanted;
	bool has_diff;
	uint64_t differ; /* pages that differ from the first parent */
};

struct graph {
	struct cli *c;
	json_t *list;      /* {"snapshots": [...]} */
	struct node *node; /* sorted by id */
	size_t n;
};

static int by_id(const void *a, const void *b)
{
	const struct node *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

static struct node *find(const struct graph *g, uint64_t id)
{
	const struct node key = {.id = id};

	return g->n ? bsearch(&key, g->node, g->n, sizeof(key), by_id) : NULL;
}

/* One that was melded has two parents, any other one that has any, one. */
static void take_parents(struct node *n)
{
	const json_t *melded = json_object_get(n->j, "melded");
	uint64_t id;

	for (size_t i = 0; i < json_array_size(melded); i++) {
		id = (uint64_t)json_integer_value(json_array_get(melded, i));
		if (id != 0 && n->nparents < PARENTS_MAX)
			n->parent[n->nparents++] = id;
	}
	id = json_u64(n->j, "parent");
	if (n->nparents == 0 && id != 0)
		n->parent[n->nparents++] = id;
}

/* A snapshot that goes by several names comes once, under the first of them. */
static int load(struct graph *g)
{
	json_t *list = NULL;
	const json_t *j;
	size_t i;

	g->list = cli_snapshots(g->c);
	if (!g->list)
		return -1;
	list = json_object_get(g->list, "snapshots");
	g->node = calloc(json_array_size(list) + 1, sizeof(*g->node));
	if (!g->node) {
		cli_fail(g->c, "out of memory");
		return -1;
	}
	json_array_foreach(list, i, j)
	{
		struct node *n = &g->node[g->n++];

		n->j = j;
		n->id = json_u64(j, "id");
		take_parents(n);
	}
	qsort(g->node, g->n, sizeof(*g->node), by_id);
	for (size_t k = g->n, m = g->n = 0; m < k; m++)
		if (g->n == 0 || g->node[g->n - 1].id != g->node[m].id)
			g->node[g->n++] = g->node[m];
	return 0;
}

/* --- families: sets that parents join ------------------------------------- */

static size_t family_of(struct graph *g, size_t i)
{
	while (g->node[i].family != i) {
		g->node[i].family = g->node[g->node[i].family].family;
		i = g->node[i].family;
	}
	return i;
}

static void join_families(struct graph *g)
{
	for (size_t i = 0; i < g->n; i++)
		g->node[i].family = i;
	for (size_t i = 0; i < g->n; i++)
		for (size_t k = 0; k < g->node[i].nparents; k++) {
			const struct node *p = find(g, g->node[i].parent[k]);

			if (p)
				g->node[family_of(g, i)].family =
				    family_of(g, (size_t)(p - g->node));
		}
}

static const struct node *named(const struct graph *g, const char *ref)
{
	char *end;
	uint64_t id = strtoull(ref, &end, 10);

	if (*ref >= '0' && *ref <= '9' && !*end)
		return find(g, id);
	for (size_t i = 0; i < g->n; i++)
		if (!strcmp(json_str(g->node[i].j, "name"), ref))
			return &g->node[i];
	return NULL;
}

/* The families of those that are named; all where none is. */
static int choose(struct graph *g, const struct args *a)
{
	bool *wanted = calloc(g->n + 1, sizeof(*wanted));

	if (!wanted) {
		cli_fail(g->c, "out of memory");
		return -1;
	}
	join_families(g);
	for (size_t i = 0; i < a->nwords; i++) {
		const struct node *n = named(g, a->words[i]);

		if (!n) {
			cli_fail(g->c,
			    "no snapshot '%.64s'; `firn snapshots` lists yours",
			    a->words[i]);
			free(wanted);
			return -1;
		}
		wanted[family_of(g, (size_t)(n - g->node))] = true;
	}
	for (size_t i = 0; i < g->n; i++)
		g->node[i].wanted = !a->nwords || wanted[family_of(g, i)];
	free(wanted);
	return 0;
}

/* What cannot be compared (it is owned, or gone by now) has no number. */
static int compare(struct graph *g)
{
	for (size_t i = 0; i < g->n; i++) {
		struct node *n = &g->node[i];
		struct firn_pageset p = {0};
		struct firn_error e;
		char a[24], b[24];

		if (!n->wanted || !n->nparents || !find(g, n->parent[0]))
			continue;
		(void)snprintf(a, sizeof(a), "%" PRIu64, n->parent[0]);
		(void)snprintf(b, sizeof(b), "%" PRIu64, n->id);
		n->has_diff = !firn_diff(g->c->conn, a, b, 0, &p, &e);
		n->differ = p.pages;
		firn_pageset_free(&p);
		if (cli_signalled(g->c, 0)) {
			cli_fail(g->c, "stopped by a signal");
			return -1;
		}
	}
	return 0;
}

/* --- Graphviz's language -------------------------------------------------- */

/* (s) within a quoted string. */
static void put_quoted(FILE *f, const char *s)
{
	for (; *s; s++) {
		unsigned char ch = (unsigned char)*s;

		if (ch == '"' || ch == '\\')
			(void)fputc('\\', f);
		(void)fputc(ch < ' ' || ch == 0x7f ? '?' : ch, f);
	}
}

static void put_node(FILE *f, const struct node *n)
{
	const char *name = json_str(n->j, "name");
	char size[32];

	(void)fprintf(f, "\ts%" PRIu64 " [label=\"", n->id);
	if (*name)
		put_quoted(f, name);
	else
		(void)fprintf(f, "%" PRIu64, n->id);
	(void)fprintf(
	    f, "\\n%s", fmt_size(json_u64(n->j, "size"), size, sizeof(size)));
	if (n->has_diff)
		(void)fprintf(f, ", %" PRIu64 " differ", n->differ);
	(void)fputs("\", tooltip=\"", f);
	put_quoted(f, json_str(n->j, "origin"));
	(void)fputc('"', f);
	if (json_is_true(json_object_get(n->j, "owned")))
		(void)fputs(", style=\"rounded,dashed\"", f);
	else if (n->nparents > 1)
		(void)fputs(", style=\"rounded,bold\"", f);
	(void)fputs("];\n", f);
}

/* A parent that is not the caller's to see ends the line. */
static void put_edges(const struct graph *g, FILE *f, const struct node *n)
{
	for (size_t k = 0; k < n->nparents; k++)
		if (find(g, n->parent[k]))
			(void)fprintf(f, "\ts%" PRIu64 " -> s%" PRIu64 "%s;\n",
			    n->parent[k], n->id,
			    n->nparents > 1 ? " [style=bold]" : "");
}

/* The text, to be freed; NULL (said). */
static char *write_dot(const struct graph *g, size_t *len)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, len);

	if (!f) {
		cli_fail(g->c, "out of memory");
		return NULL;
	}
	(void)fputs("digraph firn {\n"
		    "\trankdir=LR;\n"
		    "\tnode [shape=box, style=rounded, fontname=\"sans-serif\","
		    " fontsize=11];\n"
		    "\tedge [arrowsize=0.6];\n",
	    f);
	for (size_t i = 0; i < g->n; i++)
		if (g->node[i].wanted)
			put_node(f, &g->node[i]);
	for (size_t i = 0; i < g->n; i++)
		if (g->node[i].wanted)
			put_edges(g, f, &g->node[i]);
	(void)fputs("}\n", f);
	if (fclose(f) || !text) {
		cli_fail(g->c, "out of memory");
		free(text);
		return NULL;
	}
	return text;
}

/* --- pictures ------------------------------------------------------------- */

static int draw(struct graph *g, const char *dot, size_t len, const char *file)
{
	AUTO_CLOSE int fd = memfd_create("graph", MFD_CLOEXEC);
	AUTO_FREE char *svg = NULL;
	char path[64];
	const char *const argv[] = {"dot", "-Tsvg", path, NULL};
	struct proc p = {
	    .argv = argv, .package = "graphviz", .keep_fd = fd, .grow_fd = -1};

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (fd < 0 || write_all(fd, dot, len)) {
		cli_fail(g->c, "out of memory");
		return -1;
	}
	if (proc_run(g->c, &p, "--svg", &svg))
		return -1;
	return write_file(g->c, file, svg, strlen(svg));
}

static json_t *node_json(const struct node *n)
{
	json_t *parents = json_array();
	json_t *j;

	for (size_t k = 0; k < n->nparents; k++)
		(void)json_array_append_new(
		    parents, json_integer((json_int_t)n->parent[k]));
	j = json_pack("{s:I, s:s, s:I, s:o}", "id", (json_int_t)n->id, "name",
	    json_str(n->j, "name"), "size", (json_int_t)json_u64(n->j, "size"),
	    "parents", parents);
	if (j && n->has_diff)
		(void)json_object_set_new(
		    j, "differ", json_integer((json_int_t)n->differ));
	return j;
}

static int say(const struct graph *g, const struct args *a, const char *dot)
{
	json_t *nodes, *j;
	int ret;

	if (!g->c->json) {
		if (!a->svg && !a->dot)
			(void)fputs(dot, stdout);
		return EX_OK;
	}
	nodes = json_array();
	for (size_t i = 0; i < g->n; i++)
		if (g->node[i].wanted)
			(void)json_array_append_new(
			    nodes, node_json(&g->node[i]));
	j = json_pack("{s:o}", "snapshots", nodes);
	ret = j ? out_json(j) : cli_fail(g->c, "out of memory");
	json_decref(j);
	return ret;
}

static int make_graph(struct graph *g, const struct args *a)
{
	AUTO_FREE char *dot = NULL;
	size_t len = 0;

	if (load(g) || choose(g, a) || compare(g))
		return -1;
	dot = write_dot(g, &len);
	if (!dot || (a->dot && write_file(g->c, a->dot, dot, len)) ||
	    (a->svg && draw(g, dot, len, a->svg)))
		return -1;
	return say(g, a, dot);
}

int verb_graph(struct cli *c, const struct args *a)
{
	struct graph g = {.c = c};
	int ret = make_graph(&g, a);

	free(g.node);
	json_decref(g.list);
	return ret < 0 ? EX_FAIL : ret;
}
