/* SPDX-License-Identifier: MIT */
/*
 * held: the files that a VM keeps in use. Its places have theirs; here are
 * those that it was told of and has not placed: what its guest has open as
 * /snap/NAME, and views that its monitor has not answered for. There is an end
 * to both together, so that one guest cannot have all the files that there are.
 */
#include <errno.h>
#include <stdlib.h>

#include "shared/bits.h"
#include "vmm/broker/internal.h"

#define SMALL_FILES_MAX 1024u /* of one VM; there are FILES_MAX in all */
#define OPENED_MAX      128u  /* more than a guest has descriptors */

struct file_bits {
	uint64_t w[FILES_MAX / 64];
};

static void mark_pins(struct file_bits *f, const struct pins *p)
{
	for (uint32_t i = 0; i < p->n; i++)
		bit_set(f->w, p->file[i]);
}

/* Large files are few, for they are large: the bank ends those. */
static uint32_t count_small(struct broker *b, const struct file_bits *f)
{
	struct lfile_stat st;
	uint32_t n = 0;

	for (uint64_t i = bits_next(f->w, FILES_MAX, 0, true); i < FILES_MAX;
	     i = bits_next(f->w, FILES_MAX, i + 1, true)) {
		lfile_stat(b->layers, (uint32_t)i, &st);
		n += st.bytes < TIDY_MERGE_NPAGES * PAGE_SIZE;
	}
	return n;
}

static int check_files(struct broker *b, const struct bvm *vm,
    const uint32_t *file, uint32_t n, struct err *e)
{
	struct file_bits f = {0};

	for (uint32_t i = 0; i < n; i++)
		bit_set(f.w, file[i]);
	for (const struct held *h = vm->held; h != NULL; h = h->next)
		mark_pins(&f, &h->pins);
	for (uint32_t i = 0; i < PLACES_MAX; i++)
		mark_pins(&f, &vm->place[i].pins);
	if (count_small(b, &f) <= SMALL_FILES_MAX)
		return 0;
	return err_set(e, -ENOSPC,
	    "the VM's views and what it has open are in more than %u files; "
	    "unmap or close some",
	    SMALL_FILES_MAX);
}

struct held *held_new(struct broker *b, struct bvm *vm, const uint32_t *file,
    uint32_t n, struct err *e)
{
	struct held *h;

	if (check_files(b, vm, file, n, e) != 0)
		return NULL;
	h = calloc(1, sizeof(*h));
	if (h == NULL || pins_take(b, &h->pins, file, n) != 0) {
		free(h);
		(void)err_set(e, -ENOMEM, "no memory for a snapshot's files");
		return NULL;
	}
	h->next = vm->held;
	vm->held = h;
	return h;
}

struct held *held_open(struct broker *b, struct bvm *vm, const uint32_t *file,
    uint32_t n, struct err *e)
{
	uint32_t nopened = 0;
	struct held *h;

	for (h = vm->held; h != NULL; h = h->next)
		nopened += h->id != 0;
	if (nopened >= OPENED_MAX)
		return err_set(e, -EMFILE,
			   "the VM has %u snapshots open already", nopened),
		       NULL;
	h = held_new(b, vm, file, n, e);
	if (h == NULL)
		return NULL;
	if (++vm->last_opened == 0)
		vm->last_opened = 1;
	h->id = vm->last_opened;
	return h;
}

struct pins held_place(struct bvm *vm, struct held *h)
{
	struct held **at = &vm->held;
	struct pins pins = h->pins;

	while (*at != h)
		at = &(*at)->next;
	*at = h->next;
	free(h);
	return pins;
}

void held_drop(struct broker *b, struct bvm *vm, struct held *h)
{
	struct pins pins;

	if (h == NULL)
		return;
	pins = held_place(vm, h);
	pins_drop(b, &pins);
}

void held_closed(struct broker *b, struct bvm *vm, uint32_t id)
{
	struct held *h = vm->held;

	while (h != NULL && (h->id == 0 || h->id != id))
		h = h->next;
	held_drop(b, vm, h);
}

void held_end(struct broker *b, struct bvm *vm)
{
	while (vm->held != NULL)
		held_drop(b, vm, vm->held);
}
