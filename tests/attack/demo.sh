#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The demonstrations, whole: their own checks must hold, each figure and refusal
# is there, and nothing is left behind, also when a signal ends them.
. "$(dirname "$0")/../integ/lib.sh"

export TMPDIR=$T/tmp
mkdir "$TMPDIR"
nothing_left() { [ -z "$(ls "$TMPDIR")" ]; }

"$FIRN" demo publish >"$T/out" 2>"$T/err" </dev/null
is "publish" "$? $(cat "$T/err")" "0 "
for line in 'publisher: committed [1-9][0-9]* rows' \
    'freeze v1: [0-9]+ pages dirty, 0 copied' \
    'reader 3 of v1: [1-9][0-9]* rows, ' \
    '[0-9.]+ MB of memory of its own, the database has [0-9.]+ MB' \
    'freeze v2: ([0-9]+) pages dirty, \1 copied' \
    'diff v1 v2: [1-9][0-9]* pages' 'asked again, all 3 give the answers' \
    'export v2 over v1: ' 'compare finds it equal'; do
	like "publish says: $line" "$(cat "$T/out")" "$line"
done
works "publish leaves nothing" nothing_left

seq -f 'row %g,some text of a row' 20000 >"$T/rows.csv"
"$FIRN" demo publish "$T/rows.csv" --json >"$T/out" 2>"$T/err" </dev/null
is "publish of a CSV file" $? 0
is "publish of a CSV file: rows" "$(jq .rows "$T/out")" 20000
is "publish: nothing copied at first" "$(jq .v1.copied_pages "$T/out")" 0
is "publish: three readers with little memory of their own" "$(jq \
    '[.readers[] | select(.private_bytes < 8e6)] | length' "$T/out")" 3
is "publish: v2 over v1 is small" "$(jq \
    '.qcow2_v2_bytes < .qcow2_v1_bytes' "$T/out")" true
: >"$T/empty"
for f in "$T/empty" "$T" "$T/none"; do
	"$FIRN" demo publish "$f" >/dev/null 2>"$T/err" </dev/null
	is "publish of no text" "$? $(wc -l <"$T/err")" "1 1"
done
mkfifo "$T/fifo"
for f in /dev/zero "$T/fifo" "$T"; do
	timeout -k 1 60 "$FIRN" demo publish "$f" >/dev/null 2>"$T/err" </dev/null
	is "publish of no file" "$? $(cat "$T/err")" \
	    "1 firn: demo: $f: is not a regular file"
done
truncate -s 1T "$T/zeroes"
"$FIRN" demo publish "$T/zeroes" >"$T/out" 2>"$T/err" </dev/null &
demo=$!
reads() { grep -q 'rchar: [0-9]\{8\}' "/proc/$1/io"; }
until_true 30 reads $demo
kill -TERM $demo
until_true 30 gone $demo || kill -9 $demo
wait $demo
is "a signal ends the reading of a file without end" $? 143
rm "$T/zeroes"

start_daemon
# A demonstration neither stumbles over what its user has nor takes it away.
for n in v1 v2 evil plan sold; do
	"$FIRN" import "$T/rows.csv" --name $n >/dev/null
done
mine() { "$FIRN" snapshots --json | jq -r '[.snapshots[].name] | join(" ")'; }
works "publish beside snapshots of the same names" \
    "$FIRN" demo publish "$T/rows.csv"
is "publish leaves the user's snapshots, and none" "$(mine)" \
    "v1 v2 evil plan sold"
"$FIRN" demo attack >"$T/out" 2>"$T/err" </dev/null
is "attack" "$? $(cat "$T/err")" "0 "
for line in 'validated [1-9][0-9]+ times, fooled 0 times' \
    'ended with status 139: write to read-only view "[^"]*" of snapshot' \
    'forged capabilities: [0-9]+ tried in each call, none accepted' \
    'map without the right: Permission denied' \
    'map at the end of the address space: ' 'map over the RAM: File exists' \
    'second map at one address: File exists' \
    'fallocate on the layer.s descriptor: Bad file descriptor' \
    'the layer has [0-9]+ KiB as before' 'nobody was harmed'; do
	like "attack says: $line" "$(cat "$T/out")" "$line"
done
is "attack: nothing was let through" "$(grep -c THROUGH "$T/out")" 0
is "attack leaves the user's snapshots, and none" "$(mine)" \
    "v1 v2 evil plan sold"
is "attack leaves no guest" "$("$FIRN" ps --json | jq \
    '[.vms[] | select(.state != "exited")] | length')" 0

"$FIRN" demo meld >"$T/out" 2>"$T/err" </dev/null
is "meld" "$? $(cat "$T/err")" "0 "
for line in 'box office: made 4096 seats in 256 rows' \
    'agent 2: booked [1-9][0-9]* seats for 60 parties, .* [1-9][0-9]* written' \
    'meld plan a1 b1: no conflict, [1-9][0-9]* changed pages put together' \
    'in sold [0-9]+ taken: 1500 before, 540 by agent 1, 540 by agent 2; 0 sold' \
    'meld sold a2 b2: refused: they conflict' '^  write/write: row ' \
    '^  read/write: row ' 'agent 2 looks again' 'meld a2 a3 b3: no conflict' \
    'in all [0-9]+ taken: 1500 before, 592 by agent 1, 584 by agent 2; 0 sold'; do
	like "meld says: $line" "$(cat "$T/out")" "$line"
done
is "meld, as JSON: kinds of conflict" "$("$FIRN" demo meld --json 2>/dev/null |
    jq -c '[.meld.conflicts[] | .[2]]')" '["write/write","read/write"]'
is "meld leaves the user's snapshots, and none" "$(mine)" "v1 v2 evil plan sold"
is "meld leaves no guest" "$("$FIRN" ps --json | jq \
    '[.vms[] | select(.state != "exited")] | length')" 0

"$FIRN" demo </dev/null >"$T/out" 2>"$T/err" &
demo=$!
until_true 30 grep -q '^freeze v1' "$T/out"
kill -TERM $demo
wait $demo
is "a signal ends it" $? 143
works "and leaves nothing" nothing_left
is "and no snapshot" "$(mine)" "v1 v2 evil plan sold"
refused "a demonstration that is none" 2 "no demonstration" "$FIRN" demo dance
refused "meld of a file" 2 "takes no file" "$FIRN" demo meld "$T/rows.csv"
refused "attack of a file" 2 "takes no file" "$FIRN" demo attack "$T/rows.csv"
