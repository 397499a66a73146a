# SPDX-License-Identifier: MIT
# What the integration tests share; sourced, not run. A test prints a line
# `ok NAME` or `not ok NAME: WHY` for each case and ends with status 1 if one
# was not ok. From the environment: BUILD (out/release), FIRN, GUESTS.
# shellcheck shell=bash
set -u
BUILD=${BUILD:-out/release}
FIRN=${FIRN:-$BUILD/bin/firn}
GUESTS=${GUESTS:-$BUILD/guest}
SCALE=${FIRN_TEST_SCALE:-full}
T=$(mktemp -d)
cases=0
bad=0
daemon_pid=
unset FIRN_SOCKET
export XDG_RUNTIME_DIR=$T

ok() {
	cases=$((cases + 1))
	echo "ok $1"
}

not_ok() {
	cases=$((cases + 1))
	bad=1
	echo "not ok $1: ${2//$'\n'/ | }"
}

# is NAME GOT WANTED
is() {
	if [ "$2" = "$3" ]; then
		ok "$1"
	else
		not_ok "$1" "got '$2', wanted '$3'"
	fi
}

# like NAME TEXT PATTERN (an extended regular expression)
like() {
	if grep -Eq -- "$3" <<<"$2"; then
		ok "$1"
	else
		not_ok "$1" "'$2' does not match '$3'"
	fi
}

# works NAME COMMAND...: its status must be 0.
works() {
	local name=$1 out
	shift
	if out=$("$@" 2>&1 </dev/null); then
		ok "$name"
	else
		not_ok "$name" "status $?: $out"
	fi
}

# refused NAME STATUS PATTERN COMMAND...: one line on stderr, `firn: ...`, that
# matches, nothing on stdout, and that status.
refused() {
	local name=$1 want=$2 pattern=$3 status=0 out err
	shift 3
	out=$("$@" 2>"$T/err" </dev/null) || status=$?
	err=$(cat "$T/err")
	if [ "$status" -ne "$want" ]; then
		not_ok "$name" "status $status, wanted $want: $err"
	elif [ -n "$out" ]; then
		not_ok "$name" "printed: $out"
	elif [ "$(wc -l <"$T/err")" -ne 1 ]; then
		not_ok "$name" "not one line: $err"
	elif ! grep -Eq -- "^firn: .*($pattern)" "$T/err"; then
		not_ok "$name" "'$err' does not match '$pattern'"
	else
		ok "$name"
	fi
}

# until_true SECONDS COMMAND...: poll it.
until_true() {
	local end=$((SECONDS + $1))
	shift
	[ "$SCALE" != small ] || end=$((end + 60))
	until "$@" 2>/dev/null; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.05
	done
}

listens() {
	[ -S "$FIRN_SOCKET" ] && "$FIRN" ps >/dev/null 2>&1
}

start_daemon() {
	export FIRN_SOCKET=$T/sock
	"$FIRN" daemon "$@" 2>"$T/firnd.log" </dev/null &
	daemon_pid=$!
	until_true 10 listens || {
		not_ok "the daemon starts" "$(cat "$T/firnd.log")"
		exit 1
	}
}

alive() {
	[ -e "/proc/$1" ] && ! grep -q '^State:.*Z' "/proc/$1/status"
}
gone() {
	! alive "$1"
}

stop_daemon() {
	[ -n "$daemon_pid" ] || return 0
	kill "$daemon_pid" 2>/dev/null
	until_true 10 gone "$daemon_pid" || {
		not_ok "the daemon ends" "it runs on"
		kill -9 "$daemon_pid"
	}
	wait "$daemon_pid" 2>/dev/null
	daemon_pid=
}

state_of() {
	"$FIRN" ps --json |
	    jq -r --arg n "$1" '.vms[] | select(.name == $n) | .state'
}
pid_of() {
	"$FIRN" ps --json |
	    jq -r --arg n "$1" '.vms[] | select(.name == $n) | .pid'
}
is_state() {
	[ "$(state_of "$1")" = "$2" ]
}

# The pages of a JSON result's extents, one a line.
pages_in() {
	jq -r '.extents[] | "\(.[0]) \(.[1])"' |
	    awk '{ for (i = 0; i < $2; i++) print $1 + i }'
}

# stamper NAME PAGES: a detached stamp guest; each stamp_round makes it write.
stamper() {
	rm -f "$T/$1.in"
	mkfifo "$T/$1.in"
	exec 5<>"$T/$1.in"
	"$FIRN" run --detach --name "$1" --segment data=$(($2 * 4096)) \
	    "$GUESTS/stamp" data "$2" 42 <"$T/$1.in" >"$T/$1.out" \
	    2>"$T/$1.err" || return 1
	stamp_count=0
	until_true 10 grep -q '^segment' "$T/$1.out"
}

# The pages that the round wrote are in $T/round, sorted, once each.
stamp_round() {
	stamp_count=$((stamp_count + 1))
	echo >&5
	until_true 10 grep -q "^round $stamp_count:" "$T/$1.out" || return 1
	sed -n "s/^round $stamp_count: //p" "$T/$1.out" | tr ' ' '\n' |
	    sort -nu >"$T/round"
}

# toucher NAME [OPTION...]: a detached touch guest.
declare -A touch_in
toucher() {
	local name=$1 fd
	shift
	mkfifo "$T/$name.in"
	exec {fd}<>"$T/$name.in"
	touch_in[$name]=$fd
	"$FIRN" run --detach --name "$name" "$@" "$GUESTS/touch" \
	    <"$T/$name.in" >"$T/$name.out" 2>"$T/$name.err" &&
	    until_true 20 grep -q ready "$T/$name.out" && return
	not_ok "toucher $name starts" "$(cat "$T/$name.err")"
	exit 1
}

# say NAME WORDS...: a line to that toucher; its answer is in $said.
say() {
	local name=$1 n
	shift
	n=$(wc -l <"$T/$name.out")
	echo "$*" >&"${touch_in[$name]}"
	until_true 20 eval '[ "$(wc -l <"$T/$name.out")" -gt $n ]' ||
	    { not_ok "$name: $*" "no answer: $(cat "$T/$name.err")"; exit 1; }
	said=$(sed -n "$((n + 1))p" "$T/$name.out")
}

finish() {
	local status=$?
	stop_daemon
	rm -rf "$T"
	if [ "$cases" -eq 0 ]; then
		echo "not ok $(basename "$0"): no case ran"
		exit 1
	fi
	[ "$status" -ne 0 ] || status=$bad
	exit "$status"
}
trap finish EXIT
