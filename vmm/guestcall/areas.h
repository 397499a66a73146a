/* SPDX-License-Identifier: MIT */
/*
 * areas: which ranges of its address space a program has, and what it may do
 * there. Says nothing of the memory behind them.
 *
 * Ascending, disjoint, joined where they can be; of them a count of the pages
 * that were promised. An area stays promised while it may not be touched, as
 * what was written there is kept. Ranges are [start, end), of whole pages; what
 * is done to one takes time in proportion to the areas that there are.
 *
 * Threads:  the caller's lock.
 */
#ifndef VMM_GUESTCALL_AREAS_H
#define VMM_GUESTCALL_AREAS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AS_AREAS_MAX 65536u

enum as_prot { AS_R = 1, AS_W = 2, AS_X = 4 }; /* as PROT_* */

struct as_area {
	uint64_t start;
	uint64_t end;
	uint32_t prot; /* enum as_prot; W and X never both */
	bool stack;    /* promised as it is touched */
	bool promised; /* there will be memory for it, or is */
};

/* All zero: none. */
struct areas {
	/* Memory for this range is set aside when it is mapped, and not counted
	 * here. */
	uint64_t blocks_start;
	uint64_t blocks_end;
	struct as_area *v;
	size_t n;
	size_t cap;
	uint64_t committed; /* promised pages */
};

void areas_fini(struct areas *s);

/* The area that holds (va); NULL. */
const struct as_area *areas_find(const struct areas *s, uint64_t va);
/* Is any of the range in an area? All of it? */
bool areas_any(const struct areas *s, uint64_t start, uint64_t end);
bool areas_cover(const struct areas *s, uint64_t start, uint64_t end);
/* What the areas permit within the range, taken together. */
uint32_t areas_prot(const struct areas *s, uint64_t start, uint64_t end);
/* The highest gap of (len) bytes between (bottom) and (top); 0: none. */
uint64_t areas_gap(
    const struct areas *s, uint64_t len, uint64_t bottom, uint64_t top);

/* Pages that will be committed besides if all of the range is promised. */
uint64_t areas_unpromised(const struct areas *s, uint64_t start, uint64_t end);
/* Make sure that (n) more areas fit, so that what follows cannot fail.
 * -ENOMEM (also where there would be more than AS_AREAS_MAX). */
int areas_room(struct areas *s, size_t n);
/* Put (a), which overlaps none, and join it to its neighbours. */
void areas_add(struct areas *s, struct as_area a);
/* Take the range out of all areas; needs room for one more. */
void areas_cut(struct areas *s, uint64_t start, uint64_t end);
/* Areas of the range get (prot), and are promised where that permits anything;
 * needs room for two more. */
void areas_protect(
    struct areas *s, uint64_t start, uint64_t end, uint32_t prot);

#endif /* VMM_GUESTCALL_AREAS_H */
