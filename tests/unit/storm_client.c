/* SPDX-License-Identifier: MIT */
/* The client of the storm: what it asks, and what it is told. */
#include "tests/unit/storm.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "vmm/core/fdmsg.h"

static void told(struct storm *s, uint64_t snap, uint64_t at)
{
	static const uint64_t none[NPAGES];

	if (at > 0 && at <= s->nlifted && s->lifted[at - 1].sure)
		learn(s, snap, s->lifted[at - 1].tag, true);
	else if (known_of(s, snap) == NULL)
		learn(s, snap, none, false);
}

static void answered(struct storm *s, json_t *m)
{
	json_int_t id = json_integer_value(json_object_get(m, "id"));
	json_t *r = json_object_get(m, "result");
	uint32_t i = 0;

	while (i < s->nasked && s->asked[i].id != id)
		i++;
	assert_true(i < s->nasked);
	s->ndone++;
	s->ngood += r != NULL;
	if (r != NULL && strncmp(s->asked[i].method, "segment.", 8) == 0)
		told(s,
		    (uint64_t)json_integer_value(
			json_object_get(r, "snapshot")),
		    (uint64_t)json_integer_value(
			json_object_get(r, "total_ns")));
	if (r != NULL && known_of(s, s->asked[i].ends) != NULL)
		known_of(s, s->asked[i].ends)->gone = true;
	s->asked[i] = s->asked[--s->nasked];
	json_decref(m);
}

void hear(struct storm *s)
{
	struct world *x = s->x;

	for (;;) {
		char *nl;
		ssize_t n;
		int got[FDMSG_MAX];
		size_t ngot = 0;
		json_t *m;

		n = fdmsg_recv(x->fd, x->in + x->in_len, LINE_BYTES - x->in_len,
		    got, FDMSG_MAX, &ngot, MSG_DONTWAIT);
		if (n > 0) {
			x->in_len += (size_t)n;
			fdmsg_close_all(got, ngot);
		}
		nl = memchr(x->in, '\n', x->in_len);
		if (nl == NULL)
			return;
		m = json_loadb(x->in, (size_t)(nl - x->in), 0, NULL);
		assert_non_null(m);
		x->in_len -= (size_t)(nl - x->in) + 1;
		memmove(x->in, nl + 1, x->in_len);
		answered(s, m);
	}
}

void expect(struct storm *s, const char *method, uint64_t ends)
{
	assert_true(s->nasked < ASKED_MAX);
	s->asked[s->nasked++] =
	    (struct asked){.id = s->x->id, .method = method, .ends = ends};
}

static void ask(
    struct storm *s, const char *method, uint64_t ends, json_t *params)
{
	assert_non_null(params);
	request(s->x, method, params, NULL, 0);
	expect(s, method, ends);
}

uint64_t any_snap(struct storm *s)
{
	uint32_t n = 1 + pick(s, 8);
	uint64_t id = 1;

	for (uint32_t i = s->nknown; i-- > 0 && n > 0;)
		if (!s->known[i].gone || one_in(s, 50)) {
			id = s->known[i].id;
			n--;
		}
	return id;
}

static json_t *snap_params(const char *vm, uint64_t snap)
{
	char ref[32];

	(void)snprintf(ref, sizeof(ref), "%llu", (unsigned long long)snap);
	return json_pack("{s:s*,s:s}", "vm", vm, "snapshot", ref);
}

static json_t *place_of_params(const struct svm *v, const char *key)
{
	char ref[32];

	(void)snprintf(ref, sizeof(ref), "%u", any_place(v));
	return json_pack("{s:s,s:s}", "vm", v->f->name, key, ref);
}

json_t *with(json_t *p, const char *key, json_t *value)
{
	(void)json_object_set_new(p, key, value);
	return p;
}

static void client_compares(struct storm *s)
{
	char a[32];
	char c[32];

	(void)snprintf(a, sizeof(a), "%llu", (unsigned long long)any_snap(s));
	(void)snprintf(c, sizeof(c), "%llu", (unsigned long long)any_snap(s));
	ask(s, "snapshot.diff", 0,
	    json_pack("{s:s,s:s,s:b}", "a", a, "b", c, "exact", one_in(s, 4)));
}

static void client_lifts(struct svm *v)
{
	static const char *const lift[] = {"segment.freeze", "segment.sever"};
	json_t *p = place_of_params(v, "segment");

	if (one_in(v->s, 6))
		p = with(p, "name", json_string("same"));
	ask(v->s, lift[pick(v->s, 2)], 0, p);
}

void client_asks(struct storm *s)
{
	struct svm *v = &s->vm[pick(s, one_in(s, 3) ? VMS : EVIL)];
	const char *vm = v->f->name;
	uint64_t snap = any_snap(s);
	uint32_t k = pick(s, 24);

	if (s->nasked == ASKED_MAX)
		return;
	if (k < 10)
		client_lifts(v);
	else if (k < 13)
		ask(s, "view.adopt", snap, snap_params(vm, snap));
	else if (k < 15)
		ask(s, "view.map", 0,
		    with(snap_params(vm, snap), "cow",
			json_boolean(one_in(s, 2))));
	else if (k < 17)
		ask(s, one_in(s, 2) ? "vm.give" : "vm.take", 0,
		    snap_params(vm, snap));
	else if (k < 19)
		ask(s, "view.unmap", 0, place_of_params(v, "view"));
	else if (k == 19)
		ask(s, "snapshot.drop", snap, snap_params(NULL, snap));
	else if (k == 20)
		client_compares(s);
	else if (k == 21)
		ask(s, "dirty.query", 0,
		    with(with(place_of_params(v, "segment"), "cursor",
			     json_string(one_in(s, 2) ? "c" : "d")),
			"exact", json_boolean(one_in(s, 2))));
	else if (k == 22 && one_in(s, 2))
		ask(s, "dirty.end", 0,
		    with(place_of_params(v, "segment"), "cursor",
			json_string(one_in(s, 2) ? "c" : "d")));
	else if (k == 22)
		ask(s, "snapshot.open", 0, snap_params(NULL, snap));
	else
		ask(s, "vm.list", 0, json_object());
}
