# SPDX-License-Identifier: MIT
# One make, no recursion. BUILD selects flags and an output tree; sources are
# found by where they stand, so that adding a file needs no change here.
BUILD   ?= release
O       := out/$(BUILD)
PREFIX  ?= /usr/local
DESTDIR ?=
MAKEFLAGS += -rR --no-print-directory
# V=1 shows the commands.
V ?=
Q := $(if $V,,@)
.DELETE_ON_ERROR:
.SECONDARY:

ifeq ($(origin CC),default)
CC := gcc
endif
CC  ?= gcc
AR  := ar

warn := -Wall -Wextra -Wshadow -Wpointer-arith -Wcast-qual -Wstrict-prototypes \
	-Wmissing-prototypes -Wold-style-definition -Wwrite-strings -Wundef \
	-Wformat=2 -Wvla -Wimplicit-fallthrough -Werror
cppflags := -I. -D_GNU_SOURCE
host_cflags := -std=gnu11 -g -fno-strict-aliasing -fstack-protector-strong \
	-fvisibility=hidden -pthread $(warn)

flags_debug   := -Og
flags_release := -O2 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
flags_asan    := -O1 -fsanitize=address,undefined -fno-sanitize-recover=all \
	-fno-omit-frame-pointer
flags_tsan    := -O1 -fsanitize=thread
flags_fuzz    := -O1 -fsanitize=fuzzer-no-link,address,undefined \
	-fno-sanitize-recover=all
$(if $(flags_$(BUILD)),,$(error BUILD=$(BUILD) is not one of debug release asan tsan fuzz))
host_cflags += $(flags_$(BUILD)) $(EXTRA_CFLAGS)
ldflags := -pthread $(filter -fsanitize=address% -fsanitize=thread,$(flags_$(BUILD))) \
	$(if $(filter fuzz,$(BUILD)),-fsanitize=address$(comma)undefined)
comma := ,

