/* SPDX-License-Identifier: MIT */
/* What /proc tells of a process: -1 where it may not be read. */
#ifndef TESTS_PROC_H
#define TESTS_PROC_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

static inline long proc_fds(pid_t pid)
{
	char path[64];
	long n = -2; /* "." and ".." */
	DIR *d;

	(void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	d = opendir(path);
	if (d == NULL)
		return -1;
	while (readdir(d) != NULL)
		n++;
	(void)closedir(d);
	return n;
}

/* Its mappings of files in whose name is (part). */
static inline long proc_maps(pid_t pid, const char *part)
{
	char path[64];
	char line[512];
	long n = 0;
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	f = fopen(path, "re");
	if (f == NULL)
		return -1;
	while (fgets(line, sizeof(line), f) != NULL)
		n += strstr(line, part) != NULL;
	(void)fclose(f);
	return n;
}

static inline long proc_rss_kib(pid_t pid)
{
	char path[64];
	char line[160];
	long kib = -1;
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	if (f == NULL)
		return -1;
	while (fgets(line, sizeof(line), f) != NULL)
		if (strncmp(line, "VmRSS:", 6) == 0)
			kib = strtol(line + 6, NULL, 10);
	(void)fclose(f);
	return kib;
}

#endif /* TESTS_PROC_H */
