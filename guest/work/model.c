/* SPDX-License-Identifier: MIT */
/* musl: yes */
/* model: does what its input says (model.h), so that a test knows what this
 * guest's memory must be. */
#include "guest/work/model.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "guest/lib/firn_guest.h"

#define CHUNK 32768u

struct pages_ans {
	struct firn_pages pages;
	struct firn_extent ext[MODEL_EXTENTS_MAX];
};

static union {
	struct pages_ans p;
	struct firn_segment seg;
	struct firn_frozen frozen;
	struct firn_cap_info info;
	struct model_word words[CHUNK / sizeof(struct model_word)];
	unsigned char bytes[CHUNK];
} buf;

static void *at(uint64_t va)
{
	return (void *)(uintptr_t)va;
}

/* All or nothing; the program ends where its input does. */
static void get(void *to, uint64_t len)
{
	char *p = to;

	while (len > 0) {
		ssize_t n = read(0, p, len);

		if (n == 0)
			exit(0);
		if (n < 0) {
			perror("model: read");
			exit(1);
		}
		p += n;
		len -= (uint64_t)n;
	}
}

static void put(const void *from, uint64_t len)
{
	const char *p = from;

	while (len > 0) {
		ssize_t n = write(1, p, len);

		if (n < 0)
			exit(1);
		p += n;
		len -= (uint64_t)n;
	}
}

static void answer(int64_t ret, const void *data, uint64_t len)
{
	struct model_ans a = {.ret = ret, .len = ret < 0 ? 0 : len};

	put(&a, sizeof(a));
	if (a.len > 0)
		put(data, a.len);
}

static void answer_pages(int64_t ret, uint64_t max)
{
	uint64_t n = buf.p.pages.nextents;

	if (n > max)
		n = max;
	answer(ret, &buf.p,
	    sizeof(struct firn_pages) + n * sizeof(struct firn_extent));
}

static void write_words(const struct model_req *q)
{
	for (uint64_t left = q->len; left > 0;) {
		uint64_t n = left < CHUNK ? left : CHUNK;

		get(buf.words, n);
		for (uint64_t i = 0; i < n / sizeof(buf.words[0]); i++)
			*(volatile uint64_t *)at(q->a + buf.words[i].offset) =
			    buf.words[i].value;
		left -= n;
	}
	answer(0, NULL, 0);
}

static void show(const struct model_req *q)
{
	struct model_ans a = {.len = q->b};

	put(&a, sizeof(a));
	for (uint64_t done = 0; done < q->b;) {
		uint64_t n = q->b - done < CHUNK ? q->b - done : CHUNK;

		memcpy(buf.bytes, at(q->a + done), n);
		put(buf.bytes, n);
		done += n;
	}
}

static bool more_input(void)
{
	struct pollfd p = {.fd = 0, .events = POLLIN};

	return poll(&p, 1, 0) != 0;
}

/* A page of its own for the answer to the clock, as the monitor writes it. */
static void stamp(const struct model_req *q)
{
	uint64_t pass = 0;

	answer(0, NULL, 0);
	while (!more_input()) {
		pass++;
		for (uint64_t i = 0; i < q->b; i++) {
			uint64_t va = q->a + model_order(i, q->b) * 4096;

			if (i % MODEL_CLOCK_EVERY == 0)
				(void)firn_syscall(228 /* clock_gettime */,
				    CLOCK_MONOTONIC, va, 0, 0, 0, 0);
			else
				*(volatile uint64_t *)at(va) = pass;
		}
	}
	answer((int64_t)pass, NULL, 0);
}

static void memory(const struct model_req *q)
{
	switch (q->op) {
	case MODEL_WRITE:
		write_words(q);
		break;
	case MODEL_ZERO:
		memset(at(q->a), 0, q->b);
		answer(0, NULL, 0);
		break;
	case MODEL_FILL:
		get(at(q->a), q->len);
		answer(0, NULL, 0);
		break;
	case MODEL_SHOW:
		show(q);
		break;
	case MODEL_SEND:
		answer(0, at(q->a), q->b);
		break;
	default:
		stamp(q);
		break;
	}
}

static void freeze(const struct model_req *q)
{
	const char *name = q->name[0] != '\0' ? q->name : NULL;
	int64_t r = q->op == MODEL_FREEZE
			? firn_freeze(q->id, name, &buf.frozen)
			: firn_sever(q->id, name, &buf.frozen);

	answer(r, &buf.frozen, sizeof(buf.frozen));
}

static void call(const struct model_req *q)
{
	uint64_t max = MODEL_EXTENTS_MAX;
	int64_t r = -EINVAL;

	switch (q->op) {
	case MODEL_MAKE:
		r = firn_segment_make(q->name, q->a, &buf.seg);
		answer(r, &buf.seg, sizeof(buf.seg));
		break;
	case MODEL_FIND:
		r = firn_segment_find(q->name, &buf.seg);
		answer(r, &buf.seg, sizeof(buf.seg));
		break;
	case MODEL_MAP:
		r = firn_map(
		    (int)q->a, (enum firn_map_mode)q->b, q->c, &buf.seg);
		answer(r, &buf.seg, sizeof(buf.seg));
		break;
	case MODEL_DESCRIBE:
		r = firn_describe((int)q->a, &buf.info);
		answer(r, &buf.info, sizeof(buf.info));
		break;
	case MODEL_DIRTY:
		max = q->b < max ? q->b : max;
		r = firn_dirty(q->id, q->name, (uint32_t)q->a, buf.p.ext,
		    (uint32_t)max, &buf.p.pages);
		answer_pages(r, max);
		break;
	case MODEL_DIFF:
		r = firn_diff((int)q->a, (int)q->b, (uint32_t)q->c, buf.p.ext,
		    (uint32_t)max, &buf.p.pages);
		answer_pages(r, max);
		break;
	case MODEL_LOOKUP:
		answer(firn_lookup(q->name), NULL, 0);
		break;
	case MODEL_UNMAP:
		answer(firn_unmap(q->id), NULL, 0);
		break;
	case MODEL_DERIVE:
		answer(firn_derive((int)q->a, (uint32_t)q->b), NULL, 0);
		break;
	case MODEL_DROP:
		answer(firn_drop((int)q->a), NULL, 0);
		break;
	default:
		answer(r, NULL, 0);
		break;
	}
}

int main(void)
{
	struct model_req q;

	for (;;) {
		get(&q, sizeof(q));
		q.name[sizeof(q.name) - 1] = '\0';
		if ((q.op >= MODEL_WRITE && q.op <= MODEL_SEND) ||
		    q.op == MODEL_STAMP)
			memory(&q);
		else if (q.op == MODEL_FREEZE || q.op == MODEL_SEVER)
			freeze(&q);
		else
			call(&q);
	}
}
