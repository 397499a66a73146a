#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Sever and adopt: memory goes from VM to VM, and only one has it.
. "$(dirname "$0")/lib.sh"

start_daemon
size=16M
pages=4096
rounds=500 # there and back: a thousand hand-overs
# Slower ones make fewer; without sanitizers it is a thousand.
[ -z "${SANITIZED:-}" ] || rounds=100
if [ "$SCALE" = small ]; then
	size=4M
	pages=1024
	rounds=20
fi
declare -A in lines

# hander NAME FD [OPTION...]: a guest that is told what to do.
hander() {
	local n=$1 fd=$2
	shift 2
	mkfifo "$T/$n.in"
	eval "exec $fd<>'$T/$n.in'"
	in[$n]=$fd
	lines[$n]=2 # its name, and "ready"
	"$FIRN" run --detach --name "$n" "$@" "$GUESTS/hand" \
	    <"$T/$n.in" >"$T/$n.out" 2>"$T/$n.err" ||
	    { not_ok "$n starts" "$(cat "$T/$n.err")"; exit 1; }
	until_true 10 grep -q '^ready' "$T/$n.out"
}

answered() {
	[ "$(wc -l <"$T/$1.out")" -ge "$2" ]
}

# tell NAME WORD...: the guest's answer.
tell() {
	local n=$1
	shift
	lines[$n]=$((lines[$n] + 1))
	echo "$*" >&"${in[$n]}"
	until_true 60 answered "$n" "${lines[$n]}" || echo "no answer"
	answer=$(sed -n "${lines[$n]}p" "$T/$n.out")
}

# told NAME ANSWER GUEST WORD...
told() {
	local name=$1 want=$2
	shift 2
	tell "$@"
	is "$name" "$answer" "$want"
}

stat_of() {
	"$FIRN" show "$1" --json | jq -r ".$2"
}

hander a 5 --segment d=$size --segment e=4M
hander b 6 --segment d=$size

# --- from one VM to another, by their owner ---------------------------------------
told "a fills d" filled a fill d 7
sv=$("$FIRN" sever a:d --name s --json)
is "sever: owned" "$(jq .owned <<<"$sv")" true
is "sever: nothing copied" "$(jq .copied_pages <<<"$sv")" 0
is "sever: all of it" "$(jq .dirty_pages <<<"$sv")" $pages
is "show says so" "$(stat_of s owned)" true
told "a reads zero" ok a check d 0
for verb in "read s 0 8" "export s $T/f --format raw"; do
	# shellcheck disable=SC2086
	refused "owned: no $verb" 1 "owned.*map.*derive|map.*seals" "$FIRN" $verb
done
ad=$("$FIRN" adopt b s --name got --gpa 0x8000000000 --json)
is "adopt: not copied" "$(jq .copied_on_write <<<"$ad")" false
is "adopt: where it was wanted" "$(jq .gpa <<<"$ad")" $((0x8000000000))
refused "the snapshot is gone" 1 "no snapshot" "$FIRN" show s
told "b has what a wrote" ok b check got 7
told "b writes it" filled b fill got 8
told "b has what it wrote" ok b check got 8
told "a reads zero still" ok a check d 0
is "b's place is a segment" "$("$FIRN" segments b --json |
    jq -r '.segments[] | select(.name == "got") | .kind')" segment

# The first freeze of what was adopted is as of any segment.
told "b fills d" filled b fill d 1
"$FIRN" sever b:d --name whole >/dev/null
works "b adopts its own" "$FIRN" adopt b whole --name whole
is "freeze of what was adopted: nothing copied" \
    "$("$FIRN" freeze b:whole --name frozen --json | jq .copied_pages)" 0
is "its bytes" "$("$FIRN" read frozen 8192 16 | od -A n -t u8 | tr -s ' ')" \
    " 1 2"
told "b writes it still" filled b fill whole 2
is "a later sever is sealed" \
    "$("$FIRN" sever b:whole --name later --json | jq .owned)" false
works "and b's place can go" "$FIRN" unmap b:whole

# --- again, and back, by the guests --------------------------------------------------
told "b severs what it adopted" "cap owned=1 sealed=0 pages=$pages" \
    b sever got back
refused "its owner has no second capability" 1 "no snapshot" \
    "$FIRN" show b/back
told "b's place reads zero" ok b check got 0
works "b's place goes" "$FIRN" unmap b:got
like "take moves" "$("$FIRN" take b back --json)" '"moved": ?true'
told "b has it no more" "error No such file or directory" b describe back
like "give moves" "$("$FIRN" give a back --name mine --json)" '"moved": ?true'
refused "its owner has it no more" 1 "no snapshot" "$FIRN" show back
told "a is the only one" "cap owned=1 sealed=0 pages=$pages" a describe mine
tell a adopt mine
like "a adopts it" "$answer" '^adopt [0-9]+$'
told "the capability is gone" "error No such file or directory" a describe mine
told "a has what b wrote" ok a check 0 8
told "a unmaps it" unmapped a unmap "${answer:+$(awk '/^adopt/ { n = $2 } END { print n }' "$T/a.out")}"

# --- what seals it -----------------------------------------------------------------
told "a fills d again" filled a fill d 9
told "a severs it" "cap owned=1 sealed=0 pages=$pages" a sever d one
told "a derivation seals it" "cap owned=0 sealed=1 pages=$pages" a derive one
told "the first as well" "cap owned=0 sealed=1 pages=$pages" a describe one
like "take copies" "$("$FIRN" take a one --name one --json)" '"moved": ?false'
told "a has it still" "cap owned=0 sealed=1 pages=$pages" a describe one
ad=$("$FIRN" adopt b one --name cow --json)
is "adopting what is sealed is a copy" "$(jq .copied_on_write <<<"$ad")" true
works "it remains" "$FIRN" show one
told "b has what a wrote" ok b check cow 9
told "b writes its copy" filled b fill cow 10
is "which the snapshot is not" "$("$FIRN" read one 0 8 | od -A n -t u8 |
    tr -d ' ')" 9
