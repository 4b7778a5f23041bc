// SPDX-License-Identifier: GPL-2.0
/*
 * What a plain user can do to others with write-protect of shared memory, where
 * vm.unprivileged_userfaultfd is 1: each case has a bound.
 *
 *   tables    page tables, and tables of PMD markers, stay inside his memory cgroup
 *   mappings  10,000 mappings with markers: how long do fork and exit take?
 *   parked    writes that nobody serves, of a thread and by the kernel for it.
 *             Meanwhile khugepaged, KSM, compaction, migration and swapoff get on,
 *             and others can look at the process; it can dump core and be killed
 *   storm     protect, unprotect, mmap() and munmap() all the time: others get to
 *             run, and to read its /proc files
 *
 * The user is in a memory cgroup, which has to be gone afterwards, without remains.
 * Exit status: 0, 1 for a failure, 4 when the kernel lacks what is needed.
 */
#include "uffd-wp.h"
#include "uffd-random.h"
#include <grp.h>

#define USER		65534
#define V2		"/sys/fs/cgroup/"
#define GROUP		V2 "uffd-harm/"
#define OTHER_GROUP	V2 "uffd-harm-other/"
#define UNPRIVILEGED	"/proc/sys/vm/unprivileged_userfaultfd"
#define CORE		"/tmp/core-of-harm"
#define LIMIT		(64UL << 20)	/* of the cgroup */
#define MAPPINGS	10000
#define SMALL		64		/* pages of what is parked on, but for huge pages */
#define STORM		(4UL << 30)
#define BOUND_MS	30000		/* of anything that must not hang */

static int hold_ms = 3000;
static int ready[2], result[2];		/* pipes, from the user */
static long long worst_ms;

static void say(const char *fmt, ...) pf(1);
static void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
}

/* In a process of its own, so that it can be found to hang. */
static void bounded(const char *name, void (*fn)(void *), void *arg)
{
	long long t = now_ms();
	pid_t pid = fork();
	int status;

	if (!pid) {
		fn(arg);
		_exit(0);
	}
	while (waitpid(pid, &status, WNOHANG) != pid) {
		if (now_ms() - t > BOUND_MS) {
			write_file("/proc/sysrq-trigger", "t");
			fail("%s: not in %d ms", name, BOUND_MS);
		}
		usleep(2000);
	}
	t = now_ms() - t;
	if (t > worst_ms)
		worst_ms = t;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail("%s: status %x", name, status);
	say("  %-28s%lld ms", name, t);
}

/*
 * The user
 */
static pid_t start_user(void (*fn)(void))
{
	pid_t pid;
	char c;

	if (pipe2(ready, O_CLOEXEC) || pipe2(result, O_CLOEXEC))
		fail("pipe: %s", strerror(errno));
	pid = fork();
	if (!pid) {
		struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setrlimit(RLIMIT_CORE, &all);
		if (write_file(GROUP "cgroup.procs", "0") < 0 || setgroups(0, NULL) ||
		    setresgid(USER, USER, USER) || setresuid(USER, USER, USER))
			fail("become a plain user: %s", strerror(errno));
		prctl(PR_SET_DUMPABLE, 1);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fn();
		_exit(0);
	}
	close(ready[1]);
	close(result[1]);
	if (pid < 0 || read(ready[0], &c, 1) != 1) {
		int status = 0;

		waitpid(pid, &status, 0);
		exit(WIFEXITED(status) ? WEXITSTATUS(status) ?: 1 : 1);
	}
	return pid;
}

static void i_am_ready(void)
{
	if (write(ready[1], "", 1) != 1)
		fail("pipe");
}

static void make_group(unsigned long limit)
{
	char text[32];

	if ((mkdir(GROUP, 0755) && errno != EEXIST) ||
	    (mkdir(OTHER_GROUP, 0755) && errno != EEXIST))
		skip("cgroup2: %s", strerror(errno));
	sprintf(text, "%lu", limit);
	if (write_file(GROUP "memory.max", text) < 0 ||
	    write_file(GROUP "memory.swap.max", limit <= LIMIT ? "0" : "max") < 0)
		skip("memory cgroup: %s", strerror(errno));
}

