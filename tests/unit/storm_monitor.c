/* SPDX-License-Identifier: MIT */
/* Monitors of the storm: what they show, and what they answer, later. */
#include "tests/unit/storm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define SEALS_DONE  (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define SEALS_OWNED (F_SEAL_SHRINK | F_SEAL_GROW)

/* --- places --------------------------------------------------------------- */

struct splace *place_of(struct svm *v, uint32_t id)
{
	for (int i = 0; i < PLACES; i++)
		if (v->place[i].used && v->place[i].id == id)
			return &v->place[i];
	return NULL;
}

static struct splace *new_place(struct svm *v)
{
	for (int i = 0; i < PLACES; i++)
		if (!v->place[i].used) {
			memset(&v->place[i], 0, sizeof(v->place[i]));
			v->place[i].used = true;
			v->place[i].memory = -1;
			v->place[i].id = v->next_id++;
			return &v->place[i];
		}
	return NULL;
}

void end_place(struct splace *p)
{
	if (!p->used)
		return;
	if (p->memory >= 0)
		(void)close(p->memory);
	forget_lost(p);
	p->used = false;
}

uint32_t any_place(const struct svm *v)
{
	for (uint32_t i = pick(v->s, PLACES), n = 0; n < PLACES; n++, i++)
		if (v->place[i % PLACES].used)
			return v->place[i % PLACES].id;
	return 0;
}

void model_begin(struct svm *v)
{
	v->next_id = 100;
	v->place[0] =
	    (struct splace){.used = true, .first = true, .memory = -1};
}

void model_end(struct svm *v)
{
	for (int i = 0; i < PLACES; i++)
		end_place(&v->place[i]);
	for (uint32_t i = 0; i < v->nqueue; i++)
		for (uint32_t k = 0; k < v->queue[i].nfds; k++)
			if (v->queue[i].fd[k] >= 0)
				(void)close(v->queue[i].fd[k]);
	for (uint32_t i = 0; i < v->nkept; i++)
		(void)close(v->kept[i]);
	memset(v->place, 0, sizeof(v->place));
	v->nqueue = 0;
	v->nkept = 0;
}

bool lives(const struct svm *v)
{
	return v->f->used && v->f->sock >= 0;
}

void kill_vm(const struct svm *v)
{
	if (lives(v))
		(void)kill(v->f->pid, SIGKILL);
}

/* --- answers -------------------------------------------------------------- */

void answer_to(struct svm *v, const struct sreq *q, int64_t status,
    const void *payload, uint32_t len, const int *fds, uint32_t nfds)
{
	say(v->f, q->m.type | WIRE_REPLY, q->m.seq, status, payload, len, fds,
	    nfds);
}

void refuse(struct svm *v, const struct sreq *q, int code)
{
	answer_to(v, q, code, "no", 2, NULL, 0);
}

void keep(struct svm *v, const int *fd, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (one_in(v->s, 2) && v->nkept < KEPT_MAX)
			v->kept[v->nkept++] =
			    __real_fcntl(fd[i], F_DUPFD_CLOEXEC, 3L);
}

/* What the kernel says of it is what monitors of ours ask. */
static void lent_well(int fd, bool own)
{
	assert_int_equal(
	    __real_fcntl(fd, F_GET_SEALS, 0L), own ? SEALS_OWNED : SEALS_DONE);
	assert_int_equal(
	    __real_fcntl(fd, F_GETFL, 0L) & O_ACCMODE, own ? O_RDWR : O_RDONLY);
	if (!own)
		return;
	assert_int_equal(__real_fcntl(fd, F_SETLEASE, (long)F_WRLCK), 0);
	assert_int_equal(__real_fcntl(fd, F_SETLEASE, (long)F_UNLCK), 0);
}

/* What it shows is what is known; one that is not honest writes what it is to
 * own, and keeps what it can. */
static void sees(struct svm *v, const struct wire_map *w, const int *layers,
    const uint64_t *tags)
{
	bool own = w->mode == FIRN_MAP_OWN;
	struct known *k = known_of(v->s, w->snapshot);

	if (!own || (k != NULL && k->sure))
		must_show(v->s, w->snapshot, tags);
	if (!v->evil)
		return;
	keep(v, layers, w->nlayers);
	if (!own)
		return;
	if (k != NULL)
		k->sure = false;
	put_page(layers[0], pick(v->s, NPAGES), ++v->s->stamp);
}

/* As it was lent, or NULL. */
static struct splace *show(struct svm *v, const struct wire_map *w,
    struct sreq *q, const uint64_t *tags)
{
	struct splace *p = one_in(v->s, 4) ? NULL : new_place(v);

	if (p == NULL)
		return NULL;
	p->ro = w->mode == FIRN_MAP_RO;
	p->first = w->mode == FIRN_MAP_OWN;
	p->may_go = true;
	memcpy(p->truth, tags, sizeof(p->truth));
	memcpy(p->base, tags, sizeof(p->base));
	if (p->first) {
		p->memory = q->fd[1];
		q->fd[1] = -1;
		for (uint32_t i = 0; i < NPAGES; i++)
			p->dirty[i] = tags[i] != 0;
	}
	return p;
}

