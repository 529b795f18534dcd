#!/usr/bin/env bash
# Drivers on Slurm. Sourced by a driver, this adds the option --slurm. Jobs run it: slurm.sh RESULT DRIVER ARGUMENTS...
#
# A job runs a driver like a user does, with the same claims. Shortly before the time limit (sbatch --signal), the
# driver lets its program save its state and stop, and the job requeues itself. The job also requeues itself if the
# driver succeeded but RESULT does not exist because it is made elsewhere (after the loss of a node, perhaps by an
# earlier start of the same job).

SLURM='' WORKERS='' SBATCH=()

# Reads the options for Slurm, as own_option of a driver.
# shellcheck disable=SC2034  # read by the drivers
slurm_option() {
    case $1 in
        --slurm) SLURM=1 ;;
        --slurm-workers)
            [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || usage_error '--slurm-workers needs a number of jobs'
            SLURM=1 WORKERS=$2 SHIFT=2 ;;
        --) SBATCH=("${@:2}") SHIFT=$# ;;
        *) return 1 ;;
    esac
}

# Sets QUEUED[NAME] to the id of each job in the queue, or ends the script if there is no Slurm.
slurm_begin() {
    local name id
    declare -gA QUEUED=() SUBMITTED=()
    command -v sbatch > /dev/null || die 'sbatch is missing: --slurm needs Slurm'
    id=$(squeue --me --noheader --format='%F %j' 2>&1) || die "Slurm does not answer: $id"
    while read -r id name; do [[ -z $name ]] || QUEUED[$name]=$id; done <<< "$id"
}

# Submits a job that starts after other jobs: slurm_submit NAME RESULT JOB:JOB... DRIVER ARGUMENTS...
# Sets QUEUED[DATASET/NAME].
slurm_submit() {
    local name=$DATASET/$1 result=$2 after=$3 id options
    shift 3
    if [[ -n ${SUBMITTED[$name]:-} ]]; then
        return
    elif [[ -n ${QUEUED[$name]:-} ]]; then
        SUBMITTED[$name]=1
        log "${name#*/}: skipped: already job ${QUEUED[$name]} of Slurm"
        return
    fi
    options=(--job-name="$name" --chdir="$PWD" --output="$DATASET/${name##*/}${WORKERS:+.%a}.slurm.log"
        --open-mode=append --requeue --signal=B:USR1@120)
    [[ -z $after ]] || options+=(--dependency="afterok:$after" --kill-on-invalid-dep=yes)
    id=$(printf '#!/usr/bin/env bash\nexec %s\n' "$(printf '%q ' ./slurm.sh "$result" "$@")" |
        sbatch --parsable "${options[@]}" "${SBATCH[@]}") || die "${name#*/}: sbatch failed, see above"
    QUEUED[$name]=${id%%;*} SUBMITTED[$name]=1
    log "${name#*/}: submitted as job ${id%%;*}${after:+, after ${after//:/, }}"
}

# Submits WORKERS jobs that run the same driver.
slurm_workers() {
    SBATCH=(--array="1-$WORKERS" "${SBATCH[@]}")
    slurm_submit workers '' '' "$@"
}

# For train_all.sh: submits one job for each of NAMES that is not finished.
submit_models_to_slurm() {
    local name teacher id after failed=0
    local options=(--dataset "$DATASET" --models "$MODELS" "${SETTINGS[@]}" "${DEVICE[@]}" --gpus-per-model "$GPUS")
    slurm_begin
    if [[ -n $WORKERS ]]; then
        slurm_workers ./train_all.sh "${options[@]}" "${NAMES[@]}"
        return
    fi
    for name in "${NAMES[@]}"; do
        if [[ -e $DATASET/$name.npz ]] && in_place "$DATASET/$name.pred.npz"; then
            log "$name: finished, skipped"
            continue
        fi
        after=
        for teacher in ${TEACHERS[$name]}; do
            id=${QUEUED[$DATASET/$teacher]:-}
            after+=${id:+${after:+:}$id}
            [[ -n $id || -e $DATASET/$teacher.npz ]] || {
                log "$name: skipped: waiting for $teacher, which no job trains; submit $teacher, too"
                failed=1
                continue 2
            }
        done
        slurm_submit "$name" "$DATASET/$name.pred.npz" "$after" ./train_all.sh "${options[@]}" "$name"
    done
    return "$failed"
}

# Whether folder $2 has all predictions of member $1 for lists $3 (which may be empty).
predicted() {
    [[ -n $3 ]] || return 0
    find_incomplete "$3" "$2" "$1"
    in_place "$2/$1.pred.npz"
}

# For submit_all.sh: submits one job for each member with missing predictions, and after them one for each of RUNS.
submit_runs_to_slurm() {
    local run member after
    local options=(--dataset "$DATASET" --models "$MODELS" "${ENSEMBLES[@]/#/--ensembles=}"
        "${SETTINGS[@]}" "${DEVICE[@]}")
    slurm_begin
    if [[ -n $WORKERS ]]; then
        slurm_workers ./submit_all.sh "${options[@]}" "${RUNS[@]}"
        return
    fi
    for run in "${RUNS[@]}"; do
        read_ensemble "${FILE[$run]}"
        after=
        for member in "${MEMBERS[@]}"; do
            if predicted "$member" "$DATASET" "$VALID_LIST" &&
                predicted "$member" "$SUBMISSIONS/mono/parts" "$TEST_LIST" &&
                predicted "$member" "$SUBMISSIONS/soundscapes/parts" "$SOUNDSCAPE_LISTS"; then
                continue
            fi
            slurm_submit "predict-$member" '' '' ./submit_all.sh "${options[@]}" --member "$member" "${RUNS[@]}"
            after+=${after:+:}${QUEUED[$DATASET/predict-$member]}
        done
        slurm_submit "submit-$run" '' "$after" ./submit_all.sh "${options[@]}" "$run"
    done
}

# What a job runs: RESULT DRIVER ARGUMENTS... RESULT may be empty.
job() {
    if (($# < 2)) || [[ -z ${SLURM_JOB_ID:-} ]]; then
        printf '%s\n' 'Usage: slurm.sh RESULT DRIVER [ARGUMENT...]' \
            'Runs a driver in a job of Slurm, and requeues the job if necessary.' \
            'To submit jobs, type ./train_all.sh --slurm or ./submit_all.sh --slurm.' >&2
        exit 2
    fi
    local result=$1 status=0 child='' signal=''
    shift
    trap 'signal=USR1; kill -TERM "$child"' USR1
    trap 'signal=TERM; kill -TERM "$child"' TERM
    printf '== %(%F %T)T %s, job %s%s: %s\n' -1 "$HOSTNAME" "$SLURM_JOB_ID" \
        "${SLURM_RESTART_COUNT:+, restart $SLURM_RESTART_COUNT}" "$*"
    "$@" &
    child=$!
    # A signal ends `wait` early, so only the last one gives the status of the driver.
    while kill -0 "$child" 2> /dev/null; do wait "$child" || :; done
    wait "$child" || status=$?
    if [[ $signal == USR1 && $status != 0 ]]; then
        echo 'slurm.sh: the time limit is near; requeueing'
    elif [[ $status == 0 && -n $result && ! -e $result ]]; then
        echo "slurm.sh: $result is being made elsewhere; requeueing to look again"
    else
        exit "$status"
    fi
    trap '' TERM
    scontrol requeue "$SLURM_JOB_ID" || exit 1
    # Slurm will end this process.
    sleep 1000
}

[[ ${BASH_SOURCE[0]} != "$0" ]] || { set -euo pipefail; job "$@"; exit; }
