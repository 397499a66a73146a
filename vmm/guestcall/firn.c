/* SPDX-License-Identifier: MIT */
/* firn's own calls: shared/abi/guestcall.h. */
#include "vmm/guestcall/firn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "vmm/core/cleanup.h"

typedef int64_t firn_fn(struct guest_call *c);

int call_name(
    struct guest_call *c, uint64_t va, bool optional, char name[FIRN_NAME_MAX])
{
	int n;

	memset(name, 0, FIRN_NAME_MAX);
	if (va == 0 && optional)
		return 0;
	n = guest_copy_str(c->g, name, va, FIRN_NAME_MAX);
	if (n < 0)
		return n;
	memset(name + n, 0, FIRN_NAME_MAX - (size_t)n);
	return n == 0 && !optional ? -EINVAL : 0;
}

int64_t call_ask(
    struct guest_call *c, const struct call_question *q, struct wire_packet *p)
{
	const struct guest_ops *ops = &c->g->env.ops;
	int r =
	    ops->ask(ops->ctx, q->type, q->payload, q->payload_len, p, NULL);

	if (r < 0)
		return r;
	if (p->m.status < 0)
		return p->m.status;
	if (p->m.len < q->out_len)
		return -EPROTO;
	if (q->out_len > 0)
		memcpy(q->out, p->payload, q->out_len);
	return p->m.status;
}

/* (fd), unless it is NULL, gets the descriptor that came along, or -1. */
static int64_t ask_for(struct guest_call *c, uint16_t type, const void *payload,
    uint32_t payload_len, void *out, uint32_t len, int *fd)
{
	const struct call_question q = {type, payload, payload_len, out, len};
	struct wire_packet *p = calloc(1, sizeof(*p));
	int64_t r;

	if (p == NULL)
		return -ENOMEM;
	r = call_ask(c, &q, p);
	if (fd != NULL)
		*fd = wire_take_fd(p, 0);
	wire_close_fds(p);
	free(p);
	return r;
}

static int64_t ask(struct guest_call *c, uint16_t type, const void *payload,
    uint32_t payload_len, void *out, uint32_t len)
{
	return ask_for(c, type, payload, payload_len, out, len, NULL);
}

int64_t call_give(struct guest_call *c, uint64_t va, const void *out,
    uint64_t len, int64_t ret)
{
	if (ret < 0 || va == 0)
		return ret;
	return guest_copy_out(c->g, va, out, len) < 0 ? -EFAULT : ret;
}

int call_check_out(struct guest_call *c, uint64_t va, uint64_t len)
{
	uint64_t end;
	uint64_t gpa;
	uint64_t room;
	int r = 0;

	if (va == 0 || len == 0)
		return 0;
	if (__builtin_add_overflow(va, len, &end))
		return -EFAULT;
	guest_enter(c->g);
	while (va < end && r == 0) {
		r = as_resolve(&c->g->as, va, AS_W, &gpa, &room);
		va = (va & ~(PAGE_SIZE - 1)) + PAGE_SIZE;
	}
	guest_leave(c->g);
	return r < 0 ? -EFAULT : 0;
}

static int64_t do_version(struct guest_call *c)
{
	(void)c;
	return FIRN_ABI_VERSION;
}

/* --- segments ------------------------------------------------------------- */

static void tell_segment(const struct place_info *info, struct firn_segment *s)
{
	*s = (struct firn_segment){
	    .id = info->id,
	    .flags = place_flags(info),
	    .gpa = info->gpa,
	    .va = info->id == 0 ? 0 : FIRN_WINDOW + info->gpa,
	    .size = info->npages * PAGE_SIZE,
	};
}

struct make_job {
	struct guest *g;
	const char *name;
	uint64_t size;
	uint32_t flags; /* of FIRN_SEG_MAKE */
	int memory;     /* from the broker */
	struct place_info info;
};

static int make_on_control(void *arg)
{
	struct make_job *j = arg;
	const struct guest_ops *ops = &j->g->env.ops;
	struct wire_segment w = {0};
	struct place *p;
	int r = (j->flags & FIRN_SEG_TRACKED)
		    ? place_make_tracked(
			  j->g->env.places, j->name, j->size, &p, NULL)
		    : place_make_of(j->g->env.places, j->name, j->size,
			  j->memory, &p, NULL);

	if (r < 0) {
		struct wire_place none = {.id = UINT32_MAX};

		ops->tell(ops->ctx, WIRE_SEG_GONE, &none, sizeof(none));
		return r;
	}
	place_info(p, &j->info);
	w.id = j->info.id;
	w.gpa = j->info.gpa;
	w.size = j->info.npages * PAGE_SIZE;
	memcpy(w.name, j->name, FIRN_NAME_MAX);
	ops->tell(ops->ctx, WIRE_SEG_MADE, &w, sizeof(w));
	return 0;
}

