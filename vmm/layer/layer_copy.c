/* SPDX-License-Identifier: MIT */
#include "vmm/layer/layer_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/core/cleanup.h"
#include "vmm/core/seals.h"
#include "vmm/layer/layer.h"

/* A buffer that stays in the second-level cache. */
#define CHUNK_NPAGES 64

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static bool cancelled(const struct layer_job *job)
{
	return job->cancel != NULL && atomic_load(job->cancel);
}

static void advance(const struct layer_job *job, uint64_t npages)
{
	if (job->progress != NULL)
		(void)atomic_fetch_add(job->progress, npages);
}

static int check_layers(const struct layer_job *job, struct run_list l,
    uint64_t *npages, struct err *e)
{
	*npages = 0;
	for (size_t i = 0; i < l.n; i++) {
		const struct page_run *r = &l.run[i];

		if (r->layer == RUN_ZERO)
			continue;
		if (r->layer >= job->nfds)
			return err_set(e, -EINVAL,
			    "run %zu names layer %u of %u", i, r->layer,
			    job->nfds);
		if (r->npages > LAYER_NPAGES_MAX - *npages ||
		    r->index > LAYER_NPAGES_MAX)
			return err_set(e, -EFBIG,
			    "the runs hold more than %llu pages",
			    LAYER_NPAGES_MAX);
		*npages += r->npages;
	}
	return 0;
}

