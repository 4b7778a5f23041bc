/* SPDX-License-Identifier: GPL-2.0 */
/*
 * When nothing has happened for a while: who waits for what, and is it for a
 * wakeup that never came?
 *
 * Time is counted in short sleeps, not by the clock, so that on a machine that
 * has no time for us it passes more slowly.
 */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open	434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd	438
#endif
#define TICK_MS		200
#define STALL_ENDED	"it has ended by itself"
#define STALL_LOST	"UFFDIO_WAKE has ended it: a wakeup was lost"

struct stall_area {			/* memory, and a userfaultfd that knows of it, or -1 */
	pid_t pid;
	int uffd;			/* its number in that process */
	u64 addr, pages;
	const char *name;
};

/* Wait until *progress changes; false if it does not. */
static inline bool goes_on(u64 *progress, u64 was, unsigned int seconds)
{
	for (unsigned int i = 0; i < seconds * 1000 / TICK_MS; i++) {
		if (load(progress) != was)
			return true;
		usleep(TICK_MS * 1000);
	}
	return load(progress) != was;
}

static inline void print_file(const char *indent, const char *path, bool one_line)
{
	static char text[8192];

	read_file(path, text, sizeof(text));
	for (char *l = strtok(text, "\n"); l; l = strtok(NULL, "\n"))
		printf("%s%s%s", indent, l, one_line ? "" : "\n");
}

/*
 * Where the threads of a process are; the stack only if the kernel can tell.  No
 * opendir(): one of our threads may be in fork(), with the locks of malloc.
 */
static inline void print_tasks(pid_t pid)
{
	struct entry { u64 ino, off; unsigned short len; char type, name[]; } *e;
	static char entries[8192];
	char dir[32], path[320];
	long n, at;
	int fd;

	sprintf(dir, "/proc/%d/task", pid);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	n = syscall(SYS_getdents64, fd, entries, sizeof(entries));
	for (at = 0; at < n; at += e->len) {
		e = (struct entry *)(entries + at);
		if (e->name[0] == '.')
			continue;
		printf("  task %d/%s:", pid, e->name);
		snprintf(path, sizeof(path), "%s/%s/stat", dir, e->name);
		print_file(" ", path, true);
		snprintf(path, sizeof(path), "%s/%s/wchan", dir, e->name);
		print_file(", wchan ", path, true);
		snprintf(path, sizeof(path), "%s/%s/syscall", dir, e->name);
		print_file(", syscall ", path, true);
		printf("\n");
		snprintf(path, sizeof(path), "%s/%s/stack", dir, e->name);
		print_file("    ", path, false);
	}
	close(fd);
}

static inline void print_pagemap(const struct stall_area *a)
{
	char path[32];
	u64 pm, last = 0, from = 0;
	int fd;

	sprintf(path, "/proc/%d/pagemap", a->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	for (u64 p = 0; p <= a->pages; p++) {
		if (p == a->pages || pread(fd, &pm, 8, (a->addr / PAGE + p) * 8) != 8)
			pm = 0;
		pm &= PM_PRESENT | PM_SWAP | PM_UFFD_WP | PM_SOFT_DIRTY;
		if (p && (pm != last || p == a->pages)) {
			printf("  pages %llu-%llu:%s%s%s%s\n", from,
			       p - 1, last & PM_PRESENT ? " present" : "",
			       last & PM_SWAP ? " swap" : "", last & PM_UFFD_WP ? " wp" : "",
			       last & PM_SOFT_DIRTY ? " soft-dirty" : "");
			from = p;
		}
		last = pm;
	}
	close(fd);
}

static inline int borrow_fd(pid_t pid, int fd)
{
	int p = syscall(SYS_pidfd_open, pid, 0), own = -1;

	if (p >= 0) {
		own = syscall(SYS_pidfd_getfd, p, fd, 0);
		close(p);
	}
	return own;
}

/* What there is to see, and whether it ends.  Nothing but UFFDIO_WAKE is done. */
static inline const char *judge_stall(const struct stall_area *a, int n, u64 *progress, u64 was)
{
	static const char tasks[] = "/proc/sysrq-trigger";
	char path[64];

	printf("STALL: all tasks are in the kernel log\n");
	write_file(tasks, "t");
	for (int i = 0; i < n; i++) {
		int fd = a[i].uffd < 0 ? -1 : borrow_fd(a[i].pid, a[i].uffd);
		struct pollfd p = { fd, POLLIN, 0 };

		printf(" %s: process %d, %llx, uffd %d, poll says %s\n", a[i].name, a[i].pid,
		       a[i].addr, a[i].uffd, fd < 0 ? "nothing" :
		       poll(&p, 1, 0) > 0 ? "unread" : "all read");
		sprintf(path, "/proc/%d/fdinfo/%d", a[i].pid, a[i].uffd);
		if (a[i].uffd >= 0)
			print_file("  ", path, false);
		print_pagemap(&a[i]);
		if (i == 0 || a[i].pid != a[i - 1].pid)
			print_tasks(a[i].pid);
		if (fd >= 0)
			close(fd);
	}
	fflush(stdout);
	if (goes_on(progress, was, 20))
		return STALL_ENDED;
	for (int i = 0; i < n; i++) {
		struct uffdio_range r = { a[i].addr, a[i].pages * PAGE };
		int fd = a[i].uffd < 0 ? -1 : borrow_fd(a[i].pid, a[i].uffd);

		if (fd < 0)
			continue;
		if (ioctl(fd, UFFDIO_WAKE, &r))
			printf(" %s: UFFDIO_WAKE: %s\n", a[i].name, strerror(errno));
		close(fd);
		if (goes_on(progress, was, 5)) {
			printf(" %s\n", a[i].name);
			return STALL_LOST;
		}
	}
	return "UFFDIO_WAKE does not end it";
}
