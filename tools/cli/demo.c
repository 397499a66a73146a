/* SPDX-License-Identifier: MIT */
/* firn demo: which one, and the guests of all. */
#include "tools/cli/demo.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/libfirn/firn_json.h"
#include "vmm/core/clock.h"

/* A guest program of the build tree, or as installed. */
static int open_guest(struct cli *c, const char *name)
{
	static const char *const places[] = {
	    "../guest", "../share/firn/guests"};
	char self[PATH_MAX];
	char path[2 * PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	const char *dir;
	int fd = -1;

	if (n < 0) {
		cli_fail(c, "cannot read /proc/self/exe: %s", strerror(errno));
		return -1;
	}
	self[n] = '\0';
	dir = dirname(self);
	for (size_t i = 0; i < 2 && fd < 0; i++) {
		(void)snprintf(
		    path, sizeof(path), "%s/%s/%s", dir, places[i], name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	if (fd < 0)
		cli_fail(c,
		    "the guest program %s is not near %s: build with "
		    "`make guests`",
		    name, dir);
	return fd;
}

static json_t *launch_params(const struct demo_launch *l)
{
	json_t *args = json_array();
	json_t *p =
	    json_pack("{s:o,s:I}", "args", args, "mem", (json_int_t)l->mem);

	for (size_t i = 0; i < DEMO_ARGS_MAX && l->argv[i] != NULL; i++)
		(void)json_array_append_new(args, json_string(l->argv[i]));
	if (l->segment != NULL)
		(void)json_object_set_new(p, "segments",
		    json_pack("[{s:s,s:I}]", "name", l->segment, "size",
			(json_int_t)l->size));
	if (l->give != NULL)
		(void)json_object_set_new(p, "give",
		    json_pack("[{s:s,s:s}]", "name", "db", "ref", l->give));
	return p;
}

static int launch(struct cli *c, const struct demo_launch *l,
    struct demo_vm *vm, const int fds[4])
{
	struct cli_fds f = {.send = fds, .nsend = 4};
	json_t *r = cli_call_fds(c, "vm.launch", launch_params(l), &f);

	if (r == NULL)
		return -1;
	(void)snprintf(vm->ref, sizeof(vm->ref), "%llu",
	    (unsigned long long)json_u64(r, "vm"));
	json_decref(r);
	return 0;
}

int demo_start(struct cli *c, const struct demo_launch *l, struct demo_vm *vm)
{
	int in[2] = {-1, -1};
	int out[2] = {-1, -1};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int prog = open_guest(c, l->argv[0]);
	int rc = -1;

	*vm = (struct demo_vm){0};
	if (prog >= 0 && (null < 0 || pipe2(in, O_CLOEXEC) != 0 ||
			     pipe2(out, O_CLOEXEC) != 0)) {
		cli_fail(c, "cannot make a pipe: %s", strerror(errno));
	} else if (prog >= 0) {
		const int fds[4] = {
		    prog, in[0], out[1], l->quiet ? null : STDERR_FILENO};

		rc = launch(c, l, vm, fds);
		vm->in = fdopen(in[1], "w");
		vm->out = fdopen(out[0], "r");
		/* So that poll() knows of every line that is left. */
		if (vm->out != NULL)
			(void)setvbuf(vm->out, NULL, _IONBF, 0);
	}
	for (int i = 0; i < 2; i++) {
		if (vm->in == NULL && in[i] >= 0)
			(void)close(in[i]);
		if (vm->out == NULL && out[i] >= 0)
			(void)close(out[i]);
	}
	if (vm->in != NULL)
		(void)close(in[0]);
	if (vm->out != NULL)
		(void)close(out[1]);
	if (prog >= 0)
		(void)close(prog);
	if (null >= 0)
		(void)close(null);
	return rc;
}

void demo_end(
    struct cli *c, struct demo_vm *vm, bool kill, int *status, json_t **report)
{
	struct firn_error e;
	json_t *r = NULL;

	if (vm->in != NULL)
		(void)fclose(vm->in);
	if (vm->ref[0] != '\0' && kill)
		(void)firn_call_json(c->conn, "vm.kill",
		    json_pack("{s:s}", "vm", vm->ref), NULL, 0, NULL, NULL,
		    NULL, &e);
	if (vm->ref[0] != '\0')
		(void)firn_call_json(c->conn, "vm.wait",
		    json_pack("{s:s}", "vm", vm->ref), NULL, 0, &r, NULL, NULL,
		    &e);
	if (status != NULL)
		*status = r == NULL ? -1 : (int)json_u64(r, "status");
	if (report != NULL)
		*report = json_incref(json_object_get(r, "report"));
	json_decref(r);
	if (vm->out != NULL)
		(void)fclose(vm->out);
	*vm = (struct demo_vm){0};
}

int demo_say(struct cli *c, struct demo_vm *vm, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vfprintf(vm->in, fmt, ap);
	va_end(ap);
	if (fputc('\n', vm->in) == EOF || fflush(vm->in) != 0) {
		cli_fail(c, "a guest does not listen any more");
		return -1;
	}
	return 0;
}

int demo_next(struct cli *c, struct demo_vm *vm, char *buf, size_t len)
{
	struct pollfd p[2] = {
	    {.fd = fileno(vm->out), .events = POLLIN},
	    {.fd = c->sig_fd, .events = POLLIN},
	};

	while (!cli_signalled(c, 0)) {
		if (poll(p, 2, -1) <= 0 || !p[0].revents)
			continue;
		if (fgets(buf, (int)len, vm->out) == NULL)
			return 0;
		buf[strcspn(buf, "\n")] = '\0';
		return 1;
	}
	cli_fail(c, "stopped by a signal");
	return -1;
}

int demo_hear(struct cli *c, struct demo_vm *vm, char *buf, size_t len)
{
	int n = demo_next(c, vm, buf, len);

	if (n == 0)
		cli_fail(c, "a guest ended early");
	return n == 1 ? 0 : -1;
}

struct demo_ref demo_ref(const struct demo_vm *vm, const char *name)
{
	struct demo_ref r;

	(void)snprintf(r.s, sizeof(r.s), "demo%s/%.16s", vm->ref, name);
	return r;
}

json_t *demo_freeze(struct cli *c, const struct demo_vm *owner,
    const struct demo_vm *vm, const char *segment, const char *name)
{
	return cli_call(c, "segment.freeze",
	    json_pack("{s:s,s:s,s:s}", "vm", vm->ref, "segment", segment,
		"name", demo_ref(owner, name).s));
}

void demo_drop(struct cli *c, const struct demo_vm *owner, const char *name)
{
	struct firn_error e;

	(void)firn_call_json(c->conn, "snapshot.drop",
	    json_pack("{s:s}", "snapshot", demo_ref(owner, name).s), NULL, 0,
	    NULL, NULL, NULL, &e);
}

static const struct {
	const char *name;
	bool takes_file;
	int (*show)(struct cli *c, const char *file, json_t *facts);
} demos[] = {
    {"publish", true, demo_publish},
    {"attack", false, demo_attack},
    {"meld", false, demo_meld},
};

#define NDEMOS (sizeof(demos) / sizeof(demos[0]))

/* The demonstrations that (a) names, one after the other. */
static int show(struct cli *c, const struct args *a, json_t *facts)
{
	const char *file = a->nwords > 1 ? a->words[1] : NULL;
	uint64_t begin = now_ns();
	int rc = 0;

	for (size_t i = 0; i < NDEMOS && rc == 0; i++) {
		if (a->nwords > 0 && strcmp(a->words[0], demos[i].name) != 0)
			continue;
		if (a->nwords == 0 && i > 0)
			puts("");
		rc = demos[i].show(c, file, facts);
	}
	(void)json_object_set_new(
	    facts, "total_ns", json_integer((json_int_t)(now_ns() - begin)));
	return rc;
}

/* With --json what is told goes to stderr, and the figures to stdout. */
static int show_json(struct cli *c, const struct args *a, json_t *facts)
{
	int out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	int rc = -1;

	if (out < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
		cli_fail(c, "cannot redirect stdout: %s", strerror(errno));
	} else {
		c->json = false;
		rc = show(c, a, facts);
		c->json = true;
		if (fflush(stdout) != 0 || dup2(out, STDOUT_FILENO) < 0 ||
		    (rc == 0 && out_json(facts) != EX_OK))
			rc = -1;
	}
	if (out >= 0)
		(void)close(out);
	return rc;
}

int verb_demo(struct cli *c, const struct args *a)
{
	json_t *facts = json_object();
	int rc;

	/* Calls are short, and what one has made is to be taken away again. */
	firn_stop_fd(c->conn, -1);
	(void)signal(SIGPIPE, SIG_IGN);
	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	rc = c->json ? show_json(c, a, facts) : show(c, a, facts);
	json_decref(facts);
	return rc == 0 ? EX_OK : EX_FAIL;
}

int check_demo(struct cli *c, const struct args *a)
{
	const char *which = a->nwords > 0 ? a->words[0] : demos[0].name;

	for (size_t i = 0; i < NDEMOS; i++) {
		if (strcmp(which, demos[i].name) != 0)
			continue;
		if (demos[i].takes_file || a->nwords < 2)
			return EX_OK;
		cli_fail(c, "%s takes no file", which);
		return EX_USAGE;
	}
	cli_fail(c, "no demonstration '%s': publish, attack or meld", which);
	return EX_USAGE;
}
