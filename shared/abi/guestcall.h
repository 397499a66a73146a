/* SPDX-License-Identifier: MIT */
/*
 * guestcall: what a guest program asks of firn, beside Linux system calls.
 *
 * Calls are system calls with numbers from FIRN_NR_BASE on: number in rax,
 * arguments in rdi, rsi, rdx, r10, r8, r9, result in rax, errors as -errno,
 * like Linux. Strings are NUL-terminated, at most FIRN_NAME_MAX bytes with the
 * NUL. Self-contained: fixed-width types, no other header of this project.
 * FIRN_ABI_VERSION changes whenever a number, layout or meaning here changes.
 */
#ifndef SHARED_ABI_GUESTCALL_H
#define SHARED_ABI_GUESTCALL_H

#include <assert.h> /* static_assert, a keyword of C++ */
#include <stddef.h>
#include <stdint.h>

#define FIRN_ABI_VERSION 1u
#define FIRN_NR_BASE     0x4000u
#define FIRN_NAME_MAX    64u /* bytes, with the NUL */
#define FIRN_EXTENTS_MAX 65536u

/*
 * Guest-physical memory of segments and views appears to the program at
 * FIRN_WINDOW + gpa, readable, and writable unless it is a read-only view.
 */
#define FIRN_WINDOW 0x100000000000ULL

enum firn_nr {
	FIRN_NR_VERSION = FIRN_NR_BASE, /* () -> FIRN_ABI_VERSION */
	/* (name, size, struct firn_segment *out, flags of FIRN_SEG_MAKE) -> 0
	 */
	FIRN_NR_SEGMENT_MAKE,
	/* (name, struct firn_segment *out) -> 0: one that exists */
	FIRN_NR_SEGMENT_FIND,
	/* (segment id, name or 0, struct firn_frozen *out) -> cap */
	FIRN_NR_FREEZE,
	/* (segment id, name or 0, struct firn_frozen *out) -> cap */
	FIRN_NR_SEVER,
	/* (cap, firn_map_mode | FIRN_MAP_TRACK, gpa or 0, struct firn_segment
	 *out) -> 0 */
	FIRN_NR_MAP,
	/* (segment id of a view) -> 0 */
	FIRN_NR_UNMAP,
	/* (name) -> cap: what was given at launch, or frozen under a name */
	FIRN_NR_LOOKUP,
	/* (cap, struct firn_cap_info *out) -> 0 */
	FIRN_NR_DESCRIBE,
	/* (cap a, cap b, flags, struct firn_extent *buf, max, struct firn_pages
	 * *out) -> 0 */
	FIRN_NR_DIFF,
	/* (segment id, cursor name, flags, struct firn_extent *buf, max, struct
	 * firn_pages *out) -> 0; what (buf) has no room for, the cursor has not
	 * passed */
	FIRN_NR_DIRTY,
	/* (cap, rights) -> cap */
	FIRN_NR_DERIVE,
	/* (cap) -> 0 */
	FIRN_NR_DROP,
	/* (const struct firn_meld *, name or 0, struct firn_conflict *buf,
	 * struct firn_melded *out) -> cap; -ESTALE: they conflict */
	FIRN_NR_MELD,
	/* (cap, gpa or 0, struct firn_segment *out) -> 0 */
	FIRN_NR_ADOPT,
	/* (segment id, enum firn_touch, 0, struct firn_extent *buf, max, struct
	 * firn_pages *out) -> 0 */
	FIRN_NR_TOUCHED,
	FIRN_NR_END
};

enum firn_map_mode {
	FIRN_MAP_RO = 0,
	FIRN_MAP_COW = 1,
	FIRN_MAP_OWN = 2, /* what FIRN_NR_ADOPT does; not for FIRN_NR_MAP */
};

/* With either: which pages are read and written is kept, exactly. */
#define FIRN_MAP_TRACK 0x10u

/* Flags of FIRN_NR_DIFF and FIRN_NR_DIRTY. */
#define FIRN_EXACT 1u
#define FIRN_PEEK  2u

/* Of FIRN_NR_TOUCHED. */
enum firn_touch {
	FIRN_READ = 0, /* and not written */
	FIRN_WRITTEN = 1,
};

