// SPDX-License-Identifier: GPL-2.0
/*
 * Randomised test of userfaultfd write-protect, with an oracle.
 *
 * One driver decides on every step: which of several mappings of one file, in
 * two processes and now and then in a child of one of them, is protected,
 * written, zapped, paged out, moved and so on.  It keeps a model of what each
 * mapping must know about each page, so that for every access it says in
 * advance whether an event is due, and for every page what pagemap must show:
 *
 *   lost      a write that should have raised an event did not, or pagemap
 *             does not show protection that must be there
 *   spurious  an event, or protection, that should not be
 *   cross     the same in a mapping that the step was not about
 *   content   a page does not have the data last written to it
 *   hang      a step does not end
 *
 * See --help for the options.  A run is a function of its seed and of --ops,
 * except for what khugepaged and memory reclaim do meanwhile.
 *
 * Its counterpart, with threads that write while others zap, move and reclaim, is
 * uffd-chaos.c.
 */
#define _GNU_SOURCE
#include "uffd-oracle.h"

#define PROCS		3		/* driver, worker, child of one of them */
#define SLOTS		3		/* mappings of each */
#define MAX_PAGES	1024
#define RING		40		/* steps to print after a failure */
#define EVENTS		8192

static enum kind kind = MEMFD;
static bool sigbus = true;		/* UFFD_FEATURE_SIGBUS instead of events */
static bool replay, patched, have_cgroup;
static u64 seed, ops = 20000, nr_pages;
static unsigned int check_every = 8, runs = 1, limit_s, hang_s = 60;

/* What the processes share; at the same address in all of them. */
enum fill { FILL_NONE, FILL_COPY, FILL_COPY_WP, FILL_ZERO };

struct plan {				/* what a monitor does about a fault */
	int fill;
	u64 stamp;
	u64 before, after;		/* pages to unprotect around it */
};

struct event {
	int proc, slot, error;
	u64 addr, flags;
};

struct touch {
	u64 addr, stamp, head, tail;
	int out;
};

struct chan {				/* driver tells a process what to do */
	unsigned int req, done;
	int op, error;
	long arg[7], ret;
};

struct stats {
	u64 ops, checks, events;
	u64 lost, spurious, cross, content, hang, other;
};

static struct shared {
	struct stats total;
	struct chan chan[PROCS];
	struct plan plan[PROCS][SLOTS];
	unsigned int events, remaps, others;
	struct event event[EVENTS];
	struct touch touch[MAX_PAGES];
	int child_fd[SLOTS];
	char arg[32768] __attribute__((aligned(4096)));
	u64 page[512] __attribute__((aligned(4096)));
	/* of monitors, in which nothing else writes */
	u64 mon_page[PROCS][512] __attribute__((aligned(4096)));
} *sh;

/* The model */
#define F_WP	1	/* protected */
#define F_RWP	2	/* registered for write-protect */
#define F_RMISS	4	/* registered for missing */
#define F_READ	8
#define F_WRITE	16
#define F_OWN	32	/* private: copied; anon: exists */
#define F_ZERO	64	/* private: zero page */

struct map {
	bool live, priv;	/* priv: not MAP_SHARED */
	int proc, slot, uffd;	/* uffd: its number in that process, or -1 */
	bool monitor;		/* may have a uffd */
	u64 features, base;
	int arena;
	uint8_t f[MAX_PAGES];
	u64 own[MAX_PAGES];	/* stamp of an own page */
};

static struct map maps[PROCS * SLOTS];
static struct { pid_t pid; int pagemap, mem, clear_refs; bool live; } procs[PROCS];
static u64 stamps[MAX_PAGES];	/* contents of the file; 0 is a hole or zeroes */
static bool exists[MAX_PAGES];	/* in the file: in page cache or in swap */
static bool dirty[MAX_PAGES];	/* a page only read is clean, and reclaim drops it */
static u64 size;		/* of the file, pages */
static int file = -1, source = -1, pass_fd[2];
static u64 next_stamp = 1, child_until;

/* The driver's progress */
static u64 step_nr, steps_done;
static char ring[RING][160];
static bool finished;

static void stop_all(void)
{
	for (int i = 0; i < PROCS; i++)
		if (procs[i].live && procs[i].pid != getpid())
			kill(procs[i].pid, SIGKILL);
}

static void print_ring(void)
{
	for (u64 i = step_nr > RING ? step_nr - RING : 0; i < step_nr; i++)
		printf("  %s\n", ring[i % RING]);
	printf("seed %llu, kind %s%s, pages %llu; the step above is number %llu\n",
	       (unsigned long long)seed, kind_name[kind], sigbus ? "" : ", events",
	       (unsigned long long)nr_pages, (unsigned long long)step_nr);
}

/* Counts into *what, tells all that is known, and ends the run. */
static void pf(2) __attribute__((noreturn)) bad(u64 *what, const char *fmt, ...)
{
	va_list ap;

	print_ring();
	printf("FAILED: %s: ", what == &sh->total.lost ? "lost" :
	       what == &sh->total.spurious ? "spurious" :
	       what == &sh->total.cross ? "cross" :
	       what == &sh->total.content ? "content" :
	       what == &sh->total.hang ? "hang" : "other");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
	add(what, 1);
	stop_all();
	_exit(1);
}
#define BAD(what, ...)	bad(&sh->total.what, __VA_ARGS__)

static void pf(1) step(const char *fmt, ...)
{
	char *s = ring[step_nr++ % RING];
	int n = sprintf(s, "%6llu ", (unsigned long long)step_nr);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s + n, sizeof(ring[0]) - n, fmt, ap);
	va_end(ap);
	if (replay) {
		puts(s);
		fflush(stdout);
	}
}

/* More about the step that runs. */
static void pf(1) more(const char *fmt, ...)
{
	char *s = ring[(step_nr - 1) % RING];
	size_t n = strlen(s);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s + n, sizeof(ring[0]) - n, fmt, ap);
	va_end(ap);
	if (replay) {
		printf("         %s\n", s + n);
		fflush(stdout);
	}
}

static void __attribute__((noreturn)) skip(const char *why)
{
	printf("SKIP: %s: %s\n", why, strerror(errno));
	fflush(stdout);
	stop_all();
	_exit(4);
}

static void *watchdog(void *unused)
{
	u64 last = -1ULL, since = now_ms();

	(void)unused;
	for (;;) {
		usleep(200000);
		if (load(&finished))
			return NULL;
		if (load(&steps_done) != last) {
			last = load(&steps_done);
			since = now_ms();
		} else if (now_ms() - since > hang_s * 1000ULL) {
			int fd = open("/proc/sysrq-trigger", O_WRONLY);

			if (write(fd, "w", 1) == 1)
				sleep(1);
			BAD(hang, "no progress for %u s", hang_s);
		}
	}
}

/*
 * One process: its faults, its monitor thread, the commands it takes.
 */
enum { OUT_OK, OUT_SEGV, OUT_BUS };
enum { X_SYS, X_TOUCH, X_OPEN, X_CLOSE, X_FORK, X_EXIT };

static int me;				/* which process this is */
static __thread sigjmp_buf fault;
static __thread volatile sig_atomic_t may_fault;
static int mon_fd[SLOTS] = { -1, -1, -1 }, mon_wake = -1;
static sem_t mon_ack;

static void on_fault(int sig)
{
	if (!may_fault) {
		signal(sig, SIG_DFL);
		return;
	}
	may_fault = 0;
	siglongjmp(fault, sig == SIGBUS ? OUT_BUS : OUT_SEGV);
}

static void catch_faults(void)
{
	struct sigaction sa = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };

	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
}

static void touch(struct touch *t, bool write)
{
	volatile u64 *p = (u64 *)t->addr;
	int sig = sigsetjmp(fault, 0);

	if (sig) {
		t->out = sig;
		return;
	}
	may_fault = 1;
	if (write) {
		p[0] = t->stamp;
		p[TAIL / 8] = t->stamp;
	} else {
		t->head = p[0];
		t->tail = p[TAIL / 8];
	}
	may_fault = 0;
	t->out = OUT_OK;
}

