/* SPDX-License-Identifier: MIT */
/* run: launch a program as a guest, and wait for it unless detached. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/cli/cli.h"
#include "tools/libfirn/firn_json.h"
#include "vmm/core/cleanup.h"

#define KILL_MS 3000 /* that a VM has to end in after a signal */

static int open_program(struct cli *c, const char *path)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st)) {
		cli_fail(c, "%s: %s", path, strerror(errno));
		return -1;
	}
	if (!S_ISREG(st.st_mode)) {
		cli_fail(c, "%s: is not a regular file", path);
		return -1;
	}
	return take_fd(&fd);
}

/* What --segment says: NAME=SIZE[,track][,private-history]. */
struct segment {
	size_t name_len;
	uint64_t size;
	bool track;
	bool private_history;
};

static int parse_option(const char *s, size_t n, struct segment *out)
{
	if (n == 5 && strncmp(s, "track", n) == 0)
		out->track = true;
	else if (n == 15 && strncmp(s, "private-history", n) == 0)
		out->private_history = true;
	else
		return -EINVAL;
	return 0;
}

/* -EDOM: not a size; -ERANGE: too large; -EINVAL: no such option. */
static int parse_segment(const char *s, struct segment *out)
{
	char size[32];
	const char *at = strchr(s, '=') + 1;
	size_t n = strcspn(at, ",");
	int ret;

	*out = (struct segment){.name_len = (size_t)(at - 1 - s)};
	(void)snprintf(size, sizeof(size), "%.*s", (int)n, at);
	ret = n < sizeof(size) ? parse_size(size, &out->size) : -ERANGE;
	if (ret == 0 && out->size == 0)
		ret = -EDOM;
	if (ret != 0)
		return ret == -ERANGE ? ret : -EDOM;
	for (at += n; *at == ',' && ret == 0; at += n) {
		at++;
		n = strcspn(at, ",");
		ret = parse_option(at, n, out);
	}
	return ret;
}

int check_run(struct cli *c, const struct args *a)
{
	struct segment seg;

	for (size_t i = 0; i < a->segments.n; i++) {
		const char *s = a->segments.v[i];
		int ret = parse_segment(s, &seg);

		if (ret == 0)
			continue;
		cli_fail(c, "--segment %s: %s", s,
		    ret == -ERANGE ? "the size is too large"
		    : ret == -EDOM ? "not a size above 0"
				   : "after the size go ,track and "
				     ",private-history");
		return EX_USAGE;
	}
	return EX_OK;
}

static json_t *segment_list(const struct args *a)
{
	json_t *list = json_array();

	for (size_t i = 0; i < a->segments.n; i++) {
		const char *s = a->segments.v[i];
		struct segment seg;

		(void)parse_segment(s, &seg);
		json_array_append_new(list,
		    json_pack("{s:s%, s:I, s:b, s:b}", "name", s, seg.name_len,
			"size", (json_int_t)seg.size, "tracked", seg.track,
			"private_history", seg.private_history));
	}
	return list;
}

static json_t *give_list(const struct args *a)
{
	json_t *list = json_array();

	for (size_t i = 0; i < a->give.n; i++) {
		const char *s = a->give.v[i];
		const char *eq = strchr(s, '=');

		json_array_append_new(
		    list, json_pack("{s:s%, s:s}", "name", s, (size_t)(eq - s),
			      "ref", eq + 1));
	}
	return list;
}

static json_t *strings(const char *const *v, size_t n)
{
	json_t *list = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, json_string(v[i]));
	return list;
}

/* The parameters of vm.launch, or NULL. */
static json_t *params(struct cli *c, const struct args *a)
{
	const char *const *words = (const char *const *)a->words;
	json_t *p = firn_json_with_str(
	    json_pack("{s:o, s:o, s:o, s:o, s:b}", "args",
		strings(words, a->nwords), "env", strings(a->env.v, a->env.n),
		"segments", segment_list(a), "give", give_list(a), "detach",
		a->detach),
	    "name", a->name);

	if (a->mem)
		p = firn_json_with(p, "mem", json_integer((json_int_t)a->mem));

	/* jansson refuses a string that is not UTF-8. */
	if (p && json_array_size(json_object_get(p, "args")) == a->nwords &&
	    json_array_size(json_object_get(p, "env")) == a->env.n &&
	    json_array_size(json_object_get(p, "segments")) == a->segments.n &&
	    json_array_size(json_object_get(p, "give")) == a->give.n)
		return p;
	json_decref(p);
	cli_fail(c, "a word is not UTF-8, or there is no memory");
	return NULL;
}

