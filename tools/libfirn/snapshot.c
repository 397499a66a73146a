/* SPDX-License-Identifier: MIT */
/*
 * Snapshots in this process. Nothing the service says is believed: whether a
 * layer can change, and how long it is, the kernel is asked.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/libfirn/priv.h"

#define PAGE       4096ULL
#define LAYER_ZERO UINT32_MAX /* pages that read as zero */
#define SEALS      (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
#define PAGES_MAX  (INT64_MAX / (int64_t)PAGE)

/* As it travels: struct page_run of shared/page/run.h. */
struct run {
	uint64_t page, npages, index;
	uint32_t layer, pad;
};

_Static_assert(sizeof(struct run) == 32, "run layout");

struct layer {
	int fd;
	uint64_t npages;
};

struct firn_snapshot {
	uint64_t npages;
	struct run *runs;
	size_t nruns;
	struct layer *layers;
	size_t nlayers;
	void *addr; /* NULL: not mapped */
};

/* --- opening -------------------------------------------------------------- */

static int check_layer(int fd, size_t i, struct layer *l, struct firn_error *e)
{
	int seals = fcntl(fd, F_GET_SEALS);
	int flags = fcntl(fd, F_GETFL);
	struct stat st;

	if (seals < 0 || (seals & SEALS) != SEALS)
		return firn_fail(e, -EPERM,
		    "layer %zu is not fully sealed: it could still change", i);
	if (flags < 0 || (flags & O_ACCMODE) != O_RDONLY || (flags & O_PATH))
		return firn_fail(
		    e, -EPERM, "layer %zu did not come read-only", i);
	if (fstat(fd, &st) != 0 || st.st_size < 0)
		return firn_fail(e, -EPROTO, "layer %zu has no size", i);
	l->fd = fd;
	l->npages = (uint64_t)st.st_size / PAGE;
	return 0;
}

static int check_run(const struct firn_snapshot *s, const struct run *r,
    uint64_t *next, struct firn_error *e)
{
	if (r->npages == 0 || r->pad != 0 || r->page < *next ||
	    r->page > s->npages || r->npages > s->npages - r->page)
		return firn_fail(e, -EPROTO,
		    "the runs are not sorted, overlap, or leave the snapshot");
	*next = r->page + r->npages;
	if (r->layer == LAYER_ZERO)
		return 0;
	if (r->layer >= s->nlayers || r->index > s->layers[r->layer].npages ||
	    r->npages > s->layers[r->layer].npages - r->index)
		return firn_fail(
		    e, -EPROTO, "a run leaves its layer, or has none");
	return 0;
}

/* Copied before they are checked: somebody may still write to them. */
static int read_runs(struct firn_snapshot *s, int fd, struct firn_error *e)
{
	struct stat st;
	size_t len;

	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size < 0 ||
	    st.st_size % (off_t)sizeof(*s->runs) != 0 ||
	    (uint64_t)st.st_size / sizeof(*s->runs) > FIRN_RUNS_MAX)
		return firn_fail(e, -EPROTO, "the runs have a wrong size");
	len = (size_t)st.st_size;
	s->runs = malloc(len + 1);
	if (s->runs == NULL)
		return firn_fail(e, -ENOMEM, "runs: out of memory");
	for (size_t at = 0; at < len;) {
		ssize_t k =
		    pread(fd, (char *)s->runs + at, len - at, (off_t)at);

		if (k <= 0)
			return firn_fail(e, -EPROTO, "the runs are truncated");
		at += (size_t)k;
	}
	s->nruns = len / sizeof(*s->runs);
	return 0;
}

/* The layers' descriptors become the snapshot's, the runs' does not. */
static int fill(struct firn_snapshot *s, const json_t *res, int *fds,
    size_t nfds, struct firn_error *e)
{
	uint64_t next = 0;
	uint64_t runs_fd;
	int r = firn_get_u64(res, "pages", &s->npages, e);

	if (r == 0)
		r = firn_get_u64(res, "runs_fd", &runs_fd, e);
	if (r != 0)
		return r;
	if (nfds == 0 || runs_fd != 0 || s->npages > (uint64_t)PAGES_MAX)
		return firn_fail(e, -EPROTO,
		    "the snapshot is too large, or its runs did not come");
	r = read_runs(s, fds[0], e);
	s->layers = calloc(nfds, sizeof(*s->layers));
	if (r == 0 && s->layers == NULL)
		r = firn_fail(e, -ENOMEM, "layers: out of memory");
	for (size_t i = 1; r == 0 && i < nfds; i++) {
		r = check_layer(fds[i], i - 1, &s->layers[i - 1], e);
		if (r == 0) {
			fds[i] = -1;
			s->nlayers++;
		}
	}
	for (size_t i = 0; r == 0 && i < s->nruns; i++)
		r = check_run(s, &s->runs[i], &next, e);
	return r;
}

int firn_open_snapshot(struct firn *c, const char *name,
    struct firn_snapshot **out, struct firn_error *e)
{
	struct firn_snapshot *s = calloc(1, sizeof(*s));
	int fds[FIRN_REPLY_FDS_MAX];
	size_t nfds = FIRN_REPLY_FDS_MAX;
	json_t *res;
	int r;

	if (s == NULL)
		return firn_fail(e, -ENOMEM, "snapshot: out of memory");
	r = firn_call_packed(c, "snapshot.open",
	    json_pack("{s:s}", "snapshot", name), &res, fds, &nfds, e);
	if (r != 0) {
		free(s);
		return r;
	}
	r = fill(s, res, fds, nfds, e);
	firn_close_fds(fds, nfds);
	json_decref(res);
	if (r != 0)
		firn_snapshot_close(s);
	else
		*out = s;
	return r;
}

