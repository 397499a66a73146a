/* SPDX-License-Identifier: MIT */
/*
 * Every packet that a monitor may send, wrong in every way that does not depend
 * on what it says: its size, its status, its number, its descriptors, its time.
 * What follows is what the table says, and nobody else notices.
 */
#include "tests/unit/broker_world.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* --- answers -------------------------------------------------------------- */

struct shape {
	const char *what;
	int64_t status;
	uint32_t len; /* of 0xff */
	uint32_t nfds;
	bool honest_too; /* the true answer follows */
	int seq;         /* to be added */
	uint16_t type;   /* 0: as it was asked */
};

static const struct shape shapes[] = {
    {"nothing", 0, 0, 0, false, 0, 0},
    {"one byte", 0, 1, 0, false, 0, 0},
    {"some bytes", 0, 200, 1, false, 0, 0},
    {"all it can", 0, WIRE_PAYLOAD_MAX, WIRE_FDS_MAX, false, 0, 0},
    {"a great status", INT64_MAX, 3, 2, false, 0, 0},
    {"no errno", -4096, 3, 2, false, 0, 0},
    {"the least status", INT64_MIN, WIRE_PAYLOAD_MAX, 2, false, 0, 0},
    {"another's number", 0, 8, 2, true, 7, 0},
    {"of another type", 0, 8, 2, true, 0, WIRE_KILL},
};

#define NSHAPES (sizeof(shapes) / sizeof(shapes[0]))

static const struct shape *shape;
static uint16_t about; /* the requests that are answered so */
static uint32_t seq;   /* of the last of them */
static unsigned char junk[WIRE_PAYLOAD_MAX];
static int junk_fd;

static void say_junk(struct fake *f, uint16_t type, uint32_t s, int64_t status,
    uint32_t len, uint32_t nfds)
{
	int fds[WIRE_FDS_MAX];

	for (uint32_t i = 0; i < nfds; i++)
		fds[i] = junk_fd;
	say(f, type, s, status, junk, len, fds, nfds);
}

static bool answers_junk(struct fake *f)
{
	uint16_t type = shape->type != 0 ? shape->type : about;

	if (f->p.m.type != about)
		return false;
	seq = f->p.m.seq;
	say_junk(f, type | WIRE_REPLY, seq + (uint32_t)shape->seq,
	    shape->status, shape->len, shape->nfds);
	return !shape->honest_too;
}

struct question {
	uint16_t type;
	const char *method;
	const char *param, *value; /* besides the VM's name */
	/* What follows: of "nothing", and of junk with status 0. */
	bool takes_nothing, takes_junk;
};

static const struct question questions[] = {
    {WIRE_FREEZE, "segment.freeze", NULL, NULL, false, false},
    {WIRE_SEVER, "segment.sever", NULL, NULL, false, false},
    {WIRE_MAP, "view.map", "snapshot", "s", false, false},
    {WIRE_UNMAP, "view.unmap", "view", "t", true, true},
    {WIRE_PAUSE, "vm.pause", NULL, NULL, true, true},
    {WIRE_RESUME, "vm.resume", NULL, NULL, true, true},
    {WIRE_SEGMENTS, "vm.segments", NULL, NULL, true, false},
    {WIRE_SEGMENTS, "service.stats", "", NULL, true, true},
    {WIRE_DIRTY, "dirty.query", "cursor", "c", false, false},
    {WIRE_DIRTY_END, "dirty.end", "cursor", "c", true, true},
    {WIRE_STATS, "vm.list", "", NULL, true, true},
    {WIRE_TOUCHED, "track.query", "view", "t", false, false},
};

static json_t *params_of(const struct question *q)
{
	if (q->param != NULL && q->param[0] == '\0')
		return json_object();
	return json_pack("{s:s,s:s*}", "vm", "v",
	    q->param == NULL ? "name" : q->param, q->value);
}

/* Must the request succeed? */
static bool succeeds(const struct question *q)
{
	if (shape->honest_too)
		return true;
	if (shape->status < 0) /* lists tell what they know */
		return strcmp(q->method, "service.stats") == 0 ||
		       q->type == WIRE_STATS;
	return shape->len == 0 ? q->takes_nothing : q->takes_junk;
}

