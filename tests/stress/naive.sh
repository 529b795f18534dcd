#!/usr/bin/env bash
# Negative control for claim.sh: a common way to write a lock, which removes a stale lock. It is called like claim.sh
# by breakrace.py --without-protocol, which must detect that it fails.
set -euo pipefail

lock=$1
shift 2
if ! mkdir -- "$lock" 2>/dev/null; then
    if (($(date +%s) - $(stat -c %Y -- "$lock") < 300)); then exit 75; fi
    rmdir -- "$lock" 2>/dev/null || true
    mkdir -- "$lock" 2>/dev/null || exit 75
fi
"$@"
