/* SPDX-License-Identifier: MIT */
#include "shared/page/run.h"

#include "shared/status.h"

int run_list_check(const struct page_run *r, size_t n, uint64_t npages)
{
	uint64_t next = 0;

	for (size_t i = 0; i < n; i++) {
		uint64_t end;
		uint64_t iend;

		if (r[i].npages == 0 || r[i].pad != 0)
			return -ST_INVAL;
		if (__builtin_add_overflow(r[i].page, r[i].npages, &end) ||
		    end > npages ||
		    __builtin_add_overflow(r[i].index, r[i].npages, &iend))
			return -ST_RANGE;
		if (r[i].page < next)
			return -ST_PROTO;
		next = end;
	}
	return 0;
}
