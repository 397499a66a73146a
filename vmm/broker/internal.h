/* SPDX-License-Identifier: MIT */
/*
 * internal: what the files of the broker do for each other, file by file, with
 * what objects.h says there is. All of it is for the loop's thread, unless it
 * says otherwise.
 */
#ifndef VMM_BROKER_INTERNAL_H
#define VMM_BROKER_INTERNAL_H

#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "shared/abi/guestcall.h"
#include "shared/cap/cap.h"
#include "shared/page/run.h"
#include "vmm/broker/apply.h"
#include "vmm/broker/broker.h"
#include "vmm/broker/errand.h"
#include "vmm/broker/objects.h"
#include "vmm/core/clock.h"
#include "vmm/core/err.h"
#include "vmm/core/loop.h"
#include "vmm/ctl/ctl.h"
#include "vmm/kin/kin.h"
#include "vmm/layer/filetab.h"
#include "vmm/layer/layer.h"
#include "vmm/map/map.h"
#include "vmm/map/runs.h"
#include "vmm/wire/wire.h"

/* --- home.c: names and capabilities --------------------------------------- */
struct home *home_get(struct broker *b, uid_t uid); /* NULL: no memory */
void homes_free(struct broker *b);
struct home *req_home(struct ctl_req *rq); /* NULL once the client is gone */
uint64_t cap_key(void);                    /* for cap_table_init() */
bool name_ok(const char *name);
/* Fills (e), -EINVAL: (name), of at most (max) bytes, is not one. */
int name_refuse(const char *name, size_t max, struct err *e);
/* A new name in (t) is fit and free, and there is room for it. */
int name_check(const struct cap_table *t, const char *name, struct err *e);
/* The snapshot that (ref) names in (t), with (rights). */
int snap_find(struct broker *b, const struct cap_table *t, const char *ref,
    uint32_t rights, struct snap **out, int32_t *cap, struct err *e);
int snap_by_cap(struct broker *b, const struct cap_table *t, int64_t cap,
    uint32_t rights, struct snap **out, struct err *e);
/* A capability for (s) in (t), which holds it. Its number or -errno. */
int32_t snap_grant(struct snap *s, struct cap_table *t, uint32_t rights,
    const char *name, struct err *e);
void caps_drop_all(struct broker *b, struct cap_table *t);
void cap_end(struct broker *b, struct cap_table *t, int64_t cap);
void notify(
    struct broker *b, struct home *h, const char *event, json_t *params);

/* --- snap.c: snapshots and page maps -------------------------------------- */
struct lineage *lineage_new(void);
struct lineage *lineage_get(struct lineage *l);
void lineage_put(struct lineage *l);
/* Takes (map) over, also on failure. One hold, the caller's. */
struct snap *snap_new(
    struct broker *b, struct map map, struct lineage *l, struct err *e);
/* Somebody has a capability for it: tell its payer of it, and, in time, of its
 * end. Takes over the reference to (params), the event's. */
void snap_made(struct broker *b, struct snap *s, json_t *params);
struct snap *snap_by_id(struct broker *b, uint64_t id);
struct snap *snap_hold(struct snap *s);
void snap_put(struct broker *b, struct snap *s);
/* Have what nobody reaches any more closed, in time. For the closer, too. */
void layers_reap(void *b);
/* Does the bank have room for (bytes) more? -ENOSPC. */
int bank_check(struct broker *b, uint64_t bytes, struct err *e);
int bank_reserve(
    struct broker *b, struct bvm *vm, uint64_t bytes, struct err *e);
void bank_release(struct broker *b, struct bvm *vm, uint64_t bytes);

int runs_of(const struct map *m, uint64_t first, uint64_t npages,
    struct runs *out); /* appends; -ENOMEM, -E2BIG */
/* All runs of (m), for an errand: -EAGAIN also, see there. */
int runs_of_all(const struct map *m, const struct errand *w, struct runs *out);
/* Have (rs) name files by their numbers in (t), zeroed before, instead of
 * layers. The files are held until filetab_free(). -ENOMEM, -E2BIG, -EPROTO. */
int files_of(struct broker *b, struct runs *rs, struct filetab *t);

