#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Programs run as guests: output, input, arguments, status.
. "$(dirname "$0")/lib.sh"

guests() {
	local how=$1 out

	out=$("$FIRN" run "$GUESTS/hello" 2>"$T/err")
	is "$how: hello's status" $? 0
	like "$how: hello prints" "$out" '[Hh]ello'
	is "$how: nothing on stderr" "$(cat "$T/err")" ""
	out=$("$FIRN" run "$GUESTS/args" one 'two  three' --json -- -x \
	    2>"$T/err" </dev/null)
	is "$how: the program's own arguments" \
	    "$(grep -c '^argv\[[1-5]\]' <<<"$out")" 5
	like "$how: a word stays whole" "$out" '^argv\[2\]=two  three$'
	like "$how: options after the program are its own" "$out" \
	    '^argv\[3\]=--json$'
	is "$how: no environment leaks in" "$(grep -c '^env ' <<<"$out")" 0
	like "$how: stderr is its own" "$(cat "$T/err")" '^args: 6$'
	"$FIRN" run --env STATUS=42 "$GUESTS/args" >/dev/null 2>&1 </dev/null
	is "$how: the exit status" $? 42
	head -c 300000 /dev/urandom >"$T/in"
	"$FIRN" run "$GUESTS/cat" <"$T/in" >"$T/out"
	is "$how: cat's status" $? 0
	works "$how: stdin to stdout" cmp "$T/in" "$T/out"
	is "$how: a pipe" "$(printf 'a\nb\n' | "$FIRN" run "$GUESTS/cat" |
	    tail -n 1)" b
	works "$how: two buffers, a file" cmp "$T/in" \
	    <("$FIRN" run "$GUESTS/cat" 2 <"$T/in")
	mkfifo "$T/$how"
	"$FIRN" run "$GUESTS/cat" 2 <"$T/$how" >"$T/out" &
	exec 6>"$T/$how"
	printf four >&6
	works "$how: the first full, no wait for the second" \
	    until_true 10 grep -q four "$T/out"
	exec 6>&-
	wait $!
	out=$("$FIRN" run --json --env STATUS=3 "$GUESTS/args" 2>/dev/null \
	    </dev/null | tail -n 1)
	is "$how: --json has the status" "$(jq .status <<<"$out")" 3
}

for g in hello args alloc clock avx enosys halves; do
	for v in "" .musl; do
		[ -x "$GUESTS/$g$v" ] || continue
		works "$g$v" "$FIRN" run "$GUESTS/$g$v"
	done
done
for v in "" .musl; do
	timeout 60 "$FIRN" run "$GUESTS/polls$v" <"$0" >"$T/out" 2>&1
	is "polls$v" "$? $(cat "$T/out")" "0 "
done
# Memory that is used up is refused; nobody is ended for it.
for v in "" .musl; do
	for size in 10000 1000000 3200000 9000000; do
		out=$(timeout 60 "$FIRN" run --mem 32M "$GUESTS/fill$v" $size \
		    2>&1 </dev/null)
		is "fill$v $size" "$? $out" "0 fill: full"
	done
done
# nobody_reads STATUS PROGRAM ARG...: the status of what writes to a pipe then.
nobody_reads() {
	local want=$1
	shift
	timeout 60 "$FIRN" run "$@" 2>"$T/err" </dev/null | true
	is "nobody reads: ${*##*/}" "${PIPESTATUS[0]} $(cat "$T/err")" "$want "
}
for v in "" .musl; do
	nobody_reads 141 "$GUESTS/pipes$v"
	nobody_reads 141 "$GUESTS/pipes$v" back
	for how in ignore catch block; do
		nobody_reads 32 "$GUESTS/pipes$v" $how
	done
done
guests private
start_daemon
guests daemon
for f in a b; do
	head -c 8192 /dev/urandom >"$T/$f"
	"$FIRN" import "$T/$f" --name $f >/dev/null || not_ok "import $f" "no"
done
for v in "" .musl; do
	timeout 60 "$FIRN" run --give a=a --give b=b "$GUESTS/asks$v" a b \
	    <"$0" >"$T/out" 2>&1
	is "asks$v" "$? $(cat "$T/out")" "0 "
done
is "no VM is left" "$("$FIRN" ps --json |
    jq '[.vms[] | select(.state != "exited")] | length')" 0
