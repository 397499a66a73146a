/* SPDX-License-Identifier: MIT */
/* Launch: from a request to a monitor that has its orders. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

#define LAUNCH_MEM_DEFAULT (256ULL << 20)
#define LAUNCH_MEM_MIN     (1ULL << 20)

/* The memory of segments is closed at once: when it is severed nobody else may
 * have it. */
void launch_drop(struct bvm *vm)
{
	for (uint32_t i = 0; i < vm->nlaunch_fds; i++)
		if (i < LAUNCH_FDS)
			closer_close(vm->b->closer, vm->launch_fd[i]);
		else if (vm->launch_fd[i] >= 0)
			(void)close(vm->launch_fd[i]);
	vm->nlaunch_fds = 0;
	free(vm->launch);
	vm->launch = NULL;
}

void launch_failed(struct bvm *vm)
{
	struct err e;
	struct ctl_req *rq = vm->launch_rq;

	if (rq == NULL)
		return;
	vm->launch_rq = NULL;
	ctl_req_on_cancel(rq, NULL, NULL);
	(void)err_set(&e,
	    vm->end.reason == WIRE_EXIT_REFUSED ? -ENOEXEC : -ESRCH, "%s",
	    vm->report != NULL && vm->report[0] != '\0'
		? vm->report
		: "the monitor ended before the program began");
	ctl_fail(rq, &e);
	vm->forget = true;
}

/* Append a list of strings, each with its NUL, to the launch payload. */
static int put_strings(struct bvm *vm, json_t *list, uint32_t *count)
{
	size_t i;
	json_t *s;

	json_array_foreach(list, i, s)
	{
		size_t n = json_string_length(s) + 1;

		if (*count >= WIRE_ARGS_MAX ||
		    n > WIRE_PAYLOAD_MAX - vm->launch_len)
			return -E2BIG;
		memcpy(vm->launch + vm->launch_len, json_string_value(s), n);
		vm->launch_len += (uint32_t)n;
		(*count)++;
	}
	return 0;
}

/* The next segment asked for, with its memory. */
static int launch_segment(
    struct broker *b, struct bvm *vm, const json_t *s, struct err *e)
{
	struct wire_launch *wl = (struct wire_launch *)(void *)vm->launch;
	struct wire_segment w = {.id = wl->nsegs + 1};
	const char *name = json_string_value(json_object_get(s, "name"));

	w.size = (uint64_t)json_integer_value(json_object_get(s, "size"));
	if (json_is_true(json_object_get(s, "tracked")))
		w.flags |= FIRN_SEG_TRACKED;
	if (json_is_true(json_object_get(s, "private_history")))
		w.flags |= FIRN_SEG_PRIVATE;
	if (!name_ok(name))
		return name_refuse(name, FIRN_NAME_MAX - 1, e);
	(void)snprintf(w.name, sizeof(w.name), "%s", name);
	if (place_find(vm, name, NULL) != NULL)
		return err_set(
		    e, -EEXIST, "there are two segments called '%s'", name);
	if (place_add(b, vm, &w, NULL, e) == NULL ||
	    bank_reserve(b, vm, w.size, e) != 0)
		return e->code;
	vm->launch_fd[vm->nlaunch_fds] = layer_memory(w.size / PAGE_SIZE, e);
	if (vm->launch_fd[vm->nlaunch_fds++] < 0)
		return e->code;
	memcpy(vm->launch + vm->launch_len, &w, sizeof(w));
	vm->launch_len += (uint32_t)sizeof(w);
	wl->nsegs++;
	return 0;
}

/* The RAM and the segments asked for, in the monitor's own order of ids. */
static int launch_places(
    struct broker *b, struct bvm *vm, json_t *segs, struct err *e)
{
	struct wire_segment ram = {.id = 0, .size = vm->mem, .name = "ram"};
	size_t i;
	json_t *s;

	if (place_add(b, vm, &ram, NULL, e) == NULL)
		return e->code;
	if (bank_reserve(b, vm, ram.size, e) != 0)
		return e->code;
	json_array_foreach(segs, i, s)
	{
		if (launch_segment(b, vm, s, e) != 0)
			return e->code;
	}
	return 0;
}

static int launch_gives(struct broker *b, struct bvm *vm,
    const struct cap_table *from, json_t *gives, struct err *e)
{
	size_t i;
	json_t *g;

	json_array_foreach(gives, i, g)
	{
		struct snap *s;
		const struct cap *c;
		int32_t num;
		int32_t cap;

		if (snap_find(b, from,
			json_string_value(json_object_get(g, "ref")), 0, &s,
			&num, e) != 0)
			return e->code;
		if (own_move(b, vm, s, e) != 0)
			return e->code;
		(void)cap_lookup(from, num, 0, &c);
		cap = snap_grant(s, &vm->caps, c->rights,
		    json_string_value(json_object_get(g, "name")), e);
		if (cap < 0)
			return cap;
	}
	return 0;
}

static int launch_payload(
    struct broker *b, struct bvm *vm, struct ctl_req *rq, struct err *e)
{
	struct wire_launch *wl;
	uint32_t at;
	json_t *args = ctl_json(rq, "args");

