/* SPDX-License-Identifier: MIT */
/* ops: writes, by the vCPU and by the monitor, and looks at what is there. */
#include "tests/model/ops.h"

static uint64_t some_page(struct world *w, const struct place *p)
{
	switch (rnd(w, 8)) {
	case 0:
		return 0;
	case 1:
		return p->npages - 1;
	case 2:
		return p->npages > 513 ? 511 + rnd(w, 3) : rnd(w, p->npages);
	case 3: /* few pages, written again and again */
		return rnd(w, p->npages < 8 ? p->npages : 8);
	default:
		return rnd(w, p->npages);
	}
}

void op_write(struct world *w)
{
	struct place *p = some_place(w, WRITABLE);
	uint64_t n = 1 + rnd(w, rnd(w, 4) == 0 ? 300 : 12);
	struct model_req q = {.op = MODEL_WRITE};
	struct model_word word[300];
	uint64_t run = rnd(w, 3) == 0 ? some_page(w, p) : UINT64_MAX;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t page =
		    run == UINT64_MAX ? some_page(w, p) : (run + i) % p->npages;
		uint64_t old;

		word[i].offset = page * PAGE + rnd(w, PAGE / 8) * 8;
		memcpy(&old, p->now + word[i].offset, 8);
		word[i].value = rnd(w, 8) == 0   ? old
				: rnd(w, 8) == 0 ? 0
						 : rnd(w, UINT64_MAX);
		memcpy(p->now + word[i].offset, &word[i].value, 8);
		touch(p, word[i].offset, 8);
	}
	q.a = p->va;
	q.len = (uint32_t)(n * sizeof(word[0]));
	(void)guest(&w->vm[p->vm], &q, word, NULL, 0);
}

void op_zero(struct world *w)
{
	struct place *p = some_place(w, WRITABLE);
	uint64_t page = some_page(w, p);
	uint64_t n = 1 + rnd(w, rnd(w, 8) == 0 ? p->npages : 3);
	struct model_req q = {.op = MODEL_ZERO};

	if (n > p->npages - page)
		n = p->npages - page;
	q.a = p->va + page * PAGE;
	q.b = n * PAGE;
	memset(p->now + page * PAGE, 0, n * PAGE);
	touch(p, page * PAGE, n * PAGE);
	(void)guest(&w->vm[p->vm], &q, NULL, NULL, 0);
}

/* By the monitor: read(2) into the place. */
void op_fill(struct world *w)
{
	struct place *p = some_place(w, WRITABLE);
	uint64_t offset = some_page(w, p) * PAGE + rnd(w, PAGE);
	uint64_t len = 1 + rnd(w, rnd(w, 4) == 0 ? 100000 : 6000);
	struct model_req q = {.op = MODEL_FILL};
	unsigned char *bytes;

	if (len > len_of(p) - offset)
		len = len_of(p) - offset;
	bytes = p->now + offset;
	for (uint64_t i = 0; i < len; i++)
		bytes[i] = (unsigned char)(rnd(w, 256));
	touch(p, offset, len);
	q.a = p->va + offset;
	q.len = (uint32_t)len;
	(void)guest(&w->vm[p->vm], &q, bytes, NULL, 0);
}
void op_check_place(struct world *w)
{
	check_place(w, some_place(w, ANY));
}

void op_check_snap(struct world *w)
{
	struct snap *s = some_snap(w, -1);

	if (s != NULL)
		check_snap(w, s);
}
