/* SPDX-License-Identifier: MIT */
/*
 * kin: which snapshot descends from which, and what was read and written
 * between.
 *
 * A record for each snapshot, in trees. A record outlives its snapshot while
 * something descends from it, or a place may yet: but a dead one that only one
 * record descends from says nothing that one could not, and is merged into it
 * at once. So the records are fewer than twice the snapshots and places that
 * are alive, however many there were.
 *
 * Reads and writes of a record are relative to its parent; those of a chain
 * are relative to its top when they are united. What a tracked view tells is
 * cumulative since the view was laid: each of its snapshots keeps only what is
 * new since the one before, which it descends from, so that all of them
 * together take no more than the last would alone. A page that was touched
 * before and again is not new; so from a snapshot of the same view on, all that
 * was touched since it was laid counts.
 *
 * Threads: one at a time for all records of a (kins); what was gathered from
 * them may be united in another.
 */
#ifndef VMM_KIN_KIN_H
#define VMM_KIN_KIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/kin/extset.h"

/* All records there are. */
struct kins {
	size_t n;
	uint64_t bytes; /* of them and of their sets */
};

struct kin;

/* What a snapshot's maker read and wrote since the parent. */
struct kin_sets {
	struct extset reads;
	struct extset writes;
};

/* The record of a new snapshot, without parent; alive until kin_died(). NULL:
 * no memory. */
struct kin *kin_new(struct kins *all, uint64_t id);
/* (k) has no parent yet, and descends from (parent), which may be NULL. (view):
 * a number of the view that was frozen, where that is tracked; or 0. */
void kin_descend(struct kin *k, struct kin *parent, uint64_t view);
/* The step from its parent to (k) was tracked: takes (s) over. Where the parent
 * is of the same view (s) is what is new since. -ENOMEM: (s) is the caller's
 * still, and the step counts as not tracked. */
int kin_track(struct kin *k, struct kin_sets *s);
/* Its snapshot is gone; (k) may be freed by that. */
void kin_died(struct kin *k);

/* A holder that may make children of it. NULL is allowed, and nobody. */
struct kin *kin_hold(struct kin *k);
void kin_put(struct kin *k);

/* The snapshot of the nearest ancestor that is alive; 0: none. */
uint64_t kin_parent(const struct kin *k);

/* What steps told, each for itself; of none: zeroed. */
struct kin_steps {
	struct kins *all;
	struct piece **piece;
	size_t n;
};

/*
 * The steps that tell what was read and written from (base) to (k), or more,
 * see above, if (base) is (k) or an ancestor of it: -ESRCH if not. *tracked:
 * every step was; only then *out says all. It stays as it is whatever becomes
 * of the records, until kin_steps_free(). -ENOMEM: *out is empty.
 */
int kin_since(const struct kin *k, const struct kin *base, bool *tracked,
    struct kin_steps *out);
/* What they told together, in time proportional to it, in any thread; the
 * caller's to free. -ENOMEM, -E2BIG: *out is empty. */
int kin_steps_unite(const struct kin_steps *s, struct kin_sets *out);
void kin_steps_free(struct kin_steps *s);

void kin_sets_free(struct kin_sets *s);
uint64_t kin_sets_bytes(const struct kin_sets *s); /* of memory */

#endif /* VMM_KIN_KIN_H */
