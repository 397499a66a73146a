/* SPDX-License-Identifier: MIT */
/* The one table of methods: what dispatches them describes them. */
#include "shared/version.h"
#include "vmm/broker/internal.h"

#define STR(n, d)                                                              \
	{                                                                      \
		.name = (n), .type = CTL_STRING, .doc = (d)                    \
	}
#define STR_OPT(n, d)                                                          \
	{                                                                      \
		.name = (n), .type = CTL_STRING, .optional = true, .doc = (d)  \
	}
#define SIZE(n, d)                                                             \
	{                                                                      \
		.name = (n), .type = CTL_SIZE, .doc = (d)                      \
	}
#define SIZE_OPT(n, d)                                                         \
	{                                                                      \
		.name = (n), .type = CTL_SIZE, .optional = true, .doc = (d)    \
	}
#define INT_OPT(n, d)                                                          \
	{                                                                      \
		.name = (n), .type = CTL_INT, .optional = true, .doc = (d)     \
	}
#define BOOL(n, d)                                                             \
	{                                                                      \
		.name = (n), .type = CTL_BOOL, .doc = (d)                      \
	}
#define BOOL_OPT(n, d)                                                         \
	{                                                                      \
		.name = (n), .type = CTL_BOOL, .optional = true, .doc = (d)    \
	}
#define OBJ_OPT(n, d, f)                                                       \
	{                                                                      \
		.name = (n), .type = CTL_OBJECT, .optional = true, .doc = (d), \
		.fields = (f)                                                  \
	}
#define OBJS(n, d, f)                                                          \
	{                                                                      \
		.name = (n), .type = CTL_OBJECTS, .doc = (d), .fields = (f)    \
	}
#define OBJS_OPT(n, d, f)                                                      \
	{                                                                      \
		.name = (n), .type = CTL_OBJECTS, .optional = true,            \
		.doc = (d), .fields = (f)                                      \
	}
#define END                                                                    \
	{                                                                      \
		.name = NULL                                                   \
	}

#define P_VM      STR("vm", "label or id of a VM")
#define P_SEGMENT STR_OPT("segment", "name or number; the RAM if absent")
#define P_SNAP    STR("snapshot", "label or id of a snapshot")

static const struct ctl_param only_vm[] = {P_VM, END};
static const struct ctl_param only_snap[] = {P_SNAP, END};

static const struct ctl_param segment_fields[] = {STR("name", "of the segment"),
    SIZE("size", "bytes, whole pages"),
    BOOL_OPT("tracked", "keep what is read and written"),
    BOOL_OPT("private_history", "who maps one version gets no file with "
				"pages of another"),
    END};
static const struct ctl_param give_fields[] = {
    STR("name", "in the guest's table"),
    STR("ref", "label or id of a snapshot of the caller"), END};
static const struct ctl_param launch_params[] = {
    {.name = "args", .type = CTL_STRINGS, .doc = "argv, the program first"},
    {.name = "env",
	.type = CTL_STRINGS,
	.optional = true,
	.doc = "environment, NAME=VALUE each"},
    STR_OPT("name", "label of the VM"),
    SIZE_OPT("mem", "bytes of RAM; 256 MiB if absent"),
    OBJS_OPT("segments", "made before the program begins", segment_fields),
    OBJS_OPT("give", "capabilities of its initial table", give_fields),
    BOOL_OPT("detach", "outlive this connection"), END};
static const struct ctl_param launch_results[] = {SIZE("vm", "its id"),
    STR("name", "its label"), SIZE("pid", "of its monitor"), END};
static const char *const launch_fds[] = {
    "program", "stdin", "stdout", "stderr", NULL};

static const struct ctl_param vm_fields[] = {SIZE("id", "of the VM"),
    STR("name", "label"), STR("state", "starting, running, paused or exited"),
    SIZE("pid", "of its monitor, 0 once it ended"), SIZE("mem", "bytes"),
    SIZE("cpu_ns", "of its monitor"), SIZE("syscalls", "of its guest"),
    SIZE("enosys", "calls that do not exist"), END};
static const struct ctl_param list_results[] = {
    OBJS("vms", "the caller's, oldest first", vm_fields), END};

static const struct ctl_param report_fields[] = {STR("why", "in one line"),
    STR("text", "in full"), INT_OPT("rip", "of the fault; 64 bits, signed"),
    INT_OPT("address", "that was touched; 64 bits, signed"),
    SIZE_OPT("segment", "that was hit"), SIZE_OPT("snapshot", "that was hit"),
    STR_OPT("code", "bytes at rip, hexadecimal"),
    {.name = "registers",
	.type = CTL_OBJECT,
	.optional = true,
	.doc = "name to integer; 64 bits, signed"},
    END};
