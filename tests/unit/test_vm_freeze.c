/* SPDX-License-Identifier: MIT */
/* firn-vmm as a broker sees it: freezes, views and dirty pages. */
#include "tests/unit/vm_fix.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/page/run.h"
#include "vmm/mem/gmem.h"

static int reopen(int fd)
{
	char path[64];
	int r;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(r >= 0);
	return r;
}

/* Freeze segment 0; its one step, and its descriptors. */
static void freeze_ram(
    struct vm *vm, struct wire_frozen *z, int *runs, int *layer)
{
	const struct wire_place p = {.id = 0};

	assert_int_equal(ask(vm, WIRE_FREEZE, &p, sizeof(p), NULL, 0), 0);
	assert_int_equal(vm->p.m.len, sizeof(*z));
	memcpy(z, vm->p.payload, sizeof(*z));
	assert_int_equal(z->nsteps, 1);
	assert_int_equal(vm->p.nfds, 1 + z->step[0].has_layer);
	*runs = wire_take_fd(&vm->p, 0);
	*layer = wire_take_fd(&vm->p, 1);
}

static void freeze_and_map(void **state)
{
	struct vm *vm = *state;
	struct wire_map m = {.npages = MEM / PAGE_SIZE, .name = "view"};
	struct wire_mapped w;
	struct wire_place p;
	struct wire_frozen z;
	struct stat st;
	int fds[2];
	int layer;

	start(vm, "guest/cat");
	echoes(vm);
	freeze_ram(vm, &z, &fds[0], &layer);
	assert_int_equal(z.npages, MEM / PAGE_SIZE);
	assert_int_equal(z.copied_pages, 0);
	assert_true(z.step[0].first);
	assert_int_equal(fcntl(layer, F_GET_SEALS),
	    F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	assert_int_equal(fstat(fds[0], &st), 0);
	assert_int_equal(st.st_size, z.step[0].nruns * sizeof(struct page_run));
	echoes(vm);
	fds[1] = reopen(layer);
	m.nruns = z.step[0].nruns;
	m.nlayers = 1;
	assert_int_equal(ask(vm, WIRE_MAP, &m, sizeof(m), fds, 2), 0);
	memcpy(&w, vm->p.payload, sizeof(w));
	assert_true(w.gpa >= GMEM_PLACES_GPA);
	assert_int_equal(ask(vm, WIRE_MAP, &m, sizeof(m), fds, 2), -EEXIST);
	memset(m.name, 0, sizeof(m.name));
	send_msg(vm, WIRE_LAYERS, NULL, 0, &fds[1], 1);
	assert_int_equal(ask(vm, WIRE_MAP, &m, sizeof(m), fds, 1), 0);
	assert_int_equal(ask(vm, WIRE_SEGMENTS, NULL, 0, NULL, 0), 0);
	assert_int_equal(vm->p.m.len, 4 * sizeof(struct wire_segment));
	p = (struct wire_place){.id = w.id};
	assert_int_equal(ask(vm, WIRE_FREEZE, &p, sizeof(p), NULL, 0), -EPERM);
	assert_int_equal(ask(vm, WIRE_UNMAP, &p, sizeof(p), NULL, 0), 0);
	assert_int_equal(ask(vm, WIRE_UNMAP, &p, sizeof(p), NULL, 0), -ENOENT);
	echoes(vm);
	(void)close(fds[0]);
	(void)close(fds[1]);
	(void)close(layer);
}

/* Two bitmaps of MEM, without a bit set. */
static void is_untouched(int fd)
{
	uint64_t *bits;
	size_t len;

	assert_int_equal(
	    wire_slurp(fd, MEM / PAGE_SIZE, (void **)&bits, &len), 0);
	assert_int_equal(len, 2 * MEM / PAGE_SIZE / 8);
	for (size_t i = 0; i < len / 8; i++)
		assert_int_equal(bits[i], 0);
	free(bits);
}

static void track_view(void **state)
{
	struct vm *vm = *state;
	struct wire_map m = {.npages = MEM / PAGE_SIZE,
	    .name = "view",
	    .mode = FIRN_MAP_COW | FIRN_MAP_TRACK};
	struct wire_place p = {.id = 0};
	struct wire_mapped w;
	struct wire_frozen z;
	int fds[2];
	int layer;

	start(vm, "guest/cat");
	freeze_ram(vm, &z, &fds[0], &layer);
	assert_int_equal(z.tracked, 0);
	assert_int_equal(ask(vm, WIRE_TOUCHED, &p, sizeof(p), NULL, 0), -EPERM);
	fds[1] = reopen(layer);
	m.nruns = z.step[0].nruns;
	m.nlayers = 1;
	assert_int_equal(ask(vm, WIRE_MAP, &m, sizeof(m), fds, 2), 0);
	memcpy(&w, vm->p.payload, sizeof(w));
	p.id = w.id;
	assert_int_equal(ask(vm, WIRE_TOUCHED, &p, sizeof(p), NULL, 0), 0);
	assert_int_equal(vm->p.nfds, 1);
	is_untouched(vm->p.fd[0]);
	assert_int_equal(ask(vm, WIRE_SEVER, &p, sizeof(p), NULL, 0), -EPERM);
	assert_int_equal(ask(vm, WIRE_FREEZE, &p, sizeof(p), NULL, 0), 0);
	memcpy(&z, vm->p.payload, sizeof(z));
	assert_int_equal(z.tracked, 1);
	assert_int_equal(z.nsteps, 0);
	assert_int_equal(vm->p.nfds, 1);
	is_untouched(vm->p.fd[0]);
	p.id = 99;
	assert_int_equal(
	    ask(vm, WIRE_TOUCHED, &p, sizeof(p), NULL, 0), -ENOENT);
	assert_int_equal(ask(vm, WIRE_TOUCHED, &p, 3, NULL, 0), -EPROTO);
	echoes(vm);
	(void)close(fds[0]);
	(void)close(fds[1]);
	(void)close(layer);
}

static void freeze_again(void **state)
{
	struct vm *vm = *state;
	struct wire_frozen z;
	int runs;
	int layer;

	start(vm, "guest/cat");
	for (int i = 0; i < 3; i++) {
		echoes(vm);
		freeze_ram(vm, &z, &runs, &layer);
		assert_int_equal(z.step[0].first, i == 0);
		if (i > 0)
			assert_in_range(z.copied_pages, 1, 1000);
		close_fd(&runs);
		close_fd(&layer);
	}
	echoes(vm);
}

static void dirty_pages(void **state)
{
	struct vm *vm = *state;
	struct wire_dirty d = {.id = 0, .cursor = "c"};
	struct wire_dirtied w;
	uint64_t *bits;
	size_t len;
	uint64_t n = 0;

	start(vm, "guest/cat");
	assert_int_equal(ask(vm, WIRE_DIRTY, &d, sizeof(d), NULL, 0), 0);
	echoes(vm);
	assert_int_equal(ask(vm, WIRE_DIRTY, &d, sizeof(d), NULL, 0), 0);
	assert_int_equal(vm->p.m.len, sizeof(w));
	memcpy(&w, vm->p.payload, sizeof(w));
	assert_int_equal(w.npages, MEM / PAGE_SIZE);
	assert_true(w.pages > 0);
	assert_int_equal(vm->p.nfds, 1);
	assert_int_equal(
	    wire_slurp(vm->p.fd[0], MEM / PAGE_SIZE, (void **)&bits, &len), 0);
	assert_int_equal(len, MEM / PAGE_SIZE / 8);
	for (size_t i = 0; i < len / 8; i++)
		n += (uint64_t)__builtin_popcountll(bits[i]);
	assert_int_equal(n, w.pages);
	free(bits);
}

/* What is dirty in the cursor "c" of segment 0. */
static uint64_t count_dirty(struct vm *vm)
{
	const struct wire_dirty d = {.cursor = "c"};
	struct wire_dirtied w;

	assert_int_equal(ask(vm, WIRE_DIRTY, &d, sizeof(d), NULL, 0), 0);
	memcpy(&w, vm->p.payload, sizeof(w));
	return w.pages;
}

/* An answer that cannot be sent is an error that is: nobody waits for ever, and
 * what it would have told comes with the next one. */
static void answers_that_cannot_be_sent(void **state)
{
	const struct wire_place p = {.id = 0};
	const struct wire_dirty d = {.cursor = "c"};
	struct vm *vm = *state;
	struct wire_frozen z;

	start(vm, "guest/cat");
	(void)count_dirty(vm);
	echoes(vm);
	refused->fds = true;
	assert_int_equal(
	    ask(vm, WIRE_DIRTY, &d, sizeof(d), NULL, 0), -ETOOMANYREFS);
	assert_int_equal(
	    ask(vm, WIRE_FREEZE, &p, sizeof(p), NULL, 0), -ETOOMANYREFS);
	refused->fds = false;
	refused->memfd = true;
	assert_int_equal(ask(vm, WIRE_DIRTY, &d, sizeof(d), NULL, 0), -EMFILE);
	refused->memfd = false;
	assert_true(count_dirty(vm) > 0);
	assert_int_equal(ask(vm, WIRE_FREEZE, &p, sizeof(p), NULL, 0), 0);
	memcpy(&z, vm->p.payload, sizeof(z));
	assert_in_range(z.nsteps, 1, 2);
	assert_true(z.step[0].first);
	echoes(vm);
}

/* --- memory that is lost -------------------------------------------------- */

/* Memory that a freeze took away and could not put back: the guest never sees
 * that, paused or not, and who runs it is told. */
static void lost_memory(void **state)
{
	struct vm *vm = *state;
	struct wire_place p = {.id = 0};
	char out[16];

	start(vm, "guest/cat");
	refused->mmap = true;
	assert_int_equal(
	    ask(vm, WIRE_FREEZE, &p, sizeof(p), NULL, 0), -ENOTRECOVERABLE);
	/* Nobody may be there to read it any more. */
	(void)!write(vm->in, "x", 1);
	ends_telling(vm, WIRE_EXIT_KILLED, 137,
	    "guest ended: ram: cannot freeze it: the kernel refused to map");
	assert_int_equal(read(vm->out, out, sizeof(out)), 0);
}

static void lost_while_paused(void **state)
{
	struct vm *vm = *state;

	start(vm, "guest/cat");
	assert_int_equal(ask(vm, WIRE_PAUSE, NULL, 0, NULL, 0), 0);
	refused->mmap = true;
	assert_int_equal(ask(vm, WIRE_SEVER, &(struct wire_place){.id = 1},
			     sizeof(struct wire_place), NULL, 0),
	    -ENOTRECOVERABLE);
	ends_telling(vm, WIRE_EXIT_KILLED, 137, "guest ended: data: ");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(freeze_and_map),
	    T(track_view),
	    T(freeze_again),
	    T(dirty_pages),
	    cmocka_unit_test_setup_teardown(
		lost_memory, setup_inside, teardown),
	    cmocka_unit_test_setup_teardown(
		lost_while_paused, setup_inside, teardown),
	    cmocka_unit_test_setup_teardown(
		answers_that_cannot_be_sent, setup_inside, teardown),
	};

	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
