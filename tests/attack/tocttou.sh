#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# A victim that validates before use: over plain shared memory it is caught out
# at once, over a firn view in the same run never.
. "$(dirname "$0")/../integ/lib.sh"

works "plain shared memory fools the victim" "$GUESTS/attack_shared"
start_daemon
"$FIRN" run --name evil --segment db=4M --detach "$GUESTS/db_attack" flip db \
    >/dev/null
for i in 1 2 3; do
	"$FIRN" freeze evil:db --name "v$i" >/dev/null
	works "a view never does ($i)" \
	    "$FIRN" run --give "db=v$i" "$GUESTS/db_attack" check db 1
done
is "the attacker still runs" "$(state_of evil)" running
