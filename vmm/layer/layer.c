/* SPDX-License-Identifier: MIT */
#include "vmm/layer/layer.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "vmm/core/cleanup.h"

/* Since Linux 6.3 a system's policy may add it to every memfd; it says that
 * the file's mode has no x bits and is no business of ours. */
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif

#define SEALS_REQUIRED                                                         \
	(F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define SEALS_OWNED (F_SEAL_SHRINK | F_SEAL_GROW)
/* memfd_create(2) gives others. */
#define MODE_OWNED  (S_IFREG | S_IRUSR | S_IWUSR)

#define SLOTS_START 64
#define NO_SLOT     UINT32_MAX

/* On one of two lists, linked by next: its bucket (held), free. */
struct slot {
	uint64_t holds;   /* 0: free */
	uint64_t entries; /* of holds: those of page maps */
	uint64_t npages;
	uint64_t born;             /* CLOCK_MONOTONIC, ns */
	struct layer_piece *piece; /* (one) or from the heap */
	struct layer_piece one;
	uint32_t npieces; /* 0: taken */
	uint32_t id;
	uint32_t next;
	bool owned;
};

/* Lives while a piece is in it or it is held; then on the list to reap, then
 * free. */
struct file {
	uint64_t npages;
	uint64_t bytes;
	uint32_t npieces;
	uint32_t holds; /* pins counted */
	uint32_t pins;
	uint32_t next;
	uint32_t whose;
	int fd;
	bool opened;
	bool owned;
};

struct layer_set {
	struct map_ops ops;
	struct slot *slot;
	uint32_t *bucket; /* heads, by id modulo cap */
	uint32_t cap;     /* of both arrays; a power of two */
	uint32_t free_head;
	uint32_t last_id;
	struct file *file;
	uint32_t file_cap;
	uint32_t file_free;
	uint32_t reap_head;
	uint32_t reap_tail;
	struct layer_totals sum;
};

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

static void push_file_free(struct layer_set *set, uint32_t i)
{
	set->file[i] = (struct file){.fd = -1, .next = set->file_free};
	set->file_free = i;
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

static int files_grow(struct layer_set *set, uint32_t cap)
{
	struct file *file = realloc(set->file, cap * sizeof(*file));
	uint32_t was = set->file_cap;

	if (file == NULL)
		return -ENOMEM;
	set->file = file;
	set->file_cap = cap;
	for (uint32_t i = cap; i-- > was;)
		push_file_free(set, i);
	return 0;
}

static void *node_alloc(void *ctx, size_t len)
{
	(void)ctx;
	return malloc(len);
}

static void node_free(void *ctx, void *p, size_t len)
{
	(void)ctx;
	(void)len;
	free(p);
}

static void entry_came(void *ctx, uint32_t layer)
{
	struct slot *s = find_slot(ctx, layer);

	assert(s != NULL);
	s->holds++;
	s->entries++;
}

static void entry_went(void *ctx, uint32_t layer)
{
	struct layer_set *set = ctx;
	struct slot *s = find_slot(set, layer);

	assert(s != NULL);
	s->entries--;
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

/* --- files ---------------------------------------------------------------- */

static struct file *file_of(const struct layer_set *set, uint32_t file)
{
	assert(file < set->file_cap && set->file[file].fd >= 0);
	return &set->file[file];
}

static bool is_pinned(const struct file *f)
{
	return f->pins != 0 || f->opened;
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

/* A piece or a hold fewer. */
static void file_settle(struct layer_set *set, uint32_t i)
{
	struct file *f = &set->file[i];
	bool was = is_pinned(f);

	if (f->npieces == 0)
		f->opened = false;
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

void lfile_opened(struct layer_set *set, uint32_t file)
{
	struct file *f = file_of(set, file);
	bool was = is_pinned(f);

	f->opened = f->npieces != 0;
	count_pinned(set, f, was);
}

void lfile_belongs(struct layer_set *set, uint32_t file, uint32_t whose)
{
	file_of(set, file)->whose = whose;
}

void layer_belongs(struct layer_set *set, uint32_t id, uint32_t whose)
{
	const struct slot *s = find_slot(set, id);

	assert(s != NULL && s->npieces == 1);
	lfile_belongs(set, s->piece->file, whose);
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
	    .npieces = f->npieces,
	    .pins = f->pins,
	    .whose = f->whose,
	    .opened = f->opened,
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
	push_file_free(set, i);
	return fd;
}

/* --- adopt ---------------------------------------------------------------- */

/* Whether (fd) is a memfd with exactly those seals. A file on a tmpfs has
 * F_SEAL_SEAL alone, one elsewhere cannot have seals. */
static int check_seals(int fd, int required, struct err *e)
{
	struct statfs fs;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 && errno == EBADF)
		return err_set(e, -EBADF, "the layer's descriptor is not open");
	if (seals < 0 || fstatfs(fd, &fs) != 0 || fs.f_type != TMPFS_MAGIC)
		return err_set(
		    e, -EINVAL, "the layer is not a memfd of ordinary pages");
	if ((seals & ~F_SEAL_EXEC) != required)
		return err_set(e, -EPERM,
		    "the layer has seals %#x; it needs exactly %#x (%s)",
		    (unsigned)seals, (unsigned)required,
		    required == SEALS_OWNED ? "shrink, grow"
					    : "write, shrink, grow, seal");
	return 0;
}

static int check_size(int fd, uint64_t claimed, struct file *out, struct err *e)
{
	struct stat sb;
	uint64_t size;

	if (fstat(fd, &sb) != 0)
		return err_set(e, -errno, "layer: fstat: %s", strerror(errno));
	size = (uint64_t)sb.st_size;
	if (size == 0 || size % PAGE_SIZE != 0)
		return err_set(e, -EINVAL,
		    "the layer's size, %llu bytes, is not a number of pages",
		    (unsigned long long)size);
	out->npages = size / PAGE_SIZE;
	out->bytes = (uint64_t)sb.st_blocks * 512;
	if (out->npages < claimed || out->npages > LAYER_NPAGES_MAX)
		return err_set(e, -ERANGE,
		    "the layer has %llu pages; %llu to %llu are right",
		    (unsigned long long)out->npages,
		    (unsigned long long)claimed, LAYER_NPAGES_MAX);
	return 0;
}

/* A description of our own: O_RDONLY or O_RDWR. */
static int reopen(int fd, int flags, struct err *e)
{
	char path[32];
	int own;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	own = open(path, flags | O_CLOEXEC);
	if (own < 0)
		return err_set(
		    e, -errno, "cannot re-open the layer: %s", strerror(errno));
	return own;
}

static int reserve_file(struct layer_set *set, struct err *e)
{
	if (set->file_free != NO_SLOT)
		return 0;
	if (set->file_cap >= FILES_MAX)
		return err_set(e, -ENOSPC,
		    "layers are in %u files already; drop snapshots or views",
		    (unsigned)FILES_MAX);
	if (files_grow(set, set->file_cap * 2) != 0)
		return err_set(e, -ENOMEM, "no memory for the layers' table");
	return 0;
}

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

/* (f) gets a slot, which was reserved. */
static uint32_t enter_file(struct layer_set *set, const struct file *f)
{
	uint32_t i = set->file_free;

	set->file_free = set->file[i].next;
	set->file[i] = *f;
	set->sum.files++;
	set->sum.bytes += f->bytes;
	return i;
}

static int adopt_file(struct layer_set *set, int fd, uint64_t claimed,
    uint32_t *file, struct err *e)
{
	struct file f = {.holds = 1};
	int rc = check_seals(fd, SEALS_REQUIRED, e);

	if (rc == 0)
		rc = check_size(fd, claimed, &f, e);
	if (rc == 0)
		rc = reserve_file(set, e);
	if (rc != 0)
		return rc;
	f.fd = reopen(fd, O_RDONLY, e);
	if (f.fd < 0)
		return f.fd;
	*file = enter_file(set, &f);
	return 0;
}

int lfile_adopt(struct layer_set *set, int fd, uint32_t *file, struct err *e)
{
	AUTO_CLOSE int given = fd;

	return adopt_file(set, given, 1, file, e);
}

/* The whole of (file), whose hold this takes over, becomes a layer, in a slot
 * that was reserved. */
static uint32_t enter(struct layer_set *set, uint32_t file)
{
	uint32_t i = set->free_head;
	struct slot *s = &set->slot[i];
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	set->free_head = s->next;
	*s = (struct slot){
	    .holds = 1,
	    .npages = set->file[file].npages,
	    .born = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
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
	AUTO_CLOSE int given = fd;
	uint32_t file;
	int rc = reserve_slot(set, e);

	if (rc == 0)
		rc = adopt_file(set, given, npages, &file, e);
	if (rc == 0)
		*id = enter(set, file);
	return rc;
}

/* --- owned ---------------------------------------------------------------- */

int layer_memory(uint64_t npages, struct err *e)
{
	AUTO_CLOSE int made =
	    memfd_create("firn", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (made < 0 || ftruncate(made, (off_t)(npages * PAGE_SIZE)) != 0 ||
	    fchmod(made, MODE_OWNED & ~S_IFMT) != 0 ||
	    fcntl(made, F_ADD_SEALS, SEALS_OWNED) != 0)
		return err_set(e, -errno, "no memory for %llu pages: %s",
		    (unsigned long long)npages, strerror(errno));
	return reopen(made, O_RDWR, e);
}

/* Only what was made by layer_memory() has no description that a lease does not
 * see. */
static int check_made(int fd, struct err *e)
{
	struct stat sb;

	if (fstat(fd, &sb) != 0)
		return err_set(e, -errno, "layer: fstat: %s", strerror(errno));
	if (sb.st_mode != MODE_OWNED || sb.st_uid != geteuid())
		return err_set(e, -EPERM,
		    "the memory was not made by the broker: it cannot be told "
		    "who else has it");
	return 0;
}

/*
 * Replace (*fd) by a description of our own and ask for a lease on it, which
 * the kernel grants only where no other description of the file exists, be it
 * as a descriptor or as a mapping. What was given is closed first: it would be
 * one, and it may be the same as one that is kept elsewhere.
 */
static int prove_alone(int *fd, struct err *e)
{
	int own = reopen(*fd, O_RDWR, e);

	if (own < 0)
		return own;
	(void)close(*fd);
	*fd = own;
	if (fcntl(own, F_SETLEASE, F_WRLCK) < 0)
		return err_set(e, errno == EAGAIN ? -EBUSY : -errno,
		    "the memory is still in somebody else's hands, who has a "
		    "descriptor or a mapping of it (%s)",
		    strerror(errno));
	if (fcntl(own, F_SETLEASE, F_UNLCK) < 0)
		return err_set(
		    e, -errno, "cannot end a lease: %s", strerror(errno));
	return 0;
}

int layer_adopt_owned(struct layer_set *set, int *fd, uint64_t npages,
    uint32_t *id, struct err *e)
{
	struct file f = {.holds = 1, .owned = true};
	int rc = check_seals(*fd, SEALS_OWNED, e);

	if (rc == 0)
		rc = check_made(*fd, e);
	if (rc == 0)
		rc = check_size(*fd, npages, &f, e);
	if (rc == 0)
		rc = reserve_slot(set, e);
	if (rc == 0)
		rc = reserve_file(set, e);
	if (rc == 0)
		rc = prove_alone(fd, e);
	/* Nobody can add a seal now: what was true before may not be. */
	if (rc == 0)
		rc = check_seals(*fd, SEALS_OWNED, e);
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
	return prove_alone(&f->fd, e);
}

int layer_seal_fd(int fd, struct err *e)
{
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals >= 0 && (seals & SEALS_REQUIRED) == SEALS_REQUIRED)
		return 0; /* an earlier attempt got as far */
	if (fcntl(fd, F_ADD_SEALS, SEALS_REQUIRED) < 0)
		return err_set(
		    e, -errno, "cannot seal the memory: %s", strerror(errno));
	return 0;
}

int layer_sealed(struct layer_set *set, uint32_t id, struct err *e)
{
	struct file *f = find_owned(set, id);
	struct file now = {0};
	int rc;

	if (f == NULL)
		return err_set(e, -ENOENT, "there is no owned layer %u", id);
	rc = check_seals(f->fd, SEALS_REQUIRED, e);
	if (rc == 0)
		rc = check_size(f->fd, f->npages, &now, e);
	if (rc == 0) {
		now.fd = reopen(f->fd, O_RDONLY, e);
		rc = now.fd < 0 ? now.fd : 0;
	}
	if (rc != 0)
		return rc;
	(void)close(f->fd);
	f->fd = now.fd;
	set->sum.bytes += now.bytes - f->bytes;
	f->bytes = now.bytes;
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
	push_file_free(set, (uint32_t)(f - set->file));
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
	out->sealed &= (seals & SEALS_REQUIRED) == SEALS_REQUIRED;
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

uint32_t layer_count(const struct layer_set *set)
{
	return set->sum.layers;
}
