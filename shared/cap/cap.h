/* SPDX-License-Identifier: MIT */
/*
 * cap: a holder's capability table, on its caller's storage.
 *
 * A capability is named by a positive 32-bit number, which its holder is free
 * to guess: it holds the slot and the slot's generation, so that the number of
 * a dropped capability is refused. A number comes again once its slot was used
 * CAP_GEN_MAX times more, and then names something else of the same holder,
 * whom alone that can confuse. A slot that was freed waits until CAP_REUSE_MIN
 * others were, or, where none is fresh any more, behind all that are free. So
 * a number is refused until CAP_GEN_MAX * CAP_REUSE_MIN (8 million) others were
 * made after its drop, and until CAP_GEN_MAX (32,767) in a table that its
 * holder keeps all but full. Rights only lose.
 *
 * Every operation takes constant time on average, whatever the table's size,
 * as long as the names' hashes cannot be foretold: (key) sees to that. A rare
 * insertion passes over all capabilities of one object. Only
 * cap_find_object() also looks at those capabilities of the object that lack a
 * right.
 *
 * The table does not own what its capabilities name: whoever inserts, derives
 * or drops counts holders of the object.
 *
 * Storage:  the caller's, zeroed. Slots are taken from the first on, and reused
 *           before fresh ones once CAP_REUSE_MIN wait: of a large table only as
 *           much is written as was in use at once.
 * Threads:  one at a time for a table.
 */
#ifndef SHARED_CAP_CAP_H
#define SHARED_CAP_CAP_H

#include <stdint.h>

#include "shared/abi/guestcall.h"

#define CAP_SLOT_BITS 16
#define CAP_SLOTS_MAX (1u << CAP_SLOT_BITS) /* of one table */
#define CAP_GEN_MAX   ((1u << (31 - CAP_SLOT_BITS)) - 1)
#define CAP_REUSE_MIN 256u

struct cap {
	uint64_t object; /* the broker's id of it */
	uint32_t kind;   /* enum firn_cap_kind; 0: the slot is free */
	uint32_t rights; /* FIRN_RIGHT_* */
	uint32_t gen;    /* 1..CAP_GEN_MAX; 0: never used */
	uint32_t pad;
	char name[FIRN_NAME_MAX]; /* the holder's word for it; may be empty */
};

/* A place in one of the two indices; slots are counted from 1, 0 is none. */
struct cap_link {
	uint32_t head; /* of the chain of this bucket; a bucket a slot */
	uint32_t next, prev;
};

struct cap_slot {
	struct cap cap;
	struct cap_link by_name; /* its next also chains free slots */
	struct cap_link by_object;
};

struct cap_table {
	struct cap_slot *slot;
	uint64_t key;
	uint32_t nslots;
	uint32_t nused;
	uint32_t nfresh; /* slots from this one on were never used */
	uint32_t nfree;  /* that were, and are free: oldest first */
	uint32_t free_first, free_last;
};

/*
 * An empty table on (nslots) zeroed slots, 1..CAP_SLOTS_MAX; -ST_INVAL
 * otherwise. (key) is a number that whoever chooses names does not know.
 */
int cap_table_init(
    struct cap_table *t, struct cap_slot *slots, uint32_t nslots, uint64_t key);

/*
 * A new capability. (name) may be NULL or empty: none. Returns its number,
 * which is positive, or
 *   -ST_INVAL (kind 0, rights that do not exist, a name of FIRN_NAME_MAX bytes
 *   or more), -ST_EXIST (the name is taken in this table), -ST_NOSPC.
 */
int32_t cap_insert(struct cap_table *t, uint32_t kind, uint32_t rights,
    uint64_t object, const char *name);

/*
 * Borrow capability (num), which must carry all of (rights); it stays valid
 * until the table changes. 0, -ST_NOENT (there is none of that number) or
 * -ST_PERM (a right is missing).
 */
int cap_lookup(const struct cap_table *t, int64_t num, uint32_t rights,
    const struct cap **out);

/* The number of the capability called (name), or -ST_NOENT. */
int32_t cap_find(const struct cap_table *t, const char *name);

/*
 * The number of a capability for (object), one that carries all of (rights) if
 * there is one, else the newest; -ST_NOENT when there is none.
 */
int32_t cap_find_object(
    const struct cap_table *t, uint64_t object, uint32_t rights);

/*
 * A copy of (num) without a name, with those of its rights that are also in
 * (rights). Returns the copy's number, or -ST_NOENT, -ST_PERM (no
 * FIRN_RIGHT_DERIVE), -ST_INVAL (no right would be left), -ST_NOSPC.
 */
int32_t cap_derive(struct cap_table *t, int64_t num, uint32_t rights);

/* End (num). *was (may be NULL) is what it was. 0 or -ST_NOENT. */
int cap_drop(struct cap_table *t, int64_t num, struct cap *was);

/*
 * The next capability from slot *pos on, 0 at first; *pos moves behind it.
 * Returns its number, or -ST_NOENT at the end. The one just returned may be
 * dropped before the next call. Passes free slots one by one, of those that
 * were ever used.
 */
int32_t cap_next(
    const struct cap_table *t, uint32_t *pos, const struct cap **out);

#endif /* SHARED_CAP_CAP_H */