/* Of firn_meld: also where a step was not tracked. */
#define FIRN_BLIND 1u

/* What a capability names, and what its holder may do with it. */
enum firn_cap_kind {
	FIRN_CAP_SNAPSHOT = 1,
};

#define FIRN_RIGHT_MAP_RO  0x01u /* map read-only, read bytes */
#define FIRN_RIGHT_MAP_COW 0x02u /* map copy-on-write */
#define FIRN_RIGHT_DIFF    0x04u /* compare, describe in full */
#define FIRN_RIGHT_OPEN    0x08u /* take descriptors out (irrevocable) */
#define FIRN_RIGHT_DERIVE  0x10u /* make weaker copies */
#define FIRN_RIGHT_ALL     0x1fu

struct firn_segment {
	uint32_t id;
	uint32_t flags; /* FIRN_SEG_* */
	uint64_t gpa;
	uint64_t va; /* FIRN_WINDOW + gpa; 0 for segment 0 */
	uint64_t size;
};

#define FIRN_SEG_VIEW_RO  1u
#define FIRN_SEG_VIEW_COW 2u
#define FIRN_SEG_TRACKED  4u
/* A private history: who maps a version of it gets no file that has pages of
 * another. Asked for only: what tells of a segment does not have it. */
#define FIRN_SEG_PRIVATE 8u
#define FIRN_SEG_MAKE    (FIRN_SEG_TRACKED | FIRN_SEG_PRIVATE)

struct firn_frozen {
	uint64_t snapshot; /* the broker's id */
	uint64_t pages;    /* of the snapshot */
	uint64_t dirty_pages;
	uint64_t copied_pages;
	uint64_t pause_ns;
	uint64_t total_ns;
};

struct firn_cap_info {
	uint32_t kind; /* enum firn_cap_kind */
	uint32_t rights;
	uint64_t object; /* the broker's id of it */
	uint64_t size;   /* bytes */
	uint32_t sealed; /* 1: the kernel says that nobody can write it */
	uint32_t layers;
	uint32_t owned; /* 1: ... that the holder alone has it, to adopt */
	uint32_t pad;
};

struct firn_extent {
	uint64_t first; /* page */
	uint64_t npages;
};

/* What is to be melded: capabilities, and how many conflicts (buf) holds. */
struct firn_meld {
	uint32_t base;
	uint32_t a;
	uint32_t b;
	uint32_t flags; /* FIRN_BLIND */
	uint32_t max;
	uint32_t pad;
};

enum firn_conflict_kind {
	FIRN_WRITE_WRITE = 1, /* both wrote these pages */
	FIRN_READ_WRITE = 2,  /* one wrote what the other read */
};

struct firn_conflict {
	uint64_t first; /* page */
	uint64_t npages;
	uint32_t kind; /* enum firn_conflict_kind */
	uint32_t pad;
};

struct firn_melded {
	uint64_t snapshot;   /* the broker's id */
	uint64_t pages;      /* that changed, or that conflict */
	uint64_t nconflicts; /* in all; may exceed what the buffer held */
	uint32_t blind;      /* 1: reads were not all known */
	uint32_t pad;
};

struct firn_pages {
	uint64_t pages;         /* in all */
	uint64_t nextents;      /* in all; may exceed what the buffer held */
	uint64_t nodes_visited; /* of a diff */
};

#if defined(__cplusplus) || __STDC_VERSION__ >= 201112L /* C99 has none */
static_assert(sizeof(struct firn_segment) == 32, "ABI layout");
static_assert(sizeof(struct firn_frozen) == 48, "ABI layout");
static_assert(sizeof(struct firn_cap_info) == 40, "ABI layout");
static_assert(offsetof(struct firn_cap_info, sealed) == 24, "ABI layout");
static_assert(sizeof(struct firn_extent) == 16, "ABI layout");
static_assert(sizeof(struct firn_pages) == 24, "ABI layout");
static_assert(sizeof(struct firn_meld) == 24, "ABI layout");
static_assert(sizeof(struct firn_conflict) == 24, "ABI layout");
static_assert(sizeof(struct firn_melded) == 32, "ABI layout");
#endif

#endif /* SHARED_ABI_GUESTCALL_H */
