/* SPDX-License-Identifier: MIT */
#include "vmm/vm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/core/cleanup.h"
#include "vmm/kvm/kvm_sys.h"
#include "vmm/mem/pagemap.h"
#include "vmm/place/track.h"
#include "vmm/sandbox/sandbox.h"
#include "vmm/vm/internal.h"

#define REQUESTS_MAX 32u

/* As a shell tells of a program that could not be run, or was killed. */
#define STATUS_REFUSED 126
#define STATUS_KILLED  137

/* --- make ----------------------------------------------------------------- */

static int open_kvm(struct err *e)
{
	int fd = kvm_sys_open();

	if (fd >= 0)
		return fd;
	if (fd == -ENOENT)
		return err_set(e, fd,
		    "this host has no /dev/kvm: load the KVM module, or enable "
		    "virtualisation in the firmware");
	if (fd == -EACCES || fd == -EPERM)
		return err_set(e, fd,
		    "no permission for /dev/kvm: add this user to its group "
		    "(kvm)");
	return err_set(e, fd, "cannot open /dev/kvm: %s", strerror(-fd));
}

static int check_kvm(int kvm_fd, struct kvm_sys_caps *caps, struct err *e)
{
	const char *missing;
	int r = kvm_sys_check(kvm_fd, caps, &missing);

	if (r < 0)
		return err_set(e, r,
		    "this host's KVM lacks %s, which firn needs", missing);
	return 0;
}

static int make_vm(struct vm *vm, int kvm_fd, unsigned phys_bits, struct err *e)
{
	vm->vm_fd = kvm_sys_create_vm(kvm_fd);
	if (vm->vm_fd < 0)
		return err_set(
		    e, vm->vm_fd, "KVM made no VM: %s", strerror(-vm->vm_fd));
	gmem_init(&vm->gmem, vm->vm_fd, phys_bits);
	return 0;
}

static int make_cpus(
    struct vm *vm, int kvm_fd, const struct kvm_cpuid2 *cpuid, struct err *e)
{
	struct vm_cpu *c;

	while (vm->ncpus < VM_VCPUS) {
		c = &vm->cpu[vm->ncpus];
		c->vm = vm;
		c->id = vm->ncpus;
		c->vcpu = vcpu_new(kvm_fd, vm->vm_fd, c->id, cpuid, e);
		if (c->vcpu == NULL)
			return e->code;
		vm->ncpus++;
	}
	return 0;
}

static int make_fds(struct vm *vm, struct err *e)
{
	vm->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (vm->pagemap_fd < 0)
		return err_set(e, -errno,
		    "cannot open /proc/self/pagemap: %s; is /proc mounted?",
		    strerror(errno));
	vm->uffd = track_open(); /* a VM without does all but track */
	vm->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	vm->kill_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vm->wake_fd < 0 || vm->kill_fd < 0)
		return err_set(
		    e, -errno, "cannot make an eventfd: %s", strerror(errno));
	return 0;
}

static int make_rest(struct vm *vm, struct err *e)
{
	vm->layer = calloc(VM_LAYERS_MAX, sizeof(*vm->layer));
	vm->places = places_new(&vm->gmem, &vm->gate, vm->pagemap_fd);
	if (vm->layer == NULL || vm->places == NULL)
		return err_set(e, -ENOMEM, "no memory for a VM");
	places_track(vm->places, vm->uffd);
	return 0;
}

static int set_signals(struct err *e)
{
	int r = vcpu_signal_init();

	if (r == 0 && (signal(SIGPIPE, SIG_IGN) == SIG_ERR ||
			  signal(SIGXFSZ, SIG_IGN) == SIG_ERR ||
			  signal(SIGIO, SIG_IGN) == SIG_ERR))
		r = -errno;
	if (r < 0)
		return err_set(e, r, "cannot set signals: %s", strerror(-r));
	return 0;
}

