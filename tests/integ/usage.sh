#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The command line itself: help, wrong use, no daemon.
. "$(dirname "$0")/lib.sh"

works "help" "$FIRN" --help
is "help fits a terminal" "$("$FIRN" --help | grep -E '.{81}')" ""
works "version" "$FIRN" --version
for v in $("$FIRN" --help | sed -n '/^commands:/,/^$/s/^  \([a-z]*\) .*/\1/p'); do
	works "help of $v" "$FIRN" "$v" --help
	is "help of $v fits a terminal" "$("$FIRN" "$v" --help | grep -E '.{81}')" ""
	grep -q "^\.\(BI\|B\) $v\( \|$\)" docs/man/firn.1 ||
	    not_ok "firn.1 has $v" "it has not"
	for o in $("$FIRN" "$v" --help | sed -n 's/^  \(--[a-z-]*\).*/\1/p'); do
		grep -q -- "^\.\(BI\|B\) ${o//-/\\\\-}\( \|$\)" docs/man/firn.1 ||
		    not_ok "firn.1 has $o of $v" "it has not"
	done
done
for o in $("$BUILD/bin/firnd" --help | grep -o -- '--[a-z-]*'); do
	grep -q -- "^\.\(BI\|B\|BR\|RB\).* *${o//-/\\\\-}\( \|$\)" docs/man/firnd.1 ||
	    not_ok "firnd.1 has $o" "it has not"
done
ok "the manual pages were read"

like "take gives a name here" "$("$FIRN" take --help)" 'name N .* gets here'
like "give gives it there" "$("$FIRN" give --help)" 'name N .* gets there'

refused "no command" 2 "command is missing" "$FIRN"
refused "unknown command" 2 "unknown command: frob" "$FIRN" frob
refused "unknown option" 2 "unknown option: --frob" "$FIRN" ps --frob
refused "another command's option" 2 "unknown option: --cow" "$FIRN" ps --cow
refused "an option without its value" 2 "needs a value" "$FIRN" ps --socket
refused "a flag with a value" 2 "takes no value" "$FIRN" ps --json=1
refused "words missing" 2 "words are missing" "$FIRN" diff a
refused "a word too many" 2 "one word too many: b" "$FIRN" kill a b
for s in 0 x 4X 4KK -4 99999999999999999999 99999999T 1.5G ''; do
	refused "size '$s'" 2 "size" "$FIRN" run --mem "$s" "$GUESTS/hello"
	refused "segment of '$s'" 2 "size" "$FIRN" run --segment "a=$s" \
	    "$GUESTS/hello"
done
refused "segment without a size" 2 "NAME=VALUE" "$FIRN" run --segment a x
refused "segment without a name" 2 "NAME=VALUE" "$FIRN" run --segment =4K x

for v in ps "kill v" "pause v" "resume v" "wait v" "segments v" "freeze v" \
    "sever v:a" graph "heatmap v:a" "map v s" "unmap v:a" "track v:a" \
    "adopt v s" "give v s" "take v s" \
    snapshots stats "show s" "diff a b" "meld a b c" \
    "dirty v --cursor c" "read s 0 1" "import /dev/null" "export s $T/f"; do
	# shellcheck disable=SC2086
	refused "no daemon: $v" 1 "no daemon runs at .*firn daemon" "$FIRN" $v
done
refused "no daemon, detached" 1 "no daemon runs" "$FIRN" run --detach \
    "$GUESTS/hello"
refused "no daemon at a path that was given" 1 "no daemon runs at $T/none" \
    "$FIRN" --socket "$T/none" run "$GUESTS/hello"
touch "$T/file"
refused "a socket that is none" 1 "" "$FIRN" --socket "$T/file" ps

# firnd VALUE...: status 2, and the first line says what was wrong.
for o in "--socket=" --bank=0 --bank=x --bank=-1 --bank=9999999T --adopt=x \
    --adopt=-1 --die-with-fd=4K; do
	status=0
	timeout 5 "$BUILD/bin/firnd" "$o" 2>"$T/err" </dev/null || status=$?
	is "firnd $o" "$status $(head -1 "$T/err")" \
	    "2 firnd: ${o%%=*}: '${o#*=}' is no value for it"
done
