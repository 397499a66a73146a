/* SPDX-License-Identifier: MIT */
/*
 * wire: what the broker and a monitor say to each other.
 *
 * Over an AF_UNIX SOCK_SEQPACKET pair: one struct wire_msg a packet, then
 * (len) bytes of payload, descriptors by SCM_RIGHTS. Either side sends
 * requests with its own sequence numbers; a reply repeats the request's
 * number, with WIRE_REPLY set in the type and status 0 or -errno; on an error
 * the payload is a plain-text reason. Lists of runs and bitmaps travel as
 * memfds, whose size the receiver takes from the kernel; the receiver copies
 * them before it checks them. A payload that is a name is FIRN_NAME_MAX bytes,
 * the rest of them NUL.
 *
 * The broker believes nothing in here: every number is checked against what it
 * knows or the kernel says.
 */
#ifndef VMM_WIRE_WIRE_H
#define VMM_WIRE_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "shared/abi/guestcall.h"
#include "vmm/core/err.h"

#define WIRE_MAGIC       0x4e524946u /* "FIRN" */
#define WIRE_VERSION     1u
#define WIRE_PAYLOAD_MAX 32768u
#define WIRE_FDS_MAX     200u
#define WIRE_FDS_CAME    253u /* the kernel's SCM_MAX_FD: it closes the rest */
#define WIRE_REPLY       0x8000u
#define WIRE_REPORT_MAX  16384u

enum wire_type {
	/* broker -> monitor */
	/* wire_launch + blob; fds: elf, stdin, stdout, stderr, and the memory
	 * of each segment, or of none */
	WIRE_LAUNCH = 1,
	WIRE_FREEZE,   /* wire_place -> wire_frozen; fds: wire_frozen */
	WIRE_LAYERS,   /* more layer fds for the WIRE_MAP that follows; no reply
			*/
	WIRE_MAP,      /* wire_map; fds: runs memfd, layers -> wire_mapped */
	WIRE_UNMAP,    /* wire_place -> */
	WIRE_PAUSE,    /* -> */
	WIRE_RESUME,   /* -> */
	WIRE_KILL,     /* no reply but the monitor's end */
	WIRE_SEGMENTS, /* -> wire_segment[] */
	WIRE_DIRTY,    /* wire_dirty -> wire_dirtied; fds: bitmap memfd */
	WIRE_STATS,    /* -> wire_stats */
	/* wire_place; fds: memory for the place to go on with -> wire_frozen;
	 * fds: as WIRE_FREEZE */
	WIRE_SEVER,
	WIRE_TOUCHED,   /* wire_place -> ; fds: the two bitmaps */
	WIRE_DIRTY_END, /* wire_dirty -> : the cursor is no more */
	/* monitor -> broker */
	WIRE_READY, /* wire_ready: confined, waits for WIRE_LAUNCH; no reply */
	WIRE_STARTED,    /* the program runs from now on; no reply */
	WIRE_EXITED,     /* wire_exited + report text; no reply; last message */
	WIRE_SEG_MADE,   /* wire_segment: the guest made one; no reply */
	WIRE_SEG_GONE,   /* wire_place: the guest unmapped it; no reply */
	WIRE_G_FREEZE,   /* wire_gfreeze -> cap in status, struct firn_frozen */
	WIRE_G_SEVER,    /* the same */
	WIRE_G_MAP,      /* wire_gmap -> struct firn_segment */
	WIRE_G_LOOKUP,   /* name -> cap in status */
	WIRE_G_DESCRIBE, /* wire_gcap -> struct firn_cap_info */
	/* wire_gdiff -> struct firn_pages; fds: memfd of struct firn_extent */
	WIRE_G_DIFF,
	WIRE_G_DERIVE, /* wire_gcap -> cap in status */
	WIRE_G_DROP,   /* wire_gcap -> */
	WIRE_G_OPEN, /* name -> wire_opened; fds: runs memfd, layers: /snap/NAME
		      */
	WIRE_G_SEGMENT, /* wire_segment (name, size, flags) -> ; fds: its
			 * memory, whose bytes are reserved; WIRE_SEG_MADE
			 * follows, or WIRE_SEG_GONE with id UINT32_MAX; one at
			 * a time */
	/* wire_gmeld -> wire_melded; fds: memfd of struct firn_conflict */
	WIRE_G_MELD,
	WIRE_G_ADOPT, /* wire_gmap (no mode) -> struct firn_segment */
	/* broker -> monitor: wire_relay -> wire_relayed; fds: as WIRE_MAP */
	WIRE_RELAY,
	/* monitor -> broker: wire_gdirty -> as WIRE_G_DIFF. Without FIRN_EXACT
	 * only of a cursor that began with it, else -ENOENT. The cursor passes
	 * what is in the memfd */
	WIRE_G_DIRTY,
	WIRE_G_CLOSED, /* wire_closed: of WIRE_G_OPEN; no reply */
	WIRE_TYPE_END
};

