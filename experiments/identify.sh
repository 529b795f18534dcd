#!/usr/bin/env bash
# Identifies the species in a folder of recordings: plans shards, predicts each under a claim, and writes the findings.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/results.sh"
. "$(dirname "${BASH_SOURCE[0]}")/slurm.sh"

FOLDER='' OPTIONS=() FORCE=()
# seconds between two checks of shards that are predicted elsewhere
POLL=${IDENTIFY_POLL:-30}

usage() {
    cat <<'END'
Usage: identify.sh FOLDER [OPTIONS]
Which species are in a folder of recordings, when, and how sure are the models? FOLDER may contain recordings of any
format and length, in any folders; it is never changed. Start it on each GPU of each server that shares the folders: they
share the work. If it is started again, it handles only new recordings; interrupted, it continues.
  --dataset NAME       dataset that the models were trained on; the models are in experiments/NAME/ (birdclef)
  --run RUN            ensemble: table of members and weights in experiments/NAME/ensembles/ or experiments/ensembles/
  --model MODEL        model in experiments/NAME/, or its file (repeatable; default: the only ensemble in
                       experiments/NAME/ensembles/, else the best model on the validation list)
  --output OUT         folder for the findings (experiments/NAME/findings/ and the name of FOLDER): findings.csv,
                       summary.csv, recordings.csv (time and place as understood), skipped.tsv (problems)
  --format A,B         csv, raven, audacity, parquet, kaleidoscope (csv)
  --force              replace findings of other models or options in OUT
  --window SECONDS, --hop SECONDS    length and distance of windows (as trained; the window)
  --calibration FILE, --threshold CONFIDENCE, --classes FILE|A,B, --smooth N, --merge SECONDS, --min-duration SECONDS,
  --top N              what counts as a detection, as for findings.py
  --prior soft|mask    what metadata networks expect at the place and date of each recording: soft multiplies the odds of
                       each class by (its probability there) / (its mean over the training list), mask removes classes
                       for which this is below the limit; counts per class and recording go to prior*.tsv
  --prior-limit FACTOR, --prior-model MODEL    the limit, also of soft (0.01); metadata networks (all of NAME)
  --shard-hours H      work that is claimed at once and lost if a worker dies, in hours of recordings, about (8)
  --keep-scores        also keep all scores, in OUT/shards/*.pred.npz
  --metadata FILE      table of dates, times and places: column file, and any of date, time, latitude, longitude, elevation
  --latitude DEGREES, --longitude DEGREES, --timezone ZONE    of recordings for which nothing else tells
  --device DEVICE, --amp          as for predict.py
  --slurm [-- SBATCH OPTIONS]    submit a job to Slurm
  --slurm-workers N [-- ...]     submit N jobs to Slurm that share the work
Example: ./identify.sh ~/recordings --dataset birdclef --latitude 48.2 --longitude 16.4 --timezone Europe/Vienna
END
}

own_option() {
    case $1 in
        --run | --model | --format | --shard-hours | --window | --hop | --threshold | --classes | --smooth | --merge | \
            --min-duration | --top | --prior | --prior-limit | --prior-model | --latitude | --longitude | --timezone | \
            --calibration | --metadata | --output)
            (($# > 1)) || usage_error "$1 needs a value"
            SHIFT=2
            case $1 in
                --calibration | --metadata) OPTIONS+=("$1=$(absolute "$2")") ;;
                --output) OPTIONS+=("$1=$(in_folder "$2")") ;;
                --model | --classes | --threshold | --prior-model)
                    # a name or number, or a file
                    if [[ $2 == */* || $2 == *.* && -f $2 ]]; then OPTIONS+=("$1=$(absolute "$2")"); else OPTIONS+=("$1=$2"); fi ;;
                *) OPTIONS+=("$1=$2") ;;
            esac ;;
        --keep-scores) OPTIONS+=("$1") ;;
        --force) FORCE=("$1") ;;
        --slurm | --slurm-workers | --) slurm_option "$@" ;;
        --*=*)
            own_option "${1%%=*}" "${1#*=}" || return
            SHIFT=1 ;;
        -*) return 1 ;;
        *)
            [[ -z $FOLDER ]] || usage_error "one folder at a time: $FOLDER, $1"
            FOLDER=$(in_folder "$1") ;;
    esac
}

# Prints the absolute path of a file or folder in the user's folder, which need not exist.
in_folder() { if [[ $1 == /* ]]; then printf '%s\n' "$1"; else printf '%s/%s\n' "$PWD" "$1"; fi; }

# Sets OUT and SHARDS, after planning shards for new recordings.
plan_shards() {
    local planned
    planned=$(mktemp)
    # shellcheck disable=SC2064  # the name is known now
    trap "rm -f ${planned@Q}" EXIT
    run_child "${IDENTIFY[@]}" --plan "${FORCE[@]}" > "$planned" || exit
    mapfile -t SHARDS < "$planned"
    OUT=${SHARDS[0]} SHARDS=("${SHARDS[@]:1}")
}

# Predicts shard $1. The exit status is that of `claimed`.
predict_shard() { claimed "$OUT/shards/$1.npz" "${IDENTIFY[@]}" "${DEVICE[@]}" --shard "$1" "{}/$1.npz"; }

# Predicts all shards, and waits for those that are predicted elsewhere.
predict_shards() {
    local shard waiting
    while :; do
        waiting=
        for shard in "${SHARDS[@]}"; do
            make_result "shard $shard" "$OUT/shards/$shard.npz" prediction predict_shard "$shard"
            case $OUTCOME in
                held) waiting="shard $shard: $REASON" ;;
                failed) die "shard $shard: $REASON; the same command continues" ;;
            esac
        done
        [[ -n $waiting ]] || return 0
        log "waiting: $waiting"
        run_child sleep "$POLL"
    done
}

submit_to_slurm() {
    local name=${OUT##*/}
    mkdir -p "$DATASET"
    slurm_begin
    [[ -z $WORKERS ]] || SBATCH=(--array="1-$WORKERS" "${SBATCH[@]}")
    slurm_submit "identify-${name//[^A-Za-z0-9_.+-]/_}" '' '' ./identify.sh "$FOLDER" --dataset "$DATASET" \
        "${OPTIONS[@]}" "${DEVICE[@]}"
    log "the last job to end writes the findings to $OUT"
}

main() {
    parse_options "$@"
    [[ -n $FOLDER ]] || usage_error 'give the folder of the recordings'
    ((${#SETTINGS[@]} == 0)) || usage_error '--var and --vars have no effect here; models have their own settings'
    ((${#TABLE[@]} == 0)) || usage_error '--models is not needed; name models with --model'
    ensure_env
    IDENTIFY=("$PYTHON" identify.py "$FOLDER" --dataset "$DATASET" "${OPTIONS[@]}")
    plan_shards
    [[ -z $SLURM ]] || { submit_to_slurm; exit; }
    predict_shards
    run_child "${IDENTIFY[@]}" --finish
}

main "$@"
