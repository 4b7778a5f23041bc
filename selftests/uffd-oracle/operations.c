// SPDX-License-Identifier: GPL-2.0
/*
 * What a step can be
 */
#include "uffd-wp.h"
#include "uffd-oracle.h"

/* A huge page may be mapped although the file ends in it: stay away from there. */
static int below_size(int p, int n)
{
	if (kind != HUGE || (u64)p + n <= size)
		return n;
	return (u64)p < size ? size - p : 0;
}

/* What can be done while nobody serves faults */
static int without_monitor(struct map *m, int p, int n, bool write)
{
	for (int i = 0; m->held && i < n; i++)
		if (obstacle(m, p + i, write) >= EV_WP)
			return i;
	return n;
}

static void op_access(bool write)
{
	static bool blocked[MAX_PAGES];
	struct map *m = any_map();
	int p, n;

	random_range(&p, &n);
	n = below_size(p, n);
	n = without_monitor(m, p, n, write);
	if (!n)
		return;
	note("%s %s %d+%d", write ? "write" : "read", name(m), p, n);
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
			int what;

			reclaimed(m, p + i, t->out);
			what = obstacle(m, p + i, write);

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
	struct map *m = any_map();
	enum how how = READ_INTO + rnd(3);
	int p = rnd(nr_pages);

	if (!below_size(p, 1) || !without_monitor(m, p, 1, true))
		return;
	/* FOLL_FORCE is another matter, and /proc/mem can't wait for a monitor. */
	if (how == MEM && (!(m->f[p] & F_WRITE) || (!sigbus && obstacle(m, p, true) >= EV_WP)))
		how = VM_WRITEV;
	note("%s %s %d", how_name[how], name(m), p);
	access_page(m, p, true, how);
	check(m, p, 1);
}

