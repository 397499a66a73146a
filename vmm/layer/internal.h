/* SPDX-License-Identifier: MIT */
/*
 * What the files of this module share: the set's tables, the files among them
 * (lfile.c) and what the kernel says of one descriptor (memory.c). Threads: the
 * set's; memory_*() any.
 */
#ifndef VMM_LAYER_INTERNAL_H
#define VMM_LAYER_INTERNAL_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/core/seals.h"
#include "vmm/layer/layer.h"
#include "vmm/map/arena.h"

#define SLOTS_START 64
#define NO_SLOT     UINT32_MAX

/* On one of two lists, linked by next: its bucket (held), free. */
struct slot {
	uint64_t holds;   /* 0: free */
	uint64_t entries; /* of holds: those of page maps */
	uint64_t npages;
	uint64_t born;             /* CLOCK_MONOTONIC, ns */
	struct layer_piece *piece; /* (one) or from the heap */
	struct layer_piece one;
	uint32_t npieces; /* 0: taken */
	uint32_t id;
	uint32_t next;
	bool owned;
};

/* Lives while a piece is in it or it is held; then on the list to reap, then
 * free. */
struct file {
	uint64_t npages;
	uint64_t bytes;
	uint64_t live;    /* of them, as last counted */
	uint64_t serial;  /* no other file ever has it */
	uint64_t openers; /* a bit for each who has its descriptor */
	uint32_t npieces;
	uint32_t holds; /* pins counted */
	uint32_t pins;
	uint32_t next;
	uint32_t whose;
	int fd;
	bool owned;
};

struct layer_set {
	struct map_ops ops;
	struct arena nodes; /* of page maps; tables of those are on the heap */
	struct slot *slot;
	uint32_t *bucket; /* heads, by id modulo cap */
	uint32_t cap;     /* of both arrays; a power of two */
	uint32_t free_head;
	uint32_t last_id;
	struct file *file;
	uint32_t file_cap;
	uint32_t file_free;
	uint32_t reap_head;
	uint32_t reap_tail;
	uint64_t last_serial;
	struct layer_totals sum;
};

/* --- lfile.c: the table of files ------------------------------------------ */

/* Make the table (cap) long: 0, or -ENOMEM and it is as it was. */
int files_grow(struct layer_set *set, uint32_t cap);

#define FILES_SPARE 1u /* that layers leave to what they are merged to */

/* Room for one more and (spare) others: 0, -ENOSPC, -ENOMEM. */
int reserve_file(struct layer_set *set, uint32_t spare, struct err *e);

/* (f) gets a slot, which was reserved; its number. */
uint32_t enter_file(struct layer_set *set, const struct file *f);

void file_free_push(struct layer_set *set, uint32_t i);

/* One that is there; borrowed until the table grows. */
struct file *file_of(const struct layer_set *set, uint32_t file);

/* A piece or a hold fewer: it may be nobody's now. */
void file_settle(struct layer_set *set, uint32_t i);

/* --- memory.c: what the kernel says of a descriptor ----------------------- */

/* Whether (fd) is a memfd with exactly (required) as its seals: 0, -EBADF,
 * -EINVAL, -EPERM. */
int memory_seals(int fd, int required, struct err *e);

/* Fill in out's npages and bytes: 0, -EINVAL where it has no whole number of
 * pages, -ERANGE where that is not (claimed) to LAYER_NPAGES_MAX. */
int memory_size(int fd, uint64_t claimed, struct file *out, struct err *e);

/* A description of our own: O_RDONLY or O_RDWR. -EBUSY: somebody has a lease on
 * it, else an errno. */
int memory_reopen(int fd, int flags, struct err *e);

/* Whether layer_memory() made it: 0, -EPERM. Only that has no description which
 * a lease does not see. */
int memory_made(int fd, struct err *e);

/*
 * Replace (*fd) by a description of our own and ask for a lease on it, which
 * the kernel grants only where no other description of the file exists, be it
 * as a descriptor or as a mapping: 0, -EBUSY. What was given is closed first:
 * it would be one, and it may be the same as one that is kept elsewhere.
 */
int memory_alone(int *fd, struct err *e);

#endif
