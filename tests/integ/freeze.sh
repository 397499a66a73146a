#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Freeze, show, read, diff, dirty, map, over a guest that says what it wrote.
. "$(dirname "$0")/lib.sh"

start_daemon
n=4096
[ "$SCALE" != small ] || n=1024
stamper v $n || { not_ok "a stamper starts" "$(cat "$T/v.err")"; exit 1; }
rounds=3

# --- freeze and diff ------------------------------------------------------------
stamp_round v
one=$("$FIRN" freeze v:data --name s0 --json)
is "freeze: pages" "$(jq .pages <<<"$one")" $n
is "first freeze: nothing copied" "$(jq .copied_pages <<<"$one")" 0
for k in snapshot dirty_pages pause_ns total_ns; do
	is "freeze has $k" "$(jq "has(\"$k\")" <<<"$one")" true
done
for i in $(seq $rounds); do
	stamp_round v
	cp "$T/round" "$T/round.$i"
	fz=$("$FIRN" freeze v:data --name "s$i" --json)
	is "freeze $i: only dirty pages copied" \
	    "$(jq ".copied_pages <= .dirty_pages and .dirty_pages < 200" \
	    <<<"$fz")" true
	"$FIRN" diff "s$((i - 1))" "s$i" --exact --json >"$T/diff"
	pages_in <"$T/diff" >"$T/pages"
	works "diff $((i - 1)) $i, exact: what was written" \
	    diff "$T/round" "$T/pages"
	is "diff $((i - 1)) $i: its count" "$(jq .pages "$T/diff")" \
	    "$(wc -l <"$T/round")"
	"$FIRN" diff "s$((i - 1))" "s$i" --json | pages_in >"$T/pages"
	is "diff $((i - 1)) $i misses nothing" \
	    "$(sort "$T/round" | comm -23 - <(sort "$T/pages") | wc -l)" 0
done
sort -nu "$T"/round.[1-$rounds] >"$T/all"
"$FIRN" diff s0 s$rounds --exact --json | pages_in >"$T/pages"
works "diff over several freezes" diff "$T/all" "$T/pages"
"$FIRN" diff s$rounds s0 --exact --json | pages_in >"$T/pages"
works "diff the other way" diff "$T/all" "$T/pages"
is "diff with itself" "$("$FIRN" diff s1 s1 --json | jq -c '[.pages, .extents]')" \
    '[0,[]]'
like "diff prints" "$("$FIRN" diff s0 s1)" '^[0-9]+ pages differ, in [0-9]+ ext'
is "diff costs little" "$("$FIRN" diff s0 s1 --json |
    jq ".nodes_visited < $n")" true
stamp_round v
"$FIRN" diff s$rounds v:data --exact --json | pages_in >"$T/pages"
works "diff with a live segment" diff "$T/round" "$T/pages"

# --- what is in them ----------------------------------------------------------
u64() { od -A n -t u8 | tr -s ' \n' ' '; }
for i in $(seq $rounds); do
	page=$(tail -n 1 "$T/round.$i")
	is "read s$i: round and page" \
	    "$("$FIRN" read "s$i" $((page * 4096)) 16 | u64)" " $((i + 1)) $page "
done
is "read of nothing" "$("$FIRN" read s1 0 0 | wc -c)" 0
is "read all" "$("$FIRN" read s1 0 $((n * 4096)) | wc -c)" $((n * 4096))
refused "read beyond" 1 "beyond" "$FIRN" read s1 $((n * 4096)) 1
refused "read far beyond" 1 "beyond" "$FIRN" read s1 4096 8000000T
refused "read, not a number" 2 "not a number" "$FIRN" read s1 x 1
show=$("$FIRN" show s1 --json)
for k in id name pages size layers extents exclusive_pages shared_pages \
    zero_pages origin payer; do
	is "show has $k" "$(jq "has(\"$k\")" <<<"$show")" true
done
is "show: size" "$(jq .size <<<"$show")" $((n * 4096))
is "show: its pages add up" "$(jq \
    '.exclusive_pages + .shared_pages + .zero_pages == .pages' <<<"$show")" true
is "show: its bytes add up" "$(jq \
    '.exclusive_bytes + .shared_bytes == .live_bytes and
    .live_bytes == (.pages - .zero_pages) * 4096 and
    .exclusive_bytes == .exclusive_pages * 4096' <<<"$show")" true
