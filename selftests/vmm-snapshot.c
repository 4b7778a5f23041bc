// SPDX-License-Identifier: GPL-2.0
/*
 * Debian's QEMU takes a background snapshot of a virtual machine with shared memory.
 *
 * The machine runs a program of ours from its ROM.  In round r it goes through
 * NR_PAGES pages, always in the same order, and puts r into two words of each, or
 * has the disk controller put it there: then it is QEMU's read() that meets write
 * protection, in the kernel.  So at any point in time the pages up to some place in
 * this order have r, and those behind it have r - 1.  Memory that is saved page by
 * page while the machine goes on has any number of rounds in it.
 *
 * QMP is spoken as libvirt does: the image goes to a file descriptor that is passed
 * to QEMU.  It is read slowly, so that the machine has time to write.
 *
 * Exit status: 0 the image is of one point in time and the machine goes on from
 * there; 1 it is TORN, or something else failed; 2 QEMU says that it can't.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE		4096UL
#define RAM		(20UL << 20)	/* no other mapping of QEMU has this size */
#define NR_PAGES	4096
#define BLOCKS		256		/* of the disk; block b has b in each word */
#define ROM_SIZE	0x10000
#define CGROUP		"/sys/fs/cgroup/vmm-snapshot/"

/*
 * The program of the machine.  The last 16 bytes of the ROM jump to its begin,
 * which is at 0xf0000.  Its data: the round at 0x9000, the page's address and length for
 * the disk controller (PIIX3, at port 0xc000) at 0x8000, pages from 0x200000.
 */
#define FIRST		0x200000UL
#define ROUND		0x9000UL
#define STEP		2731		/* odd, so that each page has its turn */
#define BY_DISK(i)	((i) % 64 == 63)
#define STR_(x)		#x
#define STR(x)		STR_(x)

extern const char rom[], rom_end[];
__asm__(
"	.pushsection .rodata\n"
"	.balign 8\n"
"	.macro outp port, value, size, reg\n"
"	movw	$\\port, %dx\n"
"	mov\\size	$\\value, \\reg\n"
"	out\\size	\\reg, %dx\n"
"	.endm\n"
"	.code16\n"
"rom:	cli\n"
"	movw	%cs, %ax\n"
"	movw	%ax, %ds\n"
"	lgdtl	gdtr - rom\n"
"	movl	%cr0, %eax\n"
"	orl	$1, %eax\n"
"	movl	%eax, %cr0\n"
"	ljmpl	$8, $0xf0000 + start - rom\n"
"	.balign 8\n"
"gdt:	.quad	0, 0x00cf9a000000ffff, 0x00cf92000000ffff\n"
"gdtr:	.word	23\n"
"	.long	0xf0000 + gdt - rom\n"
"	.code32\n"
"start:	movw	$16, %ax\n"
"	movw	%ax, %ds\n"
"	movw	%ax, %es\n"
"	movw	%ax, %ss\n"
"	outp	0xcf8, 0x80000920, l, %eax\n"		/* where its ports are */
"	outp	0xcfc, 0xc001, l, %eax\n"
"	outp	0xcf8, 0x80000904, l, %eax\n"		/* enable */
"	outp	0xcfc, 5, w, %ax\n"
"	outp	0x3f6, 2, b, %al\n"			/* no interrupts */
"	movl	$1, %ebx\n"
"round:	movl	%ebx, 0x9000\n"
"	xorl	%esi, %esi\n"
"page:	imull	$" STR(STEP) ", %esi, %edi\n"
"	andl	$" STR(NR_PAGES) " - 1, %edi\n"
"	shll	$12, %edi\n"
"	addl	$0x200000, %edi\n"
"	movl	%esi, %eax\n"
"	andl	$63, %eax\n"
"	cmpl	$63, %eax\n"
"	je	disk\n"
"	movl	%ebx, (%edi)\n"
"	movl	%ebx, 4092(%edi)\n"
"next:	incl	%esi\n"
"	cmpl	$" STR(NR_PAGES) ", %esi\n"
"	jb	page\n"
"	incl	%ebx\n"
"	jmp	round\n"
"disk:	movl	%edi, 0x8000\n"
"	movl	$0x80001000, 0x8004\n"
"	outp	0xc004, 0x8000, l, %eax\n"
"	outp	0xc000, 8, b, %al\n"
"	outp	0xc002, 6, b, %al\n"
"	outp	0x1f6, 0xe0, b, %al\n"
"	outp	0x1f2, 8, b, %al\n"
"	movzbl	%bl, %eax\n"				/* block round % BLOCKS */
"	shll	$3, %eax\n"
"	movw	$0x1f3, %dx\n"
"	outb	%al, %dx\n"
"	shrl	$8, %eax\n"
"	movw	$0x1f4, %dx\n"
"	outb	%al, %dx\n"
"	outp	0x1f5, 0, b, %al\n"
"	outp	0x1f7, 0xc8, b, %al\n"			/* READ DMA */
"	outp	0xc000, 9, b, %al\n"
"wait:	movw	$0xc002, %dx\n"
"	inb	%dx, %al\n"
"	testb	$1, %al\n"
"	jnz	wait\n"
"	movw	$0x1f7, %dx\n"
"	inb	%dx, %al\n"
"	testb	$0x80, %al\n"
"	jnz	wait\n"
"	outp	0xc000, 0, b, %al\n"
"	jmp	next\n"
"rom_end:\n"
"	.code64\n"
"	.popsection\n");

