/* SPDX-License-Identifier: MIT */
/* heatmap: what the parts of that verb share. */
#ifndef TOOLS_CLI_HEATMAP_H
#define TOOLS_CLI_HEATMAP_H

#include "tools/cli/cli.h"

#define HEAT_NONE   UINT64_MAX /* as the number of a layer */
#define HEAT_RANKED 7u         /* layers that have a colour of their own */

enum { HEAT_NONZERO, HEAT_NEWEST, HEAT_MOST }; /* of a cell */
enum { HEAT_ID, HEAT_AGE, HEAT_PAGES };        /* of a layer */

struct heat {
	const char *ref;
	bool by_layer;
	bool colour;   /* the terminal has */
	unsigned cols; /* cells a row */
	uint64_t npages;
	uint64_t cell_npages;
	uint64_t ncells;
	uint64_t nlayers;
	uint64_t (*cell)[3];
	uint64_t (*layer)[3];         /* the newest first */
	uint64_t ranked[HEAT_RANKED]; /* layers by size, the largest first */
	unsigned nranked;
};

/* The age of (layer) as 0, the newest, to nlevels - 1. */
unsigned heat_level(const struct heat *h, uint64_t layer, unsigned nlevels);
/* Where (layer) is among the ranked; nranked: not among them. */
unsigned heat_rank(const struct heat *h, uint64_t layer);
/* "12 s" in (buf). */
const char *heat_age(uint64_t ns, char *buf, size_t len);
/* The address of cell (i) in (buf), with as many digits as all have. */
const char *heat_address(
    const struct heat *h, uint64_t i, char *buf, size_t len);
/* What the picture is of, behind the reference. */
void heat_title(const struct heat *h, FILE *f);

/* --- heat_text.c ---------------------------------------------------------- */
/* Whether stdout is a terminal that shows colours, and they are wanted. */
bool heat_colours(void);
/* Cells that fit in a row of (width) columns, and how many rows there may be.
 */
unsigned heat_text_cols(unsigned width);
unsigned heat_text_rows(const struct heat *h);
void heat_text(const struct heat *h, FILE *f);

/* --- heat_svg.c ----------------------------------------------------------- */
void heat_svg(const struct heat *h, FILE *f);

#endif /* TOOLS_CLI_HEATMAP_H */
