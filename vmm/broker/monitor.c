/* SPDX-License-Identifier: MIT */
/* Monitors: their start, what they are asked, what they say. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/broker/internal.h"

/* --- asking --------------------------------------------------------------- */

int vm_send(struct bvm *vm, uint16_t type, uint32_t seq, int64_t status,
    const void *payload, uint32_t len, const int *fds, uint32_t nfds)
{
	struct wire_msg m = {
	    .magic = WIRE_MAGIC,
	    .version = WIRE_VERSION,
	    .type = type,
	    .seq = seq,
	    .len = len,
	    .status = status,
	};

	return link_send(&vm->link, &m, payload, fds, nfds);
}

int vm_ask(struct bvm *vm, uint16_t type, const void *payload, uint32_t len,
    const int *fds, uint32_t nfds, reply_fn *fn, void *ctx, struct err *e)
{
	struct call *c;
	int rc;

	if (vm->state == VM_EXITED || vm->link.fd < 0)
		return err_set(e, -ESRCH, "the VM has ended");
	if (vm->ncalls >= CALLS_MAX)
		return err_set(e, -EBUSY,
		    "%u requests wait for this VM's monitor; try again",
		    CALLS_MAX);
	c = calloc(1, sizeof(*c));
	if (c == NULL)
		return err_set(e, -ENOMEM, "no memory for a request");
	c->seq = ++vm->seq;
	c->type = type;
	c->fn = fn;
	c->ctx = ctx;
	rc = vm_send(vm, type, c->seq, 0, payload, len, fds, nfds);
	if (rc != 0) {
		free(c);
		return err_set(
		    e, rc, "cannot ask the monitor: %s", strerror(-rc));
	}
	c->next = vm->calls;
	vm->calls = c;
	vm->ncalls++;
	return 0;
}

/* What comes from a guest's world ends on terminals, and JSON carries UTF-8
 * only. */
static void plain_text(char *text)
{
	for (char *c = text; c != NULL && *c != '\0'; c++)
		if ((unsigned char)*c >= 0x7f ||
		    ((unsigned char)*c < 0x20 && *c != '\n' && *c != '\t'))
			*c = '?';
}

int packet_err(const struct wire_packet *p, struct err *e)
{
	int code;

	if (p->m.status >= 0)
		return 0;
	code = p->m.status < -4095 ? -EPROTO : (int)p->m.status;
	if (p->m.len > 0) {
		(void)err_set(e, code, "%.*s",
		    (int)(p->m.len < ERR_MSG_MAX ? p->m.len : ERR_MSG_MAX),
		    (const char *)p->payload);
		plain_text(e->msg);
		return code;
	}
	return err_set(e, code, "the monitor refused: %s", strerror(-code));
}

/* Nobody will answer any more. */
void monitor_fail_calls(struct broker *b, struct bvm *vm)
{
	while (vm->calls != NULL) {
		struct call *c = vm->calls;

		vm->calls = c->next;
		vm->ncalls--;
		c->fn(b, vm, NULL, c->ctx);
		free(c);
	}
}

/* --- what it says --------------------------------------------------------- */

static void on_ready(struct broker *b, struct bvm *vm)
{
	int rc;

	if (vm->launch == NULL)
		return;
	rc = vm_send(vm, WIRE_LAUNCH, ++vm->seq, 0, vm->launch, vm->launch_len,
	    vm->launch_fd, vm->nlaunch_fds);
	launch_drop(vm);
	if (rc != 0)
		vm_kill(b, vm);
}

static void on_started(struct broker *b, struct bvm *vm)
{
	struct ctl_req *rq = vm->launch_rq;

	if (vm->state != VM_STARTING)
		return;
	vm->state = VM_RUNNING;
	launch_began(b, vm);
	own_moved(b, vm, true);
	vm->launch_rq = NULL;
	if (rq != NULL) {
		ctl_req_on_cancel(rq, NULL, NULL);
		ctl_reply(rq,
		    json_pack("{s:I,s:s,s:I}", "vm", (json_int_t)vm->id, "name",
			vm->name, "pid", (json_int_t)vm->pid),
		    NULL, 0);
	}
	notify(b, vm->home, "vm.started",
	    json_pack("{s:I,s:s}", "vm", (json_int_t)vm->id, "name", vm->name));
}

