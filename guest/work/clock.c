/* SPDX-License-Identifier: MIT */
/* musl: yes */
/* clock: clocks go forward, sleeping takes as long as it should. */
#include <stdint.h>
#include <stdio.h>
#include <sys/time.h>
#include <time.h>

static int64_t now(clockid_t id)
{
	struct timespec t;

	if (clock_gettime(id, &t) < 0)
		return -1;
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(void)
{
	struct timespec nap = {.tv_nsec = 20000000};
	struct timeval tv;
	int64_t a = now(CLOCK_MONOTONIC);
	int64_t b;

	for (int i = 0; i < 1000; i++) {
		b = now(CLOCK_MONOTONIC);
		if (b < a)
			return 1;
		a = b;
	}
	if (nanosleep(&nap, NULL) < 0)
		return 2;
	b = now(CLOCK_MONOTONIC);
	if (b - a < 20000000)
		return 3;
	if (gettimeofday(&tv, NULL) < 0 || tv.tv_sec < 1600000000 ||
	    time(NULL) < 1600000000 || now(CLOCK_REALTIME) < 0)
		return 4;
	puts("clock: right");
	return 0;
}
