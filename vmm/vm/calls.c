/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vmm/core/cleanup.h"
#include "vmm/core/fdmsg.h"
#include "vmm/vm/internal.h"

int broker_send(struct vm *vm, const struct wire_msg *m, const void *payload,
    const int *fds, uint32_t nfds)
{
	const struct timespec pause = {.tv_nsec = FDMSG_PAUSE_MS * 1000000L};
	int r = wire_send(vm->sock, m, payload, fds, nfds);

	while (nfds == 0 && fdmsg_no_room(r)) {
		(void)nanosleep(&pause, NULL);
		r = wire_send(vm->sock, m, payload, fds, nfds);
	}
	return r;
}

static void wake_control(struct vm *vm)
{
	const uint64_t one = 1;

	/* Fails only when the counter is full: then it is readable anyway. */
	(void)!write(vm->wake_fd, &one, sizeof(one));
}

static int on_control(void *ctx, int (*fn)(void *arg), void *arg)
{
	struct vm *vm = ctx;
	struct vm_post p = {.fn = fn, .arg = arg, .result = -EINTR};

	(void)pthread_mutex_lock(&vm->lock);
	if (!vm->stopping) {
		p.next = vm->posts;
		vm->posts = &p;
		wake_control(vm);
		while (!p.done)
			(void)pthread_cond_wait(&vm->changed, &vm->lock);
	}
	(void)pthread_mutex_unlock(&vm->lock);
	return p.result;
}

/* The oldest; NULL. */
static struct vm_post *take_post(struct vm *vm)
{
	struct vm_post **at = &vm->posts;
	struct vm_post *p;

	(void)pthread_mutex_lock(&vm->lock);
	while (*at != NULL && (*at)->next != NULL)
		at = &(*at)->next;
	p = *at;
	*at = NULL;
	(void)pthread_mutex_unlock(&vm->lock);
	return p;
}

void calls_run_posts(struct vm *vm)
{
	struct vm_post *p;
	int r;

	while ((p = take_post(vm)) != NULL) {
		r = p->fn(p->arg);
		(void)pthread_mutex_lock(&vm->lock);
		p->result = r;
		p->done = true;
		(void)pthread_cond_broadcast(&vm->changed);
		(void)pthread_mutex_unlock(&vm->lock);
	}
}

/* Under the lock. */
static void unlink_ask(struct vm *vm, struct vm_ask *a)
{
	struct vm_ask **at = &vm->asks;

	while (*at != a)
		at = &(*at)->next;
	*at = a->next;
}

/* Register (a) under a number of its own; -EINTR. */
static int add_ask(struct vm *vm, struct vm_ask *a)
{
	int r = -EINTR;

	(void)pthread_mutex_lock(&vm->lock);
	if (!vm->stopping) {
		a->seq = ++vm->seq;
		a->next = vm->asks;
		vm->asks = a;
		r = 0;
	}
	(void)pthread_mutex_unlock(&vm->lock);
	return r;
}

static int wait_ask(struct vm *vm, struct vm_ask *a, int sent)
{
	(void)pthread_mutex_lock(&vm->lock);
	if (sent < 0 && !a->done) {
		unlink_ask(vm, a);
		a->result = -EPIPE;
		a->done = true;
	}
	while (!a->done)
		(void)pthread_cond_wait(&vm->changed, &vm->lock);
	(void)pthread_mutex_unlock(&vm->lock);
	return a->result;
}

static int ask(void *ctx, uint16_t type, const void *payload, uint32_t len,
    struct wire_packet *reply, struct guest_layers *layers)
{
	struct vm *vm = ctx;
	struct vm_ask a = {.type = type, .reply = reply, .layers = layers};
	struct wire_msg m = {.type = type, .len = len};
	int r;

	reply->nfds = 0;
	if (layers != NULL)
		layers->n = 0;
	r = add_ask(vm, &a);
	if (r < 0)
		return r;
	m.seq = a.seq;
	return wait_ask(vm, &a, broker_send(vm, &m, payload, NULL, 0));
}

static void tell(void *ctx, uint16_t type, const void *payload, uint32_t len)
{
	struct vm *vm = ctx;
	const struct wire_msg m = {.type = type, .len = len};

	/* Who cannot be told is gone, and the control thread ends the VM. */
	(void)broker_send(vm, &m, payload, NULL, 0);
}

void calls_init(struct vm *vm, struct guest_ops *ops)
{
	*ops = (struct guest_ops){
	    .on_control = on_control,
	    .ask = ask,
	    .tell = tell,
	    .kill_fd = vm->kill_fd,
	    .ctx = vm,
	};
}

static struct vm_ask *find_ask(struct vm *vm, const struct wire_msg *m)
{
	struct vm_ask *a = vm->asks;

	while (a != NULL &&
	       (a->seq != m->seq || (a->type | WIRE_REPLY) != m->type))
		a = a->next;
	return a;
}

/* Layers become the asker's as far as it has room; it sees from their number
 * that some are missing. */
static void give_layers(struct vm *vm, struct guest_layers *to)
{
	for (uint32_t i = 0; to != NULL && i < vm->nlayers && to->n < to->cap;
	     i++)
		to->fd[to->n++] = take_fd(&vm->layer[i]);
	control_drop_layers(vm);
}

void calls_reply(struct vm *vm)
{
	struct wire_packet *p = &vm->in;
	struct vm_ask *a;

	(void)pthread_mutex_lock(&vm->lock);
	a = find_ask(vm, &p->m);
	if (a != NULL) {
		unlink_ask(vm, a);
		give_layers(vm, a->layers);
		a->reply->m = p->m;
		a->reply->nfds = p->nfds;
		memcpy(a->reply->fd, p->fd, p->nfds * sizeof(p->fd[0]));
		memcpy(a->reply->payload, p->payload, p->m.len);
		p->nfds = 0;
		a->done = true;
		(void)pthread_cond_broadcast(&vm->changed);
	}
	(void)pthread_mutex_unlock(&vm->lock);
	wire_close_fds(p);
}

void calls_fail_all(struct vm *vm)
{
	const uint64_t one = 1;
	struct vm_post *p;
	struct vm_ask *a;

	(void)pthread_mutex_lock(&vm->lock);
	vm->stopping = true;
	for (p = vm->posts; p != NULL; p = p->next)
		p->done = true;
	vm->posts = NULL;
	for (a = vm->asks; a != NULL; a = a->next) {
		a->result = -EINTR;
		a->done = true;
	}
	vm->asks = NULL;
	(void)pthread_cond_broadcast(&vm->changed);
	(void)pthread_mutex_unlock(&vm->lock);
	(void)!write(vm->kill_fd, &one, sizeof(one));
}
