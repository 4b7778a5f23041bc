// SPDX-License-Identifier: GPL-2.0
/*
 * Goes wrong in a known way, to show that the harness sees it.
 *
 * A word / in a TEXT ends a line.
 *
 * usage: misbehave print TEXT... | skip TEXT... | exit N | segv | hang | fork |
 *                  kmsg TEXT... | panic
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void put(const char *path, char **words)
{
	char text[256] = "";
	int fd = open(path, O_WRONLY);

	for (; *words; words++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%c",
			 strcmp(*words, "/") ? *words : "", strcmp(*words, "/") ? ' ' : '\n');
	text[strlen(text) - 1] = '\n';
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		perror(path);
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "";

	if (!strcmp(how, "print") || !strcmp(how, "skip"))
		put("/proc/self/fd/1", argv + 2);
	else if (!strcmp(how, "exit"))
		return atoi(argv[2]);
	else if (!strcmp(how, "segv"))
		raise(SIGSEGV);
	else if (!strcmp(how, "kmsg"))
		put("/dev/kmsg", argv + 2);
	else if (!strcmp(how, "panic"))
		put("/proc/sysrq-trigger", (char *[]){ "c", NULL });
	else if (!strcmp(how, "fork") && fork())
		return 0;	/* and leave a child behind, that prints on */
	else
		for (;;)
			if (sleep(1) == 0 && *how == 'f' && puts("still here") < 0)
				break;
	return strcmp(how, "skip") ? 0 : 4;
}
