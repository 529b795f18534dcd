#!/usr/bin/env bash
# What the drivers share: messages, the Python environment, options, claims with logs, predictions. To be sourced.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DATASET=birdclef MODELS=$ROOT/experiments/models.tsv
TABLE=() NAMES=() SETTINGS=() PREDICT_SETTINGS=() DEVICE=() GPUS=1
# Where a standard stream is closed, what is said goes nowhere, rather than into the next file that is opened.
: 2> /dev/null 3<&0 || exec < /dev/null
: 2> /dev/null 3>&1 || exec > /dev/null
: 3>&2 || exec 2> /dev/null

log() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { log "$@"; exit 1; }
usage_error() { log "$@"; usage >&2; exit 2; }

# Is $1 a name for a model, a run or a dataset? Bash evaluates $(...) in subscripts and in arithmetic, so names are
# checked where they are read, before they are used there. The pattern is that of birdsong/model_table.py.
is_name() { local LC_ALL=C; [[ $1 =~ ^[A-Za-z0-9][A-Za-z0-9_.+-]*$ ]]; }

# A signal ends what runs in the background, and then this script.
stop() {
    local children
    trap '' INT TERM HUP
    children=$(jobs -pr)
    if [[ -n $children ]]; then
        # shellcheck disable=SC2086  # numbers
        kill -TERM $children 2> /dev/null || :
        log 'stopping'
        wait
    fi
    exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM
trap 'stop 129' HUP

# Runs a command that may take long, in the background, so that `stop` can end it at once. It gets SIGTERM, not Ctrl-C:
# a Python that is just starting would answer that by a traceback.
run_child() {
    "$@" &
    wait "$!"
}

# Runs a command that takes a moment. Ctrl-C waits for it.
run_briefly() { (trap '' INT; exec "$@"); }

# Path of a Python that is new enough, or nothing.
find_python() {
    local name
    for name in python3 python python3.{13,12,11,10,14}; do
        if run_briefly "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
}

# Names of the packages of requirements.txt that the environment of Python $1 lacks.
missing_packages() {
    run_briefly "$1" - "$ROOT/requirements.txt" <<'END'
import importlib.metadata, re, sys
if sys.version_info < (3, 10):
    sys.exit(print('Python 3.10'))
for line in open(sys.argv[1]):
    if name := re.match(r'[\w.-]+', line):
        try:
            importlib.metadata.version(name.group())
        except importlib.metadata.PackageNotFoundError:
            print(name.group(), end=' ')
END
}

# Sets PYTHON: that of the active environment, else of .venv, which is made and filled if need be.
ensure_env() {
    local active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}} venv=$ROOT/.venv stamp missing base
    if [[ -n $active && ! $active -ef $venv ]]; then
        PYTHON=$active/bin/python
        missing=$(missing_packages "$PYTHON" 2>/dev/null) || {
            (($? <= 128)) || die "could not look into $active: $PYTHON was killed; type the same command again"
            missing=Python
        }
        if [[ -z $missing ]]; then
            [[ -n ${BIRDCLEF_ENV_SAID:-} ]] || log "using the active environment, $active"
            export PYTHON BIRDCLEF_ENV_SAID=1
            return
        fi
        log "the active environment, $active, lacks ${missing% }; using .venv instead (to use yours: pip install -r requirements.txt)"
    fi
    export PYTHON=$venv/bin/python
    stamp=$(cksum < "$ROOT/requirements.txt")
    [[ -x $PYTHON && -f $venv/.installed && $(< "$venv/.installed") == "$stamp" ]] && return
    base=$(find_python)
    [[ -n $base ]] || die 'no Python 3.10 or newer found; install one (Debian, Ubuntu: apt-get install python3 python3-venv)'
    { mkdir -p "$venv" && : >> "$venv/.lock"; } 2> /dev/null ||
        die "$venv: cannot be written to, so no packages can be installed there; activate an environment that has them" \
            "(pip install -r $ROOT/requirements.txt), or work in a copy of your own"
    exec 9> "$venv/.lock"
    # Of two that start at once, one installs and the other waits here.
    run_child "$base" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
    if [[ ! -f $venv/.installed || $(< "$venv/.installed") != "$stamp" ]]; then
        rm -f "$venv/.installed"
        if ! run_briefly "$PYTHON" -m pip --version > /dev/null 2>&1; then
            run_briefly "$base" -c 'import ensurepip, venv' 2>/dev/null ||
                die "$base has no module venv; install it (Debian, Ubuntu: apt-get install python3-venv)"
            log "making a Python environment, .venv, with $(run_briefly "$base" --version)"
            run_child "$base" -m venv "$venv" >&2 || die "$base -m venv failed, see above; remove $venv and try again"
        fi
        log 'installing requirements.txt into .venv (once; some GB for torch, so this takes minutes)'
        run_child "$PYTHON" -m pip install --disable-pip-version-check --quiet -r "$ROOT/requirements.txt" >&2 ||
            die 'installing requirements.txt failed, see above; type the same command again to go on'
        printf '%s\n' "$stamp" > "$venv/.installed"
        log '.venv is ready'
    fi
    exec 9>&-
}

