/* SPDX-License-Identifier: MIT */
/* firn's own calls: shared/abi/guestcall.h. */
#include "vmm/guestcall/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "vmm/core/cleanup.h"

typedef int64_t firn_fn(struct guest_call *c);

/* A name, NUL-padded. Where (optional), address 0 is the empty name. */
static int get_name(
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

/* What is asked of the broker, and where the beginning of its answer goes. */
struct question {
	uint16_t type;
	const void *payload;
	uint32_t payload_len;
	void *out;
	uint32_t out_len;
};

/* The answer's status, or an error. */
static int64_t ask_packet(
    struct guest_call *c, const struct question *q, struct wire_packet *p)
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
	const struct question q = {type, payload, payload_len, out, len};
	struct wire_packet *p = calloc(1, sizeof(*p));
	int64_t r;

	if (p == NULL)
		return -ENOMEM;
	r = ask_packet(c, &q, p);
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

/* (ret), unless the result cannot be stored. */
static int64_t give(struct guest_call *c, uint64_t va, const void *out,
    uint64_t len, int64_t ret)
{
	if (ret < 0 || va == 0)
		return ret;
	return guest_copy_out(c->g, va, out, len) < 0 ? -EFAULT : ret;
}

/* Refuse before anything happens what could not be told of afterwards. */
static int check_out(struct guest_call *c, uint64_t va, uint64_t len)
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
	return give(c, out, &s, sizeof(s), 0);
}

/* The bank pays for a segment before it exists, and gives its memory. */
static int64_t do_segment_make(struct guest_call *c)
{
	AUTO_CLOSE int memory = -1;
	struct wire_segment w = {.size = c->a[1], .flags = (uint32_t)c->a[3]};
	struct make_job j = {
	    .g = c->g, .name = w.name, .size = w.size, .flags = w.flags};
	int64_t r = get_name(c, c->a[0], false, w.name);

	if (r == 0 && (c->a[3] & ~(uint64_t)FIRN_SEG_MAKE) != 0)
		r = -EINVAL;

	if (r == 0)
		r = check_out(c, c->a[2], sizeof(struct firn_segment));
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
	int64_t r = get_name(c, c->a[0], false, name);

	if (r == 0)
		r = check_out(c, c->a[1], sizeof(struct firn_segment));
	if (r < 0)
		return r;
	return segment_job(c, find_on_control, &j, c->a[1]);
}

/* --- snapshots and views -------------------------------------------------- */

