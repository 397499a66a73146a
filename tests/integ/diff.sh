#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Diffs of any two snapshots: unrelated ones, of different sizes, with segments.
. "$(dirname "$0")/lib.sh"

start_daemon

# pages FILE TAG...: a page a tag; 0 is a page of zeroes.
pages() {
	local file=$1 tag
	shift
	for tag in "$@"; do
		if [ "$tag" = 0 ]; then
			head -c 4096 /dev/zero
		else
			printf '%4096s' "$tag"
		fi
	done >"$file"
}
# differ A B: [[first, count], ...]; and that it was exact.
differ() {
	"$FIRN" diff "$1" "$2" --json | jq -c '[.exact, .extents]'
}

pages "$T/a" 1 2 3 4 5 6 7
pages "$T/b" 1 2 x 4
pages "$T/c" 1 2 3 4 0 0 7 0 9
pages "$T/d" 0 0 0
for f in a b c d; do
	"$FIRN" import "$T/$f" --name $f >/dev/null || not_ok "import $f" "no"
done
is "the same bytes in other layers" "$("$FIRN" import "$T/a" --name a2 \
    >/dev/null && differ a a2)" '[true,[]]'
is "unrelated and shorter" "$(differ a b)" '[true,[[2,1],[4,3]]]'
is "the other way" "$(differ b a)" '[true,[[2,1],[4,3]]]'
is "zeroes beyond the end do not differ" "$(differ a c)" \
    '[true,[[4,2],[8,1]]]'
is "with nothing but zeroes" "$(differ d a)" '[true,[[0,7]]]'
is "zeroes with zeroes of another size" "$(pages "$T/e" 0 0 0 0 0 &&
    "$FIRN" import "$T/e" --name e >/dev/null && differ d e)" '[true,[]]'
is "its pages" "$("$FIRN" diff a b --json | jq .pages)" 4
like "it says that bytes were compared" "$("$FIRN" diff a b)" 'bytes compared'

stamper v 64 || { not_ok "a stamper starts" "$(cat "$T/v.err")"; exit 1; }
stamp_round v
"$FIRN" freeze v:data --name s >/dev/null
stamp_round v
"$FIRN" freeze v:data --name t >/dev/null
is "relatives are compared by place" \
    "$("$FIRN" diff s t --json | jq .exact)" false
is "exactly when asked" "$("$FIRN" diff s t --exact --json | jq .exact)" true
before=$("$FIRN" diff s t --json | jq -c '[.exact, .extents]')
"$FIRN" read s 0 $((64 * 4096)) >"$T/s"
"$FIRN" read t 0 $((64 * 4096)) >"$T/t"
is "reading them changes nothing of it" "$("$FIRN" diff s t --json |
    jq -c '[.exact, .extents]')" "$before"
is "nor what is read" "$("$FIRN" read t 0 $((64 * 4096)) | cmp - "$T/t" &&
    "$FIRN" read s 0 $((64 * 4096)) | cmp - "$T/s" && echo same)" same
is "bytes in JSON" "$("$FIRN" read s 4090 70000 --json)" \
    "{\"offset\":4090,\"length\":70000,\"hex\":\"$(tail -c +4091 "$T/s" |
        head -c 70000 | od -An -v -tx1 | tr -d ' \n')\"}"
is "no bytes in JSON" "$("$FIRN" read s 0 0 --json)" \
    '{"offset":0,"length":0,"hex":""}'
"$FIRN" import "$T/s" --name s2 >/dev/null
is "a segment's snapshot and a copy of it" "$(differ s s2)" '[true,[]]'
is "a copy with a relative" "$(differ s2 t)" "$("$FIRN" diff s t --exact \
    --json | jq -c '[true, .extents]')"
is "a copy with the live segment" "$(differ s2 v:data)" "$("$FIRN" diff s \
    v:data --exact --json | jq -c '[true, .extents]')"

refused "no such snapshot" 1 "no snapshot 'nix'" "$FIRN" diff a nix
refused "no such segment" 1 "" "$FIRN" diff a v:nix
