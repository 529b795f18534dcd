#!/usr/bin/env bash
# A stand-in for training in workers.py: makes $CLAIM_WORK/NAME.npz and a companion in four steps, each kept as state.
# Says on $EVENTS when it runs beside another of its kind: both hold an advisory lock, which the kernel frees only when
# the last process of a job is gone.
set -euo pipefail

name=$1
say() { printf '%s %s\n' "$1" "$name" >>"$EVENTS"; }

exec 8>>"$EVENTS.$name"
flock -n 8 || say overlap
say begin
step=0
[[ ! -e $CLAIM_WORK/$name.state ]] || { step=$(<"$CLAIM_WORK/$name.state"); say resume; }
while ((step < 4)); do
    # What really computes is often a grandchild in a session of its own.
    setsid --wait sleep "$STEP_SECONDS"
    step=$((step + 1))
    printf '%s\n' "$step" >"$CLAIM_WORK/.state"
    mv "$CLAIM_WORK/.state" "$CLAIM_WORK/$name.state"
done
# The last job stays until all kills have been made, however fast the machine.
until [[ $name != "$LAST_JOB" || -e $EVENTS.kills_made ]]; do sleep 0.05; done
printf '%s\n' "$$" >"$CLAIM_WORK/$name.npz"
printf '%s\n' "$$" >"$CLAIM_WORK/$name.npz.vars"
rm "$CLAIM_WORK/$name.state"
say end
