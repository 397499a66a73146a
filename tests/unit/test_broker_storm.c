/* SPDX-License-Identifier: MIT */
/*
 * Monitors that answer late, each in its own time, of places that are frozen,
 * severed, mapped, adopted, moved and unmapped all at once, and among them one
 * that lies, keeps what it was lent, or dies at any moment. Whatever happens:
 * what an honest one froze has its bytes, what is owned has one capability,
 * every request is answered, and nothing is left. FIRN_SEED=N repeats a run.
 */
#include "tests/unit/broker_world.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/chance.h"
#include "vmm/broker/internal.h"
#include "vmm/core/fdmsg.h"

#define VMS         3
#define EVIL        2 /* the VM that is not honest */
#define PLACES      12
#define QUEUE       64
#define ROUNDS      20u
#define STEPS       150
#define TOGETHER    4 /* rounds, until all is dropped */
#define ASKED_MAX   24
#define KEPT_MAX    64u
#define KNOWN_MAX   4096u
#define SEALS_DONE  (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define SEALS_OWNED (F_SEAL_SHRINK | F_SEAL_GROW)

struct splace {
	bool used;
	bool ro;
	bool first; /* never frozen */
	bool may_go;
	uint32_t id;
	int memory; /* from the broker, or -1 */
	uint64_t truth[NPAGES];
	uint64_t base[NPAGES]; /* when it was frozen or laid last */
	bool dirty[NPAGES];
};

struct sreq {
	struct wire_msg m;
	unsigned char payload[1024];
	int fd[WIRE_FDS_MAX];
	uint32_t nfds;
};

struct svm {
	struct splace place[PLACES];
	uint32_t next_id;
	struct sreq queue[QUEUE];
	uint32_t nqueue;
	int kept[KEPT_MAX]; /* by one that is not honest */
	uint32_t nkept;
};

/* What is known of a snapshot. */
struct known {
	uint64_t id;
	bool sure; /* these are its bytes */
	bool gone; /* dropped or adopted */
	uint64_t tag[NPAGES];
};

struct asked {
	json_int_t id;
	const char *method;
	uint64_t ends; /* this snapshot, if it is done; or 0 */
};

static struct storm {
	struct world *x;
	uint64_t rng;
	uint64_t stamp;
	struct svm vm[VMS];
	struct known known[KNOWN_MAX];
	uint32_t nknown;
	/* What each lift showed: its number is the time that it took, in its
	 * answer. */
	struct known lifted[KNOWN_MAX];
	uint32_t nlifted;
	struct asked asked[ASKED_MAX];
	uint32_t nasked;
	uint32_t ndone, ngood, nchecked;
} s;

static uint32_t pick(uint32_t below)
{
	return (uint32_t)chance(&s.rng, below);
}

static bool one_in(uint32_t n)
{
	return pick(n) == 0;
}

static struct svm *vm_of(const struct fake *f)
{
	return &s.vm[f - s.x->fake];
}

static bool is_evil(const struct fake *f)
{
	return f == &s.x->fake[EVIL];
}

/* --- what is known ---------------------------------------------------------
 */

static struct known *known_of(uint64_t id)
{
	for (uint32_t i = 0; i < s.nknown; i++)
		if (s.known[i].id == id)
			return &s.known[i];
	return NULL;
}

static void learn(uint64_t id, const uint64_t *tag, bool sure)
{
	struct known *k = known_of(id);

	if (k == NULL) {
		assert_true(s.nknown < KNOWN_MAX);
		k = &s.known[s.nknown++];
	}
	k->id = id;
	k->sure = sure;
	memcpy(k->tag, tag, sizeof(k->tag));
}

/* Nobody can write it, so it shows what it always did. */
static void must_show(uint64_t id, const uint64_t *tag)
{
	const struct known *k = known_of(id);

	if (k == NULL || !k->sure) {
		learn(id, tag, true);
		return;
	}
	s.nchecked++;
	for (uint32_t i = 0; i < NPAGES; i++)
		if (k->tag[i] != tag[i])
			fail_msg("snapshot %llu: page %u shows %llu, not %llu",
			    (unsigned long long)id, i,
			    (unsigned long long)tag[i],
			    (unsigned long long)k->tag[i]);
}

