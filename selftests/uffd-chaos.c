// SPDX-License-Identifier: GPL-2.0
/*
 * Snapshots of memory that is written, and made trouble with, all the time.
 *
 * Writers put numbered stamps into pages of a mapping.  Others zap, reclaim,
 * migrate, collapse, split and punch next to them, fork, and use userfaultfd on
 * other mappings of the same file, in this process and in another.  Over and over
 * the mapping is write-protected, saved, by faults first and then in the
 * background, and unprotected.  Nobody is stopped for that.  Each image has to be
 * one of a single point in time:
 *
 * A writer logs for each of its writes a ticket of a global counter from before
 * it and one from after it.  Of the writes of one writer, the image must have all
 * up to some number and none after it.  And if it lacks a write of one writer that
 * ended, by its tickets, before a write of another writer began, it must not have
 * the latter either.  Writes that ended before the protection began must be in
 * it, writes that began after the protection was complete must not.
 *
 * A write that goes unnoticed, a page saved or mapped twice, data that is lost or
 * taken from another time: all of them break one of these rules.
 */
#include "uffd-wp.h"
#include "uffd-random.h"
#include <sys/resource.h>
#include "stall.h"

#define WRITERS		2
#define CHAOS		2
#define STALL_S		20
#define LOG		(1U << 17)	/* writes of one writer that are remembered */
#define MAX_SAVED	2048
#define STAMP(w, k)	((u64)((w) + 1) << 48 | (k))
#define NUMBER(s)	((s) & ((1ULL << 48) - 1))

struct record { u64 begin, end; unsigned int page; };

static enum mem kind = MEMFD;
static u64 seed, nr_pages, rounds = ~0ULL, seconds = 20;
static bool patched, priv;
static char *mem;			/* nr_pages of data, as many to punch */
static int file = -1, uffd, helper = -1;
static u64 tickets;
static bool stop, writers_stop;

static struct writer {
	struct record *log;
	u64 done;			/* number of the last write that has ended */
	u64 floor;			/* log entries up to here are of no interest */
	u64 base;			/* see verify() */
	int source;
	u64 kernel;			/* writes made by the kernel */
} writer[WRITERS];

static char (*image)[PAGE];
static bool saved[2 * MAX_SAVED];
static u64 last_write[MAX_SAVED];	/* of its page, as of writer.base */
static u64 total_writes, total_rounds, total_events, total_chaos, total_stalls, beats;

#define fail(fmt, ...)	fail("round %llu, seed %llu, kind %s: " fmt, total_rounds, seed, \
			     kind_name[kind], ##__VA_ARGS__)

static u64 ticket(void)
{
	return add(&tickets, 1);
}

static u64 *stamp_at(u64 page, bool tail)
{
	return (u64 *)(mem + page * PAGE + (tail ? TAIL : 0));
}

/* Page p belongs to writer p % WRITERS. */
static void *write_pages(void *arg)
{
	struct writer *w = arg;
	int me = w - writer;
	u64 r = seed * 31 + me + 1, hot = 0;

	while (!load(&writers_stop)) {
		u64 k = w->done + 1, page, stamp = STAMP(me, k);
		struct record *l = &w->log[k % LOG];

		/* The log must not overtake the one who reads it. */
		if (k - load(&w->floor) > LOG / 2) {
			usleep(1000);
			continue;
		}
		r = r * 6364136223846793005ULL + 1442695040888963407ULL;
		if (r >> 58 == 0)
			hot = (r >> 20) % nr_pages;
		page = (r >> 33) & 1 ? (hot + (r >> 34) % 8) % nr_pages : (r >> 34) % nr_pages;
		page = page / WRITERS * WRITERS + me;
		l->page = page;
		l->begin = ticket();
		if (r >> 60 == 15) {
			/* By the kernel, head and tail one after the other too */
			struct iovec iov[2] = { { stamp_at(page, true), 8 }, { stamp_at(page, false), 8 } };
			u64 pair[2] = { stamp, stamp };

			if (pwrite(w->source, pair, 16, 0) != 16 ||
			    preadv(w->source, iov, 2, 0) != 16)
				fail("preadv: %s", strerror(errno));
			w->kernel++;
		} else {
			store(stamp_at(page, true), stamp);
			store(stamp_at(page, false), stamp);
		}
		l->end = ticket();
		store(&w->done, k);
		if (r >> 56 == 0)
			usleep((r >> 30) % 1000);
	}
	return NULL;
}

