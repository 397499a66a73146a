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

#define SEGMENT_LEN  (64ULL << 20)
#define SECONDS      "2"
#define HEADER_PAGES "28" /* where a database has its length, for "check" */

struct show {
	struct demo_vm pub;
	json_t *said; /* what the attackers said */
};

/* Run an attacker with snapshot "evil" to its end; prints and keeps what it
 * says. */
static int attack(struct cli *c, struct show *s, const char *kind,
    const char *arg, int *status, json_t **report)
{
	const struct demo_ref evil = demo_ref(&s->pub, "evil");
	const struct demo_launch l = {
	    .argv = {"db_attack", kind, "db", arg, HEADER_PAGES},
	    .mem = 32ULL << 20,
	    .give = evil.s,
	};
	struct demo_vm vm;
	char line[200];
	int rc = demo_start(c, &l, &vm);

	while (rc == 0 && (rc = demo_next(c, &vm, line, sizeof(line))) == 1) {
		printf("  %s\n", line);
		(void)json_array_append_new(s->said, json_string(line));
		rc = 0;
	}
	demo_end(c, &vm, rc != 0, status, report);
	return rc;
}

static int must_be_refused(
    struct cli *c, struct show *s, const char *kind, const char *arg)
{
	int status = -1;

	if (attack(c, s, kind, arg, &status, NULL) != 0)
		return -1;
	if (status != 0) {
		cli_fail(c, "the attack '%s' was not refused", kind);
		return -1;
	}
	return 0;
}

static int write_view(struct cli *c, struct show *s)
{
	json_t *report = NULL;
	int status = -1;
	int rc = attack(c, s, "write", NULL, &status, &report);

	if (rc == 0 && (status != 139 || report == NULL)) {
		cli_fail(c, "a write to a read-only view was not refused");
		rc = -1;
	}
	if (rc == 0)
		printf("  its writer ended with status %d: %s\n", status,
		    json_str(report, "why"));
	json_decref(report);
	return rc;
}

/* Reading or allocating the holes of a sealed layer would grow it for all. */
static int grow_layer(struct cli *c, struct show *s)
{
	struct cli_fds f = {0};
	int fds[64];
	struct stat before;
	struct stat after;
	json_t *r;
	int rc = -1;

	f.recv = fds;
	f.nrecv = 64;
	r = cli_call_fds(c, "snapshot.open",
	    json_pack("{s:s}", "snapshot", demo_ref(&s->pub, "evil").s), &f);
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
		rc = e == 0 ? -1 : must_be_refused(c, s, "holes", NULL);
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

static int protections(struct cli *c, struct show *s)
{
	static const char *const kinds[] = {"forge", "wrap", "twice"};
	int rc = write_view(c, s);

	for (size_t i = 0; rc == 0 && i < 3; i++)
		rc = must_be_refused(c, s, kinds[i], NULL);
	return rc == 0 ? grow_layer(c, s) : rc;
}

/* Whether the publisher is as it was: it says nothing, and runs. */
static int unharmed(struct cli *c, struct demo_vm *vm)
{
	json_t *r = demo_freeze(c, vm, vm, "db", "evil2");

	if (r == NULL)
		return -1;
	json_decref(r);
	demo_drop(c, vm, "evil2");
	puts("nobody was harmed: the publisher still runs and freezes, every "
	     "attempt was refused");
	return 0;
}

/* The publisher, with a small database, changing its length for ever. */
static int start_evil(struct cli *c, struct demo_vm *vm)
{
	const struct demo_launch l = {
	    .argv = {"db_publish", "db"},
	    .mem = 32ULL << 20,
	    .segment = "db",
	    .size = SEGMENT_LEN,
	};
	char line[200];
	json_t *r;

	if (demo_start(c, &l, vm) != 0 ||
	    demo_say(c, vm, "a line of text\n.") != 0 ||
	    demo_hear(c, vm, line, sizeof(line)) != 0 ||
	    demo_say(c, vm, "flip") != 0 ||
	    demo_hear(c, vm, line, sizeof(line)) != 0)
		return -1;
	r = demo_freeze(c, vm, vm, "db", "evil");
	json_decref(r);
	return r == NULL ? -1 : 0;
}

int demo_attack(struct cli *c, const char *file, json_t *facts)
{
	struct show s = {.said = json_array()};
	int rc;

	(void)file;
	puts(
	    "== attack: the publisher changes its database's length and back "
	    "for ever; a reader\n   of a view of it validates the length, then "
	    "uses it");
	rc = start_evil(c, &s.pub);
	if (rc == 0)
		rc = must_be_refused(c, &s, "check", SECONDS);
	if (rc == 0)
		rc = protections(c, &s);
	if (rc == 0)
		rc = unharmed(c, &s.pub);
	(void)json_object_set_new(facts, "attack", s.said);
	demo_drop(c, &s.pub, "evil");
	demo_end(c, &s.pub, true, NULL, NULL);
	return rc;
}
