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
is "what found none comes with the next" "$said" "ok 1 1 8+1"
say t dirty c $exact 8
is "and then it has passed that" "$said" "ok 0 0"
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

# --- a buffer with room for fewer ----------------------------------------------
# What it has no room for stays, whatever others ask and the guest writes in
# between.
say t make e $((4 << 20)) 0
run=0
# drain CURSOR: until it has nothing more.
drain() {
	for ((i = 0; i < 20; i++)); do
		say t dirty "$1" 0 64
		[ "$said" != "ok 0 0" ] || break
	done
}
for kind in plain exact; do
	flags=$exact
	[ $kind = exact ] || flags=0
	say t dirty $kind $flags 0
	is "$kind: begun without room" "$said" "ok 0 0"
	say t write 1$((++run)) 10 12 13 100 200 1023
	say t dirty $kind 0 0
	is "$kind: no room, no step" "$said" "ok 6 5"
	say t dirty $kind $peek 1
	is "$kind: peeked at one" "$said" "ok 6 5 10+1"
	say t dirty $kind 0 2
	is "$kind: room for two" "$said" "ok 6 5 10+1 12+2"
	say t write 2$run 11 100
	works "$kind: a freeze between" "$FIRN" freeze t:e --name $kind
	works "$kind: a client's query" "$FIRN" dirty t:e --cursor p
	works "$kind: and an exact one" "$FIRN" dirty t:e --cursor x --exact
	say t dirty $kind 0 1
	is "$kind: one, the new one" "$said" "ok 4 4 11+1"
	say t dirty $kind 0 8
	is "$kind: and all that was left" "$said" "ok 3 3 100+1 200+1 1023+1"
	say t dirty $kind 0 8
	is "$kind: none is left" "$said" "ok 0 0"
done
# However small the buffer, and though it is written meanwhile: in the end every
# page was told.
all=$(sort -n <(seq 0 2 198) <(printf '%s\n' 101 201 301) | xargs)
for kind in plain exact; do
	drain $kind
	# shellcheck disable=SC2046 # one word a page
	say t write 3$((++run)) $(seq 0 2 198)
	: >"$T/told"
	for ((i = 1; i <= 60; i++)); do
		[ $i -gt 3 ] || say t write 4$run $((i * 100 + 1))
		say t dirty $kind 0 2
		[ "$said" != "ok 0 0" ] || break
		tr ' ' '\n' <<<"$said" | grep + >>"$T/told"
	done
	is "$kind: each was told" "$(tr + ' ' <"$T/told" |
	    awk '{ for (i = 0; i < $2; i++) print $1 + i }' | sort -nu |
	    xargs)" "$all"
done

# --- all the cursors that a guest can have: its own, nobody else's --------------
say t make f 4096 0
for i in 1 2 3 4 5 6 7 8 9; do say t dirty "h$i" 0 0; done
is "no more than its share" "$said" "error No space left on device"
works "clients have theirs" "$FIRN" dirty t:f --cursor mine