static void try_answer(
    struct world *x, struct fake *g, const struct question *q)
{
	struct fake *f = launch_vm(x, 0, "v");
	json_t *m;

	about = 0;
	f->answers = answers_junk;
	if (q->type == WIRE_UNMAP || q->type == WIRE_TOUCHED)
		must_do(x, "view.map",
		    json_pack("{s:s,s:s,s:s,s:b,s:b}", "vm", "v", "snapshot",
			"s", "name", "t", "cow", 1, "track",
			q->type == WIRE_TOUCHED));
	if (q->type == WIRE_DIRTY_END)
		must_do(x, "dirty.query", params_of(q));
	about = q->type;
	seq = 0;
	m = call(x, q->method, params_of(q));
	assert_non_null(m);
	if (good(m) != succeeds(q))
		fail_msg("%s, answered %s: %s", q->method, shape->what,
		    good(m) ? "succeeded" : why(m));
	json_decref(m);
	assert_true(seq != 0);
	/* Once more, when nobody waits. */
	if (f->sock >= 0)
		say_junk(f, about | WIRE_REPLY, seq, -EXDEV, 100, 5);
	about = 0;
	others_live(x, g);
	json_decref(call(x, "vm.kill", json_pack("{s:s}", "vm", "v")));
	must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
	/* And when it has ended. */
	if (f->sock >= 0)
		say_junk(f, q->type | WIRE_REPLY, seq, 0, 100, 5);
	assert_int_equal(f->nkills, 1);
}

static void answers(void **state)
{
	struct world *x = *state;
	struct fake *g = launch_vm(x, 1, "bystander");
	uint32_t fds = 0;

	guest_writes(g, 0, 1, 4);
	must_do(x, "segment.freeze", freeze_params(g, "s"));
	others_live(x, g);
	for (size_t i = 0; i < sizeof(questions) / sizeof(questions[0]); i++)
		for (size_t k = 0; k < NSHAPES; k++) {
			shape = &shapes[k];
			try_answer(x, g, &questions[i]);
			if (fds == 0)
				fds = settled_fds(x, UINT32_MAX);
			assert_in_range(
			    settled_fds(x, fds + 1), fds - 1, fds + 1);
		}
	end_vm(x, g);
	nothing_left(x);
}

/* --- what a monitor says by itself ---------------------------------------- */

static uint32_t size_of(uint16_t type)
{
	static const uint32_t size[] = {
	    [WIRE_READY] = sizeof(struct wire_ready),
	    [WIRE_EXITED] = sizeof(struct wire_exited),
	    [WIRE_SEG_MADE] = sizeof(struct wire_segment),
	    [WIRE_SEG_GONE] = sizeof(struct wire_place),
	    [WIRE_G_FREEZE] = sizeof(struct wire_gfreeze),
	    [WIRE_G_SEVER] = sizeof(struct wire_gfreeze),
	    [WIRE_G_MAP] = sizeof(struct wire_gmap),
	    [WIRE_G_LOOKUP] = FIRN_NAME_MAX,
	    [WIRE_G_DESCRIBE] = sizeof(struct wire_gcap),
	    [WIRE_G_DIFF] = sizeof(struct wire_gdiff),
	    [WIRE_G_DERIVE] = sizeof(struct wire_gcap),
	    [WIRE_G_DROP] = sizeof(struct wire_gcap),
	    [WIRE_G_OPEN] = FIRN_NAME_MAX,
	    [WIRE_G_SEGMENT] = sizeof(struct wire_segment),
	    [WIRE_G_MELD] = sizeof(struct wire_gmeld),
	    [WIRE_G_ADOPT] = sizeof(struct wire_gmap),
	    [WIRE_G_CLOSED] = sizeof(struct wire_closed),
	};

	return type < sizeof(size) / sizeof(size[0]) ? size[type] : 0;
}

/* Only the broker says these, or nobody. */
static bool is_foreign(uint16_t type)
{
	return type < WIRE_READY || type == WIRE_RELAY || type >= WIRE_TYPE_END;
}

