/* SPDX-License-Identifier: MIT */
/*
 * demo publish: a database that two sides share without a copy and without a
 * race. A publisher builds it inside a segment; three readers that do not trust
 * it run SQL over the frozen bytes while it goes on inserting.
 */
#include <errno.h>
#include <glob.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/cli/demo.h"
#include "vmm/core/clock.h"

#define READERS     3
#define SEGMENT_LEN (256ULL << 20)
#define TEXT_MAX    (24u << 20) /* bytes of text, so that it takes seconds */
#define MORE_ROWS   5000

static const char *const words[READERS] = {"license", "warranty", "copy"};

struct show {
	struct demo_vm pub;
	struct demo_vm reader[READERS];
	struct demo_vm late;
	char answer[READERS][200]; /* of the first time */
	uint64_t db_len;
	char dir[PATH_MAX];
	json_t *facts;
};

static void fact(struct show *s, const char *key, uint64_t n)
{
	(void)json_object_set_new(s->facts, key, json_integer((json_int_t)n));
}

/* --- the text ------------------------------------------------------------- */

static int send_file(
    struct cli *c, struct demo_vm *vm, const char *path, size_t *sent)
{
	FILE *f = fopen(path, "re");
	char line[4096];

	if (f == NULL)
		return -1;
	while (*sent < TEXT_MAX && fgets(line, sizeof(line), f) != NULL) {
		size_t n = strlen(line);

		/* Of zeroes there may be any number, and they are no text. */
		if (n == 0 && cli_signalled(c, 0))
			break;
		if (n == 0 || strcmp(line, ".\n") == 0)
			continue;
		(void)fputs(line, vm->in);
		if (line[n - 1] != '\n')
			(void)fputc('\n', vm->in);
		*sent += n;
	}
	(void)fclose(f);
	return 0;
}

static int send_text(struct cli *c, struct demo_vm *vm, const char *file)
{
	static const char *const patterns[] = {
	    "/usr/share/common-licenses/*", "/usr/share/doc/*/copyright"};
	size_t sent = 0;
	size_t files = 0;
	struct stat st;
	glob_t g;

	if (file != NULL) {
		/* Others may wait for ever, or be read for ever. */
		if (stat(file, &st) == 0 && !S_ISREG(st.st_mode)) {
			cli_fail(c, "%s: is not a regular file", file);
			return -1;
		}
		if (send_file(c, vm, file, &sent) != 0) {
			cli_fail(c, "%s: %s", file, strerror(errno));
			return -1;
		}
		files = 1;
	}
	for (int i = 0; file == NULL && i < 2; i++) {
		if (glob(patterns[i], 0, NULL, &g) != 0)
			continue;
		for (size_t k = 0; k < g.gl_pathc && !cli_signalled(c, 0); k++)
			files += send_file(c, vm, g.gl_pathv[k], &sent) == 0;
		globfree(&g);
	}
	if (demo_say(c, vm, ".") != 0)
		return -1;
	printf("publisher: a guest reads %zu files, %.1f MB of text, into "
	       "SQLite inside its segment\n",
	    files, (double)sent / 1e6);
	return 0;
}

/* --- the acts ------------------------------------------------------------- */

static int build(struct cli *c, struct show *s, const char *file)
{
	const struct demo_launch l = {
	    .argv = {"db_publish", "db"},
	    .mem = 64ULL << 20,
	    .segment = "db",
	    .size = SEGMENT_LEN,
	};
	uint64_t begin = now_ns();
	unsigned long long rows;
	unsigned long long len;
	char took[32];
	char line[200];

	if (demo_start(c, &l, &s->pub) != 0 ||
	    send_text(c, &s->pub, file) != 0 ||
	    demo_hear(c, &s->pub, line, sizeof(line)) != 0)
		return -1;
	if (strncmp(line, "built ", 6) != 0 || strchr(line + 6, ' ') == NULL) {
		cli_fail(c, "the publisher said: %s", line);
		return -1;
	}
	rows = number_at(line + 6);
	len = number_at(strchr(line + 6, ' ') + 1);
	if (rows == 0) {
		cli_fail(c, "there is no line of text in %s",
		    file == NULL ? "what Debian ships here" : file);
		return -1;
	}
	s->db_len = len;
	fact(s, "rows", rows);
	fact(s, "database_bytes", len);
	printf("publisher: committed %llu rows, %.1f MB of database in a "
	       "segment of %llu MiB, after %s\n",
	    rows, (double)len / 1e6, SEGMENT_LEN >> 20,
	    fmt_ns(now_ns() - begin, took, sizeof(took)));
	return 0;
}

