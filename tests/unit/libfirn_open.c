/* SPDX-License-Identifier: MIT */
/* What the service of these tests answers to snapshot.open. */
#include "tests/unit/libfirn_fix.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/core/fdmsg.h"

#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

const struct snap_case snap_cases[] = {
    {"good", SEALS, O_RDONLY, 2, 10, 0, 4,
	{{0, 2, 1, 0, 0}, {3, 1, 0, 1, 0}, {4, 2, 0, RUN_ZERO, 0},
	    {8, 1, 3, 0, 0}}},
    {"empty", SEALS, O_RDONLY, 0, 4, 0, 0, {{0}}},
    {"unsealed", 0, O_RDONLY, 1, 4, -EPERM, 1, {{0, 1, 0, 0, 0}}},
    {"growable", SEALS & ~F_SEAL_GROW, O_RDONLY, 1, 4, -EPERM, 1,
	{{0, 1, 0, 0, 0}}},
    {"unsealable", SEALS & ~F_SEAL_SEAL, O_RDONLY, 1, 4, -EPERM, 1,
	{{0, 1, 0, 0, 0}}},
    {"writable", SEALS, O_RDWR, 1, 4, -EPERM, 1, {{0, 1, 0, 0, 0}}},
    {"short", SEALS, O_RDONLY, 1, 10, -EPROTO, 1, {{0, 5, 0, 0, 0}}},
    {"beyond", SEALS, O_RDONLY, 1, 10, -EPROTO, 1, {{0, 1, 4, 0, 0}}},
    {"wrap", SEALS, O_RDONLY, 1, 10, -EPROTO, 1, {{0, 2, UINT64_MAX, 0, 0}}},
    {"outside", SEALS, O_RDONLY, 1, 4, -EPROTO, 1, {{3, 2, 0, 0, 0}}},
    {"page-wrap", SEALS, O_RDONLY, 1, 4, -EPROTO, 1,
	{{UINT64_MAX, 2, 0, 0, 0}}},
    {"overlap", SEALS, O_RDONLY, 1, 10, -EPROTO, 2,
	{{0, 3, 0, 0, 0}, {2, 1, 0, 0, 0}}},
    {"unsorted", SEALS, O_RDONLY, 1, 10, -EPROTO, 2,
	{{4, 1, 0, 0, 0}, {0, 1, 0, 0, 0}}},
    {"no-layer", SEALS, O_RDONLY, 1, 10, -EPROTO, 1, {{0, 1, 0, 1, 0}}},
    {"hollow", SEALS, O_RDONLY, 1, 10, -EPROTO, 1, {{0, 0, 0, 0, 0}}},
    {"padded", SEALS, O_RDONLY, 1, 10, -EPROTO, 1, {{0, 1, 0, 0, 7}}},
    {"vast", SEALS, O_RDONLY, 1, INT64_MAX, -EPROTO, 1, {{0, 1, 0, 0, 0}}},
    {0},
};

int memfd_of(const void *data, size_t len, int seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), (ssize_t)len);
	if (seals != 0)
		assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

/* LAYER_PAGES pages: the i-th of layer n is filled with 16 * (n + 1) + i. */
static int make_layer(unsigned n, int seals, int flags)
{
	static const size_t len = LAYER_PAGES * PAGE_SIZE;
	char path[64];
	char *buf = malloc(len);
	int again;
	int fd;

	assert_non_null(buf);
	for (size_t i = 0; i < LAYER_PAGES; i++)
		memset(buf + i * PAGE_SIZE, (int)(16 * (n + 1) + i), PAGE_SIZE);
	fd = memfd_of(buf, len, seals);
	free(buf);
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	/* A descriptor sealed against writing cannot be opened for it. */
	if (flags != O_RDONLY)
		return fd;
	again = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(again >= 0);
	(void)close(fd);
	return again;
}

static void reply_snapshot(struct ctl_req *rq, const struct snap_case *c)
{
	int fds[3];
	unsigned n = 0;

	fds[n++] = memfd_of(c->runs, c->nruns * sizeof(c->runs[0]), 0);
	for (unsigned i = 0; i < c->nlayers; i++)
		fds[n++] = make_layer(i, c->seals, c->flags);
	ctl_reply(rq,
	    json_pack("{s:I, s:i, s:i}", "pages", (json_int_t)c->pages,
		"runs_fd", 0, "layers", (int)c->nlayers),
	    fds, n);
	fdmsg_close_all(fds, n);
}

/* Every other page, all from one page of a layer: more runs than mappings. */
static void reply_scattered(struct ctl_req *rq)
{
	struct page_run *r = calloc(MANY_RUNS, sizeof(*r));
	int fds[2];

	assert_non_null(r);
	for (unsigned i = 0; i < MANY_RUNS; i++)
		r[i] = (struct page_run){
		    .page = 2ULL * i, .npages = 1, .index = i % LAYER_PAGES};
	fds[0] = memfd_of(r, MANY_RUNS * sizeof(*r), 0);
	fds[1] = make_layer(0, SEALS, O_RDONLY);
	free(r);
	ctl_reply(rq,
	    json_pack("{s:i, s:i, s:i}", "pages", (int)(2 * MANY_RUNS),
		"runs_fd", 0, "layers", 1),
	    fds, 2);
	fdmsg_close_all(fds, 2);
}

void op_open(void *ctx, struct ctl_req *rq)
{
	const char *name = ctl_str(rq, "snapshot");
	int half;

	(void)ctx;
	for (const struct snap_case *c = snap_cases; c->name != NULL; c++) {
		if (strcmp(c->name, name) == 0) {
			reply_snapshot(rq, c);
			return;
		}
	}
	if (strcmp(name, "scattered") == 0) {
		reply_scattered(rq);
		return;
	}
	/* "none": no descriptors at all; "half": runs of an odd size. */
	half = memfd_of("half a run", 10, 0);
	ctl_reply(rq, json_pack("{s:i, s:i}", "pages", 1, "runs_fd", 0), &half,
	    strcmp(name, "half") == 0);
	(void)close(half);
}
