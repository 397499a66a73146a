/* SPDX-License-Identifier: MIT */
/*
 * cli: what the verbs of the firn command share.
 *
 * A verb is one function over a connection and its parsed arguments; verbs.c
 * has the table of all. Functions that can fail have said why on stderr
 * (`firn: VERB: WHY`) when they return an error. One thread.
 */
#ifndef TOOLS_CLI_CLI_H
#define TOOLS_CLI_CLI_H

#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "tools/libfirn/firn.h"

#define CLI_LIST_MAX  32u /* uses of an option that may be repeated */
#define CLI_COLUMNS   12u
#define CLI_FIRND_END 3000 /* ms that a private firnd has to end in */

/* Exit statuses; those of a guest stand for themselves. */
enum { EX_OK = 0, EX_FAIL = 1, EX_USAGE = 2, EX_SIGNAL = 128 };

struct str_list {
	const char *v[CLI_LIST_MAX];
	size_t n;
};

/* Every option of every verb, and the words; the strings are argv's. */
struct args {
	bool json, help, version;
	const char *socket;
	const char *name, *cursor, *bitmap, *format, *over, *svg, *dot, *by;
	uint64_t mem, gpa, bank, width; /* 0: not given */
	bool gpa_set, detach, cow, track, blind, exact, peek, end;
	bool allow_backing;
	struct str_list segments, give, env;
	size_t nwords;
	char **words;
};

enum opt_kind { OPT_FLAG, OPT_STRING, OPT_SIZE, OPT_ADDRESS, OPT_LIST };

struct opt {
	const char *name; /* "--name"; NULL ends a table */
	const char *arg;  /* "N" as help shows it, NULL for a flag */
	const char *help;
	enum opt_kind kind;
	size_t at; /* offset in struct args */
};

enum link_kind {
	LINK_NONE,    /* no connection */
	LINK_DAEMON,  /* a daemon must run */
	LINK_PRIVATE, /* one is started if none runs */
};

struct cli;

struct verb {
	const char *name;
	const char *words; /* as help shows them */
	const char *summary;
	const char *notes;      /* more lines of help, or NULL */
	const struct opt *opts; /* NULL: none but the common ones */
	size_t min, max;        /* number of words */
	bool stop;              /* options end at the first word */
	bool takes_signals;     /* as by cli_take_signals(), from the start */
	enum link_kind link;
	/* Refuses before there is a connection: an exit status; or NULL. */
	int (*check)(struct cli *c, const struct args *a);
	int (*run)(struct cli *c, const struct args *a); /* an exit status */
};

struct cli {
	const struct verb *verb;
	bool json;
	const char *socket; /* as --socket says, or NULL */
	struct firn *conn;
	pid_t firnd; /* a private one, or 0 */
	int life_fd; /* closing it ends that one; -1: none */
	int sig_fd;  /* signalfd of those that were taken; -1: none were */
	int got_sig; /* the first of them that came, or 0 */
	sigset_t *old_mask; /* the signal mask for children */
};

/* The table; ends where name is NULL. */
extern const struct verb cli_verbs[];
const struct verb *cli_find_verb(const char *name); /* or NULL */

/* --- args.c --------------------------------------------------------------- */
/*
 * Parse (argc,argv), the program's own, into *v and *a. 0, or -1: a usage
 * error, said on stderr. *v stays NULL where --help or --version came without a
 * verb.
 */
int args_parse(int argc, char **argv, const struct verb **v, struct args *a);
/* "4K", "0x1000", "1G" as a number of bytes; -EINVAL, -ERANGE. */
int parse_size(const char *text, uint64_t *out);
/* "VM[:SEGMENT]": copies, to be freed; *segment NULL if there is none. -1. */
int split_place(const char *text, char **vm, char **segment);
void help_main(FILE *f);
void help_verb(FILE *f, const struct verb *v);