static uint64_t remember(const uint64_t *tag, bool sure)
{
	struct known *k = &s.lifted[s.nlifted++];

	assert_true(s.nlifted <= KNOWN_MAX);
	k->sure = sure;
	memcpy(k->tag, tag, sizeof(k->tag));
	return s.nlifted;
}

/* --- monitors ---------------------------------------------------------------
 */

static struct splace *place_of(struct svm *v, uint32_t id)
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

static void end_place(struct splace *p)
{
	if (p->used && p->memory >= 0)
		(void)close(p->memory);
	p->used = false;
}

static void end_model(struct svm *v)
{
	for (int i = 0; i < PLACES; i++)
		end_place(&v->place[i]);
	for (uint32_t i = 0; i < v->nqueue; i++)
		for (uint32_t k = 0; k < v->queue[i].nfds; k++)
			if (v->queue[i].fd[k] >= 0)
				(void)close(v->queue[i].fd[k]);
	for (uint32_t i = 0; i < v->nkept; i++)
		(void)close(v->kept[i]);
	memset(v, 0, sizeof(*v));
}

static void writes(struct splace *p)
{
	uint32_t step = one_in(3) ? 2 : 1 + pick(300);

	for (uint32_t i = pick(step); i < NPAGES; i += step) {
		p->truth[i] = one_in(9) ? 0 : ++s.stamp;
		p->dirty[i] = true;
	}
}

static void answer_to(struct fake *f, const struct sreq *q, int64_t status,
    const void *payload, uint32_t len, const int *fds, uint32_t nfds)
{
	say(f, q->m.type | WIRE_REPLY, q->m.seq, status, payload, len, fds,
	    nfds);
}

static void refuse(struct fake *f, const struct sreq *q, int code)
{
	answer_to(f, q, code, "no", 2, NULL, 0);
}

/* What is dirty as a step: its runs, and its layer, or -1. */
static size_t step_of(
    struct splace *p, struct page_run *r, struct wire_step *w, int *layer)
{
	uint64_t at = 0;
	size_t n = 0;

	*layer = -1;
	for (uint64_t i = 0; i < NPAGES; i++) {
		bool zero = p->truth[i] == 0;

		if (!p->dirty[i] || (p->first && zero))
			continue;
		if (!zero && *layer < 0)
			*layer = new_layer(NPAGES);
		if (!zero)
			put_page(*layer, p->first ? i : at, p->truth[i]);
		r[n++] = (struct page_run){.page = i,
		    .npages = 1,
		    .index = zero       ? 0
			     : p->first ? i
					: at,
		    .layer = zero ? RUN_ZERO : 0};
		at += !zero;
	}
	if (*layer >= 0 && !p->first)
		assert_int_equal(ftruncate(*layer, (off_t)(at * PAGE_SIZE)), 0);
	if (*layer >= 0)
		assert_int_equal(seal(*layer), 0);
	w->nruns = n;
	w->has_layer = *layer >= 0;
	w->layer_npages = *layer < 0 ? 0 : p->first ? NPAGES : at;
	w->first = p->first;
	return n;
}

static void keep(struct svm *v, const int *fd, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (one_in(2) && v->nkept < KEPT_MAX)
			v->kept[v->nkept++] =
			    __real_fcntl(fd[i], F_DUPFD_CLOEXEC, 3L);
}

/* One that is not honest says this for (w), and keeps what it can. */
static void corrupt(
    struct fake *f, struct wire_frozen *w, const int *fds, uint32_t n)
{
	if (!is_evil(f))
		return;
	keep(vm_of(f), fds, n);
	switch (pick(12)) {
	case 0:
		w->step[0].first ^= 1;
		break;
	case 1:
		w->step[0].severed ^= 1;
		break;
	case 2:
		w->step[0].owned ^= 1;
		break;
	case 3:
		w->step[0].nruns = pick(2000);
		break;
	case 4:
		w->nsteps = pick(6);
		break;
	case 5:
		w->npages = pick(2) ? NPAGES * 2 : 0;
		break;
	case 6:
		w->cold_pages = w->warm_pages = UINT64_MAX;
		break;
	default:
		break;
	}
}

