/* SPDX-License-Identifier: MIT */
/*
 * A packet between broker and monitor: any bytes with any number of
 * descriptors are one, or are refused, and then no descriptor is left. What is
 * one carries a list of runs, in its payload and in a memfd, which either keeps
 * what run_list_check() promises or is refused.
 *
 * The first byte is how many descriptors, the second how many bytes are cut
 * from the place's pages; the rest is the packet, its magic and version set
 * right unless the first byte's highest bit is set.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "tests/fuzz/fuzz.h"
#include "vmm/wire/wire.h"

#define PACKET_MAX (sizeof(struct wire_msg) + WIRE_PAYLOAD_MAX + 100)
#define FDS_MAX    253 /* the kernel's SCM_MAX_FD */

static void send_raw(int sock, void *packet, size_t len, uint32_t nfds, int fd)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} c = {.room = {0}};
	struct iovec iov = {.iov_base = packet, .iov_len = len};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

	if (nfds > 0) {
		mh.msg_control = c.room;
		mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c.align.cmsg_level = SOL_SOCKET;
		c.align.cmsg_type = SCM_RIGHTS;
		c.align.cmsg_len = CMSG_LEN(nfds * sizeof(int));
		for (uint32_t i = 0; i < nfds; i++)
			memcpy(CMSG_DATA(&c.align) + i * sizeof(int), &fd,
			    sizeof(fd));
	}
	FUZZ_CHECK(sendmsg(sock, &mh, 0) == (ssize_t)len);
}

/* Runs that were let through are in order, and within the place. */
static void check_runs(const struct page_run *r, size_t n, uint64_t npages)
{
	uint64_t at = 0;

	if (run_list_check(r, n, npages) != 0)
		return;
	for (size_t i = 0; i < n; i++) {
		FUZZ_CHECK(r[i].npages > 0 && r[i].page >= at);
		FUZZ_CHECK(r[i].page <= npages);
		FUZZ_CHECK(r[i].npages <= npages - r[i].page);
		at = r[i].page + r[i].npages;
	}
}

static void check_blob(int fd, const struct wire_packet *p, uint64_t npages)
{
	size_t len;
	void *data;
	int blob = wire_blob("fuzz", p->payload, p->m.len);
	int rc;

	FUZZ_CHECK(wire_slurp(fd, SIZE_MAX, &data, &len) == -EINVAL);
	FUZZ_CHECK(blob >= 0);
	if (p->m.len > 0)
		FUZZ_CHECK(
		    wire_slurp(blob, p->m.len - 1, &data, &len) == -EFBIG);
	rc = wire_slurp(blob, p->m.len, &data, &len);
	FUZZ_CHECK(rc == 0 && len == p->m.len);
	FUZZ_CHECK(len == 0 || memcmp(data, p->payload, len) == 0);
	check_runs(data, len / sizeof(struct page_run), npages);
	free(data);
	close(blob);
}

static int lowest_free(void)
{
	int fd = fcntl(0, F_DUPFD, 3);

	close(fd);
	return fd;
}

static void receive(int sock, uint32_t nfds, size_t len, uint64_t npages)
{
	static struct wire_packet p;
	int before = lowest_free();
	int rc = wire_recv(sock, &p);

	FUZZ_CHECK(rc == 1 || rc == -EPROTO || (rc == 0 && len == 0));
	if (rc == 1) {
		FUZZ_CHECK(p.nfds == nfds && nfds <= WIRE_FDS_MAX);
		FUZZ_CHECK(p.m.magic == WIRE_MAGIC);
		FUZZ_CHECK(p.m.version == WIRE_VERSION);
		FUZZ_CHECK(p.m.len + sizeof(p.m) == len);
		FUZZ_CHECK(wire_take_fd(&p, nfds) == -1);
		FUZZ_CHECK(wire_take_fd(&p, UINT32_MAX) == -1);
		if (nfds > 0) {
			int fd = wire_take_fd(&p, nfds - 1);

			FUZZ_CHECK(fd >= 0);
			FUZZ_CHECK(wire_take_fd(&p, nfds - 1) == -1);
			check_blob(fd, &p, npages);
			close(fd);
		}
	}
	wire_close_fds(&p);
	FUZZ_CHECK(lowest_free() == before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static unsigned char packet[PACKET_MAX];
	struct wire_msg m = {.magic = WIRE_MAGIC, .version = WIRE_VERSION};
	uint32_t nfds = len > 0 ? data[0] % 128u * 2 : 0;
	uint64_t npages = len > 1 ? 256u - data[1] : 256u;
	int sv[2];

	len = len > 2 ? len - 2 : 0;
	if (len > PACKET_MAX)
		len = PACKET_MAX;
	if (len > 0)
		memcpy(packet, data + 2, len);
	if (len > sizeof(m) && data[0] < 128) {
		memcpy(&m.type, packet + offsetof(struct wire_msg, type),
		    sizeof(m) - offsetof(struct wire_msg, type));
		if (packet[0] % 8 != 0)
			m.len = (uint32_t)(len - sizeof(m));
		memcpy(packet, &m, sizeof(m));
	}
	if (nfds > FDS_MAX)
		nfds = FDS_MAX;
	FUZZ_CHECK(
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) == 0);
	send_raw(sv[0], packet, len, nfds, sv[0]);
	receive(sv[1], nfds, len, npages);
	close(sv[0]);
	close(sv[1]);
	return 0;
}
