/* SPDX-License-Identifier: MIT */
/* Requests: from a line to the handler, and the handler's answer. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/core/fdmsg.h"
#include "vmm/ctl/ctl_priv.h"

/* --- from a line to the handler ------------------------------------------ */

static const struct ctl_op *find_op(
    const struct ctl_conf *conf, const char *name)
{
	for (size_t i = 0; i < conf->nops; i++)
		if (strcmp(conf->ops[i].name, name) == 0)
			return &conf->ops[i];
	return NULL;
}

static bool id_ok(const json_t *id)
{
	return json_is_integer(id) ||
	       (json_is_string(id) && json_string_length(id) <= CTL_ID_MAX);
}

/* The frame of JSON-RPC; sets *id (borrowed) as soon as one is known. */
static bool check_frame(json_t *msg, json_t **id, struct ctl_failure *f)
{
	static const char *const members[] = {
	    "jsonrpc", "id", "method", "params"};
	const char *version =
	    json_string_value(json_object_get(msg, "jsonrpc"));
	json_t *v = json_object_get(msg, "id");
	size_t known = 0;

	if (json_is_array(msg))
		return ctl_refuse(f, CTL_REQUEST, EINVAL,
		    "batches are not served: send one object a line");
	if (id_ok(v))
		*id = v;
	if (v == NULL)
		return ctl_refuse(f, CTL_REQUEST, EINVAL,
		    "the request has no id, so it could not be answered");
	if (*id == NULL)
		return ctl_refuse(f, CTL_REQUEST, EINVAL,
		    "the id must be an integer or a string of at most %u bytes",
		    CTL_ID_MAX);
	if (version == NULL || strcmp(version, "2.0") != 0)
		return ctl_refuse(
		    f, CTL_REQUEST, EINVAL, "\"jsonrpc\" must be \"2.0\"");
	if (!json_is_string(json_object_get(msg, "method")))
		return ctl_refuse(
		    f, CTL_REQUEST, EINVAL, "\"method\" must be a string");
	for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
		known += json_object_get(msg, members[i]) != NULL;
	if (known != json_object_size(msg))
		return ctl_refuse(f, CTL_REQUEST, EINVAL,
		    "a request has no members but jsonrpc, id, method, params");
	return true;
}

static bool check_fds(
    const struct ctl_op *op, const struct ctl_conn *c, struct ctl_failure *f)
{
	size_t n = c->nfds + c->fds_surplus;

	if (n == op->nfds)
		return true;
	return ctl_refuse(f, CTL_PARAMS, EINVAL,
	    "%s takes %u descriptors, and %zu came", op->name, op->nfds, n);
}

/* Everything that can be wrong with a request; on true *op is set. */
static bool check_request(struct ctl_conn *c, json_t *msg, json_t **id,
    const struct ctl_op **op, struct ctl_failure *f)
{
	json_t *params = json_object_get(msg, "params");
	const char *method;
	json_t *none;
	bool ok;

	if (!check_frame(msg, id, f))
		return false;
	method = json_string_value(json_object_get(msg, "method"));
	*op = find_op(c->srv->conf, method);
	if (*op == NULL)
		return ctl_refuse(f, CTL_METHOD, ENOSYS,
		    "no method '%.48s': service.describe lists them", method);
	if (params != NULL && !json_is_object(params))
		return ctl_refuse(
		    f, CTL_PARAMS, EINVAL, "\"params\" must be an object");
	if (params == NULL) {
		none = json_object();
		if (none == NULL ||
		    json_object_set_new(msg, "params", none) != 0)
			return ctl_refuse(
			    f, CTL_EXHAUSTED, ENOMEM, "out of memory");
		params = none;
	}
	ok = ctl_check_params(*op, params, f) && check_fds(*op, c, f);
	if (ok && c->nreqs >= CTL_REQS_MAX)
		return ctl_refuse(f, CTL_LIMIT, ENOSPC,
		    "%u requests of this connection are unanswered: wait",
		    CTL_REQS_MAX);
	return ok;
}

static struct ctl_req *req_new(
    struct ctl_conn *c, const struct ctl_op *op, json_t *msg)
{
	struct ctl_req *rq = calloc(1, sizeof(*rq));

	if (rq == NULL)
		return NULL;
	rq->conn = c;
	rq->conf = c->srv->conf;
	rq->op = op;
	rq->id = json_incref(json_object_get(msg, "id"));
	rq->params = json_incref(json_object_get(msg, "params"));
	memcpy(rq->fds, c->fds, c->nfds * sizeof(c->fds[0]));
	rq->nfds = c->nfds;
	c->nfds = 0;
	rq->next = c->reqs;
	if (c->reqs != NULL)
		c->reqs->prev = rq;
	c->reqs = rq;
	c->nreqs++;
	return rq;
}

static void handle_message(struct ctl_conn *c, json_t *msg)
{
	const struct ctl_op *op = NULL;
	struct ctl_failure f;
	struct ctl_req *rq;
	json_t *id = NULL;

	if (!check_request(c, msg, &id, &op, &f)) {
		ctl_conn_send_error(c, id, &f);
		return;
	}
	rq = req_new(c, op, msg);
	if (rq == NULL) {
		(void)ctl_refuse(&f, CTL_EXHAUSTED, ENOMEM, "out of memory");
		ctl_conn_send_error(c, id, &f);
		return;
	}
	op->handler(rq->conf->ctx, rq);
}

