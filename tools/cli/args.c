/* SPDX-License-Identifier: MIT */
/* Options and words of the command line, sizes, and help, from the tables. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli/cli.h"

#define AT(field) offsetof(struct args, field)

static const struct opt common_opts[] = {
    {"--json", NULL, "one JSON object on stdout", OPT_FLAG, AT(json)},
    {"--socket", "PATH", "where the daemon listens", OPT_STRING, AT(socket)},
    {"--help", NULL, "this text", OPT_FLAG, AT(help)},
    {"--version", NULL, "firn's version", OPT_FLAG, AT(version)},
    {0},
};

int parse_size(const char *text, uint64_t *out)
{
	static const char units[] = "KMGT";
	const char *unit;
	char *end;
	unsigned shift = 0;
	unsigned long long n;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, strncmp(text, "0x", 2) ? 10 : 16);
	if (errno)
		return -ERANGE;
	if (*end) {
		unit = strchr(units, *end);
		if (!unit || end[1])
			return -EINVAL;
		shift = 10 * (unsigned)(unit - units + 1);
	}
	if (n > (uint64_t)INT64_MAX >> shift)
		return -ERANGE;
	*out = (uint64_t)n << shift;
	return 0;
}

int split_place(const char *text, char **vm, char **segment)
{
	const char *colon = strchr(text, ':');

	*segment = NULL;
	*vm = colon ? strndup(text, (size_t)(colon - text)) : strdup(text);
	if (!*vm)
		return -1;
	if (colon && !(*segment = strdup(colon + 1))) {
		free(*vm);
		return -1;
	}
	return 0;
}

static int usage(const struct verb *v, const char *what, const char *arg)
{
	(void)fputs("firn: ", stderr);
	if (v)
		(void)fprintf(stderr, "%s: ", v->name);
	(void)fputs(what, stderr);
	if (arg) {
		(void)fputs(": ", stderr);
		out_text(stderr, arg);
	}
	if (v)
		(void)fprintf(stderr, " (usage: firn %s%s%s; firn %s --help)\n",
		    v->name, *v->words ? " " : "", v->words, v->name);
	else
		(void)fputs(" (see firn --help)\n", stderr);
	return -1;
}

/* An option of (tab) that (arg) names, with or without "=VALUE". */
static const struct opt *find_opt(const struct opt *tab, const char *arg)
{
	size_t len = strcspn(arg, "=");

	for (; tab && tab->name; tab++)
		if (strlen(tab->name) == len && !strncmp(tab->name, arg, len))
			return tab;
	return NULL;
}

static int set_size(const struct verb *v, const struct opt *o, struct args *a,
    const char *value)
{
	uint64_t *to = (void *)((char *)a + o->at);
	int ret = parse_size(value, to);

	if (ret == -ERANGE)
		return usage(v, "size is too large", value);
	if (ret || (o->kind == OPT_SIZE && !*to))
		return usage(
		    v, "not a size above 0, such as 4K, 16M, 1G", value);
	if (o->kind == OPT_ADDRESS)
		a->gpa_set = true;
	return 0;
}

static int set_opt(const struct verb *v, const struct opt *o, struct args *a,
    const char *value)
{
	void *to = (char *)a + o->at;
	struct str_list *l = to;
	char many[32];

	switch (o->kind) {
	case OPT_FLAG:
		*(bool *)to = true;
		return 0;
	case OPT_STRING:
		*(const char **)to = value;
		return *value ? 0 : usage(v, "needs a value", o->name);
	case OPT_SIZE:
	case OPT_ADDRESS:
		return set_size(v, o, a, value);
	case OPT_LIST:
		(void)snprintf(
		    many, sizeof(many), "more than %u of option", CLI_LIST_MAX);
		if (l->n == CLI_LIST_MAX)
			return usage(v, many, o->name);
		if (strcspn(value, "=") == 0 || !strchr(value, '='))
			return usage(v, "is not NAME=VALUE", value);
		l->v[l->n++] = value;
		return 0;
	}
	return -1;
}

