#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Descendants of views, and what tracked views say that a guest touched.
. "$(dirname "$0")/lib.sh"

start_daemon
n=4096
[ "$SCALE" != small ] || n=1024
stamper v $n || { not_ok "a stamper starts" "$(cat "$T/v.err")"; exit 1; }
for _ in 1 2 3 4; do stamp_round v; done
"$FIRN" freeze v:data --name s0 >/dev/null

toucher t --give "g=s0"
# set_of KEY: the pages of that set of view w, one a line.
set_of() {
	"$FIRN" track t:w --json | jq ".$1" | pages_in
}

# --- a view begins untouched --------------------------------------------------
works "map: tracked, copy-on-write" "$FIRN" map t s0 --cow --track --name w
is "segments says that it is tracked" "$("$FIRN" segments t --json |
    jq -c '[.segments[] | .tracked]')" '[null,true]'
is "untouched: nothing read" "$(set_of reads)" ""
is "untouched: nothing written" "$(set_of writes)" ""
say t find w
say t read 7
is "one page read: one page told" "$(set_of reads)" 7
say t write 1 9
is "one page written: one page told" "$(set_of writes)" 9
is "and no page more read" "$(set_of reads)" 7

# --- at random ------------------------------------------------------------------
seed=${FIRN_SEED:-$RANDOM}
echo "FIRN_SEED=$seed"
k=0
while [ $k -lt 20 ]; do
	awk -v n=$n -v seed="$seed$k" 'BEGIN { srand(seed)
	    for (i = 0; i < 40; i++) print int(rand() * n) }' >"$T/some"
	head -n 25 "$T/some" >>"$T/read"
	tail -n 15 "$T/some" >>"$T/write"
	say t read $(head -n 25 "$T/some")
	say t write $k $(tail -n 15 "$T/some")
	k=$((k + 1))
done
echo 7 >>"$T/read"
echo 9 >>"$T/write"
sort -u "$T/write" -o "$T/write"
sort -u "$T/read" | comm -23 - "$T/write" >"$T/only"
works "random pages: reads, exactly" \
    diff <(sort -n "$T/only") <(set_of reads)
works "random pages: writes, exactly" \
    diff <(sort -n "$T/write") <(set_of writes)
is "asking again gives the same" "$("$FIRN" track t:w --json | sha256sum)" \
    "$("$FIRN" track t:w --json | sha256sum)"
like "track prints" "$("$FIRN" track t:w)" '^[0-9]+ pages written, in [0-9]+ ext'

# --- descendants -------------------------------------------------------------------
fz=$("$FIRN" freeze t:w --name d1 --json)
written=$(wc -l <"$T/write")
is "freeze of a view finds what was written" \
    "$(jq .dirty_pages <<<"$fz")" "$written"
id0=$("$FIRN" show s0 --json | jq .id)
is "its parent is what the view shows" "$("$FIRN" show d1 --json |
    jq .parent)" "$id0"
is "it differs by what was written" "$("$FIRN" diff s0 d1 --json |
    jq .pages)" "$written"
is "it shares the rest" "$("$FIRN" show d1 --json |
    jq '.exclusive_pages')" 0
say t read 3
"$FIRN" freeze t:w --name d2 >/dev/null
is "a freeze does not begin anew: reads" \
    "$( (cat "$T/only"; echo 3) | sort -u | grep -vxFf "$T/write" | wc -l)" \
    "$("$FIRN" track t:w --json | jq .reads.pages)"
is "the second descends from the first" "$("$FIRN" show d2 --json |
    jq .parent)" "$("$FIRN" show d1 --json | jq .id)"
"$FIRN" map t d1 --cow --name w2 >/dev/null
"$FIRN" freeze t:w2 --name e1 >/dev/null
is "a descendant's descendant" "$("$FIRN" show e1 --json | jq .parent)" \
    "$("$FIRN" show d1 --json | jq .id)"
is "which is the same" "$("$FIRN" diff d1 e1 --json | jq .pages)" 0
"$FIRN" unmap t:w2
"$FIRN" drop d1
is "a parent that is gone: the next" "$("$FIRN" show e1 --json |
    jq .parent)" "$id0"

# --- by the guest itself ---------------------------------------------------------
say t map g ro+track
like "a guest maps and tracks" "$said" '^ok'
view=$("$FIRN" segments t --json | jq '.segments[-1].id')
say t read 1 2 3
is "what it read" "$("$FIRN" track "t:$view" --json |
    jq -c '[.reads.extents, .writes.extents]')" '[[[1,3]],[]]'
say t unmap

# --- refusals ------------------------------------------------------------------------
refused "track of a segment" 1 "not tracked" "$FIRN" track v:data
refused "track of a view without" 1 "not tracked" "$FIRN" track t:0
refused "track of no view" 1 "no segment" "$FIRN" track t:none
refused "track without a view" 2 "VM:VIEW" "$FIRN" track t
refused "sever of a tracked view" 1 "tracked" "$FIRN" sever t:w
"$FIRN" track t:w --json | jq -e '.writes.pages > 0' >/dev/null ||
    not_ok "the sets are there still" "they are not"
works "unmap" "$FIRN" unmap t:w
