/* SPDX-License-Identifier: MIT */
/*
 * import: a file becomes a sealed memfd, by qemu-img, and that a snapshot.
 *
 * The image is hostile: qemu-img looks at it first and says whether it refers
 * to other files, which would end up in the snapshot; then it converts in the
 * format found, straight into the memfd, watched for what it allocates. As the
 * image may change between the two, qemu-img is confined to it all the time.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "tools/cli/cli.h"
#include "tools/libfirn/firn_json.h"
#include "vmm/core/cleanup.h"
#include "vmm/core/seals.h"

#define IMPORT_MAX (1ull << 40) /* bytes of an image's virtual size */

#define TRUST_IT   "(if you trust the image, give --allow-backing)"

struct image {
	const char *shown; /* as the user named it */
	const char *path;  /* absolute */
	bool trusted;      /* may refer to other files */
	char format[32];
	uint64_t npages;
};

/* The name of another file that the image refers to, or NULL. */
static const char *other_file(const json_t *info, const char *self)
{
	const json_t *data =
	    json_object_get(json_object_get(info, "format-specific"), "data");
	const char *s = json_str(info, "backing-filename");
	json_t *x;
	size_t i;

	if (*s)
		return s;
	s = json_str(data, "data-file");
	if (*s)
		return s;
	json_array_foreach(json_object_get(data, "extents"), i, x)
	{
		s = json_str(x, "filename");
		if (*s && strcmp(s, self) != 0)
			return s;
	}
	return NULL;
}

/* qemu-img on the image, with (p) filled but for what is the same for all. */
static int qemu_img(
    struct cli *c, const struct image *im, struct proc *p, char **out)
{
	p->package = "qemu-utils";
	p->only = im->trusted ? NULL : im->path;
	p->denied = "refers to another file: refused " TRUST_IT;
	return proc_run(c, p, im->shown, out);
}

static json_t *image_info(struct cli *c, const struct image *im)
{
	const char *const argv[] = {
	    "qemu-img", "info", "-U", "--output=json", "--", im->path, NULL};
	struct proc p = {.argv = argv, .keep_fd = -1, .grow_fd = -1};
	AUTO_FREE char *out = NULL;
	json_t *info;

	if (qemu_img(c, im, &p, &out))
		return NULL;
	info = json_loads(out, 0, NULL);
	if (!json_is_object(info)) {
		cli_fail(c, "%s: qemu-img info printed no JSON", im->shown);
		json_decref(info);
		return NULL;
	}
	return info;
}

/* Find the format and size of an image that may be imported; 0 or -1. */
static int check_image(struct cli *c, struct image *im)
{
	json_t *info = image_info(c, im);
	const char *other;
	uint64_t size;
	int ret = -1;

	if (!info)
		return -1;
	other = other_file(info, im->path);
	size = json_u64(info, "virtual-size");
	if (other && !im->trusted)
		cli_fail(c, "%s: refers to another file, %s: refused " TRUST_IT,
		    im->shown, other);
	else if (size > IMPORT_MAX)
		cli_fail(c, "%s: is of %" PRIu64 " bytes, the limit is %llu",
		    im->shown, size, IMPORT_MAX);
	else if (!size)
		cli_fail(c, "%s: is empty", im->shown);
	else
		ret = 0;
	(void)snprintf(
	    im->format, sizeof(im->format), "%s", json_str(info, "format"));
	im->npages = (size + PAGE_SIZE - 1) >> PAGE_SHIFT;
	json_decref(info);
	return ret;
}

/*
 * qemu-img reads what a truncated image lacks as zeros, so let it look for
 * damage first, where the format can be looked at.
 */
static int check_damage(struct cli *c, const struct image *im)
{
	/* Leaked clusters do no harm; the format has no check. */
	static const int also_ok[] = {3, 63, 0};
	const char *const argv[] = {
	    "qemu-img", "check", "-U", "-f", im->format, "--", im->path, NULL};
	struct proc p = {
	    .argv = argv,
	    .keep_fd = -1,
	    .grow_fd = -1,
	    .also_ok = also_ok,
	};

	return strcmp(im->format, "raw") != 0 ? qemu_img(c, im, &p, NULL) : 0;
}

/* What the host can give without swapping; a bound for hostile images. */
static uint64_t memory_free(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	uint64_t kb = 0;
	char line[128];

	while (f && !kb && fgets(line, sizeof(line), f))
		if (!strncmp(line, "MemAvailable:", 13))
			kb = number_at(line + 13);
	if (f)
		(void)fclose(f);
	return kb * 1024;
}

static int convert(struct cli *c, const struct image *im, int fd)
{
	char to[64];
	const char *const argv[] = {"qemu-img", "convert", "-U", "-n",
	    "--target-is-zero", "-f", im->format, "-O", "raw", "--", im->path,
	    to, NULL};
	struct proc p = {.argv = argv,
	    .keep_fd = fd,
	    .grow_fd = fd,
	    .grow_max = memory_free() / 4 * 3};

	(void)snprintf(to, sizeof(to), "/proc/self/fd/%d", fd);
	return qemu_img(c, im, &p, NULL);
}

/* The image as a sealed memfd of *npages pages; -1. */
static int image_memfd(struct cli *c, const struct args *a, uint64_t *npages)
{
	AUTO_FREE char *path = realpath(a->words[0], NULL);
	AUTO_CLOSE int fd = -1;
	struct image im = {
	    .shown = a->words[0], .path = path, .trusted = a->allow_backing};
	struct stat st;

	if (!path || stat(path, &st) || access(path, R_OK)) {
		cli_fail(c, "%s: %s", im.shown, strerror(errno));
		return -1;
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		cli_fail(
		    c, "%s: is neither a file nor a block device", im.shown);
		return -1;
	}
	if (check_image(c, &im) || check_damage(c, &im))
		return -1;
	*npages = im.npages;
	fd = memfd_create("firn-import", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || ftruncate(fd, (off_t)(*npages << PAGE_SHIFT))) {
		cli_fail(c, "cannot make a memfd: %s", strerror(errno));
		return -1;
	}
	if (convert(c, &im, fd))
		return -1;
	/* qemu-img may have cut the file to the image's own size. */
	if (ftruncate(fd, (off_t)(*npages << PAGE_SHIFT)) ||
	    fcntl(fd, F_ADD_SEALS, SEALS_FROZEN)) {
		cli_fail(c, "cannot seal the memfd: %s", strerror(errno));
		return -1;
	}
	return take_fd(&fd);
}

static void print(const json_t *r)
{
	static const struct col cols[] = {
	    {"snapshot", "snapshot", COL_TEXT},
	    {"pages", "pages", COL_UINT},
	};

	out_record(r, cols, sizeof(cols) / sizeof(cols[0]));
}

int verb_import(struct cli *c, const struct args *a)
{
	uint64_t npages;
	AUTO_CLOSE int fd = image_memfd(c, a, &npages);
	struct cli_fds fds = {.send = &fd, .nsend = 1};

	if (fd < 0)
		return EX_FAIL;
	return cli_show(c,
	    cli_call_fds(c, "snapshot.import",
		firn_json_with_str(
		    json_pack("{s:I}", "pages", (json_int_t)npages), "name",
		    a->name),
		&fds),
	    print);
}
