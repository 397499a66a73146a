/* SPDX-License-Identifier: MIT */
/*
 * The address space against a naive model: for each page, its protection and
 * the number last written there. Memory is a plain array; what the CPU would
 * see is found by walking the tables as the CPU does.
 */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "tests/chance.h"
#include "vmm/guestcall/aspace.h"

#define RAM_GPA    0x100000000ULL
#define RAM_NPAGES 8192u /* 32 MiB */
#define NTABLES    512u
#define TABLES_GPA 0x100000ULL
#define VIEW_GPA   0x1000000000ULL

/* An entry as KVM derived it when it was last used; bits 0: none. */
struct shadow {
	uint64_t gpa;
	uint64_t bits;
};

struct fake {
	struct aspace as;
	unsigned char *ram;
	uint64_t *tables;
	uint64_t forgotten; /* pages */
	uint32_t backed;
	int fail_forget;
	uint64_t seg_len;      /* of the window's segment */
	struct shadow *shadow; /* of (nshadow) pages; may be NULL */
	uint32_t nshadow;
};

static int fake_zero(void *ctx, uint64_t gpa, uint64_t len)
{
	struct fake *f = ctx;

	assert_true(
	    gpa >= RAM_GPA && gpa + len <= RAM_GPA + RAM_NPAGES * PAGE_SIZE);
	memset(f->ram + (gpa - RAM_GPA), 0, len);
	return 0;
}

static void fake_back(void *ctx, uint64_t gpa)
{
	struct fake *f = ctx;

	assert_int_equal(gpa % LEAF_SIZE, 0);
	f->backed++;
}

static int fake_forget(void *ctx, uint64_t gpa, uint64_t len)
{
	struct fake *f = ctx;

	if (f->fail_forget)
		return -ENOMEM;
	assert_true(gpa >= RAM_GPA);
	f->forgotten += len / PAGE_SIZE;
	for (uint32_t i = 0; i < f->nshadow; i++)
		if (f->shadow[i].gpa >= gpa && f->shadow[i].gpa < gpa + len)
			f->shadow[i].bits = 0;
	return 0;
}

/* One read-only view of 2 MiB and one segment behind it. */
static int fake_window(void *ctx, uint64_t gpa, bool *readonly, uint64_t *end)
{
	const struct fake *f = ctx;
	uint64_t seg = VIEW_GPA + LEAF_SIZE;

	if (gpa < VIEW_GPA || gpa >= seg + f->seg_len)
		return -EFAULT;
	*readonly = gpa < seg;
	*end = gpa < seg ? seg : seg + f->seg_len;
	return 0;
}

static struct as_ops fake_ops(struct fake *f)
{
	return (struct as_ops){
	    fake_zero, fake_back, fake_forget, fake_window, f};
}

static void fake_init(struct fake *f, const struct as_ops *ops)
{
	struct as_memory m = {
	    .tables_gpa = TABLES_GPA,
	    .ntables = NTABLES,
	    .ram_gpa = RAM_GPA,
	    .ram_npages = RAM_NPAGES,
	};

	memset(f, 0, sizeof(*f));
	f->ram = calloc(RAM_NPAGES, PAGE_SIZE);
	f->tables = calloc(NTABLES, PAGE_SIZE);
	assert_non_null(f->ram);
	assert_non_null(f->tables);
	m.tables = f->tables;
	assert_int_equal(as_init(&f->as, ops, &m), 0);
}

static void fake_fini(struct fake *f)
{
	as_fini(&f->as);
	free(f->ram);
	free(f->tables);
}

/* As the CPU walks: the leaf entry's bits, and the address; 0: a fault. */
static uint64_t walk(const struct fake *f, uint64_t va, uint64_t *gpa)
{
	uint64_t table = TABLES_GPA;

	for (int shift = 39; shift >= 12; shift -= 9) {
		uint64_t e =
		    f->tables[(table - TABLES_GPA) / 8 + (va >> shift & 511)];

		if (!(e & PTE_P))
			return 0;
		if (shift == 12 || (shift == 21 && (e & PTE_PS))) {
			uint64_t mask = (1ULL << shift) - 1;

			*gpa = (e & PTE_GPA & ~mask) | (va & mask);
			return e;
		}
		table = e & PTE_GPA;
	}
	return 0;
}