static json_t *launch(struct cli *c, const struct args *a, json_t *p)
{
	AUTO_CLOSE int prog = open_program(c, a->words[0]);
	const int send[4] = {prog, STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO};
	struct cli_fds fds = {.send = send, .nsend = 4};

	if (prog < 0) {
		json_decref(p);
		return NULL;
	}
	return cli_call_fds(c, "vm.launch", p, &fds);
}

static void kill_vm(struct cli *c, const char *id)
{
	struct firn_error e;
	uint64_t seq;

	(void)firn_call_async_json(c->conn, "vm.kill",
	    json_pack("{s:s}", "vm", id), NULL, 0, &seq, &e);
}

/*
 * Wait for the answer to (seq), and for signals: the first one kills the VM,
 * and so does our going.
 */
static json_t *await(struct cli *c, const char *id, uint64_t seq)
{
	struct pollfd p[2] = {
	    {.fd = firn_fd(c->conn), .events = POLLIN},
	    {.fd = c->sig_fd, .events = POLLIN},
	};
	struct firn_error e;
	json_t *r = NULL;
	int ret, n;

	for (;;) {
		ret = firn_wait_reply_json(c->conn, seq, 0, &r, NULL, NULL, &e);
		if (!ret)
			return r;
		if (ret != -ETIMEDOUT && ret != -EINTR && ret != -ECANCELED)
			break;
		n = poll(p, c->got_sig ? 1 : 2, c->got_sig ? KILL_MS : -1);
		if (n == 0)
			return NULL;
		if (!c->got_sig && cli_signalled(c, 0))
			kill_vm(c, id);
	}
	if (!c->got_sig)
		cli_fail(c, "%s", e.msg);
	return NULL;
}

static int finish(struct cli *c, const struct args *a, json_t *r)
{
	json_t *report = json_object_get(r, "report");
	int status = (int)json_u64(r, "status") & 0xff;

	if (c->json && out_json(r))
		return EX_FAIL;
	if (c->got_sig)
		return EX_FAIL;
	if (json_is_object(report)) {
		report_print(a->name ? a->name : a->words[0], report);
		return status;
	}
	if (strcmp(json_str(r, "reason"), "exit") != 0)
		cli_fail(c, "the guest ended: %s", json_str(r, "reason"));
	return status;
}

static int attached(struct cli *c, const struct args *a, uint64_t vm)
{
	struct firn_error e;
	uint64_t seq;
	char id[24];
	json_t *r;
	int ret;

	(void)snprintf(id, sizeof(id), "%llu", (unsigned long long)vm);
	if (firn_call_async_json(c->conn, "vm.wait",
		json_pack("{s:s}", "vm", id), NULL, 0, &seq, &e))
		return cli_fail(c, "%s", e.msg);
	r = await(c, id, seq);
	if (!r)
		return EX_FAIL;
	ret = finish(c, a, r);
	json_decref(r);
	return ret;
}

/* What the other commands may call it. */
static int detached(struct cli *c, const json_t *r)
{
	if (c->json)
		return out_json(r);
	if (*json_str(r, "name"))
		out_text(stdout, json_str(r, "name"));
	else
		(void)printf("%" PRIu64, json_u64(r, "vm"));
	(void)putchar('\n');
	return EX_OK;
}

int verb_run(struct cli *c, const struct args *a)
{
	json_t *p = params(c, a);
	json_t *r = p ? launch(c, a, p) : NULL;
	int ret;

	if (!r)
		return EX_FAIL;
	ret = a->detach ? detached(c, r) : attached(c, a, json_u64(r, "vm"));
	json_decref(r);
	return ret;
}
