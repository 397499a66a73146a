/* SPDX-License-Identifier: MIT */
/* ops: what a random sequence does to a world, one step each; a step that finds
 * nothing to do does nothing. */
#ifndef TESTS_MODEL_OPS_H
#define TESTS_MODEL_OPS_H

#include "tests/model/world.h"

void op_write(struct world *w);
void op_zero(struct world *w);
void op_fill(struct world *w);
void op_check_place(struct world *w);
void op_check_snap(struct world *w);
void op_freeze(struct world *w);
void op_sever(struct world *w);
void op_freeze_ram(struct world *w);
void op_map(struct world *w);
void op_unmap(struct world *w);
void op_dirty(struct world *w);
void op_diff(struct world *w);
void op_guest_diff(struct world *w);
void op_drop(struct world *w);
void op_guest_drop(struct world *w);
void op_describe(struct world *w);
void op_refused(struct world *w);
void op_restart(struct world *w);
void op_make(struct world *w);
void op_pause(struct world *w);
void op_tidy(struct world *w);

/* VM (v) of the world, which is given a snapshot, or NULL. */
void launch(struct world *w, int v, struct snap *give);
void end_vm(struct world *w, int v);

/* What steps are made of. */
void freeze_by_client(struct world *w, bool sever);
void cursor_begin(struct place *p, int c);
unsigned char *ask_dirty(
    struct world *w, struct place *p, int c, bool peek, uint64_t *told);

#endif /* TESTS_MODEL_OPS_H */
