/* SPDX-License-Identifier: MIT */
/* What the kernel says of a descriptor of memory, and the making of it. */
#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "vmm/core/cleanup.h"
#include "vmm/layer/internal.h"

/* memfd_create(2) gives others. */
#define MODE_OWNED (S_IFREG | S_IRUSR | S_IWUSR)

/* Whether (fd) is a memfd with exactly those seals. A file on a tmpfs has
 * F_SEAL_SEAL alone, one elsewhere cannot have seals. */
int memory_seals(int fd, int required, struct err *e)
{
	struct statfs fs;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 && errno == EBADF)
		return err_set(e, -EBADF, "the layer's descriptor is not open");
	if (seals < 0 || fstatfs(fd, &fs) != 0 || fs.f_type != TMPFS_MAGIC)
		return err_set(
		    e, -EINVAL, "the layer is not a memfd of ordinary pages");
	if ((seals & ~F_SEAL_EXEC) != required)
		return err_set(e, -EPERM,
		    "the layer has seals %#x; it needs exactly %#x (%s)",
		    (unsigned)seals, (unsigned)required,
		    required == SEALS_OWNED ? "shrink, grow"
					    : "write, shrink, grow, seal");
	return 0;
}

int memory_size(int fd, uint64_t claimed, struct file *out, struct err *e)
{
	struct stat sb;
	uint64_t size;

	if (fstat(fd, &sb) != 0)
		return err_set(e, -errno, "layer: fstat: %s", strerror(errno));
	size = (uint64_t)sb.st_size;
	if (size == 0 || size % PAGE_SIZE != 0)
		return err_set(e, -EINVAL,
		    "the layer's size, %llu bytes, is not a number of pages",
		    (unsigned long long)size);
	out->npages = size / PAGE_SIZE;
	out->bytes = (uint64_t)sb.st_blocks * 512;
	if (out->npages < claimed || out->npages > LAYER_NPAGES_MAX)
		return err_set(e, -ERANGE,
		    "the layer has %llu pages; %llu to %llu are right",
		    (unsigned long long)out->npages,
		    (unsigned long long)claimed, LAYER_NPAGES_MAX);
	return 0;
}

/* O_NONBLOCK means nothing to a memfd but this: where its sender has a lease on
 * it the kernel would have us wait for him, for 45 s. */
int memory_reopen(int fd, int flags, struct err *e)
{
	char path[32];
	int own;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	own = open(path, flags | O_CLOEXEC | O_NONBLOCK);
	if (own < 0 && errno == EWOULDBLOCK)
		return err_set(
		    e, -EBUSY, "somebody else holds a lease on the memory");
	if (own < 0)
		return err_set(
		    e, -errno, "cannot re-open the layer: %s", strerror(errno));
	return own;
}

int layer_memory(uint64_t npages, struct err *e)
{
	AUTO_CLOSE int made =
	    memfd_create("firn", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (made < 0 || ftruncate(made, (off_t)(npages * PAGE_SIZE)) != 0 ||
	    fchmod(made, MODE_OWNED & ~S_IFMT) != 0 ||
	    fcntl(made, F_ADD_SEALS, SEALS_OWNED) != 0)
		return err_set(e, -errno, "no memory for %llu pages: %s",
		    (unsigned long long)npages, strerror(errno));
	return memory_reopen(made, O_RDWR, e);
}

int memory_made(int fd, struct err *e)
{
	struct stat sb;

	if (fstat(fd, &sb) != 0)
		return err_set(e, -errno, "layer: fstat: %s", strerror(errno));
	if (sb.st_mode != MODE_OWNED || sb.st_uid != geteuid())
		return err_set(e, -EPERM,
		    "the memory was not made by the broker: it cannot be told "
		    "who else has it");
	return 0;
}

int memory_alone(int *fd, struct err *e)
{
	int own = memory_reopen(*fd, O_RDWR, e);

	if (own < 0)
		return own;
	(void)close(*fd);
	*fd = own;
	if (fcntl(own, F_SETLEASE, F_WRLCK) < 0)
		return err_set(e, errno == EAGAIN ? -EBUSY : -errno,
		    "the memory is still in somebody else's hands, who has a "
		    "descriptor or a mapping of it (%s)",
		    strerror(errno));
	if (fcntl(own, F_SETLEASE, F_UNLCK) < 0)
		return err_set(
		    e, -errno, "cannot end a lease: %s", strerror(errno));
	return 0;
}

int layer_seal_fd(int fd, struct err *e)
{
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals >= 0 && (seals & SEALS_FROZEN) == SEALS_FROZEN)
		return 0; /* an earlier attempt got as far */
	if (fcntl(fd, F_ADD_SEALS, SEALS_FROZEN) < 0)
		return err_set(
		    e, -errno, "cannot seal the memory: %s", strerror(errno));
	return 0;
}
