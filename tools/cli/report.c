/* SPDX-License-Identifier: MIT */
/*
 * The report of a guest that faulted, with its code disassembled. The library
 * for that relocates megabytes when it is loaded, which takes longer than most
 * commands: so only a report loads it, and does without where it is missing.
 */
#include <capstone/capstone.h>
#include <dlfcn.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli/cli.h"

#define CODE_MAX  64u /* bytes at rip that are looked at */
#define INSNS_MAX 4u

/* 16 if it is no hexadecimal digit. */
static unsigned nibble(char c)
{
	static const char digits[] = "0123456789abcdef";
	const char *p = c ? strchr(digits, c) : NULL;

	return p ? (unsigned)(p - digits) : 16;
}

static size_t unhex(const char *s, uint8_t *out, size_t max)
{
	size_t n = 0;

	for (; n < max && nibble(s[0]) < 16 && nibble(s[1]) < 16; s += 2)
		out[n++] = (uint8_t)(nibble(s[0]) << 4 | nibble(s[1]));
	return n;
}

#define CAPSTONE "libcapstone.so.4"

struct capstone {
	__typeof__(&cs_open) open;
	__typeof__(&cs_disasm) disasm;
	__typeof__(&cs_free) free;
	__typeof__(&cs_close) close;
};

/* It stays loaded. False: it is not installed, or another one. */
static bool load_capstone(struct capstone *c)
{
	void *lib = dlopen(CAPSTONE, RTLD_NOW | RTLD_LOCAL);

	if (!lib)
		return false;
	*(void **)&c->open = dlsym(lib, "cs_open");
	*(void **)&c->disasm = dlsym(lib, "cs_disasm");
	*(void **)&c->free = dlsym(lib, "cs_free");
	*(void **)&c->close = dlsym(lib, "cs_close");
	return c->open && c->disasm && c->free && c->close;
}

static void print_code(const struct capstone *c, csh cs, const uint8_t *code,
    size_t len, const json_t *report)
{
	cs_insn *insn;
	size_t n =
	    c->disasm(cs, code, len, json_u64(report, "rip"), INSNS_MAX, &insn);

	if (!n)
		(void)fprintf(stderr, "  code:     %s (not an instruction)\n",
		    json_str(report, "code"));
	for (size_t i = 0; i < n; i++)
		(void)fprintf(stderr, "  %s 0x%" PRIx64 ": %s %s\n",
		    i ? "         " : "code:    ", insn[i].address,
		    insn[i].mnemonic, insn[i].op_str);
	if (n)
		c->free(insn, n);
}

static void disassemble(const json_t *report)
{
	uint8_t code[CODE_MAX];
	size_t len = unhex(json_str(report, "code"), code, sizeof(code));
	struct capstone c;
	csh cs;

	if (!len)
		return;
	if (!load_capstone(&c) || c.open(CS_ARCH_X86, CS_MODE_64, &cs)) {
		(void)fprintf(stderr, "  code:     %s (no %s to read it)\n",
		    json_str(report, "code"), CAPSTONE);
		return;
	}
	print_code(&c, cs, code, len, report);
	c.close(&cs);
}

static void registers(json_t *regs)
{
	const char *name;
	json_t *v;
	unsigned k = 0;

	json_object_foreach(regs, name, v)
	{
		if (!json_is_integer(v))
			continue;
		(void)fputs("  ", stderr);
		out_text(stderr, name);
		(void)fprintf(stderr, "%*s%016" PRIx64 "%s",
		    (int)(strlen(name) < 7 ? 7 - strlen(name) : 1), "",
		    (uint64_t)json_integer_value(v), ++k % 3 ? "" : "\n");
	}
	if (k % 3)
		(void)fputc('\n', stderr);
}

static void field(const json_t *report, const char *key, const char *title)
{
	const json_t *v = json_object_get(report, key);

	if (json_is_string(v) && *json_string_value(v)) {
		(void)fprintf(stderr, "  %-9s ", title);
		out_text(stderr, json_string_value(v));
		(void)fputc('\n', stderr);
	} else if (json_is_integer(v)) {
		(void)fprintf(stderr, "  %-9s 0x%" PRIx64 "\n", title,
		    (uint64_t)json_integer_value(v));
	}
}

void report_print(const char *who, json_t *report)
{
	(void)fputs("firn: ", stderr);
	out_text(stderr, who);
	(void)fputs(": the guest was ended: ", stderr);
	out_text(stderr, json_str(report, "why"));
	(void)fputc('\n', stderr);
	/* A guest that ended itself has no place where it faulted. */
	if (!json_object_get(report, "registers"))
		return;
	field(report, "rip", "rip:");
	field(report, "address", "address:");
	field(report, "segment", "segment:");
	field(report, "snapshot", "snapshot:");
	disassemble(report);
	registers(json_object_get(report, "registers"));
}
