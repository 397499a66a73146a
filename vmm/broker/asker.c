/* SPDX-License-Identifier: MIT */
/* Who asked: a client's request or a guest's call, answered alike. */
#include <errno.h>
#include <string.h>

#include "vmm/broker/internal.h"

struct asker asker_client(struct ctl_req *rq)
{
	return (struct asker){.rq = rq};
}

struct asker asker_guest(struct bvm *vm, const struct wire_msg *m)
{
	vm->nguest_calls++;
	return (struct asker){.vm = vm->id, .seq = m->seq, .type = m->type};
}

/* The VM that waits for an answer, or NULL. */
static struct bvm *asker_waits(struct broker *b, const struct asker *a)
{
	struct bvm *vm = vm_by_id(b, a->vm);

	return vm == NULL || vm->state == VM_EXITED ? NULL : vm;
}

int asker_hand_guest(struct broker *b, struct asker *a, const void *payload,
    uint32_t len, const int *fds, uint32_t nfds, struct err *e)
{
	struct bvm *vm = asker_waits(b, a);
	int rc;

	if (vm == NULL)
		return err_set(e, -ESRCH, "the VM ended meanwhile");
	rc = vm_send(
	    vm, a->type | WIRE_REPLY, a->seq, 0, payload, len, fds, nfds);
	if (rc != 0)
		return err_set(e, rc, "firnd cannot hand it to the monitor: %s",
		    strerror(-rc));
	if (vm->nguest_calls > 0)
		vm->nguest_calls--;
	return 0;
}

void asker_answer_guest(struct broker *b, struct asker *a, int64_t status,
    const void *payload, uint32_t len, const int *fds, uint32_t nfds)
{
	struct bvm *vm = asker_waits(b, a);

	if (vm == NULL)
		return;
	if (vm->nguest_calls > 0)
		vm->nguest_calls--;
	if (vm_send(vm, a->type | WIRE_REPLY, a->seq, status, payload, len, fds,
		nfds) != 0)
		vm_kill(b, vm); /* its guest would wait for ever */
}

void asker_fail(struct broker *b, struct asker *a, const struct err *e)
{
	if (a->rq != NULL)
		ctl_fail(a->rq, e);
	else
		asker_answer_guest(
		    b, a, e->code, e->msg, (uint32_t)strlen(e->msg), NULL, 0);
}

struct cap_table *asker_caps(struct broker *b, struct asker *a)
{
	struct home *h;
	struct bvm *vm;

	if (a->rq != NULL) {
		h = req_home(a->rq);
		return h == NULL ? NULL : &h->caps;
	}
	vm = vm_by_id(b, a->vm);
	return vm == NULL || vm->state == VM_EXITED ? NULL : &vm->caps;
}

struct home *asker_home(struct broker *b, struct asker *a)
{
	struct bvm *vm;

	if (a->rq != NULL)
		return req_home(a->rq);
	vm = vm_by_id(b, a->vm);
	return vm == NULL ? NULL : vm->home;
}
