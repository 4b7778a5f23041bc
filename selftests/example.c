// SPDX-License-Identifier: GPL-2.0
/* Be told of the first write to each page of a memfd.  Explained in
 * Documentation/usage.rst; a real snapshot is in snapshot.c. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static void *writer(void *mem)
{
	((char *)mem)[2 * 4096] = 'x';		/* waits for the monitor below */
	return mem;
}

int main(void)
{
	const size_t size = 16 * 4096;
	int memfd = memfd_create("guest", 0), ret = ftruncate(memfd, size);
	char *mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .range = { (unsigned long)mem, size },
				       .mode = UFFDIO_REGISTER_MODE_WP };
	struct uffdio_writeprotect wp = { .range = reg.range,
					  .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	struct uffd_msg msg;
	pthread_t thread;

	if (ret || mem == MAP_FAILED || uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		err(1, "set-up");
	if (ioctl(uffd, UFFDIO_REGISTER, &reg) || !(reg.ioctls & 1 << _UFFDIO_WRITEPROTECT))
		err(2, "this kernel can't write-protect shared memory");
	if (ioctl(uffd, UFFDIO_WRITEPROTECT, &wp))	/* holes are protected too */
		err(1, "protect");
	pthread_create(&thread, NULL, writer, mem);

	if (read(uffd, &msg, sizeof(msg)) != sizeof(msg) ||
	    !(msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP))
		err(1, "event");
	printf("about to be written: page %llu\n",
	       (msg.arg.pagefault.address - (unsigned long)mem) / 4096);
	/* Here the old contents are still there: save them.  Then let it go on: */
	wp.range.start = msg.arg.pagefault.address & -4096ull;
	wp.range.len = 4096;
	wp.mode = 0;
	if (ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) || pthread_join(thread, NULL))
		err(1, "unprotect");
	return mem[2 * 4096] != 'x';
}
