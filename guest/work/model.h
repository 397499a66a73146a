/* SPDX-License-Identifier: MIT */
/*
 * model: what guest/work/model.c is told on its stdin and answers on stdout,
 * in this machine's byte order. A request of MODEL_WRITE is followed by (len)
 * bytes of struct model_word, one of MODEL_FILL by (len) bytes; an answer is
 * followed by its (len) bytes.
 */
#ifndef GUEST_WORK_MODEL_H
#define GUEST_WORK_MODEL_H

#include <stdint.h>

#include "shared/abi/guestcall.h"

#define MODEL_EXTENTS_MAX 4096u

enum model_op {
	MODEL_MAKE = 1, /* segment (name) of (a) bytes; answers the segment */
	MODEL_FIND,     /* (name); answers the segment */
	MODEL_WRITE,    /* store 64-bit words at (a) + offset */
	MODEL_ZERO,     /* (b) bytes at (a) */
	MODEL_FILL,     /* read(2) to (a): the monitor writes */
	MODEL_SHOW,     /* (b) bytes at (a), copied by the vCPU */
	MODEL_SEND,     /* the same by write(2): the monitor reads */
	MODEL_FREEZE,   /* segment (id), (name) or ""; struct firn_frozen */
	MODEL_SEVER,
	MODEL_LOOKUP,   /* (name) */
	MODEL_DESCRIBE, /* cap (a); struct firn_cap_info */
	MODEL_MAP,      /* cap (a), mode (b), gpa (c); answers the segment */
	MODEL_UNMAP,    /* segment (id) */
	/* segment (id), cursor (name), flags (a), extents at most (b), which
	 * MODEL_EXTENTS_MAX limits; pages and extents */
	MODEL_DIRTY,
	MODEL_DIFF,   /* caps (a) and (b), flags (c); pages and extents */
	MODEL_DERIVE, /* cap (a), rights (b) */
	MODEL_DROP,   /* cap (a) */
	MODEL_STAMP,  /* (b) pages at (a), until there is more input */
};

struct model_req {
	uint32_t op; /* enum model_op */
	uint32_t id;
	uint64_t a, b, c;
	uint32_t len;
	uint32_t pad;
	char name[FIRN_NAME_MAX];
};

struct model_word {
	uint64_t offset;
	uint64_t value;
};

struct model_ans {
	int64_t ret; /* of the call, or 0 */
	uint64_t len;
};

/*
 * MODEL_STAMP, pass k = 1, 2, ...: visits each page once, in the order of
 * model_order(); the vCPU stores k in the first word of the page, and in every
 * MODEL_CLOCK_EVERY-th page visited the monitor stores the time instead, as the
 * answer of clock_gettime(). (npages) is a power of two.
 */
#define MODEL_CLOCK_EVERY 61u

static inline uint64_t model_order(uint64_t i, uint64_t npages)
{
	return i * 2654435761u & (npages - 1);
}

#endif /* GUEST_WORK_MODEL_H */
