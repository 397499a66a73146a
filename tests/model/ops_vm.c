/* SPDX-License-Identifier: MIT */
/* ops: VMs come and go, and what firnd does by the way. */
#include "tests/model/ops.h"

void launch(struct world *w, int v, struct snap *give)
{
	struct model_req q = named(MODEL_LOOKUP, "given");
	struct firn_segment seg;
	json_t *extra = json_object();

	if (give != NULL)
		(void)json_object_set_new(extra, "give",
		    json_pack("[{s:s,s:s}]", "name", "given", "ref",
			rig_ref(give->id).s));
	launch_model(&w->g, &w->vm[v], rnd(w, 2) ? "model" : "model.musl",
	    v == 0 ? 700 : 1100, extra, &seg);
	(void)new_place(w, v, &seg, NULL);
	if (give != NULL) {
		give->cap[v] = guest(&w->vm[v], &q, NULL, NULL, 0);
		assert_true(give->cap[v] >= 0);
	}
}

void end_vm(struct world *w, int v)
{
	rig_end(&w->g, &w->vm[v]);
	for (int i = 0; i < NPLACES; i++)
		if (w->place[i].used && w->place[i].vm == v)
			end_place(&w->place[i]);
	for (int i = 0; i < NSNAPS; i++)
		w->snap[i].cap[v] = -1;
	sweep(w);
}

void op_restart(struct world *w)
{
	int v = (int)rnd(w, NVMS);

	end_vm(w, v);
	launch(w, v, some_snap(w, -1));
}

void op_make(struct world *w)
{
	int v = (int)rnd(w, NVMS);
	struct model_req q = {.op = MODEL_MAKE};
	struct firn_segment seg;
	int64_t rc;

	if (count_places(w, v) >= PLACES_MAX / 2)
		return;
	(void)snprintf(q.name, sizeof(q.name), "s%u", w->names++);
	q.a = (1 + rnd(w, rnd(w, 2) ? 40 : 600)) * PAGE;
	rc = guest(&w->vm[v], &q, NULL, &seg, sizeof(seg));
	if (rc != 0)
		wrong(w, "%s", strerror((int)-rc));
	(void)new_place(w, v, &seg, NULL);
}

void op_pause(struct world *w)
{
	int v = (int)rnd(w, NVMS);
	struct place *p = some_place(w, WRITABLE);
	uint64_t told;

	json_decref(rig_call(&w->g, "vm.pause",
	    json_pack("{s:s}", "vm", w->vm[v].ref), NULL, 0));
	if (room_for_snap(w))
		freeze_by_client(w, false);
	free(ask_dirty(w, p, 0, true, &told));
	json_decref(rig_call(&w->g, "vm.resume",
	    json_pack("{s:s}", "vm", w->vm[v].ref), NULL, 0));
	if (!p->cursor[0].on)
		cursor_begin(p, 0);
}

/* What nobody reaches is given back, and places are moved to other files:
 * nobody may notice. */
void op_tidy(struct world *w)
{
	json_t *r = rig_call(
	    &w->g, "service.stats", json_pack("{s:b}", "exact", 1), NULL, 0);
	uint64_t live = rig_u64(r, "live_bytes");

	if (live > rig_u64(r, "layer_bytes"))
		wrong(w, "more is live than there is");
	w->moved_places = rig_u64(r, "moved_places");
	json_decref(r);
	if (rnd(w, 4) == 0)
		check_all(w);
}
