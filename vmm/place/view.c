/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "shared/bits.h"
#include "vmm/core/seals.h"
#include "vmm/place/internal.h"
#include "vmm/place/track.h"

/* Ask the kernel whether nobody can ever write (fd), this process included;
 * *npages is how long it is. */
static int check_layer(int fd, uint64_t *npages)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	int flags = fcntl(fd, F_GETFL);

	if (seals < 0 || (seals & ~F_SEAL_EXEC) != SEALS_FROZEN || flags < 0 ||
	    (flags & O_ACCMODE) != O_RDONLY)
		return -EPERM;
	if (fstat(fd, &st) < 0)
		return -errno;
	*npages = (uint64_t)st.st_size / PAGE_SIZE;
	return 0;
}

/* Their lengths, from the heap. */
static int check_layers(
    const int *fd, uint32_t nlayers, uint64_t **npages, struct err *e)
{
	uint64_t *n = calloc((size_t)nlayers + 1, sizeof(*n));

	if (n == NULL)
		return err_set(e, -ENOMEM, "no memory for %u layers", nlayers);
	for (uint32_t i = 0; i < nlayers; i++) {
		int r = check_layer(fd[i], &n[i]);

		if (r < 0) {
			free(n);
			return err_set(e, r,
			    "layer %u: the kernel does not call it a sealed "
			    "memfd that is read-only here",
			    i);
		}
	}
	*npages = n;
	return 0;
}

static int check_runs(const struct page_run *runs, size_t nruns,
    uint64_t npages, const uint64_t *layer_npages, uint32_t nlayers,
    struct err *e)
{
	int r = run_list_check(runs, nruns, npages);

	if (r < 0)
		return err_set(e, r, "the list of runs is not valid");
	for (size_t i = 0; i < nruns; i++) {
		if (runs[i].layer == RUN_ZERO)
			continue;
		if (runs[i].layer >= nlayers)
			return err_set(e, -EPROTO,
			    "run %zu names layer %u of %u", i, runs[i].layer,
			    nlayers);
		if (runs[i].index + runs[i].npages >
		    layer_npages[runs[i].layer])
			return err_set(
			    e, -ERANGE, "run %zu ends beyond its layer", i);
	}
	return 0;
}

/* VMAs that the runs need: their own, and one for each gap. */
static uint32_t count_vmas(
    const struct page_run *runs, size_t nruns, uint64_t npages)
{
	uint64_t next = 0;
	uint32_t n = 0;

	for (size_t i = 0; i < nruns; i++) {
		if (runs[i].layer == RUN_ZERO)
			continue;
		n += runs[i].page > next ? 2 : 1;
		next = runs[i].page + runs[i].npages;
	}
	return n + (next < npages ? 1 : 0);
}

static uint32_t views_vmas(struct places *ps)
{
	uint32_t n = 0;
	struct place *p;

	for (uint32_t i = 0; (p = places_nth(ps, i)) != NULL; i++)
		if (p->kind != PLACE_SEGMENT)
			n += p->nvmas;
	return n;
}

static int check_vmas(struct places *ps, const char *name, size_t nruns,
    uint32_t nvmas, struct err *e)
{
	if (nruns > VIEW_RUNS_MAX)
		return err_set(e, -E2BIG,
		    "%s: %zu runs are more than one view can have (%d)", name,
		    nruns, VIEW_RUNS_MAX);
	if (nvmas + views_vmas(ps) > VIEW_VMAS_MAX)
		return err_set(e, -ENOSPC,
		    "%s: the VM's views have too many extents; unmap one",
		    name);
	return 0;
}

static int map_runs(struct place *p, bool writable, const struct page_run *runs,
    size_t nruns, const int *layer_fd)
{
	int prot = PROT_READ | (writable ? PROT_WRITE : 0);
	int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;

	/* Holes are private zero memory: read through the file they would grow
	 * it, sealed or not. */
	if (mmap(p->hva, place_len(p), prot, flags | MAP_ANONYMOUS, -1, 0) ==
	    MAP_FAILED)
		return -errno;
	for (size_t i = 0; i < nruns; i++) {
		if (runs[i].layer == RUN_ZERO)
			continue;
		if (mmap(p->hva + runs[i].page * PAGE_SIZE,
			runs[i].npages * PAGE_SIZE, prot, flags,
			layer_fd[runs[i].layer],
			(off_t)(runs[i].index * PAGE_SIZE)) == MAP_FAILED)
			return -errno;
		p->base_npages += runs[i].npages;
	}
	return 0;
}

/* What is to be adopted is one layer; backing_take() asks the kernel of it. */
static int check_own(const struct place_view *v, struct err *e)
{
	int r = run_list_check(v->runs, v->nruns, v->npages);

	if (r < 0)
		return err_set(e, r, "the list of runs is not valid");
	if (v->nlayers != 1)
		return err_set(e, -EPROTO, "%u layers are to be adopted, not 1",
		    v->nlayers);
	return 0;
}

