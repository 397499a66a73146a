/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/core/cleanup.h"
#include "vmm/core/clock.h"
#include "vmm/layer/internal.h"

static uint32_t *bucket_of(const struct layer_set *set, uint32_t id)
{
	return &set->bucket[id & (set->cap - 1)];
}

static struct slot *find_slot(const struct layer_set *set, uint32_t id)
{
	uint32_t i = *bucket_of(set, id);

	while (i != NO_SLOT && set->slot[i].id != id)
		i = set->slot[i].next;
	return i == NO_SLOT ? NULL : &set->slot[i];
}

static void push_bucket(struct layer_set *set, uint32_t i)
{
	uint32_t *head = bucket_of(set, set->slot[i].id);

	set->slot[i].next = *head;
	*head = i;
}

static void push_free(struct layer_set *set, uint32_t i)
{
	set->slot[i] = (struct slot){.next = set->free_head};
	set->free_head = i;
}

/* Slots moved: those of one piece have it in themselves. */
static void fix_pieces(struct slot *slot, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (slot[i].npieces == 1)
			slot[i].piece = &slot[i].one;
}

/* Arrays of (cap) slots; on failure the set is as it was. */
static int set_grow(struct layer_set *set, uint32_t cap)
{
	uint32_t *bucket = malloc(cap * sizeof(*bucket));
	struct slot *slot = realloc(set->slot, cap * sizeof(*slot));
	uint32_t was = set->cap;

	if (slot != NULL) {
		set->slot = slot;
		fix_pieces(slot, was);
	}
	if (bucket == NULL || slot == NULL) {
		free(bucket);
		return -ENOMEM;
	}
	free(set->bucket);
	set->bucket = bucket;
	set->cap = cap;
	memset(bucket, 0xff, cap * sizeof(*bucket));
	for (uint32_t i = 0; i < was; i++)
		if (slot[i].holds != 0)
			push_bucket(set, i);
	for (uint32_t i = cap; i-- > was;)
		push_free(set, i);
	return 0;
}

static void *node_alloc(void *ctx, size_t len)
{
	struct layer_set *set = ctx;

	return len == set->nodes.block ? arena_alloc(&set->nodes) : malloc(len);
}

static void node_free(void *ctx, void *p, size_t len)
{
	struct layer_set *set = ctx;

	if (len == set->nodes.block)
		arena_free(&set->nodes, p);
	else
		free(p);
}

static void entry_came(void *ctx, uint32_t layer)
{
	struct layer_set *set = ctx;
	struct slot *s = find_slot(set, layer);

	assert(s != NULL);
	s->holds++;
	s->entries++;
	set->sum.entries++;
}

static void entry_went(void *ctx, uint32_t layer)
{
	struct layer_set *set = ctx;
	struct slot *s = find_slot(set, layer);

	assert(s != NULL);
	s->entries--;
	set->sum.entries--;
	set->sum.entries_gone++;
	layer_put(set, layer);
}

struct layer_set *layer_set_new(void)
{
	struct layer_set *set = calloc(1, sizeof(*set));

	if (set == NULL)
		return NULL;
	set->ops = (struct map_ops){
	    .alloc = node_alloc,
	    .free = node_free,
	    .layer_get = entry_came,
	    .layer_put = entry_went,
	    .ctx = set,
	};
	arena_init(&set->nodes, map_node_len());
	set->free_head = NO_SLOT;
	set->file_free = NO_SLOT;
	set->reap_head = NO_SLOT;
	set->reap_tail = NO_SLOT;
	if (set_grow(set, SLOTS_START) != 0 ||
	    files_grow(set, SLOTS_START) != 0) {
		free(set->slot);
		free(set->bucket);
		free(set);
		return NULL;
	}
	return set;
}

void layer_set_free(struct layer_set *set)
{
	if (set == NULL)
		return;
	for (uint32_t i = 0; i < set->file_cap; i++)
		if (set->file[i].fd >= 0)
			(void)close(set->file[i].fd);
	for (uint32_t i = 0; i < set->cap; i++)
		if (set->slot[i].npieces > 1)
			free(set->slot[i].piece);
	arena_fini(&set->nodes);
	free(set->file);
	free(set->slot);
	free(set->bucket);
	free(set);
}

const struct map_ops *layer_set_map_ops(struct layer_set *set)
{
	return &set->ops;
}

void layer_set_totals(const struct layer_set *set, struct layer_totals *out)
{
	*out = set->sum;
	out->table_bytes =
	    set->cap * (sizeof(*set->slot) + sizeof(*set->bucket)) +
	    set->file_cap * sizeof(*set->file) +
	    set->sum.table_bytes * sizeof(struct layer_piece);
}

void layer_belongs(struct layer_set *set, uint32_t id, uint32_t whose)
{
	const struct slot *s = find_slot(set, id);

	assert(s != NULL && s->npieces == 1);
	lfile_belongs(set, s->piece->file, whose);
}

/* --- adopt ---------------------------------------------------------------- */

