/* SPDX-License-Identifier: MIT */
/* The main methods, typed. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/libfirn/priv.h"

_Static_assert(sizeof(struct firn_range) == 16, "as extents travel");

int firn_get_u64(
    const json_t *obj, const char *key, uint64_t *out, struct firn_error *e)
{
	const json_t *v = json_object_get(obj, key);

	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return firn_fail(
		    e, -EPROTO, "the service's reply has no valid '%s'", key);
	*out = (uint64_t)json_integer_value(v);
	return 0;
}

/* A table of members to take, ended by a NULL key. */
struct member {
	const char *key;
	uint64_t *out;
};

static int get_members(
    const json_t *obj, const struct member *m, struct firn_error *e)
{
	int r = 0;

	for (; r == 0 && m->key != NULL; m++)
		r = firn_get_u64(obj, m->key, m->out, e);
	return r;
}

int firn_call_packed(struct firn *c, const char *method, json_t *params,
    json_t **res, int *fds, size_t *nfds, struct firn_error *e)
{
	if (params == NULL)
		return firn_fail(e, -EINVAL,
		    "%s: a name is not UTF-8, or there is no memory", method);
	return firn_call_json(c, method, params, NULL, 0, res, fds, nfds, e);
}

static json_t *place(const char *vm, const char *segment)
{
	return firn_json_with_str(
	    json_pack("{s:s}", "vm", vm), "segment", segment);
}

static int lift(struct firn *c, const char *method, const char *vm,
    const char *segment, const char *name, struct firn_freeze_result *out,
    struct firn_error *e)
{
	const struct member members[] = {
	    {"snapshot", &out->snapshot},
	    {"pages", &out->pages},
	    {"dirty_pages", &out->dirty_pages},
	    {"copied_pages", &out->copied_pages},
	    {"pause_ns", &out->pause_ns},
	    {"total_ns", &out->total_ns},
	    {NULL, NULL},
	};
	json_t *res;
	int r = firn_call_packed(c, method,
	    firn_json_with_str(place(vm, segment), "name", name), &res, NULL,
	    NULL, e);

	if (r != 0)
		return r;
	r = get_members(res, members, e);
	json_decref(res);
	return r;
}

int firn_freeze(struct firn *c, const char *vm, const char *segment,
    const char *name, struct firn_freeze_result *out, struct firn_error *e)
{
	return lift(c, "segment.freeze", vm, segment, name, out, e);
}

int firn_sever(struct firn *c, const char *vm, const char *segment,
    const char *name, struct firn_freeze_result *out, struct firn_error *e)
{
	return lift(c, "segment.sever", vm, segment, name, out, e);
}

/* What must be true or false, as 1 or 0. */
static int get_flag(
    const json_t *obj, const char *key, int *out, struct firn_error *e)
{
	const json_t *v = json_object_get(obj, key);

	if (!json_is_boolean(v))
		return firn_fail(
		    e, -EPROTO, "the service's reply has no valid '%s'", key);
	if (out != NULL)
		*out = json_is_true(v);
	return 0;
}

static int get_view(
    const json_t *res, struct firn_map_result *out, struct firn_error *e)
{
	const struct member members[] = {
	    {"view", &out->view},
	    {"gpa", &out->gpa},
	    {"pages", &out->pages},
	    {"extents", &out->extents},
	    {"map_ns", &out->map_ns},
	    {NULL, NULL},
	};

	return get_members(res, members, e);
}

/* (params) and where it is to be, unless that is 0. */
static json_t *with_gpa(json_t *params, uint64_t gpa)
{
	return gpa == 0 ? params
			: firn_json_with(
			      params, "gpa", json_integer((json_int_t)gpa));
}

int firn_map(struct firn *c, const char *vm, const char *snapshot, int cow,
    uint64_t gpa, struct firn_map_result *out, struct firn_error *e)
{
	json_t *res;
	int r = firn_call_packed(c, "view.map",
	    with_gpa(json_pack("{s:s, s:s, s:b}", "vm", vm, "snapshot",
			 snapshot, "cow", cow),
		gpa),
	    &res, NULL, NULL, e);

	if (r != 0)
		return r;
	r = get_view(res, out, e);
	json_decref(res);
	return r;
}

