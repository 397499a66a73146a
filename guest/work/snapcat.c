/* SPDX-License-Identifier: MIT */
/* musl: yes */
/* snapcat NAME [OFFSET LENGTH]: prints snapshot NAME, or a part of it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	uint64_t left = argc > 3 ? strtoull(argv[3], NULL, 0) : UINT64_MAX;
	char path[128];
	char buf[16384];
	size_t n;
	FILE *f;

	if (argc < 2)
		return 2;
	snprintf(path, sizeof(path), "/snap/%s", argv[1]);
	f = fopen(path, "r");
	if (!f || (argc > 2 && fseek(f, atol(argv[2]), SEEK_SET) < 0)) {
		perror(path);
		return 1;
	}
	while (left > 0) {
		n = left < sizeof(buf) ? (size_t)left : sizeof(buf);
		n = fread(buf, 1, n, f);
		if (n == 0)
			break;
		fwrite(buf, 1, n, stdout);
		left -= n;
	}
	fclose(f);
	return 0;
}
