/* SPDX-License-Identifier: MIT */
/*
 * vm: one virtual machine, from /dev/kvm to its program's end, as a broker
 * asks for it over the wire.
 *
 * Hides:    the order in which a VM is made, confined and ended, and its
 *           threads: the control thread, which calls vm_serve() and alone
 *           changes places, and one thread for each vCPU.
 */
#ifndef VMM_VM_VM_H
#define VMM_VM_VM_H

#include "vmm/core/err.h"

/*
 * Make a VM, say WIRE_READY on (sock), run the program of the WIRE_LAUNCH that
 * comes, serve requests until the program or the broker ends, and free
 * everything. Confines the process for good, and ignores SIGPIPE.
 *
 * Returns 0 when the broker was told how it ended (WIRE_EXITED, also when
 * nothing could be run), or went away; otherwise -errno with (e): the broker
 * cannot be told.
 */
int vm_serve(int sock, struct err *e);

#endif /* VMM_VM_VM_H */
