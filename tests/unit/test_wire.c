/* SPDX-License-Identifier: MIT */
#include "tests/unit/own.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/wire/wire.h"

struct pair {
	int a, b;
	struct wire_packet p;
	uint32_t nfds; /* open in this process before the test */
};

static int setup(void **state)
{
	struct pair *s = calloc(1, sizeof(*s));
	int sv[2];

	assert_non_null(s);
	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
	s->a = sv[0];
	s->b = sv[1];
	s->nfds = count_fds();
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct pair *s = *state;

	(void)close(s->a);
	(void)close(s->b);
	free(s);
	return 0;
}

static void there_and_back(void **state)
{
	struct pair *s = *state;
	struct wire_msg m = {
	    .type = WIRE_FREEZE, .seq = 7, .len = 5, .status = -3};
	const int fds[2] = {s->a, s->b};

	assert_int_equal(wire_send(s->a, &m, "hello", fds, 2), 0);
	assert_int_equal(wire_recv(s->b, &s->p), 1);
	assert_int_equal(s->p.m.type, WIRE_FREEZE);
	assert_int_equal(s->p.m.seq, 7);
	assert_int_equal(s->p.m.status, -3);
	assert_int_equal(s->p.m.len, 5);
	assert_memory_equal(s->p.payload, "hello", 5);
	assert_int_equal(s->p.nfds, 2);
	for (int i = 0; i < 2; i++)
		assert_true(fcntl(s->p.fd[i], F_GETFD) & FD_CLOEXEC);
	wire_close_fds(&s->p);
	assert_int_equal(count_fds(), s->nfds);
}

static void descriptors_are_taken_once(void **state)
{
	struct pair *s = *state;
	struct wire_msg m = {.type = WIRE_LAYERS};
	int fd;

	assert_int_equal(wire_send(s->a, &m, NULL, &s->a, 1), 0);
	assert_int_equal(wire_recv(s->b, &s->p), 1);
	fd = wire_take_fd(&s->p, 0);
	assert_true(fd >= 0);
	assert_int_equal(wire_take_fd(&s->p, 0), -1);
	assert_int_equal(wire_take_fd(&s->p, 1), -1);
	wire_close_fds(&s->p);
	assert_true(fcntl(fd, F_GETFD) >= 0);
	(void)close(fd);
}

static void the_largest(void **state)
{
	struct pair *s = *state;
	struct wire_msg m = {.type = WIRE_MAP, .len = WIRE_PAYLOAD_MAX};
	static unsigned char payload[WIRE_PAYLOAD_MAX + 1];
	int fds[WIRE_FDS_MAX + 1];

	for (uint32_t i = 0; i <= WIRE_FDS_MAX; i++)
		fds[i] = s->a;
	assert_int_equal(wire_send(s->a, &m, payload, fds, WIRE_FDS_MAX), 0);
	assert_int_equal(wire_recv(s->b, &s->p), 1);
	assert_int_equal(s->p.nfds, WIRE_FDS_MAX);
	assert_int_equal(s->p.m.len, WIRE_PAYLOAD_MAX);
	wire_close_fds(&s->p);
	assert_int_equal(
	    wire_send(s->a, &m, payload, fds, WIRE_FDS_MAX + 1), -EMSGSIZE);
	m.len++;
	assert_int_equal(wire_send(s->a, &m, payload, NULL, 0), -EMSGSIZE);
	assert_int_equal(count_fds(), s->nfds);
}

/* Send (len) bytes as they are, with (nfds) descriptors. */
static void send_raw(struct pair *s, const void *data, size_t len, size_t nfds)
{
	union {
		struct cmsghdr align;
		unsigned char room[CMSG_SPACE(253 * sizeof(int))];
	} c = {0};
	struct iovec iov = {
	    .iov_base = (void *)(uintptr_t)data, .iov_len = len};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	int fds[253];

	for (size_t i = 0; i < nfds; i++)
		fds[i] = s->a;
	if (nfds > 0) {
		mh.msg_control = c.room;
		mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c.align.cmsg_level = SOL_SOCKET;
		c.align.cmsg_type = SCM_RIGHTS;
		c.align.cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(&c.align), fds, nfds * sizeof(int));
	}
	assert_int_equal(sendmsg(s->a, &mh, MSG_NOSIGNAL), len);
}