told "a fills e" filled a fill e 11
"$FIRN" sever a:e --name two >/dev/null
works "a map seals it" "$FIRN" map b two --name view
is "and says so" "$(stat_of two owned)" false
told "what it shows" ok b check view 11

# --- refusals -----------------------------------------------------------------------
refused "sever with a live view" 1 "'b' shows a snapshot.*unmap" \
    "$FIRN" sever a:e
told "sever by the guest, too" "error Device or resource busy" a sever e x
for v in view cow; do
	works "$v is unmapped" "$FIRN" unmap "b:$v"
done
works "then it can be severed" "$FIRN" sever a:e
refused "sever of segment 0" 1 "segment 0" "$FIRN" sever a:0
refused "unmap of a segment" 1 "is a segment" "$FIRN" unmap b:0
refused "adopt of nothing" 1 "no snapshot" "$FIRN" adopt b none
told "a fills e again" filled a fill e 1
"$FIRN" sever a:e --name e >/dev/null
refused "adopt at an odd address" 1 "aligned" "$FIRN" adopt b e --gpa 4096
refused "adopt over another" 1 "" "$FIRN" adopt b e --gpa 0x100000000
is "nothing is lost by that" "$(stat_of e owned)" true
"$FIRN" freeze b:d --name f >/dev/null
works "an exact comparison" "$FIRN" diff e e --exact
is "seals it" "$(stat_of e owned)" false
told "a fills e again" filled a fill e 2
"$FIRN" sever a:e --name e2 >/dev/null
refused "a launch that fails" 1 "" "$FIRN" run --detach --give x=e2 "$0"
is "gives nothing away" "$(stat_of e2 owned)" true
hander c 7 --give x=e2
refused "a launch moves it" 1 "no snapshot" "$FIRN" show e2
told "to the guest" "cap owned=1 sealed=0 pages=1024" c describe x
tell c adopt x
told "which has it" ok c check 0 2
works "c is ended" "$FIRN" kill c
works "and gone" "$FIRN" wait c

# --- what somebody keeps comes to light ----------------------------------------------
told "a fills d to be kept" filled a fill d 4
"$FIRN" sever a:d --name kept >/dev/null
firnd=$(pgrep -P "$daemon_pid" -x firnd || echo "$daemon_pid")
for f in "/proc/$firnd/fd"/*; do
	[[ $(readlink "$f") == "/memfd:firn "* ]] &&
	    grep -q '^flags:.*2$' "/proc/$firnd/fdinfo/${f##*/}" && exec 9<>"$f"
done
refused "adopt of what somebody keeps" 1 "somebody else" "$FIRN" adopt b kept
is "it is not called owned" "$(stat_of kept owned)" false
refused "nor given on" 1 "somebody else" "$FIRN" give b kept
exec 9>&-
is "until it is let go" "$(stat_of kept owned)" true
works "then it is adopted" "$FIRN" adopt b kept --name kept
told "unharmed" ok b check kept 4

# --- a monitor that dies has nothing of it ---------------------------------------------
told "a fills d for it" filled a fill d 3
"$FIRN" sever a:d --name last >/dev/null
works "it is given" "$FIRN" give b last
kill -9 "$(pid_of b)"
"$FIRN" wait b >/dev/null 2>&1
refused "and gone with who had it" 1 "no snapshot" "$FIRN" show last
exec 6>&-
rm -f "$T/b.in"
hander b 6

# --- to and fro ------------------------------------------------------------------------
fds() {
	local n=0 p
	for p in "$(pid_of a)" "$(pid_of b)" \
	    "$(pgrep -P "$daemon_pid" -x firnd || echo "$daemon_pid")"; do
		n=$((n + $(find "/proc/$p/fd" -type l 2>/dev/null | wc -l)))
	done
	echo "$n"
}
there_and_back() {
	"$FIRN" sever a:d --name h && "$FIRN" adopt b h --name d &&
	    "$FIRN" sever b:d --name h && "$FIRN" unmap b:d &&
	    "$FIRN" unmap a:d && "$FIRN" adopt a h --name d
}
now_is() {
	fds
	"$FIRN" segments a --json | jq -c '[.segments[] | [.name, .size]]'
	"$FIRN" segments b --json | jq -c '[.segments[] | [.name, .size]]'
	"$FIRN" stats --json |
	    jq -c '[.reserved_bytes, .layers, .layer_bytes, .snapshots]'
}
is_as_before() {
	[ "$(now_is)" = "$before" ]
}
told "a fills d to hand it over" filled a fill d 12
works "there and back" there_and_back
told "it has come back" ok a check d 12
before=$(now_is)
for ((i = 0; i < rounds; i++)); do
	there_and_back >/dev/null || { not_ok "hand-over $i" "it failed"; break; }
done
until_true 10 is_as_before
is "hand-overs leave nothing" "$(now_is)" "$before"
told "the memory is the same" ok a check d 12
told "hand-overs within a VM" looped a loop e 100 100
until_true 10 is_as_before
is "leave nothing" "$(now_is)" "$before"
for v in a b; do
	works "$v ends" "$FIRN" kill $v
done
