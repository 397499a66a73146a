/* SPDX-License-Identifier: MIT */
/* A monitor that a test plays: what it answers, in order or as (how) says. */
#include "tests/unit/broker_world.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

void put_page(int fd, uint64_t index, uint64_t tag)
{
	uint64_t page[PAGE_SIZE / 8];

	for (size_t i = 0; i < PAGE_SIZE / 8; i++)
		page[i] = tag;
	assert_int_equal(
	    pwrite(fd, page, sizeof(page), (off_t)(index * PAGE_SIZE)),
	    PAGE_SIZE);
}

/* A page that was just written may be held by the kernel for a moment, on a
 * busy machine for longer. */
int seal(int fd)
{
	int rc = fcntl(fd, F_ADD_SEALS, (long)SEALS);

	for (int i = 0; i < 1000 && rc != 0 && errno == EBUSY; i++) {
		(void)usleep(1000);
		rc = fcntl(fd, F_ADD_SEALS, (long)SEALS);
	}
	return rc;
}

int new_layer(uint64_t npages)
{
	int fd = memfd_create("layer", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)(npages * PAGE_SIZE)), 0);
	return fd;
}

/* The dirty pages as a step: runs in (r), how many, and the layer. */
static size_t make_step(
    struct fake *f, struct page_run *r, int *layer, uint64_t *npages)
{
	size_t n = 0;
	uint64_t at = 0;

	*npages = NPAGES;
	for (uint64_t i = 0; i < NPAGES && !f->first; i++)
		at += f->dirty[i];
	if (!f->first)
		*npages = at > 0 ? at : 1;
	*layer = new_layer(*npages);
	at = 0;
	for (uint64_t i = 0; i < NPAGES; i++) {
		if (!f->dirty[i])
			continue;
		if (f->first)
			at = i;
		put_page(*layer, at, f->truth[i]);
		if (n > 0 && r[n - 1].page + r[n - 1].npages == i)
			r[n - 1].npages++;
		else
			r[n++] = (struct page_run){
			    .page = i, .npages = 1, .index = at};
		at++;
	}
	return n;
}

static void spoil_runs(enum how how, struct page_run *r, size_t n)
{
	switch (how) {
	case BEYOND_LAYER:
		r[n - 1].index = NPAGES;
		break;
	case BEYOND_PLACE:
		r[n - 1].page = NPAGES;
		break;
	case WRAPPING:
		r[n - 1].index = UINT64_MAX - r[n - 1].npages + 1;
		break;
	case OVERLAPPING:
		r[1].page = r[0].page;
		break;
	case OVERLAPPING_LATE:
		r[n / 2].page = r[n / 2 - 1].page;
		break;
	case OTHER_LAYER:
		r[0].layer = 1;
		break;
	default:
		break;
	}
}

static void spoil_frozen(enum how how, struct wire_frozen *w)
{
	if (how == OTHER_NPAGES)
		w->npages++;
	if (how == MANY_STEPS)
		w->nsteps = WIRE_STEPS_MAX + 1;
	if (how == HUGE_NRUNS)
		w->step[0].nruns = 1ULL << 59; /* times 32: 0 */
	if (how == LAYER_SMALL)
		w->step[0].layer_npages = 1ULL << 40;
}

void say(struct fake *f, uint16_t type, uint32_t seq, int64_t status,
    const void *payload, uint32_t len, const int *fds, uint32_t nfds)
{
	struct wire_msg m = {
	    .type = type, .seq = seq, .status = status, .len = len};

	(void)wire_send(f->sock, &m, payload, fds, nfds);
}

void reply(struct fake *f, int64_t status, const void *payload, uint32_t len,
    const int *fds, uint32_t nfds)
{
	say(f, f->p.m.type | WIRE_REPLY, f->p.m.seq, status, payload, len, fds,
	    nfds);
}

/* The two bitmaps, as (how) has them. */
static int sets_blob(struct fake *f)
{
	uint64_t bits[2 * NPAGES / 64 + 1] = {0};
	size_t len = sizeof(bits) - 8;

	for (uint32_t i = 0; i < NPAGES; i++) {
		bits[i / 64] |= (uint64_t)(f->read[i] && !f->wrote[i])
				<< i % 64;
		bits[(NPAGES + i) / 64] |= (uint64_t)f->wrote[i] << i % 64;
	}
	if (f->how == SHORT_SETS)
		len -= 8;
	if (f->how == LONG_SETS)
		len += 8;
	return wire_blob("sets", bits, len);
}

/* --- its memory, where that came from the broker */

#define OWNED_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

static int foreign_memory(int seals, mode_t mode)
{
	int fd = new_layer(NPAGES);

	assert_int_equal(fchmod(fd, mode), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, (long)seals), 0);
	return fd;
}

