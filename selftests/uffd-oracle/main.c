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
#include "uffd-wp.h"
#include "uffd-oracle.h"
#include "../stall.h"

enum mem kind = MEMFD;
bool sigbus = true;		/* UFFD_FEATURE_SIGBUS instead of events */
bool replay, patched, have_cgroup, mainline;
u64 seed, nr_pages;
static u64 ops = 20000;
static unsigned int check_every = 8, runs = 1, limit_s, hang_s = 20;

struct shared *sh;


/* The driver's progress */
u64 step_nr;
static char ring[RING][160];
static const char map_name[PROCS * SLOTS][4] = {
	"0.0", "0.1", "0.2", "1.0", "1.1", "1.2", "2.0", "2.1", "2.2"
};
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
	       seed, kind_name[kind], sigbus ? "" : ", events",
	       nr_pages, step_nr);
}

/* Counts into *what, tells all that is known, and ends the run. */
void pf(2) __attribute__((noreturn)) bad(u64 *what, const char *fmt, ...)
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

void pf(1) note(const char *fmt, ...)
{
	char *s = ring[step_nr++ % RING];
	int n = sprintf(s, "%6llu ", step_nr);
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
void pf(1) more(const char *fmt, ...)
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

static void *watchdog(void *unused)
{
	(void)unused;
	while (!load(&finished)) {
		u64 was = load(&step_nr);
		struct stall_area a[PROCS * SLOTS];
		const char *why;
		int n = 0;

		if (goes_on(&step_nr, was, hang_s) || load(&finished)) {
			usleep(TICK_MS * 1000);
			continue;
		}
		for (int i = 0; i < PROCS * SLOTS; i++)
			if (maps[i].live)
				a[n++] = (struct stall_area){
					procs[maps[i].proc].pid, maps[i].uffd, maps[i].base,
					nr_pages, map_name[i]
				};
		print_ring();
		why = judge_stall(a, n, &step_nr, was);
		if (strcmp(why, STALL_ENDED))
			BAD(hang, "no progress for %u s, and %s", hang_s, why);
		printf("no progress for %u s, and %s\n", hang_s, why);
		sh->total.stalls++;
	}
	return NULL;
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
		m->priv = kind == ANON || (K(kind) & (K(PRIVATE) | K(HUGETLB_PRIVATE)) && !t[i].shared);
		m->uffd = -1;
		m->base = area_of(m->slot, 0);
		reserve(m->proc, area_of(m->slot, 0));
		reserve(m->proc, area_of(m->slot, 1));
		new_mapping(m);
		if (m->monitor) {
			open_uffd(m);
			do_register(m, 0, nr_pages, F_RWP);
		}
	}
}

static void finish(void)
{
	note("the end");
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
	if (kind == SYSV)
		shmctl(sysv_id, IPC_RMID, NULL);
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
		skip("socketpair: %s", strerror(errno));
	if (have_cgroup)
		have_cgroup = !write_file(CGROUP "cgroup.procs", "0");
	source = memfd_create("source", MFD_CLOEXEC);
	size = nr_pages;
	file = make_file(kind, size * PAGE);
	memset(sh->chan, 0, sizeof(sh->chan));
	memset(sh->helper, 0, sizeof(sh->helper));
	sh->events = sh->remaps = sh->others = 0;
	pid = fork();
	if (pid < 0)
		skip("fork: %s", strerror(errno));
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		me = 1;
		start_threads();
		serve_driver();
	}
	pthread_create(&t, NULL, watchdog, NULL);
	start_threads();
	open_proc(0, getpid());
	open_proc(1, pid);
	set_up_maps();
	for (u64 i = 0; i < ops; i++) {
		any_op();
		end_child_in_time();
		if (step_nr % check_every == 0)
			check_all(NULL);
		count_pmds();
		sh->total.ops++;
		if (limit_s && i % 64 == 0 && now_ms() - start > limit_s * 1000ULL / runs)
			break;
	}
	finish();
	store(&finished, true);
	stop_all();
	_exit(0);
}

/* Is this a kernel that has UFFD_FEATURE_MOVE, as 6.8 and later? */
static bool is_mainline(void)
{
	const u64 move = 1 << 16;
	struct uffdio_api api = { .api = UFFD_API };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	bool ret = !ioctl(fd, UFFDIO_API, &api) && (api.features & move);

	close(fd);
	return ret;
}

/* All huge pages have come back, and nothing is reserved; processes may still end. */
static bool pool_is(long long want)
{
	long long free, rsvd, end = now_ms() + 2000;

	do {
		free = file_value("/proc/meminfo", "HugePages_Free");
		rsvd = file_value("/proc/meminfo", "HugePages_Rsvd");
		if (free == want && rsvd <= 0)
			return true;
		usleep(1000);
	} while (now_ms() < end);
	printf("FAILED: other: %lld huge pages are free, not %lld; %lld reserved, seed %llu\n",
	       free, want, rsvd, seed);
	return false;
}