static const struct ctl_param wait_results[] = {
    SIZE("status", "as a shell gives it, 0 to 255"),
    STR("reason", "exit, fault, killed or refused"),
    OBJ_OPT("report", "why, where it was not a plain exit", report_fields),
    END};

static const struct ctl_param seg_results_fields[] = {SIZE("id", "number"),
    STR("name", "label"), STR("kind", "segment, ro or cow"),
    SIZE("gpa", "guest-physical address"), SIZE("size", "bytes"),
    SIZE("resident", "bytes"),
    SIZE("private", "bytes that are this VM's alone"),
    SIZE("shared", "resident less private"),
    SIZE_OPT("snapshot", "that a view shows"),
    BOOL_OPT("tracked", "its reads and writes are kept"),
    BOOL_OPT("private_history", "as vm.launch has it, or inherited"), END};
static const struct ctl_param segments_results[] = {
    OBJS("segments", "views counted", seg_results_fields), END};

static const struct ctl_param freeze_params[] = {
    P_VM, P_SEGMENT, STR_OPT("name", "label of the snapshot"), END};
static const struct ctl_param freeze_results[] = {SIZE("snapshot", "its id"),
    STR("name", "its label"), SIZE("pages", "of the segment"),
    SIZE("dirty_pages", "written since the last freeze"),
    SIZE("copied_pages", "copied, once"),
    SIZE("pause_ns", "how long the vCPUs stood"), SIZE("total_ns", "in all"),
    BOOL_OPT("owned", "of a sever: nobody else has it, to be adopted"), END};

static const struct ctl_param map_params[] = {P_VM, P_SNAP,
    BOOL_OPT("cow", "copy-on-write; read-only if absent"),
    BOOL_OPT("track", "keep which pages are read and written"),
    SIZE_OPT("gpa", "where; the monitor chooses if absent or 0"),
    STR_OPT("name", "label of the view"), END};
static const struct ctl_param map_results[] = {SIZE("view", "its number"),
    SIZE("gpa", "where it is"), SIZE("pages", "of it"),
    SIZE("extents", "runs of pages it was mapped in"),
    SIZE("map_ns", "from request to answer"), END};
static const struct ctl_param unmap_params[] = {
    P_VM, STR("view", "name or number"), END};
static const struct ctl_param adopt_params[] = {P_VM, P_SNAP,
    SIZE_OPT("gpa", "where; the monitor chooses if absent or 0"),
    STR_OPT("name", "label of the segment"), END};
static const struct ctl_param adopt_results[] = {SIZE("view", "its number"),
    SIZE("gpa", "where it is"), SIZE("pages", "of it"),
    SIZE("extents", "runs of pages it was in"),
    SIZE("map_ns", "from request to answer"),
    BOOL("copied_on_write",
	"it was sealed: this is a view, and the snapshot remains"),
    END};
static const struct ctl_param hand_params[] = {P_VM,
    STR("snapshot", "label or id in the table that it comes from"),
    STR_OPT("name", "label in the other; the same if absent"), END};
static const struct ctl_param hand_results[] = {SIZE("snapshot", "its id"),
    STR("name", "its label"),
    BOOL("moved", "it is owned, and was moved; else copied"), END};

static const struct ctl_param snap_fields[] = {SIZE("id", "of the snapshot"),
    STR("name", "label"), SIZE("pages", "of it"), SIZE("size", "bytes"),
    STR("origin", "VM:SEGMENT, or import"),
    SIZE_OPT("parent", "nearest ancestor alive"),
    {.name = "melded",
	.type = CTL_IDS,
	.optional = true,
	.doc = "ids of the two that it was made of"},
    BOOL_OPT("blind", "melded without all reads known"),
    BOOL_OPT("private_history", "no file of it has pages of others"),
    SIZE("payer", "uid"), BOOL("owned", "the holder alone has it"), END};
static const struct ctl_param snaps_params[] = {
    SIZE_OPT(
	"after", "the 'next' of the reply before; from the start if absent"),
    SIZE_OPT("max", "at most so many; at most 1000 come in any case"), END};
static const struct ctl_param snaps_results[] = {
    OBJS("snapshots", "the caller's", snap_fields),
    BOOL("more", "whether there are others"),
    SIZE_OPT("next", "'after' of the request for them"), END};
static const struct ctl_param pinned_fields[] = {SIZE("uid", "who pins"),
    SIZE("vm_bytes", "of files, whole, that its VMs have mapped or open"),
    SIZE("client_bytes", "of files, whole, that its clients have opened"), END};
