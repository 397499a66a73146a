/* SPDX-License-Identifier: MIT */
#include "vmm/broker/broker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

#define BANK_FACTOR 4u /* memory is reserved, rarely all of it used */

static int conn_open(void *ctx, struct ctl_conn *conn, uid_t uid, pid_t pid)
{
	struct broker *b = ctx;
	struct client *c = calloc(1, sizeof(*c));

	(void)pid;
	if (c == NULL)
		return -ENOMEM;
	c->home = home_get(b, uid);
	if (c->home == NULL) {
		free(c);
		return -ENOMEM;
	}
	c->conn = conn;
	c->next = b->clients;
	b->clients = c;
	ctl_conn_set_data(conn, c);
	return 0;
}

static void conn_close(void *ctx, struct ctl_conn *conn)
{
	struct broker *b = ctx;
	struct client **at = &b->clients;
	struct client *c;

	vms_detach(b, conn);
	while (*at != NULL && (*at)->conn != conn)
		at = &(*at)->next;
	c = *at;
	if (c == NULL)
		return;
	*at = c->next;
	free(c);
}

/* A snapshot of thousands of layers is as many descriptors. */
static void raise_nofile(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) != 0)
		return;
	rl.rlim_cur = rl.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &rl);
}

int broker_new(struct broker **out, struct loop *l,
    const struct broker_conf *conf, struct err *e)
{
	struct broker *b = calloc(1, sizeof(*b));
	struct ctl_conf cc = broker_ctl_conf;
	int rc;

	if (b == NULL)
		return err_set(e, -ENOMEM, "no memory");
	raise_nofile();
	b->loop = l;
	b->monitor = conf->monitor;
	b->next_id = 1;
	b->bank_max = conf->bank_bytes;
	if (b->bank_max == 0)
		b->bank_max =
		    BANK_FACTOR * (uint64_t)sysconf(_SC_PHYS_PAGES) * PAGE_SIZE;
	b->layers = layer_set_new();
	if (b->layers == NULL) {
		free(b);
		return err_set(e, -ENOMEM, "no memory");
	}
	map_store_init(&b->store, layer_set_map_ops(b->layers));
	store_init(b);
	cc.ctx = b;
	cc.on_open = conn_open;
	cc.on_close = conn_close;
	b->ctl_conf = cc;
	rc = vms_init(b, e);
	if (rc == 0)
		rc = worker_pool_new(&b->pool, l, 0, e);
	if (rc == 0)
		rc = closer_new(&b->closer, l, layers_reap, b, e);
	b->ctl_conf.closer = b->closer;
	if (rc == 0)
		rc = ctl_srv_new(&b->ctl, l, &b->ctl_conf, e);
	if (rc != 0) {
		broker_free(b);
		return rc;
	}
	*out = b;
	return 0;
}

void broker_free(struct broker *b)
{
	if (b == NULL)
		return;
	ctl_srv_free(b->ctl);
	vms_free(b);
	worker_pool_free(b->pool);
	b->pool = NULL;
	applies_end(b);
	homes_free(b);
	store_end(b);
	closer_free(b->closer);
	b->closer = NULL;
	layer_set_free(b->layers);
	free(b);
}

int broker_listen(struct broker *b, const char *path, struct err *e)
{
	return ctl_listen(b->ctl, path, e);
}

int broker_adopt(struct broker *b, int fd, struct err *e)
{
	return ctl_adopt(b->ctl, fd, NULL, e);
}

/* --- service.* ------------------------------------------------------------ */

void op_subscribe(void *ctx, struct ctl_req *rq)
{
	struct client *c = ctl_conn_data(ctl_req_conn(rq));

	(void)ctx;
	c->subscribed = true;
	ctl_reply(rq, NULL, NULL, 0);
}
