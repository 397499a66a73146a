#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Each protection is tried by a guest that was given a snapshot; each attempt is
# refused and named, and a bystander goes on.
. "$(dirname "$0")/../integ/lib.sh"

start_daemon
stamper bystander 256 || { not_ok "a bystander starts" ""; exit 1; }
stamp_round bystander
"$FIRN" freeze bystander:data --name v1 >/dev/null
before=$("$FIRN" read v1 0 1M | sha256sum)
give=(run --give db=v1)

"$FIRN" "${give[@]}" "$GUESTS/db_attack" write db >"$T/out" 2>"$T/err"
is "write to a read-only view: status" $? 139
like "write to a read-only view: named" "$(cat "$T/err")" \
    'write to read-only view "[^"]*" of snapshot [0-9]+, page 0'
for kind in forge wrap twice; do
	works "$kind" "$FIRN" "${give[@]}" "$GUESTS/db_attack" $kind db
done
for kind in null wild read noncanonical window ram-window kernel write-text \
    exec-data stack-overflow guard freed readonly; do
	"$FIRN" run "$GUESTS/fault" $kind >"$T/out" 2>"$T/err"
	is "$kind ends the guest" $? 139
	like "$kind is named" "$(head -n 1 "$T/err")" \
	    '^firn: .*: the guest was ended: .'
	is "$kind is all that was said" "$(cat "$T/out")" ""
done

# --- holes: reading them must not grow the layer ---------------------------------
# All memfds that firnd holds, in blocks: "a layer grew" shows here.
blocks() {
	find -L "/proc/$daemon_pid/fd" -mindepth 1 -type f -links 0 \
	    -printf '%i %b\n' 2>/dev/null | sort -u |
	    awk '{ n += $2 } END { print n + 0 }'
}
"$FIRN" run --name sparse --segment db=64M --detach "$GUESTS/db_attack" \
    flip db >/dev/null
"$FIRN" freeze sparse:db --name holes >/dev/null
held=$(blocks)
is "the layer's blocks are counted" "$((held > 0))" 1
works "the holes of a layer are read" \
    "$FIRN" run --give db=holes "$GUESTS/db_attack" holes db
is "by a client too" "$("$FIRN" read holes 0 64M | wc -c)" $((64 << 20))
same_blocks() { [ "$(blocks)" -le "$held" ]; }
works "and no layer grew" until_true 5 same_blocks
"$FIRN" kill sparse

# --- clients --------------------------------------------------------------------------
refused "no path crosses: import of a directory" 1 "" "$FIRN" import "$T"
refused "a name with a slash first is no file" 1 "no snapshot" \
    "$FIRN" read /etc/passwd 0 1
refused "a size that wraps" 1 "" "$FIRN" run --mem 8388607T "$GUESTS/hello"
refused "a read beyond the end" 1 "" "$FIRN" read v1 1M 1
refused "a view of what is no snapshot" 1 "no snapshot" \
    "$FIRN" map bystander 999999

works "the bystander's next round" stamp_round bystander
is "the bystander runs" "$(state_of bystander)" running
is "its snapshot is as it was" "$("$FIRN" read v1 0 1M | sha256sum)" "$before"
