/* SPDX-License-Identifier: MIT */
/* Monitors: their launch, what they say, their end. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
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
#include "vmm/core/cleanup.h"

/* --- finding -------------------------------------------------------------- */

const char *vm_state_name(enum vm_state s)
{
	static const char *const name[] = {
	    [VM_STARTING] = "starting",
	    [VM_RUNNING] = "running",
	    [VM_PAUSED] = "paused",
	    [VM_EXITED] = "exited",
	};

	return name[s];
}

struct bvm *vm_by_id(struct broker *b, uint64_t id)
{
	struct bvm *vm = b->vms;

	while (vm != NULL && (vm->id != id || vm->dead))
		vm = vm->next;
	return vm;
}

struct bvm *vm_find(
    struct broker *b, struct home *h, const char *ref, struct err *e)
{
	char id[24];

	for (struct bvm *vm = b->vms; vm != NULL; vm = vm->next) {
		if (vm->dead || vm->home != h)
			continue;
		(void)snprintf(id, sizeof(id), "%" PRIu64, vm->id);
		if (strcmp(ref, id) == 0 ||
		    (ref[0] != '\0' && strcmp(ref, vm->name) == 0))
			return vm;
	}
	(void)err_set(e, -ENOENT, "no VM '%.64s'; `firn ps` lists yours", ref);
	return NULL;
}

struct bvm *req_vm(struct broker *b, struct ctl_req *rq, bool live)
{
	struct err e = {0};
	struct bvm *vm = vm_find(b, req_home(rq), ctl_str(rq, "vm"), &e);

	if (vm != NULL && live && vm->state == VM_EXITED) {
		(void)err_set(
		    &e, -ESRCH, "VM '%.64s' has ended", ctl_str(rq, "vm"));
		vm = NULL;
	} else if (vm != NULL && live && vm->state == VM_STARTING) {
		(void)err_set(&e, -EBUSY,
		    "VM '%.64s' is still starting; try again",
		    ctl_str(rq, "vm"));
		vm = NULL;
	}
	if (vm == NULL)
		ctl_fail(rq, &e);
	return vm;
}

/* --- places --------------------------------------------------------------- */

struct bplace *place_by_id(struct bvm *vm, uint32_t id)
{
	for (uint32_t i = 0; i < WIRE_SEGMENTS_MAX; i++)
		if (vm->place[i].used && vm->place[i].id == id)
			return &vm->place[i];
	return NULL;
}

struct bplace *place_find(struct bvm *vm, const char *ref, struct err *e)
{
	char id[16];

	if (ref == NULL || ref[0] == '\0')
		ref = "0";
	for (uint32_t i = 0; i < WIRE_SEGMENTS_MAX; i++) {
		struct bplace *p = &vm->place[i];

		if (!p->used)
			continue;
		(void)snprintf(id, sizeof(id), "%" PRIu32, p->id);
		if (strcmp(ref, id) == 0 || strcmp(ref, p->name) == 0)
			return p;
	}
	(void)err_set(e, -ENOENT,
	    "no segment '%.64s' in this VM; `firn segments` lists them", ref);
	return NULL;
}

struct bplace *place_add(struct broker *b, struct bvm *vm,
    const struct wire_segment *s, struct lineage *l, struct err *e)
{
	struct bplace *p = NULL;

	for (uint32_t i = 0; i < WIRE_SEGMENTS_MAX && p == NULL; i++)
		if (!vm->place[i].used)
			p = &vm->place[i];
	if (p == NULL)
		return err_set(e, -ENOSPC, "a VM has at most %u segments",
			   WIRE_SEGMENTS_MAX),
		       NULL;
	*p = (struct bplace){.id = s->id,
	    .flags = s->flags,
	    .gpa = s->gpa,
	    .npages = s->size / PAGE_SIZE};
	memcpy(p->name, s->name, sizeof(p->name));
	p->name[sizeof(p->name) - 1] = '\0';
	if (s->size % PAGE_SIZE != 0 || map_zero(p->npages, &p->cur) != 0)
		return err_set(e, -EINVAL,
			   "a segment has a whole number of pages, at least 1, "
			   "and at most 1 TiB"),
		       NULL;
	p->lineage = l != NULL ? lineage_get(l) : lineage_new();
	if (p->lineage == NULL)
		return err_set(e, -ENOMEM, "no memory for a segment"), NULL;
	p->whose = layers_of(vm->home->uid);
	p->used = true;
	(void)b;
	return p;
}