static int64_t freeze(struct guest_call *c, uint16_t type)
{
	struct wire_gfreeze q = {.id = (uint32_t)c->a[0]};
	struct firn_frozen out = {0};
	int r = get_name(c, c->a[1], true, q.name);

	if (c->a[0] > UINT32_MAX)
		return -ENOENT;
	if (r == 0)
		r = check_out(c, c->a[2], sizeof(out));
	if (r < 0)
		return r;
	return give(c, c->a[2], &out, sizeof(out),
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
	r = check_out(c, out, sizeof(s));
	if (r < 0)
		return r;
	r = ask(c, type, q, sizeof(*q), &s, sizeof(s));
	if (r < 0)
		return r;
	s.va = FIRN_WINDOW + s.gpa;
	guest_enter(c->g);
	as_window_fill(&c->g->as, s.gpa, s.size);
	guest_leave(c->g);
	return give(c, out, &s, sizeof(s), r);
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
	int r = get_name(c, c->a[0], false, name);

	return r < 0 ? r : ask(c, WIRE_G_LOOKUP, name, sizeof(name), NULL, 0);
}

static int64_t do_describe(struct guest_call *c)
{
	struct wire_gcap q = {.cap = (uint32_t)c->a[0]};
	struct firn_cap_info out = {0};

	if (c->a[0] > INT32_MAX)
		return -EBADF;
	return give(c, c->a[1], &out, sizeof(out),
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

/* --- what changed --------------------------------------------------------- */

/*
 * Room for the answer, before it is asked for: what a cursor has passed is told
 * nobody a second time. Both from the heap.
 */
struct answer {
	struct wire_packet *packet; /* of the broker's answers, else NULL */
	struct firn_extent *x;
	uint64_t max; /* extents that the guest has room for */
};

static int answer_make(struct answer *a, bool packet, uint64_t max)
{
	*a = (struct answer){.max = max};
	a->x = calloc(max + 1, sizeof(*a->x));
	if (packet)
		a->packet = calloc(1, sizeof(*a->packet));
	return a->x != NULL && (!packet || a->packet != NULL) ? 0 : -ENOMEM;
}

static void answer_free(struct answer *a)
{
	if (a->packet != NULL)
		wire_close_fds(a->packet);
	free(a->packet);
	free(a->x);
}

/* Give the (n) extents that there is room for, and the counts. */
static int64_t give_extents(struct guest_call *c, const struct answer *a,
    uint64_t n, const struct firn_pages *pages)
{
	int r = 0;

	if (n > a->max)
		n = a->max;
	if (n > 0)
		r = guest_copy_out(c->g, c->a[3], a->x, n * sizeof(*a->x));
	return r < 0 ? r : give(c, c->a[5], pages, sizeof(*pages), 0);
}

/* The same of those that came as a memfd. */
static int64_t give_sent(
    struct guest_call *c, const struct answer *a, const struct firn_pages *p)
{
	int fd AUTO_CLOSE = wire_take_fd(a->packet, 0);
	ssize_t n = 0;

	if (fd >= 0)
		n = pread(fd, a->x, a->max * sizeof(*a->x), 0);
	if (n < 0)
		return -errno;
	return give_extents(c, a, (uint64_t)n / sizeof(*a->x), p);
}

/* A question whose answer is extents, at most (max). */
static int64_t ask_extents(struct guest_call *c, uint16_t type,
    const void *payload, uint32_t len, uint64_t max)
{
	struct firn_pages pages = {0};
	const struct question q = {type, payload, len, &pages, sizeof(pages)};
	struct answer a;
	int64_t r = answer_make(&a, true, max);

	if (r == 0)
		r = ask_packet(c, &q, a.packet);
	if (r >= 0)
		r = give_sent(c, &a, &pages);
	answer_free(&a);
	return r;
}

static int64_t do_diff(struct guest_call *c)
{
	const struct wire_gdiff d = {
	    .a = (uint32_t)c->a[0],
	    .b = (uint32_t)c->a[1],
	    .flags = (uint32_t)c->a[2],
	    .max = (uint32_t)c->a[4],
	};

	if (c->a[0] > INT32_MAX || c->a[1] > INT32_MAX)
		return -EBADF;
	if (c->a[2] & ~(uint64_t)FIRN_EXACT)
		return -EINVAL;
	if (c->a[4] > FIRN_EXTENTS_MAX)
		return -E2BIG;
	return ask_extents(c, WIRE_G_DIFF, &d, sizeof(d), d.max);
}

/* A refusal comes with what conflicts, in as much room as there is. */
static int64_t give_conflicts(struct guest_call *c, struct wire_packet *p,
    const struct wire_melded *w, uint32_t max)
{
	int fd AUTO_CLOSE = wire_take_fd(p, 0);
	void *data = NULL;
	size_t len = 0;
	int r = 0;

	if (fd >= 0)
		r = wire_slurp(
		    fd, max * sizeof(struct firn_conflict), &data, &len);
	if (r == 0 && len > 0)
		r = guest_copy_out(c->g, c->a[2], data, len);
	free(data);
	if (r == 0)
		r = (int)give(c, c->a[3], &w->m, sizeof(w->m), 0);
	return r < 0 ? r : w->result;
}

static int64_t do_meld(struct guest_call *c)
{
	struct wire_gmeld g = {0};
	struct wire_melded w = {0};
	const struct question q = {WIRE_G_MELD, &g, sizeof(g), &w, sizeof(w)};
	struct wire_packet *p;
	int64_t r = guest_copy_in(c->g, &g.m, c->a[0], sizeof(g.m));

	if (r == 0)
		r = get_name(c, c->a[1], true, g.name);
	if (r == 0 && g.m.max > FIRN_EXTENTS_MAX)
		r = -E2BIG;
	if (r == 0 && c->a[2] == 0)
		g.m.max = 0;
	if (r == 0)
		r = check_out(
		    c, c->a[2], g.m.max * sizeof(struct firn_conflict));
	if (r == 0)
		r = check_out(c, c->a[3], sizeof(w.m));
	if (r < 0)
		return r;
	p = calloc(1, sizeof(*p));
	if (p == NULL)
		return -ENOMEM;
	r = ask_packet(c, &q, p);
	if (r >= 0)
		r = give_conflicts(c, p, &w, g.m.max);
	wire_close_fds(p);
	free(p);
	return r;
}

/* A set of pages, and its extents as far as there is room for them. */
struct page_set {
	uint64_t *words;
	uint64_t nwords;
	struct firn_pages count;
};

static bool bit_at(const struct page_set *s, uint64_t i)
{
	return i < s->nwords * 64 && (s->words[i / 64] >> (i % 64) & 1);
}

static void clear_bits(struct page_set *s, const struct firn_extent *x)
{
	for (uint64_t i = x->first; i < x->first + x->npages; i++)
		s->words[i / 64] &= ~(1ULL << i % 64);
}

/* The set as extents: all of them counted; those that (a) has room for, the
 * first ones, go there and leave the set. */
static void take_extents(struct page_set *s, struct answer *a)
{
	struct firn_pages *n = &s->count;
	uint64_t i = 0;

	while (i < s->nwords * 64) {
		struct firn_extent x = {.first = i};

		if (s->words[i / 64] == 0) {
			i = (i / 64 + 1) * 64;
			continue;
		}
		while (bit_at(s, i))
			i++;
		x.npages = i - x.first;
		if (x.npages == 0) {
			i++;
			continue;
		}
		n->pages += x.npages;
		if (n->nextents < a->max) {
			a->x[n->nextents] = x;
			clear_bits(s, &x);
		}
		n->nextents++;
	}
}

struct dirty_job {
	struct guest *g;
	uint32_t id;
	const char *cursor;
	bool peek;
	bool begin; /* one that is not known; else -ESRCH */
	struct page_set set;
	struct answer a;
};

/* The cursor passes what there is room to tell of. */
static int dirty_on_control(void *arg)
{
	struct dirty_job *j = arg;
	struct place *p = places_by_id(j->g->env.places, j->id);
	struct place_info info;
	uint64_t pages;
	int r;

	if (!p)
		return -ENOENT;
	if (!j->begin && !place_has_cursor(p, j->cursor))
		return -ESRCH;
	place_info(p, &info);
	j->set.nwords = (info.npages + 63) / 64;
	r = place_dirty(p, j->cursor, j->peek, &j->set.words, &pages, NULL);
	if (r < 0)
		return r;
	take_extents(&j->set, &j->a);
	if (!j->peek)
		place_dirty_untold(p, j->cursor, j->set.words);
	return 0;
}

/* A plain cursor, that the control thread has. */
static int64_t dirty_plain(struct guest_call *c, const char *name, bool begin)
{
	struct dirty_job j = {
	    .g = c->g,
	    .id = (uint32_t)c->a[0],
	    .cursor = name,
	    .peek = c->a[2] & FIRN_PEEK,
	    .begin = begin,
	};
	int64_t r = answer_make(&j.a, false, c->a[4]);

	if (r == 0)
		r = c->g->env.ops.on_control(
		    c->g->env.ops.ctx, dirty_on_control, &j);
	if (r == 0)
		r = give_extents(c, &j.a, j.set.count.nextents, &j.set.count);
	answer_free(&j.a);
	free(j.set.words);
	return r;
}

/* An exact one, that the broker has. */
static int64_t dirty_exact(struct guest_call *c, const char *name)
{
	struct wire_gdirty g = {
	    .id = (uint32_t)c->a[0],
	    .flags = (uint32_t)c->a[2],
	    .max = (uint32_t)c->a[4],
	};

	memcpy(g.cursor, name, sizeof(g.cursor));
	return ask_extents(c, WIRE_G_DIRTY, &g, sizeof(g), g.max);
}

static int known_on_control(void *arg)
{
	const struct dirty_job *j = arg;
	struct place *p = places_by_id(j->g->env.places, j->id);

	if (!p)
		return -ENOENT;
	return place_has_cursor(p, j->cursor) ? -EINVAL : 0;
}

/* A cursor that began plain cannot answer exactly, and one that began exact
 * answers exactly always. */
static int64_t dirty(struct guest_call *c, const char *name)
{
	struct dirty_job j = {
	    .g = c->g, .id = (uint32_t)c->a[0], .cursor = name};
	int64_t r;

	if (c->a[2] & FIRN_EXACT) {
		r = c->g->env.ops.on_control(
		    c->g->env.ops.ctx, known_on_control, &j);
		return r < 0 ? r : dirty_exact(c, name);
	}
	r = dirty_plain(c, name, false);
	if (r != -ESRCH)
		return r;
	r = dirty_exact(c, name);
	return r != -ENOENT ? r : dirty_plain(c, name, true);
}

static int64_t do_dirty(struct guest_call *c)
{
	char name[FIRN_NAME_MAX];
	int64_t r;

	if (c->a[0] > UINT32_MAX)
		return -ENOENT;
	if (c->a[2] & ~(uint64_t)(FIRN_EXACT | FIRN_PEEK))
		return -EINVAL;
	if (c->a[4] > FIRN_EXTENTS_MAX)
		return -E2BIG;
	r = get_name(c, c->a[1], false, name);
	if (r == 0 && name[0] == WIRE_CURSOR_CLIENT[0])
		return -EINVAL; /* not the guest's to advance */
	/* An advanced cursor cannot be wound back: look at the buffers first.
	 */
	if (r == 0)
		r = check_out(c, c->a[3], c->a[4] * sizeof(struct firn_extent));
	if (r == 0)
		r = check_out(c, c->a[5], sizeof(struct firn_pages));
	return r < 0 ? r : dirty(c, name);
}

struct touched_job {
	struct guest *g;
	uint32_t id;
	struct place_sets sets;
	uint64_t nwords;
};

static int touched_on_control(void *arg)
{
	struct touched_job *j = arg;
	struct place *p = places_by_id(j->g->env.places, j->id);
	struct place_info info;

	if (!p)
		return -ENOENT;
	place_info(p, &info);
	j->nwords = (info.npages + 63) / 64;
	return place_touched(p, &j->sets, NULL);
}

static int64_t touched(struct guest_call *c)
{
	struct touched_job j = {.g = c->g, .id = (uint32_t)c->a[0]};
	struct page_set set = {0};
	struct answer a;
	int64_t r = answer_make(&a, false, c->a[4]);

	if (r == 0)
		r = c->g->env.ops.on_control(
		    c->g->env.ops.ctx, touched_on_control, &j);
	if (r == 0) {
		set.words =
		    c->a[1] == FIRN_WRITTEN ? j.sets.writes : j.sets.reads;
		set.nwords = j.nwords;
		take_extents(&set, &a);
		r = give_extents(c, &a, set.count.nextents, &set.count);
	}
	place_sets_free(&j.sets);
	answer_free(&a);
	return r;
}

static int64_t do_touched(struct guest_call *c)
{
	int64_t r;

	if (c->a[0] > UINT32_MAX)
		return -ENOENT;
	if (c->a[1] > FIRN_WRITTEN || c->a[2] != 0)
		return -EINVAL;
	if (c->a[4] > FIRN_EXTENTS_MAX)
		return -E2BIG;
	r = check_out(c, c->a[3], c->a[4] * sizeof(struct firn_extent));
	if (r == 0)
		r = check_out(c, c->a[5], sizeof(struct firn_pages));
	return r < 0 ? r : touched(c);
}

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
    [FIRN_NR_DIFF - FIRN_NR_BASE] = do_diff,
    [FIRN_NR_DIRTY - FIRN_NR_BASE] = do_dirty,
    [FIRN_NR_DERIVE - FIRN_NR_BASE] = do_derive,
    [FIRN_NR_DROP - FIRN_NR_BASE] = do_drop,
    [FIRN_NR_MELD - FIRN_NR_BASE] = do_meld,
    [FIRN_NR_ADOPT - FIRN_NR_BASE] = do_adopt,
    [FIRN_NR_TOUCHED - FIRN_NR_BASE] = do_touched,
};

_Static_assert(sizeof(calls) / sizeof(calls[0]) == FIRN_NR_END - FIRN_NR_BASE,
    "every call has its function");

int64_t firn_call(struct guest_call *c)
{
	return calls[c->nr - FIRN_NR_BASE](c);
}
