// SPDX-License-Identifier: GPL-2.0
/*
 * The model, and how what the kernel does compares with it
 */
#include "uffd-wp.h"
#include "uffd-oracle.h"

struct map maps[PROCS * SLOTS];
struct proc procs[PROCS];
u64 stamps[MAX_PAGES];	/* contents of the file; 0 is a hole or zeroes */
bool exists[MAX_PAGES];	/* in the file: in page cache or in swap */
bool dirty[MAX_PAGES];	/* a page only read is clean, and reclaim drops it */
u64 size;		/* of the file, pages */
int file = -1, source = -1, pass_fd[2];
bool huge_only;		/* of hugetlbfs: nothing is reclaimed, holes are filled here */
u64 next_stamp = 1;

u64 addr_of(struct map *m, int p)
{
	return m->base + p * PAGE;
}

u64 area_of(int slot, int nr)
{
	u64 unit = huge_only ? 64 * HUGE_SIZE : HUGE_SIZE;
	u64 a = 0x100000000000ULL + (slot * 2 + nr) * (16 * unit) + 8 * unit;

	/* Across the end of a page table, and not all aligned alike */
	if (kind != HUGE)
		a -= nr_pages / 2 * PAGE;
	return a + (slot == 2 ? 5 * PAGE : 0);
}