#define R_PINNED_BY                                                            \
	OBJS("pinned_by",                                                      \
	    "the users who pin; a file of several is told of each",            \
	    pinned_fields)
static const struct ctl_param show_results[] = {SIZE("id", "of the snapshot"),
    STR("name", "label"), SIZE("pages", "of it"), SIZE("size", "bytes"),
    STR("origin", "VM:SEGMENT, or import"),
    SIZE_OPT("parent", "nearest ancestor alive"),
    {.name = "melded",
	.type = CTL_IDS,
	.optional = true,
	.doc = "ids of the two that it was made of"},
    BOOL_OPT("blind", "melded without all reads known"),
    BOOL_OPT("private_history", "no file of it has pages of others"),
    SIZE("payer", "uid"), BOOL("owned", "the holder alone has it"),
    SIZE("layers", "it is in"),
    SIZE("extents", "runs of pages that are not zero"),
    SIZE("exclusive_pages", "that no other page map shares"),
    SIZE("shared_pages", "that another page map shares"),
    SIZE("zero_pages", "that are in no layer"),
    SIZE("live_bytes", "of its pages: exclusive and shared"),
    SIZE("exclusive_bytes", "that go with it"),
    SIZE("shared_bytes", "that stay with other page maps"),
    SIZE("copy_bytes", "of its pages once more, for views and openers"),
    SIZE("node_bytes", "of its page map"),
    SIZE("exclusive_node_bytes", "of them, that go with it"),
    SIZE("files", "that its layers are in"),
    SIZE("file_bytes", "of these files, whatever is in them"),
    SIZE("dead_bytes", "of these that no page map reaches, as last counted"),
    SIZE("pinned_bytes", "of these files, in use outside"),
    SIZE("dead_pinned_bytes", "dead, and pinned"), R_PINNED_BY, END};

#define R_EXTENTS                                                              \
	{.name = "extents",                                                    \
	    .type = CTL_EXTENTS,                                               \
	    .optional = true,                                                  \
	    .doc = "[first, count] pairs of pages"},                           \
	    SIZE_OPT("extents_fd",                                             \
		"instead: position of the memfd of little-endian u64 pairs")

static const struct ctl_param diff_params[] = {
    STR("a", "a snapshot, or VM:SEGMENT"),
    STR("b", "a snapshot, or VM:SEGMENT"),
    BOOL_OPT("exact", "compare bytes, not places; always so for those without "
		      "common history"),
    END};
static const struct ctl_param diff_results[] = {SIZE("pages", "that differ"),
    R_EXTENTS, BOOL("exact", "whether bytes were compared"),
    SIZE("nodes_visited", "of the page maps"),
    SIZE("diff_ns", "comparing the page maps"), END};

static const struct ctl_param heat_params[] = {
    STR("ref", "a snapshot, or VM:SEGMENT as it is now"),
    SIZE_OPT("cells", "at most so many, 1 to 65536"), END};
static const struct ctl_param heat_results[] = {SIZE("pages", "of it"),
    SIZE("cell_pages", "of a cell, a power of two; the last may have fewer"),
    SIZE("cells", "three u64 each: pages that are not zero, the newest layer "
		  "among them, the one that has most; all ones: none"),
    SIZE("layers", "three u64 each, newest first: id, age in ns, pages"),
    SIZE("cells_fd", "position of the memfd of the cells"),
    SIZE("layers_fd", "position of the memfd of the layers"), END};

static const struct ctl_param meld_params[] = {
    STR("base", "what both descend from"), STR("a", "a snapshot"),
    STR("b", "a snapshot"), STR_OPT("name", "label of the result"),
    BOOL_OPT("blind", "also where a step was not tracked"), END};
static const struct ctl_param meld_results[] = {SIZE("snapshot", "its id"),
    STR("name", "its label"), SIZE("pages", "of it"),
    SIZE("changed_pages", "that a or b wrote"),
    BOOL("blind", "reads were not all known"), SIZE("meld_ns", "computing it"),
    END};

static const struct ctl_param open_results[] = {SIZE("pages", "of it"),
    SIZE("runs_fd", "position of the memfd of runs"),
    SIZE("layers", "descriptors that follow, read-only"), END};
static const struct ctl_param import_params[] = {
    STR_OPT("name", "label of the snapshot"),
    SIZE("pages", "exactly those of the memfd"), END};
static const struct ctl_param import_results[] = {SIZE("snapshot", "its id"),
    STR("name", "its label"), SIZE("pages", "of it"), END};
static const char *const import_fds[] = {
    "memfd with all four seals, becomes a layer", NULL};