static void spoil_owned(struct fake *f, struct wire_step *s, int *fd)
{
	if (f->how == KEEPS_FD)
		f->kept = __real_fcntl(*fd, F_DUPFD_CLOEXEC, 3L);
	if (f->how == KEEPS_MAPPING)
		f->mapping = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
		    MAP_SHARED, *fd, 0);
	if (f->how == OWNED_SEALED)
		(void)fcntl(*fd, F_ADD_SEALS, (long)SEALS);
	if (f->how == OWNED_LOOSE || f->how == OWNED_FOREIGN) {
		(void)close(*fd);
		*fd = f->how == OWNED_LOOSE ? foreign_memory(0, 0600)
					    : foreign_memory(OWNED_SEALS, 0777);
	}
	s->first = f->how != OWNED_LATER;
	s->severed = f->how != OWNED_UNSEVERED;
	s->has_layer = f->how != OWNED_NOTHING;
	if (f->how == OWNED_SMALL)
		s->layer_npages++;
}

void release(struct fake *f)
{
	if (f->kept >= 0)
		(void)close(f->kept);
	if (f->mapping != NULL)
		(void)munmap(f->mapping, PAGE_SIZE);
	f->kept = -1;
	f->mapping = NULL;
}

/* To a sever of a segment never frozen. */
static void answer_owned(struct fake *f)
{
	struct page_run r = {.npages = NPAGES};
	struct wire_frozen w = {.npages = NPAGES, .nsteps = 1};
	int fds[2] = {wire_blob("runs", &r, sizeof(r)), f->memory};

	w.step[0] =
	    (struct wire_step){.nruns = 1, .layer_npages = NPAGES, .owned = 1};
	for (uint32_t i = 0; i < NPAGES; i++)
		put_page(f->memory, i, f->truth[i]);
	spoil_owned(f, &w.step[0], &fds[1]);
	reply(f, 0, &w, sizeof(w), fds, 1 + w.step[0].has_layer);
	(void)close(fds[0]);
	(void)close(fds[1]);
	f->memory = wire_take_fd(&f->p, 0);
	memset(f->dirty, 0, sizeof(f->dirty));
	memset(f->truth, 0, sizeof(f->truth));
}

/* What the monitors of ours ask the kernel. */
static void adopt_memory(struct fake *f, int fd)
{
	assert_int_equal(__real_fcntl(fd, F_GET_SEALS, 0L), OWNED_SEALS);
	assert_int_equal(__real_fcntl(fd, F_GETFL, 0L) & O_ACCMODE, O_RDWR);
	assert_int_equal(__real_fcntl(fd, F_SETLEASE, (long)F_WRLCK), 0);
	assert_int_equal(__real_fcntl(fd, F_SETLEASE, (long)F_UNLCK), 0);
	if (f->how == REFUSES_OWN || f->how == REFUSES_AND_KEEPS) {
		if (f->how == REFUSES_AND_KEEPS)
			f->kept = __real_fcntl(fd, F_DUPFD_CLOEXEC, 3L);
		return;
	}
	if (f->memory >= 0)
		(void)close(f->memory);
	f->memory = __real_fcntl(fd, F_DUPFD_CLOEXEC, 3L);
	f->first = true;
	memcpy(f->truth, f->mapped, sizeof(f->truth));
	for (uint32_t i = 0; i < NPAGES; i++)
		f->dirty[i] = f->truth[i] != 0;
}