static int freeze(struct cli *c, struct show *s, const char *name)
{
	json_t *r = demo_freeze(c, &s->pub, &s->pub, "db", name);
	char pause[32];
	char total[32];

	if (r == NULL)
		return -1;
	printf("freeze %s: %llu pages dirty, %llu copied; the publisher stood "
	       "still for %s of %s\n",
	    name, (unsigned long long)json_u64(r, "dirty_pages"),
	    (unsigned long long)json_u64(r, "copied_pages"),
	    fmt_ns(json_u64(r, "pause_ns"), pause, sizeof(pause)),
	    fmt_ns(json_u64(r, "total_ns"), total, sizeof(total)));
	(void)json_object_set_new(s->facts, name, r);
	return 0;
}

static int start_reader(struct cli *c, const struct show *s, struct demo_vm *vm,
    const char *snap, const char *word)
{
	const struct demo_ref ref = demo_ref(&s->pub, snap);
	const struct demo_launch l = {
	    .argv = {"db_read", "db", word},
	    .mem = 32ULL << 20,
	    .give = ref.s,
	};

	return demo_start(c, &l, vm);
}

static int ask(struct cli *c, struct demo_vm *vm, char *buf, size_t len)
{
	return demo_say(c, vm, "?") != 0 ? -1 : demo_hear(c, vm, buf, len);
}

/* Bytes that only this VM uses, its RAM and its view. */
static uint64_t private_bytes(struct cli *c, struct demo_vm *vm)
{
	json_t *r =
	    cli_call(c, "vm.segments", json_pack("{s:s}", "vm", vm->ref));
	uint64_t sum = 0;
	json_t *seg;
	size_t i;

	json_array_foreach(json_object_get(r, "segments"), i, seg) sum +=
	    json_u64(seg, "private");
	json_decref(r);
	return sum;
}

static int read_first(struct cli *c, struct show *s)
{
	json_t *readers = json_array();

	(void)json_object_set_new(s->facts, "readers", readers);
	for (int i = 0; i < READERS; i++)
		if (start_reader(c, s, &s->reader[i], "v1", words[i]) != 0)
			return -1;
	/* The publisher works meanwhile: it was told before they are asked. */
	if (demo_say(c, &s->pub, "add %d", MORE_ROWS) != 0)
		return -1;
	for (int i = 0; i < READERS; i++) {
		uint64_t begin = now_ns();
		uint64_t mine;
		char took[32];

		if (ask(c, &s->reader[i], s->answer[i], sizeof(s->answer[i])) !=
		    0)
			return -1;
		mine = private_bytes(c, &s->reader[i]);
		printf("reader %d of v1: %s\n", i + 1, s->answer[i]);
		printf("          in place, in %s: %.1f MB of memory of its "
		       "own, the database has %.1f MB\n",
		    fmt_ns(now_ns() - begin, took, sizeof(took)),
		    (double)mine / 1e6, (double)s->db_len / 1e6);
		(void)json_array_append_new(
		    readers, json_pack("{s:s,s:I}", "answer", s->answer[i],
				 "private_bytes", (json_int_t)mine));
	}
	return 0;
}

static int go_on(struct cli *c, struct show *s)
{
	char line[200];

	if (demo_hear(c, &s->pub, line, sizeof(line)) != 0)
		return -1;
	printf("publisher: inserted %d more rows meanwhile, a transaction "
	       "each\n",
	    MORE_ROWS);
	return freeze(c, s, "v2");
}

static int compare(struct cli *c, struct show *s)
{
	struct firn_pageset p;
	struct firn_error e;

	if (firn_diff(c->conn, demo_ref(&s->pub, "v1").s,
		demo_ref(&s->pub, "v2").s, 0, &p, &e) != 0) {
		cli_fail(c, "%s", e.msg);
		return -1;
	}
	printf("diff v1 v2: %llu pages in %zu extents differ of %llu; %llu "
	       "nodes of the page maps were looked at\n",
	    (unsigned long long)p.pages, p.nranges,
	    (unsigned long long)(SEGMENT_LEN / 4096),
	    (unsigned long long)p.nodes_visited);
	fact(s, "diff_pages", p.pages);
	fact(s, "diff_extents", p.nranges);
	fact(s, "nodes_visited", p.nodes_visited);
	firn_pageset_free(&p);
	return 0;
}

