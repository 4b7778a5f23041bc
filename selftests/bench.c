// SPDX-License-Identifier: GPL-2.0
/*
 * What write protection by userfaultfd costs, and what it costs those who do
 * not use it: instructions and page faults per page of 4 KiB.
 *
 * usage: bench [-r REPEATS] [-m MIB] [-n] shmem|anon|hugetlb [ROW...]
 *        bench [-r REPEATS] [-m MIB] smp
 *        bench [-r REPEATS] grow
 *
 * ROW is a name below, or a shell pattern.  Prints for each row
 *
 *	ROW KIND VALUE UNIT FAULTS
 *
 * Of hugetlbfs, a page is a huge one.
 *
 * UNIT is insn/page, or what stands in the row's name.  "# skip" says why a row
 * does not run, on a kernel that has no write protection for shmem, say.
 *
 * -n registers an MMU notifier, that of CONFIG_TEST_HMM.
 *
 * Time is the time stamp counter.  In QEMU with -icount shift=0 and one CPU it
 * counts the instructions that the guest executes, kernel and all.  Each row is
 * repeated from a fresh mapping, and the smallest value printed: what is left
 * out is a timer tick more or less.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define PAGE	4096UL
#define HUGE	(2UL << 20)
#define GIB	(1UL << 30)

static bool shmem, hugetlb;	/* the kind of memory */
static bool private_file;	/* shmem, mapped privately */
static size_t page = PAGE;	/* its size */
static size_t size = 64UL << 20;	/* of the mapping under test */
static size_t pages;
static char *mem;
static int uffd = -1, memfd = -1;

/* What a row has measured */
static double value;		/* instructions, or what it likes */
static double per;		/* pages that the value is for */
static long faults;
static const char *unit;

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *fmt, ...)
{
	int err = errno;
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf(": %s\n", strerror(err));
	exit(1);
}

static void check(bool ok, const char *what)
{
	if (!ok)
		die("%s", what);
}

/* ---- the clock ---- */

static uint64_t t0;
static long f0;

static long count_faults(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_minflt + u.ru_majflt;
}

static __attribute__((noinline)) void start(void)
{
	f0 = count_faults();
	t0 = __rdtsc();
}

static __attribute__((noinline)) void stop(void)
{
	value = __rdtsc() - t0;
	faults = count_faults() - f0;
	per = pages;
	unit = "insn/page";
}

/* Where tools/lib/cost takes down what the kernel has done from start() to stop() */
static __attribute__((noinline)) void done(void)
{
	asm volatile("");
}

/* ---- memory ---- */

/* A mapping that starts on a huge page boundary */
static void map(size_t len, bool huge)
{
	char *p = mmap(NULL, len + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int flags = MAP_FIXED;

	check(p != MAP_FAILED, "mmap");
	munmap(p, len + HUGE);
	p = (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
	if (shmem || hugetlb) {
		memfd = memfd_create("bench", MFD_CLOEXEC | (hugetlb ? MFD_HUGETLB : 0));
		check(memfd >= 0 && !ftruncate(memfd, len), "memfd");
		flags |= private_file ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED;
	} else {
		flags |= MAP_PRIVATE | MAP_ANONYMOUS;
	}
	mem = mmap(p, len, PROT_READ | PROT_WRITE, flags, memfd, 0);
	check(mem == p, "mmap");
	size = len;
	pages = len / page;
	if (hugetlb)
		return;
	/* "advise" and "madvise" are what the guest is set to */
	check(!madvise(mem, len, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE), "madvise huge");
}

static void touch_read(void)
{
	volatile char *p = mem, *end = mem + size;
	const size_t step = page;

	for (; p < end; p += step)
		(void)*p;
}

static void touch_write(void)
{
	volatile char *p = mem, *end = mem + size;
	const size_t step = page;

	for (; p < end; p += step)
		*p = 0;
}


static void advise(int what)
{
	check(!madvise(mem, size, what), "madvise");
}

static void unmap(void)
{
	if (mem)
		munmap(mem, size);
	if (memfd >= 0)
		close(memfd);
	if (uffd >= 0)
		close(uffd);
	memfd = uffd = -1;
}

/*
 * Fill the mapping, and let reclaim see the pages in use often enough that it
 * takes no further notice.
 */
static void settle(void)
{
	touch_write();
	for (int i = 0; shmem && i < 3; i++) {
		advise(MADV_DONTNEED);
		touch_read();
	}
	touch_write();
}

/* Have shared pages mapped by reading, so that their PTEs are not dirty */
static void clean(void)
{
	if (shmem) {
		advise(MADV_DONTNEED);
		touch_read();
	}
}

/* The number after a word in a file of "WORD NUMBER" lines; of smaps, the sum. */
static long number(const char *file, const char *word)
{
	char line[256];
	FILE *f = fopen(file, "re");
	size_t n = strlen(word);
	long sum = 0;

	check(f, file);
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, word, n))
			sum += atol(line + n);
	fclose(f);
	return sum;
}

