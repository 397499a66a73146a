/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/core/cleanup.h"
#include "vmm/core/seals.h"
#include "vmm/place/internal.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

int backing_memfd(uint64_t npages)
{
	int fd AUTO_CLOSE =
	    memfd_create("firn", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)(npages * PAGE_SIZE)) < 0)
		return -errno;
	return take_fd(&fd);
}

int backing_segment(uint64_t npages)
{
	int fd AUTO_CLOSE = backing_memfd(npages);

	if (fd < 0)
		return fd;
	if (fcntl(fd, F_ADD_SEALS, SEALS_OWNED) < 0)
		return -errno;
	return take_fd(&fd);
}

/* A lease is granted only where no other description of the file exists than
 * the one it is asked for. */
static int check_alone(int fd, struct err *e)
{
	if (fcntl(fd, F_SETLEASE, F_WRLCK) < 0)
		return err_set(e, errno == EAGAIN ? -EBUSY : -errno,
		    "the memory is in somebody else's hands as well: %s",
		    strerror(errno));
	return fcntl(fd, F_SETLEASE, F_UNLCK) < 0 ? -errno : 0;
}

int backing_take(int memory, uint64_t npages, struct err *e)
{
	int seals = fcntl(memory, F_GET_SEALS);
	int flags = fcntl(memory, F_GETFL);
	struct stat st;
	int fd;
	int r;

	if (flags < 0 || (flags & O_ACCMODE) != O_RDWR || seals < 0 ||
	    (seals & ~F_SEAL_EXEC) != SEALS_OWNED)
		return err_set(e, -EPERM,
		    "the kernel does not call it memory that can be written "
		    "and whose size cannot change");
	if (fstat(memory, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size != npages * PAGE_SIZE)
		return err_set(e, -ERANGE,
		    "the memory has %llu bytes, not %llu pages",
		    (unsigned long long)st.st_size, (unsigned long long)npages);
	r = check_alone(memory, e);
	if (r < 0)
		return r;
	fd = fcntl(memory, F_DUPFD_CLOEXEC, 3);
	return fd < 0 ? -errno : fd;
}

unsigned char *backing_reserve(size_t len, size_t offset)
{
	size_t all = len + LEAF_SIZE;
	unsigned char *raw = mmap(NULL, all, PROT_NONE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t head;

	if (raw == MAP_FAILED)
		return NULL;
	head = (offset - (uintptr_t)raw) & (LEAF_SIZE - 1);
	if (head > 0)
		(void)munmap(raw, head);
	(void)munmap(raw + head + len, all - head - len);
	return raw + head;
}

int backing_map_shared(unsigned char *hva, size_t len, int fd)
{
	void *m = mmap(hva, len, PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0);

	return m == MAP_FAILED ? -errno : 0;
}

int backing_kept(unsigned char *hva, size_t len, int why)
{
	return madvise(hva, len, MADV_NORMAL) == 0 ? why : -ENOTRECOVERABLE;
}

int backing_collapse(unsigned char *hva, uint64_t nleaves)
{
	/* The kernel collapses what has at least one page. */
	for (uint64_t i = 0; i < nleaves; i++)
		(void)*(volatile unsigned char *)(hva + i * LEAF_SIZE);
	return madvise(hva, nleaves * LEAF_SIZE, MADV_COLLAPSE) < 0 ? -errno
								    : 0;
}

void place_back_chunk(struct place *p, uint64_t page)
{
	uint64_t chunk = page / LEAF_NPAGES;
	uint64_t bit = 1ULL << (chunk % 64);

	if (p->memfd < 0 || (chunk + 1) * LEAF_NPAGES > p->npages)
		return;
	if ((__atomic_fetch_or(&p->tried[chunk / 64], bit, __ATOMIC_RELAXED) &
		bit) != 0)
		return;
	(void)backing_collapse(p->hva + chunk * LEAF_SIZE, 1);
}
