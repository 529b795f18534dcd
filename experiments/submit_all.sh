#!/usr/bin/env bash
# Creates the submissions of ensembles: metrics on the validation list, missing predictions, combinations, CSV files.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/results.sh"
. "$(dirname "${BASH_SOURCE[0]}")/slurm.sh"

ENSEMBLES=() MEMBER='' MEMBER_FOUND=''
# seconds between two checks of predictions that are made elsewhere
POLL=${SUBMIT_ALL_POLL:-30}

usage() {
    cat <<'END'
Usage: submit_all.sh [OPTIONS] [RUN...]
For all ensembles, or those named: prints metrics on the validation list, computes missing predictions of the members
for the test recordings and the soundscapes, and writes the weighted combination and the CSV files to
experiments/NAME/submissions/mono/ and .../soundscapes/ (RUN.csv, and RUN.val.csv for the validation soundscapes).
  --dataset NAME       dataset in datasets/, whose models are in experiments/NAME/ (birdclef)
  --models FILE        table of models (experiments/models.tsv)
  --ensembles PATH     table of members and weights, or folder of such tables (repeatable; default:
                       experiments/NAME/ensembles/ if it exists, else experiments/ensembles/)
  --var KEY=VALUE, --vars FILE    settings for predictions in addition to the usual ones (repeatable)
  --device DEVICE, --amp          as for predict.py
  --member MODEL       only predict with this member, without writing a submission
  --slurm [-- SBATCH OPTIONS]    submit one job per member to Slurm, and one per run after them
  --slurm-workers N [-- ...]     submit N jobs to Slurm that share the work
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

# Prints which of the file lists exist in the dataset, separated by commas.
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
                        die "$where: the option ${option@Q} is not allowed;" \
                            "an ensemble may have --softmax, --no-softmax and --birdclef-filter"
                done ;;
            '#'* | '') ;;
            *)
                IFS=$'\t' read -r member weight _ <<< "$line"
                is_name "$member" || die "$where: ${member@Q} is not a name of a model; a line is MODEL, tab, WEIGHT"
                [[ -n ${KIND[$member]:-} ]] || die "$where: no model $member in $MODELS; is --models right?"
                [[ $weight =~ ^[-+]?[0-9.]+([eE][-+]?[0-9]+)?$ ]] ||
                    die "$where: the weight of $member is not a number: ${weight@Q}; a line is MODEL, tab, WEIGHT"
                MEMBERS+=("$member") WEIGHTS+=("$weight") ;;
        esac
    done < "$1"
    ((${#MEMBERS[@]})) || die "$1: it contains no members"
}

# Computes the missing predictions of all members for lists $2 in folder $1, with the arguments in the array named $3,
# and waits for those that are made elsewhere.
predict_members() {
    local member waiting
    local -n arguments=$3
    find_incomplete "$2" "$1" "${MEMBERS[@]}"
    while :; do
        waiting=
        for member in "${MEMBERS[@]}"; do
            make_predictions "$member" "$2" "$1" "${arguments[$member]}"
            case $OUTCOME in
                held) waiting="$member: $REASON" ;;
                failed)
                    log "$member: $REASON"
                    return 1 ;;
            esac
        done
        [[ -n $waiting ]] || return 0
        log "waiting: $waiting"
        run_child sleep "$POLL"
    done
}

# Combines the members' predictions in folder $1/parts to $1/$2.npz and $1/$2.csv, for list $3; further arguments are
# options of eval.py. Does nothing with --member.
combine() {
    local out=$1/$2 list=$3 mode=mono weighted=() i
    [[ -z $MEMBER ]] || return 0
    for i in "${!MEMBERS[@]}"; do weighted+=("$1/parts/${MEMBERS[i]}.pred.npz:${WEIGHTS[i]}"); done
    [[ $list == test ]] || mode=soundscape
    run_child "$PYTHON" eval.py --dataset "$DATASET" --filelist "$list" "${@:4}" "${OPTIONS[@]}" \
        --save-predictions "$out.npz" "${weighted[@]}" &&
        run_child "$PYTHON" submit_csv.py --dataset "$DATASET" --filelist "$list" --mode "$mode" "$out.npz" "$out.csv"
}

# Whether all members are trained. If not, logs which one is missing.
all_trained() {
    local member
    for member in "${MEMBERS[@]}"; do
        [[ ! -e $DATASET/$member.npz ]] || continue
        log "$RUN: skipped: its member $member is not trained; start train_all.sh --dataset $DATASET first"
        return 1
    done
}

