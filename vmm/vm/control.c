/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/core/cleanup.h"
#include "vmm/vm/internal.h"

/* --- answers --------------------------------------------------------------
 *
 * An answer may fail for want of room for its descriptors, of which a user may
 * have only so many under way: then the request has failed, and says so.
 */

static int reply(struct vm *vm, int64_t status, const void *payload,
    uint32_t len, const int *fds, uint32_t nfds)
{
	const struct wire_msg m = {
	    .type = vm->in.m.type | WIRE_REPLY,
	    .seq = vm->in.m.seq,
	    .len = len,
	    .status = status,
	};

	return broker_send(vm, &m, payload, fds, nfds);
}

/* reply() with descriptors; they can be sent again, by who asks again. */
static int reply_fds(struct vm *vm, const void *payload, uint32_t len,
    const int *fds, uint32_t nfds, struct err *e)
{
	int r = reply(vm, 0, payload, len, fds, nfds);

	if (r == 0)
		return 0;
	return err_set(
	    e, r, "cannot send an answer: %s; try again", strerror(-r));
}

int control_refuse(struct vm *vm, int status, const char *text)
{
	return reply(vm, status, text, (uint32_t)strlen(text), NULL, 0);
}

/* The request's payload, which must be exactly (len) bytes. */
static int take_payload(struct vm *vm, void *to, uint32_t len, struct err *e)
{
	if (vm->in.m.len != len)
		return err_set(e, -EPROTO, "request %u has %u bytes, not %u",
		    vm->in.m.type, vm->in.m.len, len);
	memcpy(to, vm->in.payload, len);
	return 0;
}

static int check_name(const char *name, struct err *e)
{
	if (memchr(name, '\0', FIRN_NAME_MAX) == NULL)
		return err_set(e, -EPROTO, "a name has no end");
	return 0;
}

static struct place *find(struct vm *vm, uint32_t id, struct err *e)
{
	struct place *p = places_by_id(vm->places, id);

	if (p == NULL)
		(void)err_set(e, -ENOENT, "no segment %u", id);
	return p;
}

static int take_place(struct vm *vm, struct place **p, struct err *e)
{
	struct wire_place q;
	int r = take_payload(vm, &q, sizeof(q), e);

	if (r < 0)
		return r;
	*p = find(vm, q.id, e);
	return *p != NULL ? 0 : -ENOENT;
}

/* --- freeze and sever ----------------------------------------------------- */

/* The descriptors of a wire_frozen; those of the runs are (own). */
struct frozen_fds {
	int fd[2 * WIRE_STEPS_MAX + 1];
	uint32_t n;
	int own[WIRE_STEPS_MAX + 1];
	uint32_t nown;
};

static int put_step(
    const struct place_step *s, struct wire_step *w, struct frozen_fds *f)
{
	int fd =
	    wire_blob("firn-runs", s->runs, s->nruns * sizeof(struct page_run));

	if (fd < 0)
		return fd;
	f->own[f->nown++] = fd;
	f->fd[f->n++] = fd;
	if (s->layer_fd >= 0)
		f->fd[f->n++] = s->layer_fd;
	*w = (struct wire_step){
	    .nruns = s->nruns,
	    .layer_npages = s->layer_npages,
	    .has_layer = s->layer_fd >= 0,
	    .first = s->first,
	    .severed = s->severed,
	    .owned = s->owned,
	};
	return 0;
}

/* The two bitmaps, one after the other, as a memfd. */
static int sets_blob(const struct place_sets *s, uint64_t npages)
{
	size_t len = (npages + 63) / 64 * sizeof(uint64_t);
	unsigned char *both = malloc(2 * len);
	int fd;

	if (both == NULL)
		return -ENOMEM;
	memcpy(both, s->reads, len);
	memcpy(both + len, s->writes, len);
	fd = wire_blob("firn-sets", both, 2 * len);
	free(both);
	return fd;
}

static int put_sets(const struct place_frozen *z, struct frozen_fds *f)
{
	int fd = sets_blob(&z->sets, z->npages);

	if (fd < 0)
		return fd;
	f->own[f->nown++] = fd;
	f->fd[f->n++] = fd;
	return 0;
}