static const char *kind = "memfd";
static unsigned long rate = 8;		/* MiB/s */
static int pressure;

static pid_t vmm;
static int qmp, vmm_mem = -1;
static uint64_t ram_at;
static char ram[RAM];

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void __attribute__((noreturn, format(printf, 2, 3))) quit(int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	exit(status);
}

#define must(x) ({ \
	long ret_ = (long)(x); \
	if (ret_ == -1) \
		quit(1, "FAILED: %s: %s", #x, strerror(errno)); \
	ret_; })

static void put(const char *path, const char *text)
{
	int fd = must(open(path, O_WRONLY | O_CLOEXEC));

	must(write(fd, text, strlen(text)));
	close(fd);
}

static unsigned long get(const char *path, const char *name)
{
	char line[128];
	unsigned long n = 0;
	FILE *f = fopen(path, "re");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			n = strtoul(line + strlen(name), NULL, 10);
	if (f)
		fclose(f);
	return n;
}

/*
 * QMP.  Returns QEMU's answer, a line, events left out.  Both sides send whole lines.
 */
static const char *answer(void)
{
	static char line[16384];
	size_t n;

	for (;;) {
		for (n = 0; n < sizeof(line) - 1; n++)
			if (read(qmp, line + n, 1) != 1)
				quit(1, "FAILED: QEMU has gone");
			else if (line[n] == '\n')
				break;
		line[n] = 0;
		if (!strstr(line, "\"event\""))
			return line;
	}
}

