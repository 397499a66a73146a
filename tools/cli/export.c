/* SPDX-License-Identifier: MIT */
/*
 * export: a snapshot becomes a raw or qcow2 file, whole or not at all.
 *
 * What is written has a temporary name beside FILE until it is complete. Over a
 * parent: an empty overlay with 4 KiB clusters over the raw content, which
 * qemu-img's safe rebase then moves over to the parent; rebase stores what
 * differs between the two, and only that.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "tools/cli/cli.h"
#include "vmm/core/cleanup.h"

#define CHUNK_NPAGES 16u

struct job {
	struct part part;
	char parent[PATH_MAX];   /* of --over, absolute; "" if none */
	const char *parent_name; /* as the overlay will name it */
	int raw_fd;              /* the content; qcow2 only */
};

/* Write pages of (buf) that are not zero. 0 or -errno. */
static int write_pages(int fd, const char *buf, size_t npages, uint64_t page)
{
	static const char zero[PAGE_SIZE];
	size_t i = 0, n;

	while (i < npages) {
		for (n = 0; i + n < npages; n++)
			if (!memcmp(buf + (i + n) * PAGE_SIZE, zero, PAGE_SIZE))
				break;
		for (size_t done = 0; done < n * PAGE_SIZE;) {
			ssize_t k = pwrite(fd, buf + i * PAGE_SIZE + done,
			    n * PAGE_SIZE - done,
			    (off_t)((page + i) * PAGE_SIZE + done));

			if (k <= 0)
				return k ? -errno : -EIO;
			done += (size_t)k;
		}
		i += n + 1;
	}
	return 0;
}

static int copy_range(struct cli *c, const struct firn_snapshot *s, int fd,
    const struct firn_range *r, char *buf)
{
	struct firn_error e;
	int ret;

	for (uint64_t done = 0, n; done < r->count; done += n) {
		n = r->count - done;
		if (n > CHUNK_NPAGES)
			n = CHUNK_NPAGES;
		if (cli_signalled(c, 0)) {
			cli_fail(c, "stopped by a signal");
			return -1;
		}
		if (firn_snapshot_read(s, (r->first + done) << PAGE_SHIFT, buf,
			n << PAGE_SHIFT, &e)) {
			cli_fail(c, "%s", e.msg);
			return -1;
		}
		ret = write_pages(fd, buf, n, r->first + done);
		if (ret) {
			cli_fail(c, "cannot write: %s", strerror(-ret));
			return -1;
		}
	}
	return 0;
}

static int write_raw(struct cli *c, const struct firn_snapshot *s, int fd)
{
	char buf[CHUNK_NPAGES * PAGE_SIZE];
	struct firn_range r;

	if (ftruncate(fd, (off_t)(firn_snapshot_pages(s) << PAGE_SHIFT))) {
		cli_fail(c, "cannot write: %s", strerror(errno));
		return -1;
	}
	for (uint64_t page = 0; firn_snapshot_next(s, page, &r) == 1;
	     page = r.first + r.count)
		if (copy_range(c, s, fd, &r, buf))
			return -1;
	return 0;
}

static int qemu_img(struct cli *c, const struct job *j, const char *const *argv)
{
	/* Of a check: leaked clusters do no harm. */
	static const int also_ok[] = {3, 0};
	struct proc p = {.argv = argv,
	    .package = "qemu-utils",
	    .keep_fd = j->raw_fd,
	    .grow_fd = -1,
	    .also_ok = also_ok};

	return proc_run(c, &p, "qemu-img", NULL);
}

static int write_qcow2(struct cli *c, const struct job *j)
{
	char raw[64];
	const char *const argv[] = {"qemu-img", "convert", "-f", "raw", "-O",
	    "qcow2", "--", raw, j->part.name, NULL};

	(void)snprintf(raw, sizeof(raw), "/proc/self/fd/%d", j->raw_fd);
	return qemu_img(c, j, argv);
}

static int write_overlay(struct cli *c, const struct job *j)
{
	char raw[64];
	/* What a damaged parent lacks would read as zeros. */
	const char *const check[] = {
	    "qemu-img", "check", "-U", "-f", "qcow2", "--", j->parent, NULL};
	const char *const create[] = {"qemu-img", "create", "-q", "-f", "qcow2",
	    "-o", "cluster_size=4096", "-b", raw, "-F", "raw", "--",
	    j->part.name, NULL};
	const char *const rebase[] = {"qemu-img", "rebase", "-f", "qcow2", "-b",
	    j->parent, "-F", "qcow2", "--", j->part.name, NULL};
	const char *const rename_parent[] = {"qemu-img", "rebase", "-u", "-f",
	    "qcow2", "-b", j->parent_name, "-F", "qcow2", "--", j->part.name,
	    NULL};

	(void)snprintf(raw, sizeof(raw), "/proc/self/fd/%d", j->raw_fd);
	if (qemu_img(c, j, check) || qemu_img(c, j, create) ||
	    qemu_img(c, j, rebase))
		return -1;
	return j->parent_name == j->parent ? 0 : qemu_img(c, j, rename_parent);
}