static void on_exited(struct bvm *vm, const struct wire_packet *p)
{
	uint32_t len;

	if (p->m.len < sizeof(vm->end) || vm->has_end)
		return;
	memcpy(&vm->end, p->payload, sizeof(vm->end));
	vm->end.status &= 0xff;
	vm->stats = vm->end.stats;
	len = p->m.len - (uint32_t)sizeof(vm->end);
	if (len > WIRE_REPORT_MAX)
		len = WIRE_REPORT_MAX;
	vm->report = strndup((const char *)p->payload + sizeof(vm->end), len);
	plain_text(vm->report);
	vm->has_end = true;
}

static void on_reply(struct broker *b, struct bvm *vm, struct wire_packet *p)
{
	struct call **at = &vm->calls;
	struct call *c;

	while (*at != NULL && (*at)->seq != p->m.seq)
		at = &(*at)->next;
	c = *at;
	if (c == NULL || (c->type | WIRE_REPLY) != p->m.type)
		return;
	*at = c->next;
	vm->ncalls--;
	c->fn(b, vm, p, c->ctx);
	free(c);
}

static void on_packet(struct broker *b, struct bvm *vm, struct wire_packet *p)
{
	if (p->m.type & WIRE_REPLY) {
		on_reply(b, vm, p);
		return;
	}
	switch (p->m.type) {
	case WIRE_READY:
		on_ready(b, vm);
		break;
	case WIRE_STARTED:
		on_started(b, vm);
		break;
	case WIRE_EXITED:
		on_exited(vm, p);
		break;
	default:
		if (!vm->killed)
			guest_packet(b, vm, p);
		break;
	}
}

/* Descriptors kept aside, so that those of an answer find room. */
void fds_reserve(struct broker *b)
{
	while (b->nreserve < RESERVE_FDS) {
		int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);

		if (fd < 0)
			return;
		b->reserve[b->nreserve++] = fd;
	}
}

bool fds_reserved(struct broker *b)
{
	fds_reserve(b);
	return b->nreserve == RESERVE_FDS;
}

void fds_release(struct broker *b)
{
	while (b->nreserve > 0)
		(void)close(b->reserve[--b->nreserve]);
}

/* At most (max) packets: a monitor that never stops talking has its turn, no
 * more. None while a place is about to end: what it says next may be of another
 * one of that id. */
static void link_read(struct bvm *vm, uint32_t events, unsigned max)
{
	struct broker *b = vm->b;

	if ((events & EPOLLOUT) && link_flush(&vm->link) != 0)
		vm_kill(b, vm); /* part of what it was told is lost */
	for (unsigned n = 0; n < max && vm->ngone == 0; n++) {
		int rc;

		fds_release(b);
		rc = wire_recv(vm->link.fd, &b->packet);
		fds_reserve(b);
		if (rc == 1)
			on_packet(b, vm, &b->packet);
		closer_close_all(b->closer, b->packet.fd, b->packet.nfds);
		if (rc == -EAGAIN || rc == -EINTR)
			return;
		if (rc != 1) {
			/* It hung up, or said what no monitor says: it is of no
			 * use now. Its end comes through the pidfd. */
			link_close(&vm->link, b->closer);
			if (!vm->killed)
				loop_timer_start(&vm->killer, KILL_GRACE_MS);
			vm->killed = true;
			return;
		}
	}
}

static void link_ready(void *arg, int fd, uint32_t events)
{
	(void)fd;
	link_read(arg, events, PACKETS_A_ROUND);
}

/* Why a monitor that said nothing of its end ended. */
void monitor_unsaid(struct bvm *vm, const siginfo_t *si)
{
	char text[120];

	vm->end = (struct wire_exited){
	    .status = 128 + SIGKILL,
	    .reason = WIRE_EXIT_KILLED,
	    .segment = UINT32_MAX,
	};
	if (si->si_code == CLD_EXITED) {
		vm->end.status = 125;
		(void)snprintf(text, sizeof(text),
		    "the monitor ended unexpectedly with status %d",
		    si->si_status);
	} else {
		vm->end.status = 128 + si->si_status;
		(void)snprintf(text, sizeof(text),
		    "the monitor was ended by signal %d", si->si_status);
	}
	free(vm->report);
	vm->report = strdup(text);
}

