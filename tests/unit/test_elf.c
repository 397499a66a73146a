/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/boot/elf.h"

#define MEM_NPAGES 4096u

/* A right program: text, then data with a bss behind it. */
struct image {
	Elf64_Ehdr h;
	Elf64_Phdr ph[ELF_PHDRS_MAX];
};

static const struct image good = {
    .h =
	{
	    .e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB,
		EV_CURRENT},
	    .e_type = ET_EXEC,
	    .e_machine = EM_X86_64,
	    .e_version = EV_CURRENT,
	    .e_entry = 0x400100,
	    .e_phoff = sizeof(Elf64_Ehdr),
	    .e_ehsize = sizeof(Elf64_Ehdr),
	    .e_phentsize = sizeof(Elf64_Phdr),
	    .e_phnum = 2,
	},
    .ph =
	{
	    {.p_type = PT_LOAD,
		.p_flags = PF_R | PF_X,
		.p_offset = 0,
		.p_vaddr = 0x400000,
		.p_filesz = 0x1000,
		.p_memsz = 0x1000},
	    {.p_type = PT_LOAD,
		.p_flags = PF_R | PF_W,
		.p_offset = 0x1800,
		.p_vaddr = 0x402800,
		.p_filesz = 0x800,
		.p_memsz = 0x2000},
	},
};

static int read_image(const struct image *im, uint64_t len, uint64_t npages,
    struct elf_plan *plan, struct err *e)
{
	int fd = memfd_create("elf", MFD_CLOEXEC);
	uint64_t n = len < sizeof(*im) ? len : sizeof(*im);
	int r;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)len), 0);
	assert_int_equal(pwrite(fd, im, n, 0), (ssize_t)n);
	memset(e, 0, sizeof(*e));
	r = elf_read(fd, npages, plan, e);
	close(fd);
	return r;
}

static void test_good(void **state)
{
	struct elf_plan p;
	struct err e;

	(void)state;
	assert_int_equal(read_image(&good, 0x2000, MEM_NPAGES, &p, &e), 0);
	assert_int_equal(p.nloads, 2);
	assert_int_equal(p.entry, 0x400100);
	assert_int_equal(p.bias, 0);
	assert_int_equal(p.end, 0x405000);
	assert_int_equal(p.npages, 1 + 3);
	assert_int_equal(p.phdr_va, 0x400000 + sizeof(Elf64_Ehdr));
	assert_int_equal(p.load[1].prot, ELF_R | ELF_W);
}

static void test_pie(void **state)
{
	struct image im = good;
	struct elf_plan p;
	struct err e;

	(void)state;
	im.h.e_type = ET_DYN;
	im.h.e_entry -= 0x400000;
	im.ph[0].p_vaddr -= 0x400000;
	im.ph[1].p_vaddr -= 0x400000;
	assert_int_equal(read_image(&im, 0x2000, MEM_NPAGES, &p, &e), 0);
	assert_int_equal(p.bias, ELF_PIE_BASE);
	assert_int_equal(p.entry, ELF_PIE_BASE + 0x100);
	assert_int_equal(p.load[0].va, ELF_PIE_BASE);
}

struct bad {
	const char *says; /* part of the reason */
	void (*spoil)(struct image *im);
	uint64_t len;    /* of the file; 0: 0x2000 */
	uint64_t npages; /* of memory; 0: MEM_NPAGES */
};

#define SPOIL(name, ...)                                                       \
	static void name(struct image *im)                                     \
	{                                                                      \
		__VA_ARGS__;                                                   \
	}

SPOIL(nothing, (void)im)
SPOIL(magic, im->h.e_ident[0] = 0x7e)
SPOIL(script, memcpy(im, "#!/bin/sh\n", 10))
SPOIL(class32, im->h.e_ident[EI_CLASS] = ELFCLASS32)
SPOIL(class9, im->h.e_ident[EI_CLASS] = 9)
SPOIL(big_endian, im->h.e_ident[EI_DATA] = ELFDATA2MSB)
SPOIL(arm, im->h.e_machine = EM_AARCH64)
SPOIL(version, im->h.e_version = 2)
SPOIL(object, im->h.e_type = ET_REL)
SPOIL(phentsize, im->h.e_phentsize = 32)
SPOIL(no_phdrs, im->h.e_phnum = 0)
SPOIL(many_phdrs, im->h.e_phnum = ELF_PHDRS_MAX + 1)
SPOIL(phoff_far, im->h.e_phoff = 0x1ff0)
SPOIL(phoff_wraps, im->h.e_phoff = UINT64_MAX - 8)
SPOIL(interp, im->ph[1].p_type = PT_INTERP)
SPOIL(no_load, im->ph[0].p_type = PT_NOTE; im->ph[1].p_type = PT_NOTE)
SPOIL(vast, im->ph[1].p_memsz = 1ULL << 60)
SPOIL(filesz_memsz, im->ph[1].p_memsz = 0x7ff)
SPOIL(past_end, im->ph[1].p_filesz = 0x900; im->ph[1].p_memsz = 0x900)
SPOIL(off_wraps, im->ph[1].p_offset = UINT64_MAX - 0x7ff)
SPOIL(wx, im->ph[0].p_flags = PF_R | PF_W | PF_X)
SPOIL(misaligned, im->ph[1].p_vaddr += 16)
SPOIL(overlap, im->ph[1].p_vaddr = 0x400800)
SPOIL(unordered, im->ph[1].p_vaddr = 0x300800)
SPOIL(null_page, im->ph[0].p_vaddr = 0; im->h.e_entry = 0x100)
SPOIL(kernel_half, im->ph[1].p_vaddr = 0xffffffff80000800)
SPOIL(window, im->ph[1].p_vaddr = 0x100000000800)
SPOIL(va_wraps, im->ph[1].p_memsz = UINT64_MAX - 0x1000)
SPOIL(entry, im->h.e_entry = 0x402900)
SPOIL(entry_out, im->h.e_entry = 0x1000)
SPOIL(empty_loads, im->ph[0].p_filesz = im->ph[0].p_memsz = 0;
      im->ph[1].p_filesz = im->ph[1].p_memsz = 0)

