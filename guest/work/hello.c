/* SPDX-License-Identifier: MIT */
/* musl: yes */
/* hello: the smallest program that says something. */
#include <stdio.h>

int main(void)
{
	puts("hello from a firn guest");
	return 0;
}