void place_end(struct broker *b, struct bvm *vm, struct bplace *p)
{
	if ((p->flags & FIRN_SEG_VIEW_RO) == 0)
		bank_release(b, vm, p->npages * PAGE_SIZE);
	steps_free(b, p);
	for (uint32_t i = 0; i < CURSORS_MAX; i++) {
		if (p->cursor[i].exact)
			map_put(&b->store, &p->cursor[i].base);
		if (p->cursor[i].owes)
			(void)close(p->cursor[i].owed);
	}
	map_put(&b->store, &p->cur);
	if (p->has_severed)
		map_put(&b->store, &p->severed);
	place_unpin(b, p);
	snap_put(b, p->shown);
	kin_put(p->kin);
	kin_sets_free(&p->told);
	lineage_put(p->lineage);
	*p = (struct bplace){0};
	layers_reap(b);
}

/* --- asking a monitor ----------------------------------------------------- */

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

/* --- the end -------------------------------------------------------------- */

static void sweep(void *arg)
{
	struct broker *b = arg;
	struct bvm **at = &b->vms;

	while (*at != NULL) {
		struct bvm *vm = *at;

		if (!vm->dead) {
			at = &vm->next;
			continue;
		}
		*at = vm->next;
		free(vm->report);
		free(vm);
	}
}

static void vm_bury(struct broker *b, struct bvm *vm)
{
	vm->dead = true;
	loop_timer_start(&b->sweeper, 0);
}

/* Where a fault was and what the registers held. */
static void fault_json(json_t *r, const struct wire_exited *x)
{
	static const char *const reg[16] = {"rax", "rbx", "rcx", "rdx", "rsi",
	    "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
	    "r15"};
	char code[2 * sizeof(x->code) + 1] = "";
	uint32_t ncode =
	    x->ncode < sizeof(x->code) ? x->ncode : sizeof(x->code);
	json_t *regs = json_object();

	for (uint32_t i = 0; i < ncode; i++)
		(void)snprintf(code + (size_t)2 * i, 3, "%02x", x->code[i]);
	for (int i = 0; i < 16; i++)
		(void)json_object_set_new(
		    regs, reg[i], json_integer((json_int_t)x->regs[i]));
	(void)json_object_set_new(
	    regs, "rflags", json_integer((json_int_t)x->rflags));
	(void)json_object_set_new(r, "rip", json_integer((json_int_t)x->rip));
	(void)json_object_set_new(
	    r, "address", json_integer((json_int_t)x->address));
	(void)json_object_set_new(r, "code", json_string(code));
	(void)json_object_set_new(r, "registers", regs);
	if (x->segment != UINT32_MAX)
		(void)json_object_set_new(
		    r, "segment", json_integer(x->segment));
	if (x->snapshot != 0)
		(void)json_object_set_new(
		    r, "snapshot", json_integer((json_int_t)x->snapshot));
}

static json_t *report_json(const struct bvm *vm)
{
	static const char prefix[] = "guest ended: ";
	const char *why = vm->report;
	json_t *r = json_object();

	if (strncmp(why, prefix, sizeof(prefix) - 1) == 0)
		why += sizeof(prefix) - 1;
	(void)json_object_set_new(
	    r, "why", json_stringn(why, strcspn(why, "\n")));
	(void)json_object_set_new(r, "text", json_string(vm->report));
	if (vm->end.reason == WIRE_EXIT_FAULT)
		fault_json(r, &vm->end);
	return r;
}

static const char *reason_name(uint32_t r)
{
	static const char *const name[] = {
	    [WIRE_EXIT_PROGRAM] = "exit",
	    [WIRE_EXIT_FAULT] = "fault",
	    [WIRE_EXIT_KILLED] = "killed",
	    [WIRE_EXIT_REFUSED] = "refused",
	};

	return r < sizeof(name) / sizeof(name[0]) ? name[r] : "unknown";
}

