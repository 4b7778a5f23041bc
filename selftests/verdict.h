// SPDX-License-Identifier: GPL-2.0
/* How a test program without other output ends: with 1 for a failure, 4 for a skip. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char failed_in[80];	/* what a failure begins with, if not empty */

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *fmt, ...)
{
	va_list ap;

	printf("FAILED: %s", failed_in);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
	_exit(1);
}

void __attribute__((noreturn)) skip(const char *why)
{
	printf("SKIP: %s: %s\n", why, strerror(errno));
	fflush(stdout);
	_exit(4);
}
