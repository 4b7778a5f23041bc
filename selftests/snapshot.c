// SPDX-License-Identifier: GPL-2.0
/*
 * Take a consistent image of memory that other processes keep writing, by
 * userfaultfd write protection.  Written to be read, and copied from:
 *
 *   register_memory()	in each writer: make a userfaultfd, register the mapping
 *   send_view()	pass it to the snapshotter
 *   protect()		in the snapshotter: protect or unprotect in one writer
 *   save()		save pages, then unprotect them in all writers
 *   serve_faults()	save at once what somebody waits for
 *   snapshot()		the order of all this
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "stamps.h"

#define BATCH	64UL		/* pages saved in the background at a time */

static const char help[] =
"usage: snapshot [options]\n"
"\n"
"Processes share memory and put stamps into its pages, without end.  Take an image\n"
"of one point in time while they go on, restore it, and verify that it has each\n"
"stamp that was written before that point and none that was written after.\n"
"\n"
"  --size MIB      memory (32)            --writers N   processes (4)\n"
"  --rate N        writes a second of each writer; 0: no limit (2000)\n"
"  --memory KIND   memfd (default), tmpfs, tmpfs-huge; or anon: private memory,\n"
"                  of which each writer has a part, for comparison\n"
"  --pressure      let writers have half of the memory, so that it is swapped;\n"
"                  needs root, cgroup v2 and swap\n"
"  --stop          the old way: nobody writes until all is saved\n"
"  --fork          the other old way: a child of each writer keeps the memory as it\n"
"                  was, by copy-on-write.  For anon: a child shares shared memory,\n"
"                  it has no copy (try it: TORN)\n"
"  --json          print one line, for machines\n"
"\n"
"How it works.  Write protection belongs to one mapping in one process.  Who writes\n"
"through another mapping, which is not protected, is not seen.  So\n"
"  - each writer calls userfaultfd(2) itself, registers its own mapping with\n"
"    UFFDIO_REGISTER_MODE_WP, and sends the file descriptor and the address to the\n"
"    snapshotter over a UNIX socket (SCM_RIGHTS);\n"
"  - the snapshotter uses UFFDIO_WRITEPROTECT on each of them.  It acts on the\n"
"    memory of the process that made the descriptor, not of the one that uses it;\n"
"  - writers are held back for just that long, so that all mappings are protected\n"
"    at one point in time (a virtual machine stops its CPUs here);\n"
"  - a write to a protected page waits, and can be read from the descriptor.  Then\n"
"    this page is saved at once and unprotected in all mappings, and the writer\n"
"    goes on.  While nobody waits, the next pages are saved.\n"
"Holes are protected too (but not in anon), and saved as zeros.  write(2) to the\n"
"file and DMA do not go through a mapping and are not seen.  If the snapshotter\n"
"dies, the descriptors are closed, protection ends and the writers go on.\n"
"\n"
"Exit status: 0 the image is CONSISTENT; 1 it is TORN, or something else failed;\n"
"2 this kernel can't write-protect this memory.\n";

enum { WP, STOP, FORK };
static int way = WP, json, pressure;
static const char *kind = "memfd";
static unsigned long size = 32, rate = 2000;

/* One writer's mapping, as the snapshotter knows it: pages first to end - 1. */
static struct view {
	pid_t pid;
	int uffd, error;
	unsigned long addr, first, end;
} view[MAX_WRITERS];

static int memory, image;	/* the memory's file, or -1 (anon); the image */
static uint8_t *saved;		/* a flag for each page */
static unsigned long nr_saved, by_fault, faults;

/* ---- a writer ----------------------------------------------------------- */

/* Returns a userfaultfd; *error is the errno of what failed. */
static int register_memory(void *addr, unsigned long len, int *error)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { (unsigned long)addr, len }, .mode = UFFDIO_REGISTER_MODE_WP };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg))
		*error = errno;
	else if (!(reg.ioctls & 1ull << _UFFDIO_WRITEPROTECT))
		*error = EOPNOTSUPP;
	return fd;
}

union fd_message { struct cmsghdr head; char space[CMSG_SPACE(sizeof(int))]; };