# Sets DATASET, MODELS, TABLE (--models FILE, if given), SETTINGS, DEVICE (for train.py and predict.py), NAMES. Options that
# a driver has beside these go to its function own_option, which sets SHIFT to how many words it took, or fails. Goes to
# experiments/.
parse_options() {
    while (($#)); do
        case $1 in
            -h | --help) usage; exit 0 ;;
            --dataset | --models | --var | --vars | --device)
                (($# > 1)) || usage_error "$1 needs a value"
                case $1 in
                    --dataset) DATASET=$2 ;;
                    --models) MODELS=$(absolute "$2") TABLE=(--models "$MODELS") ;;
                    --var) SETTINGS+=(--var "$2") ;;
                    --vars) SETTINGS+=(--vars "$(absolute "$2")") ;;
                    --device) DEVICE+=(--device "$2") ;;
                esac
                shift 2 ;;
            --dataset=* | --models=* | --var=* | --vars=* | --device=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
            --amp) DEVICE+=(--amp); shift ;;
            *)
                if SHIFT=1 && own_option "$@"; then
                    shift "$SHIFT"
                elif [[ $1 == -* ]]; then
                    usage_error "unknown option $1"
                else
                    NAMES+=("$1"); shift
                fi ;;
        esac
    done
    if [[ -n ${THEANO_FLAGS:-} ]]; then
        log 'THEANO_FLAGS has no effect; choose the device with --device (--device cuda:0 for device=cuda0, --device cpu for device=cpu)'
        unset THEANO_FLAGS
    fi
    is_name "$DATASET" || usage_error "--dataset $DATASET: expected the name of a folder in datasets/"
    cd "$ROOT/experiments" || exit
}
own_option() { return 1; }