static void give_owned(struct fake *f, const struct sreq *q, struct splace *p,
    struct wire_frozen *w)
{
	struct page_run r = {.npages = NPAGES};
	int fds[2] = {wire_blob("runs", &r, sizeof(r)), p->memory};

	w->nsteps = 1;
	w->step[0] = (struct wire_step){.nruns = 1,
	    .layer_npages = NPAGES,
	    .has_layer = 1,
	    .first = 1,
	    .severed = 1,
	    .owned = 1};
	for (uint32_t i = 0; i < NPAGES; i++)
		if (p->dirty[i])
			put_page(p->memory, i, p->truth[i]);
	corrupt(f, w, fds, 2);
	answer_to(f, q, 0, w, sizeof(*w), fds, 2);
	(void)close(fds[0]);
	(void)close(p->memory);
}

static void give_layer(struct fake *f, const struct sreq *q, struct splace *p,
    struct wire_frozen *w)
{
	struct page_run r[NPAGES];
	int fds[2];
	size_t n = step_of(p, r, &w->step[0], &fds[1]);
	uint32_t nfds = n == 0 ? 0 : 1 + w->step[0].has_layer;

	w->nsteps = n > 0;
	w->step[0].severed = q->m.type == WIRE_SEVER;
	fds[0] = wire_blob("runs", r, n * sizeof(r[0]));
	corrupt(f, w, fds, nfds);
	answer_to(f, q, 0, w, sizeof(*w), fds, nfds);
	(void)close(fds[0]);
	if (fds[1] >= 0)
		(void)close(fds[1]);
	if (p->memory >= 0)
		(void)close(p->memory);
}

