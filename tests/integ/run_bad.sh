#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What is not a program that can run, and programs that fault.
. "$(dirname "$0")/lib.sh"

start_daemon
R=("$FIRN" run)
refused "no such file" 1 "No such file" "${R[@]}" "$T/none"
refused "a directory" 1 "not a regular file" "${R[@]}" "$T"
refused "a device" 1 "not a regular file" "${R[@]}" /dev/zero
mkfifo "$T/fifo"
refused "a fifo" 1 "not a regular file" "${R[@]}" "$T/fifo"
: >"$T/empty"
refused "an empty file" 1 "ELF|short|empty|truncated" "${R[@]}" "$T/empty"
echo 'echo hello' >"$T/script"
refused "a script" 1 "ELF" "${R[@]}" "$T/script"
refused "a dynamic program" 1 "static|dynamic|interpreter" "${R[@]}" /bin/ls
size=$(stat -c %s "$GUESTS/hello")
for n in 3 40 63 64 100 200 4096 $((size / 2)); do
	head -c "$n" "$GUESTS/hello" >"$T/cut"
	refused "cut to $n bytes" 1 "" "${R[@]}" "$T/cut"
done
# byte OFFSET OCTAL: hello with one byte changed.
byte() {
	cp "$GUESTS/hello" "$T/odd"
	printf "\\$2" | dd of="$T/odd" bs=1 seek="$1" conv=notrunc status=none
}
byte 4 001
refused "a 32-bit program" 1 "64|x86" "${R[@]}" "$T/odd"
byte 5 002
refused "big-endian" 1 "" "${R[@]}" "$T/odd"
byte 18 267
refused "another machine's" 1 "x86|machine" "${R[@]}" "$T/odd"
byte 16 001
refused "an object file" 1 "" "${R[@]}" "$T/odd"
refused "more memory than there is" 1 "" "${R[@]}" --mem 8000G "$GUESTS/hello"
refused "less memory than it needs" 1 "" "${R[@]}" --mem 4K "$GUESTS/hello"
refused "an unaligned segment" 1 "" "${R[@]}" --segment a=4097 "$GUESTS/hello"
refused "a segment beyond all" 1 "at most 1 TiB" "${R[@]}" \
    --segment a=10000T "$GUESTS/hello"
for i in $(seq 31); do
	segments+=(--segment "s$i=4K")
done
works "as many segments as there are" "${R[@]}" "${segments[@]}" "$GUESTS/hello"
refused "a segment more" 1 "at most 31 segments" "${R[@]}" "${segments[@]}" \
    --segment s=4K "$GUESTS/hello"
works "as many arguments" "${R[@]}" "$GUESTS/args" $(seq 255)
refused "an argument more" 1 "more than 256 arguments" \
    "${R[@]}" "$GUESTS/args" $(seq 256)
refused "two segments of one name" 1 "" "${R[@]}" --segment a=4K \
    --segment a=4K "$GUESTS/hello"
refused "an unknown snapshot" 1 "none" "${R[@]}" --give a=none "$GUESTS/hello"

for kind in null wild read noncanonical window kernel write-text exec-data \
    call-null stack-overflow div0 ud2 guard freed readonly port-read ldt \
    code32 beyond beyond-again; do
	timeout 60 "${R[@]}" "$GUESTS/fault" "$kind" >"$T/out" 2>"$T/err" \
	    </dev/null
	is "fault $kind: status" $? 139
	like "fault $kind: a report" "$(head -n 1 "$T/err")" \
	    '^firn: .*: the guest was ended: .'
	like "fault $kind: rip" "$(cat "$T/err")" 'rip: +0x[0-9a-f]+'
	like "fault $kind: registers" "$(cat "$T/err")" 'rsp +[0-9a-f]{16}'
done
timeout 60 "${R[@]}" "$GUESTS/fault" null >"$T/out" 2>"$T/err" </dev/null
like "the instruction is disassembled" "$(cat "$T/err")" \
    'code: +0x[0-9a-f]+: mov'
is "an address of the upper half, as a signed integer" "$(timeout 60 "${R[@]}" \
    --json "$GUESTS/fault" kernel 2>/dev/null </dev/null |
    jq -c '[.report.address < 0, .report.rip > 0]')" "[true,true]"
# faulted KIND CAUSE INSTRUCTION: what the report says of them.
faulted() {
	timeout 60 "${R[@]}" "$GUESTS/fault" "$1" >"$T/out" 2>"$T/err" </dev/null
	like "fault $1: its cause" "$(head -n 1 "$T/err")" ": $2"
	like "fault $1: its instruction" "$(cat "$T/err")" "code: .*: $3"
}
faulted port-read '(read of I/O port 0x10|general protection fault)' 'in al'
faulted ldt 'general protection fault' 'mov ds'
faulted code32 '(general protection fault|undefined instruction)' ljmp
faulted beyond 'write to the window, .* address 0x[0-9a-f]+$' \
    'mov byte ptr .*, 7$'
faulted beyond-again 'write to the window, .* before rip$' ''
# known KIND: the address and whether there are registers.
known() {
	timeout 60 "${R[@]}" --json "$GUESTS/fault" "$1" </dev/null 2>/dev/null |
	    jq -c '.report | [.address, (.registers | length), (.rip | type)]'
}
is "a call of null: address and registers" "$(known call-null)" \
    '[0,17,"number"]'
is "a division by 0 has no address" "$(known div0)" '[null,17,"number"]'
"${R[@]}" "$GUESTS/fault" scattered >"$T/out" 2>"$T/err" </dev/null
is "more page tables than there are: status" $? 137
like "and the reason" "$(cat "$T/err")" 'ended: out of page tables: .* 16128$'
works "the daemon goes on" "${R[@]}" "$GUESTS/hello"
is "no VM is left" "$("$FIRN" ps --json |
    jq '[.vms[] | select(.state != "exited")] | length')" 0

# --- a limit on files, which memory counts as ----------------------------------
stop_daemon
ulimit -S -f 1024
start_daemon
refused "a memory beyond the limit" 1 "too large" "${R[@]}" "$GUESTS/hello"
refused "a segment beyond the limit" 1 "too large" "${R[@]}" \
    --segment a=64M "$GUESTS/hello"
works "that daemon goes on as well" "$FIRN" ps
