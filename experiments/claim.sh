#!/usr/bin/env bash
# claim.sh: create a file exactly once, even if many processes on many machines that share its folder try to.
#
#   claim.sh RESULT.lock -- COMMAND...   claim RESULT, run COMMAND, publish the files that it left in $CLAIM_WORK
#   claim.sh --replace VERSION RESULT.lock -- COMMAND...    the same, but replace RESULT if it is still of that version
#                                        (stat -c %i-%.9Y); COMMAND finds the old one at $CLAIM_WORK/old/RESULT
#   claim.sh --status RESULT.lock        print one line; exit status 0 held, 1 free, 3 stale, 4 failed, 5 finished,
#                                        6 published but not in place yet
#   claim.sh --release [--force] RESULT.lock    free a claim whose holder will not return
#   claim.sh --work RESULT.lock          print the folder of the latest attempt
#
# Exit status: that of COMMAND; 0 also if RESULT already exists; 74 the folder cannot be written to (read-only, full);
# 75 held by another process; 76 claim lost, result discarded; 130, 143, 129 interrupted by SIGINT, SIGTERM, SIGHUP.
# Settings: CLAIM_BEAT=30, CLAIM_LEASE=600, CLAIM_GRACE=120 seconds.
#
# States. RESULT.lock is a folder with one numbered folder per attempt (1/, 2/, ...), and the highest number counts.
#   That attempt is held (running), stale (its holder is gone), released (free for the next one) or failed. Without
#   attempts, RESULT is free, or if the file exists, finished.
# Claiming. A claim is taken, also from a stale holder, by renaming a folder that contains `owner` and `beat` to the
#   next number. Since such a folder is never empty, only one rename succeeds, also over NFS. Rivals never remove a
#   number, so two processes can never both believe that they took over the same stale claim.
# Staleness. On the holder's machine (same boot, process namespace and user), a claim is stale when the holder's
#   process is gone. Elsewhere it is stale when `beat`, which the holder's watcher touches regularly, is older than
#   the lease. Both times are those of files in this folder, so only the clock of the file server matters. If that
#   clock was set back, so that `beat` is in the future, the first process to notice this touches it once, and the
#   lease starts again.
# Publishing. The command writes to its attempt's own folder, N/work.TOKEN/ ($CLAIM_WORK). The first attempt to
#   succeed renames it to published/, which fails for all others. Then its files are moved to the folder of RESULT,
#   RESULT last, and the lock is removed. Folders and hidden files are not published.
# Recovery. An attempt starts with a copy of the files of the previous one, so that training continues. If a machine
#   crashes while it publishes, the next caller completes this: any process can repeat each step at any time. The
#   watcher, a separate process, kills the command if a higher number appears or this script dies; it finds the
#   processes of an attempt by CLAIM_TOKEN in their environment.
#
# An NFS client may answer from its cache. Therefore, decisions are based on renames, on fresh listings of folders and
# on the token in a file, and a process that has just claimed RESULT checks again whether it exists.
set -euo pipefail
shopt -s nullglob
# Standard streams that are closed or not read must not end this script.
true >&2 || exec 2>/dev/null
{ true >&1; } 2>/dev/null || exec >/dev/null
{ true <&0; } 2>/dev/null || exec </dev/null
trap : PIPE

beat=${CLAIM_BEAT:-30} lease=${CLAIM_LEASE:-600} grace=${CLAIM_GRACE:-120}
for seconds in "$beat" "$lease" "$grace"; do
    if [[ ! $seconds =~ ^[0-9]+(\.[0-9]+)?$ ]]; then
        printf 'claim.sh: CLAIM_BEAT, CLAIM_LEASE and CLAIM_GRACE are numbers of seconds, not %s\n' "${seconds@Q}" >&2
        exit 2
    fi
done
[[ $beat == *[1-9]* ]] || { printf 'claim.sh: CLAIM_BEAT must be more than 0 seconds\n' >&2; exit 2; }
boot=$(</proc/sys/kernel/random/boot_id)
namespace=$(readlink /proc/self/ns/pid)
self=$(readlink -f -- "${BASH_SOURCE[0]}")

