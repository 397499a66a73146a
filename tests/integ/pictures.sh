#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Heatmaps and graphs: known pages light up, known relatives are joined.
. "$(dirname "$0")/lib.sh"

start_daemon
n=1000
stamper v $n || { not_ok "a stamper starts" "$(cat "$T/v.err")"; exit 1; }
heat() { "$FIRN" heatmap "$@"; }

# lit COLOUR FILE: the pages of the drawing's cells of that colour, sorted.
lit() {
	sed -n "s/.*fill=\"$1\"><title>pages \([0-9]*\) to \([0-9]*\),.*/\1 \2/p" \
	    "$2" | awk '{ for (i = $1; i <= $2; i++) print i }' | sort -nu
}
# newest_in JSON: the pages of cells whose newest layer is the newest of all.
newest_in() {
	jq -r '.cell_pages as $p | .cells | to_entries[] |
	    select(.value[1] == 0) | .key * $p' <<<"$1"
}

# --- known pages light up -----------------------------------------------------
stamp_round v
"$FIRN" freeze v:data --name s0 >/dev/null
for i in 1 2 3; do
	stamp_round v
	cp "$T/round" "$T/round.$i"
	"$FIRN" freeze v:data --name "s$i" >/dev/null
done
json=$(heat s3 --json)
is "heatmap: pages" "$(jq .pages <<<"$json")" $n
is "heatmap: a page a cell" "$(jq -c '[.cell_pages, (.cells | length)]' \
    <<<"$json")" "[1,$n]"
is "heatmap: a layer for each freeze" "$(jq '.layers | length' <<<"$json")" 4
newest_in "$json" >"$T/got"
works "the pages written last are the newest" diff "$T/round.3" "$T/got"
is "older layers are older" "$(jq '[.layers[].age_ns] | . == sort' \
    <<<"$json")" true
is "layers have all pages that are not zero" "$(jq '([.layers[].pages] | add) ==
    ([.cells[][0]] | add)' <<<"$json")" true
heat s3 --svg "$T/age.svg"
lit '#fde725' "$T/age.svg" >"$T/got"
works "they are bright in the drawing" diff "$T/round.3" "$T/got"
heat s1 --svg "$T/age.svg"
lit '#fde725' "$T/age.svg" >"$T/got"
works "of an older snapshot, its own" diff "$T/round.1" "$T/got"
stamp_round v
newest_in "$(heat v:data --json)" >"$T/got"
works "what a segment's guest just wrote is the newest" \
    diff "$T/round" "$T/got"
is "looking makes no snapshot" "$("$FIRN" snapshots --json |
    jq '.snapshots | length')" 4
"$FIRN" heatmap s3 --by layer --svg "$T/layer.svg"
works "by layer: the largest has the first colour" \
    grep -q 'fill="#0072b2"' "$T/layer.svg"
is "by layer: the legend has all four" \
    "$(grep -c '<text.*freeze [0-9]*: [0-9]* pages' "$T/layer.svg")" 4

# --- in text ------------------------------------------------------------------
# shaded FILE: what stands for the newest in a text without colours, as pages.
shaded() {
	sed -n 's/^ *0x[0-9a-f]* //p' "$1" | tr -d '\n' | grep -ob '@' |
	    cut -d: -f1
}
heat s3 >"$T/text"
shaded "$T/text" >"$T/got"
works "in letters where stdout is no terminal" diff "$T/round.3" "$T/got"
is "it fits 80 columns" "$(awk 'length > 80' "$T/text" | wc -l)" 0
is "a COLUMNS that is no number counts for none" \
    "$(COLUMNS=-5 "$FIRN" heatmap s3 | grep '^ *0x')" \
    "$(COLUMNS='' "$FIRN" heatmap s3 | grep '^ *0x')"
is "it fits what COLUMNS says" "$(COLUMNS=40 "$FIRN" heatmap s3 |
    grep '^ *0x' | awk 'length > 40' | wc -l)" 0
is "--width: longer rows" "$(heat s3 --width 150 | sed -n 2p | tr -d '\n' |
    wc -c)" 141
like "letters by layer" "$(heat s3 --by layer)" 'A [0-9]+ pages, .* old'
if command -v script >/dev/null; then
	TERM=xterm-256color script -qec "$FIRN heatmap s3" "$T/tty" >/dev/null
	works "half blocks in a terminal" grep -q $'38;5;227m.*\u2580' "$T/tty"
	NO_COLOR=1 TERM=xterm-256color script -qec "$FIRN heatmap s3" "$T/tty" \
	    >/dev/null
	is "none with NO_COLOR" "$(grep -c $'\033' "$T/tty")" 0
	LC_ALL=C TERM=xterm-256color script -qec "$FIRN heatmap s3" "$T/tty" \
	    >/dev/null
	is "none where UTF-8 is not spoken" "$(grep -c $'\033' "$T/tty")" 0
fi

# --- many pages, no pages -----------------------------------------------------
truncate -s 512M "$T/big"
printf x | dd of="$T/big" bs=4096 seek=100000 conv=notrunc status=none
"$FIRN" import "$T/big" --name big >/dev/null
rm "$T/big"
json=$(heat big --json)
is "a large one: no more cells than fit" \
    "$(jq '.cells | length <= 64 * 20' <<<"$json")" true
is "one page of it lights up" "$(jq -c '.cell_pages as $p | [.cells |
    to_entries[] | select(.value[0] > 0) |
    [.key == (100000 / $p | floor), .value]]' <<<"$json")" '[[true,[1,0,0]]]'
