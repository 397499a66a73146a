/* SPDX-License-Identifier: MIT */
/* The files that layers are in: their table, holds and pins. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "vmm/layer/internal.h"

void file_free_push(struct layer_set *set, uint32_t i)
{
	set->file[i] = (struct file){.fd = -1, .next = set->file_free};
	set->file_free = i;
}

int files_grow(struct layer_set *set, uint32_t cap)
{
	struct file *file = realloc(set->file, cap * sizeof(*file));
	uint32_t was = set->file_cap;

	if (file == NULL)
		return -ENOMEM;
	set->file = file;
	set->file_cap = cap;
	for (uint32_t i = cap; i-- > was;)
		file_free_push(set, i);
	return 0;
}

int reserve_file(struct layer_set *set, uint32_t spare, struct err *e)
{
	if (set->sum.files + spare >= FILES_MAX)
		return err_set(e, -ENOSPC,
		    "layers are in %u files already; drop snapshots or views",
		    (unsigned)set->sum.files);
	if (set->file_free != NO_SLOT)
		return 0;
	if (files_grow(set, set->file_cap * 2) != 0)
		return err_set(e, -ENOMEM, "no memory for the layers' table");
	return 0;
}

uint32_t enter_file(struct layer_set *set, const struct file *f)
{
	uint32_t i = set->file_free;

	set->file_free = set->file[i].next;
	set->file[i] = *f;
	set->file[i].live = f->bytes;
	set->file[i].serial = ++set->last_serial;
	set->sum.files++;
	set->sum.bytes += f->bytes;
	return i;
}

struct file *file_of(const struct layer_set *set, uint32_t file)
{
	assert(file < set->file_cap && set->file[file].fd >= 0);
	return &set->file[file];
}

static bool is_pinned(const struct file *f)
{
	return f->pins != 0 || f->openers != 0;
}

static void append_reap(struct layer_set *set, uint32_t i)
{
	set->file[i].next = NO_SLOT;
	if (set->reap_tail == NO_SLOT)
		set->reap_head = i;
	else
		set->file[set->reap_tail].next = i;
	set->reap_tail = i;
}

/* Count (f) as pinned or not, now that it is or is not: (was) says how it was
 * counted. */
static void count_pinned(struct layer_set *set, const struct file *f, bool was)
{
	if (is_pinned(f) == was)
		return;
	if (was) {
		set->sum.pinned_files--;
		set->sum.pinned_bytes -= f->bytes;
	} else {
		set->sum.pinned_files++;
		set->sum.pinned_bytes += f->bytes;
	}
}

void file_settle(struct layer_set *set, uint32_t i)
{
	struct file *f = &set->file[i];
	bool was = is_pinned(f);

	if (f->npieces == 0)
		f->openers = 0;
	count_pinned(set, f, was);
	if (f->npieces == 0 && f->holds == 0)
		append_reap(set, i);
}

void lfile_get(struct layer_set *set, uint32_t file)
{
	file_of(set, file)->holds++;
}

void lfile_put(struct layer_set *set, uint32_t file)
{
	struct file *f = file_of(set, file);

	assert(f->holds > f->pins);
	f->holds--;
	file_settle(set, file);
}

void lfile_pin(struct layer_set *set, uint32_t file)
{
	struct file *f = file_of(set, file);
	bool was = is_pinned(f);

	f->holds++;
	f->pins++;
	count_pinned(set, f, was);
}

void lfile_unpin(struct layer_set *set, uint32_t file)
{
	struct file *f = file_of(set, file);
	bool was = is_pinned(f);

	assert(f->pins > 0);
	f->holds--;
	f->pins--;
	count_pinned(set, f, was);
	file_settle(set, file);
}

void lfile_opened(struct layer_set *set, uint32_t file, uint32_t who)
{
	struct file *f = file_of(set, file);
	bool was = is_pinned(f);

	assert(who < LFILE_OPENERS_MAX);
	if (f->npieces != 0)
		f->openers |= 1ULL << who;
	count_pinned(set, f, was);
}

void lfile_counted(
    struct layer_set *set, uint32_t file, uint64_t serial, uint64_t live)
{
	struct file *f = &set->file[file];

	if (f->serial == serial)
		f->live = live < f->bytes ? live : f->bytes;
}

void lfile_belongs(struct layer_set *set, uint32_t file, uint32_t whose)
{
	file_of(set, file)->whose = whose;
}

int lfile_fd(const struct layer_set *set, uint32_t file)
{
	return file_of(set, file)->fd;
}

void lfile_stat(
    const struct layer_set *set, uint32_t file, struct lfile_stat *out)
{
	const struct file *f = file_of(set, file);

	*out = (struct lfile_stat){
	    .npages = f->npages,
	    .bytes = f->bytes,
	    .live = f->npieces == 0 ? 0 : f->live,
	    .serial = f->serial,
	    .openers = f->openers,
	    .npieces = f->npieces,
	    .pins = f->pins,
	    .whose = f->whose,
	    .opened = f->openers != 0,
	    .owned = f->owned,
	};
}

bool lfile_next(const struct layer_set *set, uint32_t *pos, uint32_t *file)
{
	for (; *pos < set->file_cap; (*pos)++) {
		const struct file *f = &set->file[*pos];

		if (f->npieces == 0 && f->holds == 0)
			continue;
		*file = (*pos)++;
		return true;
	}
	return false;
}

int layer_reap_take(struct layer_set *set)
{
	uint32_t i = set->reap_head;
	struct file *f;
	int fd;

	if (i == NO_SLOT)
		return -1;
	f = &set->file[i];
	set->reap_head = f->next;
	if (set->reap_head == NO_SLOT)
		set->reap_tail = NO_SLOT;
	set->sum.files--;
	set->sum.bytes -= f->bytes;
	fd = f->fd;
	file_free_push(set, i);
	return fd;
}
