"""Complete runs with faults: short runs of the stress programs, and two servers that share a folder, step by step."""

import os
import re
import subprocess
import sys
import time

import pytest
from stress import servers

from helpers import ROOT, calls, gate, models_of

TRAIN = 'experiments/train_all.sh', '--dataset', 'tiny', '--models', 'experiments/table.tsv'


def stress(name, *args):
    done = subprocess.run(
        [sys.executable, ROOT / 'tests' / 'stress' / name, *map(str, args)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=1000,
    )
    print(done.stdout)
    return done


@pytest.mark.slow
def test_killed_processes_and_a_full_disk_do_not_change_the_results(tmp_path):
    table = tmp_path / 'two.tsv'
    table.write_text('cnn\tdemo demo_cnn\t-\ncnn_ban1\tdemo demo_cnn\tban=cnn\n')
    done = stress(
        'chaos.py', '--kills=8', '--drivers=2', '--epochs=2', '--recordings=15', '--soundscapes=0', '--models', table
    )
    assert done.returncode == 0


@pytest.mark.slow
def test_servers_that_die_or_are_suspended_do_not_lose_or_mix_results():
    if why := servers.obstacle():
        pytest.skip(why)
    assert stress('servers.py', '--models=8', '--servers=2', '--drivers=1', '--events=4').returncode == 0


@pytest.fixture
def boot(project, tmp_path):
    """Starts a driver on its own server: boot(name, driver's arguments..., ahead=clock); output: server.said()."""
    if why := servers.obstacle():
        pytest.skip(why)
    clock, booted = servers.build_clock(tmp_path), []

    def start(name, *arguments, **env):
        path = tmp_path / (f'{name}.said')
        path.unlink(missing_ok=True)
        server = servers.Server(
            name,
            [project.path / TRAIN[0], *TRAIN[1:3], '--models', project.experiments / 'table.tsv', *arguments],
            path,
            clock,
            VIRTUAL_ENV=sys.prefix,
            **env,
        )
        server.said = path.read_text
        booted.append(server)
        return server

    yield start
    for server in booted:
        server.die()


def begin(project, boot, name, **env):
    """A server that trains `plain` and does not finish."""
    gate(project, 'plain')
    server = boot(name, 'plain', **env)
    # The gate can be opened for writing only once the training reads from it.
    server.gate = os.open(project.experiments / 'plain.gate', os.O_WRONLY)
    (project.experiments / 'plain.gate').unlink()
    return server


def let_lease_pass(project):
    hour_ago = time.time() - 3600
    os.utime(project.experiments / 'tiny' / 'plain.npz.lock' / '1' / 'beat', (hour_ago, hour_ago))


def end(server):
    """Output of a server whose driver ended without error."""
    assert server.process.wait(timeout=60) == 0, server.said()
    return server.said()


@pytest.mark.parametrize('ahead', [3600, -3600])
def test_clocks_that_differ_by_an_hour_change_nothing(project, boot, ahead):
    first = begin(project, boot, 'first', ahead=ahead, CLAIM_BEAT='0.1')
    said = end(boot('second', 'plain'))
    owner = re.search(
        r'skipped: training is running \(held by first \(process \d+\) since (\S+ \S+ \S+), '
        r'last sign of life \d s ago\)',
        said,
    )
    assert owner, said
    since = time.mktime(time.strptime(owner.group(1)[:19], '%Y-%m-%d %H:%M:%S'))
    assert abs(since - time.time() - ahead) < 600, 'the clock was not moved'
    os.close(first.gate)
    end(first)
    assert calls(project) == ['plain'] and models_of(project) == ['plain.npz']


def test_dead_server_holds_its_claim_until_the_lease_ends(project, boot):
    first = begin(project, boot, 'first', ahead=3600)
    # While this is open, no process namespace of another server has the same number.
    with open(f'/proc/{max(first.processes())}/ns/pid'):
        first.die()
        assert 'held by first' in end(boot('second', 'plain'))
        refused = boot('second', '--release', 'plain')
        assert refused.process.wait(timeout=60) == 75 and '--force' in refused.said(), refused.said()
    let_lease_pass(project)
    assert 'plain: continuing from' in end(boot('second', 'plain'))
    assert calls(project) == ['plain', 'plain'] and models_of(project) == ['plain.npz']


def test_claim_of_a_dead_server_can_be_released_before_the_lease_ends(project, boot):
    begin(project, boot, 'first').die()
    assert 'released' in end(boot('second', '--release', 'plain', '--force'))
    assert 'plain: continuing from' in end(boot('second', 'plain'))
    assert calls(project) == ['plain', 'plain'] and models_of(project) == ['plain.npz']


def test_server_that_is_suspended_for_longer_than_the_lease_discards_its_attempt(project, boot):
    first = begin(project, boot, 'first', CLAIM_BEAT='0.1')
    first.suspend()
    let_lease_pass(project)
    end(boot('second', 'plain'))
    assert calls(project) == ['plain', 'plain']
    made = {path.name: path.read_bytes() for path in (project.experiments / 'tiny').glob('plain.*')}
    os.close(first.gate)
    first.wake()
    said = end(first)
    assert re.search('lost to another|discarded', said), said
    assert made == {path.name: path.read_bytes() for path in (project.experiments / 'tiny').glob('plain.*')}
    assert not [
        path.name
        for path in (project.experiments / 'tiny').iterdir()
        if path.name.endswith('.lock') or path.name.startswith('.')
    ]
