/* SPDX-License-Identifier: MIT */
/* musl: yes */
/* polls: what poll(2) says of stdin, which is a regular file, and of none. */
#include <poll.h>
#include <stdio.h>

#define SOON 20 /* ms */

static int wrong;

static void expect(const char *what, struct pollfd p, int ready, short revents)
{
	int n = poll(&p, 1, SOON);

	if (n == ready && p.revents == revents)
		return;
	printf("%s: %d, %#x\n", what, n, (unsigned)p.revents);
	wrong = 1;
}

int main(void)
{
	expect("to read", (struct pollfd){.events = POLLIN}, 1, POLLIN);
	expect("to read, as it is also called",
	    (struct pollfd){.events = POLLRDNORM}, 1, POLLRDNORM);
	expect("what is urgent", (struct pollfd){.events = POLLPRI}, 0, 0);
	expect("no file", (struct pollfd){.fd = 60, .events = POLLIN}, 1,
	    POLLNVAL);
	expect("none", (struct pollfd){.fd = -1, .events = POLLIN}, 0, 0);
	if (poll(NULL, 0, SOON) != 0)
		wrong = 1;
	return wrong;
}
