/* SPDX-License-Identifier: MIT */
/* kvmplaces: the places of a guest that writes lists of words. */
#ifndef TESTS_UNIT_KVMPLACES_H
#define TESTS_UNIT_KVMPLACES_H

#include <stdio.h>

#include "tests/unit/kvmguest.h"
#include "vmm/place/place.h"

struct kvmplaces {
	struct kvmguest guest;
	struct gmem gmem;
	struct gate gate;
	struct places *ps;
	int pagemap;
};

/* 0, or -1 when it was said why. */
static inline int kvmplaces_open(struct kvmplaces *k)
{
	if (kvmguest_open(&k->guest) < 0) {
		perror("kvm");
		return -1;
	}
	k->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	gmem_init(&k->gmem, k->guest.vm, 39);
	gate_init(&k->gate, NULL, NULL);
	k->ps = places_new(&k->gmem, &k->gate, k->pagemap);
	return k->ps == NULL ? -1 : 0;
}

static inline void kvmplaces_close(struct kvmplaces *k)
{
	places_free(k->ps);
	gate_fini(&k->gate);
	kvmguest_close(&k->guest);
	(void)close(k->pagemap);
}

/* Let the guest do the writes, unless and until it is stopped. 0, or -1 when it
 * did not reach its end. */
static inline int kvmplaces_do(
    struct kvmplaces *k, const struct kvmguest_write *w, uint32_t n)
{
	int rc;

	gate_enter(&k->gate);
	rc = kvmguest_do(&k->guest, w, n);
	gate_leave(&k->gate);
	return rc;
}

#endif /* TESTS_UNIT_KVMPLACES_H */
