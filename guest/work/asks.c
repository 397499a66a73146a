/* SPDX-License-Identifier: MIT */
/* musl: yes */
/*
 * asks [A B]: what programs take for granted of Linux without asking libc
 * twice; prints what is not so. Stdin is a regular file of some bytes, stdout
 * another one; A and B are different snapshots of one size.
 */
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SOON_NS 20000000 /* 20 ms */
#define SEC_NS  1000000000
#define PAGE    4096ul

static int wrong;

static void check(const char *what, bool so)
{
	if (so)
		return;
	printf("not so: %s\n", what);
	wrong = 1;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* A vector may be larger than what there is to read, and than 2 GiB. */
static void vectors(void)
{
	static char buf[32 * PAGE];
	struct iovec v = {buf, 3ULL << 30};

	check("a large vector reads what is there", readv(0, &v, 1) > 0);
	v.iov_len = SIZE_MAX;
	check("a vector has a length", readv(0, &v, 1) < 0 && errno == EINVAL);
}

static void streams(void)
{
	int in = dup(0);
	struct stat a = {0};
	struct stat b = {0};

	check("a copy of stdin can be read", fdopen(in, "r") != NULL);
	check("stdout can be written",
	    (fcntl(1, F_GETFL) & O_ACCMODE) == O_WRONLY);
	check("stdin and stdout are known", !fstat(0, &a) && !fstat(1, &b));
	check("stdin is not stdout", !same_file(&a, &b));
	check("a copy of stdin is stdin", !fstat(in, &b) && same_file(&a, &b));
	check("dup2 to the same number does nothing", dup2(in, in) == in);
	check("dup3 refuses that",
	    dup3(in, in, O_CLOEXEC) < 0 && errno == EINVAL);
}

/* An absolute time of the clock that tells the date. */
static void waits(void)
{
	struct timespec end;
	sem_t s;

	(void)sem_init(&s, 0, 0);
	(void)clock_gettime(CLOCK_REALTIME, &end);
	end.tv_nsec += SOON_NS;
	if (end.tv_nsec >= SEC_NS) {
		end.tv_sec++;
		end.tv_nsec -= SEC_NS;
	}
	check("a wait ends at its time",
	    sem_timedwait(&s, &end) < 0 && errno == ETIMEDOUT);
}

static void memory(void)
{
	char *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	char *to = p + 16 * PAGE;
	char *at = mremap(p, 2 * PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);

	check("memory moves where it should or stays whole",
	    at == to || (at == MAP_FAILED && (p[PAGE] = 1)));
	to =
	    mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check("what is not there does not shrink",
	    !munmap(to, 2 * PAGE) &&
		mremap(to, 2 * PAGE, PAGE, 0) == MAP_FAILED && errno == EFAULT);
	/* What is cut off would be at the lowest address that there is. */
	check("nor what is beyond all",
	    mremap((char *)-PAGE, 18 * PAGE, 17 * PAGE, 0) == MAP_FAILED &&
		errno == EFAULT);
}

static void snapshots(const char *a, const char *b)
{
	struct stat named = {0};
	struct stat opened = {0};
	struct stat other = {0};
	char path[64];

	(void)snprintf(path, sizeof(path), "/snap/%s", a);
	check("a snapshot has a size by its name",
	    !stat(path, &named) && S_ISREG(named.st_mode) && named.st_size > 0);
	check("it is the one that is opened",
	    !fstat(open(path, O_RDONLY), &opened) &&
		same_file(&named, &opened));
	(void)snprintf(path, sizeof(path), "/snap/%s", b);
	check("another one is not the same file",
	    !lstat(path, &other) && !same_file(&named, &other));
	check("what was not given is not there",
	    stat("/snap/nobody's", &other) < 0 && errno == ENOENT);
}

int main(int argc, char **argv)
{
	vectors();
	streams();
	waits();
	memory();
	check("a group of processes", getpgrp() == getpid());
	if (argc > 2)
		snapshots(argv[1], argv[2]);
	return wrong;
}