/* --- snapops.c ------------------------------------------------------------ */
/* The snapshot that parameter "snapshot" names; else (rq) is answered. */
struct snap *req_snap(
    struct broker *b, struct ctl_req *rq, uint32_t rights, int32_t *cap);
/* What is known of (s), called (name), without a walk. NULL: no memory. */
json_t *snap_json(struct broker *b, struct snap *s, const char *name);

/* --- pinned.c: who keeps files in use ------------------------------------- */
/* For each file a bit for each home whose VMs have it mapped or open, or are
 * about to; but not where a place is just moved. From the heap, or NULL. */
uint64_t *pinned_by_vms(const struct broker *b);
/* Bytes of files that each home pins, added up. */
struct pinned {
	uint64_t vms[HOMES_MAX];     /* by their VMs */
	uint64_t clients[HOMES_MAX]; /* by what its clients have opened */
};
/* (vms) is the file's, of pinned_by_vms(). */
void pinned_add(struct pinned *sum, const struct lfile_stat *st, uint64_t vms);
/* A list of {uid, vm_bytes, client_bytes}, of those who pin anything. */
json_t *pinned_json(const struct broker *b, const struct pinned *sum);

/* --- store.c: giving back ------------------------------------------------- */
void store_init(struct broker *b);
void store_end(struct broker *b); /* there are no workers any more */
/* Something was dropped or made. */
void store_poke(struct broker *b);
/* (p), empty, pins the files. -ENOMEM: it does not. */
int pins_take(
    struct broker *b, struct pins *p, const uint32_t *file, uint32_t n);
/* It pins these too. */
int pins_add(
    struct broker *b, struct pins *p, const uint32_t *file, uint32_t n);
void pins_drop(struct broker *b, struct pins *p);
/* (p) shows nothing of any layer. */
void place_unpin(struct broker *b, struct bplace *p);
/* A user's layers are joined in files, and with nobody else's. */
uint32_t layers_of(uid_t uid);
struct layer_copied;
/* What was copied for (s) becomes a layer, its payer's; on failure it stays the
 * caller's. Errors as of layer_adopt(). */
int snap_copied(struct broker *b, const struct snap *s, struct layer_copied *c,
    uint32_t *layer, struct err *e);

/* --- stats.c -------------------------------------------------------------- */
/* The mark that began then is done: answer who waited for it. */
void stats_marked(struct broker *b, uint64_t began_ns);

/* --- relay.c -------------------------------------------------------------- */
/* Pins of each file that its places can be moved from; from the heap, or NULL.
 */
uint32_t *relay_pins(struct broker *b);
/* Have (p), which was just frozen, give back what it has twice, if that pays.
 */
void relay_copies(struct broker *b, struct bvm *vm, struct bplace *p,
    const struct wire_frozen *f);
/* Move places over from files that nothing is in any more, one in a turn of the
 * loop. */
void relay_places(struct broker *b);
void relay_turn(void *b);

/* --- link.c --------------------------------------------------------------- */
int link_open(struct link *l, struct loop *loop, int fd, loop_io_fn *fn,
    void *arg, struct err *e);
/* (closer) closes the socket, with what the monitor sent and nobody read. */
void link_close(struct link *l, struct closer *closer);
/* Could packets with (nfds) descriptors wait, all of them, if they had to? */
bool link_takes(const struct link *l, uint32_t nfds);
/* A packet for which there is no room waits. 0, -EAGAIN (too many wait),
 * -ENOMEM, -EMFILE, an error of the socket; then
 * nothing was sent. */
int link_send(struct link *l, const struct wire_msg *m, const void *payload,
    const int *fds, uint32_t nfds);
/* Send what waits. Not 0: a packet could not be sent and is lost. */
int link_flush(struct link *l);

/* --- vm.c: VMs ------------------------------------------------------------ */
struct bvm *vm_by_id(struct broker *b, uint64_t id);
/* What (vm) is called: its name, or its id where it has none. */
void vm_label(const struct bvm *vm, char out[FIRN_NAME_MAX]);
struct bvm *vm_find(
    struct broker *b, struct home *h, const char *ref, struct err *e);
/* Parameter "vm" of (rq), in a state that lets it be asked; else NULL and (rq)
 * is answered. */
