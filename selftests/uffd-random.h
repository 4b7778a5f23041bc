/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What uffd-oracle and uffd-chaos have in common: kinds of memory, random
 * numbers, counters of the kernel.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/falloc.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLD
#define MADV_COLD	20
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif
#define PAGE		4096UL
#define HUGE		(2UL << 20)
#define TAIL		(PAGE - 8)	/* a page has its stamp here, too */
#define PM_SOFT_DIRTY	(1ULL << 55)
#define PM_UFFD_WP	(1ULL << 57)
#define PM_SWAP		(1ULL << 62)
#define PM_PRESENT	(1ULL << 63)
#define MOVE_ALL	4		/* MPOL_MF_MOVE_ALL */
#define THP		"/sys/kernel/mm/transparent_hugepage/"
#define CGROUP		"/sys/fs/cgroup/uffd-oracle/"

#define load(p)		__atomic_load_n(p, __ATOMIC_SEQ_CST)
#define store(p, v)	__atomic_store_n(p, v, __ATOMIC_SEQ_CST)
#define add(p, v)	__atomic_add_fetch(p, v, __ATOMIC_SEQ_CST)
#define pf(n)		__attribute__((format(printf, n, n + 1)))

typedef uint64_t u64;

enum kind { MEMFD, TMPFS, HUGETMPFS, SHANON, PRIVATE, ANON, KINDS };
static const char *const kind_name[KINDS] = {
	"memfd", "tmpfs", "tmpfs-huge", "shared-anon", "private", "anon"
};

/* One for all files of a program */
u64 rng __attribute__((weak));

/* Ends the program with status 4: the kernel can not do what is asked for. */
void __attribute__((noreturn)) skip(const char *why);

static inline u64 rnd(u64 n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return n ? (rng * 0x2545f4914f6cdd1dULL >> 16) % n : 0;
}

static inline u64 now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ULL + t.tv_nsec / 1000000;
}

static inline bool put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

static inline char *get_text(const char *path, char *text, size_t len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, text, len - 1);

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
	return text;
}

static inline u64 get_number(const char *path)
{
	char text[32];

	return strtoull(get_text(path, text, sizeof(text)), NULL, 10);
}

static inline u64 vmstat(const char *name)
{
	char line[128];
	size_t n = strlen(name);
	u64 v = 0;
	FILE *f = fopen("/proc/vmstat", "re");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, n) && line[n] == ' ')
			v = strtoull(line + n, NULL, 10);
	if (f)
		fclose(f);
	return v;
}

static inline int uffd_wp(int fd, u64 addr, u64 len, bool wp)
{
	struct uffdio_writeprotect w = {
		.range = { addr, len }, .mode = wp ? UFFDIO_WRITEPROTECT_MODE_WP : 0
	};

	return ioctl(fd, UFFDIO_WRITEPROTECT, &w) ? errno : 0;
}

static inline int make_file(enum kind k, u64 bytes)
{
	char dir[] = "/tmp/uffd-XXXXXX", path[64];
	int fd = -1;
	void *a;

	switch (k) {
	case MEMFD:
	case PRIVATE:
		fd = memfd_create("uffd", MFD_CLOEXEC);
		break;
	case SHANON:
		a = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		sprintf(path, "/proc/self/map_files/%lx-%lx", (long)a, (long)a + (long)bytes);
		fd = open(path, O_RDWR | O_CLOEXEC);
		munmap(a, bytes);
		break;
	case TMPFS:
	case HUGETMPFS:
		if (!mkdtemp(dir) || mount("uffd", dir, "tmpfs", 0,
					   k == TMPFS ? "huge=never" : "huge=always"))
			skip("tmpfs");
		sprintf(path, "%s/file", dir);
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		umount2(dir, MNT_DETACH);
		rmdir(dir);
		break;
	default:
		return -1;
	}
	if (fd < 0 || ftruncate(fd, bytes))
		skip("file");
	return fd;
}

static inline bool have_shmem_wp(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register r = { .mode = UFFDIO_REGISTER_MODE_WP };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	void *a = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	bool ok;

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
		skip("userfaultfd");
	r.range = (struct uffdio_range){ (u64)a, PAGE };
	ok = !ioctl(fd, UFFDIO_REGISTER, &r);
	close(fd);
	munmap(a, PAGE);
	return ok;
}

static const char *const khugepaged_knob[] = {
	THP "khugepaged/scan_sleep_millisecs", THP "khugepaged/alloc_sleep_millisecs",
	THP "khugepaged/pages_to_scan"
};

/* Let khugepaged work all the time, and later as before. */
static inline void hurry_khugepaged(bool on)
{
	static u64 old[3];
	static const char *const fast[] = { "20", "20", "8192" };

	for (int i = 0; i < 3; i++) {
		char text[32];

		if (on)
			old[i] = get_number(khugepaged_knob[i]);
		sprintf(text, "%llu", (unsigned long long)old[i]);
		put(khugepaged_knob[i], on ? fast[i] : text);
	}
}

/* What the kernel has done; the first call notes where it begins. */
static struct { u64 swapout, migrated, split, collapsed; } counted;

static inline void count(bool begin)
{
	u64 now[] = {
		vmstat("pswpout"), vmstat("pgmigrate_success"),
		vmstat("thp_split_page") + vmstat("thp_split_pmd"),
		get_number(THP "khugepaged/pages_collapsed")
	};
	u64 *c[] = { &counted.swapout, &counted.migrated, &counted.split, &counted.collapsed };

	for (int i = 0; i < 4; i++)
		*c[i] = begin ? now[i] : now[i] - *c[i];
}
