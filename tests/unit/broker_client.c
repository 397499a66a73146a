/* SPDX-License-Identifier: MIT */
/* A client of the broker: requests, and their answers. */
#include "tests/unit/broker_world.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "vmm/broker/internal.h"
#include "vmm/core/fdmsg.h"
#include "vmm/ctl/ctl_priv.h"

uint64_t now(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int highest_fd(void)
{
	DIR *d = opendir("/proc/self/fd");
	int most = 0;

	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d)) != NULL;) {
		int fd = (int)strtol(e->d_name, NULL, 10);

		if (fd > most && fd != dirfd(d))
			most = fd;
	}
	(void)closedir(d);
	return most;
}

/* What keeps the broker from having more than hook.slack descriptors more: a
 * limit behind all that are open, and others in all places before it. */
struct shortage {
	struct rlimit old;
	int fd[1024];
	size_t n;
};

static void begin_shortage(struct shortage *s)
{
	int most = highest_fd();
	struct rlimit rl;
	int fd;

	s->n = 0;
	while ((fd = __real_fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0L)) < most) {
		assert_in_range(fd, 0, most);
		assert_in_range(s->n, 0, 1023);
		s->fd[s->n++] = fd;
	}
	(void)close(fd);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &s->old), 0);
	rl = s->old;
	rl.rlim_cur = (rlim_t)most + 1 + hook.slack;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &rl), 0);
}

static void end_shortage(struct shortage *s)
{
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &s->old), 0);
	fdmsg_close_all(s->fd, s->n);
}

/* The broker's turn, then its monitors'. */
void pump(struct world *x)
{
	bool limited = hook.slack > 0 && atomic_load(&hook.armed);
	struct shortage s;

	x->rounds++;
	if (limited)
		begin_shortage(&s);
	ours = false;
	(void)loop_run_once(x->l, 2, NULL);
	ours = true;
	if (limited)
		end_shortage(&s);
	for (int i = 0; i < FAKES_MAX; i++)
		if (x->fake[i].used)
			fake_serve(&x->fake[i]);
}

void connect_client(struct world *x)
{
	struct err e;
	int sv[2];

	assert_int_equal(
	    __real_socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	if (x->fd >= 0)
		(void)close(x->fd);
	x->fd = sv[0];
	x->in_len = 0;
	x->lost = false;
	if (broker_adopt(x->b, sv[1], &e) != 0)
		fail_msg("%s", e.msg);
}

void drop_fds(struct world *x)
{
	fdmsg_close_all(x->fds, x->nfds);
	x->nfds = 0;
}

/* Is there a line? */
static bool has_line(const struct world *x)
{
	return memchr(x->in, '\n', x->in_len) != NULL;
}

/* Take what is there. */
static bool receive(struct world *x)
{
	int got[FDMSG_MAX];
	size_t ngot = 0;
	ssize_t n;

	if (has_line(x))
		return true;
	n = fdmsg_recv(x->fd, x->in + x->in_len, LINE_BYTES - x->in_len, got,
	    FDMSG_MAX, &ngot, MSG_DONTWAIT);
	if (n == -EAGAIN)
		return false;
	if (n <= 0) {
		x->lost = true;
		return false;
	}
	memcpy(x->fds + x->nfds, got, ngot * sizeof(int));
	x->nfds += ngot;
	x->in_len += (size_t)n;
	return has_line(x);
}

static json_t *take_line(struct world *x)
{
	char *nl = memchr(x->in, '\n', x->in_len);
	size_t len = (size_t)(nl - x->in) + 1;
	json_t *m = json_loadb(x->in, len, 0, NULL);

	if (m == NULL)
		fail_msg("not JSON: %.*s", (int)len, x->in);
	x->in_len -= len;
	memmove(x->in, x->in + len, x->in_len);
	return m;
}

void request(struct world *x, const char *method, json_t *params,
    const int *fds, size_t nfds)
{
	json_t *m = json_pack("{s:s,s:I,s:s,s:o}", "jsonrpc", "2.0", "id",
	    ++x->id, "method", method, "params", params);
	char *text = json_dumps(m, JSON_COMPACT);
	size_t len = strlen(text);

	text[len++] = '\n';
	assert_int_equal(
	    fdmsg_send(x->fd, text, len, fds, nfds, 0), (ssize_t)len);
	json_decref(m);
	free(text);
}

/* The answer, {result} or {error}; NULL when the connection ended instead, and
 * then there is a new one. */
json_t *answer(struct world *x)
{
	uint64_t end = now() + PATIENCE_NS;

	while (!receive(x) && !x->lost) {
		pump(x);
		if (now() > end)
			fail_msg("no answer");
	}
	if (x->lost) {
		bool armed = atomic_exchange(&hook.armed, false);

		connect_client(x);
		atomic_store(&hook.armed, armed);
		return NULL;
	}
	return take_line(x);
}

json_t *call_fds(struct world *x, const char *method, json_t *params,
    const int *fds, size_t nfds)
{
	assert_non_null(params);
	drop_fds(x);
	request(x, method, params, fds, nfds);
	return answer(x);
}

json_t *call(struct world *x, const char *method, json_t *params)
{
	return call_fds(x, method, params, NULL, 0);
}

bool good(const json_t *m)
{
	return json_object_get(m, "result") != NULL;
}

const char *why(const json_t *m)
{
	return json_string_value(
	    json_object_get(json_object_get(m, "error"), "message"));
}

/* A result is as service.describe says. */
static void check_result(const char *method, json_t *r)
{
	struct ctl_op as = {.name = method};
	struct ctl_failure f;

	for (size_t i = 0; i < broker_ctl_conf.nops; i++)
		if (strcmp(broker_ctl_conf.ops[i].name, method) == 0)
			as.params = broker_ctl_conf.ops[i].results;
	if (!ctl_check_params(&as, r, &f))
		fail_msg("the result of %s: %s", method, f.why);
}

/* As call(), and it must succeed; its result. */
json_t *must(struct world *x, const char *method, json_t *params)
{
	json_t *m = call(x, method, params);
	json_t *r;

	if (m == NULL || !good(m))
		fail_msg("%s: %s", method, m == NULL ? "cut off" : why(m));
	r = json_incref(json_object_get(m, "result"));
	json_decref(m);
	check_result(method, r);
	return r;
}

void must_do(struct world *x, const char *method, json_t *params)
{
	json_decref(must(x, method, params));
}

/* As call(), and it must fail with a reason in plain words. */
void must_fail(struct world *x, const char *method, json_t *params)
{
	json_t *m = call(x, method, params);

	assert_non_null(m);
	if (good(m))
		fail_msg("%s: succeeded", method);
	assert_true(strlen(why(m)) > 8);
	for (const char *c = why(m); *c != '\0'; c++)
		assert_true(*c >= 0x20 && *c < 0x7f);
	json_decref(m);
}