static const char *ask_with(int fd, const char *fmt, ...)
{
	union { struct cmsghdr head; char space[CMSG_SPACE(sizeof(int))]; } c = {
		.head = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	char text[512];
	struct iovec iov = { text, 0 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c,
			    .msg_controllen = fd < 0 ? 0 : sizeof(c) };
	va_list ap;

	va_start(ap, fmt);
	iov.iov_len = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	memcpy(CMSG_DATA(&c.head), &fd, sizeof(int));
	must(sendmsg(qmp, &m, 0));
	return answer();
}
#define ask(...) ask_with(-1, __VA_ARGS__)

static void tell(const char *what)
{
	const char *a = ask("{\"execute\": \"%s\"}\n", what);

	if (!strstr(a, "\"return\""))
		quit(1, "FAILED: %s: %s", what, a);
}

/* The text of an error, as QEMU has it */
static const char *error_of(const char *a)
{
	static char text[512];
	const char *d = strstr(a, "\"desc\": \"");

	snprintf(text, sizeof(text), "%s", d ? d + 9 : a);
	text[strcspn(text, "\"")] = 0;
	return text;
}

static const char *status_of(const char *query)
{
	static char text[64];
	const char *a = ask("{\"execute\": \"%s\"}\n", query), *s = strstr(a, "\"status\": \"");

	snprintf(text, sizeof(text), "%s", s ? s + 11 : "");
	text[strcspn(text, "\"")] = 0;
	return text;
}

static void end_vmm(void)
{
	if (vmm > 0) {
		kill(vmm, SIGKILL);
		waitpid(vmm, NULL, 0);
		vmm = 0;
		close(vmm_mem);
		close(qmp);
	}
	unlink("/dev/shm/vm");
}

/* incoming: the image, or -1 */
static void start_vmm(int incoming)
{
	char object[128], chardev[64], uri[32], path[64], line[512];
	int s[2];
	FILE *maps;
	const char *argv[32] = {
		"/usr/bin/qemu-system-x86_64", "-nodefaults", "-no-user-config",
		"-display", "none", "-machine", "pc,memory-backend=m,hpet=off",
		"-accel", "tcg,tb-size=32", "-m", "20M", "-object", object,
		"-global", "apic-common.vapic=off", "-bios", "/tmp/vm.rom",
		"-drive", "if=ide,format=raw,file=/tmp/vm.disk",
		"-chardev", chardev, "-mon", "chardev=q,mode=control",
	};
	int n = 23;

	if (!strcmp(kind, "memfd"))
		strcpy(object, "memory-backend-memfd,id=m,size=20M,share=on");
	else if (!strcmp(kind, "shm"))
		strcpy(object, "memory-backend-file,id=m,size=20M,share=on,mem-path=/dev/shm/vm");
	else if (!strcmp(kind, "ram"))
		strcpy(object, "memory-backend-ram,id=m,size=20M");
	else
		quit(1, "FAILED: no such kind: %s", kind);
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	sprintf(chardev, "socket,id=q,fd=%d", s[1]);
	if (incoming >= 0) {
		sprintf(uri, "fd:%d", incoming);
		argv[n++] = "-S";
		argv[n++] = "-incoming";
		argv[n++] = uri;
	}
	vmm = must(fork());
	if (!vmm) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (pressure && incoming < 0)
			put(CGROUP "cgroup.procs", "0");
		close(s[0]);
		execv(argv[0], (char **)argv);
		quit(1, "FAILED: %s: %s", argv[0], strerror(errno));
	}
	close(s[1]);
	qmp = s[0];
	answer();				/* its greeting */
	tell("qmp_capabilities");

	sprintf(path, "/proc/%d/maps", vmm);
	maps = fopen(path, "re");
	for (ram_at = 0; maps && fgets(line, sizeof(line), maps); ) {
		unsigned long from, to;

		if (sscanf(line, "%lx-%lx", &from, &to) == 2 && to - from == RAM)
			ram_at = from;
	}
	if (!ram_at)
		quit(1, "FAILED: where does QEMU have the memory?");
	fclose(maps);
	sprintf(path, "/proc/%d/mem", vmm);
	vmm_mem = must(open(path, O_RDONLY | O_CLOEXEC));
}

static void peek(void *to, uint64_t at, size_t n)
{
	if (pread(vmm_mem, to, n, ram_at + at) != (ssize_t)n)
		quit(1, "FAILED: can't read the memory of the machine: %s", strerror(errno));
}

static uint32_t round_now(void)
{
	uint32_t r;

	peek(&r, ROUND, sizeof(r));
	return r;
}

/* How many pages the machine has written, about: it goes on meanwhile */
static unsigned long written(void)
{
	uint32_t r = round_now(), head;
	unsigned int i;

	for (i = 0; i < NR_PAGES; i++) {
		peek(&head, FIRST + (unsigned int)(i * STEP) % NR_PAGES * PAGE, sizeof(head));
		if (head == (BY_DISK(i) ? (r - 1) % BLOCKS : r - 1))
			break;
	}
	return (unsigned long)r * NR_PAGES + i;
}

static void wait_for_round(uint32_t r, const char *what)
{
	double end = seconds() + 120, said = seconds();

	while (round_now() < r) {
		if (seconds() > end)
			quit(1, "FAILED: %s: the machine does not go on, round %u", what,
			     round_now());
		usleep(20000);
		if (seconds() - said > 2) {
			said = seconds();
			printf("%s: round %u of the machine\n", what, round_now());
			fflush(stdout);
		}
	}
}