static int uffd_fill(int fd, u64 addr, int fill, u64 *buf, u64 stamp)
{
	struct uffdio_copy c = {
		.dst = addr, .src = (u64)buf, .len = PAGE,
		.mode = fill == FILL_COPY_WP ? UFFDIO_COPY_MODE_WP : 0
	};
	struct uffdio_zeropage z = { .range = { addr, PAGE } };

	if (fill == FILL_ZERO)
		return ioctl(fd, UFFDIO_ZEROPAGE, &z) ? errno : 0;
	buf[0] = buf[TAIL / 8] = stamp;
	return ioctl(fd, UFFDIO_COPY, &c) ? errno : 0;
}

static void send_fd(int slot, int fd)
{
	char ctl[CMSG_SPACE(sizeof(int))] = "";
	struct iovec iov = { &slot, sizeof(slot) };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = ctl, .msg_controllen = sizeof(ctl)
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	if (sendmsg(pass_fd[0], &m, 0) != sizeof(slot))
		perror("sendmsg");
	close(fd);
}

static int receive_fd(int *slot)
{
	char ctl[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { slot, sizeof(*slot) };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = ctl, .msg_controllen = sizeof(ctl)
	};
	int fd = -1;

	if (recvmsg(pass_fd[1], &m, MSG_CMSG_CLOEXEC) == sizeof(*slot) && CMSG_FIRSTHDR(&m))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
	return fd;
}

static void serve(int slot, int fd)
{
	struct plan *plan = &sh->plan[me][slot];
	struct uffd_msg msg;
	struct event *e;
	u64 addr;

	if (read(fd, &msg, sizeof(msg)) != sizeof(msg))
		return;
	switch (msg.event) {
	case UFFD_EVENT_PAGEFAULT:
		break;
	case UFFD_EVENT_FORK:
		send_fd(slot, msg.arg.fork.ufd);
		return;
	case UFFD_EVENT_REMAP:
		add(&sh->remaps, 1);
		return;
	default:
		add(&sh->others, 1);
		return;
	}
	addr = msg.arg.pagefault.address & ~(PAGE - 1);
	e = &sh->event[(add(&sh->events, 1) - 1) % EVENTS];
	*e = (struct event){ me, slot, 0, addr, msg.arg.pagefault.flags };
	if (e->flags & UFFD_PAGEFAULT_FLAG_WP)
		e->error = uffd_wp(fd, addr - plan->before * PAGE,
				   (plan->before + plan->after + 1) * PAGE, false);
	else	/* without a plan it is a failure, but not a hang */
		e->error = uffd_fill(fd, addr, plan->fill ?: FILL_ZERO, sh->mon_page[me],
				     plan->stamp);
}

static void __attribute__((noreturn)) *monitor(void *unused)
{
	struct pollfd p[SLOTS + 1];
	u64 v;

	(void)unused;
	for (;;) {
		for (int i = 0; i < SLOTS; i++)
			p[i] = (struct pollfd){ load(&mon_fd[i]), POLLIN, 0 };
		p[SLOTS] = (struct pollfd){ mon_wake, POLLIN, 0 };
		if (poll(p, SLOTS + 1, -1) < 0)
			continue;
		for (int i = 0; i < SLOTS; i++)
			if (p[i].revents & POLLIN)
				serve(i, p[i].fd);
		/* Who waits for this wants to be sure that poll() is left. */
		if (p[SLOTS].revents & POLLIN && read(mon_wake, &v, 8) == 8)
			sem_post(&mon_ack);
	}
}

static void set_monitor(int slot, int fd)
{
	u64 one = 1;

	store(&mon_fd[slot], fd);
	if (write(mon_wake, &one, 8) != 8)
		perror("eventfd");
	while (sem_wait(&mon_ack))
		;
}

static void start_monitor(void)
{
	pthread_attr_t attr;
	pthread_t t;

	mon_wake = eventfd(0, EFD_CLOEXEC);
	sem_init(&mon_ack, 0, 0);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	if (pthread_create(&t, &attr, monitor, NULL))
		skip("pthread_create");
	pthread_detach(t);
}

static long futex(unsigned int *p, int op, unsigned int v)
{
	struct timespec t = { .tv_nsec = 500000000 };

	return syscall(SYS_futex, p, op, v, op == FUTEX_WAIT ? &t : NULL, NULL, 0);
}

static void __attribute__((noreturn)) serve_driver(void);

static long fork_child(int uffds)
{
	pid_t pid = fork();
	int slot;

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* What is inherited keeps the registrations of the parent alive. */
	for (int i = 0; i < SLOTS; i++) {
		if (mon_fd[i] >= 0)
			close(mon_fd[i]);
		mon_fd[i] = -1;
	}
	close(mon_wake);
	me = 2;
	start_monitor();
	while (uffds--) {
		int fd = receive_fd(&slot);

		sh->child_fd[slot] = fd;
		set_monitor(slot, fd);
	}
	serve_driver();
}

static long execute(int op, const long *a)
{
	int fd;

	errno = 0;
	switch (op) {
	case X_SYS:
		return syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
	case X_TOUCH:
		for (long i = 0; i < a[0]; i++)
			touch(&sh->touch[i], a[1]);
		return 0;
	case X_OPEN: {
		struct uffdio_api api = { .api = UFFD_API, .features = a[1] };

		fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
		if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
			return -1;
		set_monitor(a[0], fd);
		return fd;
	}
	case X_CLOSE:
		fd = mon_fd[a[0]];
		set_monitor(a[0], -1);
		return close(fd);
	case X_FORK:
		return fork_child(a[0]);
	default:
		_exit(0);
	}
}

static void __attribute__((noreturn)) serve_driver(void)
{
	struct chan *c = &sh->chan[me];
	unsigned int seen = load(&c->done);

	for (;;) {
		while (load(&c->req) == seen)
			futex(&c->req, FUTEX_WAIT, seen);
		c->ret = execute(c->op, c->arg);
		c->error = errno;
		store(&c->done, ++seen);
		futex(&c->done, FUTEX_WAKE, 1);
	}
}

/*
 * The driver's side
 */
static int error;			/* errno of the last call */

static long call(int proc, int op, const long *arg)
{
	struct chan *c = &sh->chan[proc];
	unsigned int done;
	long ret;

	if (proc == 0) {
		ret = execute(op, arg);
		error = errno;
		return ret;
	}
	c->op = op;
	memcpy(c->arg, arg, sizeof(c->arg));
	done = load(&c->done) + 1;
	add(&c->req, 1);
	futex(&c->req, FUTEX_WAKE, 1);
	if (op == X_EXIT)
		return 0;
	while (load(&c->done) != done) {
		futex(&c->done, FUTEX_WAIT, done - 1);
		if (load(&c->done) != done && kill(procs[proc].pid, 0))
			BAD(other, "process %d is dead", proc);
	}
	error = c->error;
	return c->ret;
}

#define CALL(proc, op, ...)	call(proc, op, (long[7]){ __VA_ARGS__ })
#define SYS(proc, nr, ...)	call(proc, X_SYS, (long[7]){ SYS_##nr, __VA_ARGS__ })

static long uffd_ioctl(struct map *m, unsigned long req, const void *arg, size_t len)
{
	long ret;

	memcpy(sh->arg, arg, len);
	ret = SYS(m->proc, ioctl, m->uffd, (long)req, (long)sh->arg);
	return ret ? error : 0;
}
#define IOCTL(m, req, ...) ({						\
	__VA_ARGS__;							\
	uffd_ioctl(m, req, &arg, sizeof(arg));				\
})

static u64 addr_of(struct map *m, int p)
{
	return m->base + p * PAGE;
}

static u64 arena(int slot, int nr)
{
	u64 a = 0x100000000000ULL + (slot * 2 + nr) * (16 * HUGE) + 4 * HUGE;

	/* Across the end of a page table, and not all aligned alike */
	if (kind != HUGETMPFS)
		a -= nr_pages / 2 * PAGE;
	return a + (slot == 2 ? 5 * PAGE : 0);
}

