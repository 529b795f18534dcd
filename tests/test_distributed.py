"""Training of one network by two processes: the same metrics as with one, restarts after a kill; launch.py."""

import contextlib
import ipaddress
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from birdsong import devices
from birdsong.files import Problem, load_npz
from helpers import FULL_TRAINING, ROOT, training_arguments

LAUNCH = [sys.executable, str(ROOT / 'experiments' / 'launch.py'), '2']
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
TRAIN = str(ROOT / 'experiments' / 'train.py')
DRIVER = (
    'experiments/train_all.sh',
    '--dataset',
    'tiny',
    '--models',
    'experiments/one.tsv',
    '--gpus-per-model',
    '2',
    '--device',
    'cpu',
    '--var',
    'epochs=3',
    '--var',
    'epochsize=15',
    '--var',
    'batchsize=5',
)


def command_of(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f'/proc/{pid}/cmdline').read_bytes().decode().split('\0')
    return []


def workers(root):
    """{rank: process} of the train.py of a model."""
    found = {}
    for path in pathlib.Path('/proc').glob('[0-9]*'):
        command = command_of(path.name)
        if 'train.py' in command:
            with contextlib.suppress(OSError):
                environment = (path / 'environ').read_bytes().decode().split('\0')
                if 'RESULT_FOLDER=tiny' in environment and str(root) in os.readlink(path / 'cwd'):
                    found.update((int(e[5:]), int(path.name)) for e in environment if e.startswith('RANK='))
    return found


def process_tree(pid):
    """Ids of a process and of all its descendants."""
    found = [pid]
    for parent in found:
        for children in pathlib.Path(f'/proc/{parent}/task').glob('*/children'):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text().split())
    return found


def listening(pids):
    """Addresses at which processes accept connections, read from /proc."""
    inodes = set()
    for pid in pids:
        for descriptor in pathlib.Path(f'/proc/{pid}/fd').glob('*'):
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(descriptor))
    found = []
    for table in 'tcp', 'tcp6':
        for line in pathlib.Path('/proc/net', table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == '0A' and f'socket:[{fields[9]}]' in inodes:
                address = bytes.fromhex(fields[1].split(':')[0])
                words = [
                    int.from_bytes(address[i : i + 4], sys.byteorder).to_bytes(4, 'big')
                    for i in range(0, len(address), 4)
                ]
                found.append(ipaddress.ip_address(b''.join(words)))
    return found


@pytest.fixture
def project(checkout, tiny_dataset):
    shutil.copytree(tiny_dataset, checkout.path / 'datasets' / 'tiny', copy_function=os.link)
    (checkout.experiments / 'one.tsv').write_text('m\tdemo demo_cnn\t-\n')
    return checkout


@pytest.mark.slow
@pytest.mark.parametrize(
    'launcher, settings, tolerance',
    [
        (LAUNCH, dict(batchsize=4), 1e-3),
        (TORCHRUN, dict(batchsize=5, learn_scheme='nesterov', l2_decay=0.001, clip_grad=1), 1e-3),
        # Adam's steps are as large where a gradient is almost 0, so that its sign depends on rounding.
        (
            LAUNCH,
            dict(learn_scheme='adamw', weight_decay=0.1, eta_schedule='cosine', warmup=1, average=0.9, average_last=2),
            1e-2,
        ),
    ],
)
def test_two_processes_reach_the_metrics_of_one(tiny_dataset, tmp_path, launcher, settings, tolerance):
    settings = dict(settings, arch__fulldrop=0)  # each process draws its own dropout
    for name, launch in (('one', [sys.executable]), ('two', launcher)):
        python = [sys.executable] if launch == LAUNCH else []
        subprocess.run(
            [
                *launch,
                *python,
                TRAIN,
                *training_arguments(tiny_dataset, tmp_path / name / 'm.npz', *FULL_TRAINING, **settings),
            ],
            check=True,
            capture_output=True,
            env=dict(os.environ, OMP_NUM_THREADS='1'),
        )
    one, two = (load_npz(tmp_path / name / 'm.err.npz')['errors'] for name in ('one', 'two'))
    np.testing.assert_allclose(two, one, rtol=1e-4)
    one, two = (load_npz(tmp_path / name / 'm.npz') for name in ('one', 'two'))
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-3, atol=tolerance, err_msg=name)


