#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What a peer's monitor has of version 2 holds no page of version 1 that version
# 2 no longer shows, where the segment's history is private. The monitor is
# taken for compromised: looked at are whole files, not what it shows its guest.
. "$(dirname "$0")/../integ/lib.sh"

start_daemon
secret=0x3145524f43455331 # 1SECORE1, as the bytes of a page
monitor() {
	"$FIRN" ps --json | jq ".vms[] | select(.name == \"$1\") | .pid"
}
# How many files that the monitor of $1 has open or mapped hold the secret.
leaks() {
	local pid n=0 f
	pid=$(monitor "$1")
	for f in "/proc/$pid/map_files"/* "/proc/$pid/fd"/*; do
		case $(readlink "$f") in
		/memfd:*) ! grep -qa 1SECORE1 "$f" || n=$((n + 1)) ;;
		esac
	done
	echo $n
}
# Two versions of segment $1 of p: the secret is in the first alone.
versions() {
	say p find "$1"
	say p write $secret 5 700
	say p write 1 6 7 8
	"$FIRN" freeze "p:$1" --name "$1/1" >/dev/null
	say p write 2 5 9 700
	"$FIRN" freeze "p:$1" --name "$1/2" >/dev/null
}

toucher p --mem 16M --segment open=4M --segment own=4M,private-history
versions open
versions own
is "it is shown of the segment" "$("$FIRN" segments p --json |
    jq -c '[.segments[] | .private_history]')" '[null,null,true]'
is "and of its snapshots" "$("$FIRN" show own/2 --json | jq .private_history)" \
    true
is "and of no other" "$("$FIRN" show open/2 --json | jq .private_history)" null

# --- as it is without, which also tells that this test can see ----------------------
toucher a --mem 16M
"$FIRN" map a open/2 --name v >/dev/null
is "without: the files have version 1" "$(leaks a | sed 's/[1-9][0-9]*/some/')" \
    some

# --- read-only, copy-on-write, tracked, /snap ---------------------------------------
toucher r --mem 16M
"$FIRN" map r own/2 --name v >/dev/null
is "read-only: no page of version 1" "$(leaks r)" 0
say r find v
say r read 5 6 9 700 1
is "and version 2 is all there" "$said" "ok 2 1 2 2 0"
toucher w --mem 16M
works "copy-on-write, tracked" "$FIRN" map w own/2 --cow --track --name v
is "no page of version 1" "$(leaks w)" 0
is "a view inherits it" "$("$FIRN" segments w --json |
    jq -c '.segments[-1].private_history')" true
before=$("$FIRN" stats --json | jq .layers)
"$FIRN" map r own/2 --name again >/dev/null
is "a second map copies nothing" "$("$FIRN" stats --json | jq .layers)" "$before"
is "/snap shows it" "$("$FIRN" run --give s=own/2 "$GUESTS/snapcat" s | sha256sum)" \
    "$("$FIRN" read own/2 0 4M | sha256sum)"

# --- descendants ------------------------------------------------------------------
say w find v
say w write $secret 11
"$FIRN" freeze w:v --name d1 >/dev/null
say w write 3 11
"$FIRN" freeze w:v --name d2 >/dev/null
is "a descendant inherits it" "$("$FIRN" show d2 --json |
    jq .private_history)" true
toucher x --mem 16M
"$FIRN" map x d2 --name v >/dev/null
is "of a descendant: none either" "$(leaks x)" 0
say x find v
say x read 5 11 9
is "and all is there" "$said" "ok 2 3 2"
is "a diff says what it did" "$("$FIRN" diff own/2 d2 --json |
    jq -c .extents)" '[[11,1]]'

# --- scattered, and while the background works ----------------------------------
say p find own
say p write $secret $(seq 0 2 1022)
"$FIRN" freeze p:own --name own/3 >/dev/null
say p write 4 $(seq 0 2 1022)
"$FIRN" freeze p:own --name own/4 >/dev/null
# More than are merged; fewer where each takes a second.
many=140
[ "$SCALE" != small ] || many=15
for i in $(seq $many); do
	say p write "$i" "$i"
	"$FIRN" freeze p:own --name "many/$i" >/dev/null
done
"$FIRN" map x own/4 --name v4 >/dev/null
is "of many scattered pages: none" "$(leaks x)" 0
say x find v4
say x read 0 1 2 1022
is "they are there" "$said" "ok 4 0 4 4"
for i in $(seq $many); do "$FIRN" drop "many/$i"; done
sleep 1
"$FIRN" stats --json >/dev/null
is "and none after others were dropped" "$(leaks r) $(leaks w) $(leaks x)" \
    "0 0 0"

# --- by a guest --------------------------------------------------------------------
say p make mine 2097152 8
versions mine
toucher y --mem 16M
"$FIRN" map y mine/2 >/dev/null
is "a guest makes one: none" "$(leaks y)" 0
say p make bad 4096 32
is "no such flag" "$said" "error Invalid argument"
