// SPDX-License-Identifier: GPL-2.0
/*
 * Userfaultfd write-protect where memory runs out, and under signals.
 *
 * uffd-inject alloc    Let the first, the second, ... memory allocation of a
 *                      system call or of a fault fail, until all succeed.
 *                      Needs fault injection in the kernel.
 * uffd-inject limits   A memory cgroup at its limit, and signals to those who
 *                      protect a lot or wait for a monitor.  Some of the cases of
 *                      alloc as well, in a cgroup that refuses the first, the
 *                      second, ... page: it does so in any kernel.
 *
 * Whatever fails must say so, change nothing that it was not asked to change,
 * and work when it is tried again.  In particular UFFDIO_WRITEPROTECT must not
 * return 0 when part of the range is not protected.
 *
 * Exit status: 0, 1 for a failure, 4 when the kernel lacks what is needed.
 */
#include "uffd-wp.h"
#include "uffd-random.h"
#include <sys/time.h>

#define DEBUGFS		"/sys/kernel/debug/"
#define PGDIR		(512UL << 30)	/* what one entry of the top table maps */
#define PAGES		(16 * 512UL)	/* 32 MiB */

static enum mem kind;
static char *mem;
static size_t len;
static int file = -1, uffd = -1, nth = -1;
static u64 features, tried, injected, failures;

/* Files of a memory cgroup, and how often it was at its limit before */
static struct {
	int max, high, current, events;
	u64 refused;
} group = { -1, -1, -1, -1, 0 };

static void put(int fd, const char *text)
{
	if (pwrite(fd, text, strlen(text), 0) < 0)
		fail("limit %s: %s", text, strerror(errno));
}

static u64 refused(void)
{
	char text[128] = "", *at;

	if (pread(group.events, text, sizeof(text) - 1, 0) < 0)
		fail("memory.events: %s", strerror(errno));
	at = strstr(text, "max ");
	return at ? strtoull(at + 4, NULL, 10) : 0;
}

static u64 charged(void)
{
	char text[24] = "";

	if (pread(group.current, text, sizeof(text) - 1, 0) < 0)
		fail("memory.current: %s", strerror(errno));
	return strtoull(text, NULL, 10);
}

/* From now on the cgroup has room for n - 1 pages */
static void arm_group(unsigned int n)
{
	char text[24];

	/* The first read of a file is charged for a buffer */
	charged();
	group.refused = refused();
	/* What this CPU has charged in advance goes back */
	put(group.high, "0");
	put(group.high, "max");
	sprintf(text, "%llu", charged() + (n - 1) * PAGE);
	put(group.max, text);
}

static void arm(unsigned int n)
{
	char text[16];
	int l = sprintf(text, "%u", n);

	if (group.max >= 0) {
		arm_group(n);
		return;
	}
	if (pwrite(nth, text, l, 0) != l)
		fail("fail-nth: %s", strerror(errno));
}

/* Has it come to pass? */
static bool disarm(void)
{
	char text[16] = "";
	bool left;

	if (group.max >= 0) {
		put(group.max, "max");
		return refused() != group.refused;
	}
	if (pread(nth, text, sizeof(text) - 1, 0) < 0)
		fail("fail-nth: %s", strerror(errno));
	left = atoi(text);
	arm(0);
	return !left;
}

/* The number of pages that are protected; *first is the first that is not. */
static u64 count_protected(char *at, u64 n, u64 *first)
{
	static u64 pm[PAGES];
	u64 sum = 0;

	pagemap_read(at, n, pm);
	if (first)
		*first = n;
	for (u64 i = 0; i < n; i++) {
		sum += !!(pm[i] & PM_UFFD_WP);
		if (first && *first == n && !(pm[i] & PM_UFFD_WP))
			*first = i;
	}
	return sum;
}

static void want_protected(char *at, u64 n, u64 have, const char *when)
{
	u64 sum = count_protected(at, n, NULL);

	if (sum != have)
		fail("%s: %llu of %llu pages are protected, not %llu", when,
		     sum, n, have);
}

static void new_uffd(int mode)
{
	uffd = uffd_open(features);
	reg(uffd, mem, len, mode);
}

/* Across an entry of the top table, so that tables of all levels are needed */
static char *place(int nr)
{
	return (char *)(PGDIR * (32 + 2 * nr)) - (len / 2 & ~(HUGE_SIZE - 1));
}