# A file as named from where the user is, else from experiments/.
absolute() { if [[ $1 == /* || ! -e $1 ]]; then printf '%s\n' "$1"; else printf '%s/%s\n' "$PWD" "$1"; fi; }

# Sets NAMES to those of the table (those given, or all), teachers first, and what list_models.py says of each: KIND, TEACHERS,
# and arguments. With --found, also those in experiments/DATASET/ that the table does not name; without --models, only
# those in that folder.
declare -A KIND=() TEACHERS=() TRAIN=() PREDICT=() SOUNDSCAPES=()
# shellcheck disable=SC2034  # the drivers that source this read them
read_models() {
    local table name kind teachers train predict soundscapes
    local given=(--models "$MODELS")
    [[ ${1:-} != --found ]] || given=(--found "${TABLE[@]}")
    table=$(run_briefly "$PYTHON" list_models.py "${given[@]}" --dataset "$DATASET" "${NAMES[@]}") || exit 1
    NAMES=()
    while IFS=$'\t' read -r name kind teachers train predict soundscapes; do
        NAMES+=("$name") KIND[$name]=$kind TEACHERS[$name]=${teachers#-}
        TRAIN[$name]=$train PREDICT[$name]=$predict SOUNDSCAPES[$name]=$soundscapes
    done <<< "$table"
}

# Ends the script if the programs cannot work with the dataset. The arguments are options of validate.py: --for, --filelists.
check_dataset() {
    [[ -d ../datasets/$DATASET/filelists ]] ||
        die "datasets/$DATASET is not prepared; type ./prepare_birdclef.sh for how to (or ./experiments/demo.sh for a trial)"
    run_child "$PYTHON" ../datasets/validate.py "$DATASET" --quick "$@" >&2 || die "datasets/$DATASET: see above for the cure"
}

# Runs a command with its output in a log, too; the last line of the log says why it failed. Words that begin with {}/
# stand for files in $CLAIM_WORK; the log calls such files what they become.
logged() {
    local log status=0 why word command=()
    for word; do
        [[ $word != '{}/'* ]] || word=$CLAIM_WORK${word#'{}'}
        command+=("$word")
    done
    log=${command[0]} command=("${command[@]:1}")
    printf '== %(%F %T)T %s: %s\n' -1 "$HOSTNAME" "${command[*]}" >> "$log"
    # The log has to outlive the signal that ends the command, and the reader of standard output (| head).
    "${command[@]}" 2>&1 | (trap '' INT TERM; published | tee -p -a "$log") || status=${PIPESTATUS[0]}
    if ((status)); then
        # What a program says of its end, before what is said of the program; else the last line.
        why=$(awk '/^== / { why = "" } /^[a-z_]+\.py: / { why = $0 } { last = $0 } END { print why == "" ? last : why }' "$log")
        ((status <= 128)) || why="ended by SIG$(kill -l "$status"), after: $why"
        printf '%(%F %T)T %s: failed with exit status %d: %s\n' -1 "$HOSTNAME" "$status" "$why" >> "$log"
    fi
    return "$status"
}

# Copies lines, in which files in $CLAIM_WORK are called what they become.
published() {
    local line
    while IFS= read -r line || [[ -n $line ]]; do printf '%s\n' "${line//"$CLAIM_WORK/"/$PUBLISHED/}"; done
}

# Runs a command that goes on from file $1, and again if a process of it died: until it fails twice without getting further.
restarted() {
    local file=$1 status before stuck=0
    shift
    while ((stuck < 2)); do
        before=$(stat -c %.9Y "$file" 2>/dev/null) || :
        status=0
        "$@" || status=$?
        # What a program says of its input (1) or its options (2) would come again.
        ((status > 2)) || return "$status"
        if [[ $(stat -c %.9Y "$file" 2>/dev/null) == "$before" ]]; then stuck=$((stuck + 1)); else stuck=0; fi
        ((stuck == 2)) || printf 'failed with exit status %d; starting again\n' "$status"
    done
    return "$status"
}

# Notes in INCOMPLETE which predictions in folder $2 of the models that follow do not have all recordings of lists $1.
declare -A INCOMPLETE=()
find_incomplete() {
    local lists=$1 folder=$2 files=() found version file
    for file in "${@:3}"; do files+=("$folder/$file.pred.npz"); done
    found=$(run_briefly "$PYTHON" incomplete.py "../datasets/$DATASET/filelists/$lists" "${files[@]}") || exit 1
    while IFS=$'\t' read -r version file; do [[ -z $file ]] || INCOMPLETE[$file]=$version; done <<< "$found"
}

# Is file $1 there, and nothing noted as missing in it?
in_place() { [[ -e $1 && -z ${INCOMPLETE[$1]:-} ]]; }

# Makes FILE by a command under its claim, with a log beside it: `claimed FILE COMMAND...`, in which {}/ at the
# beginning of a word stands for the attempt's own folder. What the command leaves there is published beside FILE. Exit
# status 75, 76: someone else has the claim. If it fails, REASON says where the reason is: in the log, or above if it
# failed before it wrote one.
claimed() {
    local log=${1##*/} replace=() status=0 before after
    [[ -z ${INCOMPLETE[$1]:-} ]] || replace=(--replace "${INCOMPLETE[$1]}")
    export -f logged published restarted
    export PUBLISHED=${1%/*}
    before=$(stat -c '%s %.9Y' "${1%.npz}.log" 2>/dev/null) || :
    run_child ./claim.sh "${replace[@]}" "$1.lock" -- bash -c 'set -euo pipefail; logged "$@"' claimed \
        "{}/${log%.npz}.log" "${@:2}" || status=$?
    after=$(stat -c '%s %.9Y' "${1%.npz}.log" 2>/dev/null) || :
    # shellcheck disable=SC2034  # the drivers print it
    if [[ $after == "$before" ]]; then REASON='see above'; else REASON="see experiments/${1%.npz}.log"; fi
    ((status)) || INCOMPLETE[$1]=
    return "$status"
}

# Who is making a file, or that it will be in place in a moment, in words; fails if nobody makes it.
holder() {
    local status=0 words
    [[ -e $1.lock ]] || return 1
    words=$(./claim.sh --status "$1.lock") || status=$?
    printf '%s\n' "$words"
    ((status == 0)) || [[ $words == finished,* ]]
}

# Trains model $1. Exit status as `claimed`.
train_model() {
    local launch=("$PYTHON")
    # A process that dies is no failure yet: all of them start again, from the last epoch.
    ((GPUS == 1)) || launch=(restarted "{}/$1.state" "$PYTHON" launch.py "$GPUS" "$PYTHON")
    # shellcheck disable=SC2086  # words without spaces
    claimed "$DATASET/$1.npz" "${launch[@]}" train.py ${TRAIN[$1]} "${SETTINGS[@]}" "${DEVICE[@]}" "{}/$1.npz"
}

# Predicts with model $1 for lists $2 into folder $3 with arguments $4, those of PREDICT or SOUNDSCAPES. Exit status as `claimed`.
# Of an incomplete file, only what is missing is predicted.
predict_model() {
    mkdir -p "$3" || return
    # shellcheck disable=SC2086  # words without spaces
    claimed "$3/$1.pred.npz" "$PYTHON" predict.py "$DATASET/$1.npz" "{}/$1.pred.npz" --filelists "$2" $4 \
        --reuse "{}/old/$1.pred.npz" "${PREDICT_SETTINGS[@]}" "${DEVICE[@]}"
}
