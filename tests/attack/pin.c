/* SPDX-License-Identifier: MIT */
/*
 * pin PID BYTES [open]: a program of firn's own user takes the unsealed memory
 * of BYTES that process PID has open. It pins a page of it in a pipe, and then
 * has neither a descriptor nor a mapping; or, with "open", keeps a descriptor.
 * Says "pinned" or "open", and lets go when its input ends.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* The first such memory, opened anew; or -1. */
static int find(const char *pid, off_t bytes)
{
	char dir[64];
	char path[512];
	DIR *d;
	struct dirent *e;
	struct stat st;
	int found = -1;

	(void)snprintf(dir, sizeof(dir), "/proc/%.20s/fd", pid);
	d = opendir(dir);
	while (d != NULL && found < 0 && (e = readdir(d)) != NULL) {
		int fd;

		(void)snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		if (stat(path, &st) != 0 || !S_ISREG(st.st_mode) ||
		    st.st_size != bytes)
			continue;
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd >= 0 && (fcntl(fd, F_GET_SEALS) & F_SEAL_WRITE) == 0)
			found = fd;
		else if (fd >= 0)
			close(fd);
	}
	if (d != NULL)
		closedir(d);
	return found;
}

static int pin(int fd, int to)
{
	void *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	struct iovec v = {.iov_base = p, .iov_len = 4096};
	volatile const char *c = p;
	int rc;

	if (p == MAP_FAILED)
		return -1;
	(void)*c;
	rc = vmsplice(to, &v, 1, 0) == 4096 ? 0 : -1;
	(void)munmap(p, 4096);
	(void)close(fd);
	return rc;
}

int main(int argc, char **argv)
{
	int keep = argc == 4 && strcmp(argv[3], "open") == 0;
	int pipes[2];
	char c;
	int fd;

	if (argc < 3 || pipe(pipes) != 0)
		return 2;
	fd = find(argv[1], (off_t)strtoll(argv[2], NULL, 10));
	if (fd < 0 || (!keep && pin(fd, pipes[1]) != 0)) {
		printf("not found\n");
		return 1;
	}
	printf(keep ? "open\n" : "pinned\n");
	(void)fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	return 0;
}
