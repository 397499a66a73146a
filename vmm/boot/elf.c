/* SPDX-License-Identifier: MIT */
#include "vmm/boot/elf.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/page/run.h"

static uint64_t page_down(uint64_t v)
{
	return v & ~(PAGE_SIZE - 1);
}

static uint64_t page_up(uint64_t v)
{
	return page_down(v + PAGE_SIZE - 1);
}

/* Read exactly (len) bytes; 1: the file ends before. */
static int read_at(int fd, void *buf, size_t len, uint64_t off)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(
		    fd, (char *)buf + done, len - done, (off_t)(off + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return 1;
		done += (size_t)n;
	}
	return 0;
}

static int check_ident(const Elf64_Ehdr *h, struct err *e)
{
	if (memcmp(h->e_ident, ELFMAG, SELFMAG) != 0)
		return err_set(e, -ENOEXEC,
		    "not an ELF program (scripts are not run: name the "
		    "program)");
	if (h->e_ident[EI_CLASS] == ELFCLASS32)
		return err_set(
		    e, -ENOEXEC, "a 32-bit program: build for x86-64");
	if (h->e_ident[EI_CLASS] != ELFCLASS64)
		return err_set(e, -ENOEXEC, "an ELF file of no known class");
	if (h->e_ident[EI_DATA] != ELFDATA2LSB)
		return err_set(e, -ENOEXEC, "a big-endian program");
	if (h->e_machine != EM_X86_64)
		return err_set(e, -ENOEXEC,
		    "for another machine (ELF machine %u): build for x86-64",
		    h->e_machine);
	if (h->e_ident[EI_VERSION] != EV_CURRENT || h->e_version != EV_CURRENT)
		return err_set(e, -ENOEXEC, "an ELF version that is not 1");
	return 0;
}

static int check_header(const Elf64_Ehdr *h, uint64_t file_len, struct err *e)
{
	uint64_t end;
	int r = check_ident(h, e);

	if (r < 0)
		return r;
	if (h->e_type != ET_EXEC && h->e_type != ET_DYN)
		return err_set(e, -ENOEXEC,
		    "not a program (ELF type %u): an object file or core dump?",
		    h->e_type);
	if (h->e_phentsize != sizeof(Elf64_Phdr))
		return err_set(e, -ENOEXEC,
		    "program headers of %u bytes, not %zu", h->e_phentsize,
		    sizeof(Elf64_Phdr));
	if (h->e_phnum == 0)
		return err_set(e, -ENOEXEC, "no program headers");
	if (h->e_phnum > ELF_PHDRS_MAX)
		return err_set(e, -ENOEXEC, "%u program headers, at most %u",
		    h->e_phnum, ELF_PHDRS_MAX);
	if (__builtin_add_overflow(
		h->e_phoff, h->e_phnum * sizeof(Elf64_Phdr), &end) ||
	    end > file_len)
		return err_set(e, -ENOEXEC,
		    "truncated: the program headers are beyond the file's end");
	return 0;
}

/* One PT_LOAD by itself: sizes, place, protection. */
static int check_load(
    const Elf64_Phdr *p, uint64_t file_len, uint64_t bias, struct err *e)
{
	uint64_t lo;
	uint64_t hi;

	if (p->p_filesz > p->p_memsz)
		return err_set(e, -ENOEXEC,
		    "a segment has more bytes in the file than in memory");
	if (__builtin_add_overflow(p->p_offset, p->p_filesz, &hi) ||
	    hi > file_len)
		return err_set(e, -ENOEXEC,
		    "truncated: a segment is beyond the file's end");
	if ((p->p_vaddr ^ p->p_offset) & (PAGE_SIZE - 1))
		return err_set(e, -ENOEXEC,
		    "a segment's address and offset differ within the page");
	if ((p->p_flags & PF_W) && (p->p_flags & PF_X))
		return err_set(e, -ENOEXEC,
		    "a segment is writable and executable: link with -z "
		    "noexecstack, without -N or --omagic");
	if (__builtin_add_overflow(p->p_vaddr, bias, &lo) ||
	    __builtin_add_overflow(lo, p->p_memsz, &hi) ||
	    page_down(lo) < ELF_VA_MIN || hi > bias + ELF_VA_MAX)
		return err_set(e, -ENOEXEC,
		    "a segment of %#llx bytes at address %#llx is not within "
		    "%#llx..%#llx",
		    (unsigned long long)p->p_memsz,
		    (unsigned long long)p->p_vaddr, bias ? 0 : ELF_VA_MIN,
		    ELF_VA_MAX);
	return 0;
}

static uint32_t load_prot(const Elf64_Phdr *p)
{
	return (p->p_flags & PF_R ? ELF_R : 0U) |
	       (p->p_flags & PF_W ? ELF_W : 0U) |
	       (p->p_flags & PF_X ? ELF_X : 0U);
}

