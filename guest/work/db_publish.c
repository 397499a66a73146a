/* SPDX-License-Identifier: MIT */
/* link: -lsqlite3 -lm -Wl,--no-warnings */
/*
 * db_publish [NAME]: builds an SQLite database inside segment NAME ("db") from
 * the lines of its input up to a line ".", as table line(id, text), says
 * "built ROWS BYTES", and from then on obeys:
 *   add N    inserts N more rows, copies of random ones; says "added N ROWS"
 *   flip     turns malicious: says "flipping", and from then on changes the
 *            database's length in its header and back, for ever
 *   end      ends
 * The database's bytes are the segment's from its first page on: who maps a
 * snapshot of the segment can open it in place.
 */
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/lib/firn_guest.h"

#define LINE_LEN     4096
#define HEADER_PAGES 28 /* where a database's header has its length */

static int fail(sqlite3 *db, const char *what)
{
	fprintf(stderr, "db_publish: %s: %s\n", what,
	    db ? sqlite3_errmsg(db) : "failed");
	return 1;
}

/* A database whose pages live at (seg), which holds zeroes. */
static int open_in(const struct firn_segment *seg, sqlite3 **db)
{
	unsigned char *at = (unsigned char *)(uintptr_t)seg->va;

	if (sqlite3_open(":memory:", db) != SQLITE_OK)
		return fail(*db, "open");
	if (sqlite3_deserialize(
		*db, "main", at, 0, (sqlite3_int64)seg->size, 0) != SQLITE_OK)
		return fail(*db, "deserialize");
	if (sqlite3_exec(*db,
		"PRAGMA page_size=4096; PRAGMA journal_mode=OFF;"
		"CREATE TABLE line(id INTEGER PRIMARY KEY, text TEXT);",
		NULL, NULL, NULL) != SQLITE_OK)
		return fail(*db, "create");
	return 0;
}

static int build(sqlite3 *db)
{
	static char line[LINE_LEN];
	sqlite3_stmt *st;

	if (sqlite3_exec(db, "BEGIN", NULL, NULL, NULL) != SQLITE_OK ||
	    sqlite3_prepare_v2(db, "INSERT INTO line(text) VALUES(?)", -1, &st,
		NULL) != SQLITE_OK)
		return fail(db, "insert");
	while (fgets(line, sizeof(line), stdin) != NULL) {
		line[strcspn(line, "\r\n")] = '\0';
		if (strcmp(line, ".") == 0)
			break;
		if (line[0] == '\0')
			continue;
		sqlite3_bind_text(st, 1, line, -1, SQLITE_STATIC);
		if (sqlite3_step(st) != SQLITE_DONE)
			return fail(db, "insert");
		sqlite3_reset(st);
	}
	sqlite3_finalize(st);
	if (sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
		return fail(db, "commit");
	return 0;
}

static int64_t number(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *st;
	int64_t v = -1;

	if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK)
		return -1;
	if (sqlite3_step(st) == SQLITE_ROW)
		v = sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	return v;
}

/* Many small transactions, so that others see it work. */
static int add(sqlite3 *db, int64_t n)
{
	int64_t rows = number(db, "SELECT max(id) FROM line");
	uint64_t x = 88172645463325252u;
	sqlite3_stmt *st;

	if (rows < 1 ||
	    sqlite3_prepare_v2(db,
		"INSERT INTO line(text) SELECT 'again: ' || text FROM line "
		"WHERE id = ?",
		-1, &st, NULL) != SQLITE_OK)
		return fail(db, "insert");
	for (int64_t i = 0; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		sqlite3_bind_int64(st, 1, (int64_t)(x % (uint64_t)rows) + 1);
		if (sqlite3_step(st) != SQLITE_DONE)
			return fail(db, "insert");
		sqlite3_reset(st);
	}
	sqlite3_finalize(st);
	printf("added %" PRId64 " %" PRId64 "\n", n,
	    number(db, "SELECT count(*) FROM line"));
	fflush(stdout);
	return 0;
}

/* For a reader who believes a length because it looked at it once. */
static void __attribute__((noreturn)) flip(const struct firn_segment *seg)
{
	volatile uint32_t *pages =
	    (volatile uint32_t *)(uintptr_t)(seg->va + HEADER_PAGES);
	uint32_t good = *pages;

	printf("flipping\n");
	fflush(stdout);
	for (;;) {
		*pages = UINT32_MAX;
		*pages = good;
	}
}

int main(int argc, char **argv)
{
	struct firn_segment seg;
	char cmd[80];
	sqlite3 *db;
	int r = firn_segment_find(argc > 1 ? argv[1] : "db", &seg);

	if (r < 0) {
		fprintf(stderr, "db_publish: no segment: %s\n", strerror(-r));
		return 1;
	}
	if (open_in(&seg, &db) != 0 || build(db) != 0)
		return 1;
	printf("built %" PRId64 " %" PRId64 "\n",
	    number(db, "SELECT count(*) FROM line"),
	    number(db, "PRAGMA page_count") * 4096);
	fflush(stdout);
	while (fgets(cmd, sizeof(cmd), stdin) != NULL) {
		int64_t n;

		if (strncmp(cmd, "end", 3) == 0)
			break;
		if (strncmp(cmd, "flip", 4) == 0)
			flip(&seg);
		if (sscanf(cmd, "add %" SCNd64, &n) == 1 && add(db, n) != 0)
			return 1;
	}
	return 0;
}
