/* SPDX-License-Identifier: MIT */
/*
 * client SOCKET VM SNAP: a host program that means harm, over a connection of
 * its own: wrong, missing and doctored descriptors, impossible sizes, addresses
 * and names, requests half sent, and the layers of SNAP once it has them. A
 * line `ok NAME` or `not ok NAME: WHY` for each; ends with 0.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE      4096u
#define FDS_MAX   128u
#define REPLY_MAX (1u << 20)
#define WAIT_MS   20000
#define HALF_MAX  16
#define ALL_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

struct client {
	int sock;
	char reply[REPLY_MAX];
	int fds[FDS_MAX]; /* that came with it */
	size_t nfds;
};

static void verdict(bool good, const char *name, const char *why)
{
	if (good)
		printf("ok client: %s\n", name);
	else
		printf("not ok client: %s: %.300s\n", name, why);
}

static int dial(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0) {
		perror("not ok client: connect");
		exit(1);
	}
	return fd;
}

static int send_with(int sock, const char *text, const int *fds, size_t nfds)
{
	char control[CMSG_SPACE(FDS_MAX * sizeof(int))] = {0};
	struct iovec iov = {
	    .iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (nfds > 0) {
		struct cmsghdr *c = (struct cmsghdr *)control;

		m.msg_control = control;
		m.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
	}
	return sendmsg(sock, &m, MSG_NOSIGNAL) == (ssize_t)iov.iov_len ? 0 : -1;
}

static void drop_fds(struct client *c)
{
	for (size_t i = 0; i < c->nfds; i++)
		(void)close(c->fds[i]);
	c->nfds = 0;
}

static void take_fds(struct client *c, struct msghdr *m)
{
	struct cmsghdr *h = CMSG_FIRSTHDR(m);

	for (; h != NULL; h = CMSG_NXTHDR(m, h)) {
		size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (h->cmsg_type != SCM_RIGHTS || c->nfds + n > FDS_MAX)
			continue;
		memcpy(c->fds + c->nfds, CMSG_DATA(h), n * sizeof(int));
		c->nfds += n;
	}
}

/* One line of answer; false: none came. */
static bool hear(struct client *c)
{
	struct pollfd p = {.fd = c->sock, .events = POLLIN};
	size_t have = 0;

	drop_fds(c);
	while (have + 1 < REPLY_MAX && poll(&p, 1, WAIT_MS) == 1) {
		char control[CMSG_SPACE(FDS_MAX * sizeof(int))];
		struct iovec iov = {.iov_base = c->reply + have,
		    .iov_len = REPLY_MAX - 1 - have};
		struct msghdr m = {.msg_iov = &iov,
		    .msg_iovlen = 1,
		    .msg_control = control,
		    .msg_controllen = sizeof(control)};
		ssize_t n = recvmsg(c->sock, &m, MSG_CMSG_CLOEXEC);

		if (n <= 0)
			break;
		take_fds(c, &m);
		have += (size_t)n;
		c->reply[have] = '\0';
		if (c->reply[have - 1] == '\n')
			return true;
	}
	(void)strcpy(c->reply, "no answer");
	return false;
}

static bool __attribute__((format(printf, 5, 6))) call(struct client *c,
    const int *fds, size_t nfds, const char *method, const char *fmt, ...)
{
	static char text[1u << 16];
	char params[1u << 15];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(params, sizeof(params), fmt, ap);
	va_end(ap);
	(void)snprintf(text, sizeof(text),
	    "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\",\"params\":{%s}}"
	    "\n",
	    method, params);
	return send_with(c->sock, text, fds, nfds) == 0 && hear(c);
}

/* What is in order passes, so that what is refused is for what is wrong. */
static void accepted(struct client *c, const char *name, bool answered)
{
	verdict(
	    answered && strstr(c->reply, "\"result\"") != NULL, name, c->reply);
}

/* Whether the answer is an error with a reason, and the service goes on. */
static void refused(struct client *c, const char *name, bool answered)
{
	bool error = answered && strstr(c->reply, "\"error\"") != NULL &&
		     strstr(c->reply, "\"message\"") != NULL;

	if (!error)
		verdict(false, name, c->reply);
	else if (!call(c, NULL, 0, "vm.list", " ") ||
		 strstr(c->reply, "\"result\"") == NULL)
		verdict(false, name, "and then the service was gone");
	else
		verdict(true, name, "");
}

/* --- snapshot.import: what is no sealed memfd ----------------------------- */

static int memory(uint64_t len, int seals)
{
	int fd = memfd_create("evil", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)len) != 0 ||
	    pwrite(fd, "evil", 4, 0) != 4 ||
	    (seals != 0 && fcntl(fd, F_ADD_SEALS, seals) != 0)) {
		perror("not ok client: memfd");
		exit(1);
	}
	return fd;
}

