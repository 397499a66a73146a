/* SPDX-License-Identifier: MIT */
/*
 * sandbox: what a monitor may still do once its VM is set up.
 *
 * A system call that no honest monitor makes (exec, every open, sockets,
 * ptrace, other processes' memory, io_uring, vmsplice, mounts, keys) ends the
 * process; any other that is not on the list fails with EPERM. ioctl(2) is
 * limited to the requests given, which leaves out TIOCSTI; no memory can be
 * made executable; new tasks can only be threads. A build with a sanitizer,
 * whose run-time opens files and traces threads, forbids only what ends the
 * process otherwise, less opens and ptrace: it is for tests.
 */
#ifndef VMM_SANDBOX_SANDBOX_H
#define VMM_SANDBOX_SANDBOX_H

#include <stddef.h>

#include "vmm/core/err.h"

/* Descriptors of a monitor: layers, views, the guest's. Fixed, so that the
 * table is grown once. */
#define SANDBOX_NOFILE 16384u

/*
 * Before the limits below: RLIMIT_NOFILE becomes SANDBOX_NOFILE (or the hard
 * limit, if that is lower), RLIMIT_CORE 0, and the process non-dumpable.
 * Descriptors of /proc/self must be open by then. 0 or -errno with (e).
 */
int sandbox_limits(struct err *e);

/*
 * Load the filter, with (n) requests of ioctl(2) that stay allowed, for this
 * thread and all it creates; there is no way back. 0 or -errno with (e).
 */
int sandbox_confine(const unsigned long *request, size_t n, struct err *e);

#endif /* VMM_SANDBOX_SANDBOX_H */
