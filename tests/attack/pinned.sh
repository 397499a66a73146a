#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Somebody pins a page of a guest's memory, or keeps it open, while firn seals it
# or hands it on: refused with the reason, nothing lost, and done once that is
# over.
. "$(dirname "$0")/../integ/lib.sh"

start_daemon
size=$((5 << 20)) # nothing else is as large
pages=$((size / 4096))
declare -A in lines

# hander NAME FD: a guest that fills and checks its segment d when told to.
hander() {
	mkfifo "$T/$1.in"
	eval "exec $2<>'$T/$1.in'"
	in[$1]=$2
	lines[$1]=2
	"$FIRN" run --detach --name "$1" --segment d=5M "$GUESTS/hand" \
	    <"$T/$1.in" >"$T/$1.out" 2>"$T/$1.err" ||
	    { not_ok "$1 starts" "$(cat "$T/$1.err")"; exit 1; }
	until_true 10 grep -q '^ready' "$T/$1.out"
}

answered() {
	[ "$(wc -l <"$T/$1.out")" -ge "$2" ]
}

# told NAME ANSWER GUEST WORD...
told() {
	local name=$1 want=$2 n=$3
	shift 3
	lines[$n]=$((lines[$n] + 1))
	echo "$*" >&"${in[$n]}"
	until_true 60 answered "$n" "${lines[$n]}"
	is "$name" "$(sed -n "${lines[$n]}p" "$T/$n.out")" "$want"
}

monitor_of() {
	"$FIRN" ps --json | jq ".vms[] | select(.name == \"$1\").pid"
}

# take PID [open]: pin a page, or keep it open, until let_go.
mkfifo "$T/hold"
take() {
	: >"$T/taken"
	exec 9<>"$T/hold"
	"$GUESTS/attack_pin" "$1" $size "${2:-pin}" <"$T/hold" >"$T/taken" 9>&- &
	taker=$!
	until_true 10 test -s "$T/taken"
	grep -Eq 'pinned|open' "$T/taken"
}
let_go() {
	kill $taker
	wait $taker 2>/dev/null
	exec 9>&-
}
count() {
	"$FIRN" snapshots --json | jq '.snapshots | length'
}

# --- a freeze -------------------------------------------------------------------
hander a 5
hander b 6
told "a fills d" filled a fill d 7
if ! take "$(monitor_of a)"; then
	echo "skip pinned pages: cannot open another process's memory"
	exit 0
fi
for i in 1 2; do
	refused "freeze $i of a pinned page" 1 "seal.*freeze again" \
	    "$FIRN" freeze a:d --name x
done
is "no snapshot of it" "$(count)" 0
told "a has all" ok a check d 7
told "a goes on writing" filled a fill d 8
refused "freeze of what it wrote then" 1 "seal.*freeze again" \
    "$FIRN" freeze a:d --name x
told "a has that" ok a check d 8
told "b is as it was" filled b fill d 3
works "freeze of b meanwhile" "$FIRN" freeze b:d --name other
let_go
fz=$("$FIRN" freeze a:d --name x --json)
is "then it is frozen" "$(jq .pages <<<"$fz")" $pages
works "mapped by b" "$FIRN" map b x --name got
told "b sees what a wrote last" ok b check got 8
works "unmapped" "$FIRN" unmap b:got
told "a writes again" filled a fill d 9
works "and is frozen again" "$FIRN" freeze a:d --name y
is "every page was written since" "$("$FIRN" diff x y --json | jq .pages)" \
    $pages
"$FIRN" kill a >/dev/null
for s in x y other; do "$FIRN" drop $s >/dev/null; done

# --- memory that is handed on ---------------------------------------------------
hander c 7
told "c fills d" filled c fill d 7
take "$(monitor_of c)" open || not_ok "opened by another" "$(cat "$T/taken")"
for i in 1 2; do
	refused "sever $i of what somebody has open" 1 "" \
	    "$FIRN" sever c:d --name s
done
told "c reads zero" ok c check d 0
let_go
is "then it is severed, owned" \
    "$("$FIRN" sever c:d --name s --json | jq .owned)" true
works "adopted by b" "$FIRN" adopt b s --name took
told "b has what c wrote" ok b check took 7

# Pinned pages are not seen by the proof of who has memory, but by who seals it.
hander e 8
told "e fills d" filled e fill d 6
take "$(monitor_of e)" || not_ok "pinned" "$(cat "$T/taken")"
is "severed, owned" "$("$FIRN" sever e:d --name p --json | jq .owned)" true
refused "cannot be sealed for a map" 1 "seal" "$FIRN" map b p
is "owned still" "$("$FIRN" show p --json | jq .owned)" true
let_go
works "then it can" "$FIRN" map b p --name sealed
told "b has what e wrote" ok b check sealed 6
is "owned no more" "$("$FIRN" show p --json | jq .owned)" false

# Nor by who adopts: it gets the memory, and loses nothing. That cannot be sealed
# either, so it is frozen once the page is let go.
hander f 10
told "f fills d" filled f fill d 5
take "$(monitor_of f)" || not_ok "pinned" "$(cat "$T/taken")"
before=$(count)
is "severed while pinned, owned" \
    "$("$FIRN" sever f:d --name q --json | jq .owned)" true
told "f reads zero" ok f check d 0
works "adopted by b while pinned" "$FIRN" adopt b q --name mine
is "the capability is gone" "$(count)" "$before"
told "b has what f wrote" ok b check mine 5
told "b writes it in place" filled b fill mine 4
refused "freeze of what is adopted and pinned" 1 "seal.*freeze again" \
    "$FIRN" freeze b:mine --name r
told "b has all" ok b check mine 4
refused "sever of that" 1 "seal.*freeze again" "$FIRN" sever b:mine --name r
is "no snapshot of it" "$(count)" "$before"
let_go
is "then it is frozen" \
    "$("$FIRN" freeze b:mine --name r --json | jq .pages)" $pages
told "b has all still" ok b check mine 4
told "f goes on" filled f fill d 3
works "mapped by f" "$FIRN" map f r --name back
told "f sees what b wrote" ok f check back 4
works "unmapped by f" "$FIRN" unmap f:back
works "dropped" "$FIRN" drop r
works "taken away" "$FIRN" unmap b:mine
is "nothing is left of it" "$(count)" "$before"
