#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What firn says of bytes against what the kernel says of the same: files of
# layers by st_blocks, private memory by the monitors' smaps, to the page. The
# guests are quiet while it is compared.
. "$(dirname "$0")/lib.sh"

start_daemon
n=2048
stamper v $n || { not_ok "a stamper starts" "$(cat "$T/v.err")"; exit 1; }
firnd=$(pgrep -P "$daemon_pid" -x firnd || echo "$daemon_pid")
mon=$(pid_of v)

count() { stats=$("$FIRN" stats --exact --json); }
stat_of() { jq "$1" <<<"$stats"; }
segment() {
	"$FIRN" segments v --json |
	    jq ".segments[] | select(.name == \"$1\") | .$2"
}
# Bytes that the kernel has for all memfds of a process, each counted once.
file_bytes() {
	local f
	for f in "/proc/$1/fd"/*; do
		case $(readlink "$f") in
		/memfd:*) stat -L -c '%i %b' "$f" ;;
		esac
	done | sort -u | awk '{ sum += $2 * 512 } END { print sum + 0 }'
}
# Anonymous memory in the monitor's private mappings of layers: what is private
# to a segment that is all data, and to nothing else.
anonymous() {
	awk '/^[0-9a-f]+-[0-9a-f]+ / { in_file = /memfd:/ && $2 ~ /p$/ }
	    in_file && /^Anonymous:/ { sum += $2 }
	    END { print sum * 1024 }' "/proc/$mon/smaps"
}
# What firn says of all files is what they have.
agree() {
	count
	[ "$(stat_of ".live_bytes + .dead_bytes")" = "$(file_bytes "$firnd")" ]
}

# --- never frozen ---------------------------------------------------------------
stamp_round v
is "never frozen: private is what its memory has" "$(segment data private)" \
    "$(segment data resident)"

# --- frozen ---------------------------------------------------------------------
"$FIRN" freeze v:data --name s0 >/dev/null
is "frozen: nothing is private" "$(segment data private) $(anonymous)" "0 0"
for i in 1 2 3 4 5; do
	stamp_round v
	cat "$T/round" >>"$T/written"
	[ "$i" != 3 ] || "$FIRN" freeze v:data --name s1 >/dev/null
done
pages=$(sort -nu "$T/written" | wc -l)
is "private is what was written since, as smaps says" \
    "$(segment data private)" "$(anonymous)"
is "and as the guest says" "$(anonymous)" $((pages * 4096))
"$FIRN" freeze v:data --name s2 >/dev/null
is "a later freeze leaves it private" "$(segment data private)" "$(anonymous)"

# --- files ----------------------------------------------------------------------
until_true 10 agree
works "live and dead are what files have" agree
is "all is live" "$(stat_of .dead_bytes)" 0
show() { "$FIRN" show "$1" --json | jq "$2"; }
is "show: exclusive and shared are what is live" \
    "$(show s2 '.exclusive_bytes + .shared_bytes == .live_bytes')" true
is "show: the place shares all with its last snapshot" \
    "$(show s2 .exclusive_bytes) $(show s2 .exclusive_node_bytes)" "0 0"
is "show: nodes" "$(show s1 '.node_bytes > .exclusive_node_bytes and
    .exclusive_node_bytes > 0')" true
is "show: the first one is in one file, which its VM pins" \
    "$(show s0 '.files == 1 and .file_bytes == .pinned_bytes')" true
uid=$(id -u)
is "pinned by the user of the VM" \
    "$(stat_of "[.pinned_by[] | [.uid, .vm_bytes, .client_bytes]] ==
    [[$uid, .pinned_bytes, 0]]")" true

# What goes with a snapshot is what it called exclusive.
exclusive=$(show s1 .exclusive_bytes)
nodes=$(show s1 .exclusive_node_bytes)
count
live=$(stat_of .live_bytes)
all=$(stat_of .node_bytes)
"$FIRN" drop s1 >/dev/null
count
is "exclusive bytes go with it" $((live - $(stat_of .live_bytes))) "$exclusive"
is "exclusive nodes go with it" $((all - $(stat_of .node_bytes))) "$nodes"
until_true 10 agree
works "the files are still what firn says" agree

# What nobody reaches but a VM maps is dead, pinned, and told of the snapshot.
"$FIRN" drop s0 >/dev/null
count
is "show: dead in its files" \
    "$(show s2 .dead_bytes)" "$(stat_of .dead_bytes)"
is "dead and pinned" "$(show s2 '.dead_pinned_bytes > 0')" true

# --- what a client has opened ----------------------------------------------------
dd if=/dev/urandom of="$T/disk" bs=4096 count=64 status=none
"$FIRN" import "$T/disk" --name disk >/dev/null
count
is "an importer has had the descriptor" \
    "$(stat_of ".pinned_by[] | select(.uid == $uid) | .client_bytes")" \
    $((64 * 4096))
is "show: opened" \
    "$(show disk "[.pinned_by[] | .uid, .vm_bytes, .client_bytes]" |
    tr -d ' \n')" "[$uid,0,$((64 * 4096))]"
like "show prints" "$("$FIRN" show disk)" \
    "^  pinned by uid $uid: VMs 0[^,]*, clients 256"
like "stats prints" "$("$FIRN" stats)" "^  pinned by uid $uid: VMs"
"$FIRN" drop disk >/dev/null

# --- the end ----------------------------------------------------------------------
"$FIRN" drop s2 >/dev/null
"$FIRN" kill v >/dev/null
none() {
	count
	[ "$(stat_of '.layer_bytes + .node_bytes')" = 0 ]
}
until_true 10 none
works "nothing is left" none
is "nobody pins anything" "$(stat_of .pinned_by)" "[]"
is "no byte, as the kernel says" "$(file_bytes "$firnd")" 0

# --- at rest ----------------------------------------------------------------------
# A snapshot of one entry, not pinned, and nothing is dropped any more.
stamper w $n
stamp_round w
"$FIRN" freeze w:data --name w0 >/dev/null
"$FIRN" kill w >/dev/null
is "one extent" "$(show w0 .extents)" 1
marks() { "$FIRN" stats --json | jq .marks; }
at_rest() {
	local before
	before=$(marks)
	sleep 2
	[ "$(marks)" = "$before" ]
}
works "at rest nobody looks for what is dead" until_true 10 at_rest
"$FIRN" drop w0 >/dev/null

# --- two users ---------------------------------------------------------------------
# Root may use anybody's service: what each has opened is charged to each.
if [ "$(id -u)" != 0 ]; then
	echo "skip two users: only root is another user's client"
	exit
fi
stop_daemon
as="setpriv --reuid 65534 --regid 65534 --clear-groups"
mkdir -p /var/tmp
U=$(mktemp -d -p /var/tmp) # whoever runs the tests, others reach it
cp -r "$BUILD/bin" "$T/disk" "$U"
chmod -R a+rX "$U"
export FIRN_SOCKET=$U/run/sock
mkdir "$U/run"
chown 65534:65534 "$U/run"
$as "$U/bin/firn" daemon 2>"$T/log" </dev/null &
daemon_pid=$!
until_true 10 listens || {
	not_ok "a daemon of another user" "$(cat "$T/log")"
	rm -rf "$U"
	exit 1
}
chmod 666 "$FIRN_SOCKET" # whatever its mode is, who connects is asked for
refused "who is neither of the two" 1 "uid 65533 may not use the service of uid 65534" \
    setpriv --reuid 65533 --regid 65533 --clear-groups "$U/bin/firn" ps
dd if=/dev/urandom of="$U/small" bs=4096 count=16 status=none
chmod a+r "$U/small"
$as env TMPDIR="$U/run" "$U/bin/firn" import "$U/disk" \
    --name theirs >/dev/null
"$FIRN" import "$U/small" --name ours >/dev/null
count
is "each user is charged with what they have opened" \
    "$(stat_of '[.pinned_by | sort_by(.uid)[] | .uid, .vm_bytes, .client_bytes]' |
    tr -d ' \n')" "[0,0,$((16 * 4096)),65534,0,$((64 * 4096))]"
is "all of what is pinned" \
    "$(stat_of '.pinned_bytes == ([.pinned_by[].client_bytes] | add)')" true
"$FIRN" drop ours >/dev/null
count
is "and with no more once it is gone" \
    "$(stat_of '[.pinned_by[].uid]' | tr -d ' \n')" "[65534]"
rm -rf "$U"
