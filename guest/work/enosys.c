/* SPDX-License-Identifier: MIT */
/* musl: yes */
/* enosys: what is not served says so; what is refused says why. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest/lib/firn_guest.h"

static int bad;

static void want(const char *what, long got, long expected)
{
	if (got == expected)
		return;
	printf("%s: %ld, not %ld\n", what, got, expected);
	bad = 1;
}

static long call(long nr, uint64_t a, uint64_t b, uint64_t c)
{
	return firn_syscall(nr, a, b, c, 0, 0, 0);
}

int main(void)
{
	uint64_t wild = 0x123456789000;

	want("socket", call(SYS_socket, 2, 1, 0), -ENOSYS);
	want("ptrace", call(SYS_ptrace, 0, 0, 0), -ENOSYS);
	want("large number", call(0x7fffffffffffffff, 0, 0, 0), -ENOSYS);
	want("beyond firn's", call(FIRN_NR_END, 0, 0, 0), -ENOSYS);
	want("open", call(SYS_open, (uintptr_t) "/etc/passwd", 0, 0), -ENOENT);
	want("write wild", call(SYS_write, 1, wild, 8), -EFAULT);
	want(
	    "write kernel", call(SYS_write, 1, 0xffffffff80001000, 8), -EFAULT);
	want("write wraps", call(SYS_write, 1, UINT64_MAX - 3, 8), -EFAULT);
	want("read to text", call(SYS_read, 0, (uintptr_t)main, 8), -EFAULT);
	want("no file", call(SYS_read, 63, 0, 8), -EBADF);
	want("W and X",
	    firn_syscall(SYS_mmap, 0, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS,
		UINT64_MAX, 0),
	    -EACCES);
	want("window fixed",
	    firn_syscall(SYS_mmap, FIRN_WINDOW, 4096, 3,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, UINT64_MAX, 0),
	    -EINVAL);
	want("forged capability", firn_drop(12345), -EBADF);
	want("as libc would say", firn_check(firn_drop(12345)), -1);
	want("its errno", errno, EBADF);
	want("no error", firn_check(7), 7);
	want("no such name", firn_lookup("no such name"), -ENOENT);
	want("name wild", call(FIRN_NR_LOOKUP, wild, 0, 0), -EFAULT);
	printf("enosys: %s\n", bad ? "wrong" : "right");
	return bad;
}
