/* SPDX-License-Identifier: MIT */
/*
 * Random writes by a real guest and by the monitor, freezes, severs, views and
 * dirty queries, against plain arrays. Prints its seed; FIRN_SEED repeats it.
 */
#include "tests/unit/unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "tests/chance.h"
#include "tests/unit/kvmplaces.h"

#define NPAGES     1500 /* neither whole words of bits nor whole chunks */
#define SNAPS_MAX  12
#define STEPS      1500
#define LAYERS_MAX 900 /* each is a descriptor */
#define CURSORS    3
#define GPA        0x10000000u
#define VIEW_GPA   0x20000000u
#define NIL        0xffffu

/* One layer of one lineage, held for good. */
struct layer {
	int fd; /* re-opened read-only */
};

/* A snapshot: where each page is, and what it must read as. */
struct snap {
	uint16_t layer[NPAGES]; /* NIL: zero */
	uint32_t index[NPAGES];
	uint32_t *bytes; /* first word of every page is all that is written */
};

struct model {
	struct kvmplaces k;
	uint64_t rng;
	struct layer layer[LAYERS_MAX];
	uint32_t nlayers;
	struct snap snap[SNAPS_MAX];
	uint32_t nsnaps;
};

/* A place and what it must look like. */
struct side {
	struct place *p;
	uint32_t gpa;
	uint32_t word[NPAGES * 1024];
	struct snap map;                  /* what was frozen so far */
	uint64_t cursor[CURSORS][NPAGES]; /* 1: must be told */
	bool known[CURSORS];
};

static unsigned rnd(struct model *m, unsigned n)
{
	return (unsigned)chance(&m->rng, n);
}

static int setup(void **state)
{
	struct model *m = calloc(1, sizeof(*m));

	m->rng = chance_begin("place");
	*state = m;
	return kvmplaces_open(&m->k);
}

static int teardown(void **state)
{
	struct model *m = *state;

	kvmplaces_close(&m->k);
	for (uint32_t i = 0; i < m->nlayers; i++)
		(void)close(m->layer[i].fd);
	free(m);
	return 0;
}

/* The same where the kernel has no 2 MiB pages to give. */
static int setup_small(void **state)
{
	return prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) < 0 ? -1 : setup(state);
}

static int teardown_small(void **state)
{
	(void)prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
	return teardown(state);
}

static struct side *side_new(struct place *p)
{
	struct side *s = calloc(1, sizeof(*s));
	struct place_info info;

	assert_non_null(s);
	s->p = p;
	place_info(p, &info);
	s->gpa = (uint32_t)info.gpa;
	memset(s->map.layer, 0xff, sizeof(s->map.layer));
	return s;
}

/* As the broker does it. */
static uint32_t keep_layer(struct model *m, int fd)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	m->layer[m->nlayers].fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(m->layer[m->nlayers].fd >= 0);
	return m->nlayers++;
}

static void put_step(
    struct model *m, struct snap *map, const struct place_step *st)
{
	uint32_t layer = st->layer_fd < 0 ? NIL : keep_layer(m, st->layer_fd);

	if (st->first)
		for (uint32_t i = 0; i < NPAGES; i++)
			assert_int_equal(map->layer[i], NIL);
	assert_int_equal(run_list_check(st->runs, st->nruns, NPAGES), 0);
	for (size_t i = 0; i < st->nruns; i++) {
		const struct page_run *r = &st->runs[i];

		for (uint64_t k = 0; k < r->npages; k++) {
			bool zero = r->layer == RUN_ZERO;

			assert_true(zero || r->layer == 0);
			assert_true(zero || layer != NIL);
			assert_true(zero || r->index + k < st->layer_npages);
			map->layer[r->page + k] =
			    (uint16_t)(zero ? NIL : layer);
			map->index[r->page + k] = (uint32_t)(r->index + k);
		}
	}
}

static void check_page(struct model *m, const struct snap *map, uint32_t page,
    const uint32_t *want)
{
	uint32_t got[1024] = {0};

	if (map->layer[page] != NIL)
		assert_int_equal(pread(m->layer[map->layer[page]].fd, got, 4096,
				     (off_t)map->index[page] * 4096),
		    4096);
	if (memcmp(got, want, 4096) != 0)
		fail_msg("page %u is not what it was", page);
}

static void check_map(struct model *m, const struct side *s)
{
	for (uint32_t i = 0; i < NPAGES; i++)
		check_page(m, &s->map, i, &s->word[i * 1024]);
}

static void check_place(const struct side *s)
{
	struct place_info info;

	place_info(s->p, &info);
	for (uint32_t i = 0; i < NPAGES; i++)
		if (memcmp(info.hva + i * 4096ULL, &s->word[i * 1024], 4096))
			fail_msg("the place's page %u is wrong", i);
}

static void wrote(struct side *s, uint32_t word, uint32_t value)
{
	s->word[word] = value;
	for (int c = 0; c < CURSORS; c++)
		s->cursor[c][word / 1024] = 1;
}

