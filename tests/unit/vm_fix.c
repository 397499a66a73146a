/* SPDX-License-Identifier: MIT */
/* wrap: mmap */
/* wrap: sendmsg */
/* wrap: memfd_create */
#include "tests/unit/vm_fix.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/vm/vm.h"

void path_of(char *path, size_t len, const char *what)
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

void receive_type(struct vm *vm, uint16_t type)
{
	receive(vm);
	if (vm->p.m.type == WIRE_EXITED && type != WIRE_EXITED)
		print_error("ended: %.*s\n",
		    (int)(vm->p.m.len - sizeof(struct wire_exited)),
		    (char *)vm->p.payload + sizeof(struct wire_exited));
	assert_int_equal(vm->p.m.type, type);
}

/* --- a monitor whose calls fail ------------------------------------------- */

struct refused *refused;
static bool is_monitor;

void *__real_mmap(void *a, size_t n, int prot, int flags, int fd, off_t o);
void *__wrap_mmap(void *a, size_t n, int prot, int flags, int fd, off_t o);
ssize_t __real_sendmsg(int fd, const struct msghdr *m, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags);
int __real_memfd_create(const char *name, unsigned flags);
int __wrap_memfd_create(const char *name, unsigned flags);

void *__wrap_mmap(void *a, size_t n, int prot, int flags, int fd, off_t o)
{
	if (!is_monitor || !refused->mmap ||
	    !(flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)))
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

int setup(void **state)
{
	return start_monitor(state, exec_monitor);
}

int setup_inside(void **state)
{
	refused = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(refused, MAP_FAILED);
	return start_monitor(state, serve_inside);
}

void close_fd(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}

void wait_monitor(struct vm *vm)
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

int teardown(void **state)
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

void send_msg(struct vm *vm, uint16_t type, const void *payload, size_t len,
    const int *fds, uint32_t nfds)
{
	const struct wire_msg m = {
	    .type = type, .seq = ++vm->seq, .len = (uint32_t)len};

	assert_int_equal(wire_send(vm->sock, &m, payload, fds, nfds), 0);
}

int ask(struct vm *vm, uint16_t type, const void *payload, size_t len,
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

static size_t payload_of(const struct launch *q, unsigned char *to)
{
	size_t n = sizeof(q->l);

	memcpy(to, &q->l, n);
	memcpy(to + n, &q->seg, q->l.nsegs * sizeof(q->seg));
	n += q->l.nsegs * sizeof(q->seg);
	memcpy(to + n, q->strings, q->l.strings_len);
	return n + q->l.strings_len;
}

struct launch usual(void)
{
	struct launch q = {
	    .l = {.mem = MEM, .nargs = 1, .nsegs = 1, .strings_len = 6},
	    .seg = {.size = 1 << 20, .name = "data"},
	    .strings = "prg\0n",
	};

	return q;
}

void send_launch_to(
    struct vm *vm, const struct launch *q, const char *program, int out)
{
	unsigned char payload[1024];
	char path[4096];
	int in[2];
	int fds[4];

	path_of(path, sizeof(path), program);
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	fds[0] = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fds[0] >= 0);
	fds[1] = in[0];
	fds[2] = out;
	fds[3] = out;
	send_msg(vm, WIRE_LAUNCH, payload, payload_of(q, payload), fds, 4);
	vm->in = in[1];
	(void)close(fds[0]);
	(void)close(in[0]);
}

void send_launch(struct vm *vm, const struct launch *q, const char *program)
{
	int out[2];

	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	send_launch_to(vm, q, program, out[1]);
	vm->out = out[0];
	(void)close(out[1]);
}

void start(struct vm *vm, const char *program)
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

void ends_with(struct vm *vm, enum wire_exit_reason reason, int32_t status)
{
	const struct wire_exited *x = receive_end(vm);

	assert_int_equal(x->reason, reason);
	assert_int_equal(x->status, status);
	wait_monitor(vm);
}

void ends_telling(struct vm *vm, enum wire_exit_reason reason, int32_t status,
    const char *text)
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

void ends_refused(struct vm *vm, const char *text)
{
	ends_telling(vm, WIRE_EXIT_REFUSED, 126, text);
}

void echoes(struct vm *vm)
{
	struct pollfd pf = {.fd = vm->out, .events = POLLIN};
	char c = '?';

	assert_int_equal(write(vm->in, "!", 1), 1);
	assert_int_equal(poll(&pf, 1, PATIENCE_MS), 1);
	assert_int_equal(read(vm->out, &c, 1), 1);
	assert_int_equal(c, '!');
}
