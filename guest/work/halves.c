/* SPDX-License-Identifier: MIT */
/* musl: yes */
/*
 * halves: what is an int to Linux may come in a register with anything above
 * it. Makes calls with such arguments and names those that mind.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ABOVE  0x5a5a5a5a00000000UL
#define INT(i) (1u << (i))

static int wrong;

static long call(unsigned long nr, const unsigned long a[5])
{
	register unsigned long r10 __asm__("r10") = a[3];
	register unsigned long r8 __asm__("r8") = a[4];
	long ret;

	__asm__ volatile(
	    "syscall"
	    : "=a"(ret)
	    : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8)
	    : "rcx", "r11", "memory");
	return ret;
}

/* (ints) of the arguments are ints; the call is to return the same. */
static void same(const char *name, unsigned long nr, unsigned ints,
    const unsigned long args[5])
{
	unsigned long a[5];
	long plain = call(nr, args);
	long odd;

	for (unsigned i = 0; i < 5; i++)
		a[i] = args[i] | (ints & INT(i) ? ABOVE : 0);
	odd = call(nr | ABOVE, a);
	if (plain == odd && plain >= 0)
		return;
	printf("%s: %ld, then %ld\n", name, plain, odd);
	wrong = 1;
}

#define SAME(nr, ints, ...) same(#nr, nr, ints, (unsigned long[5]){__VA_ARGS__})

static char page[4096] __attribute__((aligned(4096)));

static void files(void)
{
	struct stat st;
	unsigned long s = (unsigned long)&st;
	unsigned long b = (unsigned long)page;

	SAME(SYS_write, INT(0), 1, b, 0);
	SAME(SYS_writev, INT(0) | INT(2), 1, b, 1);
	SAME(SYS_read, INT(0), 0, b, 0);
	SAME(SYS_fstat, INT(0), 1, s);
	SAME(SYS_newfstatat, INT(0) | INT(3), 1, b, s, AT_EMPTY_PATH);
	SAME(SYS_dup2, INT(0) | INT(1), 1, 9);
	SAME(SYS_dup3, INT(0) | INT(1) | INT(2), 1, 9, O_CLOEXEC);
	SAME(SYS_fcntl, INT(0) | INT(1), 9, F_GETFD);
	SAME(SYS_poll, INT(1) | INT(2), b, 0, 1);
	SAME(SYS_readlink, INT(2), (unsigned long)"/proc/self/exe", b, 1);
}

static void others(void)
{
	struct timespec ts = {0};
	unsigned long t = (unsigned long)&ts;
	unsigned long b = (unsigned long)page;

	SAME(SYS_mprotect, 0, b, sizeof(page), PROT_READ | PROT_WRITE);
	SAME(SYS_madvise, INT(2), b, sizeof(page), MADV_DONTNEED);
	SAME(SYS_rt_sigaction, INT(0), SIGUSR1, 0, 0, 8);
	SAME(SYS_rt_sigprocmask, INT(0), SIG_BLOCK, b, 0, 8);
	SAME(SYS_kill, INT(0) | INT(1), (unsigned long)getpid(), 0);
	SAME(SYS_getpgid, INT(0), 0);
	SAME(SYS_getrlimit, INT(0), RLIMIT_NOFILE, b);
	SAME(SYS_prlimit64, INT(0) | INT(1), 0, RLIMIT_NOFILE, 0, b);
	SAME(SYS_sched_getaffinity, INT(0) | INT(1), 0, sizeof(page), b);
	SAME(SYS_clock_gettime, INT(0), CLOCK_MONOTONIC, t);
	ts = (struct timespec){0};
	SAME(SYS_clock_nanosleep, INT(0) | INT(1), CLOCK_MONOTONIC, 0, t, 0);
}

int main(void)
{
	files();
	others();
	return wrong;
}