/* (parent) is named without a directory when it stands beside FILE. */
static int find_parent(
    struct cli *c, struct job *j, const char *over, const char *file)
{
	char dir[PATH_MAX], real_dir[PATH_MAX];
	char *slash, *parent_slash;
	struct stat a, b;

	if (!realpath(over, j->parent) || stat(over, &a)) {
		cli_fail(c, "%s: %s", over, strerror(errno));
		return -1;
	}
	if (!S_ISREG(a.st_mode) && !S_ISBLK(a.st_mode)) {
		cli_fail(c, "%s: is neither a file nor a block device", over);
		return -1;
	}
	if (!stat(file, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino) {
		cli_fail(c, "%s is the parent itself", file);
		return -1;
	}
	(void)snprintf(dir, sizeof(dir), "%s", file);
	slash = strrchr(dir, '/');
	if (slash)
		slash[slash == dir] = '\0';
	j->parent_name = j->parent;
	parent_slash = strrchr(j->parent, '/');
	if (realpath(slash ? dir : ".", real_dir) &&
	    strlen(real_dir) == (size_t)(parent_slash - j->parent) &&
	    !strncmp(real_dir, j->parent, strlen(real_dir)))
		j->parent_name = parent_slash + 1;
	/* A colon would make qemu-img see a protocol. */
	if (strchr(j->parent_name, ':'))
		j->parent_name = j->parent;
	return 0;
}

/* An unnamed file beside FILE for the raw content. */
static int make_raw(struct cli *c, struct job *j)
{
	char name[PATH_MAX + 8];

	(void)snprintf(name, sizeof(name), "%s.XXXXXX", j->part.name);
	j->raw_fd = mkostemp(name, O_CLOEXEC);
	if (j->raw_fd < 0) {
		cli_fail(c, "%s: %s", name, strerror(errno));
		return -1;
	}
	(void)unlink(name);
	return 0;
}

static int write_image(
    struct cli *c, struct job *j, const struct firn_snapshot *s, bool qcow2)
{
	if (!qcow2)
		return write_raw(c, s, j->part.fd);
	if (make_raw(c, j) || write_raw(c, s, j->raw_fd))
		return -1;
	return *j->parent ? write_overlay(c, j) : write_qcow2(c, j);
}

static int export(struct cli *c, struct job *j, const struct args *a,
    const struct firn_snapshot *s)
{
	const char *file = a->words[1];
	bool qcow2 = !a->format || !strcmp(a->format, "qcow2");
	int ret = -1;

	if ((!a->over || !find_parent(c, j, a->over, file)) &&
	    !part_make(c, &j->part, file) && !write_image(c, j, s, qcow2))
		ret = part_finish(c, &j->part, file);
	part_end(&j->part);
	cleanup_close(&j->raw_fd);
	return ret;
}

static int say(struct cli *c, const struct args *a, uint64_t npages)
{
	struct stat st = {0};
	json_t *j;
	char buf[32];
	int ret = EX_OK;

	(void)stat(a->words[1], &st);
	if (c->json) {
		j = json_pack("{s:s, s:I, s:I}", "format",
		    a->format ? a->format : "qcow2", "pages",
		    (json_int_t)npages, "bytes", (json_int_t)st.st_size);
		/* JSON has no word for a name that is not UTF-8. */
		(void)json_object_set_new(j, "file", json_string(a->words[1]));
		ret = j ? out_json(j) : cli_fail(c, "out of memory");
		json_decref(j);
	} else {
		out_text(stdout, a->words[1]);
		(void)printf(
		    ": %s\n", fmt_size((uint64_t)st.st_size, buf, sizeof(buf)));
	}
	return ret;
}

int check_export(struct cli *c, const struct args *a)
{
	if (a->format && strcmp(a->format, "raw") != 0 &&
	    strcmp(a->format, "qcow2") != 0) {
		cli_fail(c, "--format %s: is not raw or qcow2", a->format);
		return EX_USAGE;
	}
	if (a->over && a->format && strcmp(a->format, "qcow2") != 0) {
		cli_fail(c, "--over needs --format qcow2");
		return EX_USAGE;
	}
	return EX_OK;
}

int verb_export(struct cli *c, const struct args *a)
{
	struct job j = {.part = PART_NONE, .raw_fd = -1};
	struct firn_snapshot *s;
	struct firn_error e;
	uint64_t npages;
	int ret;

	if (firn_open_snapshot(c->conn, a->words[0], &s, &e))
		return cli_fail(c, "%s", e.msg);
	npages = firn_snapshot_pages(s);
	ret = export(c, &j, a, s);
	firn_snapshot_close(s);
	return ret ? EX_FAIL : say(c, a, npages);
}