static int read_pages(
    int fd, uint64_t index, uint64_t npages, unsigned char *buf, struct err *e)
{
	size_t len = npages * PAGE_SIZE;
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(fd, buf + done, len - done,
		    (off_t)(index * PAGE_SIZE + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(e, -errno, "cannot read a layer: %s",
			    strerror(errno));
		if (n == 0)
			return err_set(e, -ERANGE,
			    "a layer ends before page %llu",
			    (unsigned long long)(index + npages));
		done += (size_t)n;
	}
	return 0;
}

static int write_pages(int fd, uint64_t index, uint64_t npages,
    const unsigned char *buf, struct err *e)
{
	size_t len = npages * PAGE_SIZE;
	size_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(fd, buf + done, len - done,
		    (off_t)(index * PAGE_SIZE + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(e, -errno, "cannot write a layer: %s",
			    strerror(errno));
		done += (size_t)n;
	}
	return 0;
}

/* --- copy ----------------------------------------------------------------- */

/* Pages on their way: gathered from many runs, written in one go. */
struct copy {
	const struct layer_job *job;
	struct err *e;
	int fd;
	unsigned char *buf;
	uint64_t nbuf;    /* pages in buf */
	uint64_t written; /* pages in fd */
};

static int copy_flush(struct copy *c)
{
	int rc = write_pages(c->fd, c->written, c->nbuf, c->buf, c->e);

	if (rc != 0)
		return rc;
	advance(c->job, c->nbuf);
	c->written += c->nbuf;
	c->nbuf = 0;
	if (cancelled(c->job))
		return err_set(c->e, -ECANCELED, "the copy was cancelled");
	return 0;
}

static int copy_run(struct copy *c, const struct page_run *r)
{
	uint64_t done = 0;

	while (done < r->npages) {
		uint64_t n = min_u64(r->npages - done, CHUNK_NPAGES - c->nbuf);
		int rc = read_pages(c->job->layer_fd[r->layer], r->index + done,
		    n, c->buf + c->nbuf * PAGE_SIZE, c->e);

		if (rc != 0)
			return rc;
		c->nbuf += n;
		done += n;
		if (c->nbuf == CHUNK_NPAGES)
			rc = copy_flush(c);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int open_copy(uint64_t npages, struct err *e)
{
	AUTO_CLOSE int fd =
	    memfd_create("firn-layer", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return err_set(
		    e, -errno, "cannot make a memfd: %s", strerror(errno));
	if (ftruncate(fd, (off_t)(npages * PAGE_SIZE)) != 0)
		return err_set(e, -errno, "cannot give a memfd %llu pages: %s",
		    (unsigned long long)npages, strerror(errno));
	return take_fd(&fd);
}

/* The kernel refuses after some 150 ms where it sees that pages are held, as
 * its own batches may hold those that were just written on a busy host. */
#define SEAL_TRIES 8

static int seal_copy(int fd, struct err *e)
{
	int rc = -EBUSY;

	for (int i = 0; i < SEAL_TRIES && rc == -EBUSY; i++)
		rc = fcntl(fd, F_ADD_SEALS, SEALS_FROZEN) == 0 ? 0 : -errno;
	return rc == 0
		   ? 0
		   : err_set(e, rc, "cannot seal a layer: %s", strerror(-rc));
}

static int copy_all(struct copy *c, struct run_list from, struct page_run *to)
{
	uint64_t index = 0;

	for (size_t i = 0; i < from.n; i++) {
		const struct page_run r = from.run[i];
		bool zero = r.layer == RUN_ZERO;
		int rc = zero ? 0 : copy_run(c, &r);

		if (rc != 0)
			return rc;
		to[i] = (struct page_run){
		    .page = r.page,
		    .npages = r.npages,
		    .index = zero ? 0 : index,
		    .layer = zero ? RUN_ZERO : 0,
		};
		index += zero ? 0 : r.npages;
	}
	return copy_flush(c);
}

/* Copies into (fd), which is empty, and seals it. */
static int copy_into(int fd, const struct layer_job *job, struct run_list from,
    struct page_run *to, struct err *e)
{
	struct copy c = {.job = job, .e = e, .fd = fd};
	int rc;

	c.buf = malloc(CHUNK_NPAGES * PAGE_SIZE);
	if (c.buf == NULL)
		return err_set(e, -ENOMEM, "no memory for a copy");
	rc = copy_all(&c, from, to);
	free(c.buf);
	return rc == 0 ? seal_copy(fd, e) : rc;
}

static void copy_zeroes(struct run_list from, struct page_run *to)
{
	for (size_t i = 0; i < from.n; i++)
		to[i] = (struct page_run){.page = from.run[i].page,
		    .npages = from.run[i].npages,
		    .layer = RUN_ZERO};
}

int layer_copy_runs(const struct layer_job *job, struct run_list from,
    struct page_run *to, struct layer_copied *out, struct err *e)
{
	AUTO_CLOSE int fd = -1;
	uint64_t npages;
	int rc = check_layers(job, from, &npages, e);

	if (rc != 0)
		return rc;
	if (npages == 0) {
		copy_zeroes(from, to);
		*out = (struct layer_copied){.fd = -1};
		return 0;
	}
	fd = open_copy(npages, e);
	if (fd < 0)
		return fd;
	rc = copy_into(fd, job, from, to, e);
	if (rc != 0)
		return rc;
	*out = (struct layer_copied){.fd = take_fd(&fd), .npages = npages};
	return 0;
}

/* --- compare -------------------------------------------------------------- */

/* A list of runs, read from front to back. */
struct side {
	const struct page_run *run;
	const struct page_run *end;
	uint64_t done; /* pages of *run */
	unsigned char *buf;
};

struct compare {
	const struct layer_job *job;
	struct err *e;
	struct side a;
	struct side b;
	uint64_t from; /* that differ, not yet reported: [from, to) */
	uint64_t to;
	layer_differ_fn *fn;
	void *ctx;
};

static uint64_t side_left(const struct side *s)
{
	return s->run->npages - s->done;
}

static void side_skip(struct side *s, uint64_t npages)
{
	s->done += npages;
	while (s->run < s->end && s->done == s->run->npages) {
		s->run++;
		s->done = 0;
	}
}

static int side_load(const struct compare *c, struct side *s, uint64_t npages)
{
	if (s->run->layer == RUN_ZERO) {
		memset(s->buf, 0, npages * PAGE_SIZE);
		return 0;
	}
	return read_pages(c->job->layer_fd[s->run->layer],
	    s->run->index + s->done, npages, s->buf, c->e);
}

/* The same page of the same layer, or zero twice: nothing to read. */
static bool same_place(const struct side *a, const struct side *b)
{
	return a->run->layer == b->run->layer &&
	       (a->run->layer == RUN_ZERO ||
		   a->run->index + a->done == b->run->index + b->done);
}

static int differ_flush(struct compare *c)
{
	int rc = 0;

	if (c->from < c->to)
		rc = c->fn(c->ctx, c->from, c->to - c->from);
	c->from = c->to = 0;
	return rc < 0 ? rc : 0;
}

static int differ_add(struct compare *c, uint64_t page)
{
	int rc = 0;

	if (c->from == c->to || c->to != page) {
		rc = differ_flush(c);
		c->from = page;
	}
	c->to = page + 1;
	return rc;
}

static int compare_loaded(struct compare *c, uint64_t page, uint64_t npages)
{
	for (uint64_t i = 0; i < npages; i++) {
		uint64_t at = i * PAGE_SIZE;
		int rc;

		if (memcmp(c->a.buf + at, c->b.buf + at, PAGE_SIZE) == 0)
			continue;
		rc = differ_add(c, page + i);
		if (rc != 0)
			return rc;
	}
	return 0;
}

/* What both sides have in one piece, up to a buffer. */
static int compare_piece(struct compare *c)
{
	uint64_t n = min_u64(side_left(&c->a), side_left(&c->b));
	uint64_t page = c->a.run->page + c->a.done;
	int rc = 0;

	if (c->b.run->page + c->b.done != page)
		return err_set(c->e, -EINVAL,
		    "the lists to compare cover different pages");
	if (!same_place(&c->a, &c->b)) {
		n = min_u64(n, CHUNK_NPAGES);
		rc = side_load(c, &c->a, n);
		if (rc == 0)
			rc = side_load(c, &c->b, n);
		if (rc == 0)
			rc = compare_loaded(c, page, n);
	}
	side_skip(&c->a, n);
	side_skip(&c->b, n);
	advance(c->job, n);
	return rc;
}

static int compare_all(struct compare *c)
{
	side_skip(&c->a, 0);
	side_skip(&c->b, 0);
	while (c->a.run < c->a.end && c->b.run < c->b.end) {
		int rc = compare_piece(c);

		if (rc == 0 && cancelled(c->job))
			rc = err_set(
			    c->e, -ECANCELED, "the comparison was cancelled");
		if (rc != 0)
			return rc;
	}
	if (c->a.run < c->a.end || c->b.run < c->b.end)
		return err_set(c->e, -EINVAL,
		    "the lists to compare cover different pages");
	return differ_flush(c);
}

int layer_compare_runs(const struct layer_job *job, struct run_list a,
    struct run_list b, layer_differ_fn *fn, void *ctx, struct err *e)
{
	struct compare c = {.job = job,
	    .e = e,
	    .a = {.run = a.run, .end = a.run + a.n},
	    .b = {.run = b.run, .end = b.run + b.n},
	    .fn = fn,
	    .ctx = ctx};
	uint64_t npages;
	int rc = check_layers(job, a, &npages, e);

	if (rc == 0)
		rc = check_layers(job, b, &npages, e);
	if (rc != 0)
		return rc;
	c.a.buf = malloc(CHUNK_NPAGES * PAGE_SIZE);
	c.b.buf = malloc(CHUNK_NPAGES * PAGE_SIZE);
	if (c.a.buf != NULL && c.b.buf != NULL)
		rc = compare_all(&c);
	else
		rc = err_set(e, -ENOMEM, "no memory to compare");
	free(c.a.buf);
	free(c.b.buf);
	return rc;
}