static long huge_kib(void)
{
	return number("/proc/self/smaps", shmem ? "ShmemPmdMapped:" : "AnonHugePages:");
}

/* The device mirrors our address space while it is open */
static void register_notifier(void)
{
	static const char dev[] = "/tmp/bench-hmm";
	FILE *f = fopen("/proc/devices", "re");
	char line[256];
	int nr = 0;

	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, " HMM_DMIRROR"))
			nr = atoi(line);
	unlink(dev);
	check(f && nr && !mknod(dev, S_IFCHR | 0600, makedev(nr, 0)) &&
	      open(dev, O_RDWR | O_CLOEXEC) >= 0, "CONFIG_TEST_HMM");
	fclose(f);
}

/* ---- userfaultfd ---- */

static bool try_register(uint64_t mode, uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API,
				  .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | features };
	struct uffdio_register reg = { .range = { (uintptr_t)mem, size },
				       .mode = mode };

	uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	check(uffd >= 0 && !ioctl(uffd, UFFDIO_API, &api), "UFFDIO_API");
	return !ioctl(uffd, UFFDIO_REGISTER, &reg);
}

static void wp_range(void *p, size_t len, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = { (uintptr_t)p, len },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	check(!ioctl(uffd, UFFDIO_WRITEPROTECT, &wp), "UFFDIO_WRITEPROTECT");
}

static void wp(bool on)
{
	wp_range(mem, size, on);
}

/* Wait for an event, or don't if the descriptor says so. */
static bool get_event(struct uffd_msg *msg)
{
	ssize_t n = read(uffd, msg, sizeof(*msg));

	if (n < 0 && errno == EAGAIN)
		return false;
	check(n == sizeof(*msg), "read of an event");
	return true;
}

static char *wp_event(const struct uffd_msg *msg)
{
	check(msg->event == UFFD_EVENT_PAGEFAULT &&
	      (msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP), "not a write-protect event");
	return (char *)(uintptr_t)(msg->arg.pagefault.address & ~(PAGE - 1));
}

/* ---- rows of hugetlbfs ---- */

/* In 5.10 only a new mapping has nothing mapped */
static void huge_afresh(void)
{
	check(mmap(mem, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd, 0) == mem,
	      "mmap");
}

static void row_huge_read_refault(void)
{
	huge_afresh();
	start();
	touch_read();
	stop();
}

static void row_huge_write_refault(void)
{
	huge_afresh();
	start();
	touch_write();
	stop();
}

/* ---- rows: all begin with a fresh mapping, in page tables and written ---- */

static void row_populate(void)
{
	start();
	touch_write();
	stop();
}

static void row_read_refault(void)
{
	advise(MADV_DONTNEED);
	start();
	touch_read();
	stop();
}

static void row_write_refault(void)
{
	advise(MADV_DONTNEED);
	start();
	touch_write();
	stop();
}

static void row_write_after_read(void)
{
	advise(MADV_DONTNEED);
	touch_read();
	start();
	touch_write();
	stop();
}

