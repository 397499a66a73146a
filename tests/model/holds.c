/* SPDX-License-Identifier: MIT */
#include "tests/model/holds.h"
#include "tests/proc.h"
#include "tests/unit/unit.h"

static const char *const counted[HOLDS_COUNTED] = {"vms", "snapshots", "layers",
    "layer_bytes", "nodes", "node_bytes", "reserved_bytes"};

static long count_children(pid_t pid)
{
	char path[64];
	long n = 0;
	int child;
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children",
	    (int)pid, (int)pid);
	f = fopen(path, "re");
	if (f == NULL)
		return -1;
	while (fscanf(f, "%d", &child) == 1)
		n++;
	(void)fclose(f);
	return n;
}

void get_holds(struct rig *g, struct holds *h)
{
	json_t *r = rig_call(g, "service.stats", json_object(), NULL, 0);

	for (size_t i = 0; i < HOLDS_COUNTED; i++)
		h->of[i] = rig_u64(r, counted[i]);
	json_decref(r);
	h->fds = proc_fds(g->firnd);
	h->children = count_children(g->firnd);
}

void check_holds(struct rig *g, const struct holds *want)
{
	struct holds h;

	for (int i = 0; i < 200; i++) {
		get_holds(g, &h);
		if (memcmp(&h, want, sizeof(h)) == 0)
			return;
		(void)usleep(50000);
	}
	for (size_t i = 0; i < HOLDS_COUNTED; i++)
		if (h.of[i] != want->of[i])
			print_error("%s: %llu, not %llu\n", counted[i],
			    (unsigned long long)h.of[i],
			    (unsigned long long)want->of[i]);
	if (h.fds != want->fds)
		print_error("descriptors: %ld, not %ld\n", h.fds, want->fds);
	if (h.children != want->children)
		print_error(
		    "children: %ld, not %ld\n", h.children, want->children);
	fail();
}

void drop_all(struct rig *g)
{
	json_t *r = rig_call(g, "snapshot.list", json_object(), NULL, 0);
	json_t *s;
	size_t i;

	json_array_foreach(json_object_get(r, "snapshots"), i, s)
	    rig_drop(g, rig_u64(s, "id"));
	json_decref(r);
}