static void import(struct client *c, const char *name, int fd, int64_t pages)
{
	refused(c, name,
	    call(c, &fd, fd >= 0, "snapshot.import", "\"pages\":%" PRId64,
		pages));
	if (fd >= 0)
		(void)close(fd);
}

static void imports(struct client *c)
{
	int good = memory(4 * PAGE, ALL_SEALS);
	int pair[2];

	accepted(c, "import of what is in order",
	    call(c, &good, 1, "snapshot.import",
		"\"name\":\"good\",\"pages\":4"));
	accepted(c, "drop of it",
	    call(c, NULL, 0, "snapshot.drop", "\"snapshot\":\"good\""));
	(void)close(good);
	import(c, "import without a descriptor", -1, 4);
	import(c, "import of memory without seals", memory(4 * PAGE, 0), 4);
	for (int i = 0; i < 4; i++) {
		static const int each[] = {
		    F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE};
		char name[64];

		(void)snprintf(
		    name, sizeof(name), "import with seal %d missing", i);
		import(c, name, memory(4 * PAGE, ALL_SEALS & ~each[i]), 4);
	}
	import(c, "import of a device", open("/dev/zero", O_RDONLY), 1);
	import(c, "import of a directory", open("/", O_RDONLY), 1);
	import(c, "import of a path", open("/dev/zero", O_PATH), 1);
	import(c, "import of a program", open("/proc/self/exe", O_RDONLY), 1);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0) {
		import(c, "import of a socket", pair[0], 1);
		(void)close(pair[1]);
	}
	import(c, "import of more pages than there are",
	    memory(4 * PAGE, ALL_SEALS), 5);
	import(c, "import of fewer pages than there are",
	    memory(4 * PAGE, ALL_SEALS), 3);
	import(c, "import of half a page", memory(PAGE / 2, ALL_SEALS), 1);
	import(c, "import of no pages", memory(PAGE, ALL_SEALS), 0);
	import(c, "import of -1 pages", memory(PAGE, ALL_SEALS), -1);
	import(c, "import of 2^62 pages", memory(PAGE, ALL_SEALS), 1LL << 62);
}

/* --- vm.launch ------------------------------------------------------------ */

static void launch(
    struct client *c, const char *name, int prog, size_t nfds, const char *more)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	const int fds[5] = {prog, null, null, null, null};

	refused(c, name,
	    call(c, fds, nfds, "vm.launch", "\"args\":[\"x\"]%s", more));
	(void)close(null);
}

static const struct {
	const char *name, *more;
} bad_launches[] = {
    {"memory of 2^62", ",\"mem\":4611686018427387904"},
    {"memory of -1", ",\"mem\":-1"},
    {"memory beyond 64 bits", ",\"mem\":18446744073709551616"},
    {"memory of 4095", ",\"mem\":4095"},
    {"a segment of 0", ",\"segments\":[{\"name\":\"a\",\"size\":0}]"},
    {"a segment of 4097", ",\"segments\":[{\"name\":\"a\",\"size\":4097}]"},
    {"a segment of 2^62", ",\"segments\":[{\"name\":\"a\",\"size\":"
			  "4611686018427387904}]"},
    {"two segments that wrap together",
	",\"segments\":[{\"name\":\"a\",\"size\":9223372036854771712},"
	"{\"name\":\"b\",\"size\":9223372036854771712}]"},
    {"two segments of one name",
	",\"segments\":[{\"name\":\"a\",\"size\":4096},"
	"{\"name\":\"a\",\"size\":4096}]"},
    {"a segment without a name",
	",\"segments\":[{\"name\":\"\",\"size\":4096}]"},
    {"a gift of nothing", ",\"give\":[{\"name\":\"a\",\"ref\":\"no such\"}]"},
    {"a gift of a path",
	",\"give\":[{\"name\":\"a\",\"ref\":\"/proc/self/mem\"}]"},
    {"a name with a NUL", ",\"name\":\"a\\u0000b\""},
    {"a name with a newline", ",\"name\":\"a\\nb\""},
    {"a name that is a number", ",\"name\":\"1\""},
    {"a parameter that is none", ",\"path\":\"/bin/sh\""},
};

