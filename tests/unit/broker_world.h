/* SPDX-License-Identifier: MIT */
/*
 * The broker in this process, with monitors and a client that a test plays, and
 * failures on demand.
 */
#ifndef TESTS_UNIT_BROKER_WORLD_H
#define TESTS_UNIT_BROKER_WORLD_H

#include "tests/unit/unit.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "shared/page/run.h"
#include "tests/unit/own.h"
#include "vmm/broker/broker.h"
#include "vmm/core/loop.h"
#include "vmm/wire/wire.h"

#define NPAGES      1024u
#define FAKES_MAX   4
#define PATIENCE_NS 20000000000ULL
#define LINE_BYTES  (1u << 20) /* of an answer */

/* --- failures on demand --------------------------------------------------- */

extern struct hook {
	atomic_int left;        /* calls until the one that fails */
	atomic_bool armed;      /* at all */
	atomic_bool fired;      /* one failed */
	atomic_bool lasting;    /* and so do all behind it */
	atomic_bool json;       /* the calls of jansson count, too */
	bool away;              /* no errand is short enough for the loop */
	atomic_bool hold_seals; /* the broker's workers wait to seal */
	atomic_int hold_errand; /* of those that are away which is to wait; 1:
				   it does. 0: none */
	rlim_t slack; /* descriptors that may be opened; 0: no limit */
	int monitor;  /* the last monitor's end */
	pid_t pid;    /* and its process */
} hook;

/* The test's own calls do not count. */
extern __thread bool ours;

/* The (n)th call from now on fails. */
void arm(int n);
/* None does any more; whether one did. */
bool disarm(void);
/* What jansson is to allocate with. */
void *json_memory(size_t n);

int __real_fcntl(int fd, int cmd, ...);
int __real_socketpair(int domain, int type, int protocol, int sv[2]);

/* --- a monitor, a client, a world of them ------------------------------------
 *
 * What fails ends the test. Nothing here may be used from another thread.
 */

enum how {
	HONEST,
	/* answers to a freeze */
	SHORT_ANSWER,
	OTHER_NPAGES,
	UNSEALED,
	BEYOND_LAYER,
	BEYOND_PLACE,
	WRAPPING,
	OVERLAPPING,
	OVERLAPPING_LATE,
	OTHER_LAYER,
	MANY_STEPS,
	NO_FDS,
	NO_LAYER_FD,
	HUGE_NRUNS,
	RUNS_PIPE,
	RUNS_TORN,
	LAYER_PIPE,
	LAYER_SMALL,
	WILD_STATUS,
	/* to anything */
	DIES,
	HANGS_UP,
	GARBAGE,
	SILENT,
	/* about what was touched */
	NO_SETS,
	SHORT_SETS,
	LONG_SETS,
	PIPE_SETS,
	UNTOLD_SETS,
	UNASKED_SETS,
	SETS_END,
	/* with memory that is severed owned: to be tried again */
	KEEPS_FD,
	KEEPS_MAPPING,
	/* what no monitor says of it */
	OWNED_SEALED,
	OWNED_LOOSE,
	OWNED_FOREIGN,
	OWNED_LATER,
	OWNED_UNSEVERED,
	OWNED_SMALL,
	OWNED_NOTHING,
	/* with memory that it is to adopt */
	REFUSES_OWN,
	REFUSES_AND_KEEPS,
};

struct fake {
	bool used;
	/* Asked first of each request: has it answered in its own way? */
	bool (*answers)(struct fake *f);
	void *ctx; /* for it */
	int sock;
	pid_t pid;
	char name[32];
	enum how how;
	bool first;             /* the next step is the segment's own memfd */
	uint64_t truth[NPAGES]; /* what its guest sees */
	bool dirty[NPAGES];
	bool written[NPAGES]; /* for the cursor */
	/* Its one view is tracked, and what is frozen; since it was mapped. */
	bool tracked;
	bool read[NPAGES], wrote[NPAGES];
	uint32_t next_id;
	/* What the broker told it to map last, page by page. */
	uint64_t mapped[NPAGES];
	uint64_t relayed[NPAGES]; /* to be shown from other files, the same */
	struct wire_relayed lie;  /* where not zero: what a relay gave */
	uint32_t nreplies, nkills, nrelays;
	uint64_t cold, warm; /* pages, as the next freezes say */
	int64_t last_status;
	struct firn_pages last_pages; /* of an answer that is such */
	uint64_t last_nsent;          /* extents in its memfd */
	struct wire_packet p;
	int layer[1024];
	uint32_t nlayers;
	int memory; /* its segment's, from the broker; or -1 */
	int kept;   /* of what it gave up; or -1 */
	void *mapping;
};

