#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Guests that call anything with anything, or execute anything: each ends by
# itself or by a report, its monitor by neither a signal nor a failure, and
# nobody else notices.
. "$(dirname "$0")/../integ/lib.sh"

n=40
[ "$SCALE" != small ] || n=8
start_daemon
stamper v 256 || not_ok "a peer starts" "$(cat "$T/v.err")"
"$FIRN" freeze v:data --name a >/dev/null
"$FIRN" read a 0 1M >"$T/a"
wild() {
	timeout 60 "$FIRN" run --mem 32M --segment data=1M \
	    --segment t=64K,track --give a=a "$GUESTS/wild" "$1" 400 \
	    >/dev/null 2>"$T/err" </dev/null
}
drop_others() {
	"$FIRN" snapshots --json | jq '.snapshots[] | select(.name != "a").id' |
	    while read -r id; do "$FIRN" drop "$id"; done
}
fds() { find "/proc/$daemon_pid/fd" -type l | wc -l; }
wild 1
drop_others
before=$(fds)
whole=0
for ((i = 0; i < n; i++)); do
	seed=$((RANDOM * 32768 + RANDOM))
	wild $seed
	status=$?
	case $status in
	0) whole=$((whole + 1)) ;;
	137 | 139) ;;
	*) not_ok "seed $seed" "status $status: $(cat "$T/err")" ;;
	esac
done
is "most lived to their last call" $((whole > n / 2)) 1
drop_others

# One that loops is killed, one that comes to call exit may give any status.
reports=0
for ((i = 0; i < n; i++)); do
	seed=$((RANDOM * 32768 + RANDOM))
	status=0
	timeout 20 "$FIRN" run --mem 8M "$GUESTS/code" $seed >/dev/null \
	    2>"$T/err" </dev/null || status=$?
	if grep -q ': the guest was ended: ' "$T/err"; then
		reports=$((reports + 1))
	elif [ "$status" -ne 124 ] && [ -s "$T/err" ]; then
		not_ok "code of seed $seed" "status $status: $(cat "$T/err")"
	fi
done
is "most executed what they may not" $((reports > n / 2)) 1
works "the snapshot they had is as it was" cmp "$T/a" <("$FIRN" read a 0 1M)
stamp_round v && ok "the peer goes on" || not_ok "the peer goes on" "no round"
is "no VM is left but the peer" "$("$FIRN" ps --json |
    jq '[.vms[] | select(.state != "exited")] | length')" 1
works "nor a descriptor" until_true 10 eval '[ "$(fds)" -le "$before" ]'
