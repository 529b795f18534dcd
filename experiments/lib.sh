#!/usr/bin/env bash
# Sourced by the drivers: messages, signals, the Python environment, options. Training and prediction are in results.sh.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DATASET=birdclef MODELS=$ROOT/experiments/models.tsv
# shellcheck disable=SC2034  # results.sh reads TABLE
TABLE=() NAMES=() SETTINGS=() DEVICE=()
# Closed standard streams become /dev/null. Otherwise, messages would be written to the next file that is opened.
: 2> /dev/null 3<&0 || exec < /dev/null
: 2> /dev/null 3>&1 || exec > /dev/null
: 3>&2 || exec 2> /dev/null

log() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { log "$@"; exit 1; }
usage_error() { log "$@"; usage >&2; exit 2; }

# Whether $1 is a valid name of a model, an ensemble or a dataset. Bash runs $(...) in subscripts and in arithmetic, so
# every name is checked as soon as it is read. birdsong/model_table.py has the same pattern.
is_name() { local LC_ALL=C; [[ $1 =~ ^[A-Za-z0-9][A-Za-z0-9_.+-]*$ ]]; }

# After a signal: ends the background processes, then this script with status $1.
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

# Runs a command that may take long. It runs in the background, so that `stop` can end it at once, and with SIGTERM:
# at Ctrl-C, a Python that is just starting would print a traceback.
run_child() {
    "$@" &
    wait "$!"
}

# Runs a command that takes a moment; Ctrl-C takes effect after it.
run_briefly() { (trap '' INT; exec "$@"); }

# Prints the path of a Python that is new enough, or nothing.
find_python() {
    local name
    for name in python3 python python3.{13,12,11,10,14}; do
        if run_briefly "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
}

# Prints the packages of requirements.txt that are missing in the environment of Python $1.
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

# Sets PYTHON to that of the active environment if no package is missing there, else to that of .venv, which is created
# if it does not exist.
ensure_env() {
    local active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}} venv=$ROOT/.venv stamp missing base
    if [[ -n $active && ! $active -ef $venv ]]; then
        PYTHON=$active/bin/python
        missing=$(missing_packages "$PYTHON" 2>/dev/null) || {
            (($? <= 128)) || die "could not inspect $active: $PYTHON was killed; type the same command again"
            missing=Python
        }
        if [[ -z $missing ]]; then
            [[ -n ${BIRDCLEF_ENV_SAID:-} ]] || log "using the active environment, $active"
            export PYTHON BIRDCLEF_ENV_SAID=1
            return
        fi
        log "packages missing in the active environment, $active: ${missing% }; using .venv instead" \
            "(to use yours: pip install -r requirements.txt)"
    fi
    export PYTHON=$venv/bin/python
    stamp=$(cksum < "$ROOT/requirements.txt")
    [[ -x $PYTHON && -f $venv/.installed && $(< "$venv/.installed") == "$stamp" ]] && return
    base=$(find_python)
    [[ -n $base ]] ||
        die 'no Python 3.10 or newer found; install one (Debian, Ubuntu: apt-get install python3 python3-venv)'
    { mkdir -p "$venv" && : >> "$venv/.lock"; } 2> /dev/null ||
        die "$venv: cannot be written to, so no packages can be installed there; activate an environment that has" \
            "them (pip install -r $ROOT/requirements.txt), or copy the project and work in the copy"
    exec 9> "$venv/.lock"
    # If two drivers start at the same time, one installs and the other waits here.
    run_child "$base" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
    if [[ ! -f $venv/.installed || $(< "$venv/.installed") != "$stamp" ]]; then
        rm -f "$venv/.installed"
        if ! run_briefly "$PYTHON" -m pip --version > /dev/null 2>&1; then
            run_briefly "$base" -c 'import ensurepip, venv' 2>/dev/null ||
                die "$base has no module venv; install it (Debian, Ubuntu: apt-get install python3-venv)"
            log "creating a Python environment, .venv, with $(run_briefly "$base" --version)"
            run_child "$base" -m venv "$venv" >&2 || die "$base -m venv failed, see above; remove $venv and try again"
        fi
        log 'installing requirements.txt into .venv (only once; torch has several GB, so this takes minutes)'
        run_child "$PYTHON" -m pip install --disable-pip-version-check --quiet -r "$ROOT/requirements.txt" >&2 ||
            die 'installing requirements.txt failed, see above; type the same command again to continue'
        printf '%s\n' "$stamp" > "$venv/.installed"
        log '.venv is ready'
    fi
    exec 9>&-
}

# Reads the options that drivers share: sets DATASET, MODELS, TABLE (the option --models, if given), SETTINGS and DEVICE
# (options for train.py and predict.py), and NAMES. Other options are passed to the driver's function own_option, which
# sets SHIFT to the number of words that it used, or fails for an unknown option. At the end changes to experiments/.
# shellcheck disable=SC2034
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
        log 'THEANO_FLAGS has no effect; choose the device with --device' \
            '(--device cuda:0 for device=cuda0, --device cpu for device=cpu)'
        unset THEANO_FLAGS
    fi
    is_name "$DATASET" || usage_error "--dataset $DATASET: expected the name of a folder in datasets/"
    [[ ! $DATASET =~ ^(birdsong|vars|ensembles)$ ]] ||
        usage_error "--dataset $DATASET: experiments/$DATASET belongs to the program; choose another name"
    cd "$ROOT/experiments" || exit
}
own_option() { return 1; }

# Prints the absolute path of a file in the user's folder. A file that is not there is expected in experiments/.
absolute() { if [[ $1 == /* || ! -e $1 ]]; then printf '%s\n' "$1"; else printf '%s/%s\n' "$PWD" "$1"; fi; }

# Ends the script unless the dataset is complete. The arguments are options of validate.py: --for, --filelists.
check_dataset() {
    [[ -d ../datasets/$DATASET/filelists ]] ||
        die "datasets/$DATASET is not prepared; ./prepare_birdclef.sh explains how (for a demo: ./experiments/demo.sh)"
    run_child "$PYTHON" ../datasets/validate.py "$DATASET" --quick "$@" >&2 ||
        die "datasets/$DATASET: see above for what to do"
}
