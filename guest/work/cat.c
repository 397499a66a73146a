/* SPDX-License-Identifier: MIT */
/* musl: yes */
/* cat: copies its input to its output; given an argument, it reads into two
 * buffers, of which the first has four bytes. */
#include <stdio.h>
#include <sys/uio.h>
#include <unistd.h>

static char buf[65536];

static ssize_t take(int two)
{
	const struct iovec v[2] = {{buf, 4}, {buf + 4, sizeof(buf) - 4}};

	return two ? readv(STDIN_FILENO, v, 2)
		   : read(STDIN_FILENO, buf, sizeof(buf));
}

int main(int argc, char **argv)
{
	ssize_t n;

	(void)argv;
	while ((n = take(argc > 1)) > 0) {
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
