/* SPDX-License-Identifier: MIT */
/* What the verbs print: errors, JSON, tables, ranges. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "tools/cli/cli.h"

#define CELL_MAX 512u

void out_text(FILE *f, const char *s)
{
	for (; *s; s++)
		(void)fputc(
		    (unsigned char)*s < ' ' || *s == 0x7f ? '?' : *s, f);
}

int write_all(int fd, const void *buf, size_t len)
{
	const char *p = buf;
	ssize_t n;

	while (len) {
		n = write(fd, p, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int cli_fail(const struct cli *c, const char *fmt, ...)
{
	char msg[1024];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	(void)fprintf(stderr, "firn: %s: ", c->verb->name);
	out_text(stderr, msg);
	(void)fputc('\n', stderr);
	return EX_FAIL;
}

int out_json(const json_t *j)
{
	/* Whether it arrives main() finds out. */
	if (json_dumpf(j, stdout, JSON_COMPACT) && !ferror(stdout)) {
		(void)fputs("firn: out of memory\n", stderr);
		return EX_FAIL;
	}
	(void)putchar('\n');
	return EX_OK;
}

uint64_t number_at(const char *text)
{
	text += strspn(text, " \t");
	return *text >= '0' && *text <= '9' ? strtoull(text, NULL, 10) : 0;
}

uint64_t json_u64(const json_t *obj, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(obj, key));
}

const char *json_str(const json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	return s ? s : "";
}

const char *fmt_size(uint64_t n, char *buf, size_t len)
{
	static const char units[] = "BKMGTPE";
	unsigned u = 0;
	uint64_t rest = 0;

	while (n >= 1024) {
		rest = n % 1024;
		n /= 1024;
		u++;
	}
	if (!u)
		(void)snprintf(buf, len, "%" PRIu64, n);
	else if (n < 10 && rest)
		(void)snprintf(buf, len, "%" PRIu64 ".%" PRIu64 "%c", n,
		    rest * 10 / 1024, units[u]);
	else
		(void)snprintf(buf, len, "%" PRIu64 "%c", n, units[u]);
	return buf;
}

const char *fmt_ns(uint64_t ns, char *buf, size_t len)
{
	if (ns < 1000000)
		(void)snprintf(buf, len, "%.1f us", (double)ns / 1e3);
	else if (ns < 1000000000)
		(void)snprintf(buf, len, "%.2f ms", (double)ns / 1e6);
	else
		(void)snprintf(buf, len, "%.2f s", (double)ns / 1e9);
	return buf;
}

/* "4, 5" */
static void cell_numbers(const json_t *list, char *buf, size_t len)
{
	size_t at = 0;

	for (size_t i = 0; i < json_array_size(list) && at < len; i++) {
		int n = snprintf(buf + at, len - at, "%s%" JSON_INTEGER_FORMAT,
		    i > 0 ? ", " : "",
		    json_integer_value(json_array_get(list, i)));

		at += n > 0 ? (size_t)n : 0;
	}
}

static void cell(
    const json_t *row, const struct col *col, char *buf, size_t len)
{
	const json_t *v = json_object_get(row, col->key);
	uint64_t n = (uint64_t)json_integer_value(v);

	buf[0] = '\0';
	if (json_is_string(v)) {
		(void)snprintf(buf, len, "%s", json_string_value(v));
		return;
	}
	if (json_is_array(v)) {
		cell_numbers(v, buf, len);
		return;
	}
	if (json_is_boolean(v)) {
		(void)snprintf(buf, len, json_is_true(v) ? "yes" : "no");
		return;
	}
	if (!json_is_integer(v)) {
		(void)snprintf(buf, len, "-");
		return;
	}
	switch (col->kind) {
	case COL_SIZE:
		fmt_size(n, buf, len);
		break;
	case COL_HEX:
		(void)snprintf(buf, len, "0x%" PRIx64, n);
		break;
	case COL_NS:
		fmt_ns(n, buf, len);
		break;
	case COL_TEXT:
	case COL_UINT:
		(void)snprintf(buf, len, "%" PRIu64, n);
		break;
	}
}

static void put_cell(const char *s, int width, bool right, bool last)
{
	int pad = width - (int)strlen(s);

	if (right)
		(void)printf("%*s", pad > 0 ? pad : 0, "");
	out_text(stdout, s);
	if (!right && !last)
		(void)printf("%*s", pad > 0 ? pad : 0, "");
	(void)fputs(last ? "\n" : "  ", stdout);
}

void out_table(json_t *rows, const struct col *cols, size_t ncols)
{
	int width[CLI_COLUMNS];
	char buf[CELL_MAX];
	size_t i, k;
	json_t *row;

	assert(ncols <= CLI_COLUMNS);
	for (k = 0; k < ncols; k++)
		width[k] = (int)strlen(cols[k].title);
	json_array_foreach(rows, i, row)
	{
		for (k = 0; k < ncols; k++) {
			cell(row, &cols[k], buf, sizeof(buf));
			if (width[k] < (int)strlen(buf))
				width[k] = (int)strlen(buf);
		}
	}
	for (k = 0; k < ncols; k++)
		put_cell(cols[k].title, width[k], cols[k].kind != COL_TEXT,
		    k + 1 == ncols);
	json_array_foreach(rows, i, row)
	{
		for (k = 0; k < ncols; k++) {
			cell(row, &cols[k], buf, sizeof(buf));
			put_cell(buf, width[k], cols[k].kind != COL_TEXT,
			    k + 1 == ncols);
		}
	}
}

void out_record(const json_t *obj, const struct col *cols, size_t ncols)
{
	char buf[CELL_MAX];
	int width = 0;

	for (size_t k = 0; k < ncols; k++)
		if (width < (int)strlen(cols[k].title))
			width = (int)strlen(cols[k].title);
	for (size_t k = 0; k < ncols; k++) {
		if (!json_object_get(obj, cols[k].key))
			continue;
		cell(obj, &cols[k], buf, sizeof(buf));
		(void)printf("%s:%*s ", cols[k].title,
		    width - (int)strlen(cols[k].title), "");
		out_text(stdout, buf);
		(void)putchar('\n');
	}
}

void out_ranges(const struct firn_pageset *p)
{
	if (p->nranges)
		(void)printf("%12s  %12s  %s\n", "PAGE", "COUNT", "OFFSET");
	for (size_t i = 0; i < p->nranges; i++)
		(void)printf("%12" PRIu64 "  %12" PRIu64 "  0x%" PRIx64 "\n",
		    p->ranges[i].first, p->ranges[i].count,
		    p->ranges[i].first << PAGE_SHIFT);
}

json_t *ranges_json(const struct firn_pageset *p)
{
	json_t *a = json_array();

	for (size_t i = 0; a && i < p->nranges; i++) {
		if (!json_array_append_new(
			a, json_pack("[I,I]", (json_int_t)p->ranges[i].first,
			       (json_int_t)p->ranges[i].count)))
			continue;
		json_decref(a);
		return NULL;
	}
	return a;
}
