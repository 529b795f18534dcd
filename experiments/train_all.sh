#!/usr/bin/env bash
# Trains each model of a table that is neither finished nor being trained elsewhere, and predicts the validation list.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/results.sh"
. "$(dirname "${BASH_SOURCE[0]}")/slurm.sh"

ACTION=train FORCE=()
# state of a model that is trained elsewhere: skipped or waiting
WHEN_HELD=skipped
# whether to wait while there are models in the state waiting
WAIT=1
# seconds between two checks of models that are trained elsewhere
POLL=${TRAIN_ALL_POLL:-30}

usage() {
    cat <<'END'
Usage: train_all.sh [OPTIONS] [MODEL...]
Trains all models of the table, or those named, teachers before their students, and predicts the validation list. Start
it on each GPU of each server that shares the folder: each model is trained once. Finished models are skipped;
interrupted trainings continue. MODEL.seedN is MODEL of the table with another seed (and teachers of that seed).
  --dataset NAME       dataset in datasets/, whose models are in experiments/NAME/ (birdclef)
  --models FILE        table of models (experiments/models.tsv)
  --var KEY=VALUE, --vars FILE    settings for all models trained (repeatable)
  --device DEVICE, --amp          as for train.py
  --gpus-per-model N   train each model on N GPUs (of CUDA_VISIBLE_DEVICES=0,1,...), or by N processes on the CPU
  --continue-anyway    continue trainings even if their settings or data have changed, as for train.py
  --wait               also wait for models that are trained elsewhere, and continue those that are interrupted
  --no-wait            never wait: skip also students whose teachers are trained elsewhere
  --status, --watch    show the progress of all models, once or repeatedly (by default those in experiments/NAME/)
  --release MODEL      free a claim whose holder will not return; with --force even if the holder may be alive
  --slurm [-- SBATCH OPTIONS]    submit one job per model to Slurm, students after their teachers
  --slurm-workers N [-- ...]     submit N jobs to Slurm that share the models
Examples: ./train_all.sh --dataset birdclef --device cuda:1 --amp
          ./train_all.sh --slurm -- --gres=gpu:1 --time=8:00:00
END
}

own_option() {
    case $1 in
        --status | --watch) ACTION=${1#--} ;;
        --wait) WHEN_HELD=waiting ;;
        --no-wait) WAIT=0 ;;
        --gpus-per-model)
            [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || usage_error '--gpus-per-model needs a number'
            GPUS=$2 SHIFT=2 ;;
        --release)
            (($# > 1)) || usage_error '--release needs a model'
            ACTION=release NAMES+=("$2") SHIFT=2 ;;
        --force) FORCE=(--force) ;;
        --continue-anyway) SETTINGS+=(--continue-anyway) ;;
        *) slurm_option "$@" ;;
    esac
}

declare -A STATE=() SAID=()

# Sets the state of model $1 to $2 (finished, failed, skipped, waiting or stuck) and logs $3 unless it was logged last.
set_state() {
    STATE[$1]=$2
    [[ ${SAID[$1]:-} == "$3" ]] || log "$1: $3"
    SAID[$1]=$3
}

# Whether the teachers of model $1 are trained. If not, sets its state and logs the reason.
ready() {
    local teacher file
    for teacher in ${TEACHERS[$1]}; do
        file=$DATASET/$teacher.npz
        [[ ! -e $file ]] || continue
        look_up_claim "$file"
        if [[ ${STATE[$teacher]:-} == failed ]] || failed_elsewhere "$file"; then
            set_state "$1" failed "skipped: its teacher $teacher failed"
        elif ((CLAIM == HELD || CLAIM == PUBLISHED)); then
            set_state "$1" waiting "waiting for $teacher ($WHO)"
        elif [[ ${STATE[$teacher]:-} =~ ^(skipped|waiting)$ ]]; then
            set_state "$1" waiting "waiting for $teacher"
        elif [[ -e $file ]]; then
            continue  # it was finished a moment ago
        else
            set_state "$1" stuck "waiting for $teacher, which nobody trains; also name $teacher"
        fi
        return 1
    done
}

