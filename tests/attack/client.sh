#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# A hostile program on the control socket: tests/attack/client.c. A guest beside
# it goes on, its snapshot stays, and firnd keeps nothing.
. "$(dirname "$0")/../integ/lib.sh"

start_daemon
stamper bystander 256 || { not_ok "a bystander starts" ""; exit 1; }
stamp_round bystander
"$FIRN" freeze bystander:data --name v0 >/dev/null
stamp_round bystander
"$FIRN" freeze bystander:data --name v1 >/dev/null
before=$("$FIRN" read v1 0 1M | sha256sum)

fds_of() { find "/proc/$1/fd" -mindepth 1 | wc -l; }
fds_before=
attack() {
	"$GUESTS/attack_client" "$FIRN_SOCKET" bystander v1 >"$T/client"
	status=$?
}
attack # the first makes what is kept: copies of layers, threads
is "the client ends" $status 0
sed 's/^not ok client: \(.*\): \(.*\)/not ok \1: \2/' "$T/client"
ran=$(grep -c '^ok ' "$T/client")
cases=$((cases + ran))
! grep -q '^not ok' "$T/client" || bad=1
is "many cases ran" "$((ran > 60))" 1

settled() {
	local a
	a=$(fds_of "$daemon_pid")
	sleep 0.2
	[ "$a" = "$(fds_of "$daemon_pid")" ]
}
same_fds() { [ "$(fds_of "$daemon_pid")" -le "$fds_before" ]; }
until_true 10 settled
fds_before=$(fds_of "$daemon_pid")
attack
works "no descriptor stays in firnd" until_true 10 same_fds
is "no VM stays" "$("$FIRN" ps --json | jq \
    '[.vms[] | select(.state != "exited")] | length')" 1
is "no snapshot stays" "$("$FIRN" snapshots --json | jq '.snapshots | length')" 2
works "the bystander's next round" stamp_round bystander
is "its snapshot is as it was" "$("$FIRN" read v1 0 1M | sha256sum)" "$before"
