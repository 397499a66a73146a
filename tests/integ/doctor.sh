#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# doctor agrees with itself, and says what to do when KVM is out of reach.
. "$(dirname "$0")/lib.sh"

"$FIRN" doctor >"$T/out" 2>"$T/err"
is "status" $? 0
like "says that firn can work" "$(tail -n 1 "$T/out")" 'can work'
is "--json" "$("$FIRN" doctor --json | jq .ok)" true
is "--json has checks" "$("$FIRN" doctor --json |
    jq '[.checks[] | select(.check == "kvm" and .status == "ok")] | length')" 1
# Who has no permission must still reach the programs.
mkdir -p /var/tmp
B=$(mktemp -d -p /var/tmp)
if [ "$(id -u)" -eq 0 ] && chmod 711 "$B" && mkdir "$B/b" &&
    cp -r "$BUILD/bin" "$B/b/" && chmod -R a+rX "$B/b"; then
	as="setpriv --reuid 65534 --regid 65534 --clear-groups"
	mode=$(stat -c %a /dev/kvm)
	case $mode in
	*[67]) : ;;
	*)
		$as env XDG_RUNTIME_DIR=/nonexistent "$B/b/bin/firn" doctor \
		    >"$T/out" 2>&1
		is "without permission: status" $? 1
		like "without permission: what to do" "$(cat "$T/out")" \
		    'group kvm'
		;;
	esac
fi
rm -rf "$B"
