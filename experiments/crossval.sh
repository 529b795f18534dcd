#!/usr/bin/env bash
# Trains and predicts all models on all folds of a dataset, and prints their metrics on the held-out recordings.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/results.sh"
. "$(dirname "${BASH_SOURCE[0]}")/slurm.sh"

ACTION=train SEEDS=1 WAIT=() PRINT=() REPORT=()

usage() {
    cat <<'END'
Usage: crossval.sh [OPTIONS] [MODEL...]
Cross-validation: trains all models of the table, or those named, on each fold of a dataset (NAME-fold1, NAME-fold2, ...,
from prepare_birdclef.sh --folds), predicts the recordings that each of them has not seen, and prints one table: MAP,
top-1, cmAP and ROC-AUC of each model and of the ensemble, with 95 % intervals. Start it on each GPU of each server that
shares the folder: each model is trained once. Finished models are skipped; interrupted trainings continue.
  --dataset NAME       dataset in datasets/ with folds (birdclef); the table is also in experiments/NAME/crossval/
  --models FILE        table of models (experiments/models.tsv)
  --seeds N            train each model N times, as MODEL, MODEL.seed1, MODEL.seed2, ...; the table has means over them
  --var KEY=VALUE, --vars FILE    settings for all models trained (repeatable)
  --device DEVICE, --amp          as for train.py
  --gpus-per-model N   train each model on N GPUs, as for train_all.sh
  --continue-anyway    continue trainings even if their settings or data have changed, as for train.py
  --wait               also wait for models that are trained elsewhere, and continue those that are interrupted
  --against MODEL      also print the differences of the others from this model, with intervals
  --samples N, --no-softmax       as for crossval.py
  --report             also write a web page on the dataset and its models, experiments/NAME/report.html
  --status             show the progress of all models of all folds
  --slurm [-- SBATCH OPTIONS]    submit one job per model and fold to Slurm
  --slurm-workers N [-- ...]     submit N jobs to Slurm that share the models
Examples: ./crossval.sh --dataset birds --models recipe.tsv --seeds 3
          ./crossval.sh --dataset birds --models recipe.tsv --slurm-workers 4 -- --gres=gpu:1
END
}

own_option() {
    case $1 in
        --status) ACTION=status ;;
        --wait) WAIT=(--wait) ;;
        --seeds | --gpus-per-model)
            [[ ${2:-} =~ ^[1-9][0-9]?$ ]] || usage_error "$1 needs a number from 1 to 99"
            if [[ $1 == --seeds ]]; then SEEDS=$2; else GPUS=$2; fi
            SHIFT=2 ;;
        --against | --samples)
            (($# > 1)) || usage_error "$1 needs a value"
            PRINT+=("$1" "$2") SHIFT=2 ;;
        --no-softmax) PRINT+=(--no-softmax) ;;
        --report) REPORT=(--report) ;;
        --seeds=* | --against=* | --samples=*)
            own_option "${1%%=*}" "${1#*=}"
            SHIFT=1 ;;
        --continue-anyway) SETTINGS+=(--continue-anyway) ;;
        *) slurm_option "$@" ;;
    esac
}

# Runs train_all.sh for fold $1 with all models and seeds; further arguments are options.
train_fold() {
    local fold=$1 end=()
    ((${#SBATCH[@]} == 0)) || end=(-- "${SBATCH[@]}")
    run_child ./train_all.sh --dataset "$fold" --models "$MODELS" "${SETTINGS[@]}" "${DEVICE[@]}" \
        --gpus-per-model "$GPUS" "${@:2}" "${ALL[@]}" "${end[@]}"
}

# Trains what nobody else trains in any fold, then waits for the rest: for teachers and, with --wait, for all.
# Sets BROKEN to the folds in which a model failed.
train_folds() {
    local fold missing
    BROKEN=()
    for fold in "${FOLDS[@]}"; do
        log "$fold"
        train_fold "$fold" --no-wait >&2 || BROKEN+=("$fold")
    done
    missing=$(run_briefly "$PYTHON" crossval.py --dataset "$DATASET" --seeds "$SEEDS" --missing "${NAMES[@]}") || exit 1
    while IFS=$'\t' read -r fold _; do
        [[ -n $fold && " ${BROKEN[*]} " != *" $fold "* ]] || continue
        log "$fold: the rest"
        train_fold "$fold" "${WAIT[@]}" >&2 || BROKEN+=("$fold")
    done <<< "$missing"
}

# Submits all models and folds to Slurm, or WORKERS jobs that run this driver.
submit_folds() {
    local fold
    if [[ -n $WORKERS ]]; then
        mkdir -p "$DATASET"
        slurm_begin
        SBATCH=(--array="1-$WORKERS" "${SBATCH[@]}")
        slurm_submit crossval '' '' ./crossval.sh --dataset "$DATASET" --models "$MODELS" --seeds "$SEEDS" "${SETTINGS[@]}" \
            "${PRINT[@]}" "${REPORT[@]}" "${DEVICE[@]}" --gpus-per-model "$GPUS" "${NAMES[@]}"
        log 'the last job to end prints the table to its log; the same command without --slurm-workers prints it, too'
        return
    fi
    for fold in "${FOLDS[@]}"; do train_fold "$fold" --slurm; done
    log 'when all jobs have ended, the same command without --slurm prints the table'
}

# Says which predictions are missing; succeeds if there are none.
all_there() {
    local fold models found
    found=$(run_briefly "$PYTHON" crossval.py --dataset "$DATASET" --seeds "$SEEDS" --missing "${NAMES[@]}") || exit 1
    [[ -n $found ]] || return 0
    while IFS=$'\t' read -r fold models; do log "$fold: missing predictions: $models"; done <<< "$found"
    return 1
}

main() {
    local name seed folds step=--begin
    parse_options "$@"
    ensure_env
    export BIRDCLEF_ENV_SAID=1
    if ((SEEDS > 1)) && [[ " ${SETTINGS[*]} " == *' --var seed='* ]]; then
        usage_error '--seeds and --var seed exclude each other'
    fi
    read_models
    ALL=()
    for ((seed = 0; seed < SEEDS; seed++)); do
        for name in "${NAMES[@]}"; do
            if ((seed)); then ALL+=("$name.seed$seed"); else ALL+=("$name"); fi
        done
    done
    [[ $ACTION != status ]] || step=--folds
    folds=$(run_briefly "$PYTHON" crossval.py --dataset "$DATASET" "$step" "${PRINT[@]}" "${NAMES[@]}") || exit 1
    mapfile -t FOLDS <<< "$folds"
    if [[ $ACTION == status ]]; then
        for name in "${FOLDS[@]}"; do
            printf '%s:\n' "$name"
            train_fold "$name" --status
        done
        exit
    fi
    [[ -z $SLURM ]] || { submit_folds; exit; }
    train_folds
    if ! all_there; then
        ((${#BROKEN[@]} == 0)) || die "models of ${BROKEN[*]} failed, see above; the same command tries them again"
        log 'no table yet: these are made elsewhere; when they are finished, the same command prints the table' \
            '(with --wait it waits for them)'
        exit
    fi
    run_child "$PYTHON" crossval.py --dataset "$DATASET" --seeds "$SEEDS" "${PRINT[@]}" "${NAMES[@]}"
    ((${#REPORT[@]} == 0)) || run_child "$PYTHON" report.py --dataset "$DATASET"
}

main "$@"
