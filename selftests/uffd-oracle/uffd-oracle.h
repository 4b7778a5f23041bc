/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The randomised test with an oracle, see main.c.  What the driver and the
 * processes share (workers.c), the model (model.c), and what a step can be
 * (operations.c; late.c for monitors that don't read at once).
 */
#include "../uffd-random.h"

/* Of hugetlbfs all pages are huge: page_size is theirs then, see main.c */
#undef PAGE
#define PAGE		((u64)page_size)

#define PROCS		3		/* driver, worker, child of one of them */
#define SLOTS		3		/* mappings of each */
#define HELPERS		4		/* threads of each that may wait for a monitor */
#define RING		40		/* steps to print after a failure */
#define EVENTS		8192

extern enum mem kind;
extern bool sigbus, replay, patched, have_cgroup;
extern bool mainline;		/* newer than 5.10, and not of this series */
extern u64 seed, nr_pages;

/*
 * What the processes share; at the same address in all of them.
 */
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

struct chan {				/* driver tells a thread what to do */
	unsigned int req, begun, done;
	int op, error, tid;
	long arg[7], ret;
};

struct stats {
	u64 ops, checks, events, late;
	u64 lost, spurious, cross, content, hang, other, stalls;
	u64 pmd_markers, pmd_huge;	/* seen: see count_pmds() */
};

extern struct shared {
	struct stats total;
	struct chan chan[PROCS], helper[PROCS][HELPERS];
	struct plan plan[PROCS][SLOTS];
	unsigned int events, remaps, others;
	struct event event[EVENTS];
	struct touch touch[MAX_PAGES], late_touch;
	struct uffd_msg msg;		/* the last one that a late monitor has read */
	int child_fd[SLOTS];
	char arg[32768] __attribute__((aligned(4096)));
	u64 page[HUGE_SIZE / 8] __attribute__((aligned(4096)));
	/* of monitors, in which nothing else writes */
	u64 mon_page[PROCS][HUGE_SIZE / 8] __attribute__((aligned(4096)));
} *sh;

/*
 * main.c
 */
void pf(2) __attribute__((noreturn)) bad(u64 *what, const char *fmt, ...);
#define BAD(what, ...)	bad(&sh->total.what, __VA_ARGS__)
void pf(1) note(const char *fmt, ...);
void pf(1) more(const char *fmt, ...);	/* about the step that runs */
extern u64 step_nr;

/*
 * workers.c
 */
enum { OUT_OK, OUT_SEGV, OUT_BUS };
enum {
	X_SYS, X_TOUCH, X_OPEN, X_CLOSE, X_FORK, X_EXIT,
	X_HOLD, X_READ, X_LET_GO, X_LATE_TOUCH	/* see late.c */
};

struct map;
extern int me;				/* which process this is */
extern int pass_fd[2];
extern int error;			/* errno of the last call */

void catch_faults(void);
void start_threads(void);
void __attribute__((noreturn)) serve_driver(void);
long call(int proc, int op, const long *arg);
long uffd_ioctl(struct map *m, unsigned long req, const void *arg, size_t len);
void start_call(int proc, int helper, int op, const long *arg);
bool call_ended(int proc, int helper, long *ret);
bool call_waits(int proc, int helper);

#define CALL(proc, op, ...)	call(proc, op, (long[7]){ __VA_ARGS__ })
#define SYS(proc, nr, ...)	call(proc, X_SYS, (long[7]){ SYS_##nr, __VA_ARGS__ })
#define START(proc, helper, op, ...)	start_call(proc, helper, op, (long[7]){ __VA_ARGS__ })
#define START_SYS(proc, helper, nr, ...)				\
	start_call(proc, helper, X_SYS, (long[7]){ SYS_##nr, __VA_ARGS__ })
#define IOCTL(m, req, ...) ({						\
	__VA_ARGS__;							\
	uffd_ioctl(m, req, &arg, sizeof(arg));				\
})

/*
 * model.c
 */
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
	bool held;		/* its monitor does not read; see late.c */
	u64 features, base;
	int arena;
	uint8_t f[MAX_PAGES];
	u64 own[MAX_PAGES];	/* stamp of an own page */
};

struct proc {
	pid_t pid;
	int pagemap, mem, clear_refs;
	bool live;
};

extern struct map maps[PROCS * SLOTS];
extern struct proc procs[PROCS];
extern u64 stamps[MAX_PAGES];	/* contents of the file; 0 is a hole or zeroes */
extern bool exists[MAX_PAGES];	/* in the file: in page cache or in swap */
extern bool dirty[MAX_PAGES];	/* a page only read is clean, and reclaim drops it */
extern u64 size;		/* of the file, pages */
extern int file, source;
extern bool huge_only;		/* kinds of hugetlbfs */
extern u64 next_stamp;

/* What an access has to find; GO to proceed. */
enum obstacle { GO, NO_PROT, NO_FILE, EV_WP, EV_MISSING };
enum how { TOUCH, READ_INTO, VM_WRITEV, MEM };

u64 addr_of(struct map *m, int p);
u64 area_of(int slot, int nr);
void reserve(int proc, u64 addr);
bool own(struct map *m, int p);
void pagemap_at(struct map *m, u64 addr, int n, u64 *pm);
bool registered(struct map *m);
bool fork_event_due(struct map *m);
int obstacle(struct map *m, int p, bool write);
void accessed(struct map *m, int p, bool write, u64 stamp);
void zapped(struct map *m, int p);
void punched(int p, int n, bool even_cows);
void range_clear(struct map *m, int p, int n, uint8_t bits);
void model_wp(struct map *m, int p, int n, bool wp);
void random_range(int *p, int *n);
void uniform(struct map *m, int *p, int *n, uint8_t mask);
struct map *any_map(void);	/* perhaps one that is held */
struct map *random_map(void);
struct map *any_monitored(void);
struct map *random_monitored(void);
char *name(struct map *m);
void check(struct map *m, int p, int n);
void check_all(struct map *about);
void count_pmds(void);
bool in_file(int p);
void check_file(void);
void due_event(struct map *m, int p, u64 flags);
void check_events(void);
int any_fill(struct map *m, int p);
struct plan *make_plan(struct map *m, int p, bool alone);
void page_was_faulted(struct map *m, int p);
int simulate(struct map *m, int p, bool write, u64 stamp, struct plan *plan);
void judge(struct map *m, int p, bool write, int what, int out, bool kernel);
void reclaimed(struct map *m, int p, int out);
void check_read(struct map *m, int p, struct touch *t);
void fill_page(struct map *m, int p, int fill, u64 stamp);
void wp_pages(struct map *m, int p, int n, bool wp);
void access_page(struct map *m, int p, bool write, enum how how);

/*
 * operations.c
 */
void any_op(void);
void do_register(struct map *m, int p, int n, int mode);
void new_mapping(struct map *m);
void open_uffd(struct map *m);
void open_proc(int i, pid_t pid);
int fork_begins(int parent);
void fork_ended(int parent, pid_t pid);
void end_child(void);
void end_child_in_time(void);

/*
 * late.c
 */
void op_late(void);
bool late_monitor(void);
bool late_touch_waits(void);
bool late_touch_in(struct map *m, int p, int n);
bool unread(struct map *m);	/* its uffd has events that nobody has read */
