/* SPDX-License-Identifier: MIT */
/*
 * Two sources tell what was written: KVM's dirty log, for the vCPUs, and the
 * bank's callback, for the monitor. A harvest takes both and adds them to
 * every subscriber's bitmap, so that none loses what another has read. Harvests
 * may run while the guest does: bits are only added. To take bits away (a
 * cursor advances, a freeze begins) the gate is closed, as the monitor
 * announces a write before it does it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shared/bits.h"
#include "vmm/kvm/kvm_dirty.h"
#include "vmm/mem/pagemap.h"
#include "vmm/place/internal.h"

void dirty_wrote(void *place, uint64_t page, uint64_t npages)
{
	struct place *p = place;

	for (uint64_t i = page; i < page + npages; i++)
		(void)__atomic_fetch_or(
		    &p->wrote[i / 64], 1ULL << (i % 64), __ATOMIC_RELAXED);
}

/* Turn KVM's log on unless it is: from its return all writes are told. */
static int log_on(struct place *p, struct err *e)
{
	int r;

	if (p->logged)
		return 0;
	/* KVM clears its log even if it cannot copy it out; so let there be
	 * memory behind the buffer for good. */
	memset(p->klog, 0, place_words(p) * sizeof(uint64_t));
	r = gmem_log(p->all->gmem, p->slot, true, e);
	if (r == 0)
		p->logged = true;
	return r;
}

int dirty_track(struct place *p, struct err *e)
{
	int r = log_on(p, e);

	if (r < 0 || p->tracked)
		return r;
	/* The log is on, so this may run beside the guest: what it misses, the
	 * next harvest tells. */
	r = pagemap_private(
	    p->all->pagemap_fd, p->hva, p->npages, p->pending, NULL);
	if (r < 0)
		return err_set(e, r, "%s: cannot read the page map: %s",
		    p->name, strerror(-r));
	p->tracked = true;
	return 0;
}

static void add(struct place *p, size_t i, uint64_t word)
{
	p->pending[i] |= word;
	for (uint32_t c = 0; c < CURSORS; c++)
		if (p->cursor[c].bits != NULL)
			p->cursor[c].bits[i] |= word;
}

int dirty_harvest(struct place *p, struct err *e)
{
	size_t n = place_words(p);

	if (p->logged) {
		int r = kvm_dirty_get(p->all->gmem->vm_fd, p->slot, p->klog);

		if (r < 0)
			return err_set(e, r, "%s: KVM's dirty log: %s", p->name,
			    strerror(-r));
	}
	for (size_t i = 0; i < n; i++) {
		uint64_t w = p->logged ? p->klog[i] : 0;

		if (__atomic_load_n(&p->wrote[i], __ATOMIC_RELAXED) != 0)
			w |= __atomic_exchange_n(
			    &p->wrote[i], 0, __ATOMIC_RELAXED);
		if (w != 0)
			add(p, i, w);
	}
	return 0;
}

void dirty_mark_all(struct place *p)
{
	size_t n = place_words(p);

	for (uint32_t c = 0; c < CURSORS; c++) {
		if (p->cursor[c].bits == NULL)
			continue;
		memset(p->cursor[c].bits, 0xff, n * sizeof(uint64_t));
		if (p->npages % 64 != 0)
			p->cursor[c].bits[n - 1] = (1ULL << p->npages % 64) - 1;
	}
}

void dirty_free_cursors(struct place *p)
{
	for (uint32_t c = 0; c < CURSORS; c++) {
		free(p->cursor[c].bits);
		p->cursor[c].bits = NULL;
	}
}

/* The cursor of that name, or one that is free, or NULL. */
static struct cursor *find_cursor(struct place *p, const char *name)
{
	struct cursor *unused = NULL;
	uint32_t first = name[0] == PLACE_CURSOR_CLIENT ? PLACE_CURSORS_MAX : 0;

