// SPDX-License-Identifier: GPL-2.0
/*
 * A task that moves to another memory cgroup (v1) takes the charges of its
 * memory along, those of a file's pages as well that are in the page cache and
 * not mapped.  A write-protect marker in place of the page is no obstacle.
 *
 * Each case runs without protection, as a control, and then with it.  Pages in
 * swap stay with the old group; of those half are read back into the page cache.
 *
 * The controller is borrowed from cgroup2, and goes back in the end.  This has to
 * run before anything has used it there: what a group of cgroup2 was charged for
 * kernel memory would be uncharged by the rules of v1, and the kernel warns.
 * Exit status: 0, 1 for a failure, 4 when the kernel lacks what is needed.
 */
#include "uffd-wp.h"
#include "uffd-random.h"

#define V2		"/sys/fs/cgroup/"
#define PAGES		2048UL		/* 8 MiB */
#define SLACK		128UL		/* what CPUs have not accounted yet; a page that is busy */

static char v1[] = "/tmp/memcg-XXXXXX";

struct charges { u64 usage, shmem, swap; };

static char *path_of(const char *group, const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s/%s", v1, group, name);
	return path;
}

/* In pages */
static struct charges charges_of(const char *group)
{
	struct charges c = { .usage = get_number(path_of(group, "memory.usage_in_bytes")) / PAGE };
	FILE *f = fopen(path_of(group, "memory.stat"), "re");
	char line[128];

	if (!f)
		fail("memory.stat: %s", strerror(errno));
	while (fgets(line, sizeof(line), f)) {
		sscanf(line, "shmem %llu", &c.shmem);
		sscanf(line, "swap %llu", &c.swap);
	}
	fclose(f);
	c.shmem /= PAGE;
	c.swap /= PAGE;
	return c;
}

/* All unmapped, and all or none protected */
static void check_ptes(char *mem, bool wp, const char *when)
{
	static u64 pm[PAGES];
	u64 present = 0, protected = 0;

	pagemap_read(mem, PAGES, pm);
	for (u64 i = 0; i < PAGES; i++) {
		present += !!(pm[i] & PM_PRESENT);
		protected += !!(pm[i] & PM_UFFD_WP);
	}
	if (present || protected != (wp ? PAGES : 0))
		fail("%s: %llu pages mapped, %llu protected", when, present, protected);
}

static void move(enum mem kind, bool swapped, bool wp)
{
	struct charges a0, b0, a, b;
	int file, uffd, err;
	volatile char c;
	cpu_set_t cpu;
	char *mem;

	printf("%-11s %-8s %-14s ", kind_name[kind], swapped ? "swapped" : "cached",
	       wp ? "protected" : "not protected");
	/* What another CPU has in a pagevec can not be swapped out. */
	CPU_ZERO(&cpu);
	CPU_SET(0, &cpu);
	sched_setaffinity(0, sizeof(cpu), &cpu);
	if (write_file(path_of("A", "cgroup.procs"), "0"))
		fail("enter A: %s", strerror(errno));
	file = make_file(kind, PAGES * PAGE);
	mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
		   kind == PRIVATE ? MAP_PRIVATE : MAP_SHARED, file, 0);
	if (mem == MAP_FAILED)
		skip("memory: %s", strerror(errno));
	uffd = uffd_open(0);
	reg(uffd, mem, PAGES * PAGE, REG_WP);
	for (u64 i = 0; i < PAGES; i++) {
		if (pwrite(file, &i, sizeof(i), i * PAGE) != sizeof(i))
			fail("pwrite: %s", strerror(errno));
		if (kind != PRIVATE)
			mem[i * PAGE + 100] = 1;
		c = mem[i * PAGE];
	}
	(void)c;
	if (wp) {
		err = uffd_wp(uffd, (u64)mem, PAGES * PAGE, true);
		if (err)
			fail("protect: %s", strerror(err));
	}
	if (swapped && madvise(mem, PAGES * PAGE, MADV_PAGEOUT))
		fail("pageout: %s", strerror(errno));
	if (madvise(mem, PAGES * PAGE, MADV_DONTNEED))
		fail("dontneed: %s", strerror(errno));
	for (u64 i = 0, have; swapped && i < PAGES; i += 2)
		if (pread(file, &have, sizeof(have), i * PAGE) != sizeof(have) || have != i)
			fail("page %llu after swap", i);
	check_ptes(mem, wp, "before the move");
	a0 = charges_of("A");
	b0 = charges_of("B");
	if (a0.shmem < PAGES / 3 || b0.shmem || (swapped && a0.swap < PAGES / 4))
		fail("before the move: A has %llu shmem, %llu swap, B has %llu shmem", a0.shmem,
		     a0.swap, b0.shmem);

	if (write_file(path_of("B", "cgroup.procs"), "0"))
		fail("enter B: %s", strerror(errno));
	a = charges_of("A");
	b = charges_of("B");
	printf("A: shmem %4llu -> %4llu, usage %4llu -> %4llu, swap %4llu -> %4llu; "
	       "B: shmem %4llu, usage %4llu -> %4llu\n", a0.shmem, a.shmem, a0.usage, a.usage,
	       a0.swap, a.swap, b.shmem, b0.usage, b.usage);
	if (b.shmem + SLACK < a0.shmem || a.shmem > SLACK)
		fail("%llu of %llu pages have moved, %llu have stayed", b.shmem, a0.shmem, a.shmem);
	if (b.usage + SLACK < b0.usage + b.shmem || a.usage + b.shmem > a0.usage + SLACK)
		fail("usage does not follow");
	if (a.swap + SLACK < a0.swap || b.swap)
		fail("swap has moved: A %llu -> %llu, B %llu", a0.swap, a.swap, b.swap);
	check_ptes(mem, wp, "after the move");
	for (u64 i = 0; i < PAGES; i += 1 + rnd(9))
		if (*(u64 *)(mem + i * PAGE) != i)
			fail("page %llu after the move", i);
	fflush(stdout);
}

