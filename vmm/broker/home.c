/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "shared/status.h"
#include "vmm/broker/internal.h"

/* --- homes ---------------------------------------------------------------- */

/* Holders choose names: they must not know which of them share a chain. Where
 * the kernel has no random number yet they could, and slow themselves down. */
uint64_t cap_key(void)
{
	uint64_t key;

	if (getrandom(&key, sizeof(key), GRND_NONBLOCK) != sizeof(key))
		key = now_ns();
	return key;
}

struct home *home_get(struct broker *b, uid_t uid)
{
	struct home *h;
	uint32_t n = 0;

	for (h = b->homes; h != NULL; h = h->next, n++)
		if (h->uid == uid)
			return h;
	if (n >= HOMES_MAX)
		return NULL;
	h = calloc(1, sizeof(*h));
	if (h == NULL)
		return NULL;
	h->slots = calloc(CAPS_CLIENT, sizeof(*h->slots));
	if (h->slots == NULL ||
	    cap_table_init(&h->caps, h->slots, CAPS_CLIENT, cap_key()) != 0) {
		free(h->slots);
		free(h);
		return NULL;
	}
	h->uid = uid;
	h->number = n;
	h->next = b->homes;
	b->homes = h;
	return h;
}

void homes_free(struct broker *b)
{
	while (b->homes != NULL) {
		struct home *h = b->homes;

		b->homes = h->next;
		caps_drop_all(b, &h->caps);
		free(h->slots);
		free(h);
	}
}

struct home *req_home(struct ctl_req *rq)
{
	struct ctl_conn *conn = ctl_req_conn(rq);
	struct client *c = conn == NULL ? NULL : ctl_conn_data(conn);

	return c == NULL ? NULL : c->home;
}

void notify(struct broker *b, struct home *h, const char *event, json_t *params)
{
	for (struct client *c = b->clients; c != NULL; c = c->next)
		if (c->subscribed && c->home == h)
			ctl_notify(c->conn, event, json_incref(params));
	json_decref(params);
}

/* --- names ---------------------------------------------------------------- */

bool name_ok(const char *name)
{
	size_t n = strlen(name);

	if (n == 0 || n >= FIRN_NAME_MAX || name[0] == '-')
		return false;
	if (strspn(name, "0123456789") == n)
		return false; /* an id would look the same */
	return strspn(name, "abcdefghijklmnopqrstuvwxyz"
			    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+@/-") == n;
}

int name_refuse(const char *name, size_t max, struct err *e)
{
	return err_set(e, -EINVAL,
	    "'%.64s' is not a name: it has 1 to %zu letters, digits and "
	    "_.+@/-, does not begin with - and is not a number alone",
	    name, max);
}

int name_check(const struct cap_table *t, const char *name, struct err *e)
{
	if (t->nused >= t->nslots)
		return err_set(e, -ENOSPC,
		    "all %" PRIu32 " capabilities are in use; drop some",
		    t->nslots);
	if (name[0] == '\0')
		return 0;
	if (!name_ok(name))
		return name_refuse(name, FIRN_NAME_MAX - 1, e);
	if (cap_find(t, name) >= 0)
		return err_set(
		    e, -EEXIST, "the name '%s' is taken; choose another", name);
	return 0;
}

static bool parse_id(const char *s, uint64_t *id)
{
	uint64_t v = 0;

	if (*s == '\0' || strlen(s) > 18)
		return false;
	for (; *s != '\0'; s++) {
		if (*s < '0' || *s > '9')
			return false;
		v = v * 10 + (uint64_t)(*s - '0');
	}
	*id = v;
	return true;
}

/* The capability that (ref) means: by name, else by the object's id. */
static int32_t ref_find(
    const struct cap_table *t, const char *ref, uint32_t rights)
{
	uint64_t id;

	return parse_id(ref, &id) ? cap_find_object(t, id, rights)
				  : cap_find(t, ref);
}

static const char *right_name(uint32_t r)
{
	return (r & FIRN_RIGHT_MAP_RO)    ? "map"
	       : (r & FIRN_RIGHT_MAP_COW) ? "map copy-on-write"
	       : (r & FIRN_RIGHT_DIFF)    ? "compare"
	       : (r & FIRN_RIGHT_OPEN)    ? "open"
					  : "derive";
}

int snap_by_cap(struct broker *b, const struct cap_table *t, int64_t cap,
    uint32_t rights, struct snap **out, struct err *e)
{
	const struct cap *c;
	int rc = cap_lookup(t, cap, rights, &c);

	if (rc == -ST_PERM)
		return err_set(e, -EACCES,
		    "the capability does not carry the right to %s",
		    right_name(rights));
	if (rc != 0 || c->kind != FIRN_CAP_SNAPSHOT)
		return err_set(e, -EBADF, "no such capability");
	*out = snap_by_id(b, c->object);
	if (*out == NULL)
		return err_set(e, -ENOENT, "no such snapshot");
	return 0;
}

int snap_find(struct broker *b, const struct cap_table *t, const char *ref,
    uint32_t rights, struct snap **out, int32_t *cap, struct err *e)
{
	int32_t num = ref_find(t, ref, rights);

	if (num < 0)
		return err_set(e, -ENOENT,
		    "no snapshot '%.64s'; `firn snapshots` lists yours", ref);
	if (cap != NULL)
		*cap = num;
	return snap_by_cap(b, t, num, rights, out, e);
}

/* --- capabilities --------------------------------------------------------- */

int32_t snap_grant(struct snap *s, struct cap_table *t, uint32_t rights,
    const char *name, struct err *e)
{
	int32_t num;
	int rc = name_check(t, name, e);

	if (rc != 0)
		return rc;
	num = cap_insert(t, FIRN_CAP_SNAPSHOT, rights, s->id, name);
	if (num < 0)
		return err_set(e, num, "cannot enter the capability");
	(void)snap_hold(s);
	return num;
}

void cap_end(struct broker *b, struct cap_table *t, int64_t cap)
{
	struct cap was;

	if (cap_drop(t, cap, &was) != 0 || was.kind != FIRN_CAP_SNAPSHOT)
		return;
	snap_put(b, snap_by_id(b, was.object));
}

void caps_drop_all(struct broker *b, struct cap_table *t)
{
	const struct cap *c;
	uint32_t pos = 0;
	int32_t num;

	while ((num = cap_next(t, &pos, &c)) >= 0)
		cap_end(b, t, num);
}
