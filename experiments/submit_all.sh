#!/usr/bin/env bash
# Makes the submissions of ensembles: metrics on the validation list, missing predictions, combinations, CSV files.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/slurm.sh"

ENSEMBLES=() MEMBER=''
# seconds between looks at predictions that are being made elsewhere
POLL=${SUBMIT_ALL_POLL:-30}

usage() {
    cat <<'END'
Usage: submit_all.sh [OPTIONS] [RUN...]
For each ensemble, or those named: prints its metrics on the validation list, predicts the test recordings and the
soundscapes with members that have no such predictions yet, and writes the weighted combination and the CSV files into
experiments/NAME/submissions/mono/ and .../soundscapes/ (RUN.csv, and RUN.val.csv of the soundscapes for validation).
  --dataset NAME       dataset in datasets/, whose models are in experiments/NAME/ (birdclef)
  --models FILE        table of models (experiments/models.tsv)
  --ensembles PATH     a table of members and weights, or a folder of such (repeatable; experiments/NAME/ensembles/ if that
                       exists, else experiments/ensembles/)
  --var KEY=VALUE, --vars FILE    settings for predictions beside the usual ones (repeatable)
  --device DEVICE, --amp          as for predict.py
  --member MODEL       only predict with this member, write no submission
  --slurm [-- SBATCH OPTIONS]    submit a job per member to Slurm, and one for each run after them; --slurm-workers N [-- ...]:
                       N jobs that each do what is free
Example: ./submit_all.sh --dataset birdclef run1 run2
END
}

own_option() {
    case $1 in
        --ensembles)
            (($# > 1)) || usage_error "$1 needs a value"
            ENSEMBLES+=("$(absolute "$2")") SHIFT=2 ;;
        --ensembles=*) ENSEMBLES+=("$(absolute "${1#*=}")") ;;
        --member)
            (($# > 1)) || usage_error "$1 needs a value"
            MEMBER=$2 SHIFT=2 ;;
        *) slurm_option "$@" ;;
    esac
}

# Those of the file lists that the dataset has, separated by commas.
existing_lists() {
    local list found=()
    for list in "$@"; do [[ ! -e ../datasets/$DATASET/filelists/$list ]] || found+=("$list"); done
    (IFS=,; printf '%s' "${found[*]}")
}

# Reads ensemble file $1: sets MEMBERS, WEIGHTS and OPTIONS.
read_ensemble() {
    local line member weight option where number=0
    MEMBERS=() WEIGHTS=() OPTIONS=()
    while IFS= read -r line || [[ -n $line ]]; do
        line=${line%$'\r'} number=$((number + 1)) where="$1, line $number"
        case $line in
            '# options:'*)
                read -ra OPTIONS <<< "${line#*:}"
                for option in "${OPTIONS[@]}"; do
                    [[ $option =~ ^--(softmax|no-softmax|birdclef-filter)$ ]] ||
                        die "$where: the option ${option@Q} is not allowed; an ensemble may have --softmax, --no-softmax and --birdclef-filter"
                done ;;
            '#'* | '') ;;
            *)
                IFS=$'\t' read -r member weight _ <<< "$line"
                is_name "$member" || die "$where: ${member@Q} is not a name of a model; a line is MODEL, tab, WEIGHT"
                [[ -n ${KIND[$member]:-} ]] || die "$where: no model $member in $MODELS; is it the right --models?"
                [[ $weight =~ ^[-+]?[0-9.]+([eE][-+]?[0-9]+)?$ ]] ||
                    die "$where: $member has no weight but ${weight@Q}; a line is MODEL, tab, WEIGHT"
                MEMBERS+=("$member") WEIGHTS+=("$weight") ;;
        esac
    done < "$1"
    ((${#MEMBERS[@]})) || die "$1: no members in it"
}

# Makes sure that all members have predictions for lists $2 in folder $1, with arguments of the array named $3.
predict_members() {
    local folder=$1 lists=$2 member status waiting who
    local -n arguments=$3
    find_incomplete "$lists" "$folder" "${MEMBERS[@]}"
    while :; do
        waiting=
        for member in "${MEMBERS[@]}"; do
            ! in_place "$folder/$member.pred.npz" || continue
            if ! who=$(holder "$folder/$member.pred.npz") || [[ $who == finished* ]]; then
                log "$member: predicting $lists"
                status=0
                predict_model "$member" "$lists" "$folder" "${arguments[$member]}" || status=$?
                case $status in
                    0) continue ;;
                    75 | 76) ;;
                    *)
                        log "$member: prediction failed with exit status $status, $REASON"
                        return 1 ;;
                esac
            fi
            waiting="$member (${who:-free})"
        done
        [[ -n $waiting ]] || return 0
        log "waiting for predictions of $waiting"
        run_child sleep "$POLL"
    done
}

# Combines predictions in folder $1 into $1/../$2.npz and a CSV file, for list $3; the rest are options of eval.py.
combine() {
    local out=${1%/parts}/$2 list=$3 mode=mono weighted=() i
    for i in "${!MEMBERS[@]}"; do weighted+=("$1/${MEMBERS[i]}.pred.npz:${WEIGHTS[i]}"); done
    [[ -z $MEMBER ]] || return 0
    [[ $list == test ]] || mode=soundscape
    run_child "$PYTHON" eval.py --dataset "$DATASET" --filelist "$list" "${@:4}" "${OPTIONS[@]}" --save-predictions "$out.npz" "${weighted[@]}" &&
        run_child "$PYTHON" submit_csv.py --dataset "$DATASET" --filelist "$list" --mode "$mode" "$out.npz" "$out.csv"
}

