/* SPDX-License-Identifier: MIT */
/* wrap: mmap */
/* wrap: sendmsg */
/* wrap: memfd_create */
/* firn-vmm as a broker sees it: this plays the broker. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "vmm/mem/gmem.h"
#include "vmm/vm/vm.h"
#include "vmm/wire/wire.h"

#define PATIENCE_MS 20000
#define MEM         (64ULL << 20)

struct vm {
	int sock;
	pid_t pid;
	int in;  /* the guest's stdin, to write */
	int out; /* its stdout and stderr, to read */
	uint32_t seq;
	struct wire_packet p;
};

/* $O/bin/... or $O/guest/..., where this is $O/tests/test_vm. */
static void path_of(char *path, size_t len, const char *what)
{
	char exe[4096];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	assert_true(n > 0);
	exe[n] = '\0';
	for (int i = 0; i < 2; i++)
		*strrchr(exe, '/') = '\0';
	assert_true(snprintf(path, len, "%.3000s/%s", exe, what) < (int)len);
}

static void exec_monitor(int sock)
{
	char path[4096];

	path_of(path, sizeof(path), "bin/firn-vmm");
	if (sock != 3 && (dup2(sock, 3) < 0 || close(sock) < 0))
		_exit(99);
	if (fcntl(3, F_SETFD, 0) < 0)
		_exit(99);
	(void)execl(path, "firn-vmm", (char *)NULL);
	_exit(98);
}

/* The next packet that is not a stray event, in vm->p. */
static void receive(struct vm *vm)
{
	struct pollfd pf = {.fd = vm->sock, .events = POLLIN};

	assert_int_equal(poll(&pf, 1, PATIENCE_MS), 1);
	assert_int_equal(wire_recv(vm->sock, &vm->p), 1);
}

static void receive_type(struct vm *vm, uint16_t type)
{
	receive(vm);
	if (vm->p.m.type == WIRE_EXITED && type != WIRE_EXITED)
		print_error("ended: %.*s\n",
		    (int)(vm->p.m.len - sizeof(struct wire_exited)),
		    (char *)vm->p.payload + sizeof(struct wire_exited));
	assert_int_equal(vm->p.m.type, type);
}

/* What a monitor that is not a program of its own is refused; shared with it.
 */
struct refused {
	bool mmap;  /* any mapping in place */
	bool fds;   /* to send descriptors */
	bool memfd; /* to make memory */
};
static struct refused *refused;
static bool is_monitor;

void *__real_mmap(void *a, size_t n, int prot, int flags, int fd, off_t o);
void *__wrap_mmap(void *a, size_t n, int prot, int flags, int fd, off_t o);
ssize_t __real_sendmsg(int fd, const struct msghdr *m, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags);
int __real_memfd_create(const char *name, unsigned flags);
int __wrap_memfd_create(const char *name, unsigned flags);

void *__wrap_mmap(void *a, size_t n, int prot, int flags, int fd, off_t o)
{
	if (!is_monitor || !refused->mmap || !(flags & MAP_FIXED))
		return __real_mmap(a, n, prot, flags, fd, o);
	errno = ENOMEM;
	return MAP_FAILED;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags)
{
	if (!is_monitor || !refused->fds || m->msg_controllen == 0)
		return __real_sendmsg(fd, m, flags);
	errno = ETOOMANYREFS;
	return -1;
}

int __wrap_memfd_create(const char *name, unsigned flags)
{
	if (!is_monitor || !refused->memfd)
		return __real_memfd_create(name, flags);
	errno = EMFILE;
	return -1;
}

/* The monitor as a part of this program, so that its calls can fail. */
static void serve_inside(int sock)
{
	struct err e = {0};

	is_monitor = true;
	_exit(vm_serve(sock, &e) < 0 ? 1 : 0);
}

