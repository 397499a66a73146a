/* SPDX-License-Identifier: MIT */
#ifndef TESTS_UNIT_KINSETS_H
#define TESTS_UNIT_KINSETS_H

#include "vmm/kin/kin.h"

/* kin_since(), united. */
static inline int since(const struct kin *k, const struct kin *base,
    bool *tracked, struct kin_sets *out)
{
	struct kin_steps steps;
	int rc = kin_since(k, base, tracked, &steps);

	*out = (struct kin_sets){0};
	if (rc == 0)
		rc = kin_steps_unite(&steps, out);
	kin_steps_free(&steps);
	return rc;
}

#endif /* TESTS_UNIT_KINSETS_H */
