#!/usr/bin/env bash
# Trains every model of a table that is neither finished nor being trained by someone else, and predicts its validation list.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/slurm.sh"

# state of a model that someone else makes: skipped or waiting
HELD=skipped
ACTION=train FORCE=()
# seconds between looks at what is being trained elsewhere
POLL=${TRAIN_ALL_POLL:-30}

usage() {
    cat <<'END'
Usage: train_all.sh [OPTIONS] [MODEL...]
Trains all models of the table, or those named: teachers before their students, each once, whoever starts this how often.
Start it on every GPU of every server that shares the folder. What is finished stays; what was interrupted goes on.
  --dataset NAME       dataset in datasets/, whose models are in experiments/NAME/ (birdclef)
  --models FILE        table of models (experiments/models.tsv)
  --var KEY=VALUE, --vars FILE    settings for all models trained (repeatable)
  --device DEVICE, --amp          as for train.py
  --gpus-per-model N   train each model on N GPUs (which: CUDA_VISIBLE_DEVICES=0,1,...), or by N processes on the CPU
  --continue-anyway    go on with interrupted trainings even if their settings or data have changed since, as for train.py
  --wait               stay until what others train is finished, too; go on with it if they die
  --status             show how far every model is (without --models, those in experiments/NAME/); --watch: again and again
  --release MODEL      free a claim that nobody will come back to; --force: even if its holder may be alive
  --slurm [-- SBATCH OPTIONS]    submit a job per model to Slurm, students after their teachers; --slurm-workers N [-- ...]:
                       N jobs that each do what is free
Examples: ./train_all.sh --dataset birdclef --device cuda:1 --amp
          ./train_all.sh --slurm -- --gres=gpu:1 --time=8:00:00
END
}

own_option() {
    case $1 in
        --status | --watch) ACTION=${1#--} ;;
        --wait) HELD=waiting ;;
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

# Sets the state of model $1 (finished, failed, skipped, waiting, stuck) and says why, once.
becomes() {
    STATE[$1]=$2
    [[ ${SAID[$1]:-} == "$3" ]] || log "$1: $3"
    SAID[$1]=$3
}

# Did a training of model $1 fail somewhere since this driver started?
failed_elsewhere() {
    local status=0
    [[ -e $DATASET/$1.npz.lock && -e $DATASET/$1.log && $(stat -c %.9Y "$DATASET/$1.log") > $STARTED ]] || return 1
    ./claim.sh --status "$DATASET/$1.npz.lock" > /dev/null || status=$?
    ((status == 4))
}

# Can model $1 be trained now, as far as its teachers go?
ready() {
    local teacher who
    for teacher in ${TEACHERS[$1]}; do
        [[ ! -e $DATASET/$teacher.npz ]] || continue
        if [[ ${STATE[$teacher]:-} == failed ]] || failed_elsewhere "$teacher"; then
            becomes "$1" failed "skipped: its teacher $teacher failed"
        elif who=$(holder "$DATASET/$teacher.npz") || [[ ${STATE[$teacher]:-} =~ ^(skipped|waiting)$ ]]; then
            becomes "$1" waiting "waiting for $teacher${who:+ ($who)}"
        elif [[ -e $DATASET/$teacher.npz ]]; then
            continue  # it came while we asked
        else
            becomes "$1" stuck "waiting for $teacher, which nobody trains; start train_all.sh with it, too"
        fi
        return 1
    done
    failed_elsewhere "$1" || return 0
    becomes "$1" failed "skipped: failed just now in another driver, see experiments/$DATASET/$1.log"
    return 1
}

# Make file $2 of model $1 by the command that follows, unless it is there, or say why not.
attempt() {
    local name=$1 file=$2 what=$3 status=0 who
    ! in_place "$file" || return 0
    if who=$(holder "$file") && [[ $who != finished* ]]; then
        becomes "$name" "$HELD" "$HELD: $what is running ($who)"
        return 1
    fi
    log "$name: $what"
    "${@:4}" || status=$?
    case $status in
        0) PROGRESS=1 SAID[$name]=finished ;;
        75 | 76) becomes "$name" "$HELD" "$HELD: $what is running elsewhere" ;;
        *) becomes "$name" failed "$what failed with exit status $status, $REASON" ;;
    esac
    return "$status"
}

# Do what can be done now for model $1.
advance() {
    local file=$DATASET/$1
    [[ -e $file.npz ]] || ready "$1" || return 0
    attempt "$1" "$file.npz" training train_model "$1" || return 0
    attempt "$1" "$file.pred.npz" 'prediction of the validation list' predict_model "$1" valid "$DATASET" "${PREDICT[$1]}" || return 0
    becomes "$1" finished "${SAID[$1]:-finished, skipped}"
}

# Submits what is not finished to Slurm.
submit_models() {
    local name teacher id after failed=0
    local options=(--dataset "$DATASET" --models "$MODELS" "${SETTINGS[@]}" "${DEVICE[@]}" --gpus-per-model "$GPUS")
    slurm_begin
    if [[ -n $WORKERS ]]; then
        slurm_workers ./train_all.sh "${options[@]}" "${NAMES[@]}"
        return
    fi
    for name in "${NAMES[@]}"; do
        if [[ -e $DATASET/$name.npz ]] && in_place "$DATASET/$name.pred.npz"; then
            log "$name: finished, skipped"
            continue
        fi
        after=
        for teacher in ${TEACHERS[$name]}; do
            id=${QUEUED[$DATASET/$teacher]:-}
            after+=${id:+${after:+:}$id}
            [[ -n $id || -e $DATASET/$teacher.npz ]] || {
                log "$name: skipped: waiting for $teacher, which no job trains; submit it, too"
                failed=1
                continue 2
            }
        done
        slurm_submit "$name" "$DATASET/$name.pred.npz" "$after" ./train_all.sh "${options[@]}" "$name"
    done
    return "$failed"
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
    local name stamp waiting failed=0
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
        die "experiments/$DATASET: cannot be written to; is it another user's, or the disk full or read-only?"
    find_incomplete valid "$DATASET" "${NAMES[@]}"
    [[ -z $SLURM ]] || { submit_models; exit; }
    # by the clock of the file server, since other hosts write there, too
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
        ((waiting)) || break
        run_child sleep "$POLL"
    done
    for name in "${NAMES[@]}"; do
        [[ ! ${STATE[$name]} =~ ^(failed|stuck)$ ]] || failed=$((failed + 1))
    done
    ((failed == 0)) || die "$failed of ${#NAMES[@]} models failed or could not start, see above"
    log "nothing left to do; metrics: ./eval_all.sh --dataset $DATASET"
}

main "$@"