json_t *vm_end_json(const struct bvm *vm)
{
	json_t *r = json_pack("{s:i,s:s}", "status", (int)vm->end.status,
	    "reason", reason_name(vm->end.reason));

	if (r != NULL && vm->report != NULL && vm->report[0] != '\0')
		(void)json_object_set_new(r, "report", report_json(vm));
	return r;
}

static void launch_drop(struct bvm *vm)
{
	for (uint32_t i = 0; i < vm->nlaunch_fds; i++)
		if (vm->launch_fd[i] >= 0)
			(void)close(vm->launch_fd[i]);
	vm->nlaunch_fds = 0;
	free(vm->launch);
	vm->launch = NULL;
}

/* Nobody will answer any more. */
static void fail_calls(struct broker *b, struct bvm *vm)
{
	while (vm->calls != NULL) {
		struct call *c = vm->calls;

		vm->calls = c->next;
		vm->ncalls--;
		c->fn(b, vm, NULL, c->ctx);
		free(c);
	}
}

static void launch_failed(struct bvm *vm)
{
	struct err e;
	struct ctl_req *rq = vm->launch_rq;

	if (rq == NULL)
		return;
	vm->launch_rq = NULL;
	ctl_req_on_cancel(rq, NULL, NULL);
	(void)err_set(&e,
	    vm->end.reason == WIRE_EXIT_REFUSED ? -ENOEXEC : -ESRCH, "%s",
	    vm->report != NULL && vm->report[0] != '\0'
		? vm->report
		: "the monitor ended before the program began");
	ctl_fail(rq, &e);
	vm->forget = true;
}

/* The monitor is gone and reaped: release all it held, tell who asked. */
static void vm_end(struct broker *b, struct bvm *vm)
{
	json_t *j;

	vm->state = VM_EXITED;
	loop_timer_stop(&vm->killer);
	loop_del(vm->pidfd_io);
	vm->pidfd_io = NULL;
	(void)close(vm->pidfd);
	vm->pidfd = -1;
	link_close(&vm->link);
	launch_drop(vm);
	fail_calls(b, vm);
	own_moved(b, vm, false);
	for (uint32_t i = 0; i < WIRE_SEGMENTS_MAX; i++)
		if (vm->place[i].used)
			place_end(b, vm, &vm->place[i]);
	pins_drop(b, &vm->opened);
	caps_drop_all(b, &vm->caps);
	free(vm->slots);
	vm->slots = NULL;
	vm->caps = (struct cap_table){0};
	bank_release(b, vm, vm->reserved);
	launch_failed(vm);
	while (vm->waiters != NULL) {
		struct waiter *w = vm->waiters;

		vm->waiters = w->next;
		ctl_req_on_cancel(w->rq, NULL, NULL);
		ctl_reply(w->rq, vm_end_json(vm), NULL, 0);
		free(w);
	}
	j = vm_end_json(vm);
	(void)json_object_set_new(j, "vm", json_integer((json_int_t)vm->id));
	(void)json_object_set_new(j, "name", json_string(vm->name));
	notify(b, vm->home, "vm.exited", j);
	if (vm->forget)
		vm_bury(b, vm);
}

static void killer_fired(void *arg)
{
	struct bvm *vm = arg;

	(void)syscall(SYS_pidfd_send_signal, vm->pidfd, SIGKILL, NULL, 0);
}

void vm_kill(struct broker *b, struct bvm *vm)
{
	(void)b;
	if (vm->state == VM_EXITED)
		return;
	if (vm->state == VM_STARTING) {
		killer_fired(vm);
		return;
	}
	/* Once: who is to die may not put it off by giving more reasons. */
	if (vm->killed)
		return;
	vm->killed = true;
	if (vm_send(vm, WIRE_KILL, ++vm->seq, 0, NULL, 0, NULL, 0) != 0)
		killer_fired(vm);
	else
		loop_timer_start(&vm->killer, KILL_GRACE_MS);
}

void vms_detach(struct broker *b, struct ctl_conn *conn)
{
	for (struct bvm *vm = b->vms; vm != NULL; vm = vm->next) {
		if (vm->attached != conn)
			continue;
		vm->attached = NULL;
		vm->forget = true;
		if (vm->state == VM_EXITED)
			vm_bury(b, vm);
		else
			vm_kill(b, vm);
	}
}

/* --- what a monitor says -------------------------------------------------- */