static int put_frozen(const struct place_frozen *z, struct wire_frozen *w,
    struct frozen_fds *f, struct err *e)
{
	int r = 0;

	*w = (struct wire_frozen){
	    .npages = z->npages,
	    .dirty_pages = z->dirty_pages,
	    .copied_pages = z->copied_pages,
	    .cold_pages = z->cold_pages,
	    .warm_pages = z->warm_pages,
	    .pause_ns = z->pause_ns,
	    .total_ns = z->total_ns,
	    .nsteps = z->nsteps,
	    .tracked = z->sets.reads != NULL,
	};
	for (uint32_t i = 0; i < z->nsteps && r == 0; i++)
		r = put_step(&z->step[i], &w->step[i], f);
	if (r == 0 && w->tracked)
		r = put_sets(z, f);
	if (r < 0)
		return err_set(e, r,
		    "cannot tell the broker of a freeze (%s); the next one "
		    "tells of both",
		    strerror(-r));
	return 0;
}

_Static_assert(PLACE_STEPS_MAX <= WIRE_STEPS_MAX, "steps fit");
_Static_assert(PLACES_MAX <= WIRE_SEGMENTS_MAX, "places fit");

static int answer_frozen(
    struct vm *vm, struct place *p, const struct place_frozen *z, struct err *e)
{
	struct frozen_fds f = {0};
	struct wire_frozen w;
	int r = put_frozen(z, &w, &f, e);

	if (r == 0)
		r = reply_fds(vm, &w, sizeof(w), f.fd, f.n, e);
	if (r == 0)
		place_frozen_done(p, z->nsteps);
	for (uint32_t i = 0; i < f.nown; i++)
		cleanup_close(&f.own[i]);
	return r;
}

static int do_freeze(struct vm *vm, struct err *e)
{
	struct place_frozen z;
	struct place *p;
	int r = take_place(vm, &p, e);

	if (r == 0)
		r = place_freeze(vm->places, p, &z, e);
	if (r < 0)
		return r;
	r = answer_frozen(vm, p, &z, e);
	place_sets_free(&z.sets);
	return r;
}

static int do_sever(struct vm *vm, struct err *e)
{
	AUTO_CLOSE int fresh = wire_take_fd(&vm->in, 0);
	struct place_info info;
	struct place_frozen z;
	struct place *p;
	int r = take_place(vm, &p, e);

	if (r < 0)
		return r;
	place_info(p, &info);
	if (info.gpa == GMEM_RAM_GPA)
		return err_set(e, -EPERM,
		    "segment 0 is the program's own memory and cannot be "
		    "severed; freeze it");
	r = place_sever(vm->places, p, fresh, &z, e);
	if (r < 0)
		return r;
	return answer_frozen(vm, p, &z, e);
}

/* --- views ---------------------------------------------------------------- */

void control_drop_layers(struct vm *vm)
{
	for (uint32_t i = 0; i < vm->nlayers; i++)
		cleanup_close(&vm->layer[i]);
	vm->nlayers = 0;
	vm->layers_lost = false;
}

/* Keep the packet's descriptors from (first) on for a request to come. */
static void keep_layers(struct vm *vm, uint32_t first)
{
	for (uint32_t i = first; i < vm->in.nfds; i++) {
		if (vm->nlayers == VM_LAYERS_MAX)
			vm->layers_lost = true;
		else
			vm->layer[vm->nlayers++] = wire_take_fd(&vm->in, i);
	}
}

static int take_runs(struct vm *vm, const struct wire_map *q,
    struct page_run **runs, struct err *e)
{
	AUTO_CLOSE int fd = wire_take_fd(&vm->in, 0);
	void *data;
	size_t len;
	int r;

	if (q->nruns > VM_RUNS_MAX)
		return err_set(e, -E2BIG, "a view of %llu runs: at most %u",
		    (unsigned long long)q->nruns, VM_RUNS_MAX);
	r = wire_slurp(fd, q->nruns * sizeof(**runs), &data, &len);
	if (r < 0)
		return err_set(
		    e, r, "cannot read a view's runs: %s", strerror(-r));
	*runs = data;
	if (len != q->nruns * sizeof(**runs))
		return err_set(e, -EPROTO, "a view's runs are cut short");
	return 0;
}

