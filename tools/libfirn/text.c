/* SPDX-License-Identifier: MIT */
/* The calls with JSON as text. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/libfirn/priv.h"

char *firn_text(const json_t *v, size_t *len)
{
	const size_t flags = JSON_COMPACT | JSON_ENCODE_ANY;
	size_t n = json_dumpb(v, NULL, 0, flags);
	char *text = n == 0 ? NULL : malloc(n + 2);

	if (text == NULL)
		return NULL;
	if (json_dumpb(v, text, n, flags) != n) {
		free(text);
		return NULL;
	}
	text[n] = '\0';
	*len = n;
	return text;
}

int firn_call_async(struct firn *c, const char *method, const char *params,
    const int *fds, size_t nfds, uint64_t *id, struct firn_error *e)
{
	json_error_t je;
	json_t *p = NULL;

	if (params != NULL) {
		p = json_loads(params, JSON_REJECT_DUPLICATES, &je);
		if (p == NULL)
			return firn_fail(e, -EINVAL,
			    "%s: the parameters are not JSON: %s", method,
			    je.text);
	}
	return firn_call_async_json(c, method, p, fds, nfds, id, e);
}

int firn_wait_reply(struct firn *c, uint64_t id, int timeout_ms,
    struct firn_reply *r, struct firn_error *e)
{
	int fds[FIRN_REPLY_FDS_MAX];
	size_t nfds = FIRN_REPLY_FDS_MAX;
	json_t *result;
	size_t len;
	int ret;

	if (r == NULL)
		return firn_wait_reply_json(
		    c, id, timeout_ms, NULL, NULL, NULL, e);
	ret = firn_wait_reply_json(c, id, timeout_ms, &result, fds, &nfds, e);
	if (ret != 0)
		return ret;
	r->nfds = nfds;
	r->fds = nfds > 0 ? calloc(nfds, sizeof(*r->fds)) : NULL;
	r->json = firn_text(result, &len);
	json_decref(result);
	if (r->json == NULL || (nfds > 0 && r->fds == NULL)) {
		firn_close_fds(fds, nfds);
		free(r->json);
		free(r->fds);
		return firn_fail(e, -ENOMEM, "reply: out of memory");
	}
	if (nfds > 0)
		memcpy(r->fds, fds, nfds * sizeof(fds[0]));
	return 0;
}

int firn_call(struct firn *c, const char *method, const char *params,
    const int *fds, size_t nfds, struct firn_reply *r, struct firn_error *e)
{
	struct firn_error own;
	uint64_t id;
	int ret;

	if (e == NULL)
		e = &own;
	ret = firn_call_async(c, method, params, fds, nfds, &id, e);
	if (ret != 0)
		return ret;
	do {
		ret = firn_wait_reply(c, id, -1, r, e);
	} while (ret == -EINTR && e->code == 0);
	return ret;
}

void firn_reply_free(struct firn_reply *r)
{
	if (r == NULL)
		return;
	firn_close_fds(r->fds, r->nfds);
	free(r->fds);
	free(r->json);
	*r = (struct firn_reply){0};
}

int firn_wait_event(
    struct firn *c, int timeout_ms, struct firn_event *ev, struct firn_error *e)
{
	json_t *params;
	size_t len;
	int r = firn_wait_event_json(c, timeout_ms, &ev->method, &params, e);

	if (r != 0)
		return r;
	ev->json = firn_text(params, &len);
	json_decref(params);
	if (ev->json != NULL)
		return 0;
	free(ev->method);
	return firn_fail(e, -ENOMEM, "event: out of memory");
}

void firn_event_free(struct firn_event *ev)
{
	if (ev == NULL)
		return;
	free(ev->method);
	free(ev->json);
	*ev = (struct firn_event){0};
}