static void maps(struct svm *v, struct sreq *q)
{
	struct wire_mapped m = {.gpa = 1ULL << 40};
	uint64_t tags[NPAGES];
	struct wire_map w;
	struct splace *p;

	memcpy(&w, q->payload, sizeof(w));
	assert_int_equal(q->nfds, 1 + w.nlayers);
	for (uint32_t i = 0; i < w.nlayers; i++)
		lent_well(q->fd[1 + i], w.mode == FIRN_MAP_OWN);
	show_runs(q->fd[0], q->fd + 1, w.nlayers, tags);
	sees(v, &w, q->fd + 1, tags);
	p = show(v, &w, q, tags);
	if (p == NULL) {
		refuse(v, q, -ENOSPC);
		return;
	}
	m.id = p->id;
	if (v->evil && one_in(v->s, 6))
		m.id = pick(v->s, 6);
	answer_to(v, q, 0, &m, sizeof(m), NULL, 0);
}

static void unmaps(struct svm *v, struct sreq *q)
{
	struct wire_place w;
	struct splace *p;

	memcpy(&w, q->payload, sizeof(w));
	p = place_of(v, w.id);
	if (p == NULL || !p->may_go || p->nlost > 0) {
		refuse(v, q, p == NULL ? -ENOENT : -EPERM);
		return;
	}
	end_place(p);
	answer_to(v, q, 0, NULL, 0, NULL, 0);
}

/* It is to show what it showed. */
static void moves(struct svm *v, struct sreq *q)
{
	struct wire_relayed done = {.given_pages = 1};
	uint64_t tags[NPAGES];
	struct wire_relay w;
	struct splace *p;

	memcpy(&w, q->payload, sizeof(w));
	p = place_of(v, w.id);
	if (p == NULL || p->first || p->nlost > 0) {
		refuse(v, q, p == NULL ? -ENOENT : -EPERM);
		return;
	}
	for (uint32_t i = 0; i < w.nlayers; i++)
		lent_well(q->fd[1 + i], false);
	show_runs(q->fd[0], q->fd + 1, w.nlayers, tags);
	if (!v->evil)
		assert_memory_equal(tags, p->base, sizeof(tags));
	v->s->nchecked++;
	answer_to(v, q, 0, &done, sizeof(done), NULL, 0);
}

static void tells_dirty(struct svm *v, struct sreq *q)
{
	struct wire_dirtied w = {.npages = NPAGES};
	uint64_t bits[NPAGES / 64] = {0};
	int fd = wire_blob("bits", bits, sizeof(bits));

	answer_to(v, q, 0, &w, sizeof(w), &fd, 1);
	(void)close(fd);
}

static void serve(struct svm *v, struct sreq *q)
{
	struct wire_stats stats = {.syscalls = 1};

	switch (q->m.type) {
	case WIRE_FREEZE:
	case WIRE_SEVER:
		lifts(v, q);
		break;
	case WIRE_MAP:
		maps(v, q);
		break;
	case WIRE_UNMAP:
		unmaps(v, q);
		break;
	case WIRE_RELAY:
		moves(v, q);
		break;
	case WIRE_DIRTY:
		tells_dirty(v, q);
		break;
	case WIRE_STATS:
		answer_to(v, q, 0, &stats, sizeof(stats), NULL, 0);
		break;
	default:
		answer_to(v, q, 0, NULL, 0, NULL, 0);
		break;
	}
}

/* --- requests wait -------------------------------------------------------- */

static void take(struct svm *v, uint32_t i, struct sreq *q)
{
	*q = v->queue[i];
	v->nqueue--;
	memmove(&v->queue[i], &v->queue[i + 1], (v->nqueue - i) * sizeof(*q));
}

void serve_one(struct svm *v)
{
	bool mad = v->evil;
	struct sreq q;

	if (v->nqueue == 0 || v->f->sock < 0)
		return;
	take(v, mad && one_in(v->s, 3) ? pick(v->s, v->nqueue) : 0, &q);
	if (mad && one_in(v->s, 12))
		refuse(v, &q, -(int)pick(v->s, 140));
	else if (mad && one_in(v->s, 20))
		say(v->f, (uint16_t)(pick(v->s, 40) | WIRE_REPLY), q.m.seq, 0,
		    q.payload, q.m.len, q.fd, q.nfds);
	else if (!mad || !one_in(v->s, 20))
		serve(v, &q);
	if (mad && one_in(v->s, 10) && q.m.type != WIRE_MAP)
		serve(v, &q); /* again */
	for (uint32_t i = 0; i < q.nfds; i++)
		if (q.fd[i] >= 0)
			(void)close(q.fd[i]);
}

bool queues(struct fake *f)
{
	struct svm *v = f->ctx;
	struct sreq *q = &v->queue[v->nqueue++];

	assert_true(v->nqueue <= QUEUE && f->p.m.len <= sizeof(q->payload));
	q->m = f->p.m;
	memcpy(q->payload, f->p.payload, f->p.m.len);
	q->nfds = f->p.nfds;
	memcpy(q->fd, f->p.fd, q->nfds * sizeof(q->fd[0]));
	f->p.nfds = 0;
	return true;
}