static int find_on_control(void *arg)
{
	struct make_job *j = arg;
	struct place *p = places_by_name(j->g->env.places, j->name);

	if (!p)
		return -ENOENT;
	place_info(p, &j->info);
	return 0;
}

/* (j) has the copies that were checked: guest memory is not asked twice. */
static int64_t segment_job(struct guest_call *c, int (*fn)(void *arg),
    struct make_job *j, uint64_t out)
{
	struct firn_segment s = {0};
	int r = c->g->env.ops.on_control(c->g->env.ops.ctx, fn, j);

	if (r < 0)
		return r;
	tell_segment(&j->info, &s);
	return call_give(c, out, &s, sizeof(s), 0);
}

/* The bank pays for a segment before it exists, and gives its memory. */
static int64_t do_segment_make(struct guest_call *c)
{
	AUTO_CLOSE int memory = -1;
	struct wire_segment w = {.size = c->a[1], .flags = (uint32_t)c->a[3]};
	struct make_job j = {
	    .g = c->g, .name = w.name, .size = w.size, .flags = w.flags};
	int64_t r = call_name(c, c->a[0], false, w.name);

	if (r == 0 && (c->a[3] & ~(uint64_t)FIRN_SEG_MAKE) != 0)
		r = -EINVAL;
	if (r == 0)
		r = call_check_out(c, c->a[2], sizeof(struct firn_segment));
	if (r == 0)
		r = ask_for(c, WIRE_G_SEGMENT, &w, sizeof(w), NULL, 0, &memory);
	if (r < 0)
		return r;
	j.memory = memory;
	return segment_job(c, make_on_control, &j, c->a[2]);
}

static int64_t do_segment_find(struct guest_call *c)
{
	char name[FIRN_NAME_MAX];
	struct make_job j = {.g = c->g, .name = name};
	int64_t r = call_name(c, c->a[0], false, name);

	if (r == 0)
		r = call_check_out(c, c->a[1], sizeof(struct firn_segment));
	if (r < 0)
		return r;
	return segment_job(c, find_on_control, &j, c->a[1]);
}

/* --- snapshots and views -------------------------------------------------- */

static int64_t freeze(struct guest_call *c, uint16_t type)
{
	struct wire_gfreeze q = {.id = (uint32_t)c->a[0]};
	struct firn_frozen out = {0};
	int r = call_name(c, c->a[1], true, q.name);

	if (c->a[0] > UINT32_MAX)
		return -ENOENT;
	if (r == 0)
		r = call_check_out(c, c->a[2], sizeof(out));
	if (r < 0)
		return r;
	return call_give(c, c->a[2], &out, sizeof(out),
	    ask(c, type, &q, sizeof(q), &out, sizeof(out)));
}

static int64_t do_freeze(struct guest_call *c)
{
	return freeze(c, WIRE_G_FREEZE);
}

static int64_t do_sever(struct guest_call *c)
{
	return freeze(c, WIRE_G_SEVER);
}

/* Map or adopt; (out) is where the guest wants to read of it. */
static int64_t lay(struct guest_call *c, uint16_t type,
    const struct wire_gmap *q, uint64_t out)
{
	struct firn_segment s = {0};
	int64_t r;

	if (c->a[0] > INT32_MAX)
		return -EBADF;
	r = call_check_out(c, out, sizeof(s));
	if (r < 0)
		return r;
	r = ask(c, type, q, sizeof(*q), &s, sizeof(s));
	if (r < 0)
		return r;
	s.va = FIRN_WINDOW + s.gpa;
	guest_enter(c->g);
	as_window_fill(&c->g->as, s.gpa, s.size);
	guest_leave(c->g);
	return call_give(c, out, &s, sizeof(s), r);
}

static int64_t do_map(struct guest_call *c)
{
	struct wire_gmap q = {
	    .gpa = c->a[2],
	    .cap = (uint32_t)c->a[0],
	    .mode = (uint32_t)c->a[1],
	};

	if ((c->a[1] & ~(uint64_t)FIRN_MAP_TRACK) > FIRN_MAP_COW)
		return -EINVAL;
	return lay(c, WIRE_G_MAP, &q, c->a[3]);
}

static int64_t do_adopt(struct guest_call *c)
{
	struct wire_gmap q = {.gpa = c->a[1], .cap = (uint32_t)c->a[0]};

	return lay(c, WIRE_G_ADOPT, &q, c->a[2]);
}

