#!/usr/bin/env bash
# A Slurm cluster on a single machine, for tests: one controller, several nodes (slurmd -N), all files in one folder.
set -euo pipefail

usage() {
    cat <<'END'
Usage: cluster.sh up FOLDER [NODES [PORT]]  start it: NODES (2) nodes n1, n2, ..., one job each, ports from PORT (16817)
       cluster.sh crash FOLDER NODE         kill a node's slurmd; its jobs continue without it
       cluster.sh restart FOLDER NODE       start a node's slurmd again
       cluster.sh down FOLDER               end all its processes
Then: export SLURM_CONF=FOLDER/slurm.conf. Needs root and the Debian packages slurmctld, slurmd, slurm-client, munge.
END
    exit 2
}

die() { printf 'cluster.sh: %s\n' "$*" >&2; exit 1; }

configure() {
    local host node last=$nodes
    host=$(hostname -s)
    # Unless it is a character device, Slurm does not set CUDA_VISIBLE_DEVICES, without any message.
    [[ -c $folder/gpu0 ]] || mknod "$folder/gpu0" c 1 3
    cat >"$folder/slurm.conf" <<END
ClusterName=trial
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
SlurmdTimeout=5
SlurmctldTimeout=30
InactiveLimit=0
KillWait=5
MinJobAge=3600
ReturnToService=2
GresTypes=gpu
END
    : >"$folder/gres.conf"
    printf 'CgroupPlugin=cgroup/v1\nIgnoreSystemd=yes\n' >"$folder/cgroup.conf"
    for ((node = 1; node <= last; node++)); do
        mkdir -p "$folder/spool.n$node"
        printf 'NodeName=n%d NodeHostname=%s NodeAddr=127.0.0.1 Port=%d CPUs=1 RealMemory=500 Gres=gpu:1\n' \
            "$node" "$host" $((port + node)) >>"$folder/slurm.conf"
        printf 'NodeName=n%d Name=gpu File=%s/gpu0\n' "$node" "$folder" >>"$folder/gres.conf"
    done
    printf 'PartitionName=all Nodes=n[1-%d] Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO\n' "$last" \
        >>"$folder/slurm.conf"
}

wait_for() {  # WHAT COMMAND...
    local i what=$1
    shift
    for ((i = 0; i < 300; i++)); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    tail -n 5 "$folder"/*.log >&2
    die "$what did not start; see the logs in $folder"
}

all_up() { [[ $(sinfo -h -N -o '%N %t' | grep -c -E ' (idle|mix|alloc)$') == "$nodes" ]]; }

up() {
    local node
    for node in slurmctld slurmd munged scontrol; do
        command -v "$node" >/dev/null || die "$node is missing; install slurmctld slurmd slurm-client munge (apt-get)"
    done
    mkdir -p "$folder/state"
    chmod 755 "$folder"
    mkdir -p "$folder/munge"
    chmod 700 "$folder/munge"
    head -c 128 /dev/urandom >"$folder/munge/key"
    chmod 400 "$folder/munge/key"
    configure
    munged --force --key-file="$folder/munge/key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge/seed"
    wait_for munged munge -n -S "$folder/munge.socket"
    slurmctld -c
    wait_for slurmctld eval 'scontrol ping | grep -q "is UP"'
    for ((node = 1; node <= nodes; node++)); do slurmd -N "n$node"; done
    wait_for 'a node' all_up
}

alive() { grep -qs '^State:.[^Z]' "/proc/$1/status"; }

end() {  # PIDFILE [SIGNAL]
    local pid i
    [[ -s $1 ]] || return 0
    pid=$(<"$1")
    kill "-${2:-TERM}" "$pid" 2>/dev/null || true
    for ((i = 0; i < 50; i++)); do alive "$pid" || break; sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null || true
    rm -f "$1"
}

down() {
    local file path
    scancel --me 2>/dev/null || true
    for file in "$folder"/slurmd.*.pid "$folder"/slurmctld.pid "$folder"/munged.pid; do end "$file"; done
    # Jobs and steps survive a crash of slurmd. Only processes with this cluster in their environment are killed.
    for path in /proc/[0-9]*/environ; do
        if grep -qzxs "SLURM_CONF=$folder/slurm.conf" "$path" && grep -qzs '^SLURM_JOB_ID=' "$path"; then
            kill -KILL "$(cut -d/ -f3 <<<"$path")" 2>/dev/null || true
        fi
    done
}

main() {
    (($# >= 2)) || usage
    local action=$1
    folder=$(readlink -m -- "$2") nodes=${3:-2} port=${4:-16817}
    export SLURM_CONF=$folder/slurm.conf
    case $action in
        up) up ;;
        crash) end "$folder/slurmd.${3:?which node}.pid" KILL ;;
        restart) slurmd -N "${3:?which node}" ;;
        down) down ;;
        *) usage ;;
    esac
}

main "$@"
