/* SPDX-License-Identifier: MIT */
#include "vmm/guestcall/internal.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "vmm/boot/elf.h"

#define ARGS_LEN_MAX (128u << 10) /* bytes of all strings */
#define ARGS_MAX     4096u        /* strings */
#define AUXV_MAX     20u
#define STACK_SLACK  512u /* fixed strings, alignment */

static uint64_t page_down(uint64_t v)
{
	return v & ~(PAGE_SIZE - 1);
}

static uint64_t page_up(uint64_t v)
{
	return page_down(v + PAGE_SIZE - 1);
}

static int load_bytes(struct guest *g, int fd, const struct elf_load *l,
    unsigned char *buf, struct err *e)
{
	uint64_t done = 0;

	while (done < l->filesz) {
		uint64_t want = l->filesz - done;
		ssize_t n;

		if (want > GUEST_BOUNCE_MAX)
			want = GUEST_BOUNCE_MAX;
		n = pread(fd, buf, want, (off_t)(l->off + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_set(e, -ENOEXEC,
			    "truncated: a segment ended while it was read");
		if (guest_store(g, l->va + done, buf, (uint64_t)n) < 0)
			return err_set(
			    e, -ENOEXEC, "no memory left for it: give it more");
		done += (uint64_t)n;
	}
	return 0;
}

static uint32_t area_prot(uint32_t elf)
{
	/* The CPU knows no memory that cannot be read. */
	return AS_R | (elf & ELF_W ? AS_W : 0) | (elf & ELF_X ? AS_X : 0);
}

static int load_one(struct guest *g, int fd, const struct elf_load *l,
    unsigned char *buf, struct err *e)
{
	uint64_t start = page_down(l->va);
	int r = as_map_fixed(&g->as, start, page_up(l->va + l->memsz) - start,
	    area_prot(l->prot), false);

	if (r < 0)
		return err_set(
		    e, -ENOEXEC, "no memory left for it: give it more");
	return load_bytes(g, fd, l, buf, e);
}

static int load_segments(
    struct guest *g, int fd, const struct elf_plan *plan, struct err *e)
{
	unsigned char *buf = malloc(GUEST_BOUNCE_MAX);
	int r = 0;

	if (buf == NULL)
		return err_set(e, -ENOMEM, "program: no memory to read it");
	for (uint32_t i = 0; i < plan->nloads && r == 0; i++)
		r = load_one(g, fd, &plan->load[i], buf, e);
	free(buf);
	g->as.brk_start = plan->end;
	g->as.brk = plan->end;
	return r;
}

/* The top of the stack while it is built, highest first. */
struct stack {
	unsigned char *buf; /* of (len) bytes, its end at AS_STACK_TOP */
	uint64_t len;
	uint64_t at; /* bytes in use, from the end */
};

static uint64_t push(struct stack *s, const void *data, uint64_t len)
{
	s->at += len;
	memcpy(s->buf + s->len - s->at, data, len);
	return AS_STACK_TOP - s->at;
}

static int count_strings(
    char *const *v, uint32_t *n, uint64_t *bytes, struct err *e)
{
	for (*n = 0; v && v[*n]; ++*n) {
		*bytes += strlen(v[*n]) + 1;
		if (*n == ARGS_MAX || *bytes > ARGS_LEN_MAX)
			return err_set(e, -E2BIG,
			    "arguments and environment: at most %u strings "
			    "and %u bytes",
			    ARGS_MAX, ARGS_LEN_MAX);
	}
	return 0;
}

struct auxv {
	uint64_t word[2 * AUXV_MAX];
	uint32_t n;
};

static void aux(struct auxv *x, uint64_t key, uint64_t value)
{
	x->word[x->n++] = key;
	x->word[x->n++] = value;
}

static void fill_auxv(struct auxv *x, const struct elf_plan *plan,
    uint64_t random, uint64_t platform, uint64_t name)
{
	aux(x, AT_PHDR, plan->phdr_va);
	aux(x, AT_PHENT, sizeof(Elf64_Phdr));
	aux(x, AT_PHNUM, plan->phdr_va ? plan->phnum : 0);
	aux(x, AT_PAGESZ, PAGE_SIZE);
	aux(x, AT_BASE, 0);
	aux(x, AT_FLAGS, 0);
	aux(x, AT_ENTRY, plan->entry);
	aux(x, AT_UID, 0);
	aux(x, AT_EUID, 0);
	aux(x, AT_GID, 0);
	aux(x, AT_EGID, 0);
	aux(x, AT_SECURE, 0);
	aux(x, AT_CLKTCK, 100);
	aux(x, AT_RANDOM, random);
	aux(x, AT_HWCAP, getauxval(AT_HWCAP));
	aux(x, AT_HWCAP2, getauxval(AT_HWCAP2));
	aux(x, AT_PLATFORM, platform);
	aux(x, AT_EXECFN, name);
	aux(x, AT_NULL, 0);
}

/* argc, argv, envp and auxv, below the strings; the stack pointer. */
static uint64_t push_vectors(struct stack *s, const uint64_t *str,
    uint32_t nargs, uint32_t nenv, const struct auxv *x)
{
	uint64_t zero = 0;
	uint64_t argc = nargs;
	uint64_t words = 1 + nargs + 1 + nenv + 1 + x->n;

	s->at = (s->at + 15) & ~15ULL;
	if (words % 2)
		s->at += 8;
	push(s, x->word, x->n * sizeof(uint64_t));
	push(s, &zero, 8);
	push(s, str + nargs, nenv * sizeof(uint64_t));
	push(s, &zero, 8);
	push(s, str, nargs * sizeof(uint64_t));
	return push(s, &argc, 8);
}

/* The arguments and the environment. */
struct strings {
	char *const *argv;
	char *const *envp;
	uint32_t nargs;
	uint32_t nenv;
	uint64_t bytes;
	uint64_t *va;             /* where each is, once it was pushed */
	unsigned char random[16]; /* for AT_RANDOM */
};

static uint64_t build_stack(
    struct stack *s, const struct elf_plan *plan, const struct strings *t)
{
	struct auxv x = {.n = 0};
	uint64_t seed;
	uint64_t platform;
	uint64_t name;

	s->at = 16; /* the topmost word stays zero */
	name = push(s, GUEST_EXE_NAME, sizeof(GUEST_EXE_NAME));
	platform = push(s, "x86_64", sizeof("x86_64"));
	seed = push(s, t->random, sizeof(t->random));
	for (uint32_t i = 0; i < t->nargs; i++)
		t->va[i] = push(s, t->argv[i], strlen(t->argv[i]) + 1);
	for (uint32_t i = 0; i < t->nenv; i++)
		t->va[t->nargs + i] =
		    push(s, t->envp[i], strlen(t->envp[i]) + 1);
	fill_auxv(&x, plan, seed, platform, name);
	return push_vectors(s, t->va, t->nargs, t->nenv, &x);
}

static int store_stack(struct guest *g, const struct elf_plan *plan,
    struct strings *t, struct stack *s, uint64_t *rsp)
{
	int r = as_map_fixed(&g->as, AS_STACK_TOP - AS_STACK_LEN, AS_STACK_LEN,
	    AS_R | AS_W, true);

	if (r < 0)
		return r;
	if (getrandom(t->random, sizeof(t->random), 0) < 0)
		return -errno;
	*rsp = build_stack(s, plan, t);
	return guest_store(
	    g, AS_STACK_TOP - s->at, s->buf + s->len - s->at, s->at);
}

static int load_stack(struct guest *g, const struct elf_plan *plan,
    struct strings *t, uint64_t *rsp, struct err *e)
{
	struct stack s = {0};
	int r = count_strings(t->argv, &t->nargs, &t->bytes, e);

	if (r == 0)
		r = count_strings(t->envp, &t->nenv, &t->bytes, e);
	if (r < 0)
		return r;
	s.len = page_up(t->bytes +
			(t->nargs + t->nenv + 2 * AUXV_MAX) * sizeof(uint64_t) +
			STACK_SLACK);
	s.buf = calloc(1, s.len);
	t->va = calloc(t->nargs + t->nenv + 1, sizeof(*t->va));
	r = s.buf && t->va ? store_stack(g, plan, t, &s, rsp) : -ENOMEM;
	free(s.buf);
	free(t->va);
	if (r < 0)
		return err_set(
		    e, -ENOEXEC, "no memory left for its stack: give it more");
	return 0;
}

int load_program(struct guest *g, int fd, char *const argv[],
    char *const envp[], struct cpu_start *start, struct err *e)
{
	struct strings t = {.argv = argv, .envp = envp};
	struct elf_plan plan;
	int r = elf_read(fd, g->as.frames.npages, &plan, e);

	if (r == 0)
		r = load_segments(g, fd, &plan, e);
	if (r == 0)
		r = load_stack(g, &plan, &t, &start->rsp, e);
	start->rip = r == 0 ? plan.entry : 0;
	return r;
}