static void test_basics(void **state)
{
	struct fake f;
	struct as_ops ops = fake_ops(&f);
	uint64_t gpa;
	uint64_t va;

	(void)state;
	fake_init(&f, &ops);
	assert_int_equal(as_map(&f.as, 0, 100, AS_R | AS_W, &va), 0);
	assert_int_equal(walk(&f, va, &gpa), 0);
	assert_int_equal(as_touch(&f.as, va, AS_W), 0);
	assert_true(walk(&f, va, &gpa) & PTE_W);
	assert_true(walk(&f, va, &gpa) & PTE_NX);
	assert_int_equal(as_touch(&f.as, va, AS_X), -EACCES);
	assert_int_equal(as_touch(&f.as, va + PAGE_SIZE, AS_R), -EFAULT);
	assert_int_equal(as_touch(&f.as, 0, AS_R), -EFAULT);
	assert_int_equal(as_touch(&f.as, UINT64_MAX, AS_R), -EFAULT);
	assert_int_equal(as_protect(&f.as, va, PAGE_SIZE, AS_R), 0);
	assert_int_equal(f.forgotten, 1);
	assert_false(walk(&f, va, &gpa) & PTE_W);
	assert_int_equal(as_touch(&f.as, va, AS_W), -EACCES);
	assert_int_equal(as_unmap(&f.as, va, PAGE_SIZE), 0);
	assert_int_equal(f.forgotten, 2);
	assert_int_equal(walk(&f, va, &gpa), 0);
	assert_int_equal(f.as.areas.committed, 0);
	assert_int_equal(f.as.frames.nfree, RAM_NPAGES);
	fake_fini(&f);
}

static void test_refusals(void **state)
{
	struct fake f;
	struct as_ops ops = fake_ops(&f);
	uint64_t va;

	(void)state;
	fake_init(&f, &ops);
	assert_int_equal(
	    as_map_fixed(&f.as, 0, PAGE_SIZE, AS_R, false), -EINVAL);
	assert_int_equal(
	    as_map_fixed(&f.as, 0x200001, PAGE_SIZE, AS_R, false), -EINVAL);
	assert_int_equal(
	    as_map_fixed(&f.as, 0x200000, 0, AS_R, false), -EINVAL);
	assert_int_equal(
	    as_map_fixed(&f.as, AS_VA_MAX, PAGE_SIZE, AS_R, false), -EINVAL);
	assert_int_equal(
	    as_map_fixed(&f.as, FIRN_WINDOW, PAGE_SIZE, AS_R, false), -EINVAL);
	assert_int_equal(as_map_fixed(&f.as, FIRN_WINDOW - PAGE_SIZE,
			     2 * PAGE_SIZE, AS_R, false),
	    -EINVAL);
	assert_int_equal(
	    as_map_fixed(&f.as, 0x200000, PAGE_SIZE, AS_W | AS_X, false),
	    -EACCES);
	assert_int_equal(as_map(&f.as, 0, 0, AS_R, &va), -EINVAL);
	assert_int_equal(
	    as_map(&f.as, 0, RAM_NPAGES * PAGE_SIZE + 1, AS_R, &va), -ENOMEM);
	assert_int_equal(as_map(&f.as, 0, 1ULL << 39, 0, &va), 0);
	assert_int_equal(as_protect(&f.as, va, 1ULL << 39, AS_R), -ENOMEM);
	assert_int_equal(
	    as_protect(&f.as, va - PAGE_SIZE, PAGE_SIZE, AS_R), -ENOMEM);
	assert_int_equal(
	    as_protect(&f.as, va, PAGE_SIZE, AS_W | AS_X), -EACCES);
	fake_fini(&f);
}

/* A block is one entry; a part of it that goes keeps the entry; all of it
 * gives the block back, and the slot stays for blocks. */