# Everything for ensemble $1 of file $2.
submit() {
    local run=$1 member weighted=() i background=()
    read_ensemble "$2"
    if [[ -n $MEMBER ]]; then
        [[ " ${MEMBERS[*]} " == *" $MEMBER "* ]] || return 0
        MEMBERS=("$MEMBER")
    fi
    for i in "${!MEMBERS[@]}"; do
        member=${MEMBERS[i]}
        if [[ ! -e $DATASET/$member.npz ]]; then
            log "$run: skipped: its member $member is not trained; start train_all.sh --dataset $DATASET first"
            return 1
        fi
        weighted+=("$DATASET/$member.pred.npz:${WEIGHTS[i]}")
    done
    [[ ! -e ../datasets/$DATASET/labels/bg.tsv ]] || background=(--labelfile-background bg.tsv)
    [[ -z $VALID_LIST ]] || predict_members "$DATASET" "$VALID_LIST" PREDICT || return
    if [[ -z $MEMBER && ( -z $VALID_LIST || ! -e ../datasets/$DATASET/labels/fg.tsv ) ]]; then
        log "$run: no metrics, since there are no labels (labels/fg.tsv) of a validation list"
    elif [[ -z $MEMBER ]]; then
        printf '%s: ' "$run"
        run_child "$PYTHON" eval.py --dataset "$DATASET" "${background[@]}" "${OPTIONS[@]}" "${weighted[@]}" || return
    fi
    if [[ -n $TEST_LIST ]]; then
        predict_members "$SUBMISSIONS/mono/parts" test PREDICT && combine "$SUBMISSIONS/mono/parts" "$run" test || return
    fi
    [[ -n $SOUNDSCAPE_LISTS ]] || return 0
    predict_members "$SUBMISSIONS/soundscapes/parts" "$SOUNDSCAPE_LISTS" SOUNDSCAPES || return
    for i in ${SOUNDSCAPE_LISTS//,/ }; do
        member=$run
        [[ $i == soundscapes_test ]] || member+=.val
        combine "$SUBMISSIONS/soundscapes/parts" "$member" "$i" --no-maxpool || return
    done
}

# Does member $1 have all predictions for lists $3 in folder $2, if there are such lists?
predicted() {
    [[ -n $3 ]] || return 0
    find_incomplete "$3" "$2" "$1"
    in_place "$2/$1.pred.npz"
}

# Submits runs to Slurm: first the missing predictions of their members, then the submissions.
submit_jobs() {
    local run member after options
    options=(--dataset "$DATASET" --models "$MODELS" "${ENSEMBLES[@]/#/--ensembles=}" "${SETTINGS[@]}" "${DEVICE[@]}")
    slurm_begin
    if [[ -n $WORKERS ]]; then
        slurm_workers ./submit_all.sh "${options[@]}" "$@"
        return
    fi
    for run in "$@"; do
        read_ensemble "${FILE[$run]}"
        after=
        for member in "${MEMBERS[@]}"; do
            if predicted "$member" "$DATASET" "$VALID_LIST" && predicted "$member" "$SUBMISSIONS/mono/parts" "$TEST_LIST" &&
                predicted "$member" "$SUBMISSIONS/soundscapes/parts" "$SOUNDSCAPE_LISTS"; then
                continue
            fi
            slurm_submit "predict-$member" '' '' ./submit_all.sh "${options[@]}" --member "$member" "$@"
            after+=${after:+:}${QUEUED[$DATASET/predict-$member]}
        done
        slurm_submit "submit-$run" '' "$after" ./submit_all.sh "${options[@]}" "$run"
    done
}

main() {
    local runs run path file files=() failed=0
    declare -A FILE=()
    parse_options "$@"
    runs=("${NAMES[@]}") NAMES=() PREDICT_SETTINGS=("${SETTINGS[@]}")
    ensure_env
    SUBMISSIONS=$DATASET/submissions VALID_LIST=$(existing_lists valid) TEST_LIST=$(existing_lists test)
    SOUNDSCAPE_LISTS=$(existing_lists soundscapes_val soundscapes_test)
    if ((${#ENSEMBLES[@]} == 0)); then
        ENSEMBLES=(ensembles)
        [[ ! -d $DATASET/ensembles ]] || ENSEMBLES=("$DATASET/ensembles")
    fi
    for path in "${ENSEMBLES[@]}"; do
        if [[ -f $path ]]; then files+=("$path"); else files+=("$path"/*.tsv); fi
    done
    ((${#runs[@]})) || for file in "${files[@]}"; do runs+=("$(basename "$file" .tsv)"); done
    TABLE=(--models "$MODELS")
    read_models --found
    check_dataset --for predict
    [[ -n $MEMBER || -e ../datasets/$DATASET/labels/labelset ]] ||
        die "datasets/$DATASET/labels/labelset is missing: submissions need its class ids; --member MODEL only predicts"
    for run in "${runs[@]}"; do
        is_name "$run" || die "${run@Q}: not a name of an ensemble; use letters, digits and _ . + -"
        for file in "${files[@]}"; do [[ ${file##*/} != "$run.tsv" ]] || break; done
        [[ -e $file && ${file##*/} == "$run.tsv" ]] || die "no ensemble $run in ${ENSEMBLES[*]}; blender.py finds weights for one"
        FILE[$run]=$file
    done
    [[ -z $SLURM ]] || { submit_jobs "${runs[@]}"; exit; }
    for run in "${runs[@]}"; do submit "$run" "${FILE[$run]}" || failed=$((failed + 1)); done
    ((failed == 0)) || die "$failed of ${#runs[@]} submissions failed, see above"
    log "submissions are in experiments/$SUBMISSIONS"
}

main "$@"