struct bvm *req_vm(struct broker *b, struct ctl_req *rq, bool live);
const char *vm_state_name(enum vm_state s);
uint64_t vm_cpu_ns(const struct bvm *vm); /* of the whole monitor process */
void vm_kill(struct broker *b, struct bvm *vm);
/* The monitor is gone and reaped: release all it held, tell who asked. */
void vm_end(struct broker *b, struct bvm *vm);
/* Forget one that ended, once nothing on the stack can have it. */
void vm_bury(struct broker *b, struct bvm *vm);
void vm_killer_fired(void *vm); /* its time to end by itself is over */
void vms_detach(struct broker *b, struct ctl_conn *conn);
int vms_init(struct broker *b, struct err *e);
void vms_free(struct broker *b);

/* --- report.c ------------------------------------------------------------- */
json_t *vm_end_json(const struct bvm *vm);

/* --- launch.c ------------------------------------------------------------- */
/* Let go of what waited to be sent, and answer who waits for a launch that
 * came to nothing; both do nothing where there is nothing. */
void launch_drop(struct bvm *vm);
void launch_failed(struct bvm *vm);
/* Its program began: forget the one that had its name before, and ended. */
void launch_began(struct broker *b, const struct bvm *vm);

/* --- places.c ------------------------------------------------------------- */
struct bplace *place_by_id(struct bvm *vm, uint32_t id);
/* (ref) NULL: the RAM. NULL: -ENOENT in (e), which may be NULL. */
struct bplace *place_find(struct bvm *vm, const char *ref, struct err *e);
struct bplace *place_add(struct broker *b, struct bvm *vm,
    const struct wire_segment *s, struct lineage *l, struct err *e);
void place_end(struct broker *b, struct bvm *vm, struct bplace *p);
/* It is unmapped: nobody finds it any more, and it ends once what its monitor
 * answered of it is over. */
void place_gone(struct broker *b, struct bvm *vm, struct bplace *p);
/* What (vm) answered to WIRE_SEGMENTS, of places that it has, each once, with
 * no more bytes than they have room for: *n of at most WIRE_SEGMENTS_MAX.
 * -EPROTO: no monitor of ours answers so. */
int places_told(struct bvm *vm, const struct wire_packet *pk,
    struct wire_segment *w, uint32_t *n);

/* --- monitor.c ------------------------------------------------------------ */
/* Start one for (vm): 0, or an error and nothing runs. */
int monitor_start(struct broker *b, struct bvm *vm, struct err *e);
int vm_ask(struct bvm *vm, uint16_t type, const void *payload, uint32_t len,
    const int *fds, uint32_t nfds, reply_fn *fn, void *ctx, struct err *e);
int vm_send(struct bvm *vm, uint16_t type, uint32_t seq, int64_t status,
    const void *payload, uint32_t len, const int *fds, uint32_t nfds);
/* The status of (p) as an error, with the monitor's reason; 0 if it is one. */
int packet_err(const struct wire_packet *p, struct err *e);
/* Nobody will answer what (vm) was asked. */
void monitor_fail_calls(struct broker *b, struct bvm *vm);
/* Why a monitor that said nothing of its end ended. */
void monitor_unsaid(struct bvm *vm, const siginfo_t *si);
/* Descriptors kept aside, so that those of an answer find room: keep, let go;
 * are they all there? */
void fds_reserve(struct broker *b);
void fds_release(struct broker *b);
bool fds_reserved(struct broker *b);

/* --- asker.c: who asked --------------------------------------------------- */
/* A client's request, or a guest's: what an operation answers to. */
struct asker {
	struct ctl_req *rq; /* or NULL: a guest */
	uint64_t vm;
	uint32_t seq;
	uint16_t type;
};
struct asker asker_client(struct ctl_req *rq);
struct asker asker_guest(struct bvm *vm, const struct wire_msg *m);
void asker_fail(struct broker *b, struct asker *a, const struct err *e);
/* As asker_answer_guest(), with descriptors for which there may be no room:
 * then it is not answered yet. -ESRCH: nobody waits; errors of link_send(). */
int asker_hand_guest(struct broker *b, struct asker *a, const void *payload,
    uint32_t len, const int *fds, uint32_t nfds, struct err *e);
void asker_answer_guest(struct broker *b, struct asker *a, int64_t status,
    const void *payload, uint32_t len, const int *fds, uint32_t nfds);
