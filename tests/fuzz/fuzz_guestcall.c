/* SPDX-License-Identifier: MIT */
/*
 * Any sequence of doorbells with any registers. The input is records of a port
 * and eight registers; addresses are folded so that many hit the program's
 * memory. The guest is put together by hand: there is no KVM behind it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/kernel/kernel.h"
#include "shared/page/run.h"
#include "tests/fuzz/fuzz.h"
#include "vmm/guestcall/internal.h"

#define RAM_LEN    (16ULL << 20)
#define SYS_LEN    (8ULL << 20)
#define TABLES_OFF (1ULL << 20)
#define CALLS_MAX  64u
#define DATA_VA    0x400000ULL

struct record {
	uint8_t port;
	uint8_t cpl;
	uint16_t nr;
	uint32_t fold; /* bit i: fold argument i into the data area */
	uint64_t arg[6];
};

static int on_control(void *ctx, int (*fn)(void *arg), void *arg)
{
	(void)ctx;
	return fn(arg);
}

/* A broker that refuses, or answers with what the guest's memory held. */
static int ask(void *ctx, uint16_t type, const void *payload, uint32_t len,
    struct wire_packet *reply, struct guest_layers *layers)
{
	(void)ctx;
	memset(reply, 0, sizeof(*reply));
	if (layers != NULL)
		layers->n = 0;
	FUZZ_CHECK(len <= WIRE_PAYLOAD_MAX);
	reply->m.type = type;
	reply->m.len = len;
	memcpy(reply->payload, payload, len);
	reply->m.status = len % 3 == 0 ? -EPERM : 1;
	return 0;
}

static void tell(void *ctx, uint16_t type, const void *payload, uint32_t len)
{
	(void)ctx;
	(void)type;
	(void)payload;
	(void)len;
}

static int op_zero(void *ctx, uint64_t gpa, uint64_t len)
{
	struct guest *g = ctx;

	return gmem_zero(g->env.gmem, gpa, len);
}

static void op_back(void *ctx, uint64_t gpa)
{
	(void)ctx;
	FUZZ_CHECK(gpa % LEAF_SIZE == 0);
}

static int op_forget(void *ctx, uint64_t gpa, uint64_t len)
{
	struct guest *g = ctx;

	FUZZ_CHECK(gpa >= g->ram_gpa && gpa + len <= g->ram_gpa + g->ram_len);
	return 0;
}

static int op_window(void *ctx, uint64_t gpa, bool *readonly, uint64_t *end)
{
	(void)ctx;
	(void)gpa;
	(void)readonly;
	(void)end;
	return -EFAULT;
}

static void *zeroes(uint64_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	FUZZ_CHECK(p != MAP_FAILED);
	return p;
}

struct rig {
	struct gmem gmem;
	struct gate gate;
	struct guest g;
};

static void rig_init(struct rig *t)
{
	struct as_memory m = {
	    .tables_gpa = TABLES_OFF,
	    .ntables = (SYS_LEN - TABLES_OFF) / PAGE_SIZE,
	    .ram_gpa = GMEM_RAM_GPA,
	    .ram_npages = RAM_LEN / PAGE_SIZE,
	};
	struct guest *g = &t->g;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct err e;

	gmem_init(&t->gmem, -1, 46);
	gate_init(&t->gate, NULL, NULL);
	t->gmem.bank[0].gpa = GMEM_RAM_GPA;
	t->gmem.bank[0].len = RAM_LEN;
	t->gmem.bank[0].hva = zeroes(RAM_LEN);
	g->env.gmem = &t->gmem;
	g->env.gate = &t->gate;
	g->env.places = places_new(&t->gmem, &t->gate, -1);
	FUZZ_CHECK(null >= 0 && g->env.places != NULL);
	/* Always being killed: nothing blocks. */
	g->env.ops = (struct guest_ops){
	    on_control, ask, tell, eventfd(1, EFD_CLOEXEC), NULL};
	for (int i = 0; i < 3; i++)
		g->env.stdio[i] = null;
	g->sys = zeroes(SYS_LEN);
	g->ram_gpa = GMEM_RAM_GPA;
	g->ram_len = RAM_LEN;
	g->as_ops = (struct as_ops){op_zero, op_back, op_forget, op_window, g};
	pthread_mutex_init(&g->lock, NULL);
	pthread_mutex_init(&g->files_lock, NULL);
	FUZZ_CHECK(files_init(g, &e) == 0);
	m.tables = g->sys + TABLES_OFF;
	FUZZ_CHECK(as_init(&g->as, &g->as_ops, &m) == 0);
	FUZZ_CHECK(as_map_fixed(&g->as, DATA_VA, 64 * PAGE_SIZE, AS_R | AS_W,
		       false) == 0);
	g->as.brk_start = g->as.brk = DATA_VA + 64 * PAGE_SIZE;
}

