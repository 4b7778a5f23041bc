// SPDX-License-Identifier: GPL-2.0
/*
 * Print what a kernel with CONFIG_GCOV_KERNEL has counted so far, for
 * tools/coverage: in base64, between a line "gcda NAME" and a line "end BYTES".
 *
 * usage: gcov NAME,NAME...       as in mm/memory
 */
#define _GNU_SOURCE
#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIR	"/sys/kernel/debug/gcov"
#define LINE	720	/* bytes for a line of 960 */

static const char *names;
static int files;

static void base64(const unsigned char *p, size_t n)
{
	static const char digit[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < n; i += 3) {
		unsigned int v = p[i] << 16 | (i + 1 < n ? p[i + 1] << 8 : 0) |
				 (i + 2 < n ? p[i + 2] : 0);

		putchar(digit[v >> 18]);
		putchar(digit[v >> 12 & 63]);
		putchar(i + 1 < n ? digit[v >> 6 & 63] : '=');
		putchar(i + 2 < n ? digit[v & 63] : '=');
	}
	putchar('\n');
}

/* Is it one of the names?  If so, the name. */
static bool wanted(const char *path, char *name, size_t size)
{
	for (const char *p = names; *p; p += strspn(p, ",")) {
		size_t n = strcspn(p, ",");

		snprintf(name, size, "/%.*s.gcda", (int)n, p);
		if (strlen(path) > strlen(name) &&
		    !strcmp(path + strlen(path) - strlen(name), name)) {
			snprintf(name, size, "%.*s", (int)n, p);
			return true;
		}
		p += n;
	}
	return false;
}

static int print(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	unsigned char buf[LINE];
	size_t n, bytes = 0;
	char name[256];
	FILE *f;

	(void)st;
	(void)ftw;
	if (type != FTW_F || !wanted(path, name, sizeof(name)))
		return 0;
	f = fopen(path, "re");
	if (!f) {
		perror(path);
		exit(1);
	}
	printf("gcda %s\n", name);
	for (; (n = fread(buf, 1, LINE, f)); bytes += n)
		base64(buf, n);
	printf("end %zu\n", bytes);
	if (ferror(f) || !bytes)
		exit(1);
	fclose(f);
	files++;
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	names = argv[1];
	if (nftw(DIR, print, 16, FTW_PHYS)) {
		perror(DIR);
		return 1;
	}
	printf("%d files\n", files);
	return files ? 0 : 1;
}
