/* SPDX-License-Identifier: MIT */
/* wrap: memfd_create mmap fcntl ftruncate fallocate pwritev calloc malloc */
/* wrap: gmem_add gmem_log kvm_dirty_get pagemap_private */
#include "tests/unit/place_bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "vmm/kvm/kvm_dirty.h"
#include "vmm/mem/pagemap.h"

/* --- calls that fail on demand -------------------------------------------- */

int fail_in[NSEAMS];
int fail_errno = ENOMEM;
int lose_in;
int full_in;
size_t write_most = SIZE_MAX;
bool no_fill;

static bool failing(enum seam s)
{
	if (fail_in[s] == 0 || --fail_in[s] > 0)
		return false;
	errno = fail_errno;
	return true;
}

int __wrap_memfd_create(const char *name, unsigned flags);
void *__real_mmap(void *a, size_t n, int prot, int flags, int fd, off_t o);
void *__wrap_mmap(void *a, size_t n, int prot, int flags, int fd, off_t o);
int __wrap_fcntl(int fd, int cmd, ...);
int __wrap_ftruncate(int fd, off_t n);
int __real_fallocate(int fd, int mode, off_t o, off_t n);
int __wrap_fallocate(int fd, int mode, off_t o, off_t n);
ssize_t __real_pwritev(int fd, const struct iovec *v, int n, off_t at);
ssize_t __wrap_pwritev(int fd, const struct iovec *v, int n, off_t at);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
int __real_gmem_add(struct gmem *g, const struct gmem_bank *b, struct err *e);
int __wrap_gmem_add(struct gmem *g, const struct gmem_bank *b, struct err *e);
int __real_gmem_log(struct gmem *g, uint32_t slot, bool on, struct err *e);
int __wrap_gmem_log(struct gmem *g, uint32_t slot, bool on, struct err *e);
int __real_kvm_dirty_get(int vm_fd, uint32_t slot, uint64_t *bitmap);
int __wrap_kvm_dirty_get(int vm_fd, uint32_t slot, uint64_t *bitmap);
int __real_pagemap_private(
    int fd, const void *hva, uint64_t n, uint64_t *bits, uint64_t *count);
int __wrap_pagemap_private(
    int fd, const void *hva, uint64_t n, uint64_t *bits, uint64_t *count);

int __wrap_memfd_create(const char *name, unsigned flags)
{
	return failing(MEMFD) ? -1 : __real_memfd_create(name, flags);
}