/* --- connect.c ------------------------------------------------------------ */
/* Connect as (kind) says. 0, or -1. */
int cli_connect(struct cli *c, enum link_kind kind);
/* End the connection and a private firnd; kills that if it does not end. */
void cli_disconnect(struct cli *c);
/* The path of program (name) beside or near our own; -1 (said). */
int cli_find_program(
    const struct cli *c, const char *name, char *buf, size_t len);
/* Descriptors of a call. */
struct cli_fds {
	const int *send;
	size_t nsend;
	int *recv;    /* room for those that come, or NULL */
	size_t nrecv; /* how many there is room for, then how many came */
};

/*
 * Call a method and wait; takes over (params). A new reference, or NULL. With
 * (fds) of NULL none are sent or wanted.
 */
json_t *cli_call_fds(
    struct cli *c, const char *method, json_t *params, struct cli_fds *fds);
json_t *cli_call(struct cli *c, const char *method, json_t *params);
/*
 * Show an answer, which is taken over: as JSON if that is wanted, else by
 * (print), where NULL prints nothing. An exit status: EX_FAIL where (r) is
 * NULL, of which the user was told.
 */
typedef void print_fn(const json_t *r);
int cli_show(struct cli *c, json_t *r, print_fn *print);
/* Call, and print the result as JSON if that is wanted: an exit status. */
int cli_simple(struct cli *c, const char *method, json_t *params);
/*
 * For what must clean up: from here on SIGINT, SIGTERM and SIGHUP end nothing
 * but calls to the service; cli_signalled() asks for them. 0, or -1 (said).
 */
int cli_take_signals(struct cli *c);
/*
 * Whether a signal to end came (c->got_sig, which becomes the exit status);
 * waits for (timeout_ms). The first ends no calls any more, so that cleaning up
 * can make some; the next one does.
 */
bool cli_signalled(struct cli *c, int timeout_ms);

