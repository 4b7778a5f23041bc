// SPDX-License-Identifier: GPL-2.0
/*
 * Process 1 of the test guest: mounts what tests need, turns swap on, runs
 * /tests.list, which tools/lib/tests has written, one line at a time and powers off.
 *
 * The kernel console is ttyS0.  Only this program writes to ttyS1: a TAP report
 * in which "> " starts a line of a test's output.  The last line is "# done N".
 * Whatever stops the guest earlier is seen by the absence of that line.
 *
 * Parameters come from the kernel command line as environment:
 *   T_CPUS=2      fail unless so many CPUs are on line
 *   T_ZRAM_MB=256 size of the compressed swap device
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define OUTPUT_MAX	(1 << 20)	/* bytes of one test's output */
#define ZRAM		"/dev/zram0"
#define DISK		"/dev/vda"
#define NR_HUGE		"/proc/sys/vm/nr_hugepages"
#define SHMEM_THP	"/sys/kernel/mm/transparent_hugepage/shmem_enabled"

static FILE *report;

static void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(report, fmt, ap);
	va_end(ap);
	fputc('\n', report);
	fflush(report);
}

static void __attribute__((noreturn)) power_off(void)
{
	if (report)
		tcdrain(fileno(report));
	sync();
	/* QEMU runs with -no-reboot. */
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static void __attribute__((noreturn)) bail_out(const char *why)
{
	say("Bail out! %s%s%s", why, errno ? ": " : "", errno ? strerror(errno) : "");
	power_off();
}

static bool put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

static char *get(const char *path)
{
	static char buf[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, sizeof(buf) - 1);

	if (fd >= 0)
		close(fd);
	buf[n > 0 ? n : 0] = 0;
	return buf;
}

static void kmsg(const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	put("/dev/kmsg", text);
}

static void mount_all(void)
{
	static const struct {
		const char *dir, *type, *opts;
		bool needed;
	} m[] = {
		{ "/proc", "proc", NULL, true },
		{ "/sys", "sysfs", NULL, true },
		{ "/dev", "devtmpfs", NULL, true },
		{ "/dev/pts", "devpts", NULL, true },
		{ "/dev/shm", "tmpfs", NULL, true },
		{ "/tmp", "tmpfs", NULL, true },
		{ "/mnt/huge", "tmpfs", "huge=always", false },
		{ "/dev/hugepages", "hugetlbfs", NULL, false },
		{ "/sys/fs/cgroup", "cgroup2", NULL, false },
		{ "/sys/kernel/debug", "debugfs", NULL, false },
		{ "/sys/kernel/tracing", "tracefs", NULL, false },
	};

	mkdir("/mnt", 0755);
	for (size_t i = 0; i < sizeof(m) / sizeof(m[0]); i++) {
		mkdir(m[i].dir, 0755);
		if (mount(m[i].type, m[i].dir, m[i].type, 0, m[i].opts) && m[i].needed)
			exit(1);
	}
	put("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
}

static void make_swap(const char *dev)
{
	struct { int version, last, bad; } head = { 1, 0, 0 };
	long page = sysconf(_SC_PAGESIZE);
	int fd = open(dev, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		bail_out(dev);
	head.last = lseek(fd, 0, SEEK_END) / page - 1;
	if (pwrite(fd, &head, sizeof(head), 1024) != sizeof(head) ||
	    pwrite(fd, "SWAPSPACE2", 10, page - 10) != 10 || fsync(fd))
		bail_out(dev);
	close(fd);
}

static void swap(bool on)
{
	static const char * const dev[] = { ZRAM, DISK };

	/* zram first; the disk is for tests that turn zram off. */
	for (int i = 0; i < 2; i++) {
		int r = on ? swapon(dev[i], SWAP_FLAG_PREFER | (10 - i)) : swapoff(dev[i]);

		if (r && errno != (on ? EBUSY : EINVAL))
			bail_out(dev[i]);
	}
}

static void set_up(void)
{
	const char *mb = getenv("T_ZRAM_MB"), *cpus = getenv("T_CPUS");
	struct utsname u;
	char text[32];

	uname(&u);
	say("# kernel %s, %ld cpus, nodes %s", u.release, sysconf(_SC_NPROCESSORS_ONLN),
	    strtok(get("/sys/devices/system/node/online"), "\n") ?: "none");
	errno = 0;
	if (sysconf(_SC_NPROCESSORS_ONLN) != atoi(cpus ?: "2"))
		bail_out("number of CPUs is not as asked");
	snprintf(text, sizeof(text), "%sM", mb ?: "256");
	if (!put("/sys/block/zram0/disksize", text))
		bail_out("zram0 disksize");
	make_swap(ZRAM);
	make_swap(DISK);
	swap(true);
	for (char *l = strtok(get("/proc/swaps"), "\n"); l; l = strtok(NULL, "\n"))
		say("# %s", l);
	if (access(SHMEM_THP, W_OK))
		bail_out(SHMEM_THP);
	put("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int open_pty(char *slave, size_t size)
{
	int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct termios t;

	if (fd < 0 || grantpt(fd) || unlockpt(fd) || ptsname_r(fd, slave, size) ||
	    tcgetattr(fd, &t))
		bail_out("pty");
	cfmakeraw(&t);
	tcsetattr(fd, TCSANOW, &t);
	return fd;
}

static pid_t start(char *args, const char *tty)
{
	pid_t pid = fork();
	char *argv[64], path[256];
	int n = 0, fd;

	if (pid)
		return pid;
	for (char *a = strtok(args, " \t"); a && n < 63; a = strtok(NULL, " \t"))
		argv[n++] = a;
	argv[n] = NULL;
	setsid();
	fd = open(tty, O_RDWR | O_NOCTTY);
	dup2(fd, 1);
	dup2(fd, 2);
	close(fd);
	fd = open("/dev/null", O_RDONLY);
	dup2(fd, 0);
	close(fd);
	if (chdir("/tmp"))
		_exit(126);
	setenv("PATH", "/t", 1);
	snprintf(path, sizeof(path), "/t/%s", n ? argv[0] : "");
	execv(path, argv);
	perror(path);
	_exit(127);
}

/* Pass on what the test printed, in whole lines. */
static void relay(int fd, bool last)
{
	static char line[1024];
	static size_t len, total;
	char buf[4096];
	ssize_t n;
	struct pollfd p = { .fd = fd, .events = POLLIN };

	while (poll(&p, 1, 0) > 0 && (n = read(fd, buf, sizeof(buf))) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			if (buf[i] != '\n')
				line[len++] = isprint(buf[i]) || buf[i] == '\t' ? buf[i] : '?';
			if ((buf[i] == '\n' || len == sizeof(line) - 1) && total < OUTPUT_MAX) {
				line[len] = 0;
				total += len + 1;
				say("> %s", line);
				if (total >= OUTPUT_MAX)
					say("# output cut");
			}
			if (buf[i] == '\n' || len == sizeof(line) - 1)
				len = 0;
		}
	}
	if (last) {
		line[len] = 0;
		if (len)
			say("> %s", line);
		len = total = 0;
	}
}

/* Kill everything but us.  False if something can't be killed. */
static bool kill_all(void)
{
	double end = seconds() + 20;
	pid_t pid;

	kill(-1, SIGKILL);
	while ((pid = waitpid(-1, NULL, WNOHANG)) >= 0) {
		if (seconds() > end)
			return false;
		if (!pid)
			usleep(10000);
	}
	return true;
}

static bool has_flag(const char *flags, const char *flag)
{
	size_t n = strlen(flag);

	for (const char *f = flags; (f = strstr(f, flag)); f += n)
		if ((f == flags || isspace(f[-1])) && (!f[n] || isspace(f[n])))
			return true;
	return false;
}

static void prepare(const char *flags)
{
	const char *thp = strstr(flags, "thp="), *huge = strstr(flags, "hugepages=");
	char text[16] = "advise", number[16] = "0";

	if (thp)
		sscanf(thp, "thp=%15s", text);
	if (!put(SHMEM_THP, text))
		bail_out(SHMEM_THP);
	if (huge)
		sscanf(huge, "hugepages=%15[0-9]", number);
	/* The files that a test has left keep their pages */
	if (!umount("/dev/hugepages"))
		mount("hugetlbfs", "/dev/hugepages", "hugetlbfs", 0, NULL);
	if (!put(NR_HUGE, number) && huge)
		bail_out(NR_HUGE);
	swap(!has_flag(flags, "no-swap"));
}

/* Does this kernel not have what the flag needs=PATH asks for? */
static bool lacks(const char *flags, char *path, size_t size)
{
	const char *needs = strstr(flags, "needs=");

	if (!needs)
		return false;
	needs += strlen("needs=");
	snprintf(path, size, "%.*s", (int)strcspn(needs, " "), needs);
	return access(path, F_OK);
}

static void run(int nr, const char *name, char *args, int timeout, const char *flags)
{
	char tty[64], why[64] = "", text[256];
	double t0, t;
	int fd, status = 0, late = 0;
	pid_t pid;

	prepare(flags);
	say("# begin %d %s", nr, name);
	kmsg("<5>uffd-test: begin %d %s\n", nr, name);
	if (lacks(flags, text, sizeof(text))) {
		say("> SKIP: this kernel has no %s", text);
		kmsg("<5>uffd-test: end %d %s\n", nr, name);
		say("ok %d %s # time 0.0 SKIP", nr, name);
		return;
	}
	fd = open_pty(tty, sizeof(tty));
	t0 = seconds();
	pid = start(args, tty);
	if (pid < 0)
		bail_out("fork");
	while (waitpid(pid, &status, WNOHANG) != pid) {
		struct pollfd p = { .fd = fd, .events = POLLIN };

		/* A pty without an open slave is always readable (hung up). */
		if (poll(&p, 1, 20) > 0 && !(p.revents & POLLIN))
			usleep(20000);
		relay(fd, false);
		if (!late && seconds() - t0 > timeout) {
			late = 1;
			/* Where does everybody stand? */
			put("/proc/sysrq-trigger", "t");
			kill(-pid, SIGKILL);
		} else if (late && seconds() - t0 > timeout + 30) {
			relay(fd, true);
			say("not ok %d %s # time %.1f; timeout, and can't be killed", nr, name,
			    seconds() - t0);
			bail_out("a process can't be killed");
		}
	}
	t = seconds() - t0;
	if (!kill_all())
		bail_out("a process can't be killed");
	relay(fd, true);
	close(fd);
	kmsg("<5>uffd-test: end %d %s\n", nr, name);
	if (late)
		snprintf(why, sizeof(why), "; timeout %d", timeout);
	else if (WIFSIGNALED(status))
		snprintf(why, sizeof(why), "; signal %d", WTERMSIG(status));
	else if (WEXITSTATUS(status) == 4)
		strcpy(why, " SKIP");
	else if (WEXITSTATUS(status))
		snprintf(why, sizeof(why), "; exit %d", WEXITSTATUS(status));
	say("%s %d %s # time %.1f%s", *why == ';' ? "not ok" : "ok", nr, name, t, why);
}

static char *field(char **rest)
{
	return strsep(rest, "\t\n") ?: "";
}

int main(void)
{
	static char line[4096];
	int n = 0, nr = 0;
	FILE *list;

	mount_all();
	report = fopen("/dev/ttyS1", "w");
	if (report) {
		struct termios t;

		tcgetattr(fileno(report), &t);
		cfmakeraw(&t);
		cfsetspeed(&t, B115200);
		tcsetattr(fileno(report), TCSANOW, &t);
	} else {
		kmsg("<0>uffd-test: no /dev/ttyS1\n");
		power_off();
	}
	fcntl(fileno(report), F_SETFD, FD_CLOEXEC);
	say("TAP version 13");
	list = fopen("/tests.list", "re");
	if (!list)
		bail_out("/tests.list");
	while (fgets(line, sizeof(line), list))
		n++;
	say("1..%d", n);
	set_up();
	rewind(list);
	while (fgets(line, sizeof(line), list)) {
		char *rest = line, *name = field(&rest), *args = field(&rest);
		int timeout = atoi(field(&rest));

		/* The pattern, the last field, is for the host. */
		run(++nr, name, args, timeout, field(&rest));
	}
	if (!kill_all())
		bail_out("a process can't be killed");
	swap(false);
	say("# done %d", nr);
	power_off();
}
