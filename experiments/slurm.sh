#!/usr/bin/env bash
# Drivers on Slurm. Sourced, it adds --slurm to a driver; run, it is what runs in a job: slurm.sh RESULT DRIVER ARGUMENTS...
#
# A job only runs a driver, as one would by hand, and both take the same claims. When the time limit comes near (sbatch
# --signal), the driver lets its program stop, and the job requeues itself. It does so, too, if the driver ended well
# while RESULT is not there, because someone else is making it (after the loss of a node perhaps the job itself, before).

SLURM='' WORKERS='' SBATCH=()

# What own_option of a driver hands on.
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

# Ends the script unless Slurm is there and wanted; sets QUEUED, the ids of jobs that are in the queue, by name.
slurm_begin() {
    local name id
    declare -gA QUEUED=() SUBMITTED=()
    command -v sbatch > /dev/null || die 'sbatch is missing: --slurm works where jobs are submitted to Slurm'
    id=$(squeue --me --noheader --format='%F %j' 2>&1) || die "Slurm does not answer: $id"
    while read -r id name; do [[ -z $name ]] || QUEUED[$name]=$id; done <<< "$id"
}

# Submits a job: slurm_submit NAME RESULT JOB:JOB... DRIVER ARGUMENTS...; after those jobs; sets QUEUED[DATASET/NAME].
slurm_submit() {
    local name=$DATASET/$1 result=$2 after=$3 id options
    shift 3
    if [[ -n ${SUBMITTED[$name]:-} ]]; then
        return
    elif [[ -n ${QUEUED[$name]:-} ]]; then
        SUBMITTED[$name]=1
        log "${name#*/}: skipped: is job ${QUEUED[$name]} of Slurm"
        return
    fi
    options=(--job-name="$name" --chdir="$PWD" --output="$DATASET/${name##*/}${WORKERS:+.%a}.slurm.log" --open-mode=append --requeue --signal=B:USR1@120)
    [[ -z $after ]] || options+=(--dependency="afterok:$after" --kill-on-invalid-dep=yes)
    id=$(printf '#!/usr/bin/env bash\nexec %s\n' "$(printf '%q ' ./slurm.sh "$result" "$@")" |
        sbatch --parsable "${options[@]}" "${SBATCH[@]}") || die "${name#*/}: sbatch failed, see above"
    QUEUED[$name]=${id%%;*} SUBMITTED[$name]=1
    log "${name#*/}: submitted as job ${id%%;*}${after:+, after ${after//:/, }}"
}

# Submits WORKERS jobs that run a driver with arguments.
slurm_workers() {
    SBATCH=(--array="1-$WORKERS" "${SBATCH[@]}")
    slurm_submit workers '' '' "$@"
}

# What runs in a job.
job() {
    if (($# < 2)) || [[ -z ${SLURM_JOB_ID:-} ]]; then
        printf '%s\n' 'Usage: slurm.sh RESULT DRIVER [ARGUMENT...]' 'Runs a driver in a job of Slurm, and requeues the job.' \
            'To submit jobs, type ./train_all.sh --slurm or ./submit_all.sh --slurm.' >&2
        exit 2
    fi
    local result=$1 status=0 child='' signal=''
    shift
    trap 'signal=USR1; kill -TERM "$child"' USR1
    trap 'signal=TERM; kill -TERM "$child"' TERM
    printf '== %(%F %T)T %s, job %s%s: %s\n' -1 "$HOSTNAME" "$SLURM_JOB_ID" "${SLURM_RESTART_COUNT:+, restart $SLURM_RESTART_COUNT}" "$*"
    "$@" &
    child=$!
    while kill -0 "$child" 2> /dev/null; do
        status=0
        wait "$child" || status=$?
    done
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
    # Slurm ends what is left of this run of the job.
    sleep 1000
}

[[ ${BASH_SOURCE[0]} != "$0" ]] || { set -euo pipefail; job "$@"; exit; }
