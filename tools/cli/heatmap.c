/* SPDX-License-Identifier: MIT */
/*
 * heatmap: when the pages of a snapshot or segment were written last, asked of
 * the service in cells of equal size; heat_text.c and heat_svg.c show them.
 */
#include "tools/cli/heatmap.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/page/run.h"

#define CELLS_MAX 65536u
#define WIDTH_MIN 24u
#define WIDTH_MAX 512u
#define SVG_COLS  64u
#define SVG_ROWS  64u

/* The (n) triples in (fd): from the heap, or NULL. */
static uint64_t (*triples(int fd, uint64_t n))[3]
{
	size_t len = n * sizeof(uint64_t[3]);
	uint64_t(*t)[3];
	struct stat st;

	if (fstat(fd, &st) || (uint64_t)st.st_size != len)
		return NULL;
	t = malloc(len + 1);
	if (t && pread(fd, t, len, 0) != (ssize_t)len) {
		free(t);
		return NULL;
	}
	return t;
}

static bool number_ok(const struct heat *h, uint64_t layer)
{
	return layer == HEAT_NONE || layer < h->nlayers;
}

/* As many cells as the pages need, and no layer that is not there. */
static bool sound(const struct heat *h)
{
	if (!h->cell || !h->layer || !h->npages || !h->cell_npages ||
	    h->ncells != (h->npages - 1) / h->cell_npages + 1)
		return false;
	for (uint64_t i = 0; i < h->ncells; i++)
		if (!number_ok(h, h->cell[i][HEAT_NEWEST]) ||
		    !number_ok(h, h->cell[i][HEAT_MOST]))
			return false;
	return true;
}

static int take(
    struct cli *c, json_t *r, const int *fds, size_t nfds, struct heat *h)
{
	h->npages = json_u64(r, "pages");
	h->cell_npages = json_u64(r, "cell_pages");
	h->ncells = json_u64(r, "cells");
	h->nlayers = json_u64(r, "layers");
	if (nfds == 2 && h->ncells <= CELLS_MAX && h->nlayers <= UINT32_MAX) {
		h->cell = triples(fds[0], h->ncells);
		h->layer = triples(fds[1], h->nlayers);
	}
	if (sound(h))
		return 0;
	cli_fail(c, "the service's reply makes no sense");
	return -1;
}

static int ask(struct cli *c, struct heat *h, uint64_t cells)
{
	int fd[2];
	struct cli_fds fds = {.recv = fd, .nrecv = 2};
	json_t *r = cli_call_fds(c, "snapshot.heat",
	    json_pack("{s:s, s:I}", "ref", h->ref, "cells", (json_int_t)cells),
	    &fds);
	int ret;

	if (!r)
		return -1;
	ret = take(c, r, fd, fds.nrecv, h);
	json_decref(r);
	for (size_t i = 0; i < fds.nrecv; i++)
		(void)close(fd[i]);
	return ret;
}

/* --- what both pictures need ---------------------------------------------- */

unsigned heat_level(const struct heat *h, uint64_t layer, unsigned nlevels)
{
	if (h->nlayers < 2)
		return 0;
	return (unsigned)(layer * (nlevels - 1) / (h->nlayers - 1));
}

const char *heat_age(uint64_t ns, char *buf, size_t len)
{
	double s = (double)ns / 1e9;

	if (s < 1)
		(void)snprintf(buf, len, "%.0f ms", s * 1e3);
	else if (s < 10)
		(void)snprintf(buf, len, "%.1f s", s);
	else if (s < 120)
		(void)snprintf(buf, len, "%.0f s", s);
	else if (s < 7200)
		(void)snprintf(buf, len, "%.0f min", s / 60);
	else if (s < 172800)
		(void)snprintf(buf, len, "%.0f h", s / 3600);
	else
		(void)snprintf(buf, len, "%.0f days", s / 86400);
	return buf;
}

const char *heat_address(
    const struct heat *h, uint64_t i, char *buf, size_t len)
{
	uint64_t last = h->npages << PAGE_SHIFT;
	int digits = 1;

	for (; last >= 16; last /= 16)
		digits++;
	(void)snprintf(buf, len, "0x%0*" PRIx64, digits,
	    (i * h->cell_npages) << PAGE_SHIFT);
	return buf;
}

void heat_title(const struct heat *h, FILE *f)
{
	char size[32], cell[32];

	(void)fprintf(f,
	    ": %" PRIu64 " pages (%s), %" PRIu64 " (%s) a cell, by %s",
	    h->npages, fmt_size(h->npages * PAGE_SIZE, size, sizeof(size)),
	    h->cell_npages,
	    fmt_size(h->cell_npages * PAGE_SIZE, cell, sizeof(cell)),
	    h->by_layer ? "layer that has most of it"
			: "age of the last change");
}