static int reserve_slot(struct layer_set *set, struct err *e)
{
	if (set->free_head != NO_SLOT)
		return 0;
	if (set->cap >= LAYERS_MAX)
		return err_set(e, -ENOSPC,
		    "there are %u layers already; drop snapshots",
		    (unsigned)LAYERS_MAX);
	if (set_grow(set, set->cap * 2) != 0)
		return err_set(e, -ENOMEM, "no memory for the layers' table");
	return 0;
}

/* The next id in turn that is no other's, nor 0, which marks no layer. */
static uint32_t next_id(struct layer_set *set)
{
	do
		set->last_id++;
	while (set->last_id == 0 || set->last_id == RUN_ZERO ||
	       find_slot(set, set->last_id));
	return set->last_id;
}

static int adopt_file(struct layer_set *set, int fd, uint64_t claimed,
    uint32_t spare, uint32_t *file, struct err *e)
{
	struct file f = {.holds = 1};
	int rc = memory_seals(fd, SEALS_FROZEN, e);

	if (rc == 0)
		rc = memory_size(fd, claimed, &f, e);
	if (rc == 0)
		rc = reserve_file(set, spare, e);
	if (rc != 0)
		return rc;
	f.fd = memory_reopen(fd, O_RDONLY, e);
	if (f.fd < 0)
		return f.fd;
	*file = enter_file(set, &f);
	return 0;
}

int lfile_adopt(struct layer_set *set, int fd, uint32_t *file, struct err *e)
{
	AUTO_CLOSE int given = fd;

	return adopt_file(set, given, 1, 0, file, e);
}

/* The whole of (file), whose hold this takes over, becomes a layer, in a slot
 * that was reserved. */
static uint32_t enter(struct layer_set *set, uint32_t file)
{
	uint32_t i = set->free_head;
	struct slot *s = &set->slot[i];

	set->free_head = s->next;
	*s = (struct slot){
	    .holds = 1,
	    .npages = set->file[file].npages,
	    .born = now_ns(),
	    .one = {.npages = set->file[file].npages, .file = file},
	    .npieces = 1,
	    .id = next_id(set),
	    .owned = set->file[file].owned,
	};
	s->piece = &s->one;
	push_bucket(set, i);
	set->file[file].npieces++;
	lfile_put(set, file);
	set->sum.layers++;
	set->sum.pieces++;
	return s->id;
}

int layer_adopt(
    struct layer_set *set, int fd, uint64_t npages, uint32_t *id, struct err *e)
{
	uint32_t file;
	int rc = reserve_slot(set, e);

	if (rc == 0)
		rc = adopt_file(set, fd, npages, FILES_SPARE, &file, e);
	if (rc != 0)
		return rc;
	*id = enter(set, file);
	(void)close(fd);
	return 0;
}

/* --- owned ---------------------------------------------------------------- */

int layer_adopt_owned(struct layer_set *set, int *fd, uint64_t npages,
    uint32_t *id, struct err *e)
{
	struct file f = {.holds = 1, .owned = true};
	int rc = memory_seals(*fd, SEALS_OWNED, e);

	if (rc == 0)
		rc = memory_made(*fd, e);
	if (rc == 0)
		rc = memory_size(*fd, npages, &f, e);
	if (rc == 0)
		rc = reserve_slot(set, e);
	if (rc == 0)
		rc = reserve_file(set, FILES_SPARE, e);
	if (rc == 0)
		rc = memory_alone(fd, e);
	/* Nobody can add a seal now: what was true before may not be. */
	if (rc == 0)
		rc = memory_seals(*fd, SEALS_OWNED, e);
	if (rc != 0)
		return rc;
	f.fd = *fd;
	*id = enter(set, enter_file(set, &f));
	*fd = -1;
	return 0;
}

/* The file of a layer that is owned and not taken; else NULL. */
static struct file *find_owned(const struct layer_set *set, uint32_t id)
{
	const struct slot *s = find_slot(set, id);

	if (s == NULL || !s->owned || s->npieces == 0)
		return NULL;
	return &set->file[s->one.file];
}

enum layer_state layer_state(const struct layer_set *set, uint32_t id)
{
	const struct slot *s = find_slot(set, id);

	return s == NULL ? LAYER_NONE : s->owned ? LAYER_OWNED : LAYER_SEALED;
}

int layer_prove(struct layer_set *set, uint32_t id, struct err *e)
{
	struct file *f = find_owned(set, id);

	if (f == NULL)
		return err_set(e, -ENOENT, "there is no owned layer %u", id);
	return memory_alone(&f->fd, e);
}

int layer_sealed(struct layer_set *set, uint32_t id, struct err *e)
{
	struct file *f = find_owned(set, id);
	struct file now = {0};
	int rc;

	if (f == NULL)
		return err_set(e, -ENOENT, "there is no owned layer %u", id);
	rc = memory_seals(f->fd, SEALS_FROZEN, e);
	if (rc == 0)
		rc = memory_size(f->fd, f->npages, &now, e);
	if (rc == 0) {
		now.fd = memory_reopen(f->fd, O_RDONLY, e);
		rc = now.fd < 0 ? now.fd : 0;
	}
	if (rc != 0)
		return rc;
	(void)close(f->fd);
	f->fd = now.fd;
	set->sum.bytes += now.bytes - f->bytes;
	f->bytes = now.bytes;
	f->live = now.bytes; /* no job has looked at it */
	f->owned = false;
	find_slot(set, id)->owned = false;
	return 0;
}