# Prints the ensemble's metrics on the validation list, if the list has labels.
print_metrics() {
    local weighted=() i background=()
    if [[ -z $VALID_LIST || ! -e ../datasets/$DATASET/labels/fg.tsv ]]; then
        log "$RUN: no metrics: there is no validation list with labels (labels/fg.tsv)"
        return 0
    fi
    for i in "${!MEMBERS[@]}"; do weighted+=("$DATASET/${MEMBERS[i]}.pred.npz:${WEIGHTS[i]}"); done
    [[ ! -e ../datasets/$DATASET/labels/bg.tsv ]] || background=(--labelfile-background bg.tsv)
    printf '%s: ' "$RUN"
    run_child "$PYTHON" eval.py --dataset "$DATASET" "${background[@]}" "${OPTIONS[@]}" "${weighted[@]}"
}

# Does everything for ensemble RUN, or only predicts with MEMBER.
submit() {
    local list suffix
    read_ensemble "${FILE[$RUN]}"
    if [[ -n $MEMBER ]]; then
        [[ " ${MEMBERS[*]} " == *" $MEMBER "* ]] || return 0
        MEMBERS=("$MEMBER") MEMBER_FOUND=1
    fi
    all_trained || return
    [[ -z $VALID_LIST ]] || predict_members "$DATASET" "$VALID_LIST" PREDICT || return
    [[ -n $MEMBER ]] || print_metrics || return
    if [[ -n $TEST_LIST ]]; then
        predict_members "$SUBMISSIONS/mono/parts" test PREDICT && combine "$SUBMISSIONS/mono" "$RUN" test || return
    fi
    [[ -n $SOUNDSCAPE_LISTS ]] || return 0
    predict_members "$SUBMISSIONS/soundscapes/parts" "$SOUNDSCAPE_LISTS" SOUNDSCAPES || return
    for list in ${SOUNDSCAPE_LISTS//,/ }; do
        suffix=
        [[ $list == soundscapes_test ]] || suffix=.val
        combine "$SUBMISSIONS/soundscapes" "$RUN$suffix" "$list" --no-maxpool || return
    done
}

# Sets RUNS to the ensembles named, or all, and FILE to the table of each.
declare -A FILE=()
find_ensembles() {
    local path file files=()
    RUNS=("$@")
    if ((${#ENSEMBLES[@]} == 0)); then
        ENSEMBLES=(ensembles)
        [[ ! -d $DATASET/ensembles ]] || ENSEMBLES=("$DATASET/ensembles")
    fi
    for path in "${ENSEMBLES[@]}"; do
        if [[ -f $path ]]; then files+=("$path"); else files+=("$path"/*.tsv); fi
    done
    ((${#RUNS[@]})) || for file in "${files[@]}"; do RUNS+=("$(basename "$file" .tsv)"); done
    for RUN in "${RUNS[@]}"; do
        is_name "$RUN" || die "${RUN@Q}: not a name of an ensemble; use letters, digits and _ . + -"
        for file in "${files[@]}"; do [[ ${file##*/} != "$RUN.tsv" ]] || break; done
        [[ -e $file && ${file##*/} == "$RUN.tsv" ]] ||
            die "no ensemble $RUN in ${ENSEMBLES[*]}; to create one, start blender.py --output"
        FILE[$RUN]=$file
    done
}

main() {
    local runs failed=0
    parse_options "$@"
    runs=("${NAMES[@]}") NAMES=() TABLE=(--models "$MODELS") PREDICT_SETTINGS=("${SETTINGS[@]}")
    ensure_env
    SUBMISSIONS=$DATASET/submissions VALID_LIST=$(existing_lists valid) TEST_LIST=$(existing_lists test)
    SOUNDSCAPE_LISTS=$(existing_lists soundscapes_val soundscapes_test)
    read_models --found
    check_dataset --for predict
    [[ -n $MEMBER || -e ../datasets/$DATASET/labels/labelset ]] ||
        die "datasets/$DATASET/labels/labelset is missing: submissions need its class ids; --member MODEL only predicts"
    find_ensembles "${runs[@]}"
    [[ -z $SLURM ]] || { submit_runs_to_slurm; exit; }
    for RUN in "${RUNS[@]}"; do submit || failed=$((failed + 1)); done
    ((failed == 0)) || die "$failed of ${#RUNS[@]} submissions failed, see above"
    if [[ -z $MEMBER ]]; then
        log "submissions are in experiments/$SUBMISSIONS"
    elif [[ -z $MEMBER_FOUND ]]; then
        die "--member $MEMBER: none of the ensembles (${RUNS[*]}) has this member"
    fi
}

main "$@"
