/* SPDX-License-Identifier: MIT */
/*
 * internal: what the files of place/ share.
 *
 * Bitmaps are of 64 pages a word. Those of a place are as long as the place,
 * allocated with it and, being from calloc(), without memory until used.
 */
#ifndef VMM_PLACE_INTERNAL_H
#define VMM_PLACE_INTERNAL_H

#include "vmm/core/seals.h"
#include "vmm/place/place.h"

/* Extents of data of a segment's first layer, each of which may need two VMAs:
 * where a quarter of the data fills holes enough they are so few, */
#define PLACE_EXTENTS_FEW 512
/* else at most these, with at most as much as the data on top. */
#define PLACE_EXTENTS_MAX 4096
/* Runs of a view: with the holes between them, below vm.max_map_count. */
#define VIEW_RUNS_MAX 24000
/* VMAs of all views of a VM together. */
#define VIEW_VMAS_MAX 50000

/* Why, in words, of -ENOTRECOVERABLE. */
#define PLACE_LOST                                                             \
	"the kernel refused to map its memory, and then to map it as it was"

/* Of both kinds: the guest's come first. */
#define CURSORS (2 * PLACE_CURSORS_MAX)

struct cursor {
	char name[FIRN_NAME_MAX];
	uint64_t *bits; /* written since it advanced; NULL: free */
};

/* Bits of pages that are private and in a layer as well; see copies.c. */
struct place_copies {
	uint64_t *copied;    /* since the place was mapped */
	uint64_t *since;     /* of these, in this generation of freezes */
	uint32_t freezes;    /* of it so far */
	uint64_t cold, warm; /* pages, when the last one ended */
};

struct place {
	struct places *all;
	enum place_kind kind;
	uint32_t id;
	uint32_t slot;
	uint64_t gpa;
	uint64_t npages;
	uint64_t snapshot;
	/* Aligned to LEAF_SIZE; a tracked view's never to its layers. */
	unsigned char *hva;
	/* The overlay, mapped shared, while never frozen; afterwards -1. */
	int memfd;
	bool lent;    /* (memfd) came from the broker */
	bool adopted; /* with content; else made of zeroes */
	bool severed; /* at least once */
	bool logged;  /* KVM's dirty log is on */
	/* (pending) tells, with what a harvest adds, all pages written since
	 * the last freeze. Otherwise only the private pages do. */
	bool tracked;
	bool watched;         /* a tracked view: see track.h */
	uint64_t base_npages; /* with data, in the layers of the base */
	uint32_t nvmas;
	/* One bit a chunk of LEAF_SIZE: backing has been tried. Set by vCPU
	 * threads inside the gate. */
	uint64_t *tried;
	/* The monitor's own writes since the last harvest; set inside the gate
	 * by any thread. */
	uint64_t *wrote;
	uint64_t *pending; /* harvested since the last freeze */
	uint64_t *taken;   /* what a freeze is working on, else all zero */
	uint64_t *klog;    /* KVM's answer */
	struct place_copies copies;
	struct cursor cursor[CURSORS];
	/* What the broker does not have yet. */
	struct place_step step[PLACE_STEPS_MAX];
	bool sealed[PLACE_STEPS_MAX];
	uint32_t nsteps;
	char name[FIRN_NAME_MAX];
};

struct places {
	struct gmem *gmem;
	struct gate *gate;
	int pagemap_fd;
	int uffd; /* -1: views cannot be tracked */
	uint32_t next_id;
	struct place place[PLACES_MAX];
};

static inline size_t place_len(const struct place *p)
{
	return p->npages * PAGE_SIZE;
}

static inline size_t place_words(const struct place *p)
{
	return (p->npages + 63) / 64;
}

static inline uint64_t place_nchunks(const struct place *p)
{
	return (p->npages + LEAF_NPAGES - 1) / LEAF_NPAGES;
}

/* --- places.c ------------------------------------------------------------- */

