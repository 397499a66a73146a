/* SPDX-License-Identifier: MIT */
/* firn-vmm as a broker sees it: a program's launch, run and end. */
#include "tests/unit/vm_fix.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/mem/gmem.h"

/* --- launching ------------------------------------------------------------ */

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

/* Its stdout seems to be writable, and is not for what it writes. */
static void start_stuck(struct vm *vm)
{
	const uint64_t half = 1ULL << 63;
	struct launch q = usual();
	int out = eventfd(0, EFD_CLOEXEC);
	int left = 1;

	assert_int_equal(write(out, &half, sizeof(half)), sizeof(half));
	send_launch_to(vm, &q, "guest/cat", out);
	receive_type(vm, WIRE_STARTED);
	assert_int_equal(write(vm->in, &half, sizeof(half)), sizeof(half));
	for (int i = 0; i < PATIENCE_MS / 10 && left > 0; i++) {
		usleep(10000);
		assert_int_equal(ioctl(vm->in, FIONREAD, &left), 0);
	}
	assert_int_equal(left, 0);
	usleep(100000); /* by now it writes, most likely */
	(void)close(out);
}

static void killed_while_stuck(void **state)
{
	struct vm *vm = *state;

	start_stuck(vm);
	send_msg(vm, WIRE_KILL, NULL, 0, NULL, 0);
	ends_with(vm, WIRE_EXIT_KILLED, 137);
}

static void a_broker_that_goes_from_one_stuck(void **state)
{
	struct vm *vm = *state;

	start_stuck(vm);
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
	assert_int_equal(ask(vm, WIRE_DIRTY_END, &d, 3, NULL, 0), -EPROTO);
	assert_int_equal(
	    ask(vm, WIRE_DIRTY_END, &d, sizeof(d), NULL, 0), -ENOENT);
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

/* --- by hand -------------------------------------------------------------- */

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
	    T(killed_while_stuck),
	    T(a_broker_that_goes_from_one_stuck),
	    T(pause_and_resume),
	    T(counts),
	    T(requests_that_are_wrong),
	    T(what_is_no_packet_ends_it),
	    cmocka_unit_test(by_hand),
	};

	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
