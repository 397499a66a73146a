#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# A guest that maps, and has open as /snap/NAME, as many snapshots as it can has
# a part of firnd's files and no more, which it gives back.
. "$(dirname "$0")/../integ/lib.sh"

start_daemon
few=300   # files: those of one user that are not merged, and some
most=1200 # what one VM may have, and those

files() {
	"$FIRN" stats --json | jq .files
}
at_most() {
	[ "$(files)" -le "$1" ]
}

# hoards HOW N: runs one until it has said how many it had, then freezes another
# VM.
hoards() {
	rm -f "$T/in"
	mkfifo "$T/in"
	exec 6<>"$T/in"
	"$FIRN" run --mem 16M --detach --name "$1" "$GUESTS/hoard.musl" "$1" \
	    "$2" <"$T/in" >"$T/$1.out" 2>&1
	until_true 60 grep -q had "$T/$1.out"
	works "others freeze: $1" "$FIRN" freeze v:data
}

stamper v 16
stamp_round v
hoards keep 1400
is "what is kept open has an end" "$(tail -n 1 "$T/keep.out")" \
    "had 1080: No space left on device"
works "and is a part of all files" at_most $most
"$FIRN" kill keep
works "that comes back" until_true 20 at_most $few

hoards map 1400
is "what is mapped has the same end" "$(tail -n 1 "$T/map.out")" \
    "had 1080: No space left on device"
works "and is a part as well" at_most $most
"$FIRN" kill map

hoards open 1400
is "what is closed again has none" "$(tail -n 1 "$T/open.out")" "had 1400: all"
works "and is not kept" until_true 20 at_most $few