static void swap_off_on(void *unused)
{
	static const char *const dev[] = { "/dev/zram0", "/dev/vda" };

	(void)unused;
	for (int i = 0; i < 2; i++)
		if (swapoff(dev[i]) || swapon(dev[i], SWAP_FLAG_PREFER | (10 - i)))
			fail("swapoff %s: %s", dev[i], strerror(errno));
}

/*
 * Each CPU has a cache of charges, which holds the cgroup even when it is empty, until
 * the CPU charges to another one; and one of free swap slots, until swapoff.  Both is
 * so without userfaultfd, and is not what this is about.
 */
static void empty_caches(void)
{
	for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_ONLN); cpu++) {
		pid_t pid = fork();

		if (!pid) {
			cpu_set_t set;

			CPU_ZERO(&set);
			CPU_SET(cpu, &set);
			if (sched_setaffinity(0, sizeof(set), &set) ||
			    write_file(OTHER_GROUP "cgroup.procs", "0") < 0)
				fail("the other cgroup: %s", strerror(errno));
			memset(mmap(NULL, HUGE_SIZE, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1, HUGE_SIZE);
			_exit(0);
		}
		waitpid(pid, NULL, 0);
	}
	swap_off_on(NULL);
	write_file("/proc/sys/vm/drop_caches", "3");
	write_file("/proc/sys/vm/compact_memory", "1");
}

static void rm_group(void *unused)
{
	u64 left = get_number(GROUP "memory.current");
	u64 swapped = get_number(GROUP "memory.swap.current");

	(void)unused;
	while (rmdir(GROUP))
		usleep(10000);
	/* Shared memory of nobody is gone, so there is nothing left to charge to it. */
	for (int i = 0; file_value(V2 "cgroup.stat", "nr_dying_descendants") > 0; i++) {
		if (i == 10)
			say("  the cgroup had %llu KiB, and %llu KiB in swap",
			    left >> 10, swapped >> 10);
		empty_caches();
		usleep(10000);
	}
}

static void wait_end(void *arg)
{
	int fd = syscall(SYS_pidfd_open, *(pid_t *)arg, 0);
	struct pollfd p = { fd, POLLIN, 0 };

	if (fd >= 0)
		poll(&p, 1, -1);
}

static void kill_user(pid_t pid, const char *what)
{
	kill(pid, SIGKILL);
	bounded(what, wait_end, &pid);
	waitpid(pid, NULL, 0);
	close(ready[0]);
	close(result[0]);
}

static char *map_holes(int *fd, unsigned long len)
{
	char *m;

	*fd = memfd_create("harm", MFD_CLOEXEC);
	if (*fd < 0 || ftruncate(*fd, len))
		fail("memfd: %s", strerror(errno));
	m = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, *fd, 0);
	if (m == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	return m;
}

/*
 * tables
 */
static bool each_pmd;

/* All of it is in PMDs; or a page of each, which makes a page table for every one */
static void protect_holes(void)
{
	unsigned long len = each_pmd ? 1UL << 40 : 1UL << 43, done = 0;
	int fd, uffd = uffd_open(0), err = 0;
	char *m = map_holes(&fd, len);

	reg(uffd, m, len, REG_WP);
	i_am_ready();
	if (!each_pmd)
		err = try_wp(uffd, m, len, MODE_WP);
	for (; each_pmd && !err && done < len; done += HUGE_SIZE)
		err = try_wp(uffd, m + done, PAGE, MODE_WP);
	if (write(result[1], &err, sizeof(err)) != sizeof(err))
		fail("pipe");
}