static void lifts(struct fake *f, struct sreq *q)
{
	bool sever = q->m.type == WIRE_SEVER;
	struct wire_frozen w = {.npages = NPAGES};
	struct wire_place wp;
	struct splace *p;

	memcpy(&wp, q->payload, sizeof(wp));
	p = place_of(vm_of(f), wp.id);
	if (p == NULL || p->ro) {
		refuse(f, q, p == NULL ? -ENOENT : -EPERM);
		return;
	}
	if (!one_in(3))
		writes(p);
	w.total_ns = remember(p->truth, !is_evil(f));
	if (one_in(4))
		w.cold_pages = NPAGES;
	if (sever && p->first && p->memory >= 0)
		give_owned(f, q, p, &w);
	else
		give_layer(f, q, p, &w);
	p->memory = -1;
	p->first = sever;
	memset(p->dirty, 0, sizeof(p->dirty));
	memcpy(p->base, p->truth, sizeof(p->base));
	if (sever) {
		p->memory = q->fd[0];
		q->fd[0] = -1;
		p->may_go = p->id != 0 || one_in(10);
		memset(p->truth, 0, sizeof(p->truth));
	}
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

static void maps(struct fake *f, struct sreq *q)
{
	struct svm *v = vm_of(f);
	struct wire_mapped m = {.gpa = 1ULL << 40};
	uint64_t tags[NPAGES];
	struct wire_map w;
	struct splace *p;
	bool own;

	memcpy(&w, q->payload, sizeof(w));
	own = w.mode == FIRN_MAP_OWN;
	assert_int_equal(q->nfds, 1 + w.nlayers);
	for (uint32_t i = 0; i < w.nlayers; i++)
		lent_well(q->fd[1 + i], own);
	show_runs(q->fd[0], q->fd + 1, w.nlayers, tags);
	if (!own || (known_of(w.snapshot) && known_of(w.snapshot)->sure))
		must_show(w.snapshot, tags);
	if (is_evil(f))
		keep(v, q->fd + 1, w.nlayers);
	if (is_evil(f) && own) {
		struct known *k = known_of(w.snapshot);

		if (k != NULL)
			k->sure = false;
		put_page(q->fd[1], pick(NPAGES), ++s.stamp);
	}
	p = one_in(4) ? NULL : new_place(v);
	if (p == NULL) {
		refuse(f, q, -ENOSPC);
		return;
	}
	p->ro = w.mode == FIRN_MAP_RO;
	p->first = own;
	p->may_go = true;
	memcpy(p->truth, tags, sizeof(tags));
	memcpy(p->base, tags, sizeof(tags));
	if (own) {
		p->memory = q->fd[1];
		q->fd[1] = -1;
		for (uint32_t i = 0; i < NPAGES; i++)
			p->dirty[i] = tags[i] != 0;
	}
	m.id = p->id;
	if (is_evil(f) && one_in(6))
		m.id = pick(6);
	answer_to(f, q, 0, &m, sizeof(m), NULL, 0);
}

static void unmaps(struct fake *f, struct sreq *q)
{
	struct wire_place w;
	struct splace *p;

	memcpy(&w, q->payload, sizeof(w));
	p = place_of(vm_of(f), w.id);
	if (p == NULL || !p->may_go) {
		refuse(f, q, p == NULL ? -ENOENT : -EPERM);
		return;
	}
	end_place(p);
	answer_to(f, q, 0, NULL, 0, NULL, 0);
}

/* It is to show what it showed. */
static void moves(struct fake *f, struct sreq *q)
{
	struct wire_relayed done = {.given_pages = 1};
	uint64_t tags[NPAGES];
	struct wire_relay w;
	struct splace *p;

	memcpy(&w, q->payload, sizeof(w));
	p = place_of(vm_of(f), w.id);
	if (p == NULL || p->first) {
		refuse(f, q, p == NULL ? -ENOENT : -EPERM);
		return;
	}
	for (uint32_t i = 0; i < w.nlayers; i++)
		lent_well(q->fd[1 + i], false);
	show_runs(q->fd[0], q->fd + 1, w.nlayers, tags);
	if (!is_evil(f))
		assert_memory_equal(tags, p->base, sizeof(tags));
	s.nchecked++;
	answer_to(f, q, 0, &done, sizeof(done), NULL, 0);
}

static void tells_dirty(struct fake *f, struct sreq *q)
{
	struct wire_dirtied w = {.npages = NPAGES};
	uint64_t bits[NPAGES / 64] = {0};
	int fd = wire_blob("bits", bits, sizeof(bits));

	answer_to(f, q, 0, &w, sizeof(w), &fd, 1);
	(void)close(fd);
}

static void serve(struct fake *f, struct sreq *q)
{
	struct wire_stats stats = {.syscalls = 1};

	switch (q->m.type) {
	case WIRE_FREEZE:
	case WIRE_SEVER:
		lifts(f, q);
		break;
	case WIRE_MAP:
		maps(f, q);
		break;
	case WIRE_UNMAP:
		unmaps(f, q);
		break;
	case WIRE_RELAY:
		moves(f, q);
		break;
	case WIRE_DIRTY:
		tells_dirty(f, q);
		break;
	case WIRE_STATS:
		answer_to(f, q, 0, &stats, sizeof(stats), NULL, 0);
		break;
	default:
		answer_to(f, q, 0, NULL, 0, NULL, 0);
		break;
	}
}

static struct sreq *take(struct svm *v, uint32_t i, struct sreq *q)
{
	*q = v->queue[i];
	v->nqueue--;
	memmove(&v->queue[i], &v->queue[i + 1], (v->nqueue - i) * sizeof(*q));
	return q;
}

/* The oldest of what it was asked; any, if it is not honest. */
static void serve_one(struct fake *f)
{
	struct svm *v = vm_of(f);
	static struct sreq q;
	bool mad = is_evil(f);

	if (v->nqueue == 0 || f->sock < 0)
		return;
	(void)take(v, mad && one_in(3) ? pick(v->nqueue) : 0, &q);
	if (mad && one_in(12))
		refuse(f, &q, -(int)pick(140));
	else if (mad && one_in(20))
		say(f, (uint16_t)(pick(40) | WIRE_REPLY), q.m.seq, 0, q.payload,
		    q.m.len, q.fd, q.nfds);
	else if (!mad || !one_in(20))
		serve(f, &q);
	if (mad && one_in(10) && q.m.type != WIRE_MAP)
		serve(f, &q); /* again */
	for (uint32_t i = 0; i < q.nfds; i++)
		if (q.fd[i] >= 0)
			(void)close(q.fd[i]);
}

/* Nothing is answered at once. */
static bool queues(struct fake *f)
{
	struct svm *v = vm_of(f);
	struct sreq *q = &v->queue[v->nqueue++];

	assert_true(v->nqueue <= QUEUE && f->p.m.len <= sizeof(q->payload));
	q->m = f->p.m;
	memcpy(q->payload, f->p.payload, f->p.m.len);
	q->nfds = f->p.nfds;
	memcpy(q->fd, f->p.fd, q->nfds * sizeof(q->fd[0]));
	f->p.nfds = 0;
	return true;
}

/* --- what must hold at any moment -------------------------------------------
 */

static uint32_t caps_in(const struct cap_table *t, uint64_t id)
{
	const struct cap *c;
	uint32_t pos = 0;
	uint32_t n = 0;

	if (t->slot == NULL)
		return 0;
	while (cap_next(t, &pos, &c) >= 0)
		n += c->object == id;
	return n;
}

static void check_snap(struct broker *b, const struct snap *sn)
{
	uint32_t n = 0;

	for (struct home *h = b->homes; h != NULL; h = h->next)
		n += caps_in(&h->caps, sn->id);
	for (struct bvm *v = b->vms; v != NULL; v = v->next)
		n += caps_in(&v->caps, sn->id);
	assert_true(n <= sn->holds);
	if (sn->owned != 0)
		assert_true(n <= 1 + (unsigned)sn->busy);
	if (!sn->busy)
		assert_int_equal(layer_state(b->layers, sn->owned),
		    sn->owned != 0 ? LAYER_OWNED : LAYER_NONE);
}

static void check(void)
{
	struct broker *b = s.x->b;
	uint64_t reserved = 0;

	for (uint32_t i = 0; i < SNAP_BUCKETS; i++)
		for (struct snap *sn = b->snaps[i]; sn != NULL; sn = sn->next)
			check_snap(b, sn);
	for (struct bvm *v = b->vms; v != NULL; v = v->next)
		reserved += v->reserved;
	assert_int_equal(b->bank_used, reserved);
}

/* --- a client ----------------------------------------------------------------
 */

static void told(uint64_t snap, uint64_t at)
{
	static const uint64_t none[NPAGES];

	if (at > 0 && at <= s.nlifted && s.lifted[at - 1].sure)
		learn(snap, s.lifted[at - 1].tag, true);
	else if (known_of(snap) == NULL)
		learn(snap, none, false);
}

static void answered(json_t *m)
{
	json_int_t id = json_integer_value(json_object_get(m, "id"));
	json_t *r = json_object_get(m, "result");
	uint32_t i = 0;

	while (i < s.nasked && s.asked[i].id != id)
		i++;
	assert_true(i < s.nasked);
	s.ndone++;
	s.ngood += r != NULL;
	if (r != NULL && strncmp(s.asked[i].method, "segment.", 8) == 0)
		told((uint64_t)json_integer_value(
			 json_object_get(r, "snapshot")),
		    (uint64_t)json_integer_value(
			json_object_get(r, "total_ns")));
	if (r != NULL && known_of(s.asked[i].ends) != NULL)
		known_of(s.asked[i].ends)->gone = true;
	s.asked[i] = s.asked[--s.nasked];
	json_decref(m);
}

/* Whatever was answered, without waiting. */
static void hear(void)
{
	struct world *x = s.x;

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
		answered(m);
	}
}

