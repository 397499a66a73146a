/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/mem/pagemap.h"
#include "vmm/place/internal.h"

struct places *places_new(struct gmem *g, struct gate *gate, int pagemap_fd)
{
	struct places *ps = calloc(1, sizeof(*ps));

	if (ps == NULL)
		return NULL;
	ps->gmem = g;
	ps->gate = gate;
	ps->pagemap_fd = pagemap_fd;
	ps->uffd = -1;
	return ps;
}

void places_track(struct places *ps, int uffd)
{
	ps->uffd = uffd;
}

void places_free(struct places *ps)
{
	if (ps == NULL)
		return;
	for (uint32_t i = 0; i < PLACES_MAX; i++) {
		struct place *p = &ps->place[i];

		if (p->kind == PLACE_FREE)
			continue;
		(void)gmem_del(ps->gmem, p->slot, NULL);
		place_release(p);
	}
	free(ps);
}

struct place *places_by_id(struct places *ps, uint32_t id)
{
	for (uint32_t i = 0; i < PLACES_MAX; i++)
		if (ps->place[i].kind != PLACE_FREE && ps->place[i].id == id)
			return &ps->place[i];
	return NULL;
}

struct place *places_by_name(struct places *ps, const char *name)
{
	for (uint32_t i = 0; i < PLACES_MAX; i++)
		if (ps->place[i].kind != PLACE_FREE &&
		    strcmp(ps->place[i].name, name) == 0)
			return &ps->place[i];
	return NULL;
}

struct place *places_by_gpa(struct places *ps, uint64_t gpa)
{
	for (uint32_t i = 0; i < PLACES_MAX; i++) {
		struct place *p = &ps->place[i];

		if (p->kind != PLACE_FREE && gpa >= p->gpa &&
		    gpa - p->gpa < place_len(p))
			return p;
	}
	return NULL;
}

struct place *places_nth(struct places *ps, uint32_t i)
{
	for (uint32_t k = 0; k < PLACES_MAX; k++)
		if (ps->place[k].kind != PLACE_FREE && i-- == 0)
			return &ps->place[k];
	return NULL;
}

void place_info(const struct place *p, struct place_info *out)
{
	memset(out, 0, sizeof(*out));
	out->id = p->id;
	out->kind = p->kind;
	out->gpa = p->gpa;
	out->npages = p->npages;
	out->hva = p->hva;
	out->snapshot = p->snapshot;
	out->tracked = p->watched;
	memcpy(out->name, p->name, sizeof(out->name));
}

uint32_t place_flags(const struct place_info *i)
{
	uint32_t f = i->tracked ? FIRN_SEG_TRACKED : 0;

	if (i->kind == PLACE_VIEW_RO)
		f |= FIRN_SEG_VIEW_RO;
	if (i->kind == PLACE_VIEW_COW)
		f |= FIRN_SEG_VIEW_COW;
	return f;
}

int place_usage(struct place *p, uint64_t *resident, uint64_t *private_bytes)
{
	struct stat st;
	uint64_t n;
	int r;

	if (p->memfd >= 0) {
		if (fstat(p->memfd, &st) < 0)
			return -errno;
		*resident = (uint64_t)st.st_blocks * 512;
		*private_bytes = *resident;
		return 0;
	}
	r = pagemap_private(p->all->pagemap_fd, p->hva, p->npages, NULL, &n);
	if (r < 0)
		return r;
	*private_bytes = n * PAGE_SIZE;
	*resident = *private_bytes + p->base_npages * PAGE_SIZE;
	return 0;
}

int place_check_name(const char *name, struct err *e)
{
	size_t n = name == NULL ? 0 : strnlen(name, FIRN_NAME_MAX);

	if (n == 0 || n >= FIRN_NAME_MAX)
		return err_set(e, -EINVAL, "a name needs 1 to %u characters",
		    FIRN_NAME_MAX - 1);
	for (size_t i = 0; i < n; i++)
		if (name[i] <= ' ' || name[i] > '~' || name[i] == ':')
			return err_set(e, -EINVAL,
			    "a name is of printable characters, without spaces "
			    "and colons");
	return 0;
}

static int check_new(
    struct places *ps, const struct place_want *w, struct err *e)
{
	const char *name = w->name;
	int r = place_check_name(name, e);

	if (r < 0)
		return r;
	if (w->npages == 0 || w->npages > PLACE_NPAGES_MAX)
		return err_set(e, -EINVAL,
		    "%s: a size of %llu pages is not within 1 to %llu", name,
		    (unsigned long long)w->npages,
		    (unsigned long long)PLACE_NPAGES_MAX);
	if (w->gpa % LEAF_SIZE != 0)
		return err_set(e, -EINVAL,
		    "%s: guest-physical address 0x%llx is not aligned to 2 MiB",
		    name, (unsigned long long)w->gpa);
	if (places_by_name(ps, name) != NULL)
		return err_set(
		    e, -EEXIST, "%s: this VM has that name already", name);
	return 0;
}

static int alloc_bitmaps(struct place *p)
{
	size_t n = place_words(p);

	p->tried = calloc((place_nchunks(p) + 63) / 64, sizeof(uint64_t));
	p->wrote = calloc(n, sizeof(uint64_t));
	p->pending = calloc(n, sizeof(uint64_t));
	p->taken = calloc(n, sizeof(uint64_t));
	p->copies.copied = calloc(n, sizeof(uint64_t));
	p->copies.since = calloc(n, sizeof(uint64_t));
	p->klog = calloc(n, sizeof(uint64_t));
	if (p->tried == NULL || p->wrote == NULL || p->pending == NULL ||
	    p->taken == NULL || p->klog == NULL || p->copies.copied == NULL ||
	    p->copies.since == NULL)
		return -ENOMEM;
	return 0;
}

