#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Where a command's output goes: what does not arrive is a failure, a file that
# is there survives one, and names that are none are refused as such.
. "$(dirname "$0")/lib.sh"

# lost NAME COMMAND...: status 1 and one line where stdout takes nothing.
lost() {
	local name=$1 status=0
	shift
	"$FIRN" "$@" >/dev/full 2>"$T/err" </dev/null || status=$?
	is "$name to a full device" "$status $(cat "$T/err")" \
	    "1 firn: cannot write to stdout"
}

lost "help" --help
lost "help of a command" ps --help
lost "the version" --version
start_daemon
stamper v 64 || not_ok "a detached guest starts" "$(cat "$T/v.err")"
works "freeze" "$FIRN" freeze v:data --name a
for v in ps "ps --json" snapshots "segments v" "show a" "show a --json" \
    "diff a a" "diff a a --json" graph stats "heatmap a" "track v:t" \
    "dirty v:data --cursor c" "freeze v:data" "run --detach $GUESTS/hello" \
    "run --json $GUESTS/hello"; do
	[ "$v" != "track v:t" ] || "$FIRN" map v a --track --name t >/dev/null
	# shellcheck disable=SC2086
	lost "$v" $v
done
"$FIRN" read a 0 4K >/dev/full 2>"$T/err"
is "read to a full device" "$? $(wc -l <"$T/err")" "1 1"
"$FIRN" ps >&-
is "stdout is closed" $? 0
is "the version, of a command" "$("$FIRN" ps --version)" "$("$FIRN" --version)"

# --- a bitmap's file ------------------------------------------------------------
"$FIRN" dirty v:data --cursor b >/dev/null
stamp_round v || not_ok "the guest writes" "it does not"
dirtied=$(wc -l <"$T/round")
seq 99999 >"$T/old"
cp "$T/old" "$T/same"
refused "a bitmap of nothing" 1 "none" \
    "$FIRN" dirty v:none --cursor b --bitmap "$T/old"
works "leaves the file as it was" cmp "$T/old" "$T/same"
refused "a bitmap of nothing, new" 1 "none" \
    "$FIRN" dirty v:none --cursor b --bitmap "$T/new"
is "makes no file" "$(ls "$T/new" 2>/dev/null)" ""
refused "a bitmap into no directory" 1 "No such file" \
    "$FIRN" dirty v:data --cursor b --bitmap "$T/none/b"
refused "a bitmap into a directory" 1 "directory" \
    "$FIRN" dirty v:data --cursor b --bitmap "$T"
# A link, so that a mistake takes that and no device away.
ln -s /dev/full "$T/full"
refused "a bitmap to a full device" 1 "No space" \
    "$FIRN" dirty v:data --cursor b --peek --bitmap "$T/full"
works "leaves it there" test -L "$T/full"
is "nothing of that moved the cursor" "$("$FIRN" dirty v:data --cursor b \
    --peek --json --bitmap "$T/old" | jq -c .)" \
    "{\"pages\":$dirtied,\"bitmap\":\"$T/old\"}"
is "a file that was longer is cut" "$(stat -c %s "$T/old")" 8
refused "where it cannot be kept, that is said" 1 "the cursor has advanced" \
    "$FIRN" dirty v:data --cursor b --bitmap "$T/full"

# --- names ----------------------------------------------------------------------
raw=$'\377'
for v in "freeze v:data --name $raw" "diff a $raw" "read $raw 0 1" \
    "meld a a $raw" "track v:$raw" "run --name $raw $GUESTS/hello"; do
	# shellcheck disable=SC2086
	refused "not UTF-8: ${v%% *}" 1 "not UTF-8" "$FIRN" $v
done
for n in -x 12 a:b 'a b' "$(printf '%064d' 1)x"; do
	for v in "run --name N $GUESTS/hello" "freeze v:data --name N" \
	    "map v a --name N" "dirty v:data --cursor N"; do
		readarray -t words < <(tr ' ' '\n' <<<"$v")
		refused "${words[0]} with the name '$n'" 1 \
		    "is not a name: it has 1 to 6[23] letters" \
		    "$FIRN" "${words[@]/#N/$n}"
	done
done
for v in "freeze v:" "sever v:" "dirty v: --cursor c" "diff a v:" \
    "heatmap v:"; do
	# shellcheck disable=SC2086
	refused "no segment's name: ${v%% *}" 1 "no segment ''" "$FIRN" $v
done
refused "take what the guest has not" 1 "the guest has no snapshot" \
    "$FIRN" take v a
like "snapshots: no column is empty" "$("$FIRN" snapshots | head -1)" \
    '^ *ID +NAME +PAGES +SIZE +ORIGIN +PARENT$'