static void many_loads(struct image *im)
{
	im->h.e_phnum = ELF_LOADS_MAX + 1;
	for (uint32_t i = 0; i <= ELF_LOADS_MAX; i++) {
		im->ph[i] = good.ph[0];
		im->ph[i].p_vaddr += i * 0x1000;
	}
}

static const struct bad bads[] = {
    {"truncated", nothing, 40, 0},
    {"truncated", nothing, 1, 0},
    {"truncated", nothing, 100, 0},
    {"truncated", nothing, 0x1fff, 0},
    {"not an ELF", magic, 0, 0},
    {"not an ELF", script, 0, 0},
    {"32-bit", class32, 0, 0},
    {"class", class9, 0, 0},
    {"big-endian", big_endian, 0, 0},
    {"another machine", arm, 0, 0},
    {"version", version, 0, 0},
    {"object file", object, 0, 0},
    {"program headers of 32 bytes", phentsize, 0, 0},
    {"no program headers", no_phdrs, 0, 0},
    {"at most", many_phdrs, 0, 0},
    {"truncated", phoff_far, 0, 0},
    {"truncated", phoff_wraps, 0, 0},
    {"dynamically linked", interp, 0, 0},
    {"no segment", no_load, 0, 0},
    {"no segment", empty_loads, 0, 0},
    {"more bytes in the file", filesz_memsz, 0, 0},
    {"truncated", past_end, 0, 0},
    {"truncated", off_wraps, 0, 0},
    {"writable and executable", wx, 0, 0},
    {"differ within the page", misaligned, 0, 0},
    {"overlap", overlap, 0, 0},
    {"not in order", unordered, 0, 0},
    {"not within", null_page, 0, 0},
    {"not within", kernel_half, 0, 0},
    {"not within", window, 0, 0},
    {"not within", va_wraps, 0, 0},
    {"0x1000000000000000 bytes at address 0x402800 is", vast, 0, 0},
    {"entry point", entry, 0, 0},
    {"entry point", entry_out, 0, 0},
    {"more than", many_loads, 0x12000, 0},
    {"larger than the memory", nothing, 0, 3},
};

static void test_bad(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(bads) / sizeof(bads[0]); i++) {
		const struct bad *b = &bads[i];
		struct image im = good;
		struct elf_plan p;
		struct err e;
		int r;

		b->spoil(&im);
		r = read_image(&im, b->len ? b->len : 0x2000,
		    b->npages ? b->npages : MEM_NPAGES, &p, &e);
		if (r != -ENOEXEC || !strstr(e.msg, b->says))
			print_error("bad %zu: %d, \"%s\", not \"%s\"\n", i, r,
			    e.msg, b->says);
		assert_int_equal(r, -ENOEXEC);
		assert_non_null(strstr(e.msg, b->says));
	}
}

static void test_huge(void **state)
{
	struct elf_plan p;
	struct err e;

	(void)state;
	assert_int_equal(
	    read_image(&good, ELF_FILE_MAX + 1, MEM_NPAGES, &p, &e), -EFBIG);
}

static void test_not_a_file(void **state)
{
	struct elf_plan p;
	struct err e;
	int fds[2];

	(void)state;
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(elf_read(fds[0], MEM_NPAGES, &p, &e), -ENOEXEC);
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(elf_read(-1, MEM_NPAGES, &p, &e), -EBADF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_good),
	    cmocka_unit_test(test_pie),
	    cmocka_unit_test(test_bad),
	    cmocka_unit_test(test_huge),
	    cmocka_unit_test(test_not_a_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
