/* SPDX-License-Identifier: MIT */
/*
 * firn_guest: firn's own calls, for programs that run as firn guests.
 *
 * Every function is one system call of shared/abi/guestcall.h. They return
 * what the call returns: 0 or a positive result, or a negative errno value
 * (errno itself is not touched); firn_check() turns that into the style of
 * libc. Outside a firn guest all of them return -ENOSYS, as does a version of
 * firn that lacks a call, so firn_version() tells a program where it runs.
 *
 * Capabilities are small non-negative numbers in the guest's own table;
 * segments have ids in the guest's own memory. Memory of segments and views
 * starts at (void *)segment.va.
 *
 * Any function may also return
 *   -EFAULT  an argument points where the program has no memory
 *   -ENAMETOOLONG  a name of FIRN_NAME_MAX bytes or more
 *   -EINTR   the guest is being killed
 *   -EPIPE   the broker is gone
 */
#ifndef GUEST_LIB_FIRN_GUEST_H
#define GUEST_LIB_FIRN_GUEST_H

#include <stdint.h>

#if __has_include("shared/abi/guestcall.h")
#include "shared/abi/guestcall.h"
#else
#include <firn/guestcall.h> /* as installed */
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The call itself: number and six arguments, -errno on failure. */
static inline long firn_syscall(long nr, uint64_t a, uint64_t b, uint64_t c,
    uint64_t d, uint64_t e, uint64_t f)
{
	register uint64_t r10 __asm__("r10") = d;
	register uint64_t r8 __asm__("r8") = e;
	register uint64_t r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile(
	    "syscall"
	    : "=a"(ret)
	    : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
	    : "rcx", "r11", "memory");
	return ret;
}

/* (ret) as libc would have it: -1 with errno set where (ret) is an error. */
long firn_check(long ret);

/* FIRN_ABI_VERSION of the monitor; -ENOSYS: this is no firn guest. */
long firn_version(void);

/*
 * Make segment (name) of (size) zero bytes; *out tells where it is. (name) is
 * 1..FIRN_NAME_MAX-1 bytes. -EINVAL (size 0 or not page-aligned, name),
 * -EEXIST, -ENOSPC (too many, or more than may be reserved), -ENOMEM.
 */
int firn_segment_make(
    const char *name, uint64_t size, struct firn_segment *out);
/*
 * The same with flags: FIRN_SEG_TRACKED keeps which pages are read and written,
 * as FIRN_MAP_TRACK does of a view, from now on (-ENOTSUP where the host
 * cannot); such a segment cannot be severed. FIRN_SEG_PRIVATE: nobody who maps
 * a version of it, or a descendant of one, gets a file with pages of another;
 * that may cost a copy of it at its first map. -EINVAL (another flag).
 */
int firn_segment_make_as(
    const char *name, uint64_t size, uint32_t flags, struct firn_segment *out);
/* Find a segment or view by name, the program's memory being "ram"; -ENOENT. */
int firn_segment_find(const char *name, struct firn_segment *out);

/*
 * Freeze segment (id): a capability for a snapshot of it at one instant. (name)
 * and (out) may be NULL. -ENOENT, -EPERM (a read-only view), -EINVAL, -EEXIST
 * (name), -ENOSPC (too many capabilities, or more than may be reserved), -EBUSY
 * (sealing failed: ask again).
 */
int firn_freeze(uint32_t id, const char *name, struct firn_frozen *out);
/*
 * The same, and the segment reads zero from then on. Of a segment never frozen
 * the memory itself leaves, unsealed: the capability then is an owned one, see
 * firn_adopt(). -EPERM for "ram", -EBUSY while a view of one of the segment's
 * snapshots is mapped anywhere.
 */
int firn_sever(uint32_t id, const char *name, struct firn_frozen *out);

/*
 * Show the snapshot (cap) as a new view, at guest-physical (gpa), a multiple of
 * 2 MiB, or where there is room when 0. -EBADF (cap), -EACCES (rights),
 * -EINVAL (an odd address, a mode), -ERANGE (beyond what there is), -EEXIST
 * (the address is taken), -ENOSPC. (mode) is an enum firn_map_mode, with
 * FIRN_MAP_TRACK to keep which pages are read and written (-ENOTSUP where the
 * host cannot).
 */
