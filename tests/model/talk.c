/* SPDX-License-Identifier: MIT */
#include "tests/model/talk.h"

void send_req(struct rig_vm *vm, const struct model_req *q, const void *payload)
{
	if (fwrite(q, sizeof(*q), 1, vm->in) != 1 ||
	    (q->len > 0 && fwrite(payload, q->len, 1, vm->in) != 1) ||
	    fflush(vm->in) != 0)
		rig_fail("the guest takes no more input");
}

int64_t get_ans(struct rig_vm *vm, void *out, uint64_t max)
{
	struct model_ans a;

	if (fread(&a, sizeof(a), 1, vm->out) != 1)
		rig_fail("the guest ended early");
	if (a.len > max)
		rig_fail("the guest's answer is too long");
	if (a.len > 0 && fread(out, a.len, 1, vm->out) != 1)
		rig_fail("the guest ended early");
	return a.ret;
}

int64_t guest(struct rig_vm *vm, const struct model_req *q, const void *payload,
    void *out, uint64_t max)
{
	send_req(vm, q, payload);
	return get_ans(vm, out, max);
}

struct model_req named(enum model_op op, const char *name)
{
	struct model_req q = {.op = op};

	(void)snprintf(q.name, sizeof(q.name), "%s", name);
	return q;
}

void launch_model(struct rig *g, struct rig_vm *vm, const char *program,
    uint64_t npages, json_t *extra, struct firn_segment *seg)
{
	const char *argv[] = {program, NULL};
	struct model_req q = named(MODEL_FIND, "a");

	if (extra == NULL)
		extra = json_object();
	(void)json_object_set_new(extra, "segments",
	    json_pack(
		"[{s:s,s:I}]", "name", "a", "size", (json_int_t)npages * 4096));
	rig_launch(g, vm, argv, RAM_BYTES, extra);
	if (guest(vm, &q, NULL, seg, sizeof(*seg)) != 0)
		rig_fail("the guest does not find its segment");
}

void start_stamps(struct rig_vm *vm, const struct firn_segment *seg)
{
	struct model_req q = {
	    .op = MODEL_STAMP, .a = seg->va, .b = seg->size / 4096};

	if (guest(vm, &q, NULL, NULL, 0) != 0)
		rig_fail("the guest writes no stamps");
}
