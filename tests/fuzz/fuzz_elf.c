/* SPDX-License-Identifier: MIT */
/* Any file: a refusal with a reason, or a plan that keeps its promises. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "tests/fuzz/fuzz.h"
#include "vmm/boot/elf.h"

#define MEM_NPAGES 65536u

static void check_plan(const struct elf_plan *p)
{
	uint64_t before = 0;
	uint64_t npages = 0;

	FUZZ_CHECK(p->nloads >= 1 && p->nloads <= ELF_LOADS_MAX);
	for (uint32_t i = 0; i < p->nloads; i++) {
		const struct elf_load *l = &p->load[i];
		uint64_t first = l->va / PAGE_SIZE;
		uint64_t end = (l->va + l->memsz + PAGE_SIZE - 1) / PAGE_SIZE;

		FUZZ_CHECK(l->va >= ELF_VA_MIN && first >= before);
		FUZZ_CHECK(l->filesz <= l->memsz && end > first);
		FUZZ_CHECK((l->prot & (ELF_W | ELF_X)) != (ELF_W | ELF_X));
		before = end;
		npages += end - first;
	}
	FUZZ_CHECK(npages == p->npages && npages <= MEM_NPAGES);
	FUZZ_CHECK(p->end == before * PAGE_SIZE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct elf_plan plan;
	struct err e = {0};
	int fd = memfd_create("elf", MFD_CLOEXEC);
	int r;

	FUZZ_CHECK(fd >= 0);
	FUZZ_CHECK(write(fd, data, len) == (ssize_t)len);
	r = elf_read(fd, MEM_NPAGES, &plan, &e);
	close(fd);
	if (r == 0)
		check_plan(&plan);
	else
		FUZZ_CHECK(r == -ENOEXEC && e.msg[0] != '\0');
	return 0;
}