/* Is the memory in ram that of one point in time?  If not, says where. */
static bool consistent(char *why, size_t size)
{
	uint32_t r = *(uint32_t *)(ram + FIRST), now = *(uint32_t *)(ram + ROUND);
	bool behind = false;

	snprintf(why, size, "round %u", r);
	if (now != r && now != r + 1) {
		snprintf(why, size, "round %u, the first page has %u", now, r);
		return false;
	}
	for (unsigned int i = 0; i < NR_PAGES; i++) {
		unsigned long page = (unsigned int)(i * STEP) % NR_PAGES;
		uint32_t head = *(uint32_t *)(ram + FIRST + page * PAGE);
		uint32_t tail = *(uint32_t *)(ram + FIRST + page * PAGE + PAGE - 4);
		uint32_t new = BY_DISK(i) ? r % BLOCKS : r;
		uint32_t old = BY_DISK(i) ? (r - 1) % BLOCKS : r - 1;

		if (!behind && head == new && tail == new)
			continue;
		/* The place where the machine is, or behind it */
		if ((head == old || (head == new && !behind)) &&
		    (tail == old || (tail == new && !behind && BY_DISK(i)))) {
			if (!behind)
				snprintf(why, size, "round %u, page %u", r, i);
			behind = true;
			continue;
		}
		snprintf(why, size, "round %u, but page %u has %u and %u, not %u%s%u", r, i, head,
			 tail, old, behind ? " as the ones before it: " : " or ",
			 behind ? old : new);
		return false;
	}
	return true;
}

static void expect(bool right, const char *what)
{
	char why[160];
	bool is = consistent(why, sizeof(why));

	printf("%-32s%s (%s)\n", what, is ? "one point in time" : "TORN", why);
	fflush(stdout);
	if (is != right)
		quit(1, right ? "verdict                         TORN" :
		     "FAILED: this should be torn: wrong images would not be seen");
}

static void expect_stopped(const char *what)
{
	tell("stop");
	peek(ram, 0, RAM);
	expect(true, what);
	tell("cont");
}

/* Memory that is read page by page while the machine writes must not pass. */
static void read_live(void)
{
	uint32_t r;
	char why[160];

	for (int try = 0; try < 5; try++) {
		r = round_now();
		for (unsigned long at = 0; at < RAM; at += RAM / 4) {
			wait_for_round(r + at / (RAM / 4), "live memory");
			peek(ram + at, at, RAM / 4);
		}
		if (!consistent(why, sizeof(why)))
			break;
	}
	expect(false, "memory read without a snapshot");
}

/* All is protected by now: some of it has to go to swap. */
static void squeeze(void)
{
	char text[32];

	snprintf(text, sizeof(text), "%lu", get(CGROUP "memory.current", "") - (10UL << 20));
	put(CGROUP "memory.max", text);
	printf("the limit is now                %s bytes\n", text);
}

static unsigned long save(int from, int to)
{
	static char buf[1 << 16];
	unsigned long all = 0;
	double begin = seconds(), said = begin;
	ssize_t n;

	while ((n = read(from, buf, sizeof(buf))) > 0) {
		must(write(to, buf, n));
		all += n;
		if (pressure == 1 && all > 1 << 20) {
			squeeze();
			pressure = 2;
		}
		if (seconds() - said > 2) {
			said = seconds();
			printf("%lu KiB saved, round %u of the machine\n", all >> 10, round_now());
			fflush(stdout);
		}
		while (seconds() - begin < (double)all / (rate << 20))
			usleep(1000);
	}
	return all;
}

