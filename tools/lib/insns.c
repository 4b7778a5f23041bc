// SPDX-License-Identifier: GPL-2.0
/*
 * QEMU plugin of tools/lib/profile: count how often each kernel instruction is
 * executed from one address of the guest to another, the last time around.
 *
 * start=HEX, stop=HEX   instructions of the program at which to begin and end
 * out=FILE              lines of ADDRESS COUNT; all of user mode is address 0
 * done=HEX              for tools/lib/cost: an instruction of the program at which
 *                       to append "= NUMBER", the lines, and for each a third
 *                       number, cache lines.  Then "stack COUNT"
 *
 * A cache line is counted where the kernel touches it first since it was entered
 * from user mode.  Those of kernel stacks are counted by themselves: how deep the
 * stack is depends on the compiler.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* From qemu-plugin.h, which the Debian package does not have */
struct tb;
struct insn;
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*f)(uint64_t, struct tb *));
void qemu_plugin_register_atexit_cb(uint64_t id, void (*f)(uint64_t, void *), void *p);
size_t qemu_plugin_tb_n_insns(const struct tb *tb);
struct insn *qemu_plugin_tb_get_insn(const struct tb *tb, size_t i);
uint64_t qemu_plugin_insn_vaddr(const struct insn *insn);
const uint8_t *qemu_plugin_insn_data(const struct insn *insn);
void qemu_plugin_register_vcpu_insn_exec_inline(struct insn *insn, int op, void *p, uint64_t n);
void qemu_plugin_register_vcpu_insn_exec_cb(struct insn *insn, void (*f)(unsigned int, void *),
					    int flags, void *p);
void qemu_plugin_register_vcpu_mem_cb(struct insn *insn,
				      void (*f)(unsigned int, uint32_t, uint64_t, void *),
				      int flags, int rw, void *p);

#define TEXT	0xffffffff81000000UL	/* a kernel without KASLR */
#define SIZE	(16UL << 20)
#define ADD	0
#define RW	3
#define STACK	(1UL << 32)		/* the instruction pushes */

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static uint64_t *count, *last, start, stop, done;
static const char *out;

/* Cache lines that were touched in this stay in the kernel */
#define SLOTS	(1UL << 22)
#define STACKS	4096			/* blocks of 16 KiB */
static struct { uint64_t line, stay; } *seen;
static uint64_t *touched, *touched_last, on_stack, on_stack_last, stay = 1, user;
/* Blocks that are a stack in this record; what was one may be a page table now */
static struct stack { uint64_t block; int row; } stacks[STACKS];
static bool on;
static FILE *rows;
static int row;

static void begin(unsigned int cpu, void *p)
{
	memset(count, 0, SIZE * sizeof(*count));
	if (!done)
		return;
	memset(touched, 0, SIZE * sizeof(*touched));
	on_stack = 0;
	user = -1;
	on = true;
}

static void end(unsigned int cpu, void *p)
{
	memcpy(last, count, SIZE * sizeof(*count));
	if (!done)
		return;
	memcpy(touched_last, touched, SIZE * sizeof(*touched));
	on_stack_last = on_stack;
	on = false;
}

static void next(unsigned int cpu, void *p)
{
	fprintf(rows, "= %d\n", row++);
	for (uint64_t i = 0; i < SIZE; i++)
		if (last[i])
			fprintf(rows, "%lx %lu %lu\n", i ? TEXT + i : 0, last[i], touched_last[i]);
	fprintf(rows, "stack %lu\n", on_stack_last);
	fflush(rows);
}

static void touch(unsigned int cpu, uint32_t info, uint64_t addr, void *p)
{
	uint64_t line = addr >> 6, block = addr >> 14, h;

	if (!on)
		return;
	if ((uintptr_t)p & STACK)
		stacks[block % STACKS] = (struct stack){ block, row + 1 };
	if (user != count[0]) {
		user = count[0];
		stay++;
	}
	for (h = line * 0x9e3779b97f4a7c15UL >> 42; seen[h].stay == stay; h = (h + 1) % SLOTS)
		if (seen[h].line == line)
			return;
	seen[h].line = line;
	seen[h].stay = stay;
	if (stacks[block % STACKS].block == block && stacks[block % STACKS].row == row + 1)
		on_stack++;
	else
		touched[(uintptr_t)p & (SIZE - 1)]++;
}

/* push, call */
static bool pushes(const uint8_t *code)
{
	if (*code == 0x41)
		code++;
	return (*code & 0xf8) == 0x50 || *code == 0xe8;
}

static void translate(uint64_t id, struct tb *tb)
{
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint64_t at = qemu_plugin_insn_vaddr(insn);
		bool kernel = at > TEXT && at < TEXT + SIZE;
		uint64_t *c = kernel ? &count[at - TEXT] : count;

		qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD, c, 1);
		if (done && kernel)
			qemu_plugin_register_vcpu_mem_cb(insn, touch, 0, RW, (void *)((at - TEXT) |
				(pushes(qemu_plugin_insn_data(insn)) ? STACK : 0)));
		if (at == start)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, begin, 0, NULL);
		if (at == stop)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, end, 0, NULL);
		if (done && at == done)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, next, 0, NULL);
	}
}

static void print(uint64_t id, void *p)
{
	FILE *f = done ? rows : fopen(out, "w");

	for (uint64_t i = 0; f && !done && i < SIZE; i++)
		if (last[i])
			fprintf(f, "%lx %lu\n", i ? TEXT + i : 0, last[i]);
	if (!f || fclose(f))
		perror(out);
}

__attribute__((visibility("default")))
int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "start=", 6))
			start = strtoul(argv[i] + 6, NULL, 16);
		else if (!strncmp(argv[i], "stop=", 5))
			stop = strtoul(argv[i] + 5, NULL, 16);
		else if (!strncmp(argv[i], "done=", 5))
			done = strtoul(argv[i] + 5, NULL, 16);
		else if (!strncmp(argv[i], "out=", 4))
			out = strdup(argv[i] + 4);
	}
	count = calloc(SIZE, sizeof(*count));
	last = calloc(SIZE, sizeof(*last));
	if (!out || !count || !last)
		return 1;
	if (done) {
		touched = calloc(SIZE, sizeof(*touched));
		touched_last = calloc(SIZE, sizeof(*touched_last));
		seen = calloc(SLOTS, sizeof(*seen));
		rows = fopen(out, "w");
		if (!touched || !touched_last || !seen || !rows)
			return 1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
	qemu_plugin_register_atexit_cb(id, print, NULL);
	return 0;
}