void answer_freeze(struct fake *f)
{
	struct page_run r[NPAGES];
	struct wire_frozen w = {.npages = NPAGES, .nsteps = 1};
	enum how how = f->how;
	int p[2];
	int fds[3];
	uint32_t nfds = 3;
	size_t n;

	if (f->p.m.type == WIRE_SEVER && f->first && f->memory >= 0) {
		answer_owned(f);
		return;
	}
	n = make_step(f, r, &fds[1], &w.step[0].layer_npages);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	w.step[0].has_layer = 1;
	w.cold_pages = f->cold;
	w.warm_pages = f->warm;
	w.step[0].first = f->first;
	w.step[0].nruns = n;
	spoil_runs(how, r, n);
	spoil_frozen(how, &w);
	w.tracked = f->tracked ? how != UNTOLD_SETS : how == UNASKED_SETS;
	fds[0] = wire_blob("runs", r, n * sizeof(r[0]) - (how == RUNS_TORN));
	fds[2] = sets_blob(f);
	if (!w.tracked || how == NO_SETS)
		nfds = 2;
	if (how == PIPE_SETS)
		assert_true(dup3(p[0], fds[2], O_CLOEXEC) >= 0);
	if (how != UNSEALED)
		(void)seal(fds[1]);
	if (how == RUNS_PIPE)
		assert_true(dup3(p[0], fds[0], O_CLOEXEC) >= 0);
	if (how == LAYER_PIPE)
		assert_true(dup3(p[0], fds[1], O_CLOEXEC) >= 0);
	if (how == NO_FDS)
		nfds = 0;
	if (how == NO_LAYER_FD)
		nfds = 1;
	if (how == WILD_STATUS)
		reply(f, INT64_MIN, "\x1b[2J\xff wild", 10, NULL, 0);
	else
		reply(
		    f, 0, &w, sizeof(w) - 8 * (how == SHORT_ANSWER), fds, nfds);
	(void)close(fds[0]);
	(void)close(fds[1]);
	(void)close(fds[2]);
	(void)close(p[0]);
	(void)close(p[1]);
	f->first = f->p.m.type == WIRE_SEVER;
	if (f->memory >= 0)
		(void)close(f->memory);
	f->memory = f->first ? wire_take_fd(&f->p, 0) : -1;
	memset(f->dirty, 0, sizeof(f->dirty));
	if (f->first)
		memset(f->truth, 0, sizeof(f->truth));
}

static uint64_t read_tag(int fd, uint64_t index)
{
	uint64_t tag = 0;

	assert_int_equal(pread(fd, &tag, 8, (off_t)(index * PAGE_SIZE)), 8);
	return tag;
}

/* What (runs) over (fds) show, into (tags). */
void show_runs(int runs_fd, const int *fds, uint32_t nlayers, uint64_t *tags)
{
	struct page_run *r;
	void *data;
	size_t len;

	assert_int_equal(wire_slurp(runs_fd, 1u << 20, &data, &len), 0);
	r = data;
	memset(tags, 0, NPAGES * sizeof(tags[0]));
	assert_int_equal(run_list_check(r, len / sizeof(*r), NPAGES), 0);
	for (size_t i = 0; i < len / sizeof(*r); i++) {
		if (r[i].layer == RUN_ZERO)
			continue;
		assert_true(r[i].layer < nlayers);
		for (uint64_t k = 0; k < r[i].npages; k++)
			tags[r[i].page + k] =
			    read_tag(fds[r[i].layer], r[i].index + k);
	}
	free(data);
}

static void keep_layers(struct fake *f, uint32_t from)
{
	for (uint32_t i = from; i < f->p.nfds; i++) {
		assert_true(f->nlayers < 1024);
		f->layer[f->nlayers++] = wire_take_fd(&f->p, i);
	}
}

static void answer_map(struct fake *f)
{
	struct wire_map q;
	struct wire_mapped m = {.id = f->next_id++, .gpa = 1ULL << 40};

	assert_int_equal(f->p.m.len, sizeof(q));
	memcpy(&q, f->p.payload, sizeof(q));
	keep_layers(f, 1);
	assert_int_equal(f->nlayers, q.nlayers);
	show_runs(f->p.fd[0], f->layer, f->nlayers, f->mapped);
	if (q.mode == FIRN_MAP_OWN)
		adopt_memory(f, f->layer[0]);
	for (uint32_t i = 0; i < f->nlayers; i++)
		(void)close(f->layer[i]);
	f->nlayers = 0;
	if (q.mode == FIRN_MAP_OWN &&
	    (f->how == REFUSES_OWN || f->how == REFUSES_AND_KEEPS)) {
		reply(f, -ENOSPC, "there is no room", 16, NULL, 0);
		return;
	}
	if (q.mode & FIRN_MAP_TRACK) {
		f->tracked = true;
		f->first = false;
		memcpy(f->truth, f->mapped, sizeof(f->truth));
		memset(f->dirty, 0, sizeof(f->dirty));
		memset(f->read, 0, sizeof(f->read));
		memset(f->wrote, 0, sizeof(f->wrote));
	}
	reply(f, 0, &m, sizeof(m), NULL, 0);
}

/* A place goes on from other files. */
static void answer_relay(struct fake *f)
{
	struct wire_relayed done = {.pause_ns = 7, .given_pages = 3};
	struct wire_relay q;

	assert_int_equal(f->p.m.len, sizeof(q));
	memcpy(&q, f->p.payload, sizeof(q));
	assert_int_equal(q.npages, NPAGES);
	assert_int_equal(f->p.nfds, 1 + q.nlayers);
	show_runs(f->p.fd[0], f->p.fd + 1, q.nlayers, f->relayed);
	f->nrelays++;
	if (f->lie.given_pages != 0)
		done = f->lie;
	reply(f, 0, &done, sizeof(done), NULL, 0);
}