struct world {
	struct loop *l;
	struct broker *b;
	int fd; /* the client's end */
	char *in;
	size_t in_len;
	int fds[256];
	size_t nfds;
	bool lost;
	json_int_t id;
	uint32_t nfds_before;
	unsigned rounds; /* of the loop */
	struct fake fake[FAKES_MAX];
};

uint64_t now(void);
void put_page(int fd, uint64_t index, uint64_t tag);
/* A page that was just written may be held by the kernel for a moment, on a
 * busy machine for longer. */
int seal(int fd);
int new_layer(uint64_t npages);
void say(struct fake *f, uint16_t type, uint32_t seq, int64_t status,
    const void *payload, uint32_t len, const int *fds, uint32_t nfds);
void reply(struct fake *f, int64_t status, const void *payload, uint32_t len,
    const int *fds, uint32_t nfds);
/* It gives up what it kept. */
void release(struct fake *f);
/* It answers what it was asked. */
void fake_serve(struct fake *f);
void answer_freeze(struct fake *f);
/* What (runs) over (fds) show, into (tags). */
void show_runs(int runs_fd, const int *fds, uint32_t nlayers, uint64_t *tags);
void guest_writes(struct fake *f, uint32_t from, uint32_t step, uint64_t tag);
void guest_reads(struct fake *f, uint32_t from, uint32_t step);
/* The broker's turn, then its monitors'. */
void pump(struct world *x);
void connect_client(struct world *x);
void drop_fds(struct world *x);
void request(struct world *x, const char *method, json_t *params,
    const int *fds, size_t nfds);
/* The answer, {result} or {error}; NULL when the connection ended instead, and
 * then there is a new one. */
json_t *answer(struct world *x);
json_t *call_fds(struct world *x, const char *method, json_t *params,
    const int *fds, size_t nfds);
json_t *call(struct world *x, const char *method, json_t *params);
bool good(const json_t *m);
const char *why(const json_t *m);
/* As call(), and it must succeed; its result. */
json_t *must(struct world *x, const char *method, json_t *params);
void must_do(struct world *x, const char *method, json_t *params);
/* As call(), and it must fail with a reason in plain words. */
void must_fail(struct world *x, const char *method, json_t *params);
/* A running VM called (name) of which (f) is the monitor. */
struct fake *launch_vm(struct world *x, int i, const char *name);
void end_vm(struct world *x, struct fake *f);
json_t *freeze_params(const struct fake *f, const char *name);
void tags_of(struct world *x, const char *snap, uint64_t *tags);
/* The snapshot has the bytes (truth). */
void shows(struct world *x, const char *snap, const uint64_t *truth);
/* One snapshot that has no name does. */
void some_shows(struct world *x, const uint64_t *truth);
/* All VMs have ended and all snapshots are dropped: nothing is left, once the
 * workers have ended what they did for those who are gone. */
void nothing_left(struct world *x);
/* Descriptors open once what was dropped has been closed by the worker, which
 * is waited for while there are more than (most). */
uint32_t settled_fds(struct world *x, uint32_t most);
int setup(void **state);
int setup_away(void **state); /* with hook.away */
int setup_poor(void **state); /* the bank has a VM and a half */
int teardown(void **state);
void others_live(struct world *x, struct fake *g);
json_t *view_params(const struct fake *f, const char *name);
/* (f) shows (snap) in a tracked view, which is what it freezes. */
void track_view(struct world *x, struct fake *f, const char *snap);
json_int_t stat_of(struct world *x, const char *key);
json_t *hand_params(const struct fake *f, const char *snap);
/* The status of the answer to what its guest asks. */
int64_t guest_asks(struct world *x, struct fake *f, uint16_t type,
    const void *payload, uint32_t len);
json_t *meld_params(const char *base, const char *a, const char *b);
/* "base", and "a" and "b" of tracked views of it on two monitors. */
void prepare_meld(struct world *x, struct fake *f, struct fake *g);
/* What the meld of those must show. */
void melded_truth(uint64_t *truth);
/* From now on its memory is the broker's: a sever gives it owned. */
void lend_memory(struct world *x, struct fake *f);
bool is_owned(struct world *x, const char *snap);
/* The newest place of (f). */
json_t *place_params(const struct fake *f, const char *name);
void drop_all(struct world *x);

#endif /* TESTS_UNIT_BROKER_WORLD_H */
