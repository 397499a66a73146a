/* SPDX-License-Identifier: MIT */
/* firnd: the broker as a process. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "shared/version.h"
#include "vmm/broker/broker.h"
#include "vmm/core/loop.h"

static const char usage[] =
    "usage: firnd [--socket PATH] [--bank SIZE]\n"
    "             [--adopt FD] [--die-with-fd FD] [--quiet]\n"
    "\n"
    "The broker of firn: owns snapshots, starts a monitor for each VM.\n"
    "\n"
    "  --socket PATH     serve the control protocol here; else $FIRN_SOCKET,\n"
    "                    $XDG_RUNTIME_DIR/firn.sock, /run/firn.sock\n"
    "  --bank SIZE       what VMs and snapshots may reserve together (K, M, "
    "G,\n"
    "                    T); four times the host's memory if absent\n"
    "  --adopt FD        serve this connected socket too, and no path unless\n"
    "                    --socket is given\n"
    "  --die-with-fd FD  end when the other end of this descriptor is closed\n"
    "  --quiet           say nothing when ready\n"
    "  --help, --version\n";

struct options {
	const char *socket;
	uint64_t bank;
	int adopt;
	int die_with;
	bool quiet;
};

static bool parse_size(const char *s, uint64_t *out)
{
	static const char units[] = "KMGT";
	const char *unit;
	char *end;
	unsigned shift = 0;
	unsigned long long v;

	errno = 0;
	v = strtoull(s, &end, 10);
	if (end == s || errno != 0 || *s == '-')
		return false;
	unit = strchr(units, *end);
	if (*end != '\0' && unit != NULL) {
		shift = 10 * (unsigned)(unit - units + 1);
		end++;
	}
	if (*end != '\0' || v == 0 || v > UINT64_MAX >> 1 >> shift)
		return false;
	*out = (uint64_t)v << shift;
	return true;
}

static bool parse_fd(const char *s, int *out)
{
	char *end;
	long v = strtol(s, &end, 10);

	*out = (int)v;
	return end != s && *end == '\0' && v >= 0 && v <= INT_MAX;
}

/* 0: go on; else the exit status + 1. */
static int parse(int argc, char **argv, struct options *o)
{
	static const struct option opts[] = {
	    {"socket", required_argument, NULL, 's'},
	    {"bank", required_argument, NULL, 'b'},
	    {"adopt", required_argument, NULL, 'a'},
	    {"die-with-fd", required_argument, NULL, 'd'},
	    {"quiet", no_argument, NULL, 'q'},
	    {"help", no_argument, NULL, 'h'},
	    {"version", no_argument, NULL, 'v'},
	    {0},
	};
	bool ok = true;
	int at = 0;
	int c;

	while (ok && (c = getopt_long(argc, argv, "", opts, &at)) != -1) {
		switch (c) {
		case 's':
			o->socket = optarg;
			ok = *optarg != '\0';
			break;
		case 'b':
			ok = parse_size(optarg, &o->bank);
			break;
		case 'a':
			ok = parse_fd(optarg, &o->adopt);
			break;
		case 'd':
			ok = parse_fd(optarg, &o->die_with);
			break;
		case 'q':
			o->quiet = true;
			break;
		case 'h':
			(void)fputs(usage, stdout);
			return 1;
		case 'v':
			(void)puts("firnd " FIRN_VERSION);
			return 1;
		default:
			ok = false;
			break;
		}
		if (!ok && c != '?')
			(void)fprintf(stderr,
			    "firnd: --%s: '%s' is no value for it\n",
			    opts[at].name, optarg);
	}
	if (ok && optind == argc)
		return 0;
	(void)fputs(usage, stderr);
	return 3;
}

/* firn-vmm stands beside firnd. */
static int find_monitor(char *path, size_t len)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n < 0)
		return -errno;
	self[n] = '\0';
	n = snprintf(path, len, "%s/firn-vmm", dirname(self));
	if (n < 0 || (size_t)n >= len)
		return -ENAMETOOLONG;
	return access(path, X_OK) == 0 ? 0 : -errno;
}