static void pidfd_ready(void *arg, int fd, uint32_t events)
{
	struct bvm *vm = arg;
	siginfo_t si = {0};

	(void)events;
	if (waitid(P_PIDFD, (id_t)fd, &si, WEXITED | WNOHANG | WNOWAIT) != 0 ||
	    si.si_pid == 0)
		return;
	if (vm->link.fd >= 0)
		link_read(vm, 0, LAST_WORDS_MAX);
	if (vm->link.fd < 0)
		monitor_fail_calls(vm->b, vm);
	/* What it answered is over first: that has its turns, between which
	 * this is called again. */
	if (lifts_wait(vm))
		return;
	vm->cpu_ns = vm_cpu_ns(vm);
	(void)waitid(P_PIDFD, (id_t)fd, &si, WEXITED | WNOHANG);
	if (!vm->has_end)
		monitor_unsaid(vm, &si);
	vm_end(vm->b, vm);
}

/* --- start ---------------------------------------------------------------- */

static int spawn_monitor(struct broker *b, int sock, pid_t *pid, struct err *e)
{
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t at;
	char name[] = "firn-vmm";
	char *argv[] = {name, NULL};
	char *envp[] = {NULL};
	sigset_t none;
	int rc;

	(void)sigemptyset(&none);
	rc = posix_spawn_file_actions_init(&fa);
	if (rc != 0)
		return err_set(e, -rc, "cannot start a monitor");
	rc = posix_spawnattr_init(&at);
	if (rc == 0) {
		(void)posix_spawnattr_setsigmask(&at, &none);
		(void)posix_spawnattr_setpgroup(&at, 0);
		(void)posix_spawnattr_setflags(
		    &at, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
		rc = posix_spawn_file_actions_addopen(
		    &fa, 0, "/dev/null", O_RDWR, 0);
		if (rc == 0)
			rc = posix_spawn_file_actions_adddup2(&fa, 0, 1);
		if (rc == 0)
			rc = posix_spawn_file_actions_adddup2(&fa, sock, 3);
		if (rc == 0)
			rc = posix_spawn_file_actions_addclosefrom_np(&fa, 4);
		if (rc == 0)
			rc = posix_spawn(pid, b->monitor, &fa, &at, argv, envp);
		(void)posix_spawnattr_destroy(&at);
	}
	(void)posix_spawn_file_actions_destroy(&fa);
	if (rc != 0)
		return err_set(e, -rc, "cannot start %.120s: %s", b->monitor,
		    strerror(rc));
	return 0;
}

int monitor_start(struct broker *b, struct bvm *vm, struct err *e)
{
	int sv[2];
	int rc;

	if (!fds_reserved(b))
		return err_set(e, -EMFILE,
		    "firnd has too few descriptors left; drop snapshots or end "
		    "VMs");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) != 0)
		return err_set(
		    e, -errno, "cannot make a socket: %s", strerror(errno));
	(void)fcntl(sv[0], F_SETFL, O_NONBLOCK);
	rc = spawn_monitor(b, sv[1], &vm->pid, e);
	(void)close(sv[1]);
	if (rc != 0) {
		(void)close(sv[0]);
		return rc;
	}
	vm->pidfd = (int)syscall(SYS_pidfd_open, vm->pid, 0);
	rc = vm->pidfd < 0 ? err_set(e, -errno, "cannot watch the monitor: %s",
				 strerror(errno))
			   : loop_add(b->loop, vm->pidfd, EPOLLIN, pidfd_ready,
				 vm, &vm->pidfd_io, e);
	if (rc == 0)
		rc = link_open(&vm->link, b->loop, sv[0], link_ready, vm, e);
	if (rc == 0)
		return 0;
	(void)close(sv[0]);
	(void)kill(vm->pid, SIGKILL);
	while (waitpid(vm->pid, NULL, 0) < 0 && errno == EINTR)
		;
	loop_del(vm->pidfd_io);
	if (vm->pidfd >= 0)
		(void)close(vm->pidfd);
	return rc;
}