static int start_monitor(void **state, void (*be_monitor)(int sock))
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int sv[2];

	assert_non_null(vm);
	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
	vm->sock = sv[0];
	vm->in = vm->out = -1;
	vm->pid = fork();
	assert_true(vm->pid >= 0);
	if (vm->pid == 0) {
		(void)close(sv[0]);
		be_monitor(sv[1]);
	}
	(void)close(sv[1]);
	receive_type(vm, WIRE_READY);
	assert_int_equal(
	    ((struct wire_ready *)vm->p.payload)->pid, (uint32_t)vm->pid);
	*state = vm;
	return 0;
}

static int setup(void **state)
{
	return start_monitor(state, exec_monitor);
}

static int setup_inside(void **state)
{
	refused = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(refused, MAP_FAILED);
	return start_monitor(state, serve_inside);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}

/* It must end by itself, in order. */
static void wait_monitor(struct vm *vm)
{
	int status = -1;

	for (int i = 0; i < PATIENCE_MS / 10; i++) {
		if (waitpid(vm->pid, &status, WNOHANG) == vm->pid) {
			vm->pid = -1;
			assert_true(WIFEXITED(status));
			assert_int_equal(WEXITSTATUS(status), 0);
			return;
		}
		usleep(10000);
	}
	fail_msg("the monitor runs on");
}

static int teardown(void **state)
{
	struct vm *vm = *state;

	if (refused != NULL)
		(void)munmap(refused, 4096);
	refused = NULL;

	close_fd(&vm->sock);
	close_fd(&vm->in);
	close_fd(&vm->out);
	wire_close_fds(&vm->p);
	if (vm->pid > 0) {
		(void)kill(vm->pid, SIGKILL);
		(void)waitpid(vm->pid, NULL, 0);
	}
	free(vm);
	return 0;
}

static void send_msg(struct vm *vm, uint16_t type, const void *payload,
    size_t len, const int *fds, uint32_t nfds)
{
	const struct wire_msg m = {
	    .type = type, .seq = ++vm->seq, .len = (uint32_t)len};

	assert_int_equal(wire_send(vm->sock, &m, payload, fds, nfds), 0);
}

/* A request and its answer: the status. */
static int ask(struct vm *vm, uint16_t type, const void *payload, size_t len,
    const int *fds, uint32_t nfds)
{
	wire_close_fds(&vm->p);
	send_msg(vm, type, payload, len, fds, nfds);
	receive_type(vm, type | WIRE_REPLY);
	assert_int_equal(vm->p.m.seq, vm->seq);
	if (vm->p.m.status < 0)
		assert_true(vm->p.m.len > 0);
	return (int)vm->p.m.status;
}

/* --- launching ------------------------------------------------------------ */

struct launch {
	struct wire_launch l;
	struct wire_segment seg;
	char strings[64];
};

static size_t payload_of(const struct launch *q, unsigned char *to)
{
	size_t n = sizeof(q->l);

	memcpy(to, &q->l, n);
	memcpy(to + n, &q->seg, q->l.nsegs * sizeof(q->seg));
	n += q->l.nsegs * sizeof(q->seg);
	memcpy(to + n, q->strings, q->l.strings_len);
	return n + q->l.strings_len;
}

/* argv[0], no environment, a name; a segment called data. */
static struct launch usual(void)
{
	struct launch q = {
	    .l = {.mem = MEM, .nargs = 1, .nsegs = 1, .strings_len = 6},
	    .seg = {.size = 1 << 20, .name = "data"},
	    .strings = "prg\0n",
	};

	return q;
}

static void send_launch(
    struct vm *vm, const struct launch *q, const char *program)
{
	unsigned char payload[1024];
	char path[4096];
	int in[2];
	int out[2];
	int fds[4];

	path_of(path, sizeof(path), program);
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	fds[0] = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fds[0] >= 0);
	fds[1] = in[0];
	fds[2] = out[1];
	fds[3] = out[1];
	send_msg(vm, WIRE_LAUNCH, payload, payload_of(q, payload), fds, 4);
	vm->in = in[1];
	vm->out = out[0];
	(void)close(fds[0]);
	(void)close(in[0]);
	(void)close(out[1]);
}

