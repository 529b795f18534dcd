#!/usr/bin/env bash
# The negative control of the claims: a lock as it is commonly written, which breaks a stale lock by removing it.
# Called as claim.sh is, by breakrace.py --without-protocol, which must see it fail.
set -euo pipefail

lock=$1
shift 2
if ! mkdir -- "$lock" 2>/dev/null; then
    if (($(date +%s) - $(stat -c %Y -- "$lock") < 300)); then exit 75; fi
    rmdir -- "$lock" 2>/dev/null || true
    mkdir -- "$lock" 2>/dev/null || exit 75
fi
"$@"