static void reserve(int proc, u64 addr)
{
	if (SYS(proc, mmap, addr, nr_pages * PAGE, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != (long)addr)
		BAD(other, "mmap: %s", strerror(error));
}

/* What an access has to find; 0 to proceed. */
enum { GO, NO_PROT, NO_FILE, EV_WP, EV_MISSING };

static bool own(struct map *m, int p)
{
	return m->f[p] & (F_OWN | F_ZERO);
}

static int obstacle(struct map *m, int p, bool write)
{
	uint8_t f = m->f[p];

	if (!(f & (F_READ | F_WRITE)) || (write && !(f & F_WRITE)))
		return NO_PROT;
	if (kind != ANON && (u64)p >= size)
		return NO_FILE;
	if ((f & F_RMISS) && !own(m, p) && (kind == ANON || !exists[p]))
		return EV_MISSING;
	if (write && (f & F_WP))
		return EV_WP;
	return GO;
}

static u64 content(struct map *m, int p)
{
	if (m->f[p] & F_OWN)
		return m->own[p];
	return m->f[p] & F_ZERO || kind == ANON ? 0 : stamps[p];
}

/* An access has come through. */
static void accessed(struct map *m, int p, bool write, u64 stamp)
{
	if (kind == ANON) {
		if (!(m->f[p] & F_OWN)) {
			m->own[p] = 0;
			m->f[p] |= F_OWN | F_ZERO;
		}
	} else if (!own(m, p)) {
		exists[p] = true;
	}
	if (!write)
		return;
	if (m->priv) {
		m->f[p] = (m->f[p] & ~F_ZERO) | F_OWN;
		m->own[p] = stamp;
	} else {
		stamps[p] = stamp;
		dirty[p] = true;
	}
}

static void filled(struct map *m, int p, int fill, u64 stamp)
{
	if (fill == FILL_ZERO)
		stamp = 0;
	m->f[p] = (m->f[p] & ~F_WP) | (fill == FILL_COPY_WP ? F_WP : 0);
	if (!m->priv) {
		stamps[p] = stamp;
		exists[p] = dirty[p] = true;
	} else if (fill == FILL_ZERO && kind != ANON) {
		m->f[p] |= F_ZERO;
	} else {
		m->f[p] |= F_OWN | (fill == FILL_ZERO ? F_ZERO : 0);
		m->own[p] = stamp;
	}
}

/* The page is gone from this mapping, not from the file. */
static void zapped(struct map *m, int p)
{
	m->f[p] &= ~(F_OWN | F_ZERO);
	if (kind == ANON)
		m->f[p] &= ~F_WP;
}

static void range_clear(struct map *m, int p, int n, uint8_t bits)
{
	for (int i = p; i < p + n; i++)
		m->f[i] &= ~bits;
}

static void set_wp(struct map *m, int p, int n, bool wp)
{
	for (int i = p; i < p + n; i++) {
		if (!wp)
			m->f[i] &= ~F_WP;
		else if (kind != ANON || (m->f[i] & F_OWN))
			m->f[i] |= F_WP;
	}
}

static void random_range(int *p, int *n)
{
	int max = rnd(100) < 50 ? 1 : rnd(100) < 60 ? 16 : rnd(100) < 80 ? 64 : (int)nr_pages;

	*p = rnd(nr_pages);
	*n = 1 + rnd(max);
	if (rnd(64) == 0)
		*p = 0, *n = nr_pages;
	if (*p + *n > (int)nr_pages)
		*n = nr_pages - *p;
}

/* Make the range one in which the bits of mask are the same, around its start. */
static void uniform(struct map *m, int *p, int *n, uint8_t mask)
{
	int i = *p;

	while (i < *p + *n && (m->f[i] & mask) == (m->f[*p] & mask))
		i++;
	*n = i - *p;
}

static struct map *random_map(void)
{
	struct map *m;

	do {
		m = &maps[rnd(PROCS * SLOTS)];
	} while (!m->live);
	return m;
}

static struct map *random_monitored(void)
{
	struct map *m;

	do {
		m = random_map();
	} while (m->uffd < 0);
	return m;
}

static char *name(struct map *m)
{
	static char text[4][8];
	static int n;

	n = (n + 1) % 4;
	sprintf(text[n], "%d.%d", m->proc, m->slot);
	return text[n];
}

/*
 * Compare with pagemap.
 */
static void check_pages(struct map *m, struct map *about, int from, int n)
{
	static u64 pm[MAX_PAGES];

	if (!patched || !m->live)
		return;
	if (pread(procs[m->proc].pagemap, pm, n * 8, addr_of(m, from) / PAGE * 8) != n * 8)
		BAD(other, "pagemap: %s", strerror(errno));
	sh->total.checks += n;
	for (int p = from; p < from + n; p++) {
		bool want = m->f[p] & F_WP, have = pm[p - from] & PM_UFFD_WP;

		if (want == have)
			continue;
		bad(m != about ? &sh->total.cross : want ? &sh->total.lost : &sh->total.spurious,
		    "pagemap of page %d of %s: %s protected, entry %016llx, model %02x", p, name(m),
		    want ? "not" : "is", (unsigned long long)pm[p - from], m->f[p]);
	}
}

/* What a step was about, and a little more */
static void check(struct map *m, int p, int n)
{
	int from = p > 32 ? p - 32 : 0, to = p + n + 32;

	check_pages(m, m, from, (to > (int)nr_pages ? (int)nr_pages : to) - from);
}

static void check_all(struct map *about)
{
	for (int i = 0; i < PROCS * SLOTS; i++)
		check_pages(&maps[i], about, 0, nr_pages);
}

static bool in_file(int p)
{
	return lseek(file, p * PAGE, SEEK_DATA) == (off_t)(p * PAGE);
}

/* What is in the file, read in a way that changes no mapping */
static void check_file(void)
{
	u64 head, tail;

	if (kind == ANON)
		return;
	for (u64 p = 0; p < size; p++) {
		if (kind != HUGETMPFS) {
			bool data = in_file(p);

			if (data != exists[p])
				BAD(content, "page %d of the file %s exist", (int)p,
				    data ? "should not" : "should");
		}
		if (pread(file, &head, 8, p * PAGE) != 8 ||
		    pread(file, &tail, 8, p * PAGE + TAIL) != 8)
			BAD(other, "pread: %s", strerror(errno));
		if (head != stamps[p] || tail != stamps[p])
			BAD(content, "page %d of the file: %llx and %llx, not %llx", (int)p,
			    (unsigned long long)head, (unsigned long long)tail,
			    (unsigned long long)stamps[p]);
	}
}

/*
 * Accesses
 */
static struct event want[MAX_PAGES * 2];
static int wants;
static unsigned int events_seen;

static void expect_event(struct map *m, int p, u64 flags)
{
	want[wants++] = (struct event){ m->proc, m->slot, 0, addr_of(m, p), flags };
}

/* All the events that were due, in order, and no other. */
static void check_events(void)
{
	unsigned int n = load(&sh->events) - events_seen;
	int i;

	for (i = 0; i < (int)n || i < wants; i++) {
		struct event *e = &sh->event[(events_seen + i) % EVENTS];

		if (i >= (int)n)
			BAD(lost, "no event for %llx, flags %llx",
			    (unsigned long long)want[i].addr, (unsigned long long)want[i].flags);
		if (i >= wants || e->proc != want[i].proc || e->slot != want[i].slot ||
		    e->addr != want[i].addr || e->flags != want[i].flags)
			BAD(spurious, "event for %d.%d %llx, flags %llx; wanted %s%llx", e->proc,
			    e->slot, (unsigned long long)e->addr, (unsigned long long)e->flags,
			    i >= wants ? "none " : "",
			    i >= wants ? 0ULL : (unsigned long long)want[i].addr);
		if (e->error)
			BAD(other, "monitor: %s", strerror(e->error));
	}
	sh->total.events += n;
	events_seen += n;
	wants = 0;
}

static int any_fill(struct map *m, int p)
{
	int f = FILL_COPY + rnd(3);

	if (f == FILL_COPY_WP && (!(m->f[p] & F_RWP) || (!patched && !(m->f[p] & F_WRITE))))
		f = FILL_COPY;
	return f;
}

static struct plan *make_plan(struct map *m, int p, bool alone)
{
	struct plan *plan = &sh->plan[m->proc][m->slot];
	uint8_t mask = F_RWP | (patched ? 0 : F_READ | F_WRITE);

	*plan = (struct plan){ .stamp = next_stamp++ };
	plan->fill = any_fill(m, p);
	if (!alone || rnd(2))
		return plan;
	plan->before = rnd(20);
	plan->after = rnd(20);
	for (u64 i = 0; i <= plan->before; i++)
		if (p - (int)i < 0 || (m->f[p - i] & mask) != (m->f[p] & mask)) {
			plan->before = i ? i - 1 : 0;
			break;
		}
	for (u64 i = 0; i <= plan->after; i++)
		if (p + i >= nr_pages || (m->f[p + i] & mask) != (m->f[p] & mask)) {
			plan->after = i ? i - 1 : 0;
			break;
		}
	return plan;
}

/* A write to a protected page got as far as the event. */
static void page_was_faulted(struct map *m, int p)
{
	if (kind != ANON && !own(m, p))
		exists[p] = true;
}

/* What happens when there is a monitor; the last obstacle, or none. */
static int simulate(struct map *m, int p, bool write, u64 stamp, struct plan *plan)
{
	for (;;) {
		switch (obstacle(m, p, write)) {
		case GO:
			accessed(m, p, write, stamp);
			return GO;
		case NO_PROT:
			return NO_PROT;
		case NO_FILE:
			return NO_FILE;
		case EV_MISSING:
			expect_event(m, p, write ? UFFD_PAGEFAULT_FLAG_WRITE : 0);
			filled(m, p, plan->fill, plan->stamp);
			break;
		case EV_WP:
			expect_event(m, p, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);
			page_was_faulted(m, p);
			set_wp(m, p - plan->before, plan->before + plan->after + 1, false);
		}
	}
}

static const char *const obstacle_name[] = { "none", "protection", "end of file", "wp", "missing" };
static const char *const out_name[] = { "went through", "SIGSEGV", "SIGBUS" };

/* Did the access end as it had to?  Kernel accesses know only one error. */
static void judge(struct map *m, int p, bool write, int what, int out, bool kernel)
{
	int due = what == GO ? OUT_OK : what == NO_PROT ? OUT_SEGV : OUT_BUS;

	if (out == due || (kernel && out && due))
		return;
	bad(what == EV_WP && out == OUT_OK ? &sh->total.lost :
	    what == GO && out == OUT_BUS ? &sh->total.spurious : &sh->total.other,
	    "%s of page %d of %s %s; model: obstacle %s, flags %02x, file %s",
	    write ? "write" : "read", p, name(m), out_name[out], obstacle_name[what], m->f[p],
	    kind != ANON && exists[p] ? "has it" : "has not");
}

/* After a write with soft-dirty on, it must show. */
static void check_soft_dirty(struct map *m, int p)
{
	u64 pm;

	if (pread(procs[m->proc].pagemap, &pm, 8, addr_of(m, p) / PAGE * 8) != 8)
		BAD(other, "pagemap: %s", strerror(errno));
	if (!(pm & PM_SOFT_DIRTY) && (pm & PM_PRESENT))
		BAD(content, "page %d of %s was written, but is not soft-dirty: %016llx", p, name(m),
		    (unsigned long long)pm);
}

static void check_read(struct map *m, int p, struct touch *t)
{
	u64 c = content(m, p);

	if (t->head != c || t->tail != c)
		BAD(content, "page %d of %s: %llx and %llx, not %llx; model %02x, own %llx, file %llx",
		    p, name(m), (unsigned long long)t->head, (unsigned long long)t->tail,
		    (unsigned long long)c, m->f[p], (unsigned long long)m->own[p],
		    (unsigned long long)stamps[p]);
}

static void fill_page(struct map *m, int p, int fill, u64 stamp)
{
	long ret;

	sh->page[0] = sh->page[TAIL / 8] = stamp;
	if (fill == FILL_ZERO)
		ret = IOCTL(m, UFFDIO_ZEROPAGE,
			    struct uffdio_zeropage arg = { .range = { addr_of(m, p), PAGE } });
	else
		ret = IOCTL(m, UFFDIO_COPY, struct uffdio_copy arg = {
				.dst = addr_of(m, p), .src = (u64)sh->page, .len = PAGE,
				.mode = fill == FILL_COPY_WP ? UFFDIO_COPY_MODE_WP : 0 });
	if (!ret) {
		if (!m->priv && (kind == HUGETMPFS ? stamps[p] != 0 : exists[p]))
			BAD(content, "page %d of %s was there, and has been filled", p, name(m));
		if (own(m, p))
			BAD(content, "own page %d of %s has been filled", p, name(m));
		filled(m, p, fill, stamp);
	} else if (ret == EEXIST) {
		if (kind == HUGETMPFS || (kind != ANON && exists[p]) || own(m, p))
			return;
		BAD(other, "can't fill page %d of %s: it exists", p, name(m));
	} else {
		BAD(other, "filling page %d of %s: %s", p, name(m), strerror(ret));
	}
}

static void protect(struct map *m, int p, int n, bool wp)
{
	bool all = true;
	long ret = IOCTL(m, UFFDIO_WRITEPROTECT, struct uffdio_writeprotect arg = {
		.range = { addr_of(m, p), n * PAGE },
		.mode = wp ? UFFDIO_WRITEPROTECT_MODE_WP : 0 });

	for (int i = p; i < p + n; i++)
		all = all && (m->f[i] & F_RWP);
	if (ret == 0 && all)
		set_wp(m, p, n, wp);
	else if (ret != ENOENT || (all && patched))
		BAD(other, "%sprotect: %s, and the range %s registered", wp ? "" : "un",
		    strerror(ret), all ? "is" : "is not");
}

/* SIGBUS mode: do what a monitor would do. */
static void resolve(struct map *m, int p, int what)
{
	struct plan *plan = make_plan(m, p, true);

	if (what == EV_WP) {
		more(" unprotect %d-%d", (int)(p - plan->before), (int)(p + plan->after));
		protect(m, p - plan->before, plan->before + plan->after + 1, false);
	} else {
		more(" fill %d", plan->fill);
		fill_page(m, p, plan->fill, plan->stamp);
	}
}

enum how { TOUCH, READ_INTO, VM_WRITEV, MEM };

/* One access; the outcome as of a touch.  A read leaves what it saw in touch[0]. */
static int access_once(struct map *m, int p, bool write, enum how how, u64 stamp)
{
	u64 addr = addr_of(m, p), pair[2] = { stamp, stamp };
	struct iovec *iov = (void *)sh->arg, *from = iov + 2;
	u64 *buf = (void *)(iov + 4);
	long ret;

	if (how == TOUCH) {
		sh->touch[0] = (struct touch){ .addr = addr, .stamp = stamp };
		CALL(m->proc, X_TOUCH, 1, write);
		return sh->touch[0].out;
	}
	iov[0] = (struct iovec){ (void *)addr, 8 };
	iov[1] = (struct iovec){ (void *)(addr + TAIL), 8 };
	*from = (struct iovec){ buf, 16 };
	memcpy(buf, pair, 16);
	switch (how) {
	case READ_INTO:
		if (pwrite(source, pair, 16, 0) != 16)
			BAD(other, "pwrite: %s", strerror(errno));
		ret = SYS(m->proc, preadv, source, (long)iov, 2, 0, 0);
		break;
	case VM_WRITEV:
		ret = SYS(rnd(2), process_vm_writev, procs[m->proc].pid, (long)from, 1, (long)iov, 2, 0);
		break;
	default:
		ret = pwrite(procs[m->proc].mem, pair, 8, addr);
		error = errno;
		if (ret == 8 && (ret = pwrite(procs[m->proc].mem, pair, 8, addr + TAIL)) == 8)
			ret = 16;
	}
	if (ret == 16)
		return OUT_OK;
	if (ret > 0 || (error != EFAULT && error != EIO))
		BAD(other, "kernel-mode write: %ld, %s", ret, strerror(error));
	return OUT_BUS;
}

static void access_page(struct map *m, int p, bool write, enum how how)
{
	u64 stamp = next_stamp++;
	int out, what, tries = 0;

	if (!sigbus) {
		struct plan *plan = make_plan(m, p, true);

		out = access_once(m, p, write, how, stamp);
		what = simulate(m, p, write, stamp, plan);
		check_events();
		judge(m, p, write, what, out, how != TOUCH);
	} else for (;;) {
		out = access_once(m, p, write, how, stamp);
		what = obstacle(m, p, write);
		judge(m, p, write, what, out, how != TOUCH);
		if (what == GO)
			accessed(m, p, write, stamp);
		if (what < EV_WP)
			break;
		sh->total.events++;
		if (what == EV_WP)
			page_was_faulted(m, p);
		/* A private page may have been copied before the event. */
		if (m->uffd < 0 || (!m->priv && tries == 0 && rnd(3) == 0))
			break;
		resolve(m, p, what);
		if (++tries > 3)
			BAD(other, "page %d of %s: no end of events", p, name(m));
	}
	if (what == GO && !write)
		check_read(m, p, &sh->touch[0]);
	if (what == GO && write && rnd(4) == 0)
		check_soft_dirty(m, p);
}

/* A huge page may be mapped although the file ends in it: stay away from there. */
static int below_size(int p, int n)
{
	if (kind != HUGETMPFS || (u64)p + n <= size)
		return n;
	return (u64)p < size ? size - p : 0;
}

static void op_access(bool write)
{
	static bool blocked[MAX_PAGES];
	struct map *m = random_map();
	int p, n;

	random_range(&p, &n);
	n = below_size(p, n);
	if (!n)
		return;
	step("%s %s %d+%d", write ? "write" : "read", name(m), p, n);
	if (n == 1) {
		access_page(m, p, write, TOUCH);
		check(m, p, n);
		return;
	}
	for (int i = 0; i < n; i++)
		sh->touch[i] = (struct touch){ .addr = addr_of(m, p + i), .stamp = next_stamp + i };
	if (!sigbus) {
		struct plan *plan;

		next_stamp += n;
		plan = make_plan(m, p, false);
		/* A fill that works for all of them */
		if (plan->fill == FILL_COPY_WP)
			plan->fill = FILL_COPY;
		CALL(m->proc, X_TOUCH, n, write);
		for (int i = 0; i < n; i++) {
			struct touch *t = &sh->touch[i];
			int what = simulate(m, p + i, write, t->stamp, plan);

			judge(m, p + i, write, what, t->out, false);
			if (what == GO && !write)
				check_read(m, p + i, t);
		}
		check_events();
	} else {
		CALL(m->proc, X_TOUCH, n, write);
		next_stamp += n;
		for (int i = 0; i < n; i++) {
			struct touch *t = &sh->touch[i];
			int what = obstacle(m, p + i, write);

			judge(m, p + i, write, what, t->out, false);
			if (what == GO) {
				accessed(m, p + i, write, t->stamp);
				if (!write)
					check_read(m, p + i, t);
			}
			blocked[i] = what >= EV_WP;
			sh->total.events += blocked[i];
			if (what == EV_WP)
				page_was_faulted(m, p + i);
		}
		/* A private page may have been copied before the event: write it. */
		for (int i = 0; i < n; i++) {
			if (blocked[i] && (m->priv || rnd(4) == 0))
				access_page(m, p + i, write, TOUCH);
		}
	}
	check(m, p, n);
}

static void op_kernel_write(void)
{
	static const char *const how_name[] = { "", "read into", "process_vm_writev", "/proc/mem" };
	struct map *m = random_map();
	enum how how = READ_INTO + rnd(3);
	int p = rnd(nr_pages);

	if (!below_size(p, 1))
		return;
	/* FOLL_FORCE is another matter, and /proc/mem can't wait for a monitor. */
	if (how == MEM && (!(m->f[p] & F_WRITE) || (!sigbus && obstacle(m, p, true) >= EV_WP)))
		how = VM_WRITEV;
	step("%s %s %d", how_name[how], name(m), p);
	access_page(m, p, true, how);
	check(m, p, 1);
}

static void op_file_write(void)
{
	int p, n;

	if (kind == ANON)
		return;
	random_range(&p, &n);
	step("pwrite %d+%d", p, n);
	for (; n && (u64)p < size; n--, p++) {
		stamps[p] = next_stamp++;
		exists[p] = dirty[p] = true;
		if (pwrite(file, &stamps[p], 8, p * PAGE) != 8 ||
		    pwrite(file, &stamps[p], 8, p * PAGE + TAIL) != 8)
			BAD(other, "pwrite: %s", strerror(errno));
	}
}

/*
 * Protection and registration
 */
static void op_protect(bool wp)
{
	struct map *m = random_monitored();
	int p, n;

	random_range(&p, &n);
	/* Mostly something that has to work */
	if (rnd(16))
		uniform(m, &p, &n, F_RWP | (patched ? 0 : F_READ | F_WRITE));
	step("%s %s %d+%d", wp ? "protect" : "unprotect", name(m), p, n);
	protect(m, p, n, wp);
	check(m, p, n);
}

static void do_register(struct map *m, int p, int n, int mode)
{
	long ret = IOCTL(m, UFFDIO_REGISTER, struct uffdio_register arg = {
		.range = { addr_of(m, p), n * PAGE }, .mode =
			(mode & F_RWP ? UFFDIO_REGISTER_MODE_WP : 0) |
			(mode & F_RMISS ? UFFDIO_REGISTER_MODE_MISSING : 0) });

	if (ret)
		BAD(other, "register: %s", strerror(ret));
	if (!(mode & F_RWP))
		range_clear(m, p, n, F_WP);
	range_clear(m, p, n, F_RWP | F_RMISS);
	for (int i = p; i < p + n; i++)
		m->f[i] |= mode;
}

static int any_mode(void)
{
	/* Huge pages fill holes without asking. */
	if (kind == HUGETMPFS || rnd(2))
		return F_RWP;
	return rnd(3) ? F_RWP | F_RMISS : F_RMISS;
}

static void op_register(void)
{
	struct map *m = random_monitored();
	int p, n, mode = any_mode();

	random_range(&p, &n);
	if (rnd(2))
		p = 0, n = nr_pages;
	if (!patched && n != (int)nr_pages)
		return;
	if (!patched)	/* It can't be taken back. */
		mode = F_RWP | ((mode | m->f[0]) & F_RMISS);
	step("register %s %d+%d mode %d", name(m), p, n, mode);
	do_register(m, p, n, mode);
	check(m, p, n);
}

static void op_unregister(void)
{
	struct map *m = random_monitored();
	int p, n;
	long ret;

	/* Without the series, protection stays behind. */
	if (!patched)
		return;
	random_range(&p, &n);
	step("unregister %s %d+%d", name(m), p, n);
	ret = IOCTL(m, UFFDIO_UNREGISTER, struct uffdio_range arg = { addr_of(m, p), n * PAGE });
	if (ret)
		BAD(other, "unregister: %s", strerror(ret));
	range_clear(m, p, n, F_WP | F_RWP | F_RMISS);
	check(m, p, n);
}

static void open_uffd(struct map *m)
{
	m->features = sigbus ? UFFD_FEATURE_SIGBUS : 0;
	if (rnd(2))
		m->features |= UFFD_FEATURE_EVENT_FORK;
	if (rnd(2))
		m->features |= UFFD_FEATURE_EVENT_REMAP;
	if (rnd(4) == 0)
		m->features |= UFFD_FEATURE_EVENT_REMOVE;
	if (rnd(4) == 0)
		m->features |= UFFD_FEATURE_EVENT_UNMAP;
	if (!patched)
		m->features |= UFFD_FEATURE_EVENT_REMAP;
	m->uffd = CALL(m->proc, X_OPEN, m->slot, m->features);
	if (m->uffd < 0)
		BAD(other, "userfaultfd: %s", strerror(error));
}

static void op_close(void)
{
	struct map *m = random_monitored();

	if (!patched || m->proc == 2)
		return;
	step("close %s", name(m));
	CALL(m->proc, X_CLOSE, m->slot);
	range_clear(m, 0, nr_pages, F_WP | F_RWP | F_RMISS);
	check(m, 0, nr_pages);
	open_uffd(m);
	do_register(m, 0, nr_pages, any_mode());
	check(m, 0, nr_pages);
}

/*
 * What happens to pages and mappings
 */
/* Reclaim drops pages that nobody has written. */
static void after_reclaim(int p, int n)
{
	if (kind == ANON || kind == HUGETMPFS)
		return;
	for (int i = p; i < p + n; i++)
		if (exists[i] && !dirty[i])
			exists[i] = in_file(i);
}

static void op_madvise(int advice)
{
	struct map *m = random_map();
	int p, n;

	random_range(&p, &n);
	/* Only pages that are mapped once can be paged out in this way. */
	if (advice == MADV_PAGEOUT && rnd(2))
		for (int i = 0; i < PROCS * SLOTS; i++)
			if (maps[i].live && &maps[i] != m && !maps[i].priv)
				SYS(maps[i].proc, madvise, addr_of(&maps[i], p), n * PAGE,
				    MADV_DONTNEED);
	step("madvise %s %d+%d %s", name(m), p, n, advice == MADV_DONTNEED ? "DONTNEED" :
	     advice == MADV_COLD ? "COLD" : "PAGEOUT");
	do {
		if (SYS(m->proc, madvise, addr_of(m, p), n * PAGE, advice))
			BAD(other, "madvise: %s", strerror(error));
		/* Another mapping may have used the page; not so a second time. */
	} while (advice == MADV_PAGEOUT && rnd(2));
	if (advice == MADV_DONTNEED)
		for (int i = p; i < p + n; i++)
			zapped(m, i);
	else if (advice == MADV_PAGEOUT)
		after_reclaim(p, n);
	check(m, p, n);
}

static void punched(int p, int n, bool even_cows)
{
	for (int i = p; i < p + n; i++) {
		stamps[i] = 0;
		exists[i] = dirty[i] = false;
		for (int j = 0; j < PROCS * SLOTS; j++)
			maps[j].f[i] &= even_cows && maps[j].priv ? ~(F_OWN | F_ZERO) : ~F_ZERO;
	}
}

static void op_punch(void)
{
	struct map *m = random_map();
	int p, n;

	if (kind == ANON)
		return;
	random_range(&p, &n);
	uniform(m, &p, &n, F_WRITE);
	if (rnd(2) && !m->priv && (m->f[p] & F_WRITE)) {
		step("madvise %s %d+%d REMOVE", name(m), p, n);
		if (SYS(m->proc, madvise, addr_of(m, p), n * PAGE, MADV_REMOVE))
			BAD(other, "MADV_REMOVE: %s", strerror(error));
	} else {
		step("punch %d+%d", p, n);
		if (fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, p * PAGE, n * PAGE))
			BAD(other, "fallocate: %s", strerror(errno));
	}
	punched(p, n, false);
	check_all(m);
}