/* Also where there is no cgroup2 */
static bool controller_is_back(void)
{
	char text[256] = "";
	int fd = open(V2 "cgroup.controllers", O_RDONLY | O_CLOEXEC);
	bool back = fd < 0 || (read(fd, text, sizeof(text) - 1) > 0 && strstr(text, "memory"));

	if (fd >= 0)
		close(fd);
	return back;
}

/*
 * A group is there until its last charge is gone.  That may be of a page that only
 * the swap cache has, or of a swap entry that waits for others to be freed with.
 */
static void drop_charges(void)
{
	FILE *f = fopen("/proc/swaps", "re");
	char line[256], dev[8][128];
	int prio[8], n = 0;

	while (f && n < 8 && fgets(line, sizeof(line), f))
		n += sscanf(line, "%127s %*s %*s %*s %d", dev[n], &prio[n]) == 2;
	if (f)
		fclose(f);
	for (int i = 0; i < n; i++)
		if (swapoff(dev[i]))
			fail("swapoff: %s", strerror(errno));
	for (int i = 0; i < n; i++)
		if (swapon(dev[i], prio[i] < 0 ? 0 : SWAP_FLAG_PREFER | prio[i]))
			fail("swapon: %s", strerror(errno));
}

static void give_controller_back(void)
{
	long long end = now_ms() + 30000;

	rmdir(path_of("A", ""));
	rmdir(path_of("B", ""));
	/* It goes with the last unmount after the groups have gone. */
	for (;;) {
		drop_charges();
		umount(v1);
		usleep(100000);
		if (controller_is_back())
			break;
		if (now_ms() > end)
			fail("the memory controller does not go back to cgroup2");
		mount("memcg", v1, "cgroup", 0, "memory");
	}
	write_file(V2 "cgroup.subtree_control", "+memory");
	rmdir(v1);
}

int main(void)
{
	static const enum mem kinds[] = { MEMFD, PRIVATE, TMPFS, SHANON };
	u64 cluster = get_number("/proc/sys/vm/page-cluster");
	int status = 0;
	char text[24];

	rng = 1;
	if (!begin_test())
		fail("no write-protect of shared memory");
	write_file(V2 "cgroup.subtree_control", "-memory");
	if (!mkdtemp(v1) || mount("memcg", v1, "cgroup", 0, "memory")) {
		int err = errno;

		write_file(V2 "cgroup.subtree_control", "+memory");
		errno = err;
		if (err == EBUSY)
			fail("there was a memory cgroup already: this has to be the first test");
		skip("cgroup v1 memory controller: %s", strerror(errno));
	}
	/* No read-ahead: the swap cache is not for this test. */
	write_file("/proc/sys/vm/page-cluster", "0");
	if (mkdir(path_of("A", ""), 0755) || mkdir(path_of("B", ""), 0755) ||
	    write_file(path_of("B", "memory.move_charge_at_immigrate"), "3")) {
		printf("SKIP: groups, or move_charge_at_immigrate: %s\n", strerror(errno));
		status = 4 << 8;
	}
	for (u64 i = 0; !status && i < 4 * sizeof(kinds) / sizeof(kinds[0]); i++) {
		pid_t pid;

		fflush(stdout);
		pid = fork();
		if (!pid) {
			move(kinds[i / 4], i & 2, i & 1);
			_exit(0);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid)
			status = 1 << 8;
	}
	sprintf(text, "%llu", cluster);
	write_file("/proc/sys/vm/page-cluster", text);
	give_controller_back();
	if (!status)
		printf("all charges have moved\n");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
