/* SPDX-License-Identifier: MIT */
/*
 * The storm over the broker: monitors, one of them not honest, their guests and
 * a client do what chance says, and what is known of the snapshots is compared
 * with what they show. test_broker_storm.c has its rounds.
 */
#ifndef TESTS_UNIT_STORM_H
#define TESTS_UNIT_STORM_H

#include "tests/unit/broker_world.h"

#include "tests/chance.h"

#define VMS       3
#define EVIL      2 /* the VM that is not honest */
#define PLACES    12
#define QUEUE     64
#define ASKED_MAX 24
#define KEPT_MAX  64u
#define KNOWN_MAX 4096u

struct storm;

/* A step of a lift, and its descriptors: of its runs, of its layer or -1. */
struct sstep {
	struct wire_step w;
	int runs, layer;
};

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
	struct sstep lost[WIRE_STEPS_MAX]; /* the answers that told them were */
	uint32_t nlost;
};

/* A request to a monitor. */
struct sreq {
	struct wire_msg m;
	unsigned char payload[1024];
	int fd[WIRE_FDS_MAX];
	uint32_t nfds;
};

/* A monitor and its guest, played through (f) while it lives. */
struct svm {
	struct storm *s;
	struct fake *f;
	bool evil;
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

struct storm {
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
};

static inline uint32_t pick(struct storm *s, uint32_t below)
{
	return (uint32_t)chance(&s->rng, below);
}

static inline bool one_in(struct storm *s, uint32_t n)
{
	return pick(s, n) == 0;
}

/* --- storm_check.c: what is known, and what must hold --------------------- */

struct known *known_of(struct storm *s, uint64_t id); /* NULL */
void learn(struct storm *s, uint64_t id, const uint64_t *tag, bool sure);
/* Nobody can write it, so it shows what it always did. */
void must_show(struct storm *s, uint64_t id, const uint64_t *tag);
/* A lift showed (tag): its number. */
uint64_t remember(struct storm *s, const uint64_t *tag, bool sure);
/* Of the broker, at any moment. */
void storm_check(struct storm *s);
/* Those that are sealed show what they did. */
void storm_look(struct storm *s);

/* --- storm_monitor.c, storm_lift.c: monitors ------------------------------ */

/* Its first place, on the memory that it was launched with. */
void model_begin(struct svm *v);
/* What it had is closed. */
void model_end(struct svm *v);
struct splace *place_of(struct svm *v, uint32_t id); /* NULL */
void end_place(struct splace *p);
uint32_t any_place(const struct svm *v); /* its id; 0 */
bool lives(const struct svm *v);
void kill_vm(const struct svm *v);
/* For fake.answers: nothing is answered at once. */
bool queues(struct fake *f);
/* The oldest of what it was asked; any, if it is not honest. */
void serve_one(struct svm *v);
void answer_to(struct svm *v, const struct sreq *q, int64_t status,
    const void *payload, uint32_t len, const int *fds, uint32_t nfds);
void refuse(struct svm *v, const struct sreq *q, int code);
/* One that is not honest keeps some of what it was lent. */
void keep(struct svm *v, const int *fd, uint32_t n);
/* What was lost is told, or never will be. */
void forget_lost(struct splace *p);
/* WIRE_FREEZE and WIRE_SEVER. */
void lifts(struct svm *v, struct sreq *q);

/* --- storm_guest.c: guests, and the monitor that is not honest ------------ */

void guest_asks_any(struct svm *v);
/* It unmaps what it may, on its own. */
void guest_unmaps(struct svm *v);
void evil_acts(struct svm *v);

/* --- storm_client.c: a client --------------------------------------------- */

/* What was just requested is to be answered. */
void expect(struct storm *s, const char *method, uint64_t ends);
/* Whatever was answered, without waiting. */
void hear(struct storm *s);
void client_asks(struct storm *s);
/* One of the last that are not gone. */
uint64_t any_snap(struct storm *s);
/* (p), to which (value) was added. */
json_t *with(json_t *p, const char *key, json_t *value);

#endif /* TESTS_UNIT_STORM_H */