static void rig_fini(struct rig *t)
{
	struct guest *g = &t->g;

	files_fini(g);
	as_fini(&g->as);
	places_free(g->env.places);
	close(g->env.stdio[0]);
	close(g->env.ops.kill_fd);
	munmap(g->sys, SYS_LEN);
	munmap(t->gmem.bank[0].hva, RAM_LEN);
	pthread_mutex_destroy(&g->files_lock);
	pthread_mutex_destroy(&g->lock);
	gate_fini(&t->gate);
}

static uint64_t arg(const struct record *c, uint32_t i)
{
	if (c->fold >> i & 1)
		return DATA_VA + c->arg[i] % (66 * PAGE_SIZE);
	return c->arg[i];
}

static enum guest_verdict ring(
    struct rig *t, const struct record *c, struct guest_end *end)
{
	struct cpu_regs r = {.cs = c->cpl & 3};

	r.gpr[RAX] = c->nr;
	r.gpr[RDI] = arg(c, 0);
	r.gpr[RSI] = arg(c, 1);
	r.gpr[RDX] = arg(c, 2);
	r.gpr[R10] = arg(c, 3);
	r.gpr[R8] = arg(c, 4);
	r.gpr[R9] = arg(c, 5);
	r.gpr[RCX] = DATA_VA;
	r.cr2 = arg(c, 0);
	r.gpr[RSP] = c->arg[5];
	return guest_doorbell(
	    &t->g, 0, c->port ? c->port : KERNEL_PORT_SYSCALL, &r, end);
}

/* What the page tables say of segment 0. */
struct census {
	const struct guest *g;
	uint64_t npages; /* that entries hold */
	bool held[RAM_LEN / PAGE_SIZE];
};

static void count_entry(struct census *n, uint64_t entry, uint64_t len)
{
	uint64_t first = ((entry & PTE_GPA) - n->g->ram_gpa) / PAGE_SIZE;

	FUZZ_CHECK(!(entry & PTE_W) || !(entry & PTE_P) || (entry & PTE_NX));
	FUZZ_CHECK((entry & PTE_GPA) >= n->g->ram_gpa);
	FUZZ_CHECK(first + len / PAGE_SIZE <= RAM_LEN / PAGE_SIZE);
	for (uint64_t i = first; i < first + len / PAGE_SIZE; i++) {
		FUZZ_CHECK(!n->held[i]);
		n->held[i] = true;
	}
	n->npages += len / PAGE_SIZE;
}

static void count_table(struct census *n, uint64_t table_gpa, unsigned shift)
{
	const uint64_t *t =
	    n->g->as.pg.mem + (table_gpa - n->g->as.pg.gpa) / sizeof(uint64_t);

	for (uint32_t i = 0; i < 512; i++) {
		if (t[i] & (PTE_FRAME | PTE_RESERVED))
			count_entry(n, t[i], 1ULL << shift);
		else if (t[i] & PTE_P)
			count_table(n, t[i] & PTE_GPA, shift - 9);
	}
}

/* No frame is behind two pages, none is lost, nothing is writable and
 * executable, and no more is promised than there is. */
static void check_space(const struct guest *g)
{
	struct census n = {.g = g};
	uint64_t end = 0;

	count_table(&n, g->as.pg.gpa, 39);
	FUZZ_CHECK(g->as.frames.nfree == g->as.frames.npages - n.npages);
	FUZZ_CHECK(g->as.areas.committed + g->as.frames.nwhole * LEAF_NPAGES <=
		   g->as.frames.npages);
	for (size_t i = 0; i < g->as.areas.n; i++) {
		FUZZ_CHECK(g->as.areas.v[i].start >= end);
		FUZZ_CHECK(g->as.areas.v[i].end > g->as.areas.v[i].start);
		end = g->as.areas.v[i].end;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct rig *t = calloc(1, sizeof(*t));
	struct guest_end *end = calloc(1, sizeof(*end));
	struct record c;

	FUZZ_CHECK(t != NULL && end != NULL);
	rig_init(t);
	for (uint32_t i = 0; i < CALLS_MAX && len >= sizeof(c); i++) {
		memcpy(&c, data, sizeof(c));
		data += sizeof(c);
		len -= sizeof(c);
		if (ring(t, &c, end) == GUEST_END) {
			FUZZ_CHECK(end->x.status >= 0 && end->x.status <= 255);
			break;
		}
	}
	check_space(&t->g);
	rig_fini(t);
	free(end);
	free(t);
	return 0;
}
