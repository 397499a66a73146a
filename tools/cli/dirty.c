/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/cli/cli.h"
#include "tools/libfirn/firn_json.h"
#include "vmm/core/cleanup.h"

#define COPY_LEN (16u << 10)

/*
 * A file for the bitmap, before the cursor advances. One that exists keeps what
 * is in it until there is something else to put there.
 */
static int open_bitmap(struct cli *c, const char *path, bool *made)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);

	*made = fd >= 0;
	if (fd < 0 && errno == EEXIST)
		fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		cli_fail(c, "%s: %s", path, strerror(errno));
	return fd;
}

/* 0 or -errno. */
static int copy_bitmap(int from, int to)
{
	char buf[COPY_LEN];
	off_t at = 0;
	ssize_t n;
	int ret = 0;

	while (!ret && (n = pread(from, buf, COPY_LEN, at)) > 0) {
		ret = write_all(to, buf, (size_t)n);
		at += n;
	}
	if (!ret && n < 0)
		ret = -errno;
	/* Only a regular file had something else in it. */
	if (!ret && ftruncate(to, at) && errno != EINVAL)
		ret = -errno;
	return ret;
}

static int say_bitmap(struct cli *c, json_t *r, const char *path)
{
	if (!c->json) {
		(void)printf("%" PRIu64 " pages dirty\n", json_u64(r, "pages"));
		return EX_OK;
	}
	(void)json_object_del(r, "bitmap_fd");
	(void)json_object_set_new(r, "bitmap", json_string(path));
	return out_json(r);
}

static int ask_bitmap(
    struct cli *c, const struct args *a, json_t *params, int to)
{
	AUTO_CLOSE int from = -1;
	struct cli_fds fds = {.recv = &from, .nrecv = 1};
	json_t *r = cli_call_fds(c, "dirty.query", params, &fds);
	int ret;

	if (!r)
		return EX_FAIL;
	ret = fds.nrecv ? copy_bitmap(from, to) : -EPROTO;
	ret = ret ? cli_fail(c, "%s: %s%s", a->bitmap, strerror(-ret),
			a->peek ? "" : "; the cursor has advanced all the same")
		  : say_bitmap(c, r, a->bitmap);
	json_decref(r);
	return ret;
}

static int bitmap(struct cli *c, const struct args *a, const char *vm,
    const char *segment, const char *cursor)
{
	bool made;
	AUTO_CLOSE int to = open_bitmap(c, a->bitmap, &made);
	int ret;

	if (to < 0)
		return EX_FAIL;
	if (made && cli_take_signals(c))
		ret = EX_FAIL;
	else
		ret = ask_bitmap(c, a,
		    firn_json_with_str(
			json_pack("{s:s, s:s, s:b, s:b, s:b}", "vm", vm,
			    "cursor", cursor, "peek", a->peek, "exact",
			    a->exact, "bitmap", 1),
			"segment", segment),
		    to);
	if (ret && made)
		(void)unlink(a->bitmap);
	return ret;
}

static int ranges(struct cli *c, const struct args *a, const char *vm,
    const char *segment, const char *cursor)
{
	int flags =
	    (a->peek ? FIRN_DIRTY_PEEK : 0) | (a->exact ? FIRN_DIRTY_EXACT : 0);
	struct firn_pageset p = {0};
	struct firn_error e;
	json_t *j;
	int ret = EX_OK;

	if (firn_dirty(c->conn, vm, segment, cursor, flags, &p, &e))
		return cli_fail(c, "%s", e.msg);
	if (c->json) {
		j = json_pack("{s:I, s:o}", "pages", (json_int_t)p.pages,
		    "extents", ranges_json(&p));
		ret = j ? out_json(j) : cli_fail(c, "out of memory");
		json_decref(j);
	} else {
		(void)printf("%" PRIu64 " pages dirty, in %zu extents\n",
		    p.pages, p.nranges);
		out_ranges(&p);
	}
	firn_pageset_free(&p);
	return ret;
}

int check_dirty(struct cli *c, const struct args *a)
{
	if (!a->cursor) {
		cli_fail(c, "--cursor C is missing");
		return EX_USAGE;
	}
	if (a->end && (a->peek || a->exact || a->bitmap)) {
		cli_fail(c, "--end asks nothing: it goes without --peek, "
			    "--exact and --bitmap");
		return EX_USAGE;
	}
	return EX_OK;
}

int verb_dirty(struct cli *c, const struct args *a)
{
	AUTO_FREE char *vm = NULL;
	AUTO_FREE char *segment = NULL;

	if (split_place(a->words[0], &vm, &segment))
		return cli_fail(c, "out of memory");
	if (a->end)
		return cli_simple(c, "dirty.end",
		    firn_json_with_str(
			json_pack("{s:s, s:s}", "vm", vm, "cursor", a->cursor),
			"segment", segment));
	return a->bitmap ? bitmap(c, a, vm, segment, a->cursor)
			 : ranges(c, a, vm, segment, a->cursor);
}