static void set_up(int mode)
{
	file = make_file(kind, len);
	mem = mmap(place(0), len, PROT_READ | PROT_WRITE,
		   (kind == PRIVATE ? MAP_PRIVATE : MAP_SHARED) | MAP_FIXED | MAP_NORESERVE, file, 0);
	if (mem == MAP_FAILED)
		skip("memory: %s", strerror(errno));
	if (kind == HUGE) {
		volatile char c = 0;

		madvise(mem, len, MADV_HUGEPAGE);
		for (u64 a = 0; a < len; a += HUGE_SIZE)
			c += mem[a];
	}
	if (mode)
		new_uffd(mode);
}

static void wp_pages(char *at, u64 n, bool wp)
{
	int err = uffd_wp(uffd, (u64)at, n * PAGE, wp);

	if (err)
		fail("%sprotect: %s", wp ? "" : "un", strerror(err));
}

/* A write that must be refused: UFFD_FEATURE_SIGBUS */
static sigjmp_buf env;

static void on_sigbus(int sig)
{
	siglongjmp(env, sig);
}

static bool write_faults(char *at)
{
	signal(SIGBUS, on_sigbus);
	if (sigsetjmp(env, 1))
		return true;
	*(volatile char *)at = 1;
	return false;
}

static void want_error(int err, bool hit, const char *what)
{
	if (err && err != ENOMEM)
		fail("%s: %s", what, strerror(err));
	if (err && !hit)
		fail("%s: %s, and no allocation has failed", what, strerror(err));
}

/*
 * Cases: each is called in a new process with the number of the allocation that
 * is to fail, and returns whether there was one.
 */
/* Nothing is there, tables of any level included */
static bool protect_nothing(unsigned int n)
{
	u64 first;
	bool hit;
	int err;

	len = PAGES * PAGE;
	set_up(0);
	/* It has mapped huge pages: they stay in the file, and their tables go */
	if (kind == HUGE && mmap(mem, len, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file, 0) != mem)
		skip("memory: %s", strerror(errno));
	new_uffd(UFFDIO_REGISTER_MODE_WP);
	arm(n);
	err = uffd_wp(uffd, (u64)mem, len, true);
	hit = disarm();
	want_error(err, hit, "protect");
	if (!err && count_protected(mem, PAGES, &first) != PAGES)
		fail("protect returns 0, and page %llu is not protected", first);
	wp_pages(mem, PAGES, true);
	want_protected(mem, PAGES, PAGES, "after a second try");
	failures += !!err;
	return hit;
}

static bool protect_holes(unsigned int n)
{
	u64 first, sum;
	bool hit;
	int err;

	len = PAGES * PAGE;
	set_up(UFFDIO_REGISTER_MODE_WP);
	/* Some that are there, some that are protected already */
	mem[100 * PAGE] = 1;
	mem[(PAGES - 7) * PAGE] = 1;
	wp_pages(mem + (PAGES - 300) * PAGE, 300, true);
	arm(n);
	err = uffd_wp(uffd, (u64)mem, len, true);
	hit = disarm();
	want_error(err, hit, "protect");
	sum = count_protected(mem, PAGES, &first);
	if (!err && sum != PAGES)
		fail("protect returns 0, and page %llu is not protected", first);
	if (sum < 300 || count_protected(mem + (PAGES - 300) * PAGE, 300, NULL) != 300)
		fail("protection that was there is lost");
	/* What it has done, it has done in order. */
	if (err && count_protected(mem + first * PAGE, PAGES - 300 - first, NULL))
		fail("protected beyond the page that failed");
	wp_pages(mem, PAGES, true);
	want_protected(mem, PAGES, PAGES, "after a second try");
	if (!write_faults(mem + 100 * PAGE) || !write_faults(mem + 1000 * PAGE))
		fail("a write to a protected page");
	failures += !!err;
	return hit;
}

/* A part of what has no page table, and may be mapped by a huge page */
static bool protect_part(unsigned int n)
{
	bool hit;
	int err;

	len = 1024 * PAGE;
	set_up(UFFDIO_REGISTER_MODE_WP);
	/* The tables above it are there */
	mem[0] = 1;
	arm(n);
	err = uffd_wp(uffd, (u64)mem + 600 * PAGE, 100 * PAGE, true);
	hit = disarm();
	want_error(err, hit, "protect");
	want_protected(mem, 1024, err ? 0 : 100, "after protecting a part");
	wp_pages(mem + 600 * PAGE, 100, true);
	want_protected(mem, 1024, 100, "after a second try");
	if (write_faults(mem + 599 * PAGE) || !write_faults(mem + 600 * PAGE) ||
	    !write_faults(mem + 699 * PAGE) || write_faults(mem + 700 * PAGE))
		fail("a write after protecting a part");
	failures += !!err;
	return hit;
}

