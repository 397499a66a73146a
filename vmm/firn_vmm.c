/* SPDX-License-Identifier: MIT */
/* firn-vmm: the monitor of one VM, started by the broker. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "vmm/core/err.h"
#include "vmm/vm/vm.h"

#define WIRE_FD 3
/* malloc opens a file to count the CPUs, where it chooses how many, and one to
 * learn how to shrink another than the first; a confined monitor may not. */
#define ARENAS 1

static int check_wire(void)
{
	int type = 0;
	int domain = 0;
	socklen_t len = sizeof(int);

	return getsockopt(WIRE_FD, SOL_SOCKET, SO_TYPE, &type, &len) == 0 &&
	       getsockopt(WIRE_FD, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 &&
	       type == SOCK_SEQPACKET && domain == AF_UNIX;
}

int main(int argc, char **argv)
{
	struct err e = {0};

	(void)argv;
	if (argc > 1 || !check_wire()) {
		(void)fputs("firn-vmm: firnd starts it, with a socket as "
			    "descriptor 3; use \"firn run PROGRAM\"\n",
		    stderr);
		return 2;
	}
	(void)mallopt(M_ARENA_MAX, ARENAS);
	if (vm_serve(WIRE_FD, &e) < 0) {
		(void)fprintf(stderr, "firn-vmm: %s\n", e.msg);
		return 1;
	}
	return 0;
}