static uint32_t pick_word(struct model *m)
{
	uint32_t page = rnd(m, 3) == 0 ? rnd(m, NPAGES) : rnd(m, 40);

	return page * 1024 + rnd(m, 1024);
}

static void do_guest(struct model *m, struct side *s)
{
	struct kvmguest_write w[200];
	uint32_t n = 1 + rnd(m, 200);

	for (uint32_t i = 0; i < n; i++) {
		uint32_t word = pick_word(m);

		w[i].gpa = s->gpa + word * 4;
		w[i].value = rnd(m, 4) == 0 ? 0 : rnd(m, 1u << 30);
		wrote(s, word, w[i].value);
		if (rnd(m, 8) == 0)
			place_back_chunk(s->p, word / 1024);
	}
	assert_int_equal(kvmplaces_do(&m->k, w, n), 0);
}

static void do_monitor(struct model *m, struct side *s)
{
	uint32_t buf[3000];
	uint32_t n = 1 + rnd(m, 3000);
	uint32_t word = rnd(m, NPAGES * 1024 - n);
	uint32_t value = rnd(m, 3) == 0 ? 0 : rnd(m, 1u << 30);

	for (uint32_t i = 0; i < n; i++) {
		buf[i] = value;
		wrote(s, word + i, value);
	}
	gate_enter(&m->k.gate);
	assert_int_equal(gmem_write(&m->k.gmem, s->gpa + word * 4ULL, buf,
			     n * sizeof(buf[0])),
	    0);
	gate_leave(&m->k.gate);
}

static void do_dirty(struct model *m, struct side *s)
{
	static const char *const name[CURSORS] = {"a", "b", "c"};
	unsigned c = rnd(m, CURSORS);
	bool peek = rnd(m, 3) == 0;
	struct err e = {0};
	uint64_t *words;
	uint64_t count;
	uint64_t seen = 0;

	assert_int_equal(
	    place_dirty(s->p, name[c], peek, &words, &count, &e), 0);
	for (uint32_t i = 0; i < NPAGES; i++) {
		bool told = (words[i / 64] >> (i % 64) & 1) != 0;

		seen += told;
		if (s->known[c] && s->cursor[c][i] && !told)
			fail_msg("cursor %s misses page %u", name[c], i);
	}
	assert_int_equal(seen, count);
	if (!s->known[c])
		assert_int_equal(count, 0);
	if (!peek || !s->known[c])
		memset(s->cursor[c], 0, sizeof(s->cursor[c]));
	s->known[c] = true;
	free(words);
}

static void do_freeze(struct model *m, struct side *s, bool sever)
{
	struct place_frozen f;
	struct err e = {0};
	int r = sever ? place_sever(m->k.ps, s->p, -1, &f, &e)
		      : place_freeze(m->k.ps, s->p, &f, &e);

	if (r != 0)
		fail_msg("%d: %s", r, e.msg);
	for (uint32_t i = 0; i < f.nsteps; i++)
		put_step(m, &s->map, &f.step[i]);
	place_frozen_done(s->p, f.nsteps);
	check_map(m, s);
	if (sever) {
		memset(s->word, 0, sizeof(s->word));
		memset(s->map.layer, 0xff, sizeof(s->map.layer));
		for (int c = 0; c < CURSORS; c++)
			for (uint32_t i = 0; i < NPAGES; i++)
				s->cursor[c][i] = 1;
	}
	check_place(s);
}

static size_t map_runs(const struct snap *map, struct page_run *runs)
{
	size_t n = 0;

	for (uint32_t i = 0; i < NPAGES; i++) {
		struct page_run *l = n > 0 ? &runs[n - 1] : NULL;

		if (map->layer[i] == NIL)
			continue;
		if (l != NULL && l->page + l->npages == i &&
		    l->layer == map->layer[i] &&
		    l->index + l->npages == map->index[i])
			l->npages++;
		else
			runs[n++] = (struct page_run){.page = i,
			    .npages = 1,
			    .index = map->index[i],
			    .layer = map->layer[i]};
	}
	return n;
}

static struct side *open_view(
    struct model *m, const struct side *of, enum place_kind kind)
{
	struct page_run *runs = calloc(NPAGES, sizeof(*runs));
	int *fd = calloc(m->nlayers + 1, sizeof(*fd));
	struct err e = {0};
	struct place *p;
	struct side *s;
	size_t n = map_runs(&of->map, runs);
	struct place_view v;
	int r;

	for (uint32_t i = 0; i < m->nlayers; i++)
		fd[i] = m->layer[i].fd;
	v = (struct place_view){.name = "view",
	    .gpa = VIEW_GPA,
	    .kind = kind,
	    .npages = NPAGES,
	    .runs = runs,
	    .nruns = n,
	    .layer_fd = fd,
	    .nlayers = m->nlayers,
	    .snapshot = 7};
	r = place_open(m->k.ps, &v, &p, &e);
	if (r != 0)
		fail_msg("%d: %s", r, e.msg);
	free(runs);
	free(fd);
	s = side_new(p);
	s->map = of->map;
	return s;
}

/* Open what (s) has frozen, look at it, write it if it may be written, freeze
 * it, close it. */
