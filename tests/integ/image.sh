#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# import and export, held against qemu-img.
. "$(dirname "$0")/lib.sh"

start_daemon
mb=16
[ "$SCALE" != small ] || mb=4
truncate -s ${mb}M "$T/a.raw"
head -c 1000000 /dev/urandom | dd of="$T/a.raw" conv=notrunc status=none
head -c 8192 /dev/urandom |
    dd of="$T/a.raw" conv=notrunc status=none bs=4096 seek=700
snap() { "$FIRN" read "$1" 0 $((mb << 20)); }
same() { qemu-img compare -f "$1" -F raw "$2" "$3"; }

for f in raw qcow2 vmdk vdi vhdx vpc; do
	qemu-img convert -f raw -O "$f" "$T/a.raw" "$T/in.$f"
	size=$(qemu-img info --output=json "$T/in.$f" | jq '."virtual-size"')
	"$FIRN" import "$T/in.$f" --name "i.$f" --json >"$T/json" 2>"$T/err" || {
		not_ok "import $f" "$(cat "$T/err")"
		continue
	}
	is "import $f: pages" "$(jq .pages "$T/json")" $(((size + 4095) / 4096))
	works "import $f: bytes" cmp <(snap "i.$f") "$T/a.raw"
done
is "holes stay holes" "$("$FIRN" show i.raw --json |
    jq ".zero_pages > .pages / 2")" true

"$FIRN" export i.raw "$T/o.raw" --format raw >/dev/null
works "export raw" cmp "$T/o.raw" "$T/a.raw"
is "a raw export is sparse" \
    "$(($(stat -c %b "$T/o.raw") * 512 < mb << 19))" 1
"$FIRN" export i.raw "$T/o.qcow2" --json >"$T/json"
works "export qcow2: check" qemu-img check -q "$T/o.qcow2"
works "export qcow2: compare" same qcow2 "$T/o.qcow2" "$T/a.raw"
is "export --json" "$(jq -r .format "$T/json")" qcow2

# --- a child over its parent --------------------------------------------------
cp "$T/a.raw" "$T/b.raw"
for page in 3 5 6 100 700 900; do
	head -c 4096 /dev/urandom |
	    dd of="$T/b.raw" bs=4096 seek=$page conv=notrunc status=none
done
dd if=/dev/zero of="$T/b.raw" bs=4096 seek=20 count=1 conv=notrunc status=none
"$FIRN" import "$T/b.raw" --name child >/dev/null
works "export over" "$FIRN" export child "$T/child.qcow2" --over "$T/o.qcow2"
works "export over: check" qemu-img check -q "$T/child.qcow2"
works "export over: compare" same qcow2 "$T/child.qcow2" "$T/b.raw"
is "export over: only what differs" "$(qemu-img map --output=json \
    "$T/child.qcow2" | jq '[.[] | select(.depth == 0) | .length] | add')" \
    $((7 * 4096))
is "export over: the parent beside it" "$(qemu-img info --output=json \
    "$T/child.qcow2" | jq -r '."backing-filename"')" o.qcow2
mkdir "$T/moved"
cp "$T/child.qcow2" "$T/o.qcow2" "$T/moved/"
works "both can be moved" same qcow2 "$T/moved/child.qcow2" "$T/b.raw"
mkdir "$T/sub"
(cd "$T/sub" && case $FIRN in /*) f=$FIRN ;; *) f=$OLDPWD/$FIRN ;; esac
"$f" export child child.qcow2 --over ../o.qcow2 >/dev/null)
works "parent elsewhere" same qcow2 "$T/sub/child.qcow2" "$T/b.raw"

# --- refused ---------------------------------------------------------------------
left() { find "$T" -name '*part*' | wc -l; }
refused "no such file" 1 "No such file" "$FIRN" import "$T/none"
refused "a directory" 1 "neither" "$FIRN" import "$T"
: >"$T/empty"
refused "an empty file" 1 "empty" "$FIRN" import "$T/empty"
head -c 100000 "$T/o.qcow2" >"$T/cut.qcow2"
refused "a truncated image" 1 "cut.qcow2" "$FIRN" import "$T/cut.qcow2"
cp "$T/o.qcow2" "$T/odd.qcow2"
printf '\377\377\377\377' |
    dd of="$T/odd.qcow2" bs=1 seek=36 conv=notrunc status=none
refused "a broken header" 1 "odd.qcow2" "$FIRN" import "$T/odd.qcow2"
refused "a backing file" 1 "refers to another file" \
    "$FIRN" import "$T/child.qcow2"
works "a backing file, allowed" "$FIRN" import --allow-backing "$T/child.qcow2"
qemu-img create -q -f qcow2 -o data_file="$T/data.raw" "$T/ext.qcow2" 1M
refused "a data file" 1 "refers to another file" "$FIRN" import "$T/ext.qcow2"
qemu-img create -q -f vmdk -o subformat=monolithicFlat "$T/flat.vmdk" 1M
refused "extents elsewhere" 1 "refers to another file" \
    "$FIRN" import "$T/flat.vmdk"
mkfifo "$T/fifo"
sed 's/flat-flat.vmdk/fifo/' "$T/flat.vmdk" >"$T/fifo.vmdk"
refused "extents in a fifo" 1 "refers to another file" \
    timeout 60 "$FIRN" import "$T/fifo.vmdk"
qemu-img create -q -f qcow2 -o cluster_size=2M "$T/huge.qcow2" 4P
refused "too large" 1 "the limit is" "$FIRN" import "$T/huge.qcow2"
refused "export of nothing" 1 "none" "$FIRN" export none "$T/x"
refused "export to nowhere" 1 "No such file" "$FIRN" export child "$T/no/x"
refused "export beyond the limit on files" 1 "too large" \
    bash -c 'ulimit -f 8; exec "$0" export child "$1"' "$FIRN" "$T/x"
refused "export onto a directory" 1 "not a regular file" \
    "$FIRN" export child "$T/sub"
refused "another format" 2 "raw or qcow2" "$FIRN" export child "$T/x" \
    --format vmdk
refused "raw over a parent" 2 "qcow2" "$FIRN" export child "$T/x" \
    --format raw --over "$T/o.qcow2"
refused "a parent that is none" 1 "" "$FIRN" export child "$T/x" \
    --over "$T/empty"
refused "a parent that is a fifo" 1 "neither" timeout 60 \
    "$FIRN" export child "$T/x" --over "$T/fifo"
refused "a truncated parent" 1 "qemu-img: " "$FIRN" export child "$T/x" \
    --over "$T/cut.qcow2"
refused "over itself" 1 "parent itself" "$FIRN" export child "$T/o.qcow2" \
    --over "$T/o.qcow2"
[ ! -e "$T/x" ] && ok "nothing was written" ||
    not_ok "nothing was written" "$T/x is there"
is "no temporary file is left" "$(left)" 0