/* The table that the asker's words are in; NULL when it is gone. */
struct cap_table *asker_caps(struct broker *b, struct asker *a);
struct home *asker_home(struct broker *b, struct asker *a);

/* --- held.c: files that a VM keeps in use --------------------------------- */
/* For a view to come. NULL: -ENOSPC (they would be too many), -ENOMEM. */
struct held *held_new(struct broker *b, struct bvm *vm, const uint32_t *file,
    uint32_t n, struct err *e);
/* For /snap, with an id to be closed by; NULL: -EMFILE also. */
struct held *held_open(struct broker *b, struct bvm *vm, const uint32_t *file,
    uint32_t n, struct err *e);
/* A place has the pins now, the caller's. */
struct pins held_place(struct bvm *vm, struct held *h);
void held_drop(struct broker *b, struct bvm *vm, struct held *h); /* or NULL */
/* The guest closed (id), or has no such. */
void held_closed(struct broker *b, struct bvm *vm, uint32_t id);
void held_end(struct broker *b, struct bvm *vm);

/* --- steps.c: what a monitor told of a place ------------------------------ */
/* Room for those of an answer. -ENOMEM: there is none. */
int steps_make(struct broker *b, struct step **out);
/* Queue those that (pk) tells of (p), taken from (spare). -EPROTO. */
int steps_take(struct bplace *p, struct wire_packet *pk, struct step **spare,
    struct wire_frozen *f, int *sets_fd, struct err *e);
/* Queue one, of (spare), that changes no page of (p). */
void step_none(struct bplace *p, struct step **spare);
/*
 * Apply what a turn of the loop has time for of the oldest step of (p), which
 * has one: 0 when it is gone, 1 when it is not, yet. Where something is wanting
 * (-ENOMEM, -EMFILE, -ENFILE, -ENOSPC, -EBUSY) it stays the oldest; where it is
 * wrong it is gone, and (vm) is ended: what its guest has written is not known
 * any more.
 */
int steps_turn(
    struct broker *b, struct bvm *vm, struct bplace *p, struct err *e);
void steps_free(struct broker *b, struct step **queue);

/* --- lift.c --------------------------------------------------------------- */
struct lifted {
	struct wire_frozen f;
	uint32_t owned;  /* the layer that the map is in, if that is; or 0 */
	struct map map;  /* of the place as it was; the callee's to put */
	struct kin *kin; /* what that descends from; held meanwhile, or NULL */
	/* Of a tracked place, unless they are too many to keep; the callee may
	 * take them. */
	bool tracked;
	struct kin_sets sets;
	struct kin_sets fresh; /* of them, those that are not in p->told */
};
/* (vm), (p) and (l) are NULL and (e) is set when it failed. */
typedef void lift_fn(struct broker *b, struct bvm *vm, struct bplace *p,
    struct lifted *l, const struct err *e, void *ctx);
int lift(struct broker *b, struct bvm *vm, struct bplace *p, bool sever,
    lift_fn *fn, void *ctx, struct err *e);
/* Is anything that the monitor of (vm) answered not over? */
bool lifts_wait(const struct bvm *vm);
/* Have all of it that is of (p) be over, now: firnd is ending. */
void lifts_end(struct bplace *p);
/* Freeze or sever for (a), as a snapshot called (name), or "". */
void freeze(struct broker *b, struct asker a, struct bvm *vm, struct bplace *p,
    bool sever, const char *name);

/*
 * What a guest froze under a name is its owner's as well, as VM/NAME: the owner
 * could freeze the same memory at will. Left out where the name is taken or
 * both are too long for one, and after GRANTS_MAX, so that a guest cannot fill
 * its owner's table; and what is owned has one capability only.
 */
void grant_owner(
    struct bvm *vm, struct snap *s, uint32_t rights, const char *name);

/* --- lay.c ---------------------------------------------------------------- */
struct lay_req {
	uint64_t vm;
	struct snap *snap; /* the callee holds it itself */
	uint64_t gpa;
	uint32_t mode; /* enum firn_map_mode, | FIRN_MAP_TRACK */
	char name[FIRN_NAME_MAX];
	bool open;  /* for WIRE_G_OPEN: answer (a) itself, lay nothing */
	bool adopt; /* tell whether it is FIRN_MAP_OWN or FIRN_MAP_COW */
	struct cap_table *holder; /* of what is adopted; stays if (vm) does */
};
void lay(struct broker *b, struct asker a, const struct lay_req *r);
/* vmops.c: parameters "snapshot", "gpa" and "name" of (rq), all checked. */
int lay_req_take(struct broker *b, struct bvm *vm, struct ctl_req *rq,
    uint32_t rights, struct lay_req *r, struct err *e);