static int read_again(struct cli *c, struct show *s)
{
	char line[200];

	for (int i = 0; i < READERS; i++) {
		if (ask(c, &s->reader[i], line, sizeof(line)) != 0)
			return -1;
		if (strcmp(line, s->answer[i]) != 0) {
			cli_fail(
			    c, "reader %d of v1 now says: %s", i + 1, line);
			return -1;
		}
	}
	printf("readers of v1: asked again, all %d give the answers of v1\n",
	    READERS);
	if (start_reader(c, s, &s->late, "v2", words[0]) != 0 ||
	    ask(c, &s->late, line, sizeof(line)) != 0)
		return -1;
	printf("reader of v2: %s\n", line);
	(void)json_object_set_new(s->facts, "answer_v2", json_string(line));
	if (strcmp(line, s->answer[0]) == 0) {
		cli_fail(c, "v2 gives the answers of v1");
		return -1;
	}
	return 0;
}

static int export_one(struct cli *c, const struct show *s, const char *snap,
    const char *format, char *path, const char *over)
{
	struct demo_ref ref = demo_ref(&s->pub, snap);
	char *w[2] = {ref.s, path};
	struct args a = {
	    .format = format, .over = over, .nwords = 2, .words = w};

	printf("export %s%s: ", snap, over == NULL ? "" : " over v1");
	(void)fflush(stdout);
	return verb_export(c, &a) == EX_OK ? 0 : -1;
}

/* qemu-img's word on (path), whose content must be that of (raw). */
static int check_image(struct cli *c, const char *path, const char *raw)
{
	const char *check[] = {"qemu-img", "check", "-q", path, NULL};
	const char *same[] = {"qemu-img", "compare", "-q", "-f", "qcow2", "-F",
	    "raw", path, raw, NULL};
	struct proc p = {.argv = check,
	    .package = "qemu-utils",
	    .keep_fd = -1,
	    .grow_fd = -1};

	if (proc_run(c, &p, "the image", NULL) != 0)
		return -1;
	p.argv = same;
	if (proc_run(c, &p, "the image has not the bytes of v2", NULL) != 0)
		return -1;
	puts("qemu-img: check finds no errors in v2 over v1, compare finds it "
	     "equal to the raw v2");
	return 0;
}

static uint64_t file_len(const char *path)
{
	struct stat st = {0};

	(void)stat(path, &st);
	return (uint64_t)st.st_size;
}

static int export_in(struct cli *c, struct show *s)
{
	char v1[PATH_MAX + 16];
	char v2[PATH_MAX + 16];
	char raw[PATH_MAX + 16];
	int rc;

	(void)snprintf(v1, sizeof(v1), "%s/v1.qcow2", s->dir);
	(void)snprintf(v2, sizeof(v2), "%s/v2.qcow2", s->dir);
	(void)snprintf(raw, sizeof(raw), "%s/v2.raw", s->dir);
	rc = export_one(c, s, "v1", "qcow2", v1, NULL);
	if (rc == 0)
		rc = export_one(c, s, "v2", "qcow2", v2, v1);
	if (rc == 0)
		rc = export_one(c, s, "v2", "raw", raw, NULL);
	if (rc == 0)
		rc = check_image(c, v2, raw);
	fact(s, "qcow2_v1_bytes", file_len(v1));
	fact(s, "qcow2_v2_bytes", file_len(v2));
	(void)unlink(v1);
	(void)unlink(v2);
	(void)unlink(raw);
	return rc;
}

static int export_both(struct cli *c, struct show *s)
{
	const char *tmp = getenv("TMPDIR");
	int rc;

	(void)snprintf(s->dir, sizeof(s->dir), "%s/firn-demo.XXXXXX",
	    tmp != NULL && *tmp == '/' ? tmp : "/tmp");
	if (mkdtemp(s->dir) == NULL) {
		cli_fail(c, "cannot make %s: %s", s->dir, strerror(errno));
		return -1;
	}
	rc = export_in(c, s);
	(void)rmdir(s->dir);
	return rc;
}

int demo_publish(struct cli *c, const char *file, json_t *facts)
{
	struct show s = {.facts = facts};
	int rc;

	puts(
	    "== publish: three readers run SQL over memory that its owner goes "
	    "on writing");
	rc = build(c, &s, file);
	if (rc == 0)
		rc = freeze(c, &s, "v1");
	if (rc == 0)
		rc = read_first(c, &s);
	if (rc == 0)
		rc = go_on(c, &s);
	if (rc == 0)
		rc = compare(c, &s);
	if (rc == 0)
		rc = read_again(c, &s);
	if (rc == 0)
		rc = export_both(c, &s);
	demo_drop(c, &s.pub, "v1");
	demo_drop(c, &s.pub, "v2");
	demo_end(c, &s.pub, true, NULL, NULL);
	for (int i = 0; i < READERS; i++)
		demo_end(c, &s.reader[i], true, NULL, NULL);
	demo_end(c, &s.late, true, NULL, NULL);
	return rc;
}