void firn_snapshot_close(struct firn_snapshot *s)
{
	if (s == NULL)
		return;
	firn_snapshot_unmap(s);
	for (size_t i = 0; i < s->nlayers; i++)
		(void)close(s->layers[i].fd);
	free(s->layers);
	free(s->runs);
	free(s);
}

uint64_t firn_snapshot_pages(const struct firn_snapshot *s)
{
	return s->npages;
}

size_t firn_snapshot_layers(const struct firn_snapshot *s)
{
	return s->nlayers;
}

/* --- reading -------------------------------------------------------------- */

/* The first run that ends after (page); nruns if there is none. */
static size_t find_run(const struct firn_snapshot *s, uint64_t page)
{
	size_t lo = 0;
	size_t hi = s->nruns;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (s->runs[mid].page + s->runs[mid].npages > page)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

static int read_layer(const struct firn_snapshot *s, const struct run *r,
    uint64_t skip, char *buf, size_t len, struct firn_error *e)
{
	uint64_t at = r->index * PAGE + skip;

	while (len > 0) {
		ssize_t k = pread(s->layers[r->layer].fd, buf, len, (off_t)at);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return firn_fail(e, -EIO, "layer %u: %s", r->layer,
			    k < 0 ? strerror(errno) : "ends early");
		buf += k;
		at += (uint64_t)k;
		len -= (size_t)k;
	}
	return 0;
}

int firn_snapshot_read(const struct firn_snapshot *s, uint64_t offset,
    void *buf, size_t len, struct firn_error *e)
{
	uint64_t size = s->npages * PAGE;
	uint64_t end = offset + len;

	if (offset > size || len > size - offset)
		return firn_fail(e, -ERANGE, "the snapshot ends at byte %llu",
		    (unsigned long long)size);
	memset(buf, 0, len);
	for (size_t i = find_run(s, offset / PAGE); i < s->nruns; i++) {
		const struct run *r = &s->runs[i];
		uint64_t from = r->page * PAGE;
		uint64_t to = from + r->npages * PAGE;
		int ret;

		if (from >= end)
			break;
		if (from < offset)
			from = offset;
		if (to > end)
			to = end;
		if (r->layer == LAYER_ZERO)
			continue;
		ret = read_layer(s, r, from - r->page * PAGE,
		    (char *)buf + (from - offset), (size_t)(to - from), e);
		if (ret != 0)
			return ret;
	}
	return 0;
}

int firn_snapshot_next(
    const struct firn_snapshot *s, uint64_t page, struct firn_range *r)
{
	for (size_t i = find_run(s, page); i < s->nruns; i++) {
		const struct run *x = &s->runs[i];
		uint64_t skip = x->page < page ? page - x->page : 0;

		if (x->layer == LAYER_ZERO)
			continue;
		r->first = x->page + skip;
		r->count = x->npages - skip;
		return 1;
	}
	return 0;
}

/* --- mapping -------------------------------------------------------------- */

/*
 * The shortest run that gets a mapping of its own, so that there are at most
 * FIRN_MAP_VMAS_MAX; shorter ones are copied.
 */
static uint64_t shortest_mapped(const struct firn_snapshot *s)
{
	uint64_t least = 1;
	size_t n;

	do {
		n = 0;
		for (size_t i = 0; i < s->nruns; i++)
			n += s->runs[i].layer != LAYER_ZERO &&
			     s->runs[i].npages >= least;
		if (n > FIRN_MAP_VMAS_MAX)
			least *= 2;
	} while (n > FIRN_MAP_VMAS_MAX);
	return least;
}

static int place_run(const struct firn_snapshot *s, const struct run *r,
    char *base, uint64_t least, struct firn_error *e)
{
	char *at = base + r->page * PAGE;
	size_t len = (size_t)(r->npages * PAGE);

	if (r->layer == LAYER_ZERO)
		return 0;
	if (r->npages < least)
		return read_layer(s, r, 0, at, len, e);
	/* Before Linux 6.7 a write-sealed memfd cannot be mapped shared. */
	if (mmap(at, len, PROT_READ, MAP_PRIVATE | MAP_FIXED,
		s->layers[r->layer].fd, (off_t)(r->index * PAGE)) == MAP_FAILED)
		return firn_fail(e, -errno, "mapping layer %u: %s", r->layer,
		    strerror(errno));
	return 0;
}

int firn_snapshot_map(
    struct firn_snapshot *s, const void **addr, struct firn_error *e)
{
	size_t len = (size_t)(s->npages * PAGE);
	uint64_t least = shortest_mapped(s);
	int r = 0;
	void *p;

	if (s->addr == NULL) {
		if (len == 0)
			return firn_fail(e, -EINVAL, "the snapshot is empty");
		p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (p == MAP_FAILED)
			return firn_fail(e, -errno, "mapping %zu bytes: %s",
			    len, strerror(errno));
		for (size_t i = 0; r == 0 && i < s->nruns; i++)
			r = place_run(s, &s->runs[i], p, least, e);
		if (r == 0 && mprotect(p, len, PROT_READ) != 0)
			r = firn_fail(
			    e, -errno, "mprotect: %s", strerror(errno));
		if (r != 0) {
			(void)munmap(p, len);
			return r;
		}
		s->addr = p;
	}
	*addr = s->addr;
	return 0;
}

void firn_snapshot_unmap(struct firn_snapshot *s)
{
	if (s->addr != NULL)
		(void)munmap(s->addr, (size_t)(s->npages * PAGE));
	s->addr = NULL;
}
