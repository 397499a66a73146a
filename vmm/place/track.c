/* SPDX-License-Identifier: MIT */
#include "vmm/place/track.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "vmm/mem/pagemap.h"
#include "vmm/place/internal.h"

_Static_assert(TRACK_REQUEST == UFFDIO_REGISTER, "kernel ABI");

int track_open(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd = (int)syscall(
	    SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	if (fd < 0)
		return -errno;
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		int r = -errno;

		(void)close(fd);
		return r;
	}
	return fd;
}

int track_offset(const struct page_run *runs, size_t nruns)
{
	bool aligned[LEAF_NPAGES] = {false};

	for (size_t i = 0; i < nruns; i++)
		if (runs[i].layer != RUN_ZERO && runs[i].npages >= LEAF_NPAGES)
			aligned[(runs[i].index - runs[i].page) % LEAF_NPAGES] =
			    true;
	for (int off = 1; off < (int)LEAF_NPAGES; off++)
		if (!aligned[off])
			return off;
	return -ENOTSUP;
}

static bool host_swaps(void)
{
	struct sysinfo s;

	return sysinfo(&s) < 0 || s.totalswap > 0;
}

int track_range(int uffd, unsigned char *hva, size_t len, struct err *e)
{
	struct uffdio_register reg = {
	    .range = {.start = (uint64_t)(uintptr_t)hva, .len = len},
	    .mode = UFFDIO_REGISTER_MODE_WP,
	};

	if (madvise(hva, len, MADV_NOHUGEPAGE) < 0 && errno != EINVAL)
		return err_set(
		    e, -errno, "cannot track it: %s", strerror(errno));
	if (ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
		return err_set(e, -errno, "cannot track it: userfaultfd: %s",
		    strerror(errno));
	if (host_swaps() && mlock2(hva, len, MLOCK_ONFAULT) < 0)
		return err_set(e, -errno,
		    "this host swaps, and pages that are tracked must not be: "
		    "%s; raise the limit on locked memory (ulimit -l)",
		    strerror(errno));
	return 0;
}

void place_sets_free(struct place_sets *s)
{
	free(s->reads);
	free(s->writes);
	*s = (struct place_sets){0};
}

int track_sets(struct place *p, struct place_sets *out)
{
	size_t n = place_words(p);
	int r = -ENOMEM;

	out->reads = calloc(n, sizeof(*out->reads));
	out->writes = calloc(n, sizeof(*out->writes));
	if (out->reads != NULL && out->writes != NULL)
		r = pagemap_sets(p->all->pagemap_fd, p->hva, p->npages,
		    out->reads, out->writes);
	if (r < 0)
		place_sets_free(out);
	return r;
}

int place_touched(struct place *p, struct place_sets *out, struct err *e)
{
	int r;

	*out = (struct place_sets){0};
	if (!p->watched)
		return err_set(e, -EPERM,
		    "%s is not tracked; map it with tracking", p->name);
	r = track_sets(p, out);
	if (r < 0)
		return err_set(e, r, "%s: cannot tell what was touched: %s",
		    p->name, strerror(-r));
	return 0;
}
