/* SPDX-License-Identifier: MIT */
/*
 * tidy: give back what no page map reaches, and keep the files few.
 *
 * Page maps never change by it, nor do layers but for where their bytes are.
 * One job at a time for a set, in three steps:
 *
 *   tidy_begin()  the set's thread: note files, layers and all maps
 *   tidy_run()    any thread: mark, choose, copy
 *   tidy_end()    the set's thread: swap the pieces, let everything go
 *
 * A job that marks finds which pages of which layers are reachable. What is not
 * reachable at its begin can never be again, since maps only come from maps; a
 * layer that came later, or that somebody holds but by a map's entry, is left
 * alone. Files of which less than half is reachable are rewritten: the
 * reachable pages of several become one new dense file. So after a job that
 * left nothing undone no file that may be moved is less than half alive.
 *
 * A job joins files of one only, as layer_belongs() says. Where there are more
 * than TIDY_FILES files of one the smallest are merged, at least
 * half of them and so that the file of each page becomes at least twice as
 * large: a page is copied at most log2(TIDY_MERGE_NPAGES) times for it. Files
 * beyond TIDY_MERGE_NPAGES are large enough. A job that does not mark merges
 * only, and only files without holes.
 *
 * Not moved are files of owned layers and those opened outside; pinned ones are
 * never merged, and compacted only where (movable) allows it: moving what is
 * pinned frees nothing until it is let go.
 */
#ifndef VMM_LAYER_TIDY_H
#define VMM_LAYER_TIDY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/core/err.h"
#include "vmm/layer/layer.h"
#include "vmm/map/map.h"

#define TIDY_FILES        128u        /* more are merged */
#define TIDY_MERGE_NPAGES 16384u      /* 64 MiB: larger files are not */
#define TIDY_JOB_NPAGES   65536u      /* 256 MiB: what one job copies at most */
#define TIDY_EXTENTS_MAX  (64u << 20) /* that a mark may note */

struct tidy;

struct tidy_conf {
	bool mark;
	/* May pinned (file) be moved? NULL: none may. On the set's thread. */
	bool (*movable)(void *ctx, uint32_t file);
	void *ctx;
};

/* 0, or -ENOMEM: nothing is held. */
int tidy_begin(struct layer_set *set, struct map_store *st,
    const struct tidy_conf *conf, struct tidy **out);

/* (cancel) may be NULL. */
void tidy_run(struct tidy *t, const atomic_bool *cancel);

struct tidy_result {
	bool marked;          /* the mark was completed: these two are right */
	uint64_t live_bytes;  /* reachable when the job began */
	uint64_t nodes;       /* that there were then */
	bool more;            /* not everything fitted one job */
	uint32_t from_files;  /* were rewritten */
	uint32_t large_files; /* that are no matter of merging */
	uint64_t moved_bytes;
};

/*
 * Ends the job, whether it ran or not. Returns 0, or the job's error: -ENOMEM,
 * -EMFILE, -ENOSPC, -ECANCELED, errno of pread(2) or pwrite(2); then nothing
 * was moved, and *out is still right about the mark.
 */
int tidy_end(struct tidy *t, struct tidy_result *out, struct err *e);

#endif /* VMM_LAYER_TIDY_H */