static int confine(struct err *e)
{
	unsigned long all[REQUESTS_MAX];
	const unsigned long *kvm;
	size_t n;

	kvm = kvm_sys_requests(&n);
	if (n + 2 > REQUESTS_MAX)
		return err_set(e, -E2BIG, "too many requests of ioctl(2)");
	memcpy(all, kvm, n * sizeof(*kvm));
	all[n++] = PAGEMAP_REQUEST;
	all[n++] = TRACK_REQUEST;
	return sandbox_confine(all, n, e);
}

static int make_all(struct vm *vm, int kvm_fd, struct err *e)
{
	struct kvm_sys_caps caps;
	int r = check_kvm(kvm_fd, &caps, e);

	if (r < 0)
		return r;
	r = make_vm(vm, kvm_fd, caps.phys_bits, e);
	if (r == 0)
		r = make_cpus(vm, kvm_fd, caps.cpuid, e);
	kvm_sys_caps_free(&caps);
	if (r == 0)
		r = make_fds(vm, e);
	if (r == 0)
		r = make_rest(vm, e);
	if (r == 0)
		r = set_signals(e);
	if (r == 0)
		r = sandbox_limits(e);
	return r;
}

/* Everything that needs an open or may not be done confined; then confined. */
static int set_up(struct vm *vm, struct err *e)
{
	int kvm_fd = open_kvm(e);
	int r;

	if (kvm_fd < 0)
		return kvm_fd;
	r = make_all(vm, kvm_fd, e);
	(void)close(kvm_fd);
	if (r == 0)
		r = confine(e);
	return r;
}

static struct vm *vm_new(int sock)
{
	struct vm *vm = calloc(1, sizeof(*vm));

	if (vm == NULL)
		return NULL;
	vm->sock = sock;
	vm->vm_fd = -1;
	vm->pagemap_fd = -1;
	vm->uffd = -1;
	vm->wake_fd = -1;
	vm->kill_fd = -1;
	for (uint32_t i = 0; i < 3; i++)
		vm->stdio[i] = -1;
	(void)pthread_mutex_init(&vm->lock, NULL);
	(void)pthread_cond_init(&vm->changed, NULL);
	gate_init(&vm->gate, cpus_kick, vm);
	return vm;
}

/* No vCPU runs any more. */
static void vm_free(struct vm *vm)
{
	if (vm->layer != NULL)
		control_drop_layers(vm);
	free(vm->layer);
	wire_close_fds(&vm->in);
	guest_free(vm->guest);
	if (vm->places != NULL)
		places_free(vm->places);
	for (uint32_t i = 0; i < vm->ncpus; i++)
		vcpu_free(vm->cpu[i].vcpu);
	for (uint32_t i = 0; i < 3; i++)
		cleanup_close(&vm->stdio[i]);
	cleanup_close(&vm->kill_fd);
	cleanup_close(&vm->wake_fd);
	cleanup_close(&vm->pagemap_fd);
	cleanup_close(&vm->uffd);
	cleanup_close(&vm->vm_fd);
	gate_fini(&vm->gate);
	(void)pthread_cond_destroy(&vm->changed);
	(void)pthread_mutex_destroy(&vm->lock);
	free(vm);
}

/* --- serve ---------------------------------------------------------------- */

static int say(struct vm *vm, uint16_t type, const void *payload, uint32_t len)
{
	const struct wire_msg m = {.type = type, .len = len};

	return broker_send(vm, &m, payload, NULL, 0);
}

/* (vm->in) becomes a WIRE_LAUNCH. Anything else before it is refused. */
static enum control_end wait_launch(struct vm *vm)
{
	while (wire_recv(vm->sock, &vm->in) > 0) {
		if (vm->in.m.type == WIRE_LAUNCH)
			return CONTROL_ENDED;
		wire_close_fds(&vm->in);
		if (vm->in.m.type == WIRE_KILL)
			return CONTROL_KILLED;
		if (!(vm->in.m.type & WIRE_REPLY))
			(void)control_refuse(
			    vm, -EAGAIN, "no program runs yet");
	}
	return CONTROL_GONE;
}