	for (uint32_t c = first; c < first + PLACE_CURSORS_MAX; c++) {
		struct cursor *k = &p->cursor[c];

		if (k->bits == NULL) {
			if (unused == NULL)
				unused = k;
		} else if (strcmp(k->name, name) == 0) {
			return k;
		}
	}
	return unused;
}

bool place_has_cursor(const struct place *p, const char *name)
{
	for (uint32_t c = 0; c < CURSORS; c++)
		if (p->cursor[c].bits != NULL &&
		    strcmp(p->cursor[c].name, name) == 0)
			return true;
	return false;
}

/* Harvest at one instant of the guest, and take what (k) has. */
static int take_bits(
    struct place *p, struct cursor *k, bool peek, uint64_t *out, struct err *e)
{
	size_t len = place_words(p) * sizeof(uint64_t);
	int r;

	gate_close(p->all->gate);
	r = dirty_harvest(p, e);
	if (r == 0 && k->bits != NULL) {
		memcpy(out, k->bits, len);
		if (!peek)
			memset(k->bits, 0, len);
	}
	gate_open(p->all->gate);
	return r;
}

static int check_query(const struct place *p, const char *name, struct err *e)
{
	int r = place_check_name(name, e);

	if (r == 0 && p->kind == PLACE_VIEW_RO)
		r = err_set(e, -EPERM,
		    "%s is a read-only view: nobody writes it", p->name);
	return r;
}

/* place_dirty() into (out), for a cursor that exists. */
static int query_known(
    struct place *p, struct cursor *k, bool peek, uint64_t *out, struct err *e)
{
	int r = log_on(p, e);

	return r < 0 ? r : take_bits(p, k, peek, out, e);
}

/* The same for one that begins with it. */
static int query_new(struct place *p, struct cursor *k, const char *name,
    uint64_t *out, struct err *e)
{
	uint64_t *bits = calloc(place_words(p), sizeof(uint64_t));
	int r;

	if (bits == NULL)
		return err_set(
		    e, -ENOMEM, "%s: no memory for a bitmap", p->name);
	r = query_known(p, k, false, out, e);
	if (r < 0) {
		free(bits);
		return r;
	}
	memcpy(k->name, name, strlen(name) + 1);
	k->bits = bits;
	return 0;
}

int place_dirty(struct place *p, const char *name, bool peek, uint64_t **words,
    uint64_t *npages_dirty, struct err *e)
{
	struct cursor *k;
	uint64_t *out;
	int r = check_query(p, name, e);

	if (r < 0)
		return r;
	k = find_cursor(p, name);
	if (k == NULL)
		return err_set(e, -ENOSPC,
		    "%s has %d dirty cursors of %s already", p->name,
		    PLACE_CURSORS_MAX,
		    name[0] == PLACE_CURSOR_CLIENT ? "clients" : "its guest");
	out = calloc(place_words(p), sizeof(uint64_t));
	if (out == NULL)
		return err_set(
		    e, -ENOMEM, "%s: no memory for a bitmap", p->name);
	r = k->bits != NULL ? query_known(p, k, peek, out, e)
			    : query_new(p, k, name, out, e);
	if (r < 0) {
		free(out);
		return r;
	}
	*npages_dirty = bits_count(out, place_words(p));
	*words = out;
	return 0;
}

void place_dirty_untold(
    struct place *p, const char *name, const uint64_t *words)
{
	const struct cursor *k = find_cursor(p, name);

	for (size_t i = 0; k != NULL && k->bits != NULL && i < place_words(p);
	     i++)
		k->bits[i] |= words[i];
}

int place_dirty_end(struct place *p, const char *name, struct err *e)
{
	struct cursor *k = find_cursor(p, name);

	if (k == NULL || k->bits == NULL)
		return err_set(
		    e, -ENOENT, "%s has no such dirty cursor", p->name);
	free(k->bits);
	k->bits = NULL;
	return 0;
}