static void test_blocks(void **state)
{
	struct fake f;
	struct as_ops ops = fake_ops(&f);
	uint64_t gpa;
	uint64_t va;

	(void)state;
	fake_init(&f, &ops);
	assert_int_equal(as_map(&f.as, 0, LEAF_SIZE, AS_R | AS_W, &va), 0);
	assert_int_equal(va % LEAF_SIZE, 0);
	assert_int_equal(as_touch(&f.as, va + 5000, AS_W), 0);
	assert_true(walk(&f, va, &gpa) & PTE_PS);
	assert_int_equal(f.backed, 1);
	f.ram[gpa - RAM_GPA] = 7;
	assert_int_equal(as_unmap(&f.as, va, PAGE_SIZE), 0);
	assert_int_equal(f.ram[gpa - RAM_GPA], 0);
	assert_true(walk(&f, va, &gpa) & PTE_PS);
	assert_int_equal(
	    as_map_fixed(&f.as, va, PAGE_SIZE, AS_R | AS_X, false), -EACCES);
	f.ram[gpa - RAM_GPA] = 7;
	assert_int_equal(as_map_fixed(&f.as, va, PAGE_SIZE, AS_R, false), 0);
	assert_int_equal(f.ram[gpa - RAM_GPA], 0);
	assert_int_equal(as_unmap(&f.as, va, LEAF_SIZE), 0);
	assert_int_equal(walk(&f, va, &gpa), 0);
	assert_int_equal(f.as.frames.nfree, RAM_NPAGES);
	assert_int_equal(
	    as_map_fixed(&f.as, va, PAGE_SIZE, AS_R | AS_W, false), 0);
	assert_int_equal(as_touch(&f.as, va, AS_W), 0);
	assert_true(walk(&f, va, &gpa) & PTE_PS);
	fake_fini(&f);
}

static void test_window(void **state)
{
	struct fake f;
	struct as_ops ops = fake_ops(&f);
	uint64_t view = FIRN_WINDOW + VIEW_GPA;
	uint64_t seg = view + LEAF_SIZE;
	uint64_t gpa;

	(void)state;
	fake_init(&f, &ops);
	f.seg_len = LEAF_SIZE;
	assert_int_equal(as_touch(&f.as, view - 1, AS_R), -EFAULT);
	assert_int_equal(as_touch(&f.as, seg + LEAF_SIZE, AS_R), -EFAULT);
	assert_int_equal(as_touch(&f.as, view + 8, AS_W), -EACCES);
	assert_int_equal(as_touch(&f.as, view + 8, AS_X), -EACCES);
	assert_int_equal(as_touch(&f.as, view + 8, AS_R), 0);
	assert_false(walk(&f, view, &gpa) & PTE_W);
	assert_int_equal(gpa, VIEW_GPA);
	assert_int_equal(as_touch(&f.as, view + 8, AS_W), -EACCES);
	assert_int_equal(as_touch(&f.as, seg, AS_W), 0);
	assert_true(walk(&f, seg, &gpa) & PTE_W);
	as_window_gone(&f.as, VIEW_GPA, LEAF_SIZE);
	assert_int_equal(walk(&f, view, &gpa), 0);
	assert_true(walk(&f, seg, &gpa) != 0);
	assert_int_equal(as_touch(&f.as, view, AS_R), 0);
	fake_fini(&f);
}