static const struct option options[] = {
	{ "seed", 1, NULL, 's' }, { "ops", 1, NULL, 'o' }, { "kind", 1, NULL, 'k' },
	{ "runs", 1, NULL, 'r' }, { "events", 0, NULL, 'e' }, { "pages", 1, NULL, 'p' },
	{ "check", 1, NULL, 'c' }, { "time", 1, NULL, 't' }, { "replay", 0, NULL, 'R' },
	{ "hang", 1, NULL, 'H' }, { "help", 0, NULL, 'h' }, { }
};

static const char help[] =
"  --kind K     memfd, tmpfs, tmpfs-huge, shared-anon, private, sysv; anon, which also\n"
"               runs on a kernel that can't do the others; or all these, one run each;\n"
"               hugetlb, hugetlb-private: these need a pool of 200 huge pages\n"
"  --seed S     default is a random one; it is printed\n"
"  --ops N      number of operations of a run, default 20000\n"
"  --runs N     so many runs, with seeds S, S+1, ...\n"
"  --time SEC   stop after this time altogether\n"
"  --events     monitor threads; default is UFFD_FEATURE_SIGBUS, which is faster\n"
"  --pages N    size of the file, default 160, tmpfs-huge: 1024, hugetlb: 24\n"
"  --check N    compare all of pagemap after so many steps, default 8\n"
"  --hang SEC   a step that takes longer is looked into, default 20\n"
"  --replay     print each step before it is taken\n"
"Exit status: 0, 1 for a failure, 4 when the kernel can't do what is asked for.\n";

int main(int argc, char **argv)
{
	u64 first, pages = 0, t0;
	unsigned int kinds;
	bool all = false, seeded = false;
	long long pool;
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
			for (kind = 0; kind < NR_KINDS && strcmp(kind_name[kind], optarg); kind++)
				;
			huge_only = kind < NR_KINDS && K(kind) & HTLB;
			if (kind < NR_KINDS || all)
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
		skip("mmap: %s", strerror(errno));
	patched = begin_test();
	mainline = is_mainline();
	if (!patched && (all || kind != ANON)) {
		errno = EOPNOTSUPP;
		skip("write-protect of shared memory: %s", strerror(errno));
	}
	/* Mainline refuses to register System V segments, the last kind. */
	kinds = mainline ? SYSV : NR_SMALL_KINDS;
	if (all)
		runs *= kinds;
	if (huge_only)
		page_size = file_value("/proc/meminfo", "Hugepagesize") << 10;
	pool = file_value("/proc/meminfo", "HugePages_Free");
	mkdir(CGROUP, 0755);
	have_cgroup = !access(CGROUP "memory.high", W_OK);
	hurry_khugepaged(true);

	s = &sh->total;
	count(true);
	first = seed;
	t0 = now_ms();
	for (unsigned int i = 0; i < runs && !rc; i++) {
		pid_t pid;

		seed = first + (all ? i / kinds : i);
		if (all)
			kind = i % kinds;
		nr_pages = pages ?: kind == HUGE ? 1024 : huge_only ? 24 : 160;
		if (nr_pages > MAX_PAGES)
			nr_pages = MAX_PAGES;
		printf("seed %llu, kind %s\n", seed, kind_name[kind]);
		fflush(stdout);
		pid = fork();
		if (!pid)
			run();
		if (pid < 0 || waitpid(pid, &status, 0) != pid)
			skip("fork: %s", strerror(errno));
		rc = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
		if (WIFSIGNALED(status))
			printf("FAILED: signal %d, seed %llu\n", WTERMSIG(status),
			       seed);
		if (!rc && !pool_is(pool))
			rc = 1;
	}
	hurry_khugepaged(false);
	rmdir(CGROUP);
	count(false);
	printf("operations %llu, %llu per second, events %llu, checks %llu, swap-outs %llu, "
	       "migrations %llu, splits %llu, collapses %llu, PMD-markers %llu, "
	       "huge-protected %llu, lost %llu, spurious %llu, cross %llu, "
	       "content %llu, hang %llu, other %llu, stalls %llu, refused %llu\n",
	       s->ops,
	       (s->ops * 1000 / (now_ms() - t0 + 1)),
	       s->events, s->checks,
	       counted.swapout, counted.migrated,
	       counted.split, counted.collapsed,
	       s->pmd_markers, s->pmd_huge,
	       s->lost, s->spurious,
	       s->cross, s->content,
	       s->hang, s->other,
	       s->stalls, s->late);
	return rc;
}