static void do_view(struct model *m, struct side *s)
{
	enum place_kind kind = rnd(m, 2) ? PLACE_VIEW_RO : PLACE_VIEW_COW;
	struct side *v = open_view(m, s, kind);
	struct err e = {0};

	for (uint32_t i = 0; i < NPAGES; i++)
		if (s->map.layer[i] != NIL)
			assert_int_equal(pread(m->layer[s->map.layer[i]].fd,
					     &v->word[i * 1024], 4096,
					     (off_t)s->map.index[i] * 4096),
			    4096);
	check_place(v);
	for (unsigned i = rnd(m, 8); kind == PLACE_VIEW_COW && i > 0; i--) {
		switch (rnd(m, 4)) {
		case 0:
			do_freeze(m, v, false);
			break;
		case 1:
			do_dirty(m, v);
			break;
		case 2:
			do_monitor(m, v);
			break;
		default:
			do_guest(m, v);
		}
	}
	check_place(v);
	assert_int_equal(place_close(m->k.ps, v->p, &e), 0);
	free(v);
}

static void test_random(void **state)
{
	struct model *m = *state;
	struct err e = {0};
	struct place *p;
	struct side *s;

	assert_int_equal(
	    place_make(m->k.ps, "ram", GPA, NPAGES * 4096ULL, &p, &e), 0);
	s = side_new(p);
	for (int i = 0; i < STEPS && m->nlayers < LAYERS_MAX - 50; i++) {
		unsigned what = rnd(m, 100);

		if (what < 40)
			do_guest(m, s);
		else if (what < 60)
			do_monitor(m, s);
		else if (what < 80)
			do_dirty(m, s);
		else if (what < 93)
			do_freeze(m, s, false);
		else if (what < 95)
			do_freeze(m, s, true);
		else
			do_view(m, s);
	}
	check_place(s);
	free(s);
}

/* --- a guest that runs while it is frozen --------------------------------- */

#define RING 300 /* pages that it writes in turn */

struct ring {
	struct model *m;
	bool stop;
};

static void *ring_run(void *arg)
{
	struct ring *r = arg;
	struct kvmguest_write w[37];
	uint32_t k = 0;

	while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
		for (uint32_t i = 0; i < 37; i++, k++) {
			w[i].gpa = GPA + k % RING * 5 * 4096;
			w[i].value = k + 1;
		}
		assert_int_equal(kvmplaces_do(&r->m->k, w, 37), 0);
	}
	return NULL;
}

static uint32_t stamp(struct model *m, const struct snap *map, uint32_t page)
{
	uint32_t v = 0;

	if (map->layer[page] != NIL)
		assert_int_equal(pread(m->layer[map->layer[page]].fd, &v, 4,
				     (off_t)map->index[page] * 4096),
		    4);
	return v;
}

/* The stamps must be those of one instant: the newest k, and for each other
 * page of the ring the newest not after it. */
static void check_instant(struct model *m, const struct snap *map)
{
	uint32_t newest = 0;

	for (uint32_t i = 0; i < RING; i++) {
		uint32_t v = stamp(m, map, i * 5);

		newest = v > newest ? v : newest;
	}
	for (uint32_t back = 0; back < RING && back < newest; back++) {
		uint32_t k = newest - back - 1;

		assert_int_equal(stamp(m, map, k % RING * 5), k + 1);
	}
}

static void test_running(void **state)
{
	struct model *m = *state;
	struct ring ring = {.m = m};
	struct err e = {0};
	pthread_t t;
	struct place *p;
	struct side *s;

	assert_int_equal(
	    place_make(m->k.ps, "ram", GPA, NPAGES * 4096ULL, &p, &e), 0);
	s = side_new(p);
	assert_int_equal(pthread_create(&t, NULL, ring_run, &ring), 0);
	for (int i = 0; i < 120; i++) {
		struct timespec ts = {.tv_nsec = 1000000L * rnd(m, 8)};
		bool sever = i % 40 == 39;
		struct place_frozen f;

		(void)nanosleep(&ts, NULL);
		if (rnd(m, 3) == 0) {
			uint64_t *words;
			uint64_t n;

			assert_int_equal(
			    place_dirty(p, "x", false, &words, &n, &e), 0);
			free(words);
		}
		assert_int_equal(sever ? place_sever(m->k.ps, p, -1, &f, &e)
				       : place_freeze(m->k.ps, p, &f, &e),
		    0);
		for (uint32_t k = 0; k < f.nsteps; k++)
			put_step(m, &s->map, &f.step[k]);
		place_frozen_done(p, f.nsteps);
		/* After a sever older stamps are gone. */
		if (i < 40)
			check_instant(m, &s->map);
		if (sever)
			memset(s->map.layer, 0xff, sizeof(s->map.layer));
	}
	__atomic_store_n(&ring.stop, true, __ATOMIC_RELAXED);
	(void)pthread_join(t, NULL);
	free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_random, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_running, setup, teardown),
	    {"test_random_small", test_random, setup_small, teardown_small,
		NULL},
	    {"test_running_small", test_running, setup_small, teardown_small,
		NULL},
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