/* What is beyond the end of a segment must fault, where it can. */
static void test_window_end(void **state)
{
	struct fake f;
	struct as_ops ops = fake_ops(&f);
	uint64_t seg = FIRN_WINDOW + VIEW_GPA + LEAF_SIZE;
	uint64_t last = seg + LEAF_SIZE + 2 * PAGE_SIZE;
	uint64_t gpa;
	uint64_t room;

	(void)state;
	fake_init(&f, &ops);
	f.seg_len = LEAF_SIZE + 3 * PAGE_SIZE;
	assert_int_equal(as_touch(&f.as, seg, AS_W), 0);
	assert_true(walk(&f, seg, &gpa) & PTE_PS);
	assert_int_equal(as_touch(&f.as, last + PAGE_SIZE, AS_R), -EFAULT);
	assert_int_equal(as_touch(&f.as, last, AS_W), 0);
	assert_true(walk(&f, last - 2 * PAGE_SIZE, &gpa) & PTE_W);
	assert_int_equal(gpa, VIEW_GPA + 2 * LEAF_SIZE);
	assert_int_equal(walk(&f, last + PAGE_SIZE, &gpa), 0);
	assert_int_equal(as_resolve(&f.as, last + 8, AS_R, &gpa, &room), 0);
	assert_int_equal(gpa, last + 8 - FIRN_WINDOW);
	assert_int_equal(room, PAGE_SIZE - 8);
	as_window_gone(&f.as, VIEW_GPA + LEAF_SIZE, f.seg_len);
	assert_int_equal(walk(&f, seg, &gpa), 0);
	assert_int_equal(walk(&f, last, &gpa), 0);
	/* A slot has what it had first, whatever comes to lie there. */
	f.seg_len = 2 * LEAF_SIZE;
	assert_int_equal(as_touch(&f.as, last, AS_W), 0);
	assert_true(walk(&f, seg + 2 * LEAF_SIZE - PAGE_SIZE, &gpa) & PTE_W);
	assert_false(walk(&f, last, &gpa) & PTE_PS);
	as_window_gone(&f.as, VIEW_GPA + LEAF_SIZE, f.seg_len);
	f.seg_len = PAGE_SIZE;
	assert_int_equal(as_touch(&f.as, seg, AS_R), 0);
	assert_true(walk(&f, seg, &gpa) & PTE_PS);
	fake_fini(&f);
}

static void test_brk(void **state)
{
	struct fake f;
	struct as_ops ops = fake_ops(&f);

	(void)state;
	fake_init(&f, &ops);
	f.as.brk_start = f.as.brk = 0x500000;
	assert_int_equal(as_brk(&f.as, 0), 0x500000);
	assert_int_equal(as_brk(&f.as, 0x500010), 0x500010);
	assert_int_equal(as_touch(&f.as, 0x500fff, AS_W), 0);
	assert_int_equal(as_brk(&f.as, 0x400000), 0x500010);
	assert_int_equal(
	    as_brk(&f.as, 0x500000 + (RAM_NPAGES + 1) * PAGE_SIZE), 0x500010);
	assert_int_equal(as_brk(&f.as, 0x520000), 0x520000);
	assert_int_equal(as_brk(&f.as, 0x500000), 0x500000);
	assert_int_equal(as_touch(&f.as, 0x500000, AS_W), -EFAULT);
	assert_int_equal(f.as.frames.nfree, RAM_NPAGES);
	fake_fini(&f);
}

/* A frame that KVM may still show somewhere is not used anew. */
static void test_forget_fails(void **state)
{
	struct fake f;
	struct as_ops ops = fake_ops(&f);
	uint64_t va;

	(void)state;
	fake_init(&f, &ops);
	assert_int_equal(as_map(&f.as, 0, PAGE_SIZE, AS_R | AS_W, &va), 0);
	assert_int_equal(as_touch(&f.as, va, AS_W), 0);
	f.fail_forget = 1;
	assert_int_equal(as_unmap(&f.as, va, PAGE_SIZE), -ENOMEM);
	assert_int_equal(f.as.frames.nfree, RAM_NPAGES - 1);
	fake_fini(&f);
}

/* --- the model ------------------------------------------------------------ */

/* Four slots of tables, and four of blocks. */
#define MODEL_SMALL  0x10000000ULL
#define MODEL_LARGE  (AS_LARGE_MIN + 10 * LEAF_SIZE)
#define MODEL_NPAGES 2048u /* 8 MiB: four slots */

struct model {
	uint64_t base;
	bool mapped[MODEL_NPAGES];
	uint32_t prot[MODEL_NPAGES];
	bool promised[MODEL_NPAGES];
	uint64_t value[MODEL_NPAGES];
	struct shadow shadow[MODEL_NPAGES];
};

