/* SPDX-License-Identifier: MIT */
/*
 * layer: the broker's registry of layers, and of the files that store them.
 *
 * A layer is what page maps name: (layer, index) stands for the same bytes for
 * as long as anything names it. Where those bytes are is another matter: a
 * layer is a table of pieces, runs of its pages, each at an offset of a file, a
 * memfd. A new layer is one piece over a file of its own; later its pieces may
 * be moved to other files (layer_move), a page that nothing reaches losing its
 * piece on the way. Page maps never see it.
 *
 * A layer in here is owned or sealed, and goes from the one to the other only.
 * Sealed: nobody can ever write its files again, as the kernel was asked before
 * they got in. The registry's descriptors of them are re-opened O_RDONLY, so
 * that what leaves the broker can neither be written nor allocated into. Owned:
 * the registry has the only descriptor of its only file, and nobody has that
 * mapped, as the kernel was asked; it is writable, for who adopts the memory.
 *
 * A layer lives while it is held: by its adopter, by anyone who called
 * layer_get(), by each entry of a page map that names it (through the map_ops
 * in here). A file lives while a piece is in it, or it is held or pinned.
 * Closing the last descriptor of a file costs 120 ms a GiB, so one that nothing
 * needs goes to a list from which the caller takes its descriptor to close it
 * where that may take time.
 *
 * Threads:  one at a time for a set. Descriptors may be used by other threads
 *           for as long as the set's thread keeps the file held.
 */
#ifndef VMM_LAYER_LAYER_H
#define VMM_LAYER_LAYER_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/core/err.h"
#include "vmm/map/map.h"

#define LAYERS_MAX       131072       /* of one set */
#define FILES_MAX        8192         /* of one set, those to reap counted */
#define LAYER_NPAGES_MAX (1ULL << 28) /* 1 TiB */

struct layer_set;

/* NULL: no memory. */
struct layer_set *layer_set_new(void);

/* Closes every descriptor that is left. No map may name a layer any more. */
void layer_set_free(struct layer_set *set);

/* For map_store_init(): nodes from an arena, layers counted in (set). */
const struct map_ops *layer_set_map_ops(struct layer_set *set);

/* Sums over a set, kept: asking costs nothing, whatever there is. */
struct layer_totals {
	uint32_t layers;
	uint32_t files;        /* those to reap counted: descriptors */
	uint32_t pinned_files; /* of them */
	uint64_t pieces;
	uint64_t bytes; /* of memory that files hold, those to reap counted */
	uint64_t pinned_bytes; /* of those pinned */
	uint64_t table_bytes;  /* of heap: slots and pieces */
	uint64_t entries;      /* of page maps that name a layer */
	uint64_t entries_gone; /* that did, ever */
};
void layer_set_totals(const struct layer_set *set, struct layer_totals *out);

/* --- layers --------------------------------------------------------------- */

/*
 * Make memfd (fd) a layer with one hold, which the caller ends by layer_put().
 * On success (fd) is closed; on failure it stays the caller's. (npages) is what
 * its sender claims; the layer has as many as the kernel says, at least that.
 * Ids are not reused before 2^32 layers were made, and are never 0 or RUN_ZERO.
 *   -EINVAL  not a memfd of ordinary pages; size 0 or not page-aligned
 *   -EPERM   not sealed with exactly F_SEAL_WRITE|SHRINK|GROW|SEAL
 *   -ERANGE  smaller than claimed, or larger than LAYER_NPAGES_MAX
 *   -ENOSPC  LAYERS_MAX, or FILES_MAX but for one, see lfile_adopt()
 *   -EBADF   not open
 *   -EBUSY   its sender has a lease on it: to open it would be to wait for him
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
 * somebody has it, -ENOENT where it is not owned, or the errors of open(2); it
 * stays owned in any case.
 */
int layer_prove(struct layer_set *set, uint32_t id, struct err *e);

/*
 * Sealing in two halves. The first adds all four seals to a layer's descriptor,
 * which may take 160 ms, from any thread; -EBUSY when it is mapped writable or
 * a page is pinned, and then nothing changed. The second, by the set's thread,
 * makes owned layer (id) one that is sealed: -ENOENT where it is not owned,
 * layer_adopt()'s errors, and then it is still owned, but may be done again.
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

/* Borrow the descriptor of a layer that is one piece, read-only unless it is
 * owned; -1 when it has none (layer_take()), -ENOENT when there is no such, or
 * when it is in pieces. */
int layer_fd(const struct layer_set *set, uint32_t id);

/*
 * Whose bytes are in the files of (id), which is one piece: 0 is nobody. Files
 * are only joined with those of the same, as who gets a descriptor gets the
 * whole file; a file of nobody is never moved.
 */
