#!/usr/bin/env bash
# Prints the metrics of all models on the validation list, or of those named.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

REPORT=''

usage() {
    cat <<'END'
Usage: eval_all.sh [OPTIONS] [FILE...]
Prints metrics on the validation list for all models in experiments/NAME/, or for FILEs: names of models, or their .npz,
.npz.vars or prediction files. Models without predictions are reported; predict_missing.sh computes predictions.
  --dataset NAME       dataset in datasets/, whose models are in experiments/NAME/ (birdclef)
  --report             also write a web page on the dataset and all its models, experiments/NAME/report.html
  --models FILE        table of models for the report (the models in experiments/NAME/)
Example: ./eval_all.sh --dataset birdclef birdclef/meta*.npz.vars
END
}

# Notes --report, or adds a FILE. It may be relative to the user's folder, for example if the user's shell has expanded *.npz.
own_option() {
    if [[ $1 == --report ]]; then
        REPORT=1
        return
    fi
    [[ $1 != -* ]] || return 1
    NAMES+=("$(absolute "$1")")
}

main() {
    local file root failed=0 background=()
    parse_options "$@"
    ensure_env
    [[ ! -e ../datasets/$DATASET/labels/bg.tsv ]] || background=(--labelfile-background bg.tsv)
    if ((${#NAMES[@]} == 0)); then
        for file in "$DATASET"/*.npz.vars; do
            [[ ! -e $file ]] || NAMES+=("$file")
        done
        ((${#NAMES[@]})) || die "experiments/$DATASET: no trained models; start train_all.sh --dataset $DATASET first"
    fi
    for file in "${NAMES[@]}"; do
        root=${file%.vars} root=${root%.npz}
        [[ $root == */* ]] || root=$DATASET/$root
        [[ ! -e $root.npz.vars ]] || file=$root.pred.npz
        printf '%s: ' "${root##*/}"
        if [[ ! -e $file ]]; then
            printf 'no predictions; start predict_missing.sh --dataset %s\n' "$DATASET"
            failed=$((failed + 1))
        else
            run_child "$PYTHON" eval.py --dataset "$DATASET" "${background[@]}" "$file" || failed=$((failed + 1))
        fi
    done
    [[ -z $REPORT ]] || run_child "$PYTHON" report.py --dataset "$DATASET" "${TABLE[@]}"
    ((failed == 0)) || die "$failed of ${#NAMES[@]} models have no metrics, see above"
}

main "$@"
