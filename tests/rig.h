/* SPDX-License-Identifier: MIT */
/*
 * rig: a private firnd and guests in it, for benchmarks and tests of the whole.
 *
 * A program that cannot go on ends with a line that says why.
 */
#ifndef TESTS_RIG_H
#define TESTS_RIG_H

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/libfirn/firn.h"
#include "tools/libfirn/firn_json.h"

struct rig {
	char build[PATH_MAX]; /* the build tree this program is in */
	char dir[32];         /* of the socket, or "" */
	char socket[48];
	struct firn *conn;
	pid_t firnd;
};

struct rig_vm {
	uint64_t id;
	pid_t monitor;
	char ref[24];
	FILE *in;  /* the guest's stdin, to write to */
	FILE *out; /* its stdout, to read from */
};

static inline void __attribute__((noreturn, format(printf, 1, 2)))
rig_fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)fprintf(stderr, "rig: ");
	(void)vfprintf(stderr, fmt, ap);
	(void)fprintf(stderr, "\n");
	va_end(ap);
	exit(1);
}

/* (listen): further clients can connect, with rig_client(). */
static inline void rig_start_as(struct rig *g, bool listen)
{
	char self[PATH_MAX];
	char path[PATH_MAX + 16];
	struct firn_error e;
	int sv[2];
	int life[2]; /* its write end closes with this process */
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n < 0)
		rig_fail("cannot find itself");
	self[n] = '\0';
	(void)snprintf(
	    g->build, sizeof(g->build), "%s", dirname(dirname(self)));
	(void)snprintf(path, sizeof(path), "%s/bin/firnd", g->build);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) != 0 ||
	    pipe2(life, O_CLOEXEC) != 0)
		rig_fail("no socket: %s", strerror(errno));
	g->dir[0] = '\0';
	if (listen) {
		(void)snprintf(g->dir, sizeof(g->dir), "/tmp/firn-rig.XXXXXX");
		if (mkdtemp(g->dir) == NULL)
			rig_fail("%s: %s", g->dir, strerror(errno));
		(void)snprintf(
		    g->socket, sizeof(g->socket), "%s/firn.sock", g->dir);
	}
	g->firnd = fork();
	if (g->firnd == 0) {
		int conn = fcntl(sv[1], F_DUPFD, 10);
		int end = fcntl(life[0], F_DUPFD, 10);

		(void)dup2(conn, 3);
		(void)dup2(end, 4);
		(void)close(conn);
		(void)close(end);
		(void)execl(path, "firnd", "--adopt", "3", "--die-with-fd", "4",
		    "--quiet", listen ? "--socket" : (char *)NULL, g->socket,
		    (char *)NULL);
		_exit(127);
	}
	(void)close(sv[1]);
	(void)close(life[0]);
	if (firn_connect_fd(sv[0], &g->conn, &e) != 0)
		rig_fail("no firnd: %s", e.msg);
}

static inline void rig_start(struct rig *g)
{
	rig_start_as(g, false);
}

/* One more connection; firnd serves its socket once it has answered on the
 * first. */
static inline struct firn *rig_client(struct rig *g)
{
	struct firn_error e = {0};
	struct firn *c;

	if (firn_connect(g->socket, &c, &e) != 0)
		rig_fail("%s: %s", g->socket, e.msg);
	return c;
}

static inline void rig_stop(struct rig *g)
{
	firn_close(g->conn);
	(void)kill(g->firnd, SIGTERM);
	while (waitpid(g->firnd, NULL, 0) < 0 && errno == EINTR)
		;
	if (g->dir[0] != '\0') {
		(void)unlink(g->socket);
		(void)rmdir(g->dir);
	}
}

/* The result of a call; takes (params) over. The caller's to put. */
static inline json_t *rig_call(
    struct rig *g, const char *method, json_t *params, int *fds, size_t nfds)
{
	struct firn_error e = {0};
	json_t *result = NULL;

	if (firn_call_json(g->conn, method, params, fds, nfds, &result, NULL,
		NULL, &e) != 0)
		rig_fail("%s: %s", method, e.msg);
	return result;
}