static void op_truncate(void)
{
	u64 to = rnd(3) || size != nr_pages ? nr_pages : rnd(nr_pages + 1);

	if (kind == ANON)
		return;
	step("truncate %d to %d", (int)size, (int)to);
	if (ftruncate(file, to * PAGE))
		BAD(other, "ftruncate: %s", strerror(errno));
	if (to < size)
		punched(to, nr_pages - to, true);
	size = to;
	check_all(NULL);
	/* Not for long: there is not much to do beyond the end. */
	if (size != nr_pages && rnd(2)) {
		op_access(rnd(2));
		step("truncate to %d", (int)nr_pages);
		if (ftruncate(file, nr_pages * PAGE))
			BAD(other, "ftruncate: %s", strerror(errno));
		size = nr_pages;
		check_all(NULL);
	}
}

static void op_mprotect(void)
{
	struct map *m = random_map();
	int p, n, prot = rnd(5) < 2 ? PROT_READ | PROT_WRITE : rnd(4);

	random_range(&p, &n);
	step("mprotect %s %d+%d %d", name(m), p, n, prot);
	if (SYS(m->proc, mprotect, addr_of(m, p), n * PAGE, prot))
		BAD(other, "mprotect: %s", strerror(error));
	range_clear(m, p, n, F_READ | F_WRITE);
	for (int i = p; i < p + n; i++)
		m->f[i] |= (prot & PROT_READ ? F_READ : 0) | (prot & PROT_WRITE ? F_WRITE : 0);
	check(m, p, n);
	/* And back before long */
	if (rnd(3) == 0)
		return;
	step("mprotect %s %d+%d back", name(m), p, n);
	if (SYS(m->proc, mprotect, addr_of(m, p), n * PAGE, PROT_READ | PROT_WRITE))
		BAD(other, "mprotect: %s", strerror(error));
	for (int i = p; i < p + n; i++)
		m->f[i] |= F_READ | F_WRITE;
	check(m, p, n);
}

