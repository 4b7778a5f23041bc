// SPDX-License-Identifier: GPL-2.0
/*
 * Write protection and devices that mirror an address space: reads and writes by
 * a device, and pages that live in its memory.  The device is that of
 * CONFIG_TEST_HMM; the command line T_HMM=1 says that it has to be there.
 *
 * A write of the device to a protected page fails with EFAULT and tells nobody:
 * hmm_range_fault() can not wait for a monitor.  Anonymous memory is the control.
 * The kernel log has to stay clean as well.
 *
 * Exit status: 0, 1 for a failure, 4 when the kernel lacks what is needed.
 */
#include "uffd-wp.h"
#include "uffd-random.h"
#include <sys/sysmacros.h>

#define DEVICE		"/tmp/hmm"
#define PAGES		128UL		/* the driver goes by 64 */
#define ON_DEVICE	0x20
#define VALUE(i)	(0x1000UL + (i))
#define AT(i)		(mem + (i) * PAGE)

/* lib/test_hmm_uapi.h */
struct hmm_cmd { u64 addr, ptr, npages, cpages, faults; };
#define HMM_READ	_IOWR('H', 0, struct hmm_cmd)
#define HMM_WRITE	_IOWR('H', 1, struct hmm_cmd)
#define HMM_MIGRATE	_IOWR('H', 2, struct hmm_cmd)
#define HMM_SNAPSHOT	_IOWR('H', 3, struct hmm_cmd)

static char failed_in[80];	/* what a failure begins with, if not empty */
#define fail(fmt, ...)	fail("%s" fmt, failed_in, ##__VA_ARGS__)

static enum mem kind;
static char *mem, buf[PAGES][PAGE];
static int major_nr, file, uffd, dev;

static void __attribute__((noreturn)) lacks(const char *why)
{
	if (getenv("T_HMM"))
		fail("%s: %s", why, strerror(errno));
	skip("%s: %s", why, strerror(errno));
}

static int hmm(unsigned long cmd, u64 page, u64 n)
{
	struct hmm_cmd c = { .addr = (u64)AT(page), .ptr = (u64)buf[page], .npages = n };

	if (ioctl(dev, cmd, &c))
		return errno;
	return c.cpages == n ? 0 : ERANGE;
}

static void want(int have, int err, const char *op)
{
	if (have != err)
		fail("%s: %s, not %s", op, strerror(have), strerror(err));
}

static void wp_pages(u64 page, u64 n, bool wp)
{
	want(uffd_wp(uffd, (u64)AT(page), n * PAGE, wp), 0, wp ? "protect" : "unprotect");
}

static void protect_even(void)
{
	for (u64 i = 0; i < PAGES; i += 2)
		wp_pages(i, 1, true);
}

/* Every step-th page is protected, beginning with first; step 0: none. */
static void check_bits(u64 first, u64 step, const char *when)
{
	u64 pm[PAGES];

	pagemap_read(mem, PAGES, pm);
	for (u64 i = 0; i < PAGES; i++) {
		bool wp = step && i % step == first;

		if (!!(pm[i] & PM_UFFD_WP) != wp)
			fail("%s: page %llu is %sprotected", when, i, wp ? "not " : "");
	}
}

static void no_event(const char *when)
{
	struct pollfd p = { uffd, POLLIN, 0 };

	if (poll(&p, 1, 20))
		fail("%s: an event", when);
}

static void *write_page(void *at)
{
	*(volatile u64 *)at = 77;
	return NULL;
}

/* A write by the processor: one event */
static void write_event(u64 page)
{
	struct pollfd p = { uffd, POLLIN, 0 };
	struct uffd_msg msg;
	pthread_t t;

	pthread_create(&t, NULL, write_page, AT(page));
	if (poll(&p, 1, 10000) != 1 || read(uffd, &msg, sizeof(msg)) != sizeof(msg))
		fail("no event for a write to page %llu", page);
	if (msg.event != UFFD_EVENT_PAGEFAULT || (msg.arg.pagefault.address & -PAGE) != (u64)AT(page) ||
	    !(msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP))
		fail("wrong event for a write to page %llu", page);
	no_event("after an event");
	wp_pages(page, 1, false);
	pthread_join(t, NULL);
	if (*(u64 *)AT(page) != 77)
		fail("a write to page %llu is lost", page);
}

/* The others have none. */
static void write_odd(void)
{
	for (u64 i = 1; i < PAGES; i += 2)
		*(volatile u64 *)AT(i) = 1;
	no_event("write to pages that are not protected");
}

/* The first pages have their numbers, the others nothing. */
static void check_data(u64 first)
{
	for (u64 i = 0; i < PAGES; i++)
		if (*(volatile u64 *)AT(i) != (i < first ? VALUE(i) : 0))
			fail("page %llu has %llx", i, *(u64 *)AT(i));
}