/* Takes argv[*i], an option, and its value. */
static int take_opt(
    const struct verb *v, struct args *a, int argc, char **argv, int *i)
{
	const char *arg = argv[*i];
	const char *value = strchr(arg, '=');
	const struct opt *o = find_opt(common_opts, arg);

	if (!o)
		o = find_opt(v ? v->opts : NULL, arg);
	if (!o)
		return usage(v, "unknown option", arg);
	if (o->kind == OPT_FLAG)
		return value ? usage(v, "takes no value", o->name)
			     : set_opt(v, o, a, NULL);
	if (value)
		return set_opt(v, o, a, value + 1);
	if (*i + 1 >= argc)
		return usage(v, "needs a value", o->name);
	*i += 1;
	return set_opt(v, o, a, argv[*i]);
}

static int check(const struct verb *v, const struct args *a)
{
	if (a->help || a->version)
		return 0;
	if (!v)
		return usage(NULL, "a command is missing", NULL);
	if (a->nwords < v->min)
		return usage(v, "words are missing", NULL);
	if (a->nwords > v->max)
		return usage(v, "one word too many", a->words[v->max]);
	return 0;
}

int args_parse(int argc, char **argv, const struct verb **v, struct args *a)
{
	bool opts = true;

	*v = NULL;
	*a = (struct args){.words = argv + 1};
	/* The words move to the front of argv, over what was taken. */
	for (int i = 1; i < argc; i++) {
		if (opts && !strcmp(argv[i], "--")) {
			opts = false;
		} else if (opts && !strcmp(argv[i], "-h")) {
			a->help = true;
		} else if (opts && !strncmp(argv[i], "--", 2)) {
			if (take_opt(*v, a, argc, argv, &i))
				return -1;
		} else if (opts && argv[i][0] == '-' && argv[i][1]) {
			return usage(*v, "unknown option", argv[i]);
		} else if (!*v) {
			*v = cli_find_verb(argv[i]);
			if (!*v)
				return usage(NULL, "unknown command", argv[i]);
		} else {
			a->words[a->nwords++] = argv[i];
			opts = opts && !(*v)->stop;
		}
	}
	return check(*v, a);
}

static void help_opts(FILE *f, const struct opt *o)
{
	char left[64];

	for (; o && o->name; o++) {
		(void)snprintf(left, sizeof(left), "%s%s%s", o->name,
		    o->arg ? " " : "", o->arg ? o->arg : "");
		(void)fprintf(f, "  %-24s %s\n", left, o->help);
	}
}

void help_main(FILE *f)
{
	char left[64];

	(void)fputs(
	    "usage: firn COMMAND [OPTION]... [WORD]...\n\n"
	    "firn runs programs as guests of KVM, freezes regions of their "
	    "memory in place,\nmaps what was frozen into other guests, and "
	    "tells what changed.\n\ncommands:\n",
	    f);
	for (const struct verb *v = cli_verbs; v->name; v++) {
		(void)snprintf(left, sizeof(left), "%s %s", v->name, v->words);
		(void)fprintf(f, "  %-26s %s\n", left, v->summary);
	}
	(void)fputs("\noptions of every command:\n", f);
	help_opts(f, common_opts);
	(void)fputs(
	    "\nA VM or snapshot is named by its name or id, a segment by "
	    "name or number (v:0 is\nthe RAM of v). Sizes take K, M, G, T. "
	    "The daemon's socket is $FIRN_SOCKET, else\n"
	    "$XDG_RUNTIME_DIR/firn.sock, else /run/firn.sock. Exit status: "
	    "0, 1 (refused or\nfailed), 2 (usage). firn COMMAND --help says "
	    "more; so does firn(1).\n",
	    f);
}

void help_verb(FILE *f, const struct verb *v)
{
	(void)fprintf(f, "usage: firn %s%s%s%s\n\n%s\n", v->name,
	    v->opts ? " [OPTION]..." : "", *v->words ? " " : "", v->words,
	    v->summary);
	if (v->notes)
		(void)fprintf(f, "\n%s\n", v->notes);
	(void)fputs("\noptions:\n", f);
	help_opts(f, v->opts);
	help_opts(f, common_opts);
}