struct wire_msg {
	uint32_t magic;
	uint16_t version;
	uint16_t type; /* enum wire_type, | WIRE_REPLY */
	uint32_t seq;
	uint32_t len; /* of the payload */
	int64_t status;
};

#define WIRE_ARGS_MAX     256u
#define WIRE_SEGMENTS_MAX 32u /* places of a VM, RAM and views counted */

/* Payload: this, then nsegs wire_segment (name, size, flags of those that
 * FIRN_SEG_MAKE has), then the strings of argv and envp, each with its NUL, and
 * a name for the report. */
struct wire_launch {
	uint64_t mem; /* bytes of segment 0 */
	uint32_t nargs;
	uint32_t nenv;
	uint32_t nsegs;
	uint32_t strings_len;
};

struct wire_segment {
	uint32_t id;
	uint32_t flags; /* FIRN_SEG_* */
	uint64_t gpa;
	uint64_t size;
	uint64_t resident; /* bytes, as the kernel tells the monitor */
	uint64_t private_; /* bytes of those that only this VM uses */
	uint64_t snapshot; /* that a view shows, else 0 */
	char name[FIRN_NAME_MAX];
};

struct wire_place {
	uint32_t id;
	uint32_t flags;
};

/*
 * One freeze tells of one or more steps, oldest first: each step is a layer and
 * the runs to put over the map so far. fds: for each step, the runs memfd, then
 * the layer (sealed; absent where all runs are zero). In a run the layer is 0
 * for the step's layer, or RUN_ZERO. A step's layer is the segment's own memfd
 * when first is set: then the map before it was all zero. After a severed step
 * the place reads zero. The layer of one that is owned as well is not sealed:
 * the monitor gives it up, with its mapping, before it reads its next request.
 *
 * Of a tracked view a memfd of two bitmaps follows, of whole 64-bit words each:
 * the pages read since it was laid, then those written.
 */
#define WIRE_STEPS_MAX 4u

struct wire_step {
	uint64_t nruns;
	uint64_t layer_npages;
	uint32_t has_layer;
	uint32_t first;
	uint32_t severed;
	uint32_t owned;
};

struct wire_frozen {
	uint64_t npages;
	uint64_t dirty_pages;
	uint64_t copied_pages;
	uint64_t cold_pages; /* private, in layers, not written for a while */
	uint64_t warm_pages; /* private, in layers, others */
	uint64_t pause_ns;
	uint64_t total_ns;
	uint32_t nsteps;
	uint32_t tracked; /* 1: two bitmaps are the last descriptor */
	struct wire_step step[WIRE_STEPS_MAX];
};

/*
 * fds: runs memfd, then layers; the layers of all WIRE_LAYERS since the last
 * WIRE_MAP come before those of this message. In a run the layer is the index
 * of the descriptor among them. Mode FIRN_MAP_OWN: the one layer is memory that
 * the VM adopts.
 */
struct wire_map {
	uint64_t npages;
	uint64_t gpa; /* 0: the monitor chooses */
	uint64_t nruns;
	uint64_t snapshot; /* for reports */
	uint32_t nlayers;
	uint32_t mode; /* enum firn_map_mode, | FIRN_MAP_TRACK */
	char name[FIRN_NAME_MAX];
};

/*
 * Place (id) is to show the same bytes from other files: those that it had when
 * it was frozen last or laid. -EXDEV: it shows some from the old and some from
 * the new; -ENOTRECOVERABLE: the VM is lost; another failure: nothing changed.
 */
struct wire_relay {
	uint64_t npages;
	uint64_t nruns;
	uint32_t id;
	uint32_t nlayers;
};

struct wire_relayed {
	uint64_t pause_ns;
	uint64_t given_pages; /* of private memory, back */
};

struct wire_mapped {
	uint32_t id;
	uint32_t pad;
	uint64_t gpa;
};

/* The reply to WIRE_G_OPEN is as wire_map, with mode FIRN_MAP_RO; layers that
 * do not fit come in WIRE_LAYERS before the reply. */
struct wire_opened {
	uint64_t snapshot; /* the broker's id */
	uint64_t npages;
	uint64_t nruns;
	uint32_t nlayers;
	uint32_t id; /* to be closed by; not 0 */
};

struct wire_closed {
	uint32_t id;
	uint32_t pad;
};

/* Cursors of clients begin so, those of the guest never do: neither can take
 * bits from the other. */
#define WIRE_CURSOR_CLIENT "@"

struct wire_dirty {
	uint32_t id;
	uint32_t flags; /* FIRN_PEEK */
	char cursor[FIRN_NAME_MAX];
};

struct wire_dirtied {
	uint64_t pages;
	uint64_t npages; /* of the place: bits in the bitmap */
};

struct wire_stats {
	uint64_t syscalls;
	uint64_t enosys;
};

struct wire_ready {
	uint32_t pid;
	uint32_t pad;
};

