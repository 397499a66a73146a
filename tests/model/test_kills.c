/* SPDX-License-Identifier: MIT */
/*
 * What is left after processes are killed at random moments. FIRN_SEED repeats
 * a run, which prints its seed; FIRN_TEST_SCALE=small shortens it.
 */
#include <sys/prctl.h>
#include <sys/un.h>

#include "tests/chance.h"
#include "tests/model/holds.h"
#include "tests/model/talk.h"
#include "tests/unit/unit.h"

#define STAMPED 4096u /* pages, a power of two */

struct kills {
	struct rig g;
	struct rig_vm a, b; /* a producer, and who maps what it froze */
	uint64_t rng;
	uint64_t snap;
};

/* A producer that goes on writing, and a snapshot in several layers. */
static void kill_setup(struct kills *k)
{
	struct firn_segment seg;
	struct firn_freeze_result r = {0};
	struct firn_error e = {0};

	launch_model(&k->g, &k->b, "model", STAMPED, NULL, &seg);
	launch_model(&k->g, &k->a, "model", STAMPED, NULL, &seg);
	start_stamps(&k->a, &seg);
	for (int i = 0; i < 3; i++)
		if (firn_freeze(k->g.conn, k->a.ref, "a", NULL, &r, &e) != 0)
			rig_fail("freeze: %s", e.msg);
	k->snap = r.snapshot;
}

static json_t *kill_params(struct kills *k, int which)
{
	const char *name = which == 1 ? "exact" : "plain";
	struct rig_ref s = rig_ref(k->snap);
	char live[48];

	(void)snprintf(live, sizeof(live), "%s:a", k->a.ref);
	switch (which) {
	case 0:
		return json_pack("{s:s,s:s}", "vm", k->a.ref, "segment", "a");
	case 1:
	case 2:
		return json_pack("{s:s,s:s,s:s,s:b}", "vm", k->a.ref, "segment",
		    "a", "cursor", name, "exact", which == 1);
	case 3:
		return json_pack(
		    "{s:s,s:s,s:b}", "a", s.s, "b", live, "exact", 1);
	case 4:
		return json_pack("{s:s,s:s,s:b}", "vm", k->b.ref, "snapshot",
		    s.s, "cow", (int)chance(&k->rng, 2));
	default:
		return json_pack("{s:s}", "snapshot", s.s);
	}
}

static const char *const kill_methods[] = {"segment.freeze", "dirty.query",
    "dirty.query", "snapshot.diff", "view.map", "snapshot.open",
    "segment.sever"};

/* Any operation, answered later. */
static uint64_t kill_ask(struct kills *k, struct firn *conn, int which)
{
	struct firn_error e = {0};
	uint64_t id = 0;

	if (firn_call_async_json(conn, kill_methods[which],
		kill_params(k, which == 6 ? 0 : which), NULL, 0, &id, &e) != 0)
		rig_fail("%s: %s", kill_methods[which], e.msg);
	return id;
}

/* An answer must come; which, is not known. */
static void kill_answered(struct firn *conn, uint64_t id)
{
	struct firn_error e = {0};
	struct firn_reply r = {0};
	int rc = firn_wait_reply(conn, id, 60000, &r, &e);

	if (rc == 0)
		firn_reply_free(&r);
	else if (e.code == 0)
		rig_fail("no answer: %s", e.msg);
}

static void kill_monitor(struct kills *k)
{
	static const int asked[] = {0, 1, 2, 3, 6, 0};
	uint64_t id[3];

	for (int i = 0; i < 3; i++)
		id[i] = kill_ask(k, k->g.conn, asked[chance(&k->rng, 6)]);
	(void)usleep((useconds_t)chance(&k->rng, 8000));
	(void)kill(k->a.monitor, SIGKILL);
	for (int i = 0; i < 3; i++)
		kill_answered(k->g.conn, id[i]);
}

