#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Meld: disjoint changes are put together, conflicts of each kind are listed.
. "$(dirname "$0")/lib.sh"

start_daemon
n=2048
stamper v $n || { not_ok "a stamper starts" "$(cat "$T/v.err")"; exit 1; }
stamp_round v
"$FIRN" freeze v:data --name base >/dev/null

# begin VIEW SNAP [OPTION]: both guests show SNAP as VIEW, tracked.
begin() {
	local g
	for g in a b; do
		"$FIRN" map $g "$2" --cow ${3---track} --name "$1" >/dev/null
		say $g find "$1"
	done
}
# both NAME: freeze view VIEW of both, as a.NAME and b.NAME.
both() {
	"$FIRN" freeze "a:$1" --name "a.$1" >/dev/null
	"$FIRN" freeze "b:$1" --name "b.$1" >/dev/null
}
word() { # SNAP PAGE
	"$FIRN" read "$1" $(($2 * 4096)) 8 | od -A n -t u8 | tr -d ' '
}
toucher a --give base=base
toucher b

# --- disjoint ---------------------------------------------------------------------
begin one base
say a read 1 2 3 100
say a write 11 5 6 7 100
say b read 2 200 300
say b write 22 200 201 2000
both one
m=$("$FIRN" meld base a.one b.one --name m1 --json)
is "disjoint changes meld" "$(jq -c '[.changed_pages,.blind,.pages]' <<<"$m")" \
    "[7,false,$n]"
is "meld_ns is told" "$(jq '.meld_ns > 0' <<<"$m")" true
for p in 5 6 7 100; do is "page $p is a's" "$(word m1 $p)" 11; done
for p in 200 201 2000; do is "page $p is b's" "$(word m1 $p)" 22; done
"$FIRN" diff base m1 --exact --json | pages_in >"$T/got"
works "all else is base's" diff "$T/got" \
    <(printf '%s\n' 5 6 7 100 200 201 2000)
show=$("$FIRN" show m1 --json)
id() { "$FIRN" show "$1" --json | jq .id; }
is "show: parent is the base" "$(jq .parent <<<"$show")" "$(id base)"
is "show: melded of both" "$(jq -c .melded <<<"$show")" \
    "[$(id a.one),$(id b.one)]"
is "show: not blind" "$(jq .blind <<<"$show")" false
is "show: its origin" "$(jq -r .origin <<<"$show")" meld
like "show prints what it was made of" "$("$FIRN" show m1)" \
    "^melded: +$(id a.one), $(id b.one)"
is "the other way round is the same" "$("$FIRN" meld base b.one a.one \
    --name m1b --json | jq .changed_pages; "$FIRN" diff m1 m1b --exact --json |
    jq .pages)" $'7\n0'
is "with the base itself" "$("$FIRN" meld base a.one base --name m1c --json |
    jq .changed_pages; "$FIRN" diff m1c a.one --exact --json | jq .pages)" $'4\n0'

# --- chains: what was melded and what descends melds again ----------------------
begin two m1
say a write 33 1000
say b write 44 1001
both two
is "from the melded one" "$("$FIRN" meld m1 a.two b.two --name m2 --json |
    jq .changed_pages)" 2
is "chains: sets are united along them" \
    "$("$FIRN" meld base m1 a.two --json 2>/dev/null |
    jq -c '[.conflicts[] | .[2]] | unique')" '["write/write"]'
"$FIRN" unmap a:two && "$FIRN" unmap b:two
for s in m1c m1b m1 a.two b.two; do "$FIRN" drop $s; done
is "a chain through what is gone" "$("$FIRN" show m2 --json | jq .parent)" \
    "$(id base)"
is "and it melds from there" "$("$FIRN" meld base m2 base --name m3 --json |
    jq .changed_pages)" 9

# --- conflicts -----------------------------------------------------------------------
say a find one
say b find one
say b write 23 6 7
both_again() {
	"$FIRN" drop a.one
	"$FIRN" drop b.one
	both one
}
both_again
refused_meld() { # NAME WANTED
	local out status=0
	out=$("$FIRN" meld base a.one b.one --json 2>"$T/err") || status=$?
	is "$1: status, and one line" "$status $(wc -l <"$T/err")" "1 1"
	is "$1" "$(jq -c '[.conflicts, .write_write_pages, .read_write_pages]' \
	    <<<"$out")" "$2"
}
refused_meld "write/write" '[[[6,2,"write/write"]],2,0]'
say a read 2000
both_again
refused_meld "write/write and read/write" \
    '[[[6,2,"write/write"],[2000,1,"read/write"]],2,1]'