/*
 * hugetlbfs: two GiB of holes take tables, and no huge page; half of that moves, which
 * cuts the VMA first
 */
#define NR_HUGE		1024UL

static u64 count_huge(char *at, u64 nr, u64 *first)
{
	u64 sum = 0;

	*first = nr;
	for (u64 i = 0; i < nr; i++) {
		bool wp = pagemap_of(at + i * HUGE_SIZE) & PM_UFFD_WP;

		sum += wp;
		if (!wp && *first == nr)
			*first = i;
	}
	return sum;
}

static bool huge_holes(unsigned int n)
{
	u64 half = NR_HUGE / 2, sum, first;
	char *to, *at;
	bool hit;
	int err;

	len = NR_HUGE * HUGE_SIZE;
	set_up(UFFDIO_REGISTER_MODE_WP);
	to = place(1);
	arm(n);
	err = uffd_wp(uffd, (u64)mem, len, true);
	hit = disarm();
	want_error(err, hit, "protect");
	sum = count_huge(mem, NR_HUGE, &first);
	if (!err && sum != NR_HUGE)
		fail("protect returns 0, and huge page %llu is not protected", first);
	if (sum != first)
		fail("protected beyond the page that failed");
	failures += !!err;
	wp_pages(mem, len / PAGE, true);
	if (count_huge(mem, NR_HUGE, &first) != NR_HUGE)
		fail("huge page %llu after a second try", first);
	arm(n);
	at = mremap(mem + len / 2, len / 2, len / 2, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	err = at == MAP_FAILED ? errno : 0;
	hit |= disarm();
	want_error(err, hit, "mremap");
	if (count_huge(mem, err ? NR_HUGE : half, &first) != (err ? NR_HUGE : half))
		fail("huge page %llu has lost its protection by mremap", first);
	if (!err && count_huge(to, half, &first))
		fail("protected where mremap has brought it");
	failures += !!err;
	return hit;
}

static bool lift(unsigned int n)
{
	bool hit;

	len = PAGES * PAGE;
	set_up(UFFDIO_REGISTER_MODE_WP);
	wp_pages(mem + 1000 * PAGE, 3000, true);
	arm(n);
	if (uffd_wp(uffd, (u64)mem, len, false))
		fail("unprotect: %s", strerror(errno));
	hit = disarm();
	want_protected(mem, PAGES, 0, "after unprotect");
	return hit;
}

/* A part of what is protected as a whole, where there may be no page table for it */
static bool lift_part(unsigned int n)
{
	bool hit;
	int err;

	len = 1024 * PAGE;
	set_up(UFFDIO_REGISTER_MODE_WP);
	wp_pages(mem, 1024, true);
	arm(n);
	err = uffd_wp(uffd, (u64)mem + 100 * PAGE, 50 * PAGE, false);
	hit = disarm();
	want_error(err, hit, "unprotect");
	want_protected(mem, 1024, err ? 1024 : 974, "after unprotecting a part");
	wp_pages(mem + 100 * PAGE, 50, false);
	want_protected(mem, 1024, 974, "after a second try");
	if (!write_faults(mem + 99 * PAGE) || write_faults(mem + 100 * PAGE) ||
	    write_faults(mem + 149 * PAGE) || !write_faults(mem + 150 * PAGE))
		fail("a write after unprotecting a part");
	failures += !!err;
	return hit;
}

/* Read, then write, by the processor and by the kernel */
static bool faults(unsigned int n)
{
	char text = 2;
	struct iovec local = { &text, 1 }, remote;
	bool hit;
	char c;

	len = 64 * PAGE;
	set_up(UFFDIO_REGISTER_MODE_WP);
	if (pwrite(file, "x", 1, 5 * PAGE) != 1)
		fail("pwrite: %s", strerror(errno));
	wp_pages(mem, 64, true);
	madvise(mem, len, MADV_DONTNEED);
	arm(n);
	c = ((volatile char *)mem)[5 * PAGE];
	hit = disarm();
	if (c != 'x')
		fail("page has %d", c);
	want_protected(mem, 64, 64, "after a read");
	arm(n);
	c = ((volatile char *)mem)[40 * PAGE];
	hit |= disarm();
	want_protected(mem, 64, 64, "after a read of a hole");
	arm(n);
	if (!write_faults(mem + 20 * PAGE))
		fail("a write to a protected page");
	hit |= disarm();
	want_protected(mem, 64, 64, "after a write to a hole");
	remote = (struct iovec){ mem + 50 * PAGE, 1 };
	arm(n);
	if (process_vm_writev(getpid(), &local, 1, &remote, 1, 0) == 1)
		fail("a write by the kernel to a protected page");
	hit |= disarm();
	want_protected(mem, 64, 64, "after a write by the kernel");
	wp_pages(mem, 64, false);
	for (int i = 0; i < 64; i++)
		if (mem[i * PAGE] != (i == 5 ? 'x' : 0) || write_faults(mem + i * PAGE))
			fail("page %d in the end", i);
	return hit;
}

static bool stop_monitor;

/* Reads events; a child's descriptor is closed when the child has been seen to. */
static void *drain(void *unused)
{
	struct pollfd p = { uffd, POLLIN, 0 };
	struct uffd_msg msg;

	(void)unused;
	while (!load(&stop_monitor))
		if (poll(&p, 1, 50) > 0 && read(uffd, &msg, sizeof(msg)) == sizeof(msg) &&
		    msg.event == UFFD_EVENT_FORK) {
			usleep(rnd(3000));
			close(msg.arg.fork.ufd);
		}
	return NULL;
}

static bool fork_it(unsigned int n)
{
	pthread_t t;
	int status;
	bool hit;
	pid_t pid;

	len = 2048 * PAGE;
	set_up(UFFDIO_REGISTER_MODE_WP);
	for (u64 i = 0; i < 2048; i += 3)
		mem[i * PAGE] = 7;
	wp_pages(mem + 10 * PAGE, 2000, true);
	madvise(mem + 600 * PAGE, 512 * PAGE, MADV_PAGEOUT);
	if (features & UFFD_FEATURE_EVENT_FORK)
		pthread_create(&t, NULL, drain, NULL);
	arm(n);
	pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (!pid) {
		u64 sum;

		sum = count_protected(mem, 2048, NULL);
		/* With the event: until the monitor lets go of it */
		if (sum != 0 && !(features & UFFD_FEATURE_EVENT_FORK))
			fail("%llu pages are protected in the child", sum);
		_exit(mem[12 * PAGE] == 7 ? 0 : 1);
	}
	hit = disarm();
	if (pid < 0)
		want_error(errno, hit, "fork");
	else if (waitpid(pid, &status, 0) != pid || status)
		fail("the child: status %x", status);
	want_protected(mem, 2048, 2000, "after fork");
	for (u64 i = 0; i < 2048; i++)
		if (write_faults(mem + i * PAGE) != (i >= 10 && i < 2010))
			fail("after fork: page %llu", i);
	if (features & UFFD_FEATURE_EVENT_FORK) {
		store(&stop_monitor, true);
		pthread_join(t, NULL);
	}
	failures += pid < 0;
	return hit;
}

static bool mremap_it(unsigned int n)
{
	bool keeps = features & UFFD_FEATURE_EVENT_REMAP, hit;
	pthread_t t;
	char *to, *at;

	len = 2048 * PAGE;
	set_up(UFFDIO_REGISTER_MODE_WP);
	to = place(1);
	for (u64 i = 0; i < 2048; i += 3)
		mem[i * PAGE] = 7;
	wp_pages(mem + 10 * PAGE, 2000, true);
	if (keeps)
		pthread_create(&t, NULL, drain, NULL);
	arm(n);
	at = mremap(mem, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	hit = disarm();
	if (at == MAP_FAILED) {
		want_error(errno, hit, "mremap");
		failures++;
		want_protected(mem, 2048, 2000, "after mremap that failed");
		for (u64 i = 0; i < 2048; i++)
			if (write_faults(mem + i * PAGE) != (i >= 10 && i < 2010))
				fail("after mremap that failed: page %llu", i);
	} else {
		want_protected(to, 2048, keeps ? 2000 : 0, "after mremap");
		for (u64 i = 0; i < 2048; i++)
			if (write_faults(to + i * PAGE) != (keeps && i >= 10 && i < 2010))
				fail("after mremap: page %llu", i);
	}
	if (keeps) {
		store(&stop_monitor, true);
		pthread_join(t, NULL);
	}
	return hit;
}

static bool copy_wp(unsigned int n)
{
	static char page[PAGE];
	struct uffdio_copy c = { .src = (u64)page, .len = PAGE, .mode = UFFDIO_COPY_MODE_WP };
	bool hit;
	int err;

	len = 1024 * PAGE;
	set_up(UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING);
	if (fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, len))
		fail("punch: %s", strerror(errno));
	wp_pages(mem, 3, true);
	memset(page, 3, PAGE);
	arm(n);
	c.dst = (u64)mem;
	err = ioctl(uffd, UFFDIO_COPY, &c) ? errno : 0;
	hit = disarm();
	want_error(err, hit, "copy");
	want_protected(mem, 3, 3, "after copy");
	if (err) {
		c.copy = 0;
		if (ioctl(uffd, UFFDIO_COPY, &c))
			fail("copy, second try: %s", strerror(errno));
		failures++;
	}
	want_protected(mem, 3, 3, "after copy");
	if (mem[0] != 3 || !write_faults(mem))
		fail("page after copy");
	/* Where there are no page tables yet */
	arm(n);
	c.dst = (u64)mem + 900 * PAGE;
	err = ioctl(uffd, UFFDIO_COPY, &c) ? errno : 0;
	hit |= disarm();
	want_error(err, hit, "copy");
	want_protected(mem + 900 * PAGE, 1, !err, "after copy");
	return hit;
}

/* Registration of a part needs VMAs. */
static bool reregister(unsigned int n)
{
	struct uffdio_range part, all;
	struct uffdio_register r = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	u64 sum;
	bool hit;
	int err;

	len = 1024 * PAGE;
	set_up(UFFDIO_REGISTER_MODE_WP);
	all = (struct uffdio_range){ (u64)mem, len };
	part = (struct uffdio_range){ (u64)mem + 300 * PAGE, 400 * PAGE };
	wp_pages(mem, 1024, true);
	arm(n);
	err = ioctl(uffd, UFFDIO_UNREGISTER, &part) ? errno : 0;
	hit = disarm();
	want_error(err, hit, "unregister");
	failures += !!err;
	want_protected(mem, 300, 300, "before what is unregistered");
	want_protected(mem + 700 * PAGE, 324, 324, "behind what is unregistered");
	sum = count_protected(mem + 300 * PAGE, 400, NULL);
	if (sum != (err ? 400 : 0))
		fail("unregister: error %d, %llu of 400 pages are protected", err,
		     sum);
	if (!err)
		return hit;
	r.range = part;
	arm(n);
	err = ioctl(uffd, UFFDIO_REGISTER, &r) ? errno : 0;
	hit |= disarm();
	want_error(err, hit, "register");
	failures += !!err;
	sum = count_protected(mem + 300 * PAGE, 400, NULL);
	if (sum != (err ? 400 : 0))
		fail("register without WP: error %d, %llu of 400 pages are protected", err,
		     sum);
	want_protected(mem, 300, 300, "before what is registered");
	want_protected(mem + 700 * PAGE, 324, 324, "behind what is registered");
	if (ioctl(uffd, UFFDIO_UNREGISTER, &all))
		fail("unregister all: %s", strerror(errno));
	want_protected(mem, 1024, 0, "in the end");
	return hit;
}

static bool mprotect_it(unsigned int n)
{
	bool hit = false;
	int err;

	len = 1024 * PAGE;
	set_up(UFFDIO_REGISTER_MODE_WP);
	mem[400 * PAGE] = 1;
	wp_pages(mem, 1024, true);
	for (int i = 0; i < 2; i++) {
		arm(n);
		err = mprotect(mem + 300 * PAGE, 400 * PAGE, i ? PROT_READ | PROT_WRITE : PROT_READ) ?
			errno : 0;
		hit |= disarm();
		want_error(err, hit, "mprotect");
		want_protected(mem, 1024, 1024, "after mprotect");
		failures += !!err;
	}
	if (!write_faults(mem + 100 * PAGE) || !write_faults(mem + 800 * PAGE))
		fail("a write to a protected page");
	return hit;
}

static const struct {
	const char *name;
	bool (*fn)(unsigned int n);
	u64 features;
	bool must_fail;		/* something that needs memory, and can say so */
	bool in_group;		/* also where a memory cgroup refuses pages */
	bool huge;		/* for hugetlbfs */
} cases[] = {
	/* Where a PMD can hold it, what it needs may be there already */
	{ "protect", protect_holes, 0, false },
	{ "protect, without tables", protect_nothing, 0, true },
	{ "protect a part", protect_part, 0, true, true },
	{ "unprotect", lift, 0, false },
	{ "unprotect a part", lift_part, 0, false, true },
	{ "faults", faults, 0, false },
	{ "fork", fork_it, 0, true },
	{ "fork, with event", fork_it, UFFD_FEATURE_EVENT_FORK, true },
	{ "mremap", mremap_it, 0, true },
	{ "mremap, with event", mremap_it, UFFD_FEATURE_EVENT_REMAP, true },
	{ "copy", copy_wp, 0, true },
	{ "unregister, register", reregister, 0, true, true },
	{ "mprotect", mprotect_it, 0, true, true },
	{ "protect, mremap", huge_holes, 0, true, true, true },
};

static struct { u64 injected, failures; } *shared;

static const char *limit_dir = "/sys/fs/cgroup/uffd-inject/";

static void enter_group(void);

/* One case, until none of its allocations has failed */
static int each_allocation(enum mem of, size_t nr, bool in_group)
{
	u64 was_injected = shared->injected, was_failures = shared->failures;
	int status;

	kind = of;
	features = UFFD_FEATURE_SIGBUS | cases[nr].features;
	for (unsigned int n = 1; ; n++) {
		pid_t pid;

		/* A new one: charges of who was in the last one go late */
		if (in_group)
			mkdir(limit_dir, 0755);
		pid = fork();
		if (!pid) {
			bool hit;

			alarm(60);
			if (in_group) {
				enter_group();
			} else {
				nth = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
				if (nth < 0)
					skip("fail-nth: %s", strerror(errno));
			}
			hit = cases[nr].fn(n);
			shared->injected += hit;
			shared->failures += failures;
			_exit(hit ? 0 : 77);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid)
			skip("fork: %s", strerror(errno));
		if (in_group && rmdir(limit_dir))
			fail("%s: %s", limit_dir, strerror(errno));
		tried++;
		if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
			break;
		if (WIFEXITED(status) && WEXITSTATUS(status) == 4)
			return 4;
		if (status || n > 2000) {
			printf("FAILED: %s, %s, allocation %u: status %x\n",
			       kind_name[kind], cases[nr].name, n, status);
			return 1;
		}
	}
	printf("%-11s %-22s %4llu allocations failed, %4llu errors\n", kind_name[kind],
	       cases[nr].name, shared->injected - was_injected,
	       shared->failures - was_failures);
	fflush(stdout);
	if (shared->failures == was_failures &&
	    (in_group || (cases[nr].must_fail && shared->injected == was_injected))) {
		printf("FAILED: %s: nothing has failed\n", cases[nr].name);
		return 1;
	}
	return 0;
}

static int alloc(void)
{
	static const enum mem kinds[] = { MEMFD, PRIVATE, HUGE, HUGETLB };

	if (write_file(DEBUGFS "failslab/ignore-gfp-wait", "N") ||
	    write_file(DEBUGFS "fail_page_alloc/ignore-gfp-wait", "N") ||
	    write_file(DEBUGFS "fail_page_alloc/ignore-gfp-highmem", "N") ||
	    write_file(DEBUGFS "fail_page_alloc/min-order", "0") ||
	    write_file(DEBUGFS "failslab/verbose", "0") || write_file(DEBUGFS "fail_page_alloc/verbose", "0"))
		skip("fault injection: %s", strerror(errno));
	for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++)
		for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
			bool huge = kinds[k] == HUGETLB;
			int rc;

			if (cases[i].huge != huge)
				continue;
			rc = each_allocation(kinds[k], i, false);
			if (rc)
				return rc;
		}
	injected = shared->injected;
	failures = shared->failures;
	return 0;
}