like "show prints" "$("$FIRN" show s1)" '^zero pages: +[0-9]+'
is "snapshots lists them" "$("$FIRN" snapshots --json |
    jq '.snapshots | length')" $((rounds + 1))
refused "freeze: a name that is taken" 1 "s1" "$FIRN" freeze v:data --name s1

# --- in another guest -----------------------------------------------------------
for i in 0 1 $rounds; do
	"$FIRN" read "s$i" 0 $((n * 4096)) >"$T/want"
	"$FIRN" run --give "x=s$i" "$GUESTS/snapcat" x >"$T/got" 2>"$T/err" ||
	    not_ok "snapcat of s$i" "$(cat "$T/err")"
	works "s$i as /snap/x in a guest" cmp "$T/want" "$T/got"
	is "s$i mapped in a guest" "$("$FIRN" run --give "x=s$i" \
	    "$GUESTS/reader" x 2>&1 | sed -n 's/.*checksum //p' | wc -c)" 17
done
is "readers of one version agree" \
    "$("$FIRN" run --give x=s1 "$GUESTS/reader" x)" \
    "$("$FIRN" run --give x=s1 "$GUESTS/reader" x)"
"$FIRN" run --give x=s1 "$GUESTS/fault" ro x >/dev/null 2>"$T/err" </dev/null
is "write to a read-only view: status" $? 139
like "write to a read-only view: named" "$(cat "$T/err")" 'snapshot:|segment:'

# --- map from outside -------------------------------------------------------------
v=$("$FIRN" map v s1 --json)
is "map: pages" "$(jq .pages <<<"$v")" $n
view=$(jq -r .view <<<"$v")
is "the view is a segment" "$("$FIRN" segments v --json |
    jq -r ".segments[] | select(.id == $view) | .kind")" ro
works "unmap" "$FIRN" unmap "v:$view"
is "the view is gone" "$("$FIRN" segments v --json |
    jq "[.segments[] | select(.id == $view)] | length")" 0
v=$("$FIRN" map v s2 --cow --json)
view=$(jq -r .view <<<"$v")
is "a cow view" "$("$FIRN" segments v --json |
    jq -r ".segments[] | select(.id == $view) | .kind")" cow
"$FIRN" freeze "v:$view" --name child --json >/dev/null
is "an unchanged descendant equals its parent" \
    "$("$FIRN" diff s2 child --exact --json | jq .pages)" 0
refused "map at an unaligned address" 1 "" "$FIRN" map v s1 --gpa 4097
ram=$("$FIRN" segments v --json | jq ".segments[] | select(.id == 0) | .gpa")
refused "map over RAM" 1 "" "$FIRN" map v s1 --gpa "$ram"
refused "map beyond the address space" 1 "" "$FIRN" map v s1 \
    --gpa 0x7ffffffffffff000

# --- dirty --------------------------------------------------------------------------
dirty() { "$FIRN" dirty v:data --json "$@"; }
dirty --cursor a >/dev/null
dirty --cursor b >/dev/null
dirty --cursor x --exact >/dev/null
stamp_round v
refused "a plain cursor asked exactly" 1 "exact" \
    "$FIRN" dirty v:data --cursor a --exact
dirty --cursor x --peek --exact | pages_in >"$T/pages"
works "dirty, peek, exact" diff "$T/round" "$T/pages"
dirty --cursor a | pages_in >"$T/pages"
is "dirty misses nothing" \
    "$(sort "$T/round" | comm -23 - <(sort "$T/pages") | wc -l)" 0
dirty --cursor x --exact >/dev/null
is "dirty advanced" "$(dirty --cursor x --exact | jq .pages)" 0
dirty --cursor b --peek | pages_in >"$T/pages"
is "another cursor keeps its own" \
    "$(sort "$T/round" | comm -23 - <(sort "$T/pages") | wc -l)" 0
"$FIRN" freeze v:data --name after >/dev/null
dirty --cursor b --peek | pages_in >"$T/pages"
is "a freeze takes nothing from a cursor" \
    "$(sort "$T/round" | comm -23 - <(sort "$T/pages") | wc -l)" 0
refused "bitmap: nowhere to write it" 1 "No such file" \
    "$FIRN" dirty v:data --cursor b --bitmap "$T/none/bitmap"
