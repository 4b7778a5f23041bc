// SPDX-License-Identifier: GPL-2.0
/*
 * Monitors that don't read at once.
 *
 * For a while nobody reads from the userfaultfds of one process.  Several of its
 * threads make calls that raise events, and wait: fork(), mremap(), mmap() over
 * what is mapped, madvise().  Now and then one event is read.  Everything else
 * goes on.  What fork(), mremap() and mmap() do is done before their event is read,
 * what madvise() does comes after it.
 *
 * Until the last event of a userfaultfd has been read, whatever it is asked for must
 * be refused with EAGAIN: the client can't know what the addresses mean.  A protect
 * call between a fork() and its event, for example, would not hold in the child.
 */
#include "uffd-wp.h"
#include "uffd-oracle.h"

enum what { FORK, REMAP, UNMAP, REMOVE, WRITE, WHATS };

static struct late {			/* a call of thread HELPER */
	enum what what;
	struct map *m;
	bool ended;
	u64 base;			/* of the mapping, when it began */
	int p, n;			/* pages it is about */
	int removed;			/* pages that events were about */
	bool hole;			/* MADV_REMOVE */
	unsigned int fork_unread;	/* slots whose event nobody has read */
	bool read, resolved;		/* the fault of a WRITE */
} late[HELPERS];
static int lates, proc;
static bool holding;

bool late_monitor(void)
{
	return holding;
}

bool late_touch_waits(void)
{
	for (int i = 0; i < lates; i++)
		if (late[i].what == WRITE && !late[i].ended)
			return true;
	return false;
}

/* Nobody but resolve_late() is to end its waiting. */
bool late_touch_in(struct map *m, int p, int n)
{
	for (int i = 0; i < lates; i++)
		if (late[i].what == WRITE && !late[i].ended && late[i].m == m &&
		    late[i].p >= p && late[i].p < p + n)
			return true;
	return false;
}

bool unread(struct map *m)
{
	for (int i = 0; i < lates; i++) {
		struct late *l = &late[i];

		if (l->ended || l->what == WRITE)
			continue;
		if (l->what == FORK ? m->proc == proc && (l->fork_unread >> m->slot & 1) : l->m == m)
			return true;
	}
	return false;
}

/* mremap() is done, and may still wait for the monitor. */
static void moved(struct map *m)
{
	reserve(proc, m->base);
	m->arena = !m->arena;
	m->base = area_of(m->slot, m->arena);
	if (!(m->features & UFFD_FEATURE_EVENT_REMAP))
		range_clear(m, 0, nr_pages, F_WP | F_RWP | F_RMISS);
}

static void call_is_over(struct late *l, long ret)
{
	struct map *m = l->m;

	l->ended = true;
	switch (l->what) {
	case FORK:
		if (l->fork_unread)
			BAD(lost, "fork() has not waited for its event");
		fork_ended(proc, ret);
		break;
	case REMAP:
		break;			/* see begin() */
	case UNMAP:
		if (ret != (long)(l->base + l->p * PAGE))
			BAD(other, "mmap: %s", strerror(error));
		if (kind == ANON)
			SYS(proc, madvise, ret, l->n * PAGE, MADV_NOHUGEPAGE);
		break;
	case REMOVE:
		/* The mapping may have gone away from there. */
		if (m->base != l->base)
			break;
		if (ret)
			BAD(other, "madvise: %s", strerror(error));
		if (l->removed != l->n)
			BAD(lost, "%d pages removed, events about %d", l->n, l->removed);
		break;
	default:
		judge(m, l->p, true, GO, sh->late_touch.out, false);
		accessed(m, l->p, true, sh->late_touch.stamp);
	}
}

/* Wait until each call either waits for the monitor or has come to its end. */
static void settle(void)
{
	long ret;

	for (int i = 0; i < lates; i++) {
		struct late *l = &late[i];

		while (!l->ended) {
			if (call_ended(proc, i, &ret))
				call_is_over(l, ret);
			else if (!l->resolved && call_waits(proc, i))
				break;
			else
				usleep(300);
		}
	}
}

/* Pages of which no other call knows, and which are registered alike */
static bool some_pages(struct map *m, int *p, int *n, uint8_t mask)
{
	for (int tries = 0; tries < 20; tries++) {
		bool mine = true;

		random_range(p, n);
		*n = *n > 48 ? 48 : *n;
		uniform(m, p, n, mask | F_RWP | F_RMISS);
		for (int i = 0; i < lates; i++)
			if (late[i].m == m && late[i].p < *p + *n && *p < late[i].p + late[i].n)
				mine = false;
		if (mine && (m->f[*p] & (F_RWP | F_RMISS)))
			return true;
	}
	return false;
}