static void launches(struct client *c)
{
	int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int dir = open("/", O_RDONLY | O_CLOEXEC);
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	int path = open("/proc/self/exe", O_PATH | O_CLOEXEC);
	int sparse = memory(1ULL << 42, 0);
	const int good[4] = {self, sparse, sparse, sparse};

	accepted(c, "launch of what is in order",
	    call(c, good, 4, "vm.launch", "\"args\":[\"x\"],\"name\":\"x\""));
	accepted(c, "its end", call(c, NULL, 0, "vm.wait", "\"vm\":\"x\""));
	launch(c, "launch without descriptors", self, 0, "");
	launch(c, "launch with one descriptor", self, 1, "");
	launch(c, "launch with three descriptors", self, 3, "");
	launch(c, "launch with five descriptors", self, 5, "");
	launch(c, "launch of a directory", dir, 4, "");
	launch(c, "launch of a device", zero, 4, "");
	launch(c, "launch of a path", path, 4, "");
	launch(c, "launch of a socket", c->sock, 4, "");
	launch(c, "launch of 4 TiB of nothing", sparse, 4, "");
	for (size_t i = 0; i < sizeof(bad_launches) / sizeof(bad_launches[0]);
	     i++) {
		char name[64];

		(void)snprintf(
		    name, sizeof(name), "launch with %s", bad_launches[i].name);
		launch(c, name, self, 4, bad_launches[i].more);
	}
	(void)close(self);
	(void)close(dir);
	(void)close(zero);
	(void)close(path);
	(void)close(sparse);
}

/* --- the other methods ---------------------------------------------------- */

static void others(struct client *c, const char *vm, const char *snap)
{
	static const char *const gpas[] = {"-1", "1", "4096",
	    "18446744073707454464", "9223372036852678656", "4503599627370496",
	    "4294967296", "1.5", "\"0\""};
	int null[60];
	char name[96];

	for (size_t i = 0; i < sizeof(gpas) / sizeof(gpas[0]); i++) {
		(void)snprintf(
		    name, sizeof(name), "a view at address %s", gpas[i]);
		refused(c, name,
		    call(c, NULL, 0, "view.map",
			"\"vm\":\"%s\",\"snapshot\":\"%s\",\"gpa\":%s", vm,
			snap, gpas[i]));
	}
	for (size_t i = 0; i < 60; i++)
		null[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	refused(c, "descriptors that nobody asked for",
	    call(c, null, 60, "snapshot.show", "\"snapshot\":\"%s\"", snap));
	for (size_t i = 0; i < 60; i++)
		(void)close(null[i]);
	refused(c, "a name of 20,000 bytes",
	    call(c, NULL, 0, "snapshot.show", "\"snapshot\":\"%020000d\"", 7));
	refused(c, "a snapshot of a number beyond all",
	    call(c, NULL, 0, "snapshot.show",
		"\"snapshot\":\"18446744073709551617\""));
	refused(c, "a freeze of segment -1",
	    call(c, NULL, 0, "segment.freeze",
		"\"vm\":\"%s\",\"segment\":\"-1\"", vm));
	refused(c, "a VM that is no string",
	    call(c, NULL, 0, "vm.kill", "\"vm\":{\"a\":[1]}"));
	refused(c, "a method with a path in its name",
	    call(c, NULL, 0, "../../vm.kill", "\"vm\":\"%s\"", vm));
}

/* --- the layers of an opened snapshot ------------------------------------- */

static bool cannot_write(int fd, size_t len, const char **how)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	*how = "mapped writable";
	if (p != MAP_FAILED)
		return false;
	*how = "written";
	if (pwrite(fd, "x", 1, 0) >= 0)
		return false;
	*how = "resized";
	if (ftruncate(fd, 0) == 0 || ftruncate(fd, (off_t)len * 2) == 0)
		return false;
	*how = "punched";
	if (fallocate(
		fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE) == 0)
		return false;
	*how = "allocated";
	if (fallocate(fd, 0, 0, (off_t)len) == 0)
		return false;
	*how = "sealed further";
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0)
		return false;
	p = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
	*how = "not readable";
	return p != MAP_FAILED && munmap(p, len) == 0;
}