static inline uint64_t rig_u64(json_t *j, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(j, name));
}

/* Launch guest program (argv[0], of the build's guests); (extra) has further
 * parameters of vm.launch and is taken over. */
static inline void rig_launch(struct rig *g, struct rig_vm *vm,
    const char *const *argv, uint64_t mem, json_t *extra)
{
	char path[PATH_MAX + 64];
	int in[2];
	int out[2];
	int fds[4];
	json_t *args = json_array();
	json_t *r;

	(void)snprintf(path, sizeof(path), "%s/guest/%s", g->build, argv[0]);
	for (size_t i = 0; argv[i] != NULL; i++)
		(void)json_array_append_new(args, json_string(argv[i]));
	if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0)
		rig_fail("no pipe: %s", strerror(errno));
	fds[0] = open(path, O_RDONLY | O_CLOEXEC);
	if (fds[0] < 0)
		rig_fail("%s: %s", path, strerror(errno));
	fds[1] = in[0];
	fds[2] = out[1];
	fds[3] = STDERR_FILENO;
	if (extra == NULL)
		extra = json_object();
	(void)json_object_set_new(extra, "args", args);
	(void)json_object_set_new(extra, "mem", json_integer((json_int_t)mem));
	r = rig_call(g, "vm.launch", extra, fds, 4);
	vm->id = rig_u64(r, "vm");
	vm->monitor = (pid_t)rig_u64(r, "pid");
	(void)snprintf(
	    vm->ref, sizeof(vm->ref), "%llu", (unsigned long long)vm->id);
	json_decref(r);
	(void)close(fds[0]);
	(void)close(in[0]);
	(void)close(out[1]);
	vm->in = fdopen(in[1], "w");
	vm->out = fdopen(out[0], "r");
}

struct rig_ref {
	char s[48];
};

/* How a call names what has the number (n). */
static inline struct rig_ref rig_ref(uint64_t n)
{
	struct rig_ref r;

	(void)snprintf(r.s, sizeof(r.s), "%llu", (unsigned long long)n);
	return r;
}

/* The guest's next line, without its end; fails at the end. */
static inline void rig_line(struct rig_vm *vm, char *buf, size_t len)
{
	if (fgets(buf, (int)len, vm->out) == NULL)
		rig_fail("the guest ended early");
	buf[strcspn(buf, "\n")] = '\0';
}

/* End the guest and say how it ended, for a test that failed. */
static inline void rig_tell(struct rig *g, const struct rig_vm *vm)
{
	static const char *const methods[] = {"vm.kill", "vm.wait"};

	for (size_t i = 0; i < 2; i++) {
		json_t *p = json_pack("{s:s}", "vm", vm->ref);
		struct firn_error e = {0};
		json_t *r = NULL;

		if (firn_call_json(g->conn, methods[i], p, NULL, 0, &r, NULL,
			NULL, &e) != 0) {
			(void)fprintf(
			    stderr, "rig: %s: %s\n", methods[i], e.msg);
		} else {
			char *s = json_dumps(r, JSON_COMPACT);
			(void)fprintf(stderr, "rig: %s\n", s);
			free(s);
		}
		json_decref(r);
	}
}

static inline void rig_end(struct rig *g, struct rig_vm *vm)
{
	struct firn_error e;
	json_t *p = json_pack("{s:s}", "vm", vm->ref);
	json_t *r = NULL;

	(void)firn_call_json(
	    g->conn, "vm.kill", json_incref(p), NULL, 0, &r, NULL, NULL, &e);
	json_decref(r);
	json_decref(rig_call(g, "vm.wait", p, NULL, 0));
	(void)fclose(vm->in);
	(void)fclose(vm->out);
}

static inline void rig_drop(struct rig *g, uint64_t snapshot)
{
	json_decref(rig_call(g, "snapshot.drop",
	    json_pack("{s:s}", "snapshot", rig_ref(snapshot).s), NULL, 0));
}

#endif /* TESTS_RIG_H */