/* The VM that maps ends meanwhile: killed, asked to end, or of itself. */
static void kill_mapper(struct kills *k)
{
	json_t *p = json_pack("{s:s}", "vm", k->b.ref);
	uint64_t how = chance(&k->rng, 3);
	uint64_t end = 0;
	uint64_t id[3];
	struct firn_error e = {0};

	for (int i = 0; i < 3; i++)
		id[i] = kill_ask(k, k->g.conn, 4);
	(void)usleep((useconds_t)chance(&k->rng, 3000));
	if (how == 0) {
		(void)kill(k->b.monitor, SIGKILL);
	} else if (how == 1) {
		if (firn_call_async_json(k->g.conn, "vm.kill", json_incref(p),
			NULL, 0, &end, &e) != 0)
			rig_fail("vm.kill: %s", e.msg);
	} else {
		(void)fclose(k->b.in);
		k->b.in = fopen("/dev/null", "we");
	}
	for (int i = 0; i < 3; i++)
		kill_answered(k->g.conn, id[i]);
	if (how == 1)
		kill_answered(k->g.conn, end);
	json_decref(p);
}

/* A client asks for everything at once and is killed. */
static void kill_client(struct kills *k)
{
	pid_t pid = fork();

	if (pid == 0) {
		struct firn *conn;

		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		conn = rig_client(&k->g);
		for (int i = 0; i < 12; i++)
			(void)kill_ask(k, conn, (int)chance(&k->rng, 7));
		for (;;)
			(void)pause();
	}
	assert_true(pid > 0);
	(void)usleep((useconds_t)chance(&k->rng, 20000));
	(void)kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

/* Half a request, with descriptors, and nothing more. */
static void kill_half(struct kills *k)
{
	static const char half[] = "{\"jsonrpc\":\"2.0\",\"method\":\"vm.lau";
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	union {
		struct cmsghdr h;
		char room[CMSG_SPACE(4 * sizeof(int))];
	} c = {.h = {.cmsg_len = CMSG_LEN(4 * sizeof(int)),
		   .cmsg_level = SOL_SOCKET,
		   .cmsg_type = SCM_RIGHTS}};
	struct iovec v = {(void *)(uintptr_t)half, sizeof(half) - 1};
	struct msghdr m = {.msg_iov = &v,
	    .msg_iovlen = 1,
	    .msg_control = &c,
	    .msg_controllen = sizeof(c)};
	const int fds[4] = {0, 1, 2, 2};
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(to.sun_path, k->g.socket, sizeof(k->g.socket));
	memcpy(CMSG_DATA(&c.h), fds, sizeof(fds));
	assert_int_equal(
	    connect(s, (struct sockaddr *)(void *)&to, sizeof(to)), 0);
	assert_int_equal(sendmsg(s, &m, 0), (ssize_t)sizeof(half) - 1);
	(void)usleep((useconds_t)chance(&k->rng, 3000));
	(void)close(s);
}

/* End a VM that may have ended. */
static void kill_end(struct kills *k, struct rig_vm *vm)
{
	if (vm->in == NULL)
		rig_fail("no /dev/null");
	rig_end(&k->g, vm);
}

static void test_kills(void **state)
{
	static void (*const how[])(struct kills * k) = {
	    kill_monitor, kill_mapper, kill_client, kill_half};
	static struct kills k;
	struct holds before;
	unsigned rounds = chance_small() ? 8 : 40;

	(void)state;
	(void)signal(SIGPIPE, SIG_IGN);
	k.rng = chance_begin("kills");
	rig_start_as(&k.g, true);
	get_holds(&k.g, &before);
	for (unsigned i = 0; i < rounds; i++) {
		kill_setup(&k);
		how[i % 4](&k);
		if (chance(&k.rng, 4) == 0)
			how[chance(&k.rng, 4)](&k);
		kill_end(&k, &k.a);
		kill_end(&k, &k.b);
		drop_all(&k.g);
		check_holds(&k.g, &before);
	}
	rig_stop(&k.g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_kills),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
