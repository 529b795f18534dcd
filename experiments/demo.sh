#!/usr/bin/env bash
# The complete workflow on synthetic recordings: generate, prepare, train, predict, evaluate, blend,
# submit, and write a report.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/results.sh"

DATASET=demo MODELS=demo.tsv
GENERATE=()

usage() {
    cat <<'END'
Usage: demo.sh [OPTIONS] [-- OPTIONS OF datasets/demo/generate.py]
Runs the complete workflow, from raw recordings to submissions, on a synthetic dataset with small networks. This takes a
few minutes on 2 cores. If it is started again, it does only what is missing.
  --dataset NAME       name of the dataset (demo)
  --models FILE        table of models (experiments/demo.tsv)
  --var KEY=VALUE, --vars FILE    settings for all models (repeatable)
  --device DEVICE, --amp          as for train.py
Example: ./experiments/demo.sh --dataset tiny --var epochs=2 -- --species 4 --recordings 40
END
}

own_option() {
    [[ $1 == -- ]] || return 1
    GENERATE=("${@:2}") SHIFT=$#
}

step() { printf '\n== %d:%02d  %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*" >&2; }

# Prints the metrics of all models and of the ensemble, which are in file $1, and lists the submissions.
summary() {
    local out=experiments/$DATASET
    cat <<END

== $((SECONDS / 60)):$(printf %02d $((SECONDS % 60)))  Done. Metrics on the validation list (chance: MAP $(chance)):
$(awk -F ': ' 'NF > 2 { name = $1; sub(/[^:]*: /, ""); printf "  %-22s %s\n", name, $0 }' "$1")

Submissions:
$(cd "$ROOT" && wc -l "$out"/submissions/*/*.csv | awk '$2 != "total" { printf "  %-48s %6d lines\n", $2, $1 }')
Weights of the ensemble: $out/ensembles/blend.tsv
All of this as a web page: $out/report.html

To identify the species in a folder of recordings, here in the soundscapes of the demo:
  ./experiments/identify.sh datasets/$DATASET/audio/soundscapes --dataset $DATASET

Next, the real dataset (see README.md for sizes and durations):
  ./prepare_birdclef.sh FOLDER_OF_THE_ARCHIVES
  ./experiments/train_all.sh --device cuda     # on each GPU
  ./experiments/train_all.sh --status
  ./experiments/submit_all.sh
END
}

# Prints the MAP that is expected for random scores: the mean of 1 / rank over all ranks.
chance() {
    awk 'END { for (i = 1; i <= NR; i++) sum += 1 / i; printf "%.2f", sum / NR }' "../datasets/$DATASET/labels/labelset"
}

main() {
    local source common predictions weights
    parse_options "$@"
    ensure_env
    export BIRDCLEF_ENV_SAID=1
    read_models
    predictions=("${NAMES[@]/#/$DATASET/}")
    predictions=("${predictions[@]/%/.pred.npz}")
    weights=$DATASET/ensembles/blend.tsv source=../datasets/$DATASET/source
    common=(--dataset "$DATASET" --models "$MODELS")
    if [[ ! -e $source ]]; then
        step 'Generating recordings in the layout of the BirdCLEF archives'
        mkdir -p "${source%/*}"
        run_child "$PYTHON" ../datasets/demo/generate.py "${GENERATE[@]}" "$source"
    fi
    step 'Preparing the dataset'
    run_child ../prepare_birdclef.sh "$source" --dataset "$DATASET" --valid-list "$source/valid_list"
    step 'Training the models, and predicting the validation list with each'
    run_child ./train_all.sh "${common[@]}" "${SETTINGS[@]}" "${DEVICE[@]}" --wait
    step 'Evaluating the models'
    METRICS=$(mktemp)
    trap 'rm -f "$METRICS"' EXIT
    run_child ./eval_all.sh --dataset "$DATASET" > "$METRICS"
    cat "$METRICS"
    if [[ ! -e $weights ]]; then
        step 'Searching for the best weights of an ensemble'
        run_child "$PYTHON" blender.py --dataset "$DATASET" --labelfile-background bg.tsv --strategy hyperopt \
            --patience 300 --output "$weights" "${predictions[@]}"
    fi
    step 'Making the submissions'
    run_child ./submit_all.sh "${common[@]}" "${DEVICE[@]}" >> "$METRICS"
    step 'Writing the report'
    run_child "$PYTHON" report.py "${common[@]}"
    summary "$METRICS"
}

main "$@"
