// SPDX-License-Identifier: GPL-2.0
/*
 * A protect call must not go on making page tables for a process that the OOM killer
 * has chosen: it would choose the next one because of them.
 *
 * A process in a small memory cgroup gives its userfaultfd away and eats memory until
 * it is killed.  Meanwhile this one, outside of the cgroup, protects 128 GiB of holes
 * in it, and has to get ESRCH.
 *
 * Then nothing runs in it any more, but its memory is there for as long as another
 * process waits for a page of it.  To protect anything that needs a page table gives
 * ESRCH at once, also where hugetlbfs is mapped; to lift protection needs no memory
 * and works.
 *
 * Exit status: 0, 1 for a failure, 4 when the kernel lacks what is needed.
 */
#include "uffd-wp.h"

#define CGROUP	"/sys/fs/cgroup/uffd-victim/"
#define HOLES	(128UL << 30)
#define FOOD	(64UL << 20)

#define PART	(2UL << 30)

struct gift {
	int uffd;
	char *mem, *huge, *missing;
};

static void put_in(const char *name, const char *text)
{
	int fd = open(name, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		skip(name);
	close(fd);
}

static void reg_gift(int uffd, void *mem, unsigned long len, __u64 mode)
{
	int err = try_register(uffd, mem, len, mode, NULL);

	if (mem == MAP_FAILED || err)
		fail("register: %s", strerror(-err));
}

static void victim(int to, int from)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct gift gift;
	int huge = syscall(SYS_memfd_create, "victim", MFD_CLOEXEC | MFD_HUGETLB);
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
	reg_gift(gift.uffd, gift.mem, HOLES, UFFDIO_REGISTER_MODE_WP);
	if (huge < 0 || ftruncate(huge, PART))
		skip("hugetlbfs");
	gift.huge = mmap(NULL, PART, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
			 huge, 0);
	reg_gift(gift.uffd, gift.huge, PART, UFFDIO_REGISTER_MODE_WP);
	gift.missing = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			    -1, 0);
	reg_gift(gift.uffd, gift.missing, 4096, UFFDIO_REGISTER_MODE_MISSING);
	if (write(to, &gift, sizeof(gift)) != sizeof(gift) || read(from, &c, 1) != 1)
		_exit(1);
	/* Not by mmap(), which would wait for the call that protects */
	memset(food, 1, FOOD);
	fail("nothing was killed");
}

/* Somebody who holds on to the memory: waits for a page of it, when this returns */
static pid_t start_holder(pid_t of, int uffd, char *missing)
{
	struct pollfd p = { .fd = uffd, .events = POLLIN };
	struct uffd_msg msg;
	char c;
	struct iovec to = { &c, 1 }, from = { missing, 1 };
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		process_vm_readv(of, &to, 1, &from, 1, 0);
		_exit(1);
	}
	if (poll(&p, 1, 10000) != 1 || read(uffd, &msg, sizeof(msg)) != sizeof(msg) ||
	    msg.arg.pagefault.address != (uintptr_t)missing)
		fail("nobody waits for the page of the victim's");
	return pid;
}

static void must_give(int uffd, char *mem, unsigned long len, bool protect, int want,
		      const char *what)
{
	int err = -try_wp(uffd, mem, len, protect ? MODE_WP : 0);

	if (err != want)
		fail("%sprotecting %s of a victim: %s, not %s", protect ? "" : "un", what,
		     strerror(err), strerror(want));
}

int main(void)
{
	struct uffdio_writeprotect wp = { .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	struct gift gift;
	pid_t holder;
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

	/* As the victim will be: these ranges are protected before it is one */
	must_give(uffd, gift.huge, PART / 2, true, 0, "half of hugetlbfs");
	must_give(uffd, gift.mem, 4096, true, 0, "a page");
	holder = start_holder(pid, uffd, gift.missing);

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
	must_give(uffd, gift.huge, PART, true, ESRCH, "hugetlbfs");
	must_give(uffd, gift.mem, HOLES, true, ESRCH, "holes");
	must_give(uffd, gift.huge, PART, false, 0, "hugetlbfs");
	must_give(uffd, gift.mem, 4096, false, 0, "a page");
	kill(holder, SIGKILL);
	waitpid(holder, &status, 0);
	/* Now it is gone, and no call gets anywhere */
	must_give(uffd, gift.huge, PART, false, ESRCH, "what is left");
	printf("protecting the memory of a victim of the OOM killer: ESRCH\n");
	return 0;
}