static int check_map(struct vm *vm, const struct wire_map *q, struct err *e)
{
	if (vm->in.nfds == 0)
		return err_set(e, -EPROTO, "a view without its runs");
	if ((q->mode & ~FIRN_MAP_TRACK) > FIRN_MAP_OWN ||
	    q->mode == (FIRN_MAP_OWN | FIRN_MAP_TRACK))
		return err_set(e, -EINVAL, "no map mode %u", q->mode);
	if (vm->layers_lost)
		return err_set(
		    e, -E2BIG, "a view of more than %u layers", VM_LAYERS_MAX);
	if (q->nlayers != vm->nlayers)
		return err_set(e, -EPROTO,
		    "a view of %u layers came with %u descriptors", q->nlayers,
		    vm->nlayers);
	return check_name(q->name, e);
}

/* A view for which nobody chose a name gets the first that is free; more names
 * are tried than there can be places. */
static void choose_name(struct vm *vm, char *name)
{
	for (uint32_t i = 1; i <= PLACES_MAX + 1 && name[0] == '\0'; i++) {
		(void)snprintf(name, FIRN_NAME_MAX, "view%u", i);
		if (places_by_name(vm->places, name) != NULL)
			name[0] = '\0';
	}
}

static const enum place_kind kind_of[] = {
    [FIRN_MAP_RO] = PLACE_VIEW_RO,
    [FIRN_MAP_COW] = PLACE_VIEW_COW,
    [FIRN_MAP_OWN] = PLACE_SEGMENT,
};

static int open_view(struct vm *vm, const struct wire_map *q,
    struct place_info *info, struct err *e)
{
	AUTO_FREE struct page_run *runs = NULL;
	struct place_view v = {
	    .name = q->name,
	    .gpa = q->gpa,
	    .kind = kind_of[q->mode & ~FIRN_MAP_TRACK],
	    .track = (q->mode & FIRN_MAP_TRACK) != 0,
	    .npages = q->npages,
	    .nruns = q->nruns,
	    .layer_fd = vm->layer,
	    .nlayers = vm->nlayers,
	    .snapshot = q->snapshot,
	};
	struct place *p;
	int r = take_runs(vm, q, &runs, e);

	if (r < 0)
		return r;
	v.runs = runs;
	r = place_open(vm->places, &v, &p, e);
	if (r < 0)
		return r;
	place_info(p, info);
	return 0;
}

static int do_map(struct vm *vm, struct err *e)
{
	struct place_info info;
	struct wire_mapped w;
	struct wire_map q;
	int r = take_payload(vm, &q, sizeof(q), e);

	keep_layers(vm, 1);
	if (r == 0)
		r = check_map(vm, &q, e);
	if (r == 0)
		choose_name(vm, q.name);
	if (r == 0)
		r = open_view(vm, &q, &info, e);
	control_drop_layers(vm);
	if (r < 0)
		return r;
	w = (struct wire_mapped){.id = info.id, .gpa = info.gpa};
	(void)reply(vm, 0, &w, sizeof(w), NULL, 0);
	return 0;
}

static int relay(struct vm *vm, const struct wire_map *q, uint32_t id,
    struct place_relayed *done, struct err *e)
{
	AUTO_FREE struct page_run *runs = NULL;
	struct place_view v = {
	    .npages = q->npages,
	    .nruns = q->nruns,
	    .layer_fd = vm->layer,
	    .nlayers = vm->nlayers,
	};
	struct place_info info;
	struct place *p = find(vm, id, e);
	int r = p == NULL ? -ENOENT : take_runs(vm, q, &runs, e);

	if (r < 0)
		return r;
	place_info(p, &info);
	v.name = info.name;
	v.kind = info.kind == PLACE_VIEW_RO ? PLACE_VIEW_RO : PLACE_VIEW_COW;
	v.runs = runs;
	return place_relay(vm->places, p, &v, done, e);
}