int firn_unmap(
    struct firn *c, const char *vm, const char *view, struct firn_error *e)
{
	return firn_call_packed(c, "view.unmap",
	    json_pack("{s:s, s:s}", "vm", vm, "view", view), NULL, NULL, NULL,
	    e);
}

/* --- what changes hands --------------------------------------------------- */

int firn_adopt(struct firn *c, const char *vm, const char *snapshot,
    uint64_t gpa, struct firn_map_result *out, int *copied_on_write,
    struct firn_error *e)
{
	json_t *res;
	int r = firn_call_packed(c, "view.adopt",
	    with_gpa(
		json_pack("{s:s, s:s}", "vm", vm, "snapshot", snapshot), gpa),
	    &res, NULL, NULL, e);

	if (r != 0)
		return r;
	r = get_view(res, out, e);
	if (r == 0)
		r = get_flag(res, "copied_on_write", copied_on_write, e);
	json_decref(res);
	return r;
}

static int hand(struct firn *c, const char *method, const char *vm,
    const char *snapshot, const char *name, int *moved, struct firn_error *e)
{
	json_t *res;
	int r = firn_call_packed(c, method,
	    firn_json_with_str(
		json_pack("{s:s, s:s}", "vm", vm, "snapshot", snapshot), "name",
		name),
	    &res, NULL, NULL, e);

	if (r != 0)
		return r;
	r = get_flag(res, "moved", moved, e);
	json_decref(res);
	return r;
}

int firn_give(struct firn *c, const char *vm, const char *snapshot,
    const char *name, int *moved, struct firn_error *e)
{
	return hand(c, "vm.give", vm, snapshot, name, moved, e);
}

int firn_take(struct firn *c, const char *vm, const char *snapshot,
    const char *name, int *moved, struct firn_error *e)
{
	return hand(c, "vm.take", vm, snapshot, name, moved, e);
}

/* --- sets of pages -------------------------------------------------------- */

void firn_pageset_free(struct firn_pageset *p)
{
	if (p == NULL)
		return;
	free(p->ranges);
	*p = (struct firn_pageset){0};
}

/* Sorted, disjoint, not empty, and as many pages as it says. */
static int check_ranges(const struct firn_pageset *p, struct firn_error *e)
{
	uint64_t next = 0;
	uint64_t sum = 0;

	for (size_t i = 0; i < p->nranges; i++) {
		const struct firn_range *x = &p->ranges[i];

		if (x->count == 0 || x->first < next ||
		    x->first > UINT64_MAX - x->count)
			return firn_fail(
			    e, -EPROTO, "the service's extents are not sorted");
		next = x->first + x->count;
		sum += x->count;
	}
	if (sum != p->pages)
		return firn_fail(e, -EPROTO,
		    "the service's extents do not add up to its pages");
	return 0;
}

static int ranges_inline(
    const json_t *a, struct firn_pageset *p, struct firn_error *e)
{
	size_t n = json_array_size(a);

	p->ranges = calloc(n + 1, sizeof(*p->ranges));
	if (p->ranges == NULL)
		return firn_fail(e, -ENOMEM, "extents: out of memory");
	p->nranges = n;
	for (size_t i = 0; i < n; i++) {
		const json_t *x = json_array_get(a, i);
		const json_t *first = json_array_get(x, 0);
		const json_t *count = json_array_get(x, 1);

		if (json_array_size(x) != 2 || !json_is_integer(first) ||
		    !json_is_integer(count) || json_integer_value(first) < 0 ||
		    json_integer_value(count) < 0)
			return firn_fail(e, -EPROTO,
			    "the service's extents are no pairs of numbers");
		p->ranges[i].first = (uint64_t)json_integer_value(first);
		p->ranges[i].count = (uint64_t)json_integer_value(count);
	}
	return 0;
}

/* Copied before it is checked: somebody may still write to it. */
static int ranges_from_fd(int fd, struct firn_pageset *p, struct firn_error *e)
{
	struct stat st;
	size_t n;

	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size < 0 ||
	    st.st_size % (off_t)sizeof(*p->ranges) != 0 ||
	    (uint64_t)st.st_size / sizeof(*p->ranges) > FIRN_RUNS_MAX)
		return firn_fail(
		    e, -EPROTO, "the service's extents have a wrong size");
	n = (size_t)st.st_size / sizeof(*p->ranges);
	p->ranges = calloc(n + 1, sizeof(*p->ranges));
	if (p->ranges == NULL)
		return firn_fail(e, -ENOMEM, "extents: out of memory");
	p->nranges = n;
	for (size_t at = 0; at < (size_t)st.st_size;) {
		ssize_t k = pread(fd, (char *)p->ranges + at,
		    (size_t)st.st_size - at, (off_t)at);

		if (k <= 0)
			return firn_fail(
			    e, -EPROTO, "the service's extents are truncated");
		at += (size_t)k;
	}
	return 0;
}

