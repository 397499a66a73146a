/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>

#include "vmm/layer/tidy_job.h"

/* The pieces that (l) will have, at most: one that stays is counted with each
 * of its parts. */
static int count_to(struct tidy *t, struct tidy_layer *l,
    const struct layer_piece *p, uint64_t first, uint64_t npages)
{
	(void)t;
	(void)p;
	(void)first;
	(void)npages;
	l->nto++;
	return 0;
}

/* A layer of which nothing is reachable is about to go: it stays as it is, as a
 * layer has a piece. */
static bool moves(const struct tidy *t, const struct tidy_layer *l)
{
	for (uint32_t i = 0; l->nto > 0 && i < l->npieces; i++)
		if (t->file[t->piece[l->first + i].file].chosen)
			return true;
	return false;
}

/* A piece of the new file, or the one that stays as it was. */
static int add_to(struct tidy *t, struct tidy_layer *l,
    const struct layer_piece *p, uint64_t first, uint64_t npages)
{
	struct layer_piece *last = l->nto == 0 ? NULL : &l->to[l->nto - 1];
	struct page_run r = {.page = t->res.moved_bytes / PAGE_SIZE,
	    .npages = npages,
	    .index = p->at + (first - p->first),
	    .layer = p->file};

	if (l->to == NULL) /* it does not move */
		return 0;
	if (!t->file[p->file].chosen) {
		if (last == NULL || last->first != p->first)
			l->to[l->nto++] = *p;
		return 0;
	}
	l->to[l->nto++] = (struct layer_piece){
	    .first = first, .npages = npages, .at = r.page, .file = t->nfiles};
	t->res.moved_bytes += npages * PAGE_SIZE;
	return runs_join(&t->runs, &r);
}

static int plan(struct tidy *t)
{
	int rc = tidy_each_part(t, count_to);

	for (uint32_t i = 0; i < t->nlayers && rc == 0; i++) {
		struct tidy_layer *l = &t->layer[i];

		l->moves = moves(t, l);
		if (!l->moves)
			continue;
		l->to = malloc(l->nto * sizeof(*l->to));
		l->nto = 0;
		if (l->to == NULL)
			rc = -ENOMEM;
	}
	return rc == 0 ? tidy_each_part(t, add_to) : rc;
}

static int copy(struct tidy *t)
{
	int *fd = calloc((size_t)t->nfiles + 1, sizeof(*fd));
	struct layer_job job = {
	    .layer_fd = fd, .nfds = t->nfiles, .cancel = t->cancel};
	struct page_run *to = calloc(t->runs.n + 1, sizeof(*to));
	int rc = -ENOMEM;

	if (fd != NULL && to != NULL) {
		for (uint32_t i = 0; i < t->nfiles; i++)
			fd[i] = t->file[i].fd;
		rc = layer_copy_runs(&job,
		    (struct run_list){t->runs.r, t->runs.n}, to, &t->copied,
		    &t->e);
	}
	free(fd);
	free(to);
	return rc;
}

int tidy_copy(struct tidy *t)
{
	int rc = plan(t);

	if (rc == 0 && t->runs.n > 0)
		rc = copy(t);
	return rc;
}
