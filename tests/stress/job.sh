#!/usr/bin/env bash
# Replaces training in workers.py: writes $CLAIM_WORK/NAME.npz and a second file in four steps, and saves its state
# after each step. Reports to $EVENTS if the same job runs twice at once, which it detects by an advisory lock: the
# kernel frees it only when the last process of a job has ended.
set -euo pipefail

name=$1
say() { printf '%s %s\n' "$1" "$name" >>"$EVENTS"; }

exec 8>>"$EVENTS.$name"
flock -n 8 || say overlap
say begin
step=0
[[ ! -e $CLAIM_WORK/$name.state ]] || { step=$(<"$CLAIM_WORK/$name.state"); say resume; }
while ((step < 4)); do
    # As in practice, a grandchild in a separate session does the work.
    setsid --wait sleep "$STEP_SECONDS"
    step=$((step + 1))
    printf '%s\n' "$step" >"$CLAIM_WORK/.state"
    mv "$CLAIM_WORK/.state" "$CLAIM_WORK/$name.state"
done
# The last job waits until all kills have been made, so that a fast machine does not finish before.
until [[ $name != "$LAST_JOB" || -e $EVENTS.kills_made ]]; do sleep 0.05; done
printf '%s\n' "$$" >"$CLAIM_WORK/$name.npz"
printf '%s\n' "$$" >"$CLAIM_WORK/$name.npz.vars"
rm "$CLAIM_WORK/$name.state"
say end