/* No answer is due to these. */
static bool is_event(uint16_t type)
{
	return type == WIRE_READY || type == WIRE_STARTED ||
	       type == WIRE_EXITED || type == WIRE_SEG_GONE ||
	       type == WIRE_G_CLOSED;
}

/* Junk of type (t), in every size: it is ended, or refused, or ignored. */
static void try_saying(struct world *x, struct fake *g, uint16_t t)
{
	uint32_t n = size_of(t);
	const uint32_t len[] = {0, 1, n - (n > 0), n, n + 1, WIRE_PAYLOAD_MAX};
	struct fake *f = NULL;

	for (size_t i = 0; i < sizeof(len) / sizeof(len[0]); i++) {
		uint32_t before;
		bool ends = is_foreign(t) || t == WIRE_SEG_MADE;

		if (f == NULL)
			f = launch_vm(x, 0, "v");
		before = f->nreplies;
		say_junk(f, t, 5, INT64_MIN, len[i], i % 2 ? WIRE_FDS_MAX : 1);
		if (ends) {
			must_do(x, "vm.wait", json_pack("{s:s}", "vm", "v"));
			assert_int_equal(f->nkills, 1);
			f = NULL;
			continue;
		}
		guest_writes(f, 1, 3, 8);
		must_do(x, "segment.freeze", freeze_params(f, "mine"));
		shows(x, "mine", f->truth);
		must_do(
		    x, "snapshot.drop", json_pack("{s:s}", "snapshot", "mine"));
		assert_int_equal(f->nreplies, before + !is_event(t));
		if (!is_event(t))
			assert_true(f->last_status < 0);
		assert_int_equal(f->nkills, 0);
	}
	if (f != NULL)
		end_vm(x, f);
	others_live(x, g);
}

static void sayings(void **state)
{
	struct world *x = *state;
	struct fake *g = launch_vm(x, 1, "bystander");
	uint32_t fds = 0;

	others_live(x, g);
	for (uint16_t t = 0; t <= WIRE_TYPE_END + 1; t++) {
		try_saying(x, g, t);
		if (fds == 0)
			fds = settled_fds(x, UINT32_MAX);
		assert_in_range(settled_fds(x, fds + 1), fds - 1, fds + 1);
	}
	try_saying(x, g, 0x7fff);
	end_vm(x, g);
	nothing_left(x);
}

/* --- figures -------------------------------------------------------------- */

static struct wire_segment told[WIRE_SEGMENTS_MAX];
static uint32_t ntold;

static bool tells_segments(struct fake *f)
{
	if (f->p.m.type != WIRE_SEGMENTS)
		return false;
	reply(f, 0, told, ntold * (uint32_t)sizeof(told[0]), NULL, 0);
	return true;
}

/* Places that it does not have, one often, and more memory than there is: what
 * is counted is no more than what can be. */
static void figures(void **state)
{
	struct world *x = *state;
	struct fake *f = launch_vm(x, 0, "v");
	json_t *r;

	f->answers = tells_segments;
	for (ntold = 0; ntold < WIRE_SEGMENTS_MAX; ntold++)
		told[ntold] = (struct wire_segment){.id = ntold % 3,
		    .size = UINT64_MAX,
		    .resident = INT64_MAX,
		    .private_ = UINT64_MAX};
	r = must(x, "vm.segments", json_pack("{s:s}", "vm", "v"));
	assert_int_equal(json_array_size(json_object_get(r, "segments")), 1);
	json_decref(r);
	assert_int_equal(stat_of(x, "private_bytes"), NPAGES * PAGE_SIZE);
	assert_int_equal(stat_of(x, "mapped_bytes"), 0);
	assert_int_equal(f->nkills, 0);
	end_vm(x, f);
	nothing_left(x);
}

static int begin(void **state)
{
	int rc = setup(state);

	memset(junk, 0xff, sizeof(junk));
	junk_fd = new_layer(1);
	return rc;
}

static int end(void **state)
{
	(void)close(junk_fd);
	return teardown(state);
}

#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(answers),
	    T(sayings),
	    T(figures),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