static void refused(struct pair *s, const void *data, size_t len, size_t nfds)
{
	send_raw(s, data, len, nfds);
	assert_int_equal(wire_recv(s->b, &s->p), -EPROTO);
	/* To be closed by whom it suits, be they ever so many. */
	assert_int_equal(s->p.nfds, nfds);
	assert_int_equal(count_fds(), s->nfds + nfds);
	wire_close_fds(&s->p);
	assert_int_equal(count_fds(), s->nfds);
}

static void what_is_no_packet(void **state)
{
	struct pair *s = *state;
	static unsigned char
	    big[sizeof(struct wire_msg) + WIRE_PAYLOAD_MAX + 1];
	struct {
		struct wire_msg m;
		unsigned char payload[8];
	} q = {.m = {.magic = WIRE_MAGIC,
		   .version = WIRE_VERSION,
		   .type = WIRE_MAP,
		   .len = 8}};

	send_raw(s, &q, sizeof(q), 1);
	assert_int_equal(wire_recv(s->b, &s->p), 1);
	wire_close_fds(&s->p);
	refused(s, &q, 1, 1);
	refused(s, &q, sizeof(q.m) - 1, 2);
	refused(s, &q, sizeof(q) - 1, 2);
	refused(s, &q, sizeof(q.m), 2);
	refused(s, &q, sizeof(q), WIRE_FDS_MAX + 1);
	refused(s, &q, sizeof(q), 253);
	q.m.len = 7;
	refused(s, &q, sizeof(q), 1);
	q.m.len = UINT32_MAX;
	refused(s, &q, sizeof(q), 1);
	q.m.len = 8;
	q.m.magic++;
	refused(s, &q, sizeof(q), 1);
	q.m.magic--;
	q.m.version++;
	refused(s, &q, sizeof(q), 1);
	q.m.version--;
	q.m.len = WIRE_PAYLOAD_MAX + 1;
	memcpy(big, &q.m, sizeof(q.m));
	refused(s, big, sizeof(big), 3);
}

static void the_ends_of_a_stream(void **state)
{
	struct pair *s = *state;
	struct wire_msg m = {.type = WIRE_KILL};

	assert_int_equal(fcntl(s->b, F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(wire_recv(s->b, &s->p), -EAGAIN);
	(void)close(s->a);
	s->a = -1;
	assert_int_equal(wire_recv(s->b, &s->p), 0);
	assert_int_equal(wire_send(s->b, &m, NULL, NULL, 0), -EPIPE);
}

/* Its maker has no mapping of it, so no write to come is no write at all. */
static void never_changes(int fd, off_t len)
{
	assert_int_equal(fcntl(fd, F_GET_SEALS),
	    F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_ptr_equal(
	    mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0),
	    MAP_FAILED);
	assert_int_equal(errno, EPERM);
	assert_int_equal(
	    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096),
	    -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(fd, len - 1), -1);
	assert_int_equal(ftruncate(fd, len + 1), -1);
}

static void blobs(void **state)
{
	void *data;
	size_t len;
	int fd = wire_blob("test", "0123456789", 10);
	int empty = wire_blob("test", NULL, 0);
	int p[2];

	(void)state;
	assert_true(fd >= 0 && empty >= 0);
	never_changes(fd, 10);
	assert_int_equal(wire_slurp(fd, 10, &data, &len), 0);
	assert_int_equal(len, 10);
	assert_memory_equal(data, "0123456789", 10);
	free(data);
	assert_int_equal(wire_slurp(fd, 9, &data, &len), -EFBIG);
	assert_null(data);
	assert_int_equal(len, 0);
	assert_int_equal(wire_slurp(empty, 10, &data, &len), 0);
	assert_null(data);
	assert_int_equal(wire_slurp(-1, 10, &data, &len), -EBADF);
	assert_int_equal(pipe(p), 0);
	assert_int_equal(wire_slurp(p[0], 10, &data, &len), -EINVAL);
	(void)close(p[0]);
	(void)close(p[1]);
	(void)close(empty);
	(void)close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(there_and_back, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		descriptors_are_taken_once, setup, teardown),
	    cmocka_unit_test_setup_teardown(the_largest, setup, teardown),
	    cmocka_unit_test_setup_teardown(what_is_no_packet, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		the_ends_of_a_stream, setup, teardown),
	    cmocka_unit_test(blobs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
