// SPDX-License-Identifier: GPL-2.0
/*
 * A protect call must not go on making page tables for a process that the OOM killer
 * has chosen: it would choose the next one because of them.
 *
 * A process in a small memory cgroup gives its userfaultfd away and eats memory until
 * it is killed.  Meanwhile this one, outside of the cgroup, protects 128 GiB of holes
 * in it, and has to get ESRCH.
 *
 * Exit status: 0, 1 for a failure, 4 when the kernel lacks what is needed.
 */
#include "uffd-wp.h"

#define CGROUP	"/sys/fs/cgroup/uffd-victim/"
#define HOLES	(128UL << 30)
#define FOOD	(64UL << 20)

struct gift {
	int uffd;
	void *mem;
};

static void put_in(const char *name, const char *text)
{
	int fd = open(name, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		skip(name);
	close(fd);
}

static void victim(int to, int from)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_WP };
	struct gift gift;
	char *food = mmap(NULL, FOOD, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = memfd_create("victim", MFD_CLOEXEC);
	char c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	put_in(CGROUP "memory.swap.max", "0");
	put_in(CGROUP "memory.max", "8M");
	put_in(CGROUP "cgroup.procs", "0");
	gift.uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (food == MAP_FAILED || fd < 0 || ftruncate(fd, HOLES) || gift.uffd < 0 ||
	    ioctl(gift.uffd, UFFDIO_API, &api))
		skip("set up");
	/* A shared mapping takes hardly any page tables */
	gift.mem = mmap(NULL, HOLES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
			fd, 0);
	reg.range.start = (uintptr_t)gift.mem;
	reg.range.len = HOLES;
	if (gift.mem == MAP_FAILED || ioctl(gift.uffd, UFFDIO_REGISTER, &reg))
		fail("register for write-protect: %s", strerror(errno));
	if (write(to, &gift, sizeof(gift)) != sizeof(gift) || read(from, &c, 1) != 1)
		_exit(1);
	/* Not by mmap(), which would wait for the call that protects */
	memset(food, 1, FOOD);
	fail("nothing was killed");
}

int main(void)
{
	struct uffdio_writeprotect wp = { .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	struct gift gift;
	int there[2], back[2], pidfd, uffd, err, status;
	pid_t pid;

	mkdir(CGROUP, 0755);
	if (pipe2(there, O_CLOEXEC) || pipe2(back, O_CLOEXEC))
		skip("pipe");
	pid = fork();
	if (!pid) {
		close(there[0]);
		victim(there[1], back[0]);
	}
	close(there[1]);
	if (read(there[0], &gift, sizeof(gift)) != sizeof(gift)) {
		waitpid(pid, &status, 0);
		return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
	}
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	uffd = syscall(SYS_pidfd_getfd, pidfd, gift.uffd, 0);
	if (uffd < 0)
		skip("pidfd_getfd");

	wp.range.start = (uintptr_t)gift.mem;
	wp.range.len = HOLES;
	if (write(back[1], "x", 1) != 1)
		skip("pipe");
	err = ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) ? errno : 0;
	if (err != ESRCH)
		kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	rmdir(CGROUP);
	if (err != ESRCH)
		fail("protecting the memory of a victim: %s", err ? strerror(err) : "no error");
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail("the victim was not killed: status %x", status);
	printf("protecting the memory of a victim of the OOM killer: ESRCH\n");
	return 0;
}
