/* SPDX-License-Identifier: MIT */
/*
 * What a guest's processor is worth: the same static program on the host and as
 * a guest, by turns; a system call beside the bare exit to a monitor that does
 * nothing; and where the time of `firn run` of a hello-world goes, with no
 * daemon running, beside the same program run by the host.
 */
#include <sys/mman.h>
#include <sys/stat.h>

#include "tests/bench/bench.h"
#include "tests/rig.h"
#include "vmm/kvm/kvm_cpu.h"
#include "vmm/kvm/kvm_sys.h"

#define TURNS      7
#define NAMES      4
#define BARE_EXITS 2000

static const char *const name[NAMES] = {"compute", "memcpy", "avx", "syscall"};

static void take(FILE *f, double v[NAMES][TURNS], int turn)
{
	char line[160];
	char what[40];
	double ns;

	while (fgets(line, sizeof(line), f) != NULL) {
		if (sscanf(line, "%39s %lf", what, &ns) != 2)
			rig_fail("speed said: %s", line);
		for (int i = 0; i < NAMES; i++)
			if (strcmp(what, name[i]) == 0)
				v[i][turn] = ns;
	}
}

static void on_host(struct rig *g, double v[NAMES][TURNS], int turn)
{
	char path[PATH_MAX + 16];
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/guest/speed", g->build);
	f = popen(path, "re");
	if (f == NULL)
		rig_fail("%s: %s", path, strerror(errno));
	take(f, v, turn);
	(void)pclose(f);
}

static void in_guest(struct rig *g, double v[NAMES][TURNS], int turn)
{
	const char *argv[] = {"speed", NULL};
	struct rig_vm vm;

	rig_launch(g, &vm, argv, 256ULL << 20, NULL);
	take(vm.out, v, turn);
	rig_end(g, &vm);
}

static double spawn_us(char *const argv[])
{
	uint64_t t = bench_now_ns();
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		int null = open("/dev/null", O_RDWR);

		(void)dup2(null, 0);
		(void)dup2(null, 1);
		(void)execv(argv[0], argv);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) != pid || status != 0)
		rig_fail("%s failed", argv[0]);
	return (double)(bench_now_ns() - t) / 1000;
}

/* --- the bare exit -------------------------------------------------------- */

#define BARE_MEM   (2u << 20)
#define BARE_CODE  0x1000u
#define BARE_ENTRY 0x1100u
#define BARE_TSS   0x2000u /* zeroes: its I/O bitmap allows every port */
#define BARE_PML4  0x6000u
#define BARE_PDPT  0x7000u
#define BARE_PD    0x8000u

/* One 2 MiB page that user code may use, at address 0. */
static void bare_fill(unsigned char *mem)
{
	/* again: syscall; jmp again */
	static const unsigned char code[] = {0x0f, 0x05, 0xeb, 0xfc};
	/* out %al, $0x10; jmp *%rcx, whatever its privilege is now */
	static const unsigned char entry[] = {0xe6, 0x10, 0xff, 0xe1};
	const uint64_t pml4 = BARE_PDPT | 7;
	const uint64_t pdpt = BARE_PD | 7;
	const uint64_t pd = 0xe7;

	memcpy(mem + BARE_CODE, code, sizeof(code));
	memcpy(mem + BARE_ENTRY, entry, sizeof(entry));
	memcpy(mem + BARE_PML4, &pml4, 8);
	memcpy(mem + BARE_PDPT, &pdpt, 8);
	memcpy(mem + BARE_PD, &pd, 8);
}

static double bare_exits(struct kvm_cpu *c)
{
	struct kvm_cpu_exit x;
	uint64_t t = bench_now_ns();

	for (int i = 0; i < BARE_EXITS; i++)
		if (kvm_cpu_run(c, &x) != 0 || x.why != KVM_CPU_OUT)
			rig_fail("a bare guest ended");
	return (double)(bench_now_ns() - t) / BARE_EXITS;
}