static void fill_tables(bool each)
{
	unsigned long before = file_value("/proc/meminfo", "MemFree:");
	unsigned long limit = each ? LIMIT : LIMIT / 4;
	unsigned long now, max = 0, least = before;
	long killed, all = file_value("/proc/vmstat", "oom_kill");
	int err = 0, status;
	long long t;
	pid_t pid;

	each_pmd = each;
	make_group(limit);
	pid = start_user(protect_holes);
	for (t = now_ms(); waitpid(pid, &status, WNOHANG) != pid; usleep(1000)) {
		now = get_number(GROUP "memory.current");
		max = now > max ? now : max;
		now = file_value("/proc/meminfo", "MemFree:");
		least = now < least ? now : least;
		if (now_ms() - t > 2 * BOUND_MS)
			fail("tables: protecting does not end");
	}
	t = now_ms() - t;
	killed = file_value(GROUP "memory.events", "oom_kill");
	all = file_value("/proc/vmstat", "oom_kill") - all;
	if (read(result[0], &err, sizeof(err)) != sizeof(err))
		err = 0;
	close(ready[0]);
	close(result[0]);
	say("tables: %s: %s after %lld ms, at most %lu KiB charged, limit %lu; "
	    "free memory fell by %lu KiB; killed: %ld",
	    each ? "a page in each 2 MiB of a TiB" : "8 TiB of holes", err ? strerror(-err) :
	    WIFSIGNALED(status) ? "killed" : "protected", t, max >> 10, limit >> 10,
	    before - least, all);
	if (err != -ENOMEM && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && killed))
		fail("tables: neither ENOMEM nor killed by the limit: %d, status %x", err, status);
	if (max > limit)
		fail("tables: more was charged than the limit allows");
	if (max < limit / 2)
		fail("tables: the limit was never reached: this proves nothing");
	if (before - least > (limit >> 10) * 3 / 2 + 4096)
		fail("tables: memory was taken past the limit");
	if (all != killed)
		fail("tables: somebody else was killed");
	bounded("cgroup removal", rm_group, NULL);
}

static void tables(void)
{
	fill_tables(true);
	fill_tables(false);
}

/*
 * mappings
 */
static bool with_uffd;

static void make_mappings(void)
{
	static char *m[MAPPINGS];
	char *base = mmap(NULL, 2 * MAPPINGS * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			  MAP_NORESERVE, -1, 0);
	int fd = memfd_create("harm", MFD_CLOEXEC), uffd = uffd_open(0), err;
	long long t[3];

	if (ftruncate(fd, PAGE))
		fail("ftruncate: %s", strerror(errno));
	munmap(base, 2 * MAPPINGS * PAGE);
	for (int i = 0; i < MAPPINGS; i++) {
		m[i] = mmap(base + 2 * i * PAGE, PAGE, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_FIXED, fd, 0);
		if (m[i] == MAP_FAILED)
			fail("mapping %d: %s", i, strerror(errno));
	}
	t[0] = now_ms();
	for (int i = 0; with_uffd && i < MAPPINGS; i++) {
		if (!i)
			reg(uffd, base, (2 * MAPPINGS - 1) * PAGE, REG_WP);
		err = try_wp(uffd, m[i], PAGE, MODE_WP);
		if (err)
			fail("protect mapping %d: %s", i, strerror(-err));
	}
	t[0] = now_ms() - t[0];
	t[1] = now_ms();
	for (int i = 0; i < 3; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		waitpid(pid, NULL, 0);
	}
	t[1] = now_ms() - t[1];
	i_am_ready();
	if (write(result[1], t, sizeof(t)) != sizeof(t))
		fail("pipe");
	for (;;)
		pause();
}

static void mappings(void)
{
	long long t[2][3];

	for (int i = 0; i < 2; i++) {
		pid_t pid;

		make_group(4 * LIMIT);
		with_uffd = i;
		pid = start_user(make_mappings);
		if (read(result[0], t[i], sizeof(t[i])) != sizeof(t[i]))
			fail("pipe");
		t[i][2] = now_ms();
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		t[i][2] = now_ms() - t[i][2];
		close(ready[0]);
		close(result[0]);
	}
	say("mappings: %d with a marker, protected in %lld ms; 3 forks %lld ms, exit %lld ms; "
	    "without markers %lld and %lld ms", MAPPINGS, t[1][0], t[1][1], t[1][2],
	    t[0][1], t[0][2]);
	for (int i = 1; i < 3; i++)
		if (t[1][i] > 5 * t[0][i] + 500)
			fail("mappings: %s takes %lld ms, without markers %lld",
			     i == 1 ? "fork" : "exit", t[1][i], t[0][i]);
	bounded("cgroup removal", rm_group, NULL);
}

/*
 * parked
 */
static void *write_there(void *p)
{
	store((char *)p, 1);
	fail("a write was not stopped");
}

static void *read_there(void *p)
{
	int pipe_[2];

	if (pipe2(pipe_, O_CLOEXEC) || write(pipe_[1], "harm", 4) != 4)
		fail("pipe");
	if (read(pipe_[0], p, 4) != 4 || true)
		fail("a write by the kernel was not stopped");
	return NULL;
}

