/* SPDX-License-Identifier: MIT */
/* musl: yes */
/* cat: copies its input to its output. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	static char buf[65536];
	ssize_t n;

	while ((n = read(STDIN_FILENO, buf, sizeof(buf))) > 0) {
		ssize_t done = 0;

		while (done < n) {
			ssize_t m = write(
			    STDOUT_FILENO, buf + done, (size_t)(n - done));

			if (m < 0) {
				perror("cat: write");
				return 1;
			}
			done += m;
		}
	}
	if (n < 0)
		perror("cat: read");
	return n < 0;
}
