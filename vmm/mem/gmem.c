/* SPDX-License-Identifier: MIT */
#include "vmm/mem/gmem.h"

#include <errno.h>
#include <string.h>

#include "shared/page/run.h"
#include "vmm/kvm/kvm_sys.h"

void gmem_init(struct gmem *g, int vm_fd, unsigned phys_bits)
{
	*g = (struct gmem){.vm_fd = vm_fd};
	g->gpa_end = GMEM_END;
	if (phys_bits < 64 && 1ULL << phys_bits < GMEM_END)
		g->gpa_end = 1ULL << phys_bits;
}

static bool overlaps(const struct gmem_bank *b, uint64_t gpa, uint64_t len)
{
	return b->len != 0 && gpa < b->gpa + b->len && b->gpa < gpa + len;
}

/* Nothing about the table as a whole. */
static int check_bank(
    const struct gmem *g, const struct gmem_bank *b, struct err *e)
{
	const uint64_t low = PAGE_SIZE - 1;

	if (b->len == 0 || b->hva == NULL)
		return err_set(e, -EINVAL, "a bank of guest memory is empty");
	if ((b->gpa & low) || (b->len & low) || ((uintptr_t)b->hva & low))
		return err_set(e, -EINVAL,
		    "guest memory at 0x%llx is not aligned to pages",
		    (unsigned long long)b->gpa);
	if (b->gpa > g->gpa_end || b->len > g->gpa_end - b->gpa)
		return err_set(e, -ERANGE,
		    "guest memory at 0x%llx (0x%llx bytes) ends beyond 0x%llx, "
		    "the end of what a program can address here",
		    (unsigned long long)b->gpa, (unsigned long long)b->len,
		    (unsigned long long)g->gpa_end);
	return 0;
}

static uint32_t bank_flags(const struct gmem_bank *b)
{
	return (b->readonly ? KVM_SYS_READONLY : 0) |
	       (b->logged ? KVM_SYS_LOGGED : 0);
}

int gmem_add(struct gmem *g, const struct gmem_bank *b, struct err *e)
{
	int slot = -1;
	int r = check_bank(g, b, e);

	if (r < 0)
		return r;
	for (int i = GMEM_BANKS_MAX - 1; i >= 0; i--) {
		if (overlaps(&g->bank[i], b->gpa, b->len))
			return err_set(e, -EEXIST,
			    "guest address 0x%llx (0x%llx bytes) is taken",
			    (unsigned long long)b->gpa,
			    (unsigned long long)b->len);
		if (g->bank[i].len == 0)
			slot = i;
	}
	if (slot < 0)
		return err_set(e, -ENOSPC,
		    "no bank of guest memory is free: %d are in use",
		    GMEM_BANKS_MAX);
	r = kvm_sys_set_memory(
	    g->vm_fd, (uint32_t)slot, bank_flags(b), b->gpa, b->hva, b->len);
	if (r < 0)
		return err_set(e, r,
		    "KVM refused guest memory at 0x%llx (0x%llx bytes): %s",
		    (unsigned long long)b->gpa, (unsigned long long)b->len,
		    strerror(-r));
	g->bank[slot] = *b;
	return slot;
}

static struct gmem_bank *bank_of(struct gmem *g, uint32_t slot, struct err *e)
{
	if (slot < GMEM_BANKS_MAX && g->bank[slot].len != 0)
		return &g->bank[slot];
	(void)err_set(e, -ENOENT, "no bank %u of guest memory", slot);
	return NULL;
}

int gmem_del(struct gmem *g, uint32_t slot, struct err *e)
{
	struct gmem_bank *b = bank_of(g, slot, e);
	int r;

	if (b == NULL)
		return -ENOENT;
	r = kvm_sys_set_memory(g->vm_fd, slot, 0, b->gpa, b->hva, 0);
	if (r < 0)
		return err_set(e, r, "KVM kept guest memory at 0x%llx: %s",
		    (unsigned long long)b->gpa, strerror(-r));
	*b = (struct gmem_bank){0};
	return 0;
}

int gmem_log(struct gmem *g, uint32_t slot, bool on, struct err *e)
{
	struct gmem_bank *b = bank_of(g, slot, e);
	struct gmem_bank want;
	int r;

	if (b == NULL)
		return -ENOENT;
	if (b->logged == on)
		return 0;
	want = *b;
	want.logged = on;
	r = kvm_sys_set_memory(
	    g->vm_fd, slot, bank_flags(&want), b->gpa, b->hva, b->len);
	if (r < 0)
		return err_set(e, r,
		    "KVM could not turn the dirty log of guest memory at "
		    "0x%llx %s: %s",
		    (unsigned long long)b->gpa, on ? "on" : "off",
		    strerror(-r));
	b->logged = on;
	return 0;
}