/* Why a monitor that said nothing of its end ended. */
static void end_unsaid(struct bvm *vm, const siginfo_t *si)
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

static void link_read(struct bvm *vm, uint32_t events, unsigned max);

static void pidfd_ready(void *arg, int fd, uint32_t events)
{
	struct bvm *vm = arg;
	siginfo_t si = {0};

	(void)events;
	if (waitid(P_PIDFD, (id_t)fd, &si, WEXITED | WNOHANG) != 0 ||
	    si.si_pid == 0)
		return;
	if (vm->link.fd >= 0)
		link_read(vm, 0, LAST_WORDS_MAX);
	if (!vm->has_end)
		end_unsaid(vm, &si);
	vm_end(vm->b, vm);
}

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
static void reserve_open(struct broker *b)
{
	while (b->nreserve < RESERVE_FDS) {
		int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);

		if (fd < 0)
			return;
		b->reserve[b->nreserve++] = fd;
	}
}

bool reserve_ok(struct broker *b)
{
	reserve_open(b);
	return b->nreserve == RESERVE_FDS;
}

static void reserve_close(struct broker *b)
{
	while (b->nreserve > 0)
		(void)close(b->reserve[--b->nreserve]);
}

/* At most (max) packets: a monitor that never stops talking has its turn, no
 * more. */
