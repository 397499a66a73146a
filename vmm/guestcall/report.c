/* SPDX-License-Identifier: MIT */
#include "vmm/guestcall/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "shared/page/run.h"

void report_exit(int status, const char *text, struct guest_end *end)
{
	memset(&end->x, 0, sizeof(end->x));
	end->x.status = status & 0xff;
	end->x.reason = WIRE_EXIT_PROGRAM;
	end->x.segment = UINT32_MAX;
	(void)snprintf(end->text, sizeof(end->text), "%s", text);
}

/* Append to (end)'s text what fits. */
static void __attribute__((format(printf, 2, 3)))
say(struct guest_end *end, const char *fmt, ...)
{
	size_t at = strlen(end->text);
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(end->text + at, sizeof(end->text) - at, fmt, ap);
	va_end(ap);
}

struct find_place {
	struct guest *g;
	uint64_t gpa;
	struct place_info info;
};

static int find_on_control(void *arg)
{
	struct find_place *f = arg;
	struct place *p = places_by_gpa(f->g->env.places, f->gpa);

	if (!p)
		return -1;
	place_info(p, &f->info);
	return 0;
}

static bool find_place(struct guest *g, uint64_t gpa, struct place_info *info)
{
	struct find_place f = {.g = g, .gpa = gpa};

	if (g->env.ops.on_control(g->env.ops.ctx, find_on_control, &f) < 0)
		return false;
	*info = f.info;
	return true;
}

static void say_place(const struct report *rp, const struct place_info *info,
    struct guest_end *end)
{
	static const char *const kind[] = {
	    [PLACE_SEGMENT] = "segment",
	    [PLACE_VIEW_RO] = "read-only view",
	    [PLACE_VIEW_COW] = "copy-on-write view",
	};
	uint64_t page = (rp->gpa - info->gpa) / PAGE_SIZE;

	say(end, "%s \"%s\"", kind[info->kind], info->name);
	if (info->snapshot)
		say(end, " of snapshot %llu",
		    (unsigned long long)info->snapshot);
	say(end, ", page %llu", (unsigned long long)page);
}

/* What kind of address it is that no segment or view has. */
static const char *what_address(struct guest *g, uint64_t va)
{
	const struct as_area *a;
	const char *what;

	if (va < AS_VA_MIN)
		return "the null page";
	if (va >= AS_VA_MAX)
		return "an address outside the program's half";
	if (va >= FIRN_WINDOW && va < AS_WINDOW_END)
		return "the window, where no segment or view is";
	guest_enter(g);
	a = as_find(&g->as, va);
	if (!a)
		what = va >= AS_STACK_TOP - AS_STACK_LEN - AS_STACK_LEN &&
			       va < AS_STACK_TOP
			   ? "the guard below the stack (it is used up)"
			   : "an unmapped address";
	else if (a->prot == 0)
		what = "memory without access";
	else if (a->stack)
		what = "the stack, which is not executable";
	else if (a->prot & AS_X)
		what = "the program's code, which is not writable";
	else if (a->prot & AS_W)
		what = "data, which is not executable";
	else
		what = "memory that is only readable";
	guest_leave(g);
	return what;
}

static void say_why(
    struct guest *g, const struct report *rp, struct guest_end *end)
{
	struct place_info info;

	say(end, "guest ended: ");
	if (rp->why[0])
		say(end, "%s", rp->why);
	if (!rp->verb) {
		say(end, "\n");
		return;
	}
	say(end, "%s ", rp->verb);
	if (rp->has_gpa && find_place(g, rp->gpa, &info)) {
		say_place(rp, &info, end);
		end->x.segment = info.id;
		end->x.snapshot = info.snapshot;
	} else if (rp->has_address) {
		say(end, "%s", what_address(g, rp->address));
	} else {
		say(end, "guest-physical memory that is not there");
	}
	if (rp->has_address)
		say(end, ", address %#llx", (unsigned long long)rp->address);
	else
		say(end, ", guest-physical %#llx", (unsigned long long)rp->gpa);
	say(end, rp->done ? ", perhaps by the instruction before rip\n" : "\n");
}

/* The bytes at rip, as far as they are there. */
static void take_code(struct guest *g, uint64_t rip, struct guest_end *end)
{
	uint32_t n = 0;

	guest_enter(g);
	while (n < sizeof(end->x.code)) {
		uint64_t gpa;
		uint64_t room;

		if (as_peek(&g->as, rip + n, &gpa, &room) < 0 ||
		    gmem_read(g->env.gmem, gpa, &end->x.code[n], 1) < 0)
			break;
		n++;
	}
	guest_leave(g);
	end->x.ncode = n;
}

static void take_regs(
    const struct cpu_regs *r, const struct report *rp, struct guest_end *end)
{
	static const uint8_t order[8] = {
	    RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP};

	for (uint32_t i = 0; i < 8; i++)
		end->x.regs[i] = r->gpr[order[i]];
	for (uint32_t i = 8; i < 16; i++)
		end->x.regs[i] = r->gpr[i];
	end->x.regs[6] = rp->rsp;
	end->x.rflags = rp->rflags;
	end->x.rip = rp->rip;
	end->x.known |= WIRE_KNOWN_REGS;
}

static void say_regs(struct guest_end *end)
{
	static const char name[16][4] = {"rax", "rbx", "rcx", "rdx", "rsi",
	    "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
	    "r15"};

	say(end, "  rip %016llx rflags %08llx\n",
	    (unsigned long long)end->x.rip, (unsigned long long)end->x.rflags);
	for (uint32_t i = 0; i < 16; i++)
		say(end, "%s%3s %016llx%s", i % 4 ? " " : "  ", name[i],
		    (unsigned long long)end->x.regs[i], i % 4 == 3 ? "\n" : "");
	say(end, "  code");
	for (uint32_t i = 0; i < end->x.ncode; i++)
		say(end, " %02x", end->x.code[i]);
	say(end, "%s\n", end->x.ncode ? "" : ": nothing is mapped at rip");
}

void report_fault(struct guest *g, const struct cpu_regs *r,
    const struct report *rp, struct guest_end *end)
{
	memset(&end->x, 0, sizeof(end->x));
	end->text[0] = '\0';
	end->x.status = rp->status;
	end->x.reason = WIRE_EXIT_FAULT;
	end->x.segment = UINT32_MAX;
	if (rp->has_address) {
		end->x.known |= WIRE_KNOWN_ADDRESS;
		end->x.address = rp->address;
	}
	say_why(g, rp, end);
	if (rp->regs_lost)
		return;
	take_regs(r, rp, end);
	take_code(g, rp->rip, end);
	say_regs(end);
}