static void send_view(int sock, struct view *v)
{
	union fd_message c = { .head = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	struct iovec iov = { v, sizeof(*v) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c,
			    .msg_controllen = v->uffd < 0 ? 0 : sizeof(c) };

	memcpy(CMSG_DATA(&c.head), &v->uffd, sizeof(int));
	must(sendmsg(sock, &m, 0));
}

static void receive_view(int sock, struct view *v)
{
	union fd_message c;
	struct iovec iov = { v, sizeof(*v) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c,
			    .msg_controllen = sizeof(c) };

	if (must(recvmsg(sock, &m, MSG_CMSG_CLOEXEC)) != sizeof(*v))
		quit(1, "a writer died");
	if (CMSG_FIRSTHDR(&m))
		memcpy(&v->uffd, CMSG_DATA(&c.head), sizeof(int));
}

static void __attribute__((noreturn)) writer(unsigned long me, int sock)
{
	struct view *v = &view[me];
	unsigned long n = v->end - v->first;
	uint64_t x = me + 1, *mem;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (pressure)
		put(cgroup, "cgroup.procs", "0");
	mem = map_memory(memory, n);
	v->addr = (unsigned long)mem;
	v->pid = getpid();
	if (way == WP)
		v->uffd = register_memory(mem, n * PAGE, &v->error);
	send_view(sock, v);
	if (v->uffd >= 0)
		close(v->uffd);		/* the snapshotter has it */

	/* Leave some holes; but 5.10 can't protect those of anon. */
	for (unsigned long p = 0; p < n; p++)
		if (memory < 0 || (p % writers == me && p % 8))
			write_page(me, mem + p * WORDS, v->first + p, 0);
	ctl->w[me].full = 1;
	for (;;) {
		unsigned long p = (x >> 33) % n;

		write_page(me, mem + p * WORDS, v->first + p, keep_rate(rate));
		x = x * 6364136223846793005 + 1442695040888963407;
	}
}

/* ---- the snapshotter ---------------------------------------------------- */

/* Protect pages in one writer's mapping; or unprotect them and wake who waits. */
static void protect(struct view *v, unsigned long first, unsigned long end, bool on)
{
	struct uffdio_writeprotect wp = { .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0 };

	first = first > v->first ? first : v->first;
	end = end < v->end ? end : v->end;
	if (first >= end)
		return;
	wp.range.start = v->addr + (first - v->first) * PAGE;
	wp.range.len = (end - first) * PAGE;
	while (ioctl(v->uffd, UFFDIO_WRITEPROTECT, &wp))
		if (errno != EAGAIN)	/* the writer is just changing its mappings */
			quit(1, "UFFDIO_WRITEPROTECT: %s", strerror(errno));
}

/* Read pages; reading does not wait for write protection. */
static void read_memory(unsigned long page, unsigned long n, char *to)
{
	for (unsigned long i = 0; i < writers && n; i++) {
		struct view *v = &view[i];
		unsigned long k = v->end - page < n ? v->end - page : n;
		struct iovec local = { to, k * PAGE };
		struct iovec remote = { (void *)(v->addr + (page - v->first) * PAGE), k * PAGE };
		ssize_t r;

		if (page < v->first || page >= v->end)
			continue;
		if (memory < 0 || ctl->w[i].child)
			r = process_vm_readv(ctl->w[i].child ?: v->pid, &local, 1, &remote, 1, 0);
		else			/* a hole stays a hole */
			r = pread(memory, to, k * PAGE, page * PAGE);
		if (r != (ssize_t)(k * PAGE))
			quit(1, "can't read page %lu: %s", page, strerror(errno));
		page += k;
		n -= k;
		to += k * PAGE;
	}
}

/* Save pages, and only then let writers change them. */
static void save(unsigned long page, unsigned long n)
{
	static char buf[BATCH * PAGE];

	read_memory(page, n, buf);
	if (pwrite(image, buf, n * PAGE, page * PAGE) != (ssize_t)(n * PAGE))
		quit(1, "can't write the image: %s", strerror(errno));
	memset(saved + page, 1, n);
	nr_saved += n;
	for (unsigned long i = 0; way == WP && i < writers; i++)
		protect(&view[i], page, page + n, false);
}

static bool serve_faults(void)
{
	struct pollfd p[MAX_WRITERS];
	struct uffd_msg msg;
	bool served = false;

	for (unsigned long i = 0; i < writers; i++)
		p[i] = (struct pollfd){ .fd = view[i].uffd, .events = POLLIN };
	must(poll(p, writers, 0));
	for (unsigned long i = 0; i < writers; i++) {
		struct view *v = &view[i];

		while (p[i].revents && read(v->uffd, &msg, sizeof(msg)) == sizeof(msg)) {
			unsigned long addr = msg.arg.pagefault.address;
			unsigned long page = v->first + (addr - v->addr) / PAGE;

			if (msg.event != UFFD_EVENT_PAGEFAULT ||
			    !(msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP))
				quit(1, "an event that is no write fault: %#x", msg.event);
			faults++;
			served = true;
			if (saved[page]) {	/* it was, meanwhile */
				protect(v, page, page + 1, false);
			} else {
				by_fault++;
				save(page, 1);
			}
		}
	}
	return served;
}

static void save_next(void)
{
	static unsigned long page;
	unsigned long n = 0;

	while (page < pages && saved[page])
		page++;
	while (n < BATCH && page + n < pages && !saved[page + n])
		n++;
	save(page, n);
}

/* Returns for how many ns the gate was closed. */
static uint64_t snapshot(void)
{
	uint64_t t = now();

	ctl->forks = way == FORK;
	ctl->begin = t;
	close_gate();
	ctl->cut = 1;			/* the point in time */
	for (unsigned long i = 0; way == WP && i < writers; i++)
		protect(&view[i], 0, pages, true);
	if (way != STOP) {
		open_gate();
		t = now() - t;
	}
	while (nr_saved < pages) {
		if (way != WP || !serve_faults())
			save_next();
		if (!json)
			progress(nr_saved, faults);
	}
	if (way == STOP) {
		open_gate();
		t = now() - t;
	}
	ctl->end = now();
	ctl->forks = 0;
	return t;
}

/*
 * MiB that the first writer has mapped huge, once the userfaultfds are closed: the
 * huge mappings come back when protection and registration end, or by the faults
 * and the kernel thread soon after.  Waits until it is @want, or for 20 s.
 */
static long huge_again(long want, const char *smaps)
{
	uint64_t end = now() + 20000000000;
	long huge;

	for (unsigned long i = 0; i < writers; i++)
		if (view[i].uffd >= 0)
			close(view[i].uffd);
	open_gate();
	while ((huge = counter(smaps, "ShmemPmdMapped:") >> 10) < want && now() < end)
		usleep(10000);
	return huge;
}

/* ---- all of it ---------------------------------------------------------- */

static void options(int argc, char **argv)
{
	static const struct option o[] = {
		{ "size", 1, NULL, 's' }, { "writers", 1, NULL, 'w' }, { "rate", 1, NULL, 'r' },
		{ "memory", 1, NULL, 'm' }, { "help", 0, NULL, 'h' }, { "json", 0, &json, 1 },
		{ "pressure", 0, &pressure, 1 }, { "stop", 0, &way, STOP },
		{ "fork", 0, &way, FORK }, { 0 } };
	int c;

	while ((c = getopt_long(argc, argv, "", o, NULL)) >= 0) {
		if (c == 's')
			size = strtoul(optarg, NULL, 10);
		else if (c == 'w')
			writers = strtoul(optarg, NULL, 10);
		else if (c == 'r')
			rate = strtoul(optarg, NULL, 10);
		else if (c == 'm')
			kind = optarg;
		else if (c == 'h')
			exit(fputs(help, stdout) < 0);
		else if (c)
			exit(1);
	}
	pages = (size << 20) / PAGE;
	if (optind < argc || !size || size > 1 << 20 || !writers || writers > MAX_WRITERS)
		quit(1, "bad option, see --help");
}

static void end_writers(void)
{
	for (unsigned long i = 0; i < writers; i++)
		kill(view[i].pid, SIGKILL);
	while (wait(NULL) > 0)
		;
	if (pressure)
		rmdir(cgroup);
}

static void start_writers(void)
{
	int s[2], sock[MAX_WRITERS];

	for (unsigned long i = 0; i < writers; i++) {
		view[i] = (struct view){ .uffd = -1, .end = pages };
		if (memory < 0) {
			view[i].first = pages * i / writers;
			view[i].end = pages * (i + 1) / writers;
		}
		must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s));
		view[i].pid = must(fork());
		if (!view[i].pid)
			writer(i, s[1]);
		close(s[1]);
		sock[i] = s[0];
	}
	atexit(end_writers);
	for (unsigned long i = 0; i < writers; i++) {
		receive_view(sock[i], &view[i]);
		close(sock[i]);
	}
	for (unsigned long i = 0; i < writers; i++) {
		int e = view[i].error;

		if (e == EPERM)
			quit(1, "userfaultfd: not permitted; see vm.unprivileged_userfaultfd");
		if (e)
			quit(2, "this kernel can't write-protect %s memory by userfaultfd: %s (%s)",
			     memory < 0 ? "anonymous" : "shared", strerror(e), kind);
	}
	for (unsigned long i = 0; i < writers; i++)
		while (!ctl->w[i].full)
			if (waitpid(-1, NULL, WNOHANG) || usleep(1000))
				quit(1, "a writer died");
}