static uint64_t rnd(uint64_t *s)
{
	return chance(s, UINT64_MAX);
}

/* The CPU uses the page, so KVM derives an entry of it. */
static void shadow_use(const struct fake *f, struct model *m, uint32_t page)
{
	struct shadow *d = &m->shadow[page];

	d->bits = walk(f, m->base + page * PAGE_SIZE, &d->gpa);
}

/* What KVM may still use permits nothing that the tables do not. */
static void shadow_check(const struct fake *f, const struct model *m)
{
	for (uint32_t i = 0; i < MODEL_NPAGES; i++) {
		const struct shadow *d = &m->shadow[i];
		uint64_t gpa = 0;
		uint64_t now =
		    d->bits == 0 ? 0 : walk(f, m->base + i * PAGE_SIZE, &gpa);

		assert_true(gpa == (d->bits == 0 ? 0 : d->gpa));
		assert_false((d->bits & PTE_W) && !(now & PTE_W));
		assert_false(!(d->bits & PTE_NX) && (now & PTE_NX));
	}
}

static bool all_mapped(const struct model *m, uint32_t first, uint32_t n)
{
	for (uint32_t i = first; i < first + n; i++)
		if (!m->mapped[i])
			return false;
	return true;
}

static uint32_t pick_prot(uint64_t *s)
{
	static const uint32_t prots[] = {
	    0, AS_R, AS_R | AS_W, AS_R | AS_W, AS_R | AS_W};

	return prots[rnd(s) % 5];
}

static void model_write(
    struct fake *f, struct model *m, uint32_t page, uint64_t v)
{
	uint64_t va = m->base + page * PAGE_SIZE;
	uint64_t room;
	uint64_t gpa;
	int r = as_resolve(&f->as, va, AS_W, &gpa, &room);
	int want = !m->mapped[page]       ? -EFAULT
		   : m->prot[page] & AS_W ? 0
					  : -EACCES;

	assert_int_equal(r, want);
	if (r < 0)
		return;
	memcpy(f->ram + (gpa - RAM_GPA), &v, sizeof(v));
	m->value[page] = v;
	shadow_use(f, m, page);
}

static void model_read(struct fake *f, struct model *m, uint32_t page)
{
	uint64_t va = m->base + page * PAGE_SIZE;
	uint64_t seen = 0;
	uint64_t room;
	uint64_t gpa;
	uint64_t bits;
	int r = as_resolve(&f->as, va, AS_R, &gpa, &room);
	int want = !m->mapped[page] ? -EFAULT : m->prot[page] ? 0 : -EACCES;

	assert_int_equal(r, want);
	if (r < 0)
		return;
	memcpy(&seen, f->ram + (gpa - RAM_GPA), sizeof(seen));
	assert_int_equal(seen, m->value[page]);
	bits = walk(f, va, &room);
	assert_int_equal(room, gpa);
	assert_true(bits & PTE_U);
	assert_false((bits & PTE_W) && !(bits & PTE_NX));
	/* Small entries have the very protection of the area. */
	if (!(bits & PTE_PS))
		assert_int_equal(!!(bits & PTE_W), !!(m->prot[page] & AS_W));
	shadow_use(f, m, page);
}

static void model_range(
    struct fake *f, struct model *m, uint64_t *s, uint32_t first, uint32_t n)
{
	uint64_t va = m->base + first * PAGE_SIZE;
	uint64_t len = n * PAGE_SIZE;
	uint32_t op = rnd(s) % 4;
	uint32_t prot = pick_prot(s);
	bool all = all_mapped(m, first, n);
	int r;

	switch (op) {
	case 0:
		r = as_map_fixed(&f->as, va, len, prot, false);
		break;
	case 1:
		r = as_unmap(&f->as, va, len);
		break;
	case 2:
		r = as_protect(&f->as, va, len, prot);
		break;
	default:
		r = as_zero(&f->as, va, len);
		break;
	}
	assert_int_equal(r, op >= 2 && !all ? -ENOMEM : 0);
	for (uint32_t i = first; r == 0 && i < first + n; i++) {
		if (op < 2) {
			m->mapped[i] = op == 0;
			m->promised[i] = false;
		}
		if (op == 0 || op == 2) {
			m->prot[i] = prot;
			m->promised[i] |= prot != 0;
		}
		if (op != 2)
			m->value[i] = 0;
	}
	shadow_check(f, m);
}

