/* SPDX-License-Identifier: MIT */
/* closes: in which thread the descriptors of one file are closed, or those of
 * any socket. For one source of a test, which wraps close. */
#ifndef TESTS_UNIT_CLOSES_H
#define TESTS_UNIT_CLOSES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/stat.h>

#define CLOSES_SOCKETS 1u

static _Atomic uint64_t closes_of; /* what is counted; 0: nothing */
static atomic_int closes_here;     /* in (closes_loop), the test's thread */
static atomic_int closes_away;
static pthread_t closes_loop;

/* The test's own, which do not count. */
int __real_close(int fd);
int __wrap_close(int fd);

static inline uint64_t closes_key(int fd)
{
	struct stat st;

	return fstat(fd, &st) != 0 ? 0 : st.st_dev << 40 ^ st.st_ino;
}

int __wrap_close(int fd)
{
	uint64_t of = atomic_load(&closes_of);
	struct stat st;

	if (of != 0 && fstat(fd, &st) == 0 &&
	    (of == CLOSES_SOCKETS ? S_ISSOCK(st.st_mode)
				  : closes_key(fd) == of))
		atomic_fetch_add(pthread_equal(pthread_self(), closes_loop)
				     ? &closes_here
				     : &closes_away,
		    1);
	return __real_close(fd);
}

/* Count from now on, in the test's thread, while no other closes any. */
static inline void closes_count(uint64_t of)
{
	if (of != 0)
		closes_loop = pthread_self();
	atomic_store(&closes_here, 0);
	atomic_store(&closes_away, 0);
	atomic_store(&closes_of, of);
}

#endif /* TESTS_UNIT_CLOSES_H */