	vm->launch = calloc(1, WIRE_PAYLOAD_MAX);
	if (vm->launch == NULL)
		return err_set(e, -ENOMEM, "no memory for a launch");
	wl = (struct wire_launch *)(void *)vm->launch;
	vm->launch_len = sizeof(*wl);
	wl->mem = (uint64_t)ctl_int(rq, "mem", LAUNCH_MEM_DEFAULT);
	if (wl->mem < LAUNCH_MEM_MIN || wl->mem % PAGE_SIZE != 0)
		return err_set(e, -EINVAL,
		    "the memory of a VM is a whole number of pages, at least "
		    "1 MiB");
	vm->mem = wl->mem;
	if (json_array_size(args) == 0)
		return err_set(e, -EINVAL,
		    "args is empty; it begins with the "
		    "program's name");
	if (json_array_size(ctl_json(rq, "segments")) > WIRE_SEGMENTS_MAX - 1)
		return err_set(e, -ENOSPC,
		    "a VM has at most %u segments besides its memory",
		    WIRE_SEGMENTS_MAX - 1);
	if (launch_places(b, vm, ctl_json(rq, "segments"), e) != 0)
		return e->code;
	at = vm->launch_len;
	if (put_strings(vm, args, &wl->nargs) != 0 ||
	    put_strings(vm, ctl_json(rq, "env"), &wl->nenv) != 0)
		return err_set(e, -E2BIG,
		    "more than %u arguments, or variables of the environment, "
		    "or %u bytes of all",
		    WIRE_ARGS_MAX, WIRE_PAYLOAD_MAX);
	if (strlen(vm->name) + 1 > WIRE_PAYLOAD_MAX - vm->launch_len)
		return err_set(e, -E2BIG, "the arguments are too long");
	memcpy(vm->launch + vm->launch_len, vm->name, strlen(vm->name) + 1);
	vm->launch_len += (uint32_t)strlen(vm->name) + 1;
	wl->strings_len = vm->launch_len - at;
	return 0;
}

static int launch_name(struct broker *b, struct home *h, struct ctl_req *rq,
    struct bvm *vm, struct err *e)
{
	const char *name = ctl_str(rq, "name");
	const struct bvm *old;

	if (name == NULL)
		return 0;
	if (!name_ok(name))
		return name_refuse(name, FIRN_NAME_MAX - 1, e);
	old = vm_find(b, h, name, NULL);
	if (old != NULL && old->state != VM_EXITED)
		return err_set(e, -EEXIST,
		    "a VM called '%s' exists; choose another name", name);
	(void)snprintf(vm->name, sizeof(vm->name), "%s", name);
	return 0;
}

void launch_began(struct broker *b, const struct bvm *vm)
{
	for (struct bvm *old = b->vms; old != NULL; old = old->next)
		if (old != vm && !old->dead && old->state == VM_EXITED &&
		    old->home == vm->home && vm->name[0] != '\0' &&
		    strcmp(old->name, vm->name) == 0)
			vm_bury(b, old);
}

/* Room for one more; of VMs that ended a record may have to make place: that of
 * *oldest, or NULL. */
static int launch_room(struct broker *b, struct bvm **oldest, struct err *e)
{
	struct bvm *last = NULL;
	uint32_t n = 0;

	*oldest = NULL;
	for (struct bvm *vm = b->vms; vm != NULL; vm = vm->next) {
		if (vm->dead)
			continue;
		n++;
		if (vm->state == VM_EXITED && vm->attached == NULL)
			last = vm; /* the list has the newest first */
	}
	if (n < VMS_MAX)
		return 0;
	if (last == NULL)
		return err_set(e, -ENOSPC, "%u VMs run already", VMS_MAX);
	*oldest = last;
	return 0;
}

static void launch_undo(struct broker *b, struct bvm *vm)
{
	for (uint32_t i = 0; i < PLACES_MAX; i++)
		if (vm->place[i].used)
			place_end(b, vm, &vm->place[i]);
	bank_release(b, vm, vm->reserved);
	own_moved(b, vm, false);
	caps_drop_all(b, &vm->caps);
	free(vm->slots);
	launch_drop(vm);
	free(vm);
}

static void launch_cancelled(struct ctl_req *rq, void *arg)
{
	struct bvm *vm = arg;
	struct err e;

	vm->launch_rq = NULL;
	(void)err_set(&e, -ECANCELED, "the client went away");
	ctl_fail(rq, &e);
}

void op_vm_launch(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	struct home *h = req_home(rq);
	struct bvm *vm = calloc(1, sizeof(*vm));
	struct bvm *oldest;
	struct err e = {0};

	if (vm != NULL)
		vm->slots = calloc(CAPS_GUEST, sizeof(*vm->slots));
	if (vm == NULL || vm->slots == NULL) {
		free(vm);
		(void)err_set(&e, -ENOMEM, "no memory for a VM");
		ctl_fail(rq, &e);
		return;
	}
	(void)cap_table_init(&vm->caps, vm->slots, CAPS_GUEST, cap_key());
	vm->b = b;
	vm->home = h;
	vm->pidfd = -1;
	vm->link.fd = -1;
	loop_timer_init(&vm->killer, b->loop, vm_killer_fired, vm);
	for (; vm->nlaunch_fds < LAUNCH_FDS; vm->nlaunch_fds++)
		vm->launch_fd[vm->nlaunch_fds] =
		    ctl_take_fd(rq, vm->nlaunch_fds);
	if (launch_room(b, &oldest, &e) != 0 ||
	    launch_name(b, h, rq, vm, &e) != 0 ||
	    launch_payload(b, vm, rq, &e) != 0 ||
	    launch_gives(b, vm, &h->caps, ctl_json(rq, "give"), &e) != 0 ||
	    monitor_start(b, vm, &e) != 0) {
		launch_undo(b, vm);
		ctl_fail(rq, &e);
		return;
	}
	if (oldest != NULL)
		vm_bury(b, oldest);
	vm->id = b->next_id++;
	vm->launch_rq = rq;
	ctl_req_on_cancel(rq, launch_cancelled, vm);
	if (!ctl_bool(rq, "detach"))
		vm->attached = ctl_req_conn(rq);
	vm->next = b->vms;
	b->vms = vm;
}
