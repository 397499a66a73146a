/* SPDX-License-Identifier: MIT */
/* musl: yes */
/*
 * fill SIZE: takes blocks of SIZE bytes and writes to all of them until there
 * is no more memory, which malloc() must say.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
	size_t size = argc > 1 ? strtoull(argv[1], NULL, 0) : 4096;
	unsigned long n = 0;
	void *p;

	while ((p = malloc(size)) != NULL) {
		memset(p, 1, size);
		n++;
	}
	printf("fill: %s\n", n > 0 ? "full" : "nothing");
	return 0;
}