void ctl_handle_line(struct ctl_conn *c, const char *line, size_t len)
{
	struct ctl_failure f;
	json_error_t je;
	json_t *msg = json_loadb(line, len, JSON_REJECT_DUPLICATES, &je);

	if (msg == NULL) {
		(void)ctl_refuse(&f, CTL_PARSE, EBADMSG,
		    "not a JSON object: %s, at byte %d", je.text, je.position);
		ctl_conn_send_error(c, NULL, &f);
	} else {
		handle_message(c, msg);
	}
	json_decref(msg);
	closer_close_all(c->srv->conf->closer, c->fds, c->nfds);
	c->nfds = 0;
	c->fds_surplus = 0;
}

/* --- the answer ----------------------------------------------------------- */

static void req_unlink(struct ctl_req *rq)
{
	struct ctl_conn *c = rq->conn;

	if (c == NULL)
		return;
	if (rq->prev != NULL)
		rq->prev->next = rq->next;
	else
		c->reqs = rq->next;
	if (rq->next != NULL)
		rq->next->prev = rq->prev;
	c->nreqs--;
	rq->conn = NULL;
}

static void req_free(struct ctl_req *rq)
{
	req_unlink(rq);
	closer_close_all(rq->conf->closer, rq->fds, rq->nfds);
	json_decref(rq->id);
	json_decref(rq->params);
	free(rq);
}

void ctl_req_orphan(struct ctl_req *rq)
{
	req_unlink(rq);
	if (rq->on_cancel != NULL)
		rq->on_cancel(rq, rq->arg);
}

static void answer_failure(struct ctl_req *rq, const struct ctl_failure *f)
{
	if (!ctl_req_cancelled(rq))
		ctl_conn_send_error(rq->conn, rq->id, f);
	req_free(rq);
}

/* Duplicates of (fds), malloced; NULL with errno set, all closed again. */
static int *dup_all(const int *fds, size_t n)
{
	int *d = calloc(n, sizeof(*d));

	for (size_t i = 0; d != NULL && i < n; i++) {
		d[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
		if (d[i] < 0) {
			int err = errno;

			fdmsg_close_all(d, i);
			free(d);
			errno = err;
			return NULL;
		}
	}
	return d;
}

void ctl_reply(struct ctl_req *rq, json_t *result, const int *fds, size_t nfds)
{
	struct ctl_failure f;
	int *own = NULL;

	assert(nfds <= CTL_REPLY_FDS);
	if (ctl_req_cancelled(rq)) {
		json_decref(result);
		req_free(rq);
		return;
	}
	if (result == NULL &&
	    (rq->op->results == NULL || rq->op->results->name == NULL))
		result = json_object();
	if (nfds > 0)
		own = dup_all(fds, nfds);
	if (result == NULL || (nfds > 0 && own == NULL)) {
		int err = result == NULL ? ENOMEM : errno;

		(void)ctl_refuse(&f, ctl_code_of(err), err,
		    "%s succeeded, but its answer cannot be made: %s",
		    rq->op->name, strerror(err));
		json_decref(result);
		if (own != NULL)
			fdmsg_close_all(own, nfds);
		free(own);
		answer_failure(rq, &f);
		return;
	}
	ctl_conn_send(rq->conn,
	    json_pack("{s:s, s:O, s:o}", "jsonrpc", "2.0", "id", rq->id,
		"result", result),
	    own, nfds);
	req_free(rq);
}

void ctl_fail_data(struct ctl_req *rq, const struct err *e, json_t *data)
{
	struct ctl_failure f;
	int err = abs(e->code);

	(void)ctl_refuse(&f, ctl_code_of(err), err, "%s", e->msg);
	f.data = data;
	answer_failure(rq, &f);
	json_decref(data);
}

void ctl_fail(struct ctl_req *rq, const struct err *e)
{
	ctl_fail_data(rq, e, NULL);
}

void ctl_fail_param(struct ctl_req *rq, const char *name, const char *fmt, ...)
{
	char why[CTL_WHY_MAX / 2];
	struct ctl_failure f;
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	(void)ctl_refuse(
	    &f, CTL_PARAMS, EINVAL, "parameter '%s' %s", name, why);
	answer_failure(rq, &f);
}

/* --- what a handler sees -------------------------------------------------- */

json_t *ctl_json(const struct ctl_req *rq, const char *name)
{
	return json_object_get(rq->params, name);
}

const char *ctl_str(const struct ctl_req *rq, const char *name)
{
	return json_string_value(ctl_json(rq, name));
}

int64_t ctl_int(const struct ctl_req *rq, const char *name, int64_t absent)
{
	const json_t *v = ctl_json(rq, name);

	return v == NULL ? absent : json_integer_value(v);
}

bool ctl_bool(const struct ctl_req *rq, const char *name)
{
	return json_is_true(ctl_json(rq, name));
}

int ctl_take_fd(struct ctl_req *rq, unsigned i)
{
	int fd;

	if (i >= rq->nfds)
		return -1;
	fd = rq->fds[i];
	rq->fds[i] = -1;
	return fd;
}

struct ctl_conn *ctl_req_conn(const struct ctl_req *rq)
{
	return rq->conn;
}

bool ctl_req_cancelled(const struct ctl_req *rq)
{
	return rq->conn == NULL || rq->conn->dying;
}

void ctl_req_on_cancel(
    struct ctl_req *rq, void (*fn)(struct ctl_req *rq, void *arg), void *arg)
{
	rq->on_cancel = fn;
	rq->arg = arg;
}