void layer_belongs(struct layer_set *set, uint32_t id, uint32_t whose);

/* Its pages; 0 when there is no such. */
uint64_t layer_npages(const struct layer_set *set, uint32_t id);

/* When it was made, by CLOCK_MONOTONIC in ns; 0 when there is no such. Stays
 * as it is when pieces move. Later layers have greater ids. */
uint64_t layer_born(const struct layer_set *set, uint32_t id);

struct layer_stat {
	uint32_t id;
	uint32_t npieces;
	bool sealed;      /* as the kernel says now of every file of it */
	uint64_t npages;  /* holes and pages without a piece counted */
	uint64_t bytes;   /* of the file that is its alone, or its pieces */
	uint64_t holds;   /* entries of maps counted */
	uint64_t entries; /* of maps */
};

/* Does anybody hold (id) but entries of maps? False when there is no such. */
bool layer_held_apart(const struct layer_set *set, uint32_t id);

/* 0, -ENOENT, or errno of fcntl(2). */
int layer_stat(const struct layer_set *set, uint32_t id, struct layer_stat *out,
    struct err *e);

/*
 * The next layer from position *pos on, 0 at first; *pos moves behind it. False
 * at the end. Layers may come and go between calls.
 */
bool layer_next(const struct layer_set *set, uint32_t *pos, uint32_t *id);

/* --- pieces --------------------------------------------------------------- */

struct layer_piece {
	uint64_t first; /* page of the layer */
	uint64_t npages;
	uint64_t at; /* page of the file */
	uint32_t file;
};

/* Borrow the pieces of a layer, sorted, until it or its pieces change. NULL
 * with *n 0 when there is no such. */
const struct layer_piece *layer_pieces(
    const struct layer_set *set, uint32_t id, uint32_t *n);

/*
 * The pieces of (id), which is held and sealed, are now (piece): (n) of them,
 * at least one, sorted, without overlap, within the layer and within files that
 * are held. Takes (piece), from malloc(), over. Files that lose their last
 * piece go unless they are held. Cannot fail.
 */
void layer_move(
    struct layer_set *set, uint32_t id, struct layer_piece *piece, uint32_t n);

/* --- files ---------------------------------------------------------------- */

/*
 * Make memfd (fd) a file without pieces, with one hold, which the caller ends
 * by lfile_put(). Takes (fd) over. Errors as layer_adopt()'s; but the last of
 * FILES_MAX is for this alone, or a set that is full could not be merged.
 */
int lfile_adopt(struct layer_set *set, int fd, uint32_t *file, struct err *e);

void lfile_belongs(struct layer_set *set, uint32_t file, uint32_t whose);

/* One more hold, one fewer. (file) must be one that lives. */
void lfile_get(struct layer_set *set, uint32_t file);
void lfile_put(struct layer_set *set, uint32_t file);

/* The same for somebody outside who maps it: its bytes count as pinned. */
void lfile_pin(struct layer_set *set, uint32_t file);
void lfile_unpin(struct layer_set *set, uint32_t file);
#define LFILE_OPENERS_MAX 64u
/* For (who), a number below that, who has its descriptor and will never say
 * when it is closed: pinned for as long as a piece is in it. */
void lfile_opened(struct layer_set *set, uint32_t file, uint32_t who);
/* (live) of its bytes are reachable. Does nothing when the file of (serial) is
 * not there any more. */
void lfile_counted(
    struct layer_set *set, uint32_t file, uint64_t serial, uint64_t live);

/* Borrow its read-only descriptor. (file) must be one that lives. */
int lfile_fd(const struct layer_set *set, uint32_t file);

struct lfile_stat {
	uint64_t npages;
	uint64_t bytes; /* of memory, as the kernel said when it came */
	/* Of them, that page maps reach: as last counted, before that all; 0
	 * without a piece. */
	uint64_t live;
	uint64_t serial;  /* no other file ever has it */
	uint64_t openers; /* a bit for each of lfile_opened() */
	uint32_t npieces;
	uint32_t pins;
	uint32_t whose; /* 0: nobody's */
	bool opened;
	bool owned; /* of an owned layer: not to be read, or moved */
};
/* Of a file that lives. */
void lfile_stat(
    const struct layer_set *set, uint32_t file, struct lfile_stat *out);

/* As layer_next(), of files that live. */
bool lfile_next(const struct layer_set *set, uint32_t *pos, uint32_t *file);

/* The descriptor of a file that nothing needs, now the caller's to close, the
 * oldest first; -1 when there is none. */
int layer_reap_take(struct layer_set *set);

#endif /* VMM_LAYER_LAYER_H */