static bool registered(struct map *m)
{
	for (int p = 0; p < (int)nr_pages; p++)
		if (m->f[p] & (F_RWP | F_RMISS))
			return true;
	return false;
}

static bool do_mremap(struct map *m, int p, int n, u64 from, u64 to)
{
	bool keeps = m->features & UFFD_FEATURE_EVENT_REMAP;
	unsigned int remaps = load(&sh->remaps), due = 0;
	u64 from_at = from + p * PAGE, to_at = to + p * PAGE;

	if (m->uffd >= 0 && keeps && (m->f[p] & (F_RWP | F_RMISS)))
		due = 1;
	if (SYS(m->proc, mremap, from_at, n * PAGE, n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		to_at) != (long)to_at) {
		/* There may be more VMAs than the model knows. */
		if (error != EFAULT)
			BAD(other, "mremap: %s", strerror(error));
		return false;
	}
	while (load(&sh->remaps) != remaps + due)
		usleep(100);		/* or the watchdog bites */
	if (!keeps)
		range_clear(m, p, n, F_WP | F_RWP | F_RMISS);
	return true;
}

static void op_mremap(void)
{
	struct map *m = random_map();
	u64 other = arena(m->slot, !m->arena);
	int p, n;

	if (!patched && m->uffd >= 0)
		return;
	random_range(&p, &n);
	uniform(m, &p, &n, F_READ | F_WRITE | F_RWP | F_RMISS);
	step("mremap %s %d+%d", name(m), p, n);
	if (!do_mremap(m, p, n, m->base, other)) {
		more(" failed");
		reserve(m->proc, other);
		return;
	}
	if (n == (int)nr_pages) {
		/* It may stay. */
		reserve(m->proc, m->base);
		m->base = other;
		m->arena = !m->arena;
		check(m, p, n);
		return;
	}
	if (patched) {
		u64 pm;

		for (int i = p; i < p + n; i++) {
			if (pread(procs[m->proc].pagemap, &pm, 8, other / PAGE * 8 + i * 8) != 8)
				BAD(other, "pagemap: %s", strerror(errno));
			if (!(pm & PM_UFFD_WP) != !(m->f[i] & F_WP))
				BAD(spurious, "after mremap: page %d: %016llx, model %02x", i,
				    (unsigned long long)pm, m->f[i]);
		}
	}
	if (!do_mremap(m, p, n, other, m->base))
		BAD(other, "can't move back: %s", strerror(error));
	reserve(m->proc, other);
	check(m, p, n);
}