void *__wrap_mmap(void *a, size_t n, int prot, int flags, int fd, off_t o)
{
	if (lose_in > 0 && (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) &&
	    --lose_in == 0) {
		lose_in = 1;
		(void)munmap(a, n);
		errno = ENOMEM;
		return MAP_FAILED;
	}
	if (full_in > 0 && (flags & MAP_FIXED) && --full_in == 0) {
		full_in = 1;
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return failing(MMAP) ? MAP_FAILED
			     : __real_mmap(a, n, prot, flags, fd, o);
}

int __wrap_fcntl(int fd, int cmd, ...)
{
	va_list ap;
	int arg;

	va_start(ap, cmd);
	arg = va_arg(ap, int);
	va_end(ap);
	return failing(FCNTL) ? -1 : __real_fcntl(fd, cmd, arg);
}

int __wrap_ftruncate(int fd, off_t n)
{
	return failing(TRUNCATE) ? -1 : __real_ftruncate(fd, n);
}

int __wrap_fallocate(int fd, int mode, off_t o, off_t n)
{
	if (failing(ALLOCATE))
		return -1;
	return no_fill ? 0 : __real_fallocate(fd, mode, o, n);
}

ssize_t __wrap_pwritev(int fd, const struct iovec *v, int n, off_t at)
{
	struct iovec some[64];
	size_t left = write_most;
	int k = 0;

	if (failing(PWRITEV))
		return -1;
	assert_in_range(n, 1, 64);
	for (; k < n && left > 0; left -= some[k++].iov_len) {
		some[k] = v[k];
		if (some[k].iov_len > left)
			some[k].iov_len = left;
	}
	return __real_pwritev(fd, some, k, at);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return failing(CALLOC) ? NULL : __real_calloc(n, size);
}

void *__wrap_malloc(size_t n)
{
	return failing(MALLOC) ? NULL : __real_malloc(n);
}

int __wrap_gmem_add(struct gmem *g, const struct gmem_bank *b, struct err *e)
{
	return failing(ADD) ? -ENOMEM : __real_gmem_add(g, b, e);
}

int __wrap_gmem_log(struct gmem *g, uint32_t slot, bool on, struct err *e)
{
	return failing(LOG) ? -ENOMEM : __real_gmem_log(g, slot, on, e);
}

int __wrap_kvm_dirty_get(int vm_fd, uint32_t slot, uint64_t *bitmap)
{
	return failing(GETLOG) ? -ENOMEM
			       : __real_kvm_dirty_get(vm_fd, slot, bitmap);
}

int __wrap_pagemap_private(
    int fd, const void *hva, uint64_t n, uint64_t *bits, uint64_t *count)
{
	return failing(SCAN) ? -ENOMEM
			     : __real_pagemap_private(fd, hva, n, bits, count);
}

/* --- the bench ------------------------------------------------------------ */

int setup(void **state)
{
	struct kvmplaces *g = calloc(1, sizeof(*g));

	if (kvmplaces_open(g) < 0)
		return -1;
	memset(fail_in, 0, sizeof(fail_in));
	*state = g;
	return 0;
}

int teardown(void **state)
{
	struct kvmplaces *g = *state;

	kvmplaces_close(g);
	free(g);
	return 0;
}

struct place *make(struct kvmplaces *g)
{
	struct err e = {0};
	struct place *p;

	assert_int_equal(
	    place_make(g->ps, "seg", GPA, NPAGES * 4096ULL, &p, &e), 0);
	return p;
}

void put(struct kvmplaces *g, uint32_t page, uint32_t value)
{
	struct kvmguest_write w = {GPA + page * 4096, value};

	assert_int_equal(kvmplaces_do(g, &w, 1), 0);
}

uint32_t at(struct place *p, uint32_t page)
{
	struct place_info info;
	uint32_t v;

	place_info(p, &info);
	memcpy(&v, info.hva + page * 4096ULL, sizeof(v));
	return v;
}

void freeze(struct kvmplaces *g, struct place *p, struct place_frozen *f)
{
	struct err e = {0};
	int r = place_freeze(g->ps, p, f, &e);

	if (r != 0)
		fail_msg("%d: %s", r, e.msg);
}

int reopen(int fd)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

int open_view(struct kvmplaces *g, enum place_kind kind,
    const struct page_run *r, size_t n, int fd, struct place **p)
{
	struct err e = {0};
	struct place_view v = {.name = "view",
	    .gpa = 0x20000000,
	    .kind = kind,
	    .npages = NPAGES,
	    .runs = r,
	    .nruns = n,
	    .layer_fd = &fd,
	    .nlayers = 1,
	    .snapshot = 9};
	int ret = place_open(g->ps, &v, p, &e);

	if (ret < 0)
		assert_int_equal(e.code, ret);
	return ret;
}

void expect_lost(struct kvmplaces *g, int r, const struct err *e)
{
	unsigned char byte;

	lose_in = 0;
	assert_int_equal(r, -ENOTRECOVERABLE);
	assert_int_equal(e->code, -ENOTRECOVERABLE);
	assert_non_null(strstr(e->msg, "refused to map"));
	assert_int_equal(g->gate.closings, 1);
	assert_int_equal(gmem_read(&g->gmem, GPA, &byte, 1), -EFAULT);
	gate_open(&g->gate);
}