/* Blocks are set aside whole; pages are promised until they are unmapped. */
static void check_promised(const struct fake *f, const struct model *m)
{
	bool block[MODEL_NPAGES / LEAF_NPAGES] = {false};
	uint64_t nblocks = 0;
	uint64_t n = 0;

	for (uint32_t i = 0; i < MODEL_NPAGES; i++) {
		n += m->promised[i];
		block[i / LEAF_NPAGES] |= m->mapped[i];
	}
	for (uint32_t i = 0; i < MODEL_NPAGES / LEAF_NPAGES; i++)
		nblocks += block[i];
	if (m->base == MODEL_SMALL)
		nblocks = 0;
	else
		n = 0;
	assert_int_equal(f->as.areas.committed, n);
	assert_int_equal(f->as.frames.nwhole, nblocks);
}

static void run_model(uint64_t base)
{
	uint64_t seed = 0x5eed0000 + (uint64_t)getpid();
	uint64_t s = seed;
	struct fake f;
	struct as_ops ops = fake_ops(&f);
	struct model *m = calloc(1, sizeof(*m));

	print_message("seed %#llx\n", (unsigned long long)seed);
	assert_non_null(m);
	m->base = base;
	fake_init(&f, &ops);
	f.shadow = m->shadow;
	f.nshadow = MODEL_NPAGES;
	for (uint32_t i = 0; i < 30000; i++) {
		uint32_t first = rnd(&s) % MODEL_NPAGES;
		uint32_t n = 1 + rnd(&s) % (rnd(&s) % 4 ? 32 : 1024);

		if (n > MODEL_NPAGES - first)
			n = MODEL_NPAGES - first;
		if (rnd(&s) % 8 == 0)
			model_range(&f, m, &s, first, n);
		else if (rnd(&s) % 2)
			model_write(&f, m, first, rnd(&s));
		else
			model_read(&f, m, first);
		check_promised(&f, m);
	}
	for (uint32_t i = 0; i < MODEL_NPAGES; i++)
		model_read(&f, m, i);
	assert_int_equal(as_unmap(&f.as, m->base, MODEL_NPAGES * PAGE_SIZE), 0);
	assert_int_equal(f.as.areas.n, 0);
	assert_int_equal(f.as.frames.nfree, RAM_NPAGES);
	fake_fini(&f);
	free(m);
}

static void test_model_small(void **state)
{
	(void)state;
	run_model(MODEL_SMALL);
}

static void test_model_large(void **state)
{
	(void)state;
	run_model(MODEL_LARGE);
}

/* --- many areas ------------------------------------------------------------
 */

/* As many as there may be: what is done to all takes a walk, not one for each;
 * the rounds would take an hour otherwise. */
static void test_many_areas(void **state)
{
	const uint64_t npages = AS_AREAS_MAX - 2;
	const uint64_t start = MODEL_SMALL;
	const uint64_t end = start + npages * PAGE_SIZE;
	struct areas s = {0};

	(void)state;
	assert_int_equal(areas_room(&s, npages + 2), 0);
	for (uint64_t i = 0; i < npages; i++)
		areas_add(&s, (struct as_area){.start = start + i * PAGE_SIZE,
				  .end = start + (i + 1) * PAGE_SIZE,
				  .prot = AS_R,
				  .stack = i % 2});
	assert_int_equal(s.n, npages);
	for (uint32_t i = 0; i < 600; i++) {
		areas_protect(&s, start, end, i % 2 ? AS_R : AS_R | AS_W);
		assert_int_equal(s.n, npages);
		assert_int_equal(s.committed, npages);
	}
	areas_cut(&s, start + PAGE_SIZE, end - PAGE_SIZE);
	assert_int_equal(s.n, 2);
	assert_int_equal(s.committed, 2);
	assert_false(areas_any(&s, start + PAGE_SIZE, end - PAGE_SIZE));
	areas_fini(&s);
}

