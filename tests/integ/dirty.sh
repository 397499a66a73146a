#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Exact dirty queries of a guest of its own segment, beside others' cursors.
. "$(dirname "$0")/lib.sh"

start_daemon
toucher t --segment d=4M
exact=1
peek=2

say t find d
say t write 5 1 2 3 700
say t dirty c $exact 8
is "an exact cursor starts with none" "$said" "ok 0 0"
say t dirty plain 0 8
is "and a plain one" "$said" "ok 0 0"
"$FIRN" dirty t:d --cursor c --exact >/dev/null
"$FIRN" dirty t:d --cursor p >/dev/null
say t write 5 1 2
say t write 6 3 700 701
say t dirty c $exact 8
is "pages rewritten with their bytes are not told" "$said" "ok 3 2 3+1 700+2"
say t dirty c $exact 8
is "the cursor has passed them" "$said" "ok 0 0"
say t dirty plain 0 8
is "the plain one has all that was written" "$said" "ok 5 2 1+3 700+2"
is "a client's exact cursor of that name is another" \
    "$("$FIRN" dirty t:d --cursor c --exact --json | jq -c .extents)" \
    '[[3,1],[700,2]]'
is "a client's plain cursor lost none" \
    "$("$FIRN" dirty t:d --cursor p --json | jq .pages)" 5
say t write 7 4 6 8
say t dirty c $((exact + peek)) 8
is "peeking tells" "$said" "ok 3 3 4+1 6+1 8+1"
say t dirty c 0 2
is "of what began exact, exactly; what finds room, and the number of all" \
    "$said" "ok 3 3 4+1 6+1"
say t dirty c $exact 8
is "and it has passed what found none" "$said" "ok 0 0"
say t write 0 4
say t write 7 4
say t dirty c $exact 8
is "written to and fro" "$said" "ok 0 0"

# --- refusals, after which a cursor is where it was -----------------------------
say t write 8 9
say t dirty plain $exact 8
is "one that began plain cannot" "$said" "error Invalid argument"
say t dirty c 4 8
is "no such flag" "$said" "error Invalid argument"
say t dirty 12 $exact 8
is "no name" "$said" "error Invalid argument"
say t dirty "$(printf 'x%.0s' {1..64})" $exact 8
like "too long a name" "$said" '^error '
say t dirty c $exact 65537
like "more than the limit" "$said" '^error Argument list too long'
say t dirty c $exact 65536
is "a buffer outside of memory" "$said" "error Bad address"
for i in 2 3 4 5 6 7 8; do say t dirty "n$i" $exact 0; done
say t dirty n9 $exact 0
is "too many cursors" "$said" "error No space left on device"
say t dirty c $exact 8
is "after all these" "$said" "ok 1 1 9+1"
say t dirty plain 0 8
is "the plain one too" "$said" "ok 4 3 4+1 6+1 8+2"
say t freeze s
say t map s ro
say t dirty v $exact 8
is "a read-only view" "$said" "error Operation not permitted"
say t unmap
say t dirty c $exact 8
is "no segment" "$said" "error No such file or directory"
