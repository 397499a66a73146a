/* SPDX-License-Identifier: MIT */
/*
 * world: what two VMs and the clients of firnd have, as arrays of bytes, beside
 * what they are told. What differs ends the test and says in which step.
 */
#ifndef TESTS_MODEL_WORLD_H
#define TESTS_MODEL_WORLD_H

#include "tests/chance.h"
#include "tests/model/talk.h"
#include "tests/rig.h"
#include "tests/unit/unit.h"

#define PAGE       4096u
#define NVMS       2
#define NPLACES    24 /* of both VMs */
#define NSNAPS     20
#define NCURSORS   6
#define PLACES_MAX 9 /* of one VM */

/* What a cursor is: who asks, and how. */
struct cursor_kind {
	const char *name;
	bool guest, exact;
};
extern const struct cursor_kind kinds[NCURSORS];

struct cursor {
	bool on;
	unsigned char *touched; /* plain: a byte a page */
	unsigned char *base;    /* exact: the bytes as it last advanced */
};

struct snap {
	uint64_t id; /* 0: free */
	uint64_t npages;
	unsigned char *bytes;
	bool client;       /* the clients' table has it */
	int64_t cap[NVMS]; /* of each guest, or -1 */
	uint64_t from_vm;  /* the VM and the place that it was made of */
	uint32_t from;
};

enum kind { SEGMENT, VIEW_RO, VIEW_COW };

struct place {
	bool used;
	int vm;
	enum kind kind;
	uint32_t id;
	uint64_t va;
	uint64_t npages;
	unsigned char *now;
	struct snap *shown; /* of a view */
	bool severed;
	bool adopted;
	struct cursor cursor[NCURSORS];
};

struct world {
	struct rig g;
	struct rig_vm vm[NVMS];
	struct place place[NPLACES];
	struct snap snap[NSNAPS];
	uint64_t rng;
	unsigned step;
	unsigned names; /* handed out */
	const char *what;
	uint64_t moved_places; /* as the daemon said last */
};

#define wrong(w, ...)                                                          \
	do {                                                                   \
		print_error("step %u, %s: ", (w)->step, (w)->what);            \
		print_error(__VA_ARGS__);                                      \
		print_error("\n");                                             \
		fail();                                                        \
	} while (0)

uint64_t rnd(struct world *w, uint64_t below);
void *zeroed(uint64_t len);
void *copy_of(const void *from, uint64_t len);

/* --- snapshots and places ------------------------------------------------- */

struct snap *new_snap(
    struct world *w, uint64_t id, uint64_t npages, const void *bytes);
bool room_for_snap(const struct world *w);
/* Forget the snapshots that nobody holds any more. */
void sweep(struct world *w);
/* One that the clients hold, or that guest (vm) holds, or NULL. */
struct snap *some_snap(struct world *w, int vm);
/* What (seg) tells of; of zeroes, or a view that shows (s). */
struct place *new_place(
    struct world *w, int vm, const struct firn_segment *seg, struct snap *s);
void end_place(struct place *p);
int count_places(const struct world *w, int vm);
uint64_t len_of(const struct place *p);
#define WRITABLE (1u << SEGMENT | 1u << VIEW_COW)
#define VIEWS    (1u << VIEW_RO | 1u << VIEW_COW)
#define ANY      (WRITABLE | VIEWS)
/* One of those with (which), a set of kinds, or NULL. */
struct place *some_place(struct world *w, unsigned which);
struct rig_ref full_ref(struct world *w, const struct place *p);
/* The bytes are written: the plain cursors must tell of their pages. */
void touch(struct place *p, uint64_t offset, uint64_t len);

/* --- sets of pages, a byte a page ----------------------------------------- */

/* One more extent, which must lie behind *end, where the last one ended. */
void add_range(struct world *w, unsigned char *in, uint64_t npages,
    uint64_t *end, uint64_t first, uint64_t count);
unsigned char *set_of_ranges(
    struct world *w, const struct firn_pageset *s, uint64_t npages);
/* Every page of (want) is in (got), and if (exact) no other. Frees (got). */
void check_set(struct world *w, unsigned char *got, const unsigned char *want,
    uint64_t npages, bool exact);
/* The same of the pages in which (a) and (b) differ. */
void check_diff_set(struct world *w, unsigned char *got, const unsigned char *a,
    const unsigned char *b, uint64_t npages, bool exact);

/* --- their bytes ---------------------------------------------------------- */

void check_place(struct world *w, struct place *p);
struct firn_snapshot *open_snap(struct world *w, const struct snap *s);
void check_snap(struct world *w, struct snap *s);
void check_all(struct world *w);

#endif /* TESTS_MODEL_WORLD_H */