static void op_file_write(void)
{
	u64 *at = NULL;
	int p, n;

	if (kind == ANON)
		return;
	random_range(&p, &n);
	note("pwrite %d+%d", p, n);
	/* hugetlbfs has no write(2) */
	if (huge_only && size) {
		at = mmap(NULL, size * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
		if (at == MAP_FAILED)
			BAD(other, "mmap: %s", strerror(errno));
	}
	for (; n && (u64)p < size; n--, p++) {
		stamps[p] = next_stamp++;
		exists[p] = dirty[p] = true;
		if (huge_only)
			at[p * PAGE / 8] = at[(p * PAGE + TAIL) / 8] = stamps[p];
		else if (pwrite(file, &stamps[p], 8, p * PAGE) != 8 ||
		    pwrite(file, &stamps[p], 8, p * PAGE + TAIL) != 8)
			BAD(other, "pwrite: %s", strerror(errno));
	}
	if (at)
		munmap(at, size * PAGE);
}

/*
 * Protection and registration
 */
static void op_protect(bool wp)
{
	struct map *m = any_monitored();
	int p, n;

	random_range(&p, &n);
	/* Mostly something that has to work */
	if (rnd(16))
		uniform(m, &p, &n, F_RWP | (patched ? 0 : F_READ | F_WRITE));
	if (late_touch_in(m, p, n))
		return;
	note("%s %s %d+%d", wp ? "protect" : "unprotect", name(m), p, n);
	wp_pages(m, p, n, wp);
	check(m, p, n);
}

void do_register(struct map *m, int p, int n, int mode)
{
	long ret = IOCTL(m, UFFDIO_REGISTER, struct uffdio_register arg = {
		.range = { addr_of(m, p), n * PAGE }, .mode =
			(mode & F_RWP ? UFFDIO_REGISTER_MODE_WP : 0) |
			(mode & F_RMISS ? UFFDIO_REGISTER_MODE_MISSING : 0) });

	/* Mainline wants what gives up write-protection to be unregistered first. */
	if (ret == EBUSY && mainline && !(mode & F_RWP))
		for (int i = p; i < p + n; i++)
			if (m->f[i] & F_RWP)
				return;
	if (ret)
		BAD(other, "register: %s", strerror(ret));
	/* Where all of it is there, nothing changes; else it takes the place of what is */
	for (int i = p; i < p + n; i++) {
		if ((m->f[i] & mode) == mode)
			continue;
		range_clear(m, i, 1, F_RWP | F_RMISS | (mode & F_RWP ? 0 : F_WP));
		m->f[i] |= mode;
	}
}

static int any_mode(void)
{
	/* Huge pages fill holes without asking. */
	if (kind == HUGE || rnd(2))
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
	note("register %s %d+%d mode %d", name(m), p, n, mode);
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
	note("unregister %s %d+%d", name(m), p, n);
	ret = IOCTL(m, UFFDIO_UNREGISTER, struct uffdio_range arg = { addr_of(m, p), n * PAGE });
	if (ret)
		BAD(other, "unregister: %s", strerror(ret));
	range_clear(m, p, n, F_WP | F_RWP | F_RMISS);
	check(m, p, n);
}

void open_uffd(struct map *m)
{
	m->features = sigbus ? UFFD_FEATURE_SIGBUS : 0;
	if (rnd(2))
		m->features |= UFFD_FEATURE_EVENT_FORK;
	if (rnd(2))
		m->features |= UFFD_FEATURE_EVENT_REMAP;
	if (rnd(sigbus ? 4 : 2) == 0)
		m->features |= UFFD_FEATURE_EVENT_REMOVE;
	if (rnd(sigbus ? 4 : 2) == 0)
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
	note("close %s", name(m));
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
	if (kind == ANON || kind == HUGE || huge_only)
		return;
	for (int i = p; i < p + n; i++)
		if (exists[i] && !dirty[i])
			exists[i] = in_file(i);
}

static void op_madvise(int advice)
{
	struct map *m = advice == MADV_DONTNEED ? random_map() : any_map();
	int p, n;

	if (huge_only && advice != MADV_DONTNEED)
		return;
	random_range(&p, &n);
	/* Only pages that are mapped once can be paged out in this way. */
	if (advice == MADV_PAGEOUT && rnd(2))
		for (int i = 0; i < PROCS * SLOTS; i++)
			if (maps[i].live && !maps[i].held && &maps[i] != m && !maps[i].priv)
				SYS(maps[i].proc, madvise, addr_of(&maps[i], p), n * PAGE,
				    MADV_DONTNEED);
	note("madvise %s %d+%d %s", name(m), p, n, advice == MADV_DONTNEED ? "DONTNEED" :
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

static void op_punch(void)
{
	struct map *m = random_map();
	int p, n;

	if (kind == ANON)
		return;
	random_range(&p, &n);
	uniform(m, &p, &n, F_WRITE);
	if (rnd(2) && !m->priv && (m->f[p] & F_WRITE)) {
		note("madvise %s %d+%d REMOVE", name(m), p, n);
		if (SYS(m->proc, madvise, addr_of(m, p), n * PAGE, MADV_REMOVE))
			BAD(other, "MADV_REMOVE: %s", strerror(error));
	} else {
		note("punch %d+%d", p, n);
		if (fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, p * PAGE, n * PAGE))
			BAD(other, "fallocate: %s", strerror(errno));
	}
	punched(p, n, false);
	check_all(m);
}

static void op_truncate(void)
{
	u64 to = rnd(3) || size != nr_pages ? nr_pages : rnd(nr_pages + 1);

	if (kind == ANON || kind == SYSV || late_touch_waits())
		return;
	/*
	 * Linux 7.3 never comes back from truncating a file in the middle of a huge
	 * page that is in swap in one piece.
	 */
	if (mainline && kind == HUGE)
		to -= to % (HUGE_SIZE / PAGE);
	note("truncate %d to %d", (int)size, (int)to);
	if (ftruncate(file, to * PAGE))
		BAD(other, "ftruncate: %s", strerror(errno));
	if (to < size)
		punched(to, nr_pages - to, true);
	size = to;
	check_all(NULL);
	/* Not for long: there is not much to do beyond the end. */
	if (size != nr_pages && rnd(2)) {
		op_access(rnd(2));
		note("truncate to %d", (int)nr_pages);
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
	note("mprotect %s %d+%d %d", name(m), p, n, prot);
	if (SYS(m->proc, mprotect, addr_of(m, p), n * PAGE, prot))
		BAD(other, "mprotect: %s", strerror(error));
	range_clear(m, p, n, F_READ | F_WRITE);
	for (int i = p; i < p + n; i++)
		m->f[i] |= (prot & PROT_READ ? F_READ : 0) | (prot & PROT_WRITE ? F_WRITE : 0);
	check(m, p, n);
	/* And back before long */
	if (rnd(3) == 0)
		return;
	note("mprotect %s %d+%d back", name(m), p, n);
	if (SYS(m->proc, mprotect, addr_of(m, p), n * PAGE, PROT_READ | PROT_WRITE))
		BAD(other, "mprotect: %s", strerror(error));
	for (int i = p; i < p + n; i++)
		m->f[i] |= F_READ | F_WRITE;
	check(m, p, n);
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
	u64 other = area_of(m->slot, !m->arena);
	int p, n;

	if (!patched && m->uffd >= 0)
		return;
	random_range(&p, &n);
	uniform(m, &p, &n, F_READ | F_WRITE | F_RWP | F_RMISS);
	note("mremap %s %d+%d", name(m), p, n);
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
			pagemap_at(m, other + i * PAGE, 1, &pm);
			if (!(pm & PM_UFFD_WP) != !(m->f[i] & F_WP))
				BAD(spurious, "after mremap: page %d: %016llx, model %02x", i,
				    pm, m->f[i]);
		}
	}
	if (!do_mremap(m, p, n, other, m->base))
		BAD(other, "can't move back: %s", strerror(error));
	reserve(m->proc, other);
	check(m, p, n);
}

void new_mapping(struct map *m)
{
	int flags = MAP_FIXED | (m->priv ? MAP_PRIVATE : MAP_SHARED);
	int fd = file;

	if (kind == ANON) {
		flags |= MAP_ANONYMOUS;
		fd = -1;
	}
	if (kind == SYSV) {
		if (SYS(m->proc, shmat, sysv_id, m->base, SHM_REMAP) != (long)m->base)
			BAD(other, "shmat: %s", strerror(error));
	} else if (SYS(m->proc, mmap, m->base, nr_pages * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0) !=
		   (long)m->base) {
		BAD(other, "mmap: %s", strerror(error));
	}
	if (kind == ANON)
		SYS(m->proc, madvise, m->base, nr_pages * PAGE, MADV_NOHUGEPAGE);
	if (kind == HUGE && m->slot < 2)
		SYS(m->proc, madvise, m->base, nr_pages * PAGE, MADV_HUGEPAGE);
	/* A file of hugetlbfs grows as far as it is mapped */
	if (huge_only)
		size = nr_pages;
	memset(m->f, F_READ | F_WRITE, nr_pages);
}

static void op_remap_fresh(void)
{
	struct map *m = random_map();

	note("map anew %s", name(m));
	if (rnd(2) && SYS(m->proc, munmap, m->base, nr_pages * PAGE))
		BAD(other, "munmap: %s", strerror(error));
	new_mapping(m);
	check(m, 0, nr_pages);
	if (m->uffd >= 0)
		do_register(m, 0, nr_pages, any_mode() | (patched ? 0 : F_RWP));
}

void open_proc(int i, pid_t pid)
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
		skip("%s: %s", path, strerror(errno));
}

