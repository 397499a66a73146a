/* SPDX-License-Identifier: MIT */
/*
 * internal: what the files of guestcall share.
 *
 * Locks, in this order: the gate (inside), (lock). Neither is held while a call
 * blocks in the host. (files_lock) is taken alone.
 */
#ifndef VMM_GUESTCALL_INTERNAL_H
#define VMM_GUESTCALL_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/guestcall/aspace.h"
#include "vmm/guestcall/guest.h"

#define GUEST_FILES_MAX  64u
#define GUEST_CPUS_MAX   16u
#define GUEST_BOUNCE_MAX 32768u /* bytes of one host read or write */
#define GUEST_EXE_NAME   "/program"

/* An open file: one of the three streams, or a snapshot opened by name. */
struct guest_file {
	uint32_t refs;
	int host_fd;   /* of a stream, borrowed; -1 */
	bool pollable; /* not a regular file: may block */
	bool tty;
	uint64_t snapshot; /* the broker's id; what follows is of this one */
	uint64_t pos;
	uint64_t size;
	struct page_run *run;
	size_t nruns;
	int *layer; /* owned */
	uint32_t nlayers;
	uint32_t opened; /* what the broker calls it; 0 */
};

/* The repeated fault that no mapping cures. */
struct guest_again {
	uint64_t va;
	uint64_t rip;
	uint32_t times;
};

struct guest {
	struct guest_env env;
	unsigned char *sys; /* the system bank's memory */
	int sys_slot;
	struct place *ram;
	uint64_t ram_gpa;
	uint64_t ram_len;
	pthread_mutex_t lock; /* the address space */
	struct aspace as;
	struct as_ops as_ops;
	pthread_mutex_t files_lock;
	struct guest_file *file[GUEST_FILES_MAX];
	_Atomic uint64_t blocked; /* signals, as Linux numbers their bits */
	_Atomic bool pipe_caught; /* SIGPIPE is ignored or has a handler */
	struct guest_again again[GUEST_CPUS_MAX];
	_Atomic uint64_t nsyscalls;
	_Atomic uint64_t nenosys;
};

/* A call that is being answered. */
struct guest_call {
	struct guest *g;
	struct cpu_regs *r;
	uint32_t cpu;
	uint64_t nr;
	uint64_t a[6];
	struct guest_end *end;
	bool ended; /* *end is filled: the program does not go on */
};

/*
 * Copy between (buf) and the program's memory, faulting pages in; each passes
 * the gate by itself. -EFAULT: part of the range is not the program's to read
 * or write; what was copied before it stays.
 */
int guest_copy_in(struct guest *g, void *buf, uint64_t va, uint64_t len);
int guest_copy_out(struct guest *g, uint64_t va, const void *buf, uint64_t len);
/* A string of at most (max) bytes with its NUL. Its length; -EFAULT,
 * -ENAMETOOLONG. */
int guest_copy_str(struct guest *g, char *buf, uint64_t va, uint32_t max);

/* guest_copy_out() whatever the protection; before the program runs. */
int guest_store(struct guest *g, uint64_t va, const void *buf, uint64_t len);

/* Load the program and its stack into an empty address space: guest_load(). */
int load_program(struct guest *g, int fd, char *const argv[],
    char *const envp[], struct cpu_start *start, struct err *e);

/* Inside the gate, with the lock: begin and end to touch the address space. */
void guest_enter(struct guest *g);
void guest_leave(struct guest *g);

/* Linux's and firn's calls: the value for rax. */
int64_t linux_call(struct guest_call *c);
int64_t firn_call(struct guest_call *c);

/* vCPU (cpu) is in the stub of (vector): cured, or *end is filled. */
enum guest_verdict guest_trap(struct guest *g, uint32_t cpu, uint32_t vector,
    struct cpu_regs *r, struct guest_end *end);

/* Files. */
int files_init(struct guest *g, struct err *e); /* -ENOMEM */
void files_fini(struct guest *g);
struct guest_file *file_get(struct guest *g, uint64_t fd); /* NULL */
void file_put(struct guest *g, struct guest_file *f);
/* Give (f), whose reference is taken over also on failure, the lowest number
 * from (min) on. -EMFILE. */
int file_install(struct guest *g, struct guest_file *f, uint64_t min);
int file_close(struct guest *g, uint64_t fd); /* -EBADF */
/* At most GUEST_BOUNCE_MAX bytes; blocks outside the gate. */
int64_t file_read(
    struct guest *g, struct guest_file *f, void *buf, uint64_t len);
int64_t file_write(
    struct guest *g, struct guest_file *f, const void *buf, uint64_t len);
int64_t file_pread(struct guest_file *f, void *buf, uint64_t len, uint64_t off);
/* Open snapshot (name) for reading: a file number, or -ENOENT and others. */
int file_open_snap(struct guest *g, const char *name);

/* Wait (timeout_ns; UINT64_MAX: for ever) for (fd), -1 for none. 1: (events)
 * came, 0: time is up, -EINTR: the VM is being killed, -EAGAIN: a signal came,
 * wait for the rest. */
int guest_wait(struct guest *g, int fd, short events, uint64_t timeout_ns);

/* The program called exit, or ended by a signal of its own. */
void report_exit(int status, const char *text, struct guest_end *end);

/* What a fault report starts from. */
struct report {
	uint64_t rip;
	uint64_t rsp;
	uint64_t rflags;
	uint64_t address; /* that was touched */
	bool has_address;
	bool has_gpa; /* (gpa) is what was touched */
	uint64_t gpa;
	bool done; /* KVM went on: rip and the registers may be those after */
	bool regs_lost;
	int status;
	const char *verb; /* "read of", "write to", "execution of"; or NULL */
	char why[160];
};

/* Fill *end from (rp) and the registers. Outside the gate. */
void report_fault(struct guest *g, const struct cpu_regs *r,
    const struct report *rp, struct guest_end *end);

#endif /* VMM_GUESTCALL_INTERNAL_H */
