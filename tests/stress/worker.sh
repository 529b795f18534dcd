#!/usr/bin/env bash
# A worker of workers.py: runs the jobs in random order until all are finished. Arguments: FOLDER JOBS [PROGRAM...]
set -euo pipefail

here=$(dirname "$0") folder=$1 jobs=$2
shift 2
while :; do
    left=0
    while read -r job; do
        [[ ! -e $folder/$job.npz ]] || continue
        left=1
        if (($#)); then
            "$@" "$folder/$job.npz.lock" -- "$here/job.sh" "$job" || sleep "0.$((RANDOM % 9 + 1))"
        else
            CLAIM_WORK=$(mktemp -d "$folder/.work.XXXXXX")
            export CLAIM_WORK
            "$here/job.sh" "$job" && mv "$CLAIM_WORK"/* "$folder/" || true
        fi
    done < <(seq -f 'job%g' "$jobs" | shuf)
    ((left)) || break
done
