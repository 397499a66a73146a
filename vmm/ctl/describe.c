/* SPDX-License-Identifier: MIT */
/* service.describe, and what the error codes mean. */
#include <errno.h>
#include <stdlib.h>

#include "vmm/ctl/ctl_priv.h"

struct code_row {
	enum ctl_code code;
	const char *name;
	const char *when;
};

static const struct code_row codes[] = {
    {CTL_PARSE, "parse", "not JSON, or not one object a line"},
    {CTL_REQUEST, "request", "not a request of JSON-RPC 2.0"},
    {CTL_METHOD, "method", "no such method"},
    {CTL_PARAMS, "params",
	"a parameter is missing, unknown, of the wrong type or out of range; "
	"wrong or missing descriptors"},
    {CTL_REFUSED, "refused", "the state forbids it"},
    {CTL_UNKNOWN, "unknown", "no VM, segment, snapshot, view of that name"},
    {CTL_EXISTS, "exists", "the name or address is taken"},
    {CTL_LIMIT, "limit", "a limit of firn was reached"},
    {CTL_EXHAUSTED, "exhausted", "the host is out of memory or descriptors"},
    {CTL_GONE, "gone", "the VM ended meanwhile"},
    {CTL_FAILED, "failed", "anything else; the message has the reason"},
};

enum ctl_code ctl_code_of(int err)
{
	switch (abs(err)) {
	case EBUSY:
	case ESTALE:
	case EPERM:
	case EACCES:
	case EINVAL:
		return CTL_REFUSED;
	case ENOENT:
		return CTL_UNKNOWN;
	case EEXIST:
		return CTL_EXISTS;
	case ENOSPC:
	case E2BIG:
	case EMSGSIZE:
		return CTL_LIMIT;
	case ENOMEM:
	case ENFILE:
	case EMFILE:
		return CTL_EXHAUSTED;
	case ESRCH:
		return CTL_GONE;
	default:
		return CTL_FAILED;
	}
}

static const char *type_id(enum ctl_type t)
{
	static const char *const ids[] = {
	    [CTL_STRING] = "string",
	    [CTL_SIZE] = "size",
	    [CTL_INT] = "int",
	    [CTL_BOOL] = "bool",
	    [CTL_OBJECT] = "object",
	    [CTL_STRINGS] = "array of string",
	    [CTL_OBJECTS] = "array of object",
	    [CTL_EXTENTS] = "array of [first, count]",
	    [CTL_IDS] = "array of int",
	};

	return ids[t];
}

/*
 * The jansson setters refuse a NULL value, so one failed allocation anywhere
 * shows in (ok), and the whole description is dropped.
 */
static void add(json_t *obj, const char *key, json_t *v, bool *ok)
{
	if (json_object_set_new(obj, key, v) != 0)
		*ok = false;
}

static void append(json_t *array, json_t *v, bool *ok)
{
	if (json_array_append_new(array, v) != 0)
		*ok = false;
}

/* One level; what it has for fields is the caller's to add. */
static json_t *describe_param(const struct ctl_param *p, bool *ok)
{
	json_t *o = json_object();

	add(o, "name", json_string(p->name), ok);
	add(o, "type", json_string(type_id(p->type)), ok);
	add(o, "optional", json_boolean(p->optional), ok);
	if (p->doc != NULL)
		add(o, "doc", json_string(p->doc), ok);
	return o;
}

static json_t *describe_fields(const struct ctl_param *p, bool *ok)
{
	json_t *a = json_array();

	for (; p && p->name; p++)
		append(a, describe_param(p, ok), ok);
	return a;
}

static json_t *describe_params(const struct ctl_param *p, bool *ok)
{
	json_t *a = json_array();

	for (; p && p->name; p++) {
		json_t *o = describe_param(p, ok);

		if (p->fields != NULL)
			add(o, "fields", describe_fields(p->fields, ok), ok);
		append(a, o, ok);
	}
	return a;
}

static json_t *describe_op(const struct ctl_op *op, bool *ok)
{
	json_t *o = json_object();
	json_t *fds = json_array();

	for (unsigned i = 0; i < op->nfds; i++)
		append(fds,
		    json_string(op->fds != NULL ? op->fds[i] : "descriptor"),
		    ok);
	add(o, "name", json_string(op->name), ok);
	add(o, "summary", json_string(op->summary), ok);
	add(o, "params", describe_params(op->params, ok), ok);
	add(o, "results", describe_params(op->results, ok), ok);
	add(o, "descriptors", fds, ok);
	return o;
}

static json_t *describe_event(const struct ctl_event *ev, bool *ok)
{
	json_t *o = json_object();

	add(o, "name", json_string(ev->name), ok);
	add(o, "summary", json_string(ev->summary), ok);
	add(o, "params", describe_params(ev->params, ok), ok);
	return o;
}

static json_t *describe_code(const struct code_row *c, bool *ok)
{
	json_t *o = json_object();

	add(o, "code", json_integer(c->code), ok);
	add(o, "name", json_string(c->name), ok);
	add(o, "when", json_string(c->when), ok);
	return o;
}

static json_t *describe_limits(bool *ok)
{
	json_t *o = json_object();

	add(o, "line_bytes", json_integer(CTL_LINE_MAX), ok);
	add(o, "queued_bytes", json_integer(CTL_OUT_MAX), ok);
	add(o, "queued_descriptors", json_integer(CTL_OUT_FDS_MAX), ok);
	add(o, "connections", json_integer(CTL_CONNS_MAX), ok);
	add(o, "requests", json_integer(CTL_REQS_MAX), ok);
	add(o, "request_descriptors", json_integer(CTL_FDS_MAX), ok);
	add(o, "reply_descriptors", json_integer(CTL_REPLY_FDS), ok);
	return o;
}

json_t *ctl_describe(const struct ctl_conf *conf)
{
	json_t *o = json_object();
	json_t *methods = json_array();
	json_t *events = json_array();
	json_t *errors = json_array();
	bool ok = o != NULL;

	for (size_t i = 0; i < conf->nops; i++)
		append(methods, describe_op(&conf->ops[i], &ok), &ok);
	for (size_t i = 0; i < conf->nevents; i++)
		append(events, describe_event(&conf->events[i], &ok), &ok);
	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		append(errors, describe_code(&codes[i], &ok), &ok);
	add(o, "service", json_string(conf->service), &ok);
	add(o, "version", json_string(conf->version), &ok);
	add(o, "limits", describe_limits(&ok), &ok);
	add(o, "methods", methods, &ok);
	add(o, "events", events, &ok);
	add(o, "errors", errors, &ok);
	if (!ok) {
		json_decref(o);
		return NULL;
	}
	return o;
}

void ctl_describe_op(void *ctx, struct ctl_req *rq)
{
	(void)ctx;
	ctl_reply(rq, ctl_describe(rq->conf), NULL, 0);
}