/* Opened anew through /proc: its owner may, but the seals stay. */
static bool cannot_write_anew(int fd, size_t len)
{
	char path[40];
	void *p;
	int rw;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	rw = open(path, O_RDWR | O_CLOEXEC);
	if (rw < 0)
		return true;
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, rw, 0);
	if (p != MAP_FAILED || pwrite(rw, "x", 1, 0) >= 0 ||
	    ftruncate(rw, 0) == 0 ||
	    fallocate(
		rw, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE) == 0)
		return false;
	return close(rw) == 0;
}

/* Reading all of a layer must not make its holes pages. */
static bool grows_by_reading(int fd, const struct stat *before)
{
	const volatile char *p =
	    mmap(NULL, (size_t)before->st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	struct stat after;
	unsigned sum = 0;

	if (p == MAP_FAILED)
		return true;
	for (off_t i = 0; i < before->st_size; i += PAGE)
		sum += (unsigned char)p[i];
	(void)sum;
	(void)munmap((void *)(uintptr_t)p, (size_t)before->st_size);
	return fstat(fd, &after) != 0 || after.st_blocks != before->st_blocks;
}

static void layers(struct client *c, const char *snap)
{
	if (!call(c, NULL, 0, "snapshot.open", "\"snapshot\":\"%s\"", snap) ||
	    c->nfds < 2) {
		verdict(false, "open", c->reply);
		return;
	}
	/* The first is the list of runs. */
	for (size_t i = 1; i < c->nfds; i++) {
		const char *how = "";
		struct stat st;
		int fd = c->fds[i];

		if (fstat(fd, &st) != 0) {
			verdict(false, "a layer", strerror(errno));
			continue;
		}
		verdict((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY &&
			    fcntl(fd, F_GET_SEALS) == ALL_SEALS,
		    "a layer is read-only and has all seals", "it is not");
		verdict(cannot_write(fd, (size_t)st.st_size, &how),
		    "a layer cannot be changed", how);
		verdict(cannot_write_anew(fd, (size_t)st.st_size),
		    "nor when it is opened anew", "it was");
		verdict(!grows_by_reading(fd, &st),
		    "a layer does not grow by being read", "it did");
	}
	drop_fds(c);
}

/* --- half a request ------------------------------------------------------- */

static void halves(struct client *c, const char *path)
{
	int fds[HALF_MAX];
	bool sent = true;

	for (int i = 0; i < HALF_MAX; i++) {
		int one = memory(PAGE, ALL_SEALS);

		fds[i] = dial(path);
		sent = sent && send_with(fds[i],
				   "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":"
				   "\"snapshot.import\",\"par",
				   &one, 1) == 0;
		(void)close(one);
	}
	verdict(sent && call(c, NULL, 0, "vm.list", " ") &&
		    strstr(c->reply, "\"result\"") != NULL,
	    "others are served while requests are half sent", c->reply);
	for (int i = 0; i < HALF_MAX; i++)
		(void)close(fds[i]);
	verdict(call(c, NULL, 0, "vm.list", " "),
	    "and when their senders are gone", c->reply);
}

int main(int argc, char **argv)
{
	static struct client c;

	if (argc != 4) {
		fprintf(stderr, "usage: client SOCKET VM SNAP\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	c.sock = dial(argv[1]);
	imports(&c);
	launches(&c);
	others(&c, argv[2], argv[3]);
	layers(&c, argv[3]);
	halves(&c, argv[1]);
	return 0;
}