static void range_of(u64 *p, u64 *n, u64 pages)
{
	*p = rnd(pages);
	*n = 1 + rnd(rnd(2) ? 16 : pages - *p);
	if (*p + *n > pages)
		*n = pages - *p;
}

/* One piece of trouble with the mapping that is watched, or with its file */
static void trouble(void)
{
	static void *addr[CHAOS + 2][2 * MAX_SAVED];
	static int nodes[2][2 * MAX_SAVED], status[2 * MAX_SAVED];
	static unsigned int turn;
	void **a = addr[add(&turn, 1) % (CHAOS + 2)];
	u64 p, n, all = 2 * nr_pages;
	pid_t pid;
	int fd;

	range_of(&p, &n, all);
	switch (rnd(20)) {
	case 0 ... 4:
		if (!priv)
			madvise(mem + p * PAGE, n * PAGE, MADV_DONTNEED);
		break;
	case 5 ... 7:
		madvise(mem + p * PAGE, n * PAGE, MADV_PAGEOUT);
		break;
	case 8:
		madvise(mem + p * PAGE, n * PAGE, MADV_COLD);
		break;
	case 9 ... 11:
		for (u64 i = 0; i < n; i++) {
			a[i] = mem + (p + i) * PAGE;
			nodes[1][i] = 1;
		}
		/* One node for all: each change of node costs. */
		syscall(SYS_move_pages, 0, n, a, nodes[rnd(2)], status, MOVE_ALL);
		break;
	case 12 ... 13:
		/* Next to the data */
		range_of(&p, &n, nr_pages);
		if (kind != ANON)
			fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				  (nr_pages + p) * PAGE, n * PAGE);
		break;
	case 14:
		if (kind != ANON && (ftruncate(file, (nr_pages + rnd(nr_pages)) * PAGE) ||
				     ftruncate(file, all * PAGE)))
			fail("ftruncate: %s", strerror(errno));
		break;
	case 15:
		if (rnd(4))
			break;
		fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
		if (write(fd, "4", 1) != 1)
			fail("clear_refs: %s", strerror(errno));
		close(fd);
		break;
	case 16:
		if (rnd(8))
			break;
		pid = fork();
		if (!pid) {
			volatile char c = 0;

			for (u64 i = 0; i < n && i < 16; i++)
				c += mem[(p + i) % nr_pages * PAGE];
			_exit(0);
		}
		if (pid < 0 || waitpid(pid, NULL, 0) != pid)
			fail("fork: %s", strerror(errno));
		break;
	case 17:
		if (rnd(16) == 0)
			write_file("/proc/sys/vm/compact_memory", "1");
		break;
	case 18:
		if (kind == HUGE && rnd(16) == 0)
			write_file("/sys/kernel/debug/split_huge_pages", "1");
		break;
	case 19: {
		u64 now = get_number(CGROUP "memory.current");
		char text[32];

		if (rnd(4))
			break;
		sprintf(text, "%llu", now - (1 + rnd(64)) * PAGE);
		if (now)
			write_file(CGROUP "memory.high", text);
		write_file(CGROUP "memory.high", "max");
	} }
	add(&total_chaos, 1);
}

static void *make_trouble(void *unused)
{
	(void)unused;
	while (!load(&stop)) {
		trouble();
		if (rnd(2))
			usleep(rnd(3000));
	}
	return NULL;
}