static int do_relay(struct vm *vm, struct err *e)
{
	struct wire_map q = {.mode = FIRN_MAP_RO};
	struct place_relayed done;
	struct wire_relayed told;
	struct wire_relay w;
	int r = take_payload(vm, &w, sizeof(w), e);

	keep_layers(vm, 1);
	if (r == 0) {
		q.npages = w.npages;
		q.nruns = w.nruns;
		q.nlayers = w.nlayers;
		r = check_map(vm, &q, e);
	}
	if (r == 0)
		r = relay(vm, &q, w.id, &done, e);
	control_drop_layers(vm);
	if (r == 0) {
		told = (struct wire_relayed){
		    .pause_ns = done.pause_ns,
		    .given_pages = done.given_pages,
		};
		(void)reply(vm, 0, &told, sizeof(told), NULL, 0);
	}
	return r;
}

static int do_unmap(struct vm *vm, struct err *e)
{
	struct place_info info;
	struct place *p;
	int r = take_place(vm, &p, e);

	if (r == 0)
		r = place_may_close(p, e);
	if (r < 0)
		return r;
	place_info(p, &info);
	gate_close(&vm->gate);
	guest_place_gone(vm->guest, info.gpa, info.npages * PAGE_SIZE);
	r = place_close(vm->places, p, e);
	gate_open(&vm->gate);
	if (r == 0)
		(void)reply(vm, 0, NULL, 0, NULL, 0);
	return r;
}

static int do_touched(struct vm *vm, struct err *e)
{
	AUTO_CLOSE int fd = -1;
	struct place_info info;
	struct place_sets s;
	struct place *p;
	int r = take_place(vm, &p, e);

	if (r == 0)
		r = place_touched(p, &s, e);
	if (r < 0)
		return r;
	place_info(p, &info);
	fd = sets_blob(&s, info.npages);
	place_sets_free(&s);
	if (fd < 0)
		return err_set(
		    e, fd, "cannot hand out bitmaps: %s", strerror(-fd));
	return reply_fds(vm, NULL, 0, &fd, 1, e);
}

/* --- the rest ------------------------------------------------------------- */

static int do_pause(struct vm *vm, struct err *e)
{
	(void)e;
	if (!vm->paused)
		gate_close(&vm->gate);
	vm->paused = true;
	(void)reply(vm, 0, NULL, 0, NULL, 0);
	return 0;
}

static int do_resume(struct vm *vm, struct err *e)
{
	(void)e;
	if (vm->paused)
		gate_open(&vm->gate);
	vm->paused = false;
	(void)reply(vm, 0, NULL, 0, NULL, 0);
	return 0;
}

static void tell_place(struct place *p, struct wire_segment *w)
{
	struct place_info info;

	place_info(p, &info);
	*w = (struct wire_segment){
	    .id = info.id,
	    .flags = place_flags(&info),
	    .gpa = info.gpa,
	    .size = info.npages * PAGE_SIZE,
	    .snapshot = info.snapshot,
	};
	memcpy(w->name, info.name, sizeof(w->name));
	if (place_usage(p, &w->resident, &w->private_) < 0) {
		w->resident = 0;
		w->private_ = 0;
	}
}

static int do_segments(struct vm *vm, struct err *e)
{
	struct wire_segment w[WIRE_SEGMENTS_MAX];
	struct place *p;
	uint32_t n = 0;

	(void)e;
	while (n < WIRE_SEGMENTS_MAX && (p = places_nth(vm->places, n)) != NULL)
		tell_place(p, &w[n++]);
	(void)reply(vm, 0, w, n * (uint32_t)sizeof(w[0]), NULL, 0);
	return 0;
}

static int answer_dirty(struct vm *vm, struct place *p, const uint64_t *words,
    uint64_t count, struct err *e)
{
	AUTO_CLOSE int fd = -1;
	struct wire_dirtied w = {.pages = count};
	struct place_info info;

	place_info(p, &info);
	w.npages = info.npages;
	fd = wire_blob(
	    "firn-dirty", words, (info.npages + 63) / 64 * sizeof(*words));
	if (fd < 0)
		return err_set(
		    e, fd, "cannot hand out a bitmap: %s", strerror(-fd));
	return reply_fds(vm, &w, sizeof(w), &fd, 1, e);
}

static int take_dirty(
    struct vm *vm, struct wire_dirty *q, struct place **p, struct err *e)
{
	int r = take_payload(vm, q, sizeof(*q), e);

	if (r == 0)
		r = check_name(q->cursor, e);
	if (r < 0)
		return r;
	*p = find(vm, q->id, e);
	return *p == NULL ? -ENOENT : 0;
}

