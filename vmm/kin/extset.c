/* SPDX-License-Identifier: MIT */
#include "vmm/kin/extset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shared/bits.h"

#define CAP_FIRST 16u

void extset_free(struct extset *s)
{
	free(s->x);
	*s = (struct extset){0};
}

void extset_trim(struct extset *s)
{
	struct firn_extent *x;

	if (s->n == 0) {
		extset_free(s);
		return;
	}
	x = s->n < s->cap ? realloc(s->x, s->n * sizeof(*x)) : NULL;
	if (x == NULL)
		return;
	s->x = x;
	s->cap = s->n;
}

/* Room for one more. */
static int grow(struct extset *s)
{
	size_t cap = s->cap == 0 ? CAP_FIRST : s->cap * 2;
	struct firn_extent *x;

	if (s->n < s->cap)
		return 0;
	if (s->n >= EXTSET_MAX)
		return -E2BIG;
	x = realloc(s->x, cap * sizeof(*x));
	if (x == NULL)
		return -ENOMEM;
	s->x = x;
	s->cap = cap;
	return 0;
}

static uint64_t end_of(const struct firn_extent *x)
{
	return x->first + x->npages;
}

int extset_add(struct extset *s, uint64_t first, uint64_t npages)
{
	struct firn_extent *last = s->n > 0 ? &s->x[s->n - 1] : NULL;
	int rc;

	if (npages == 0 || first > UINT64_MAX - npages ||
	    (last != NULL && first < end_of(last)))
		return -EINVAL;
	if (last != NULL && first == end_of(last)) {
		last->npages += npages;
		s->pages += npages;
		return 0;
	}
	rc = grow(s);
	if (rc != 0)
		return rc;
	s->x[s->n++] = (struct firn_extent){.first = first, .npages = npages};
	s->pages += npages;
	return 0;
}

int extset_add_bits(
    struct extset *s, const uint64_t *words, uint64_t first, uint64_t npages)
{
	uint64_t i = bits_next(words, npages, 0, true);
	int rc = 0;

	while (i < npages && rc == 0) {
		uint64_t end = bits_next(words, npages, i, false);

		rc = extset_add(s, first + i, end - i);
		i = bits_next(words, npages, end, true);
	}
	return rc;
}

void extset_clear_bits(const struct extset *s, size_t *k, uint64_t *words,
    uint64_t first, uint64_t npages)
{
	uint64_t end = first + npages;

	for (; *k < s->n && s->x[*k].first < end; ++*k) {
		const struct firn_extent *x = &s->x[*k];
		uint64_t from = x->first > first ? x->first : first;
		uint64_t to = end_of(x) < end ? end_of(x) : end;

		if (from < to)
			bits_clear(words, from - first, to - first);
		if (end_of(x) > end)
			break; /* there is more of it behind */
	}
}

int extset_of_bits(const uint64_t *words, uint64_t npages, struct extset *out)
{
	int rc;

	*out = (struct extset){0};
	rc = extset_add_bits(out, words, 0, npages);
	if (rc != 0)
		extset_free(out);
	return rc;
}

/* The extents [at, mid) and [mid, end) of (from), both in order, as one list.
 */
static void merge(const struct firn_extent *from, size_t at, size_t mid,
    size_t end, struct firn_extent *to)
{
	size_t i = at;
	size_t k = mid;

	for (size_t n = at; n < end; n++)
		to[n] = k == end || (i < mid && from[i].first <= from[k].first)
			    ? from[i++]
			    : from[k++];
}

/* The same of (n) lists, which end where the next begins: from at[0] to at[n].
 * They are in *x, where their list is then; *spare has room for as many. */
static void merge_all(
    struct firn_extent **x, struct firn_extent **spare, size_t *at, size_t n)
{
	const size_t end = at[n];

