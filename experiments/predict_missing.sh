#!/usr/bin/env bash
# Predicts the validation list with every trained model that has no predictions of it, also with models trained by hand.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'END'
Usage: predict_missing.sh [OPTIONS] [MODEL...]
Predicts the validation list with all trained models in experiments/NAME/, or those named, that have no predictions yet.
The list needs no labels.
  --dataset NAME       dataset in datasets/, whose models are in experiments/NAME/ (birdclef)
  --models FILE        table of models: says which of them are not trained yet
  --var KEY=VALUE, --vars FILE    settings beside those that train_all.sh predicts with (repeatable)
  --device DEVICE, --amp          as for predict.py
Example: ./predict_missing.sh --dataset birdclef --device cuda:1
END
}

main() {
    local name status who failed=0
    parse_options "$@"
    PREDICT_SETTINGS=("${SETTINGS[@]}")
    ensure_env
    read_models --found
    check_dataset --for predict --filelists valid
    find_incomplete valid "$DATASET" "${NAMES[@]}"
    for name in "${NAMES[@]}"; do
        status=0
        if [[ ! -e $DATASET/$name.npz ]]; then
            log "$name: skipped: $(if who=$(holder "$DATASET/$name.npz"); then echo "training is running ($who)"; else echo 'not trained'; fi)"
        elif in_place "$DATASET/$name.pred.npz"; then
            log "$name: finished, skipped"
        elif who=$(holder "$DATASET/$name.pred.npz") && [[ $who != finished* ]]; then
            log "$name: skipped: prediction is running ($who)"
        else
            log "$name: prediction of the validation list"
            predict_model "$name" valid "$DATASET" "${PREDICT[$name]}" || status=$?
            case $status in
                0) ;;
                75 | 76) log "$name: skipped: prediction is running elsewhere" ;;
                *)
                    log "$name: prediction failed with exit status $status, $REASON"
                    failed=$((failed + 1)) ;;
            esac
        fi
    done
    ((failed == 0)) || die "$failed of ${#NAMES[@]} models failed, see above"
}

main "$@"