/* `syscall` in a guest at CPL 3, `out`, the return of KVM_RUN, and back. */
static double bare_exit_ns(void)
{
	const struct kvm_cpu_init init = {.rip = BARE_CODE,
	    .rsp = BARE_MEM - 64,
	    .cr3 = BARE_PML4,
	    .tss = BARE_TSS,
	    .tss_limit = 0x2067,
	    .tss_sel = 0x40,
	    .user_cs = 0x33,
	    .user_ss = 0x2b,
	    .star = 0x23ULL << 48 | 0x10ULL << 32,
	    .lstar = BARE_ENTRY};
	unsigned char *mem = mmap(NULL, BARE_MEM, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int kvm = kvm_sys_open();
	int vm = kvm_sys_create_vm(kvm);
	struct kvm_sys_caps caps;
	const char *missing;
	struct kvm_cpu cpu;
	double ns;

	if (kvm < 0 || vm < 0 || mem == MAP_FAILED ||
	    kvm_sys_set_memory(vm, 0, 0, 0, mem, BARE_MEM) != 0 ||
	    kvm_sys_check(kvm, &caps, &missing) != 0 ||
	    kvm_cpu_open(kvm, vm, 0, caps.cpuid, &cpu) != 0 ||
	    kvm_cpu_init(&cpu, &init) != 0)
		rig_fail("no bare VM");
	kvm_sys_caps_free(&caps);
	bare_fill(mem);
	ns = bare_exits(&cpu);
	kvm_cpu_close(&cpu);
	(void)close(vm);
	(void)close(kvm);
	(void)munmap(mem, BARE_MEM);
	return ns;
}

/* --- where the time of a hello-world goes --------------------------------- */

enum step { COLD, WARM, START, HOST, LAUNCH, LINE, END, STEPS };

struct hello {
	char firn[PATH_MAX + 16];
	char prog[PATH_MAX + 16];
	double us[STEPS][TURNS];
};

static void hello_commands(struct rig *g, struct hello *h, int turn)
{
	char run[] = "run";
	char version[] = "--version";
	char *cold[] = {h->firn, run, h->prog, NULL};
	char *start[] = {h->firn, version, NULL};
	char *host[] = {h->prog, NULL};

	(void)unsetenv("FIRN_SOCKET");
	(void)setenv("XDG_RUNTIME_DIR", "/nonexistent", 1);
	h->us[COLD][turn] = spawn_us(cold);
	h->us[START][turn] = spawn_us(start);
	h->us[HOST][turn] = spawn_us(host);
	(void)setenv("FIRN_SOCKET", g->socket, 1);
	h->us[WARM][turn] = spawn_us(cold);
}

/* What a client sees of it. */
static void hello_steps(struct rig *g, struct hello *h, int turn)
{
	const char *argv[] = {"hello", NULL};
	struct rig_vm vm;
	char line[80];
	uint64_t t = bench_now_ns();
	uint64_t launched;
	uint64_t said;

	rig_launch(g, &vm, argv, 16ULL << 20, NULL);
	launched = bench_now_ns();
	rig_line(&vm, line, sizeof(line));
	said = bench_now_ns();
	json_decref(
	    rig_call(g, "vm.wait", json_pack("{s:s}", "vm", vm.ref), NULL, 0));
	h->us[LAUNCH][turn] = (double)(launched - t) / 1000;
	h->us[LINE][turn] = (double)(said - launched) / 1000;
	h->us[END][turn] = (double)(bench_now_ns() - said) / 1000;
	(void)fclose(vm.in);
	(void)fclose(vm.out);
}

static void hello(struct rig *g)
{
	static struct hello h;
	double m[STEPS];

	(void)snprintf(h.firn, sizeof(h.firn), "%s/bin/firn", g->build);
	(void)snprintf(h.prog, sizeof(h.prog), "%s/guest/hello", g->build);
	for (int i = 0; i < TURNS; i++) {
		hello_commands(g, &h, i);
		hello_steps(g, &h, i);
	}
	for (int i = 0; i < STEPS; i++)
		m[i] = bench_median(h.us[i], TURNS);
	bench_line(
	    "hello: firn run, no daemon / on the host", "us", m[COLD], m[HOST]);
	bench_line(
	    "  firn run, a daemon runs / on the host", "us", m[WARM], m[HOST]);
	bench_value("  of which: firn itself starts and ends", "us", m[START]);
	bench_value("  vm.launch: a monitor, a VM, the program loaded", "us",
	    m[LAUNCH]);
	bench_value("  the guest runs until its line is read", "us", m[LINE]);
	bench_value("  it exits, all is cleaned up", "us", m[END]);
}

int main(void)
{
	double host[NAMES][TURNS] = {{0}};
	double guest[NAMES][TURNS] = {{0}};
	double bare[TURNS];
	char line[60];
	struct rig g;

	rig_start_as(&g, true);
	bench_head("a guest's processor beside the host's");
	for (int i = 0; i < TURNS; i++) {
		on_host(&g, host, i);
		in_guest(&g, guest, i);
		bare[i] = bare_exit_ns();
	}
	for (int i = 0; i < NAMES; i++) {
		(void)snprintf(line, sizeof(line), "%s: guest / host", name[i]);
		bench_line(line, "ns", bench_median(guest[i], TURNS),
		    bench_median(host[i], TURNS));
	}
	bench_line("syscall: guest / bare KVM, nothing done", "ns",
	    bench_median(guest[NAMES - 1], TURNS), bench_median(bare, TURNS));
	hello(&g);
	rig_stop(&g);
	return 0;
}