/*
 * Limits and signals
 */
static bool put_limit(const char *name, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "%s%s", limit_dir, name);
	return !write_file(path, text);
}

static int group_file(const char *name, int flags)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s%s", limit_dir, name);
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		skip("%s: %s", path, strerror(errno));
	return fd;
}

/*
 * Nothing of this process can be reclaimed, and nobody killed: what there is no room
 * for is refused.  Nor may it need a page of its own while the limit is on, see below.
 * It stays on one CPU, as charges in advance are by CPU.
 */
static void enter_group(void)
{
	cpu_set_t cpu;

	CPU_ZERO(&cpu);
	CPU_SET(0, &cpu);
	if (sched_setaffinity(0, sizeof(cpu), &cpu) ||
	    write_file("/proc/self/oom_score_adj", "-1000") ||
	    !put_limit("memory.swap.max", "0") || !put_limit("cgroup.procs", "0") ||
	    mlockall(MCL_CURRENT))
		skip("cgroup: %s", strerror(errno));
	group.high = group_file("memory.high", O_WRONLY);
	group.current = group_file("memory.current", O_RDONLY);
	group.events = group_file("memory.events", O_RDONLY);
	group.max = group_file("memory.max", O_WRONLY);
}

/*
 * Page tables are charged; nobody may be killed for it.  While the limit is on, this
 * process must not need a page itself: it would fault for ever.
 */
