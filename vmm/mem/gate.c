/* SPDX-License-Identifier: MIT */
#include "vmm/mem/gate.h"

void gate_init(struct gate *g, void (*kick)(void *ctx), void *ctx)
{
	(void)pthread_mutex_init(&g->lock, NULL);
	(void)pthread_cond_init(&g->changed, NULL);
	g->inside = 0;
	g->closings = 0;
	g->kick = kick;
	g->ctx = ctx;
}

void gate_fini(struct gate *g)
{
	(void)pthread_cond_destroy(&g->changed);
	(void)pthread_mutex_destroy(&g->lock);
}

void gate_enter(struct gate *g)
{
	(void)pthread_mutex_lock(&g->lock);
	while (g->closings > 0)
		(void)pthread_cond_wait(&g->changed, &g->lock);
	g->inside++;
	(void)pthread_mutex_unlock(&g->lock);
}

void gate_leave(struct gate *g)
{
	(void)pthread_mutex_lock(&g->lock);
	g->inside--;
	if (g->inside == 0 && g->closings > 0)
		(void)pthread_cond_broadcast(&g->changed);
	(void)pthread_mutex_unlock(&g->lock);
}

void gate_close(struct gate *g)
{
	(void)pthread_mutex_lock(&g->lock);
	g->closings++;
	if (g->inside > 0 && g->kick != NULL)
		g->kick(g->ctx);
	while (g->inside > 0)
		(void)pthread_cond_wait(&g->changed, &g->lock);
	(void)pthread_mutex_unlock(&g->lock);
}

void gate_open(struct gate *g)
{
	(void)pthread_mutex_lock(&g->lock);
	g->closings--;
	if (g->closings == 0)
		(void)pthread_cond_broadcast(&g->changed);
	(void)pthread_mutex_unlock(&g->lock);
}
