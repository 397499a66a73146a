/* SPDX-License-Identifier: MIT */
/* heat_svg: a heatmap as a picture: a grid of cells with the address of each
 * row, what each cell is as its title, and a legend. */
#include <inttypes.h>
#include <string.h>

#include "shared/page/run.h"
#include "tools/cli/heatmap.h"

#define GRID_WIDTH  768u /* about; cells are whole pixels */
#define CELL_MIN    2u
#define CELL_MAX    16u
#define LEFT        140u /* for the addresses */
#define TOP         64u
#define MARGIN      24u
#define LABEL_EVERY 16u /* pixels at least between two addresses */
#define RAMP_STEPS  24u
#define RAMP_STEP   10u
#define SWATCH      14u
#define LINE        20u
#define ZERO        "#eeeeee"
#define REST        "#999999"

/* viridis: even steps of lightness, from the newest to the oldest. */
static const unsigned char ramp[][3] = {
    {0xfd, 0xe7, 0x25},
    {0xad, 0xdc, 0x30},
    {0x5e, 0xc9, 0x62},
    {0x28, 0xae, 0x80},
    {0x21, 0x91, 0x8c},
    {0x2c, 0x72, 0x8e},
    {0x3b, 0x52, 0x8b},
    {0x47, 0x2d, 0x7b},
    {0x44, 0x01, 0x54},
};
#define RAMP_LAST ((unsigned)(sizeof(ramp) / sizeof(ramp[0])) - 1)

/* Colours that are told apart by those who see fewer of them, too. */
static const char *const layer_colour[HEAT_RANKED] = {"#0072b2", "#e69f00",
    "#009e73", "#f0e442", "#56b4e9", "#cc79a7", "#d55e00"};

/* "#rrggbb" of (level) of (n). */
static const char *ramp_colour(
    unsigned level, unsigned n, char *buf, size_t len)
{
	unsigned at = n < 2 ? 0 : level * 256u * RAMP_LAST / (n - 1);
	unsigned i = at / 256, part = at % 256;
	int c[3];

	if (i >= RAMP_LAST) {
		i = RAMP_LAST - 1;
		part = 256;
	}
	for (int k = 0; k < 3; k++)
		c[k] = ramp[i][k] +
		       (ramp[i + 1][k] - ramp[i][k]) * (int)part / 256;
	(void)snprintf(buf, len, "#%02x%02x%02x", c[0], c[1], c[2]);
	return buf;
}

static const char *cell_colour(
    const struct heat *h, const uint64_t *c, char *buf, size_t len)
{
	unsigned rank;

	if (c[HEAT_NEWEST] == HEAT_NONE)
		return ZERO;
	if (!h->by_layer)
		return ramp_colour(
		    heat_level(h, c[HEAT_NEWEST], 256), 256, buf, len);
	rank = heat_rank(h, c[HEAT_MOST]);
	return rank < h->nranked ? layer_colour[rank] : REST;
}

static void put_xml(FILE *f, const char *s)
{
	for (; *s; s++) {
		if (*s == '&')
			(void)fputs("&amp;", f);
		else if (*s == '<')
			(void)fputs("&lt;", f);
		else if (*s == '>')
			(void)fputs("&gt;", f);
		else if (*s == '"')
			(void)fputs("&quot;", f);
		else
			(void)fputc((unsigned char)*s < ' ' ? '?' : *s, f);
	}
}

static void put_cell_title(
    const struct heat *h, FILE *f, uint64_t first, uint64_t n)
{
	uint64_t page = first * h->cell_npages;
	uint64_t end = (first + n) * h->cell_npages;
	const uint64_t *c = h->cell[first];
	uint64_t nonzero = 0;
	char age[32];

	if (end > h->npages)
		end = h->npages;
	for (uint64_t i = first; i < first + n; i++)
		nonzero += h->cell[i][HEAT_NONZERO];
	(void)fprintf(f,
	    "<title>pages %" PRIu64 " to %" PRIu64 ", at %#" PRIx64, page,
	    end - 1, page << PAGE_SHIFT);
	if (c[HEAT_NEWEST] == HEAT_NONE) {
		(void)fputs(": zero</title>", f);
		return;
	}
	(void)fprintf(f, ": %" PRIu64 " not zero, last change %s ago", nonzero,
	    heat_age(h->layer[c[HEAT_NEWEST]][HEAT_AGE], age, sizeof(age)));
	(void)fprintf(f,
	    " (freeze %" PRIu64 "), most from freeze %" PRIu64 "</title>",
	    h->nlayers - c[HEAT_NEWEST], h->nlayers - c[HEAT_MOST]);
}

static bool alike(const uint64_t *a, const uint64_t *b)
{
	return a[HEAT_NEWEST] == b[HEAT_NEWEST] && a[HEAT_MOST] == b[HEAT_MOST];
}

/* Neighbours that are alike are one shape. */
static void put_row(
    const struct heat *h, FILE *f, uint64_t first, unsigned px, unsigned y)
{
	uint64_t end =
	    first + h->cols < h->ncells ? first + h->cols : h->ncells;
	char colour[16];
	uint64_t n;

	for (uint64_t i = first; i < end; i += n) {
		for (n = 1; i + n < end && alike(h->cell[i], h->cell[i + n]);)
			n++;
		(void)fprintf(f,
		    "<rect x=\"%" PRIu64 "\" y=\"%u\" width=\"%" PRIu64
		    "\" height=\"%u\" fill=\"%s\">",
		    LEFT + (i - first) * px, y, n * px, px,
		    cell_colour(h, h->cell[i], colour, sizeof(colour)));
		put_cell_title(h, f, i, n);
		(void)fputs("</rect>\n", f);
	}
}