/* --- what was promised is there ------------------------------------------- */

#define RANGES_MAX 200u

struct range {
	uint64_t va;
	uint64_t npages; /* 0: none */
	uint32_t prot;
};

/* Whatever may be touched can be. */
static void touch_all(struct fake *f, const struct range *v)
{
	for (uint32_t i = 0; i < RANGES_MAX; i++)
		for (uint64_t p = 0; v[i].prot && p < v[i].npages; p++)
			assert_int_equal(
			    as_touch(&f->as, v[i].va + p * PAGE_SIZE, AS_R), 0);
}

static uint64_t pick_npages(uint64_t *s)
{
	switch (rnd(s) % 4) {
	case 0:
		return LEAF_NPAGES / 2 + rnd(s) % (5 * LEAF_NPAGES);
	case 1:
		return 1 + rnd(s) % LEAF_NPAGES;
	default:
		return 1 + rnd(s) % 40;
	}
}

static void change_range(struct fake *f, struct range *v, uint64_t *s)
{
	uint64_t cut = 1 + rnd(s) % v->npages;
	uint32_t prot = rnd(s) % 3 ? AS_R | AS_W : 0;
	int r = 0;

	switch (rnd(s) % 3) {
	case 0: /* its end goes */
		v->npages -= cut;
		r = as_unmap(
		    &f->as, v->va + v->npages * PAGE_SIZE, cut * PAGE_SIZE);
		assert_int_equal(r, 0);
		break;
	case 1:
		r = as_protect(&f->as, v->va, v->npages * PAGE_SIZE, prot);
		if (r == 0)
			v->prot = prot;
		break;
	default:
		cut = rnd(s) % v->npages;
		if (v->prot)
			r = as_touch(&f->as, v->va + cut * PAGE_SIZE, AS_R);
		assert_int_equal(r, 0);
		break;
	}
	assert_true(r == 0 || r == -ENOMEM);
}

/* A stack that is touched now and then must not take what others may touch. */
static void test_promises(void **state)
{
	static struct range v[RANGES_MAX];
	uint64_t stack = AS_STACK_TOP - AS_STACK_LEN;
	uint64_t seed = 0x9e3779b9 + (uint64_t)getpid();
	uint64_t s = seed;
	uint32_t refused = 0;
	struct fake f;
	struct as_ops ops = fake_ops(&f);

	(void)state;
	print_message("seed %#llx\n", (unsigned long long)seed);
	fake_init(&f, &ops);
	assert_int_equal(
	    as_map_fixed(&f.as, stack, AS_STACK_LEN, AS_R | AS_W, true), 0);
	for (uint32_t i = 0; i < 20000; i++) {
		struct range *a = &v[rnd(&s) % RANGES_MAX];

		if (a->npages) {
			change_range(&f, a, &s);
			continue;
		}
		a->prot = rnd(&s) % 8 ? AS_R | AS_W : 0;
		a->npages = pick_npages(&s);
		if (as_map(&f.as, 0, a->npages * PAGE_SIZE, a->prot, &a->va) <
		    0) {
			a->npages = 0;
			refused++;
			(void)as_touch(
			    &f.as, stack + rnd(&s) % AS_STACK_LEN, AS_W);
			touch_all(&f, v);
		}
	}
	touch_all(&f, v);
	assert_true(refused > 0);
	fake_fini(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_basics),
	    cmocka_unit_test(test_refusals),
	    cmocka_unit_test(test_blocks),
	    cmocka_unit_test(test_window),
	    cmocka_unit_test(test_window_end),
	    cmocka_unit_test(test_brk),
	    cmocka_unit_test(test_forget_fails),
	    cmocka_unit_test(test_model_small),
	    cmocka_unit_test(test_model_large),
	    cmocka_unit_test(test_many_areas),
	    cmocka_unit_test(test_promises),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
