/* SPDX-License-Identifier: MIT */
/* What a connection that subscribed is told, beside the one that asks. */
#include "tests/unit/broker_world.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/broker/internal.h"
#include "vmm/ctl/ctl_priv.h"

#define SUBSCRIBE                                                              \
	"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"service.subscribe\"}\n"

static int listener(struct world *x)
{
	struct err e;
	int sv[2];

	assert_int_equal(
	    __real_socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	assert_int_equal(broker_adopt(x->b, sv[1], &e), 0);
	return sv[0];
}

/* The next line, within some turns of the loop; NULL: none came. */
static json_t *heard(struct world *x, int fd)
{
	static const int turns = 200;
	char line[4096];
	size_t n = 0;

	for (int i = 0; i < turns; pump(x), i++)
		while (recv(fd, line + n, 1, MSG_DONTWAIT) == 1) {
			assert_true(n < sizeof(line) - 1);
			if (line[n++] == '\n')
				return json_loadb(line, n, 0, NULL);
		}
	assert_int_equal(n, 0);
	return NULL;
}

/* An event is as service.describe says. */
static void check_event(const char *name, json_t *params)
{
	struct ctl_op as = {.name = name};
	struct ctl_failure f;

	for (size_t i = 0; i < broker_ctl_conf.nevents; i++)
		if (strcmp(broker_ctl_conf.events[i].name, name) == 0)
			as.params = broker_ctl_conf.events[i].params;
	if (!ctl_check_params(&as, params, &f))
		fail_msg("event %s: %s", name, f.why);
}

/* The next is event (name); its parameters, of which (want) are some. */
static void hears(struct world *x, int fd, const char *name, json_t *want)
{
	json_t *m = heard(x, fd);
	json_t *params = json_object_get(m, "params");
	const char *key;
	json_t *v;

	if (m == NULL)
		fail_msg("no %s came", name);
	assert_string_equal(
	    json_string_value(json_object_get(m, "method")), name);
	json_object_foreach(want, key, v)
	{
		json_t *got = json_object_get(params, key);

		if (json_is_null(v) ? got != NULL : !json_equal(v, got))
			fail_msg("%s: %s is wrong", name, key);
	}
	check_event(name, params);
	json_decref(want);
	json_decref(m);
}

static void a_subscriber_is_told(void **state)
{
	struct world *x = *state;
	int deaf = listener(x);
	int fd = listener(x);
	struct fake *f;
	struct fake *g;
	json_t *m;
	int file;

	assert_true(send(fd, SUBSCRIBE, strlen(SUBSCRIBE), 0) > 0);
	m = heard(x, fd);
	assert_true(good(m));
	json_decref(m);
	f = launch_vm(x, 0, "v");
	hears(x, fd, "vm.started", json_pack("{s:s}", "name", "v"));
	g = launch_vm(x, 1, "w");
	hears(x, fd, "vm.started", json_pack("{s:s}", "name", "w"));
	prepare_meld(x, f, g);
	hears(x, fd, "snapshot.made",
	    json_pack("{s:s,s:s,s:i}", "name", "base", "segment", "ram",
		"pages", (int)NPAGES));
	hears(x, fd, "view.mapped", NULL);
	hears(x, fd, "view.mapped", NULL);
	hears(x, fd, "snapshot.made", json_pack("{s:s}", "name", "a"));
	hears(x, fd, "snapshot.made", json_pack("{s:s}", "name", "b"));
	m = meld_params("base", "a", "b");
	(void)json_object_set_new(m, "name", json_string("m"));
	must_do(x, "snapshot.meld", m);
	hears(x, fd, "snapshot.made",
	    json_pack("{s:s,s:i,s:n,s:n}", "name", "m", "pages", (int)NPAGES,
		"vm", "segment"));
	file = new_layer(2);
	assert_int_equal(seal(file), 0);
	m = call_fds(x, "snapshot.import",
	    json_pack("{s:s,s:i}", "name", "i", "pages", 2), &file, 1);
	assert_true(good(m));
	json_decref(m);
	(void)close(file);
	hears(x, fd, "snapshot.made",
	    json_pack("{s:s,s:i,s:n}", "name", "i", "pages", 2, "vm"));
	must_do(x, "snapshot.drop", json_pack("{s:s}", "snapshot", "i"));
	hears(x, fd, "snapshot.gone", NULL);
	end_vm(x, f);
	hears(x, fd, "vm.exited", json_pack("{s:s}", "name", "v"));
	end_vm(x, g);
	hears(x, fd, "vm.exited", json_pack("{s:s}", "name", "w"));
	assert_null(heard(x, deaf));
	(void)close(deaf);
	(void)close(fd);
	nothing_left(x);
}

/* Of two that are made under one name at once one fails: nobody hears of it,
 * nor of its end. */
static void what_failed_is_not_told(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	int fd = listener(x);
	int ngood = 0;
	json_t *m;

	assert_true(send(fd, SUBSCRIBE, strlen(SUBSCRIBE), 0) > 0);
	json_decref(heard(x, fd));
	guest_writes(f, 0, 1, 7);
	request(x, "segment.freeze", freeze_params(f, "s"), NULL, 0);
	request(x, "segment.freeze", freeze_params(f, "s"), NULL, 0);
	for (int i = 0; i < 2; i++) {
		m = answer(x);
		ngood += good(m);
		json_decref(m);
	}
	assert_int_equal(ngood, 1);
	hears(x, fd, "snapshot.made", json_pack("{s:s}", "name", "s"));
	assert_null(heard(x, fd));
	end_vm(x, f);
	(void)close(fd);
	nothing_left(x);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(a_subscriber_is_told),
	    T(what_failed_is_not_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
