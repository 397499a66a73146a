/* SPDX-License-Identifier: MIT */
/* ctl: requests, what is wrong with them, and their answers. */
#include "tests/unit/ctl_fix.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void test_call(void **state)
{
	struct fix *x = *state;
	json_t *j;

	put(x, ADD(1, 2) ADD(2, 3));
	expect_sum(x, 1, 102);
	expect_sum(x, 2, 103);
	put(x,
	    "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"add\",\"params\":"
	    "{\"a\":1,\"b\":1}}\n");
	j = get(x);
	assert_string_equal(json_string_value(json_object_get(j, "id")), "x");
	json_decref(j);
}

static void test_malformed(void **state)
{
	struct fix *x = *state;

	put(x, "nonsense\n");
	expect_error(x, CTL_PARSE, "EBADMSG", "not a JSON object");
	put(x, "\n");
	expect_error(x, CTL_PARSE, "EBADMSG", "not a JSON object");
	put(x, "{\"a\":1,\"a\":2}\n");
	expect_error(x, CTL_PARSE, "EBADMSG", "duplicate");
	put(x, REQP("add", "{\"a\":1,\"word\":\"x\\u0000y\"}"));
	expect_error(x, CTL_PARSE, "EBADMSG", "NUL");
	put(x, "[" ADD(1, 2));
	expect_error(x, CTL_PARSE, "EBADMSG", "");
	put(x, "[]\n");
	expect_error(x, CTL_REQUEST, "EINVAL", "batch");
	put(x, "{}\n");
	expect_error(x, CTL_REQUEST, "EINVAL", "no id");
	put(x, "{\"jsonrpc\":\"2.0\",\"method\":\"add\"}\n");
	expect_error(x, CTL_REQUEST, "EINVAL", "no id");
	put(x, "{\"jsonrpc\":\"2.0\",\"id\":1.5,\"method\":\"add\"}\n");
	expect_error(x, CTL_REQUEST, "EINVAL", "the id must");
	put(x, "{\"id\":1,\"method\":\"add\"}\n");
	expect_error(x, CTL_REQUEST, "EINVAL", "2.0");
	put(x, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":7}\n");
	expect_error(x, CTL_REQUEST, "EINVAL", "method");
	put(x, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"add\",\"x\":1}\n");
	expect_error(x, CTL_REQUEST, "EINVAL", "no members but");
	put(x, ADD(5, 1));
	expect_sum(x, 5, 101);
}

static void test_deep(void **state)
{
	struct fix *x = *state;
	char buf[5001];

	memset(buf, '[', 5000);
	buf[5000] = '\0';
	put(x, "{\"a\":");
	put(x, buf);
	put(x, "\n");
	expect_error(x, CTL_PARSE, "EBADMSG", "depth");
}

static void test_params(void **state)
{
	static const struct {
		const char *params;
		const char *why;
	} bad[] = {
	    {"{}", "'a' is missing"},
	    {"{\"a\":\"1\"}", "'a' must be an integer"},
	    {"{\"a\":1.0}", "'a' must be an integer"},
	    {"{\"a\":1,\"zz\":1}", "'zz' is unknown"},
	    {"{\"a\":1,\"size\":-1}", "'size' must be"},
	    {"{\"a\":1,\"yes\":1}", "'yes' must be true or false"},
	    {"{\"a\":1,\"word\":null}", "'word' must be a string"},
	    {"{\"a\":1,\"words\":[\"x\",1]}", "'words' must be"},
	    {"{\"a\":1,\"list\":[1]}", "'list' must be"},
	    {"{\"a\":1,\"list\":[{}]}", "'list[0].name' is missing"},
	    {"{\"a\":1,\"list\":[{\"name\":\"n\",\"q\":1}]}",
		"'list[0].q' is unknown"},
	    {"{\"a\":1,\"list\":[{\"name\":\"n\",\"size\":-1}]}",
		"'list[0].size' must be"},
	    {"{\"a\":1,\"extents\":[[1]]}", "'extents' must be"},
	    {"{\"a\":1,\"extents\":[[1,-1]]}", "'extents' must be"},
	    {"[1]", "\"params\" must be an object"},
	};
	struct fix *x = *state;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char line[256];

		(void)snprintf(line, sizeof(line),
		    "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"add\","
		    "\"params\":%s}\n",
		    bad[i].params);
		put(x, line);
		expect_error(x, CTL_PARAMS, "EINVAL", bad[i].why);
	}
	assert_int_equal(x->ran, 0);
	put(x, REQ("none"));
	expect_error(x, CTL_METHOD, "ENOSYS", "'none'");
	put(x, REQ("range"));
	expect_error(x, CTL_PARAMS, "EINVAL", "'a' must be below 7");
	put(x, REQP("add",
		   "{\"a\":1,\"b\":2,\"size\":0,\"yes\":true,\"word\":\"\","
		   "\"words\":[],\"list\":[{\"name\":\"\"}],\"extents\":[[0,1]]"
		   "}"));
	expect_sum(x, 1, 3);
}

