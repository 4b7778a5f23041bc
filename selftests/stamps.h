/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What snapshot.c needs to make writers, to measure how long they wait, and to
 * verify an image.  Nothing here is needed to take a snapshot.
 *
 * A stamp is the next number of a counter that all writers share.  A writer puts
 * it into two words of its own in the page, one in each half, and into a log.
 * The gate is closed at the cut, the point in time of the image, while no write is
 * half done; what comes later goes to another field of the log.  So the image is
 * right when each of its stamps is the last one that the log has from before.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE		4096UL
#define WORDS		(PAGE / sizeof(uint64_t))
#define MAX_WRITERS	64
#define BUCKETS		1024

static unsigned long writers = 4, pages;
static char cgroup[64];

struct log { uint64_t before, after; };

/* Shared by all processes; not part of the image. */
static struct control {
	_Atomic uint64_t order;		/* the last stamp */
	_Atomic uint32_t gate;		/* 1: closed, nobody may write; a futex */
	_Atomic int cut;		/* has been; changes while the gate is closed */
	_Atomic uint64_t begin, end;	/* when the image was taken, ns */
	_Atomic int forks;		/* fork at the gate */
	struct {
		_Atomic int busy, full;	/* in a write; has filled its part */
		_Atomic int child;	/* forked at the gate, to keep its memory as it was */
		uint64_t longest;	/* ns */
		uint32_t hist[BUCKETS];	/* how long its writes took */
	} w[MAX_WRITERS];
	struct log log[];		/* [page][writer] */
} *ctl;

static void __attribute__((noreturn, format(printf, 2, 3))) quit(int status, const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	va_start(ap, fmt);
	fputs("snapshot: ", stderr);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(status);
}

#define must(x) ({ \
	long ret_ = (long)(x); \
	if (ret_ == -1) \
		quit(1, "%s: %s", #x, strerror(errno)); \
	ret_; })

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void put(const char *dir, const char *name, const char *text)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		quit(1, "can't write %s to %s: %s", text, path, strerror(errno));
	close(fd);
}

/* The sum of the numbers that a file of /proc gives by this name. */
static long counter(const char *file, const char *name)
{
	char line[128];
	FILE *f = fopen(file, "re");
	long n = 0;

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			n += atol(line + strlen(name));
	if (f)
		fclose(f);
	return n;
}

/* A cgroup with so much memory; processes that join it swap beyond that. */
static void make_cgroup(unsigned long bytes)
{
	char text[32];

	snprintf(cgroup, sizeof(cgroup), "/sys/fs/cgroup/snapshot-%d", getpid());
	if (mkdir(cgroup, 0755))
		quit(1, "can't make the cgroup %s: %s", cgroup, strerror(errno));
	snprintf(text, sizeof(text), "%lu", bytes);
	put(cgroup, "memory.max", text);
}

/* A file of the kind of memory that is asked for; -1 for anon. */
static int open_memory(const char *kind)
{
	char dir[] = "/tmp/snapshot.XXXXXX";
	int fd;

	if (!strcmp(kind, "anon"))
		return -1;
	if (!strcmp(kind, "memfd")) {
		fd = must(memfd_create("snapshot", MFD_CLOEXEC));
	} else if (!strcmp(kind, "tmpfs")) {
		fd = must(open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
	} else if (!strcmp(kind, "tmpfs-huge")) {
		/* The open file keeps the file system alive. */
		if (!mkdtemp(dir) || mount("snapshot", dir, "tmpfs", 0, "huge=always"))
			quit(1, "can't mount a tmpfs with huge=always: %s", strerror(errno));
		fd = must(open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
		umount2(dir, MNT_DETACH);
		rmdir(dir);
	} else {
		quit(1, "no such kind of memory: %s", kind);
	}
	must(ftruncate(fd, pages * PAGE));
	return fd;
}

/* Map n pages of a file, or of anon. */
static void *map_memory(int fd, unsigned long n)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;

	return (void *)must(mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0));
}

/* ---- writers ------------------------------------------------------------ */

/* Wait while *futex is value, until the time is ns. */
static void futex_wait(_Atomic uint32_t *futex, uint32_t value, uint64_t ns)
{
	struct timespec t = { ns / 1000000000, ns % 1000000000 };

	syscall(SYS_futex, futex, FUTEX_WAIT_BITSET, value, ns ? &t : NULL, NULL,
		FUTEX_BITSET_MATCH_ANY);
}