/* All refusals that are a view's own. */
int view_check(struct places *ps, const struct place_view *v, uint32_t *nvmas,
    struct err *e)
{
	uint64_t *layer_npages;
	int r;

	if (v->kind == PLACE_SEGMENT)
		return check_own(v, e);
	if (v->kind != PLACE_VIEW_RO && v->kind != PLACE_VIEW_COW)
		return err_set(e, -EINVAL,
		    "a view is read-only, copy-on-write or adopted");
	r = check_layers(v->layer_fd, v->nlayers, &layer_npages, e);
	if (r < 0)
		return r;
	r = check_runs(
	    v->runs, v->nruns, v->npages, layer_npages, v->nlayers, e);
	free(layer_npages);
	if (r < 0)
		return r;
	*nvmas = count_vmas(v->runs, v->nruns, v->npages);
	return check_vmas(ps, v->name, v->nruns, *nvmas, e);
}

/* Where a view that is tracked must lie. */
static int check_track(const struct places *ps, const struct place_view *v,
    uint32_t *offset, struct err *e)
{
	int r = 0;

	if (!v->track)
		return 0;
	if (ps->uffd < 0)
		return err_set(e, -ENOTSUP,
		    "this host does not let firn track views: userfaultfd(2) "
		    "was refused");
	r = track_offset(v->runs, v->nruns);
	if (r < 0)
		return err_set(e, r,
		    "%s: it is in too many places to be tracked", v->name);
	*offset = (uint32_t)r;
	return 0;
}

/* The memory becomes the overlay. Where it has data, it has its 2 MiB pages
 * already. */
static int adopt(struct place *p, const struct place_view *v, struct err *e)
{
	p->lent = true;
	p->adopted = true;
	for (size_t i = 0; i < v->nruns; i++) {
		uint64_t end = v->runs[i].page + v->runs[i].npages;

		for (uint64_t c = v->runs[i].page / LEAF_NPAGES;
		     v->runs[i].layer != RUN_ZERO && c * LEAF_NPAGES < end; c++)
			bit_set(p->tried, c);
	}
	return place_show_memory(
	    p, backing_take(v->layer_fd[0], p->npages, e), e);
}

static int fill_view(struct place *p, const struct place_view *v, struct err *e)
{
	int r;

	if (v->kind == PLACE_SEGMENT)
		return adopt(p, v, e);
	r = map_runs(
	    p, v->kind == PLACE_VIEW_COW, v->runs, v->nruns, v->layer_fd);

	if (r < 0)
		return err_set(e, r, "%s: cannot map its %zu runs: %s", p->name,
		    v->nruns, strerror(-r));
	if (v->track) {
		r = track_range(p->all->uffd, p->hva, place_len(p), e);
		if (r < 0)
			return r;
		p->watched = true;
	}
	return place_attach(p, v->kind, e);
}

int place_open(struct places *ps, const struct place_view *v,
    struct place **out, struct err *e)
{
	struct place_want want = {.name = v->name,
	    .gpa = v->gpa,
	    .npages = v->npages,
	    .writable = v->kind != PLACE_VIEW_RO};
	struct place *p;
	uint32_t nvmas = 0;
	int r = view_check(ps, v, &nvmas, e);

	if (r == 0)
		r = check_track(ps, v, &want.offset, e);
	if (r == 0)
		r = place_prepare(ps, &want, &p, e);
	if (r < 0)
		return r;
	p->snapshot = v->snapshot;
	p->nvmas = nvmas;
	r = fill_view(p, v, e);
	if (r < 0) {
		place_release(p);
		return r;
	}
	*out = p;
	return 0;
}

int place_make_tracked(struct places *ps, const char *name, uint64_t size,
    struct place **out, struct err *e)
{
	const struct place_view v = {
	    .name = name,
	    .kind = PLACE_VIEW_COW,
	    .npages = size / PAGE_SIZE,
	    .track = true,
	};
	int r;

	if (size % PAGE_SIZE != 0)
		return err_set(e, -EINVAL,
		    "a size of %llu bytes is not in whole pages of 4096",
		    (unsigned long long)size);
	r = place_open(ps, &v, out, e);
	if (r == 0)
		(*out)->kind = PLACE_SEGMENT;
	return r;
}

int place_may_close(const struct place *p, struct err *e)
{
	if (p->kind == PLACE_SEGMENT && !p->adopted &&
	    (!p->severed || p->memfd < 0))
		return err_set(e, -EPERM,
		    "%s is a segment; only views, and segments that were "
		    "adopted or severed, can be unmapped",
		    p->name);
	if (p->nsteps > 0)
		return err_set(e, -EBUSY,
		    "%s: what was frozen or severed waits to be taken; freeze "
		    "or sever it again",
		    p->name);
	return 0;
}

int place_close(struct places *ps, struct place *p, struct err *e)
{
	int r = place_may_close(p, e);

	if (r < 0)
		return r;
	gate_close(ps->gate);
	r = gmem_del(ps->gmem, p->slot, e);
	gate_open(ps->gate);
	if (r < 0)
		return r;
	place_release(p);
	return 0;
}
