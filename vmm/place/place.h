/* SPDX-License-Identifier: MIT */
/*
 * place: what shows a page map in guest-physical memory; lift, lay and seal.
 *
 * A place is a base (what a page map names, as layers mapped MAP_PRIVATE, holes
 * as private anonymous memory) plus an overlay (what was written since). The
 * overlay of a segment never frozen is its memfd, mapped shared; afterwards it
 * is the private pages over the base.
 *
 * The monitor's half of every operation is a composition of the three verbs
 * here; what a map is and who may see it is the broker's.
 *
 *   freeze = gate_close; place_lift; place_lay_back; gate_open; place_seal
 *   sever  = gate_close; place_lift; gate_open; place_seal, or nothing where
 *            the memory leaves unsealed, to be somebody else's alone
 *   map    = place_open (a base of given layers)
 *   adopt  = place_open (of memory that nobody else has, as the overlay)
 *
 * Threads:  the control thread only; memory is touched under a closed gate, or
 *           before the place's bank exists.
 */
#ifndef VMM_PLACE_PLACE_H
#define VMM_PLACE_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/abi/guestcall.h"
#include "shared/page/run.h"
#include "vmm/core/err.h"
#include "vmm/mem/gate.h"
#include "vmm/mem/gmem.h"

#define PLACES_MAX       32           /* of one VM, RAM and views counted */
#define PLACE_NPAGES_MAX (1ULL << 28) /* 1 TiB */

/*
 * Dirty cursors of one place: so many of clients, whose names begin with
 * PLACE_CURSOR_CLIENT, and as many of the guest, which can so not take theirs.
 */
#define PLACE_CURSORS_MAX   8
#define PLACE_CURSOR_CLIENT '@'

enum place_kind {
	PLACE_FREE = 0,
	PLACE_SEGMENT,
	PLACE_VIEW_RO,
	PLACE_VIEW_COW,
};

struct place;  /* one of (places) */
struct places; /* all of one VM */

/* Allocates; NULL: no memory. pagemap_fd (/proc/self/pagemap) is borrowed. */
struct places *places_new(struct gmem *g, struct gate *gate, int pagemap_fd);
/* Views may be tracked from now on, with (uffd) of track_open(), borrowed. */
void places_track(struct places *ps, int uffd);
/* Unmaps and closes all. No vCPU may run any more. */
void places_free(struct places *ps);

struct place *places_by_id(struct places *ps, uint32_t id); /* NULL: none */
struct place *places_by_name(struct places *ps, const char *name);
struct place *places_by_gpa(struct places *ps, uint64_t gpa);
/* The (i)th in use, from 0; NULL when there are no more. */
struct place *places_nth(struct places *ps, uint32_t i);

/* What a place tells of itself. */
struct place_info {
	uint32_t id;
	enum place_kind kind;
	uint64_t gpa;
	uint64_t npages;
	unsigned char *hva;
	uint64_t snapshot; /* a view's, else 0 */
	bool tracked;
	char name[FIRN_NAME_MAX];
};

void place_info(const struct place *p, struct place_info *out);
/* FIRN_SEG_* of it. */
uint32_t place_flags(const struct place_info *i);
/* Bytes of host memory behind it, and those that are its alone. */
int place_usage(struct place *p, uint64_t *resident, uint64_t *private_bytes);

/*
 * A new segment of zeroes. gpa 0: chosen by gmem_find(). Takes the gate closed
 * for the moment its bank is added, so must be called from outside.
 *   -EINVAL (size 0, not page-aligned, beyond PLACE_NPAGES_MAX; gpa not aligned
 *   to LEAF_SIZE; bad name), -EEXIST (name or address taken), -ENOSPC (no place
 *   or bank free), -ENOMEM, -ENFILE, errors of KVM. Nothing is left behind.
 */
int place_make(struct places *ps, const char *name, uint64_t gpa, uint64_t size,
    struct place **out, struct err *e);

/*
 * The same of memory that came from the broker: (memory) is zeroes and stays
 * the caller's to close. It is what place_open() adopts, with the same errors;
 * such a place can be severed as owned.
 */
int place_make_of(struct places *ps, const char *name, uint64_t size,
    int memory, struct place **out, struct err *e);