refused "bitmap: no such segment" 1 "segment" \
    "$FIRN" dirty v:none --cursor b --bitmap "$T/bitmap"
is "that leaves no file" "$([ -e "$T/bitmap" ] || echo none)" none
"$FIRN" dirty v:data --cursor b --bitmap "$T/bitmap" >/dev/null
is "bitmap: a bit a page" "$(stat -c %s "$T/bitmap")" $((n / 8))
od -A n -v -t u1 -w1 "$T/bitmap" | awk '{ for (b = 0; b < 8; b++) {
	if (int($1 / 2 ^ b) % 2) print 8 * (NR - 1) + b } }' >"$T/bits"
is "bitmap misses nothing" \
    "$(sort "$T/round" | comm -23 - <(sort "$T/bits") | wc -l)" 0
"$FIRN" dirty v:data --cursor x --exact --peek --bitmap "$T/bitmap" >/dev/null
is "exact bitmap: nothing" "$(tr -d '\0' <"$T/bitmap" | wc -c)" 0
refused "nobody's cursor ends" 1 "no cursor 'nobody'" \
    "$FIRN" dirty v:data --cursor nobody --end
refused "an end asks nothing" 2 "peek" \
    "$FIRN" dirty v:data --cursor a --end --peek
works "a cursor ends" "$FIRN" dirty v:data --cursor a --end
is "and begins anew" "$(dirty --cursor a | jq .pages)" 0
works "an exact one ends" "$FIRN" dirty v:data --cursor x --end --json
works "and begins as a plain one" "$FIRN" dirty v:data --cursor x
is "exact bitmap: a bit a page" "$(stat -c %s "$T/bitmap")" $((n / 8))
like "dirty prints" "$("$FIRN" dirty v:data --cursor c)" '^[0-9]+ pages dirty'

# --- ends ---------------------------------------------------------------------------
works "drop" "$FIRN" drop s0
refused "dropped" 1 "s0" "$FIRN" show s0
"$FIRN" read s1 0 $((n * 4096)) >"$T/before"
"$FIRN" kill v
"$FIRN" read s1 0 $((n * 4096)) >"$T/after"
works "a snapshot outlives its VM" cmp "$T/before" "$T/after"

# --- a guest that freezes itself ------------------------------------------------
for v in "" .musl; do
	works "freeze_self$v" "$FIRN" run "$GUESTS/freeze_self$v" $((n / 4))
	works "what its calls refuse$v" "$FIRN" run "$GUESTS/refused$v"
done
long=$(printf '%050d' 0)x
works "of a long name" "$FIRN" run --name "$long" "$GUESTS/freeze_self" 4
is "what it froze has both names" "$("$FIRN" show "$long/self.1" --json |
    jq -r .origin | cut -d: -f1)" "$long"
long=$(printf '%062d' 0)x
works "of a longer name" "$FIRN" run --name "$long" "$GUESTS/freeze_self" 4
is "both are too long for one: what it froze ends with it" "$("$FIRN" \
    snapshots --json | jq -c '[.snapshots[] | select(.name |
    startswith("'"${long:0:31}"'/"))]')" "[]"
"$FIRN" run --json --detach "$GUESTS/freeze_self" 4 >"$T/self" 2>/dev/null \
    </dev/null
id=$(jq .vm "$T/self")
"$FIRN" wait "$id" >/dev/null
like "of no name: it is named by its id" "$("$FIRN" show "$id/self.2" --json |
    jq -r .origin)" "^$id:."

# --- show: what nobody else has ---------------------------------------------------
# Of few pages many are written again at once.
stamper few 64 || { not_ok "a stamper starts" "$(cat "$T/few.err")"; exit 1; }
for i in $(seq 4); do
	stamp_round few
	sort "$T/round" >"$T/few.$i"
	"$FIRN" freeze few:data --name "few$i" >/dev/null
done
for i in 2 3; do
	is "show few$i: pages of its own" \
	    "$("$FIRN" show "few$i" --json | jq .exclusive_pages)" \
	    "$(comm -12 "$T/few.$i" "$T/few.$((i + 1))" | wc -l)"
done
is "show few4: its segment has all of it" \
    "$("$FIRN" show few4 --json | jq .exclusive_pages)" 0
for i in $(seq 4); do
	"$FIRN" drop "few$i" >/dev/null
done
"$FIRN" kill few >/dev/null