static void make_files(void)
{
	static char image[ROM_SIZE];
	static const char reset[] = "\xea\0\0\0\xf0";
	uint32_t block[PAGE / 4];
	int fd;

	memcpy(image, rom, rom_end - rom);
	memcpy(image + ROM_SIZE - 16, reset, 5);
	fd = must(open("/tmp/vm.rom", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
	must(write(fd, image, sizeof(image)));
	close(fd);
	fd = must(open("/tmp/vm.disk", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
	for (uint32_t b = 0; b < BLOCKS; b++) {
		for (unsigned int i = 0; i < PAGE / 4; i++)
			block[i] = b;
		must(write(fd, block, sizeof(block)));
	}
	close(fd);
}

int main(int argc, char **argv)
{
	static const struct option o[] = {
		{ "memory", 1, NULL, 'm' }, { "rate", 1, NULL, 'r' },
		{ "pressure", 0, &pressure, 1 }, { 0 } };
	unsigned long out, in, size, pages;
	uint32_t before, after, r;
	char state[64];
	int pipe_[2], image, c;
	const char *a;
	double t;

	while ((c = getopt_long(argc, argv, "", o, NULL)) >= 0)
		if (c == 'm')
			kind = optarg;
		else if (c == 'r')
			rate = strtoul(optarg, NULL, 10) ?: 1;
		else if (c)
			quit(1, "usage: vmm-snapshot "
			     "[--memory memfd|shm|ram] [--rate MIB/S] [--pressure]");
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	make_files();
	if (pressure && mkdir(CGROUP, 0755) && errno != EEXIST)
		quit(1, "FAILED: " CGROUP ": %s", strerror(errno));
	atexit(end_vmm);
	printf("memory                          %s, %lu MiB\n", kind, RAM >> 20);
	start_vmm(-1);
	wait_for_round(3, "boot");
	read_live();
	expect_stopped("memory of the stopped machine");

	a = ask("{\"execute\": \"migrate-set-capabilities\", \"arguments\": {\"capabilities\": "
		"[{\"capability\": \"background-snapshot\", \"state\": true}]}}\n");
	if (!strstr(a, "\"return\""))
		quit(2, "QEMU says                       %s", error_of(a));

	out = get("/proc/vmstat", "pswpout ");
	in = get("/proc/vmstat", "pswpin ");
	must(pipe2(pipe_, O_CLOEXEC));
	image = must(open("/tmp/vm.image", O_RDWR | O_CREAT | O_TRUNC, 0644));
	a = ask_with(pipe_[1],
		     "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"image\"}}\n");
	close(pipe_[1]);
	if (!strstr(a, "\"return\""))
		quit(1, "FAILED: getfd: %s", error_of(a));
	pages = written();
	before = round_now();
	t = seconds();
	a = ask("{\"execute\": \"migrate\", \"arguments\": {\"uri\": \"fd:image\"}}\n");
	if (!strstr(a, "\"return\""))
		quit(1, "FAILED: migrate: %s", error_of(a));
	size = save(pipe_[0], image);
	t = seconds() - t;
	out = get("/proc/vmstat", "pswpout ") - out;
	in = get("/proc/vmstat", "pswpin ") - in;
	after = round_now();
	pages = written() - pages;
	close(pipe_[0]);
	snprintf(state, sizeof(state), "%s", status_of("query-migrate"));
	for (int i = 0; i < 100 && strcmp(state, "completed") && strcmp(state, "failed"); i++) {
		usleep(100000);
		snprintf(state, sizeof(state), "%s", status_of("query-migrate"));
	}
	printf("background-snapshot             %s, %lu KiB in %.1f s\n", state, size >> 10, t);
	printf("the machine meanwhile           from round %u to %u, %lu pages\n", before, after,
	       pages);
	/* Each page that it writes is one that QEMU has to save first */
	if (strcmp(state, "completed") || pages < NR_PAGES / 16)
		quit(1, "FAILED: no snapshot of a running machine");
	if (pressure) {
		printf("swapped meanwhile               %lu pages out, %lu in\n", out, in);
		if (!out || !in)
			quit(1, "FAILED: nothing was swapped: this run proves nothing");
	}
	wait_for_round(after + 2, "after the snapshot");
	expect_stopped("the machine goes on");
	end_vmm();

	lseek(image, 0, SEEK_SET);
	start_vmm(image);
	close(image);
	for (int i = 0; i < 600 && !strcmp(status_of("query-status"), "inmigrate"); i++)
		usleep(100000);
	peek(ram, 0, RAM);
	r = *(uint32_t *)(ram + FIRST);
	expect(true, "the image, restored");
	if (r + 1 < before || r > after)
		quit(1, "FAILED: round %u is of another time", r);
	tell("cont");
	wait_for_round(r + 3, "restored");
	expect_stopped("the restored machine goes on");
	printf("verdict                         CONSISTENT\n");
	return 0;
}
