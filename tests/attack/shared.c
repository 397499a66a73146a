/* SPDX-License-Identifier: MIT */
/*
 * shared: why firn exists. A victim validates a length in memory that it shares
 * with another process, then uses it; the other changes it in between. Prints
 * after how many milliseconds the victim was caught out (a few, where the two
 * run at once); ends with 0 if it was.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define GOOD_LEN 64u
#define EVIL_LEN 0xffffffffu
/* Where they rarely run at once: an emulated machine that does other work too.
 */
#define GIVE_UP_MS 30000

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void flip(volatile uint32_t *len)
{
	for (;;) {
		*len = EVIL_LEN;
		*len = GOOD_LEN;
	}
}

/* Whether a validated length was another one when it was used. */
static int fooled(volatile uint32_t *len)
{
	for (int i = 0; i < 100000; i++)
		if (*len == GOOD_LEN && *len != GOOD_LEN)
			return 1;
	return 0;
}

int main(void)
{
	int fd = memfd_create("shared", MFD_CLOEXEC);
	volatile uint32_t *len = MAP_FAILED;
	int64_t begin = now_ms();
	int caught = 0;
	pid_t pid;

	if (fd >= 0 && ftruncate(fd, 4096) == 0)
		len =
		    mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (len == MAP_FAILED)
		return 2;
	*len = GOOD_LEN;
	pid = fork();
	if (pid == 0)
		flip(len);
	while (!caught && now_ms() - begin < GIVE_UP_MS)
		caught = fooled(len);
	printf("shared memory: %s after %lld ms\n",
	    caught ? "caught out" : "never caught",
	    (long long)(now_ms() - begin));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return !caught;
}
