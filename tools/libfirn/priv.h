/* SPDX-License-Identifier: MIT */
/* priv: what the parts of the client library share. */
#ifndef TOOLS_LIBFIRN_PRIV_H
#define TOOLS_LIBFIRN_PRIV_H

#include "tools/libfirn/firn_json.h"

/* Fill (e), which may be NULL; the value is (err), a negative errno. */
#define firn_fail(e, err, ...)                                                 \
	({                                                                     \
		int fail_ = (err);                                             \
		firn_error_fill((e), 0, fail_, __VA_ARGS__);                   \
		fail_;                                                         \
	})
void firn_error_fill(struct firn_error *e, int code, int err, const char *fmt,
    ...) __attribute__((format(printf, 4, 5), cold));

/* Close and set to -1. */
void firn_close_fds(int *fds, size_t n);

/*
 * firn_call_json() without descriptors for parameters packed of the caller's
 * strings: NULL, -EINVAL, where one of those is not UTF-8, not where there are
 * none.
 */
int firn_call_packed(struct firn *c, const char *method, json_t *params,
    json_t **res, int *fds, size_t *nfds, struct firn_error *e);

/*
 * The text of (v), of *len bytes, with room for one more behind its NUL; from
 * the heap. NULL: no memory. json_dumps() would do, but jansson 2.14 leaves out
 * of an object what it has no memory for and calls that success.
 */
char *firn_text(const json_t *v, size_t *len);

/* A member that must be an integer of at least 0; -EPROTO otherwise. */
int firn_get_u64(
    const json_t *obj, const char *key, uint64_t *out, struct firn_error *e);

#endif /* TOOLS_LIBFIRN_PRIV_H */
