/* SPDX-License-Identifier: MIT */
/*
 * cap: a holder's capability table, on its caller's storage.
 *
 * A capability is named by a positive 32-bit number, which its holder is free
 * to guess: it holds the slot and the slot's generation, so that the number of
 * a dropped capability is refused (until the slot was reused CAP_GEN_MAX times,
 * and then it still names something of the same holder). Rights only lose.
 *
 * The table does not own what its capabilities name: whoever inserts, derives
 * or drops counts holders of the object.
 *
 * Threads:  one at a time for a table.
 */
#ifndef SHARED_CAP_CAP_H
#define SHARED_CAP_CAP_H

#include <stdint.h>

#include "shared/abi/guestcall.h"

#define CAP_SLOT_BITS 12
#define CAP_SLOTS_MAX (1u << CAP_SLOT_BITS) /* of one table */
#define CAP_GEN_MAX   ((1u << (31 - CAP_SLOT_BITS)) - 1)

struct cap {
	uint64_t object; /* the broker's id of it */
	uint32_t kind;   /* enum firn_cap_kind; 0: the slot is free */
	uint32_t rights; /* FIRN_RIGHT_* */
	uint32_t gen;    /* 1..CAP_GEN_MAX */
	uint32_t pad;
	char name[FIRN_NAME_MAX]; /* the holder's word for it; may be empty */
};

struct cap_table {
	struct cap *slot;
	uint32_t nslots;
	uint32_t nused;
	uint32_t hand; /* where the search for a free slot goes on */
};

/* An empty table on (nslots) slots, 1..CAP_SLOTS_MAX; -ST_INVAL otherwise. */
int cap_table_init(struct cap_table *t, struct cap *slots, uint32_t nslots);

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
 * dropped before the next call.
 */
int32_t cap_next(
    const struct cap_table *t, uint32_t *pos, const struct cap **out);

#endif /* SHARED_CAP_CAP_H */