/* Write all pages, or read them: then the last 16 are holes. */
static void set_up(bool write)
{
	unlink(DEVICE);
	if (mknod(DEVICE, S_IFCHR | 0600, makedev(major_nr, 0)))
		lacks("mknod");
	dev = open(DEVICE, O_RDWR | O_CLOEXEC);
	file = make_file(kind, PAGES * PAGE);
	mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, (kind == ANON ? MAP_ANONYMOUS : 0) |
		   (kind == PRIVATE || kind == ANON ? MAP_PRIVATE : MAP_SHARED), file, 0);
	if (dev < 0 || mem == MAP_FAILED)
		lacks("device, memory");
	uffd = uffd_open(0);
	reg(uffd, mem, PAGES * PAGE, REG_WP);
	for (u64 i = 0; i < (write ? PAGES : PAGES - 16); i++) {
		u64 v = VALUE(i);

		if (file >= 0 && pwrite(file, &v, sizeof(v), i * PAGE) != sizeof(v))
			fail("pwrite: %s", strerror(errno));
		if (write)
			*(volatile u64 *)AT(i) = v;
		else if (*(volatile u64 *)AT(i) != v)
			fail("page %llu", i);
	}
}

/* Markers are no obstacle to a read. */
static void read_markers(int advice)
{
	set_up(false);
	wp_pages(0, PAGES, true);
	if (madvise(mem, PAGES * PAGE, advice) || madvise(mem, PAGES * PAGE, MADV_DONTNEED))
		fail("madvise: %s", strerror(errno));
	want(hmm(HMM_SNAPSHOT, 0, PAGES), 0, "snapshot");
	for (u64 i = 0; i < PAGES; i++)
		if (buf[0][i])
			fail("snapshot of a marker: %x", buf[0][i]);
	check_bits(0, 1, "after a snapshot");
	want(hmm(HMM_READ, 0, PAGES), 0, "read");
	for (u64 i = 0; i < PAGES; i++)
		if (*(u64 *)buf[i] != (i < PAGES - 16 ? VALUE(i) : 0))
			fail("the device reads %llx in page %llu", *(u64 *)buf[i], i);
	no_event("read by the device");
	check_bits(0, 1, "after a read");
	write_event(5);
	write_event(PAGES - 3);
}

/* The device may write what is not protected, and no longer than that. */
static void device_write(int unused __attribute__((unused)))
{
	set_up(true);
	protect_even();
	if (kind != ANON)
		madvise(AT(64), 32 * PAGE, MADV_DONTNEED);
	memset(buf, 0, sizeof(buf));
	for (u64 i = 0; i < PAGES; i += 16) {
		want(hmm(HMM_WRITE, i, 1), EFAULT, "write to a protected page");
		want(hmm(HMM_WRITE, i + 1, 2), EFAULT, "write to a page, and a protected one");
	}
	no_event("write by the device");
	check_bits(0, 2, "after a write by the device");
	check_data(PAGES);
	for (u64 i = 1; i < PAGES; i += 2) {
		*(u64 *)buf[i] = VALUE(i);
		want(hmm(HMM_WRITE, i, 1), 0, "write");
	}
	wp_pages(0, PAGES, true);
	memset(buf, 0, sizeof(buf));
	for (u64 i = 0; i < PAGES; i++)
		want(hmm(HMM_WRITE, i, 1), EFAULT, "write after protect");
	check_data(PAGES);
	wp_pages(0, PAGES, false);
	want(hmm(HMM_WRITE, 0, PAGES), 0, "write after unprotect");
	check_data(0);
	no_event("in the end");
}

/* Pages of a file stay where they are; the attempt unmaps and maps them. */
static void migrate_file(int unused __attribute__((unused)))
{
	set_up(kind != PRIVATE);
	protect_even();
	madvise(AT(32), 32 * PAGE, MADV_DONTNEED);
	want(hmm(HMM_MIGRATE, 0, PAGES), ENOENT, "migrate");
	check_bits(0, 2, "after migrate");
	check_data(kind == PRIVATE ? PAGES - 16 : PAGES);
	check_bits(0, 2, "after a read");
	write_odd();
	write_event(2);
	write_event(32 + 2 * rnd(16));
}

/* A protected zero page stays where it is, the others give way to device memory. */
static void migrate_zero(int unused __attribute__((unused)))
{
	set_up(true);
	madvise(mem, PAGES * PAGE, MADV_DONTNEED);
	check_data(0);
	protect_even();
	hmm(HMM_MIGRATE, 0, PAGES);
	want(hmm(HMM_SNAPSHOT, 0, PAGES), 0, "snapshot");
	for (u64 i = 0; i < PAGES; i++)
		if (!(buf[0][i] & ON_DEVICE) != !(i % 2))
			fail("page %llu after migrate: %x", i, buf[0][i]);
	check_bits(0, 2, "after migrate");
	write_odd();
	write_event(2 * rnd(PAGES / 2));
}

enum { EXIT, MUNMAP, READ, PROTECT, DONTNEED, TRUNCATE, UNREGISTER, FORK };