like "they are printed" "$("$FIRN" meld base a.one b.one 2>/dev/null)" \
    '^ +2000 +1 +0x7d0000 +read/write'
like "and why" "$("$FIRN" meld base a.one b.one 2>&1 >/dev/null)" \
    'firn: meld: they conflict'
is "nothing was made" "$("$FIRN" meld base a.one b.one --name no 2>/dev/null \
    >&2; "$FIRN" show no 2>&1 | grep -c 'no snapshot')" 1
begin three base
say a write 1 9
say b read 9
both three
is "what one wrote the other read" "$("$FIRN" meld base a.three b.three --json \
    2>/dev/null | jq -c .conflicts)" '[[9,1,"read/write"]]'
is "the other way round" "$("$FIRN" meld base b.three a.three --json \
    2>/dev/null | jq -c .conflicts)" '[[9,1,"read/write"]]'
is "blind does not help where all is known" "$("$FIRN" meld base a.three \
    b.three --blind --json 2>/dev/null | jq -c .conflicts)" \
    '[[9,1,"read/write"]]'
"$FIRN" map a a.three --cow --track --name retry >/dev/null
say a find retry
say a write 2 10
"$FIRN" freeze a:retry --name r >/dev/null
works "after another try on top it melds" "$FIRN" meld a.three r a.three

# --- blind -----------------------------------------------------------------------------
begin four base ""
say a write 1 20
say a read 21
say b write 2 21
both four
refused "untracked" 1 "not every step .* tracked.*--blind" \
    "$FIRN" meld base a.four b.four
is "blind melds" "$("$FIRN" meld base a.four b.four --blind --name mb --json |
    jq -c '[.changed_pages,.blind]')" '[2,true]'
is "and the result says so" "$("$FIRN" show mb --json | jq .blind)" true
is "the list too" "$("$FIRN" snapshots --json |
    jq -c '[.snapshots[] | select(.name == "mb") | .blind]')" '[true]'
like "printed too" "$("$FIRN" show mb)" '^blind: +yes'
is "its pages" "$(word mb 20) $(word mb 21)" "1 2"
refused "what was melded blind was not tracked" 1 "not every step" \
    "$FIRN" meld base mb base
is "blind catches write/write" "$("$FIRN" meld base a.four a.four --blind \
    --json 2>/dev/null | jq -c .conflicts)" '[[20,1,"write/write"]]'

# --- bad input ---------------------------------------------------------------------------
head -c $((n * 4096)) /dev/urandom >"$T/file"
"$FIRN" import "$T/file" --name other >/dev/null
refused "unrelated" 1 "no ancestor" "$FIRN" meld base a.one other
refused "a base that is none" 1 "no ancestor" "$FIRN" meld a.one base b.one
refused "unrelated, blind" 1 "no ancestor" "$FIRN" meld base other b.one --blind
refused "unknown" 1 "no snapshot 'none'" "$FIRN" meld none a.one b.one
refused "a name that is taken" 1 "taken" "$FIRN" meld base base base --name base
refused "a name that is none" 1 "is not a name" "$FIRN" meld base base base \
    --name "a b"
refused "words missing" 2 "missing" "$FIRN" meld base a.one

# --- by a guest ---------------------------------------------------------------------------
say a map base cow+track
say a write 5 30
say a freeze x
say a unmap
say a map base cow+track
say a write 6 31
say a freeze y
say a meld base x y xy 0
is "a guest melds" "$said" "ok 2 0"
is "its owner has it too" "$(word a/xy 30) $(word a/xy 31)" "5 6"
say a unmap
say a map base cow+track
say a read 30
say a write 7 31
say a freeze z
say a meld base x z no 0
like "a guest's conflicts" "$said" '^error .* 30\+1rw$'
say a meld base y z no 0
like "both wrote" "$said" '^error .* 31\+1ww$'
say a meld base x none no 0
like "no such capability" "$said" '^error Bad file'
say a meld x base y no 0
like "no ancestor" "$said" '^error Invalid'
say a meld base x y no 2
like "no such flag" "$said" '^error Invalid'
say a meld base x y xy 0
like "a guest's name that is taken" "$said" '^error File exists'
