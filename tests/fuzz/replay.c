/* SPDX-License-Identifier: MIT */
/*
 * replay [FILE|DIRECTORY]...: gives a fuzz target the files of its corpus, by
 * default those of tests/fuzz/corpus/NAME, and of each the same with every
 * 61st byte changed and cut at a few lengths. Having run none is a failure.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/fuzz/fuzz.h"

#define INPUT_MAX (1u << 20)

static unsigned ninputs;

static void run(const uint8_t *data, size_t len)
{
	(void)LLVMFuzzerTestOneInput(data, len);
	ninputs++;
}

static void run_variants(uint8_t *data, size_t len)
{
	run(data, len);
	for (size_t i = 0; i < len && i < 4096; i += 61) {
		uint8_t was = data[i];

		data[i] = (uint8_t)~was;
		run(data, len);
		data[i] = was;
	}
	for (size_t cut = len / 2; cut > 0; cut /= 2)
		run(data, cut);
}

static int run_file(const char *path)
{
	uint8_t *data = malloc(INPUT_MAX);
	FILE *f = fopen(path, "rb");
	size_t len;

	if (f == NULL || data == NULL) {
		perror(path);
		free(data);
		if (f != NULL)
			fclose(f);
		return 1;
	}
	len = fread(data, 1, INPUT_MAX, f);
	fclose(f);
	run_variants(data, len);
	free(data);
	return 0;
}

static int run_dir(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	char path[4096];
	int bad = 0;

	if (d == NULL) {
		perror(dir);
		return 1;
	}
	while ((e = readdir(d)) != NULL) {
		if (e->d_name[0] == '.')
			continue;
		(void)snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		bad |= run_file(path);
	}
	closedir(d);
	return bad;
}

static int run_path(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0) {
		perror(path);
		return 1;
	}
	return S_ISDIR(st.st_mode) ? run_dir(path) : run_file(path);
}

int main(int argc, char **argv)
{
	const char *name = strrchr(argv[0], '/');
	char path[4096];
	int bad = 0;

	for (int i = 1; i < argc; i++)
		bad |= run_path(argv[i]);
	if (argc == 1) {
		(void)snprintf(path, sizeof(path), "tests/fuzz/corpus/%s",
		    name != NULL ? name + 1 : argv[0]);
		bad = run_path(path);
	}
	printf("replay: %u inputs\n", ninputs);
	return bad != 0 || ninputs == 0;
}