/* Restore the image into memory of the same kind; returns the first bad page or -1. */
static long restore(char *verdict, size_t size)
{
	int fd = open_memory(kind);
	char *mem = map_memory(fd, pages), *file = map_memory(image, pages);

	for (unsigned long p = 0; p < pages; p++)
		if (pread(image, mem + p * PAGE, PAGE, p * PAGE) != (ssize_t)PAGE)
			quit(1, "can't read the image: %s", strerror(errno));
	if (memcmp(mem, file, pages * PAGE))
		quit(1, "the restored memory is not what the image has");
	return check((uint64_t *)mem, false, verdict, size);
}

int main(int argc, char **argv)
{
	static const char * const name[] = { "write protection", "stop", "fork" };
	unsigned long cow = 0, worst = 0, p99;
	long out, in, huge, after, bad;
	uint64_t total, closed;
	char text[128], smaps[64], *mem;

	options(argc, argv);
	memory = open_memory(kind);
	image = must(memfd_create("image", MFD_CLOEXEC));
	must(ftruncate(image, pages * PAGE));
	saved = calloc(pages, 1);
	ctl = (void *)must(mmap(NULL, sizeof(*ctl) + pages * writers * sizeof(struct log),
				PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
	if (pressure)
		make_cgroup(pages * PAGE / 2);
	start_writers();
	usleep(200000);

	snprintf(smaps, sizeof(smaps), "/proc/%d/smaps", view[0].pid);
	huge = counter(smaps, "ShmemPmdMapped:") >> 10;
	out = counter("/proc/vmstat", "pswpout ");
	in = counter("/proc/vmstat", "pswpin ");
	total = now();
	closed = snapshot();
	total = now() - total;
	out = counter("/proc/vmstat", "pswpout ") - out;
	in = counter("/proc/vmstat", "pswpin ") - in;
	/* What fork() copied: each page that was written, once. */
	for (unsigned long i = 0; way == FORK && memory < 0 && i < pages * writers; i++)
		cow += ctl->log[i].after > 0;
	usleep(100000);

	/* What the writers have must be right as well. */
	close_gate();
	for (unsigned long i = 0; i < writers; i++) {
		ctl->w[i].child = 0;
		worst = ctl->w[i].longest > worst ? ctl->w[i].longest : worst;
	}
	mem = map_memory(-1, pages);
	read_memory(0, pages, mem);
	if (check((uint64_t *)mem, true, text, sizeof(text)) >= 0)
		quit(1, "live memory: %s", text);
	bad = restore(text, sizeof(text));

	if (pressure && !(out && in))
		quit(1, "nothing was swapped out and in: this run proves nothing");
	after = huge_again(huge, smaps);
	/* Huge pages are split to be swapped. */
	if (!strcmp(kind, "tmpfs-huge") && !huge && !pressure)
		quit(1, "there were no huge pages: this run proves nothing");
	if (after < huge && !pressure)
		quit(1, "%ld MiB of %ld are still mapped huge afterwards", after, huge);
	p99 = percentile(.99) < worst ? percentile(.99) : worst;
	printf(json ? "{\"way\": \"%s\", \"memory\": \"%s\", \"size_mib\": %lu, \"writers\": %lu, "
	       "\"rate\": %lu, \"pause_max_ms\": %.3f, \"pause_p99_ms\": %.3f, \"gate_ms\": %.3f, "
	       "\"total_ms\": %.1f, \"saved_by_fault\": %lu, \"saved_in_background\": %lu, "
	       "\"faults\": %lu, \"copied_mib\": %.1f, \"swapped_out\": %ld, \"swapped_in\": %ld, "
	       "\"huge_mib\": %ld, \"huge_after_mib\": %ld, \"verdict\": \"%s\", "
	       "\"first_bad_page\": %ld}\n" :
	       "way                     %s of %s memory\n"
	       "                        %lu MiB, %lu writers, %lu writes/s each\n"
	       "pause seen by writers   max %.3f ms, 99%% below %.3f ms\n"
	       "held back to begin      %.3f ms\n"
	       "total time              %.1f ms\n"
	       "pages saved             %lu by fault, %lu in background\n"
	       "faults served           %lu\n"
	       "memory copied           %.1f MiB\n"
	       "swapped meanwhile       %ld pages out, %ld in\n"
	       "mapped huge at the cut  %ld MiB\n"
	       "mapped huge afterwards  %ld MiB\n"
	       "verdict                 %s\n", name[way], kind, size, writers, rate,
	       worst / 1e6, p99 / 1e6, closed / 1e6, total / 1e6, by_fault,
	       nr_saved - by_fault, faults + cow, (nr_saved + cow) * PAGE / 1048576., out, in,
	       huge, after, text, bad);
	return bad >= 0;
}