/*
 * The same of which it is told what is read and written, as of a tracked view,
 * since it was made: it is as one that was frozen when it was all zero. It
 * cannot be severed. Also -ENOTSUP, as place_open().
 */
int place_make_tracked(struct places *ps, const char *name, uint64_t size,
    struct place **out, struct err *e);

struct place_view {
	const char *name;
	uint64_t gpa; /* 0: chosen by gmem_find() */
	/* PLACE_VIEW_RO, PLACE_VIEW_COW, or PLACE_SEGMENT: adopt the one layer
	 * as it is; the runs then only tell where its data are */
	enum place_kind kind;
	uint64_t npages;
	const struct page_run *runs;
	size_t nruns;
	const int *layer_fd; /* a run's layer is an index here, or RUN_ZERO */
	uint32_t nlayers;
	uint64_t snapshot; /* for reports */
	bool track;        /* tell what is read and written */
};

/*
 * A view. First asks the kernel about every layer itself: a memfd with exactly
 * the seals that make it immutable, read-only here, large enough for every run;
 * or, to be adopted, of exactly (npages), its size sealed and nothing else,
 * writable, and in nobody's hands but who gave it. Nothing of (v) is kept; the
 * descriptors stay the caller's. Gate as place_make().
 *   -EINVAL, -ERANGE, -EPROTO (run_list_check(); the kind; a layer number),
 *   -EPERM (a layer is not sealed, or is writable; what is to be adopted is
 *   sealed, or not writable), -EBUSY (somebody has that), -E2BIG (runs),
 *   -ENOSPC (the VM's views have too many extents together), -ENOTSUP (to be
 *   tracked, and this host cannot, or it is too scattered), and place_make()'s.
 */
int place_open(struct places *ps, const struct place_view *v,
    struct place **out, struct err *e);

#define PLACE_RELAY_PRIVATE_MAX 4096u /* pages that a relay puts back */

/*
 * Have (p), a view or a segment that was frozen, show the same bytes from other
 * files: (v) says which, as for place_open(), with the kind of a cow view for a
 * segment; its runs must show what the last freeze had, or what the view was
 * laid with. What the guest wrote since stays, and stays dirty; what is private
 * and was frozen since is given back. Under one pause. (done) may be NULL.
 *   -EPERM   it is tracked, or was never frozen
 *   -EBUSY   a freeze waits to be published
 *   -E2BIG   more than PLACE_RELAY_PRIVATE_MAX pages would have to be put back
 *   -EPROTO, -EINVAL, -ERANGE, -ENOSPC, -ENOMEM as place_open()'s
 *   -EXDEV   stopped half way: it is right, but shows both, the old and the new
 *   -ENOTRECOVERABLE  as place_freeze()'s
 * But for the last two nothing changed.
 */
struct place_relayed {
	uint64_t pause_ns;
	uint64_t given_pages; /* of private memory, back */
};

int place_relay(struct places *ps, struct place *p, const struct place_view *v,
    struct place_relayed *done, struct err *e);

/*
 * May (p) be taken away? A view may, and memory that was adopted or that took
 * the place of what was severed. -EPERM for another segment, -EBUSY while the
 * broker does not have what was lifted from it.
 */
int place_may_close(const struct place *p, struct err *e);

/* Take it away. Errors of place_may_close() and KVM. */
int place_close(struct places *ps, struct place *p, struct err *e);

/* --- lift, lay, seal ------------------------------------------------------ */

/* One layer's worth of a freeze; see struct wire_step. Owned by the place until
 * place_frozen_done(). */
struct place_step {
	struct page_run *runs;
	size_t nruns;
	int layer_fd; /* -1: all runs are zero */
	uint64_t layer_npages;
	/* These runs are all there is: they go over a map of zeroes, whatever
	 * the map was (it was all zero, unless the step before severed). */
	bool first;
	bool severed; /* the place read zero after it */
	bool owned;   /* not sealed: whoever gets the layer may write it */
};

#define PLACE_STEPS_MAX 4

/* Bitmaps of 64 pages a word, from the heap; NULL: not tracked. */
struct place_sets {
	uint64_t *reads;
	uint64_t *writes;
};

void place_sets_free(struct place_sets *s);

#define PLACE_COLD_FREEZES 4u

