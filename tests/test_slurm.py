"""The drivers on a local Slurm cluster (stress/cluster.sh), with stand-ins for train.py and predict.py."""

import os
import re
import shutil
import subprocess
import time

import pytest

from helpers import ROOT, calls, gate, models_of, open_gate, write_ensembles

CLUSTER = ROOT / 'tests' / 'stress' / 'cluster.sh'
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    missing = [name for name in ('slurmctld', 'slurmd', 'munged', 'sbatch') if not shutil.which(name)]
    if missing or os.getuid():
        pytest.skip(
            'needs %s'
            % (', '.join(missing) + ' (apt-get install slurmctld slurmd slurm-client munge)' if missing else 'root')
        )
    # Paths of sockets have to be short.
    folder = tmp_path_factory.mktemp('slurm')
    up = subprocess.run(
        [CLUSTER, 'up', folder, '3', str(17000 + os.getpid() % 997 * 10)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        if up.returncode:
            pytest.skip('Slurm does not start on this machine: ' + up.stdout)
        yield Cluster(folder)
    finally:
        subprocess.run([CLUSTER, 'down', folder])


class Cluster:
    def __init__(self, folder):
        self.folder, self.env = folder, dict(os.environ, SLURM_CONF=str(folder / 'slurm.conf'))

    def __call__(self, *command):
        return subprocess.run(command, env=self.env, check=True, stdout=subprocess.PIPE, text=True).stdout

    def jobs(self, project):
        """{name of a job of the project: (state, node or reason, restarts)}"""
        lines = self(
            'squeue',
            '--noheader',
            '--states=all',
            '--sort=i',
            '--Format=Name:|,State:|,ReasonList:|,RestartCnt:|,WorkDir:|',
        ).splitlines()
        fields = [line.split('|', 4) for line in lines]  # the name of the folder may contain |
        return {f[0].partition('/')[2]: (f[1], f[2], int(f[3])) for f in fields if f[4] == f'{project.experiments}|'}

    def wait(self, project, condition):
        """Wait until `condition` is true for the jobs."""
        deadline = time.monotonic() + 180
        while not condition(self.jobs(project)):
            logs = ''.join(f'{path.name}:\n{path.read_text()}' for path in (project.experiments / 'tiny').glob('*.log'))
            assert time.monotonic() < deadline, f'{self.jobs(project)}\n{logs}'
            time.sleep(0.2)

    def wait_for_all(self, project, **states):
        ended = ('COMPLETED', 'FAILED', 'CANCELLED', 'TIMEOUT')
        self.wait(project, lambda jobs: all(state in ended for state, _, _ in jobs.values()))
        assert {name: state for name, (state, _, _) in self.jobs(project).items()} == states

    def crash(self, *args):
        subprocess.run([CLUSTER, 'crash', self.folder, *args], check=True)

    def restart(self, node):
        subprocess.run([CLUSTER, 'restart', self.folder, node], check=True)
        while not re.search(r'\b(idle|mix|alloc)', self('sinfo', '-h', '-n', node, '-o', '%t ')):
            time.sleep(0.2)


def train_all(project, cluster, *arguments, **env):
    return project.run(
        'experiments/train_all.sh',
        '--dataset',
        'tiny',
        '--models',
        'table.tsv',
        *arguments,
        cwd=project.experiments,
        SLURM_CONF=cluster.env['SLURM_CONF'],
        TRAIN_ALL_POLL='0.2',
        SUBMIT_ALL_POLL='0.2',
        **env,
    )


def status(project, cluster):
    result = train_all(project, cluster, '--status')
    assert result.returncode == 0, result.output
    return {line.split()[0]: ' '.join(line.split()[1:]) for line in result.stdout.splitlines()}


def test_one_job_per_model_with_students_after_their_teachers(project, cluster):
    gate(project, 'plain')
    result = train_all(project, cluster, '--slurm', '--', '--gres=gpu:1')
    assert result.returncode == 0, result.output
    assert re.search(r'student: submitted as job \d+, after \d+\n', result.stderr)
    assert re.search(r'both: submitted as job \d+, after \d+, \d+\n', result.stderr)
    cluster.wait(
        project,
        lambda jobs: jobs['plain'][0] == 'RUNNING' and jobs['meta'][0] == 'COMPLETED' and calls(project).count('plain'),
    )
    shown = status(project, cluster)
    node = cluster.jobs(project)['plain'][1]
    assert re.search(
        rf'^running on \S+ \(process \d+, GPU 0, Slurm job \d+\) .*; Slurm: job \d+ running on {node}', shown['plain']
    )
    assert re.search(r'^waiting for plain; Slurm: job \d+ pending \(Dependency\)', shown['student'])
    again = train_all(project, cluster, '--slurm')
    assert 'plain: skipped: already job' in again.stderr and 'meta: finished, skipped' in again.stderr
    open_gate(project, 'plain')
    cluster.wait_for_all(project, plain='COMPLETED', student='COMPLETED', meta='COMPLETED', both='COMPLETED')
    assert sorted(calls(project)) == sorted(calls(project, 'predict')) == ['both', 'meta', 'plain', 'student']
    order = calls(project).index
    assert order('plain') < order('student') and max(order('plain'), order('meta')) < order('both')


def test_workers_share_the_models_with_a_driver_started_by_hand(project, cluster):
    result = train_all(project, cluster, '--slurm-workers', '3')
    assert result.returncode == 0, result.output
    by_hand = train_all(project, cluster)
    assert by_hand.returncode == 0, by_hand.output
    cluster.wait_for_all(project, workers='COMPLETED')
    assert sorted(calls(project)) == ['both', 'meta', 'plain', 'student']
    assert len(list((project.experiments / 'tiny').glob('workers.*.slurm.log'))) == 3


def test_failing_teacher_keeps_its_students_from_running_and_status_says_why(project, cluster):
    (project.experiments / 'FAIL').write_text('plain')
    train_all(project, cluster, '--slurm')
    cluster.wait_for_all(project, plain='FAILED', student='CANCELLED', meta='COMPLETED', both='CANCELLED')
    assert calls(project) == ['plain', 'meta'] or calls(project) == ['meta', 'plain']
    shown = status(project, cluster)
    assert 'the loss is not finite' in shown['plain'] and re.search(r'Slurm: job \d+ failed', shown['plain'])
    assert re.search(r'^waiting for plain, which failed; Slurm: job \d+ cancelled', shown['student'])
    (project.experiments / 'FAIL').unlink()
    train_all(project, cluster, '--slurm')
    cluster.wait(project, lambda jobs: all(state == 'COMPLETED' for state, _, _ in jobs.values()))
    assert models_of(project) == ['both.npz', 'meta.npz', 'plain.npz', 'student.npz']


def test_teacher_that_nobody_submits_is_reported(project, cluster):
    result = train_all(project, cluster, '--slurm', 'student')
    assert result.returncode == 1
    assert 'student: skipped: waiting for plain, which no job trains' in result.stderr
    assert not cluster.jobs(project)


def test_requeued_job_of_a_lost_node_leaves_the_model_to_the_job_that_still_runs(project, cluster):
    gate(project, 'plain')
    train_all(project, cluster, '--slurm', 'plain', 'student')
    cluster.wait(project, lambda jobs: jobs['plain'][0] == 'RUNNING' and calls(project))
    node = cluster.jobs(project)['plain'][1]
    cluster.crash(node)
    try:
        log = project.experiments / 'tiny' / 'plain.slurm.log'
        cluster.wait(project, lambda jobs: 'being made elsewhere; requeueing' in log.read_text())
        assert re.search(r'plain: skipped: training is running \(held by ', log.read_text())
        assert calls(project) == ['plain']
        assert 'requeued' in status(project, cluster)['plain']
        open_gate(project, 'plain')
        cluster.wait_for_all(project, plain='COMPLETED', student='COMPLETED')
    finally:
        cluster.restart(node)
    assert calls(project) == ['plain', 'student'] and calls(project, 'predict') == ['plain', 'student']
    assert models_of(project) == ['plain.npz', 'student.npz']


def test_time_limit_lets_the_program_stop_and_the_job_requeues_itself(project, cluster):
    gate(project, 'plain')
    train_all(project, cluster, '--slurm', 'plain', '--', '--time=1', '--signal=B:USR1@58')
    cluster.wait(project, lambda jobs: jobs['plain'][2] == 1)
    (project.experiments / 'plain.gate').unlink()
    cluster.wait_for_all(project, plain='COMPLETED')
    # Slurm may send the signal up to a minute early: on a busy machine, before the program has started.
    assert calls(project) in (['plain'], ['plain', 'plain'])
    assert 'the time limit is near; requeueing' in (project.experiments / 'tiny' / 'plain.slurm.log').read_text()
    continued = 'continuing from' in (project.experiments / 'tiny' / 'plain.log').read_text()
    assert continued == (len(calls(project)) == 2)


def test_cancelled_job_frees_its_claim_at_once(project, cluster):
    gate(project, 'plain')
    train_all(project, cluster, '--slurm', 'plain')
    cluster.wait(project, lambda jobs: jobs['plain'][0] == 'RUNNING' and calls(project))
    cluster('scancel', '--me')
    cluster.wait_for_all(project, plain='CANCELLED')
    deadline = time.monotonic() + 30
    while not status(project, cluster)['plain'].startswith('interrupted'):
        assert time.monotonic() < deadline, status(project, cluster)


def test_predictions_and_submissions_as_jobs(project, cluster):
    write_ensembles(project)
    assert train_all(project, cluster).returncode == 0
    result = project.run(
        'experiments/submit_all.sh',
        '--dataset',
        'tiny',
        '--models',
        'table.tsv',
        '--slurm',
        cwd=project.experiments,
        SLURM_CONF=cluster.env['SLURM_CONF'],
    )
    assert result.returncode == 0, result.output
    cluster.wait(project, lambda jobs: all(state == 'COMPLETED' for state, _, _ in jobs.values()))
    jobs = cluster.jobs(project)
    runs = sorted(name[7:] for name in jobs if name.startswith('submit-'))
    assert runs == sorted(path.stem for path in (project.experiments / 'tiny' / 'ensembles').glob('*.tsv'))
    for run in runs:
        assert (project.experiments / 'tiny' / 'submissions' / 'mono' / (run + '.csv')).exists()


def test_missing_slurm_is_reported(project):
    empty = project.path / 'bin'
    empty.mkdir()
    for name in ('bash', 'dirname', 'cksum', 'mkdir', 'cat', 'env'):
        (empty / name).symlink_to(shutil.which(name))
    result = project.run(
        'experiments/train_all.sh',
        '--dataset',
        'tiny',
        '--models',
        'table.tsv',
        '--slurm',
        cwd=project.experiments,
        PATH=str(empty),
    )
    assert result.returncode == 1 and 'sbatch is missing' in result.stderr