	while (n > 1) {
		struct firn_extent *from = *x;
		size_t k = 0;

		for (size_t i = 0; i < n; i += 2) {
			merge(from, at[i], at[i + 1],
			    i + 2 <= n ? at[i + 2] : end, *spare);
			at[k++] = at[i];
		}
		at[k] = end;
		n = k;
		*x = *spare;
		*spare = from;
	}
}

/* Join what overlaps or touches; (x) is sorted. */
static void coalesce(struct extset *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n; i++) {
		struct firn_extent *last = n > 0 ? &s->x[n - 1] : NULL;

		if (last == NULL || s->x[i].first > end_of(last))
			s->x[n++] = s->x[i];
		else if (end_of(&s->x[i]) > end_of(last))
			last->npages = end_of(&s->x[i]) - last->first;
	}
	s->n = n;
	s->pages = 0;
	for (size_t i = 0; i < n; i++)
		s->pages += s->x[i].npages;
}

/* Put the sets into (x), one behind the other: from at[i] to at[i + 1]. */
static void gather(const struct extset *const *set, size_t n,
    struct firn_extent *x, size_t *at)
{
	at[0] = 0;
	for (size_t i = 0; i < n; i++) {
		if (set[i]->n > 0)
			memcpy(x + at[i], set[i]->x, set[i]->n * sizeof(*x));
		at[i + 1] = at[i] + set[i]->n;
	}
}

int extset_unite(const struct extset *const *set, size_t n, struct extset *out)
{
	struct firn_extent *x;
	struct firn_extent *spare;
	size_t *at;
	size_t all = 0;

	*out = (struct extset){0};
	for (size_t i = 0; i < n; i++)
		all += set[i]->n;
	if (all == 0)
		return 0;
	if (all > EXTSET_MAX)
		return -E2BIG;
	at = malloc((n + 1) * sizeof(*at));
	x = malloc(all * sizeof(*x));
	spare = malloc(all * sizeof(*spare));
	if (at == NULL || x == NULL || spare == NULL) {
		free(at);
		free(x);
		free(spare);
		return -ENOMEM;
	}
	gather(set, n, x, at);
	merge_all(&x, &spare, at, n);
	free(spare);
	free(at);
	*out = (struct extset){.x = x, .n = all, .cap = all};
	coalesce(out);
	return 0;
}

int extset_cut(
    const struct extset *a, const struct extset *b, struct extset *out)
{
	size_t i = 0;
	size_t k = 0;

	*out = (struct extset){0};
	while (i < a->n && k < b->n) {
		const struct firn_extent *x = &a->x[i];
		const struct firn_extent *y = &b->x[k];
		uint64_t first = x->first > y->first ? x->first : y->first;
		uint64_t end = end_of(x) < end_of(y) ? end_of(x) : end_of(y);
		int rc = 0;

		if (first < end)
			rc = extset_add(out, first, end - first);
		if (rc != 0) {
			extset_free(out);
			return rc;
		}
		if (end_of(x) < end_of(y))
			i++;
		else
			k++;
	}
	return 0;
}

/* Add what of [first, end) is not in (b), from its (*k)th extent on. */
static int add_less(struct extset *out, uint64_t first, uint64_t end,
    const struct extset *b, size_t *k)
{
	int rc = 0;

	while (rc == 0 && first < end) {
		uint64_t to = end;

		while (*k < b->n && end_of(&b->x[*k]) <= first)
			++*k;
		if (*k < b->n && b->x[*k].first <= first) {
			first = end_of(&b->x[*k]);
			continue;
		}
		if (*k < b->n && b->x[*k].first < end)
			to = b->x[*k].first;
		rc = extset_add(out, first, to - first);
		first = to;
	}
	return rc;
}

int extset_less(
    const struct extset *a, const struct extset *b, struct extset *out)
{
	size_t k = 0;

	*out = (struct extset){0};
	for (size_t i = 0; i < a->n; i++) {
		int rc = add_less(out, a->x[i].first, end_of(&a->x[i]), b, &k);

		if (rc != 0) {
			extset_free(out);
			return rc;
		}
	}
	return 0;
}