static void at_limit(void)
{
	u64 first, errors = 0;
	int err, max;

	len = 4UL << 30;
	features = UFFD_FEATURE_SIGBUS;
	/* A shared mapping takes hardly any page tables */
	kind = PRIVATE;
	if (write_file("/proc/self/oom_score_adj", "-1000") || !put_limit("cgroup.procs", "0"))
		skip("cgroup: %s", strerror(errno));
	set_up(UFFDIO_REGISTER_MODE_WP);
	max = open("/sys/fs/cgroup/uffd-inject/memory.max", O_WRONLY | O_CLOEXEC);
	count_protected(mem, PAGES, &first);
	wp_pages(mem, 1, false);
	for (int mb = 2; mb <= 16; mb += 2) {
		char text[16];

		sprintf(text, "%dM", mb);
		if (pwrite(max, text, strlen(text), 0) < 0)
			skip("memory.max: %s", strerror(errno));
		err = uffd_wp(uffd, (u64)mem, len, true);
		if (pwrite(max, "max", 3, 0) != 3)
			fail("memory.max: %s", strerror(errno));
		if (err && err != ENOMEM)
			fail("protect at the limit: %s", strerror(err));
		errors += !!err;
		/* All that, up to a point; or all of it */
		for (u64 p = 0, end = 0; p < len / PAGE; p += PAGES) {
			u64 sum = count_protected(mem + p * PAGE, PAGES, &first);

			if (end && sum)
				fail("protected beyond the page that failed");
			if (sum == PAGES)
				continue;
			if (!err)
				fail("protect returns 0, and page %llu is not protected",
				     (p + first));
			if (count_protected(mem + (p + first) * PAGE, PAGES - first, NULL))
				fail("protected beyond the page that failed");
			end = 1;
		}
		if (!err)
			break;
	}
	if (!errors)
		fail("no limit was reached");
	wp_pages(mem, len / PAGE, true);
	if (!write_faults(mem + len / 2))
		fail("a write to a protected page");
	printf("cgroup at its limit: %llu times ENOMEM, then success\n", errors);
	fflush(stdout);
}

