/* SPDX-License-Identifier: MIT */
/*
 * meld: what two made of one page map, put together where neither affected the
 * other.
 *
 * Two who began with the same pages, and of whom neither wrote what the other
 * read or wrote, would have done the same one after the other, in either
 * order: the meld is what that gives. Sets are trusted as far as they go: what
 * a side says it did not write is taken from the base.
 *
 * Pure: no thread's in particular; the maps are read only.
 */
#ifndef VMM_KIN_MELD_H
#define VMM_KIN_MELD_H

#include "vmm/kin/kin.h"
#include "vmm/map/map.h"

/* Pages that both wrote; and others that one wrote and the other read. */
struct meld_conflicts {
	struct extset write_write;
	struct extset read_write;
};

void meld_conflicts_free(struct meld_conflicts *c);

/* Empty where the two may be melded. -ENOMEM, -E2BIG, then *out is empty. */
int meld_conflicts(const struct kin_sets *a, const struct kin_sets *b,
    struct meld_conflicts *out);

/*
 * For one that was not tracked: as writes the pages that (base) and (m) have
 * not in the same place, and no reads. (stop) as for map_diff_until(), or NULL.
 * -ENOMEM, -E2BIG, -ECANCELED.
 */
int meld_blind(const struct map *base, const struct map *m, map_stop_fn *stop,
    void *stop_ctx, struct kin_sets *out);

/*
 * Where (a) has the pages of (wa) and (b) those of (wb), which have none in
 * common: a list to put over the base with map_apply(), from the heap. -E2BIG
 * (MELD_RUNS_MAX), -ENOMEM, -ERANGE (a set exceeds its map).
 */
#define MELD_RUNS_MAX (4u << 20)

int meld_runs(const struct map *a, const struct extset *wa, const struct map *b,
    const struct extset *wb, struct page_run **runs, size_t *nruns);

#endif /* VMM_KIN_MELD_H */