static const struct ctl_param dirty_params[] = {P_VM, P_SEGMENT,
    STR("cursor", "label; an unknown one starts now"),
    BOOL_OPT("peek", "do not advance it"),
    BOOL_OPT("exact", "only pages whose bytes changed"),
    BOOL_OPT("bitmap", "answer with a memfd, one bit a page"), END};
static const struct ctl_param dirty_end_params[] = {
    P_VM, P_SEGMENT, STR("cursor", "label"), END};
static const struct ctl_param dirty_results[] = {
    SIZE("pages", "written since the cursor advanced"), R_EXTENTS,
    SIZE_OPT("bitmap_fd", "instead: position of the bitmap's memfd"),
    BOOL_OPT("exact", "of an exact one: bytes were compared"),
    SIZE_OPT("nodes_visited", "of an exact one: of the page maps"),
    SIZE_OPT("diff_ns", "of an exact one: comparing the page maps"), END};

static const struct ctl_param set_fields[] = {
    SIZE("pages", "in all"), R_EXTENTS, END};
static const struct ctl_param track_results[] = {SIZE("pages", "of the view"),
    {.name = "reads",
	.type = CTL_OBJECT,
	.doc = "read since it was laid, and not written",
	.fields = set_fields},
    {.name = "writes",
	.type = CTL_OBJECT,
	.doc = "written since it was laid",
	.fields = set_fields},
    END};

static const struct ctl_param stats_params[] = {
    BOOL_OPT("exact", "count what is reachable first"), END};
static const struct ctl_param stats_results[] = {SIZE("vms", "that live"),
    SIZE("silent_vms", "whose monitor did not answer in time"),
    SIZE("snapshots", "that live"), SIZE("layers", "held"),
    SIZE("files", "that layers are in; each a descriptor"),
    SIZE("pieces", "of layers in files"),
    SIZE("layer_bytes", "of memory in files: live and dead"),
    SIZE("live_bytes", "that page maps reach, as last counted"),
    SIZE("dead_bytes", "that they do not"),
    SIZE("pinned_files", "mapped by monitors or opened by clients"),
    SIZE("pinned_bytes", "of these files, whole"), R_PINNED_BY,
    SIZE("nodes", "of page maps"), SIZE("node_bytes", "of page maps"),
    SIZE("table_bytes", "of firnd's tables of layers and files"),
    SIZE("records", "of descent"),
    SIZE("record_bytes", "of them, with reads and writes"),
    SIZE("private_bytes", "of VMs' segments and views, theirs alone"),
    SIZE("mapped_bytes", "of layers that VMs map, counted for each"),
    SIZE("marks", "that counted what is reachable, so far"),
    SIZE("moved_files", "compacted or merged, so far"),
    SIZE("moved_bytes", "copied for that, so far"),
    SIZE("moved_places", "of VMs, to other files, so far"),
    SIZE("given_bytes", "private to VMs, back by that, so far"),
    SIZE("relay_ns", "that guests were stopped for it, so far"),
    SIZE("bank_bytes", "that may be reserved"),
    SIZE("reserved_bytes", "by VMs"), END};