/* --- view.c --------------------------------------------------------------- */
/* What a monitor is to show, as it is told it. */
struct view {
	struct asker a;
	const struct lay_req *r;
	uint64_t begin_ns;
	uint64_t nruns;
	int runs_fd;
	const struct filetab *tab;
};
/* 0: the asker is answered when (vm) is. On failure nothing was told, or (vm)
 * is ended. */
int view_tell(
    struct broker *b, struct bvm *vm, const struct view *v, struct err *e);

/* --- exact.c -------------------------------------------------------------- */
#define EXACT_FILES_MAX 200u

/* A snapshot as runs over files of which every page is reachable from it. */
struct exact {
	struct map map; /* names the files' layers */
	int runs_fd;    /* the runs, in a memfd */
	struct filetab tab;
};

/* (x), or NULL with what failed; it ends with the call. */
typedef void exact_fn(
    struct broker *b, struct exact *x, const struct err *e, void *ctx);
/* Have that of (s), which is sealed; (fn) is called once, perhaps at once.
 * Files that tell of more are copied first: -ENOSPC, -ENOMEM, -EMFILE, -E2BIG,
 * errors of the copy. */
void exact(struct broker *b, struct snap *s, exact_fn *fn, void *ctx);

/* --- own.c: what one holder alone has ------------------------------------- */
/* Is it owned, and nobody else's? */
bool own_alone(struct broker *b, struct snap *s);
/*
 * Have (s) sealed, unless it is; then (fn) is called, with what failed or NULL,
 * perhaps at once. When this is refused (fn) is not called.
 */
typedef void own_fn(struct broker *b, const struct err *e, void *ctx);
int own_seal(
    struct broker *b, struct snap *s, own_fn *fn, void *ctx, struct err *e);
/* Can (p) be severed? Every reason against it that the broker knows; segment 0
 * is its monitor's to refuse. */
int sever_check(struct broker *b, const struct bvm *vm, const struct bplace *p,
    struct err *e);
/* Lay it as the VM's own; copy-on-write if it is sealed. */
void adopt(struct broker *b, struct asker a, struct lay_req *r);
/* Bytes for what is about to be adopted, of which the layers have some. */
int own_reserve(
    struct broker *b, struct bvm *vm, const struct snap *s, struct err *e);
/* (p) shows it: end the capability and what the layers have of it. */
void own_adopted(struct broker *b, struct bplace *p, const struct lay_req *r);
/* (vm), or NULL, does not adopt it: fail (a) once that cannot have it any more.
 */
void own_refused(struct broker *b, struct bvm *vm, struct asker *a,
    struct snap *s, const struct err *why);
/* (vm) is being launched with (s): begin to move what is owned; and end it. */
int own_move(struct broker *b, struct bvm *vm, struct snap *s, struct err *e);
void own_moved(struct broker *b, struct bvm *vm, bool done);

/* --- diff.c --------------------------------------------------------------- */
/* One side of a comparison: a snapshot, or a place as it is now. */
struct side {
	struct snap *snap; /* or NULL */
	struct bvm *vm;
	struct bplace *place;
};
void diff(struct broker *b, struct asker a, const struct side side[2],
    bool exact, uint32_t max);
/* Compare two maps byte by byte, both taken over; for exact cursors. (end) is
 * called once: what differs in the pages before (told) is about to be answered,
 * unless that fails; 0: nothing is. */
typedef int diff_end_fn(struct broker *b, uint64_t told, void *ctx);
void diff_maps(struct broker *b, struct asker a, struct map x, struct map y,
    uint32_t max, diff_end_fn *end, void *ctx);
/* The snapshot or VM:SEGMENT that parameter (param) names, to be compared. */
int side_find(struct broker *b, struct ctl_req *rq, const char *param,
    struct side *out, struct err *e);
