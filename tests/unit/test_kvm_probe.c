/* SPDX-License-Identifier: MIT */
/* wrap: ioctl */
/*
 * What `firn doctor` calls needed is what monitors refuse to go without, of
 * every capability that KVM may lack.
 */
#include "tests/unit/unit.h"

#include <linux/kvm.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/kvm/kvm_probe.h"
#include "vmm/kvm/kvm_sys.h"

#define CAPS_MAX 300 /* there are some 240 */

static int absent; /* the capability that this KVM lacks; 0: none */

int __real_ioctl(int fd, unsigned long request, unsigned long arg);
int __wrap_ioctl(int fd, unsigned long request, ...);

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	unsigned long arg;
	va_list ap;

	va_start(ap, request);
	arg = va_arg(ap, unsigned long);
	va_end(ap);
	if (request == KVM_CHECK_EXTENSION && (int)arg == absent)
		return 0;
	/* What a probe makes is closed again; nothing is asked of it. */
	if (request == KVM_CREATE_VM || request == KVM_CREATE_VCPU)
		return dup(STDERR_FILENO);
	return __real_ioctl(fd, request, arg);
}

static bool monitor_works(int kvm_fd)
{
	struct kvm_sys_caps caps;
	const char *missing;

	if (kvm_sys_check(kvm_fd, &caps, &missing) != 0)
		return false;
	kvm_sys_caps_free(&caps);
	return true;
}

static bool doctor_agrees(void)
{
	struct kvm_probe p;
	struct err e = {0};

	if (kvm_probe(&p, &e) != 0)
		fail_msg("%s", e.msg);
	for (size_t i = 0; i < p.ncaps; i++)
		if (p.caps[i].needed && p.caps[i].value == 0)
			return false;
	return true;
}

static void same_needs(void **state)
{
	int kvm_fd = kvm_sys_open();
	int lacking = 0;

	(void)state;
	assert_true(kvm_fd >= 0);
	for (absent = 0; absent < CAPS_MAX; absent++) {
		bool works = monitor_works(kvm_fd);

		if (doctor_agrees() != works)
			fail_msg("without capability %d a monitor %s", absent,
			    works ? "works" : "does not work");
		lacking += !works;
	}
	absent = 0;
	assert_true(monitor_works(kvm_fd));
	assert_true(lacking > 0);
	(void)close(kvm_fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(same_needs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