int layer_take(struct layer_set *set, uint32_t id)
{
	struct file *f = find_owned(set, id);
	int fd;

	assert(f != NULL && f->holds == 0);
	fd = f->fd;
	set->sum.files--;
	set->sum.bytes -= f->bytes;
	set->sum.pieces--;
	find_slot(set, id)->npieces = 0;
	file_free_push(set, (uint32_t)(f - set->file));
	return fd;
}

/* --- pieces --------------------------------------------------------------- */

const struct layer_piece *layer_pieces(
    const struct layer_set *set, uint32_t id, uint32_t *n)
{
	const struct slot *s = find_slot(set, id);

	*n = s == NULL ? 0 : s->npieces;
	return s == NULL ? NULL : s->piece;
}

/* Take the pieces of (s) out of their files. */
static void drop_pieces(struct layer_set *set, struct slot *s)
{
	for (uint32_t i = 0; i < s->npieces; i++) {
		uint32_t file = s->piece[i].file;

		set->file[file].npieces--;
		file_settle(set, file);
	}
	set->sum.pieces -= s->npieces;
	if (s->npieces > 1) {
		set->sum.table_bytes -= s->npieces;
		free(s->piece);
	}
}

void layer_move(
    struct layer_set *set, uint32_t id, struct layer_piece *piece, uint32_t n)
{
	struct slot *s = find_slot(set, id);

	assert(s != NULL && !s->owned && n > 0);
	for (uint32_t i = 0; i < n; i++)
		file_of(set, piece[i].file)->npieces++;
	drop_pieces(set, s);
	s->npieces = n;
	set->sum.pieces += n;
	if (n > 1) {
		s->piece = piece;
		set->sum.table_bytes += n;
	} else {
		s->one = piece[0];
		s->piece = &s->one;
		free(piece);
	}
}

/* --- holds ---------------------------------------------------------------- */

void layer_get(struct layer_set *set, uint32_t id)
{
	struct slot *s = find_slot(set, id);

	assert(s != NULL);
	s->holds++;
}

void layer_put(struct layer_set *set, uint32_t id)
{
	struct slot *s = find_slot(set, id);
	uint32_t *link = bucket_of(set, id);
	uint32_t i;

	assert(s != NULL);
	if (--s->holds != 0)
		return;
	i = (uint32_t)(s - set->slot);
	while (*link != i)
		link = &set->slot[*link].next;
	*link = s->next;
	drop_pieces(set, s);
	set->sum.layers--;
	push_free(set, i);
}

/* --- ask ------------------------------------------------------------------ */

int layer_fd(const struct layer_set *set, uint32_t id)
{
	const struct slot *s = find_slot(set, id);

	if (s == NULL || s->npieces > 1)
		return -ENOENT;
	return s->npieces == 0 ? -1 : set->file[s->piece->file].fd;
}

uint64_t layer_npages(const struct layer_set *set, uint32_t id)
{
	const struct slot *s = find_slot(set, id);

	return s == NULL ? 0 : s->npages;
}

uint64_t layer_born(const struct layer_set *set, uint32_t id)
{
	const struct slot *s = find_slot(set, id);

	return s == NULL ? 0 : s->born;
}

bool layer_held_apart(const struct layer_set *set, uint32_t id)
{
	const struct slot *s = find_slot(set, id);

	return s != NULL && s->holds != s->entries;
}

static int stat_piece(const struct layer_set *set, const struct layer_piece *p,
    struct layer_stat *out)
{
	const struct file *f = &set->file[p->file];
	int seals = fcntl(f->fd, F_GET_SEALS);

	if (seals < 0)
		return -errno;
	out->sealed &= (seals & SEALS_FROZEN) == SEALS_FROZEN;
	out->bytes += f->npieces == 1 ? f->bytes : p->npages * PAGE_SIZE;
	return 0;
}

int layer_stat(const struct layer_set *set, uint32_t id, struct layer_stat *out,
    struct err *e)
{
	const struct slot *s = find_slot(set, id);

	if (s == NULL)
		return err_set(e, -ENOENT, "there is no layer %u", id);
	*out = (struct layer_stat){
	    .id = id,
	    .npieces = s->npieces,
	    .sealed = s->npieces != 0, /* else its memory was taken */
	    .npages = s->npages,
	    .holds = s->holds,
	    .entries = s->entries,
	};
	for (uint32_t i = 0; i < s->npieces; i++) {
		int rc = stat_piece(set, &s->piece[i], out);

		if (rc != 0)
			return err_set(
			    e, rc, "layer %u: %s", id, strerror(-rc));
	}
	return 0;
}

bool layer_next(const struct layer_set *set, uint32_t *pos, uint32_t *id)
{
	for (; *pos < set->cap; (*pos)++) {
		if (set->slot[*pos].holds == 0)
			continue;
		*id = set->slot[(*pos)++].id;
		return true;
	}
	return false;
}