static struct place *unused(struct places *ps)
{
	for (uint32_t i = 0; i < PLACES_MAX; i++)
		if (ps->place[i].kind == PLACE_FREE)
			return &ps->place[i];
	return NULL;
}

static int fill_place(struct place *p, const struct place_want *w)
{
	p->hva = backing_reserve(place_len(p), w->offset * PAGE_SIZE);
	if (p->hva == NULL)
		return -ENOMEM;
	return w->writable ? alloc_bitmaps(p) : 0;
}

int place_prepare(struct places *ps, const struct place_want *w,
    struct place **out, struct err *e)
{
	uint64_t gpa = w->gpa;
	struct place *p;
	int r = check_new(ps, w, e);

	if (r < 0)
		return r;
	p = unused(ps);
	if (p == NULL)
		return err_set(e, -ENOSPC,
		    "%s: the VM has %d segments and views; unmap one", w->name,
		    PLACES_MAX);
	if (gpa == 0)
		gpa = gmem_find(ps->gmem, w->npages * PAGE_SIZE);
	if (gpa == 0)
		return err_set(e, -ENOSPC,
		    "%s: no free guest-physical addresses for %llu pages",
		    w->name, (unsigned long long)w->npages);
	*p = (struct place){
	    .all = ps, .memfd = -1, .gpa = gpa, .npages = w->npages};
	memcpy(p->name, w->name, strlen(w->name));
	r = fill_place(p, w);
	if (r < 0) {
		place_release(p);
		return err_set(e, r,
		    "%s: no memory or addresses for %llu pages", w->name,
		    (unsigned long long)w->npages);
	}
	*out = p;
	return 0;
}

int place_attach(struct place *p, enum place_kind kind, struct err *e)
{
	struct places *ps = p->all;
	struct gmem_bank b = {
	    .gpa = p->gpa,
	    .len = place_len(p),
	    .hva = p->hva,
	    .readonly = kind == PLACE_VIEW_RO,
	    .wrote = kind == PLACE_VIEW_RO ? NULL : dirty_wrote,
	    .ctx = p,
	};
	int slot;

	gate_close(ps->gate);
	slot = gmem_add(ps->gmem, &b, e);
	gate_open(ps->gate);
	if (slot < 0)
		return slot;
	p->slot = (uint32_t)slot;
	p->kind = kind;
	p->id = ps->next_id++;
	return 0;
}

void place_release(struct place *p)
{
	place_frozen_done(p, p->nsteps);
	dirty_free_cursors(p);
	if (p->hva != NULL)
		(void)munmap(p->hva, place_len(p));
	if (p->memfd >= 0)
		(void)close(p->memfd);
	free(p->tried);
	free(p->wrote);
	free(p->pending);
	free(p->taken);
	free(p->copies.copied);
	free(p->copies.since);
	free(p->klog);
	memset(p, 0, sizeof(*p));
	p->memfd = -1;
}

void place_lose(struct place *p)
{
	(void)gmem_del(p->all->gmem, p->slot, NULL);
	/* What else of it is mapped goes with the process: others may have got
	 * its addresses. */
	p->hva = NULL;
	if (p->memfd >= 0)
		(void)close(p->memfd);
	p->memfd = -1;
}

int place_show_memory(struct place *p, int memory, struct err *e)
{
	int r = memory;

	p->memfd = memory;
	if (r >= 0)
		r = backing_map_shared(p->hva, place_len(p), p->memfd);
	if (r < 0 && (e == NULL || e->code == 0))
		(void)err_set(
		    e, r, "%s: no memory for it: %s", p->name, strerror(-r));
	if (r < 0)
		return r;
	p->nvmas = 1;
	return place_attach(p, PLACE_SEGMENT, e);
}

/* (memory) is -1 for some of our own. */
static int make(struct places *ps, const char *name, uint64_t gpa,
    uint64_t size, int memory, struct place **out, struct err *e)
{
	struct place_want want = {.name = name,
	    .gpa = gpa,
	    .npages = size / PAGE_SIZE,
	    .writable = true};
	struct place *p;
	int r;

	if (size % PAGE_SIZE != 0)
		return err_set(e, -EINVAL,
		    "a size of %llu bytes is not in whole pages of 4096",
		    (unsigned long long)size);
	r = place_prepare(ps, &want, &p, e);
	if (r < 0)
		return r;
	p->lent = memory >= 0;
	r = place_show_memory(p,
	    p->lent ? backing_take(memory, p->npages, e)
		    : backing_segment(p->npages),
	    e);
	if (r < 0) {
		place_release(p);
		return r;
	}
	*out = p;
	return 0;
}

int place_make(struct places *ps, const char *name, uint64_t gpa, uint64_t size,
    struct place **out, struct err *e)
{
	return make(ps, name, gpa, size, -1, out, e);
}

int place_make_of(struct places *ps, const char *name, uint64_t size,
    int memory, struct place **out, struct err *e)
{
	return make(ps, name, 0, size, memory, out, e);
}
