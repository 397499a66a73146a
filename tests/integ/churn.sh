#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Freeze, map, diff and drop, over and over: what is held stays bounded, and is
# what the kernel says. The figures of `firn stats` against st_blocks and smaps.
. "$(dirname "$0")/lib.sh"

start_daemon
n=4096
rounds=200
[ "$SCALE" != small ] && [ -z "${SANITIZED:-}" ] || rounds=40
stamper v $n || { not_ok "a stamper starts" "$(cat "$T/v.err")"; exit 1; }
firnd=$(pgrep -P "$daemon_pid" -x firnd || echo "$daemon_pid")

stat_of() { jq ".$1" <<<"$stats"; }
count() { stats=$("$FIRN" stats --exact --json); }

# Bytes that the kernel has for the layers' files that firnd has open.
file_bytes() {
	local sum=0 f b
	for f in "/proc/$firnd/fd"/*; do
		case $(readlink "$f") in
		/memfd:*) ;;
		*) continue ;;
		esac
		b=$(stat -L -c '%i %b' "$f") && echo "$b"
	done | sort -u | awk '{ sum += $2 * 512 } END { print sum + 0 }'
}
descriptors() { ls "/proc/$firnd/fd" | wc -l; }
rss() { awk '/^VmRSS/ { print $2 }' "/proc/$firnd/status"; }

# --- churn --------------------------------------------------------------------
stamp_round v
"$FIRN" freeze v:data --name first >/dev/null
last=first
cycle() {
	local name=c$1
	stamp_round v
	"$FIRN" freeze v:data --name "$name" >/dev/null || return 1
	"$FIRN" diff "$last" "$name" >/dev/null || return 1
	if [ $(($1 % 5)) = 0 ]; then
		"$FIRN" map v "$name" --name w >/dev/null || return 1
		"$FIRN" unmap v:w >/dev/null || return 1
	fi
	[ "$last" = first ] || "$FIRN" drop "$last" >/dev/null || return 1
	last=$name
}
failed=0
# What firnd allocates once it has by the time that files were rewritten; that
# takes too long where a cycle takes a second.
warm=0
rewritten() { count && [ "$(stat_of moved_files)" -gt 0 ]; }
warm_enough() {
	[ $warm -ge 20 ] || return 1
	[ "$SCALE" = small ] || [ $warm -ge 400 ] || rewritten
}
until warm_enough; do
	warm=$((warm + 1))
	cycle $warm || failed=$((failed + 1))
done
[ "$SCALE" = small ] || works "files are rewritten" rewritten
count
fds=$(descriptors)
kib=$(rss)
for i in $(seq $((warm + 1)) $((warm + rounds))); do
	cycle "$i" || failed=$((failed + 1))
done
is "all cycles work" "$failed" 0
count
is "two snapshots are left" "$(stat_of snapshots)" 2
is "held: at most twice what is reachable, what is pinned, and 4 MiB" \
    "$(jq '.layer_bytes <= 2 * .live_bytes + .pinned_bytes + 4194304' \
    <<<"$stats")" true
is "descriptors as before, or fewer than merging allows" \
    "$(($(descriptors) <= fds + 128))" 1
if [ -n "${SANITIZED:-}" ]; then
	echo "skip memory of firnd as before: a sanitizer keeps what is freed"
else
	is "memory of firnd as before" "$(($(rss) <= kib + 1024))" 1
fi

# --- against the kernel ---------------------------------------------------------
settled() {
	count
	[ "$(file_bytes)" = "$(stat_of layer_bytes)" ]
}
until_true 10 settled
is "layer_bytes is what the files have" "$(stat_of layer_bytes)" \
    "$(file_bytes)"
is "live and dead are all" \
    "$(jq '.live_bytes + .dead_bytes == .layer_bytes' <<<"$stats")" true
mon=$(pid_of v)
anon=$(awk '/^Anonymous:/ { sum += $2 } END { print sum * 1024 }' \
    "/proc/$mon/smaps")
is "private bytes are in the monitor's anonymous memory or its files" \
    "$(jq --argjson a "$anon" \
    '.private_bytes > 0 and .private_bytes <= $a + 268435456' <<<"$stats")" true
is "nobody was silent" "$(stat_of silent_vms)" 0
like "stats prints" "$("$FIRN" stats)" '^  dead +'

# --- the bytes are right all the while -----------------------------------------
"$FIRN" read "$last" 0 $((n * 4096)) >"$T/before"
"$FIRN" drop first >/dev/null
until_true 10 settled
works "read after the giving back" \
    cmp "$T/before" <("$FIRN" read "$last" 0 $((n * 4096)))
"$FIRN" run --give "x=$last" "$GUESTS/snapcat" x >"$T/got" 2>"$T/err"
works "mapped after the giving back" cmp "$T/before" "$T/got"

# --- nothing is left -------------------------------------------------------------
"$FIRN" drop "$last" >/dev/null
"$FIRN" kill v >/dev/null
empty() {
	count
	[ "$(stat_of layer_bytes)" = 0 ] && [ "$(stat_of files)" = 0 ]
}
until_true 10 empty
is "no layer" "$(stat_of layers)" 0
is "no file" "$(stat_of files)" 0
is "no node" "$(stat_of nodes)" 0
is "no byte, as the kernel says" "$(file_bytes)" 0
