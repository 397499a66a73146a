/* SPDX-License-Identifier: MIT */
/*
 * store: when what nobody reaches is given back, and who keeps files in use.
 *
 * Whatever drops something calls layers_reap() in the end, and that
 * store_poke(), which decides in constant time. Files of few layers are merged
 * as soon as there are too many. A mark, which finds what is dead, visits every
 * node of every map: it is due when something was dropped and more than
 * STORE_SLACK is held, STORE_FACTOR times as long after the last one as that
 * took, so that marks take a bounded part of one worker's time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/broker/internal.h"
#include "vmm/layer/layer_copy.h"

#define STORE_SLACK    (4ULL << 20)  /* bytes; less is not worth a mark */
#define STORE_PAUSE_NS 200000000ULL  /* between two jobs that mark */
#define STORE_IDLE_NS  1000000000ULL /* the same when little was dropped */
#define STORE_LITTLE   16u           /* one entry gone of so many nodes */
#define STORE_FACTOR   8u
#define STORE_NODES    1024u /* freed in one round of the loop */

/* --- pins ----------------------------------------------------------------- */

int pins_take(
    struct broker *b, struct pins *p, const uint32_t *file, uint32_t n)
{
	uint32_t *copy = malloc(((size_t)n + 1) * sizeof(*copy));

	if (copy == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		copy[i] = file[i];
		lfile_pin(b->layers, file[i]);
	}
	*p = (struct pins){.file = copy, .n = n};
	return 0;
}

void pins_drop(struct broker *b, struct pins *p)
{
	for (uint32_t i = 0; i < p->n; i++)
		lfile_unpin(b->layers, p->file[i]);
	free(p->file);
	*p = (struct pins){0};
}

static bool pins_have(const struct pins *p, uint32_t file)
{
	for (uint32_t i = 0; i < p->n; i++)
		if (p->file[i] == file)
			return true;
	return false;
}

int pins_add(struct broker *b, struct pins *p, const uint32_t *file, uint32_t n)
{
	uint32_t *more =
	    realloc(p->file, ((size_t)p->n + n + 1) * sizeof(*more));

	if (more == NULL)
		return -ENOMEM;
	p->file = more;
	for (uint32_t i = 0; i < n; i++) {
		if (pins_have(p, file[i]))
			continue;
		lfile_pin(b->layers, file[i]);
		p->file[p->n++] = file[i];
	}
	return 0;
}

void place_unpin(struct broker *b, struct bplace *p)
{
	pins_drop(b, &p->pins);
	if (p->has_own_file)
		lfile_unpin(b->layers, p->own_file);
	p->has_own_file = false;
}

/* Of uid -1, which is nobody, they are nobody's. */
uint32_t layers_of(uid_t uid)
{
	return (uint32_t)uid + 1;
}

/* Whose are copies for (s). Those of a private history are nobody's: what is in
 * a file stays there, and nothing joins it. */
static uint32_t snap_layers(const struct snap *s)
{
	return s->private_history ? 0 : layers_of(s->payer);
}

int snap_copied(struct broker *b, const struct snap *s, struct layer_copied *c,
    uint32_t *layer, struct err *e)
{
	int rc = layer_adopt(b->layers, c->fd, c->npages, layer, e);

	if (rc != 0)
		return rc;
	c->fd = -1;
	layer_belongs(b->layers, *layer, snap_layers(s));
	return 0;
}

/* --- jobs ----------------------------------------------------------------- */

static struct store *store_of(struct work *w)
{
	return (struct store *)((char *)w - offsetof(struct store, work));
}

static void job_run(struct work *w)
{
	tidy_run(store_of(w)->job, &w->cancelled);
}

static void job_done(struct work *w)
{
	struct store *s = store_of(w);
	struct broker *b = s->b;
	struct layer_totals sum;
	struct tidy_result r;
	struct err e;
	uint64_t began_ns = s->began_ns;
	bool marking = s->marking;
	int rc = tidy_end(s->job, &r, &e);
	uint64_t now = now_ns();

	s->job = NULL;
	s->took_ns = now - s->began_ns;
	s->ended_ns = now;
	s->failed = rc != 0;
	s->more = r.more;
	/* A merge without a mark leaves files with holes alone. */
	s->sparse = rc == 0 && !s->marking && r.large_files > TIDY_FILES;
	if (rc == 0)
		s->large_files = r.large_files;
	if (r.marked) {
		s->gone = s->gone_began;
		s->live_bytes = r.live_bytes;
		s->marks++;
	}
	s->moved_bytes += r.moved_bytes;
	s->moved_files += r.from_files;
	/* Also those that could not be asked when files were rewritten. */
	if (marking || r.from_files > 0)
		relay_places(b);
	/* Its files are taken to be closed, so that they do not count. */
	layers_reap(b);
	if (!marking)
		return;
	layer_set_totals(b->layers, &sum);
	if (r.marked)
		s->held_bytes = sum.bytes;
	stats_marked(b, began_ns);
}

