/* SPDX-License-Identifier: MIT */
/* linux: Linux's calls on files, as functions of the table in linux.c. */
#ifndef VMM_GUESTCALL_LINUX_H
#define VMM_GUESTCALL_LINUX_H

#include "vmm/guestcall/internal.h"

/* The value of a write; the program's end, as by SIGPIPE, where nobody reads
 * and it did not say that it wants to know (-EPIPE). */
int64_t linux_unless_pipe(struct guest_call *c, int64_t n);

int64_t linux_read(struct guest_call *c);
int64_t linux_write(struct guest_call *c);
int64_t linux_readv(struct guest_call *c);
int64_t linux_writev(struct guest_call *c);
int64_t linux_pread(struct guest_call *c);
int64_t linux_open(struct guest_call *c);
int64_t linux_openat(struct guest_call *c);
int64_t linux_close(struct guest_call *c);
int64_t linux_stat(struct guest_call *c); /* and lstat */
int64_t linux_fstat(struct guest_call *c);
int64_t linux_fstatat(struct guest_call *c);
int64_t linux_lseek(struct guest_call *c);
int64_t linux_poll(struct guest_call *c);
int64_t linux_ioctl(struct guest_call *c);
int64_t linux_fcntl(struct guest_call *c);
int64_t linux_dup(struct guest_call *c);
int64_t linux_dup2(struct guest_call *c);
int64_t linux_dup3(struct guest_call *c);
int64_t linux_readlink(struct guest_call *c);
int64_t linux_readlinkat(struct guest_call *c);

#endif /* VMM_GUESTCALL_LINUX_H */
