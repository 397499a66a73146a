/* SPDX-License-Identifier: MIT */
/* What tests ask of a set of layers. */
#ifndef TESTS_UNIT_LAYERSETS_H
#define TESTS_UNIT_LAYERSETS_H

#include "vmm/layer/layer.h"

/* How many are held. */
static inline uint32_t layers_in(const struct layer_set *set)
{
	struct layer_totals sum;

	layer_set_totals(set, &sum);
	return sum.layers;
}

#endif /* TESTS_UNIT_LAYERSETS_H */
