#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Segments that are tracked since they were made, and what is melded of them.
. "$(dirname "$0")/lib.sh"

start_daemon
toucher t --segment d=4M,track --segment plain=2M
sets() {
	"$FIRN" track "t:$1" --json |
	    jq -c '[.reads.extents, .writes.extents]'
}
tracked=4

# --- of a launch -----------------------------------------------------------------
is "segments says that it is tracked, and a segment" \
    "$("$FIRN" segments t --json | jq -c '[.segments[] | [.kind, .tracked]]')" \
    '[["segment",null],["segment",true],["segment",null]]'
say t find d
is "untouched" "$(sets d)" '[[],[]]'
say t read 7 600
is "it reads zero" "$said" "ok 0 0"
say t write 1 9 10
is "what was touched since it was made" "$(sets d)" '[[[7,1],[600,1]],[[9,2]]]'
say t touched 0 8
is "the guest asks: read" "$said" "ok 2 2 7+1 600+1"
say t touched 1 8
is "the guest asks: written" "$said" "ok 2 1 9+2"
refused "sever" 1 "tracked" "$FIRN" sever t:d
say t sever x
like "sever by the guest" "$said" '^error '
is "the sets are there still" "$(sets d)" '[[[7,1],[600,1]],[[9,2]]]'
"$FIRN" freeze t:d --name base >/dev/null
is "what was frozen" "$("$FIRN" read base $((9 * 4096)) 1 | od -An -tx1 |
    tr -d ' ')" 01
say t write 2 20
"$FIRN" freeze t:d --name a >/dev/null
is "the second descends from the first" "$("$FIRN" show a --json | jq .parent)" \
    "$("$FIRN" show base --json | jq .id)"
is "and differs by what was written" \
    "$("$FIRN" diff base a --json | jq -c .extents)" '[[20,1]]'

# --- melds -----------------------------------------------------------------------
"$FIRN" map t base --cow --track --name v >/dev/null
say t find v
say t write 3 30
say t read 40
"$FIRN" freeze t:v --name b >/dev/null
works "the segment's and a view's meld" "$FIRN" meld base a b --name m
is "with both their changes" "$("$FIRN" diff base m --json | jq -c .extents)" \
    '[[20,1],[30,1]]'
say t read 20
"$FIRN" freeze t:v --name c >/dev/null
like "one read what the other wrote" \
    "$("$FIRN" meld base a c --name n --json 2>/dev/null)" '\[20,1,"read/write"\]'
is "which makes no snapshot" "$("$FIRN" show n >/dev/null 2>&1; echo $?)" 1
is "it is not blind" "$("$FIRN" show m --json | jq .blind)" false

# --- by the guest ------------------------------------------------------------------
say t make own 2097152 $tracked
like "a guest makes one" "$said" '^ok'
say t write 4 1
say t touched 1 8
is "which is tracked" "$said" "ok 1 1 1+1"
is "for clients too" "$(sets own)" '[[],[[1,1]]]'
say t unmap
is "and is its own for good" "$said" "error Operation not permitted"
say t touched 2 8
is "no such set" "$said" "error Invalid argument"
say t touched 1 65536
is "a buffer outside of memory" "$said" "error Bad address"
say t touched 1 65537
is "more than the limit" "$said" "error Argument list too long"
say t make bad 4096 16
is "no such flag" "$said" "error Invalid argument"
say t find plain
say t touched 0 8
is "what is not tracked" "$said" "error Operation not permitted"
for bad_one in d=4M,trace d=4M, d=4M,,track; do
	refused "--segment $bad_one" 2 "after the size" \
	    "$FIRN" run --segment "$bad_one" "$GUESTS/hello"
done
refused "--segment d=,track" 2 "not a size" \
    "$FIRN" run --segment d=,track "$GUESTS/hello"
