/* SPDX-License-Identifier: MIT */
/*
 * ctl_fix: a service of some operations over a control socket, in this process,
 * and a client that says to it what a test likes.
 */
#ifndef TESTS_UNIT_CTL_FIX_H
#define TESTS_UNIT_CTL_FIX_H

#include <stdbool.h>

#include "tests/unit/own.h"
#include "tests/unit/unit.h"
#include "vmm/core/fdmsg.h"
#include "vmm/ctl/ctl.h"

#define BUF_LEN  (1u << 20) /* of what "vast" answers */
#define HELD_MAX 80

struct fix {
	struct loop *l;
	struct ctl_srv *srv;
	struct ctl_conf conf;
	struct ctl_conn *conn;
	int fd; /* the client's end */
	struct ctl_req *held[HELD_MAX];
	unsigned nheld, opened, closed, cancelled, ran;
	bool refuse;
	int fds_before;
};

extern const struct ctl_op ctl_fix_ops[];

#define ADD(id, a)                                                             \
	"{\"jsonrpc\":\"2.0\",\"id\":" #id                                     \
	",\"method\":\"add\",\"params\":{\"a\":" #a "}}\n"
#define REQ(m) "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"" m "\"}\n"
#define REQP(m, p)                                                             \
	"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"" m "\",\"params\":" p "}" \
	"\n"

int setup(void **state);
/* Fails if descriptors are open or connections not closed. */
int teardown(void **state);
/* The service's turn, some times. */
void turn(struct fix *x);
void put(struct fix *x, const char *s);
void put_fds(struct fix *x, const char *s, const int *fds, size_t n);
json_t *get(struct fix *x);
/* The next line and its descriptors; NULL when there is none. */
json_t *get_fds(struct fix *x, int *fds, size_t *nfds);
void expect_sum(struct fix *x, int id, int sum);
/* An error of (code) and (name) whose message has (part). */
void expect_error(struct fix *x, int code, const char *name, const char *part);
/* Whether the service has ended the connection. */
bool hung_up(struct fix *x);

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif /* TESTS_UNIT_CTL_FIX_H */
