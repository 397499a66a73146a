/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "tools/cli/cli.h"

#define CHUNK (64u << 10)

/* As they are, or two digits a byte. 0 or -errno. */
static int put_bytes(const struct cli *c, const char *buf, size_t n)
{
	static const char digit[] = "0123456789abcdef";
	char hex[2 * CHUNK];

	if (!c->json)
		return write_all(STDOUT_FILENO, buf, n);
	for (size_t i = 0; i < n; i++) {
		hex[2 * i] = digit[(unsigned char)buf[i] >> 4];
		hex[2 * i + 1] = digit[buf[i] & 0xf];
	}
	return fwrite(hex, 1, 2 * n, stdout) == 2 * n ? 0 : -errno;
}

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
	if (c->json)
		(void)printf("{\"offset\":%" PRIu64 ",\"length\":%" PRIu64
			     ",\"hex\":\"",
		    at, len);
	while (len) {
		size_t n = len < CHUNK ? (size_t)len : CHUNK;

		if (firn_snapshot_read(s, at, buf, n, &e))
			return cli_fail(c, "%s", e.msg);
		ret = put_bytes(c, buf, n);
		if (ret)
			return cli_fail(c, "stdout: %s", strerror(-ret));
		at += n;
		len -= n;
	}
	if (c->json)
		(void)puts("\"}");
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
	return EX_OK;
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
