/* SPDX-License-Identifier: MIT */
/*
 * vm_fix: a monitor of which the test plays the broker; a program of its own,
 * or, where its calls are to fail, a part of this one.
 */
#ifndef TESTS_UNIT_VM_FIX_H
#define TESTS_UNIT_VM_FIX_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "tests/unit/unit.h"
#include "vmm/wire/wire.h"

#define PATIENCE_MS 20000
#define MEM         (64ULL << 20)

struct vm {
	int sock;
	pid_t pid;
	int in;  /* the guest's stdin, to write */
	int out; /* its stdout and stderr, to read */
	uint32_t seq;
	struct wire_packet p;
};

/* What a monitor that is not a program of its own is refused; shared with it.
 */
struct refused {
	bool mmap;  /* any mapping in place */
	bool fds;   /* to send descriptors */
	bool memfd; /* to make memory */
};
extern struct refused *refused;

struct launch {
	struct wire_launch l;
	struct wire_segment seg;
	char strings[64];
};

int setup(void **state);
/* It is a part of this program, and (refused) is there. */
int setup_inside(void **state);
int teardown(void **state);

/* $O/bin/... or $O/guest/..., where this is $O/tests/test_vm... */
void path_of(char *path, size_t len, const char *what);
void close_fd(int *fd);
void send_msg(struct vm *vm, uint16_t type, const void *payload, size_t len,
    const int *fds, uint32_t nfds);
/* The next packet, in vm->p, is of that type. */
void receive_type(struct vm *vm, uint16_t type);
/* A request and its answer: the status. */
int ask(struct vm *vm, uint16_t type, const void *payload, size_t len,
    const int *fds, uint32_t nfds);

/* argv[0], no environment, a name; a segment called data. */
struct launch usual(void);
/* With (out) for its stdout and stderr; or with a pipe to vm->out. */
void send_launch_to(
    struct vm *vm, const struct launch *q, const char *program, int out);
void send_launch(struct vm *vm, const struct launch *q, const char *program);
void start(struct vm *vm, const char *program);
/* cat says what it is told: it runs. */
void echoes(struct vm *vm);

/* It must end by itself, in order. */
void wait_monitor(struct vm *vm);
void ends_with(struct vm *vm, enum wire_exit_reason reason, int32_t status);
/* And a report with (text). */
void ends_telling(struct vm *vm, enum wire_exit_reason reason, int32_t status,
    const char *text);
void ends_refused(struct vm *vm, const char *text);

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

#endif /* TESTS_UNIT_VM_FIX_H */
