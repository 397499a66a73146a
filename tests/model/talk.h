/* SPDX-License-Identifier: MIT */
/* talk: requests to guest/work/model, and its answers. What cannot go on ends
 * the program. */
#ifndef TESTS_MODEL_TALK_H
#define TESTS_MODEL_TALK_H

#include "guest/work/model.h"
#include "tests/rig.h"

#define RAM_BYTES (8u << 20) /* of each guest */

struct model_req named(enum model_op op, const char *name);
void send_req(
    struct rig_vm *vm, const struct model_req *q, const void *payload);
/* The answer's status; at most (max) bytes of it in (out). */
int64_t get_ans(struct rig_vm *vm, void *out, uint64_t max);
/* Both. */
int64_t guest(struct rig_vm *vm, const struct model_req *q, const void *payload,
    void *out, uint64_t max);

/* Launch (program), with a segment "a" of (npages) of which *seg tells; (extra)
 * as of rig_launch(), or NULL. */
void launch_model(struct rig *g, struct rig_vm *vm, const char *program,
    uint64_t npages, json_t *extra, struct firn_segment *seg);
/* Its vCPU and its monitor write stamps into (seg) until the next request. */
void start_stamps(struct rig_vm *vm, const struct firn_segment *seg);

#endif /* TESTS_MODEL_TALK_H */