static void link_read(struct bvm *vm, uint32_t events, unsigned max)
{
	struct broker *b = vm->b;

	if ((events & EPOLLOUT) && link_flush(&vm->link) != 0)
		vm_kill(b, vm); /* part of what it was told is lost */
	for (unsigned n = 0; n < max; n++) {
		int rc;

		reserve_close(b);
		rc = wire_recv(vm->link.fd, &b->packet);
		reserve_open(b);
		if (rc == 1) {
			on_packet(b, vm, &b->packet);
			wire_close_fds(&b->packet);
		}
		if (rc == -EAGAIN || rc == -EINTR)
			return;
		if (rc != 1) {
			/* It hung up, or said what no monitor says: it is of no
			 * use now. Its end comes through the pidfd. */
			link_close(&vm->link);
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

/* --- launch --------------------------------------------------------------- */

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

static int start_monitor(struct broker *b, struct bvm *vm, struct err *e)
{
	int sv[2];
	int rc;

	if (!reserve_ok(b))
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

/* Append a list of strings, each with its NUL, to the launch payload. */
static int put_strings(struct bvm *vm, json_t *list, uint32_t *count)
{
	size_t i;
	json_t *s;

	json_array_foreach(list, i, s)
	{
		size_t n = json_string_length(s) + 1;

		if (*count >= WIRE_ARGS_MAX ||
		    n > WIRE_PAYLOAD_MAX - vm->launch_len)
			return -E2BIG;
		memcpy(vm->launch + vm->launch_len, json_string_value(s), n);
		vm->launch_len += (uint32_t)n;
		(*count)++;
	}
	return 0;
}

/* The RAM and the segments asked for, in the monitor's own order of ids. */
static int launch_places(
    struct broker *b, struct bvm *vm, json_t *segs, struct err *e)
{
	struct wire_launch *wl = (struct wire_launch *)(void *)vm->launch;
	struct wire_segment ram = {.id = 0, .size = wl->mem, .name = "ram"};
	size_t i;
	json_t *s;

	if (place_add(b, vm, &ram, NULL, e) == NULL)
		return e->code;
	if (bank_reserve(b, vm, ram.size, e) != 0)
		return e->code;
	json_array_foreach(segs, i, s)
	{
		struct wire_segment w = {.id = wl->nsegs + 1};
		const char *name =
		    json_string_value(json_object_get(s, "name"));

		w.size =
		    (uint64_t)json_integer_value(json_object_get(s, "size"));
		if (!name_ok(name))
			return err_set(e, -EINVAL,
			    "'%.64s' is not a name for a segment", name);
		(void)snprintf(w.name, sizeof(w.name), "%s", name);
		if (place_find(vm, name, NULL) != NULL)
			return err_set(e, -EEXIST,
			    "there are two segments called '%s'", name);
		if (place_add(b, vm, &w, NULL, e) == NULL ||
		    bank_reserve(b, vm, w.size, e) != 0)
			return e->code;
		vm->launch_fd[vm->nlaunch_fds] =
		    layer_memory(w.size / PAGE_SIZE, e);
		if (vm->launch_fd[vm->nlaunch_fds++] < 0)
			return e->code;
		memcpy(vm->launch + vm->launch_len, &w, sizeof(w));
		vm->launch_len += (uint32_t)sizeof(w);
		wl->nsegs++;
	}
	return 0;
}

static int launch_gives(struct broker *b, struct bvm *vm,
    const struct cap_table *from, json_t *gives, struct err *e)
{
	size_t i;
	json_t *g;

	json_array_foreach(gives, i, g)
	{
		struct snap *s;
		const struct cap *c;
		int32_t num;
		int32_t cap;

		if (snap_find(b, from,
			json_string_value(json_object_get(g, "ref")), 0, &s,
			&num, e) != 0)
			return e->code;
		if (own_move(b, vm, s, e) != 0)
			return e->code;
		(void)cap_lookup(from, num, 0, &c);
		cap = snap_grant(s, &vm->caps, c->rights,
		    json_string_value(json_object_get(g, "name")), e);
		if (cap < 0)
			return cap;
	}
	return 0;
}

#define LAUNCH_MEM_DEFAULT (256ULL << 20)
#define LAUNCH_MEM_MIN     (1ULL << 20)

static int launch_payload(
    struct broker *b, struct bvm *vm, struct ctl_req *rq, struct err *e)
{
	struct wire_launch *wl;
	uint32_t at;
	json_t *args = ctl_json(rq, "args");

	vm->launch = calloc(1, WIRE_PAYLOAD_MAX);
	if (vm->launch == NULL)
		return err_set(e, -ENOMEM, "no memory for a launch");
	wl = (struct wire_launch *)(void *)vm->launch;
	vm->launch_len = sizeof(*wl);
	wl->mem = (uint64_t)ctl_int(rq, "mem", LAUNCH_MEM_DEFAULT);
	if (wl->mem < LAUNCH_MEM_MIN || wl->mem % PAGE_SIZE != 0)
		return err_set(e, -EINVAL,
		    "the memory of a VM is a whole number of pages, at least "
		    "1 MiB");
	vm->mem = wl->mem;
	if (json_array_size(args) == 0)
		return err_set(e, -EINVAL,
		    "args is empty; it begins with the "
		    "program's name");
	if (json_array_size(ctl_json(rq, "segments")) > WIRE_SEGMENTS_MAX - 2)
		return err_set(e, -ENOSPC, "a VM has at most %u segments",
		    WIRE_SEGMENTS_MAX - 2);
	if (launch_places(b, vm, ctl_json(rq, "segments"), e) != 0)
		return e->code;
	at = vm->launch_len;
	if (put_strings(vm, args, &wl->nargs) != 0 ||
	    put_strings(vm, ctl_json(rq, "env"), &wl->nenv) != 0)
		return err_set(e, -E2BIG,
		    "arguments and environment are more than %u strings or %u "
		    "bytes",
		    WIRE_ARGS_MAX, WIRE_PAYLOAD_MAX);
	if (strlen(vm->name) + 1 > WIRE_PAYLOAD_MAX - vm->launch_len)
		return err_set(e, -E2BIG, "the arguments are too long");
	memcpy(vm->launch + vm->launch_len, vm->name, strlen(vm->name) + 1);
	vm->launch_len += (uint32_t)strlen(vm->name) + 1;
	wl->strings_len = vm->launch_len - at;
	return 0;
}

static int launch_name(struct broker *b, struct home *h, struct ctl_req *rq,
    struct bvm *vm, struct err *e)
{
	const char *name = ctl_str(rq, "name");
	struct bvm *old;

	if (name == NULL)
		return 0;
	if (!name_ok(name))
		return err_set(
		    e, -EINVAL, "'%.64s' is not a name for a VM", name);
	old = vm_find(b, h, name, NULL);
	if (old != NULL && old->state != VM_EXITED)
		return err_set(e, -EEXIST,
		    "a VM called '%s' exists; choose another name", name);
	if (old != NULL)
		vm_bury(b, old);
	(void)snprintf(vm->name, sizeof(vm->name), "%s", name);
	return 0;
}

/* Room for one more; records of VMs that ended make place first. */
static int launch_room(struct broker *b, struct err *e)
{
	struct bvm *oldest = NULL;
	uint32_t n = 0;

	for (struct bvm *vm = b->vms; vm != NULL; vm = vm->next) {
		if (vm->dead)
			continue;
		n++;
		if (vm->state == VM_EXITED && vm->attached == NULL)
			oldest = vm; /* the list has the newest first */
	}
	if (n < VMS_MAX)
		return 0;
	if (oldest == NULL)
		return err_set(e, -ENOSPC, "%u VMs run already", VMS_MAX);
	vm_bury(b, oldest);
	return 0;
}

static void launch_undo(struct broker *b, struct bvm *vm)
{
	for (uint32_t i = 0; i < WIRE_SEGMENTS_MAX; i++)
		if (vm->place[i].used)
			place_end(b, vm, &vm->place[i]);
	bank_release(b, vm, vm->reserved);
	own_moved(b, vm, false);
	caps_drop_all(b, &vm->caps);
	free(vm->slots);
	launch_drop(vm);
	free(vm);
}

static void launch_cancelled(struct ctl_req *rq, void *arg)
{
	struct bvm *vm = arg;
	struct err e;

	vm->launch_rq = NULL;
	(void)err_set(&e, -ECANCELED, "the client went away");
	ctl_fail(rq, &e);
}

void op_vm_launch(void *ctx, struct ctl_req *rq)
{
	struct broker *b = ctx;
	struct home *h = req_home(rq);
	struct bvm *vm = calloc(1, sizeof(*vm));
	struct err e = {0};

	if (vm != NULL)
		vm->slots = calloc(CAPS_GUEST, sizeof(*vm->slots));
	if (vm == NULL || vm->slots == NULL) {
		free(vm);
		(void)err_set(&e, -ENOMEM, "no memory for a VM");
		ctl_fail(rq, &e);
		return;
	}
	(void)cap_table_init(&vm->caps, vm->slots, CAPS_GUEST, cap_key());
	vm->b = b;
	vm->home = h;
	vm->pidfd = -1;
	vm->link.fd = -1;
	loop_timer_init(&vm->killer, b->loop, killer_fired, vm);
	for (; vm->nlaunch_fds < 4; vm->nlaunch_fds++)
		vm->launch_fd[vm->nlaunch_fds] =
		    ctl_take_fd(rq, vm->nlaunch_fds);
	if (launch_room(b, &e) != 0 || launch_name(b, h, rq, vm, &e) != 0 ||
	    launch_payload(b, vm, rq, &e) != 0 ||
	    launch_gives(b, vm, &h->caps, ctl_json(rq, "give"), &e) != 0 ||
	    start_monitor(b, vm, &e) != 0) {
		launch_undo(b, vm);
		ctl_fail(rq, &e);
		return;
	}
	vm->id = b->next_id++;
	vm->launch_rq = rq;
	ctl_req_on_cancel(rq, launch_cancelled, vm);
	if (!ctl_bool(rq, "detach"))
		vm->attached = ctl_req_conn(rq);
	vm->next = b->vms;
	b->vms = vm;
}

/* --- the broker's own beginning and end ------------------------------------
 */

int vms_init(struct broker *b, struct err *e)
{
	loop_timer_init(&b->sweeper, b->loop, sweep, b);
	reserve_open(b);
	if (b->nreserve < RESERVE_FDS)
		return err_set(e, -EMFILE, "too few descriptors are allowed");
	return 0;
}

void vms_free(struct broker *b)
{
	for (struct bvm *vm = b->vms; vm != NULL; vm = vm->next)
		if (vm->state != VM_EXITED)
			killer_fired(vm);
	for (struct bvm *vm = b->vms; vm != NULL; vm = vm->next) {
		siginfo_t si = {0};

		if (vm->state != VM_EXITED) {
			while (waitid(P_PIDFD, (id_t)vm->pidfd, &si, WEXITED) <
				   0 &&
			       errno == EINTR)
				;
			end_unsaid(vm, &si);
			vm_end(b, vm);
		}
		vm->dead = true;
	}
	loop_timer_stop(&b->sweeper);
	sweep(b);
	reserve_close(b);
}
