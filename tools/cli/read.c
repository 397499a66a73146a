/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "tools/cli/cli.h"

#define CHUNK (64u << 10)

static int copy_out(
    struct cli *c, const struct firn_snapshot *s, uint64_t at, uint64_t len)
{
	char buf[CHUNK];
	uint64_t size = firn_snapshot_pages(s) << PAGE_SHIFT;
	struct firn_error e;
	int ret;

	if (at > size || len > size - at)
		return cli_fail(c,
		    "%" PRIu64 " bytes at %" PRIu64 " end beyond the "
		    "snapshot's %" PRIu64,
		    len, at, size);
	while (len) {
		size_t n = len < CHUNK ? (size_t)len : CHUNK;

		if (firn_snapshot_read(s, at, buf, n, &e))
			return cli_fail(c, "%s", e.msg);
		ret = write_all(STDOUT_FILENO, buf, n);
		if (ret)
			return cli_fail(c, "stdout: %s", strerror(-ret));
		at += n;
		len -= n;
	}
	return EX_OK;
}

int check_read(struct cli *c, const struct args *a)
{
	uint64_t n;

	for (size_t i = 1; i <= 2; i++) {
		if (!parse_size(a->words[i], &n))
			continue;
		cli_fail(c, "%s is not a number of bytes", a->words[i]);
		return EX_USAGE;
	}
	if (!c->json)
		return EX_OK;
	cli_fail(c, "--json has no meaning here: stdout is the bytes");
	return EX_USAGE;
}

int verb_read(struct cli *c, const struct args *a)
{
	struct firn_snapshot *s;
	struct firn_error e;
	uint64_t at = 0, len = 0;
	int ret;

	(void)parse_size(a->words[1], &at);
	(void)parse_size(a->words[2], &len);
	if (firn_open_snapshot(c->conn, a->words[0], &s, &e))
		return cli_fail(c, "%s", e.msg);
	ret = copy_out(c, s, at, len);
	firn_snapshot_close(s);
	return ret;
}