static void row_dontneed(void)
{
	clean();
	start();
	advise(MADV_DONTNEED);
	stop();
}

static void row_munmap(void)
{
	clean();
	start();
	munmap(mem, size);
	stop();
	mem = NULL;
}

static void fork_exit(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	check(pid > 0 && waitpid(pid, NULL, 0) == pid, "fork");
}

/* Most of it is not for the pages: a timer tick would show, so take one without */
static void row_fork_exit(void)
{
	double best = 0;

	fork_exit();
	for (int i = 0; i < 32; i++) {
		start();
		fork_exit();
		stop();
		if (!best || value < best)
			best = value;
	}
	value = best;
}

static void row_soft_dirty(void)
{
	int fd = open("/proc/self/clear_refs", O_WRONLY);

	advise(MADV_DONTNEED);
	touch_read();
	check(fd >= 0 && write(fd, "4", 1) == 1, "clear_refs");
	close(fd);
	start();
	touch_write();
	stop();
}

static void swap_out(void)
{
	long out = number("/proc/vmstat", "pswpout ");

	start();
	advise(MADV_PAGEOUT);
	stop();
	out = number("/proc/vmstat", "pswpout ") - out;
	check(out >= (long)(pages - pages / 20), "pages don't go to swap");
}

static void row_swap_in(void)
{
	swap_out();
	start();
	touch_read();
	stop();
}

static void row_wp_write_after(void)
{
	wp(true);
	wp(false);
	start();
	touch_write();
	stop();
}

static void row_wp_protect(void)
{
	start();
	wp(true);
	stop();
}

static void row_wp_unprotect(void)
{
	wp(true);
	start();
	wp(false);
	stop();
}

static void row_wp_dontneed(void)
{
	clean();
	wp(true);
	start();
	advise(MADV_DONTNEED);
	stop();
}

static void row_wp_read_refault(void)
{
	wp(true);
	row_read_refault();
}

static void row_wp_unprotect_markers(void)
{
	advise(MADV_DONTNEED);
	wp(true);
	start();
	wp(false);
	stop();
}

static void row_wp_protect_holes(void)
{
	advise(MADV_DONTNEED);
	start();
	wp(true);
	stop();
}

static void row_wp_swap_out(void)
{
	wp(true);
	swap_out();
}

static void row_wp_swap_in(void)
{
	wp(true);
	row_swap_in();
}

static void row_wp_unregister(void)
{
	struct uffdio_range r = { (uintptr_t)mem, size };

	wp(true);
	start();
	check(!ioctl(uffd, UFFDIO_UNREGISTER, &r), "UFFDIO_UNREGISTER");
	stop();
}

/* The end of a registration through which nothing was protected: for all of the range */
static void whole_range(void)
{
	per = 1;
	unit = "insn";
}

static void row_reg_unregister(void)
{
	struct uffdio_range r = { (uintptr_t)mem, size };

	start();
	check(!ioctl(uffd, UFFDIO_UNREGISTER, &r), "UFFDIO_UNREGISTER");
	stop();
	whole_range();
}

static void row_reg_close(void)
{
	start();
	close(uffd);
	stop();
	uffd = -1;
	whole_range();
}

static void row_wp_munmap(void)
{
	wp(true);
	start();
	munmap(mem, size);
	stop();
	mem = NULL;
}

static void *unprotect_each(void *unused)
{
	struct uffd_msg msg;

	for (size_t i = 0; i < pages; i++) {
		get_event(&msg);
		wp_range(wp_event(&msg), page, false);
	}
	return unused;
}

static void row_wp_event(void)
{
	pthread_t monitor;

	wp(true);
	pthread_create(&monitor, NULL, unprotect_each, NULL);
	sched_yield();
	start();
	touch_write();
	stop();
	pthread_join(monitor, NULL);
}

static void row_wp_event_marker(void)
{
	advise(MADV_DONTNEED);
	row_wp_event();
}

