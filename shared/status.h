/* SPDX-License-Identifier: MIT */
/*
 * status: the error numbers code built for both host and guest may return.
 *
 * Values are Linux errno values, so a host caller may treat -ST_x as -errno;
 * tests/unit/test_status.c holds the two equal. Freestanding: <errno.h> is not.
 */
#ifndef SHARED_STATUS_H
#define SHARED_STATUS_H

enum {
	ST_PERM = 1,
	ST_NOENT = 2,
	ST_EXIST = 17,
	ST_INVAL = 22,
	ST_NOSPC = 28,
	ST_RANGE = 34,
	ST_PROTO = 71,
};

#endif /* SHARED_STATUS_H */
