/* SPDX-License-Identifier: MIT */
#include "vmm/core/closer.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/core/worker.h"

struct closer {
	struct work work; /* of (now), the thread's while (busy) */
	struct worker_pool *pool;
	closer_more_fn *more;
	void *ctx;
	bool busy;
	unsigned nnow, nwaiting;
	int now[CLOSER_MAX];
	int waiting[CLOSER_MAX];
};

static void close_now(struct work *w)
{
	struct closer *c = (struct closer *)w;

	for (unsigned i = 0; i < c->nnow; i++)
		(void)close(c->now[i]);
}

static void closed(struct work *w);

static void begin(struct closer *c)
{
	if (c->busy || c->nwaiting == 0)
		return;
	memcpy(c->now, c->waiting, c->nwaiting * sizeof(c->now[0]));
	c->nnow = c->nwaiting;
	c->nwaiting = 0;
	c->busy = true;
	worker_submit(c->pool, &c->work, close_now, closed);
}

static void closed(struct work *w)
{
	struct closer *c = (struct closer *)w;

	if (!w->ran)
		close_now(w);
	c->busy = false;
	begin(c);
	c->more(c->ctx);
}

int closer_new(struct closer **out, struct loop *l, closer_more_fn *more,
    void *ctx, struct err *e)
{
	struct closer *c = calloc(1, sizeof(*c));
	int rc;

	if (c == NULL)
		return err_set(
		    e, -ENOMEM, "no memory for a thread that closes");
	c->more = more;
	c->ctx = ctx;
	rc = worker_pool_new(&c->pool, l, 1, e);
	if (rc != 0) {
		free(c);
		return rc;
	}
	*out = c;
	return 0;
}

void closer_free(struct closer *c)
{
	if (c == NULL)
		return;
	worker_pool_free(c->pool);
	free(c);
}

void closer_close(struct closer *c, int fd)
{
	if (fd < 0)
		return;
	if (c == NULL || c->nwaiting == CLOSER_MAX) {
		(void)close(fd);
		return;
	}
	c->waiting[c->nwaiting++] = fd;
	begin(c);
}

void closer_close_all(struct closer *c, int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		closer_close(c, fds[i]);
		fds[i] = -1;
	}
}

void closer_hang_up(struct closer *c, int sock)
{
	if (sock >= 0)
		(void)shutdown(sock, SHUT_RDWR);
	closer_close(c, sock);
}

unsigned closer_waiting(const struct closer *c)
{
	return c->nwaiting;
}
