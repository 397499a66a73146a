/* SPDX-License-Identifier: MIT */
/*
 * layer: the broker's registry of layers, memfds that hold frozen pages.
 *
 * Every layer in here is sealed: nobody can ever write it again, as the kernel
 * was asked before it got its id. The registry's descriptor of it is re-opened
 * O_RDONLY, so that what leaves the broker can neither be written nor
 * allocated into.
 *
 * A layer lives while it is held: by its adopter, by anyone who called
 * layer_get(), by each entry of a page map that names it (through the map_ops
 * in here). Closing the last descriptor of a layer costs 120 ms a GiB, so a
 * layer that nobody holds goes to a list from which the caller takes its
 * descriptor to close it where that may take time.
 *
 * Threads:  one at a time for a set. Descriptors may be used by other threads
 *           for as long as the set's thread keeps the layer held.
 */
#ifndef VMM_LAYER_LAYER_H
#define VMM_LAYER_LAYER_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/core/err.h"
#include "vmm/map/map.h"

#define LAYERS_MAX       16384        /* of one set, those to reap counted */
#define LAYER_NPAGES_MAX (1ULL << 28) /* 1 TiB */

struct layer_set;

/* NULL: no memory. */
struct layer_set *layer_set_new(void);

/* Closes every descriptor that is left. No map may name a layer any more. */
void layer_set_free(struct layer_set *set);

/* For map_store_init(): nodes from the heap, layers counted in (set). */
const struct map_ops *layer_set_map_ops(struct layer_set *set);

/*
 * Make memfd (fd) a layer with one hold, which the caller ends by layer_put().
 * Takes (fd) over: it is closed on success and on failure. (npages) is what its
 * sender claims; the layer has as many as the kernel says, at least that.
 * Ids are not reused before 2^32 layers were made, and are never RUN_ZERO.
 *   -EINVAL  not a memfd of ordinary pages; size 0 or not page-aligned
 *   -EPERM   not sealed with exactly F_SEAL_WRITE|SHRINK|GROW|SEAL
 *   -ERANGE  smaller than claimed, or larger than LAYER_NPAGES_MAX
 *   -ENOSPC  LAYERS_MAX
 *   -EBADF   not open
 *   -ENOMEM, -EMFILE, -ENFILE, another errno of fstat(2) or open(2)
 * On failure the set is as it was.
 */
int layer_adopt(struct layer_set *set, int fd, uint64_t npages, uint32_t *id,
    struct err *e);

/* One more hold, one fewer. (id) must be a layer that is held. */
void layer_get(struct layer_set *set, uint32_t id);
void layer_put(struct layer_set *set, uint32_t id);

/* Borrow the layer's read-only descriptor; -ENOENT when there is no such. */
int layer_fd(const struct layer_set *set, uint32_t id);

/* Its pages; 0 when there is no such. */
uint64_t layer_npages(const struct layer_set *set, uint32_t id);

struct layer_stat {
	uint32_t id;
	bool sealed;     /* as the kernel says now */
	uint64_t npages; /* holes counted */
	uint64_t bytes;  /* of memory that the file has now */
	uint64_t holds;
};

/* 0, -ENOENT, or errno of fstat(2) or fcntl(2). */
int layer_stat(const struct layer_set *set, uint32_t id, struct layer_stat *out,
    struct err *e);

/*
 * The next layer from position *pos on, 0 at first; *pos moves behind it. False
 * at the end. Layers may come and go between calls.
 */
bool layer_next(const struct layer_set *set, uint32_t *pos, uint32_t *id);

/* How many are held. */
uint32_t layer_count(const struct layer_set *set);

/* The descriptor of a layer that nobody holds, now the caller's to close, the
 * oldest first; -1 when there is none. */
int layer_reap_take(struct layer_set *set);

#endif /* VMM_LAYER_LAYER_H */
