/* SPDX-License-Identifier: MIT */
/*
 * The whole, firnd, monitors and guests, against arrays of bytes: what random
 * sequences of writes and operations make. FIRN_SEED repeats a run, which
 * prints its seed; FIRN_TEST_SCALE=small shortens it.
 */
#include "tests/model/holds.h"
#include "tests/model/ops.h"

static const struct op {
	const char *name;
	void (*fn)(struct world *w);
	unsigned weight;
} ops[] = {
    {"write", op_write, 40},
    {"zero", op_zero, 8},
    {"fill", op_fill, 20},
    {"check of a place", op_check_place, 8},
    {"check of a snapshot", op_check_snap, 12},
    {"freeze", op_freeze, 22},
    {"sever", op_sever, 4},
    {"freeze of RAM", op_freeze_ram, 2},
    {"map", op_map, 12},
    {"unmap", op_unmap, 9},
    {"dirty", op_dirty, 40},
    {"diff", op_diff, 16},
    {"guest's diff", op_guest_diff, 5},
    {"drop", op_drop, 14},
    {"guest's drop", op_guest_drop, 6},
    {"describe", op_describe, 3},
    {"refused", op_refused, 8},
    {"restart", op_restart, 1},
    {"make", op_make, 3},
    {"pause", op_pause, 2},
    {"tidy", op_tidy, 12},
};

static const struct op *some_op(struct world *w)
{
	unsigned sum = 0;
	uint64_t at;
	size_t i = 0;

	for (size_t k = 0; k < sizeof(ops) / sizeof(ops[0]); k++)
		sum += ops[k].weight;
	at = rnd(w, sum);
	while (at >= ops[i].weight)
		at -= ops[i++].weight;
	return &ops[i];
}

static void test_sequences(void **state)
{
	static struct world w;
	struct holds before;
	unsigned steps = chance_small() ? 250 : 2500;

	(void)state;
	w.rng = chance_begin("sequences");
	rig_start(&w.g);
	get_holds(&w.g, &before);
	launch(&w, 0, NULL);
	launch(&w, 1, NULL);
	for (w.step = 0; w.step < steps; w.step++) {
		const struct op *o = some_op(&w);

		w.what = o->name;
		o->fn(&w);
		sweep(&w);
		if (w.step % 120 == 119)
			check_all(&w);
	}
	check_all(&w);
	end_vm(&w, 0);
	end_vm(&w, 1);
	drop_all(&w.g);
	check_holds(&w.g, &before);
	for (int i = 0; i < NSNAPS; i++)
		w.snap[i].client = false;
	sweep(&w);
	printf("%llu places were moved to other files\n",
	    (unsigned long long)w.moved_places);
	assert_true(chance_small() || w.moved_places > 0);
	rig_stop(&w.g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_sequences),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
