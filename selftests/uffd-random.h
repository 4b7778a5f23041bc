/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the randomised tests, and those of failures, have in common besides
 * uffd-wp.h: the library of the tests in the tree, with kinds of memory, small
 * files, pagemap, userfaultfd, and how a program ends.
 */
#include <getopt.h>
#include <linux/futex.h>
#include <semaphore.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/swap.h>

#define PAGE		4096UL
#define HUGE_SIZE	(2UL << 20)
#define TAIL		(PAGE - 8)	/* a page has its stamp here, too */
#define MOVE_ALL	4		/* MPOL_MF_MOVE_ALL */
#define CGROUP		"/sys/fs/cgroup/uffd-oracle/"

#define add(p, v)	__atomic_add_fetch(p, v, __ATOMIC_SEQ_CST)
#define pf(n)		__attribute__((format(printf, n, n + 1)))

/* Kinds of memory with small pages; the others come last */
#define NR_SMALL_KINDS	HUGETLB

typedef __u64 u64;

/* One for all files of a program */
u64 rng __attribute__((weak));

static inline u64 rnd(u64 n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return n ? (rng * 0x2545f4914f6cdd1dULL >> 16) % n : 0;
}

static inline u64 get_number(const char *path)
{
	char text[32];

	return read_file(path, text, sizeof(text)) > 0 ? strtoull(text, NULL, 10) : 0;
}

/* An errno, or 0 */
static inline int uffd_wp(int fd, u64 addr, u64 len, bool wp)
{
	return -try_wp(fd, (char *)addr, len, wp ? MODE_WP : 0);
}

/* The file behind a shared mapping at that address */
static inline int file_of_map(void *a, u64 bytes)
{
	char path[64];

	sprintf(path, "/proc/self/map_files/%lx-%lx", (long)a, (long)a + (long)bytes);
	return open(path, O_RDWR | O_CLOEXEC);
}

/* Of kind sysv: the segment, which goes with its last attachment once removed */
int sysv_id __attribute__((weak)) = -1;

/* -1 for anon */
static inline int make_file(enum mem kind, u64 bytes)
{
	int fd, dir;
	void *a;

	if (kind == ANON)
		return -1;
	if (kind == SHANON) {
		a = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		fd = file_of_map(a, bytes);
		munmap(a, bytes);
	} else if (kind == SYSV) {
		sysv_id = sysv_new(bytes, 0);
		a = shmat(sysv_id, NULL, 0);
		fd = file_of_map(a, bytes);
		shmdt(a);
	} else if (kind == HUGE) {
		/* Huge pages without asking: mappings that don't advise have some, too. */
		dir = mount_private("tmpfs", "huge=always");
		fd = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		close(dir);
	} else {
		return new_file(kind, bytes);
	}
	if (fd < 0 || ftruncate(fd, bytes))
		skip("file of kind %s: %s", kind_name[kind], strerror(errno));
	return fd;
}

/* The first thing of a program.  Does the kernel have write-protect of shmem? */
static inline bool begin_test(void)
{
	char *a = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int fd;
	bool ok;

	environment();
	process_init();
	fd = uffd_open(0);
	ok = !try_register(fd, a, PAGE, REG_WP, NULL);
	close(fd);
	munmap(a, PAGE);
	return ok;
}

static const char *const khugepaged_knob[] = {
	THP_DIR "khugepaged/scan_sleep_millisecs", THP_DIR "khugepaged/alloc_sleep_millisecs",
	THP_DIR "khugepaged/pages_to_scan"
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
		sprintf(text, "%llu", old[i]);
		write_file(khugepaged_knob[i], on ? fast[i] : text);
	}
}

/* What the kernel has done; the first call notes where it begins. */
static struct { u64 swapout, migrated, split, collapsed; } counted;

static inline void count(bool begin)
{
	static const char vmstat[] = "/proc/vmstat";
	u64 now[] = {
		file_value(vmstat, "pswpout"), file_value(vmstat, "pgmigrate_success"),
		file_value(vmstat, "thp_split_page") + file_value(vmstat, "thp_split_pmd"),
		get_number(THP_DIR "khugepaged/pages_collapsed")
	};
	u64 *c[] = { &counted.swapout, &counted.migrated, &counted.split, &counted.collapsed };

	for (int i = 0; i < 4; i++)
		*c[i] = begin ? now[i] : now[i] - *c[i];
}
