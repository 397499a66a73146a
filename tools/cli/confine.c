/* SPDX-License-Identifier: MIT */
/* What a program may reach while it reads a file that is not trusted. */
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tools/cli/cli.h"
#include "vmm/core/cleanup.h"

/* All that the first version knows. */
#define FS_ALL (2 * LANDLOCK_ACCESS_FS_MAKE_SYM - 1)
#define FS_RO  LANDLOCK_ACCESS_FS_READ_FILE
#define FS_RW  (FS_RO | LANDLOCK_ACCESS_FS_WRITE_FILE)
#define FS_RUN                                                                 \
	(FS_RO | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_EXECUTE)

/* What is not there needs no leave. */
static int allow(int rules, const char *path, uint64_t access)
{
	AUTO_CLOSE int fd = open(path, O_PATH | O_CLOEXEC);
	const struct landlock_path_beneath_attr a = {
	    .allowed_access = access, .parent_fd = fd};

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	return syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH,
		   &a, 0)
		   ? -errno
		   : 0;
}

static int no_other_files(const char *path)
{
	const struct {
		const char *path;
		uint64_t access;
	} may[] = {
	    {path, FS_RO},
	    /* Where programs and their libraries are. */
	    {"/usr", FS_RUN},
	    {"/bin", FS_RUN},
	    {"/lib", FS_RUN},
	    {"/lib64", FS_RUN},
	    {"/etc/ld.so.cache", FS_RO},
	    {"/dev/null", FS_RW},
	};
	const struct landlock_ruleset_attr all = {.handled_access_fs = FS_ALL};
	AUTO_CLOSE int rules =
	    (int)syscall(SYS_landlock_create_ruleset, &all, sizeof(all), 0);
	int ret = 0;

	/* The kernel has it not. */
	if (rules < 0)
		return errno == ENOSYS || errno == EOPNOTSUPP ? 0 : -errno;
	for (size_t i = 0; !ret && i < sizeof(may) / sizeof(may[0]); i++)
		ret = allow(rules, may[i].path, may[i].access);
	if (!ret && syscall(SYS_landlock_restrict_self, rules, 0))
		ret = -errno;
	return ret;
}

static int no_sockets(void)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
	int ret =
	    f ? seccomp_rule_add(f, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(socket), 0)
	      : -ENOMEM;

	if (!ret)
		ret = seccomp_load(f);
	seccomp_release(f);
	return ret;
}

int confine_to(const char *path)
{
	int ret = no_other_files(path);

	return ret ? ret : no_sockets();
}
