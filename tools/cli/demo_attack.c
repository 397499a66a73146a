/* SPDX-License-Identifier: MIT */
/*
 * demo attack: the publisher turned malicious. Its victim validates before use;
 * over a firn view the two never differ. Then each protection is tried.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/cli/demo.h"

#define SEGMENT_LEN (64ULL << 20)
#define SECONDS     "2"

/* Run an attacker with snapshot "evil" to its end; prints what it says. */
static int attack(struct cli *c, const char *kind, const char *arg, int *status,
    json_t **report)
{
	const struct demo_launch l = {
	    .argv = {"db_attack", kind, "db", arg},
	    .mem = 32ULL << 20,
	    .give = "evil",
	};
	struct demo_vm vm;
	char line[200];
	int rc = demo_start(c, &l, &vm);

	while (rc == 0 && fgets(line, sizeof(line), vm.out) != NULL)
		printf("  %s", line);
	demo_end(c, &vm, rc != 0, status, report);
	return rc;
}

static int must_end_with(struct cli *c, const char *kind, const char *arg)
{
	int status = -1;

	if (attack(c, kind, arg, &status, NULL) != 0)
		return -1;
	if (status != 0) {
		cli_fail(c, "the attack '%s' was not refused", kind);
		return -1;
	}
	return 0;
}

static int write_view(struct cli *c)
{
	json_t *report = NULL;
	int status = -1;
	int rc = attack(c, "write", NULL, &status, &report);

	if (rc == 0 && (status != 139 || report == NULL)) {
		cli_fail(c, "a write to a read-only view was not refused");
		rc = -1;
	}
	if (rc == 0)
		printf("  ended with status %d: %s\n", status,
		    json_str(report, "why"));
	json_decref(report);
	return rc;
}

/* Reading or allocating the holes of a sealed layer would grow it for all. */
static int grow_layer(struct cli *c)
{
	struct cli_fds f = {0};
	int fds[64];
	struct stat before;
	struct stat after;
	json_t *r;
	int rc = -1;

	f.recv = fds;
	f.nrecv = 64;
	r = cli_call_fds(
	    c, "snapshot.open", json_pack("{s:s}", "snapshot", "evil"), &f);
	if (r == NULL)
		return -1;
	if (f.nrecv < 2 || fstat(fds[1], &before) != 0) {
		cli_fail(c, "the snapshot has no layer");
	} else {
		int e = fallocate(fds[1], 0, 0, (off_t)SEGMENT_LEN) == 0
			    ? 0
			    : errno;

		printf("  fallocate on the layer's descriptor: %s\n",
		    e == 0 ? "LET THROUGH" : strerror(e));
		rc = e == 0 ? -1 : must_end_with(c, "holes", NULL);
		if (rc == 0 && fstat(fds[1], &after) == 0 &&
		    after.st_blocks == before.st_blocks)
			printf("  the layer has %lld KiB as before\n",
			    (long long)after.st_blocks / 2);
		else
			rc = -1;
		if (rc != 0)
			cli_fail(c, "the layer grew");
	}
	for (size_t i = 0; i < f.nrecv; i++)
		(void)close(fds[i]);
	json_decref(r);
	return rc;
}

static int protections(struct cli *c)
{
	int rc;

	puts("write to a read-only view:");
	rc = write_view(c);
	if (rc == 0) {
		puts("forged capabilities:");
		rc = must_end_with(c, "forge", NULL);
	}
	if (rc == 0) {
		puts("guest-physical addresses that wrap, overlap, are odd:");
		rc = must_end_with(c, "wrap", NULL);
	}
	if (rc == 0) {
		puts("one address for two views:");
		rc = must_end_with(c, "twice", NULL);
	}
	if (rc == 0) {
		puts("growing a layer through its holes:");
		rc = grow_layer(c);
	}
	return rc;
}

int demo_attack(struct cli *c)
{
	const struct demo_launch l = {
	    .argv = {"db_attack", "flip", "db"},
	    .mem = 32ULL << 20,
	    .segment = "db",
	    .size = SEGMENT_LEN,
	};
	struct demo_vm evil;
	char line[200];
	json_t *r = NULL;
	int rc;

	puts("== attack: the publisher changes bytes under a reader that "
	     "validates before use");
	rc = demo_start(c, &l, &evil);
	if (rc == 0)
		rc = demo_hear(c, &evil, line, sizeof(line));
	if (rc == 0) {
		r = demo_freeze(c, &evil, "evil");
		rc = r == NULL ? -1 : 0;
		json_decref(r);
	}
	if (rc == 0)
		puts("the reader of a view, while the publisher flips a "
		     "length:");
	if (rc == 0)
		rc = must_end_with(c, "check", SECONDS);
	if (rc == 0)
		rc = protections(c);
	if (rc == 0) {
		puts("nobody was harmed: the publisher still runs, every "
		     "attempt was refused");
	}
	demo_end(c, &evil, true, NULL, NULL);
	demo_drop(c, "evil");
	return rc;
}