static void answer_touched(struct fake *f)
{
	int fd = sets_blob(f);

	reply(f, 0, NULL, 0, &fd, f->how == NO_SETS ? 0 : 1);
	(void)close(fd);
}

static void answer_dirty(struct fake *f)
{
	struct wire_dirtied w = {.npages = NPAGES};
	uint64_t bits[NPAGES / 64] = {0};
	struct wire_dirty q;
	int fd;

	assert_int_equal(f->p.m.len, sizeof(q));
	memcpy(&q, f->p.payload, sizeof(q));
	assert_int_equal(q.cursor[0], WIRE_CURSOR_CLIENT[0]);
	for (uint32_t i = 0; i < NPAGES; i++)
		bits[i / 64] |= (uint64_t)f->written[i] << i % 64;
	if ((q.flags & FIRN_PEEK) == 0)
		memset(f->written, 0, sizeof(f->written));
	fd = wire_blob("bits", bits, sizeof(bits) - (f->how == SHORT_ANSWER));
	reply(f, 0, &w, sizeof(w), &fd, f->how == NO_FDS ? 0 : 1);
	(void)close(fd);
}

static void fake_end(struct fake *f, bool in_order)
{
	struct wire_exited x = {.status = 0, .segment = UINT32_MAX};

	if (in_order)
		say(f, WIRE_EXITED, 0, 0, &x, sizeof(x), NULL, 0);
	(void)kill(f->pid, SIGKILL);
}

static bool misbehave(struct fake *f)
{
	switch (f->how) {
	case DIES:
		fake_end(f, false);
		return true;
	case HANGS_UP:
		(void)shutdown(f->sock, SHUT_RDWR);
		return true;
	case GARBAGE:
		(void)send(f->sock, "garbage", 7, MSG_NOSIGNAL);
		return true;
	case SILENT:
		return true;
	default:
		return false;
	}
}

static void take_pages(struct fake *f)
{
	struct stat st;

	f->last_nsent = 0;
	if (f->p.m.status < 0 || f->p.m.len != sizeof(f->last_pages))
		return;
	memcpy(&f->last_pages, f->p.payload, sizeof(f->last_pages));
	if (f->p.nfds == 1 && fstat(f->p.fd[0], &st) == 0)
		f->last_nsent =
		    (uint64_t)st.st_size / sizeof(struct firn_extent);
}

static void fake_request(struct fake *f)
{
	struct wire_stats stats = {.syscalls = 7};

	if (f->p.m.type & WIRE_REPLY) {
		f->nreplies++;
		f->last_status = f->p.m.status;
		take_pages(f);
		return;
	}
	if (f->p.m.type == WIRE_KILL) {
		f->nkills++;
		if (f->how != SILENT)
			fake_end(f, true);
		return;
	}
	if (f->p.m.type == WIRE_LAYERS) {
		keep_layers(f, 0);
		return;
	}
	if (f->p.m.type == WIRE_LAUNCH) {
		say(f, WIRE_STARTED, 0, 0, NULL, 0, NULL, 0);
		return;
	}
	if (misbehave(f) || (f->answers != NULL && f->answers(f)))
		return;
	if (f->p.m.type == WIRE_FREEZE || f->p.m.type == WIRE_SEVER)
		answer_freeze(f);
	else if (f->p.m.type == WIRE_MAP)
		answer_map(f);
	else if (f->p.m.type == WIRE_DIRTY)
		answer_dirty(f);
	else if (f->p.m.type == WIRE_TOUCHED)
		answer_touched(f);
	else if (f->p.m.type == WIRE_RELAY)
		answer_relay(f);
	else if (f->p.m.type == WIRE_STATS)
		reply(f, 0, &stats, sizeof(stats), NULL, 0);
	else
		reply(f, 0, NULL, 0, NULL, 0);
}

void fake_serve(struct fake *f)
{
	while (f->sock >= 0) {
		int rc = wire_recv(f->sock, &f->p);

		if (rc == -EAGAIN)
			return;
		if (rc <= 0) {
			(void)close(f->sock);
			f->sock = -1;
			return;
		}
		fake_request(f);
		wire_close_fds(&f->p);
	}
}

void guest_writes(struct fake *f, uint32_t from, uint32_t step, uint64_t tag)
{
	for (uint32_t i = from; i < NPAGES; i += step) {
		f->truth[i] = tag + i;
		f->dirty[i] = f->written[i] = f->wrote[i] = true;
	}
}

void guest_reads(struct fake *f, uint32_t from, uint32_t step)
{
	for (uint32_t i = from; i < NPAGES; i += step)
		f->read[i] = true;
}
