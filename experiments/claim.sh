#!/usr/bin/env bash
# claim.sh: make a result that nobody else may be making, on any machine that shares the folder.
#
#   claim.sh RESULT.lock -- COMMAND...   claim RESULT, run COMMAND, publish what it left in $CLAIM_WORK
#   claim.sh --replace VERSION RESULT.lock -- COMMAND...    the same for a RESULT that is there, as long as it is that
#                                        version (stat -c %i-%.9Y); COMMAND finds it as $CLAIM_WORK/old/RESULT
#   claim.sh --status RESULT.lock        one line in words; exit status 0 held, 1 free, 3 stale, 4 failed, 5 finished,
#                                        6 published, but not in place yet
#   claim.sh --release [--force] RESULT.lock    free a claim that nobody will come back to
#   claim.sh --work RESULT.lock          the folder of the latest attempt
#
# Exit status: that of COMMAND; 0 also if RESULT is there already; 75 held by another; 76 claim lost, result discarded;
# 74 the folder cannot be written to (read-only, full); 130, 143, 129 interrupted by SIGINT, SIGTERM, SIGHUP.
# Settings: CLAIM_BEAT=30, CLAIM_LEASE=600, CLAIM_GRACE=120 seconds.
#
# The protocol. RESULT.lock is a folder:
#   1/ 2/ 3/ ...     attempts. To claim, or to take over a stale claim, is to rename a folder that holds owner and beat to
#                    the next number. As such a folder is never empty, only one rename succeeds, also over NFS. No number is
#                    ever removed by a rival, so there is no moment at which two can both believe that they have broken
#                    the same stale claim. The highest number holds.
#   N/owner N/beat   who holds it; touched every beat.
#   N/released N/failed    the attempt has ended; the next caller goes on from what it left.
#   N/work.TOKEN/    the attempt's own folder ($CLAIM_WORK), begun as a copy of the one before, so that training resumes.
#                    The copies of attempts that have surely ended are removed then.
#   published/       the first attempt to succeed: its work folder, put here by one rename, which fails for all others.
# Stale: on the holder's own machine (same boot, process namespace and user) when its process is gone; elsewhere when its
#   beat is older than the lease, both times read off files touched in this folder, so by the file server's clock alone.
#   If that clock was set back, the beat lies in the future: whoever sees this touches it, once, and the lease begins then.
#   A live holder goes on touching it, so a dead one is stale one lease later.
# The holder's watcher, a process of its own, beats, and ends the command if a higher number appears or this script dies.
#   Processes of an attempt are known by CLAIM_TOKEN in their environment, whatever sessions they have moved to.
# Publishing: the rename is the decision. Then all files move beside RESULT, RESULT itself last, then the lock goes. Every
#   step may be repeated by anyone, at any moment, so after a crash the next caller completes it; whoever finds RESULT in
#   place has succeeded. The lock may go because RESULT is in place by then, and whoever claims it again looks for RESULT
#   after claiming, in a fresh listing (a plain test of a file may be answered from an NFS client's cache). Folders and
#   hidden files in $CLAIM_WORK are not published.
set -euo pipefail
shopt -s nullglob
# A stream that is closed or that nobody reads is no reason to leave a claim half made.
true >&2 || exec 2>/dev/null
{ true >&1; } 2>/dev/null || exec >/dev/null
{ true <&0; } 2>/dev/null || exec </dev/null
trap : PIPE

beat=${CLAIM_BEAT:-30} lease=${CLAIM_LEASE:-600} grace=${CLAIM_GRACE:-120}
for seconds in "$beat" "$lease" "$grace"; do
    [[ $seconds =~ ^[0-9]+(\.[0-9]+)?$ ]] ||
        { printf 'claim.sh: CLAIM_BEAT, CLAIM_LEASE and CLAIM_GRACE are numbers of seconds, not %s\n' "${seconds@Q}" >&2; exit 2; }