static void park(void)
{
	unsigned long len = SMALL * PAGE;
	int fd, uffd = uffd_open(0);
	char *at[5], *huge = map_holes(&fd, 2 * HUGE_SIZE);

	/* khugepaged only looks at what is aligned, in the file and in memory. */
	huge = mmap((void *)(1UL << 44), 2 * HUGE_SIZE, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_FIXED, fd, 0);
	/* The first call sets the flag, the second finds it and tells khugepaged. */
	if (huge == MAP_FAILED || madvise(huge, 2 * HUGE_SIZE, MADV_HUGEPAGE) ||
	    madvise(huge, 2 * HUGE_SIZE, MADV_HUGEPAGE))
		fail("a mapping for khugepaged: %s", strerror(errno));
	memset(huge, 1, HUGE_SIZE / 2);
	reg(uffd, huge, HUGE_SIZE, REG_WP);
	at[0] = huge;			/* there */
	at[1] = huge + HUGE_SIZE - PAGE;	/* a hole */
	at[2] = map_holes(&fd, len);
	memset(at[2], 2, len / 2);
	at[3] = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	at[4] = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(at[3], 3, len / 2);
	memset(at[4], 3, len);
	madvise(at[4], len, MADV_MERGEABLE);
	for (int i = 2; i < 5; i++) {
		reg(uffd, at[i], len, REG_WP);
		if (i == 3)
			madvise(at[i], len / 2, MADV_PAGEOUT);
	}
	if (try_wp(uffd, huge, HUGE_SIZE, MODE_WP))
		fail("protect");
	for (int i = 2; i < 5; i++)
		if (try_wp(uffd, at[i], len, MODE_WP))
			fail("protect");
	/* For KSM and khugepaged, not protected */
	memset(mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 3, len);
	for (int i = 0; i < 5; i++) {
		pthread_t t;

		pthread_create(&t, NULL, write_there, at[i]);
		pthread_create(&t, NULL, read_there, at[i] + (i == 1 ? -PAGE : PAGE));
	}
	/* Each of the ten has come to wait: the monitor, who does nothing, sees them. */
	for (int n = 0; n < 10; ) {
		struct pollfd p = { uffd, POLLIN, 0 };
		struct uffd_msg msg;

		if (poll(&p, 1, 10000) <= 0)
			fail("only %d of 10 writes wait", n);
		while (n < 10 && read(uffd, &msg, sizeof(msg)) == sizeof(msg))
			n++;
	}
	i_am_ready();
	for (;;)
		pause();
}

static void scans(void *path)
{
	u64 was = get_number(path);

	while (get_number(path) < was + 2)
		usleep(5000);
}

static void compact(void *unused)
{
	(void)unused;
	write_file("/proc/sys/vm/compact_memory", "1");
}

static void migrate(void *arg)
{
	unsigned long node[2] = { 1, 2 };

	for (int i = 0; i < 2; i++)
		if (syscall(SYS_migrate_pages, *(pid_t *)arg, 8, &node[i], &node[!i]) < 0)
			fail("migrate_pages: %s", strerror(errno));
}

static void look_at(void *arg)
{
	static const char *const file[] = {
		"maps", "smaps", "cmdline", "status", "numa_maps", "stat"
	};
	char path[64], buf[4096];

	for (size_t i = 0; i < ARRAY_SIZE(file); i++) {
		int fd;

		sprintf(path, "/proc/%d/%s", *(pid_t *)arg, file[i]);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		while (fd >= 0 && read(fd, buf, sizeof(buf)) > 0)
			;
		close(fd);
	}
}

static void others_go_on(pid_t pid)
{
	bounded("reading its /proc files", look_at, &pid);
	bounded("khugepaged, two scans", scans, THP_DIR "khugepaged/full_scans");
	bounded("KSM, two scans", scans, KSM_DIR "full_scans");
	bounded("compaction", compact, NULL);
	bounded("migrate_pages", migrate, &pid);
	bounded("swapoff, swapon", swap_off_on, NULL);
	bounded("reading its /proc files", look_at, &pid);
}