static void new_mapping(struct map *m)
{
	int flags = MAP_FIXED | (m->priv ? MAP_PRIVATE : MAP_SHARED);
	int fd = file;

	if (kind == ANON) {
		flags |= MAP_ANONYMOUS;
		fd = -1;
	}
	if (SYS(m->proc, mmap, m->base, nr_pages * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0) !=
	    (long)m->base)
		BAD(other, "mmap: %s", strerror(error));
	if (kind == ANON)
		SYS(m->proc, madvise, m->base, nr_pages * PAGE, MADV_NOHUGEPAGE);
	if (kind == HUGETMPFS && m->slot < 2)
		SYS(m->proc, madvise, m->base, nr_pages * PAGE, MADV_HUGEPAGE);
	memset(m->f, F_READ | F_WRITE, nr_pages);
}

static void op_remap_fresh(void)
{
	struct map *m = random_map();

	step("map anew %s", name(m));
	if (rnd(2) && SYS(m->proc, munmap, m->base, nr_pages * PAGE))
		BAD(other, "munmap: %s", strerror(error));
	new_mapping(m);
	check(m, 0, nr_pages);
	if (m->uffd >= 0)
		do_register(m, 0, nr_pages, any_mode() | (patched ? 0 : F_RWP));
}

static void open_proc(int i, pid_t pid)
{
	char path[64];

	procs[i].pid = pid;
	procs[i].live = true;
	sprintf(path, "/proc/%d/pagemap", pid);
	procs[i].pagemap = open(path, O_RDONLY | O_CLOEXEC);
	sprintf(path, "/proc/%d/mem", pid);
	procs[i].mem = open(path, O_RDWR | O_CLOEXEC);
	sprintf(path, "/proc/%d/clear_refs", pid);
	procs[i].clear_refs = open(path, O_WRONLY | O_CLOEXEC);
	if (procs[i].pagemap < 0 || procs[i].mem < 0 || procs[i].clear_refs < 0)
		skip(path);
}