static void wait_until(struct store *s, uint64_t due, uint64_t now)
{
	loop_timer_start(&s->timer, (uint32_t)((due - now) / 1000000) + 1);
}

struct movables {
	struct broker *b;
	uint32_t *pins; /* or NULL */
};

/* May all who pin (file) be moved to another? */
static bool movable(void *ctx, uint32_t file)
{
	struct movables *m = ctx;
	struct lfile_stat st;

	lfile_stat(m->b->layers, file, &st);
	return m->pins != NULL && m->pins[file] == st.pins;
}

static void job_start(struct broker *b, bool mark)
{
	struct store *s = &b->tidying;
	struct movables m = {.b = b, .pins = mark ? relay_pins(b) : NULL};
	struct tidy_conf conf = {.mark = mark, .movable = movable, .ctx = &m};
	struct layer_totals sum, with;
	int rc;

	layer_set_totals(b->layers, &sum);
	s->began_ns = now_ns();
	s->marking = mark;
	rc = tidy_begin(b->layers, &b->store, &conf, &s->job);
	free(m.pins);
	layer_set_totals(b->layers, &with);
	/* The maps that the job holds go with it: they are nobody's loss. */
	s->gone_began = sum.entries_gone + (with.entries - sum.entries);
	if (rc != 0) {
		s->failed = true;
		s->ended_ns = s->began_ns;
		wait_until(s, s->ended_ns + STORE_PAUSE_NS, s->ended_ns);
		if (mark)
			stats_marked(b, s->began_ns);
		return;
	}
	worker_submit(b->pool, &s->work, job_run, job_done);
}

/* --- when ----------------------------------------------------------------- */

static bool too_many_files(
    const struct store *s, const struct layer_totals *sum)
{
	return sum->files > (uint64_t)s->large_files + TIDY_FILES;
}

/* When the next mark is due; 0: nothing is to be found. */
static uint64_t mark_due(struct broker *b, const struct layer_totals *sum)
{
	const struct store *s = &b->tidying;
	uint64_t gone = sum->entries_gone - s->gone;
	uint64_t pause = STORE_PAUSE_NS;

	if (s->waiting != NULL)
		return 1;
	if (s->sparse || s->more)
		return s->ended_ns + pause;
	if (gone == 0 || sum->bytes - sum->pinned_bytes <= STORE_SLACK)
		return 0;
	if (gone * STORE_LITTLE < b->store.nnodes)
		pause = STORE_IDLE_NS;
	if (pause < s->took_ns * STORE_FACTOR)
		pause = s->took_ns * STORE_FACTOR;
	return s->ended_ns + pause;
}

void store_poke(struct broker *b)
{
	struct store *s = &b->tidying;
	struct layer_totals sum;
	uint64_t now = now_ns();
	uint64_t due;

	if (b->store.dead != NULL)
		loop_timer_start(&s->timer, 0);
	if (s->job != NULL || b->pool == NULL || b->store.dead != NULL)
		return;
	layer_set_totals(b->layers, &sum);
	due = mark_due(b, &sum);
	if (s->failed && now < s->ended_ns + STORE_PAUSE_NS)
		wait_until(s, s->ended_ns + STORE_PAUSE_NS, now);
	else if (too_many_files(s, &sum))
		job_start(b, false);
	else if (due != 0 && due <= now)
		job_start(b, true);
	else if (due != 0)
		wait_until(s, due, now);
}

static void timer_fired(void *arg)
{
	struct broker *b = arg;

	(void)map_reap(&b->store, STORE_NODES);
	layers_reap(b);
}

void store_init(struct broker *b)
{
	b->tidying.b = b;
	loop_timer_init(&b->tidying.timer, b->loop, timer_fired, b);
	loop_timer_init(&b->tidying.relays, b->loop, relay_turn, b);
}

void store_end(struct broker *b)
{
	stats_marked(b, UINT64_MAX);
	loop_timer_stop(&b->tidying.timer);
	loop_timer_stop(&b->tidying.relays);
	while (map_reap(&b->store, STORE_NODES))
		;
}
