/* SPDX-License-Identifier: MIT */
/* The decision whether a request fits the table; it has no effects. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "vmm/ctl/ctl_priv.h"

#define WHERE_MAX  96
#define NAME_SHOWN 48

bool ctl_refuse(
    struct ctl_failure *f, enum ctl_code code, int err, const char *fmt, ...)
{
	va_list ap;

	f->code = code;
	f->err = err;
	f->data = NULL;
	va_start(ap, fmt);
	(void)vsnprintf(f->why, sizeof(f->why), fmt, ap);
	va_end(ap);
	return false;
}

static const char *type_words(enum ctl_type t)
{
	static const char *const words[] = {
	    [CTL_STRING] = "a string",
	    [CTL_SIZE] = "an integer that is not negative",
	    [CTL_INT] = "an integer",
	    [CTL_BOOL] = "true or false",
	    [CTL_OBJECT] = "an object",
	    [CTL_STRINGS] = "an array of strings",
	    [CTL_OBJECTS] = "an array of objects",
	    [CTL_EXTENTS] = "an array of [first, count]",
	    [CTL_IDS] = "an array of integers that are not negative",
	};

	return words[t];
}

static bool is_size(const json_t *v)
{
	return json_is_integer(v) && json_integer_value(v) >= 0;
}

static bool is_string(const json_t *v)
{
	return json_is_string(v);
}

static bool is_object(const json_t *v)
{
	return json_is_object(v);
}

static bool is_extent(const json_t *v)
{
	return json_is_array(v) && json_array_size(v) == 2 &&
	       is_size(json_array_get(v, 0)) && is_size(json_array_get(v, 1));
}

static bool is_array_of(const json_t *v, bool (*is)(const json_t *))
{
	if (!json_is_array(v))
		return false;
	for (size_t i = 0; i < json_array_size(v); i++)
		if (!is(json_array_get(v, i)))
			return false;
	return true;
}

static bool has_type(const json_t *v, enum ctl_type t)
{
	switch (t) {
	case CTL_STRING:
		return json_is_string(v);
	case CTL_SIZE:
		return is_size(v);
	case CTL_INT:
		return json_is_integer(v);
	case CTL_BOOL:
		return json_is_boolean(v);
	case CTL_OBJECT:
		return json_is_object(v);
	case CTL_STRINGS:
		return is_array_of(v, is_string);
	case CTL_OBJECTS:
		return is_array_of(v, is_object);
	case CTL_EXTENTS:
		return is_array_of(v, is_extent);
	case CTL_IDS:
		return is_array_of(v, is_size);
	}
	return false;
}

static bool in_table(const struct ctl_param *table, const char *name)
{
	for (const struct ctl_param *p = table; p && p->name; p++)
		if (strcmp(p->name, name) == 0)
			return true;
	return false;
}

/* (where) is the path of (obj), "" or such as "segments[0]." */
static bool check_members(const struct ctl_param *table, json_t *obj,
    const char *where, struct ctl_failure *f)
{
	const char *key;
	json_t *v;

	json_object_foreach(obj, key, v)
	{
		if (!in_table(table, key))
			return ctl_refuse(f, CTL_PARAMS, EINVAL,
			    "parameter '%s%.*s' is unknown", where, NAME_SHOWN,
			    key);
	}
	for (const struct ctl_param *p = table; p && p->name; p++) {
		v = json_object_get(obj, p->name);
		if (v == NULL && !p->optional)
			return ctl_refuse(f, CTL_PARAMS, EINVAL,
			    "parameter '%s%s' is missing: it is %s", where,
			    p->name, type_words(p->type));
		if (v != NULL && !has_type(v, p->type))
			return ctl_refuse(f, CTL_PARAMS, EINVAL,
			    "parameter '%s%s' must be %s", where, p->name,
			    type_words(p->type));
	}
	return true;
}

/* Tables nest once: a field of a field has no fields. */
static bool check_fields(
    const struct ctl_param *p, json_t *v, struct ctl_failure *f)
{
	char where[WHERE_MAX];

	if (v == NULL || p->fields == NULL)
		return true;
	if (p->type == CTL_OBJECT) {
		(void)snprintf(where, sizeof(where), "%s.", p->name);
		return check_members(p->fields, v, where, f);
	}
	for (size_t i = 0; i < json_array_size(v); i++) {
		(void)snprintf(where, sizeof(where), "%s[%zu].", p->name, i);
		if (!check_members(p->fields, json_array_get(v, i), where, f))
			return false;
	}
	return true;
}

bool ctl_check_params(
    const struct ctl_op *op, json_t *params, struct ctl_failure *f)
{
	if (!check_members(op->params, params, "", f))
		return false;
	for (const struct ctl_param *p = op->params; p && p->name; p++)
		if (!check_fields(p, json_object_get(params, p->name), f))
			return false;
	return true;
}