struct wire_exited {
	int32_t status;  /* as a shell would give: 0..255 */
	uint32_t reason; /* enum wire_exit_reason */
	uint64_t rip;
	uint64_t address; /* that faulted */
	uint64_t snapshot;
	uint32_t segment; /* UINT32_MAX: none */
	uint32_t known;   /* of a fault: enum wire_known */
	uint32_t ncode;
	uint32_t pad;
	uint8_t code[16];  /* bytes at rip, for the client to disassemble */
	uint64_t regs[16]; /* rax rbx rcx rdx rsi rdi rsp rbp r8..r15 */
	uint64_t rflags;
	struct wire_stats stats; /* the last ones */
};

enum wire_exit_reason {
	WIRE_EXIT_PROGRAM = 0, /* called exit */
	WIRE_EXIT_FAULT = 1,   /* with a report */
	WIRE_EXIT_KILLED = 2,
	WIRE_EXIT_REFUSED = 3, /* never ran: bad program, no memory */
};

enum wire_known {
	WIRE_KNOWN_REGS = 1, /* rip, code, regs, rflags */
	WIRE_KNOWN_ADDRESS = 2,
};

struct wire_gfreeze {
	uint32_t id;
	uint32_t pad;
	char name[FIRN_NAME_MAX];
};

struct wire_gmap {
	uint64_t gpa;
	uint32_t cap;
	uint32_t mode;
};

struct wire_gcap {
	uint32_t cap;
	uint32_t rights;
};

struct wire_gdiff {
	uint32_t a;
	uint32_t b;
	uint32_t flags; /* FIRN_EXACT */
	uint32_t max;   /* extents wanted */
};

struct wire_gdirty {
	uint32_t id;
	uint32_t flags; /* FIRN_EXACT, FIRN_PEEK */
	uint32_t max;   /* extents wanted */
	uint32_t pad;
	char cursor[FIRN_NAME_MAX];
};

struct wire_gmeld {
	struct firn_meld m;
	char name[FIRN_NAME_MAX];
};

struct wire_melded {
	int32_t result; /* the capability; -ESTALE: they conflict */
	uint32_t pad;
	struct firn_melded m;
};

_Static_assert(sizeof(struct wire_msg) == 24, "wire layout");
_Static_assert(sizeof(struct wire_launch) == 24, "wire layout");
_Static_assert(sizeof(struct wire_segment) == 112, "wire layout");
_Static_assert(sizeof(struct wire_step) == 32, "wire layout");
_Static_assert(sizeof(struct wire_frozen) == 192, "wire layout");
_Static_assert(sizeof(struct wire_map) == 104, "wire layout");
_Static_assert(sizeof(struct wire_relay) == 24, "wire layout");
_Static_assert(sizeof(struct wire_exited) == 216, "wire layout");
_Static_assert(sizeof(struct wire_gdirty) == 80, "wire layout");

/* A packet as received: the owner closes the descriptors with
 * wire_close_fds(). */
struct wire_packet {
	struct wire_msg m;
	uint32_t nfds;
	int fd[WIRE_FDS_CAME];
	/* Aligned for any structure of this header. */
	_Alignas(8) unsigned char payload[WIRE_PAYLOAD_MAX];
};

/*
 * Send one packet. Blocks unless the socket is non-blocking. Returns 0,
 * -EMSGSIZE (len or nfds beyond the limits), -EAGAIN, -EPIPE or another errno
 * of sendmsg(2). The descriptors stay the caller's.
 */
int wire_send(int sock, const struct wire_msg *m, const void *payload,
    const int *fds, uint32_t nfds);

/*
 * Receive one packet into (p). Returns 1, 0 at the end of the stream, -EAGAIN,
 * -EPROTO (magic, version, length, truncation or too many descriptors) or
 * another errno. Whatever it returns, (p) owns the descriptors that came.
 */
int wire_recv(int sock, struct wire_packet *p);

void wire_close_fds(struct wire_packet *p);

/* Take descriptor (i) out of (p); -1 when there is none. */
int wire_take_fd(struct wire_packet *p, uint32_t i);

/*
 * A memfd of (len) bytes of (data), which nobody can change; or -errno. The
 * seals are for who maps it. They are no proof to who does not trust the
 * sender: he could have mapped it before; wire_slurp() copies, and needs none.
 */
int wire_blob(const char *name, const void *data, size_t len);

/*
 * Copy the whole of memfd (fd) to the heap, at most (max) bytes. Returns 0 with
 * *data (the caller frees it; NULL when empty) and *len, -EFBIG, -ENOMEM or an
 * errno of pread(2); -EINVAL when it is no memfd.
 */
int wire_slurp(int fd, size_t max, void **data, size_t *len);

/*
 * The same in parts: how long memfd (fd) is now, -EINVAL when it is none; and
 * (len) bytes of it from (at), -EPROTO when it has not so many any more.
 */
int wire_len(int fd, uint64_t *len);
int wire_read(int fd, uint64_t at, void *to, size_t len);

#endif /* VMM_WIRE_WIRE_H */