int firn_map(int cap, uint32_t mode, uint64_t gpa, struct firn_segment *out);
/*
 * Put the memory of the owned capability (cap) into this VM as a segment that
 * can be written, at (gpa) as firn_map() does, without a copy; (cap) is gone
 * then. Where it is not owned, it is mapped FIRN_MAP_COW, and the flags in
 * (out) say so. Errors of firn_map(), and -EBUSY (it is being sealed or
 * adopted).
 */
int firn_adopt(int cap, uint64_t gpa, struct firn_segment *out);
/*
 * Take a view away, or a segment that was adopted or that was severed and not
 * frozen since. -ENOENT, -EPERM (another segment), -EBUSY (what was frozen or
 * severed of it waits to be taken: do that again).
 */
int firn_unmap(uint32_t view);

/* The capability given or frozen under (name); -ENOENT. */
int firn_lookup(const char *name);
/* What (cap) names and what it permits; -EBADF. */
int firn_describe(int cap, struct firn_cap_info *out);

/*
 * The pages that differ between snapshots (a) and (b), as at most (max) extents
 * in (buf); (out) counts all. flags: FIRN_EXACT, which goes without saying for
 * those without common history. Pages beyond the end of the shorter one differ
 * where they are not zero. -EBADF, -EACCES, -EINVAL (flags), -E2BIG (max beyond
 * FIRN_EXTENTS_MAX, or more extents than the service lists).
 */
int firn_diff(int a, int b, uint32_t flags, struct firn_extent *buf,
    uint32_t max, struct firn_pages *out);

/*
 * The pages of segment (id) written since cursor (name) last advanced; an
 * unknown name starts now, with none. At most (max) extents, the first ones,
 * are in (buf), and (out) counts all. The cursor advances for the pages that
 * are told: what found no room comes with a later query, so ask until
 * out->nextents is at most (max). FIRN_PEEK leaves the cursor where it is.
 * Pages only read may be among them. With FIRN_EXACT there are only those whose
 * bytes differ from what they were then, for the price of a freeze and a
 * comparison; a cursor that began so answers so always. -ENOENT, -EPERM (a
 * read-only view), -EINVAL (name, flags; FIRN_EXACT of a cursor that began
 * without), -ENOSPC (too many cursors; with FIRN_EXACT also no room for what a
 * freeze makes), -E2BIG (max beyond FIRN_EXTENTS_MAX; with FIRN_EXACT also more
 * extents than the service lists), -EBUSY (sealing failed: ask again). After an
 * error the cursor is where it was.
 */
int firn_dirty(uint32_t id, const char *cursor, uint32_t flags,
    struct firn_extent *buf, uint32_t max, struct firn_pages *out);

/*
 * The pages of tracked view or segment (id) that were read and not written
 * (FIRN_READ), or written (FIRN_WRITTEN), since it was mapped or made: exactly.
 * At most (max) extents are in (buf), and (out) counts all. -ENOENT, -EPERM (it
 * is not tracked), -EINVAL, -E2BIG (max beyond FIRN_EXTENTS_MAX).
 */
int firn_touched(uint32_t id, uint32_t which, struct firn_extent *buf,
    uint32_t max, struct firn_pages *out);

/*
 * A new snapshot of what both (m->a) and (m->b) changed since (m->base), if
 * neither wrote what the other read or wrote: its capability. -ESTALE: they
 * conflict, at most (m->max) of the extents are in (buf), and (out) counts all.
 * (name), (buf) and (out) may be NULL. -EINVAL (base is no ancestor), -EPERM (a
 * step was not tracked, and FIRN_BLIND is not set), -EBADF, -EACCES, -EEXIST
 * (name), -E2BIG.
 */
int firn_meld(const struct firn_meld *m, const char *name,
    struct firn_conflict *buf, struct firn_melded *out);

/*
 * A copy of (cap) with (rights) of its own at most; -EBADF, -EACCES, -EINVAL
 * (it has none of them), -ENOSPC (too many). Seals what is owned first;
 * -EBUSY where that cannot be done now.
 */
int firn_derive(int cap, uint32_t rights);
int firn_drop(int cap);

#ifdef __cplusplus
}
#endif

#endif /* GUEST_LIB_FIRN_GUEST_H */