/* Private pages, in memory of the device */
static void device_memory(int op)
{
	struct uffdio_range all = { 0, PAGES * PAGE };
	int status = 0;
	pid_t pid;

	set_up(true);
	all.start = (u64)mem;
	protect_even();
	want(hmm(HMM_MIGRATE, 0, PAGES), 0, "migrate");
	want(hmm(HMM_SNAPSHOT, 0, PAGES), 0, "snapshot");
	for (u64 i = 0; i < PAGES; i++)
		if (!(buf[0][i] & ON_DEVICE) || !(buf[0][i] & 2) != !(i % 2))
			fail("page %llu on the device: %x", i, buf[0][i]);
	check_bits(0, 2, "on the device");
	switch (op) {
	case MUNMAP:
		munmap(mem, PAGES * PAGE);
		return;
	case EXIT:
		return;
	case READ:
		check_data(PAGES);
		check_bits(0, 2, "after a read");
		break;
	case PROTECT:
		wp_pages(0, PAGES, true);
		check_bits(0, 1, "protected on the device");
		for (u64 i = 1; i < PAGES; i += 2)
			wp_pages(i, 1, false);
		check_bits(0, 2, "unprotected on the device");
		break;
	case DONTNEED:
		madvise(mem, PAGES * PAGE, MADV_DONTNEED);
		check_bits(0, kind == ANON ? 0 : 2, "after dontneed");
		check_data(kind == ANON ? 0 : PAGES);
		if (kind == ANON)
			return;
		break;
	case TRUNCATE:
		if (ftruncate(file, 0) || ftruncate(file, PAGES * PAGE))
			fail("truncate: %s", strerror(errno));
		check_bits(0, 2, "after truncate");
		check_data(0);
		break;
	case UNREGISTER:
		if (ioctl(uffd, UFFDIO_UNREGISTER, &all))
			fail("unregister: %s", strerror(errno));
		check_bits(0, 0, "after unregister");
		write_odd();
		return;
	case FORK:
		pid = fork();
		if (!pid) {
			check_bits(0, 0, "in a child");
			for (u64 i = 0; i < PAGES / 2; i++)
				*(volatile u64 *)AT(i) = VALUE(i);
			check_data(PAGES);
			_exit(0);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
			fail("the child: status %x", status);
		check_bits(0, 2, "after fork");
		check_data(PAGES);
		break;
	}
	write_odd();
	write_event(2 * rnd(PAGES / 2));
}

static const struct {
	const char *name;
	void (*fn)(int arg);
	int arg;
	unsigned int kinds;
} cases[] = {
#define COWED	(K(PRIVATE) | K(ANON))
	{ "read of markers", read_markers, MADV_NORMAL, SHMEM },
	{ "read of markers, swapped", read_markers, MADV_PAGEOUT, SHMEM },
	{ "write by the device", device_write, 0, ALL_SMALL },
	{ "migrate pages of a file", migrate_file, 0, SHMEM },
	{ "migrate zero pages", migrate_zero, 0, K(ANON) },
	{ "exit with device memory", device_memory, EXIT, COWED },
	{ "read device memory", device_memory, READ, COWED },
	{ "protect device memory", device_memory, PROTECT, COWED },
	{ "dontneed device memory", device_memory, DONTNEED, COWED },
	{ "truncate device memory", device_memory, TRUNCATE, K(PRIVATE) },
	{ "unregister device memory", device_memory, UNREGISTER, COWED },
	{ "fork device memory", device_memory, FORK, COWED },
	{ "munmap device memory", device_memory, MUNMAP, COWED },
};

int main(void)
{
	FILE *f = fopen("/proc/devices", "re");
	unsigned int done = 0, failed = 0;
	u64 start = now_ms();
	char line[128];

	rng = 1;
	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, " HMM_DMIRROR"))
			major_nr = atoi(line);
	errno = ENODEV;
	if (!major_nr)
		lacks("CONFIG_TEST_HMM");
	if (!begin_test())
		fail("no write-protect of shared memory");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (kind = 0; kind < NR_SMALL_KINDS; kind++) {
			int status = 0;
			pid_t pid;

			if (!(cases[i].kinds & K(kind)))
				continue;
			fflush(stdout);
			pid = fork();
			if (!pid) {
				snprintf(failed_in, sizeof(failed_in), "%s, %s: ", kind_name[kind],
					 cases[i].name);
				alarm(60);
				cases[i].fn(cases[i].arg);
				_exit(0);
			}
			if (pid < 0 || waitpid(pid, &status, 0) != pid)
				fail("fork: %s", strerror(errno));
			if (WIFSIGNALED(status))
				printf("FAILED: %s, %s: signal %d\n", kind_name[kind], cases[i].name,
				       WTERMSIG(status));
			failed += !!status;
			done++;
		}
	printf("%u cases in %llu ms, %u failed\n", done, now_ms() - start, failed);
	return !!failed;
}