/* From here on the program runs, until it ends or (vm) is told to end. */
static int run(struct vm *vm, enum control_end *why, struct err *e)
{
	int r;

	/* So that nothing the guest says comes before WIRE_STARTED. */
	gate_close(&vm->gate);
	r = cpus_start(vm, e);
	if (r < 0)
		vm->stopping = true;
	else
		(void)say(vm, WIRE_STARTED, NULL, 0);
	gate_open(&vm->gate);
	if (r == 0)
		*why = control_serve(vm, e);
	/* A vCPU may wait at the gate; what it meets behind it is its end. */
	vm->stopping = true;
	if (vm->paused)
		gate_open(&vm->gate);
	if (*why == CONTROL_LOST)
		gate_open(&vm->gate);
	vm->paused = false;
	cpus_stop(vm);
	return r;
}

static void fill_end(struct vm *vm, int32_t status,
    enum wire_exit_reason reason, const char *text)
{
	memset(&vm->end, 0, sizeof(vm->end));
	vm->end.x.status = status;
	vm->end.x.reason = reason;
	vm->end.x.segment = UINT32_MAX;
	strncpy(vm->end.text, text, sizeof(vm->end.text) - 1);
}

/* Memory of the guest is lost, so its end is the monitor's word. */
static void fill_lost(struct vm *vm, const char *what)
{
	char text[sizeof(struct err) + 32];

	(void)snprintf(text, sizeof(text), "guest ended: %s\n", what);
	fill_end(vm, STATUS_KILLED, WIRE_EXIT_KILLED, text);
}

/* Tell the broker of (vm->end). No thread is left that changes it. */
static int say_exited(struct vm *vm, struct err *e)
{
	struct {
		struct wire_exited x;
		char text[WIRE_REPORT_MAX];
	} *m = NULL;
	size_t len = strnlen(vm->end.text, sizeof(vm->end.text));
	int r;

	m = malloc(sizeof(*m));
	if (m == NULL)
		return err_set(e, -ENOMEM, "no memory to tell of the end");
	if (vm->guest != NULL)
		guest_stats(vm->guest, &vm->end.x.stats);
	m->x = vm->end.x;
	memcpy(m->text, vm->end.text, len);
	r = say(vm, WIRE_EXITED, m, (uint32_t)(sizeof(m->x) + len));
	free(m);
	if (r < 0 && r != -EPIPE && r != -ECONNRESET)
		return err_set(
		    e, r, "cannot reach the broker: %s", strerror(-r));
	return 0;
}

static int serve(struct vm *vm, enum control_end *why, struct err *e)
{
	const struct wire_ready ready = {.pid = (uint32_t)getpid()};
	int r;

	if (say(vm, WIRE_READY, &ready, sizeof(ready)) < 0)
		return 0;
	*why = wait_launch(vm);
	if (*why != CONTROL_ENDED)
		return 0;
	r = launch(vm, e);
	wire_close_fds(&vm->in);
	if (r == 0)
		r = run(vm, why, e);
	return r;
}

int vm_serve(int sock, struct err *e)
{
	struct vm *vm = vm_new(sock);
	enum control_end why = CONTROL_GONE;
	struct err said = {0};
	int r;

	if (vm == NULL)
		return err_set(e, -ENOMEM, "no memory for a VM");
	r = set_up(vm, &said);
	if (r == 0)
		r = serve(vm, &why, &said);
	if (r < 0) {
		fill_end(vm, STATUS_REFUSED, WIRE_EXIT_REFUSED, said.msg);
		why = CONTROL_ENDED;
	} else if (why == CONTROL_KILLED) {
		fill_end(vm, STATUS_KILLED, WIRE_EXIT_KILLED, "");
	} else if (why == CONTROL_LOST) {
		fill_lost(vm, said.msg);
	}
	r = why == CONTROL_GONE ? 0 : say_exited(vm, e);
	vm_free(vm);
	return r;
}