/* Userfaultfd on another mapping of the file, which is nobody else's business */
static void use_other_mapping(bool *until)
{
	u64 len = 2 * nr_pages * PAGE, p, n;
	volatile char c = 0;

	while (!load(until)) {
		int fd = uffd_open(0);
		char *m = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);

		if (m == MAP_FAILED)
			fail("other mapping: %s", strerror(errno));
		reg(fd, m, len, REG_WP);
		for (int i = rnd(100); i >= 0 && !load(until); i--) {
			range_of(&p, &n, nr_pages);
			switch (rnd(5)) {
			case 0:
			case 1:
				if (uffd_wp(fd, (u64)m + p * PAGE, n * PAGE, rnd(2)))
					fail("other mapping, protect: %s", strerror(errno));
				break;
			case 2:
				madvise(m + p * PAGE, n * PAGE, MADV_DONTNEED);
				break;
			default:
				for (u64 j = 0; j < n && j < 16; j++)
					c += m[(p + j) * PAGE];
			}
			usleep(rnd(1000));
		}
		if (rnd(2))
			unreg(fd, m, len);
		if (rnd(2))
			close(fd), munmap(m, len);
		else
			munmap(m, len), close(fd);
	}
}

static void *other_mapping(void *unused)
{
	(void)unused;
	use_other_mapping(&stop);
	return NULL;
}

static bool looking;			/* the watchdog leaves it to the monitor */

static const char *look_into(u64 *progress, u64 was)
{
	struct stall_area a = { getpid(), uffd, (u64)mem, 2 * nr_pages, "memory" };
	const char *why;

	store(&looking, true);
	why = judge_stall(&a, 1, progress, was);
	store(&looking, false);
	total_stalls++;
	printf("nothing has happened for %d s, and %s\n", STALL_S, why);
	fflush(stdout);
	return why;
}

static void *watchdog(void *unused)
{
	(void)unused;
	for (;;) {
		u64 was = load(&beats);

		if (goes_on(&beats, was, STALL_S) || load(&looking))
			usleep(TICK_MS * 1000);
		else if (strcmp(look_into(&beats, was), STALL_ENDED))
			fail("hang");
	}
}

/*
 * The snapshot
 */
static void wp_pages(u64 p, u64 n, bool wp)
{
	int err = uffd_wp(uffd, (u64)mem + p * PAGE, n * PAGE, wp);

	if (err)
		fail("%sprotect %llu+%llu: %s", wp ? "" : "un", p,
		     n, strerror(err));
}

static void save(u64 p)
{
	if (saved[p])
		return;
	saved[p] = true;
	if (p >= nr_pages)
		return;
	/* By the mapping, or past it; it must be the same. */
	if (priv || rnd(4))
		memcpy(image[p], mem + p * PAGE, PAGE);
	else if (pread(file, image[p], PAGE, p * PAGE) != (ssize_t)PAGE)
		fail("pread: %s", strerror(errno));
}

/* Serve all that wait; they come first. */
static bool serve(int timeout, bool saving)
{
	struct pollfd p = { uffd, POLLIN, 0 };
	struct uffd_msg msg[8];
	bool any = false;
	ssize_t n;

	while (poll(&p, 1, timeout) > 0 && (n = read(uffd, msg, sizeof(msg))) > 0) {
		for (int i = 0; i < n / (int)sizeof(msg[0]); i++) {
			u64 page = (msg[i].arg.pagefault.address - (u64)mem) / PAGE;

			if (msg[i].event != UFFD_EVENT_PAGEFAULT || page >= 2 * nr_pages ||
			    !(msg[i].arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP))
				fail("event %u for page %llu, flags %llx", msg[i].event,
				     page,
				     msg[i].arg.pagefault.flags);
			if (saving)
				save(page);
			wp_pages(page, 1, false);
			total_events++;
		}
		any = true;
		timeout = 0;
	}
	add(&beats, 1);
	return any;
}