static void test_codes(void **state)
{
	static const struct {
		int err, code;
		const char *name;
	} map[] = {
	    {EBUSY, CTL_REFUSED, "EBUSY"},
	    {EPERM, CTL_REFUSED, "EPERM"},
	    {EACCES, CTL_REFUSED, "EACCES"},
	    {EINVAL, CTL_REFUSED, "EINVAL"},
	    {ENOENT, CTL_UNKNOWN, "ENOENT"},
	    {EEXIST, CTL_EXISTS, "EEXIST"},
	    {ENOSPC, CTL_LIMIT, "ENOSPC"},
	    {E2BIG, CTL_LIMIT, "E2BIG"},
	    {EMSGSIZE, CTL_LIMIT, "EMSGSIZE"},
	    {ENOMEM, CTL_EXHAUSTED, "ENOMEM"},
	    {ENFILE, CTL_EXHAUSTED, "ENFILE"},
	    {EMFILE, CTL_EXHAUSTED, "EMFILE"},
	    {ESRCH, CTL_GONE, "ESRCH"},
	    {EIO, CTL_FAILED, "EIO"},
	};
	struct fix *x = *state;

	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++) {
		char line[128];

		(void)snprintf(line, sizeof(line),
		    REQP("fail", "{\"errno\":%d}"), map[i].err);
		put(x, line);
		/* The message was not UTF-8; it is told nevertheless. */
		expect_error(x, map[i].code, map[i].name, "no ?");
	}
	put(x, REQ("oom"));
	expect_error(x, CTL_EXHAUSTED, "ENOMEM", "oom");
}

static void test_describe(void **state)
{
	struct fix *x = *state;
	json_t *want = ctl_describe(&x->conf);
	json_t *methods = json_object_get(want, "methods");
	json_t *j;

	put(x, REQ("service.describe"));
	j = get(x);
	assert_true(json_equal(json_object_get(j, "result"), want));
	json_decref(j);
	assert_int_equal(json_array_size(methods), x->conf.nops);
	for (size_t i = 0; i < x->conf.nops; i++) {
		json_t *m = json_array_get(methods, i);
		size_t nparams = 0;

		while (ctl_fix_ops[i].params &&
		       ctl_fix_ops[i].params[nparams].name)
			nparams++;
		assert_string_equal(
		    json_string_value(json_object_get(m, "name")),
		    ctl_fix_ops[i].name);
		assert_int_equal(
		    json_array_size(json_object_get(m, "params")), nparams);
		assert_int_equal(
		    json_array_size(json_object_get(m, "descriptors")),
		    ctl_fix_ops[i].nfds);
	}
	assert_int_equal(json_array_size(json_object_get(want, "errors")), 11);
	assert_int_equal(json_array_size(json_object_get(want, "events")), 1);
	json_decref(want);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_call),
	    T(test_malformed),
	    T(test_deep),
	    T(test_params),
	    T(test_codes),
	    T(test_describe),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
