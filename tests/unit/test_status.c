/* SPDX-License-Identifier: MIT */
/* The status codes of freestanding code are Linux errno values. */
#include "shared/status.h"

#include <errno.h>

#include "tests/unit/unit.h"

static void test_equal(void **state)
{
	(void)state;
	assert_int_equal(ST_PERM, EPERM);
	assert_int_equal(ST_NOENT, ENOENT);
	assert_int_equal(ST_EXIST, EEXIST);
	assert_int_equal(ST_INVAL, EINVAL);
	assert_int_equal(ST_NOSPC, ENOSPC);
	assert_int_equal(ST_RANGE, ERANGE);
	assert_int_equal(ST_PROTO, EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_equal)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