static void close_proc(int i)
{
	procs[i].live = false;
	close(procs[i].pagemap);
	close(procs[i].mem);
	close(procs[i].clear_refs);
}

static u64 child_until;

/* What a child of this process will know; how many of its uffds it inherits. */
int fork_begins(int parent)
{
	int uffds = 0;

	for (int s = 0; s < SLOTS; s++) {
		struct map *m = &maps[parent * SLOTS + s], *c = &maps[2 * SLOTS + s];

		if (!m->live)
			continue;
		*c = *m;
		c->proc = 2;
		c->uffd = -1;
		c->monitor = c->held = c->live = false;
		if (fork_event_due(m)) {
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
	return uffds;
}

void fork_ended(int parent, pid_t pid)
{
	if (pid < 0)
		BAD(other, "fork: %s", strerror(error));
	open_proc(2, pid);
	/* It answers when it has all it needs. */
	SYS(2, getpid, 0);
	for (int s = 0; s < SLOTS; s++) {
		struct map *c = &maps[2 * SLOTS + s];

		c->live = maps[parent * SLOTS + s].live;
		if (!c->live || !c->monitor)
			continue;
		c->uffd = sh->child_fd[s];
		if (c->uffd < 0)
			BAD(lost, "no fork event for slot %d", s);
	}
	/*
	 * Of a VMA that has never had a page of its own, fork() leaves out the zero pages;
	 * with the series not if it is registered for write-protect.  Where it may, they go.
	 */
	for (int i = 0; i < (int)nr_pages * SLOTS && kind == ANON; i++) {
		struct map *c = &maps[2 * SLOTS + i / nr_pages];
		int p = i % nr_pages;

		if (c->live && (c->f[p] & F_ZERO) && !(patched && c->f[p] & F_RWP)) {
			SYS(2, madvise, addr_of(c, p), PAGE, MADV_DONTNEED);
			zapped(c, p);
		}
	}
	child_until = step_nr + 30 + rnd(300);
	check_all(NULL);
}

static void op_fork(void)
{
	int parent = rnd(2), uffds;

	if (procs[2].live || late_monitor())
		return;
	note("fork %d", parent);
	uffds = fork_begins(parent);
	fork_ended(parent, CALL(parent, X_FORK, uffds));
}

void end_child(void)
{
	note("exit of the child");
	CALL(2, X_EXIT, 0);
	while (!kill(procs[2].pid, 0))
		usleep(100);
	close_proc(2);
	for (int s = 0; s < SLOTS; s++)
		maps[2 * SLOTS + s].live = false;
	check_all(NULL);
}

void end_child_in_time(void)
{
	if (procs[2].live && step_nr > child_until)
		end_child();
}

static void op_migrate(void)
{
	struct map *m = any_map();
	void **pages = (void *)sh->arg;
	int p, n, node = rnd(2);
	static int nodes[MAX_PAGES], status[MAX_PAGES];

	random_range(&p, &n);
	note("migrate %s %d+%d to %d", name(m), p, n, node);
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

	note("clear_refs 4 of %d", i);
	if (write(procs[i].clear_refs, "4", 1) != 1)
		BAD(other, "clear_refs: %s", strerror(errno));
	check_all(NULL);
}

static void op_fill(void)
{
	struct map *m = any_monitored();
	int p, n, fill;

	random_range(&p, &n);
	n = n > 8 ? 8 : n;
	uniform(m, &p, &n, F_RWP | F_RMISS | F_WRITE);
	if (!(m->f[p] & (F_RWP | F_RMISS)) || late_touch_in(m, p, n))
		return;
	fill = any_fill(m, p);
	note("fill %d %s %d+%d", fill, name(m), p, n);
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
	note("mlock, munlock %s %d+%d", name(m), p, n);
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

	if (!have_cgroup || huge_only)
		return;
	now = get_number(CGROUP "memory.current");
	note("reclaim %d pages of %d", (int)(less / PAGE), (int)(now / PAGE));
	sprintf(text, "%llu", (now > 2 * less ? now - less : now));
	write_file(CGROUP "memory.high", text);
	write_file(CGROUP "memory.high", "max");
	after_reclaim(0, nr_pages);
	check_all(NULL);
}

static void op_compact(void)
{
	note("compact");
	write_file("/proc/sys/vm/compact_memory", "1");
	check_all(NULL);
}

static void op_collapse(void)
{
	long long end;
	u64 scans;

	if (kind != HUGE)
		return;
	note("wait for khugepaged");
	scans = get_number(THP_DIR "khugepaged/full_scans");
	end = now_ms() + 300;
	while (get_number(THP_DIR "khugepaged/full_scans") < scans + 2 && now_ms() < end)
		usleep(5000);
	check_all(NULL);
}

static void op_split(void)
{
	if (kind != HUGE)
		return;
	note("split huge pages");
	write_file("/sys/kernel/debug/split_huge_pages", "1");
	check_all(NULL);
}

static void op_swapoff(void)
{
	char text[2048], *name[4];
	int n = 0;

	if ((!patched && kind == ANON) || huge_only)
		return;
	read_file("/proc/swaps", text, sizeof(text));
	for (char *l = strchr(text, '\n'); l && l[1] == '/' && n < 4; l = strchr(l + 1, '\n'))
		name[n++] = l + 1;
	for (int i = 0; i < n; i++)
		name[i][strcspn(name[i], " \t")] = 0;
	note("swapoff, swapon");
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
	note("check the file");
	check_file();
}

static void op_read_pages(void) { op_access(false); }
static void op_write_pages(void) { op_access(true); }
static void op_wp(void) { op_protect(true); }
static void op_unwp(void) { op_protect(false); }
static void op_dontneed(void) { op_madvise(MADV_DONTNEED); }
static void op_cold(void) { op_madvise(MADV_COLD); }
static void op_pageout(void) { op_madvise(MADV_PAGEOUT); }

static const struct {
	void (*fn)(void);
	int weight;
} op_table[] = {
	{ op_wp, 1600 }, { op_unwp, 600 }, { op_write_pages, 2200 }, { op_read_pages, 1400 },
	{ op_kernel_write, 700 }, { op_file_write, 300 }, { op_fill, 500 }, { op_populate, 150 },
	{ op_dontneed, 600 }, { op_pageout, 400 }, { op_cold, 100 }, { op_migrate, 250 },
	{ op_punch, 400 }, { op_truncate, 100 }, { op_mprotect, 350 }, { op_mremap, 200 },
	{ op_register, 200 }, { op_unregister, 150 }, { op_close, 60 }, { op_remap_fresh, 40 },
	{ op_fork, 40 }, { op_clear_refs, 60 }, { op_check_file, 20 },
	{ op_reclaim, 30 }, { op_compact, 2 }, { op_collapse, 15 }, { op_split, 10 }, { op_swapoff, 3 },
	{ op_late, 120 },		/* the last one, see below */
};

void any_op(void)
{
	size_t n = sizeof(op_table) / sizeof(op_table[0]);
	static int sum;
	int r;

	/* Late monitors only where there are monitors, and events are kept in order */
	if (sigbus || !patched)
		n--;
	if (!sum)
		for (size_t i = 0; i < n; i++)
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