static void *fork_event(void *fd)
{
	struct uffd_msg msg;

	get_event(&msg);
	check(msg.event == UFFD_EVENT_FORK, "not a fork event");
	*(int *)fd = msg.arg.fork.ufd;
	return NULL;
}

static void row_wp_fork(void)
{
	pthread_t monitor;
	int fd = -1;

	wp(true);
	pthread_create(&monitor, NULL, fork_event, &fd);
	sched_yield();
	start();
	fork_exit();
	stop();
	pthread_join(monitor, NULL);
	close(fd);
}

/* 1 GiB of holes, and no page tables */
static long tables_kib;
static void protect_sparse(void)
{
	long kib = number("/proc/self/status", "VmPTE:");

	start();
	wp(true);
	stop();
	tables_kib = number("/proc/self/status", "VmPTE:") - kib;
}

static void row_wp_sparse_tables(void)
{
	protect_sparse();
	value = tables_kib;
	unit = "KiB";
	per = 1;
	faults = 0;
}

static void row_wp_sparse_unprotect(void)
{
	wp(true);
	start();
	wp(false);
	stop();
}

static void row_wp_sparse_munmap(void)
{
	wp(true);
	start();
	munmap(mem, size);
	stop();
	mem = NULL;
}

/* Small pages in the page cache, below what is protected as a whole */
static void row_wp_pmd_read(void)
{
	static char buf[1 << 16];

	for (size_t off = 0; off < size; off += sizeof(buf))
		check(pwrite(memfd, buf, sizeof(buf), off) == sizeof(buf), "pwrite");
	wp(true);
	start();
	touch_read();
	stop();
}

static void row_wp_huge_protect(void)
{
	check(huge_kib() * 1024 == (long)size, "not mapped huge");
	start();
	wp(true);
	stop();
}

static void row_wp_huge_unprotect(void)
{
	row_wp_huge_protect();
	start();
	wp(false);
	stop();
}

static void row_wp_huge_read(void)
{
	row_wp_huge_protect();
	start();
	touch_read();
	stop();
}

static void row_wp_huge_stays(void)
{
	row_wp_huge_protect();
	value = huge_kib();
	unit = "KiB";
	per = 1;
	faults = 0;
}

/*
 * A live snapshot.  The guest writes to every page once, in an order of its own.
 * The monitor copies what is about to be written, and all the rest in its spare
 * time, and must get the state of the moment when it has protected the memory.
 */
static char *copy;
static unsigned char *saved;
static long events;

static void save(size_t first, size_t n)
{
	for (size_t i = first; i < first + n; i++)
		if (!saved[i]) {
			memcpy(copy + i * PAGE, mem + i * PAGE, PAGE);
			saved[i] = 1;
		}
	wp_range(mem + first * PAGE, n * PAGE, false);
}

static void *write_all(void *unused)
{
	/* An odd stride comes by every page of a power of two */
	for (size_t i = 0, at = 0; i < pages; i++, at = (at + 5 * pages / 8 + 1) % pages)
		*(volatile uint64_t *)(mem + at * PAGE) = ~at;
	return unused;
}

