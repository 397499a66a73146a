/* SPDX-License-Identifier: MIT */
/*
 * heat_text: a heatmap in the terminal. With colours a character shows two
 * cells, one above the other; without, one cell, as a letter or a shade.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "tools/cli/heatmap.h"

#define LABEL_WIDTH 13u /* the address and a space */
#define LINES       20u
#define NSHADES     9u
#define ZERO_COLOUR 238
#define REST_COLOUR 145 /* of layers that are not ranked */
#define NO_CELL     (-1)

/* Of the 256 colours, the newest first; each is darker than the one before, so
 * that it can be read without colours as well. */
static const int age_colour[NSHADES] = {227, 149, 77, 71, 36, 31, 25, 55, 53};
static const int layer_colour[HEAT_RANKED] = {32, 208, 35, 226, 81, 170, 160};

static const char age_shade[NSHADES] = "@%#*+=-:'";
static const char layer_letter[HEAT_RANKED] = "ABCDEFG";

static bool says_utf8(void)
{
	const char *s = getenv("LC_ALL");

	if (!s || !*s)
		s = getenv("LC_CTYPE");
	if (!s || !*s)
		s = getenv("LANG");
	/* Where nothing is said, terminals are. */
	return !s || !*s || strcasestr(s, "UTF-8") || strcasestr(s, "UTF8");
}

bool heat_colours(void)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	return isatty(STDOUT_FILENO) && !(no && *no) && term &&
	       strcmp(term, "dumb") != 0 && says_utf8();
}

unsigned heat_text_cols(unsigned width)
{
	unsigned cols = 8;

	while (cols * 2 + LABEL_WIDTH <= width)
		cols *= 2;
	return cols;
}

unsigned heat_text_rows(const struct heat *h)
{
	return h->colour ? 2 * LINES : LINES;
}

static int colour_of(const struct heat *h, uint64_t i)
{
	const uint64_t *c;
	unsigned rank;

	if (i >= h->ncells)
		return NO_CELL;
	c = h->cell[i];
	if (c[HEAT_NEWEST] == HEAT_NONE)
		return ZERO_COLOUR;
	if (!h->by_layer)
		return age_colour[heat_level(h, c[HEAT_NEWEST], NSHADES)];
	rank = heat_rank(h, c[HEAT_MOST]);
	return rank < h->nranked ? layer_colour[rank] : REST_COLOUR;
}

static char shade_of(const struct heat *h, uint64_t i)
{
	const uint64_t *c = h->cell[i];
	unsigned rank;

	if (c[HEAT_NEWEST] == HEAT_NONE)
		return '.';
	if (!h->by_layer)
		return age_shade[heat_level(h, c[HEAT_NEWEST], NSHADES)];
	rank = heat_rank(h, c[HEAT_MOST]);
	if (rank == h->nranked)
		return 'o';
	return layer_letter[rank];
}

/* One colour of two: what is shown already is not said again. */
static void set_colour(FILE *f, int *now, int want, bool back)
{
	if (*now == want)
		return;
	*now = want;
	if (want == NO_CELL)
		(void)fprintf(f, "\033[%dm", back ? 49 : 39);
	else
		(void)fprintf(f, "\033[%d;5;%dm", back ? 48 : 38, want);
}

/* A row of upper halves, coloured, over a background of lower halves. */
static void put_blocks(const struct heat *h, FILE *f, uint64_t first)
{
	int fore = NO_CELL, back = NO_CELL;

	for (uint64_t i = first; i < first + h->cols && i < h->ncells; i++) {
		set_colour(f, &fore, colour_of(h, i), false);
		set_colour(f, &back, colour_of(h, i + h->cols), true);
		(void)fputs("\u2580", f);
	}
	(void)fputs("\033[0m\n", f);
}

static void put_shades(const struct heat *h, FILE *f, uint64_t first)
{
	for (uint64_t i = first; i < first + h->cols && i < h->ncells; i++)
		(void)fputc(shade_of(h, i), f);
	(void)fputc('\n', f);
}

/* --- legend --------------------------------------------------------------- */

static void put_sample(const struct heat *h, FILE *f, int colour, char shade)
{
	if (h->colour)
		(void)fprintf(f, "\033[38;5;%dm\u2588\u2588\033[0m", colour);
	else
		(void)fputc(shade, f);
}

static void put_ages(const struct heat *h, FILE *f)
{
	char a[32], b[32];

	if (h->nlayers == 0)
		return;
	(void)fprintf(
	    f, "newest, %s ", heat_age(h->layer[0][HEAT_AGE], a, sizeof(a)));
	for (unsigned i = 0; i < NSHADES; i++)
		put_sample(h, f, age_colour[i], age_shade[i]);
	(void)fprintf(f, " oldest, %s; freezes: %" PRIu64 "   ",
	    heat_age(h->layer[h->nlayers - 1][HEAT_AGE], b, sizeof(b)),
	    h->nlayers);
}

static void put_layers(const struct heat *h, FILE *f)
{
	char age[32];

	for (unsigned i = 0; i < h->nranked; i++) {
		const uint64_t *l = h->layer[h->ranked[i]];

		put_sample(h, f, layer_colour[i], layer_letter[i]);
		(void)fprintf(f, " %" PRIu64 " pages, %s old\n%*s",
		    l[HEAT_PAGES], heat_age(l[HEAT_AGE], age, sizeof(age)),
		    (int)LABEL_WIDTH, "");
	}
	if (h->nlayers > h->nranked) {
		put_sample(h, f, REST_COLOUR, 'o');
		(void)fprintf(
		    f, " %" PRIu64 " layers more   ", h->nlayers - h->nranked);
	}
}

void heat_text(const struct heat *h, FILE *f)
{
	char at[32];
	uint64_t step = h->colour ? 2ULL * h->cols : h->cols;

	out_text(f, h->ref);
	heat_title(h, f);
	(void)fputc('\n', f);
	for (uint64_t i = 0; i < h->ncells; i += step) {
		(void)fprintf(f, "%12s ", heat_address(h, i, at, sizeof(at)));
		if (h->colour)
			put_blocks(h, f, i);
		else
			put_shades(h, f, i);
	}
	(void)fprintf(f, "\n%*s", (int)LABEL_WIDTH, "");
	if (h->by_layer)
		put_layers(h, f);
	else
		put_ages(h, f);
	put_sample(h, f, ZERO_COLOUR, '.');
	(void)fputs(" zero\n", f);
}
