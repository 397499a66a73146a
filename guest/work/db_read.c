/* SPDX-License-Identifier: MIT */
/* link: -lsqlite3 -lm -Wl,--no-warnings */
/*
 * db_read NAME WORD: maps snapshot NAME read-only, after asking whether nobody
 * can write it, opens the SQLite database in it in place, and for each line of
 * its input answers "ROWS rows, N with WORD, checksum C".
 */
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/lib/firn_guest.h"

static int map(const char *name, struct firn_segment *view)
{
	struct firn_cap_info info;
	int cap = firn_lookup(name);
	int r = cap < 0 ? cap : firn_describe(cap, &info);

	if (r < 0)
		return r;
	if (!info.sealed) {
		fprintf(stderr, "db_read: %s can still be written\n", name);
		return -1;
	}
	return firn_map(cap, FIRN_MAP_RO, 0, view);
}

/* How long the database in (p) says it is; it came from somebody else. */
static int64_t db_len(const unsigned char *p, uint64_t size)
{
	uint64_t page = (uint64_t)p[16] << 8 | p[17];
	uint64_t n = (uint64_t)p[28] << 24 | (uint64_t)p[29] << 16 |
		     (uint64_t)p[30] << 8 | p[31];

	if (page == 1)
		page = 65536;
	if (page < 512 || n == 0 || n > size / page)
		return -1;
	return (int64_t)(n * page);
}

static int open_at(const struct firn_segment *view, sqlite3 **db)
{
	unsigned char *at = (unsigned char *)(uintptr_t)view->va;
	int64_t len = db_len(at, view->size);

	if (len < 0 || sqlite3_open(":memory:", db) != SQLITE_OK ||
	    sqlite3_deserialize(*db, "main", at, len, len,
		SQLITE_DESERIALIZE_READONLY) != SQLITE_OK)
		return -1;
	/* Read pages where they are, not through a cache of copies. */
	return sqlite3_exec(*db,
	    "PRAGMA mmap_size=1099511627776; PRAGMA cache_size=8;"
	    "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON;",
	    NULL, NULL, NULL);
}

static int answer(sqlite3 *db, const char *word)
{
	sqlite3_stmt *st;

	if (sqlite3_prepare_v2(db,
		"SELECT count(*), sum(instr(text, ?) > 0), "
		"sum(id * length(text)) FROM line",
		-1, &st, NULL) != SQLITE_OK)
		return -1;
	sqlite3_bind_text(st, 1, word, -1, SQLITE_STATIC);
	if (sqlite3_step(st) != SQLITE_ROW)
		return -1;
	printf("%" PRId64 " rows, %" PRId64 " with '%s', checksum %" PRIx64
	       "\n",
	    (int64_t)sqlite3_column_int64(st, 0),
	    (int64_t)sqlite3_column_int64(st, 1), word,
	    (int64_t)sqlite3_column_int64(st, 2));
	fflush(stdout);
	return sqlite3_finalize(st);
}

int main(int argc, char **argv)
{
	struct firn_segment view;
	char line[16];
	sqlite3 *db = NULL;
	int r = argc > 2 ? map(argv[1], &view) : -2;

	if (r < 0) {
		fprintf(stderr, "db_read: %s\n", strerror(-r));
		return 1;
	}
	if (open_at(&view, &db) != 0) {
		fprintf(stderr, "db_read: no database is in it: %s\n",
		    db ? sqlite3_errmsg(db) : "bad header");
		return 1;
	}
	while (fgets(line, sizeof(line), stdin) != NULL)
		if (answer(db, argv[2]) != 0) {
			fprintf(stderr, "db_read: %s\n", sqlite3_errmsg(db));
			return 1;
		}
	return 0;
}