static void row_wp_snapshot(void)
{
	size_t next = 0;
	struct uffd_msg msg;
	pthread_t writer;

	for (size_t i = 0; i < pages; i++)
		*(uint64_t *)(mem + i * PAGE) = i;
	copy = mmap(NULL, size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	saved = calloc(1, pages);
	memset(saved, 0, pages);
	check(copy != MAP_FAILED && saved, "no memory for the copy");
	check(!fcntl(uffd, F_SETFL, O_NONBLOCK), "fcntl");
	events = 0;

	start();
	wp(true);
	check(!pthread_create(&writer, NULL, write_all, NULL), "pthread_create");
	while (next < pages) {
		if (get_event(&msg)) {
			events++;
			save((wp_event(&msg) - mem) / PAGE, 1);
		}
		save(next, 4);
		next += 4;
		sched_yield();
	}
	pthread_join(writer, NULL);
	stop();

	for (size_t i = 0; i < pages; i++) {
		uint64_t now = *(uint64_t *)(mem + i * PAGE), then = *(uint64_t *)(copy + i * PAGE);

		errno = 0;
		check(then == i && now == ~i, "the snapshot is wrong");
	}
	munmap(copy, size);
	free(saved);
}

static void row_wp_snapshot_events(void)
{
	row_wp_snapshot();
	value = events;
	unit = "events/page";
	faults = 0;
}

/*
 * Wall clock, for more than one CPU: two threads write to protected pages, a
 * third one unprotects them. Anonymous and shared memory take turns, and what
 * counts is the median of the ratios: the machine may be busy with other things,
 * and how the three meet differs from run to run.
 */
static void *write_half(void *half)
{
	for (size_t i = (size_t)half; i < pages; i += 2)
		mem[i * PAGE] = 1;
	return NULL;
}

static double writers(size_t len)
{
	struct timespec a, b;
	pthread_t t[3];

	map(len, false);
	settle();
	check(try_register(UFFDIO_REGISTER_MODE_WP, 0), "UFFDIO_REGISTER");
	wp(true);
	clock_gettime(CLOCK_MONOTONIC, &a);
	pthread_create(&t[0], NULL, unprotect_each, NULL);
	for (size_t i = 1; i < 3; i++)
		pthread_create(&t[i], NULL, write_half, (void *)(i - 1));
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	clock_gettime(CLOCK_MONOTONIC, &b);
	unmap();
	return (b.tv_sec - a.tv_sec) * 1e9 + b.tv_nsec - a.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *v, int n)
{
	qsort(v, n, sizeof(*v), compare);
	return v[n / 2];
}

static void smp(int repeats, size_t len)
{
	double t[2][repeats], ratio[repeats];

	for (int i = 0; i < repeats; i++) {
		for (int s = 0; s < 2; s++) {
			shmem = s;
			t[s][i] = writers(len) / pages;
		}
		ratio[i] = t[1][i] / t[0][i];
	}
	printf("writers-smp anon %.0f ns/page 0\nwriters-smp shmem %.0f ns/page 0\n",
	       median(t[0], repeats), median(t[1], repeats));
	printf("writers-smp-ratio both %.3f shmem/anon 0\n", median(ratio, repeats));
}

/* ---- how the cost of protecting grows with the size ---- */

/*
 * Protect a file that is nearly empty: nothing of it is there, or one of 100 blocks
 * of 2 MiB, in small pages.  A private mapping keeps protection in page tables, as
 * shared ones do without PMD markers.
 */
static void grow_once(int gib, int percent, int repeats)
{
	static char buf[1 << 16];
	double best = 0, tables = 0, kib;

	for (int i = 0; i < repeats; i++) {
		map(gib * GIB, false);
		for (size_t off = 0; percent && off < size; off += 100 / percent * HUGE)
			for (size_t at = off; at < off + HUGE; at += sizeof(buf))
				check(pwrite(memfd, buf, sizeof(buf), at) == sizeof(buf), "pwrite");
		for (size_t off = 0; percent && off < size; off += 100 / percent * HUGE)
			for (size_t at = off; at < off + HUGE; at += PAGE)
				(void)*(volatile char *)(mem + at);
		if (!try_register(UFFDIO_REGISTER_MODE_WP, 0))
			die("UFFDIO_REGISTER");
		kib = number("/proc/self/status", "VmPTE:");
		start();
		wp(true);
		stop();
		tables = number("/proc/self/status", "VmPTE:") - kib;
		if (!i || value < best)
			best = value;
		unmap();
	}
	printf("grow%d-insn-%d %s %.0f insn/GiB 0\n", percent, gib,
	       private_file ? "private" : "shared", best / gib);
	printf("grow%d-tables-%d %s %.1f KiB/GiB 0\n", percent, gib,
	       private_file ? "private" : "shared", tables / gib);
}

static void grow(int repeats)
{
	static const int gib[] = { 1, 4, 16, 64 };

	shmem = true;
	for (int percent = 0; percent < 2; percent++)
		for (int priv = 1; priv >= 0; priv--)
			for (size_t i = 0; i < sizeof(gib) / sizeof(gib[0]); i++) {
				private_file = priv;
				grow_once(gib[i], percent, repeats);
			}
}

/* ---- */

enum {
	SHMEM = 1, ANON = 2, BOTH = 3,
	WP = 4,			/* registered for write protection */
	FORK = 8,		/* ... with fork events */
	EMPTY = 16,		/* nothing written yet */
	HUGEMAP = 32,		/* huge pages */
	SPARSE = 64,		/* 1 GiB */
	HTLB = 128,		/* hugetlbfs */
	MISSING = 256,		/* registered for missing pages */
};

static const struct row {
	const char *name;
	void (*run)(void);
	int flags;
} rows[] = {
	{ "populate", row_populate, BOTH | HTLB | EMPTY },
	{ "read-refault", row_read_refault, SHMEM },
	{ "write-refault", row_write_refault, SHMEM },
	{ "write-after-read", row_write_after_read, SHMEM },
	{ "dontneed", row_dontneed, BOTH },
	{ "munmap", row_munmap, BOTH | HTLB },
	{ "fork-exit", row_fork_exit, BOTH },
	{ "soft-dirty-write", row_soft_dirty, SHMEM },
	{ "swap-out", swap_out, BOTH },
	{ "swap-in", row_swap_in, BOTH },
	{ "reg-populate", row_populate, BOTH | WP | EMPTY },
	{ "reg-read-refault", row_read_refault, SHMEM | WP },
	{ "reg-write-refault", row_write_refault, SHMEM | WP },
	{ "reg-write-after-read", row_write_after_read, SHMEM | WP },
	{ "reg-soft-dirty-write", row_soft_dirty, SHMEM | WP },
	/* With what plain 5.10 has, and wakes at unregister */
	{ "reg-unregister", row_reg_unregister, SHMEM | MISSING },
	{ "reg-unregister", row_reg_unregister, ANON | MISSING | WP },
	{ "reg-unregister-wp", row_reg_unregister, BOTH | WP },
	{ "reg-close", row_reg_close, SHMEM | MISSING },
	{ "reg-close", row_reg_close, ANON | MISSING | WP },
	{ "reg-close-wp", row_reg_close, BOTH | WP },
	{ "wp-write-after", row_wp_write_after, BOTH | WP },
	{ "wp-protect", row_wp_protect, BOTH | HTLB | WP },
	{ "wp-unprotect", row_wp_unprotect, BOTH | HTLB | WP },
	{ "wp-dontneed", row_wp_dontneed, SHMEM | WP },
	{ "wp-read-refault", row_wp_read_refault, SHMEM | WP },
	{ "wp-unprotect-markers", row_wp_unprotect_markers, SHMEM | WP },
	{ "wp-protect-holes", row_wp_protect_holes, SHMEM | WP },
	{ "wp-event", row_wp_event, BOTH | HTLB | WP },
	{ "wp-event-marker", row_wp_event_marker, SHMEM | WP },
	{ "wp-swap-out", row_wp_swap_out, BOTH | WP },
	{ "wp-swap-in", row_wp_swap_in, BOTH | WP },
	{ "wp-fork-exit", row_wp_fork, BOTH | WP | FORK },
	{ "wp-unregister", row_wp_unregister, BOTH | WP },
	{ "wp-munmap", row_wp_munmap, BOTH | WP },
	{ "wp-sparse-protect", protect_sparse, SHMEM | WP | EMPTY | SPARSE },
	{ "wp-sparse-tables", row_wp_sparse_tables, SHMEM | WP | EMPTY | SPARSE },
	{ "wp-sparse-unprotect", row_wp_sparse_unprotect, SHMEM | WP | EMPTY | SPARSE },
	{ "wp-sparse-munmap", row_wp_sparse_munmap, SHMEM | WP | EMPTY | SPARSE },
	{ "wp-pmd-read", row_wp_pmd_read, SHMEM | WP | EMPTY },
	{ "wp-huge-protect", row_wp_huge_protect, SHMEM | WP | HUGEMAP },
	{ "wp-huge-unprotect", row_wp_huge_unprotect, SHMEM | WP | HUGEMAP },
	{ "wp-huge-read", row_wp_huge_read, SHMEM | WP | HUGEMAP },
	{ "wp-huge-stays", row_wp_huge_stays, SHMEM | WP | HUGEMAP },
	{ "read-refault", row_huge_read_refault, HTLB },
	{ "write-refault", row_huge_write_refault, HTLB },
	{ "wp-protect-holes", row_wp_protect, HTLB | WP | EMPTY },
	{ "wp-unprotect-markers", row_wp_unprotect, HTLB | WP | EMPTY },
	{ "wp-snapshot", row_wp_snapshot, BOTH | WP },
	{ "wp-snapshot-events", row_wp_snapshot_events, BOTH | WP },
};

static bool wanted(const struct row *r, char **names)
{
	if (!*names)
		return true;
	for (; *names; names++)
		if (!fnmatch(*names, r->name, 0))
			return true;
	return false;
}

static bool run_once(const struct row *r, size_t len)
{
	uint64_t mode;
	bool ok = true;

	map(r->flags & SPARSE ? GIB : len, r->flags & HUGEMAP);
	if (!(r->flags & EMPTY))
		settle();
	mode = (r->flags & WP ? UFFDIO_REGISTER_MODE_WP : 0) |
		(r->flags & MISSING ? UFFDIO_REGISTER_MODE_MISSING : 0);
	if (mode) {
		ok = try_register(mode, r->flags & FORK ? UFFD_FEATURE_EVENT_FORK : 0);
		if (!ok && errno != EINVAL)
			die("UFFDIO_REGISTER");
	}
	if (ok) {
		r->run();
		done();
	}
	unmap();
	return ok;
}

int main(int argc, char **argv)
{
	int repeats = 5, opt, how = personality(0xffffffff);
	size_t len = size;

	/* Where things are decides how many page tables a fork() makes */
	if (!(how & ADDR_NO_RANDOMIZE)) {
		check(personality(how | ADDR_NO_RANDOMIZE) >= 0, "personality");
		execv("/proc/self/exe", argv);
		die("exec");
	}
	while ((opt = getopt(argc, argv, "r:m:n")) != -1) {
		if (opt == 'r')
			repeats = atoi(optarg);
		else if (opt == 'm')
			len = strtoul(optarg, NULL, 0) << 20;
		else if (opt == 'n')
			register_notifier();
		else
			return 2;
	}
	if (optind >= argc || repeats < 1 || !len || len % HUGE)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!strcmp(argv[optind], "smp")) {
		smp(repeats, len);
		return 0;
	}
	if (!strcmp(argv[optind], "grow")) {
		grow(repeats);
		return 0;
	}
	shmem = !strcmp(argv[optind], "shmem");
	hugetlb = !strcmp(argv[optind], "hugetlb");
	if (hugetlb)
		page = HUGE;
	for (const struct row *r = rows; r < rows + sizeof(rows) / sizeof(rows[0]); r++) {
		double best = -1, best_faults = 0;

		if (!(r->flags & (hugetlb ? HTLB : shmem ? SHMEM : ANON)) || !wanted(r, argv + optind + 1))
			continue;
		for (int i = 0; i < repeats; i++) {
			if (!run_once(r, len)) {
				printf("# skip %s %s: can't be registered\n", r->name, argv[optind]);
				break;
			}
			if (best < 0 || value / per < best) {
				best = value / per;
				best_faults = faults / per;
			}
		}
		if (best >= 0)
			printf("%s %s %.4f %s %.4f\n", r->name, argv[optind], best,
			       unit, best_faults);
	}
	return 0;
}
