#!/usr/bin/env bash
# Sourced by the drivers after lib.sh: trains models and predicts with them, each under a claim and with a log.

PREDICT_SETTINGS=() GPUS=1
# The states of a claim: the exit statuses of claim.sh --status. claim.sh explains them.
# shellcheck disable=SC2034
declare -r HELD=0 FREE=1 STALE=3 FAILED=4 FINISHED=5 PUBLISHED=6

# Sets NAMES to the models of the table (those named, or all), teachers first, and for each what list_models.py prints:
# KIND, TEACHERS, the arguments of train.py and predict.py, and BEFORE. With --found, models in experiments/DATASET/ that
# are not in the table are added; then the table is used only if --models was given.
declare -A KIND=() TEACHERS=() TRAIN=() PREDICT=() SOUNDSCAPES=() BEFORE=()
# shellcheck disable=SC2034,SC2153  # the drivers read them; lib.sh sets TABLE
read_models() {
    local table name kind teachers train predict soundscapes before
    local given=(--models "$MODELS")
    [[ ${1:-} != --found ]] || given=(--found "${TABLE[@]}")
    table=$(run_briefly "$PYTHON" list_models.py "${given[@]}" --dataset "$DATASET" "${NAMES[@]}") || exit 1
    NAMES=()
    while IFS=$'\t' read -r name kind teachers train predict soundscapes before; do
        NAMES+=("$name") KIND[$name]=$kind TEACHERS[$name]=${teachers#-}
        TRAIN[$name]=$train PREDICT[$name]=$predict SOUNDSCAPES[$name]=$soundscapes BEFORE[$name]=${before#-}
    done <<< "$table"
}

# Stores in INCOMPLETE which predictions in folder $2 are missing recordings of lists $1. Further arguments: models.
declare -A INCOMPLETE=()
find_incomplete() {
    local lists=$1 folder=$2 files=() found version file
    for file in "${@:3}"; do files+=("$folder/$file.pred.npz"); done
    found=$(run_briefly "$PYTHON" incomplete.py "../datasets/$DATASET/filelists/$lists" "${files[@]}") || exit 1
    while IFS=$'\t' read -r version file; do [[ -z $file ]] || INCOMPLETE[$file]=$version; done <<< "$found"
}

# Whether file $1 exists and is complete.
in_place() { [[ -e $1 && -z ${INCOMPLETE[$1]:-} ]]; }

# Sets CLAIM to the state of the claim of file $1, and WHO to a description: who holds it, or why it is free.
look_up_claim() {
    CLAIM=$FREE WHO=''
    [[ ! -e $1.lock ]] || { CLAIM=0; WHO=$(./claim.sh --status "$1.lock") || CLAIM=$?; }
}

# Runs a command and copies its output to a log: `logged LOG COMMAND...`. If it fails, the last line of the log says
# why. A {}/ at the beginning of a word stands for $CLAIM_WORK. In the log, such files have the names under which they
# are published.
logged() {
    local log status=0 why signal word command=()
    for word; do
        [[ $word != '{}/'* ]] || word=$CLAIM_WORK${word#'{}'}
        command+=("$word")
    done
    log=${command[0]} command=("${command[@]:1}")
    printf '== %(%F %T)T %s: %s\n' -1 "$HOSTNAME" "${command[*]}" >> "$log"
    # The log must continue after the signal that ends the command, and after a reader of its output (| head) has ended.
    "${command[@]}" 2>&1 | (trap '' INT TERM; published_names | tee -p -a "$log") || status=${PIPESTATUS[0]}
    if ((status)); then
        # The last message of a program if there is one, else the last line.
        why=$(awk '/^== / { why = "" } /^[a-z_]+\.py: / { why = $0 } { last = $0 }
            END { print why == "" ? last : why }' "$log")
        if ((status > 128)) && signal=$(kill -l "$status" 2>/dev/null); then why="ended by SIG$signal, after: $why"; fi
        printf '%(%F %T)T %s: failed with exit status %d: %s\n' -1 "$HOSTNAME" "$status" "$why" >> "$log"
    fi
    return "$status"
}

# Copies lines, and replaces paths in $CLAIM_WORK by those under which the files are published.
published_names() {
    local line
    while IFS= read -r line || [[ -n $line ]]; do printf '%s\n' "${line//"$CLAIM_WORK/"/$RESULT_FOLDER/}"; done
}

# Runs a command that continues from file $1. If one of its processes dies, runs it again, until it fails twice in a row
# without progress.
restarted() {
    local file=$1 status before stuck=0
    shift
    while ((stuck < 2)); do
        before=$(stat -c %.9Y "$file" 2>/dev/null) || :
        status=0
        "$@" || status=$?
        # After an error in the input (1) or the options (2), the next attempt would fail, too.
        ((status > 2)) || return "$status"
        if [[ $(stat -c %.9Y "$file" 2>/dev/null) == "$before" ]]; then stuck=$((stuck + 1)); else stuck=0; fi
        ((stuck == 2)) || printf 'failed with exit status %d; starting again\n' "$status"
    done
    return "$status"
}

# Makes a file by a command under a claim: `claimed FILE COMMAND...`. A {}/ at the beginning of a word stands for the
# folder of the attempt; the files that the command leaves there are published in the folder of FILE, with a log. Exit
# status 75 or 76: another process has the claim. After a failure, REASON says where to look: in the log, or above if
# nothing was written to it.
claimed() {
    local log=${1##*/} replace=() status=0 before after
    [[ -z ${INCOMPLETE[$1]:-} ]] || replace=(--replace "${INCOMPLETE[$1]}")
    export -f logged published_names restarted
    export RESULT_FOLDER=${1%/*}
    before=$(stat -c '%s %.9Y' "${1%.npz}.log" 2>/dev/null) || :
    run_child ./claim.sh "${replace[@]}" "$1.lock" -- bash -c 'set -euo pipefail; logged "$@"' claimed \
        "{}/${log%.npz}.log" "${@:2}" || status=$?
    after=$(stat -c '%s %.9Y' "${1%.npz}.log" 2>/dev/null) || :
    if [[ $after == "$before" ]]; then REASON='see above'; else REASON="see $(shown "${1%.npz}.log")"; fi
    ((status)) || INCOMPLETE[$1]=
    return "$status"
}

# Prints a path in experiments/, or an absolute one, for the user.
shown() { if [[ $1 == /* ]]; then printf '%s\n' "$1"; else printf 'experiments/%s\n' "$1"; fi; }

# After look_up_claim: whether another driver has failed to make file $1 since STARTED, when this driver started.
failed_elsewhere() {
    ((CLAIM == FAILED)) && [[ -n ${STARTED:-} && -e ${1%.npz}.log && $(stat -c %.9Y "${1%.npz}.log") > $STARTED ]]
}

# Makes FILE of a model unless it is in place or another process is making it: `make_result MODEL FILE WHAT COMMAND...`.
# Sets OUTCOME to `in place`, `made`, `held` (elsewhere) or `failed`, and for the last two REASON. Never fails.
# shellcheck disable=SC2034  # the drivers read OUTCOME
make_result() {
    local status=0
    OUTCOME='in place' REASON=''
    ! in_place "$2" || return 0
    look_up_claim "$2"
    if ((CLAIM == HELD)); then
        OUTCOME=held REASON="$3 is running ($WHO)"
        return 0
    fi
    if failed_elsewhere "$2"; then
        OUTCOME=failed REASON="$3 failed just now in another driver, see $(shown "${2%.npz}.log")"
        return 0
    fi
    log "$1: $3"
    "${@:4}" || status=$?
    case $status in
        0) OUTCOME=made ;;
        75 | 76) OUTCOME=held REASON="$3 is running elsewhere" ;;
        *) OUTCOME=failed REASON="$3 failed with exit status $status, $REASON" ;;
    esac
}

# Trains model $1; sets OUTCOME and REASON as make_result does.
make_model() { make_result "$1" "$DATASET/$1.npz" training train_model "$1"; }

# Predicts lists $2 with model $1 into folder $3, with arguments $4 (from PREDICT or SOUNDSCAPES); sets OUTCOME and
# REASON as make_result does.
make_predictions() {
    local lists=$2
    [[ $lists != valid ]] || lists='the validation list'
    make_result "$1" "$3/$1.pred.npz" "prediction of $lists" predict_model "$@"
}

# Trains model $1. The exit status is that of `claimed`.
train_model() {
    local launch=("$PYTHON")
    # If one of several processes dies, all of them start again from the last epoch.
    ((GPUS == 1)) || launch=(restarted "{}/$1.state" "$PYTHON" launch.py "$GPUS" "$PYTHON")
    # shellcheck disable=SC2086  # words without spaces
    claimed "$DATASET/$1.npz" "${launch[@]}" train.py ${TRAIN[$1]} "${SETTINGS[@]}" "${DEVICE[@]}" "{}/$1.npz"
}

# Arguments as for make_predictions; the exit status is that of `claimed`. If the file is incomplete, only missing
# recordings are predicted.
predict_model() {
    mkdir -p "$3" || return
    # shellcheck disable=SC2086  # words without spaces
    claimed "$3/$1.pred.npz" "$PYTHON" predict.py "$DATASET/$1.npz" "{}/$1.pred.npz" --filelists "$2" $4 \
        --reuse "{}/old/$1.pred.npz" "${PREDICT_SETTINGS[@]}" "${DEVICE[@]}"
}
