/* SPDX-License-Identifier: MIT */
/*
 * demo: guests that a demonstration talks to, line by line.
 *
 * Functions return 0 or -1 with the reason said on stderr. One thread.
 */
#ifndef TOOLS_CLI_DEMO_H
#define TOOLS_CLI_DEMO_H

#include <stdio.h>

#include "tools/cli/cli.h"

#define DEMO_ARGS_MAX 6u

struct demo_vm {
	char ref[24]; /* its id, as other calls name it; "": none */
	FILE *in;     /* the guest's stdin */
	FILE *out;    /* its stdout */
};

/* What to launch; members left out are not passed. */
struct demo_launch {
	const char *argv[DEMO_ARGS_MAX]; /* argv[0] is the guest's name */
	uint64_t mem;
	const char *segment; /* one segment of (size) */
	uint64_t size;
	const char *give; /* snapshot (give) as the guest's "db" */
	bool quiet;       /* its stderr goes nowhere */
};

int demo_start(struct cli *c, const struct demo_launch *l, struct demo_vm *vm);
/* Kill it if need be, wait; *status (may be NULL) and *report (may be NULL; a
 * new reference or NULL) tell how it ended. */
void demo_end(
    struct cli *c, struct demo_vm *vm, bool kill, int *status, json_t **report);
/* One line to or from the guest; a signal to us is an error. */
int demo_say(struct cli *c, struct demo_vm *vm, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int demo_hear(struct cli *c, struct demo_vm *vm, char *buf, size_t len);
/* As demo_hear(), but 1 for a line, 0 when the guest closed its stdout. */
int demo_next(struct cli *c, struct demo_vm *vm, char *buf, size_t len);

/*
 * What the service calls the snapshot that a demonstration calls (name). With
 * the id of (vm), a guest of it, in it it is nobody else's: who runs a
 * demonstration may have snapshots called so.
 */
struct demo_ref {
	char s[64];
};
struct demo_ref demo_ref(const struct demo_vm *vm, const char *name);
/* Freeze a segment of (vm) as demo_ref(owner, name): a new reference to the
 * result, or NULL. */
json_t *demo_freeze(struct cli *c, const struct demo_vm *owner,
    const struct demo_vm *vm, const char *segment, const char *name);
/* Give up demo_ref(owner, name), if there is one. */
void demo_drop(struct cli *c, const struct demo_vm *owner, const char *name);

/* (facts), an object, gets the figures that are printed; (file) may be NULL and
 * is NULL where none is taken. */
int demo_publish(struct cli *c, const char *file, json_t *facts);
int demo_attack(struct cli *c, const char *file, json_t *facts);
int demo_meld(struct cli *c, const char *file, json_t *facts);

#endif /* TOOLS_CLI_DEMO_H */