/* The lowest end of a bank in the way of [gpa, gpa + len), or 0. */
static uint64_t end_in_the_way(const struct gmem *g, uint64_t gpa, uint64_t len)
{
	for (uint32_t i = 0; i < GMEM_BANKS_MAX; i++)
		if (overlaps(&g->bank[i], gpa, len))
			return g->bank[i].gpa + g->bank[i].len;
	return 0;
}

uint64_t gmem_find(const struct gmem *g, uint64_t len)
{
	uint64_t gpa = GMEM_PLACES_GPA;
	uint64_t end;

	/* Every round leaves a bank behind for good, as (gpa) only grows. */
	while (len != 0 && gpa < g->gpa_end && len <= g->gpa_end - gpa) {
		end = end_in_the_way(g, gpa, len);
		if (end == 0)
			return gpa;
		gpa = (end + LEAF_SIZE - 1) & ~(LEAF_SIZE - 1);
	}
	return 0;
}

/* The bank that holds the byte at (gpa); GMEM_BANKS_MAX: none. */
static uint32_t find_bank(const struct gmem *g, uint64_t gpa)
{
	uint32_t i;

	for (i = 0; i < GMEM_BANKS_MAX; i++)
		if (g->bank[i].len != 0 && gpa >= g->bank[i].gpa &&
		    gpa - g->bank[i].gpa < g->bank[i].len)
			break;
	return i;
}

int gmem_slot_of(const struct gmem *g, uint64_t gpa, uint64_t len)
{
	uint32_t i = find_bank(g, gpa);

	if (i == GMEM_BANKS_MAX ||
	    len > g->bank[i].len - (gpa - g->bank[i].gpa))
		return -ERANGE;
	return (int)i;
}

/* One bank's part of an access. */
struct part {
	uint32_t slot;
	uint64_t off;
	uint64_t len;
};

/* The first part of [gpa, gpa + len); -EFAULT. */
static int first_part(
    const struct gmem *g, uint64_t gpa, uint64_t len, struct part *p)
{
	const struct gmem_bank *b;

	p->slot = find_bank(g, gpa);
	if (p->slot == GMEM_BANKS_MAX)
		return -EFAULT;
	b = &g->bank[p->slot];
	p->off = gpa - b->gpa;
	p->len = b->len - p->off < len ? b->len - p->off : len;
	return 0;
}

/* Decides; the copies after it cannot fail. A bank ends at GMEM_END, so that
 * (gpa) cannot wrap here. */
static int check_access(
    const struct gmem *g, uint64_t gpa, uint64_t len, bool write)
{
	struct part p;

	while (len > 0) {
		if (first_part(g, gpa, len, &p) < 0)
			return -EFAULT;
		if (write && g->bank[p.slot].readonly)
			return -EACCES;
		gpa += p.len;
		len -= p.len;
	}
	return 0;
}

static void announce(const struct gmem_bank *b, const struct part *p)
{
	uint64_t first = p->off >> PAGE_SHIFT;
	uint64_t last = (p->off + p->len - 1) >> PAGE_SHIFT;

	if (b->wrote != NULL)
		b->wrote(b->ctx, first, last - first + 1);
}

int gmem_read(const struct gmem *g, uint64_t gpa, void *buf, uint64_t len)
{
	unsigned char *to = buf;
	struct part p;
	int r = check_access(g, gpa, len, false);

	if (r < 0)
		return r;
	while (len > 0 && first_part(g, gpa, len, &p) == 0) {
		memcpy(to, g->bank[p.slot].hva + p.off, p.len);
		to += p.len;
		gpa += p.len;
		len -= p.len;
	}
	return 0;
}

int gmem_write(struct gmem *g, uint64_t gpa, const void *buf, uint64_t len)
{
	const unsigned char *from = buf;
	struct part p;
	int r = check_access(g, gpa, len, true);

	if (r < 0)
		return r;
	while (len > 0 && first_part(g, gpa, len, &p) == 0) {
		announce(&g->bank[p.slot], &p);
		memcpy(g->bank[p.slot].hva + p.off, from, p.len);
		from += p.len;
		gpa += p.len;
		len -= p.len;
	}
	return 0;
}

int gmem_zero(struct gmem *g, uint64_t gpa, uint64_t len)
{
	struct part p;
	int r = check_access(g, gpa, len, true);

	if (r < 0)
		return r;
	while (len > 0 && first_part(g, gpa, len, &p) == 0) {
		announce(&g->bank[p.slot], &p);
		memset(g->bank[p.slot].hva + p.off, 0, p.len);
		gpa += p.len;
		len -= p.len;
	}
	return 0;
}