static int default_socket(char *path, size_t len)
{
	const char *s = getenv("FIRN_SOCKET");
	const char *dir = getenv("XDG_RUNTIME_DIR");
	int n;

	if (s != NULL && *s != '\0')
		n = snprintf(path, len, "%s", s);
	else if (dir != NULL && *dir != '\0')
		n = snprintf(path, len, "%s/firn.sock", dir);
	else
		n = snprintf(path, len, "/run/firn.sock");
	return n < 0 || (size_t)n >= len ? -ENAMETOOLONG : 0;
}

static void on_signal(void *arg, int signo)
{
	(void)signo;
	loop_stop(arg);
}

static void on_fd(void *arg, int fd, uint32_t events)
{
	char buf[16];

	(void)events;
	if (read(fd, buf, sizeof(buf)) <= 0)
		loop_stop(arg);
}

static int serve(
    struct loop *l, struct broker *b, const struct options *o, struct err *e)
{
	struct loop_io *io = NULL;
	char path[PATH_MAX];
	int rc = 0;

	if (o->adopt >= 0)
		rc = broker_adopt(b, o->adopt, e);
	if (rc == 0 && o->die_with >= 0)
		rc = loop_add(l, o->die_with, EPOLLIN, on_fd, l, &io, e);
	if (rc == 0 && (o->socket != NULL || o->adopt < 0)) {
		rc = o->socket != NULL
			 ? (snprintf(path, sizeof(path), "%s", o->socket), 0)
			 : default_socket(path, sizeof(path));
		if (rc == 0)
			rc = broker_listen(b, path, e);
		if (rc == 0 && !o->quiet)
			(void)fprintf(stderr, "firnd: ready at %s\n", path);
	}
	if (rc == 0)
		rc = loop_run(l, e);
	loop_del(io);
	return rc;
}

static int run(const struct options *o, struct err *e)
{
	struct loop_signals *sigs = NULL;
	struct broker_conf conf = {.bank_bytes = o->bank};
	struct broker *b = NULL;
	struct loop *l = NULL;
	char monitor[PATH_MAX];
	sigset_t set;
	int rc = find_monitor(monitor, sizeof(monitor));

	if (rc != 0)
		return err_set(e, rc,
		    "firn-vmm is not beside firnd (%s); install both",
		    strerror(-rc));
	conf.monitor = monitor;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGHUP);
	rc = loop_new(&l, e);
	if (rc == 0)
		rc = loop_signals_new(l, &set, on_signal, l, &sigs, e);
	if (rc == 0)
		rc = broker_new(&b, l, &conf, e);
	if (rc == 0)
		rc = serve(l, b, o, e);
	broker_free(b);
	loop_signals_free(sigs);
	loop_free(l);
	return rc;
}

/* Monitors get theirs in the places of these, so that nothing else may stand
 * there. */
static bool hold_standard(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd < 0)
		return false;
	(void)close(fd);
	return true;
}

#define HEAP_LARGE (128 << 10) /* bytes */

/*
 * What is large goes back to the kernel when it is freed: malloc would raise
 * the size from which that is so to whatever was freed once. And one heap for
 * all threads, which seldom allocate: each would keep what it once needed.
 */
static void heap_stays_small(void)
{
	(void)mallopt(M_MMAP_THRESHOLD, HEAP_LARGE);
	(void)mallopt(M_ARENA_MAX, 1);
}

int main(int argc, char **argv)
{
	struct options o = {.adopt = -1, .die_with = -1};
	struct err e = {0};
	int rc = parse(argc, argv, &o);

	if (rc != 0)
		return rc - 1;
	if (!hold_standard())
		return 1;
	heap_stays_small();
	/* A client that went and a limit on files (ulimit -f) are errors of the
	 * call that met them, not the end. */
	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGXFSZ, SIG_IGN);
	/* Nor is somebody who opens memory while its lease is asked for. */
	(void)signal(SIGIO, SIG_IGN);
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	if (run(&o, &e) == 0)
		return 0;
	(void)fprintf(stderr, "firnd: %s\n", e.msg);
	return 1;
}
