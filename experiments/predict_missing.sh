#!/usr/bin/env bash
# Predicts the validation list with each trained model whose predictions are missing, including models trained by hand.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/results.sh"

usage() {
    cat <<'END'
Usage: predict_missing.sh [OPTIONS] [MODEL...]
Predicts the validation list with all trained models in experiments/NAME/, or those named, whose predictions are
missing. The list needs no labels.
  --dataset NAME       dataset in datasets/, whose models are in experiments/NAME/ (birdclef)
  --models FILE        table of models; its models that are not trained yet are reported
  --var KEY=VALUE, --vars FILE    settings in addition to those that train_all.sh uses for predictions (repeatable)
  --device DEVICE, --amp          as for predict.py
Example: ./predict_missing.sh --dataset birdclef --device cuda:1
END
}

main() {
    local name failed=0
    parse_options "$@"
    PREDICT_SETTINGS=("${SETTINGS[@]}")
    ensure_env
    read_models --found
    check_dataset --for predict --filelists valid
    find_incomplete valid "$DATASET" "${NAMES[@]}"
    for name in "${NAMES[@]}"; do
        if [[ ! -e $DATASET/$name.npz ]]; then
            look_up_claim "$DATASET/$name.npz"
            case $CLAIM in
                "$HELD" | "$PUBLISHED") log "$name: skipped: training is running ($WHO)" ;;
                *) log "$name: skipped: not trained" ;;
            esac
            continue
        fi
        make_predictions "$name" valid "$DATASET" "${PREDICT[$name]}"
        case $OUTCOME in
            'in place') log "$name: finished, skipped" ;;
            held) log "$name: skipped: $REASON" ;;
            failed)
                log "$name: $REASON"
                failed=$((failed + 1)) ;;
        esac
    done
    ((failed == 0)) || die "$failed of ${#NAMES[@]} models failed, see above"
}

main "$@"