static void close_proc(int i)
{
	procs[i].live = false;
	close(procs[i].pagemap);
	close(procs[i].mem);
	close(procs[i].clear_refs);
}

static void op_fork(void)
{
	int parent = rnd(2), uffds = 0;
	long pid;

	if (procs[2].live)
		return;
	step("fork %d", parent);
	for (int s = 0; s < SLOTS; s++) {
		struct map *m = &maps[parent * SLOTS + s], *c = &maps[2 * SLOTS + s];

		if (!m->live)
			continue;
		*c = *m;
		c->proc = 2;
		c->uffd = -1;
		c->monitor = false;
		if (m->uffd >= 0 && (m->features & UFFD_FEATURE_EVENT_FORK) && registered(m)) {
			c->monitor = true;
			uffds++;
		} else {
			c->features = 0;
			range_clear(c, 0, nr_pages, F_WP | F_RWP | F_RMISS);
		}
	}
	sh->chan[2].req = sh->chan[2].done = 0;
	for (int s = 0; s < SLOTS; s++)
		sh->child_fd[s] = -1;
	pid = CALL(parent, X_FORK, uffds);
	if (pid < 0)
		BAD(other, "fork: %s", strerror(error));
	open_proc(2, pid);
	/* It answers when it has all it needs. */
	SYS(2, getpid, 0);
	for (int s = 0; s < SLOTS; s++)
		if (maps[2 * SLOTS + s].monitor) {
			maps[2 * SLOTS + s].uffd = sh->child_fd[s];
			if (sh->child_fd[s] < 0)
				BAD(lost, "no fork event for slot %d", s);
		}
	/* Without the series, fork() may forget protected zero pages. */
	for (int i = 0; i < (int)nr_pages * SLOTS && kind == ANON && !patched; i++) {
		struct map *c = &maps[2 * SLOTS + i / nr_pages];
		int p = i % nr_pages;

		if (c->live && (c->f[p] & F_ZERO)) {
			SYS(2, madvise, addr_of(c, p), PAGE, MADV_DONTNEED);
			zapped(c, p);
		}
	}
	child_until = step_nr + 30 + rnd(300);
	check_all(NULL);
}

static void end_child(void)
{
	step("exit of the child");
	CALL(2, X_EXIT, 0);
	while (!kill(procs[2].pid, 0))
		usleep(100);
	close_proc(2);
	for (int s = 0; s < SLOTS; s++)
		maps[2 * SLOTS + s].live = false;
	check_all(NULL);
}

static void op_migrate(void)
{
	struct map *m = random_map();
	void **pages = (void *)sh->arg;
	int p, n, node = rnd(2);
	static int nodes[MAX_PAGES], status[MAX_PAGES];

	random_range(&p, &n);
	step("migrate %s %d+%d to %d", name(m), p, n, node);
	for (int i = 0; i < n; i++) {
		pages[i] = (void *)addr_of(m, p + i);
		nodes[i] = node;
	}
	syscall(SYS_move_pages, procs[m->proc].pid, n, pages, nodes, status, MOVE_ALL);
	check(m, p, n);
}

static void op_clear_refs(void)
{
	int i = rnd(2);

	step("clear_refs 4 of %d", i);
	if (write(procs[i].clear_refs, "4", 1) != 1)
		BAD(other, "clear_refs: %s", strerror(errno));
	check_all(NULL);
}

static void op_fill(void)
{
	struct map *m = random_monitored();
	int p, n, fill;

	random_range(&p, &n);
	n = n > 8 ? 8 : n;
	uniform(m, &p, &n, F_RWP | F_RMISS | F_WRITE);
	if (!(m->f[p] & (F_RWP | F_RMISS)))
		return;
	fill = any_fill(m, p);
	step("fill %d %s %d+%d", fill, name(m), p, n);
	for (; n && (kind == ANON || (u64)p < size); n--, p++)
		fill_page(m, p, fill, next_stamp++);
	check(m, p, n);
}

/* Faults by the kernel for reading */
static void op_populate(void)
{
	struct map *m = random_map();
	int p, n;

	random_range(&p, &n);
	if (m->priv)
		return;
	for (int i = p; i < p + n; i++)
		if (obstacle(m, i, false)) {
			n = i - p;
			break;
		}
	if (!n)
		return;
	step("mlock, munlock %s %d+%d", name(m), p, n);
	if (SYS(m->proc, mlock, addr_of(m, p), n * PAGE) ||
	    SYS(m->proc, munlock, addr_of(m, p), n * PAGE))
		BAD(other, "mlock: %s", strerror(error));
	for (int i = p; i < p + n; i++)
		accessed(m, i, false, 0);
	check(m, p, n);
}

/* Reclaim for real, from all mappings at once */
static void op_reclaim(void)
{
	char text[32];
	u64 now, less = (1 + rnd(64)) * PAGE;

	if (!have_cgroup)
		return;
	now = get_number(CGROUP "memory.current");
	step("reclaim %d pages of %d", (int)(less / PAGE), (int)(now / PAGE));
	sprintf(text, "%llu", (unsigned long long)(now > 2 * less ? now - less : now));
	put(CGROUP "memory.high", text);
	put(CGROUP "memory.high", "max");
	after_reclaim(0, nr_pages);
	check_all(NULL);
}

static void op_compact(void)
{
	step("compact");
	put("/proc/sys/vm/compact_memory", "1");
	check_all(NULL);
}

static void op_collapse(void)
{
	u64 scans, end;

	if (kind != HUGETMPFS)
		return;
	step("wait for khugepaged");
	scans = get_number(THP "khugepaged/full_scans");
	end = now_ms() + 300;
	while (get_number(THP "khugepaged/full_scans") < scans + 2 && now_ms() < end)
		usleep(5000);
	check_all(NULL);
}

static void op_split(void)
{
	if (kind != HUGETMPFS)
		return;
	step("split huge pages");
	put("/sys/kernel/debug/split_huge_pages", "1");
	check_all(NULL);
}

static void op_swapoff(void)
{
	char name[4][128], line[256];
	int n = 0;
	FILE *f;

	if (!patched && kind == ANON)
		return;
	f = fopen("/proc/swaps", "re");
	while (f && fgets(line, sizeof(line), f))
		if (n < 4 && line[0] == '/' && sscanf(line, "%127s", name[n]) == 1)
			n++;
	if (f)
		fclose(f);
	step("swapoff, swapon");
	for (int i = 0; i < n; i++)
		if (swapoff(name[i]) && errno != ENOMEM)
			BAD(other, "swapoff: %s", strerror(errno));
	for (int i = 0; i < n; i++)
		if (swapon(name[i], 0) && errno != EBUSY)
			BAD(other, "swapon: %s", strerror(errno));
	check_all(NULL);
}

static void op_check_file(void)
{
	step("check the file");
	check_file();
}

static void op_read(void) { op_access(false); }
static void op_write(void) { op_access(true); }
static void op_wp(void) { op_protect(true); }
static void op_unwp(void) { op_protect(false); }
static void op_dontneed(void) { op_madvise(MADV_DONTNEED); }
static void op_cold(void) { op_madvise(MADV_COLD); }
static void op_pageout(void) { op_madvise(MADV_PAGEOUT); }

static const struct {
	void (*fn)(void);
	int weight;
} op_table[] = {
	{ op_wp, 1600 }, { op_unwp, 600 }, { op_write, 2200 }, { op_read, 1400 },
	{ op_kernel_write, 700 }, { op_file_write, 300 }, { op_fill, 500 }, { op_populate, 150 },
	{ op_dontneed, 600 }, { op_pageout, 400 }, { op_cold, 100 }, { op_migrate, 250 },
	{ op_punch, 400 }, { op_truncate, 100 }, { op_mprotect, 350 }, { op_mremap, 200 },
	{ op_register, 200 }, { op_unregister, 150 }, { op_close, 60 }, { op_remap_fresh, 40 },
	{ op_fork, 40 }, { op_clear_refs, 60 }, { op_check_file, 20 },
	{ op_reclaim, 30 }, { op_compact, 2 }, { op_collapse, 15 }, { op_split, 10 }, { op_swapoff, 3 },
};

