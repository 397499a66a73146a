/* SPDX-License-Identifier: MIT */
/* firn_json: firn.h's calls with jansson values instead of text. */
#ifndef TOOLS_LIBFIRN_FIRN_JSON_H
#define TOOLS_LIBFIRN_FIRN_JSON_H

#include <jansson.h>

#include "tools/libfirn/firn.h"

/*
 * As firn_call(). Takes over the reference to (params), which may be NULL.
 * *result is a new reference; (fds) gets the descriptors, at most *nfds of
 * them, and *nfds their number; with fds NULL those that come are closed. More
 * than there is room for: -EPROTO.
 */
FIRN_API int firn_call_json(struct firn *c, const char *method, json_t *params,
    const int *send, size_t nsend, json_t **result, int *fds, size_t *nfds,
    struct firn_error *e);
/* As firn_call_async() and firn_wait_reply(). */
FIRN_API int firn_call_async_json(struct firn *c, const char *method,
    json_t *params, const int *send, size_t nsend, uint64_t *id,
    struct firn_error *e);
FIRN_API int firn_wait_reply_json(struct firn *c, uint64_t id, int timeout_ms,
    json_t **result, int *fds, size_t *nfds, struct firn_error *e);
/* As firn_wait_event(); *method is to be freed, *params a new reference. */
FIRN_API int firn_wait_event_json(struct firn *c, int timeout_ms, char **method,
    json_t **params, struct firn_error *e);

/*
 * (params) with one member more; takes both references over. NULL, where either
 * is NULL or there is no memory: an optional member that json_pack() has no
 * memory for it leaves out ("s*", "o*"), and what is asked for is another thing
 * then.
 */
static inline json_t *firn_json_with(
    json_t *params, const char *key, json_t *value)
{
	if (json_object_set_new(params, key, value) == 0)
		return params;
	json_decref(params);
	return NULL;
}

/* The same of a string, which is no member where it is NULL, and of which the
 * outcome is NULL too where it is not UTF-8. */
static inline json_t *firn_json_with_str(
    json_t *params, const char *key, const char *value)
{
	return value == NULL ? params
			     : firn_json_with(params, key, json_string(value));
}

/* The error.data of the last error that the service answered with, borrowed
 * until the next error; NULL if there was none. */
FIRN_API const json_t *firn_error_data(const struct firn *c);

#endif /* TOOLS_LIBFIRN_FIRN_JSON_H */