@pytest.mark.slow
def test_after_a_worker_was_killed_training_continues_from_the_last_epoch(project, tmp_path):
    assert project.run(*DRIVER).returncode == 0
    folder = project.experiments / 'tiny'
    undisturbed = {path.name: path.read_bytes() for path in folder.glob('*.npz')}
    assert len(undisturbed) == 3
    shutil.rmtree(folder)
    driver = project.start(*DRIVER)
    for line in driver.stdout:
        if line.startswith('epoch 2:'):  # the state of the first is there
            os.kill(workers(project.path)[1], signal.SIGKILL)
            break
    stdout, stderr = driver.communicate(timeout=120)
    assert driver.returncode == 0, stdout + stderr
    assert 'continuing from' in stdout and stdout.count('epoch 3:') == 1
    assert {path.name: path.read_bytes() for path in folder.glob('*.npz')} == undisturbed


@pytest.mark.slow
def test_several_processes_listen_on_the_loopback_interface_only_and_leave_no_temporary_files(project, tmp_path):
    (tmp_path / 'temporary').mkdir()
    driver = project.start(*DRIVER, TMPDIR=str(tmp_path / 'temporary'))
    for line in driver.stdout:
        if line.startswith('epoch 1:'):
            break
    addresses = listening(process_tree(driver.pid))
    os.kill(workers(project.path)[0], signal.SIGKILL)
    driver.terminate()
    driver.communicate(timeout=60)
    assert len(addresses) >= 2 and all(address.is_loopback for address in addresses)
    # torch has a folder for each user, even without several processes
    assert not [path for path in (tmp_path / 'temporary').iterdir() if not path.name.startswith('torchinductor_')]


@pytest.mark.slow
def test_a_stopped_driver_leaves_no_worker_and_its_state(project):
    driver = project.start(*DRIVER)
    for line in driver.stdout:
        if line.startswith('epoch 2:'):  # the state of the first is there
            break
    assert len(workers(project.path)) == 2
    driver.terminate()
    assert driver.wait(60) == 143
    driver.communicate()
    assert not workers(project.path)
    done = project.run(*DRIVER)
    assert done.returncode == 0 and 'continuing from' in done.stdout


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_not_tried_again_and_is_the_last_line_of_the_log(project):
    done = project.run(*DRIVER, '--var', 'initial_eta=1e30', '--var', 'learn_scheme=momentum')
    assert done.returncode == 1 and 'starting again' not in done.output
    assert (
        'failed with exit status 1: train.py: epoch 1, batch 15: the loss is not finite'
        in (project.experiments / 'tiny' / 'm.log').read_text().splitlines()[-1]
    )


def launched(script, **kwargs):
    """launch.py with two processes of a shell script, their output in a pipe."""
    return subprocess.Popen([*LAUNCH, 'sh', '-c', script], stdout=subprocess.PIPE, text=True, **kwargs)


@pytest.mark.parametrize(
    'script, status',
    [
        ('exit 0', 0),
        ('[ $RANK = 0 ] || exit 3; exec sleep 100', 3),
        ('[ $RANK = 1 ] || kill -9 $$; exec sleep 100', 137),
        # a process that ends because another one has died is not the cause
        (
            'if [ $RANK = 0 ]; then until [ -e ready ]; do :; done; exit 70; fi; '
            'trap "exit 1" TERM; : > ready; while :; do :; done',
            1,
        ),
    ],
)
def test_the_first_failure_ends_all_processes_and_is_the_exit_status(script, status, tmp_path):
    launcher = launched(script, cwd=tmp_path)
    launcher.communicate(timeout=60)
    assert launcher.returncode == status


@pytest.mark.parametrize('number, status', [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_process_outlives_a_launcher_that_gets_a_signal(number, status):
    launcher = launched('echo ready; exec sleep 100')
    assert [launcher.stdout.readline() for _ in range(2)] == ['ready\n'] * 2
    launcher.send_signal(number)
    assert launcher.stdout.read() == ''  # returns at once: no process has the pipe open
    assert launcher.wait(60) == status


def test_one_device_for_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '1')
    with pytest.raises(Problem, match='CUDA_VISIBLE_DEVICES'):
        devices.pick('cuda:1')


def test_a_number_of_gpus_that_is_not_a_number_is_refused(checkout):
    done = checkout.run('experiments/train_all.sh', '--gpus-per-model', 'x')
    assert done.returncode == 2 and 'needs a number' in done.stderr