static bool has(enum what what)
{
	for (int i = 0; i < lates; i++)
		if (late[i].what == what && !late[i].ended)
			return true;
	return false;
}

/* False if the one that chance picked can not be begun. */
static bool begin(void)
{
	struct map *m = &maps[proc * SLOTS + rnd(SLOTS)];
	struct late *l = &late[lates];
	u64 features, to = area_of(m->slot, !m->arena), len = nr_pages * PAGE;
	long ret;

	if (lates == HELPERS || !m->held)
		return false;
	*l = (struct late){ .what = rnd(WHATS), .m = m, .base = m->base };
	features = m->features;
	switch (l->what) {
	case FORK:
		for (int s = 0; s < SLOTS; s++)
			if (fork_event_due(&maps[proc * SLOTS + s]))
				l->fork_unread |= 1 << s;
		if (procs[2].live || has(FORK) || !l->fork_unread)
			return false;
		note("late: fork");
		START(proc, lates, X_FORK, fork_begins(proc));
		break;
	case REMAP:
		/* A fault that waits does not move. */
		if (!(features & UFFD_FEATURE_EVENT_REMAP) || late_touch_waits())
			return false;
		note("late: mremap %s", name(m));
		START_SYS(proc, lates, mremap, m->base, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to);
		break;
	case UNMAP:
		if (!(features & UFFD_FEATURE_EVENT_UNMAP) || !some_pages(m, &l->p, &l->n, 0))
			return false;
		note("late: map anew %s %d+%d", name(m), l->p, l->n);
		START_SYS(proc, lates, mmap, addr_of(m, l->p), l->n * PAGE, PROT_READ | PROT_WRITE,
			  MAP_FIXED | (m->priv ? MAP_PRIVATE : MAP_SHARED) |
			  (kind == ANON ? MAP_ANONYMOUS : 0), kind == ANON ? -1 : file,
			  kind == ANON ? 0 : l->p * PAGE);
		break;
	case REMOVE:
		if (!(features & UFFD_FEATURE_EVENT_REMOVE) || !some_pages(m, &l->p, &l->n, F_WRITE))
			return false;
		l->hole = !m->priv && (m->f[l->p] & F_WRITE) && rnd(2);
		note("late: madvise %s %d+%d %s", name(m), l->p, l->n,
		     l->hole ? "REMOVE" : "DONTNEED");
		START_SYS(proc, lates, madvise, addr_of(m, l->p), l->n * PAGE,
			  l->hole ? MADV_REMOVE : MADV_DONTNEED);
		break;
	default:
		if (late_touch_waits() || has(REMAP) || !some_pages(m, &l->p, &l->n, 0))
			return false;
		l->n = 1;
		if (obstacle(m, l->p, true) != EV_WP || (m->f[l->p] & F_RMISS))
			return false;
		/* A private page may be copied before the event, or after it. */
		if (m->priv && !(m->f[l->p] & F_OWN))
			return false;
		note("late: write %s %d", name(m), l->p);
		sh->late_touch = (struct touch){ .addr = addr_of(m, l->p), .stamp = next_stamp++ };
		page_was_faulted(m, l->p);
		START(proc, lates, X_LATE_TOUCH);
	}
	lates++;
	if (l->what == UNMAP) {
		for (int i = l->p; i < l->p + l->n; i++)
			m->f[i] = F_READ | F_WRITE;
		if (huge_only && size < (u64)l->p + l->n)
			size = l->p + l->n;
	}
	settle();
	if (l->what != REMAP)
		return true;
	/* There may be more VMAs than the model knows. */
	if (l->ended && call_ended(proc, lates - 1, &ret) && ret == -1) {
		if (error != EFAULT)
			BAD(other, "mremap: %s", strerror(error));
		more(" failed");
		reserve(proc, to);
	} else {
		moved(m);
	}
	return true;
}

/* About the pages of a REMOVE event, as soon as madvise() has gone on */
static void removed(struct map *m, u64 start, u64 end, bool now)
{
	for (int i = 0; i < lates; i++) {
		struct late *l = &late[i];
		int p = (start - l->base) / PAGE, n = (end - start) / PAGE;

		if (l->what != REMOVE || l->m != m || start < l->base || p < l->p ||
		    p + n > l->p + l->n)
			continue;
		if (!now) {
			l->removed += n;
		} else if (l->hole) {
			punched(p, n, false);
		} else if (m->base == l->base) {
			for (int j = p; j < p + n; j++)
				zapped(m, j);
		}
		return;
	}
	BAD(spurious, "REMOVE event for %s, %llx-%llx", name(m), start,
	    end);
}

static const char *event_name(int event)
{
	return event == UFFD_EVENT_FORK ? "FORK" : event == UFFD_EVENT_REMAP ? "REMAP" :
	       event == UFFD_EVENT_REMOVE ? "REMOVE" : event == UFFD_EVENT_UNMAP ? "UNMAP" :
	       "a fault";
}

