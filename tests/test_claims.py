"""Claims (experiments/claim.sh): who may create a result, and how it is published even if processes die."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLAIM = ROOT / 'experiments' / 'claim.sh'
STRESS = ROOT / 'tests' / 'stress'
HELD, FREE, STALE, FAILED, FINISHED, PUBLISHED = 0, 1, 3, 4, 5, 6
# Writes model x and a second file, which both name the attempt; the file ran lists the attempts.
MAKE = 'echo "$0" >> ran; echo "$0" > "$CLAIM_WORK/x.npz"; echo "$0" > "$CLAIM_WORK/x.npz.vars"'


class Place:
    """A folder with claims. Commands run in it; they write to the pipe `up` to report their progress."""

    def __init__(self, path):
        self.path, self.lock, self.started = path, path / 'x.npz.lock', []
        os.mkfifo(path / 'up')

    def environment(self, **env):
        return dict({k: v for k, v in os.environ.items() if not k.startswith(('CLAIM_', 'SLURM_'))}, **env)

    def start(self, script, *args, lock='x.npz.lock', under=('env', '--default-signal=HUP'), **env):
        """`under`: command that starts it; the default resets SIGHUP, which is ignored if the tests run under nohup."""
        process = subprocess.Popen(
            [*under, CLAIM, lock, '--', 'bash', '-c', script, *args],
            cwd=self.path,
            text=True,
            stderr=subprocess.PIPE,
            env=self.environment(**env),
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def begin(self, script, *args, **env):
        """Start a command and wait until it writes a line to the pipe `up`; returns (process, line)."""
        process = self.start(script, *args, **env)
        return process, (self.path / 'up').read_text().strip()

    def claim(self, script, *args, **env):
        process = self.start(script, *args, **env)
        process.error = process.communicate(timeout=300)[1]
        return process

    def ask(self, *args, under=(), **env):
        return subprocess.run(
            [*under, CLAIM, *args],
            cwd=self.path,
            text=True,
            capture_output=True,
            env=self.environment(**env),
            timeout=300,
        )

    def status(self, **env):
        result = self.ask('--status', 'x.npz.lock', **env)
        return result.returncode, result.stdout.strip()

    def owner(self, number=1):
        text = (self.lock / str(number) / 'owner').read_text()
        return dict(line.split(': ', 1) for line in text.splitlines())

    def forge(self, age=0, number=1, **changes):
        """A claim of another machine, unless `changes` say otherwise, with a beat `age` seconds ago."""
        folder = self.lock / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        owner = dict(
            host='far',
            process=1,
            gpu='',
            slurm='',
            since='some time ago',
            boot='another',
            namespace=os.readlink('/proc/self/ns/pid'),
            user=os.getuid(),
            start=1,
            token='far.1',
        )
        owner.update(changes)
        (folder / 'owner').write_text(''.join('{}: {}\n'.format(*item) for item in owner.items()))
        (folder / 'beat').touch()
        os.utime(folder / 'beat', (time.time() - age,) * 2)
        work = folder / 'work.far.1'
        work.mkdir(exist_ok=True)
        return work

    def shim(self, command, script):
        """Puts `script` before a command on the PATH; in it, "$real" is the command."""
        folder = self.path / 'shims'
        folder.mkdir(exist_ok=True)
        (folder / command).write_text(f'#!/bin/bash\nPATH=${{PATH#*:}}\nreal={command}\n{script}\n')
        (folder / command).chmod(0o755)
        return {'PATH': '{}:{}'.format(folder, os.environ['PATH'])}

    def ran(self):
        return (self.path / 'ran').read_text().split() if (self.path / 'ran').exists() else []

    def visible(self):
        return sorted(p.name for p in self.path.iterdir() if p.name not in ('up', 'ran', 'shims'))


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    for process in place.started:
        process.kill()
        process.wait()


def processes_with(token):
    found = []
    for path in pathlib.Path('/proc').glob('[0-9]*/environ'):
        try:
            if b'CLAIM_TOKEN=' + token.encode() in path.read_bytes().split(b'\0'):
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, 'never came true'
        time.sleep(0.01)


def watcher_of(process):
    found = []

    def find():
        children = pathlib.Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
        found.extend(int(p) for p in children if b'--watch' in pathlib.Path(f'/proc/{p}/cmdline').read_bytes())
        return found

    wait_until(find)
    return found[0]


# -- results --


def test_all_files_of_an_attempt_are_published_and_the_lock_is_removed(place):
    assert place.claim(MAKE, 'a').returncode == 0
    assert place.visible() == ['x.npz', 'x.npz.vars']
    assert not [p for p in place.path.iterdir() if p.name.startswith('.')]
    assert place.status() == (FINISHED, 'finished')


def test_finished_result_is_not_created_again(place):
    place.claim(MAKE, 'a')
    again = place.claim(MAKE, 'b')
    assert again.returncode == 0 and 'finished already' in again.error
    assert place.ran() == ['a']


def test_names_with_spaces_and_other_folders(place):
    (place.path / 'a folder').mkdir()
    result = place.claim('echo 1 > "$CLAIM_WORK/a model.npz"', lock='a folder/a model.npz.lock/')
    assert result.returncode == 0, result.error
    assert [p.name for p in (place.path / 'a folder').iterdir()] == ['a model.npz']


def test_failed_attempt_leaves_its_log_and_its_state_for_the_next(place):
    failed = place.claim('echo why > "$CLAIM_WORK/x.log"; echo 1 > "$CLAIM_WORK/x.state"; exit 7')
    assert failed.returncode == 7
    assert place.visible() == ['x.log', 'x.npz.lock']
    assert (place.path / 'x.log').read_text() == 'why\n'
    code, words = place.status()
    assert code == FAILED and 'exit status 7' in words
    again = place.claim('cat "$CLAIM_WORK/x.state" > "$CLAIM_WORK/x.npz"; rm "$CLAIM_WORK/x.state"')
    assert again.returncode == 0, again.error
    assert (place.path / 'x.npz').read_text() == '1\n'
    assert place.visible() == ['x.log', 'x.npz']


def test_success_without_a_result_is_a_failure(place):
    result = place.claim('true')
    assert result.returncode == 74 and 'left no x.npz' in result.error
    assert place.status()[0] == FAILED


def test_unfinished_and_hidden_files_are_not_published(place):
    assert place.claim(MAKE + '; echo > "$CLAIM_WORK/.x.part"; mkdir "$CLAIM_WORK/journal"', 'a').returncode == 0
    assert place.visible() == ['x.npz', 'x.npz.vars']


def test_processes_that_a_command_leaves_running_are_killed(place):
    assert place.claim(MAKE + '; setsid sleep 1000 & echo $! > left', 'a').returncode == 0
    left = int((place.path / 'left').read_text())
    assert not os.path.exists(f'/proc/{left}/fd/0')


# -- holders --


def test_second_caller_sees_who_holds_the_claim(place):
    holder, _ = place.begin('echo > up; read -r < up', CUDA_VISIBLE_DEVICES='3', SLURM_JOB_ID='17')
    second = place.claim(MAKE, 'b')
    assert second.returncode == 75 and not place.ran()
    code, words = place.status()
    assert code == HELD
    for text in (second.error, words):
        assert re.search(rf'held by \S+ \(process {holder.pid}, GPU 3, Slurm job 17\) since \d{{4}}-', text)
    owner = place.owner()
    assert owner['boot'] == pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    assert owner['start'] == pathlib.Path(f'/proc/{holder.pid}/stat').read_text().rsplit(') ', 1)[1].split()[19]


def test_only_one_of_many_simultaneous_callers_runs(place):
    processes = [place.start(MAKE + '; read -r < up', str(i)) for i in range(8)]
    wait_until(lambda: sum(p.poll() is not None for p in processes) + len(place.ran()) == 8)
    assert len(place.ran()) == 1
    (place.path / 'up').write_text('\n')
    assert sorted(p.wait() for p in processes) == [0] + 7 * [75]


@pytest.mark.parametrize('kind', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_let_the_command_save_and_release_at_once(place, kind):
    holder, token = place.begin(
        'trap \'echo 5 > "$CLAIM_WORK/x.state"; exit 1\' TERM; echo $CLAIM_TOKEN > up; while :; do sleep 0.05; done'
    )
    watcher = watcher_of(holder)
    holder.send_signal(kind)
    assert holder.wait(timeout=30) == -kind  # in a shell: 130, 143, 129
    assert not processes_with(token) and not os.path.exists(f'/proc/{watcher}/fd/0')
    code, words = place.status()
    assert code == FREE and 'interrupted' in words
    assert place.claim('mv "$CLAIM_WORK/x.state" "$CLAIM_WORK/x.npz"').returncode == 0
    assert (place.path / 'x.npz').read_text() == '5\n'


def test_hangup_under_nohup_is_ignored(place):
    holder, _ = place.begin('echo > up; read -r < up; ' + MAKE, 'a', under=('env', '--ignore-signal=HUP'))
    for pid in (holder.pid, watcher_of(holder)):
        os.kill(pid, signal.SIGHUP)
    (place.path / 'up').write_text('\n')
    assert holder.wait(timeout=30) == 0
    assert place.ran() == ['a']


# Ctrl-C in a terminal reaches claim.sh and the programs that it runs.
CTRL_C = '[[ ! $* =~ $WHERE ]] || { kill -INT "$(ps -o sid= $$)"; kill -INT $$; }; exec "$real" "$@"'


@pytest.mark.parametrize(
    'command,where',
    [('mkdir', r'x.npz.lock$'), ('mkdir', r'/.new'), ('mv', '/1$'), ('mkdir', '/.work'), ('mv', '/work')],
)
def test_ctrl_c_before_the_command_starts_frees_the_claim(place, command, where):
    stopped = place.claim(MAKE, 'a', WHERE=where, **place.shim(command, CTRL_C))
    assert (stopped.returncode, stopped.error) == (-signal.SIGINT, '')
    assert place.status()[0] == FREE and not place.ran()
    assert place.claim(MAKE, 'b').returncode == 0


@pytest.mark.parametrize('command,where', [('sync', 'work'), ('mv', 'succeeded'), ('mv', 'x.npz$'), ('rm', 'old')])
def test_ctrl_c_while_publishing_is_ignored(place, command, where):
    made = place.claim(MAKE, 'a', WHERE=where, **place.shim(command, CTRL_C))
    assert (made.returncode, made.error) == (0, '')
    assert place.visible() == ['x.npz', 'x.npz.vars']


def test_command_that_ends_because_nobody_reads_its_output_is_not_a_failure(place):
    assert place.claim('echo 1 > "$CLAIM_WORK/x.state"; kill -PIPE $$').returncode == 141
    code, words = place.status()
    assert code == FREE and 'nobody read its output' in words
    assert place.claim('mv "$CLAIM_WORK/x.state" "$CLAIM_WORK/x.npz"').returncode == 0


def test_standard_streams_that_are_closed_or_unread_do_not_change_the_exit_status(place):
    closed = ('bash', '-c', '"$@" <&- >&- 2>&-', 'closed')
    assert place.claim('exit 7', under=closed).returncode == 7
    assert place.claim(MAKE, 'a', under=closed).returncode == 0
    assert place.claim(MAKE, 'b', under=closed).returncode == 0
    assert place.ask('--status', 'x.npz.lock').returncode == FINISHED
    assert (
        place.claim(
            MAKE, 'b', under=('bash', '-c', 'trap - PIPE; exec 2> >(exec true); wait $!; exec "$@"', 'unread')
        ).returncode
        == 0
    )
    assert place.ran() == ['a'] and place.visible() == ['x.npz', 'x.npz.vars']


def test_child_of_a_shell_that_is_gone_may_still_save(place):
    saver = """trap 'sleep 0.3; echo 5 > "$CLAIM_WORK/x.state"; exit' TERM; echo > up; while :; do sleep 0.05; done"""
    holder, _ = place.begin('bash -c "$0"; true', saver)
    holder.terminate()
    holder.wait(timeout=30)
    assert next(place.lock.glob('1/work.*/x.state')).read_text() == '5\n'


def test_second_signal_ends_a_command_that_ignores_the_first(place):
    holder, _ = place.begin('trap "echo got > got" TERM; echo > up; while :; do sleep 0.05; done')
    holder.terminate()
    wait_until((place.path / 'got').exists)
    holder.terminate()
    assert holder.wait(timeout=30) == -signal.SIGTERM
    assert place.status()[0] == FREE


def test_killed_supervisor_ends_all_processes_and_frees_the_claim(place):
    holder, token = place.begin('setsid sleep 1000 & setsid sleep 1000 & echo $CLAIM_TOKEN > up; wait')
    assert len(processes_with(token)) == 3
    holder.kill()
    wait_until(lambda: place.status()[0] == FREE)
    assert not processes_with(token)
    assert 'supervisor was killed' in place.status()[1]
    assert place.claim(MAKE, 'b').returncode == 0


def test_processes_that_outlive_supervisor_and_watcher_are_killed_before_a_takeover(place):
    holder, token = place.begin('echo 3 > "$CLAIM_WORK/x.state"; setsid sleep 1000 & echo $CLAIM_TOKEN > up; wait')
    os.kill(watcher_of(holder), signal.SIGKILL)
    holder.kill()
    holder.wait()
    wait_until(lambda: len(processes_with(token)) == 1)
    code, words = place.status()
    assert code == STALE and 'still run' in words
    assert place.claim('cat "$CLAIM_WORK/x.state" > "$CLAIM_WORK/x.npz"').returncode == 0
    assert not processes_with(token)
    assert (place.path / 'x.npz').read_text() == '3\n'


def test_holder_whose_watcher_dies_stops(place):
    holder, token = place.begin('setsid sleep 1000 & echo $CLAIM_TOKEN > up; wait')
    os.kill(watcher_of(holder), signal.SIGKILL)
    assert holder.wait(timeout=30) == 137
    assert 'watcher was killed' in place.status()[1]
    assert not processes_with(token)


def forge_dead_here(place, **changes):
    """A claim of a process of this machine and user that is gone."""
    place.forge(
        **{
            'boot': pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip(),
            'process': 1,
            'start': 1,
            **changes,
        }
    )


def test_forged_token_in_an_owner_file_kills_no_processes_of_other_claims(place):
    (place.path / 'other').mkdir()
    other, token = place.begin(
        'echo $CLAIM_TOKEN > up; read -r < up; touch "$CLAIM_WORK/x.npz"', lock='other/x.npz.lock'
    )
    for crafted in ('.*', token[:8] + '.1.1.*', token):
        forge_dead_here(place, token=crafted)
        code, words = place.status()
        assert code == STALE and 'still run' not in words
        assert place.claim(MAKE, 'a').returncode == 0
        for name in ('x.npz', 'x.npz.vars'):
            (place.path / name).unlink()
    (place.path / 'up').write_text('\n')
    assert other.wait(timeout=30) == 0, other.stderr.read()


@pytest.mark.parametrize(
    'changes',
    [{'start': ''}, {'process': '../self'}, {'start': '1[$(touch touched)]'}, {'host': '$(touch touched)\x1b[2J'}],
)
def test_crafted_owner_file_runs_nothing_and_is_held_until_the_lease_ends(place, changes):
    forge_dead_here(place, **changes)
    if 'host' in changes:
        (place.lock / '1' / 'owner').write_text('a[$(touch touched)]: 1\nhost: {}\n'.format(changes['host']))
    answer = place.ask('--status', 'x.npz.lock')
    assert (answer.returncode, answer.stderr) == (HELD, '') and '\x1b' not in answer.stdout
    assert place.claim(MAKE, 'b').returncode == 75
    assert not (place.path / 'touched').exists()


def test_nested_claim_ends_with_the_outer_one(place):
    inner = '"$0" y.npz.lock -- bash -c "setsid sleep 1000 & echo \\$CLAIM_TOKEN > up; wait"'
    holder, token = place.begin(inner, str(CLAIM))
    assert processes_with(token)
    holder.kill()
    wait_until(lambda: not processes_with(token))
    wait_until(lambda: place.ask('--status', 'y.npz.lock').returncode == FREE)


# -- stale claims --


def test_claim_on_this_machine_is_stale_when_its_process_is_gone_even_if_the_pid_is_reused(place):
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    place.forge(boot=boot, process=os.getpid(), start=1)
    assert place.status()[0] == STALE
    start = pathlib.Path('/proc/self/stat').read_text().rsplit(') ', 1)[1].split()[19]
    place.forge(age=10**6, boot=boot, process=os.getpid(), start=start)
    assert place.status()[0] == HELD
    assert place.claim(MAKE, 'b').returncode == 75


@pytest.mark.parametrize('changes', [{}, {'namespace': 'pid:[1]'}, {'user': 12345}])
def test_claim_of_another_machine_is_stale_after_the_lease(place, changes):
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    if changes:
        changes['boot'] = boot
    place.forge(age=550, **changes)
    code, words = place.status()
    assert code == HELD and re.search(r'last sign of life 55\d s ago', words)
    assert place.claim(MAKE, 'b').returncode == 75
    work = place.forge(age=650, **changes)
    (work / 'x.state').write_text('4')
    assert place.status()[0] == STALE
    assert place.status(CLAIM_LEASE='700')[0] == HELD
    taken = place.claim('mv "$CLAIM_WORK/x.state" "$CLAIM_WORK/x.npz"')
    assert taken.returncode == 0, taken.error
    assert (place.path / 'x.npz').read_text() == '4'


@pytest.mark.parametrize('ahead', [3600, -3600])
def test_only_the_file_servers_clock_counts(place, ahead):
    # The file server, whose clock differs by an hour, sets the time of each file that is touched.
    env = place.shim(
        'touch',
        f'"$real" "$@" && for f; do [[ $f == -* ]] || "$real" -c -d "@$(($(date +%s) + {ahead}))" "$f"; done',
    )
    place.forge(age=500 - ahead)
    assert place.status(**env)[0] == HELD
    assert place.claim(MAKE, 'b', **env).returncode == 75
    place.forge(age=700 - ahead)
    assert place.status(**env)[0] == STALE
    assert place.claim(MAKE, 'b', **env).returncode == 0


def test_claim_with_a_beat_in_the_future_is_stale_one_lease_after_someone_saw_it(place):
    place.forge(age=-(10**6))
    beat = place.lock / '1' / 'beat'
    code, words = place.status()
    assert code == HELD and 'in the future' in words
    assert beat.stat().st_mtime <= time.time() + 1
    os.utime(beat, (time.time() - 550,) * 2)  # 550 s later
    before = beat.stat().st_mtime
    code, words = place.status()
    assert code == HELD and 'sign of life 55' in words and beat.stat().st_mtime == before
    assert place.claim(MAKE, 'b').returncode == 75
    os.utime(beat, (time.time() - 650,) * 2)
    assert place.claim(MAKE, 'b').returncode == 0
    (place.path / 'x.npz').unlink()
    (place.lock / '1').mkdir(parents=True)  # without owner and beat, the time of the folder counts
    os.utime(place.lock / '1', (time.time() + 10**6,) * 2)
    assert place.claim(MAKE, 'c').returncode == 75
    assert (place.lock / '1').stat().st_mtime <= time.time() + 1


def test_live_holder_whose_clock_was_set_back_keeps_its_claim(place):
    holder, _ = place.begin('echo > up; read -r < up; ' + MAKE, 'a', CLAIM_BEAT='0.05')
    beat, owner = place.lock / '1' / 'beat', place.lock / '1' / 'owner'
    owner.write_text(owner.read_text().replace('boot: ', 'boot: another'))  # as another machine sees it
    for ahead in (10**6, -(10**6)):
        os.utime(beat, (time.time() + ahead,) * 2)
        wait_until(lambda: abs(beat.stat().st_mtime - time.time()) < 100)
    assert place.status()[0] == HELD
    (place.path / 'up').write_text('\n')
    assert holder.wait(timeout=30) == 0


def test_claim_whose_owner_is_not_written_yet_or_damaged_is_held_until_the_lease_ends(place):
    (place.lock / '1').mkdir(parents=True)
    assert place.status()[0] == HELD
    os.utime(place.lock / '1', (time.time() - 650,) * 2)
    assert place.status()[0] == STALE
    place.forge(number=2)
    (place.lock / '2' / 'owner').write_bytes(b'\0\xff: x\n: \n\nhost')
    assert place.status()[0] == HELD
    assert place.claim(MAKE, 'b').returncode == 75


def test_holder_that_sees_a_higher_number_stops_and_leaves_nothing(place):
    holder, token = place.begin(
        'echo no > "$CLAIM_WORK/x.log"; setsid sleep 1000 & echo $CLAIM_TOKEN > up; wait', CLAIM_BEAT='0.05'
    )
    place.forge(number=2)
    assert holder.wait(timeout=30) == 76
    assert not processes_with(token)
    assert place.visible() == ['x.npz.lock']
    assert 'lost to another' in holder.stderr.read()


def test_holder_whose_lock_was_removed_stops(place):
    holder, token = place.begin('echo $CLAIM_TOKEN > up; sleep 1000', CLAIM_BEAT='0.05')
    place.lock.rename(place.path / 'elsewhere')
    assert holder.wait(timeout=30) == 76
    assert not processes_with(token)


def test_suspended_holder_that_continues_after_a_takeover_changes_nothing(place):
    holder, token = place.begin('echo $CLAIM_TOKEN > up; read -r < up; ' + MAKE, 'sleeper', CLAIM_BEAT='0.05')
    everyone = [holder.pid, watcher_of(holder), *processes_with(token)]
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    place.forge(age=650, token=place.owner()['token'])  # as another machine sees it
    assert place.claim(MAKE, 'other').returncode == 0
    for pid in everyone:
        os.kill(pid, signal.SIGCONT)
    assert holder.wait(timeout=30) == 76
    assert not processes_with(token)
    assert place.ran() == ['other']
    assert (place.path / 'x.npz').read_text() == (place.path / 'x.npz.vars').read_text() == 'other\n'
    assert place.visible() == ['x.npz', 'x.npz.vars']


def test_the_first_of_two_attempts_to_finish_wins_and_files_are_not_mixed(place):
    slow, _ = place.begin('echo > up; read -r < up; ' + MAKE, 'slow')
    assert place.ask('--release', '--force', 'x.npz.lock').returncode == 0
    assert place.claim(MAKE, 'quick').returncode == 0
    (place.path / 'up').write_text('\n')
    assert slow.wait(timeout=30) == 76
    assert 'discarded' in slow.stderr.read()
    assert (place.path / 'x.npz').read_text() == (place.path / 'x.npz.vars').read_text() == 'quick\n'
    assert place.visible() == ['x.npz', 'x.npz.vars']


def test_loser_cannot_publish_while_the_winner_moves_its_files(place):
    holder, _ = place.begin('echo > up; read -r < up; ' + MAKE, 'loser')
    (place.lock / 'published').mkdir()
    (place.lock / 'published' / '.succeeded').write_text('winner\n')
    (place.path / 'up').write_text('\n')
    assert holder.wait(timeout=30) == 76
    assert place.visible() == ['x.npz.lock']


# -- crashes --


def test_published_result_is_moved_into_place_by_the_next_caller(place):
    published = place.lock / 'published'
    published.mkdir(parents=True)
    for name in ('x.npz', 'x.npz.vars', '.succeeded'):
        (published / name).write_text('done')
    (place.lock / '1').mkdir()
    code, words = place.status()
    assert code == PUBLISHED and 'not in place' in words
    assert place.claim(MAKE, 'b').returncode == 0
    assert place.visible() == ['x.npz', 'x.npz.vars'] and not place.ran()


def test_attempt_that_had_succeeded_when_its_holder_died_is_published_not_repeated(place):
    work = place.forge(age=650)
    for name in ('x.npz', 'x.npz.vars', '.succeeded'):
        (work / name).write_text('done')
    assert place.claim(MAKE, 'b').returncode == 0
    assert (place.path / 'x.npz').read_text() == 'done' and not place.ran()
    assert place.visible() == ['x.npz', 'x.npz.vars']


def test_removed_result_is_created_again_even_if_its_lock_was_left(place):
    (place.lock / 'published').mkdir(parents=True)
    (place.lock / 'published' / '.succeeded').write_text('done')
    assert place.claim(MAKE, 'b').returncode == 0
    assert place.ran() == ['b'] and place.visible() == ['x.npz', 'x.npz.vars']


@pytest.mark.parametrize('when', ['before', 'after'])
@pytest.mark.parametrize('command', ['mv', 'sync', 'rm'])
def test_supervisor_killed_at_any_step_of_publishing(place, command, when):
    # The shim kills claim.sh at its n-th call of the command, and the watcher and itself, as a power cut would.
    kill = (
        'read -ra stat </proc/$$/stat; main=${stat[5]}; kill -KILL $main $(</proc/$main/task/$main/children) $PPID $$'
    )
    env = place.shim(
        command,
        'n=$(($(cat "$COUNT") - 1)); echo $n > "$COUNT"\n'
        + (
            f'((n)) || {{ {kill}; }}; "$real" "$@"'
            if when == 'before'
            else f'"$real" "$@"; s=$?; ((n)) || {{ {kill}; }}; exit $s'
        ),
    )
    count = place.path / 'shims' / 'count'
    for n in range(1, 15):
        count.write_text(str(n))
        killed = place.claim(MAKE, f'a{n}', COUNT=str(count), **env)
        assert killed.returncode in (0, -signal.SIGKILL)
        assert not (place.path / 'x.npz').exists() or (place.path / 'x.npz.vars').exists()
        assert place.claim(MAKE, f'b{n}').returncode == 0
        assert (place.path / 'x.npz').read_text() == (place.path / 'x.npz.vars').read_text()
        assert place.visible() == ['x.npz', 'x.npz.vars']
        if killed.returncode == 0:
            break
        for name in ('x.npz', 'x.npz.vars'):
            (place.path / name).unlink()
    else:
        pytest.fail('never came through')
    assert n > 1


@pytest.mark.parametrize(
    'step,answer',
    [
        ('.succeeded', 'No such file or directory'),
        ('published', 'Input/output error'),
        ('x.npz.vars', 'Stale file handle'),
        ('x.npz', 'No such file or directory'),
        ('x.npz', "'a' and 'b' are the same file"),
        ('.old', 'Stale file handle'),
    ],
)
def test_rename_whose_answer_was_lost_or_that_a_rival_made_first_is_not_a_failure(place, step, answer):
    # As on NFS: the rename has happened, the answer is an error, and the file may still be visible at its old place.
    env = place.shim(
        'mv',
        """"$real" "$@" || exit
        [[ ${@: -1} == *"$STEP" ]] || exit 0
        [[ $STEP != /x.npz* ]] || : > "${@: -2:1}"
        echo "mv: $ANSWER" >&2; exit 1""",
    )
    made = place.claim(MAKE, 'a', STEP='/' + step if step != '.old' else step, ANSWER=answer, **env)
    assert made.returncode == 0, made.error
    assert (place.path / 'x.npz').read_text() == (place.path / 'x.npz.vars').read_text() == 'a\n'
    assert place.visible() == ['x.npz', 'x.npz.vars'] and place.ran() == ['a']


@pytest.mark.parametrize('step', ['published', 'x.npz.vars', 'x.npz', '.old'])
def test_rival_that_completes_the_publication_at_the_same_time_is_not_a_failure(place, step):
    # At its first step of this kind, a rival completes the publication, so that the lock has been removed.
    env = place.shim(
        'mv',
        '''[[ ${@: -1} != *"$STEP" || -e rival ]] ||
{ touch rival; PATH=$PATH "$CLAIM" x.npz.lock -- false 2> rival || exit; }
        exec "$real" "$@"''',
    )
    work = place.forge(age=650)
    for name in ('x.npz', 'x.npz.vars', '.succeeded'):
        (work / name).write_text('done')
    found = place.claim('false', STEP='/' + step if step != '.old' else step, CLAIM=str(CLAIM), **env)
    assert (
        found.returncode == 0
        and 'finished already' in found.error
        and 'finished already' in (place.path / 'rival').read_text()
    )
    (place.path / 'rival').unlink()
    assert place.visible() == ['x.npz', 'x.npz.vars']


def test_holder_whose_result_others_put_in_place_has_succeeded(place):
    # Just after it had succeeded, other processes assumed that it had died, and published its result.
    env = place.shim(
        'mv',
        '''[[ $* != */published ]] || { "$real" "$@"; "$CLAIM" x.npz.lock -- false; }
        exec "$real" "$@"''',
    )
    made = place.claim(MAKE, 'a', CLAIM=str(CLAIM), **env)
    assert made.returncode == 0 and 'finished already' in made.error
    assert place.visible() == ['x.npz', 'x.npz.vars'] and place.ran() == ['a']


def test_result_that_cannot_be_moved_into_place_is_kept_and_published_later(place):
    (place.path / 'x.npz.vars').mkdir()
    failed = place.claim(MAKE, 'a')
    assert (
        failed.returncode == 74
        and 'cannot overwrite directory' in failed.error
        and 'remove' in failed.error
        and len(failed.error.splitlines()) == 1
    )
    (place.path / 'x.npz.vars').rmdir()
    assert place.claim(MAKE, 'b').returncode == 0
    assert (place.path / 'x.npz').read_text() == (place.path / 'x.npz.vars').read_text() == 'a\n'


def test_only_one_copy_of_earlier_attempts_is_kept(place):
    for i in range(3):
        assert place.claim('echo >> "$CLAIM_WORK/x.state"; exit 9').returncode == 9
        assert [str(p.relative_to(place.lock)).split('/')[0] for p in place.lock.glob('*/*/x.state')] == [str(i + 1)]
    assert next(place.lock.glob('3/work.*/x.state')).read_text() == 3 * '\n'
    assert not [p for p in place.lock.rglob('.*') if p.name != '.attempt']


def test_copy_of_a_holder_that_may_still_run_elsewhere_is_kept_for_one_more_attempt(place):
    (place.forge(age=650) / 'x.state').write_text('far')
    assert place.claim('exit 9').returncode == 9
    assert sorted(p.parent.name for p in place.lock.glob('*/work.*')) == ['1', '2']
    assert place.claim('exit 9').returncode == 9
    assert sorted(p.parent.name for p in place.lock.glob('*/work.*')) == ['3']


def test_incomplete_copy_of_an_attempt_is_not_continued_and_old_copies_are_removed(place):
    for number, step in ((1, 'one'), (2, 'two'), (3, 'three')):
        (place.forge(number=number, age=10**4) / 'x.state').write_text(step)
    (place.lock / '4').mkdir()
    (place.lock / '4' / '.work.half').mkdir()
    (place.lock / '4' / 'released').write_text('disk full\n')
    assert place.claim('exit 9').returncode == 9
    assert [p.read_text() for p in place.lock.glob('*/work.*/x.state')] == ['three']
    assert [p.parent.name for p in (*place.lock.glob('*/work.*'), *place.lock.glob('*/.work.*'))] == ['5']


# -- folders that cannot be written to --


@pytest.fixture
def disk(place):
    """A disk of 128 KB, mounted at disk/ in the place."""
    path = place.path / 'disk'
    path.mkdir()
    mount = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=128k', 'none', path], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip('needs the right to mount: ' + mount.stderr.strip())
    yield path
    for process in place.started:
        process.kill()
        process.wait()
    subprocess.run(['umount', '-l', path], check=True)


def fill(path):
    with open(path / 'filler', 'wb', buffering=0) as f:
        try:
            while f.write(b'x' * 4096):
                pass
        except OSError:
            pass


def test_full_disk_while_claiming(place, disk):
    fill(disk)
    result = place.claim('echo > ran', lock='disk/x.npz.lock')
    assert (
        result.returncode == 74
        and f'{disk}: No space left on device; free some space there, then start it again' in result.error
    )
    assert len(result.error.splitlines()) == 1 and not place.ran()
    (disk / 'filler').unlink()
    assert place.ask('--status', 'disk/x.npz.lock').returncode == FREE
    assert place.claim(MAKE, 'a', lock='disk/x.npz.lock').returncode == 0


def test_full_disk_at_the_start_of_an_attempt_keeps_the_state(place, disk):
    assert (
        place.claim('head -c 40000 /dev/zero > "$CLAIM_WORK/x.state"; exit 9', lock='disk/x.npz.lock').returncode == 9
    )
    (disk / 'filler').write_bytes(bytes(48000))
    result = place.claim('echo > ran', lock='disk/x.npz.lock')
    assert (
        result.returncode == 74
        and f'{disk}: No space left on device; free some space' in result.error
        and not place.ran()
    )
    assert len(result.error.splitlines()) == 1 and 'x.state' not in result.error
    (disk / 'filler').unlink()
    assert place.claim('mv "$CLAIM_WORK/x.state" "$CLAIM_WORK/x.npz"', lock='disk/x.npz.lock').returncode == 0
    assert (disk / 'x.npz').stat().st_size == 40000


def test_finished_result_is_published_even_if_the_disk_is_full(place, disk):
    result = place.claim(
        'echo 1 > "$CLAIM_WORK/x.npz"; head -c 200000 /dev/zero > disk/filler; true', lock='disk/x.npz.lock'
    )
    assert result.returncode == 0, result.error
    assert (disk / 'x.npz').read_text() == '1\n'


def test_log_of_a_run_that_failed_on_a_full_disk_is_beside_the_result(place, disk):
    result = place.claim(
        'echo full > "$CLAIM_WORK/x.log"; head -c 200000 /dev/zero > disk/filler', lock='disk/x.npz.lock'
    )
    assert result.returncode == 1 and f'see {disk}/x.log' in result.error
    assert (disk / 'x.log').read_text() == 'full\n'
    assert place.ask('--status', 'disk/x.npz.lock').returncode == FAILED


def test_lock_of_another_user_is_named_with_its_owner(place):
    folder = pathlib.Path(tempfile.mkdtemp())  # other users may enter it, unlike tmp_path
    try:
        lock = folder / 'x.npz.lock'
        (lock / '1').mkdir(parents=True)
        (lock / '1' / 'failed').write_text('before\n')
        folder.chmod(0o777)
        lock.chmod(0o555)
        other = ('setpriv', '--reuid=65534', '--regid=65534', '--clear-groups') if os.getuid() == 0 else ()
        refused = place.claim(MAKE, 'a', lock=str(lock), under=other)
        assert (
            refused.returncode == 74 and f'{lock}: Permission denied; make it writable (it belongs to ' in refused.error
        )
        assert len(refused.error.splitlines()) == 1
        (lock / '1' / 'failed').unlink()
        held = place.claim(MAKE, 'a', lock=str(lock), under=other)
        assert held.returncode == 75 and 'cannot be written to' in held.error
        refused = place.ask('--release', '--force', str(lock), under=other)
        assert (
            refused.returncode == 74
            and f'cannot release it: {lock}: Permission denied; make it writable' in refused.stderr
        )
        lock.chmod(0o755)
    finally:
        shutil.rmtree(folder)


def test_file_in_place_of_the_lock_is_named(place):
    place.lock.touch()
    result = place.claim(MAKE, 'a')
    assert result.returncode == 74 and f'{place.lock}: File exists; remove it' in result.error


def test_read_only_folder(place, disk):
    subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
    result = place.claim('echo > ran', lock='disk/x.npz.lock')
    assert result.returncode == 74 and 'Read-only file system' in result.error and not place.ran()
    assert len(result.error.splitlines()) == 1


def test_missing_folder_and_wrong_usage(place):
    result = place.claim(MAKE, 'a', lock='nowhere/x.npz.lock')
    assert result.returncode == 74 and 'nowhere: no such folder' in result.error
    for arguments in (
        (),
        ('x.npz', '--', 'true'),
        ('x.npz.lock', 'true'),
        ('--status',),
        ('--release',),
        ('--nonsense', 'x.lock'),
    ):
        result = place.ask(*arguments)
        assert result.returncode == 2 and 'claim.sh RESULT.lock -- COMMAND' in result.stderr
    for wrong in ('30s', 'a[$(touch touched)]', '-1'):
        result = place.claim(MAKE, 'a', CLAIM_GRACE=wrong)
        assert result.returncode == 2 and 'numbers of seconds' in result.error and place.visible() == []
    result = place.claim(MAKE, 'a', CLAIM_BEAT='0')
    assert result.returncode == 2 and 'more than 0 seconds' in result.error and place.visible() == []
    assert place.ask('--help').returncode == 0


# -- by hand --


def test_release_refuses_a_live_holder_and_frees_a_dead_one(place):
    holder, token = place.begin('echo $CLAIM_TOKEN > up; sleep 1000')
    refused = place.ask('--release', 'x.npz.lock')
    assert refused.returncode == 75 and '--force' in refused.stderr
    assert place.status()[0] == HELD
    place.forge(age=20)  # now seen from another machine, and silent for a short while
    assert place.ask('--release', 'x.npz.lock').returncode == 75
    place.forge(age=2000)
    assert place.ask('--release', 'x.npz.lock').returncode == 0
    code, words = place.status()
    assert code == FREE and 'by hand' in words and 'far' in words
    assert place.ask('--release', 'x.npz.lock').returncode == 0


def test_release_of_nothing(place):
    result = place.ask('--release', 'x.npz.lock')
    assert result.returncode == 1 and 'nobody has claimed it' in result.stderr
    assert place.status() == (FREE, 'free')


def test_folder_of_the_running_attempt_is_printed(place):
    holder, work = place.begin('echo "$CLAIM_WORK" > up; sleep 1000')
    assert place.ask('--work', 'x.npz.lock').stdout.strip() == work


# -- short runs of the stress programs; without arguments, they run longer --


def stress(name, *args):
    return subprocess.run([sys.executable, STRESS / name, *args], text=True, capture_output=True, timeout=3000)


def test_race_for_a_stale_claim_has_one_winner():
    result = stress('breakrace.py', '--rounds', '6', '--workers', '12')
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_race_detects_two_winners_with_a_common_lock():
    result = stress('breakrace.py', '--rounds', '3', '--workers', '8', '--without-protocol')
    assert result.returncode == 1 and 'winners' in result.stdout, result.stdout + result.stderr


def test_killed_workers_lose_no_jobs_mix_no_files_and_never_overlap():
    result = stress('workers.py', '--workers', '8', '--jobs', '16', '--kills', '10', '--every', '0.2', '--step', '0.1')
    assert result.returncode == 0, result.stdout + result.stderr


def test_overlaps_of_workers_without_claims_are_detected():
    result = stress(
        'workers.py',
        '--workers',
        '8',
        '--jobs',
        '10',
        '--kills',
        '2',
        '--every',
        '0.1',
        '--step',
        '0.1',
        '--without-protocol',
    )
    assert result.returncode == 1 and ' 0 overlaps' not in result.stdout, result.stdout + result.stderr


def test_only_the_named_version_of_a_result_is_replaced(place):
    def replace(version, script, *args):
        return place.ask('--replace', version, 'x.npz.lock', '--', 'bash', '-c', script, *args)

    assert place.claim(MAKE, 'first').returncode == 0
    status = (place.path / 'x.npz').stat()
    version = f'{status.st_ino}-{status.st_mtime_ns // 10**9}.{status.st_mtime_ns % 10**9:09d}'
    failed = replace(version, 'exit 3')
    assert failed.returncode == 3, failed.stderr
    # the next attempt gets the same old file as the failed one, with or without the version
    again = replace(version, 'cat "$CLAIM_WORK/old/x.npz" >> ran; ' + MAKE, 'second')
    assert again.returncode == 0, again.stderr
    assert place.ran() == ['first', 'first', 'second']
    assert (place.path / 'x.npz').read_text() == 'second\n'
    assert place.visible() == ['x.npz', 'x.npz.vars']
    late = replace(version, MAKE, 'late')
    assert late.returncode == 0 and 'finished already' in late.stderr
    assert place.ran() == ['first', 'first', 'second']