static void start(struct vm *vm, const char *program)
{
	struct launch q = usual();

	send_launch(vm, &q, program);
	receive_type(vm, WIRE_STARTED);
}

static const struct wire_exited *receive_end(struct vm *vm)
{
	receive_type(vm, WIRE_EXITED);
	assert_true(vm->p.m.len >= sizeof(struct wire_exited));
	return (const struct wire_exited *)vm->p.payload;
}

static void ends_with(
    struct vm *vm, enum wire_exit_reason reason, int32_t status)
{
	const struct wire_exited *x = receive_end(vm);

	assert_int_equal(x->reason, reason);
	assert_int_equal(x->status, status);
	wait_monitor(vm);
}

/* And a report with (text). */
static void ends_telling(struct vm *vm, enum wire_exit_reason reason,
    int32_t status, const char *text)
{
	char got[WIRE_REPORT_MAX] = "";
	const struct wire_exited *x = receive_end(vm);

	memcpy(got, vm->p.payload + sizeof(*x), vm->p.m.len - sizeof(*x));
	assert_int_equal(x->reason, reason);
	assert_int_equal(x->status, status);
	if (strstr(got, text) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", got, text);
	wait_monitor(vm);
}

static void ends_refused(struct vm *vm, const char *text)
{
	ends_telling(vm, WIRE_EXIT_REFUSED, 126, text);
}

static void hello(void **state)
{
	struct vm *vm = *state;
	char out[64] = "";

	start(vm, "guest/hello");
	ends_with(vm, WIRE_EXIT_PROGRAM, 0);
	assert_true(read(vm->out, out, sizeof(out) - 1) > 0);
	assert_non_null(strstr(out, "hello"));
}

static void not_a_program(void **state)
{
	struct vm *vm = *state;
	struct launch q = usual();

	send_launch(vm, &q, "flags");
	ends_refused(vm, "ELF");
}

static void a_dynamic_program(void **state)
{
	struct vm *vm = *state;
	struct launch q = usual();

	send_launch(vm, &q, "bin/firn-vmm");
	ends_refused(vm, "static");
}

static void refused_launch(
    void **state, const struct launch *q, const char *text)
{
	struct vm *vm = *state;

	send_launch(vm, q, "guest/hello");
	ends_refused(vm, text);
	assert_int_equal(teardown(state), 0);
	assert_int_equal(setup(state), 0);
}

static void launches_that_are_wrong(void **state)
{
	struct launch q = usual();

	q.l.nargs = 0;
	refused_launch(state, &q, "number of arguments");
	q = usual();
	q.l.nenv = UINT32_MAX;
	refused_launch(state, &q, "number of arguments");
	q = usual();
	q.l.nargs = 3;
	refused_launch(state, &q, "strings");
	q = usual();
	q.l.strings_len = 7;
	refused_launch(state, &q, "strings");
	q = usual();
	q.l.strings_len = 5;
	refused_launch(state, &q, "strings");
	q = usual();
	q.l.mem = 4097;
	refused_launch(state, &q, "memory");
	q = usual();
	q.l.mem = 0;
	refused_launch(state, &q, "memory");
	q = usual();
	q.l.mem = 1ULL << 60;
	refused_launch(state, &q, "memory");
	q = usual();
	q.seg.size = 4097;
	refused_launch(state, &q, "");
	q = usual();
	memset(q.seg.name, 'x', sizeof(q.seg.name));
	refused_launch(state, &q, "name");
	q = usual();
	memcpy(q.seg.name, "ram", 4);
	refused_launch(state, &q, "ram");
}

static void a_launch_of_no_sense(void **state)
{
	struct vm *vm = *state;
	struct wire_launch l = {.nsegs = UINT32_MAX};

	send_msg(vm, WIRE_LAUNCH, &l, sizeof(l), NULL, 0);
	ends_refused(vm, "descriptors");
}

static void requests_before_the_launch(void **state)
{
	struct vm *vm = *state;

	assert_int_equal(ask(vm, WIRE_STATS, NULL, 0, NULL, 0), -EAGAIN);
	start(vm, "guest/hello");
	ends_with(vm, WIRE_EXIT_PROGRAM, 0);
}

static void killed_before_the_launch(void **state)
{
	struct vm *vm = *state;

	send_msg(vm, WIRE_KILL, NULL, 0, NULL, 0);
	ends_with(vm, WIRE_EXIT_KILLED, 137);
}

static void a_broker_that_goes_before_the_launch(void **state)
{
	struct vm *vm = *state;

	close_fd(&vm->sock);
	wait_monitor(vm);
}

/* --- a program that runs -------------------------------------------------- */

/* cat says what it is told: it runs. */
static void echoes(struct vm *vm)
{
	struct pollfd pf = {.fd = vm->out, .events = POLLIN};
	char c = '?';

	assert_int_equal(write(vm->in, "!", 1), 1);
	assert_int_equal(poll(&pf, 1, PATIENCE_MS), 1);
	assert_int_equal(read(vm->out, &c, 1), 1);
	assert_int_equal(c, '!');
}

static void is_confined(struct vm *vm)
{
	char path[64];
	char line[256];
	int seen = 0;
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/%d/status", vm->pid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f) != NULL)
		seen += strcmp(line, "Seccomp:\t2\n") == 0 ||
			strcmp(line, "NoNewPrivs:\t1\n") == 0;
	(void)fclose(f);
	assert_int_equal(seen, 2);
}

static void end_of_input_ends_cat(void **state)
{
	struct vm *vm = *state;

	start(vm, "guest/cat");
	is_confined(vm);
	echoes(vm);
	echoes(vm);
	close_fd(&vm->in);
	ends_with(vm, WIRE_EXIT_PROGRAM, 0);
}

static void killed(void **state)
{
	struct vm *vm = *state;

	start(vm, "guest/cat");
	echoes(vm);
	send_msg(vm, WIRE_KILL, NULL, 0, NULL, 0);
	ends_with(vm, WIRE_EXIT_KILLED, 137);
}

static void killed_while_paused(void **state)
{
	struct vm *vm = *state;

	start(vm, "guest/cat");
	assert_int_equal(ask(vm, WIRE_PAUSE, NULL, 0, NULL, 0), 0);
	send_msg(vm, WIRE_KILL, NULL, 0, NULL, 0);
	ends_with(vm, WIRE_EXIT_KILLED, 137);
}

static void a_broker_that_goes(void **state)
{
	struct vm *vm = *state;

	start(vm, "guest/cat");
	close_fd(&vm->sock);
	wait_monitor(vm);
}

static void pause_and_resume(void **state)
{
	struct vm *vm = *state;
	struct pollfd pf;
	char c;

	start(vm, "guest/cat");
	echoes(vm);
	for (int i = 0; i < 2; i++)
		assert_int_equal(ask(vm, WIRE_PAUSE, NULL, 0, NULL, 0), 0);
	assert_int_equal(write(vm->in, "?", 1), 1);
	pf = (struct pollfd){.fd = vm->out, .events = POLLIN};
	assert_int_equal(poll(&pf, 1, 100), 0);
	assert_int_equal(ask(vm, WIRE_RESUME, NULL, 0, NULL, 0), 0);
	assert_int_equal(poll(&pf, 1, PATIENCE_MS), 1);
	assert_int_equal(read(vm->out, &c, 1), 1);
	assert_int_equal(ask(vm, WIRE_RESUME, NULL, 0, NULL, 0), 0);
	echoes(vm);
}

static void counts(void **state)
{
	struct vm *vm = *state;
	struct wire_stats st;
	struct wire_segment seg[2];

	start(vm, "guest/cat");
	echoes(vm);
	assert_int_equal(ask(vm, WIRE_STATS, NULL, 0, NULL, 0), 0);
	assert_int_equal(vm->p.m.len, sizeof(st));
	memcpy(&st, vm->p.payload, sizeof(st));
	assert_true(st.syscalls > 0);
	assert_int_equal(ask(vm, WIRE_SEGMENTS, NULL, 0, NULL, 0), 0);
	assert_int_equal(vm->p.m.len, sizeof(seg));
	memcpy(seg, vm->p.payload, sizeof(seg));
	assert_int_equal(seg[0].id, 0);
	assert_int_equal(seg[0].gpa, GMEM_RAM_GPA);
	assert_int_equal(seg[0].size, MEM);
	assert_true(seg[0].resident > 0 && seg[0].resident <= MEM);
	assert_string_equal(seg[1].name, "data");
	assert_int_equal(seg[1].size, 1 << 20);
}

static void requests_that_are_wrong(void **state)
{
	struct vm *vm = *state;
	struct wire_place p = {.id = 77};
	struct wire_dirty d = {.id = 0};
	struct wire_map m = {.npages = 1, .nruns = 1};
	int fd = wire_blob("runs", "not runs", 8);
	const int fds[2] = {fd, fd};

	start(vm, "guest/cat");
	assert_int_equal(ask(vm, WIRE_FREEZE, &p, sizeof(p), NULL, 0), -ENOENT);
	assert_int_equal(ask(vm, WIRE_SEVER, &p, sizeof(p), NULL, 0), -ENOENT);
	assert_int_equal(ask(vm, WIRE_UNMAP, &p, sizeof(p), NULL, 0), -ENOENT);
	assert_int_equal(ask(vm, WIRE_FREEZE, &p, 3, NULL, 0), -EPROTO);
	p.id = 0;
	assert_int_equal(ask(vm, WIRE_UNMAP, &p, sizeof(p), NULL, 0), -EPERM);
	assert_int_equal(ask(vm, WIRE_SEVER, &p, sizeof(p), NULL, 0), -EPERM);
	memset(d.cursor, 'x', sizeof(d.cursor));
	assert_int_equal(ask(vm, WIRE_DIRTY, &d, sizeof(d), NULL, 0), -EPROTO);
	memset(d.cursor, 0, sizeof(d.cursor));
	assert_int_equal(ask(vm, WIRE_DIRTY, &d, sizeof(d), NULL, 0), -EINVAL);
	assert_int_equal(ask(vm, WIRE_MAP, &m, sizeof(m), NULL, 0), -EPROTO);
	assert_int_equal(ask(vm, WIRE_MAP, &m, sizeof(m), &fd, 1), -EPROTO);
	assert_int_equal(ask(vm, WIRE_MAP, &m, sizeof(m), fds, 2), -EPROTO);
	m.nruns = UINT64_MAX;
	assert_int_equal(ask(vm, WIRE_MAP, &m, sizeof(m), &fd, 1), -E2BIG);
	m.mode = 9;
	assert_int_equal(ask(vm, WIRE_MAP, &m, sizeof(m), &fd, 1), -EINVAL);
	assert_int_equal(ask(vm, WIRE_MAP, &m, 3, fds, 2), -EPROTO);
	assert_int_equal(ask(vm, WIRE_LAUNCH, NULL, 0, NULL, 0), -ENOSYS);
	assert_int_equal(ask(vm, 0, NULL, 0, NULL, 0), -ENOSYS);
	assert_int_equal(ask(vm, 0x7fff, NULL, 0, NULL, 0), -ENOSYS);
	/* Nobody waits for these. */
	send_msg(vm, WIRE_G_OPEN | WIRE_REPLY, "x", 1, fds, 2);
	send_msg(vm, WIRE_LAYERS, NULL, 0, fds, 2);
	echoes(vm);
	(void)close(fd);
}

static void what_is_no_packet_ends_it(void **state)
{
	struct vm *vm = *state;

	start(vm, "guest/cat");
	assert_int_equal(send(vm->sock, "rubbish", 7, 0), 7);
	wait_monitor(vm);
}

/* --- freeze, map, dirty --------------------------------------------------- */

static int reopen(int fd)
{
	char path[64];
	int r;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(r >= 0);
	return r;
}

/* Freeze segment 0; its one step, and its descriptors. */
static void freeze_ram(
    struct vm *vm, struct wire_frozen *z, int *runs, int *layer)
{
	const struct wire_place p = {.id = 0};

	assert_int_equal(ask(vm, WIRE_FREEZE, &p, sizeof(p), NULL, 0), 0);
	assert_int_equal(vm->p.m.len, sizeof(*z));
	memcpy(z, vm->p.payload, sizeof(*z));
	assert_int_equal(z->nsteps, 1);
	assert_int_equal(vm->p.nfds, 1 + z->step[0].has_layer);
	*runs = wire_take_fd(&vm->p, 0);
	*layer = wire_take_fd(&vm->p, 1);
}

static void freeze_and_map(void **state)
{
	struct vm *vm = *state;
	struct wire_map m = {.npages = MEM / PAGE_SIZE, .name = "view"};
	struct wire_mapped w;
	struct wire_place p;
	struct wire_frozen z;
	struct stat st;
	int fds[2];
	int layer;

	start(vm, "guest/cat");
	echoes(vm);
	freeze_ram(vm, &z, &fds[0], &layer);
	assert_int_equal(z.npages, MEM / PAGE_SIZE);
	assert_int_equal(z.copied_pages, 0);
	assert_true(z.step[0].first);
	assert_int_equal(fcntl(layer, F_GET_SEALS),
	    F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	assert_int_equal(fstat(fds[0], &st), 0);
	assert_int_equal(st.st_size, z.step[0].nruns * sizeof(struct page_run));
	echoes(vm);
	fds[1] = reopen(layer);
	m.nruns = z.step[0].nruns;
	m.nlayers = 1;
	assert_int_equal(ask(vm, WIRE_MAP, &m, sizeof(m), fds, 2), 0);
	memcpy(&w, vm->p.payload, sizeof(w));
	assert_true(w.gpa >= GMEM_PLACES_GPA);
	assert_int_equal(ask(vm, WIRE_MAP, &m, sizeof(m), fds, 2), -EEXIST);
	memset(m.name, 0, sizeof(m.name));
	send_msg(vm, WIRE_LAYERS, NULL, 0, &fds[1], 1);
	assert_int_equal(ask(vm, WIRE_MAP, &m, sizeof(m), fds, 1), 0);
	assert_int_equal(ask(vm, WIRE_SEGMENTS, NULL, 0, NULL, 0), 0);
	assert_int_equal(vm->p.m.len, 4 * sizeof(struct wire_segment));
	p = (struct wire_place){.id = w.id};
	assert_int_equal(ask(vm, WIRE_FREEZE, &p, sizeof(p), NULL, 0), -EPERM);
	assert_int_equal(ask(vm, WIRE_UNMAP, &p, sizeof(p), NULL, 0), 0);
	assert_int_equal(ask(vm, WIRE_UNMAP, &p, sizeof(p), NULL, 0), -ENOENT);
	echoes(vm);
	(void)close(fds[0]);
	(void)close(fds[1]);
	(void)close(layer);
}

/* Two bitmaps of MEM, without a bit set. */
static void is_untouched(int fd)
{
	uint64_t *bits;
	size_t len;

	assert_int_equal(
	    wire_slurp(fd, MEM / PAGE_SIZE, (void **)&bits, &len), 0);
	assert_int_equal(len, 2 * MEM / PAGE_SIZE / 8);
	for (size_t i = 0; i < len / 8; i++)
		assert_int_equal(bits[i], 0);
	free(bits);
}

static void track_view(void **state)
{
	struct vm *vm = *state;
	struct wire_map m = {.npages = MEM / PAGE_SIZE,
	    .name = "view",
	    .mode = FIRN_MAP_COW | FIRN_MAP_TRACK};
	struct wire_place p = {.id = 0};
	struct wire_mapped w;
	struct wire_frozen z;
	int fds[2];
	int layer;

	start(vm, "guest/cat");
	freeze_ram(vm, &z, &fds[0], &layer);
	assert_int_equal(z.tracked, 0);
	assert_int_equal(ask(vm, WIRE_TOUCHED, &p, sizeof(p), NULL, 0), -EPERM);
	fds[1] = reopen(layer);
	m.nruns = z.step[0].nruns;
	m.nlayers = 1;
	assert_int_equal(ask(vm, WIRE_MAP, &m, sizeof(m), fds, 2), 0);
	memcpy(&w, vm->p.payload, sizeof(w));
	p.id = w.id;
	assert_int_equal(ask(vm, WIRE_TOUCHED, &p, sizeof(p), NULL, 0), 0);
	assert_int_equal(vm->p.nfds, 1);
	is_untouched(vm->p.fd[0]);
	assert_int_equal(ask(vm, WIRE_SEVER, &p, sizeof(p), NULL, 0), -EPERM);
	assert_int_equal(ask(vm, WIRE_FREEZE, &p, sizeof(p), NULL, 0), 0);
	memcpy(&z, vm->p.payload, sizeof(z));
	assert_int_equal(z.tracked, 1);
	assert_int_equal(z.nsteps, 0);
	assert_int_equal(vm->p.nfds, 1);
	is_untouched(vm->p.fd[0]);
	p.id = 99;
	assert_int_equal(
	    ask(vm, WIRE_TOUCHED, &p, sizeof(p), NULL, 0), -ENOENT);
	assert_int_equal(ask(vm, WIRE_TOUCHED, &p, 3, NULL, 0), -EPROTO);
	echoes(vm);
	(void)close(fds[0]);
	(void)close(fds[1]);
	(void)close(layer);
}

static void freeze_again(void **state)
{
	struct vm *vm = *state;
	struct wire_frozen z;
	int runs;
	int layer;

	start(vm, "guest/cat");
	for (int i = 0; i < 3; i++) {
		echoes(vm);
		freeze_ram(vm, &z, &runs, &layer);
		assert_int_equal(z.step[0].first, i == 0);
		if (i > 0)
			assert_in_range(z.copied_pages, 1, 1000);
		close_fd(&runs);
		close_fd(&layer);
	}
	echoes(vm);
}

static void dirty_pages(void **state)
{
	struct vm *vm = *state;
	struct wire_dirty d = {.id = 0, .cursor = "c"};
	struct wire_dirtied w;
	uint64_t *bits;
	size_t len;
	uint64_t n = 0;

	start(vm, "guest/cat");
	assert_int_equal(ask(vm, WIRE_DIRTY, &d, sizeof(d), NULL, 0), 0);
	echoes(vm);
	assert_int_equal(ask(vm, WIRE_DIRTY, &d, sizeof(d), NULL, 0), 0);
	assert_int_equal(vm->p.m.len, sizeof(w));
	memcpy(&w, vm->p.payload, sizeof(w));
	assert_int_equal(w.npages, MEM / PAGE_SIZE);
	assert_true(w.pages > 0);
	assert_int_equal(vm->p.nfds, 1);
	assert_int_equal(
	    wire_slurp(vm->p.fd[0], MEM / PAGE_SIZE, (void **)&bits, &len), 0);
	assert_int_equal(len, MEM / PAGE_SIZE / 8);
	for (size_t i = 0; i < len / 8; i++)
		n += (uint64_t)__builtin_popcountll(bits[i]);
	assert_int_equal(n, w.pages);
	free(bits);
}

/* What is dirty in the cursor "c" of segment 0. */
static uint64_t count_dirty(struct vm *vm)
{
	const struct wire_dirty d = {.cursor = "c"};
	struct wire_dirtied w;

	assert_int_equal(ask(vm, WIRE_DIRTY, &d, sizeof(d), NULL, 0), 0);
	memcpy(&w, vm->p.payload, sizeof(w));
	return w.pages;
}

/* An answer that cannot be sent is an error that is: nobody waits for ever, and
 * what it would have told comes with the next one. */
static void answers_that_cannot_be_sent(void **state)
{
	const struct wire_place p = {.id = 0};
	const struct wire_dirty d = {.cursor = "c"};
	struct vm *vm = *state;
	struct wire_frozen z;

	start(vm, "guest/cat");
	(void)count_dirty(vm);
	echoes(vm);
	refused->fds = true;
	assert_int_equal(
	    ask(vm, WIRE_DIRTY, &d, sizeof(d), NULL, 0), -ETOOMANYREFS);
	assert_int_equal(
	    ask(vm, WIRE_FREEZE, &p, sizeof(p), NULL, 0), -ETOOMANYREFS);
	refused->fds = false;
	refused->memfd = true;
	assert_int_equal(ask(vm, WIRE_DIRTY, &d, sizeof(d), NULL, 0), -EMFILE);
	refused->memfd = false;
	assert_true(count_dirty(vm) > 0);
	assert_int_equal(ask(vm, WIRE_FREEZE, &p, sizeof(p), NULL, 0), 0);
	memcpy(&z, vm->p.payload, sizeof(z));
	assert_in_range(z.nsteps, 1, 2);
	assert_true(z.step[0].first);
	echoes(vm);
}

/* --- by hand -------------------------------------------------------------- */

/* Memory that a freeze took away and could not put back: the guest never sees
 * that, paused or not, and who runs it is told. */
static void lost_memory(void **state)
{
	struct vm *vm = *state;
	struct wire_place p = {.id = 0};
	char out[16];

	start(vm, "guest/cat");
	refused->mmap = true;
	assert_int_equal(
	    ask(vm, WIRE_FREEZE, &p, sizeof(p), NULL, 0), -ENOTRECOVERABLE);
	assert_int_equal(write(vm->in, "x", 1), 1);
	ends_telling(vm, WIRE_EXIT_KILLED, 137,
	    "guest ended: ram: cannot freeze it: the kernel refused to map");
	assert_int_equal(read(vm->out, out, sizeof(out)), 0);
}

static void lost_while_paused(void **state)
{
	struct vm *vm = *state;

	start(vm, "guest/cat");
	assert_int_equal(ask(vm, WIRE_PAUSE, NULL, 0, NULL, 0), 0);
	refused->mmap = true;
	assert_int_equal(ask(vm, WIRE_SEVER, &(struct wire_place){.id = 1},
			     sizeof(struct wire_place), NULL, 0),
	    -ENOTRECOVERABLE);
	ends_telling(vm, WIRE_EXIT_KILLED, 137, "guest ended: data: ");
}

static void by_hand(void **state)
{
	char path[4096];
	int status;
	pid_t pid;

	(void)state;
	path_of(path, sizeof(path), "bin/firn-vmm");
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int null = open("/dev/null", O_RDWR);

		(void)dup2(null, 2);
		(void)dup2(null, 3);
		(void)execl(path, "firn-vmm", (char *)NULL);
		_exit(98);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 2);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(hello),
	    T(not_a_program),
	    T(a_dynamic_program),
	    T(launches_that_are_wrong),
	    T(a_launch_of_no_sense),
	    T(requests_before_the_launch),
	    T(killed_before_the_launch),
	    T(a_broker_that_goes_before_the_launch),
	    T(end_of_input_ends_cat),
	    T(killed),
	    T(killed_while_paused),
	    T(a_broker_that_goes),
	    T(pause_and_resume),
	    T(counts),
	    T(requests_that_are_wrong),
	    T(what_is_no_packet_ends_it),
	    T(freeze_and_map),
	    T(track_view),
	    T(freeze_again),
	    T(dirty_pages),
	    cmocka_unit_test_setup_teardown(
		lost_memory, setup_inside, teardown),
	    cmocka_unit_test_setup_teardown(
		lost_while_paused, setup_inside, teardown),
	    cmocka_unit_test_setup_teardown(
		answers_that_cannot_be_sent, setup_inside, teardown),
	    cmocka_unit_test(by_hand),
	};

	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