/* All that has ended by now is in memory, and of no more interest in the log. */
static void advance_base(void)
{
	for (int i = 0; i < WRITERS; i++) {
		struct writer *w = &writer[i];
		u64 done = load(&w->done);

		for (; w->base < done; w->base++)
			last_write[w->log[(w->base + 1) % LOG].page] = w->base + 1;
		store(&w->floor, w->base);
	}
}

static void verify(u64 before, u64 after)
{
	static u64 next[MAX_SAVED];
	u64 lo_begin[WRITERS], missing_end[WRITERS];

	for (int i = 0; i < WRITERS; i++) {
		struct writer *w = &writer[i];
		u64 done = load(&w->done), lo = 0, missing = ~0ULL;

		for (u64 p = i; p < nr_pages; p += WRITERS) {
			u64 head = *(u64 *)image[p], k = NUMBER(head);

			if (head && head != STAMP(i, k))
				fail("page %llu has %llx, never written there",
				     p, head);
			if (k < last_write[p])
				fail("page %llu of writer %d has write %llu, and had %llu",
				     p, i, k,
				     last_write[p]);
			if (k > done + 1 || (k > w->base && w->log[k % LOG].page != p))
				fail("page %llu of writer %d has write %llu, of another page",
				     p, i, k);
			if (k > lo)
				lo = k;
			next[p] = 0;
		}
		/* The first write that each page lacks */
		for (u64 k = w->base + 1; k <= done; k++) {
			u64 p = w->log[k % LOG].page;

			if (k > NUMBER(*(u64 *)image[p]) && !next[p])
				next[p] = k;
		}
		for (u64 p = i; p < nr_pages; p += WRITERS) {
			u64 head = *(u64 *)image[p], tail = *(u64 *)(image[p] + TAIL);

			if (next[p] && next[p] < missing)
				missing = next[p];
			/* The tail is written first. */
			if (tail != head && (!next[p] || tail != STAMP(i, next[p])) &&
			    tail != STAMP(i, done + 1))
				fail("page %llu is torn: %llx and %llx", p,
				     head, tail);
		}
		if (missing < lo)
			fail("writer %d: write %llu (page %u) is missing, write %llu (page %u) is not",
			     i, missing, w->log[missing % LOG].page,
			     lo, w->log[lo % LOG].page);
		/* Older ones were verified before, or are out of the question. */
		lo_begin[i] = lo > w->base ? w->log[lo % LOG].begin : 0;
		missing_end[i] = missing == ~0ULL ? ~0ULL : w->log[missing % LOG].end;
		if (missing_end[i] < before)
			fail("writer %d: write %llu (page %u) ended before, and is missing", i,
			     missing, w->log[missing % LOG].page);
		if (lo_begin[i] > after)
			fail("writer %d: write %llu (page %u) began after, and is not missing", i,
			     lo, w->log[lo % LOG].page);
	}
	for (int i = 0; i < WRITERS; i++)
		for (int j = 0; j < WRITERS; j++)
			if (missing_end[i] < lo_begin[j])
				fail("a write of writer %d is missing, a later one of writer %d is not",
				     i, j);
}

