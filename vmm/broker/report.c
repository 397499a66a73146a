/* SPDX-License-Identifier: MIT */
/* How a VM ended, as JSON. */
#include <stdio.h>
#include <string.h>

#include "vmm/broker/internal.h"

/* What the registers held and what was at rip. */
static void regs_json(json_t *r, const struct wire_exited *x)
{
	static const char *const reg[16] = {"rax", "rbx", "rcx", "rdx", "rsi",
	    "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
	    "r15"};
	char code[2 * sizeof(x->code) + 1] = "";
	uint32_t ncode =
	    x->ncode < sizeof(x->code) ? x->ncode : sizeof(x->code);
	json_t *regs = json_object();

	for (uint32_t i = 0; i < ncode; i++)
		(void)snprintf(code + (size_t)2 * i, 3, "%02x", x->code[i]);
	for (int i = 0; i < 16; i++)
		(void)json_object_set_new(
		    regs, reg[i], json_integer((json_int_t)x->regs[i]));
	(void)json_object_set_new(
	    regs, "rflags", json_integer((json_int_t)x->rflags));
	(void)json_object_set_new(r, "rip", json_integer((json_int_t)x->rip));
	(void)json_object_set_new(r, "code", json_string(code));
	(void)json_object_set_new(r, "registers", regs);
}

/* As far as it is known. */
static void fault_json(json_t *r, const struct wire_exited *x)
{
	if (x->known & WIRE_KNOWN_REGS)
		regs_json(r, x);
	if (x->known & WIRE_KNOWN_ADDRESS)
		(void)json_object_set_new(
		    r, "address", json_integer((json_int_t)x->address));
	if (x->segment != UINT32_MAX)
		(void)json_object_set_new(
		    r, "segment", json_integer(x->segment));
	if (x->snapshot != 0)
		(void)json_object_set_new(
		    r, "snapshot", json_integer((json_int_t)x->snapshot));
}

static json_t *report_json(const struct bvm *vm)
{
	static const char prefix[] = "guest ended: ";
	const char *why = vm->report;
	json_t *r = json_object();

	if (strncmp(why, prefix, sizeof(prefix) - 1) == 0)
		why += sizeof(prefix) - 1;
	(void)json_object_set_new(
	    r, "why", json_stringn(why, strcspn(why, "\n")));
	(void)json_object_set_new(r, "text", json_string(vm->report));
	if (vm->end.reason == WIRE_EXIT_FAULT)
		fault_json(r, &vm->end);
	return r;
}

static const char *reason_name(uint32_t r)
{
	static const char *const name[] = {
	    [WIRE_EXIT_PROGRAM] = "exit",
	    [WIRE_EXIT_FAULT] = "fault",
	    [WIRE_EXIT_KILLED] = "killed",
	    [WIRE_EXIT_REFUSED] = "refused",
	};

	return r < sizeof(name) / sizeof(name[0]) ? name[r] : "unknown";
}

json_t *vm_end_json(const struct bvm *vm)
{
	json_t *r = json_pack("{s:i,s:s}", "status", (int)vm->end.status,
	    "reason", reason_name(vm->end.reason));

	if (r != NULL && vm->report != NULL && vm->report[0] != '\0')
		(void)json_object_set_new(r, "report", report_json(vm));
	return r;
}
