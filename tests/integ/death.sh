#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# SIGKILL and signals to monitor, daemon and client leave no process.
. "$(dirname "$0")/lib.sh"

children() { pgrep -P "$1" | tr '\n' ' '; }
no_child() { [ -z "$(children "$1")" ]; }
has_child() { [ -n "$(children "$1")" ]; }
all_gone() {
	local p
	for p in "$@"; do
		alive "$p" && return 1
	done
	return 0
}
# attached NAME: a guest that waits for its input, attached to $client.
attached() {
	rm -f "$T/$1.in"
	mkfifo "$T/$1.in"
	exec 6<>"$T/$1.in"
	"$FIRN" run ${2:+--name "$2"} "$GUESTS/cat" <"$T/$1.in" >"$T/$1.out" \
	    2>"$T/$1.err" &
	client=$!
	echo up >&6
	until_true 10 grep -q up "$T/$1.out"
}

# --- private daemon ------------------------------------------------------------
for sig in INT TERM KILL; do
	attached "p$sig" || not_ok "private, $sig: starts" "$(cat "$T/p$sig.err")"
	firnd=$(children $client)
	# shellcheck disable=SC2046
	vmm=$(children $firnd)
	kill -$sig $client
	wait $client 2>/dev/null
	case $sig in
	INT) is "private, INT: status" $? 130 ;;
	TERM) is "private, TERM: status" $? 143 ;;
	KILL) is "private, KILL: status" $? 137 ;;
	esac
	[ -n "$vmm" ] || not_ok "private, $sig: a monitor ran" "none"
	# shellcheck disable=SC2086
	works "private, $sig: nothing is left" until_true 10 all_gone $firnd $vmm
done

# --- daemon -----------------------------------------------------------------------
start_daemon
for sig in INT TERM KILL; do
	attached "d$sig" "d$sig" ||
	    not_ok "daemon, $sig: starts" "$(cat "$T/d$sig.err")"
	vmm=$(pid_of "d$sig")
	kill -$sig $client
	wait $client 2>/dev/null
	works "client $sig: its VM ends" until_true 10 gone "$vmm"
done
works "the daemon goes on" "$FIRN" run "$GUESTS/hello"

# A daemon that does not answer: who waits for it can be ended all the same.
head -c 8192 /dev/zero >"$T/image"
"$FIRN" import "$T/image" --name s0 >/dev/null
takes_signals() { # and is no shell any more
	[ "$(cat "/proc/$1/comm")" = firn ] &&
	    grep -q '^SigBlk:.*[1-9a-f]' "/proc/$1/status"
}
ended() {
	local name=$1
	shift
	"$FIRN" "$@" >"$T/ended.out" 2>&1 </dev/null &
	client=$!
	until_true 10 takes_signals $client
	kill -TERM $client
	if until_true 10 gone $client; then
		wait $client 2>/dev/null
		is "$name of a daemon that hangs: TERM" $? 143
	else
		not_ok "$name of a daemon that hangs: TERM" "it waits on"
		kill -9 $client
	fi
}
mkdir "$T/made"
kill -STOP $daemon_pid
ended run run "$GUESTS/hello"
ended export export s0 "$T/made/image"
ended graph graph
ended dirty dirty v:0 --cursor c --bitmap "$T/made/bitmap"
is "nothing is left of them" "$(ls -A "$T/made")" ""

# More clients than the socket keeps: the last ones wait to be connected.
sleeps() { # and is no shell any more
	[ "$(cat "/proc/$1/comm")" = firn ] &&
	    grep -q '^State:.*S' "/proc/$1/status"
}
crowd=()
for _ in $(seq 80); do
	"$FIRN" ps >/dev/null 2>&1 </dev/null &
	crowd+=($!)
done
for client in "${crowd[@]}"; do
	until_true 10 sleeps "$client"
done
for v in "run $GUESTS/hello" "export s0 $T/made/image" graph; do
	# shellcheck disable=SC2086
	"$FIRN" $v >/dev/null 2>&1 </dev/null &
	client=$!
	until_true 10 sleeps $client
	kill -TERM $client
	until_true 10 gone $client || kill -9 $client
	wait $client 2>/dev/null
	is "${v%% *} of a daemon that takes nobody: TERM" $? 143
done
is "nothing is left of these" "$(ls -A "$T/made")" ""
kill "${crowd[@]}"
wait "${crowd[@]}" 2>/dev/null
kill -CONT $daemon_pid

attached m m
vmm=$(pid_of m)
kill -9 "$vmm"
wait $client 2>/dev/null
is "monitor KILL: the client's status" $(($? != 0)) 1
like "monitor KILL: it says so" "$(cat "$T/m.err")" '^firn: '
works "monitor KILL: the VM is over" until_true 10 \
    bash -c "! '$FIRN' ps --json | jq -e '.vms[] | select(.name == \"m\"
    and .state == \"running\")' >/dev/null"
works "the daemon goes on again" "$FIRN" run "$GUESTS/hello"

stamper kept 256
vmm=$(pid_of kept)
kill -IO "$vmm" $daemon_pid
works "a lease that somebody breaks ends nobody" \
    "$FIRN" freeze kept:data --name s
kill -9 "$vmm"
works "its snapshot stays" "$FIRN" read s 0 16
until_true 10 gone "$vmm"

attached x x
stamper y 256
vmms="$(pid_of x) $(pid_of y)"
kill -9 $daemon_pid
wait $client 2>/dev/null
is "daemon KILL: the client's status" $? 1
like "daemon KILL: it says so" "$(cat "$T/x.err")" '^firn: run: '
# shellcheck disable=SC2086
works "daemon KILL: no monitor is left" until_true 10 all_gone $vmms
wait $daemon_pid 2>/dev/null
daemon_pid=
start_daemon
works "a new daemon takes the socket over" "$FIRN" run "$GUESTS/hello"
refused "a second one there does not" 1 "" bash -c \
    "'$FIRN' daemon 2>&1 >/dev/null | sed 's/^firnd:/firn: firnd:/' >&2; exit 1"