static int add_load(struct elf_plan *o, const Elf64_Phdr *p, uint64_t file_len,
    uint64_t mem_npages, struct err *e)
{
	struct elf_load *l = &o->load[o->nloads];
	uint64_t first;
	int r;

	if (p->p_memsz == 0)
		return 0;
	if (o->nloads == ELF_LOADS_MAX)
		return err_set(e, -ENOEXEC, "more than %u segments to load",
		    ELF_LOADS_MAX);
	r = check_load(p, file_len, o->bias, e);
	if (r < 0)
		return r;
	*l = (struct elf_load){
	    .va = p->p_vaddr + o->bias,
	    .off = p->p_offset,
	    .filesz = p->p_filesz,
	    .memsz = p->p_memsz,
	    .prot = load_prot(p),
	};
	first = page_down(l->va);
	if (o->nloads > 0 && first < o->end)
		return err_set(e, -ENOEXEC,
		    "segments overlap, share a page or are not in order");
	o->end = page_up(l->va + l->memsz);
	o->npages += (o->end - first) / PAGE_SIZE;
	if (o->npages > mem_npages)
		return err_set(e, -ENOEXEC,
		    "larger than the memory of %llu KiB: give it more",
		    (unsigned long long)(mem_npages * (PAGE_SIZE / 1024)));
	o->nloads++;
	return 0;
}

static int check_static(const Elf64_Phdr *ph, uint32_t n, struct err *e)
{
	for (uint32_t i = 0; i < n; i++)
		if (ph[i].p_type == PT_INTERP)
			return err_set(e, -ENOEXEC,
			    "dynamically linked: build with -static or "
			    "-static-pie");
	return 0;
}

/* Where the program will see its own headers: auxv wants it. */
static uint64_t find_phdrs(const struct elf_plan *o, const Elf64_Ehdr *h)
{
	uint64_t len = h->e_phnum * sizeof(Elf64_Phdr);

	for (uint32_t i = 0; i < o->nloads; i++) {
		const struct elf_load *l = &o->load[i];

		if (l->off <= h->e_phoff &&
		    h->e_phoff + len <= l->off + l->filesz)
			return l->va + (h->e_phoff - l->off);
	}
	return 0;
}

static int check_entry(const struct elf_plan *o, struct err *e)
{
	for (uint32_t i = 0; i < o->nloads; i++) {
		const struct elf_load *l = &o->load[i];

		if ((l->prot & ELF_X) && o->entry >= l->va &&
		    o->entry - l->va < l->memsz)
			return 0;
	}
	return err_set(e, -ENOEXEC,
	    "its entry point %#llx is in no executable segment",
	    (unsigned long long)o->entry);
}

static int make_plan(const Elf64_Ehdr *h, const Elf64_Phdr *ph,
    uint64_t file_len, uint64_t mem_npages, struct elf_plan *o, struct err *e)
{
	int r = check_static(ph, h->e_phnum, e);

	if (r < 0)
		return r;
	*o = (struct elf_plan){
	    .bias = h->e_type == ET_DYN ? ELF_PIE_BASE : 0,
	    .phnum = h->e_phnum,
	};
	for (uint32_t i = 0; i < h->e_phnum; i++) {
		if (ph[i].p_type != PT_LOAD)
			continue;
		r = add_load(o, &ph[i], file_len, mem_npages, e);
		if (r < 0)
			return r;
	}
	if (o->nloads == 0)
		return err_set(e, -ENOEXEC, "no segment to load");
	if (__builtin_add_overflow(h->e_entry, o->bias, &o->entry))
		return err_set(e, -ENOEXEC, "its entry point wraps around");
	o->phdr_va = find_phdrs(o, h);
	return check_entry(o, e);
}

int elf_read(int fd, uint64_t mem_npages, struct elf_plan *out, struct err *e)
{
	Elf64_Phdr ph[ELF_PHDRS_MAX] = {0};
	Elf64_Ehdr h;
	struct stat st;
	uint64_t len;
	int r;

	if (fstat(fd, &st) < 0)
		return err_set(
		    e, -errno, "program: fstat: %s", strerror(errno));
	if (!S_ISREG(st.st_mode))
		return err_set(e, -ENOEXEC, "not a regular file");
	len = (uint64_t)st.st_size;
	if (len > ELF_FILE_MAX)
		return err_set(e, -EFBIG, "a program of more than %llu bytes",
		    (unsigned long long)ELF_FILE_MAX);
	if (len < sizeof(h))
		return err_set(e, -ENOEXEC,
		    "not an ELF program, or truncated: %llu bytes long",
		    (unsigned long long)len);
	r = read_at(fd, &h, sizeof(h), 0);
	if (r == 0)
		r = check_header(&h, len, e);
	else if (r > 0)
		r = err_set(e, -ENOEXEC, "truncated while it was read");
	else
		r = err_set(e, r, "program: read: %s", strerror(-r));
	if (r < 0)
		return r;
	r = read_at(fd, ph, h.e_phnum * sizeof(ph[0]), h.e_phoff);
	if (r > 0)
		return err_set(e, -ENOEXEC, "truncated while it was read");
	if (r < 0)
		return err_set(e, r, "program: read: %s", strerror(-r));
	return make_plan(&h, ph, len, mem_npages, out, e);
}