shared_src := $(wildcard shared/*/*.c)
vmm_src    := $(wildcard vmm/*/*.c)
lib_src    := $(wildcard tools/libfirn/*.c)
cli_src    := $(wildcard tools/cli/*.c)
libs       := -ljansson -lseccomp

programs := firn firnd firn-vmm
unit_tests  := $(patsubst tests/unit/%.c,%,$(wildcard tests/unit/test_*.c))
model_tests := $(patsubst tests/model/%.c,%,$(wildcard tests/model/test_*.c))
benches     := $(patsubst tests/bench/%.c,%,$(wildcard tests/bench/bench_*.c))
curves      := $O/bench/curves_map $O/bench/curves_service \
	$(patsubst %,$O/bench/curves_nodes_%,1 2 3 4)
fuzzers     := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
guests      := $(patsubst guest/work/%.c,%,$(wildcard guest/work/*.c))
# Guests that are built against musl as well: those that say so.
musl_guests := $(patsubst guest/work/%.c,%.musl,$(shell grep -l '^/\* musl: yes' guest/work/*.c 2>/dev/null))

.PHONY: all programs guests benches check check-unit check-integ check-npt \
	check-sanitize demo lint bench curves install clean bootstrap
all: bootstrap programs guests
programs: $(programs:%=$O/bin/%) $O/libfirn.a $O/libfirn.so
guests: $(guests:%=$O/guest/%) $(musl_guests:%=$O/guest/%)
benches: $(benches:%=$O/bench/%) $(curves)

bootstrap:
	@tools/bootstrap

# Rebuild when the flags change, not only when the files do.
$O/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(cppflags) $(host_cflags)' | cmp -s - $@ || \
	    echo '$(CC) $(cppflags) $(host_cflags)' > $@
.PHONY: FORCE
FORCE:

dep = -MMD -MP
$O/host/%.o: %.c $O/flags | bootstrap
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$Q$(CC) $(cppflags) $(host_cflags) $(dep) -c $< -o $@
$O/pic/%.o: %.c $O/flags | bootstrap
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$Q$(CC) $(cppflags) $(host_cflags) -fPIC $(dep) -c $< -o $@
# The guest kernel is machine code that the monitor carries as data.
$O/host/%.o: %.S $O/flags | bootstrap
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$Q$(CC) $(cppflags) $(dep) -c $< -o $@

kernel_obj := $(patsubst %.S,$O/host/%.o,$(wildcard guest/kernel/*.S))

$O/libvmm.a: $(vmm_src:%.c=$O/host/%.o) $(shared_src:%.c=$O/host/%.o) $(kernel_obj)
	@rm -f $@
	@echo "  AR   $@"
	$Q$(AR) rcs $@ $^
$O/libfirn.a: $(lib_src:%.c=$O/host/%.o)
	@rm -f $@
	@echo "  AR   $@"
	$Q$(AR) rcs $@ $^
$O/libfirn.so: $(lib_src:%.c=$O/pic/%.o)
	@echo "  LD   $@"
	$Q$(CC) $(ldflags) -shared -Wl,-soname,libfirn.so.0 $^ -ljansson -o $@

$O/bin/firn: $O/host/tools/firn.o $(cli_src:%.c=$O/host/%.o) $O/libfirn.a $O/libvmm.a
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$Q$(CC) $(ldflags) $^ $(libs) -ldl -o $@
$O/bin/firnd: $O/host/vmm/firnd.o $O/libvmm.a
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$Q$(CC) $(ldflags) $^ $(libs) -o $@
$O/bin/firn-vmm: $O/host/vmm/firn_vmm.o $O/libvmm.a
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$Q$(CC) $(ldflags) $^ $(libs) -o $@

# --- guests: ordinary static Linux programs, one file each -------------------
guest_cflags := -std=gnu11 -g -O2 -I. -D_GNU_SOURCE $(warn)
guest_lib_src := $(wildcard guest/lib/*.c)
$O/guestobj/%.o: %.c | bootstrap
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$Qgcc $(guest_cflags) $(dep) -c $< -o $@
$O/muslobj/%.o: %.c | bootstrap
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$Qmusl-gcc $(guest_cflags) $(dep) -c $< -o $@
$O/guest/libfirn-guest.a: $(guest_lib_src:%.c=$O/guestobj/%.o)
	@mkdir -p $(@D)
	@rm -f $@
	@echo "  AR   $@"
	$Q$(AR) rcs $@ $^
$O/guest/libfirn-guest-musl.a: $(guest_lib_src:%.c=$O/muslobj/%.o)
	@mkdir -p $(@D)
	@rm -f $@
	@echo "  AR   $@"
	$Q$(AR) rcs $@ $^
# A guest names extra libraries in a "link:" line of its own source.
glink = $(shell sed -n 's|^/\* link: \(.*\) \*/$$|\1|p' guest/work/$*.c)
$O/guest/%.musl: $O/muslobj/guest/work/%.o $O/guest/libfirn-guest-musl.a
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$Qmusl-gcc -static $^ -o $@
$O/guest/%: $O/guestobj/guest/work/%.o $O/guest/libfirn-guest.a
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$Qgcc -static $^ $(glink) -o $@

# Victims and attackers that tests/attack runs on the host.
attackers := $(patsubst tests/attack/%.c,%,$(wildcard tests/attack/*.c))
guests: $(attackers:%=$O/guest/attack_%)
$O/guest/attack_%: tests/attack/%.c | bootstrap
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$Qgcc $(guest_cflags) -static -pthread $< -o $@

# --- tests ---------------------------------------------------------------------
# A test names the symbols it replaces in a "wrap:" line, of its own source or of
# one that it shares.
wraps = $(addprefix -Wl$(comma)--wrap=,$(shell sed -n 's|^/\* wrap: \(.*\) \*/$$|\1|p' $(filter tests/%.c,$(patsubst $O/host/%.o,%.c,$^))))
$O/tests/%: $O/host/tests/unit/%.o $O/libfirn.a $O/libvmm.a
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$Q$(CC) $(ldflags) $(filter %.o,$^) $(filter %.a,$^) $(wraps) $(libs) -lcmocka -o $@
# What the tests of one thing share: test_broker*.c are linked with broker_*.c.
sharers := broker ctl libfirn place vm
unit_objs = $(patsubst %.c,$O/host/%.o,$(wildcard tests/unit/$1))
$(foreach s,$(sharers),$(eval $(patsubst %,$O/tests/%,$(filter test_$s%,$(unit_tests))): $(call unit_objs,$s_*.c)))
$O/tests/test_broker_storm: $(call unit_objs,storm_*.c)
# What the programs of a group share: the sources beside them that are no tests.
shared = $(patsubst %.c,$O/host/%.o,$(filter-out tests/$1/test_%,$(wildcard tests/$1/*.c)))
$O/libmodel.a: $(call shared,model)
	@rm -f $@
	@echo "  AR   $@"
	$Q$(AR) rcs $@ $^
$O/model/%: $O/host/tests/model/%.o $O/libmodel.a $O/libfirn.a $O/libvmm.a
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$Q$(CC) $(ldflags) $^ $(wraps) $(libs) -lcmocka -o $@
# Curves: what plot.py draws. Page maps are compiled anew for each fan-out.
$O/bench/curves_%: $O/host/tests/bench/curves/curves_%.o $O/libfirn.a $O/libvmm.a
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$Q$(CC) $(ldflags) $^ $(libs) -o $@
$O/bench/curves_nodes_%: tests/bench/curves/curves_nodes.c $(wildcard vmm/map/*.c) shared/page/run.c $O/flags
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$Q$(CC) $(cppflags) $(host_cflags) $(ldflags) -DMAP_FANOUT_SHIFT=$* $(filter %.c,$^) -o $@
$O/bench/%: $O/host/tests/bench/%.o $O/libfirn.a $O/libvmm.a
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$Q$(CC) $(ldflags) $^ $(libs) -o $@
# Without libFuzzer a target replays its corpus: tests/fuzz/replay.c has main().
$O/fuzz/%: $O/host/tests/fuzz/%.o $O/host/tests/fuzz/replay.o $O/libvmm.a
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$Q$(CC) $(ldflags) $^ $(libs) -o $@
out/fuzz/fuzzer/%: out/fuzz/host/tests/fuzz/%.o out/fuzz/libvmm.a
	@mkdir -p $(@D)
	@echo "  LD   $@"
	$Q$(CC) -fsanitize=fuzzer,address,undefined $^ $(libs) -o $@

test_bins := $(unit_tests:%=$O/tests/%) $(model_tests:%=$O/model/%) \
	$(fuzzers:%=$O/fuzz/%)
.PHONY: test-bins
test-bins: $(test_bins)

check: all test-bins
	tests/run --build $O unit model fuzz integ attack sanitize
check-unit: all test-bins
	tests/run --build $O unit model fuzz
check-integ: all
	tests/run --build $O integ attack
check-npt: all test-bins
	images/npt/run-tests --build $O
demo: all
	$O/bin/firn demo
bench: all benches
	tests/bench/run --build $O
# Measures for some minutes and writes docs/curves and docs/FIGURES.md anew.
curves: all $(curves)
	tests/bench/curves/plot.py $O

# --- lint ------------------------------------------------------------------------
hdrs := $(wildcard shared/*.h shared/*/*.h vmm/*/*.h tools/*/*.h guest/lib/*.h)
$O/hdr/%.ok: %
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$Q$(CC) $(cppflags) -std=gnu11 $(warn) -fsyntax-only -x c $<
	@touch $@
# One file a run: clang-tidy 14 carries va_list state from file to file.
$O/tidy/%.ok: % .clang-tidy
	@mkdir -p $(@D)
	@echo "  TIDY $@"
	$Qclang-tidy --quiet $< -- $(cppflags) -std=gnu11
	@touch $@
lint: $(hdrs:%=$O/hdr/%.ok) \
      $(patsubst %,$O/tidy/%.ok,$(shared_src) $(vmm_src) $(lib_src) $(cli_src)) all
	tests/lint/layers.sh
	tests/lint/globals.sh $O/libvmm.a $O/libfirn.a
	tests/lint/process.sh
	tests/lint/install.sh
	clang-format --dry-run -Werror $(shell git ls-files '*.c' '*.h')
	cppcheck --quiet --error-exitcode=1 --enable=warning,portability \
	    --inline-suppr --suppress=missingIncludeSystem -I. --std=c11 shared vmm tools

version = $(shell sed -n 's/.*FIRN_VERSION "\(.*\)"/\1/p' shared/version.h)
install: programs guests
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/firn \
	    $(DESTDIR)$(PREFIX)/include/firn $(DESTDIR)$(PREFIX)/lib/pkgconfig \
	    $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/firn/guests
	install -m 755 $O/bin/firn $(DESTDIR)$(PREFIX)/bin/
	install -m 755 $O/bin/firnd $O/bin/firn-vmm $(DESTDIR)$(PREFIX)/libexec/firn/
	install -m 644 tools/libfirn/firn.h $(DESTDIR)$(PREFIX)/include/firn/
	install -m 644 guest/lib/firn_guest.h shared/abi/guestcall.h $(DESTDIR)$(PREFIX)/include/firn/
	install -m 644 $O/libfirn.a $O/guest/libfirn-guest.a $(DESTDIR)$(PREFIX)/lib/
	install -m 755 $O/libfirn.so $(DESTDIR)$(PREFIX)/lib/libfirn.so.0
	ln -sf libfirn.so.0 $(DESTDIR)$(PREFIX)/lib/libfirn.so
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(version)|' tools/libfirn/firn.pc.in > \
	    $(DESTDIR)$(PREFIX)/lib/pkgconfig/firn.pc
	install -m 644 docs/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 755 $(wildcard $O/guest/db_*) $O/guest/book_seats $(DESTDIR)$(PREFIX)/share/firn/guests/

clean:
	rm -rf out
-include $(shell find out -name '*.d' 2>/dev/null)
