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

/* A slot is on one of three lists, linked by next: its bucket (held), to reap,
 * free. */
struct slot {
	uint64_t holds; /* 0: free, or to reap */
	uint64_t npages;
	int fd; /* -1: taken */
	uint32_t id;
	uint32_t next;
	bool owned;
};

struct layer_set {
	struct map_ops ops;
	struct slot *slot;
	uint32_t *bucket; /* heads, by id modulo cap */
	uint32_t cap;     /* of both arrays; a power of two */
	uint32_t nheld;
	uint32_t free_head;
	uint32_t reap_head;
	uint32_t reap_tail;
	uint32_t last_id;
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
	set->slot[i] = (struct slot){.fd = -1, .next = set->free_head};
	set->free_head = i;
}

/* Arrays of (cap); on failure the set is as it was. */
static int set_grow(struct layer_set *set, uint32_t cap)
{
	uint32_t *bucket = malloc(cap * sizeof(*bucket));
	struct slot *slot = realloc(set->slot, cap * sizeof(*slot));
	uint32_t was = set->cap;

	if (slot != NULL)
		set->slot = slot;
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
	layer_get(ctx, layer);
}

static void entry_went(void *ctx, uint32_t layer)
{
	layer_put(ctx, layer);
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
	set->reap_head = NO_SLOT;
	set->reap_tail = NO_SLOT;
	if (set_grow(set, SLOTS_START) != 0) {
		free(set->slot);
		free(set);
		return NULL;
	}
	return set;
}

void layer_set_free(struct layer_set *set)
{
	if (set == NULL)
		return;
	for (uint32_t i = 0; i < set->cap; i++)
		if (set->slot[i].fd >= 0)
			(void)close(set->slot[i].fd);
	free(set->slot);
	free(set->bucket);
	free(set);
}