void reserve(int proc, u64 addr)
{
	if (SYS(proc, mmap, addr, nr_pages * PAGE, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != (long)addr)
		BAD(other, "mmap: %s", strerror(error));
}

bool own(struct map *m, int p)
{
	return m->f[p] & (F_OWN | F_ZERO);
}

/* What an access has to find */
int obstacle(struct map *m, int p, bool write)
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
void accessed(struct map *m, int p, bool write, u64 stamp)
{
	if (kind == ANON) {
		if (!(m->f[p] & F_OWN)) {
			m->own[p] = 0;
			m->f[p] |= F_OWN | F_ZERO;
		}
	} else if (huge_only && m->priv && !own(m, p) && !exists[p]) {
		/* A hole of the file stays one */
		m->own[p] = 0;
		m->f[p] |= F_OWN;
	} else if (!own(m, p)) {
		exists[p] = true;
		dirty[p] |= huge_only;
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
void zapped(struct map *m, int p)
{
	m->f[p] &= ~(F_OWN | F_ZERO);
	if (kind == ANON)
		m->f[p] &= ~F_WP;
}

bool registered(struct map *m)
{
	for (int p = 0; p < (int)nr_pages; p++)
		if (m->f[p] & (F_RWP | F_RMISS))
			return true;
	return false;
}

bool fork_event_due(struct map *m)
{
	return m->uffd >= 0 && (m->features & UFFD_FEATURE_EVENT_FORK) && registered(m);
}

void punched(int p, int n, bool even_cows)
{
	/* A hole in a file of hugetlbfs takes the copies as well */
	even_cows |= huge_only;
	for (int i = p; i < p + n; i++) {
		stamps[i] = 0;
		exists[i] = dirty[i] = false;
		for (int j = 0; j < PROCS * SLOTS; j++)
			maps[j].f[i] &= even_cows && maps[j].priv ? ~(F_OWN | F_ZERO) : ~F_ZERO;
	}
}

void range_clear(struct map *m, int p, int n, uint8_t bits)
{
	for (int i = p; i < p + n; i++)
		m->f[i] &= ~bits;
}

void model_wp(struct map *m, int p, int n, bool wp)
{
	for (int i = p; i < p + n; i++) {
		if (!wp)
			m->f[i] &= ~F_WP;
		else if (kind != ANON || (m->f[i] & F_OWN))
			m->f[i] |= F_WP;
	}
}

void random_range(int *p, int *n)
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
void uniform(struct map *m, int *p, int *n, uint8_t mask)
{
	int i = *p;

	while (i < *p + *n && (m->f[i] & mask) == (m->f[*p] & mask))
		i++;
	*n = i - *p;
}

struct map *any_map(void)
{
	struct map *m;

	do {
		m = &maps[rnd(PROCS * SLOTS)];
	} while (!m->live);
	return m;
}

struct map *random_map(void)
{
	struct map *m;

	do {
		m = any_map();
	} while (m->held);
	return m;
}

struct map *any_monitored(void)
{
	struct map *m;

	do {
		m = any_map();
	} while (m->uffd < 0);
	return m;
}

struct map *random_monitored(void)
{
	struct map *m;

	do {
		m = any_monitored();
	} while (m->held);
	return m;
}

char *name(struct map *m)
{
	static char text[4][8];
	static int n;

	n = (n + 1) % 4;
	sprintf(text[n], "%d.%d", m->proc, m->slot);
	return text[n];
}

/* One entry a page; a huge one has many, of which one is looked at */
void pagemap_at(struct map *m, u64 addr, int n, u64 *pm)
{
	int step = huge_only ? 1 : n;

	for (int i = 0; i < n; i += step) {
		u64 entry = (addr + i * PAGE) / base_size;

		if (huge_only)
			entry += i * 37 % (PAGE / base_size);
		if (pread(procs[m->proc].pagemap, pm + i, step * 8, entry * 8) != step * 8)
			BAD(other, "pagemap: %s", strerror(errno));
	}
}

/*
 * Compare with pagemap.
 */
static void check_pages(struct map *m, struct map *about, int from, int n)
{
	static u64 pm[MAX_PAGES];

	if (!patched || !m->live)
		return;
	pagemap_at(m, addr_of(m, from), n, pm);
	sh->total.checks += n;
	for (int p = from; p < from + n; p++) {
		bool want = m->f[p] & F_WP, have = pm[p - from] & PM_UFFD_WP;

		if (want == have)
			continue;
		bad(m != about ? &sh->total.cross : want ? &sh->total.lost : &sh->total.spurious,
		    "pagemap of page %d of %s: %s protected, entry %016llx, model %02x", p, name(m),
		    want ? "not" : "is", pm[p - from], m->f[p]);
	}
}

/* What a step was about, and a little more */
void check(struct map *m, int p, int n)
{
	int from = p > 32 ? p - 32 : 0, to = p + n + 32;

	check_pages(m, m, from, (to > (int)nr_pages ? (int)nr_pages : to) - from);
}

void check_all(struct map *about)
{
	for (int i = 0; i < PROCS * SLOTS; i++)
		check_pages(&maps[i], about, 0, nr_pages);
}

/* Of so many pages from P, all of them */
static bool all_are(struct map *m, int p, int n, uint8_t f)
{
	while (n--)
		if ((m->f[p + n] & f) != f)
			return false;
	return true;
}

/*
 * Does a PMD marker protect the 2 MiB from P? A VMA that begins behind its first page
 * needs a page table for it, which shows if there was none. Nobody else makes one meanwhile.
 */
static bool is_pmd_marker(struct map *m, int p)
{
	long long kib;
	u64 pm;

	pagemap_at(m, addr_of(m, p), 1, &pm);
	if (pm & PM_PRESENT)
		return false;
	kib = file_value("/proc/self/status", "VmPTE");
	if (SYS(m->proc, mprotect, addr_of(m, p), PAGE, PROT_NONE))
		BAD(other, "mprotect: %s", strerror(error));
	kib = file_value("/proc/self/status", "VmPTE") - kib;
	if (SYS(m->proc, mprotect, addr_of(m, p), PAGE, PROT_READ | PROT_WRITE))
		BAD(other, "mprotect: %s", strerror(error));
	return kib > 0;
}

/*
 * Is there protection in PMDs, in markers and in huge pages, or is all of this about
 * small pages? Looks into the mappings of the driver itself, now and then.
 */
void count_pmds(void)
{
	int n = HUGE_SIZE / PAGE;

	if (kind != HUGE || rnd(8))
		return;
	for (struct map *m = maps; m < maps + SLOTS; m++) {
		int huge, others = 0;

		/* Of one that is held the model may be behind */
		if (!m->live || m->held || m->uffd < 0 || m->base % HUGE_SIZE)
			continue;
		huge = smaps_value((char *)m->base, nr_pages * PAGE, "ShmemPmdMapped") /
		       (int)(HUGE_SIZE >> 10);
		for (int p = 0; p + n <= (int)nr_pages; p += n) {
			if (!all_are(m, p, n, F_WP))
				others++;
			else if (all_are(m, p, 1, F_READ | F_WRITE) && is_pmd_marker(m, p))
				sh->total.pmd_markers++;
		}
		/* At least so many of them are protected */
		if (huge > others)
			sh->total.pmd_huge += huge - others;
	}
}

bool in_file(int p)
{
	return lseek(file, p * PAGE, SEEK_DATA) == (off_t)(p * PAGE);
}

/* What is in the file, read in a way that changes no mapping */
void check_file(void)
{
	u64 head, tail, filled = 0;
	struct stat st;

	if (kind == ANON)
		return;
	/* Of a file on hugetlbfs it is known how many pages it has, not which */
	for (u64 p = 0; p < nr_pages; p++)
		filled += exists[p];
	if (fstat(file, &st))
		BAD(other, "fstat: %s", strerror(errno));
	if (huge_only && (u64)st.st_blocks != filled * (PAGE / 512))
		BAD(content, "the file has %lld blocks, and should have %llu pages",
		    (long long)st.st_blocks, filled);
	for (u64 p = 0; p < size; p++) {
		if (kind != HUGE && !huge_only) {
			bool data = in_file(p);

			/* Reclaim may drop a page that was only read */
			if (!data && !dirty[p])
				exists[p] = false;
			if (data != exists[p])
				BAD(content, "page %d of the file %s exist, stamp %llx", (int)p,
				    data ? "should not" : "should", stamps[p]);
		}
		if (pread(file, &head, 8, p * PAGE) != 8 ||
		    pread(file, &tail, 8, p * PAGE + TAIL) != 8)
			BAD(other, "pread: %s", strerror(errno));
		if (head != stamps[p] || tail != stamps[p])
			BAD(content, "page %d of the file: %llx and %llx, not %llx", (int)p,
			    head, tail,
			    stamps[p]);
	}
}

/*
 * Accesses
 */
static struct event want[MAX_PAGES * 2];
static int wants;
static unsigned int events_seen;

void due_event(struct map *m, int p, u64 flags)
{
	want[wants++] = (struct event){ m->proc, m->slot, 0, addr_of(m, p), flags };
}

/* All the events that were due, in order, and no other. */
void check_events(void)
{
	unsigned int n = load(&sh->events) - events_seen;
	int i;

	for (i = 0; i < (int)n || i < wants; i++) {
		struct event *e = &sh->event[(events_seen + i) % EVENTS];

		if (i >= (int)n)
			BAD(lost, "no event for %llx, flags %llx",
			    want[i].addr, want[i].flags);
		if (i >= wants || e->proc != want[i].proc || e->slot != want[i].slot ||
		    e->addr != want[i].addr || e->flags != want[i].flags)
			BAD(spurious, "event for %d.%d %llx, flags %llx; wanted %s%llx", e->proc,
			    e->slot, e->addr, e->flags,
			    i >= wants ? "none " : "",
			    i >= wants ? 0ULL : want[i].addr);
		if (e->error)
			BAD(other, "monitor: %s", strerror(e->error));
	}
	sh->total.events += n;
	events_seen += n;
	wants = 0;
}

int any_fill(struct map *m, int p)
{
	int f = FILL_COPY + rnd(huge_only ? 2 : 3);

	if (f == FILL_COPY_WP && (!(m->f[p] & F_RWP) || (!patched && !(m->f[p] & F_WRITE))))
		f = FILL_COPY;
	return f;
}

struct plan *make_plan(struct map *m, int p, bool alone)
{
	struct plan *plan = &sh->plan[m->proc][m->slot];
	uint8_t mask = F_RWP | (patched ? 0 : F_READ | F_WRITE);
	static struct plan none;

	/* One of its threads may be waiting for what the old plan says. */
	if (m->held)
		return &none;
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
void page_was_faulted(struct map *m, int p)
{
	if (kind != ANON)
		accessed(m, p, false, 0);
}

/* The next event is that this page is missing. */
static bool found_missing(struct map *m, int p)
{
	struct event *e = &sh->event[(events_seen + wants) % EVENTS];

	return load(&sh->events) - events_seen > (unsigned int)wants &&
		e->proc == m->proc && e->slot == m->slot && e->addr == addr_of(m, p) &&
		!(e->flags & UFFD_PAGEFAULT_FLAG_WP);
}

/*
 * What happens when there is a monitor; the last obstacle, or none.  To be called
 * after the access, which may have met a hole where reclaim has dropped a page.
 */
int simulate(struct map *m, int p, bool write, u64 stamp, struct plan *plan)
{
	for (;;) {
		if (kind != ANON && exists[p] && !dirty[p] && !own(m, p) && found_missing(m, p))
			exists[p] = false;
		switch (obstacle(m, p, write)) {
		case GO:
			accessed(m, p, write, stamp);
			return GO;
		case NO_PROT:
			return NO_PROT;
		case NO_FILE:
			return NO_FILE;
		case EV_MISSING:
			due_event(m, p, write ? UFFD_PAGEFAULT_FLAG_WRITE : 0);
			filled(m, p, plan->fill, plan->stamp);
			break;
		case EV_WP:
			due_event(m, p, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE);
			page_was_faulted(m, p);
			model_wp(m, p - plan->before, plan->before + plan->after + 1, false);
		}
	}
}

static const char *const obstacle_name[] = { "none", "protection", "end of file", "wp", "missing" };
static const char *const out_name[] = { "went through", "SIGSEGV", "SIGBUS" };

static u64 entry_of(struct map *m, int p)
{
	u64 pm;

	pagemap_at(m, addr_of(m, p), 1, &pm);
	return pm;
}

/* Did the access end as it had to?  Kernel accesses know only one error. */
void judge(struct map *m, int p, bool write, int what, int out, bool kernel)
{
	int due = what == GO ? OUT_OK : what == NO_PROT ? OUT_SEGV : OUT_BUS;

	if (out == due || (kernel && out && due))
		return;
	bad(what == EV_WP && out == OUT_OK ? &sh->total.lost :
	    what == GO && out == OUT_BUS ? &sh->total.spurious : &sh->total.other,
	    "%s of page %d of %s %s; model: obstacle %s, flags %02x, file %s%s; is: pagemap %016llx, file %s",
	    write ? "write" : "read", p, name(m), out_name[out], obstacle_name[what], m->f[p],
	    kind != ANON && exists[p] ? "has it" : "has not", dirty[p] ? ", dirty" : "",
	    entry_of(m, p), kind != ANON && in_file(p) ? "has it" : "has not");
}

/* After a write with soft-dirty on, it must show. */
static void check_soft_dirty(struct map *m, int p)
{
	u64 pm = entry_of(m, p);

	/* Pages of hugetlbfs are always dirty */
	if (huge_only)
		return;
	if (!(pm & PM_SOFT_DIRTY) && (pm & PM_PRESENT))
		BAD(content, "page %d of %s was written, but is not soft-dirty: %016llx", p, name(m),
		    pm);
}

void check_read(struct map *m, int p, struct touch *t)
{
	u64 c = content(m, p);

	if (t->head != c || t->tail != c)
		BAD(content, "page %d of %s: %llx and %llx, not %llx; model %02x, own %llx, file %llx",
		    p, name(m), t->head, t->tail,
		    c, m->f[p], m->own[p],
		    stamps[p]);
}

/* As long as there are events that nobody has read, nothing may be done. */
static bool is_too_early(struct map *m, const char *what, long ret)
{
	if (!unread(m))
		return false;
	if (ret != EAGAIN)
		BAD(lost, "%s, %s: %s, and an event is unread",
		    name(m), what, ret ? strerror(ret) : "done");
	sh->total.late++;
	return true;
}

void fill_page(struct map *m, int p, int fill, u64 stamp)
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
	if (is_too_early(m, "filling", ret))
		return;
	if (!ret) {
		/* Reclaim may have dropped a page that was only read */
		if (!m->priv && kind != HUGE && !dirty[p])
			exists[p] = false;
		if (!m->priv && (kind == HUGE ? stamps[p] != 0 : exists[p]))
			BAD(content, "page %d of %s was there, and has been filled", p, name(m));
		if (own(m, p))
			BAD(content, "own page %d of %s has been filled", p, name(m));
		filled(m, p, fill, stamp);
	} else if (ret == EEXIST) {
		if (kind == HUGE || (kind != ANON && exists[p]) || own(m, p))
			return;
		BAD(other, "can't fill page %d of %s: it exists", p, name(m));
	} else {
		BAD(other, "filling page %d of %s: %s", p, name(m), strerror(ret));
	}
}

void wp_pages(struct map *m, int p, int n, bool wp)
{
	bool all = true;
	long ret = IOCTL(m, UFFDIO_WRITEPROTECT, struct uffdio_writeprotect arg = {
		.range = { addr_of(m, p), n * PAGE },
		.mode = wp ? UFFDIO_WRITEPROTECT_MODE_WP : 0 });

	for (int i = p; i < p + n; i++)
		all = all && (m->f[i] & F_RWP);
	if (is_too_early(m, wp ? "protect" : "unprotect", ret))
		return;
	if (ret == 0 && all) {
		model_wp(m, p, n, wp);
	} else if (ret == ENOENT && !all && mainline) {
		/* It stops at the first VMA that is not registered. */
		for (int i = p; m->f[i] & F_RWP; i++)
			model_wp(m, i, 1, wp);
	} else if (ret != ENOENT || (all && patched)) {
		BAD(other, "%sprotect: %s, and the range %s registered", wp ? "" : "un",
		    strerror(ret), all ? "is" : "is not");
	}
}

/* SIGBUS mode: do what a monitor would do. */
static void resolve(struct map *m, int p, int what)
{
	struct plan *plan = make_plan(m, p, true);

	if (what == EV_WP) {
		more(" unprotect %d-%d", (int)(p - plan->before), (int)(p + plan->after));
		wp_pages(m, p - plan->before, plan->before + plan->after + 1, false);
	} else {
		more(" fill %d", plan->fill);
		fill_page(m, p, plan->fill, plan->stamp);
	}
}

/* Reclaim may have dropped a page that was only read: a hole again */
void reclaimed(struct map *m, int p, int out)
{
	if (out == OUT_BUS && kind != ANON && exists[p] && !dirty[p] && !own(m, p))
		exists[p] = in_file(p);
}

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

void access_page(struct map *m, int p, bool write, enum how how)
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
		reclaimed(m, p, out);
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