static void any_op(void)
{
	static int sum;
	int r;

	if (!sum)
		for (size_t i = 0; i < sizeof(op_table) / sizeof(op_table[0]); i++)
			sum += op_table[i].weight;
	r = rnd(sum);
	for (size_t i = 0; ; i++) {
		r -= op_table[i].weight;
		if (r < 0) {
			op_table[i].fn();
			return;
		}
	}
}

/*
 * Setting up
 */
static void set_up_maps(void)
{
	static const struct { int proc, slot; bool monitor, shared; } t[] = {
		{ 0, 0, true, false }, { 0, 1, true, true }, { 0, 2, false, false },
		{ 1, 0, true, false }, { 1, 1, false, true },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct map *m = &maps[t[i].proc * SLOTS + t[i].slot];

		m->live = true;
		m->proc = t[i].proc;
		m->slot = t[i].slot;
		m->monitor = t[i].monitor;
		m->priv = kind == ANON || (kind == PRIVATE && !t[i].shared);
		m->uffd = -1;
		m->base = arena(m->slot, 0);
		reserve(m->proc, arena(m->slot, 0));
		reserve(m->proc, arena(m->slot, 1));
		new_mapping(m);
		if (m->monitor) {
			open_uffd(m);
			do_register(m, 0, nr_pages, F_RWP);
		}
	}
}

static void finish(void)
{
	step("the end");
	if (procs[2].live)
		end_child();
	check_file();
	for (int i = 0; i < PROCS * SLOTS; i++) {
		struct map *m = &maps[i];

		if (!m->live || m->uffd < 0)
			continue;
		CALL(m->proc, X_CLOSE, m->slot);
		m->uffd = -1;
		range_clear(m, 0, nr_pages, F_RWP | F_RMISS | F_WP);
	}
	check_all(NULL);
}

/* One run, in a process of its own. */
static void run(void)
{
	pthread_t t;
	pid_t pid;
	u64 start = now_ms();

	rng = seed * 0x9e3779b97f4a7c15ULL + kind + 1;
	for (int i = 0; i < 8; i++)
		rnd(1);
	signal(SIGCHLD, SIG_IGN);
	catch_faults();
	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pass_fd))
		skip("socketpair");
	if (have_cgroup)
		have_cgroup = put(CGROUP "cgroup.procs", "0");
	source = memfd_create("source", MFD_CLOEXEC);
	size = nr_pages;
	file = make_file(kind, size * PAGE);
	memset(sh->chan, 0, sizeof(sh->chan));
	sh->events = sh->remaps = sh->others = 0;
	pid = fork();
	if (pid < 0)
		skip("fork");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		me = 1;
		start_monitor();
		serve_driver();
	}
	pthread_create(&t, NULL, watchdog, NULL);
	start_monitor();
	open_proc(0, getpid());
	open_proc(1, pid);
	set_up_maps();
	for (u64 i = 0; i < ops; i++) {
		any_op();
		if (procs[2].live && step_nr > child_until)
			end_child();
		if (step_nr % check_every == 0)
			check_all(NULL);
		sh->total.ops++;
		add(&steps_done, 1);
		if (limit_s && i % 64 == 0 && now_ms() - start > limit_s * 1000ULL / runs)
			break;
	}
	finish();
	store(&finished, true);
	stop_all();
	_exit(0);
}

static const struct option options[] = {
	{ "seed", 1, NULL, 's' }, { "ops", 1, NULL, 'o' }, { "kind", 1, NULL, 'k' },
	{ "runs", 1, NULL, 'r' }, { "events", 0, NULL, 'e' }, { "pages", 1, NULL, 'p' },
	{ "check", 1, NULL, 'c' }, { "time", 1, NULL, 't' }, { "replay", 0, NULL, 'R' },
	{ "hang", 1, NULL, 'H' }, { "help", 0, NULL, 'h' }, { }
};

static const char help[] =
"  --kind K     memfd, tmpfs, huge, shanon, private; anon, which also runs on a\n"
"               kernel that can't do the others; or all, one run each\n"
"  --seed S     default is a random one; it is printed\n"
"  --ops N      number of operations of a run, default 20000\n"
"  --runs N     so many runs, with seeds S, S+1, ...\n"
"  --time SEC   stop after this time altogether\n"
"  --events     monitor threads; default is UFFD_FEATURE_SIGBUS, which is faster\n"
"  --pages N    size of the file, default 160, huge: 1024\n"
"  --check N    compare all of pagemap after so many steps, default 8\n"
"  --hang SEC   a step that takes longer is a failure, default 60\n"
"  --replay     print each step before it is taken\n"
"Exit status: 0, 1 for a failure, 4 when the kernel can't do what is asked for.\n";

int main(int argc, char **argv)
{
	u64 first, pages = 0, t0;
	bool all = false, seeded = false;
	int c, rc = 0, status;
	struct stats *s;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 's': seed = strtoull(optarg, NULL, 0); seeded = true; break;
		case 'o': ops = strtoull(optarg, NULL, 0); break;
		case 'r': runs = atoi(optarg); break;
		case 'e': sigbus = false; break;
		case 'p': pages = strtoull(optarg, NULL, 0); break;
		case 'c': check_every = atoi(optarg); break;
		case 't': limit_s = atoi(optarg); break;
		case 'H': hang_s = atoi(optarg); break;
		case 'R': replay = true; break;
		case 'k':
			all = !strcmp(optarg, "all");
			for (kind = 0; kind < KINDS && strcmp(kind_name[kind], optarg); kind++)
				;
			if (kind < KINDS || all)
				break;
			/* fall through */
		default:
			printf("usage: uffd-oracle [option]...\n%s", help);
			return c == 'h' ? 0 : 2;
		}
	}
	if (!seeded)
		seed = now_ms() * 1000003 % 1000000007;
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sh == MAP_FAILED)
		skip("mmap");
	patched = have_shmem_wp();
	if (!patched && (all || kind != ANON)) {
		errno = EOPNOTSUPP;
		skip("write-protect of shared memory");
	}
	if (all)
		runs *= KINDS;
	mkdir(CGROUP, 0755);
	have_cgroup = !access(CGROUP "memory.high", W_OK);
	hurry_khugepaged(true);

	s = &sh->total;
	count(true);
	first = seed;
	t0 = now_ms();
	for (unsigned int i = 0; i < runs && !rc; i++) {
		pid_t pid;

		seed = first + (all ? i / KINDS : i);
		if (all)
			kind = i % KINDS;
		nr_pages = pages ?: kind == HUGETMPFS ? 1024 : 160;
		if (nr_pages > MAX_PAGES)
			nr_pages = MAX_PAGES;
		printf("seed %llu, kind %s\n", (unsigned long long)seed, kind_name[kind]);
		fflush(stdout);
		pid = fork();
		if (!pid)
			run();
		if (pid < 0 || waitpid(pid, &status, 0) != pid)
			skip("fork");
		rc = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
		if (WIFSIGNALED(status))
			printf("FAILED: signal %d, seed %llu\n", WTERMSIG(status),
			       (unsigned long long)seed);
	}
	hurry_khugepaged(false);
	rmdir(CGROUP);
	count(false);
	printf("operations %llu, %llu per second, events %llu, checks %llu, swap-outs %llu, "
	       "migrations %llu, splits %llu, collapses %llu, lost %llu, spurious %llu, cross %llu, "
	       "content %llu, hang %llu, other %llu\n",
	       (unsigned long long)s->ops,
	       (unsigned long long)(s->ops * 1000 / (now_ms() - t0 + 1)),
	       (unsigned long long)s->events, (unsigned long long)s->checks,
	       (unsigned long long)counted.swapout, (unsigned long long)counted.migrated,
	       (unsigned long long)counted.split, (unsigned long long)counted.collapsed,
	       (unsigned long long)s->lost, (unsigned long long)s->spurious,
	       (unsigned long long)s->cross, (unsigned long long)s->content,
	       (unsigned long long)s->hang, (unsigned long long)s->other);
	return rc;
}