static pid_t in_child(void (*fn)(void))
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fn();
		_exit(0);
	}
	return pid;
}

static void *protect_all(void *unused)
{
	(void)unused;
	uffd_wp(uffd, (u64)mem, len, true);
	return NULL;
}

static void protect_much(void)
{
	pthread_t t;

	len = 256UL << 30;
	features = 0;
	/* In a shared mapping it is done at once */
	kind = PRIVATE;
	set_up(UFFDIO_REGISTER_MODE_WP);
	pthread_create(&t, NULL, protect_all, NULL);
	pause();
}

static void got(int sig)
{
	(void)sig;
	injected++;
}

/* A signal that is not fatal changes nothing. */
static void protect_under_signals(void)
{
	struct itimerval it = { { 0, 2000 }, { 0, 2000 } };
	struct sigaction sa = { .sa_handler = got, .sa_flags = SA_RESTART };
	u64 sum = 0;

	len = 1UL << 30;
	features = UFFD_FEATURE_SIGBUS;
	set_up(UFFDIO_REGISTER_MODE_WP);
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &it, NULL);
	for (int i = 0; i < 3; i++) {
		wp_pages(mem, len / PAGE, i != 1);
		for (u64 p = sum = 0; p < len / PAGE; p += PAGES)
			sum += count_protected(mem + p * PAGE, PAGES, NULL);
		if (sum != (i != 1 ? len / PAGE : 0))
			fail("under signals: %llu pages are protected", sum);
	}
	if (!injected)
		fail("no signal has come");
	printf("%llu signals while protecting: nothing missing\n", injected);
	fflush(stdout);
}