const struct map_ops *layer_set_map_ops(struct layer_set *set)
{
	return &set->ops;
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

static int check_size(int fd, uint64_t claimed, uint64_t *npages, struct err *e)
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
	*npages = size / PAGE_SIZE;
	if (*npages < claimed || *npages > LAYER_NPAGES_MAX)
		return err_set(e, -ERANGE,
		    "the layer has %llu pages; %llu to %llu are right",
		    (unsigned long long)*npages, (unsigned long long)claimed,
		    LAYER_NPAGES_MAX);
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

/* The next id in turn that is neither RUN_ZERO nor in use. */
static uint32_t next_id(struct layer_set *set)
{
	do
		set->last_id++;
	while (set->last_id == RUN_ZERO || find_slot(set, set->last_id));
	return set->last_id;
}

/* (fd) becomes a layer, in a slot that was reserved. */
static uint32_t enter(
    struct layer_set *set, int fd, uint64_t npages, bool owned)
{
	uint32_t i = set->free_head;

	set->free_head = set->slot[i].next;
	set->slot[i] = (struct slot){.holds = 1,
	    .npages = npages,
	    .fd = fd,
	    .id = next_id(set),
	    .owned = owned};
	push_bucket(set, i);
	set->nheld++;
	return set->slot[i].id;
}

int layer_adopt(
    struct layer_set *set, int fd, uint64_t npages, uint32_t *id, struct err *e)
{
	AUTO_CLOSE int given = fd;
	uint64_t has = 0;
	int ro;
	int rc = check_seals(given, SEALS_REQUIRED, e);

	if (rc == 0)
		rc = check_size(given, npages, &has, e);
	if (rc == 0)
		rc = reserve_slot(set, e);
	if (rc != 0)
		return rc;
	ro = reopen(given, O_RDONLY, e);
	if (ro < 0)
		return ro;
	*id = enter(set, ro, has, false);
	return 0;
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
	uint64_t has = 0;
	int rc = check_seals(*fd, SEALS_OWNED, e);

	if (rc == 0)
		rc = check_made(*fd, e);
	if (rc == 0)
		rc = check_size(*fd, npages, &has, e);
	if (rc == 0)
		rc = reserve_slot(set, e);
	if (rc == 0)
		rc = prove_alone(fd, e);
	/* Nobody can add a seal now: what was true before may not be. */
	if (rc == 0)
		rc = check_seals(*fd, SEALS_OWNED, e);
	if (rc != 0)
		return rc;
	*id = enter(set, *fd, has, true);
	*fd = -1;
	return 0;
}

/* Owned, and not taken; else NULL. */
static struct slot *find_owned(struct layer_set *set, uint32_t id)
{
	struct slot *s = find_slot(set, id);

	return s != NULL && s->owned && s->fd >= 0 ? s : NULL;
}

enum layer_state layer_state(const struct layer_set *set, uint32_t id)
{
	const struct slot *s = find_slot(set, id);

	return s == NULL ? LAYER_NONE : s->owned ? LAYER_OWNED : LAYER_SEALED;
}

int layer_prove(struct layer_set *set, uint32_t id, struct err *e)
{
	struct slot *s = find_owned(set, id);

	if (s == NULL)
		return err_set(e, -ENOENT, "there is no owned layer %u", id);
	return prove_alone(&s->fd, e);
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
	struct slot *s = find_owned(set, id);
	int ro;
	int rc;

	if (s == NULL)
		return err_set(e, -ENOENT, "there is no owned layer %u", id);
	rc = check_seals(s->fd, SEALS_REQUIRED, e);
	ro = rc == 0 ? reopen(s->fd, O_RDONLY, e) : rc;
	if (ro < 0)
		return ro;
	(void)close(s->fd);
	s->fd = ro;
	s->owned = false;
	return 0;
}

int layer_take(struct layer_set *set, uint32_t id)
{
	struct slot *s = find_owned(set, id);
	int fd;

	assert(s != NULL);
	fd = s->fd;
	s->fd = -1;
	return fd;
}

/* --- holds ---------------------------------------------------------------- */

void layer_get(struct layer_set *set, uint32_t id)
{
	struct slot *s = find_slot(set, id);

	assert(s != NULL);
	s->holds++;
}

static void append_reap(struct layer_set *set, uint32_t i)
{
	set->slot[i].next = NO_SLOT;
	if (set->reap_tail == NO_SLOT)
		set->reap_head = i;
	else
		set->slot[set->reap_tail].next = i;
	set->reap_tail = i;
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
	set->nheld--;
	if (s->fd < 0)
		push_free(set, i);
	else
		append_reap(set, i);
}

int layer_reap_take(struct layer_set *set)
{
	uint32_t i = set->reap_head;
	int fd;

	if (i == NO_SLOT)
		return -1;
	set->reap_head = set->slot[i].next;
	if (set->reap_head == NO_SLOT)
		set->reap_tail = NO_SLOT;
	fd = set->slot[i].fd;
	push_free(set, i);
	return fd;
}

/* --- ask ------------------------------------------------------------------ */

int layer_fd(const struct layer_set *set, uint32_t id)
{
	const struct slot *s = find_slot(set, id);

	return s == NULL ? -ENOENT : s->fd;
}

uint64_t layer_npages(const struct layer_set *set, uint32_t id)
{
	const struct slot *s = find_slot(set, id);

	return s == NULL ? 0 : s->npages;
}

int layer_stat(const struct layer_set *set, uint32_t id, struct layer_stat *out,
    struct err *e)
{
	const struct slot *s = find_slot(set, id);
	struct stat sb;
	int seals;

	if (s == NULL)
		return err_set(e, -ENOENT, "there is no layer %u", id);
	if (s->fd < 0) { /* its memory was taken */
		*out = (struct layer_stat){
		    .id = id, .npages = s->npages, .holds = s->holds};
		return 0;
	}
	seals = fcntl(s->fd, F_GET_SEALS);
	if (seals < 0 || fstat(s->fd, &sb) != 0)
		return err_set(
		    e, -errno, "layer %u: fstat: %s", id, strerror(errno));
	*out = (struct layer_stat){
	    .id = id,
	    .sealed = (seals & SEALS_REQUIRED) == SEALS_REQUIRED,
	    .npages = s->npages,
	    .bytes = (uint64_t)sb.st_blocks * 512,
	    .holds = s->holds,
	};
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
	return set->nheld;
}
