#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What a place has twice, as its private pages and in layers, is given back once
# it is not written any more, while a cursor is read all the time; what is
# written stays dirty, every byte stays right.
. "$(dirname "$0")/lib.sh"

n=8192    # pages of the segment
part=1024 # that a round writes, one after the other
start_daemon
rm -f "$T/v.in"
mkfifo "$T/v.in"
exec 5<>"$T/v.in"
"$FIRN" run --detach --name v --segment data=$((n * 4096)) \
    "$GUESTS/stamp" data $n 0 $part <"$T/v.in" >"$T/v.out" 2>"$T/v.err"
stamp_count=0
until_true 10 grep -q '^segment' "$T/v.out" || {
	not_ok "a stamper starts" "$(cat "$T/v.err")"
	exit 1
}
mon=$(pid_of v)

stat_of() { "$FIRN" stats --json | jq ".$1"; }
private() {
	"$FIRN" segments v --json |
	    jq '.segments[] | select(.name == "data") | .private'
}
# The segment is all data, and nothing else is mapped privately from layers.
anonymous() {
	awk '/^[0-9a-f]+-[0-9a-f]+ / { in_file = /memfd:/ && $2 ~ /p$/ }
	    in_file && /^Anonymous:/ { sum += $2 }
	    END { print sum * 1024 }' "/proc/$mon/smaps"
}
# What every page should hold, the number of the last round that wrote it.
stamps() {
	local p r
	for ((p = 0; p < n; p++)); do
		r=$((p / part + 1))
		while [ $((r + n / part)) -le "$stamp_count" ]; do
			r=$((r + n / part))
		done
		echo "$r $p"
	done
}
# What they do hold in snapshot $1.
holds() {
	"$FIRN" read "$1" 0 $((n * 4096)) |
	    od -A n -t u8 -v -w4096 | awk '{ print $1, $2 }'
}
freeze() { "$FIRN" freeze v:data --name "$1" >/dev/null; }

failed=0
for _ in $(seq $((n / part))); do stamp_round v || failed=1; done
freeze first
"$FIRN" dirty v:data --cursor late >/dev/null
"$FIRN" dirty v:data --cursor busy >/dev/null

# A cursor that is read beside all that follows.
touch "$T/reading"
while [ -e "$T/reading" ]; do
	"$FIRN" dirty v:data --cursor busy --json
done >"$T/busy" &
reader=$!

# --- hot: what each freeze copies again stays as it is -----------------------------
for i in 1 2 3 4; do
	stamp_round v && freeze "a$i" || failed=1
done
is "what was copied lately stays" \
    "$(private) $(stat_of given_bytes)" "$((4 * part * 4096)) 0"
is "as smaps says" "$(anonymous)" $((4 * part * 4096))

# --- cold: given back ---------------------------------------------------------------
for i in 5 6 7; do
	stamp_round v && freeze "a$i" || failed=1
done
is "nothing before the generation ends" "$(stat_of given_bytes)" 0
stamp_round v || failed=1
freeze a8
given() { [ "$(stat_of given_bytes)" -gt 0 ]; }
until_true 10 given
is "all that was frozen is given back" \
    "$(stat_of given_bytes)" $((8 * part * 4096))
is "none is private any more" "$(private) $(anonymous)" "0 0"
like "and the guest was stopped for that" "$(stat_of relay_ns)" '^[1-9]'
works "every byte is right" cmp <(stamps) <(holds a8)

# --- it goes on ---------------------------------------------------------------------
stamp_round v || failed=1
is "a round is private again, and no more" \
    "$(private) $(anonymous)" "$((part * 4096)) $((part * 4096))"
is "the next freeze copies just that" \
    "$("$FIRN" freeze v:data --name b1 --json | jq .copied_pages)" $part
works "every byte is right after it" cmp <(stamps) <(holds b1)
# Frozen without a write, it becomes cold: fewer pages than pay stay.
for i in $(seq 2 9); do
	freeze "b$i"
done
until_true 10 test "$(private)" -lt $((1024 * 4096))
is "private: less than what pays" "$(($(private) < 1024 * 4096))" 1
is "no round and no freeze failed" $failed 0

# --- no cursor has lost anything ----------------------------------------------------
rm "$T/reading"
wait $reader
"$FIRN" dirty v:data --cursor busy --json >>"$T/busy"
seq 0 $((n - 1)) | sort >"$T/all"
jq -r '.extents[] | "\(.[0]) \(.[1])"' "$T/busy" |
    awk '{ for (i = 0; i < $2; i++) print $1 + i }' | sort -u >"$T/told"
works "what was read beside it has every page" cmp "$T/all" "$T/told"
"$FIRN" dirty v:data --cursor late --json | pages_in | sort -u >"$T/told"
works "what was not read meanwhile, too" cmp "$T/all" "$T/told"