static int get_pageset(const json_t *res, const int *fds, size_t nfds,
    struct firn_pageset *p, struct firn_error *e)
{
	const json_t *a = json_object_get(res, "extents");
	uint64_t i;
	int r = firn_get_u64(res, "pages", &p->pages, e);

	if (r != 0)
		return r;
	p->nodes_visited =
	    (uint64_t)json_integer_value(json_object_get(res, "nodes_visited"));
	p->exact = json_is_true(json_object_get(res, "exact"));
	if (json_is_array(a))
		r = ranges_inline(a, p, e);
	else if ((r = firn_get_u64(res, "extents_fd", &i, e)) == 0)
		r = i < nfds ? ranges_from_fd(fds[i], p, e)
			     : firn_fail(e, -EPROTO,
				   "the service sent no descriptor of extents");
	return r == 0 ? check_ranges(p, e) : r;
}

static int ask_pageset(struct firn *c, const char *method, json_t *params,
    struct firn_pageset *out, struct firn_error *e)
{
	struct firn_pageset p = {0};
	int fds[FIRN_REPLY_FDS_MAX];
	size_t nfds = FIRN_REPLY_FDS_MAX;
	json_t *res;
	int r = firn_call_packed(c, method, params, &res, fds, &nfds, e);

	if (r != 0)
		return r;
	r = get_pageset(res, fds, nfds, &p, e);
	firn_close_fds(fds, nfds);
	json_decref(res);
	if (r == 0)
		*out = p;
	else
		firn_pageset_free(&p);
	return r;
}

int firn_diff(struct firn *c, const char *a, const char *b, int exact,
    struct firn_pageset *out, struct firn_error *e)
{
	return ask_pageset(c, "snapshot.diff",
	    json_pack("{s:s, s:s, s:b}", "a", a, "b", b, "exact", exact), out,
	    e);
}

int firn_dirty(struct firn *c, const char *vm, const char *segment,
    const char *cursor, int flags, struct firn_pageset *out,
    struct firn_error *e)
{
	return ask_pageset(c, "dirty.query",
	    firn_json_with_str(
		json_pack("{s:s, s:s, s:b, s:b}", "vm", vm, "cursor", cursor,
		    "peek", flags & FIRN_DIRTY_PEEK, "exact",
		    flags & FIRN_DIRTY_EXACT),
		"segment", segment),
	    out, e);
}

int firn_dirty_end(struct firn *c, const char *vm, const char *segment,
    const char *cursor, struct firn_error *e)
{
	return firn_call_packed(c, "dirty.end",
	    firn_json_with_str(
		json_pack("{s:s, s:s}", "vm", vm, "cursor", cursor), "segment",
		segment),
	    NULL, NULL, NULL, e);
}

int firn_touched(struct firn *c, const char *vm, const char *view,
    struct firn_pageset *reads, struct firn_pageset *writes,
    struct firn_error *e)
{
	struct firn_pageset r = {0};
	struct firn_pageset w = {0};
	int fds[FIRN_REPLY_FDS_MAX];
	size_t nfds = FIRN_REPLY_FDS_MAX;
	json_t *res;
	int rc = firn_call_packed(c, "track.query",
	    json_pack("{s:s, s:s}", "vm", vm, "view", view), &res, fds, &nfds,
	    e);

	if (rc != 0)
		return rc;
	rc = get_pageset(json_object_get(res, "reads"), fds, nfds, &r, e);
	if (rc == 0)
		rc = get_pageset(
		    json_object_get(res, "writes"), fds, nfds, &w, e);
	firn_close_fds(fds, nfds);
	json_decref(res);
	if (rc == 0) {
		*reads = r;
		*writes = w;
	} else {
		firn_pageset_free(&r);
		firn_pageset_free(&w);
	}
	return rc;
}