static int do_dirty(struct vm *vm, struct err *e)
{
	AUTO_FREE uint64_t *words = NULL;
	struct wire_dirty q;
	struct place *p;
	uint64_t count;
	int r = take_dirty(vm, &q, &p, e);

	if (r < 0)
		return r;
	r = place_dirty(
	    p, q.cursor, (q.flags & FIRN_PEEK) != 0, &words, &count, e);
	if (r < 0)
		return r;
	r = answer_dirty(vm, p, words, count, e);
	if (r < 0)
		place_dirty_untold(p, q.cursor, words);
	return r;
}

static int do_dirty_end(struct vm *vm, struct err *e)
{
	struct wire_dirty q;
	struct place *p;
	int r = take_dirty(vm, &q, &p, e);

	if (r == 0)
		r = place_dirty_end(p, q.cursor, e);
	if (r == 0)
		(void)reply(vm, 0, NULL, 0, NULL, 0);
	return r;
}

static int do_stats(struct vm *vm, struct err *e)
{
	struct wire_stats w = {0};

	(void)e;
	guest_stats(vm->guest, &w);
	(void)reply(vm, 0, &w, sizeof(w), NULL, 0);
	return 0;
}

/* A request is answered by its function, unless that fails. */
static int (*const request[WIRE_TYPE_END])(struct vm *vm, struct err *e) = {
    [WIRE_FREEZE] = do_freeze,
    [WIRE_SEVER] = do_sever,
    [WIRE_TOUCHED] = do_touched,
    [WIRE_MAP] = do_map,
    [WIRE_UNMAP] = do_unmap,
    [WIRE_RELAY] = do_relay,
    [WIRE_PAUSE] = do_pause,
    [WIRE_RESUME] = do_resume,
    [WIRE_SEGMENTS] = do_segments,
    [WIRE_DIRTY] = do_dirty,
    [WIRE_DIRTY_END] = do_dirty_end,
    [WIRE_STATS] = do_stats,
};

static int serve_request(struct vm *vm, struct err *e)
{
	uint16_t type = vm->in.m.type;
	int r;

	*e = (struct err){0};
	if (type < WIRE_TYPE_END && request[type] != NULL)
		r = request[type](vm, e);
	else
		r = err_set(e, -ENOSYS, "no request %u", type);
	/* A broker that is gone is noticed at the next poll. */
	if (r < 0)
		(void)control_refuse(vm, r, e->msg);
	wire_close_fds(&vm->in);
	return r;
}

/* One packet. False: serving ends, because of *why. */
static bool serve_packet(struct vm *vm, enum control_end *why, struct err *e)
{
	if (wire_recv(vm->sock, &vm->in) <= 0) {
		*why = CONTROL_GONE;
		return false;
	}
	if (vm->in.m.type == WIRE_KILL) {
		wire_close_fds(&vm->in);
		*why = CONTROL_KILLED;
		return false;
	}
	if (vm->in.m.type & WIRE_REPLY) {
		calls_reply(vm);
	} else if (vm->in.m.type == WIRE_LAYERS) {
		keep_layers(vm, 0);
		wire_close_fds(&vm->in);
	} else if (serve_request(vm, e) == -ENOTRECOVERABLE) {
		*why = CONTROL_LOST;
		return false;
	}
	return true;
}

static bool has_ended(struct vm *vm)
{
	bool ended;

	(void)pthread_mutex_lock(&vm->lock);
	ended = vm->ended;
	(void)pthread_mutex_unlock(&vm->lock);
	return ended;
}

enum control_end control_serve(struct vm *vm, struct err *e)
{
	struct pollfd p[2] = {
	    {.fd = vm->sock, .events = POLLIN},
	    {.fd = vm->wake_fd, .events = POLLIN},
	};
	enum control_end why = CONTROL_GONE;
	uint64_t count;

	for (;;) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return CONTROL_GONE;
		if (p[1].revents != 0) {
			(void)!read(vm->wake_fd, &count, sizeof(count));
			calls_run_posts(vm);
			if (has_ended(vm))
				return CONTROL_ENDED;
		}
		if (p[0].revents != 0 && !serve_packet(vm, &why, e))
			return why;
	}
}
