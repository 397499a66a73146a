/* SPDX-License-Identifier: MIT */
/* doctor: what this host can do, and what firn will use. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "tools/cli/cli.h"
#include "vmm/core/cleanup.h"
#include "vmm/core/seals.h"
#include "vmm/kvm/kvm_probe.h"

/* Of Linux 6.0 and 5.11, for C libraries that do not have them. */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define NOFILE_WANTED 4096u

/* PAGEMAP_SCAN of Linux 6.7, which the headers of 6.1 do not have. */
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask;
	uint64_t return_mask;
};
#define PAGEMAP_SCAN_NR _IOWR('f', 16, struct scan_arg)

enum level { LEVEL_OK, LEVEL_NOTE, LEVEL_FAIL };

struct doctor {
	json_t *checks;
	bool failed;
};

static void __attribute__((format(printf, 4, 5))) report(
    struct doctor *d, const char *name, enum level level, const char *fmt, ...)
{
	static const char *const names[] = {"ok", "note", "FAIL"};
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	json_array_append_new(
	    d->checks, json_pack("{s:s, s:s, s:s}", "check", name, "status",
			   names[level], "text", text));
	if (level == LEVEL_FAIL)
		d->failed = true;
}

static void check_kernel(struct doctor *d)
{
	struct utsname u;
	const char *dot;
	uint64_t major, minor;

	(void)uname(&u);
	major = number_at(u.release);
	dot = strchr(u.release, '.');
	minor = dot ? number_at(dot + 1) : 0;
	if (strcmp(u.machine, "x86_64") != 0)
		report(d, "kernel", LEVEL_FAIL, "%s: firn needs x86_64",
		    u.machine);
	else if (major < 6 || (major == 6 && minor < 1))
		report(d, "kernel", LEVEL_FAIL,
		    "Linux %s: firn needs 6.1 or later", u.release);
	else
		report(d, "kernel", LEVEL_OK, "Linux %s", u.release);
}

/* Whether a module's parameter says yes. */
static bool param(const char *path)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	char c[1];

	return fd >= 0 && read(fd, c, 1) == 1 && (c[0] == 'Y' || c[0] == '1');
}

static void check_paging(struct doctor *d)
{
	bool ept = param("/sys/module/kvm_intel/parameters/ept");
	bool npt = param("/sys/module/kvm_amd/parameters/npt");

	if (ept || npt)
		report(
		    d, "paging", LEVEL_OK, "nested (%s)", ept ? "EPT" : "NPT");
	else
		report(d, "paging", LEVEL_NOTE,
		    "shadow paging: guests' faults and exits are slow");
}

static void check_kvm(struct doctor *d)
{
	struct kvm_probe p;
	struct err e = {0};

	if (kvm_probe(&p, &e)) {
		report(d, "kvm", LEVEL_FAIL, "%s", e.msg);
		return;
	}
	report(
	    d, "kvm", LEVEL_OK, "API %d, a VM and a vCPU can be made", p.api);
	for (size_t i = 0; i < p.ncaps; i++) {
		const struct kvm_probe_cap *k = &p.caps[i];

		report(d, k->name,
		    k->value    ? LEVEL_OK
		    : k->needed ? LEVEL_FAIL
				: LEVEL_NOTE,
		    "%s (%s)%s", k->value ? "present" : "absent", k->use,
		    k->value || !k->needed ? "" : ": firn needs it");
	}
	check_paging(d);
}

