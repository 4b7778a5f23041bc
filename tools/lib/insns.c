// SPDX-License-Identifier: GPL-2.0
/*
 * QEMU plugin of tools/lib/profile: count how often each kernel instruction is
 * executed from one address of the guest to another, the last time around.
 *
 * start=HEX, stop=HEX   instructions of the program at which to begin and end
 * out=FILE              lines of ADDRESS COUNT; all of user mode is address 0
 */
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
void qemu_plugin_register_vcpu_insn_exec_inline(struct insn *insn, int op, void *p, uint64_t n);
void qemu_plugin_register_vcpu_insn_exec_cb(struct insn *insn, void (*f)(unsigned int, void *),
					    int flags, void *p);

#define TEXT	0xffffffff81000000UL	/* a kernel without KASLR */
#define SIZE	(16UL << 20)
#define ADD	0

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static uint64_t *count, *last, start, stop;
static const char *out;

static void begin(unsigned int cpu, void *p)
{
	memset(count, 0, SIZE * sizeof(*count));
}

static void end(unsigned int cpu, void *p)
{
	memcpy(last, count, SIZE * sizeof(*count));
}

static void translate(uint64_t id, struct tb *tb)
{
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint64_t at = qemu_plugin_insn_vaddr(insn);
		uint64_t *c = at > TEXT && at < TEXT + SIZE ? &count[at - TEXT] : count;

		qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD, c, 1);
		if (at == start)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, begin, 0, NULL);
		if (at == stop)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, end, 0, NULL);
	}
}

static void print(uint64_t id, void *p)
{
	FILE *f = fopen(out, "w");

	for (uint64_t i = 0; f && i < SIZE; i++)
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
		else if (!strncmp(argv[i], "out=", 4))
			out = strdup(argv[i] + 4);
	}
	count = calloc(SIZE, sizeof(*count));
	last = calloc(SIZE, sizeof(*last));
	if (!out || !count || !last)
		return 1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
	qemu_plugin_register_atexit_cb(id, print, NULL);
	return 0;
}