/* --- out.c ---------------------------------------------------------------- */
/* `firn: VERB: …` on stderr, control characters replaced; returns EX_FAIL. */
int cli_fail(const struct cli *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* (j) on stdout, one line; an exit status. main() looks whether what was
 * printed could be written. */
int out_json(const json_t *j);
/* Text from elsewhere, control characters replaced. */
void out_text(FILE *f, const char *s);
/* All of (buf,len) to (fd). 0 or -errno. */
int write_all(int fd, const void *buf, size_t len);

enum col_kind { COL_TEXT, COL_UINT, COL_SIZE, COL_HEX, COL_NS };

struct col {
	const char *key, *title;
	enum col_kind kind;
};

/* Rows, an array of objects, as an aligned table of at most CLI_COLUMNS. */
void out_table(json_t *rows, const struct col *cols, size_t ncols);
/* One object as `title: value` lines; absent members are left out. */
void out_record(const json_t *obj, const struct col *cols, size_t ncols);
/* Ranges of pages, one a line with byte offsets. */
void out_ranges(const struct firn_pageset *p);
json_t *ranges_json(const struct firn_pageset *p); /* new, or NULL */
/* "1.5G" in (buf) of (len). */
const char *fmt_size(uint64_t n, char *buf, size_t len);
const char *fmt_ns(uint64_t ns, char *buf, size_t len);
/* The number at the start of (text), 0 if there is none. */
uint64_t number_at(const char *text);
uint64_t json_u64(const json_t *obj, const char *key);    /* 0 if absent */
const char *json_str(const json_t *obj, const char *key); /* "" if absent */

/* --- proc.c, confine.c: other programs on files that are not trusted ------ */
#define PROC_OUT_MAX  (16u << 20) /* bytes of a program's stdout and stderr */
#define PROC_ARGS_MAX 24u         /* more are left out */

struct proc {
	const char *const *argv; /* the program first, NULL at the end */
	const char *package;     /* Debian's that it is in */
	const char *only;        /* confine_to() this; NULL: not confined */
	const char *denied;      /* what to say where that was in its way */
	int keep_fd;             /* stays open in it under its number; or -1 */
	int grow_fd;             /* it may fill this file ... */
	uint64_t grow_max;       /* ... up to so many allocated bytes */
	const int *also_ok; /* statuses that are no failure, 0 at the end */
};

/*
 * Run a program with a clean environment and resource limits and wait for it.
 * *out (may be NULL) is its stdout, NUL-terminated, to be freed. 0, or -1: it
 * could not run, failed (its first line on stderr is in the message), went over
 * a limit, or a signal to us came (c->got_sig; the program has been killed).
 */
int proc_run(struct cli *c, const struct proc *p, const char *what, char **out);

/*
 * This process, and what it executes, may open no file but (path), programs and
 * their libraries, and what is open already; and has no sockets. Where the
 * kernel lacks Landlock, files are not confined. 0 or -errno.
 */
int confine_to(const char *path);

/* --- part.c: files that appear whole or not at all ------------------------ */
/* What is written has a temporary name beside the file's until it is whole. */
struct part {
	char name[PATH_MAX]; /* "": none */
	int fd;              /* -1: none */
};
#define PART_NONE                                                              \
	{                                                                      \
		.fd = -1                                                       \
	}

/* Takes signals. An empty file, to become (file). 0 or -1. */
int part_make(struct cli *c, struct part *p, const char *file);
/* It is complete: give it its name. 0 or -1. */
int part_finish(struct cli *c, struct part *p, const char *file);
/* Take away what did not get its name. */
void part_end(struct part *p);
/* All of that, for a text. */
int write_file(struct cli *c, const char *file, const char *text, size_t len);

/* --- snapshots.c, stats.c ------------------------------------------------- */
/* {"snapshots": [...]}: all of them, in however many calls; NULL. */
json_t *cli_snapshots(struct cli *c);
/* Who pins what, a line each, of a reply's pinned_by. */
void out_pinned(const json_t *reply);

/* --- report.c ------------------------------------------------------------- */
/* The fault report of a guest on stderr, with its code disassembled. */
void report_print(const char *who, json_t *report);

/* --- the verbs ------------------------------------------------------------ */
int verb_run(struct cli *c, const struct args *a);
int check_run(struct cli *c, const struct args *a);
int verb_ps(struct cli *c, const struct args *a);
int verb_kill(struct cli *c, const struct args *a);
int verb_pause(struct cli *c, const struct args *a);
int verb_resume(struct cli *c, const struct args *a);
int verb_wait(struct cli *c, const struct args *a);
int verb_segments(struct cli *c, const struct args *a);
int verb_freeze(struct cli *c, const struct args *a);
int verb_sever(struct cli *c, const struct args *a);
int verb_map(struct cli *c, const struct args *a);
int check_unmap(struct cli *c, const struct args *a);
int verb_unmap(struct cli *c, const struct args *a);
int verb_track(struct cli *c, const struct args *a);
int verb_adopt(struct cli *c, const struct args *a);
int verb_give(struct cli *c, const struct args *a);
int verb_take(struct cli *c, const struct args *a);
int verb_snapshots(struct cli *c, const struct args *a);
int verb_stats(struct cli *c, const struct args *a);
int verb_show(struct cli *c, const struct args *a);
int verb_drop(struct cli *c, const struct args *a);
int verb_diff(struct cli *c, const struct args *a);
int verb_meld(struct cli *c, const struct args *a);
int check_dirty(struct cli *c, const struct args *a);
int verb_dirty(struct cli *c, const struct args *a);
int check_read(struct cli *c, const struct args *a);
int verb_read(struct cli *c, const struct args *a);
int verb_import(struct cli *c, const struct args *a);
int check_export(struct cli *c, const struct args *a);
int verb_export(struct cli *c, const struct args *a);
int check_demo(struct cli *c, const struct args *a);
int verb_graph(struct cli *c, const struct args *a);
int check_heatmap(struct cli *c, const struct args *a);
int verb_heatmap(struct cli *c, const struct args *a);
int verb_demo(struct cli *c, const struct args *a);
int verb_doctor(struct cli *c, const struct args *a);
int verb_daemon(struct cli *c, const struct args *a);

#endif /* TOOLS_CLI_CLI_H */