static void ask(const char *method, uint64_t ends, json_t *params)
{
	assert_non_null(params);
	request(s.x, method, params, NULL, 0);
	s.asked[s.nasked++] =
	    (struct asked){.id = s.x->id, .method = method, .ends = ends};
}

/* One of the last that are not gone. */
static uint64_t any_snap(void)
{
	uint32_t n = 1 + pick(8);
	uint64_t id = 1;

	for (uint32_t i = s.nknown; i-- > 0 && n > 0;)
		if (!s.known[i].gone || one_in(50)) {
			id = s.known[i].id;
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

static uint32_t any_place(const struct svm *v)
{
	for (uint32_t i = pick(PLACES), n = 0; n < PLACES; n++, i++)
		if (v->place[i % PLACES].used)
			return v->place[i % PLACES].id;
	return 0;
}

static json_t *place_of_params(int i, const char *key)
{
	char ref[32];

	(void)snprintf(ref, sizeof(ref), "%u", any_place(&s.vm[i]));
	return json_pack("{s:s,s:s}", "vm", s.x->fake[i].name, key, ref);
}

static json_t *with(json_t *p, const char *key, json_t *value)
{
	(void)json_object_set_new(p, key, value);
	return p;
}

static void client_compares(void)
{
	char a[32];
	char c[32];

	(void)snprintf(a, sizeof(a), "%llu", (unsigned long long)any_snap());
	(void)snprintf(c, sizeof(c), "%llu", (unsigned long long)any_snap());
	ask("snapshot.diff", 0,
	    json_pack("{s:s,s:s,s:b}", "a", a, "b", c, "exact", one_in(4)));
}

static void client_lifts(int i)
{
	static const char *const lift[] = {"segment.freeze", "segment.sever"};
	json_t *p = place_of_params(i, "segment");

	if (one_in(6))
		p = with(p, "name", json_string("same"));
	ask(lift[pick(2)], 0, p);
}

static void client_asks(void)
{
	int i = (int)pick(one_in(3) ? VMS : EVIL);
	const char *vm = s.x->fake[i].name;
	uint64_t snap = any_snap();
	uint32_t k = pick(24);

	if (s.nasked == ASKED_MAX)
		return;
	if (k < 10)
		client_lifts(i);
	else if (k < 13)
		ask("view.adopt", snap, snap_params(vm, snap));
	else if (k < 15)
		ask("view.map", 0,
		    with(
			snap_params(vm, snap), "cow", json_boolean(one_in(2))));
	else if (k < 17)
		ask(one_in(2) ? "vm.give" : "vm.take", 0,
		    snap_params(vm, snap));
	else if (k < 19)
		ask("view.unmap", 0, place_of_params(i, "view"));
	else if (k == 19)
		ask("snapshot.drop", snap, snap_params(NULL, snap));
	else if (k == 20)
		client_compares();
	else if (k == 21)
		ask("dirty.query", 0,
		    with(with(place_of_params(i, "segment"), "cursor",
			     json_string(one_in(2) ? "c" : "d")),
			"exact", json_boolean(one_in(2))));
	else if (k == 22)
		ask("snapshot.open", 0, snap_params(NULL, snap));
	else
		ask("vm.list", 0, json_object());
}

/* --- guests ------------------------------------------------------------------
 */

static void guest_asks_any(struct fake *f)
{
	uint32_t cap = (1 + pick(3)) << CAP_SLOT_BITS | pick(8);
	struct wire_gfreeze z = {.id = any_place(vm_of(f))};
	struct wire_gmap m = {.cap = cap, .mode = pick(3)};
	struct wire_gcap g = {.cap = cap, .rights = FIRN_RIGHT_ALL};

	if (f->sock < 0)
		return;
	switch (pick(6)) {
	case 0:
		say(f, one_in(2) ? WIRE_G_FREEZE : WIRE_G_SEVER, 1, 0, &z,
		    sizeof(z), NULL, 0);
		break;
	case 1:
		say(f, WIRE_G_MAP, 1, 0, &m, sizeof(m), NULL, 0);
		break;
	case 2:
		say(f, WIRE_G_ADOPT, 1, 0, &m, sizeof(m), NULL, 0);
		break;
	case 3:
		say(f, WIRE_G_DERIVE, 1, 0, &g, sizeof(g), NULL, 0);
		break;
	case 4:
		if (one_in(3))
			say(f, WIRE_G_DROP, 1, 0, &g, sizeof(g), NULL, 0);
		break;
	default:
		say(f, WIRE_G_DESCRIBE, 1, 0, &g, sizeof(g), NULL, 0);
		break;
	}
}

/* A guest unmaps what it may, on its own. */
static void guest_unmaps(struct fake *f)
{
	struct svm *v = vm_of(f);
	struct splace *p = &v->place[pick(PLACES)];
	struct wire_place w = {.id = p->id};

	if (f->sock < 0 || !p->used || !p->may_go)
		return;
	end_place(p);
	say(f, WIRE_SEG_GONE, 0, 0, &w, sizeof(w), NULL, 0);
}

static bool lives(int i)
{
	return s.x->fake[i].used && s.x->fake[i].sock >= 0;
}

static void kill_vm(int i)
{
	if (lives(i))
		(void)kill(s.x->fake[i].pid, SIGKILL);
}

static void evil_acts(struct fake *f)
{
	struct svm *v = vm_of(f);
	struct wire_place gone = {.id = one_in(2) ? pick(8) : 100 + pick(8)};
	struct wire_segment made = {
	    .id = 100 + pick(8), .size = NPAGES * PAGE_SIZE, .name = "evil"};

	if (v->nkept > 0 && one_in(2)) {
		uint64_t page[PAGE_SIZE / 8] = {666};

		(void)!pwrite(v->kept[pick(v->nkept)], page, sizeof(page),
		    (off_t)(pick(NPAGES) * PAGE_SIZE));
	}
	if (v->nkept > 0 && one_in(4))
		(void)close(v->kept[--v->nkept]);
	if (f->sock >= 0 && one_in(8))
		say(f, WIRE_SEG_GONE, 0, 0, &gone, sizeof(gone), NULL, 0);
	if (f->sock >= 0 && one_in(20))
		say(f, WIRE_G_SEGMENT, 1, 0, &made, sizeof(made), NULL, 0);
	if (f->sock >= 0 && one_in(40))
		say(f, WIRE_SEG_MADE, 0, 0, &made, sizeof(made), NULL, 0);
	if (one_in(60))
		kill_vm(EVIL);
	if (f->sock >= 0 && one_in(90))
		(void)shutdown(f->sock, SHUT_RDWR);
}

/* --- rounds ------------------------------------------------------------------
 */

static void turn(void)
{
	pump(s.x);
	hear();
	for (int i = 0; i < VMS; i++)
		if (!lives(i))
			end_model(&s.vm[i]);
	if (one_in(4))
		check();
}

/* With what is owned given to it, perhaps: it may die before it begins. */
static bool start_vm(int i, bool gives)
{
	static const char *const name[VMS] = {"v", "w", "evil"};
	struct fake *f = &s.x->fake[i];
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int fds[4] = {null, null, null, null};
	json_t *give = json_array();
	bool dies = one_in(6);

	memset(f, 0, sizeof(*f));
	f->sock = f->memory = f->kept = -1;
	(void)snprintf(f->name, sizeof(f->name), "%s", name[i]);
	f->answers = queues;
	if (gives)
		(void)json_array_append_new(give,
		    with(with(json_object(), "name", json_string("given")),
			"ref",
			json_sprintf("%llu", (unsigned long long)any_snap())));
	request(s.x, "vm.launch",
	    json_pack("{s:[s],s:s,s:I,s:b,s:o}", "args", "prog", "name",
		f->name, "mem", (json_int_t)(NPAGES * PAGE_SIZE), "detach", 1,
		"give", give),
	    fds, 4);
	s.asked[s.nasked++] =
	    (struct asked){.id = s.x->id, .method = "vm.launch"};
	hook.pid = 0;
	while (hook.pid == 0 && s.nasked > 0)
		turn();
	(void)close(null);
	if (hook.pid == 0)
		return false; /* what it was to be given is not to be had */
	f->sock = hook.monitor;
	f->pid = hook.pid;
	f->used = true;
	s.vm[i].next_id = 100;
	s.vm[i].place[0] =
	    (struct splace){.used = true, .first = true, .memory = -1};
	if (dies)
		kill_vm(i);
	else
		say(f, WIRE_READY, 0, 0, NULL, 0, NULL, 0);
	while (s.nasked > 0)
		turn();
	return true;
}

static void end_now(int i)
{
	kill_vm(i);
	while (lives(i))
		turn();
	end_model(&s.vm[i]);
}

/* Everything that was asked is answered. */
static void settle(void)
{
	uint64_t end = now() + PATIENCE_NS;

	end_now(EVIL);
	while (s.nasked > 0 || s.vm[0].nqueue + s.vm[1].nqueue > 0) {
		for (int i = 0; i < EVIL; i++)
			serve_one(&s.x->fake[i]);
		turn();
		if (now() > end)
			fail_msg("%u requests are not answered", s.nasked);
	}
}

static void step(void)
{
	for (int i = 0; i < VMS; i++) {
		struct fake *f = &s.x->fake[i];

		if (!lives(i))
			continue;
		if (one_in(3))
			guest_asks_any(f);
		if (one_in(12))
			guest_unmaps(f);
		for (uint32_t k = pick(4); k > 0; k--)
			serve_one(f);
	}
	if (lives(EVIL))
		evil_acts(&s.x->fake[EVIL]);
	for (uint32_t k = pick(4); k > 0; k--)
		client_asks();
	if (one_in(150))
		kill_vm((int)pick(EVIL));
	if (one_in(100)) {
		connect_client(s.x);
		s.nasked = 0;
	}
	turn();
}

/* Those that are sealed show what they did. */
static void look(void)
{
	json_t *r = must(s.x, "snapshot.list", json_object());
	json_t *list = json_object_get(r, "snapshots");

	for (size_t i = 0; i < json_array_size(list); i++) {
		json_t *sn = json_array_get(list, i);
		json_int_t id = json_integer_value(json_object_get(sn, "id"));
		uint64_t tags[NPAGES];
		char ref[32];

		if (json_is_true(json_object_get(sn, "owned")) || !one_in(3))
			continue;
		(void)sprintf(ref, "%lld", (long long)id);
		json_t *m = call(
		    s.x, "snapshot.open", json_pack("{s:s}", "snapshot", ref));

		if (good(m)) {
			show_runs(s.x->fds[0], s.x->fds + 1,
			    (uint32_t)s.x->nfds - 1, tags);
			must_show((uint64_t)id, tags);
		}
		drop_fds(s.x);
		json_decref(m);
	}
	json_decref(r);
}

static bool is_closing(struct broker *b)
{
	struct layer_totals sum;

	for (const struct bvm *v = b->vms; v != NULL; v = v->next)
		if (v->state != VM_EXITED)
			return true;
	layer_set_totals(b->layers, &sum);
	return sum.files > 0;
}

/* Much is closed by a worker, and who hung up is given time to end. */
static void wait_for_closing(void)
{
	uint64_t end = now() + PATIENCE_NS;

	while (is_closing(s.x->b) && now() < end)
		pump(s.x);
}

static void storm(void **state)
{
	uint32_t rounds = chance_small() ? ROUNDS / 4 : ROUNDS;
	uint32_t fds = 0;

	memset(&s, 0, sizeof(s));
	s.x = *state;
	s.rng = chance_begin("storm");
	for (uint32_t i = 0; i < rounds; i++) {
		for (int k = 0; k < VMS; k++)
			if (!lives(k) && !start_vm(k, one_in(2)))
				(void)start_vm(k, false);
		for (int k = 0; k < STEPS; k++)
			step();
		settle();
		look();
		if (i % TOGETHER != TOGETHER - 1)
			continue;
		for (int k = 0; k < EVIL; k++)
			end_now(k);
		drop_all(s.x);
		wait_for_closing();
		nothing_left(s.x);
		s.nknown = s.nlifted = 0;
		if (fds == 0)
			fds = settled_fds(s.x, UINT32_MAX);
		assert_true(settled_fds(s.x, fds) <= fds);
	}
	print_message("%u of %u requests done, %u comparisons\n", s.ngood,
	    s.ndone, s.nchecked);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(storm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