done
boot=$(</proc/sys/kernel/random/boot_id)
namespace=$(readlink /proc/self/ns/pid)
self=$(readlink -f -- "${BASH_SOURCE[0]}")

say() { printf 'claim.sh: %s: %s\n' "$name" "${*//[[:cntrl:]]/?}" >&2 2>/dev/null || :; }
die() { say "$2"; exit "$1"; }
problem() {  # VERB ERROR: says what cannot be done, where, why, and the cure
    local reason=${2##*: } where=$folder cure='solve that'
    case $reason in
        *'No space'* | *quota*) cure='free some space there' ;;
        *ermi*)
            [[ ! -d $lock ]] || where=$lock
            cure="make it writable (it belongs to $(stat -c %U -- "$where"))" ;;
        Read-only*) cure='make it writable' ;;
        *exists* | 'cannot overwrite'*) where=$lock cure='remove that' ;;
    esac
    say "cannot $1 it: $where: $reason; $cure, then start it again; nothing is lost"
}
cannot() { problem "$@"; exit 74; }

now() { printf '%(%F %T %z)T' -1; }

usage() {
    sed -n '2,14s/^# \{0,1\}//p' "$self"
    exit "$1"
}

locate() {  # RESULT.lock: sets the paths
    [[ ${1%/} == ?*.lock ]] || usage 2 >&2
    lock=${1%/} name=${1##*/}
    folder=$(cd -- "$(dirname -- "$lock")" 2>/dev/null && pwd) ||
        { printf 'claim.sh: %s: no such folder; make it first\n' "$(dirname -- "$lock")" >&2; exit 74; }
    lock=$folder/$(basename -- "$lock") result=${lock%.lock}
    lock=$result.lock name=${result##*/}
}

list() {  # sets latest, the highest number; globbing lists the folder, so an NFS client asks the server
    local f
    latest=0
    for f in "$lock"/[1-9]*; do
        f=${f##*/}
        if [[ $f =~ ^[0-9]{1,15}$ ]] && ((f > latest)); then latest=$f; fi
    done
}

finished() {  # is RESULT in place? From a fresh listing
    local f
    for f in "$result"*; do [[ $f != "$result" ]] || { current; return; }; done
    [[ -e $result ]] && current
}

current() {  # is RESULT another version than the one to be replaced?
    [[ ! $replace || $(stat -c %i-%.9Y -- "$result" 2>/dev/null) != "$replace" ]]
}

vanished() {  # ERROR: was a file missing, as a rival removed or moved it, or as a server's first answer got lost?
    [[ $1 == *'No such file'* || $1 == *'Stale file'* || $1 == *'are the same file'* ]]
}

start_of() {  # PID: its start in ticks since boot; fails if there is none, or a dead one not yet collected
    local fields
    [[ $1 ]] || return 1
    read -r fields 2>/dev/null <"/proc/$1/stat" || return 1
    read -ra fields <<<"${fields##*) }"
    [[ ${fields[0]} != [ZX] ]] && printf '%s' "${fields[19]}"
}

processes() {  # TOKEN: the attempt's processes on this machine
    { grep -lzxsF -- "CLAIM_TOKEN=$1" /proc/[0-9]*/environ || :; } | cut -d/ -f3
}

end_processes() {  # TOKEN: kill them all; fails if some can't be
    local pids i
    for ((i = 0; i < 50; i++)); do
        mapfile -t pids < <(processes "$1")
        ((${#pids[@]})) || return 0
        kill -KILL "${pids[@]}" 2>/dev/null || :
        sleep 0.1
    done
    return 1
}

age_of() {  # FILE: seconds since it was touched, by the file server's clock; fails if that can't be told
    local probe=$lock/.now.$HOSTNAME.$$ touched clock
    : 2>/dev/null <"$1" || :  # opening fetches the attributes again
    touched=$(stat -c %Y -- "$1" 2>/dev/null) && touch -- "$probe" 2>/dev/null || return 1
    clock=$(stat -c %Y -- "$probe" 2>/dev/null || :)
    rm -f -- "$probe"
    [[ $clock ]] && printf '%s' $((clock - touched))
}

read_owner() {  # NUMBER: sets the table owner; what isn't well-formed stays empty, so that it matches no process
    local line key value
    declare -gA owner=([host]='' [process]='' [gpu]='' [slurm]='' [since]='' [boot]='' [namespace]='' [user]='' [start]='' [token]='')
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

judge() {  # NUMBER: sets state (free, failed, held, stale), words, ended if its holder surely has, and left, what goes on here of it
    local dir=$lock/$1 who seen age
    left=() ended=1
    if [[ -e $dir/failed ]]; then
        state=failed words="failed $(<"$dir/failed")"; return
    elif [[ -e $dir/released ]]; then
        state=free words="free, $(<"$dir/released")"; return
    fi
    read_owner "$1"
    who="${owner[host]:-someone} (process ${owner[process]:-unknown}${owner[gpu]:+, GPU ${owner[gpu]}}"
    who+="${owner[slurm]:+, Slurm job ${owner[slurm]}}) since ${owner[since]:-an unknown time}"
    if [[ ${owner[boot]} == "$boot" && ${owner[namespace]} == "$namespace" && ${owner[user]} == "$UID" &&
            ${owner[process]} && ${owner[start]} ]]; then
        if [[ $(start_of "${owner[process]}") == "${owner[start]}" ]]; then
            state=held words="held by $who"
        else
            # Only a token made by this very holder, who is gone, so that no text in a file can name processes of others.
            [[ ${owner[token]%.*} != "${boot%%-*}.${owner[process]}.${owner[start]}" ]] ||
                mapfile -t left < <(processes "${owner[token]}")
            state=stale words="stale: was held by $who; that process is gone"
            ((${#left[@]} == 0)) || words+=", but ${left[*]} of it go on"
        fi
        return
    fi
    ended='' seen=$dir/beat
    [[ -e $seen ]] || seen=$dir
    age=$(age_of "$seen") || age=unknown
    if [[ $age == unknown ]]; then
        state=held words="held by $who; no telling whether it is alive: $lock cannot be written to from here"
    elif ((age < 0)); then
        touch -c -- "$seen" 2>/dev/null || :
        state=held words="held by $who; its last sign of life lies in the future, so the lease begins now"
    elif awk -v age="$age" -v lease="$lease" 'BEGIN { exit !(age > lease) }'; then
        state=stale words="stale: was held by $who; no sign of life for $age s"
    else
        state=held words="held by $who, last sign of life $age s ago"
    fi
}

mine() {  # is our number still our own? Fails only if it surely isn't
    local found
    list
    ((latest <= number)) || return 1
    found=$(grep -xsF -- "token: $token" "$lock/$number/owner" 2>&1) && return 0
    found=$(LC_ALL=C stat -- "$lock/$number/owner" 2>&1 >/dev/null) || vanished "$found" || return 0
    return 1
}

end_attempt() {  # released|failed WORDS: from now on the next caller may have it
    ! mine || printf '%s\n' "$2" 2>/dev/null >"$lock/$number/$1" || [[ -e $lock/$number/$1 ]] ||
        say "$lock cannot be written to, so that other machines wait $lease s before they go on"
}

roll_forward() {  # completes what an attempt has published; others may do so at the same moment
    local f
    for f in "$lock"/published/*; do
        [[ ! -f $f || $f == "$lock/published/$name" ]] || move_out "$f" || return 0
    done
    sync -- "$folder" || :
    move_out "$lock/published/$name" || return 0
    sync -- "$folder" || :
    tidy
}

move_out() {  # FILE of published/: moves it beside RESULT. Fails if there is no need to: RESULT is there, so others do the rest
    local said
    # The error decides, not a look at FILE: an NFS client may still see in its cache what another one has moved.
    said=$(LC_ALL=C mv -fT -- "$1" "$folder/${1##*/}" 2>&1) || vanished "$said" || { ! finished && cannot publish "$said"; }
}

tidy() {  # RESULT is in place: the lock goes, at once, and then its contents
    local f
    mv -T -- "$lock" "$folder/.$name.lock.$HOSTNAME.$$.old" 2>/dev/null || :
    for f in "$folder/.$name.lock."*.old; do rm -rf -- "$f" 2>/dev/null || :; done
}

take() {  # claims, or says why not and ends; sets number, token, dir
    local said tries filled f
    token=${boot%%-*}.$$.$(start_of $$).$RANDOM
    for ((tries = 0; tries < 20; tries++)); do
        [[ ! $signal ]] || exit 75
        list
        if [[ -e $lock/published ]]; then
            roll_forward
            finished || continue  # it has been removed since
            say 'finished already'
            exit 0
        fi
        state=free left=() ended=1
        if ((latest)); then judge "$latest"; fi
        if finished; then
            [[ $state == held ]] || tidy
            say 'finished already'
            exit 0
        fi
        if ((latest)); then
            [[ $state != held ]] || die 75 "$words"
            for f in "$lock"/*/work.*/.succeeded; do  # it died just then: the result is as good as published
                [[ $state == held ]] || mv -T -- "${f%/*}" "$lock/published" 2>/dev/null || :
            done
            [[ ! -e $lock/published ]] || continue
            ((${#left[@]} == 0)) || end_processes "${owner[token]}" || die 75 "$words and can't be ended"
        fi
        number=$((latest + 1)) dir=$lock/$((latest + 1)) filled=$lock/.new.$token
        if ! said=$(write_owner "$filled" 2>&1); then
            rm -rf -- "$filled"
            # Another may have just made the lock, or finished and removed it.
            [[ $signal ]] || vanished "$said" || [[ -d $lock && $said == *'File exists'* ]] || cannot claim "$said"
            continue
        fi
        mv -T -- "$filled" "$dir" 2>/dev/null || :
        rm -rf -- "$filled"
        # What the folder says counts, as a server's answer may get lost.
        if grep -qxsF -- "token: $token" "$dir/owner"; then
            mine || die 75 'another was quicker'
            return
        fi
        [[ ! -d $dir ]] || die 75 'another was quicker'
    done
    die 75 'others are busy with it'
}

write_owner() {  # FOLDER: makes it, and the lock
    local -x LC_ALL=C
    { [[ -d $lock ]] || mkdir -- "$lock"; } && mkdir -- "$1" && touch -- "$1/beat" &&
        printf '%s: %s\n' host "$HOSTNAME" process $$ gpu "${CUDA_VISIBLE_DEVICES:-}" \
            slurm "${SLURM_JOB_ID:-}${SLURM_RESTART_COUNT:+, restart $SLURM_RESTART_COUNT}" since "$(now)" \
            boot "$boot" namespace "$namespace" user "$UID" start "$(start_of $$)" token "$token" >"$1/owner" &&
        sync -- "$1/owner"  # a server may notice only now that its disk is full
}

prepare() {  # the attempt's own folder, with what the latest attempt left whose copy was complete; sets said if it fails
    local i f from='' part=$dir/.work.$token
    local -x LC_ALL=C
    work=$dir/work.$token
    said=$(mkdir -- "$part" 2>&1 && printf '%s\n' "$token" 2>&1 >"$part/.attempt") || return 1
    for ((i = number - 1; i > 0; i--)); do
        for f in "$lock/$i"/work.*; do from=$f; done
        [[ ! $from ]] || break
    done
    if [[ $from ]]; then
        for f in "$from"/*; do  # its holder may live on elsewhere: a file may vanish as we look
            said=$(cp -rp -- "$f" "$part/" 2>&1) || [[ ! -e $f ]] || return 1
        done
        said=$(find "$part" -exec sync -- {} + 2>&1) || return 1
    fi
    said=$(mv -T -- "$part" "$work" 2>&1) || return 1
    # The copies of those that have surely ended serve nobody; that of one that may live on elsewhere goes an attempt later.
    [[ ! $ended ]] || from=''
    for ((i = number - 1; i > 0; i--)); do
        rm -rf -- "$lock/$i"/.work.* "$lock/$i/.old" 2>/dev/null || :
        for f in "$lock/$i"/work.*; do  # renamed first, so that none can be published half deleted
            [[ $f == "$from" ]] || { mv -T -- "$f" "$lock/$i/.old" && rm -rf -- "$lock/$i/.old"; } 2>/dev/null || :
        done
    done
    # The version to be replaced goes into a folder, which is handed on to later attempts, but not published.
    current || said=$( { mkdir -p -- "$work/old" && mv -T -- "$result" "$work/old/$name"; } 2>&1) || current
}

publish() {  # the attempt has succeeded: the first rename decides
    local said winner
    [[ -f $work/$name ]] || { say "the command succeeded, but left no $name in \$CLAIM_WORK"; return 1; }
    said=$(LC_ALL=C sync -- "$work"/* 2>&1) || { problem publish "$said"; return 1; }
    if said=$(LC_ALL=C mv -T -- "$work/.attempt" "$work/.succeeded" 2>&1) || vanished "$said"; then
        said=$(LC_ALL=C mv -T -- "$work" "$lock/published" 2>&1) || :
    fi
    # The note tells who won even where a server's answer got lost; it also keeps the folder from ever being empty.
    winner=$(cat -- "$lock/published/.succeeded" 2>/dev/null) || winner=''
    if [[ $winner == "$token" ]]; then
        sync -- "$lock" || :
        roll_forward
    elif [[ ! $winner ]] && finished; then
        say 'finished already'  # others found it published and have moved it
    elif [[ $winner ]] || ! mine; then
        say 'another attempt has published its result first; this one is discarded'
        exit 76
    else
        problem publish "$said"
        return 1
    fi
}

keep_log() {  # a failed attempt's log and record, beside where RESULT would be
    local f aside
    for f in "$work"/*.log "$work"/*.run.json; do
        aside=$folder/.${f##*/}.$token
        # A link needs no space on a full disk.
        if { ln -- "$f" "$aside" || cp -p -- "$f" "$aside"; } 2>/dev/null && mv -fT -- "$aside" "$folder/${f##*/}" 2>/dev/null; then
            [[ $f != *.log ]] || kept=$folder/${f##*/}
        else
            rm -f -- "$aside"
        fi
    done
}

watch_over() {  # number and token as arguments; the supervisor holds the other end of our stdin
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
        mine || { end_processes "$token"; exit 76; }
    done
}

forward() {  # SIGNAL: let the command save its state, then end it; a second signal doesn't wait
    local deadline=$((SECONDS + 10#${grace%.*}))
    [[ ! $signal ]] || deadline=0
    signal=$1
    [[ $command ]] || return 0
    kill -TERM -- "-$command" 2>/dev/null || kill -TERM "$command" 2>/dev/null || :  # before it leads its own group, too
    # the command may be a shell that is gone while its child still saves
    while ((SECONDS < deadline)) && [[ $(processes "$token") ]]; do sleep 0.1; done
    end_processes "$token" || :
}

run() {  # COMMAND...: sets status, and why if it isn't the command's own
    local watcher first
    # shellcheck disable=SC2034  # what counts is that our end of its stdin closes when we die
    coproc WATCHER { exec env -u CLAIM_TOKEN setsid "$self" --watch "$lock" "$number" "$token" >/dev/null; }
    watcher=$WATCHER_PID
    CLAIM_WORK=$work CLAIM_TOKEN=$token setsid setpriv --pdeathsig KILL "$@" &
    command=$!
    {  # silent: Bash would tell of each process that was killed
        if [[ $signal ]]; then first=$signal signal=''; forward "$first"; fi  # it came before the command was there
        while start_of "$command" && start_of "$watcher"; do wait -n "$command" "$watcher" || :; done
        start_of "$watcher" || { why=', its watcher was killed'; end_processes "$token" || :; }
        end_processes "$token" || why=', some of its processes could not be killed'
        while kill -0 "$command"; do wait "$command" || :; done
        wait "$command" || status=$?
        kill -KILL "$watcher" || :
        wait "$watcher" || :
    } >/dev/null 2>&1
}

claim() {
    signal='' command='' status=0 why='' kept=''
    trap die_of_signal EXIT
    trap 'forward INT' INT
    trap 'forward TERM' TERM
    trap 'forward HUP' HUP  # no effect under nohup: what was ignored at the start stays ignored
    take
    if finished || [[ -e $lock/published ]]; then
        roll_forward
        say 'finished already'
        return 0
    fi
    if ! prepare; then
        rm -rf -- "$dir/.work.$token"
        [[ $signal ]] || mine || die 76 'the claim was lost to another'
        end_attempt released "after it could not be begun on $HOSTNAME, $(now)"
        [[ $signal ]] || problem begin "$said"
        return 74
    fi
    if [[ $signal ]]; then status=143; else run "$@"; fi
    trap '' INT TERM HUP  # the rest is short
    if ((status == 0)); then
        publish || { status=74; keep_log; end_attempt failed "on $HOSTNAME, $(now): its result could not be published"; }
    elif ! mine; then
        say 'the claim was lost to another; this attempt is discarded'
        status=76
    elif [[ $signal ]]; then
        end_attempt released "interrupted on $HOSTNAME, $(now); the next attempt goes on from there"
    elif ((status == 141)); then
        end_attempt released "on $HOSTNAME, $(now), as nobody read its output any more; the next attempt goes on from there"
    else
        keep_log
        end_attempt failed "on $HOSTNAME, $(now): exit status $status$why"
        say "failed with exit status $status$why${kept:+; see $kept}"
    fi
    return "$status"
}

# shellcheck disable=SC2329  # a trap
die_of_signal() {  # at the end of an interrupted call that made nothing, so that a calling script stops, too
    local status=$?
    [[ $signal ]] && ((status)) || exit "$status"
    trap - INT TERM HUP EXIT
    kill -s "$signal" $$
}

status() {
    list
    if finished; then
        echo finished
        return 5
    elif [[ -e $lock/published ]]; then
        echo 'finished, but not in place yet: the next caller moves it'
        return 6
    elif ((latest == 0)); then
        echo free
        return 1
    else
        judge "$latest"
        printf '%s\n' "${words//[[:cntrl:]]/?}"
        case $state in held) ;; free) return 1 ;; stale) return 3 ;; failed) return 4 ;; esac
    fi
}

release() {
    local force=$2 said
    list
    number=$latest
    ((number)) || die 1 'nobody has claimed it'
    judge "$number"
    case $state in
        free | failed) say "$words" ;;
        held) [[ $force ]] || die 75 "$words; --force releases it all the same, and its holder stops when another takes it" ;;&
        *)
            read_owner "$number"
            said=$(export LC_ALL=C; printf 'by hand on %s, %s; was held by %s\n' "$HOSTNAME" "$(now)" "${owner[host]:-someone}" \
                2>&1 >"$lock/$number/released") || cannot release "$said"
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
    case ${1:-} in
        --status) (($# == 2)) || usage 2 >&2; locate "$2"; status ;;
        --work)
            (($# == 2)) || usage 2 >&2
            locate "$2"; list
            printf '%s\n' "$lock/$latest"/work.* ;;
        --release)
            if [[ ${2:-} == --force ]]; then (($# == 3)) || usage 2 >&2; locate "$3"; release "$3" force
            else (($# == 2)) || usage 2 >&2; locate "$2"; release "$2" ''; fi ;;
        --watch) locate "$2"; watch_over "$2" "$3" "$4" ;;
        -h | --help) usage 0 ;;
        *)
            [[ $# -ge 3 && $2 == -- ]] || usage 2 >&2
            locate "$1"
            shift 2
            claim "$@" ;;
    esac
}

main "$@"; exit  # on one line, so that a script that is changed meanwhile does no harm