static void snapshot(void)
{
	u64 before, after, p, n, done, all = 2 * nr_pages, todo = nr_pages;

	advance_base();
	memset(saved, 0, sizeof(saved));
	before = ticket();
	if (rnd(3)) {
		wp_pages(0, rnd(2) ? all : nr_pages, true);
	} else {
		/* In pieces, and not in order: nobody is served meanwhile. */
		u64 piece = 1 + rnd(nr_pages), from = rnd(nr_pages / piece + 1) * piece;

		for (p = from; p < nr_pages; p += piece)
			wp_pages(p, p + piece > nr_pages ? nr_pages - p : piece, true);
		for (p = 0; p < from; p += piece)
			wp_pages(p, p + piece > nr_pages ? nr_pages - p : piece, true);
	}
	after = ticket();
	for (p = rnd(nr_pages); todo; ) {
		while (serve(0, true))
			;
		/* A few in the background */
		for (n = 1 + rnd(32), done = 0; done < n && todo && p + done < nr_pages; done++, todo--)
			save(p + done);
		if (rnd(2))
			wp_pages(p, done, false);
		p = (p + done) % nr_pages;
	}
	for (p = 0; p < nr_pages; p++)
		if (!saved[p])
			fail("page %llu not saved", p);
	wp_pages(0, all, false);
	while (serve(0, false))
		;
	verify(before, after);
	total_rounds++;
}

/*
 * Nothing is protected, and all that had to be woken has been.  The next snapshot
 * would wake them once more: nobody may be waiting for that.
 */
static void writers_go_on(void)
{
	for (int i = 0; i < WRITERS; i++) {
		struct writer *w = &writer[i];
		u64 was = load(&w->done);

		for (int t = 0; t < STALL_S * 100; t++) {
			if (load(&w->done) != was || was + 1 - w->floor > LOG / 2)
				break;
			serve(10, false);
		}
		if (load(&w->done) == was && was + 1 - w->floor <= LOG / 2 &&
		    strcmp(look_into(&w->done, was), STALL_ENDED))
			fail("hang of writer %d", i);
	}
}

static void set_up(void)
{
	u64 len = 2 * nr_pages * PAGE;
	/* Huge pages want to be aligned, the others to be across page tables. */
	char *at = (char *)0x100000000000ULL + (kind == HUGE ? 0 : HUGE_SIZE - nr_pages / 2 * PAGE);

	priv = kind == ANON || kind == PRIVATE;
	file = make_file(kind, len);
	mem = mmap(at, len, PROT_READ | PROT_WRITE, MAP_FIXED | (priv ? MAP_PRIVATE : MAP_SHARED) |
		   (kind == ANON ? MAP_ANONYMOUS : 0), file, 0);
	image = malloc(nr_pages * PAGE);
	if (mem == MAP_FAILED || !image)
		skip("memory: %s", strerror(errno));
	if (kind == ANON)
		madvise(mem, len, MADV_NOHUGEPAGE);
	if (kind == HUGE)
		madvise(mem, len, MADV_HUGEPAGE);
	uffd = uffd_open(0);
	reg(uffd, mem, len, REG_WP);
	/* Anonymous memory is protected only where there is some. */
	for (u64 p = 0; p < nr_pages; p++)
		if (kind == ANON)
			*stamp_at(p, false) = 0;
	for (int i = 0; i < WRITERS; i++) {
		writer[i].log = calloc(LOG, sizeof(struct record));
		writer[i].source = memfd_create("stamp", MFD_CLOEXEC);
		if (!writer[i].log || writer[i].source < 0)
			skip("memory: %s", strerror(errno));
	}
}