/* Waiting for a monitor that does not come, in several ways */
static int how_to_wait;

static void wait_for_monitor(void)
{
	char c = 1;
	struct iovec local = { &c, 1 }, remote;
	int src;

	len = 64 * PAGE;
	features = how_to_wait == 3 ? UFFD_FEATURE_EVENT_FORK :
		   how_to_wait == 4 ? UFFD_FEATURE_EVENT_REMAP : 0;
	set_up(UFFDIO_REGISTER_MODE_WP);
	wp_pages(mem, 64, true);
	remote = (struct iovec){ mem + 5 * PAGE, 1 };
	switch (how_to_wait) {
	case 0:
		*(volatile char *)(mem + 5 * PAGE) = 1;
		break;
	case 1:
		src = memfd_create("source", 0);
		if (write(src, "x", 1) == 1 && pread(src, mem + 5 * PAGE, 1, 0))
			break;
		break;
	case 2:
		if (process_vm_writev(getpid(), &local, 1, &remote, 1, 0))
			break;
		break;
	case 3:
		if (fork())
			break;
		break;
	case 4:
		mremap(mem, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, place(1));
	}
	fail("nobody has waited");
}

/* Returns how long it took, in ms. */
static u64 kill_soon(pid_t pid, unsigned int after_ms, const char *what)
{
	int status;
	u64 t0;

	usleep(after_ms * 1000);
	if (waitpid(pid, &status, WNOHANG))
		fail("%s: ended by itself, status %x", what, status);
	t0 = now_ms();
	kill(pid, SIGKILL);
	while (waitpid(pid, &status, WNOHANG) != pid) {
		if (now_ms() - t0 > 10000)
			fail("%s: SIGKILL takes more than 10 s", what);
		usleep(1000);
	}
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail("%s: status %x", what, status);
	t0 = now_ms() - t0;
	printf("SIGKILL %s: gone in %llu ms\n", what, t0);
	fflush(stdout);
	return t0;
}