/* Somebody waits for a fault, and the monitor knows of it. */
static void resolve_late(void)
{
	for (int i = 0; i < lates; i++) {
		struct late *l = &late[i];

		if (!l->read || l->resolved)
			continue;
		l->resolved = !unread(l->m);
		more(l->resolved ? " resolved" : " too early");
		wp_pages(l->m, l->p, 1, false);
		settle();
	}
}

/* The next event of one of the userfaultfds */
static bool read_one(void)
{
	int s = rnd(SLOTS);

	for (int i = 0; i < SLOTS; i++, s = (s + 1) % SLOTS) {
		struct map *m = &maps[proc * SLOTS + s];
		struct uffd_msg *msg = &sh->msg;
		int event;

		if (!m->held)
			continue;
		event = CALL(proc, X_READ, s);
		if (!event)
			continue;
		note("late: read %s from %s", event_name(event), name(m));
		switch (event) {
		case UFFD_EVENT_PAGEFAULT:
			for (int j = 0; j < lates; j++)
				if (late[j].what == WRITE && !late[j].read) {
					late[j].read = true;
					due_event(late[j].m, late[j].p, UFFD_PAGEFAULT_FLAG_WP |
						     UFFD_PAGEFAULT_FLAG_WRITE);
				}
			check_events();
			break;
		case UFFD_EVENT_FORK:
			for (int j = 0; j < lates; j++)
				if (late[j].what == FORK)
					late[j].fork_unread &= ~(1U << s);
			settle();
			break;
		case UFFD_EVENT_REMOVE:
			removed(m, msg->arg.remove.start, msg->arg.remove.end, false);
			settle();
			removed(m, msg->arg.remove.start, msg->arg.remove.end, true);
			break;
		default:
			settle();
		}
		resolve_late();
		check_all(NULL);
		return true;
	}
	return false;
}

/* Whatever a monitor can ask for, of all that don't read */
static void ask(void)
{
	int p, n;

	for (int s = 0; s < SLOTS; s++) {
		struct map *m = &maps[proc * SLOTS + s];

		if (!m->held || rnd(3) == 0)
			continue;
		random_range(&p, &n);
		uniform(m, &p, &n, F_RWP);
		if (!unread(m) && (!(m->f[p] & F_RWP) || late_touch_in(m, p, n)))
			continue;
		note("late: %s %s %d+%d", unread(m) ? "too early to protect" : "protect", name(m), p, n);
		if (rnd(3))
			wp_pages(m, p, n, rnd(2));
		else if (unread(m))
			fill_page(m, p, FILL_COPY + rnd(3), next_stamp++);
	}
}

static void others(int n)
{
	for (n = rnd(n); n > 0; n--)
		any_op();
}

static void hold(bool on)
{
	for (int s = 0; s < SLOTS; s++) {
		struct map *m = &maps[proc * SLOTS + s];

		if (on ? m->uffd < 0 : !m->held)
			continue;
		CALL(proc, on ? X_HOLD : X_LET_GO, s);
		m->held = on;
	}
	holding = on;
}

static bool all_ended(void)
{
	for (int i = 0; i < lates; i++)
		if (!late[i].ended)
			return false;
	return true;
}

void op_late(void)
{
	struct map *m;

	if (holding)
		return;
	/* There can be only one. */
	if (procs[2].live && rnd(2))
		end_child();
	proc = rnd(2);
	m = &maps[proc * SLOTS];
	note("late: nobody reads the events of process %d", proc);
	/* A mapping that is all of a kind can be moved. */
	if (rnd(3)) {
		if (SYS(proc, mprotect, m->base, nr_pages * PAGE, PROT_READ | PROT_WRITE))
			BAD(other, "mprotect: %s", strerror(error));
		for (int i = 0; i < (int)nr_pages; i++)
			m->f[i] |= F_READ | F_WRITE;
		do_register(m, 0, nr_pages, F_RWP | (m->f[0] & F_RMISS));
	}
	hold(true);
	lates = 0;
	for (int i = 1 + rnd(HELPERS); i > 0; i--) {
		for (int tries = 0; tries < 12 && !begin(); tries++)
			;
		ask();
		others(4);
	}
	others(12);
	while (!all_ended()) {
		ask();
		others(4);
		if (!read_one())
			usleep(1000);
	}
	hold(false);
	lates = 0;
	note("late: the end");
	for (int s = 0; s < SLOTS; s++) {
		m = &maps[proc * SLOTS + s];
		if (m->uffd >= 0 && (m->f[0] & F_RWP))
			wp_pages(m, 0, 1, true);
	}
	check_all(NULL);
}