/* After this, nobody writes and all have forked that have to. */
static void close_gate(void)
{
	atomic_store(&ctl->gate, 1);
	/* Some sleep, to keep to their rate. */
	syscall(SYS_futex, &ctl->gate, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
	for (unsigned long i = 0; i < writers; i++)
		while (atomic_load(&ctl->w[i].busy) || (ctl->forks && !ctl->w[i].child))
			usleep(10);
}

static void open_gate(void)
{
	atomic_store(&ctl->gate, 0);
	syscall(SYS_futex, &ctl->gate, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void wait_at_gate(unsigned long me)
{
	if (ctl->forks && !ctl->w[me].child) {
		pid_t child = fork();

		if (!child)
			for (prctl(PR_SET_PDEATHSIG, SIGKILL); ; )
				pause();
		ctl->w[me].child = must(child);
	}
	futex_wait(&ctl->gate, 1, 0);
}

/* 16 buckets for each power of two. */
static void measured(unsigned long me, uint64_t ns)
{
	int e = ns < 16 ? 0 : 60 - __builtin_clzll(ns);

	ctl->w[me].hist[e ? e * 16 + (ns >> (e - 1) & 15) : ns]++;
	if (ns > ctl->w[me].longest)
		ctl->w[me].longest = ns;
}

/* The time, in ns, in which the part q of all writes was done. */
static uint64_t percentile(double q)
{
	uint64_t total = 0, sum = 0, b;

	for (b = 0; b < BUCKETS; b++)
		for (unsigned long i = 0; i < writers; i++)
			total += ctl->w[i].hist[b];
	for (b = 0; b < BUCKETS - 1; b++) {
		for (unsigned long i = 0; i < writers; i++)
			sum += ctl->w[i].hist[b];
		if (sum && sum >= q * total)
			break;
	}
	return b < 16 ? b : (17 + b % 16) << (b / 16 - 1);
}

/* Put the next stamp into a page, which is the one at mem; this was due at ns. */
static void write_page(unsigned long me, uint64_t *mem, unsigned long page, uint64_t due)
{
	struct log *log = &ctl->log[page * writers + me];
	uint64_t stamp, t;

	for (;;) {
		/* First say busy, then look; close_gate() does it the other way. */
		atomic_store(&ctl->w[me].busy, 1);
		if (!atomic_load(&ctl->gate))
			break;
		atomic_store(&ctl->w[me].busy, 0);
		wait_at_gate(me);
	}
	stamp = atomic_fetch_add(&ctl->order, 1) + 1;
	*(volatile uint64_t *)(mem + me) = stamp;
	*(volatile uint64_t *)(mem + me + WORDS / 2) = stamp;
	*(atomic_load(&ctl->cut) ? &log->after : &log->before) = stamp;
	atomic_store(&ctl->w[me].busy, 0);
	t = now();
	if (ctl->begin && t >= ctl->begin && (!ctl->end || due < ctl->end))
		measured(me, t > due ? t - due : 0);
}

/* Sleep until the next write is due; returns when that is, or was. */
static uint64_t keep_rate(unsigned long rate)
{
	static uint64_t due;
	uint64_t t = now();

	due = rate ? due + 1000000000 / rate : t;
	if (due > t)
		futex_wait(&ctl->gate, 0, due);
	else
		due = t;	/* after a pause, there is nothing to catch up with */
	return due;
}

/* ---- measure and report ------------------------------------------------- */

static void progress(unsigned long done, unsigned long faults)
{
	static unsigned long step;
	static uint64_t t0;
	struct winsize win = { 0 };
	/* Where a line can't be overwritten: one for each fifth. */
	bool screen = !ioctl(1, TIOCGWINSZ, &win) && win.ws_col;
	unsigned long s = done * (screen ? 100 : 5) / pages;
	char bar[] = "..............................";

	t0 = t0 ?: now();
	if (s == step)
		return;
	step = s;
	memset(bar, '#', done * 30 / pages);
	printf("%s[%s] %6lu of %lu pages saved, %5lu faults served, %.2f s%s", screen ? "\r" : "",
	       bar, done, pages, faults, (now() - t0) / 1e9, screen && done < pages ? "" : "\n");
	fflush(stdout);
}

/* ---- verification ------------------------------------------------------- */

/*
 * Does memory, or an image, have the right stamps: the last ones before the
 * cut, or of all?  Returns the first bad page, or -1, and writes a verdict.
 */
static long check(const uint64_t *mem, bool live, char *verdict, size_t len)
{
	for (unsigned long p = 0; p < pages; p++) {
		for (unsigned long i = 0; i < writers; i++) {
			const uint64_t *word = mem + p * WORDS + i;
			struct log *log = &ctl->log[p * writers + i];
			uint64_t want = live && log->after ? log->after : log->before;

			if (word[0] == want && word[WORDS / 2] == want)
				continue;
			snprintf(verdict, len,
				 "TORN: first bad page %lu: writer %lu has %lu and %lu, not %lu",
				 p, i, word[0], word[WORDS / 2], want);
			return p;
		}
	}
	snprintf(verdict, len, "CONSISTENT");
	return -1;
}