static void run(void)
{
	pthread_t t, w[WRITERS], c[CHAOS], o;
	long long end = now_ms() + seconds * 1000;
	bool never = false;

	rng = seed * 0x9e3779b97f4a7c15ULL + kind + 1;
	set_up();
	write_file(CGROUP "cgroup.procs", "0");
	if (kind != ANON) {
		helper = fork();
		if (!helper) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			use_other_mapping(&never);
		}
	}
	pthread_create(&t, NULL, watchdog, NULL);
	for (int i = 0; i < WRITERS; i++)
		pthread_create(&w[i], NULL, write_pages, &writer[i]);
	for (int i = 0; i < CHAOS; i++)
		pthread_create(&c[i], NULL, make_trouble, NULL);
	if (kind != ANON)
		pthread_create(&o, NULL, other_mapping, NULL);
	/* The others would take all the time that there is. */
	setpriority(PRIO_PROCESS, 0, -15);
	while (total_rounds < rounds && now_ms() < end) {
		snapshot();
		if (rnd(4) == 0)
			writers_go_on();
		serve(rnd(10), false);
	}
	store(&stop, true);
	store(&writers_stop, true);
	/* Nobody can be waiting for long: all is unprotected. */
	for (int i = 0; i < 3; i++)
		serve(100, false);
	for (int i = 0; i < WRITERS; i++)
		pthread_join(w[i], NULL);
	for (int i = 0; i < CHAOS; i++)
		pthread_join(c[i], NULL);
	if (kind != ANON)
		pthread_join(o, NULL);
	if (helper > 0) {
		kill(helper, SIGKILL);
		waitpid(helper, NULL, 0);
	}
	advance_base();
	for (u64 p = 0; p < nr_pages; p++)
		if (NUMBER(*stamp_at(p, false)) != last_write[p])
			fail("in the end page %llu has write %llu, and had %llu",
			     p, NUMBER(*stamp_at(p, false)),
			     last_write[p]);
	for (int i = 0; i < WRITERS; i++)
		total_writes += writer[i].done;
	write_file("/sys/fs/cgroup/cgroup.procs", "0");
}

static const struct option options[] = {
	{ "seed", 1, NULL, 's' }, { "kind", 1, NULL, 'k' }, { "pages", 1, NULL, 'p' },
	{ "time", 1, NULL, 't' }, { "rounds", 1, NULL, 'r' }, { "help", 0, NULL, 'h' }, { }
};

static const char help[] =
"  --kind K     memfd, tmpfs, tmpfs-huge, shared-anon, private; anon, which also\n"
"               runs on a kernel that can't do the others\n"
"  --seed S     default is a random one; it is printed\n"
"  --time SEC   default 20\n"
"  --rounds N   stop after N snapshots\n"
"  --pages N    pages to save, default 192, tmpfs-huge: 1024\n"
"Exit status: 0, 1 for a failure, 4 when the kernel can't do what is asked for.\n";

int main(int argc, char **argv)
{
	bool seeded = false;
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 's': seed = strtoull(optarg, NULL, 0); seeded = true; break;
		case 'p': nr_pages = strtoull(optarg, NULL, 0); break;
		case 't': seconds = strtoull(optarg, NULL, 0); break;
		case 'r': rounds = strtoull(optarg, NULL, 0); break;
		case 'k':
			for (kind = 0; kind < NR_SMALL_KINDS && strcmp(kind_name[kind], optarg); kind++)
				;
			if (kind < NR_SMALL_KINDS)
				break;
			/* fall through */
		default:
			printf("usage: uffd-chaos [option]...\n%s", help);
			return c == 'h' ? 0 : 2;
		}
	}
	if (!seeded)
		seed = now_ms() * 1000003 % 1000000007;
	nr_pages = nr_pages ?: kind == HUGE ? 1024 : 192;
	if (nr_pages > MAX_SAVED)
		nr_pages = MAX_SAVED;
	patched = begin_test();
	if (!patched && kind != ANON) {
		errno = EOPNOTSUPP;
		skip("write-protect of shared memory: %s", strerror(errno));
	}
	printf("seed %llu, kind %s\n", seed, kind_name[kind]);
	fflush(stdout);
	mkdir(CGROUP, 0755);
	hurry_khugepaged(true);
	count(true);
	run();
	count(false);
	hurry_khugepaged(false);
	rmdir(CGROUP);
	printf("snapshots %llu, writes %llu, of the kernel %llu, events %llu, chaos %llu, "
	       "swap-outs %llu, migrations %llu, splits %llu, collapses %llu, stalls %llu, lost 0\n",
	       total_rounds, total_writes,
	       (writer[0].kernel + writer[1].kernel),
	       total_events, total_chaos,
	       counted.swapout, counted.migrated,
	       counted.split, counted.collapsed,
	       total_stalls);
	return 0;
}
