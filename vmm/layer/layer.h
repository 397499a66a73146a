/* SPDX-License-Identifier: MIT */
/*
 * layer: the broker's registry of layers, memfds that hold frozen pages.
 *
 * A layer in here is owned or sealed, and goes from the one to the other only.
 * Sealed: nobody can ever write it again, as the kernel was asked before it got
 * its id. The registry's descriptor of it is re-opened O_RDONLY, so that what
 * leaves the broker can neither be written nor allocated into. Owned: the
 * registry has the only descriptor that there is, and nobody has it mapped, as
 * the kernel was asked; it is writable, for who adopts the memory.
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

enum layer_state {
	LAYER_NONE, /* there is no such layer */
	LAYER_OWNED,
	LAYER_SEALED,
};

enum layer_state layer_state(const struct layer_set *set, uint32_t id);

/*
 * Memory that can be owned: a memfd of (npages) zeroes, its size sealed, that
 * may be handed out, or -errno. What is returned was opened, and the descriptor
 * of memfd_create(2) is closed: the kernel's leases do not count that one, nor
 * what is mapped through it. The file's mode is the mark of memory that was
 * made here; a monitor cannot change the mode of a file.
 */
int layer_memory(uint64_t npages, struct err *e);

/*
 * Make memfd (*fd) an owned layer with one hold. First (*fd) is replaced by a
 * description of our own, so that a lease on it sees all others; then the
 * kernel has to grant that lease. On success (*fd) is the set's, and -1; on
 * failure it stays the caller's, to be tried again.
 *   -EBUSY   somebody else has a descriptor or a mapping of it
 *   -EPERM   not of layer_memory(); not sealed with exactly
 *            F_SEAL_SHRINK|GROW
 *   and those of layer_adopt()
 */
int layer_adopt_owned(struct layer_set *set, int *fd, uint64_t npages,
    uint32_t *id, struct err *e);

/*
 * Ask again whether owned layer (id) is in nobody else's hands, with a new
 * description: for when its descriptor was lent and given back. -EBUSY when
 * somebody has it, or the errors of open(2); it stays owned in any case.
 */
int layer_prove(struct layer_set *set, uint32_t id, struct err *e);

/*
 * Sealing in two halves. The first adds all four seals to a layer's descriptor,
 * which may take 160 ms, from any thread; -EBUSY when it is mapped writable or
 * a page is pinned, and then nothing changed. The second, by the set's thread,
 * makes owned layer (id) one that is sealed: layer_adopt()'s errors, and then
 * it is still owned, but may be done again.
 */
int layer_seal_fd(int fd, struct err *e);
int layer_sealed(struct layer_set *set, uint32_t id, struct err *e);

/*
 * The memory of owned layer (id) is somebody else's from now on: its
 * descriptor, now the caller's to close. The layer has none any more, and goes
 * with its last hold.
 */
int layer_take(struct layer_set *set, uint32_t id);

/* One more hold, one fewer. (id) must be a layer that is held. */
void layer_get(struct layer_set *set, uint32_t id);
void layer_put(struct layer_set *set, uint32_t id);

/* Borrow the layer's descriptor, which is read-only unless it is owned; -ENOENT
 * when there is no such. */
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