struct unmap_job {
	struct guest *g;
	uint32_t id;
};

static int unmap_on_control(void *arg)
{
	struct unmap_job *j = arg;
	const struct guest_ops *ops = &j->g->env.ops;
	struct wire_place w = {.id = j->id};
	struct place *p = places_by_id(j->g->env.places, j->id);
	struct place_info info;
	int r;

	if (!p)
		return -ENOENT;
	r = place_may_close(p, NULL);
	if (r < 0)
		return r;
	place_info(p, &info);
	gate_close(j->g->env.gate);
	guest_place_gone(j->g, info.gpa, info.npages * PAGE_SIZE);
	r = place_close(j->g->env.places, p, NULL);
	gate_open(j->g->env.gate);
	if (r == 0)
		ops->tell(ops->ctx, WIRE_SEG_GONE, &w, sizeof(w));
	return r;
}

static int64_t do_unmap(struct guest_call *c)
{
	struct unmap_job j = {.g = c->g, .id = (uint32_t)c->a[0]};

	if (c->a[0] > UINT32_MAX)
		return -ENOENT;
	return c->g->env.ops.on_control(
	    c->g->env.ops.ctx, unmap_on_control, &j);
}

static int64_t do_lookup(struct guest_call *c)
{
	char name[FIRN_NAME_MAX];
	int r = call_name(c, c->a[0], false, name);

	return r < 0 ? r : ask(c, WIRE_G_LOOKUP, name, sizeof(name), NULL, 0);
}

static int64_t do_describe(struct guest_call *c)
{
	struct wire_gcap q = {.cap = (uint32_t)c->a[0]};
	struct firn_cap_info out = {0};

	if (c->a[0] > INT32_MAX)
		return -EBADF;
	return call_give(c, c->a[1], &out, sizeof(out),
	    ask(c, WIRE_G_DESCRIBE, &q, sizeof(q), &out, sizeof(out)));
}

static int64_t do_derive(struct guest_call *c)
{
	struct wire_gcap q = {
	    .cap = (uint32_t)c->a[0],
	    .rights = (uint32_t)c->a[1],
	};

	if (c->a[0] > INT32_MAX)
		return -EBADF;
	if (c->a[1] > UINT32_MAX)
		return -EINVAL;
	return ask(c, WIRE_G_DERIVE, &q, sizeof(q), NULL, 0);
}

static int64_t do_drop(struct guest_call *c)
{
	struct wire_gcap q = {.cap = (uint32_t)c->a[0]};

	if (c->a[0] > INT32_MAX)
		return -EBADF;
	return ask(c, WIRE_G_DROP, &q, sizeof(q), NULL, 0);
}

/* --- the table ------------------------------------------------------------ */

static firn_fn *const calls[] = {
    [FIRN_NR_VERSION - FIRN_NR_BASE] = do_version,
    [FIRN_NR_SEGMENT_MAKE - FIRN_NR_BASE] = do_segment_make,
    [FIRN_NR_SEGMENT_FIND - FIRN_NR_BASE] = do_segment_find,
    [FIRN_NR_FREEZE - FIRN_NR_BASE] = do_freeze,
    [FIRN_NR_SEVER - FIRN_NR_BASE] = do_sever,
    [FIRN_NR_MAP - FIRN_NR_BASE] = do_map,
    [FIRN_NR_UNMAP - FIRN_NR_BASE] = do_unmap,
    [FIRN_NR_LOOKUP - FIRN_NR_BASE] = do_lookup,
    [FIRN_NR_DESCRIBE - FIRN_NR_BASE] = do_describe,
    [FIRN_NR_DIFF - FIRN_NR_BASE] = call_diff,
    [FIRN_NR_DIRTY - FIRN_NR_BASE] = call_dirty,
    [FIRN_NR_DERIVE - FIRN_NR_BASE] = do_derive,
    [FIRN_NR_DROP - FIRN_NR_BASE] = do_drop,
    [FIRN_NR_MELD - FIRN_NR_BASE] = call_meld,
    [FIRN_NR_ADOPT - FIRN_NR_BASE] = do_adopt,
    [FIRN_NR_TOUCHED - FIRN_NR_BASE] = call_touched,
};

_Static_assert(sizeof(calls) / sizeof(calls[0]) == FIRN_NR_END - FIRN_NR_BASE,
    "every call has its function");

int64_t firn_call(struct guest_call *c)
{
	return calls[c->nr - FIRN_NR_BASE](c);
}
