/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/cli/cli.h"
#include "vmm/core/cleanup.h"

#define COPY_LEN (16u << 10)

static int copy_bitmap(struct cli *c, int from, const char *path)
{
	AUTO_CLOSE int to = -1;
	char buf[COPY_LEN];
	off_t at = 0;
	ssize_t n;
	int ret = 0;

	to = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (to < 0)
		return cli_fail(c, "%s: %s", path, strerror(errno));
	while (!ret && (n = pread(from, buf, COPY_LEN, at)) > 0) {
		ret = write_all(to, buf, (size_t)n);
		at += n;
	}
	if (!ret && n < 0)
		ret = -errno;
	if (!ret)
		return EX_OK;
	(void)unlink(path);
	return cli_fail(c, "%s: %s", path, strerror(-ret));
}

static int bitmap(struct cli *c, const struct args *a, const char *vm,
    const char *segment, const char *cursor)
{
	int fd = -1;
	struct cli_fds fds = {.recv = &fd, .nrecv = 1};
	json_t *p = json_pack("{s:s, s:s*, s:s, s:b, s:b, s:b}", "vm", vm,
	    "segment", segment, "cursor", cursor, "peek", a->peek, "exact",
	    a->exact, "bitmap", 1);
	json_t *r = cli_call_fds(c, "dirty.query", p, &fds);
	int ret;

	if (!r)
		return EX_FAIL;
	if (!fds.nrecv)
		ret = cli_fail(c, "the daemon sent no bitmap");
	else
		ret = copy_bitmap(c, fd, a->bitmap);
	if (!ret && c->json)
		ret = out_json(r);
	else if (!ret)
		(void)printf("%" PRIu64 " pages dirty\n", json_u64(r, "pages"));
	if (fds.nrecv)
		(void)close(fd);
	json_decref(r);
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
	if (a->cursor)
		return EX_OK;
	cli_fail(c, "--cursor C is missing");
	return EX_USAGE;
}

int verb_dirty(struct cli *c, const struct args *a)
{
	AUTO_FREE char *vm = NULL;
	AUTO_FREE char *segment = NULL;

	if (split_place(a->words[0], &vm, &segment))
		return cli_fail(c, "out of memory");
	return a->bitmap ? bitmap(c, a, vm, segment, a->cursor)
			 : ranges(c, a, vm, segment, a->cursor);
}