static void parked(void)
{
	static char pattern[128];
	long long end;
	struct stat st;
	int status;
	pid_t pid;

	if (read_file("/proc/sys/kernel/core_pattern", pattern, sizeof(pattern)) <= 0)
		fail("this kernel can't dump core");
	write_file(KSM_DIR "sleep_millisecs", "20");
	write_file(KSM_DIR "pages_to_scan", "1000");
	write_file(KSM_DIR "run", "1");
	hurry_khugepaged(true);
	write_file("/proc/sys/kernel/core_pattern", CORE);
	for (int i = 0; i < 2; i++) {
		make_group(4 * LIMIT);
		pid = start_user(park);
		say("parked: 10 writes wait, 5 of them in the kernel");
		end = now_ms() + hold_ms;
		do
			others_go_on(pid);
		while (now_ms() < end);
		if (i == 1) {
			kill_user(pid, "killed");
		} else {
			unlink(CORE);
			kill(pid, SIGABRT);
			bounded("core dump", wait_end, &pid);
			waitpid(pid, &status, 0);
			if (!WIFSIGNALED(status) || !WCOREDUMP(status) || stat(CORE, &st) ||
			    st.st_size < (off_t)HUGE_SIZE)
				fail("parked: no core dump, status %x", status);
			close(ready[0]);
			close(result[0]);
			unlink(CORE);
		}
		bounded("cgroup removal", rm_group, NULL);
	}
	write_file("/proc/sys/kernel/core_pattern", pattern);
	hurry_khugepaged(false);
	write_file(KSM_DIR "run", "0");
}

/*
 * storm
 */
static int storm_uffd;
static char *storm_mem;

static void *toggle(void *unused)
{
	(void)unused;
	for (int on = 1;; on = !on) {
		int err = try_wp(storm_uffd, storm_mem, STORM, on ? MODE_WP : 0);

		if (err && err != -EAGAIN)
			fail("protect: %s", strerror(-err));
	}
}

static void *remap(void *unused)
{
	(void)unused;
	for (;;) {
		char *m = mmap(NULL, HUGE_SIZE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		*m = 1;
		munmap(m, HUGE_SIZE);
	}
	return NULL;
}

static void make_storm(void)
{
	pthread_t t;
	int fd;

	storm_uffd = uffd_open(0);
	storm_mem = map_holes(&fd, STORM);
	reg(storm_uffd, storm_mem, STORM, REG_WP);
	for (int i = 0; i < 4; i++)
		pthread_create(&t, NULL, i < 3 ? toggle : remap, NULL);
	i_am_ready();
	for (;;)
		pause();
}

static void storm(void)
{
	long long end, late = 0, longest = 0, t;
	pid_t pid;

	make_group(4 * LIMIT);
	pid = start_user(make_storm);
	for (end = now_ms() + hold_ms; now_ms() < end; ) {
		t = now_us();
		usleep(1000);
		t = now_us() - t;
		late = t > late ? t : late;
		t = now_us();
		look_at(&pid);
		t = now_us() - t;
		longest = t > longest ? t : longest;
	}
	say("storm: others woke up at most %lld ms late; its /proc files took at most %lld ms",
	    late / 1000, longest / 1000);
	if (late > 2000000 || longest > BOUND_MS * 1000LL / 2)
		fail("storm: others are stalled");
	kill_user(pid, "killed");
	bounded("cgroup removal", rm_group, NULL);
}

int main(int argc, char **argv)
{
	static const struct { const char *name; void (*fn)(void); } all[] = {
		{ "tables", tables }, { "mappings", mappings },
		{ "parked", parked }, { "storm", storm }
	};
	bool ran = false;
	char text[8];
	u64 was;

	if (argc > 2 && !strcmp(argv[1], "--hold")) {
		hold_ms = 1000 * atoi(argv[2]);
		argv += 2;
		argc -= 2;
	}
	was = get_number(UNPRIVILEGED);
	if (!begin_test())
		fail("no write-protect of shared memory");
	if (write_file(UNPRIVILEGED, "1") < 0)
		fail(UNPRIVILEGED ": %s", strerror(errno));
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		bool want = argc < 2;

		for (int j = 1; j < argc; j++)
			want |= !strcmp(argv[j], all[i].name);
		if (!want)
			continue;
		ran = true;
		all[i].fn();
	}
	sprintf(text, "%llu", was);
	write_file(UNPRIVILEGED, text);
	if (!ran)
		fail("no such case");
	say("all within their bounds; what took longest: %lld of %d ms", worst_ms, BOUND_MS);
	return 0;
}
