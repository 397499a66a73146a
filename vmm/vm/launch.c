/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "vmm/core/cleanup.h"
#include "vmm/vm/internal.h"

enum { FD_ELF, FD_STDIN, FD_STDOUT, FD_STDERR, LAUNCH_FDS };

/* A WIRE_LAUNCH, its parts found and bounded. */
struct request {
	struct wire_launch l;
	struct wire_segment seg[WIRE_SEGMENTS_MAX];
	char *argv[WIRE_ARGS_MAX + 1];
	char *envp[WIRE_ARGS_MAX + 1];
};

static int bad(struct err *e, const char *what)
{
	return err_set(
	    e, -EPROTO, "the broker sent a launch that is wrong: %s", what);
}

/* Check the counts against each other and the packet. */
static int take_counts(
    const struct wire_packet *p, struct wire_launch *l, struct err *e)
{
	if (p->m.len < sizeof(*l))
		return bad(e, "too short");
	memcpy(l, p->payload, sizeof(*l));
	if (p->nfds != LAUNCH_FDS && p->nfds != LAUNCH_FDS + (uint64_t)l->nsegs)
		return bad(e, "number of descriptors");
	if (l->nargs == 0 || l->nargs > WIRE_ARGS_MAX ||
	    l->nenv > WIRE_ARGS_MAX)
		return bad(e, "number of arguments");
	if (l->nsegs >= WIRE_SEGMENTS_MAX)
		return bad(e, "number of segments");
	if (l->strings_len > WIRE_PAYLOAD_MAX ||
	    p->m.len != sizeof(*l) + l->nsegs * sizeof(struct wire_segment) +
			    l->strings_len)
		return bad(e, "length");
	if (l->mem == 0 || l->mem % PAGE_SIZE != 0 || l->mem > GMEM_RAM_MAX)
		return err_set(e, -EINVAL,
		    "a memory of %llu bytes: must be a multiple of 4096 and at "
		    "most %llu",
		    (unsigned long long)l->mem,
		    (unsigned long long)GMEM_RAM_MAX);
	return 0;
}

/* Point (v) at the next (n) strings, NULL behind them. */
static int take_strings(char **v, uint32_t n, char **at, const char *end)
{
	char *nul;

	for (uint32_t i = 0; i < n; i++) {
		nul = memchr(*at, '\0', (size_t)(end - *at));
		if (nul == NULL)
			return -EPROTO;
		v[i] = *at;
		*at = nul + 1;
	}
	v[n] = NULL;
	return 0;
}

/* The strings stay in the packet. */
static int decode(struct wire_packet *p, struct request *q, struct err *e)
{
	char *name[2];
	char *end = (char *)p->payload + p->m.len;
	char *at = (char *)p->payload + sizeof(q->l);
	int r = take_counts(p, &q->l, e);

	if (r < 0)
		return r;
	memcpy(q->seg, at, q->l.nsegs * sizeof(q->seg[0]));
	at += q->l.nsegs * sizeof(q->seg[0]);
	if (take_strings(q->argv, q->l.nargs, &at, end) < 0 ||
	    take_strings(q->envp, q->l.nenv, &at, end) < 0 ||
	    take_strings(name, 1, &at, end) < 0 || at != end)
		return bad(e, "strings");
	for (uint32_t i = 0; i < q->l.nsegs; i++)
		if (memchr(q->seg[i].name, '\0', FIRN_NAME_MAX) == NULL)
			return bad(e, "the name of a segment");
	return 0;
}

static int make_segments(struct vm *vm, const struct request *q, struct err *e)
{
	struct place *p;
	int r = place_make(vm->places, "ram", GMEM_RAM_GPA, q->l.mem, &p, e);

	for (uint32_t i = 0; i < q->l.nsegs && r == 0; i++) {
		AUTO_CLOSE int memory = wire_take_fd(&vm->in, LAUNCH_FDS + i);

		if (q->seg[i].flags & FIRN_SEG_TRACKED)
			r = place_make_tracked(
			    vm->places, q->seg[i].name, q->seg[i].size, &p, e);
		else
			r = place_make_of(vm->places, q->seg[i].name,
			    q->seg[i].size, memory, &p, e);
	}
	return r;
}

static int make_guest(struct vm *vm, struct err *e)
{
	struct guest_env env = {
	    .gmem = &vm->gmem,
	    .gate = &vm->gate,
	    .places = vm->places,
	};

	calls_init(vm, &env.ops);
	memcpy(env.stdio, vm->stdio, sizeof(env.stdio));
	vm->guest = guest_new(&env, e);
	return vm->guest != NULL ? 0 : e->code;
}

static int launch_request(struct vm *vm, struct request *q, struct err *e)
{
	AUTO_CLOSE int elf = -1;
	struct cpu_start start;
	int r = decode(&vm->in, q, e);

	if (r < 0)
		return r;
	elf = wire_take_fd(&vm->in, FD_ELF);
	for (uint32_t i = 0; i < 3; i++)
		vm->stdio[i] = wire_take_fd(&vm->in, FD_STDIN + i);
	r = make_segments(vm, q, e);
	if (r == 0)
		r = make_guest(vm, e);
	if (r == 0)
		r = guest_load(vm->guest, elf, q->argv, q->envp, &start, e);
	if (r == 0)
		r = vcpu_start(vm->cpu[0].vcpu, &start, e);
	return r;
}

int launch(struct vm *vm, struct err *e)
{
	struct request *q = calloc(1, sizeof(*q));
	int r;

	if (q == NULL)
		return err_set(e, -ENOMEM, "no memory to launch a program");
	r = launch_request(vm, q, e);
	free(q);
	return r;
}
