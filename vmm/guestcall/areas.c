/* SPDX-License-Identifier: MIT */
#include "vmm/guestcall/areas.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shared/page/run.h"

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t max64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

void areas_fini(struct areas *s)
{
	free(s->v);
	*s = (struct areas){0};
}

/* --- asking --------------------------------------------------------------- */

/* The first area that ends beyond (va). */
static size_t area_at(const struct areas *s, uint64_t va)
{
	size_t lo = 0;
	size_t hi = s->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (s->v[mid].end > va)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

const struct as_area *areas_find(const struct areas *s, uint64_t va)
{
	size_t i = area_at(s, va);

	if (i == s->n || s->v[i].start > va)
		return NULL;
	return &s->v[i];
}

bool areas_any(const struct areas *s, uint64_t start, uint64_t end)
{
	size_t i = area_at(s, start);

	return i < s->n && s->v[i].start < end;
}

bool areas_cover(const struct areas *s, uint64_t start, uint64_t end)
{
	size_t i = area_at(s, start);

	while (start < end) {
		if (i == s->n || s->v[i].start > start)
			return false;
		start = s->v[i++].end;
	}
	return true;
}

uint32_t areas_prot(const struct areas *s, uint64_t start, uint64_t end)
{
	uint32_t prot = 0;

	for (size_t i = area_at(s, start); i < s->n && s->v[i].start < end; i++)
		prot |= s->v[i].prot;
	return prot;
}

uint64_t areas_gap(
    const struct areas *s, uint64_t len, uint64_t bottom, uint64_t top)
{
	size_t i = area_at(s, top);

	if (i < s->n && s->v[i].start < top)
		top = s->v[i].start;
	for (;;) {
		uint64_t low = i > 0 ? s->v[i - 1].end : 0;
		uint64_t va;

		low = max64(low, bottom);
		va = top >= len ? top - len : 0;
		if (va >= low && va)
			return va;
		if (i == 0 || s->v[i - 1].start <= bottom)
			return 0;
		top = s->v[--i].start;
	}
}

/* --- what is promised ----------------------------------------------------- */

/* Pages of the range that are not set aside in blocks. */
static uint64_t countable(const struct areas *s, uint64_t start, uint64_t end)
{
	uint64_t from = max64(start, s->blocks_start);
	uint64_t to = min64(end, s->blocks_end);
	uint64_t inside = to > from ? to - from : 0;

	return (end - start - inside) / PAGE_SIZE;
}

static uint64_t promise(const struct areas *s, const struct as_area *a)
{
	return a->promised ? countable(s, a->start, a->end) : 0;
}

uint64_t areas_unpromised(const struct areas *s, uint64_t start, uint64_t end)
{
	uint64_t n = countable(s, start, end);

	for (size_t i = area_at(s, start); i < s->n && s->v[i].start < end;
	     i++) {
		struct as_area a = s->v[i];

		a.start = max64(a.start, start);
		a.end = min64(a.end, end);
		n -= promise(s, &a);
	}
	return n;
}

/* --- changing ------------------------------------------------------------- */

int areas_room(struct areas *s, size_t n)
{
	size_t cap = s->cap ? s->cap : 32;
	struct as_area *v;

	if (s->n + n <= s->cap)
		return 0;
	while (cap < s->n + n)
		cap *= 2;
	if (s->n + n > AS_AREAS_MAX)
		return -ENOMEM;
	v = realloc(s->v, cap * sizeof(*v));
	if (!v)
		return -ENOMEM;
	s->v = v;
	s->cap = cap;
	return 0;
}

static void area_put(struct areas *s, size_t i, struct as_area a)
{
	memmove(&s->v[i + 1], &s->v[i], (s->n - i) * sizeof(s->v[0]));
	s->v[i] = a;
	s->n++;
	s->committed += promise(s, &a);
}

static struct as_area area_take(struct areas *s, size_t i)
{
	struct as_area a = s->v[i];

	s->n--;
	memmove(&s->v[i], &s->v[i + 1], (s->n - i) * sizeof(s->v[0]));
	s->committed -= promise(s, &a);
	return a;
}

static bool area_joins(const struct as_area *a, const struct as_area *b)
{
	return a->end == b->start && a->prot == b->prot &&
	       a->stack == b->stack && a->promised == b->promised;
}

void areas_add(struct areas *s, struct as_area a)
{
	size_t i = area_at(s, a.start);

	if (i < s->n && area_joins(&a, &s->v[i]))
		a.end = area_take(s, i).end;
	if (i > 0 && area_joins(&s->v[i - 1], &a))
		a.start = area_take(s, --i).start;
	area_put(s, i, a);
}

void areas_cut(struct areas *s, uint64_t start, uint64_t end)
{
	struct as_area kept[2];
	size_t n = 0;
	size_t i = area_at(s, start);
	size_t j = i;

	for (; j < s->n && s->v[j].start < end; j++)
		s->committed -= promise(s, &s->v[j]);
	if (i == j)
		return;
	if (s->v[i].start < start) {
		kept[n] = s->v[i];
		kept[n++].end = start;
	}
	if (s->v[j - 1].end > end) {
		kept[n] = s->v[j - 1];
		kept[n++].start = end;
	}
	memmove(&s->v[i + n], &s->v[j], (s->n - j) * sizeof(s->v[0]));
	s->n = s->n - (j - i) + n;
	for (size_t k = 0; k < n; k++) {
		s->v[i + k] = kept[k];
		s->committed += promise(s, &kept[k]);
	}
}

/* An area that goes on beyond (va) becomes two, which meet there. */
static void split(struct areas *s, uint64_t va)
{
	size_t i = area_at(s, va);

	if (i == s->n || s->v[i].start >= va)
		return;
	memmove(&s->v[i + 1], &s->v[i], (s->n - i) * sizeof(s->v[0]));
	s->n++;
	s->v[i].end = va;
	s->v[i + 1].start = va;
}

/* Join what can be of the areas from (first) to before (end), which there are.
 */
static void join(struct areas *s, size_t first, size_t end)
{
	size_t to = first;

	for (size_t from = first + 1; from < end; from++) {
		if (area_joins(&s->v[to], &s->v[from]))
			s->v[to].end = s->v[from].end;
		else
			s->v[++to] = s->v[from];
	}
	to++;
	memmove(&s->v[to], &s->v[end], (s->n - end) * sizeof(s->v[0]));
	s->n -= end - to;
}

void areas_protect(struct areas *s, uint64_t start, uint64_t end, uint32_t prot)
{
	size_t first;
	size_t i;

	split(s, start);
	split(s, end);
	first = area_at(s, start);
	for (i = first; i < s->n && s->v[i].start < end; i++) {
		struct as_area *a = &s->v[i];

		s->committed -= promise(s, a);
		a->prot = prot;
		a->promised = a->promised || prot;
		s->committed += promise(s, a);
	}
	if (i > first)
		join(s, first > 0 ? first - 1 : 0, i < s->n ? i + 1 : i);
}
