/* SPDX-License-Identifier: MIT */
/*
 * What a guest's processor is worth: the same static program on the host and as
 * a guest, by turns; and how long `firn run` of a hello-world takes with no
 * daemon running, beside the same program run by the host.
 */
#include <sys/stat.h>

#include "tests/bench/bench.h"
#include "tests/rig.h"

#define TURNS 7
#define NAMES 4

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

static void hello(struct rig *g)
{
	char firn[PATH_MAX + 16];
	char prog[PATH_MAX + 16];
	char run[] = "run";
	char *cold[] = {firn, run, prog, NULL};
	char *host[] = {prog, NULL};
	double a[TURNS];
	double b[TURNS];
	double c[TURNS];
	const char *argv[] = {"hello", NULL};

	(void)snprintf(firn, sizeof(firn), "%s/bin/firn", g->build);
	(void)snprintf(prog, sizeof(prog), "%s/guest/hello", g->build);
	(void)unsetenv("FIRN_SOCKET");
	(void)setenv("XDG_RUNTIME_DIR", "/nonexistent", 1);
	for (int i = 0; i < TURNS; i++) {
		struct rig_vm vm;
		char line[80];
		uint64_t t;

		a[i] = spawn_us(cold);
		b[i] = spawn_us(host);
		t = bench_now_ns();
		rig_launch(g, &vm, argv, 16ULL << 20, NULL);
		rig_line(&vm, line, sizeof(line));
		c[i] = (double)(bench_now_ns() - t) / 1000;
		rig_end(g, &vm);
	}
	bench_line("hello: firn run, no daemon / on the host", "us",
	    bench_median(a, TURNS), bench_median(b, TURNS));
	bench_value("hello: vm.launch to its line, daemon running", "us",
	    bench_median(c, TURNS));
}

int main(void)
{
	double host[NAMES][TURNS] = {{0}};
	double guest[NAMES][TURNS] = {{0}};
	char line[60];
	struct rig g;

	rig_start(&g);
	bench_head("a guest's processor beside the host's");
	for (int i = 0; i < TURNS; i++) {
		on_host(&g, host, i);
		in_guest(&g, guest, i);
	}
	for (int i = 0; i < NAMES; i++) {
		(void)snprintf(line, sizeof(line), "%s: guest / host", name[i]);
		bench_line(line, "ns", bench_median(guest[i], TURNS),
		    bench_median(host[i], TURNS));
	}
	hello(&g);
	rig_stop(&g);
	return 0;
}
