/* SPDX-License-Identifier: MIT */
/* own: what this process holds, for tests after which nothing more is held. */
#ifndef TESTS_UNIT_OWN_H
#define TESTS_UNIT_OWN_H

#include <unistd.h>

#include "tests/proc.h"
#include "tests/unit/unit.h"

/* Descriptors, among them one that only the count has. */
static inline int count_fds(void)
{
	long n = proc_fds(getpid());

	assert_true(n > 0);
	return (int)n;
}

/* Mappings of files in whose name is (part). */
static inline int count_maps_of(const char *part)
{
	long n = proc_maps(getpid(), part);

	assert_true(n >= 0);
	return (int)n;
}

#endif /* TESTS_UNIT_OWN_H */
