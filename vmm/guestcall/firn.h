/* SPDX-License-Identifier: MIT */
/* firn: firn's calls on what changed, as functions of the table in firn.c, and
 * what they share with the others. */
#ifndef VMM_GUESTCALL_FIRN_H
#define VMM_GUESTCALL_FIRN_H

#include "vmm/guestcall/internal.h"

/* A name, NUL-padded. Where (optional), address 0 is the empty name. -EINVAL
 * (empty), -EFAULT, -ENAMETOOLONG. */
int call_name(
    struct guest_call *c, uint64_t va, bool optional, char name[FIRN_NAME_MAX]);
/* Refuse before anything happens what could not be told of afterwards: -EFAULT.
 * Address 0 wants nothing told. */
int call_check_out(struct guest_call *c, uint64_t va, uint64_t len);
/* (ret), unless the result cannot be stored: -EFAULT. */
int64_t call_give(struct guest_call *c, uint64_t va, const void *out,
    uint64_t len, int64_t ret);

/* What is asked of the broker, and where the beginning of its answer goes. */
struct call_question {
	uint16_t type;
	const void *payload;
	uint32_t payload_len;
	void *out;
	uint32_t out_len;
};

/* The answer's status, or an error; what came is in (p), whose descriptors are
 * the caller's to close. */
int64_t call_ask(
    struct guest_call *c, const struct call_question *q, struct wire_packet *p);

int64_t call_diff(struct guest_call *c);
int64_t call_meld(struct guest_call *c);
int64_t call_dirty(struct guest_call *c);
int64_t call_touched(struct guest_call *c);

#endif /* VMM_GUESTCALL_FIRN_H */
