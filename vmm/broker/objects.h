/* SPDX-License-Identifier: MIT */
/*
 * objects: what the broker has, and how much of it there may be. All of it is
 * the loop thread's; worker threads get descriptors and held maps, nothing
 * else.
 *
 *   client --- home (capabilities of a uid) --- snap --- map --- layers
 *                |
 *               bvm --- link (to its monitor) --- bplace --- map
 */
#ifndef VMM_BROKER_OBJECTS_H
#define VMM_BROKER_OBJECTS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "shared/abi/guestcall.h"
#include "shared/cap/cap.h"
#include "vmm/broker/apply.h"
#include "vmm/core/closer.h"
#include "vmm/core/loop.h"
#include "vmm/core/worker.h"
#include "vmm/ctl/ctl.h"
#include "vmm/kin/kin.h"
#include "vmm/layer/layer.h"
#include "vmm/layer/tidy.h"
#include "vmm/map/map.h"
#include "vmm/wire/wire.h"

#define VMS_MAX         128u /* those that ended and are remembered counted */
#define SNAPS_MAX       65536u
#define SNAP_BUCKETS    8192u /* of 8 snapshots each, at the limit */
#define CAPS_CLIENT     CAP_SLOTS_MAX
#define HEAT_CELLS_MAX  65536u
#define LIST_MAX        1000u /* snapshots in a reply; there may be more */
#define CAPS_GUEST      256u
#define HOMES_MAX       64u
#define LAUNCH_FDS      4u /* of a client, for a VM to begin with */
#define PLACES_MAX      (2u * WIRE_SEGMENTS_MAX) /* those about to end, too */
#define CALLS_MAX       64u /* unanswered requests to one monitor */
#define GRANTS_MAX      512u
#define GUEST_CALLS_MAX 64u        /* of one VM, that wait for other work */
#define LINK_QUEUE_MAX  256u       /* packets that wait for a monitor to read */
#define LINK_FDS_MAX    4352u      /* descriptors in them: of one view */
#define CURSORS_MAX     8u         /* of one place */
#define RUNS_MAX        (4u << 20) /* of one step, one view */
#define EXTENTS_INLINE  4096u      /* in a reply; more come as a memfd */
#define RESERVE_FDS     16u /* kept so that a freeze's answer is never lost */
#define KILL_GRACE_MS   2000u
#define PACKETS_A_ROUND 32u   /* of one monitor, before others' turn */
#define LAST_WORDS_MAX  4096u /* packets; more than a socket holds */

struct link_out;
struct lift_op;

/* Packets to a monitor, in order; what its socket does not take waits here. */
struct link {
	int fd;
	struct loop_io *io;
	struct link_out *head, *tail;
	uint32_t nout;
	uint32_t nfds;      /* of those that wait */
	uint32_t under_way; /* descriptors sent, at most so many not read */
	struct loop_timer again; /* where the kernel had no room */
};

/* A page map under an id; lives while it is held (capabilities, views, work
 * under way). */
struct snap {
	struct snap *next; /* of its bucket */
	uint64_t id;
	struct map map;
	/* The same pages with fewer extents, for views; see lay.c. */
	bool has_laid;
	struct map laid;
	/* The same pages in files that tell nothing else; see exact.c. */
	bool has_opened;
	struct map opened;
	struct lineage *lineage;
	uint32_t holds;
	uint64_t origin_vm;
	uint32_t origin_segment;
	char origin[FIRN_NAME_MAX * 2]; /* VM:SEGMENT as it was called */
	struct kin *kin;                /* its own */
	uint64_t melded[2];             /* what it was made of, or 0 */
	bool blind;                     /* melded without all reads known */
	uid_t payer;
	bool private_history; /* only exact files go to a monitor */
	bool told;            /* its payer knows of it */
	/* The layer that the holder of the one capability alone has; 0: sealed.
	 * See own.c. */
	uint32_t owned;
	bool busy;     /* just being sealed, adopted or given */
	bool unproven; /* a monitor had its descriptor since */
};