static void check_seals(struct doctor *d)
{
	AUTO_CLOSE int fd =
	    memfd_create("doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *m;

	if (fd < 0 || ftruncate(fd, PAGE_SIZE) ||
	    fcntl(fd, F_ADD_SEALS, SEALS_FROZEN)) {
		report(d, "seals", LEVEL_FAIL, "memfds cannot be sealed: %s",
		    strerror(errno));
		return;
	}
	m = mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	report(d, "seals", LEVEL_OK, "memfds can be sealed%s",
	    m == MAP_FAILED ? " (and then only be mapped private)" : "");
	if (m != MAP_FAILED)
		(void)munmap(m, PAGE_SIZE);
}

static void check_collapse(struct doctor *d)
{
	AUTO_CLOSE int fd = memfd_create("doctor", MFD_CLOEXEC);
	char *m = MAP_FAILED;
	char *leaf;
	int ret = -1;

	if (fd >= 0 && !ftruncate(fd, 2 * (off_t)LEAF_SIZE))
		m = mmap(NULL, 2 * LEAF_SIZE, PROT_READ | PROT_WRITE,
		    MAP_SHARED, fd, 0);
	if (m != MAP_FAILED) {
		/* Aligned in the file and in memory alike, or it cannot be. */
		leaf = m + (-(uintptr_t)m & (LEAF_SIZE - 1));
		leaf = mmap(leaf, LEAF_SIZE, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_FIXED, fd, 0);
		if (leaf != MAP_FAILED) {
			*(volatile char *)leaf = 1;
			ret = madvise(leaf, LEAF_SIZE, MADV_COLLAPSE);
		}
		(void)munmap(m, 2 * LEAF_SIZE);
	}
	if (ret)
		report(d, "collapse", LEVEL_NOTE,
		    "MADV_COLLAPSE: %s: 4 KiB backing, freezes take longer",
		    strerror(errno));
	else
		report(d, "collapse", LEVEL_OK,
		    "MADV_COLLAPSE gives 2 MiB backing on demand");
}

static void check_pagemap(struct doctor *d)
{
	AUTO_CLOSE int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct scan_arg a = {.size = sizeof(a)};

	if (fd < 0)
		report(d, "pagemap", LEVEL_FAIL, "/proc/self/pagemap: %s",
		    strerror(errno));
	else if (ioctl(fd, PAGEMAP_SCAN_NR, &a) < 0)
		report(d, "pagemap", LEVEL_OK,
		    "no PAGEMAP_SCAN (Linux 6.7): read page by page");
	else
		report(d, "pagemap", LEVEL_OK, "PAGEMAP_SCAN");
}

static void check_uffd(struct doctor *d)
{
	AUTO_CLOSE int fd =
	    (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = {.api = UFFD_API};

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
		report(d, "userfaultfd", LEVEL_NOTE,
		    "absent: %s: views cannot be tracked", strerror(errno));
	else
		report(d, "userfaultfd", LEVEL_OK,
		    "present: views can be tracked");
}

static uint64_t number_in(const char *path, const char *before)
{
	FILE *f = fopen(path, "re");
	char line[128];
	size_t len = strlen(before);
	uint64_t n = 0;

	while (f && !n && fgets(line, sizeof(line), f))
		if (!strncmp(line, before, len))
			n = number_at(line + len);
	if (f)
		(void)fclose(f);
	return n;
}

static void check_memory(struct doctor *d)
{
	uint64_t kb = number_in("/proc/meminfo", "MemAvailable:");
	struct rlimit as;
	char buf[32];

	(void)getrlimit(RLIMIT_AS, &as);
	report(d, "memory", kb < 65536 ? LEVEL_NOTE : LEVEL_OK, "%s available",
	    fmt_size(kb * 1024, buf, sizeof(buf)));
	if (as.rlim_cur != RLIM_INFINITY)
		report(d, "address-space", LEVEL_NOTE,
		    "limited to %s (ulimit -v): guests must be smaller",
		    fmt_size(as.rlim_cur, buf, sizeof(buf)));
}

static void check_limits(struct doctor *d)
{
	uint64_t maps = number_in("/proc/sys/vm/max_map_count", "");
	struct rlimit files;

	check_memory(d);
	(void)getrlimit(RLIMIT_NOFILE, &files);
	report(d, "descriptors",
	    files.rlim_max < NOFILE_WANTED ? LEVEL_NOTE : LEVEL_OK,
	    "%" PRIu64 " at most (hard limit)%s", (uint64_t)files.rlim_max,
	    files.rlim_max < NOFILE_WANTED ? ": few snapshots can be kept"
					   : "");
	report(d, "mappings", LEVEL_OK,
	    "%" PRIu64 " a process (vm.max_map_count)", maps);
}

static bool in_path(const char *name)
{
	static const char *const dirs[] = {
	    "/usr/local/bin", "/usr/bin", "/bin"};
	char path[64];

	for (size_t i = 0; i < 3; i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", dirs[i], name);
		if (!access(path, X_OK))
			return true;
	}
	return false;
}

/* Whether a daemon answers, or one could be started. */
static void check_service(struct cli *c, struct doctor *d)
{
	json_t *r;

	if (in_path("qemu-img"))
		report(d, "qemu-img", LEVEL_OK, "present (import, export)");
	else
		report(d, "qemu-img", LEVEL_NOTE,
		    "absent: no import, no qcow2 (install qemu-utils)");
	if (cli_connect(c, LINK_PRIVATE)) {
		report(d, "firnd", LEVEL_FAIL, "no daemon answers or starts");
		return;
	}
	r = cli_call(c, "service.describe", json_object());
	if (!r)
		report(d, "firnd", LEVEL_FAIL, "the daemon does not answer");
	else
		report(d, "firnd", LEVEL_OK, "%s, version %s",
		    c->firnd ? "none runs; run starts a private one"
			     : "a daemon runs",
		    json_str(r, "version"));
	json_decref(r);
}

static int print(struct cli *c, struct doctor *d)
{
	static const struct col cols[] = {
	    {"status", "", COL_TEXT},
	    {"check", "CHECK", COL_TEXT},
	    {"text", "", COL_TEXT},
	};
	json_t *j;
	int ret;

	if (c->json) {
		j = json_pack(
		    "{s:b, s:O}", "ok", !d->failed, "checks", d->checks);
		ret = j ? out_json(j) : cli_fail(c, "out of memory");
		json_decref(j);
		return ret;
	}
	out_table(d->checks, cols, sizeof(cols) / sizeof(cols[0]));
	(void)puts(d->failed ? "firn cannot work here: see FAIL above"
			     : "firn can work here");
	return EX_OK;
}

int verb_doctor(struct cli *c, const struct args *a)
{
	struct doctor d = {.checks = json_array()};
	int ret;

	(void)a;
	if (!d.checks)
		return cli_fail(c, "out of memory");
	check_kernel(&d);
	check_kvm(&d);
	check_seals(&d);
	check_collapse(&d);
	check_pagemap(&d);
	check_uffd(&d);
	check_limits(&d);
	check_service(c, &d);
	ret = print(c, &d);
	json_decref(d.checks);
	return ret || d.failed ? EX_FAIL : EX_OK;
}