static int limits(void)
{
	static const char *const wait_name[] = {
		"in a write", "in read(2)", "in process_vm_writev()", "in fork()", "in mremap()"
	};
	int status, slow = 0;
	pid_t pid;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		enum mem of = MEMFD;
		int rc;

		if (!cases[i].in_group)
			continue;
		if (cases[i].huge)
			of = HUGETLB;
		rc = each_allocation(of, i, true);
		if (rc)
			return rc;
	}
	kind = MEMFD;
	mkdir(limit_dir, 0755);
	pid = in_child(at_limit);
	waitpid(pid, &status, 0);
	rmdir(limit_dir);
	if (status)
		return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
	pid = in_child(protect_under_signals);
	waitpid(pid, &status, 0);
	if (status)
		return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
	/* What was protected has to be undone, and not much else */
	for (unsigned int ms = 30; ms <= 120; ms += 30)
		slow += kill_soon(in_child(protect_much), ms, "while protecting 256 GiB") >
			200 + 6 * ms;
	if (slow > 2)
		fail("a fatal signal does not stop UFFDIO_WRITEPROTECT");
	for (how_to_wait = 0; how_to_wait < 5; how_to_wait++)
		kill_soon(in_child(wait_for_monitor), 200, wait_name[how_to_wait]);
	return 0;
}

int main(int argc, char **argv)
{
	int rc;

	if (argc != 2 || (strcmp(argv[1], "alloc") && strcmp(argv[1], "limits"))) {
		printf("usage: uffd-inject alloc|limits\n");
		return 2;
	}
	/*
	 * When an allocation fails while the kernel looks into the rseq area, it kills;
	 * that has nothing to do with userfaultfd.
	 */
	if (!getenv("GLIBC_TUNABLES")) {
		setenv("GLIBC_TUNABLES", "glibc.pthread.rseq=0", 1);
		execv("/proc/self/exe", argv);
	}
	if (!begin_test()) {
		errno = EOPNOTSUPP;
		skip("write-protect of shared memory: %s", strerror(errno));
	}
	rng = 1;
	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	rc = strcmp(argv[1], "alloc") ? limits() : alloc();
	if (!rc && !strcmp(argv[1], "alloc"))
		printf("tried %llu, allocations failed %llu, errors %llu\n", tried,
		       injected, failures);
	printf("%s\n", rc ? rc == 4 ? "skipped" : "failed" : "all as it has to be");
	return rc;
}