/* The memfds of answers, made in any thread: of more than EXTENTS_INLINE
 * extents; *fd is -1 where there are fewer, or on failure. -ENOMEM, errors of
 * memfd_create(2), pwrite(2). */
int extents_blob(const struct firn_extent *x, uint64_t n, int *fd);
/* Put (x) into (result): "extents", or, where extents_blob() made one,
 * "extents_fd", which is number (i) of the answer's descriptors. -ENOMEM. */
int extents_put(
    json_t *result, const struct firn_extent *x, uint64_t n, int fd, size_t i);

/* --- meld.c --------------------------------------------------------------- */
struct meld_req {
	struct snap *snap[3]; /* base, a, b; the callee holds them itself */
	uint32_t rights;      /* of the result */
	bool blind;           /* also where a step was not tracked */
	uint32_t max;         /* conflicts that a guest wants */
	char name[FIRN_NAME_MAX];
};
/* The right that is needed on snap[i]. */
uint32_t meld_right(int i);
void meld(struct broker *b, struct asker a, const struct meld_req *r);

/* --- track.c -------------------------------------------------------------- */
/* What a monitor tells of a tracked place, as it is read. Zeroed but for the
 * first three. */
struct sets_in {
	int fd; /* the two bitmaps, in a memfd; the caller's */
	uint64_t npages;
	const struct kin_sets *told; /* earlier; or NULL */
	uint64_t at;                 /* words that were read */
	size_t passed[2];            /* extents of (told) */
	struct kin_sets all;
	struct kin_sets fresh; /* of them, those that are not in (told) */
};
/* Read what a turn of the loop has time for: 1 when there is more, 0 when that
 * was all. -EPROTO: they are not two bitmaps of so many pages; -ENOMEM, -E2BIG,
 * errors of pread(2). Then it has no sets. */
int sets_turn(struct sets_in *in);
void sets_end(struct sets_in *in);

/* --- dirty.c -------------------------------------------------------------- */
/* A guest's exact query. */
void guest_dirty(struct broker *b, struct asker a, struct bvm *vm,
    const struct wire_gdirty *g);
/* (p) ends: let go of what its cursors hold. */
void cursors_end(struct broker *b, struct bplace *p);

/* --- guest.c: what guests ask --------------------------------------------- */
void guest_packet(struct broker *b, struct bvm *vm, struct wire_packet *p);

/* --- handlers (ops.c has the table) --------------------------------------- */
extern const struct ctl_conf broker_ctl_conf;
void op_subscribe(void *ctx, struct ctl_req *rq);
void op_stats(void *ctx, struct ctl_req *rq);
void op_vm_launch(void *ctx, struct ctl_req *rq);
void op_vm_list(void *ctx, struct ctl_req *rq);
void op_vm_kill(void *ctx, struct ctl_req *rq);
void op_vm_pause(void *ctx, struct ctl_req *rq);
void op_vm_resume(void *ctx, struct ctl_req *rq);
void op_vm_wait(void *ctx, struct ctl_req *rq);
void op_vm_segments(void *ctx, struct ctl_req *rq);
void op_segment_freeze(void *ctx, struct ctl_req *rq);
void op_segment_sever(void *ctx, struct ctl_req *rq);
void op_view_map(void *ctx, struct ctl_req *rq);
void op_view_unmap(void *ctx, struct ctl_req *rq);
void op_snapshot_list(void *ctx, struct ctl_req *rq);
void op_snapshot_show(void *ctx, struct ctl_req *rq);
void op_snapshot_diff(void *ctx, struct ctl_req *rq);
void op_snapshot_drop(void *ctx, struct ctl_req *rq);
void op_snapshot_open(void *ctx, struct ctl_req *rq);
void op_snapshot_import(void *ctx, struct ctl_req *rq);
void op_snapshot_heat(void *ctx, struct ctl_req *rq);
void op_dirty_query(void *ctx, struct ctl_req *rq);
void op_dirty_end(void *ctx, struct ctl_req *rq);
void op_track_query(void *ctx, struct ctl_req *rq);
void op_snapshot_meld(void *ctx, struct ctl_req *rq);
void op_view_adopt(void *ctx, struct ctl_req *rq);
void op_vm_give(void *ctx, struct ctl_req *rq);
void op_vm_take(void *ctx, struct ctl_req *rq);

#endif /* VMM_BROKER_INTERNAL_H */