/* Relatives: a place, its snapshots and their descendants. Remembers the laid
 * form of one of them, from which the others' are derived. */
struct lineage {
	uint32_t refs;
	uint64_t laid_snap; /* 0: none */
};

struct home {
	struct home *next;
	uid_t uid;
	uint32_t number; /* below HOMES_MAX; its own for good */
	struct cap_table caps;
	struct cap_slot *slots;
};

struct client {
	struct client *next;
	struct ctl_conn *conn;
	struct home *home;
	bool subscribed;
};

/* What a monitor told and no map has yet: kept until it is applied. */
struct step {
	struct step *next;
	int runs_fd; /* or -1 */
	uint64_t nruns;
	uint64_t nread; /* of them: they are in (map) */
	uint64_t end;   /* the page behind those */
	int fd;         /* not yet adopted, or -1 */
	uint64_t npages;
	uint32_t layer; /* adopted, or RUN_ZERO */
	bool first;
	bool none;      /* no monitor told it, and it has no runs */
	bool begun;     /* there is a (map) */
	struct map map; /* what the place is to show */
	bool severed;   /* the place read zero after it */
	bool owned;     /* its layer is to be */
	bool pinned; /* (file): what a first step came in, mapped by its VM */
	uint32_t file;
};

/* Files that a monitor has mapped or open. */
struct pins {
	uint32_t *file;
	uint32_t n;
};

/* Files that a VM has in use and no place of it shows; see held.c. */
struct held {
	struct held *next;
	uint32_t id; /* its monitor closes it by; 0: a view to come */
	struct pins pins;
};

/* A plain one's bits are with the monitor. */
struct cursor {
	char name[FIRN_NAME_MAX]; /* "": free */
	uint64_t id;              /* no other's, ever */
	bool exact;
	struct map base; /* of an exact one */
	bool busy;       /* a plain one that the monitor is asked of */
	bool owes;       /* (owed): a bitmap that no answer had */
	int owed;
};

struct bplace {
	bool used;
	uint32_t id;
	uint32_t flags; /* FIRN_SEG_* */
	char name[FIRN_NAME_MAX];
	uint64_t gpa;
	uint64_t npages;
	struct map cur; /* what the next freeze is put over */
	struct lineage *lineage;
	struct snap *shown;   /* a view's, held */
	struct kin *kin;      /* parent of the next; held, or NULL */
	uint64_t lay_id;      /* of a tracked view, which kin_descend() wants */
	struct kin_sets told; /* of it, with its last snapshot */
	struct step *pending; /* oldest first */
	uint64_t steps_taken; /* to be pending, ever */
	uint64_t steps_gone;  /* of them, that are not any more */
	struct lift_op *lifts; /* answered, in order: wait for their steps */
	bool severing;         /* the monitor was asked to */
	bool giving_up;        /* and then to give up what it sent */
	bool adopted;
	bool was_severed; /* at least once */
	/* Severed, and not yet anybody's: the next sever gives it. */
	bool has_severed;
	struct map severed;
	struct kin *severed_kin; /* parent of that; held, or NULL */
	uint32_t severed_owned;  /* the layer, or 0 */
	struct wire_frozen severed_f;
	struct pins pins;  /* what a view was laid from */
	uint32_t whose;    /* its layers are: see layers_of(); or nobody's */
	unsigned lifting;  /* freezes that are not over */
	bool gone;         /* unmapped; ends once those are over */
	bool relaying;     /* the monitor was asked to; see relay.c */
	bool unmovable;    /* it would not, until the next freeze */
	bool has_own_file; /* what was its memory until it was frozen */
	uint32_t own_file;
	struct cursor cursor[CURSORS_MAX]; /* of clients */
	/* The guest's exact ones; of its plain ones its monitor alone knows. */
	struct cursor guest_cursor[CURSORS_MAX];
};

enum vm_state { VM_STARTING, VM_RUNNING, VM_PAUSED, VM_EXITED };

