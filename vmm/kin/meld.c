/* SPDX-License-Identifier: MIT */
#include "vmm/kin/meld.h"

#include <errno.h>
#include <stdlib.h>

#include "vmm/map/runs.h"

void meld_conflicts_free(struct meld_conflicts *c)
{
	extset_free(&c->write_write);
	extset_free(&c->read_write);
}

/* The pages of (w) in (r) that are not in (but). */
static int cut_but(const struct extset *w, const struct extset *r,
    const struct extset *but, struct extset *out)
{
	struct extset both;
	int rc = extset_cut(w, r, &both);

	*out = (struct extset){0};
	if (rc != 0)
		return rc;
	rc = extset_less(&both, but, out);
	extset_free(&both);
	return rc;
}

int meld_conflicts(const struct kin_sets *a, const struct kin_sets *b,
    struct meld_conflicts *out)
{
	struct extset ab = {0};
	struct extset ba = {0};
	const struct extset *const both[] = {&ab, &ba};
	int rc;

	*out = (struct meld_conflicts){0};
	rc = extset_cut(&a->writes, &b->writes, &out->write_write);
	if (rc == 0)
		rc = cut_but(&a->writes, &b->reads, &out->write_write, &ab);
	if (rc == 0)
		rc = cut_but(&b->writes, &a->reads, &out->write_write, &ba);
	if (rc == 0)
		rc = extset_unite(both, 2, &out->read_write);
	extset_free(&ab);
	extset_free(&ba);
	if (rc != 0)
		meld_conflicts_free(out);
	return rc;
}

struct blind {
	struct extset *writes;
	map_stop_fn *stop;
	void *stop_ctx;
};

static int add_pages(void *ctx, uint64_t page, uint64_t npages)
{
	struct blind *b = ctx;

	return extset_add(b->writes, page, npages);
}

static bool blind_stops(void *ctx)
{
	struct blind *b = ctx;

	return b->stop != NULL && b->stop(b->stop_ctx);
}

int meld_blind(const struct map *base, const struct map *m, map_stop_fn *stop,
    void *stop_ctx, struct kin_sets *out)
{
	struct blind b = {
	    .writes = &out->writes, .stop = stop, .stop_ctx = stop_ctx};
	int rc;

	*out = (struct kin_sets){0};
	rc = map_diff_until(base, m, add_pages, blind_stops, &b, NULL);
	if (rc != 0)
		kin_sets_free(out);
	return rc;
}

/* --- runs ----------------------------------------------------------------- */

static int add_run(void *ctx, const struct page_run *r)
{
	return runs_add(ctx, r);
}

/* The extents of both sets in the order of their pages. */
int meld_runs(const struct map *a, const struct extset *wa, const struct map *b,
    const struct extset *wb, struct page_run **runs, size_t *nruns)
{
	struct runs out = {.max = MELD_RUNS_MAX};
	size_t i = 0;
	size_t k = 0;
	int rc = 0;

	while (rc == 0 && (i < wa->n || k < wb->n)) {
		bool of_a = k == wb->n ||
			    (i < wa->n && wa->x[i].first < wb->x[k].first);
		const struct firn_extent *x = of_a ? &wa->x[i++] : &wb->x[k++];

		rc = map_walk(of_a ? a : b, x->first, x->npages, add_run, &out);
	}
	if (rc != 0) {
		free(out.r);
		return rc;
	}
	*runs = out.r;
	*nruns = out.n;
	return 0;
}