# Runs a command for model $1 (make_model or make_predictions). Fails unless its result is there afterwards.
attempt() {
    "${@:2}"
    case $OUTCOME in
        made) PROGRESS=1 SAID[$1]=finished ;;
        held) set_state "$1" "$WHEN_HELD" "$WHEN_HELD: $REASON"; return 1 ;;
        failed) set_state "$1" failed "$REASON"; return 1 ;;
    esac
}

# Predicts the list that model $1 needs for its training, with its teachers. Fails if they are predicted elsewhere.
predict_before() {
    local list teachers teacher
    read -r list teachers <<< "${BEFORE[$1]}"
    for teacher in $teachers; do
        attempt "$1" make_predictions "$teacher" "$list" "$DATASET/$list" "${SOUNDSCAPES[$1]} --score-rest" || return
    done
}

# Does for model $1 what is possible now.
advance() {
    [[ -e $DATASET/$1.npz ]] || { ready "$1" && predict_before "$1"; } || return 0
    attempt "$1" make_model "$1" || return 0
    attempt "$1" make_predictions "$1" valid "$DATASET" "${PREDICT[$1]}" || return 0
    set_state "$1" finished "${SAID[$1]:-finished, skipped}"
}

# Goes through all models until there is nothing left to do or to wait for.
train_models() {
    local name stamp waiting
    # the time of the file server, which is the same for all machines
    stamp=$(mktemp "$DATASET/.train_all.XXXXXX")
    STARTED=$(stat -c %.9Y "$stamp")
    rm -f "$stamp"
    while :; do
        PROGRESS=0 waiting=0
        for name in "${NAMES[@]}"; do
            [[ ${STATE[$name]:-} =~ ^(finished|failed)$ ]] || advance "$name"
            [[ ${STATE[$name]} != waiting ]] || waiting=1
        done
        ((PROGRESS)) && continue
        ((waiting && WAIT)) || break
        run_child sleep "$POLL"
    done
}

# Frees the claims of NAMES.
release() {
    local name lock status=0
    for name in "${NAMES[@]}"; do
        lock=$DATASET/$name.npz.lock
        [[ -e $lock ]] || lock=$DATASET/$name.pred.npz.lock
        if [[ -e $lock ]]; then
            ./claim.sh --release "${FORCE[@]}" "$lock" || status=$?
        else
            log "$name: nobody has claimed it"
            status=1
        fi
    done
    return "$status"
}

main() {
    local name failed=0
    parse_options "$@"
    ensure_env
    case $ACTION in
        status) run_child "$PYTHON" status.py --dataset "$DATASET" "${TABLE[@]}" "${NAMES[@]}"; exit ;;
        watch) run_child "$PYTHON" status.py --watch --dataset "$DATASET" "${TABLE[@]}" "${NAMES[@]}"; exit ;;
        release) read_models --found; release; exit ;;
    esac
    read_models
    check_dataset --for train
    { mkdir -p "$DATASET" && [[ -w $DATASET ]]; } 2> /dev/null ||
        die "experiments/$DATASET: cannot be written to; does another user own it, or is the disk full or read-only?"
    find_incomplete valid "$DATASET" "${NAMES[@]}"
    [[ -z $SLURM ]] || { submit_models_to_slurm; exit; }
    train_models
    for name in "${NAMES[@]}"; do
        [[ ! ${STATE[$name]} =~ ^(failed|stuck)$ ]] || failed=$((failed + 1))
    done
    ((failed == 0)) || die "$failed of ${#NAMES[@]} models failed or could not start, see above"
    log "nothing left to do; metrics: ./eval_all.sh --dataset $DATASET"
}

main "$@"
