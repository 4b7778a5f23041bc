// SPDX-License-Identifier: GPL-2.0
/*
 * usage: beside-chaos [--user] [--seed N] PROGRAM ARGUMENT...
 *
 * Run a fuzzer, or whatever makes trouble for the whole kernel, beside uffd-chaos,
 * whose snapshots have to be right all the same.  The program may be killed by what it
 * does, and may run out of memory, in a cgroup of its own; uffd-chaos may not.
 * "%t" in an ARGUMENT stands for the number of seconds that it shall take.
 *
 *   --user   the program is run as a plain user, with vm.unprivileged_userfaultfd=1
 *
 * From the environment: T_FUZZ, seconds, 60 if not set; T_KIND, the kind of memory for
 * uffd-chaos, memfd if not set.
 *
 * Exit status: that of uffd-chaos, or 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define USER	65534
#define GROUP	"/sys/fs/cgroup/fuzz/"
#define HOME	"/tmp/fuzz"
#define OUTPUT	"/tmp/fuzz.out"
#define LIMIT	"300M"

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *fmt, ...)
{
	va_list ap;

	printf("fail: ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf(": %s\n", strerror(errno));
	exit(1);
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fail("%s", path);
	close(fd);
}

static time_t seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

/* The last lines of what it printed */
static void show(int lines)
{
	static char text[1 << 20];
	int fd = open(OUTPUT, O_RDONLY | O_CLOEXEC);
	off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
	ssize_t n = pread(fd, text, sizeof(text) - 1, size > (off_t)sizeof(text) - 1 ?
			  size - sizeof(text) + 1 : 0);
	char *at;

	text[n > 0 ? n : 0] = 0;
	for (at = text; (at = strchr(at, '\r')); )
		*at = '\n';
	for (at = text + strlen(text); at > text && lines >= 0; at--)
		lines -= at[-1] == '\n';
	printf("%s", at > text ? at + 1 : at);
	fflush(stdout);
	close(fd);
}

static pid_t start(char **argv, bool fuzzer, bool user)
{
	pid_t pid = fork();
	int fd;

	if (pid < 0)
		fail("fork");
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!fuzzer) {
		/* Whoever runs out of memory, this is not to blame. */
		put("/proc/self/oom_score_adj", "-1000");
		setpriority(PRIO_PROCESS, 0, -10);
		execv("/t/uffd-chaos", argv);
		fail("uffd-chaos");
	}
	put(GROUP "cgroup.procs", "0");
	setsid();
	fd = open(OUTPUT, O_WRONLY | O_CREAT | O_TRUNC, 0666);
	if (fd < 0 || chdir(HOME))
		fail(HOME);
	dup2(fd, 1);
	dup2(fd, 2);
	close(fd);
	setenv("HOME", HOME, 1);
	setenv("TERM", "dumb", 1);
	setenv("PATH", "/usr/bin:/t", 1);
	if (user && (setgroups(0, NULL) || setresgid(USER, USER, USER) ||
		     setresuid(USER, USER, USER)))
		fail("become a plain user");
	execv(argv[0], argv);
	fail("%s", argv[0]);
}

/* Processes that it has left, in sessions of their own, too */
static void end_fuzzer(void)
{
	time_t end = seconds() + 60;
	char line[32];
	bool any = true;

	while (any && seconds() < end) {
		FILE *f = fopen(GROUP "cgroup.procs", "re");

		any = false;
		while (f && fgets(line, sizeof(line), f)) {
			any = true;
			kill(atoi(line), SIGKILL);
		}
		if (f)
			fclose(f);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		usleep(50000);
	}
	if (any)
		fail("the fuzzer can't be killed");
}

int main(int argc, char **argv)
{
	const char *t = getenv("T_FUZZ") ?: "60", *kind = getenv("T_KIND") ?: "memfd";
	char *chaos_argv[] = { "uffd-chaos", "--kind", (char *)kind, "--time", (char *)t,
			       "--seed", "11", NULL };
	time_t begin = seconds(), said = begin, started, ran = 0, length = atoi(t);
	pid_t chaos, fuzzer;
	bool user = false, chaos_ended = false;
	int i, status, how, starts = 1;

	for (i = 1; i < argc && argv[i][0] == '-'; i++)
		if (!strcmp(argv[i], "--user"))
			user = true;
		else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
			chaos_argv[6] = argv[++i];
	if (i == argc || length < 1) {
		printf("usage: beside-chaos [--user] [--seed N] PROGRAM ARGUMENT...\n");
		return 2;
	}
	argv += i;
	for (i = 0; argv[i]; i++)
		if (!strcmp(argv[i], "%t"))
			argv[i] = (char *)t;
	if ((mkdir(GROUP, 0755) && errno != EEXIST) || (mkdir(HOME, 0777) && errno != EEXIST) ||
	    mount("fuzz", HOME, "tmpfs", 0, "mode=0777"))
		fail("mkdir");
	put(GROUP "memory.max", LIMIT);
	if (user)
		put("/proc/sys/vm/unprivileged_userfaultfd", "1");
	put("/sys/kernel/mm/ksm/run", "1");
	for (i = 0; i < 4; i++) {
		char file[] = HOME "/0";
		int fd;

		file[sizeof(file) - 2] += i;
		fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
		if (fd < 0 || ftruncate(fd, i << 16) || fchmod(fd, 0666))
			fail("%s", file);
		close(fd);
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	chaos = start(chaos_argv, false, false);
	fuzzer = start(argv, true, user);
	started = begin;
	/* The program has its own time, which begins later. */
	while (!chaos_ended || (fuzzer && seconds() < begin + length + 20)) {
		if (!chaos_ended && waitpid(chaos, &status, WNOHANG) == chaos)
			chaos_ended = true;
		if (fuzzer && waitpid(fuzzer, &how, WNOHANG) == fuzzer) {
			end_fuzzer();
			ran += seconds() - started;
			printf("the program ended after %ld s: %s %d\n", seconds() - started,
			       WIFEXITED(how) ? "exit status" : "signal",
			       WIFEXITED(how) ? WEXITSTATUS(how) : WTERMSIG(how));
			fuzzer = 0;
			/* trinity falls over by itself now and then. */
			if (seconds() < begin + length - 2 && ++starts < 50) {
				usleep(500000);
				started = seconds();
				fuzzer = start(argv, true, user);
			}
		}
		if (seconds() - said >= 5) {
			said = seconds();
			printf("%ld of %ld s; ", said - begin, length);
			show(1);
		}
		usleep(100000);
	}
	if (fuzzer) {
		ran += seconds() - started;
		printf("the program was stopped after %ld s\n", seconds() - started);
	}
	end_fuzzer();
	show(30);
	unlink(OUTPUT);
	umount2(HOME, MNT_DETACH);
	put("/sys/kernel/mm/ksm/run", "2");
	if (user)
		put("/proc/sys/vm/unprivileged_userfaultfd", "0");
	if (ran < length / 2) {
		printf("fail: it has not run for long enough, this proves nothing\n");
		return 1;
	}
	printf("chaos beside %s: %s\n", argv[0],
	       WIFEXITED(status) && !WEXITSTATUS(status) ? "right" : "WRONG");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