struct bvm;
/* (p) is NULL when the VM ended before it answered. May take descriptors. */
typedef void reply_fn(
    struct broker *b, struct bvm *vm, struct wire_packet *p, void *ctx);

struct call {
	struct call *next;
	uint32_t seq;
	uint16_t type;
	reply_fn *fn;
	void *ctx;
};

struct waiter {
	struct waiter *next;
	struct ctl_req *rq;
};

struct bvm {
	struct bvm *next;
	struct broker *b;
	uint64_t id;
	char name[FIRN_NAME_MAX];
	enum vm_state state;
	struct home *home;
	struct ctl_conn *attached; /* ends with this connection; or NULL */
	bool forget;               /* no record is to be kept when it ends */
	bool dead;                 /* swept away soon */
	bool killed;               /* told to end; SIGKILL follows */

	pid_t pid;
	uint64_t cpu_ns; /* of it, once it has ended */
	int pidfd;
	struct loop_io *pidfd_io;
	struct loop_timer killer;
	struct link link;
	uint32_t seq;
	uint32_t ncalls;
	struct call *calls;
	uint32_t ngone;        /* places: until they end it is not read */
	uint32_t ngrants;      /* of its guest's freezes to its owner */
	uint32_t nguest_calls; /* of its guest, that wait for other work */

	uint64_t mem;
	uint64_t reserved;       /* bytes in the bank */
	uint64_t reserved_next;  /* for a segment that the guest is making */
	uint32_t reserved_flags; /* FIRN_SEG_* of it */
	struct bplace place[PLACES_MAX];
	struct cap_table caps;
	struct cap_slot *slots;

	/* Until WIRE_READY: program, streams, memory of segments. */
	int launch_fd[LAUNCH_FDS + WIRE_SEGMENTS_MAX];
	uint32_t nlaunch_fds;
	struct move *moves; /* until WIRE_STARTED */
	unsigned char *launch;
	uint32_t launch_len;
	struct ctl_req *launch_rq; /* until WIRE_STARTED */

	struct held *held;
	uint32_t last_opened; /* id */
	struct wire_stats stats;
	bool has_end;
	struct wire_exited end;
	char *report; /* or NULL */
	struct waiter *waiters;
};

/* The giving back of what nobody reaches; see store.c. */
struct store {
	struct broker *b;
	struct loop_timer timer;
	struct work work;
	struct tidy *job; /* under way, or NULL */
	bool marking;
	bool failed;          /* the last one */
	bool more, sparse;    /* it left something that needs a mark */
	uint32_t large_files; /* that it would not merge */
	uint64_t began_ns, ended_ns, took_ns;
	uint64_t gone, gone_began; /* entries, at the begin of the last mark */
	uint64_t live_bytes;       /* that it found */
	uint64_t held_bytes;       /* when it had ended */
	struct stats_op *waiting;  /* for a mark */
	uint64_t marks, moved_files, moved_bytes, moved_places; /* ever */
	uint64_t given_bytes, relay_ns; /* ever, as monitors say */
	struct loop_timer relays;
	uint64_t relay_vm; /* that is looked at; and its next place */
	uint32_t relay_place;
};

struct broker {
	struct loop *loop;
	struct worker_pool *pool;
	struct ctl_srv *ctl;
	struct ctl_conf ctl_conf;
	struct layer_set *layers;
	struct map_store store;
	const char *monitor;
	uint64_t bank_max;
	uint64_t bank_used; /* reserved by VMs; layers come on top */
	struct home *homes;
	struct client *clients;
	struct bvm *vms;
	struct snap *snaps[SNAP_BUCKETS];
	uint32_t nsnaps;
	struct kins kins;
	uint64_t next_id;
	struct loop_timer sweeper;
	struct store tidying;
	struct apply *applies; /* that are not over */
	struct closer *closer; /* of what clients and monitors sent */
	int reserve[RESERVE_FDS];
	uint32_t nreserve;
	struct wire_packet packet;
};

#endif /* VMM_BROKER_OBJECTS_H */
