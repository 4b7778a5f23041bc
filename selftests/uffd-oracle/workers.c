// SPDX-License-Identifier: GPL-2.0
/*
 * One process: its faults, its monitor thread, the commands it takes.
 */
#include "uffd-wp.h"
#include "uffd-oracle.h"

int me;
static __thread sigjmp_buf fault;
static __thread volatile sig_atomic_t may_fault;
static int mon_fd[SLOTS] = { -1, -1, -1 }, mon_wake = -1;
static int held_fd[SLOTS] = { -1, -1, -1 };
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

void catch_faults(void)
{
	struct sigaction sa = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };

	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
}

static void touch_page(struct touch *t, bool write)
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

/* Take one message, and do what it asks for; not if there is a late monitor. */
static long serve(int slot, int fd, bool late)
{
	struct plan *plan = &sh->plan[me][slot];
	struct uffd_msg msg;
	struct event *e;
	u64 addr;

	if (read(fd, &msg, sizeof(msg)) != sizeof(msg))
		return 0;
	if (late)
		sh->msg = msg;
	switch (msg.event) {
	case UFFD_EVENT_PAGEFAULT:
		break;
	case UFFD_EVENT_FORK:
		send_fd(slot, msg.arg.fork.ufd);
		return msg.event;
	case UFFD_EVENT_REMAP:
		add(&sh->remaps, 1);
		return msg.event;
	default:
		add(&sh->others, 1);
		return msg.event;
	}
	addr = msg.arg.pagefault.address & ~(PAGE - 1);
	e = &sh->event[(add(&sh->events, 1) - 1) % EVENTS];
	*e = (struct event){ me, slot, 0, addr, msg.arg.pagefault.flags };
	if (late)
		;
	else if (e->flags & UFFD_PAGEFAULT_FLAG_WP)
		e->error = uffd_wp(fd, addr - plan->before * PAGE,
				   (plan->before + plan->after + 1) * PAGE, false);
	else	/* without a plan it is a failure, but not a hang */
		e->error = uffd_fill(fd, addr, plan->fill ?: FILL_ZERO, sh->mon_page[me],
				     plan->stamp);
	return msg.event;
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
				serve(i, p[i].fd, false);
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

static long futex(unsigned int *p, int op, unsigned int v)
{
	struct timespec t = { .tv_nsec = 500000000 };

	return syscall(SYS_futex, p, op, v, op == FUTEX_WAIT ? &t : NULL, NULL, 0);
}

static long execute(int op, const long *a);

/* Do what the channel says, for ever. */
static void __attribute__((noreturn)) *serve_channel(void *arg)
{
	struct chan *c = arg;
	unsigned int seen = load(&c->done);

	store(&c->tid, syscall(SYS_gettid));
	for (;;) {
		while (load(&c->req) == seen)
			futex(&c->req, FUTEX_WAIT, seen);
		store(&c->begun, ++seen);
		c->ret = execute(c->op, c->arg);
		c->error = errno;
		store(&c->done, seen);
		futex(&c->done, FUTEX_WAKE, 1);
	}
}

void __attribute__((noreturn)) serve_driver(void)
{
	serve_channel(&sh->chan[me]);
}

static void start_thread(void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t t;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	if (pthread_create(&t, &attr, fn, arg))
		skip("pthread_create: %s", strerror(errno));
	pthread_detach(t);
}

/* The monitor, and in who can have a late one those that wait for it */
void start_threads(void)
{
	mon_wake = eventfd(0, EFD_CLOEXEC);
	sem_init(&mon_ack, 0, 0);
	start_thread(monitor, NULL);
	for (int i = 0; me < 2 && i < HELPERS; i++)
		start_thread(serve_channel, &sh->helper[me][i]);
}

static void forget(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static long fork_child(int uffds)
{
	pid_t pid = fork();
	int slot;

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* What is inherited keeps the registrations of the parent alive. */
	for (int i = 0; i < SLOTS; i++) {
		forget(&mon_fd[i]);
		forget(&held_fd[i]);
	}
	close(mon_wake);
	me = 2;
	start_threads();
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
			touch_page(&sh->touch[i], a[1]);
		return 0;
	case X_LATE_TOUCH:
		touch_page(&sh->late_touch, true);
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
	case X_HOLD:
		held_fd[a[0]] = mon_fd[a[0]];
		set_monitor(a[0], -1);
		return 0;
	case X_READ:
		return serve(a[0], held_fd[a[0]], true);
	case X_LET_GO:
		set_monitor(a[0], held_fd[a[0]]);
		held_fd[a[0]] = -1;
		return 0;
	case X_FORK:
		return fork_child(a[0]);
	default:
		_exit(0);
	}
}

/*
 * The driver's side
 */
int error;

static void ask(struct chan *c, int op, const long *arg)
{
	c->op = op;
	memcpy(c->arg, arg, sizeof(c->arg));
	add(&c->req, 1);
	futex(&c->req, FUTEX_WAKE, 1);
}

long call(int proc, int op, const long *arg)
{
	struct chan *c = &sh->chan[proc];
	unsigned int done;
	long ret;

	if (proc == 0) {
		ret = execute(op, arg);
		error = errno;
		return ret;
	}
	done = load(&c->done) + 1;
	ask(c, op, arg);
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

/* The same, in a thread of its own: it may have to wait for the monitor. */
void start_call(int proc, int helper, int op, const long *arg)
{
	ask(&sh->helper[proc][helper], op, arg);
}

bool call_ended(int proc, int helper, long *ret)
{
	struct chan *c = &sh->helper[proc][helper];

	if (load(&c->done) != load(&c->req))
		return false;
	error = c->error;
	*ret = c->ret;
	return true;
}

/*
 * State and number of context switches: the same as before if it has not run.
 * While a thread is in fork(), libc keeps its locks: neither stdio nor malloc here.
 */
static void where_is(pid_t pid, struct chan *c, char *text, size_t len)
{
	char path[64], all[4096], *state, *switches;

	sprintf(path, "/proc/%d/task/%d/status", pid, load(&c->tid));
	read_file(path, all, sizeof(all));
	state = strstr(all, "State:");
	switches = strstr(all, "voluntary_ctxt_switches");
	snprintf(text, len, "%.9s %s", state ?: "", switches ?: "");
}

/* Has a call that was started come to where it waits for the monitor? */
bool call_waits(int proc, int helper)
{
	struct chan *c = &sh->helper[proc][helper];
	char first[256], now[256];

	if (load(&c->begun) != load(&c->req))
		return false;
	where_is(procs[proc].pid, c, first, sizeof(first));
	/* Or for a page, or a lock, but these don't take long. */
	for (int i = 0; i < 8; i++) {
		usleep(2000);
		where_is(procs[proc].pid, c, now, sizeof(now));
		if (strcmp(first, now) || strstr(now, "State:\tR"))
			return false;
	}
	return load(&c->done) != load(&c->req);
}

long uffd_ioctl(struct map *m, unsigned long req, const void *arg, size_t len)
{
	long ret;

	memcpy(sh->arg, arg, len);
	ret = SYS(m->proc, ioctl, m->uffd, (long)req, (long)sh->arg);
	return ret ? error : 0;
}