/* Refuse names that are empty, too long, or not one plain word: -EINVAL. */
int place_check_name(const char *name, struct err *e);
/* What a new place is asked to be. */
struct place_want {
	const char *name;
	uint64_t gpa; /* 0: chosen */
	uint64_t npages;
	bool writable;
	uint32_t offset; /* pages that (hva) is off an alignment */
};

/*
 * All refusals of a new place but its kind's own; then a place of the table,
 * with an address and, if it is writable, its bitmaps, not yet in use: the
 * caller maps (hva) and then calls place_attach(), or place_release().
 */
int place_prepare(struct places *ps, const struct place_want *w,
    struct place **out, struct err *e);
/* Give (p) its bank, and with it its kind and id. */
int place_attach(struct place *p, enum place_kind kind, struct err *e);
/* Unmap, close and free everything. (p) has no bank. */
void place_release(struct place *p);
/* Memory of (p) is lost, and the VM is to end: who waits at the gate, in the
 * guest's call, finds none behind it. Under the closed gate. */
void place_lose(struct place *p);
/* Make (p) a segment whose overlay is (memory), which is taken over. */
int place_show_memory(struct place *p, int memory, struct err *e);

/* --- backing.c ------------------------------------------------------------ */

/* A memfd of (npages) of zeroes, without seals; or -errno. */
int backing_memfd(uint64_t npages);
/* The same, its size sealed: the overlay of a segment. */
int backing_segment(uint64_t npages);
/*
 * A descriptor of our own for (memory), of (npages), if it can be the overlay
 * of a segment: sealed with F_SEAL_SHRINK|GROW exactly, writable, and nobody
 * else's. -EPERM, -ERANGE, -EBUSY, or an errno.
 */
int backing_take(int memory, uint64_t npages, struct err *e);
/* Reserve (len) bytes of addresses that begin (offset) bytes, less than
 * LEAF_SIZE, after an alignment to it; or NULL. */
unsigned char *backing_reserve(size_t len, size_t offset);
/* Map (len) bytes of (fd) at (hva) shared. 0 or -errno. */
int backing_map_shared(unsigned char *hva, size_t len, int fd);
/* What a mapping over (hva) that failed with (why) comes to: a failure leaves
 * what was mapped there, (why), or nothing, -ENOTRECOVERABLE. */
int backing_kept(unsigned char *hva, size_t len, int why);
/*
 * Make each 2 MiB of (nleaves) at (hva) of a shared mapping one page, keeping
 * the content. 0 or -errno; then some may still be of 4 KiB pages. Each call
 * waits for every CPU once (lru_add_drain_all() in the kernel), which costs
 * from 0.05 to 5 ms: few calls of many leaves are better.
 */
int backing_collapse(unsigned char *hva, uint64_t nleaves);

/* --- view.c --------------------------------------------------------------- */

/* What place_open() refuses of (v) whatever the place is; *nvmas that it
 * takes. */
int view_check(struct places *ps, const struct place_view *v, uint32_t *nvmas,
    struct err *e);

/* --- track.c -------------------------------------------------------------- */

/* What place_touched() tells, of a watched place; -errno, and nothing. */
int track_sets(struct place *p, struct place_sets *out);

/* --- copies.c ------------------------------------------------------------- */

/* (taken) was copied by a freeze. */
void copies_add(struct place *p);
/* Nothing of it is there twice. */
void copies_forget(struct place *p);

/* --- dirty.c -------------------------------------------------------------- */

/* The bank's callback. Inside the gate. */
void dirty_wrote(void *place, uint64_t page, uint64_t npages);
/* Turn KVM's log on unless it is: from its return all writes are told; and make
 * (pending) complete back to the last freeze. */
int dirty_track(struct place *p, struct err *e);
/* Add what was written since the last harvest to (pending) and all cursors. On
 * failure nothing is lost. */
int dirty_harvest(struct place *p, struct err *e);
/* Every cursor sees every page as written. */
void dirty_mark_all(struct place *p);
void dirty_free_cursors(struct place *p);

#endif /* VMM_PLACE_INTERNAL_H */
