/* SPDX-License-Identifier: MIT */
/* Files that appear whole or not at all. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/cli/cli.h"

int part_make(struct cli *c, struct part *p, const char *file)
{
	struct stat st;
	mode_t mask;
	char *real;

	if (!stat(file, &st) && !S_ISREG(st.st_mode)) {
		cli_fail(c, "%s: exists and is not a regular file", file);
		return -1;
	}
	if (cli_take_signals(c))
		return -1;
	/* An absolute name has no protocol and starts with no dash. */
	real = *file == '/' ? strdup("") : realpath(".", NULL);
	if (!real ||
	    (size_t)snprintf(p->name, sizeof(p->name), "%s%s%s.part.XXXXXX",
		real, *real ? "/" : "", file) >= sizeof(p->name)) {
		free(real);
		p->name[0] = '\0';
		cli_fail(c, "%s: %s", file, strerror(ENAMETOOLONG));
		return -1;
	}
	free(real);
	p->fd = mkostemp(p->name, O_CLOEXEC);
	if (p->fd < 0) {
		p->name[0] = '\0';
		cli_fail(c, "%s: %s", file, strerror(errno));
		return -1;
	}
	mask = umask(0);
	umask(mask);
	(void)fchmod(p->fd, 0666 & ~mask);
	return 0;
}

int part_finish(struct cli *c, struct part *p, const char *file)
{
	if (fsync(p->fd) || rename(p->name, file)) {
		cli_fail(c, "%s: %s", file, strerror(errno));
		return -1;
	}
	p->name[0] = '\0';
	return 0;
}

void part_end(struct part *p)
{
	if (p->name[0])
		(void)unlink(p->name);
	if (p->fd >= 0)
		(void)close(p->fd);
	*p = (struct part)PART_NONE;
}

int write_file(struct cli *c, const char *file, const char *text, size_t len)
{
	struct part p = PART_NONE;
	int ret = part_make(c, &p, file);
	int rc;

	if (!ret) {
		rc = write_all(p.fd, text, len);
		if (rc) {
			cli_fail(c, "%s: %s", file, strerror(-rc));
			ret = -1;
		}
	}
	if (!ret)
		ret = part_finish(c, &p, file);
	part_end(&p);
	return ret;
}