/* Addresses: of rows at the left, within a row above. */
static void put_axes(const struct heat *h, FILE *f, unsigned px, uint64_t nrows)
{
	uint64_t every = 1;
	char at[32];

	while (every * px < LABEL_EVERY)
		every *= 2;
	for (uint64_t r = 0; r < nrows; r += every)
		(void)fprintf(f,
		    "<text x=\"%u\" y=\"%" PRIu64
		    "\" text-anchor=\"end\">%s</text>\n",
		    LEFT - 8, TOP + r * px + px / 2 + 4,
		    heat_address(h, r * h->cols, at, sizeof(at)));
	for (unsigned k = 0; k < 4; k++)
		(void)fprintf(f,
		    "<text x=\"%u\" y=\"%u\">+%#" PRIx64 "</text>\n",
		    LEFT + k * h->cols / 4 * px, TOP - 6,
		    (uint64_t)k * h->cols / 4 * h->cell_npages << PAGE_SHIFT);
}

static void put_swatch(FILE *f, unsigned x, unsigned y, const char *colour)
{
	(void)fprintf(f,
	    "<rect x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\" fill=\"%s\" "
	    "stroke=\"#888888\" stroke-width=\"0.5\"/>\n",
	    x, y, SWATCH, SWATCH, colour);
}

static void put_text(FILE *f, unsigned x, unsigned y, const char *s)
{
	(void)fprintf(
	    f, "<text x=\"%u\" y=\"%u\">%s</text>\n", x, y + SWATCH - 3, s);
}

/* Both return where the legend goes on. */
static unsigned put_ages(const struct heat *h, FILE *f, unsigned y)
{
	char age[32], colour[16], text[96];
	unsigned x = LEFT;

	if (h->nlayers == 0)
		return y;
	for (unsigned i = 0; i < RAMP_STEPS; i++, x += RAMP_STEP)
		(void)fprintf(f,
		    "<rect x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\" "
		    "fill=\"%s\"/>\n",
		    x, y, RAMP_STEP, SWATCH,
		    ramp_colour(i, RAMP_STEPS, colour, sizeof(colour)));
	(void)snprintf(text, sizeof(text),
	    "oldest: %s ago; freezes: %" PRIu64 ", in equal steps",
	    heat_age(h->layer[h->nlayers - 1][HEAT_AGE], age, sizeof(age)),
	    h->nlayers);
	put_text(f, x + 8, y, text);
	(void)snprintf(text, sizeof(text), "newest: %s ago",
	    heat_age(h->layer[0][HEAT_AGE], age, sizeof(age)));
	(void)fprintf(f,
	    "<text x=\"%u\" y=\"%u\" text-anchor=\"end\">%s</text>\n", LEFT - 8,
	    y + SWATCH - 3, text);
	return y + LINE;
}

static unsigned put_layers(const struct heat *h, FILE *f, unsigned y)
{
	char age[32], text[96];

	for (unsigned i = 0; i < h->nranked; i++, y += LINE) {
		const uint64_t *l = h->layer[h->ranked[i]];

		put_swatch(f, LEFT, y, layer_colour[i]);
		(void)snprintf(text, sizeof(text),
		    "freeze %" PRIu64 ": %" PRIu64 " pages, %s ago",
		    h->nlayers - h->ranked[i], l[HEAT_PAGES],
		    heat_age(l[HEAT_AGE], age, sizeof(age)));
		put_text(f, LEFT + SWATCH + 8, y, text);
	}
	if (h->nlayers > h->nranked) {
		(void)snprintf(text, sizeof(text), "%" PRIu64 " more",
		    h->nlayers - h->nranked);
		put_swatch(f, LEFT, y, REST);
		put_text(f, LEFT + SWATCH + 8, y, text);
		y += LINE;
	}
	return y;
}

static void put_grid(const struct heat *h, FILE *f, unsigned px, uint64_t nrows)
{
	(void)fputs("<g shape-rendering=\"crispEdges\">\n", f);
	for (uint64_t r = 0; r < nrows; r++)
		put_row(h, f, r * h->cols, px, TOP + (unsigned)r * px);
	(void)fputs("</g>\n", f);
}

void heat_svg(const struct heat *h, FILE *f)
{
	uint64_t nrows = (h->ncells - 1) / h->cols + 1;
	unsigned px = GRID_WIDTH / h->cols;
	unsigned entries = h->by_layer ? h->nranked + 2 : 2;
	unsigned y;

	px = px < CELL_MIN ? CELL_MIN : px > CELL_MAX ? CELL_MAX : px;
	y = TOP + (unsigned)nrows * px + MARGIN;
	(void)fprintf(f,
	    "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" "
	    "height=\"%u\" font-family=\"sans-serif\" font-size=\"12\">\n"
	    "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
	    "<text x=\"%u\" y=\"24\" font-size=\"15\">",
	    LEFT + h->cols * px + MARGIN, y + entries * LINE + MARGIN, LEFT);
	put_xml(f, h->ref);
	heat_title(h, f);
	(void)fputs("</text>\n", f);
	put_axes(h, f, px, nrows);
	put_grid(h, f, px, nrows);
	y = h->by_layer ? put_layers(h, f, y) : put_ages(h, f, y);
	put_swatch(f, LEFT, y, ZERO);
	put_text(f, LEFT + SWATCH + 8, y, "zero");
	(void)fputs("</svg>\n", f);
}