/* The largest layers have a colour each: find them. */
static void rank_layers(struct heat *h)
{
	for (h->nranked = 0; h->nranked < HEAT_RANKED; h->nranked++) {
		uint64_t best = HEAT_NONE;

		for (uint64_t i = 0; i < h->nlayers; i++)
			if (heat_rank(h, i) == h->nranked &&
			    (best == HEAT_NONE ||
				h->layer[i][HEAT_PAGES] >
				    h->layer[best][HEAT_PAGES]))
				best = i;
		if (best == HEAT_NONE)
			return;
		h->ranked[h->nranked] = best;
	}
}

unsigned heat_rank(const struct heat *h, uint64_t layer)
{
	for (unsigned i = 0; i < h->nranked; i++)
		if (h->ranked[i] == layer)
			return i;
	return h->nranked;
}

/* --- the verb ------------------------------------------------------------- */

static json_t *cell_json(const uint64_t *cell)
{
	if (cell[HEAT_NEWEST] == HEAT_NONE)
		return json_pack("[i, n, n]", 0);
	return json_pack("[I, I, I]", (json_int_t)cell[HEAT_NONZERO],
	    (json_int_t)cell[HEAT_NEWEST], (json_int_t)cell[HEAT_MOST]);
}

static json_t *layer_json(const uint64_t *l)
{
	return json_pack("{s:I, s:I, s:I}", "id", (json_int_t)l[HEAT_ID],
	    "age_ns", (json_int_t)l[HEAT_AGE], "pages",
	    (json_int_t)l[HEAT_PAGES]);
}

static int say_json(struct cli *c, const struct heat *h)
{
	json_t *cells = json_array(), *layers = json_array(), *j;
	int ret;

	for (uint64_t i = 0; i < h->ncells; i++)
		(void)json_array_append_new(cells, cell_json(h->cell[i]));
	for (uint64_t i = 0; i < h->nlayers; i++)
		(void)json_array_append_new(layers, layer_json(h->layer[i]));
	if (json_array_size(cells) != h->ncells ||
	    json_array_size(layers) != h->nlayers) {
		json_decref(cells);
		json_decref(layers);
		return cli_fail(c, "out of memory");
	}
	j = json_pack("{s:I, s:I, s:o, s:o}", "pages", (json_int_t)h->npages,
	    "cell_pages", (json_int_t)h->cell_npages, "cells", cells, "layers",
	    layers);
	ret = j ? out_json(j) : cli_fail(c, "out of memory");
	json_decref(j);
	return ret;
}

static int draw(struct cli *c, const struct heat *h, const char *file)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	int ret;

	if (f)
		heat_svg(h, f);
	if (!f || fclose(f) || !text) {
		free(text);
		return cli_fail(c, "out of memory");
	}
	ret = write_file(c, file, text, len) ? EX_FAIL : EX_OK;
	free(text);
	return ret;
}

/* Columns of the terminal, or 80. */
static unsigned terminal_width(void)
{
	const char *s = getenv("COLUMNS");
	uint64_t n = s ? number_at(s) : 0;
	struct winsize w;

	if (n == 0 && !ioctl(STDOUT_FILENO, TIOCGWINSZ, &w))
		n = w.ws_col;
	return n == 0 ? 80 : n > WIDTH_MAX ? WIDTH_MAX : (unsigned)n;
}

int check_heatmap(struct cli *c, const struct args *a)
{
	if (a->by && strcmp(a->by, "age") != 0 && strcmp(a->by, "layer") != 0) {
		cli_fail(c, "--by %s: is not age or layer", a->by);
		return EX_USAGE;
	}
	if (a->width && (a->width < WIDTH_MIN || a->width > WIDTH_MAX)) {
		cli_fail(c, "--width: is not %u to %u", WIDTH_MIN, WIDTH_MAX);
		return EX_USAGE;
	}
	return EX_OK;
}

int verb_heatmap(struct cli *c, const struct args *a)
{
	struct heat h = {
	    .ref = a->words[0],
	    .by_layer = a->by && !strcmp(a->by, "layer"),
	    .colour = heat_colours(),
	};
	uint64_t cells;
	int ret = EX_FAIL;

	if (a->svg) {
		h.cols = a->width ? (unsigned)a->width : SVG_COLS;
		cells = (uint64_t)h.cols * SVG_ROWS;
	} else {
		h.cols = heat_text_cols(
		    a->width ? (unsigned)a->width : terminal_width());
		cells = (uint64_t)h.cols * heat_text_rows(&h);
	}
	if (!ask(c, &h, cells)) {
		rank_layers(&h);
		ret = a->svg ? draw(c, &h, a->svg) : EX_OK;
		if (!ret && c->json)
			ret = say_json(c, &h);
		else if (!ret && !a->svg)
			heat_text(&h, stdout);
	}
	free(h.cell);
	free(h.layer);
	return ret;
}