say() { printf 'claim.sh: %s: %s\n' "$name" "${*//[[:cntrl:]]/?}" >&2 2>/dev/null || :; }
die() { say "$2"; exit "$1"; }
explain_error() {  # VERB ERROR: prints what cannot be done, where, why, and what to do
    local reason=${2##*: } where=$folder cure='correct this'
    case $reason in
        *'No space'* | *quota*) cure='free some space there' ;;
        *ermi*)
            [[ ! -d $lock ]] || where=$lock
            cure="make it writable (it belongs to $(stat -c %U -- "$where"))" ;;
        Read-only*) cure='make it writable' ;;
        *exists* | 'cannot overwrite'*) where=$lock cure='remove it' ;;
    esac
    say "cannot $1 it: $where: $reason; $cure, then start it again; no result is lost"
}
fail_with_error() { explain_error "$@"; exit 74; }

now() { printf '%(%F %T %z)T' -1; }

usage() {
    sed -n '2,14s/^# \{0,1\}//p' "$self"
    exit "$1"
}

set_paths() {  # RESULT.lock: sets lock, result and folder, which are absolute, and name, that of RESULT
    [[ ${1%/} == ?*.lock ]] || usage 2 >&2
    lock=${1%/} name=${1##*/}
    folder=$(cd -- "$(dirname -- "$lock")" 2>/dev/null && pwd) ||
        { printf 'claim.sh: %s: no such folder; create it first\n' "$(dirname -- "$lock")" >&2; exit 74; }
    lock=$folder/$(basename -- "$lock") result=${lock%.lock}
    lock=$result.lock name=${result##*/}
}

find_latest() {  # sets latest, the highest number, from a fresh listing
    local f
    latest=0
    for f in "$lock"/[1-9]*; do
        f=${f##*/}
        if [[ $f =~ ^[0-9]{1,15}$ ]] && ((f > latest)); then latest=$f; fi
    done
}

result_in_place() {  # whether RESULT exists (and is not the version to be replaced), from a fresh listing
    local f
    for f in "$result"*; do [[ $f != "$result" ]] || { is_new_version; return; }; done
    [[ -e $result ]] && is_new_version
}

is_new_version() {  # whether RESULT is not the version to be replaced
    [[ ! $replace || $(stat -c %i-%.9Y -- "$result" 2>/dev/null) != "$replace" ]]
}

# ERROR: whether it says that a file is missing: a rival moved it, or we did, but the server's answer was lost
file_was_missing() {
    [[ $1 == *'No such file'* || $1 == *'Stale file'* || $1 == *'are the same file'* ]]
}

start_time() {  # PID: prints its start in ticks since boot; fails if it is gone or a zombie
    local fields
    [[ $1 ]] || return 1
    read -r fields 2>/dev/null <"/proc/$1/stat" || return 1
    read -ra fields <<<"${fields##*) }"
    [[ ${fields[0]} != [ZX] ]] && printf '%s' "${fields[19]}"
}

processes_of() {  # TOKEN: prints the attempt's processes on this machine
    { grep -lzxsF -- "CLAIM_TOKEN=$1" /proc/[0-9]*/environ || :; } | cut -d/ -f3
}

end_processes() {  # TOKEN: kills the attempt's processes; fails if some cannot be killed
    local pids i
    for ((i = 0; i < 50; i++)); do
        mapfile -t pids < <(processes_of "$1")
        ((${#pids[@]})) || return 0
        kill -KILL "${pids[@]}" 2>/dev/null || :
        sleep 0.1
    done
    return 1
}

# FILE: prints the seconds since it was touched, by the file server's clock; fails if the folder cannot be written to
age_of() {
    local probe=$lock/.now.$HOSTNAME.$$ touched clock
    : 2>/dev/null <"$1" || :  # opening makes an NFS client fetch the attributes
    touched=$(stat -c %Y -- "$1" 2>/dev/null) && touch -- "$probe" 2>/dev/null || return 1
    clock=$(stat -c %Y -- "$probe" 2>/dev/null || :)
    rm -f -- "$probe"
    [[ $clock ]] && printf '%s' $((clock - touched))
}

read_owner() {  # NUMBER: sets the table owner; malformed values stay empty, so that they match no process
    local line key value
    declare -gA owner=([host]='' [process]='' [gpu]='' [slurm]='' [since]='' [boot]='' [namespace]='' [user]=''
        [start]='' [token]='')
    [[ -f $lock/$1/owner ]] || return 0
    while IFS= read -r line; do
        [[ $line =~ ^(host|process|gpu|slurm|since|boot|namespace|user|start|token):\ (.*)$ ]] || continue
        key=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]//[[:cntrl:]]/?}
        case $key in
            process | start) [[ $value =~ ^[0-9]+$ ]] || continue ;;
            token) [[ $value =~ ^[A-Za-z0-9.]+$ ]] || continue ;;
        esac
        owner[$key]=$value
    done 2>/dev/null <"$lock/$1/owner" || :
}

# NUMBER: sets state (free, failed, held, stale), description, surely_ended (its process is known to be gone), and
# survivors (those of its processes that still run on this machine)
assess_attempt() {
    local dir=$lock/$1 who seen age
    survivors=() surely_ended=1
    if [[ -e $dir/failed ]]; then
        state=failed description="failed $(<"$dir/failed")"; return
    elif [[ -e $dir/released ]]; then
        state=free description="free, $(<"$dir/released")"; return
    fi
    read_owner "$1"
    who="${owner[host]:-someone} (process ${owner[process]:-unknown}${owner[gpu]:+, GPU ${owner[gpu]}}"
    who+="${owner[slurm]:+, Slurm job ${owner[slurm]}}) since ${owner[since]:-an unknown time}"
    if [[ ${owner[boot]} == "$boot" && ${owner[namespace]} == "$namespace" && ${owner[user]} == "$UID" &&
            ${owner[process]} && ${owner[start]} ]]; then
        if [[ $(start_time "${owner[process]}") == "${owner[start]}" ]]; then
            state=held description="held by $who"
        else
            # Only a token that this holder created, so that a forged file cannot name other processes.
            [[ ${owner[token]%.*} != "${boot%%-*}.${owner[process]}.${owner[start]}" ]] ||
                mapfile -t survivors < <(processes_of "${owner[token]}")
            state=stale description="stale: was held by $who; that process is gone"
            ((${#survivors[@]} == 0)) || description+=", but its processes ${survivors[*]} still run"
        fi
        return
    fi
    surely_ended='' seen=$dir/beat
    [[ -e $seen ]] || seen=$dir
    age=$(age_of "$seen") || age=unknown
    if [[ $age == unknown ]]; then
        state=held description="held by $who; whether it is alive is unknown: $lock cannot be written to from here"
    elif ((age < 0)); then
        touch -c -- "$seen" 2>/dev/null || :
        state=held description="held by $who; its last sign of life is in the future, so the lease starts now"
    elif awk -v age="$age" -v lease="$lease" 'BEGIN { exit !(age > lease) }'; then
        state=stale description="stale: was held by $who; no sign of life for $age s"
    else
        state=held description="held by $who, last sign of life $age s ago"
    fi
}

still_mine() {  # whether we hold the claim; fails only if it was certainly lost
    local found
    find_latest
    ((latest <= number)) || return 1
    found=$(grep -xsF -- "token: $token" "$lock/$number/owner" 2>&1) && return 0
    found=$(LC_ALL=C stat -- "$lock/$number/owner" 2>&1 >/dev/null) || file_was_missing "$found" || return 0
    return 1
}

end_attempt() {  # released|failed DESCRIPTION: lets the next caller claim RESULT
    ! still_mine || printf '%s\n' "$2" 2>/dev/null >"$lock/$number/$1" || [[ -e $lock/$number/$1 ]] ||
        say "cannot write to $lock, so other machines wait $lease s before they claim it"
}

complete_publication() {  # moves published files into place; other processes may do so at the same time
    local f
    for f in "$lock"/published/*; do
        [[ ! -f $f || $f == "$lock/published/$name" ]] || move_into_place "$f" || return 0
    done
    sync -- "$folder" || :
    move_into_place "$lock/published/$name" || return 0
    sync -- "$folder" || :
    remove_lock
}

move_into_place() {  # FILE of published/: fails if RESULT is already in place, since then others do the rest
    local error
    # Only the error message is reliable: an NFS client's cache may still show a file that another process has moved.
    error=$(LC_ALL=C mv -fT -- "$1" "$folder/${1##*/}" 2>&1) || file_was_missing "$error" ||
        { ! result_in_place && fail_with_error publish "$error"; }
}

remove_lock() {  # after RESULT is in place: renames the lock, so that it is gone at once, then deletes it
    local f
    mv -T -- "$lock" "$folder/.$name.lock.$HOSTNAME.$$.old" 2>/dev/null || :
    for f in "$folder/.$name.lock."*.old; do rm -rf -- "$f" 2>/dev/null || :; done
}

take_claim() {  # sets number, token and dir, or prints why it is not possible and ends the script
    local error tries filled f
    token=${boot%%-*}.$$.$(start_time $$).$RANDOM
    for ((tries = 0; tries < 20; tries++)); do
        [[ ! $signal ]] || exit 75
        find_latest
        if [[ -e $lock/published ]]; then
            complete_publication
            result_in_place || continue  # it was removed in the meantime
            say 'finished already'
            exit 0
        fi
        state=free survivors=() surely_ended=1
        if ((latest)); then assess_attempt "$latest"; fi
        if result_in_place; then
            [[ $state == held ]] || remove_lock
            say 'finished already'
            exit 0
        fi
        if ((latest)); then
            [[ $state != held ]] || die 75 "$description"
            for f in "$lock"/*/work.*/.succeeded; do  # its holder died after it had succeeded and before it published
                mv -T -- "${f%/*}" "$lock/published" 2>/dev/null || :
            done
            [[ ! -e $lock/published ]] || continue
            ((${#survivors[@]} == 0)) || end_processes "${owner[token]}" || die 75 "$description and cannot be killed"
        fi
        number=$((latest + 1)) dir=$lock/$((latest + 1)) filled=$lock/.new.$token
        if ! error=$(write_owner "$filled" 2>&1); then
            rm -rf -- "$filled"
            # A rival may just have created the lock, or finished and removed it.
            [[ $signal ]] || file_was_missing "$error" || [[ -d $lock && $error == *'File exists'* ]] ||
                fail_with_error claim "$error"
            continue
        fi
        mv -T -- "$filled" "$dir" 2>/dev/null || :
        rm -rf -- "$filled"
        # Only the file is reliable: a server's answer to the rename may be lost.
        if grep -qxsF -- "token: $token" "$dir/owner"; then
            still_mine || die 75 'another process was faster'
            return
        fi
        [[ ! -d $dir ]] || die 75 'another process was faster'
    done
    die 75 'other processes are claiming it'
}

write_owner() {  # FOLDER: creates it, and the lock if needed
    local -x LC_ALL=C
    { [[ -d $lock ]] || mkdir -- "$lock"; } && mkdir -- "$1" && touch -- "$1/beat" &&
        printf '%s: %s\n' host "$HOSTNAME" process $$ gpu "${CUDA_VISIBLE_DEVICES:-}" \
            slurm "${SLURM_JOB_ID:-}${SLURM_RESTART_COUNT:+, restart $SLURM_RESTART_COUNT}" since "$(now)" \
            boot "$boot" namespace "$namespace" user "$UID" start "$(start_time $$)" token "$token" >"$1/owner" &&
        sync -- "$1/owner"  # some servers report a full disk only here
}

prepare_work_folder() {  # creates it with a copy of the latest complete one; sets error if it fails
    local i f from='' part=$dir/.work.$token
    local -x LC_ALL=C
    work=$dir/work.$token
    error=$(mkdir -- "$part" 2>&1 && printf '%s\n' "$token" 2>&1 >"$part/.attempt") || return 1
    for ((i = number - 1; i > 0; i--)); do
        for f in "$lock/$i"/work.*; do from=$f; done
        [[ ! $from ]] || break
    done
    if [[ $from ]]; then
        for f in "$from"/*; do  # its holder may still run elsewhere and remove files
            error=$(cp -rp -- "$f" "$part/" 2>&1) || [[ ! -e $f ]] || return 1
        done
        error=$(find "$part" -exec sync -- {} + 2>&1) || return 1
    fi
    error=$(mv -T -- "$part" "$work" 2>&1) || return 1
    # Remove older copies, except for that of a holder that may still run elsewhere: the next attempt removes it.
    [[ ! $surely_ended ]] || from=''
    for ((i = number - 1; i > 0; i--)); do
        rm -rf -- "$lock/$i"/.work.* "$lock/$i/.old" 2>/dev/null || :
        for f in "$lock/$i"/work.*; do  # renamed first, so that no incomplete copy is published
            [[ $f == "$from" ]] || { mv -T -- "$f" "$lock/$i/.old" && rm -rf -- "$lock/$i/.old"; } 2>/dev/null || :
        done
    done
    # The version to be replaced is moved to a folder, since folders are passed on to later attempts but not published.
    is_new_version || error=$( { mkdir -p -- "$work/old" && mv -T -- "$result" "$work/old/$name"; } 2>&1) ||
        is_new_version
}

publish() {  # after the command succeeded: the first attempt to rename its folder wins
    local error winner
    [[ -f $work/$name ]] || { say "the command succeeded, but left no $name in \$CLAIM_WORK"; return 1; }
    error=$(LC_ALL=C sync -- "$work"/* 2>&1) || { explain_error publish "$error"; return 1; }
    if error=$(LC_ALL=C mv -T -- "$work/.attempt" "$work/.succeeded" 2>&1) || file_was_missing "$error"; then
        error=$(LC_ALL=C mv -T -- "$work" "$lock/published" 2>&1) || :
    fi
    # .succeeded contains the winner's token, even if a server's answer was lost. It also keeps published/ non-empty.
    winner=$(cat -- "$lock/published/.succeeded" 2>/dev/null) || winner=''
    if [[ $winner == "$token" ]]; then
        sync -- "$lock" || :
        complete_publication
    elif [[ ! $winner ]] && result_in_place; then
        say 'finished already'  # others found it published and moved it
    elif [[ $winner ]] || ! still_mine; then
        say 'another attempt has published its result first; this one is discarded'
        exit 76
    else
        explain_error publish "$error"
        return 1
    fi
}

keep_failed_logs() {  # puts the log and record of a failed attempt beside RESULT; sets kept
    local f aside
    for f in "$work"/*.log "$work"/*.run.json; do
        aside=$folder/.${f##*/}.$token
        # A link needs no space on a full disk.
        if { { ln -- "$f" "$aside" || cp -p -- "$f" "$aside"; } &&
                mv -fT -- "$aside" "$folder/${f##*/}"; } 2>/dev/null; then
            [[ $f != *.log ]] || kept=$folder/${f##*/}
        else
            rm -f -- "$aside"
        fi
    done
}

watch_attempt() {  # LOCK NUMBER TOKEN: the watcher; its stdin ends when the main script dies
    local status
    trap '' INT TERM HUP
    number=$2 token=$3
    while :; do
        status=0
        read -r -t "$beat" || status=$?
        if ((status == 0)); then
            exit 0
        elif ((status <= 128)); then
            end_processes "$token" || :
            end_attempt released "after its supervisor was killed on $HOSTNAME, $(now)"
            exit 1
        fi
        touch -c -- "$lock/$number/beat" 2>/dev/null || :
        still_mine || { end_processes "$token"; exit 76; }
    done
}

forward_signal() {  # SIGNAL: lets the command save its state, then kills it; at a second signal, kills it at once
    local deadline=$((SECONDS + 10#${grace%.*}))
    [[ ! $signal ]] || deadline=0
    signal=$1
    [[ $command ]] || return 0
    # It may not lead a process group yet.
    kill -TERM -- "-$command" 2>/dev/null || kill -TERM "$command" 2>/dev/null || :
    # The command may be a shell that has ended while its child is still saving.
    while ((SECONDS < deadline)) && [[ $(processes_of "$token") ]]; do sleep 0.1; done
    end_processes "$token" || :
}

run_command() {  # COMMAND...: sets status, and why if the status is not that of the command
    local watcher first
    # shellcheck disable=SC2034  # only needed because it is closed when this script dies
    coproc WATCHER { exec env -u CLAIM_TOKEN setsid "$self" --watch "$lock" "$number" "$token" >/dev/null; }
    watcher=$WATCHER_PID
    CLAIM_WORK=$work CLAIM_TOKEN=$token setsid setpriv --pdeathsig KILL "$@" &
    command=$!
    {  # silent, because Bash would report each process that was killed
        # A signal may have come before the command started.
        if [[ $signal ]]; then first=$signal signal=''; forward_signal "$first"; fi
        while start_time "$command" && start_time "$watcher"; do wait -n "$command" "$watcher" || :; done
        start_time "$watcher" || { why=', its watcher was killed'; end_processes "$token" || :; }
        end_processes "$token" || why=', some of its processes could not be killed'
        while kill -0 "$command"; do wait "$command" || :; done
        wait "$command" || status=$?
        kill -KILL "$watcher" || :
        wait "$watcher" || :
    } >/dev/null 2>&1
}

claim() {
    signal='' command='' status=0 why='' kept=''
    trap end_by_signal EXIT
    trap 'forward_signal INT' INT
    trap 'forward_signal TERM' TERM
    trap 'forward_signal HUP' HUP  # no effect under nohup: signals that are ignored at the start remain ignored
    take_claim
    if result_in_place || [[ -e $lock/published ]]; then
        complete_publication
        say 'finished already'
        return 0
    fi
    if ! prepare_work_folder; then
        rm -rf -- "$dir/.work.$token"
        [[ $signal ]] || still_mine || die 76 'the claim was lost to another process'
        end_attempt released "after it could not start on $HOSTNAME, $(now)"
        [[ $signal ]] || explain_error start "$error"
        return 74
    fi
    if [[ $signal ]]; then status=143; else run_command "$@"; fi
    trap '' INT TERM HUP  # the rest takes only a moment
    if ((status == 0)); then
        publish || {
            status=74
            keep_failed_logs
            end_attempt failed "on $HOSTNAME, $(now): its result could not be published"
        }
    elif ! still_mine; then
        say 'the claim was lost to another process; this attempt is discarded'
        status=76
    elif [[ $signal ]]; then
        end_attempt released "interrupted on $HOSTNAME, $(now); the next attempt continues from there"
    elif ((status == 141)); then
        end_attempt released "on $HOSTNAME, $(now), as nobody read its output any more; the next attempt continues it"
    else
        keep_failed_logs
        end_attempt failed "on $HOSTNAME, $(now): exit status $status$why"
        say "failed with exit status $status$why${kept:+; see $kept}"
    fi
    return "$status"
}

# shellcheck disable=SC2329  # a trap
end_by_signal() {  # ends an unsuccessful, interrupted call by the same signal, so that a calling script also stops
    local status=$?
    [[ $signal ]] && ((status)) || exit "$status"
    trap - INT TERM HUP EXIT
    kill -s "$signal" $$
}

status() {
    find_latest
    if result_in_place; then
        echo finished
        return 5
    elif [[ -e $lock/published ]]; then
        echo 'published, but not in place yet: the next call moves it into place'
        return 6
    elif ((latest == 0)); then
        echo free
        return 1
    else
        assess_attempt "$latest"
        printf '%s\n' "${description//[[:cntrl:]]/?}"
        case $state in held) ;; free) return 1 ;; stale) return 3 ;; failed) return 4 ;; esac
    fi
}

release() {  # '' or force
    local force=$1 error
    find_latest
    number=$latest
    ((number)) || die 1 'nobody has claimed it'
    assess_attempt "$number"
    case $state in
        free | failed) say "$description" ;;
        held)
            [[ $force ]] ||
                die 75 "$description; --force frees it anyway; its holder stops when another process claims it" ;;&
        *)
            read_owner "$number"
            error=$(export LC_ALL=C; printf 'by hand on %s, %s; was held by %s\n' "$HOSTNAME" "$(now)" \
                "${owner[host]:-someone}" 2>&1 >"$lock/$number/released") || fail_with_error release "$error"
            say released
            ;;
    esac
}

main() {
    replace=''
    if [[ ${1:-} == --replace ]]; then
        (($# > 2)) || usage 2 >&2
        replace=$2
        shift 2
    fi
    case $#:${1:-} in
        *:-h | *:--help) usage 0 ;;
        2:--status) set_paths "$2"; status ;;
        2:--work) set_paths "$2"; find_latest; printf '%s\n' "$lock/$latest"/work.* ;;
        2:--release) set_paths "$2"; release '' ;;
        3:--release)
            [[ $2 == --force ]] || usage 2 >&2
            set_paths "$3"; release force ;;
        4:--watch) set_paths "$2"; watch_attempt "$2" "$3" "$4" ;;
        *)
            [[ $# -ge 3 && $2 == -- ]] || usage 2 >&2
            set_paths "$1"
            shift 2
            claim "$@" ;;
    esac
}

main "$@"; exit  # on one line, so that a running script may be edited