heat big --svg "$T/big.svg"
lit '#fde725' "$T/big.svg" >"$T/got"
works "and in the drawing" grep -qx 100000 "$T/got"
head -c 12288 /dev/zero >"$T/zero"
"$FIRN" import "$T/zero" --name zero >/dev/null
is "nothing but zeroes" "$(heat zero --json | jq -c '[.cells, .layers]')" \
    '[[[0,null,null],[0,null,null],[0,null,null]],[]]'
like "and in text" "$(heat zero)" '0x0000 \.\.\.$'
works "and drawn" heat zero --svg "$T/zero.svg"

refused "heatmap of nothing" 1 "no snapshot 'nix'" "$FIRN" heatmap nix
refused "heatmap of no segment" 1 "" "$FIRN" heatmap v:nix
refused "heatmap by what" 2 "not age or layer" "$FIRN" heatmap s3 --by x
refused "heatmap too narrow" 2 "24 to 512" "$FIRN" heatmap s3 --width 3
refused "heatmap into a directory" 1 "regular file" "$FIRN" heatmap s3 \
    --svg "$T"
refused "heatmap into nowhere" 1 "No such file" "$FIRN" heatmap s3 \
    --svg "$T/no/x.svg"

# --- graph --------------------------------------------------------------------
id() { "$FIRN" show "$1" --json | jq .id; }
a=$(id s0) b=$(id s1)
dot=$("$FIRN" graph)
like "graph: a snapshot" "$dot" "^	s$a \[label=\"s0\\\\n3\.9M\""
like "graph: how much differs" "$dot" \
    "^	s$b \[label=\"s1\\\\n3\.9M, $(wc -l <"$T/round.1") differ\""
like "graph: its parent" "$dot" "^	s$a -> s$b;"
like "graph: others" "$dot" 'label="zero\\n12K"'
is "graph of a family: the others are not in it" \
    "$("$FIRN" graph s2 | grep -c 'label="\(zero\|big\)')" 0
is "graph of a family: all of it" \
    "$("$FIRN" graph s2 | grep -c '^	s[0-9]* \[label')" 4
is "graph of two families" \
    "$("$FIRN" graph s2 zero | grep -c '^	s[0-9]* \[label')" 5
is "graph, by id" "$("$FIRN" graph "$a" --json | jq '.snapshots | length')" 4
is "graph: JSON" "$("$FIRN" graph s0 --json |
    jq -c "[.snapshots[] | select(.id == $b) | .parents]")" "[[$a]]"
"$FIRN" graph --dot "$T/g.dot"
works "graph: into a file" diff "$T/g.dot" <(echo "$dot")
# Melded ones have two parents, owned ones are dashed.
for f in a b; do
	"$FIRN" map v s0 --cow --name "w$f" >/dev/null
	"$FIRN" freeze "v:w$f" --name "m$f" >/dev/null
done
"$FIRN" meld s0 ma mb --blind --name m >/dev/null
dot=$("$FIRN" graph)
like "graph: a melded one" "$dot" "^	s$(id m) .*style=\"rounded,bold\""
for f in ma mb; do
	like "graph: melded of $f" "$dot" "^	s$(id $f) -> s$(id m) \[style=bold\];"
done
mkfifo "$T/own.in"
exec 6<>"$T/own.in"
"$FIRN" run --detach --name o --segment data=256K "$GUESTS/stamp" data 64 42 \
    <"$T/own.in" >"$T/own.out" 2>&1
echo >&6
until_true 10 grep -q '^round 1:' "$T/own.out"
"$FIRN" sever o:data --name own >/dev/null
like "graph: an owned one" "$("$FIRN" graph own)" 'style="rounded,dashed"'
is "a heatmap leaves it owned" "$("$FIRN" heatmap own --json |
    jq '.cells | length') $("$FIRN" show own --json | jq .owned)" "64 true"
is "a diff with one that is no relative seals it" \
    "$("$FIRN" diff own s0 --json | jq .exact) $("$FIRN" show own --json |
    jq .owned)" "true false"

# One that the caller dropped is nobody's parent in it.
"$FIRN" drop s1
is "graph over a gap" "$("$FIRN" graph --dot "$T/g.dot" &&
    grep -c "^	s$b \| s$b;" "$T/g.dot")" 0
works "graph over a gap: the nearest ancestor" \
    grep -q "^	s$a -> s$(id s2);" "$T/g.dot"
refused "graph of nothing" 1 "no snapshot 'nix'" "$FIRN" graph nix
refused "graph into a directory" 1 "regular file" "$FIRN" graph --dot "$T"
if command -v dot >/dev/null; then
	works "graph: drawn" "$FIRN" graph --svg "$T/g.svg"
	works "graph: the drawing has the names" grep -q '>s3<' "$T/g.svg"
	# Without Graphviz, as far as the command can see.
	if unshare -m true 2>/dev/null; then
		: >"$T/nodot"
		chmod 644 "$T/nodot"
		refused "graph: no Graphviz" 1 "is graphviz installed" \
		    unshare -m sh -c "mount --bind '$T/nodot' '$(readlink -f \
		    "$(command -v dot)")' && exec '$FIRN' graph --svg '$T/x.svg'"
	fi
else
	refused "graph: no Graphviz" 1 "is graphviz installed" \
	    "$FIRN" graph --svg "$T/x.svg"
fi
[ ! -e "$T/x.svg" ] && ok "graph: nothing is left of it"