struct place_frozen {
	uint64_t npages;
	uint64_t dirty_pages;
	uint64_t copied_pages;
	/* That are private to the place, and in layers as well: by none of the
	 * last PLACE_COLD_FREEZES freezes or more, as counted whenever there
	 * were so many again; and the others. */
	uint64_t cold_pages;
	uint64_t warm_pages;
	uint64_t pause_ns; /* how long the gate was closed */
	uint64_t total_ns;
	uint32_t nsteps;
	struct place_step step[PLACE_STEPS_MAX];
	struct place_sets sets; /* the caller's to free */
};

/*
 * Freeze (p): lift, lay back, resume, seal, with the gate closed only for lift
 * and lay. On success *out tells what the broker must put over the map it has;
 * the steps stay owned by (p), are repeated by the next freeze until
 * place_frozen_done(), which says that the broker has them. The bits of dirty
 * pages are lost at no failure. Of a tracked view, *out has the sets too, as
 * place_touched() tells them, at the instant of the freeze.
 *   -EBUSY    sealing failed: the segment goes on over its unpublished base,
 *             and the next freeze retries
 *   -EPERM    a read-only view
 *   -ENOSPC   PLACE_STEPS_MAX steps would be unpublished, or for a first step
 *             one less, and the newest was severed, so that it cannot be made
 *             anew: place_sever() tells of them; or what a segment never frozen
 *             holds is scattered over too many pieces
 *   -ENOMEM, -ENFILE, -errno of the kernel: nothing changed
 *   -ENOTRECOVERABLE  a mapping failed, and so did putting back what was there:
 *             memory is missing. The gate stays closed, once, so that the guest
 *             never sees it; the VM must end
 */
int place_freeze(struct places *ps, struct place *p, struct place_frozen *out,
    struct err *e);

/*
 * The same without laying back: the place reads zero from then on. (fresh) is
 * memory as of place_make_of(), which it goes on with, or -1. A segment never
 * frozen whose memory came from the broker leaves as it is, unsealed: owned.
 * What was severed and not taken yet is told again, and nothing is lifted.
 * -EPERM: a tracked view, whose sets would be lost.
 */
int place_sever(struct places *ps, struct place *p, int fresh,
    struct place_frozen *out, struct err *e);

/* The broker took the first (nsteps) steps. Closes and frees them. */
void place_frozen_done(struct place *p, uint32_t nsteps);

/*
 * The pages of tracked view (p) that were read, and that were written, since it
 * was laid: exactly, see track.h. Touches nothing. -EPERM (it is not tracked),
 * -ENOMEM, errors of pagemap_sets(); then *out is empty.
 */
int place_touched(struct place *p, struct place_sets *out, struct err *e);

/* --- dirty cursors -------------------------------------------------------- */

/*
 * The pages of (p) written since cursor (name) last advanced; a name that is
 * not known starts now, with none. The bitmap is (*words) of 64 pages, from the
 * heap, the caller frees it. Unless (peek), the cursor advances. May hold pages
 * that were only read (KVM maps them writable at the first read where the host
 * page is); never misses one written.
 *   -ENOSPC (PLACE_CURSORS_MAX), -EINVAL (name), -EPERM (read-only view),
 *   -ENOMEM, errors of KVM: nothing changed.
 */
int place_dirty(struct place *p, const char *name, bool peek, uint64_t **words,
    uint64_t *npages_dirty, struct err *e);

/* (words), which place_dirty() gave for cursor (name), reached nobody: the
 * cursor has them again. */
void place_dirty_untold(
    struct place *p, const char *name, const uint64_t *words);

/* Cursor (name) is no more. -ENOENT: there is none. */
int place_dirty_end(struct place *p, const char *name, struct err *e);

/* Does (p) have a cursor of that name? */
bool place_has_cursor(const struct place *p, const char *name);

/* --- backing -------------------------------------------------------------- */

/*
 * The guest is about to touch the 2 MiB chunk that holds (page): back it with
 * one 2 MiB page where that can be done (a segment never frozen, chunk still
 * empty). From inside the gate. Never fails: 4 KiB pages do as well.
 */
void place_back_chunk(struct place *p, uint64_t page);

#endif /* VMM_PLACE_PLACE_H */
