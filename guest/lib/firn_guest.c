/* SPDX-License-Identifier: MIT */
#include "guest/lib/firn_guest.h"

#include <errno.h>

static uint64_t ptr(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

long firn_check(long ret)
{
	if (ret >= 0 || ret < -4095)
		return ret;
	errno = (int)-ret;
	return -1;
}

long firn_version(void)
{
	return firn_syscall(FIRN_NR_VERSION, 0, 0, 0, 0, 0, 0);
}

int firn_segment_make(const char *name, uint64_t size, struct firn_segment *out)
{
	return firn_segment_make_as(name, size, 0, out);
}

int firn_segment_make_as(
    const char *name, uint64_t size, uint32_t flags, struct firn_segment *out)
{
	return (int)firn_syscall(
	    FIRN_NR_SEGMENT_MAKE, ptr(name), size, ptr(out), flags, 0, 0);
}

int firn_segment_find(const char *name, struct firn_segment *out)
{
	return (int)firn_syscall(
	    FIRN_NR_SEGMENT_FIND, ptr(name), ptr(out), 0, 0, 0, 0);
}

int firn_freeze(uint32_t id, const char *name, struct firn_frozen *out)
{
	return (int)firn_syscall(
	    FIRN_NR_FREEZE, id, ptr(name), ptr(out), 0, 0, 0);
}

int firn_sever(uint32_t id, const char *name, struct firn_frozen *out)
{
	return (int)firn_syscall(
	    FIRN_NR_SEVER, id, ptr(name), ptr(out), 0, 0, 0);
}

int firn_map(int cap, uint32_t mode, uint64_t gpa, struct firn_segment *out)
{
	return (int)firn_syscall(
	    FIRN_NR_MAP, (uint64_t)cap, mode, gpa, ptr(out), 0, 0);
}

int firn_adopt(int cap, uint64_t gpa, struct firn_segment *out)
{
	return (int)firn_syscall(
	    FIRN_NR_ADOPT, (uint64_t)cap, gpa, ptr(out), 0, 0, 0);
}

int firn_unmap(uint32_t view)
{
	return (int)firn_syscall(FIRN_NR_UNMAP, view, 0, 0, 0, 0, 0);
}

int firn_lookup(const char *name)
{
	return (int)firn_syscall(FIRN_NR_LOOKUP, ptr(name), 0, 0, 0, 0, 0);
}

int firn_describe(int cap, struct firn_cap_info *out)
{
	return (int)firn_syscall(
	    FIRN_NR_DESCRIBE, (uint64_t)cap, ptr(out), 0, 0, 0, 0);
}

int firn_diff(int a, int b, uint32_t flags, struct firn_extent *buf,
    uint32_t max, struct firn_pages *out)
{
	return (int)firn_syscall(FIRN_NR_DIFF, (uint64_t)a, (uint64_t)b, flags,
	    ptr(buf), max, ptr(out));
}

int firn_dirty(uint32_t id, const char *cursor, uint32_t flags,
    struct firn_extent *buf, uint32_t max, struct firn_pages *out)
{
	return (int)firn_syscall(
	    FIRN_NR_DIRTY, id, ptr(cursor), flags, ptr(buf), max, ptr(out));
}

int firn_touched(uint32_t id, uint32_t which, struct firn_extent *buf,
    uint32_t max, struct firn_pages *out)
{
	return (int)firn_syscall(
	    FIRN_NR_TOUCHED, id, which, 0, ptr(buf), max, ptr(out));
}

int firn_meld(const struct firn_meld *m, const char *name,
    struct firn_conflict *buf, struct firn_melded *out)
{
	return (int)firn_syscall(
	    FIRN_NR_MELD, ptr(m), ptr(name), ptr(buf), ptr(out), 0, 0);
}

int firn_derive(int cap, uint32_t rights)
{
	return (int)firn_syscall(
	    FIRN_NR_DERIVE, (uint64_t)cap, rights, 0, 0, 0, 0);
}

int firn_drop(int cap)
{
	return (int)firn_syscall(FIRN_NR_DROP, (uint64_t)cap, 0, 0, 0, 0, 0);
}