static const struct ctl_op ops[] = {
    {.name = "service.describe",
	.summary = "every method, event, limit and error",
	.handler = ctl_describe_op},
    {.name = "service.subscribe",
	.summary = "events follow as notifications",
	.handler = op_subscribe},
    {.name = "service.stats",
	.summary = "what there is, and what it takes",
	.params = stats_params,
	.results = stats_results,
	.handler = op_stats},
    {.name = "vm.launch",
	.summary = "run a static Linux program as a guest",
	.params = launch_params,
	.results = launch_results,
	.fds = launch_fds,
	.nfds = 4,
	.handler = op_vm_launch},
    {.name = "vm.list",
	.summary = "the VMs",
	.results = list_results,
	.handler = op_vm_list},
    {.name = "vm.kill",
	.summary = "end a VM",
	.params = only_vm,
	.handler = op_vm_kill},
    {.name = "vm.pause",
	.summary = "stop a VM's vCPUs",
	.params = only_vm,
	.handler = op_vm_pause},
    {.name = "vm.resume",
	.summary = "let them go on",
	.params = only_vm,
	.handler = op_vm_resume},
    {.name = "vm.wait",
	.summary = "answer when the VM has ended and is cleaned up",
	.params = only_vm,
	.results = wait_results,
	.handler = op_vm_wait},
    {.name = "vm.segments",
	.summary = "segments and views of a VM",
	.params = only_vm,
	.results = segments_results,
	.handler = op_vm_segments},
    {.name = "segment.freeze",
	.summary = "make a snapshot of a segment, in place",
	.params = freeze_params,
	.results = freeze_results,
	.handler = op_segment_freeze},
    {.name = "segment.sever",
	.summary = "make a snapshot; the segment reads zero afterwards",
	.params = freeze_params,
	.results = freeze_results,
	.handler = op_segment_sever},
    {.name = "view.map",
	.summary = "lay a snapshot into a running guest",
	.params = map_params,
	.results = map_results,
	.handler = op_view_map},
    {.name = "view.unmap",
	.summary = "take a view away",
	.params = unmap_params,
	.handler = op_view_unmap},
    {.name = "snapshot.list",
	.summary = "the snapshots, in parts; one that stays comes once",
	.params = snaps_params,
	.results = snaps_results,
	.handler = op_snapshot_list},
    {.name = "snapshot.show",
	.summary = "one snapshot, with counts of its pages",
	.params = only_snap,
	.results = show_results,
	.handler = op_snapshot_show},
    {.name = "snapshot.diff",
	.summary = "which pages differ",
	.params = diff_params,
	.results = diff_results,
	.handler = op_snapshot_diff},
    {.name = "snapshot.heat",
	.summary = "when the pages were written last",
	.params = heat_params,
	.results = heat_results,
	.handler = op_snapshot_heat},
    {.name = "snapshot.drop",
	.summary = "give up a capability",
	.params = only_snap,
	.handler = op_snapshot_drop},
    {.name = "snapshot.open",
	.summary = "take read-only descriptors out; irrevocable",
	.params = only_snap,
	.results = open_results,
	.handler = op_snapshot_open},
    {.name = "snapshot.import",
	.summary = "a sealed memfd becomes a snapshot",
	.params = import_params,
	.results = import_results,
	.fds = import_fds,
	.nfds = 1,
	.handler = op_snapshot_import},
    {.name = "dirty.query",
	.summary = "pages written since a cursor advanced",
	.params = dirty_params,
	.results = dirty_results,
	.handler = op_dirty_query},
    {.name = "dirty.end",
	.summary = "a cursor is no more",
	.params = dirty_end_params,
	.handler = op_dirty_end},
    {.name = "track.query",
	.summary = "which pages of a tracked view were read and written",
	.params = unmap_params,
	.results = track_results,
	.handler = op_track_query},
    {.name = "snapshot.meld",
	.summary = "what two descendants of a snapshot changed, together",
	.params = meld_params,
	.results = meld_results,
	.handler = op_snapshot_meld},
    {.name = "view.adopt",
	.summary = "put memory that is owned into a running guest",
	.params = adopt_params,
	.results = adopt_results,
	.handler = op_view_adopt},
    {.name = "vm.give",
	.summary = "a capability of the caller for a guest",
	.params = hand_params,
	.results = hand_results,
	.handler = op_vm_give},
    {.name = "vm.take",
	.summary = "a capability of a guest for the caller",
	.params = hand_params,
	.results = hand_results,
	.handler = op_vm_take},
};

static const struct ctl_param ev_started[] = {
    SIZE("vm", "id"), STR("name", "label"), END};
static const struct ctl_param ev_exited[] = {SIZE("vm", "id"),
    STR("name", "label"), SIZE("status", "as a shell gives it"),
    STR("reason", "exit, fault, killed or refused"),
    OBJ_OPT("report", "why, where it was not a plain exit", report_fields),
    END};
static const struct ctl_param ev_made[] = {SIZE("snapshot", "id"),
    STR("name", "label"), SIZE_OPT("vm", "id, where it was frozen or severed"),
    STR_OPT("segment", "label of what was"), SIZE("pages", "of it"), END};
static const struct ctl_param ev_gone[] = {SIZE("snapshot", "id"), END};
static const struct ctl_param ev_mapped[] = {
    SIZE("vm", "id"), SIZE("view", "number"), SIZE("snapshot", "id"), END};

static const struct ctl_event events[] = {
    {"vm.started", "a program begins", ev_started},
    {"vm.exited", "a VM ended", ev_exited},
    {"snapshot.made", "a snapshot came into being", ev_made},
    {"snapshot.gone", "nobody holds it any more", ev_gone},
    {"view.mapped", "a snapshot was laid in a VM", ev_mapped},
};

const struct ctl_conf broker_ctl_conf = {
    .service = "firn",
    .version = FIRN_VERSION,
    .ops = ops,
    .nops = sizeof(ops) / sizeof(ops[0]),
    .events = events,
    .nevents = sizeof(events) / sizeof(events[0]),
};
