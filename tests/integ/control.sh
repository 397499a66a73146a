#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# ps, pause, resume, segments, wait, kill.
. "$(dirname "$0")/lib.sh"

start_daemon
stamper v 1024 || not_ok "a detached guest starts" "$(cat "$T/v.err")"
is "running" "$(state_of v)" running
ps=$("$FIRN" ps --json | jq -c '.vms[] | select(.name == "v")')
for k in id name state pid mem cpu_ns; do
	is "ps has $k" "$(jq "has(\"$k\")" <<<"$ps")" true
done
id=$(jq -r .id <<<"$ps")
like "ps prints a table" "$("$FIRN" ps)" '^ *ID +NAME +STATE'
like "ps prints the VM" "$("$FIRN" ps)" ' v +running '
stamp_round v && ok "it runs" || not_ok "it runs" "no round"
works "pause" "$FIRN" pause v
is "paused" "$(state_of v)" paused
echo >&5
sleep 0.3
is "paused: it does nothing" "$(grep -c '^round 2:' "$T/v.out")" 0
works "resume, by id" "$FIRN" resume "$id"
works "it goes on" until_true 10 grep -q '^round 2:' "$T/v.out"
stamp_count=2
seg=$("$FIRN" segments v --json | jq -c '.segments[] | select(.name == "data")')
is "segments: size" "$(jq .size <<<"$seg")" $((1024 * 4096))
is "segments: kind" "$(jq -r .kind <<<"$seg")" segment
is "segments: gpa" "$(sed -n 's/^segment .* at //p' "$T/v.out")" \
    "$(printf '%#x' "$(jq .gpa <<<"$seg")")"
is "segments: the RAM is 0" "$("$FIRN" segments v --json |
    jq '[.segments[] | select(.id == 0)] | length')" 1
like "segments prints a table" "$("$FIRN" segments v)" 'data +segment +0x'
refused "a name that is taken" 1 "v" "$FIRN" run --detach --name v \
    "$GUESTS/hello"
for what in kill pause resume wait segments freeze; do
	refused "$what of no VM" 1 "none" "$FIRN" $what none
done
refused "no such segment" 1 "none" "$FIRN" freeze v:none
refused "no such snapshot" 1 "none" "$FIRN" show none
refused "map of no snapshot" 1 "none" "$FIRN" map v none
refused "unmap of no view" 1 "none" "$FIRN" unmap v:none
refused "diff with nothing" 1 "none" "$FIRN" diff none v:data
refused "unmap needs a view" 2 "VM:VIEW" "$FIRN" unmap v
refused "dirty needs a cursor" 2 "cursor" "$FIRN" dirty v:data

"$FIRN" wait v --json >"$T/wait" 2>&1 &
waiter=$!
pid=$(pid_of v)
works "kill" "$FIRN" kill v
wait $waiter
is "wait ends" $? 0
like "wait says why" "$(jq -r .reason "$T/wait")" kill
works "the monitor is gone" until_true 10 gone "$pid"

# A detached guest that ends by itself.
"$FIRN" run --detach --name w --env STATUS=7 "$GUESTS/args" >/dev/null 2>&1 \
    </dev/null
"$FIRN" wait w --json >"$T/wait" 2>&1
is "wait after or before the end" "$(jq -c '[.status, .reason]' "$T/wait")" \
    '[7,"exit"]'
"$FIRN" run --detach "$GUESTS/waits" >"$T/id" 2>/dev/null </dev/null
id=$(cat "$T/id")
works "one without a name is told by its id" "$FIRN" kill "$id"
is "which is that of no other" "$("$FIRN" wait "$id")" "137 killed"
"$FIRN" run --detach --name e "$GUESTS/enosys" >/dev/null 2>&1 </dev/null
works "wait for the last of them" "$FIRN" wait e
is "what it called and took stays known" "$("$FIRN" ps --json | jq -c \
    '.vms[] | select(.name == "e") |
    [.state, .enosys >= 4, .syscalls > .enosys, .cpu_ns > 0]')" \
    '["exited",true,true,true]'

# One that waits for a signal is there until it is killed.
for how in "" suspend; do
	# shellcheck disable=SC2086
	"$FIRN" run --detach --name "p$how" "$GUESTS/waits" $how >/dev/null \
	    2>&1 </dev/null
	sleep 0.2
	works "waits $how: can be frozen" "$FIRN" freeze "p$how"
	"$FIRN" kill "p$how" 2>/dev/null
	is "waits $how: until it is killed" "$("$FIRN" wait "p$how" --json |
	    jq -c '[.status, .reason]')" '[137,"killed"]'
done
